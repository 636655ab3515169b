"""`Embeddings`: vectors, losses and addresses of chips, and their GeoParquet parts (docs/formats.md)."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from geoelle.area import Addresses, Lattice
from geoelle.errors import AreaError, FormatError, InputMismatch, SpaceMismatch
from geoelle.files import write_bytes
from geoelle.vectors import Vectors, matrix, parquet_files, vectors_from

__all__ = ["Embeddings", "Header", "Vectors", "vectors_from"]

FORMAT_VERSION = 1
_KEY = b"geoelle"
_ROW_GROUP = 8_192
_SPACE_KEYS = ("model", "weights_sha256", "pooling", "target", "masking")
_TWIN = re.compile(r"twin\d+")
_SCALARS = {
    "address": pa.string(),
    "row": pa.int64(),
    "col": pa.int64(),
    "lon": pa.float64(),
    "lat": pa.float64(),
    "time": pa.timestamp("ms", "UTC"),
    "items": pa.string(),
    "valid": pa.bool_(),
    "valid_fraction": pa.float64(),
}
_LOSSES = ("loss", "loss_sd", "loss_a", "loss_b")
_WITHIN = ("patch_row", "patch_col")
_ARRAYS = {
    "vectors_nd": ("float32", (None,)),
    "valid_n": ("bool", ()),
    "valid_fraction_n": ("float64", ()),
    "times_n": ("datetime64[s]", ()),
    "loss_n": ("float64", ()),
    "loss_sd_n": ("float64", ()),
    "loss_rel_n2": ("float64", (2,)),
    "features_nf": ("float32", (None,)),
    "within_n2": ("int16", (2,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """State the space of the vectors, what they were made from and by which versions.

    `space` is JSON data with at least `model`, `weights_sha256`, `pooling`, `target` and `masking`;
    `bands` are in the order the model was given them; `feature_names` names the columns of `features_nf`.

    Raises:
        InputMismatch: a space that lacks a key or is not JSON data.
    """

    space: Mapping[str, object]
    sensor: str
    bands: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := [key for key in _SPACE_KEYS if key not in self.space]:
            lacks, needs = ", ".join(missing), ", ".join(_SPACE_KEYS)
            raise InputMismatch(f"space of a header lacks {lacks}; it needs {needs}")
        try:
            object.__setattr__(self, "space", json.loads(_canonical(dict(self.space))))
        except (TypeError, ValueError) as cause:
            raise InputMismatch(f"space is not JSON data ({cause}); give text and finite numbers") from cause
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "feature_names", tuple(self.feature_names))
        object.__setattr__(self, "versions", {str(name): str(text) for name, text in self.versions.items()})

    @property
    def space_id(self) -> str:
        """Return the first 12 hexadecimal digits of the SHA-256 of the space as canonical JSON."""
        return hashlib.sha256(_canonical(self.space).encode()).hexdigest()[:12]

    def merge(self, other: Header) -> Header:
        """Return the header of both tables together: equal but for the versions, which are listed.

        Raises:
            SpaceMismatch: another space, sensor, band order or set of features.
        """
        if self.space != other.space:
            keys = [k for k in self.space | other.space if self.space.get(k) != other.space.get(k)]
            pairs = "; ".join(f"{k}: {self.space.get(k)!r} and {other.space.get(k)!r}" for k in keys)
            raise SpaceMismatch(f"embeddings are of two spaces ({pairs}); keep them apart")
        for name in ("sensor", "bands", "feature_names"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                raise SpaceMismatch(f"embeddings differ in {name} ({mine} and {others}); keep them apart")
        versions = {}
        for name in sorted(self.versions.keys() | other.versions.keys()):
            texts = f"{self.versions.get(name, '')}, {other.versions.get(name, '')}".split(", ")
            versions[name] = ", ".join(sorted(set(texts) - {""}))
        return replace(self, versions=versions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Hold one vector a chip, in one space and on one lattice.

    `vectors_nd` float32; `valid_n` bool and `valid_fraction_n` float64 as of the chips; `times_n`
    datetime64[s] UTC; `items_n` item ids joined by ";". Where the loss was computed: `loss_n` and its
    spread over mask draws `loss_sd_n`, float64, NaN for invalid chips, and `loss_rel_n2`, the loss under
    two independent permutations. `features_nf` is float32 pixel complexity, named by the header; `twins`
    has float32 vectors of untrained twins, "twin0" and so on. A table of patches has addresses on the lattice of the
    patches, and in `within_n2` the row and column of each in the chip it was seen in.

    Raises:
        InputMismatch: parts of unlike length or shape.
    """

    addresses: Addresses
    vectors_nd: np.ndarray
    valid_n: np.ndarray
    valid_fraction_n: np.ndarray
    times_n: np.ndarray
    items_n: list[str]
    header: Header
    loss_n: np.ndarray | None = None
    loss_sd_n: np.ndarray | None = None
    loss_rel_n2: np.ndarray | None = None
    features_nf: np.ndarray | None = None
    within_n2: np.ndarray | None = None
    twins: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items_n", list(self.items_n))
        object.__setattr__(self, "twins", dict(sorted(self.twins.items())))
        if bad := [name for name in self.twins if not _TWIN.fullmatch(name)]:
            raise InputMismatch(f"twin of embeddings is called {bad[0]!r}; call it twin0, twin1 and so on")
        count = len(self.addresses)
        if len(self.items_n) != count or not all(isinstance(ids, str) for ids in self.items_n):
            raise InputMismatch(
                f"items of {count} embeddings are {len(self.items_n)}; give one text for each"
            )
        for name, (kind, tail) in _ARRAYS.items():
            if (array := getattr(self, name)) is not None:
                object.__setattr__(self, name, _checked(name, array, kind, (count, *tail)))
        names = 0 if self.features_nf is None else self.features_nf.shape[1]
        if names != len(self.header.feature_names):
            named = len(self.header.feature_names)
            raise InputMismatch(
                f"features of embeddings are {names}, but {named} are named; name each of them"
            )
        for name, array in self.twins.items():
            self.twins[name] = _checked(name, array, "float32", (count, None))

    def __len__(self) -> int:
        return len(self.addresses)

    def __getitem__(self, key: slice | np.ndarray | Sequence[int]) -> Embeddings:
        """Return some of the rows: a slice, a mask or a list of positions."""
        rows = np.arange(len(self))[key]
        if not rows.ndim:
            raise InputMismatch(f"embeddings are not taken one by one ({key}); use a slice, a mask or a list")
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return replace(
            self,
            addresses=self.addresses[rows],
            items_n=[self.items_n[i] for i in rows],
            twins={name: array[rows] for name, array in self.twins.items()},
            **{name: None if array is None else array[rows] for name, array in arrays.items()},
        )

    def concat(self, *others: Embeddings) -> Embeddings:
        """Append other embeddings of the same space and lattice, in the order given.

        Raises:
            SpaceMismatch: another header, or other columns.
            AreaError: another lattice; fit such tables side by side.
        """
        every = (self, *others)
        header = reduce(Header.merge, (table.header for table in every))
        for other in others:
            if other._columns != self._columns:
                differ = ", ".join(sorted(self._columns ^ other._columns))
                raise SpaceMismatch(f"embeddings differ in columns ({differ}); embed both in the same way")
        arrays = {}
        for name in _ARRAYS:
            pieces = [getattr(table, name) for table in every]
            arrays[name] = None if pieces[0] is None else np.concatenate(pieces)
        return Embeddings(
            addresses=self.addresses.concat(*(table.addresses for table in others)),
            items_n=[item for table in every for item in table.items_n],
            twins={name: np.concatenate([table.twins[name] for table in every]) for name in self.twins},
            header=header,
            **arrays,
        )

    def write(self, path: str | Path) -> Path:
        """Write a GeoParquet file, whole or not at all, over any older one; equal tables give equal bytes.

        Raises:
            GeoelleError: the system refused the write.
        """
        sink = io.BytesIO()
        pq.write_table(
            self._table(),
            sink,
            row_group_size=_ROW_GROUP,
            compression="zstd",
            use_dictionary=["items"],
            write_page_checksum=True,
        )
        return write_bytes(path, sink.getvalue(), overwrite=True)

    @classmethod
    def read(cls, source: str | Path | Sequence[str | Path]) -> Embeddings:
        """Read a file, a list of files, or a run's `embeddings/part-*.parquet`, as one table.

        Raises:
            FormatError: nothing there, a file that is not geoelle's or is damaged, or more than one lattice.
            SpaceMismatch: files of two spaces.
        """
        tables = cls.read_each(source)
        if len(tables) > 1:
            zones = ", ".join(f"EPSG:{table.addresses.lattice.epsg}" for table in tables)
            raise FormatError(f"embeddings lie on {len(tables)} lattices ({zones}); use Embeddings.read_each")
        return tables[0]

    @classmethod
    def read_each(cls, source: str | Path | Sequence[str | Path]) -> list[Embeddings]:
        """Read as `read` does, one table for each lattice, in the order they appear; all in one space.

        Raises:
            FormatError: nothing there, or a file that is not geoelle's or is damaged.
            SpaceMismatch: files of two spaces.
        """
        sources = [source] if isinstance(source, str | Path) else list(source)
        tables = [_read_file(file) for each in sources for file in parquet_files(each)]
        if not tables:
            raise FormatError("no embeddings were named (an empty list); give a file or a run")
        by_lattice: dict[Lattice, list[Embeddings]] = {}
        for table in tables:
            tables[0].header.merge(table.header)
            by_lattice.setdefault(table.addresses.lattice, []).append(table)
        return [first.concat(*rest) for first, *rest in by_lattice.values()]

    @property
    def _columns(self) -> set[str]:
        """Return name and shape of a row of every column there is: what tables must share to be joined."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | self.twins
        return {f"{name} {array.shape[1:]}" for name, array in arrays.items() if array is not None}

    def _table(self) -> pa.Table:
        lonlat_n2, footprints = self.addresses.lonlat_n2, self.addresses.footprints
        losses = (self.loss_n, self.loss_sd_n, *(() if self.loss_rel_n2 is None else self.loss_rel_n2.T))
        scalars = {
            "address": self.addresses.strings(),
            "row": self.addresses.rows,
            "col": self.addresses.cols,
            "lon": lonlat_n2[:, 0],
            "lat": lonlat_n2[:, 1],
            "time": self.times_n.astype("datetime64[ms]"),
            "items": self.items_n,
            "valid": self.valid_n,
            "valid_fraction": self.valid_fraction_n,
        }
        columns = {name: pa.array(values, _SCALARS[name]) for name, values in scalars.items()}
        for name, values in zip(_LOSSES, losses, strict=False):
            if values is not None:
                columns[name] = pa.array(values, pa.float64(), from_pandas=True)
        if self.within_n2 is not None:
            for name, values in zip(_WITHIN, self.within_n2.T, strict=True):
                columns[name] = pa.array(values, pa.int16())
        lists = {"vector": self.vectors_nd, "features": self.features_nf, **self.twins}
        for name, array in lists.items():
            if array is not None:
                flat = pa.array(np.ascontiguousarray(array).ravel(), pa.float32())
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
        columns["geometry"] = pa.array(shapely.to_wkb(footprints, byte_order=1), pa.binary())
        lattice = asdict(self.addresses.lattice)
        header = {"format_version": FORMAT_VERSION, "lattice": lattice, **asdict(self.header)}
        bounds = shapely.total_bounds(footprints).tolist() if len(self) else None
        metadata = {_KEY: _canonical(header), b"geo": _canonical(_geo(bounds))}
        return pa.table(columns).replace_schema_metadata(metadata)


def _checked(name: str, array: np.ndarray, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return the array as the documented type; None stands for any width above 0."""
    array = np.asarray(array)
    fits = array.ndim == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or not np.can_cast(array.dtype, kind, "same_kind"):
        found, wanted = f"{array.shape} {array.dtype}", f"{shape} {kind}"
        raise InputMismatch(f"{name} of {shape[0]} embeddings is {found}, not {wanted}; make them agree")
    return array.astype(kind, copy=False)


