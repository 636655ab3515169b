"""What is known of every valid chip of a run (difficulty, excess, surprise and the rest), and its most extreme chips.

A list of extremes is of places, not of pixels: once a chip is chosen, every chip that overlaps it is out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import rankdata
from sklearn.covariance import LedoitWolf

from geoelle.embeddings import Embeddings
from geoelle.errors import ProbeError, ReadError, SpaceMismatch
from geoelle.holdout import EARTH_RADIUS_M, sphere_n3
from geoelle.probe import Probe, on_scale

__all__ = ["MEASURES", "Distance", "Measures", "most_apart", "percentiles", "surprise"]

MEASURES = ("difficulty", "complexity", "excess", "loss", "residual", "surprise")
"""In the order they stand in a table; `complexity` and `excess` need a pixel part of the probe, `loss` and
`residual` a run with its loss."""
_CONSTANT = 1e-9  # spread of a dimension, against its size, that is rounding and not information
_WITHOUT = {
    "complexity": "the probe has no pixel part, or the run no features; use a probe of geoelle fit",
    "loss": "the run holds no loss; embed it with --loss",
}
_WITHOUT |= {"excess": _WITHOUT["complexity"], "residual": _WITHOUT["loss"]}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measures:
    """Hold the valid chips of a run, one table a lattice, and the measures of each in that order.

    All float64 (n,); None where probe or run cannot tell. `residual_n` is on the scale of the fit, `surprise_n`
    has no unit, NaN stands for a loss that could not be computed.
    """

    tables: tuple[Embeddings, ...]
    difficulty_n: np.ndarray
    surprise_n: np.ndarray
    complexity_n: np.ndarray | None = None
    excess_n: np.ndarray | None = None
    loss_n: np.ndarray | None = None
    residual_n: np.ndarray | None = None

    @classmethod
    def of(cls, tables: Sequence[Embeddings], probe: Probe) -> Self:
        """Measure the valid chips of these tables with a probe of their space.

        Raises:
            SpaceMismatch: the probe is of another space, or of other pixel features.
            ReadError: no chip is valid.
            ProbeError: a single chip is.
        """
        probe.check_space(tables[0].header.space)
        tables = tuple(table[table.valid_n & np.isfinite(table.vectors_nd).all(1)] for table in tables)
        tables = tuple(table for table in tables if len(table))
        if not tables:
            raise ReadError("no chip can be ranked: none has enough valid pixels; choose other --dates or --bbox")
        vectors_nd = np.concatenate([table.vectors_nd for table in tables])
        raw_n = probe.score_raw(vectors_nd)
        return cls(
            tables=tables,
            difficulty_n=probe.score(vectors_nd).astype(np.float64),
            surprise_n=surprise(vectors_nd),
            **_of_pixels(tables, probe, vectors_nd),
            **_of_loss(tables, probe, raw_n),
        )

    def __len__(self) -> int:
        return len(self.difficulty_n)

    @property
    def known(self) -> tuple[str, ...]:
        """Return the measures there are."""
        return tuple(name for name in MEASURES if getattr(self, f"{name}_n") is not None)

    def values(self, name: str) -> np.ndarray:
        """Return a measure, float64 (n,).

        Raises:
            ProbeError: the probe or the run cannot tell it.
        """
        if (values_n := getattr(self, f"{name}_n")) is None:
            raise ProbeError(f"there is no {name} to rank chips by ({_WITHOUT[name]})")
        return values_n

    def at(self, chip: int) -> tuple[Embeddings, int]:
        """Return the table of a chip and its row there."""
        for table in self.tables:
            if chip < len(table):
                return table, chip
            chip -= len(table)
        raise IndexError(f"chip {chip} is beyond the last one")


def surprise(vectors_nd: np.ndarray) -> np.ndarray:
    """Return the Mahalanobis distance of each vector from the mean of all, float64 (n,), no unit.

    Raises:
        ProbeError: fewer than two vectors.

    >>> x = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [9, 9.0]])
    >>> int(surprise(x).argmax())
    4
    """
    return Distance.of(vectors_nd)(vectors_nd)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distance:
    """Tell how far vectors lie from the mean of others, by the spread of those in every direction.

    Dimensions are scaled to unit variance, constant ones left out; their covariance is shrunk towards a multiple
    of the identity as Ledoit and Wolf (2004, doi:10.1016/S0047-259X(03)00096-4) have it, so that it also stands
    with more dimensions than vectors.
    """

    mean_d: np.ndarray
    spread_d: np.ndarray
    shape: LedoitWolf | None

    @classmethod
    def of(cls, vectors_nd: np.ndarray) -> Self:
        """Learn from vectors without NaN.

        Raises:
            ProbeError: fewer than two vectors.
        """
        if len(vectors_nd) < 2:
            raise ProbeError(f"surprise fails for {len(vectors_nd)} valid chips; it compares a chip with the others")
        x_nd = np.asarray(vectors_nd, np.float64)
        mean_d, spread_d = x_nd.mean(axis=0), x_nd.std(axis=0)
        spread_d[spread_d <= _CONSTANT * np.abs(x_nd).max(axis=0)] = np.inf
        varied_nd = ((x_nd - mean_d) / spread_d)[:, np.isfinite(spread_d)]
        shape = LedoitWolf(assume_centered=True).fit(varied_nd) if varied_nd.size else None
        return cls(mean_d=mean_d, spread_d=spread_d, shape=shape)

    def __call__(self, vectors_nd: np.ndarray) -> np.ndarray:
        """Return the distance of each vector, float64 (n,), no unit; 0 where all it learnt from were equal."""
        z_nd = ((np.asarray(vectors_nd, np.float64) - self.mean_d) / self.spread_d)[:, np.isfinite(self.spread_d)]
        return np.zeros(len(z_nd)) if self.shape is None else np.sqrt(self.shape.mahalanobis(z_nd))


def percentiles(values_n: np.ndarray) -> np.ndarray:
    """Return 100 (rank - 1/2) / n of each value among the finite ones, equals sharing their mean rank; NaN stays.

    >>> percentiles(np.array([3.0, 1.0, np.nan, 2.0, 2.0]))
    array([87.5, 12.5,  nan, 50. , 50. ])
    """
    found_n = np.isfinite(values_n)
    out_n = np.full(len(values_n), np.nan)
    out_n[found_n] = 100 * (rankdata(values_n[found_n]) - 0.5) / max(found_n.sum(), 1)
    return out_n


def most_apart(measures: Measures, values_n: np.ndarray, *, top: int, highest: bool = True) -> np.ndarray:
    """Return the chips of the highest (or lowest) values, at most `top`, none of which overlaps a better one.

    Overlap is told by the addresses; of two lattices, chips count as overlapping whose centres are closer than
    the diagonal of a chip. Equal values keep the order of the run. Returns int64 (k,), best first.
    """
    ground = _Ground(measures.tables)
    free_n = np.isfinite(values_n)
    chosen: list[int] = []
    for chip in np.argsort(-values_n if highest else values_n, kind="stable"):
        if len(chosen) == top:
            break
        if free_n[chip]:
            chosen.append(int(chip))
            free_n &= ~ground.overlaps(chip)
    return np.array(chosen, np.int64)


class _Ground:
    """Where all chips are, to tell which of them overlap one."""

    def __init__(self, tables: Sequence[Embeddings]) -> None:
        self.table_n = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        self.rows_n = np.concatenate([table.addresses.rows for table in tables])
        self.cols_n = np.concatenate([table.addresses.cols for table in tables])
        lattice = tables[0].addresses.lattice
        self.reach = -(-lattice.size_px // lattice.stride_px)
        self.chord = lattice.size_px * lattice.gsd_m * 2**0.5 / EARTH_RADIUS_M
        lonlat_n2 = np.concatenate([table.addresses.lonlat_n2 for table in tables])
        self.sphere_n3 = sphere_n3(lonlat_n2) if len(tables) > 1 else None

    def overlaps(self, chip: int) -> np.ndarray:
        """Mark the chips that show ground of this one, itself included, bool (n,)."""
        near_n = np.abs(self.rows_n - self.rows_n[chip]) < self.reach
        near_n &= np.abs(self.cols_n - self.cols_n[chip]) < self.reach
        if self.sphere_n3 is None:
            return near_n
        close_n = np.linalg.norm(self.sphere_n3 - self.sphere_n3[chip], axis=1) < self.chord
        return np.where(self.table_n == self.table_n[chip], near_n, close_n)


def _of_pixels(tables: tuple[Embeddings, ...], probe: Probe, vectors_nd: np.ndarray) -> dict[str, np.ndarray]:
    if probe.pixels is None or any(table.features_nf is None for table in tables):
        return {}
    if (names := tables[0].header.feature_names) != probe.feature_names:
        raise SpaceMismatch(
            f"the probe knows {len(probe.feature_names)} pixel features and the run has {len(names)} others; fit a "
            "probe on this run"
        )
    features_nf = np.concatenate([table.features_nf for table in tables])
    return {
        "complexity_n": probe.complexity(features_nf).astype(np.float64),
        "excess_n": probe.excess(vectors_nd, features_nf).astype(np.float64),
    }


def _of_loss(tables: tuple[Embeddings, ...], probe: Probe, raw_n: np.ndarray) -> dict[str, np.ndarray]:
    if any(table.loss_n is None for table in tables):
        return {}
    loss_n = np.concatenate([table.loss_n for table in tables])
    residual_n, known_n = np.full(len(loss_n), np.nan), np.isfinite(loss_n)
    residual_n[known_n] = on_scale(loss_n[known_n], probe.scale) - raw_n[known_n]
    return {"loss_n": loss_n, "residual_n": residual_n}
