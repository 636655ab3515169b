"""Read vectors out of any Parquet, GeoParquet or Zarr table, batch by batch, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyproj
import shapely
import zarr

from geoelle.errors import FormatError

__all__ = ["Vectors", "check_finished", "matrix", "parquet_files", "vectors_from"]

BATCH_ROWS = 65_536
_VECTOR_NAMES = ("vector", "embedding", "embeddings")
_FEATURE_DIMS = frozenset(
    ["band", "bands", "channel", "channels", "dim", "embedding", "embeddings", "feature", "features"]
)
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")


class Vectors(NamedTuple):
    """Hold a batch of n vectors, float32, and where known their places in degrees and their addresses."""

    lonlat_n2: np.ndarray | None
    vectors_nd: np.ndarray
    addresses: list[str] | None


def vectors_from(path: str | Path, column: str | None = None) -> Iterator[Vectors]:
    """Stream the vectors of a table, in its order, in batches of at most 65,536 rows.

    `path` is a Parquet file, a directory of them, a run, or a Zarr group or array; `column` names the
    list column or the array. Without it, Parquet gives its only column of float lists, else the one named
    vector, embedding or embeddings; Zarr gives its only float array of two or three axes. A Zarr array is
    (n, d) or (y, x, d), read row-major; the feature axis is the last one unless a dimension is named
    band, channel, dim, embedding or feature. A missing vector, and geoelle's own of an invalid chip, is a
    row of NaN. Places come from `lon` and `lat`, else from a WKB geometry's centroid or from `x`, `y` and
    the `crs_wkt` of `spatial_ref`; addresses from a string column `address`.

    Raises:
        FormatError: no such file, nothing that holds vectors, or vectors of unlike length.
    """
    path = Path(path)
    if path.is_dir() and any((path / mark).exists() for mark in _ZARR_MARKS):
        yield from _from_zarr(path, column)
        return
    dim = None
    for file in parquet_files(path):
        for batch in _from_parquet(file, column):
            if dim not in (None, batch.vectors_nd.shape[1]):
                found = batch.vectors_nd.shape[1]
                raise FormatError(f"vectors of {file} have {found} numbers, others {dim}; score them apart")
            dim = batch.vectors_nd.shape[1]
            yield batch


def parquet_files(path: str | Path) -> list[Path]:
    """List a file, the parts of a run (`embeddings/part-*.parquet`) or a directory's .parquet files, sorted.

    Raises:
        FormatError: there are none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    files = sorted(path.glob("embeddings/part-*.parquet")) or sorted(path.glob("*.parquet"))
    if not files:
        raise FormatError(f"no embeddings at {path}; give a .parquet file, or a run that has parts")
    return files


def check_finished(run: Path) -> None:
    """Refuse a run that was begun and not finished; anything else passes.

    Raises:
        FormatError: the run has a plan and no manifest.
    """
    if (run / "plan.json").is_file() and not (run / "run.json").is_file():
        raise FormatError(f"run {run} is not finished; give its command again first")


