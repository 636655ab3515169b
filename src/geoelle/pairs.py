"""Read (embedding, loss) pairs of any model: Parquet, npz or safetensors, on the ground or not.

Only the columns that were asked for are read, and no more rows than a fit can use: `loss`, labels and coordinates
come first, then whole groups or blocks are drawn where there are too many rows, then their vectors are streamed.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from geoelle.diagnostics import whole_blocks
from geoelle.errors import FormatError
from geoelle.holdout import blocks_of
from geoelle.vectors import parquet_files, vectors_from

__all__ = ["MOST_PAIRS", "PairColumns", "Pairs", "read_pairs"]

MOST_PAIRS = 50_000
_VECTOR_NAMES = ("vector", "embedding", "embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairColumns:
    """Name the columns (Parquet) or arrays (npz, safetensors) of pairs.

    Without `vectors`, the only float array of two axes is taken, else the one named vector, embedding or embeddings.
    Without `lonlat` and `group`, the places of a Parquet table or arrays called lon and lat are taken where there are.
    """

    loss: str = "loss"
    vectors: str | None = None
    group: str | None = None
    lonlat: tuple[str, str] | None = None
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Vectors float32 (n, d) with their losses float64, and what relates the rows: coordinates, groups or nothing.

    `features_nf` are simple features that difficulty has to beat; `notes` say what was dropped or left out.
    """

    vectors_nd: np.ndarray
    loss_n: np.ndarray
    lonlat_n2: np.ndarray | None = None
    group_n: np.ndarray | None = None
    features_nf: np.ndarray | None = None
    feature_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_pairs(path: str | Path, columns: PairColumns, *, block_m: float = 10_000.0, most: int = MOST_PAIRS) -> Pairs:
    """Read pairs; rows with NaN or a missing value are dropped and counted.

    Of more than `most` rows, whole groups or blocks of `block_m` metres are drawn at random, single rows where there
    are neither.

    Raises: FormatError (no such column, unlike lengths, pickled objects, embeddings of geoelle), HoldoutError
    (coordinates that are not degrees).
    """
    path = Path(path)
    table = _opened(path)
    name = _vector_name(path, table, columns.vectors)
    loss_n = _numbers(path, table, columns.loss)
    group_n = None if columns.group is None else _column(path, table, columns.group)
    lonlat_n2 = _lonlat(path, table, columns) if columns.group is None else None
    features_nf, feature_names = _features(path, table, columns.features)
    known = {"loss": loss_n, "group": group_n, "coordinates": lonlat_n2, "features": features_nf}
    rows, notes = _complete({what: values for what, values in known.items() if values is not None}, path)
    if len(rows) > most:
        unit_n = np.arange(len(rows)) if group_n is None else group_n[rows].astype(str)
        unit_n = unit_n if lonlat_n2 is None else blocks_of(lonlat_n2[rows], block_m)
        complete, rows = len(rows), rows[whole_blocks(unit_n, most=most)]
        notes.append(f"{len(rows):,} of {complete:,} rows are used, the most a fit takes, drawn at random as wholes")
    with _readable(path, name):
        vectors_nd = table.vectors(name, rows, len(loss_n))
    finite = np.isfinite(vectors_nd).all(1)
    if not finite.all():
        notes.append(f"{int((~finite).sum()):,} rows with NaN or infinity in the vector are dropped")
        rows, vectors_nd = rows[finite], vectors_nd[finite]
    return Pairs(
        vectors_nd=vectors_nd,
        loss_n=loss_n[rows],
        lonlat_n2=None if lonlat_n2 is None else lonlat_n2[rows],
        group_n=None if group_n is None else group_n[rows].astype(str),
        features_nf=None if features_nf is None else features_nf[rows],
        feature_names=feature_names,
        notes=tuple(notes),
    )


class _Table(Protocol):
    """Columns by name; `matrices` are those with a float vector a row."""

    names: tuple[str, ...]
    matrices: tuple[str, ...]

    def column(self, name: str) -> np.ndarray:
        """Return all values of a column."""

    def vectors(self, name: str, rows: np.ndarray, count: int) -> np.ndarray:
        """Return the vectors of some of `count` rows, ascending, as float32."""

    def places(self) -> np.ndarray | None:
        """Return lon, lat in degrees, where the table says where its rows are."""


class _Parquet:
    def __init__(self, path: Path) -> None:
        self.path, self.files = path, parquet_files(path)
        self.schema = pq.read_schema(self.files[0])
        if b"geoelle" in (self.schema.metadata or {}):
            raise FormatError(f"{path} holds embeddings of geoelle, whose space is known; fit them without --pairs")
        self.names = tuple(self.schema.names)
        self.matrices = tuple(field.name for field in self.schema if _is_float_list(field.type))

    def column(self, name: str) -> np.ndarray:
        table = pa.concat_tables([pq.read_table(file, columns=[name]) for file in self.files])
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return column.to_numpy(zero_copy_only=False)

    def vectors(self, name: str, rows: np.ndarray, count: int) -> np.ndarray:
        pieces, start = [], 0
        for batch in vectors_from(self.path, name):
            first, last = np.searchsorted(rows, (start, start + len(batch.vectors_nd)))
            pieces.append(batch.vectors_nd[rows[first:last] - start])
            start += len(batch.vectors_nd)
        return np.concatenate(pieces)

    def places(self) -> np.ndarray | None:
        if not ({"lon", "lat"} <= set(self.names) or b"geo" in (self.schema.metadata or {})) or not self.matrices:
            return None
        found = [batch.lonlat_n2 for batch in vectors_from(self.path, self.matrices[0])]
        return None if not found or found[0] is None else np.concatenate(found)


