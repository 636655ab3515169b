"""Test a change of difficulty against the same ground in earlier years: arrays in, arrays out.

A cell has a number a year (or a number a pair of dates), its replicates, and one new number. Three or four replicates
say little about one cell's spread, and a per-cell median and MAD with normal tails puts p under 0.05 on two fifths of a
map on which nothing changed (docs/evaluation-delta-series.md). So spreads are shrunk towards what all cells have in
common, and the new number is compared by a t with the degrees of freedom that both together have (Smyth 2004,
doi:10.2202/1544-6115.1027). A shift of the whole map is taken out first and kept as a number: one hazy date is not a
thousand changes. So is a spread of the whole map beyond that of the replicates: cells of one date err together, and a
few dates tell little of how far dates differ (genomic control, Devlin and Roeder 1999,
doi:10.1111/j.0006-341X.1999.00997.x). Both take most of the ground to be unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, special, stats

from geoelle.errors import ProbeError

__all__ = [
    "MIN_CELLS",
    "MIN_REPLICATES",
    "MIN_YEARS",
    "Design",
    "Null",
    "Prior",
    "Tested",
    "false_alarms",
    "fit_null",
    "judge",
    "judge_by",
    "q_values",
]

Design = Literal["none", "difference", "departure"]
"""Whether the date after is compared with the date before, or with its own season; "none" without a history."""

MIN_REPLICATES = 2
"""Fewer leave no spread to estimate."""
MIN_YEARS = 4
"""Earlier years that a change is judged by, at least. With three the false share of flags was 0.12 where 0.1 was asked
for, on simulated cells that are alike (scripts/simulate_delta.py); from four on it was below."""
MIN_CELLS = 20
_POLISHES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What cells have in common: a variance and the degrees of freedom it is worth (infinite: all cells are alike)."""

    variance: float
    dof: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Null:
    """How cells behave where nothing happens.

    `mean_n`, `sd_n` (n,) are the level and the shrunk spread of each cell, NaN where it has fewer than two replicates;
    `count_n` its replicates; `shifts_r` (r,) the map-wide shift taken out of each replicate; `prior` what cells share.
    """

    mean_n: np.ndarray
    sd_n: np.ndarray
    count_n: np.ndarray
    shifts_r: np.ndarray
    prior: Prior

    def test(self, new_n: np.ndarray, before_n: np.ndarray | None = None) -> Tested:
        """Compare a new map with the null, (n,); its own map-wide shift is taken out and returned.

        With `before_n`, a map of the same season that the null has not seen, the difference of both is compared with
        0; else the new map with the mean of the replicates. The variance of a difference is 2 s², that of the
        departure of a number not seen s² (1 + 1 / replicates). Then t is divided by what its median size is above
        that of its distribution, where it is: the inflation.

        Raises `ProbeError` where no cell has all that is compared.
        """
        new_n = np.asarray(new_n, np.float64)
        apart_n = new_n - (self.mean_n if before_n is None else np.asarray(before_n, np.float64))
        factor_n = 1 + 1 / np.maximum(self.count_n, 1) if before_n is None else np.full(len(new_n), 2.0)
        known_n = np.isfinite(apart_n) & np.isfinite(self.sd_n)
        if not known_n.any():
            raise ProbeError(f"no cell of {len(new_n)} has both a history and a new value; choose clearer dates")
        shift = float(np.median(apart_n[known_n]))
        dof_n = self.prior.dof + self.count_n - 1
        t_n = np.where(known_n, (apart_n - shift) / (self.sd_n * np.sqrt(factor_n)), np.nan)
        finite_n = np.minimum(dof_n, 1e9)
        inflation = max(float(np.median((np.abs(t_n) / stats.t.ppf(0.75, finite_n))[known_n])), 1.0)
        t_n /= inflation
        return Tested(
            t_n=t_n, p_n=2 * stats.t.sf(np.abs(t_n), finite_n), dof_n=np.where(known_n, dof_n, np.nan), shift=shift,
            inflation=inflation,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """A new map against its null: t with its degrees of freedom, two-sided p, and the map-wide shift taken out.

    `inflation` is what t was divided by: 1, or more where the whole map differs more than the replicates among each
    other let expect.
    """

    t_n: np.ndarray
    p_n: np.ndarray
    dof_n: np.ndarray
    shift: float
    inflation: float

    @property
    def larger_p_n(self) -> np.ndarray:
        """Return the one-sided p of what is larger than the null, for numbers of which less is no change."""
        return stats.t.sf(self.t_n, np.minimum(self.dof_n, 1e9))


def fit_null(replicates_rn: np.ndarray) -> Null:
    """Learn level and spread of every cell from r maps without the change, (r, n), NaN where a cell was not seen.

    Replicates must not share an image: give years, or pairs of dates of their own. Each
    one's shift as a whole is taken out.

    Raises `ProbeError` for fewer than two replicates, or fewer than 20 cells with two.

    >>> rng = np.random.default_rng(0)
    >>> null = fit_null(rng.normal(size=(4, 5000)))
    >>> bool(abs((null.test(rng.normal(size=5000)).p_n < 0.05).mean() - 0.05) < 0.01)
    True
    """
    x_rn = np.array(replicates_rn, np.float64, ndmin=2)
    if len(x_rn) < MIN_REPLICATES:
        raise ProbeError(f"a null needs {MIN_REPLICATES} earlier maps, not {len(x_rn)}; give a longer --history")
    shifts_r = _shifts(x_rn)
    x_rn = x_rn - shifts_r[:, None]
    seen_rn = np.isfinite(x_rn)
    count_n = seen_rn.sum(axis=0)
    total_n = np.where(seen_rn, x_rn, 0).sum(axis=0)
    enough_n = count_n >= MIN_REPLICATES
    if enough_n.sum() < MIN_CELLS:
        raise ProbeError(
            f"a null needs {MIN_CELLS} cells seen in two earlier maps, not {enough_n.sum()}; give a longer --history "
            "or more ground"
        )
    mean_n = np.where(enough_n, total_n / np.maximum(count_n, 1), np.nan)
    squares_n = np.where(seen_rn, (x_rn - mean_n) ** 2, 0).sum(axis=0)
    dof_n = np.where(enough_n, count_n - 1, 0)
    variance_n = np.where(enough_n, squares_n / np.maximum(dof_n, 1), np.nan)
    prior = _prior(variance_n[enough_n], dof_n[enough_n])
    return Null(
        mean_n=mean_n, sd_n=np.sqrt(_shrunk(variance_n, dof_n, prior)), count_n=count_n, shifts_r=shifts_r, prior=prior
    )


def judge(before_n: np.ndarray, after_n: np.ndarray, history_rn: np.ndarray, design: Design) -> tuple[Null, Tested]:
    """Test one number a cell by its history, as `design` says; NaN where the date before has none.

    Raises: ProbeError (a history too short).
    """
    null = fit_null(history_rn)
    return null, judge_by(null, before_n, after_n, design)


def judge_by(null: Null, before_n: np.ndarray, after_n: np.ndarray, design: Design) -> Tested:
    """Test one number a cell by a null that is fitted already, as `judge` does."""
    tested = null.test(after_n, before_n if design == "difference" else None)
    known_n = np.isfinite(before_n)
    masked = {name: np.where(known_n, getattr(tested, name), np.nan) for name in ("t_n", "p_n", "dof_n")}
    return replace(tested, **masked)


def q_values(p_n: np.ndarray) -> np.ndarray:
    """Return Benjamini and Hochberg's q of each p, NaN where p is.

    Of the cells with q <= 0.1, a tenth is expected to be false. Holds for independent p-values and for positively
    dependent ones (Benjamini and Yekutieli 2001).
    """
    p_n = np.asarray(p_n, np.float64)
    q_n, known_n = np.full(p_n.shape, np.nan), np.isfinite(p_n)
    if known_n.any():
        q_n[known_n] = stats.false_discovery_control(p_n[known_n], method="bh")
    return q_n


def false_alarms(replicates_rn: np.ndarray, rate: float, *, larger: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Test every replicate against the others, as if it were new: p (k, n) and the flagged share of each map (k,).

    Where nothing changed, p is uniform and few maps have any flag at all. A replicate that shares too little ground
    with the others is left out, so k may be less than r, and 0. With `larger` only what is larger counts as a change.
    """
    x_rn = np.asarray(replicates_rn, np.float64)
    found = []
    for r in range(len(x_rn)):
        try:
            tested = fit_null(np.delete(x_rn, r, axis=0)).test(x_rn[r])
        except ProbeError:
            continue
        found.append(tested.larger_p_n if larger else tested.p_n)
    p_kn = np.array(found).reshape(len(found), x_rn.shape[1])
    flagged_k = np.array([(q_values(p_n) <= rate).sum() for p_n in p_kn])
    return p_kn, flagged_k / np.maximum(np.isfinite(p_kn).sum(axis=1), 1)


def _shifts(x_rn: np.ndarray) -> np.ndarray:
    """Return the shift of each map against the others, centred on 0, (r,): medians polished in turn (Tukey 1977)."""
    shifts_r = np.zeros(len(x_rn))
    for _ in range(_POLISHES):
        rest_rn = x_rn - shifts_r[:, None]
        step_r = _nanmedian(rest_rn - _nanmedian(rest_rn, axis=0), axis=1)
        shifts_r += np.where(np.isfinite(step_r), step_r, 0.0)
        if np.nanmax(np.abs(step_r), initial=0.0) < 1e-12:
            break
    return shifts_r - np.median(shifts_r)


def _nanmedian(values: np.ndarray, axis: int) -> np.ndarray:
    ordered = np.ma.median(np.ma.masked_invalid(values), axis=axis)
    return np.ma.filled(ordered.astype(np.float64), np.nan)


def _prior(variance_n: np.ndarray, dof_n: np.ndarray) -> Prior:
    """Match the mean and the variance of log s² across cells (Smyth 2004, section 6.2)."""
    floor = 1e-10 * float(np.median(variance_n[variance_n > 0], axis=None)) if (variance_n > 0).any() else 0.0
    if floor == 0:
        raise ProbeError("no cell changes at all between the earlier maps; check that they are of different dates")
    half_n = dof_n / 2
    e_n = np.log(np.maximum(variance_n, floor)) - special.digamma(half_n) + np.log(half_n)
    level = float(e_n.mean())
    excess = float(np.mean((e_n - level) ** 2) * len(e_n) / (len(e_n) - 1) - special.polygamma(1, half_n).mean())
    if excess <= 1e-6:  # cells differ by no more than chance
        return Prior(variance=float(np.exp(level)), dof=float("inf"))
    half = _inverse_trigamma(excess)
    return Prior(variance=float(np.exp(level + special.digamma(half) - np.log(half))), dof=2 * half)


def _inverse_trigamma(value: float) -> float:
    return float(np.exp(optimize.brentq(lambda x: special.polygamma(1, np.exp(x)) - value, -20.0, 20.0)))


def _shrunk(variance_n: np.ndarray, dof_n: np.ndarray, prior: Prior) -> np.ndarray:
    if np.isinf(prior.dof):
        return np.where(np.isfinite(variance_n), prior.variance, np.nan)
    return (prior.dof * prior.variance + dof_n * variance_n) / (prior.dof + dof_n)
