"""The ground that is measured on: the demo scene, and mosaics of it side by side in a temporary catalogue."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pystac
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoelle.area import Addresses, Area
from geoelle.catalog import search
from geoelle.models.nano import BANDS
from geoelle.plan import Job, Plan, make_plan, part_side

DATES = "2015/2018"
DEMO_BBOX = "-75.71,37.60,-75.53,37.75"
EPSG = 32618


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A catalogue and the west, south, east, north of what it shows, in metres of EPSG:32618."""

    catalog: str
    bounds: tuple[float, float, float, float]

    def bbox(self, km2: float) -> str:
        """Return W,S,E,N in degrees of about so many square kilometres in the middle, shaped like the whole."""
        west, south, east, north = self.bounds
        half = (km2 * 1e6 / ((east - west) * (north - south))) ** 0.5 / 2
        x, y, dx, dy = (west + east) / 2, (south + north) / 2, half * (east - west), half * (north - south)
        turn = Transformer.from_crs(EPSG, 4326, always_xy=True)
        (w, _), (e, _) = turn.transform(x - dx, y), turn.transform(x + dx, y)
        (_, s), (_, n) = turn.transform(x, y - dy), turn.transform(x, y + dy)
        return ",".join(f"{degrees:.6f}" for degrees in (w, s, e, n))


def demo() -> Ground:
    """Return the demo scene of the Virginia coast, 16.7 x 17.5 km."""
    return Ground(catalog="demo", bounds=_bounds(_scene()))


def side_by_side(folder: Path, rows: int, cols: int) -> Ground:
    """Write rows x cols copies of the demo scene side by side into `folder`, and an item collection of them.

    A copy has the scene's files with their geotransforms moved by whole scenes: real pixels, blocks and overviews on
    ground that repeats itself.
    """
    scene = _scene()
    west, south, east, north = _bounds(scene)
    width, height = east - west, north - south
    items = [
        _copy(scene, folder / f"{scene.id}_{row}_{col}", col * width, -row * height)
        for row in range(rows) for col in range(cols)
    ]  # fmt: skip
    collection = folder / "items.json"
    pystac.ItemCollection(items).save_object(str(collection))
    return Ground(catalog=str(collection), bounds=(west, north - rows * height, west + cols * width, north))


def one_part(side: int = part_side(16)) -> tuple[Plan, Addresses, GeoBox]:
    """Return the plan of the demo scene, side x side chips in its middle, and the window that holds them."""
    plan = make_plan(Job(area=Area.parse(bbox=DEMO_BBOX, dates=DATES), catalog="demo"))
    lattice, every = plan.zones[0]
    row, col = (int(np.median(index)) - side // 2 for index in (every.rows, every.cols))
    rows, cols = np.arange(row, row + side), np.arange(col, col + side)
    chosen = Addresses(lattice=lattice, rows=np.repeat(rows, side), cols=np.tile(cols, side))
    return plan, chosen, lattice.union_geobox(chosen.rows, chosen.cols)


def _scene() -> pystac.Item:
    return search(Area.parse(bbox=DEMO_BBOX, dates=DATES), catalog="demo").items[0]


def _bounds(item: pystac.Item) -> tuple[float, float, float, float]:
    with rasterio.open(item.assets["blue"].href) as source:
        return tuple(source.bounds)


def _copy(scene: pystac.Item, folder: Path, east_m: float, north_m: float) -> pystac.Item:
    """Copy the bands that nano takes, moved; the item's own account of the grid is left out."""
    folder.mkdir(parents=True)
    item = scene.clone()
    item.id, item.links = folder.name, []
    item.assets = {name: item.assets[name] for name in BANDS}
    for name, asset in item.assets.items():
        path = folder / f"{name}.tif"
        shutil.copyfile(asset.href, path)
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.transform = Affine.translation(east_m, north_m) @ file.transform
        asset.href = str(path)
        asset.extra_fields = {k: v for k, v in asset.extra_fields.items() if k.split(":")[0] not in ("proj", "file")}
    outline = shapely.segmentize(shapely.box(*_bounds(item)), 5_000)
    turn = Transformer.from_crs(EPSG, 4326, always_xy=True)
    shape = shapely.transform(outline, lambda xy: np.stack(turn.transform(xy[:, 0], xy[:, 1]), axis=1))
    item.geometry, item.bbox = json.loads(shapely.to_geojson(shape)), list(shape.bounds)
    return item