def _canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _geo(bounds: list[float] | None) -> dict[str, object]:
    """Return GeoParquet 1.1 metadata of footprints as WKB polygons in EPSG:4326."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": pyproj.CRS.from_epsg(4326).to_json_dict(),
    }
    if bounds is not None:
        column["bbox"] = [float(v) for v in bounds]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _read_file(path: Path) -> Embeddings:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            lattice, header = _read_header(path, source.schema_arrow)
            names = [name for name in source.schema_arrow.names if name != "geometry"]
            return _from_table(path, source.read(columns=names), lattice, header)
    except (pa.ArrowException, OSError) as cause:
        raise FormatError(f"{path} cannot be read as Parquet ({cause}); write it again") from cause
    except (AreaError, InputMismatch) as cause:
        raise FormatError(f"{path} does not follow docs/formats.md ({cause}); write it again") from cause


def _read_header(path: Path, schema: pa.Schema) -> tuple[Lattice, Header]:
    """Return lattice and header of a file that is geoelle's and has every column there must be."""
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise FormatError(f"{path} has no `geoelle` metadata; read vectors of others with vectors_from")
    if missing := [name for name in (*_SCALARS, "vector") if name not in schema.names]:
        raise FormatError(f"{path} lacks the columns {', '.join(missing)}; write it again")
    for name, kind in _SCALARS.items():
        if (found := schema.field(name).type) != kind:
            raise FormatError(f"column {name} of {path} is {found}, not {kind}; write it again")
    for name in schema.names:
        found = schema.field(name).type
        listed = pa.types.is_fixed_size_list(found) and found.value_type == pa.float32()
        if not listed and (name in ("vector", "features") or _TWIN.fullmatch(name)):
            raise FormatError(
                f"column {name} of {path} is {found}, not float32 lists of one size; write it again"
            )
    try:
        content = json.loads(text)
        if (version := content.pop("format_version")) != FORMAT_VERSION:
            raise FormatError(f"{path} has format version {version}, not {FORMAT_VERSION}; use its geoelle")
        return Lattice(**content.pop("lattice")), Header(**content)
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise FormatError(f"`geoelle` metadata of {path} is damaged ({cause!r}); write it again") from cause


