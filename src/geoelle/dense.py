"""`PatchScores`: what a dense probe says of each patch from every offset that sees it; its files, and its map.

A prediction keeps the place of its offset, so joining parts is no arithmetic: a patch has the same numbers whatever
area was asked for, and two runs over one place join on its address.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geoelle.embeddings import Embeddings
from geoelle.errors import AreaError, FormatError, InputMismatch, SpaceMismatch
from geoelle.files import write_bytes
from geoelle.lattice import Addresses, Lattice
from geoelle.patches import answering, block_means, keys_of, offset_of, offsets_a_side, patches_of
from geoelle.probe import Probe, on_scale
from geoelle.vectors import matrix

__all__ = ["DENSE_BANDS", "Agreement", "PatchScores", "agreement", "dense_layers"]

DENSE_BANDS = ("difficulty", "complexity", "excess", "date", "shift_sd", "offsets")
FORMAT_VERSION = 1
_KEY = b"geoelle-dense"
_EPOCH = np.datetime64("1970-01-01", "s")
_COLUMNS = {"row": pa.int64(), "col": pa.int64()} | dict.fromkeys(("complexity", "dissimilarity", "date"), pa.float32())
_ARRAYS = {"by_offset_nk": 2, "means_nc": 2, "complexity_n": 1, "dissimilarity_n": 1, "days_n": 1}
_KEPT = {"token_nd": 2, "twin_n": 1, "loss_n": 1}
"""What is there only where it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchScores:
    """Hold what one probe says of patches, each address once, by row, then column.

    `by_offset_nk` is float32 on the probe's linear scale (w'x + b), one column an offset, NaN where no valid chip of
    that offset sees the patch. Of the chip that has the patch in its middle, NaN where that chip or the patch is not
    valid: `complexity_n` is the same of the pixels, `dissimilarity_n` that of the token (NaN for a probe without a
    reach), `means_nc` the mean of each band of the space, `days_n` days since 1970-01-01; and, None where they were not
    kept, `token_nd` the token, `twin_n` what the probe of the untrained twin says, `loss_n` the true loss. `probe` is
    the digest.

    Raises: InputMismatch (arrays of other shapes).
    """

    addresses: Addresses
    by_offset_nk: np.ndarray
    complexity_n: np.ndarray
    dissimilarity_n: np.ndarray
    means_nc: np.ndarray
    days_n: np.ndarray
    space: Mapping[str, object]
    probe: str
    token_nd: np.ndarray | None = None
    twin_n: np.ndarray | None = None
    loss_n: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.addresses)
        for name, ndim in self._shapes.items():
            array = np.asarray(getattr(self, name))
            if array.ndim != ndim or len(array) != count or array.dtype != np.float32:
                raise InputMismatch(f"{name} of {count} patches is {array.shape} {array.dtype}; give float32, one each")

    def __len__(self) -> int:
        return len(self.addresses)

    @classmethod
    def of(
        cls,
        chips: Embeddings,
        linear_nhw: np.ndarray,
        middle: Mapping[str, np.ndarray],
        *,
        patch_px: int,
        probe: Probe,
    ) -> PatchScores:
        """Lay the scores of chips on their patches: `linear_nhw` of all, `middle` of those in the middle, by name.

        Raises: AreaError (a lattice whose chips do not share their patches evenly).
        """
        lattice, (n, h, w) = chips.addresses.lattice, linear_nhw.shape
        patches = patches_of(chips.addresses, patch_px)
        keys, first, place = np.unique(keys_of(patches), return_index=True, return_inverse=True)
        by_offset_nk = np.full((len(keys), offsets_a_side(lattice) ** 2), np.nan, np.float32)
        by_offset_nk[place, np.repeat(offset_of(chips.addresses), h * w)] = linear_nhw.ravel()
        days = np.where(chips.valid_n, (chips.times_n - _EPOCH) / np.timedelta64(1, "D"), np.nan)
        at = place.reshape(n, h, w)[:, *[answering(lattice, patch_px)] * 2].ravel()

        def laid(values: np.ndarray) -> np.ndarray:
            rows = np.full((len(keys), *values.shape[3:]), np.nan, np.float32)
            rows[at] = values.reshape(len(at), *values.shape[3:])
            return rows

        found = {name: laid(values) for name, values in middle.items()}
        days_n = laid(np.broadcast_to(days[:, None, None], middle["complexity"].shape))
        return cls(
            addresses=patches[first], by_offset_nk=by_offset_nk, complexity_n=found["complexity"],
            dissimilarity_n=found["dissimilarity"], means_nc=found["means"],
            days_n=np.where(np.isnan(found["complexity"]), np.float32(np.nan), days_n), space=dict(probe.space),
            probe=probe.digest, token_nd=found.get("token"), twin_n=found.get("twin"), loss_n=found.get("loss"),
        )  # fmt: skip

    @property
    def mean_n(self) -> np.ndarray:
        """Return float64 (n,): the mean over the offsets, on the linear scale; NaN where the map has no data."""
        with np.errstate(invalid="ignore"):
            mean = np.nansum(self.by_offset_nk, axis=1, dtype=np.float64) / self._seen_n
        return np.where(np.isfinite(self.complexity_n), mean, np.nan)

    @property
    def shift_sd_n(self) -> np.ndarray:
        """Return float64 (n,): the standard deviation over the offsets (n - 1), NaN where fewer than two see it."""
        seen = self._seen_n
        squares = np.nansum(np.square(self.by_offset_nk - self.mean_n[:, None]), axis=1)
        return np.where(seen > 1, np.sqrt(squares / np.maximum(seen - 1, 1)), np.nan) + 0 * self.mean_n

    @property
    def offsets_n(self) -> np.ndarray:
        """Return float64 (n,): how many offsets see the patch, NaN where the map has no data."""
        return self._seen_n + 0 * self.mean_n

    @property
    def _shapes(self) -> dict[str, int]:
        """Return the arrays that are there and their dimensions."""
        return _ARRAYS | {name: ndim for name, ndim in _KEPT.items() if getattr(self, name) is not None}

    @property
    def _seen_n(self) -> np.ndarray:
        return np.isfinite(self.by_offset_nk).sum(axis=1)

    def at(self, addresses: Addresses) -> PatchScores:
        """Return the rows of these patches, in their order; NaN for those it does not have.

        Raises: AreaError (another lattice).
        """
        if addresses.lattice != self.addresses.lattice:
            pair = f"{self.addresses.lattice}, {addresses.lattice}"
            raise AreaError(f"patches lie on two lattices ({pair}); take both from maps of one model and zone")
        mine, wanted = keys_of(self.addresses), keys_of(addresses)
        place = np.minimum(np.searchsorted(mine, wanted), max(len(mine) - 1, 0))
        held = mine[place] == wanted if len(mine) else np.zeros(len(wanted), bool)
        taken = {}
        for name in self._shapes:
            array = getattr(self, name)
            taken[name] = np.full((len(addresses), *array.shape[1:]), np.nan, np.float32)
            taken[name][held] = array[place[held]]
        return replace(self, addresses=addresses, **taken)

    def join(self, *others: PatchScores) -> PatchScores:
        """Return the patches of all tables, each once, with every offset that one of them has.

        Raises: AreaError (two lattices), SpaceMismatch (two probes).
        """
        every = (self, *others)
        if len({table.probe for table in every}) > 1:
            raise SpaceMismatch("patches were scored by two probes; keep them apart, or map again with one of them")
        patches = self.addresses.concat(*(table.addresses for table in others))
        keys, first, place = np.unique(keys_of(patches), return_index=True, return_inverse=True)
        shared = [name for name in _KEPT if all(getattr(table, name) is not None for table in every)]
        merged = dict.fromkeys(_KEPT)
        for name in (*_ARRAYS, *shared):
            stacked = np.concatenate([getattr(table, name) for table in every])
            merged[name] = np.full((len(keys), *stacked.shape[1:]), np.nan, np.float32)
            held = np.nonzero(np.isfinite(stacked))
            merged[name][place[held[0]], *held[1:]] = stacked[held]
        return replace(self, addresses=patches[first], **merged)

    def write(self, path: str | Path) -> Path:
        """Write a Parquet file, whole or not at all, over any older one; equal tables give equal bytes.

        Raises: GeoelleError (the system refused the write).
        """
        values = (
            self.addresses.rows, self.addresses.cols, self.complexity_n, self.dissimilarity_n, self.days_n,
        )  # fmt: skip
        columns = {name: pa.array(v, kind) for (name, kind), v in zip(_COLUMNS.items(), values, strict=True)}
        for name in ("twin", "loss"):
            if (array := getattr(self, f"{name}_n")) is not None:
                columns[name] = pa.array(array, pa.float32())
        for name, array in (("means", self.means_nc), ("by_offset", self.by_offset_nk), ("token", self.token_nd)):
            if array is None:
                continue
            flat = pa.array(np.ascontiguousarray(array).ravel(), pa.float32())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
        header = {
            "format_version": FORMAT_VERSION, "lattice": asdict(self.addresses.lattice), "space": dict(self.space),
            "probe": self.probe,
        }  # fmt: skip
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
        sink = io.BytesIO()
        table = pa.table(columns).replace_schema_metadata({_KEY: text})
        pq.write_table(table, sink, compression="zstd", use_dictionary=["row", "col", "date"], write_page_checksum=True)
        return write_bytes(path, sink.getvalue(), overwrite=True)

    @classmethod
    def read(cls, files: str | Path | Sequence[str | Path]) -> PatchScores:
        """Read a file, or files of one lattice and one probe, as one table.

        Raises: FormatError, AreaError, SpaceMismatch.
        """
        first, *rest = (_read(Path(file)) for file in ([files] if isinstance(files, str | Path) else files))
        return first.join(*rest)

    @staticmethod
    def in_file(path: Path) -> bool:
        """Say whether a Parquet file is one of these."""
        try:
            return _KEY in (pq.read_schema(path).metadata or {})
        except (pa.ArrowException, OSError):
            return False


