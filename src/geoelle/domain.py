"""Points of the area to be mapped, out of what a user writes for it: a bbox, a raster or a run."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
import rasterio.transform
from pyproj import Transformer
from rasterio.errors import RasterioError

from geoelle.area import Area
from geoelle.errors import AreaError, FormatError, HoldoutError
from geoelle.vectors import parquet_files

__all__ = ["domain_points"]

POINTS = 4_096
_RASTERS = (".tif", ".tiff", ".vrt", ".jp2")
_ANY_DATES = "2000"  # an area has dates, ground has none


def domain_points(text: str) -> np.ndarray:
    """Return lon, lat in degrees, (m, 2) float64, of points spread evenly over the area to be mapped.

    `text` is "W,S,E,N" in degrees, which gives about 4,096 points on a grid of equal distances; a raster,
    which gives the centres of at most 4,096 of its cells on a regular grid, less those without a value in
    the first band; or a run, which gives all its addresses.

    Raises: HoldoutError (none of these, or no valid cell), AreaError (a bbox that cannot be mapped), FormatError
    (a file that cannot be read).

    >>> domain_points("4,52,5,53").shape[1], domain_points("4,52,5,53").mean(0).round(1).tolist()
    (2, [4.5, 52.5])
    """
    path = Path(text)
    if text.strip() and path.is_dir():
        return _of_run(path)
    if path.is_file() and path.suffix.lower() in _RASTERS:
        return _of_raster(path)
    if path.is_file() or text.count(",") != 3:
        raise HoldoutError(
            f"no area to be mapped is found in {text!r}; give west,south,east,north, a raster (.tif) or a run"
        )
    try:
        return _of_bbox(*Area.parse(bbox=text, dates=_ANY_DATES).bbox)
    except AreaError as cause:
        raise AreaError(f"the area to be mapped fails: {cause}") from cause


def _of_bbox(west: float, south: float, east: float, north: float) -> np.ndarray:
    """Lay rows of points, as many in each as its parallel is long, so that all stand for as much ground."""
    width, height = np.cos(np.radians((south + north) / 2)) * (east - west), north - south
    ground = (east - west) * np.degrees(np.sin(np.radians(north)) - np.sin(np.radians(south)))
    step = max(np.sqrt(ground / POINTS), width / POINTS, height / POINTS)  # a strip is one row
    n_rows = max(1, round(height / step))
    rows = []
    for lat in south + (np.arange(n_rows) + 0.5) * height / n_rows:
        n_cols = max(1, round((east - west) * np.cos(np.radians(lat)) / step))
        lon = west + (np.arange(n_cols) + 0.5) * (east - west) / n_cols
        rows.append(np.column_stack([lon, np.full(n_cols, lat)]))
    return np.concatenate(rows)


def _of_raster(path: Path) -> np.ndarray:
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise FormatError(f"raster {path} has no CRS, so that nobody knows where it lies; give one that has")
            wide = (POINTS * source.width / source.height) ** 0.5
            shape = (_at_most(POINTS / wide, source.height), _at_most(wide, source.width))
            values = source.read(1, out_shape=shape, masked=True)  # GDAL takes the cell at the middle of each part
            valid = ~np.ma.getmaskarray(values) & np.isfinite(values.filled(0))
            rows, cols = ((np.nonzero(valid)[i] + 0.5) * size / shape[i] for i, size in enumerate(source.shape))
            x, y = rasterio.transform.xy(source.transform, np.floor(rows), np.floor(cols))
            crs = source.crs.to_wkt()
    except RasterioError as cause:
        raise FormatError(f"raster {path} cannot be read ({cause}); give another or write it again") from cause
    if not len(x):
        raise HoldoutError(f"raster {path} has no valid cell in its first band; give one of the area to be mapped")
    return np.column_stack(Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y))


def _at_most(count: float, limit: int) -> int:
    return min(max(1, int(count)), limit)


def _of_run(path: Path) -> np.ndarray:
    tables = []
    for file in parquet_files(path):
        try:
            if not {"lon", "lat"} <= set(pq.read_schema(file).names):
                raise FormatError(f"{file} has no columns lon and lat; give a run of geoelle")
            tables.append(pq.read_table(file, columns=["lon", "lat"]))
        except (pa.ArrowException, OSError) as cause:
            raise FormatError(f"addresses of {file} cannot be read ({cause}); give a run of geoelle") from cause
    table = pa.concat_tables(tables)
    return np.column_stack([table["lon"].to_numpy(), table["lat"].to_numpy()]).astype(np.float64)