def _from_table(path: Path, table: pa.Table, lattice: Lattice, header: Header) -> Embeddings:
    def values(name: str) -> np.ndarray | None:
        return table[name].to_numpy() if name in table.column_names else None

    def lists(name: str) -> np.ndarray | None:
        return matrix(table[name], f"{name} in {path}") if name in table.column_names else None

    addresses = Addresses(lattice=lattice, rows=values("row"), cols=values("col"))
    if addresses.strings() != table["address"].to_pylist():
        raise FormatError(f"addresses of {path} are not those of its rows and columns; write it again")
    pair, within = ([values(name) for name in names] for names in (_LOSSES[2:], _WITHIN))
    return Embeddings(
        addresses=addresses,
        vectors_nd=lists("vector"),
        valid_n=values("valid"),
        valid_fraction_n=values("valid_fraction"),
        times_n=values("time").astype("datetime64[s]"),
        items_n=table["items"].to_pylist(),
        header=header,
        loss_n=values("loss"),
        loss_sd_n=values("loss_sd"),
        loss_rel_n2=None if pair[0] is None or pair[1] is None else np.stack(pair, axis=1),
        features_nf=lists("features"),
        within_n2=None if within[0] is None or within[1] is None else np.stack(within, axis=1),
        twins={name: lists(name) for name in table.column_names if _TWIN.fullmatch(name)},
    )
