"""Runs that do not fit in memory: the probe is fitted on every chip, its scores are of whole blocks drawn by lot.

A first pass reads part after part and keeps of each chip where and when it is and its loss, so that ground is held out
and drawn among all chips. Vectors and features are read again, one part in memory at a time, for every pass of the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geoelle.area import Lattice
from geoelle.batches import Batches, fit_batches
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import FormatError
from geoelle.held import Held, Stand
from geoelle.holdout import blocks_of
from geoelle.probe import Probe, Scale, on_scale
from geoelle.ridge import Affine
from geoelle.sample import Sample
from geoelle.vectors import matrix, parquet_files

__all__ = ["MOST_CHIPS", "Large", "fit_large", "large_runs"]

MOST_CHIPS = 40_000
"""Chips that are scored at most; runs that hold no more are read whole."""
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """A file of a run: its usable rows, bool (n,), and what is kept of those, (u,) each."""

    path: Path
    place: str
    header: Header
    lattice: Lattice
    usable_n: np.ndarray
    lonlat_u2: np.ndarray
    times_u: np.ndarray
    items_u: np.ndarray
    loss_u: np.ndarray

    @classmethod
    def read(cls, path: Path, place: str, columns: set[str]) -> _Part:
        """Read a file and let go of all but a few numbers a row; usable is what has no NaN in these columns."""
        table = Embeddings.read(path)
        sample = Sample.of(table)
        usable_n = np.all([finite_n for name, finite_n in sample.finite.items() if name in columns], axis=0)
        items, which_n = np.unique(np.array(table.items_n, object), return_inverse=True)  # each text is held once
        return cls(
            path=path, place=place, header=table.header, lattice=table.addresses.lattice, usable_n=usable_n,
            lonlat_u2=sample.lonlat_n2[usable_n], times_u=sample.times_n[usable_n],
            items_u=items[which_n][usable_n], loss_u=sample.loss_n[usable_n],
        )  # fmt: skip

    def column(self, name: str) -> np.ndarray:
        """Read one list column of the usable rows, float32 (u, d)."""
        with _opened(self.path) as source:
            rows_nd = matrix(source.read(columns=[name])[name], f"{name} in {self.path}")
        if len(rows_nd) != len(self.usable_n):
            rows = f"{len(self.usable_n):,} rows, now {len(rows_nd):,}"
            raise FormatError(f"{self.path} changed while it was fitted ({rows}); leave runs alone and fit again")
        return rows_nd[self.usable_n]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Large:
    """Runs with more usable chips than are scored: their parts, and which usable chips were drawn, bool (n,).

    Rows are usable ones in the order of `Embeddings.read_each`: runs, in each its lattices, in each its parts.
    `columns` are those that every part has.
    """

    parts: tuple[_Part, ...]
    columns: frozenset[str]
    drawn_n: np.ndarray

    @property
    def rows(self) -> int:
        """Return the number of rows, usable or not."""
        return sum(len(part.usable_n) for part in self.parts)

    @property
    def loss_n(self) -> np.ndarray:
        """Return the loss of every usable chip."""
        return np.concatenate([part.loss_u for part in self.parts])

    def stand(self, chip_m: float) -> Stand:
        """Say where all usable chips stand; a run is a place."""
        sizes = [len(part.loss_u) for part in self.parts]
        return Stand(
            lonlat_n2=np.concatenate([part.lonlat_u2 for part in self.parts]),
            place_n=np.repeat(np.array([part.place for part in self.parts], object), sizes),
            source_n=np.repeat(np.array([part.header.sensor for part in self.parts], object), sizes),
            scene_n=np.concatenate([part.items_u for part in self.parts]),
            times_n=np.concatenate([part.times_u for part in self.parts]),
            chip_m=chip_m,
        )

    def drawn(self) -> list[tuple[str, Embeddings]]:
        """Read the chips drawn, as (place, table): one table for each lattice of each run, which may be empty."""
        tables: dict[tuple[str, Lattice], list[Embeddings]] = {}
        ends = np.cumsum([len(part.loss_u) for part in self.parts])[:-1]
        for part, drawn_u in zip(self.parts, np.split(self.drawn_n, ends), strict=True):
            rows = np.flatnonzero(part.usable_n)[drawn_u]
            tables.setdefault((part.place, part.lattice), []).append(Embeddings.read(part.path)[rows])
        return [(place, first.concat(*rest)) for (place, _), (first, *rest) in tables.items()]

    def batches(self, name: str, y_n: np.ndarray) -> Batches:
        """Return a function that yields a list column and the targets of all usable chips, part by part."""

        def each() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            at = 0
            for part in self.parts:
                yield part.column(name), y_n[at : at + len(part.loss_u)]
                at += len(part.loss_u)

        return each

    def note(self, rows: str) -> str:
        """Say what the scores are of; `rows` names what is counted."""
        drawn, usable = int(self.drawn_n.sum()), len(self.drawn_n)
        return (
            f"scores, nulls and intervals are of {drawn:,} of {usable:,} {rows}, whole blocks drawn by lot; the probe "
            "is fitted on all"
        )


def large_runs(sources: Mapping[str, Path], block_m: float) -> Large | None:
    """Look through runs by place; None where they hold no more than `MOST_CHIPS` usable chips.

    Blocks of `block_m` metres are drawn until the next would be one chip too many, the same whatever the order of runs.

    Raises: FormatError (nothing there, or a damaged file), SpaceMismatch (two spaces), ProbeError (no loss).
    """
    files = [(place, path) for place, source in sources.items() for path in parquet_files(source)]
    facts = [_facts(path) for _, path in files]
    if sum(count for count, _ in facts) <= MOST_CHIPS:
        return None
    columns = frozenset.intersection(*(names for _, names in facts))
    parts = _in_order([_Part.read(path, place, set(columns)) for place, path in files])
    lonlat_n2 = np.concatenate([part.lonlat_u2 for part in parts])
    if len(lonlat_n2) <= MOST_CHIPS:
        return None
    return Large(parts=parts, columns=columns, drawn_n=_drawn_n(blocks_of(lonlat_n2, block_m)))


def fit_large(large: Large, held: Held, *, space: Mapping[str, object], scale: Scale) -> Probe:
    """Fit a probe on every usable chip, and its pixel part where all parts have features, as `fit_probe` would.

    Raises: ProbeError (a loss without a logarithm, files that change), HoldoutError (too little to hold out).
    """
    y_n = on_scale(large.loss_n, scale)
    maps = {
        name: Affine.of(fit_batches(large.batches(name, y_n), held.groups, cv=held.cv))
        for name in ("vector", "features")
        if name in large.columns
    }
    names = large.parts[0].header.feature_names if "features" in maps else ()
    return Probe(
        embedding=maps["vector"], pixels=maps.get("features"), feature_names=names, space=dict(space), scale=scale
    )


def _in_order(parts: Sequence[_Part]) -> tuple[_Part, ...]:
    """Put the parts of one lattice of a run beside each other, once all are found to be of one space."""
    first, groups = parts[0].header, {}
    runs = {part.place: part.header for part in reversed(parts)}
    for part in parts:
        runs[part.place].merge(part.header)
        first.merge(replace(part.header, sensor=first.sensor))
        groups.setdefault((part.place, part.lattice), []).append(part)
    return tuple(part for group in groups.values() for part in group)


def _drawn_n(block_n: np.ndarray) -> np.ndarray:
    """Draw whole blocks of at most `MOST_CHIPS` chips, bool (n,)."""
    sizes = np.bincount(block_n)
    order = np.random.default_rng(_SEED).permutation(len(sizes))
    return np.isin(block_n, order[np.cumsum(sizes[order]) <= MOST_CHIPS])


def _facts(path: Path) -> tuple[int, frozenset[str]]:
    """Return how many rows a file has, and the names of its columns, from its footer."""
    with _opened(path) as source:
        return source.metadata.num_rows, frozenset(source.schema_arrow.names)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            yield source
    except (pa.ArrowException, OSError, KeyError) as cause:
        raise FormatError(f"{path} cannot be read as Parquet ({cause}); write it again") from cause
