"""Write a band of codes as a raster that opens as classes: a colour table inside, names beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from rasterio import shutil as rasterio_shutil
from rasterio.io import MemoryFile

from geoelle.errors import FormatError
from geoelle.files import check_free, write_bytes
from geoelle.raster import TILE_PX, geobox_of
from geoelle.style import CLASS_NODATA, Classes

__all__ = ["write_class_cog"]

_DRAFT = {"driver": "GTiff", "dtype": "uint8", "nodata": CLASS_NODATA, "count": 1, "compress": "deflate"}
_COG = {
    "BLOCKSIZE": str(TILE_PX),
    "COMPRESS": "DEFLATE",
    "LEVEL": "6",
    "OVERVIEW_RESAMPLING": "MODE",
    "BIGTIFF": "IF_SAFER",
}


def write_class_cog(
    raster: xr.DataArray, path: str | Path, *, band: str, classes: Classes, tags: Mapping[str, str],
    overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write one band of codes as a Cloud Optimized GeoTIFF: uint8, nodata 255, a colour table, overviews by mode.

    One band a file, because a GeoTIFF has a colour table for one band only. Names of the classes are in the tag
    `GEOELLE_CLASSES`, and in the QGIS style beside.

    Raises:
        FormatError: not a raster, or a value that is no code of the classes.
        GeoelleError: the file exists and `overwrite` is false, or cannot be written.
    """
    path = check_free(path, overwrite=overwrite)
    box, values_yx = geobox_of(raster), raster.sel(band=band).values
    codes_yx = np.where(np.isfinite(values_yx), values_yx, CLASS_NODATA).astype(np.uint8)
    if wrong := set(np.unique(values_yx[np.isfinite(values_yx)]).tolist()) - set(range(len(classes.names))):
        raise FormatError(
            f"band {band} holds {min(wrong):g}, which is no code of {len(classes.names)} classes; name all of them"
        )
    height, width = codes_yx.shape
    told = ", ".join(f"{code} {name}" for code, name in enumerate(classes.names))
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile(ext=".tif") as draft, MemoryFile(ext=".tif") as final:
        with draft.open(height=height, width=width, crs=box.crs.to_wkt(), transform=box.affine, **_DRAFT) as sink:
            sink.write(codes_yx, 1)
            sink.write_colormap(1, dict(enumerate(classes.rgb)))
            sink.set_band_description(1, classes.label)
            sink.update_tags(**dict(sorted((dict(tags) | {"GEOELLE_CLASSES": told}).items())))
        rasterio_shutil.copy(draft.name, final.name, driver="COG", **_COG)
        write_bytes(path, final.read(), overwrite=overwrite)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    return path
