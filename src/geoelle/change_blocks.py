"""Ask what the flags of a change would be if nothing had happened, with the dependence of neighbouring cells kept.

Benjamini and Hochberg hold the expected share of false flags where cells are independent or positively dependent; they
say nothing of how far it scatters where a whole slope is alike. Two checks do, both by letting other years play the
date after:

- Whole years: each year is judged by all others, and the date after takes its place among them. Exact whatever the
  dependence in space, and coarse: of r + 1 years the least p is 1 / (r + 1).
- Blocks: every block of ground takes a year of its own as its date after, among the earlier years only, and the pieces
  make a map without the change. So cells of one block stay as alike as they are, and maps are many. The blocks are as
  wide as t is alike in space.

The date after has no part in the second check, though exchanging it too would be exact: it would play itself in one
of r + 2 blocks, and a change would hide in its own null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import ndimage

from geoelle.change import MIN_REPLICATES, Design, Tested, judge, q_values
from geoelle.errors import ProbeError
from geoelle.lattice import Addresses
from geoelle.variogram import autocorrelation_range_m

__all__ = ["MIN_BLOCKS", "SHUFFLES", "BlockCheck", "YearCheck", "check_blocks", "check_years"]

SHUFFLES = 199
MIN_BLOCKS = 4
_MOST = 12
"""Arrangements of years that are judged: each is a fit over the whole map."""
_RANGES = 3
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class YearCheck:
    """Where the date after ranks among whole years by its flagged cells, each year judged by all others.

    `p` is the share of the `years` (the date after is one) with as many flags or more.
    """

    p: float
    years: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCheck:
    """The flagged cells beside those of maps without the change, put together of blocks of earlier years.

    `flagged` is the count of flagged cells, `largest` that of the largest cluster of one sign; `p_flagged` and
    `p_largest` the shares of `shuffles` (plus one) with as many by the same rule. `expected` and `most` are the mean
    and the 95th percentile of the cells that pass the same p where nothing changed. `range_m` is NaN where t is alike
    at no distance that can be measured.
    """

    flagged: int
    largest: int
    p_flagged: float
    p_largest: float
    expected: float
    most: float
    blocks: int
    block_m: float
    range_m: float
    arrangements: int
    shuffles: int = SHUFFLES

    @property
    def false_share(self) -> float:
        """Return the share of the flags that maps without the change would have, at most 1; NaN without a flag."""
        return min(self.expected / self.flagged, 1.0) if self.flagged else float("nan")


def check_years(years_rn: np.ndarray, after_n: np.ndarray, rate: float) -> YearCheck | None:
    """Rank the date after among the years by flagged cells, (r, n) and (n,); None for fewer than three years.

    Years are exchangeable where nothing changed, so p is exact, and no less than 1 / (r + 1).
    """
    if len(years_rn) <= MIN_REPLICATES:
        return None
    every_rn = np.vstack([years_rn, after_n])
    flagged_r = []
    for r in range(len(every_rn)):
        _, tested = judge(np.zeros(len(after_n)), every_rn[r], np.delete(every_rn, r, axis=0), "departure")
        flagged_r.append(int(np.sum(q_values(tested.p_n) <= rate)))
    return YearCheck(p=float(np.mean(np.array(flagged_r) >= flagged_r[-1])), years=len(every_rn))


def check_blocks(
    years_rn: np.ndarray, gated_rn: np.ndarray, tested: Tested, addresses: Addresses, *, design: Design, rate: float,
    shuffles: int = SHUFFLES,
) -> BlockCheck | None:  # fmt: skip
    """Compare the flags of `tested` with those of maps made of blocks of earlier years.

    `years_rn` (r, n) are these years, the earliest first, with the date before where it is of the season; `gated_rn`
    the same, NaN outside the area of applicability: a year that plays the date after is not gated. None where the years
    are too few to be judged by the rest, or the ground too small for four blocks.
    """
    known_n = np.isfinite(tested.p_n)
    maps = [np.where(known_n, (found.p_n, found.t_n), np.nan) for found in _null_maps(years_rn, gated_rn, design)]
    if not maps:
        return None
    range_m = _range_m(addresses, [t_n for _, t_n in maps[:_RANGES]])
    lattice = addresses.lattice
    side = max(int(np.ceil(np.nan_to_num(range_m) / lattice.cell_m)), -(-lattice.size_px // lattice.stride_px))
    y_n, x_n = addresses.rows - addresses.rows.min(), addresses.cols - addresses.cols.min()
    names, block_n = np.unique(y_n // side * (x_n.max() // side + 1) + x_n // side, return_inverse=True)
    if len(names) < MIN_BLOCKS:
        return None
    grid = (y_n, x_n)
    own_p, own = _passes(tested.p_n, rate), _flags(tested.p_n, tested.t_n, rate, grid)
    drawn = [
        (_flags(p_n, t_n, rate, grid), np.nanmean(p_n[known_n] <= own_p) if np.isfinite(p_n[known_n]).any() else 0.0)
        for p_n, t_n in _shuffled(np.array(maps), block_n, len(names), shuffles)
    ]
    flags_s2, passed_s = np.array([counts for counts, _ in drawn]), np.array([share for _, share in drawn])
    p_flagged, p_largest = (1 + (flags_s2 >= own).sum(axis=0)) / (1 + shuffles)
    return BlockCheck(
        flagged=own[0], largest=own[1], p_flagged=float(p_flagged), p_largest=float(p_largest),
        expected=float(passed_s.mean() * known_n.sum()), most=float(np.quantile(passed_s, 0.95) * known_n.sum()),
        blocks=len(names), block_m=side * lattice.cell_m, range_m=range_m, arrangements=len(maps), shuffles=shuffles,
    )  # fmt: skip


def _null_maps(years_rn: np.ndarray, gated_rn: np.ndarray, design: Design) -> Iterator[Tested]:
    """Judge earlier years as the two dates were: each pair, or each year, by all the rest."""
    count, playing = len(years_rn), 2 if design == "difference" else 1
    if count - playing < MIN_REPLICATES:
        return
    every = list(combinations(range(count), playing))
    for chosen in [every[i] for i in np.unique(np.linspace(0, len(every) - 1, _MOST).round().astype(int))]:
        rest_rn = np.delete(gated_rn, chosen, axis=0)
        before_n = gated_rn[chosen[0]] if playing == 2 else np.zeros(years_rn.shape[1])
        try:
            yield judge(before_n, years_rn[chosen[-1]], rest_rn, design)[1]
        except ProbeError:  # these years share too little clear ground; others may share more
            continue


def _range_m(addresses: Addresses, maps: Sequence[np.ndarray]) -> float:
    """Return the longest distance up to which maps of t without the change are alike, NaN where none is."""
    lonlat_n2, found = addresses.lonlat_n2, []
    for t_n in maps:
        seen_n = np.isfinite(t_n)
        found.append(autocorrelation_range_m(lonlat_n2[seen_n], t_n[seen_n]).range_m)
    return float(np.nanmax(found)) if np.isfinite(found).any() else float("nan")


def _shuffled(
    maps_k2n: np.ndarray, block_n: np.ndarray, blocks: int, shuffles: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Put maps of p and t together, every block of an arrangement and with a sign of its own."""
    rng, every = np.random.default_rng(_SEED), np.arange(len(block_n))
    for _ in range(shuffles):
        taken_n = rng.integers(len(maps_k2n), size=blocks)[block_n]
        sign_n = rng.choice([-1.0, 1.0], size=blocks)[block_n]
        yield maps_k2n[taken_n, 0, every], sign_n * maps_k2n[taken_n, 1, every]


def _passes(p_n: np.ndarray, rate: float) -> float:
    """Return the largest p that is flagged, -1 where none is (Benjamini and Hochberg's step up)."""
    ordered = np.sort(p_n[np.isfinite(p_n)])
    below = np.flatnonzero(ordered <= rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1))
    return float(ordered[below[-1]]) if below.size else -1.0


def _flags(p_n: np.ndarray, t_n: np.ndarray, rate: float, grid: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    """Count the flagged cells, and those of the largest cluster of one sign whose cells share a side."""
    flagged_n = p_n <= _passes(p_n, rate)
    if not flagged_n.any():
        return 0, 0
    largest = 0
    for sign in (-1, 1):
        mask_yx = np.zeros((grid[0].max() + 1, grid[1].max() + 1), bool)
        mask_yx[grid] = flagged_n & (np.sign(t_n) == sign)
        largest = max(largest, int(np.bincount(ndimage.label(mask_yx)[0].ravel())[1:].max(initial=0)))
    return int(flagged_n.sum()), largest
