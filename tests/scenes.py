"""Small scenes with unique pixel values on disk, and their STAC items: a shifted read shows as a number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

BANDS = ("blue", "green", "red", "rededge1", "nir08")
GSD_M = {"blue": 10, "green": 10, "red": 10, "rededge1": 20, "nir08": 20, "scl": 20}
WEST, NORTH, EPSG = 600000.0, 5000000.0, 32631
SIDE_M = 1920.0


def unique(shape: tuple[int, int], first: int = 1001) -> np.ndarray:
    """Return uint16 numbers that no two pixels share."""
    count = shape[0] * shape[1]
    assert first + count <= 65536
    return np.arange(first, first + count, dtype=np.uint16).reshape(shape)


def write_cog(
    path: Path,
    pixels: np.ndarray,
    *,
    gsd_m: float = 10.0,
    west: float = WEST,
    north: float = NORTH,
    epsg: int = EPSG,
    nodata: float | None = 0,
    overviews: str = "NONE",
) -> Path:
    """Write (y, x) or (bands, y, x) pixels as a cloud-optimised GeoTIFF of 64 px blocks."""
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="COG",
        count=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=pixels.dtype,
        crs=f"EPSG:{epsg}",
        transform=Affine(gsd_m, 0, west, 0, -gsd_m, north),
        nodata=nodata,
        blocksize=128,
        compress="deflate",
        overviews=overviews,
    ) as sink:
        sink.write(pixels)
    return path


def make_item(
    directory: Path,
    name: str = "S2B_31TFJ_20240601_0_L2A",
    *,
    moment: str = "2024-06-01T10:50:00Z",
    cloud: float | None = 5.0,
    west: float = WEST,
    north: float = NORTH,
    epsg: int = EPSG,
    side_m: float = SIDE_M,
    pixels: dict[str, np.ndarray] | None = None,
    bands: Sequence[str] = (*BANDS, "scl"),
    properties: dict[str, object] | None = None,
    collection: str = "sentinel-2-l2a",
) -> pystac.Item:
    """Write a scene and return its item: baseline 05.10, offset already applied, all pixels of class 4."""
    item = bare_item(
        name,
        moment=moment,
        cloud=cloud,
        bounds=(west, north - side_m, west + side_m, north),
        epsg=epsg,
        properties=properties,
        collection=collection,
    )
    for band in bands:
        gsd = GSD_M[band]
        count = round(side_m / gsd)
        given = (pixels or {}).get(band)
        if given is None:
            shape = (count, count)
            given = (
                np.full(shape, 4, np.uint8) if band == "scl" else unique(shape, 1 + (BANDS.index(band) * 7))
            )
        path = write_cog(
            directory / name / f"{band}.tif", given, gsd_m=gsd, west=west, north=north, epsg=epsg
        )
        item.add_asset(band, pystac.Asset(href=str(path)))
    return item


def bare_item(
    name: str,
    *,
    moment: str = "2024-06-01T10:50:00Z",
    cloud: float | None = 5.0,
    bounds: tuple[float, float, float, float] = (WEST, NORTH - SIDE_M, WEST + SIDE_M, NORTH),
    epsg: int = EPSG,
    properties: dict[str, object] | None = None,
    collection: str | None = "sentinel-2-l2a",
) -> pystac.Item:
    """Return an item without assets whose footprint is the bounds given in its CRS."""
    shape = to_lonlat(shapely.box(*bounds), epsg)
    item = pystac.Item(
        id=name,
        geometry=json.loads(shapely.to_geojson(shape)),
        bbox=list(shape.bounds),
        datetime=datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone(UTC),
        properties={
            "proj:code": f"EPSG:{epsg}",
            "platform": "sentinel-2b",
            "s2:processing_baseline": "05.10",
            "earthsearch:boa_offset_applied": True,
            **({} if cloud is None else {"eo:cloud_cover": cloud}),
            **(properties or {}),
        },
        collection=collection,
    )
    return item


def to_lonlat(shape: shapely.Geometry, epsg: int) -> shapely.Geometry:
    """Carry a shape to EPSG:4326."""
    turn = Transformer.from_crs(epsg, 4326, always_xy=True)
    return shapely.transform(
        shapely.segmentize(shape, 10_000), lambda xy: np.stack(turn.transform(xy[:, 0], xy[:, 1]), axis=1)
    )


def box_of(
    west: float, north: float, width: int, height: int, gsd_m: float = 10.0, epsg: int = EPSG
) -> GeoBox:
    """Return the grid of width x height pixels that starts at (west, north)."""
    return GeoBox((height, width), Affine(gsd_m, 0, west, 0, -gsd_m, north), f"EPSG:{epsg}")
