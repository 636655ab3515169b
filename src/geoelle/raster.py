"""Paint values at addresses on the grid of cells, and write the grid as a COG or as a multiscale Zarr.

A raster is a plain `xarray.DataArray` of dims (band, y, x): float32, NaN for nodata, north up, one pixel a
cell, the CRS in its `spatial_ref` coordinate and the names of the layers in its `band` coordinate.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtensionDa, xr_coords
from rasterio import shutil as rasterio_shutil
from rasterio.io import MemoryFile

from geoelle.errors import FormatError
from geoelle.files import check_free, fresh_directory, write_bytes
from geoelle.lattice import Addresses

__all__ = ["BandStatistics", "geobox_of", "paint", "write_cog", "write_zarr"]

TILE_PX = 512

_DRAFT = {  # the compressed draft in memory that the COG driver copies
    "driver": "GTiff",
    "dtype": "float32",
    "nodata": float("nan"),
    "tiled": True,
    "blockxsize": TILE_PX,
    "blockysize": TILE_PX,
    "interleave": "band",
    "compress": "deflate",
    "zlevel": 1,
    "predictor": 3,
    "BIGTIFF": "IF_SAFER",
}
_COG = {
    "BLOCKSIZE": str(TILE_PX),
    "COMPRESS": "DEFLATE",
    "LEVEL": "6",
    "PREDICTOR": "FLOATING_POINT",
    "OVERVIEW_RESAMPLING": "AVERAGE",
    "BIGTIFF": "IF_SAFER",
    "NUM_THREADS": "ALL_CPUS",  # tiles are written in order: the bytes do not depend on it
}
_OURS = "FORCE_USE_EXISTING"
_CONVENTION_SCHEMA = "https://raw.githubusercontent.com/zarr-conventions"
_CONVENTION_SPEC = "https://github.com/zarr-conventions"
_CONVENTIONS = (  # name, repository under github.com/zarr-conventions, uuid; read by GDAL from 3.13 on
    ("multiscales", "multiscales", "d35379db-88df-4056-af3a-620245f8e347"),
    ("proj:", "geo-proj", "f17cb550-5864-4468-aeb7-f3180cfb622f"),
    ("spatial:", "spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandStatistics:
    """Summarise the finite cells of one band; the four moments are None where no cell is finite.

    `stddev` is of the population, as in GDAL; `valid_percent` counts finite cells, 0-100.
    """

    minimum: float | None
    maximum: float | None
    mean: float | None
    stddev: float | None
    valid_percent: float

    @classmethod
    def of(cls, values: np.ndarray) -> BandStatistics:
        """Measure an array of any shape, in float64."""
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        valid_percent = 100 * finite.size / max(np.size(values), 1)
        if not finite.size:
            return cls(minimum=None, maximum=None, mean=None, stddev=None, valid_percent=valid_percent)
        low, high, mean, sd = (float(f(finite)) for f in (np.min, np.max, np.mean, np.std))
        return cls(minimum=low, maximum=high, mean=mean, stddev=sd, valid_percent=valid_percent)

    def tags(self) -> dict[str, str]:
        """Return the GDAL metadata items, without those that do not exist."""
        items = asdict(self).items()
        return {f"STATISTICS_{name.upper()}": repr(value) for name, value in items if value is not None}


def paint(addresses: Addresses, values: Mapping[str, np.ndarray]) -> xr.DataArray:
    """Lay named values, each (n,), on the grid of the cells of n addresses; cells without an address are NaN.

    Returns dims (band, y, x), float32, one pixel a cell, covering the extreme rows and columns.

    Raises:
        FormatError: no address, an address twice, no name, values of another length, or infinite values.
    """
    _check_values(addresses, values)
    box = addresses.lattice.raster_geobox(addresses.rows, addresses.cols)
    y, x = addresses.rows - addresses.rows.min(), addresses.cols - addresses.cols.min()
    flat = np.sort(y * box.shape.x + x)
    if (twice := flat[1:][np.diff(flat) == 0]).size:
        first = addresses[int(np.flatnonzero(y * box.shape.x + x == twice[0])[0])]
        raise FormatError(f"painting failed for {first} (given more than once); keep one value an address")
    grid = np.full((len(values), *box.shape), np.nan, dtype=np.float32)
    for layer, column in zip(grid, values.values(), strict=True):
        layer[y, x] = column
    return _wrap(grid, list(values), box)


def geobox_of(raster: xr.DataArray) -> GeoBox:
    """Return the grid of a raster.

    Raises:
        FormatError: it is not (band, y, x) float32 on a north-up grid with a CRS and named bands.
    """
    box = ODCExtensionDa(raster).geobox if raster.dims == ("band", "y", "x") else None
    if box is None or box.crs is None or "band" not in raster.coords or raster.dtype != np.float32:
        raise FormatError(
            f"raster has dims {raster.dims} of {raster.dtype}; give float32 (band, y, x) with a CRS, as `paint` makes"
        )
    if not box.axis_aligned or box.affine.e >= 0:
        raise FormatError(f"raster is not north-up ({tuple(box.affine)[:6]}); reproject it first")
    return box


def write_cog(
    raster: xr.DataArray, path: str | Path, *, descriptions: Sequence[str], units: Sequence[str],
    tags: Mapping[str, str], classes: Sequence[str] = (), overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write a Cloud Optimized GeoTIFF: float32, NaN nodata, overviews, statistics and provenance inside.

    `descriptions` and `units` are in band order; `tags` are the file's own metadata. Overviews are means, of the bands
    named in `classes` the commonest value. The same input gives the same bytes. A stale `.aux.xml` of an older file of
    that name is removed: it would shadow the statistics.

    Raises:
        FormatError: not a raster, or not one description and unit a band.
        GeoelleError: the file exists and `overwrite` is false, or cannot be written.
    """
    path = check_free(path, overwrite=overwrite)
    box = geobox_of(raster)
    _check_texts(raster, descriptions, units)
    count, height, width = raster.shape
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), ExitStack() as files, MemoryFile(ext=".tif") as final:
        draft = files.enter_context(MemoryFile(ext=".tif"))
        with draft.open(
            count=count, height=height, width=width, crs=box.crs.to_wkt(), transform=box.affine, **_DRAFT
        ) as sink:
            sink.write(raster.values)
            sink.update_tags(**dict(sorted(tags.items())))
            for i in range(count):
                sink.set_band_description(i + 1, descriptions[i])
                sink.set_band_unit(i + 1, units[i])
                sink.update_tags(i + 1, **BandStatistics.of(raster.values[i]).tags())
        source, how = draft, _COG
        if classes:
            source, how = _with_overviews(draft, _pyramid(raster, classes)[1:], files), _COG | {"OVERVIEWS": _OURS}
        rasterio_shutil.copy(source.name, final.name, driver="COG", **how)
        write_bytes(path, final.read(), overwrite=overwrite)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    return path