class _Arrays(ABC):
    """Arrays by name in one file, each read when it is asked for."""

    path: Path
    names: tuple[str, ...]

    @abstractmethod
    def column(self, name: str) -> np.ndarray: ...

    def vectors(self, name: str, rows: np.ndarray, count: int) -> np.ndarray:
        array = self.column(name)
        if len(array) != count:
            raise FormatError(f"{name} of {self.path} has {len(array)} rows for {count} losses; give one a loss")
        return np.asarray(array if len(rows) == count else array[rows], np.float32)

    def places(self) -> np.ndarray | None:
        named = {"lon", "lat"} <= set(self.names)
        return _beside(self.path, [_numbers(self.path, self, name) for name in ("lon", "lat")]) if named else None


class _Npz(_Arrays):
    def __init__(self, path: Path) -> None:
        self.path = path
        headers = {}
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    headers[entry.removesuffix(".npy")] = read(stream)
        self.names = tuple(headers)
        self.matrices = tuple(n for n, (shape, _, dtype) in headers.items() if len(shape) == 2 and dtype.kind == "f")

    def column(self, name: str) -> np.ndarray:
        with np.load(self.path, allow_pickle=False) as arrays:
            return arrays[name]


class _Safetensors(_Arrays):
    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "pt") as file:
            self.names = tuple(file.keys())
            kinds = {name: file.get_slice(name) for name in self.names}
            self.matrices = tuple(n for n, k in kinds.items() if len(k.get_shape()) == 2 and "F" in k.get_dtype())

    def column(self, name: str) -> np.ndarray:
        with safe_open(self.path, "pt") as file:  # numpy has no bfloat16
            tensor = file.get_tensor(name)
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _opened(path: Path) -> _Table:
    kinds = {".npz": _Npz, ".safetensors": _Safetensors, ".parquet": _Parquet, "": _Parquet}
    if path.suffix not in kinds or not path.exists():
        found = "no such file" if not path.exists() else f"{path.suffix} is none of .parquet, .npz, .safetensors"
        raise FormatError(f"pairs cannot be read from {path} ({found}); name a file of embeddings and losses")
    try:
        return kinds[path.suffix](path)
    except (zipfile.BadZipFile, SafetensorError, pa.ArrowException, OSError, ValueError) as cause:
        raise FormatError(f"pairs cannot be read from {path} ({cause}); write it again") from cause


@contextmanager
def _readable(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, SafetensorError, pa.ArrowException, OSError, ValueError) as cause:
        raise FormatError(f"{name} of {path} cannot be read ({cause}); write plain numbers or texts") from cause


def _vector_name(path: Path, table: _Table, asked: str | None) -> str:
    if asked in table.matrices:
        return asked
    named = [name for name in _VECTOR_NAMES if name in table.matrices]
    if asked is None and (len(table.matrices) == 1 or named):
        return (named or table.matrices)[0]
    found = ", ".join(table.matrices) or f"none, among {', '.join(table.names) or 'nothing'}"
    which = "does not say which column holds vectors" if asked is None else f"has no vectors {asked!r}"
    raise FormatError(f"{path} {which} (a float vector a row: {found}); name one with --vector-column")


def _column(path: Path, table: _Table, name: str) -> np.ndarray:
    """Read one value a row, of any type."""
    if name not in table.names:
        raise FormatError(f"{path} has no column {name!r}; name one of {', '.join(table.names) or 'none'}")
    with _readable(path, name):
        values = table.column(name)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or (len(values) and isinstance(values[0], np.ndarray)):
        raise FormatError(f"{name} of {path} is not one value a row (shape {values.shape}); name another column")
    return values


def _numbers(path: Path, table: _Table, name: str) -> np.ndarray:
    values = _column(path, table, name)
    if values.dtype.kind not in "fiub":
        raise FormatError(f"{name} of {path} holds {values.dtype}, not numbers; name another column")
    return values.astype(np.float64)


def _features(path: Path, table: _Table, names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    return (_beside(path, [_numbers(path, table, name) for name in names]) if names else None), tuple(names)


def _lonlat(path: Path, table: _Table, columns: PairColumns) -> np.ndarray | None:
    if columns.lonlat is None:
        return table.places()
    return _beside(path, [_numbers(path, table, name) for name in columns.lonlat])


def _beside(path: Path, values: Sequence[np.ndarray]) -> np.ndarray:
    if len({len(each) for each in values}) > 1:
        raise FormatError(f"columns of {path} have {[len(each) for each in values]} values; give one a row")
    return np.stack(values, axis=1)


def _complete(known: Mapping[str, np.ndarray], path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the rows where all is known, and how many lack what."""
    sizes = {what: len(values) for what, values in known.items()}
    if len(set(sizes.values())) > 1:
        raise FormatError(f"{path} has columns of unlike length ({sizes}); give one value a row")
    keep_n, notes = np.ones(sizes["loss"], bool), []
    for what, values in known.items():
        lacking = keep_n & (
            _absent(values) if what == "group" else ~np.isfinite(values).reshape(len(keep_n), -1).all(1)
        )
        if lacking.any():
            notes.append(f"{int(lacking.sum()):,} rows without {what} are dropped")
        keep_n &= ~lacking
    return np.flatnonzero(keep_n), notes


def _absent(labels_n: np.ndarray) -> np.ndarray:
    if labels_n.dtype.kind == "f":
        return np.isnan(labels_n)
    return np.array([label is None for label in labels_n], bool)


def _is_float_list(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return listed and pa.types.is_floating(kind.value_type)