def matrix(column: pa.ChunkedArray | pa.Array, name: str) -> np.ndarray:
    """Return a column of equally long lists as (n, d) float32; a missing list or number is NaN.

    Raises:
        FormatError: lists of unlike length, or none that tells it.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    present = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(column.type):
        dim = column.type.list_size
    else:
        lengths = pc.unique(pc.list_value_length(column.drop_null())).to_pylist()
        if len(lengths) != 1:
            raise FormatError(f"lists of {name} have {sorted(lengths)} numbers; give lists of one length")
        dim = lengths[0]
    out_nd = np.full((len(column), dim), np.nan, np.float32)
    out_nd[present] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return out_nd


def _from_parquet(path: Path, column: str | None) -> Iterator[Vectors]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            schema = source.schema_arrow
            name = column or _vector_column(path, schema)
            if name not in schema.names or not _is_list(schema.field(name).type):
                had = ", ".join(schema.names)
                raise FormatError(f"{path} has no list column {name!r}; name one of {had}")
            places, turn = _place_columns(path, schema)
            labels = (
                ["address"] if "address" in schema.names and _is_text(schema.field("address").type) else []
            )
            flags = ["valid"] if b"geoelle" in (schema.metadata or {}) and "valid" in schema.names else []
            wanted = list(dict.fromkeys([name, *places, *labels, *flags]))
            for batch in source.iter_batches(BATCH_ROWS, columns=wanted):
                vectors_nd = matrix(batch[name], f"{name} in {path}")
                for flag in flags:
                    vectors_nd[~batch[flag].to_numpy(zero_copy_only=False)] = np.nan
                addresses = batch["address"].to_pylist() if labels else None
                yield Vectors(_lonlat([batch[place] for place in places], turn), vectors_nd, addresses)
    except (pa.ArrowException, OSError, json.JSONDecodeError, shapely.errors.ShapelyError) as cause:
        raise FormatError(f"{path} cannot be read as Parquet ({cause}); write it again") from cause


def _vector_column(path: Path, schema: pa.Schema) -> str:
    lists = [f.name for f in schema if _is_list(f.type) and pa.types.is_floating(f.type.value_type)]
    named = [name for name in _VECTOR_NAMES if name in lists]
    if len(lists) == 1 or named:
        return (named or lists)[0]
    found = ", ".join(lists) or "none"
    raise FormatError(f"{path} does not say which column holds vectors (float lists: {found}); name one")


def _is_list(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _place_columns(path: Path, schema: pa.Schema) -> tuple[list[str], pyproj.Transformer | None]:
    """Return the columns that place a row (lon and lat, a WKB geometry, or none) and its way to degrees."""
    if {"lon", "lat"} <= set(schema.names):
        return ["lon", "lat"], None
    geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
    primary = geo.get("primary_column")
    described = geo.get("columns", {}).get(primary, {})
    if described.get("encoding") != "WKB" or primary not in schema.names:
        return [], None
    return [primary], _to_degrees(described.get("crs") or "OGC:CRS84", path)


def _lonlat(columns: list[pa.Array], turn: pyproj.Transformer | None) -> np.ndarray | None:
    if not columns:
        return None
    values = [column.to_numpy(zero_copy_only=False) for column in columns]
    if turn is None:
        return np.stack(values, axis=1).astype(np.float64)
    centre = shapely.centroid(shapely.from_wkb(values[0]))
    return np.stack(turn.transform(shapely.get_x(centre), shapely.get_y(centre)), axis=1)


def _to_degrees(crs: Any, path: Path) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(crs), 4326, always_xy=True)
    except pyproj.exceptions.CRSError as cause:
        raise FormatError(f"{path} names a CRS that does not exist ({cause}); write it again") from cause


def _from_zarr(path: Path, column: str | None) -> Iterator[Vectors]:
    try:
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            node, array = {}, _zarr_array(path, {path.name: node}, None)
        else:
            array = _zarr_array(path, dict(node.arrays()), column)
        named = array.metadata.dimension_names if array.metadata.zarr_format == 3 else None
        names = [str(name).lower() for name in named or array.attrs.get("_ARRAY_DIMENSIONS", ())]
        axis = next((i for i, name in enumerate(names) if name in _FEATURE_DIMS), array.ndim - 1)
        places = _zarr_places(path, node, array.shape[:axis] + array.shape[axis + 1 :])
        for rows in _row_slices(array.shape[:axis] + array.shape[axis + 1 :]):
            block = np.asarray(array[(*rows[:axis], slice(None), *rows[axis:])], np.float32)
            lonlat_n2 = None if places is None else _zarr_lonlat(places, rows)
            yield Vectors(lonlat_n2, np.moveaxis(block, axis, -1).reshape(-1, array.shape[axis]), None)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as cause:
        raise FormatError(f"{path} cannot be read as Zarr ({cause}); write it again") from cause


def _zarr_array(path: Path, arrays: dict[str, zarr.Array], column: str | None) -> zarr.Array:
    fit = [name for name, array in arrays.items() if array.ndim in (2, 3) and array.dtype.kind in "fiu"]
    chosen = [name for name in fit if name == column or (column is None and arrays[name].dtype.kind == "f")]
    if len(chosen) != 1:
        found = ", ".join(f"{name} {a.shape} {a.dtype}" for name, a in sorted(arrays.items())) or "none"
        raise FormatError(f"{path} does not say which array holds vectors ({found}); name a 2-D or 3-D one")
    return arrays[chosen[0]]


class _Grid(NamedTuple):
    """Hold the places of a Zarr's rows, broadcast to the shape of its rows, and their way to degrees."""

    x: np.ndarray
    y: np.ndarray
    turn: pyproj.Transformer | None


def _zarr_places(path: Path, group: Mapping[str, zarr.Array], shape: tuple[int, ...]) -> _Grid | None:
    turn, pair = None, ("lon", "lat")
    if not all(name in group for name in pair):
        pair = ("x", "y")
        wkt = group["spatial_ref"].attrs.get("crs_wkt") if "spatial_ref" in group else None
        if wkt is None or not all(name in group for name in pair):
            return None
        turn = _to_degrees(wkt, path)
    x, y = (np.asarray(group[name][...], np.float64) for name in pair)
    if len(shape) == 2 and y.ndim == 1:
        y = y[:, None]
    return _Grid(np.broadcast_to(x, shape), np.broadcast_to(y, shape), turn)


def _zarr_lonlat(places: _Grid, rows: tuple[slice, ...]) -> np.ndarray:
    x, y = places.x[rows].ravel(), places.y[rows].ravel()
    return np.stack((x, y) if places.turn is None else places.turn.transform(x, y), axis=1)


def _row_slices(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut rows, or a grid row-major, into pieces of at most 65,536."""
    if len(shape) == 1:
        for start in range(0, shape[0], BATCH_ROWS):
            yield (slice(start, start + BATCH_ROWS),)
        return
    height, width = shape
    step = max(1, BATCH_ROWS // max(1, width))
    for top in range(0, height, step):
        for (columns,) in _row_slices((width,)):
            yield slice(top, top + step), columns