def dense_layers(scores: PatchScores, probe: Probe) -> dict[str, np.ndarray]:
    """Return the bands of a dense map, each float32 (n,), named as `DENSE_BANDS`.

    Offsets are averaged on the probe's linear scale. `shift_sd` is their spread there: how much the prediction depends
    on where the chip lies. It is not an uncertainty of the difficulty.
    """
    linear = scores.mean_n
    in_units = np.exp if probe.scale == "log" else np.asarray
    found = (
        in_units(linear), in_units(scores.complexity_n), linear - scores.complexity_n, scores.days_n,
        scores.shift_sd_n, scores.offsets_n,
    )  # fmt: skip
    return {name: values.astype(np.float32) for name, values in zip(DENSE_BANDS, found, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a dense map, averaged over chips, agrees with the chip-level map: r on the scale of the fit, and chips."""

    r: float | None
    chips: int


def agreement(difficulty_n: np.ndarray, patches: Addresses, chips: Embeddings, probe: Probe) -> Agreement:
    """Compare the mean difficulty over all patches of each chip with what a chip probe says of the chip.

    `difficulty_n` is that of the dense map at `patches`. Chips that the map does not cover whole are left out. r is
    None where fewer than three are left, or all are equal.
    """
    means, whole = block_means(difficulty_n, patches, chips.addresses), probe.score(chips.vectors_nd)
    both = np.isfinite(means) & np.isfinite(whole)
    pair = [on_scale(values[both], probe.scale) for values in (means, whole)]
    varies = both.sum() > 2 and all(values.std() > 0 for values in pair)
    return Agreement(r=float(np.corrcoef(*pair)[0, 1]) if varies else None, chips=int(both.sum()))


def _read(path: Path) -> PatchScores:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            header = json.loads((source.schema_arrow.metadata or {})[_KEY])
            table = source.read()
        if (version := header["format_version"]) != FORMAT_VERSION:
            raise FormatError(f"{path} has format version {version}, not {FORMAT_VERSION}; use its geoelle")
        rows, cols, pixels, away, days = (table[name].cast(kind).to_numpy() for name, kind in _COLUMNS.items())
        kept = {f"{n}_n": table[n].cast(pa.float32()).to_numpy() for n in ("twin", "loss") if n in table.column_names}
        if "token" in table.column_names:
            kept["token_nd"] = matrix(table["token"], f"token in {path}")
        return PatchScores(
            **kept,
            addresses=Addresses(lattice=Lattice(**header["lattice"]), rows=rows, cols=cols),
            by_offset_nk=matrix(table["by_offset"], f"by_offset in {path}"),
            means_nc=matrix(table["means"], f"means in {path}"),
            complexity_n=pixels, dissimilarity_n=away, days_n=days, space=header["space"], probe=header["probe"],
        )  # fmt: skip
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AreaError, InputMismatch) as cause:
        raise FormatError(f"{path} holds no scores of patches ({cause!r}); map again with --overwrite") from cause
