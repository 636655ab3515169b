"""Compare how much of the ground two dates show: cells clear on both, pixels, dates they come from, limits of cloud.

Few cells clear on both dates, or a mosaic beside a single date, make no change unreadable: these are warnings. The
thresholds are stated here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from geoelle.delta import Scored
from geoelle.guards import Check
from geoelle.lattice import Lattice
from geoelle.patches import keys_of

__all__ = ["CLEAR_WARN", "DATES_WARN", "VALID_WARN", "Ground", "compare_ground"]

CLEAR_WARN = 0.5
"""Share of the cells that is clear on both dates, below which less than half of the map can be read."""
VALID_WARN = 0.1
"""Difference of the median share of valid pixels: masked pixels are filled, which the model sees."""
DATES_WARN = 2.0
"""Ratio of the numbers of dates: a mosaic of several is another product than one date."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """What one date shows: cells by lattice, valid fractions of its clear chips, (m,), and its cloud limit, percent."""

    cells: Mapping[Lattice, Scored]
    valid_m: np.ndarray
    cloud_max: float | None

    @property
    def days(self) -> int:
        """Return how many days the clear cells were taken from; 0 where none has a time."""
        days = [cells.days_n[_clear(cells) & np.isfinite(cells.days_n)] for cells in self.cells.values()]
        return len(np.unique(np.floor(np.concatenate([np.empty(0), *days]))))


def compare_ground(before: Ground, after: Ground) -> tuple[Check, ...]:
    """Compare two dates over the lattices that they share."""
    return (_clear_ground(before, after), _valid_pixels(before, after), _dates(before, after), _clouds(before, after))


def _clear_ground(before: Ground, after: Ground) -> Check:
    asked = both = 0
    clear = [0, 0]
    for lattice in before.cells.keys() & after.cells.keys():
        tables = before.cells[lattice], after.cells[lattice]
        seen = [keys_of(cells.addresses)[_clear(cells)] for cells in tables]
        asked += len(np.union1d(*(keys_of(cells.addresses) for cells in tables)))
        both += len(np.intersect1d(*seen))
        clear = [total + len(keys) for total, keys in zip(clear, seen, strict=True)]
    shares, share = [f"{n / max(asked, 1):.0%}" for n in clear], both / max(asked, 1)
    is_low = share < CLEAR_WARN
    limit = f", less than {CLEAR_WARN:.0%}" * is_low
    return Check(what="clear ground", before=shares[0], after=shares[1], verdict="warn" if is_low else "same",
                 reason=f"{share:.0%} of {asked:,} cells are clear on both dates{limit}")  # fmt: skip


def _valid_pixels(before: Ground, after: Ground) -> Check:
    medians = [float(np.median(side.valid_m)) if len(side.valid_m) else None for side in (before, after)]
    told = ["" if median is None else f"{median:.0%}" for median in medians]
    if None in medians:
        return Check(what="valid pixels", before=told[0], after=told[1], verdict="not recorded")
    is_far = abs(medians[0] - medians[1]) > VALID_WARN
    reason = f"of the middle chip; more than {VALID_WARN:.0%} apart, and masked pixels are filled" if is_far else ""
    return Check(what="valid pixels", before=told[0], after=told[1], verdict="warn" if is_far else "same",
                 reason=reason)  # fmt: skip


def _dates(before: Ground, after: Ground) -> Check:
    counts = before.days, after.days
    told = [str(count) if count else "" for count in counts]
    if not all(counts):
        return Check(what="dates used", before=told[0], after=told[1], verdict="not recorded")
    is_far = max(counts) >= DATES_WARN * min(counts)
    reason = "cells of one side are put together of more dates, which may differ along their seams" if is_far else ""
    return Check(what="dates used", before=told[0], after=told[1], verdict="warn" if is_far else "same", reason=reason)


def _clouds(before: Ground, after: Ground) -> Check:
    limits = [side.cloud_max for side in (before, after)]
    told = ["" if limit is None else f"{limit:g}%" for limit in limits]
    verdict = "not recorded" if None in limits else "same" if limits[0] == limits[1] else "warn"
    reason = "dates were chosen by two limits" if verdict == "warn" else ""
    return Check(what="cloud limit", before=told[0], after=told[1], verdict=verdict, reason=reason)


def _clear(cells: Scored) -> np.ndarray:
    return np.isfinite(cells.difficulty_n)
