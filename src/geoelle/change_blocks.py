"""Ask what the flags of a change would be if nothing had happened, with the dependence of neighbouring cells kept.

Benjamini and Hochberg hold the expected share of false flags where cells are independent or positively dependent; they
say nothing of how far it scatters where a whole slope is alike. Two checks do, both by letting other years play the
date after:

- Whole years: each year is judged by all others, and the date after takes its place among them. Exact whatever the
  dependence in space, and coarse: of r + 1 years the least p is 1 / (r + 1).
- Blocks: earlier years are judged by each other as the two dates were, and maps without the change are put together of
  pieces of these, all of one arrangement of years, each of some ground and with a sign of its own (a block bootstrap,
  Kunsch 1989, doi:10.1214/aos/1176347265). So cells of one block stay as alike as they are, what is off in a whole
  year stays off, and maps are many. The blocks are as wide as t is alike in space.

The date after has no part in the second check: exchanged block by block with the earlier years it would play itself in
one of r + 2, and a change would hide in its own null. Pieces of the same ground only, or of several arrangements in one
map, would scatter too little: years are few, and the date after is another.
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
        try:
            _, tested = judge(np.zeros(len(after_n)), every_rn[r], np.delete(every_rn, r, axis=0), "departure")
        except ProbeError:  # this year shares too little clear ground with the others
            continue
        flagged_r.append(int(np.sum(q_values(tested.p_n) <= rate)))
    return YearCheck(p=float(np.mean(np.array(flagged_r) >= flagged_r[-1])), years=len(flagged_r))


def check_blocks(
    years_rn: np.ndarray, gated_rn: np.ndarray, tested: Tested, addresses: Addresses, *, design: Design, rate: float,
    shuffles: int = SHUFFLES,
) -> BlockCheck | None:  # fmt: skip
    """Compare the flags of `tested` with those of maps made of blocks of earlier years.

    `years_rn` (r, n) are these years, the earliest first, with the date before where it is of the season; `gated_rn`
    the same, NaN outside the area of applicability: a year that plays the date after is not gated. None where the years
    are too few to be judged by the rest, or the ground too small for four blocks.
    """
    maps = list(_null_maps(years_rn, gated_rn, design))
    if not maps:
        return None
    range_m = _range_m(addresses, maps[0].t_n)
    mosaic = _Mosaic.of(addresses, maps, range_m)
    if mosaic.blocks < MIN_BLOCKS:
        return None
    known_n = np.isfinite(tested.p_n)
    limit, own = _limit(tested.p_n, rate), _flags(tested.p_n, tested.t_n, rate, mosaic)
    flags_s2, passed_s = np.empty((shuffles, 2)), np.empty(shuffles)
    rng = np.random.default_rng(_SEED)
    for s in range(shuffles):
        p_n, t_n = mosaic.draw(rng)
        p_n[~known_n] = np.nan
        flags_s2[s] = _flags(p_n, t_n, rate, mosaic)
        passed_s[s] = np.sum(p_n <= limit) * known_n.sum() / max(np.isfinite(p_n).sum(), 1)
    p_flagged, p_largest = (1 + (flags_s2 >= own).sum(axis=0)) / (1 + shuffles)
    return BlockCheck(
        flagged=own[0], largest=own[1], p_flagged=float(p_flagged), p_largest=float(p_largest),
        expected=float(passed_s.mean()), most=float(np.quantile(passed_s, 0.95)), blocks=mosaic.blocks,
        block_m=mosaic.side * addresses.lattice.cell_m, range_m=range_m, arrangements=len(maps), shuffles=shuffles,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Mosaic:
    """Maps of p and t without the change, (2, k, y, x), NaN off the cells; where cells lie; the side of a piece."""

    maps_2kyx: np.ndarray
    y_n: np.ndarray
    x_n: np.ndarray
    side: int

    @classmethod
    def of(cls, addresses: Addresses, maps: Sequence[Tested], range_m: float) -> _Mosaic:
        lattice = addresses.lattice
        y_n, x_n = addresses.rows - addresses.rows.min(), addresses.cols - addresses.cols.min()
        maps_2kyx = np.full((2, len(maps), y_n.max() + 1, x_n.max() + 1), np.nan)
        for k, found in enumerate(maps):
            maps_2kyx[:, k, y_n, x_n] = found.p_n, found.t_n
        side = max(int(np.ceil(np.nan_to_num(range_m) / lattice.cell_m)), -(-lattice.size_px // lattice.stride_px))
        return cls(maps_2kyx=maps_2kyx, y_n=y_n, x_n=x_n, side=side)

    @property
    def shape(self) -> tuple[int, int]:
        return self.maps_2kyx.shape[2:]

    @property
    def blocks(self) -> int:
        """Return how many blocks hold a cell."""
        return len(np.unique((self.y_n // self.side << 32) + self.x_n // self.side))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return p and t (n,) of a map of pieces."""
        rows, cols = (-(-length // self.side) for length in self.shape)
        at_n = self.y_n // self.side * cols + self.x_n // self.side
        number = rng.integers(self.maps_2kyx.shape[1])
        starts = [rng.integers(max(length - self.side, 0) + 1, size=rows * cols) for length in self.shape]
        y_n, x_n = starts[0][at_n] + self.y_n % self.side, starts[1][at_n] + self.x_n % self.side
        p_n, t_n = self.maps_2kyx[:, number, y_n, x_n]
        return p_n, t_n * rng.choice([-1.0, 1.0], size=rows * cols)[at_n]


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


def _range_m(addresses: Addresses, t_n: np.ndarray) -> float:
    """Return the distance up to which a map of t without the change is alike, NaN where it is at none."""
    seen_n = np.isfinite(t_n)
    return autocorrelation_range_m(addresses.lonlat_n2[seen_n], t_n[seen_n]).range_m


def _limit(p_n: np.ndarray, rate: float) -> float:
    """Return the largest p that is flagged, -1 where none is (Benjamini and Hochberg's step up)."""
    count = np.isfinite(p_n).sum()
    ordered = np.sort(p_n[p_n <= rate])  # none above the rate is flagged
    below = np.flatnonzero(ordered <= rate * np.arange(1, len(ordered) + 1) / max(count, 1))
    return float(ordered[below[-1]]) if below.size else -1.0


def _flags(p_n: np.ndarray, t_n: np.ndarray, rate: float, mosaic: _Mosaic) -> tuple[int, int]:
    """Count the flagged cells, and those of the largest cluster of one sign whose cells share a side."""
    flagged_n = p_n <= _limit(p_n, rate)
    if not flagged_n.any():
        return 0, 0
    largest = 0
    for sign in (-1, 1):
        mask_yx = np.zeros(mosaic.shape, bool)
        mask_yx[mosaic.y_n, mosaic.x_n] = flagged_n & (np.sign(t_n) == sign)
        largest = max(largest, int(np.bincount(ndimage.label(mask_yx)[0].ravel())[1:].max(initial=0)))
    return int(flagged_n.sum()), largest
