"""How fast a COG is written, beside GDAL's own copy with the same options."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import mosaic
import xarray as xr
from rasterio import shutil as rasterio_shutil
from rasterio.io import MemoryFile
from timing import Section, race, rates

from geoelle.raster import write_cog
from geoelle.read import read_window

BANDS = ("blue", "green", "red", "nir")
OURS = "geoelle write_cog"
OPTIONS = {
    "BLOCKSIZE": "512", "COMPRESS": "DEFLATE", "LEVEL": "6", "PREDICTOR": "FLOATING_POINT",
    "OVERVIEW_RESAMPLING": "AVERAGE", "NUM_THREADS": "ALL_CPUS",
}  # fmt: skip


def measure(repeats: int, *, quick: bool) -> Section:
    """Write four bands of real reflectance as a COG, and let GDAL copy a plain GeoTIFF of them."""
    plan, _, box = mosaic.one_part(32 if quick else 104)
    raster = read_window(plan.looks, box, plan.found.sensor, BANDS).isel(time=0).drop_vars(["source", "time"])
    texts = {"descriptions": BANDS, "units": ["1"] * len(BANDS), "tags": {}, "overwrite": True}
    with TemporaryDirectory() as folder, MemoryFile() as plain:
        _write_plain(raster, plain)
        tasks = {
            OURS: lambda: write_cog(raster, Path(folder) / "ours.tif", **texts),
            "GDAL copy": lambda: rasterio_shutil.copy(plain.name, f"{folder}/gdal.tif", driver="COG", **OPTIONS),
        }
        seconds = race(tasks, repeats)
        sizes = [(Path(folder) / name).stat().st_size / 1e6 for name in ("ours.tif", "gdal.tif")]
    count, height, width = raster.shape
    return Section(
        title="Writing",
        text=(
            f"{count} bands of {width} x {height} float32 reflectance with overviews. GDAL copies a GeoTIFF in "
            "memory; geoelle starts from an array, computes statistics first so that they are inside the file, and "
            f"replaces the old file in one step. The files have {sizes[0]:.1f} and {sizes[1]:.1f} MB."
        ),
        ratio="geoelle / it",
        rows=rates(seconds, raster.nbytes / 1e6, "MB/s", against=OURS),
    )


def _write_plain(raster: xr.DataArray, target: MemoryFile) -> None:
    count, height, width = raster.shape
    box = raster.odc.geobox
    with target.open(
        driver="GTiff", count=count, height=height, width=width, dtype="float32", nodata=float("nan"),
        crs=box.crs.to_wkt(), transform=box.affine, tiled=True, blockxsize=512, blockysize=512,
    ) as sink:  # fmt: skip
        sink.write(raster.values)