def write_zarr(
    raster: xr.DataArray, path: str | Path, *, descriptions: Sequence[str], units: Sequence[str],
    tags: Mapping[str, str], classes: Sequence[str] = (), overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write an unsharded Zarr v3 hierarchy: groups "0", "1", ... halve the grid, one (y, x) array a band.

    Every level follows CF with a `spatial_ref` grid mapping and opens by `xr.open_zarr(path, group="0")`; the
    root carries `tags` and the `multiscales`, `proj:` and `spatial:` conventions. Means over the finite cells
    make the levels, down to one chunk; of the bands named in `classes` the commonest value. Metadata is consolidated
    in the root and in each level.

    Raises:
        FormatError: not a raster, not one description and unit a band, or a band named like a coordinate.
        GeoelleError: the directory exists and `overwrite` is false, or cannot be written.
    """
    box = geobox_of(raster)
    _check_texts(raster, descriptions, units)
    levels = _pyramid(raster, classes)
    with fresh_directory(path, overwrite=overwrite) as store:
        zarr.open_group(store, mode="w", zarr_format=3, attributes=_root_attributes(box, levels, tags))
        for i, level in enumerate(levels):
            dataset = _dataset(level, descriptions, units)
            chunks = {name: {"chunks": tuple(min(TILE_PX, n) for n in level.shape[1:])} for name in dataset}
            dataset.to_zarr(store, group=str(i), mode="w", zarr_format=3, consolidated=False, encoding=chunks)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            for group in (*map(str, range(len(levels))), None):
                zarr.consolidate_metadata(store, path=group, zarr_format=3)
    return Path(path)


def _check_values(addresses: Addresses, values: Mapping[str, np.ndarray]) -> None:
    if not len(addresses) or not values:
        counts = f"{len(addresses)} addresses and {len(values)} layers"
        raise FormatError(f"painting failed for {counts}; give at least one of each")
    for name, column in values.items():
        if np.shape(column) != (len(addresses),):
            raise FormatError(
                f"painting failed for layer {name} (shape {np.shape(column)}); give one value for each of "
                f"{len(addresses)} addresses"
            )
        if np.isinf(column).any():
            raise FormatError(f"painting failed for layer {name} (infinite values); mark missing ones with NaN")


def _check_texts(raster: xr.DataArray, descriptions: Sequence[str], units: Sequence[str]) -> None:
    bands = raster["band"].values.tolist()
    for name, texts in (("descriptions", descriptions), ("units", units)):
        if isinstance(texts, str) or len(texts) != len(bands):
            raise FormatError(f"{name} {texts!r} do not fit bands {bands}; give one a band")


def _wrap(grid: np.ndarray, names: Sequence[str], box: GeoBox) -> xr.DataArray:
    raster = xr.DataArray(grid, dims=("band", "y", "x"), coords={"band": list(names)} | dict(xr_coords(box)))
    raster.encoding["grid_mapping"] = "spatial_ref"
    return raster


def _pyramid(raster: xr.DataArray, classes: Sequence[str]) -> list[xr.DataArray]:
    """Return the raster and its halves, down to one block."""
    levels = [raster]
    while max(levels[-1].shape[1:]) > TILE_PX:
        levels.append(_halve(levels[-1], classes))
    return levels


def _with_overviews(draft: MemoryFile, levels: Sequence[xr.DataArray], files: ExitStack) -> MemoryFile:
    """Return a virtual raster of a draft whose overviews are these levels: GDAL makes all bands in one way."""
    virtual = files.enter_context(MemoryFile(ext=".vrt"))
    rasterio_shutil.copy(draft.name, virtual.name, driver="VRT")
    tree = ElementTree.fromstring(virtual.read())
    for level in levels:
        box, (count, height, width) = geobox_of(level), level.shape
        half = files.enter_context(MemoryFile(ext=".tif"))
        with half.open(
            count=count, height=height, width=width, crs=box.crs.to_wkt(), transform=box.affine, **_DRAFT
        ) as sink:
            sink.write(level.values)
        for i, band in enumerate(tree.findall("VRTRasterBand"), start=1):
            overview = ElementTree.SubElement(band, "Overview")
            ElementTree.SubElement(overview, "SourceFilename", relativeToVRT="0").text = half.name
            ElementTree.SubElement(overview, "SourceBand").text = str(i)
    return files.enter_context(MemoryFile(ElementTree.tostring(tree), ext=".vrt"))


def _halve(raster: xr.DataArray, classes: Sequence[str]) -> xr.DataArray:
    """Average 2 x 2 finite cells, or take the commonest; odd edges are padded with NaN: the north-west corner stays.

    Of classes that are as common the highest code is taken, so that a flag is not lost sooner than the lack of one.
    """
    box, (count, height, width) = geobox_of(raster), raster.shape
    padded = np.pad(raster.values, ((0, 0), (0, height % 2), (0, width % 2)), constant_values=np.nan)
    quads = padded.reshape(count, (height + 1) // 2, 2, (width + 1) // 2, 2).astype(np.float64)
    n = np.isfinite(quads).sum(axis=(2, 4))
    total = np.nansum(quads, axis=(2, 4))
    mean = np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)
    for i in np.flatnonzero(np.isin(raster["band"].values, list(classes))):
        mean[i] = _commonest(quads[i].transpose(0, 2, 1, 3).reshape(*mean.shape[1:], 4))
    a = box.affine
    wider = GeoBox(mean.shape[1:], Affine(2 * a.a, 0, a.c, 0, 2 * a.e, a.f), box.crs)
    return _wrap(mean.astype(np.float32), raster["band"].values.tolist(), wider)


def _commonest(codes_yx4: np.ndarray) -> np.ndarray:
    """Return the commonest finite code of each four, NaN where none is finite."""
    found_yx, most_yx = np.full(codes_yx4.shape[:2], np.nan), np.zeros(codes_yx4.shape[:2], int)
    for code in np.unique(codes_yx4[np.isfinite(codes_yx4)]):
        count_yx = (codes_yx4 == code).sum(axis=2)
        wins_yx = (count_yx > 0) & (count_yx >= most_yx)
        found_yx[wins_yx], most_yx[wins_yx] = code, count_yx[wins_yx]
    return found_yx


def _dataset(raster: xr.DataArray, descriptions: Sequence[str], units: Sequence[str]) -> xr.Dataset:
    names = [str(name) for name in raster["band"].values]
    if clash := sorted({"x", "y", "spatial_ref"} & set(names)):
        raise FormatError(f"band {clash[0]} has the name of a coordinate; rename it")
    coords = dict(xr_coords(geobox_of(raster)))
    for axis in "xy":
        coords[axis].attrs |= {"standard_name": f"projection_{axis}_coordinate", "axis": axis.upper()}
    layers = {
        name: (("y", "x"), layer, {"long_name": text, "units": unit, "grid_mapping": "spatial_ref"})
        for name, layer, text, unit in zip(names, raster.values, descriptions, units, strict=True)
    }
    return xr.Dataset(layers, coords=coords, attrs={"Conventions": "CF-1.11"})


def _root_attributes(box: GeoBox, levels: Sequence[xr.DataArray], tags: Mapping[str, str]) -> dict[str, object]:
    layout = [_level_entry(i, geobox_of(level)) for i, level in enumerate(levels)]
    conventions = [
        {
            "name": name,
            "uuid": uuid,
            "schema_url": f"{_CONVENTION_SCHEMA}/{repo}/refs/tags/v1/schema.json",
            "spec_url": f"{_CONVENTION_SPEC}/{repo}/blob/v1/README.md",
        }
        for name, repo, uuid in _CONVENTIONS
    ]
    return dict(sorted(tags.items())) | {
        "zarr_conventions": conventions,
        "multiscales": {"layout": layout, "resampling_method": "average"},
        "proj:code": f"EPSG:{box.crs.to_epsg()}",
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": list(box.boundingbox.bbox),
    }


def _level_entry(i: int, box: GeoBox) -> dict[str, object]:
    derived = {"derived_from": str(i - 1)} if i else {}
    scale = [2.0, 2.0] if i else [1.0, 1.0]
    return {
        "asset": str(i),
        **derived,
        "transform": {"scale": scale, "translation": [0.0, 0.0]},
        "spatial:shape": list(box.shape),
        "spatial:transform": list(box.affine)[:6],
    }
