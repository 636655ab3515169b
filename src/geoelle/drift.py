"""Measure what a series does besides its season: drift over years, and recovery after an event; arrays in, values out.

Years are the replicates: dates of one year share its weather. Drift is judged by one number a year, recovery by
redrawing whole years.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from geoelle.errors import ProbeError
from geoelle.seasonal import (
    LEVEL,
    SEASON_DAYS,
    YEAR_DAYS,
    Season,
    deseasonalised,
    fit_season,
    lacking,
    season_gap,
    years_of,
)

__all__ = ["AFTER_DAYS", "FIRST", "Drift", "Recovery", "drift_of", "recovery_of"]

MIN_YEARS, YEAR_DATES = 4, 3
"""Years that a drift needs, and dates that a year needs to count. Four is the least from which on ranks can tell
anything at 90%."""
FIRST = 3
"""Dates whose mean is the departure after the event, and as many the last one."""
AFTER_DAYS = 180.0
"""The first dates lie in these days after the event, the last ones behind them, at the same time of year."""
_DRAWS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Change a year of what is left when the season is taken out, its interval, and the years it rests on."""

    per_year: float
    low: float
    high: float
    years: int

    @property
    def found(self) -> bool:
        """Say whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How much of a departure is gone: `index` = 1 - current / initial, with its interval.

    0 is none, 1 all of it; below 0 it grew, above 1 it went past where it was. `initial` and `current` are means of
    `FIRST` departures, of one time of year.
    """

    index: float
    low: float
    high: float
    initial: float
    current: float


def drift_of(days_n: np.ndarray, values_n: np.ndarray) -> Drift:
    """Return the median slope between years (Sen 1968, doi:10.1080/01621459.1968.10480934) and its 90% interval.

    The season is taken out of the values, which are finite. A year counts with its median, at its mean day, from three
    dates on. The interval is Sen's own, by Kendall's ranks of the years.

    Raises: ProbeError (fewer than four years, or no season).
    """
    rest_n, year_n = deseasonalised(days_n, values_n), years_of(days_n)
    years = [year for year in np.unique(year_n) if (year_n == year).sum() >= YEAR_DATES]
    if len(years) < MIN_YEARS:
        raise ProbeError(
            f"no drift can be told: {len(years)} years have {YEAR_DATES} dates or more ({MIN_YEARS} are needed)"
        )
    at = np.array([days_n[year_n == year].mean() for year in years]) / YEAR_DAYS
    medians = np.array([np.median(rest_n[year_n == year]) for year in years])
    slope, _, low, high = stats.theilslopes(medians, at, LEVEL)
    return Drift(per_year=float(slope), low=float(low), high=float(high), years=len(years))


def recovery_of(
    season: Season, before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray], event_day: float,
    *, seed: int = 0,
) -> Recovery:  # fmt: skip
    """Return the relative recovery after an event, from (days, values) before and after it, sorted by day, finite.

    index = 1 - current / initial, of mean departures from the season before: the first three clear dates within 180
    days after the event, and the last three of the same time of year, at most 45 days of it apart (after Kennedy et al.
    2012, doi:10.1016/j.rse.2011.09.024): cut forest departs less when nothing has leaves. The 90% interval redraws the
    years before, fits their season again, and adds to each mean what as many dates of one redrawn year are off.

    Raises: ProbeError (too few dates, or an initial departure inside the band: nothing to recover from).
    """
    days_n, values_n = after
    soon_n = days_n <= event_day + AFTER_DAYS
    first = np.flatnonzero(soon_n)[:FIRST]
    middle = float(days_n[first].mean()) if len(first) else event_day
    last = np.flatnonzero(~soon_n & (season_gap(days_n, middle) <= SEASON_DAYS))[-FIRST:]
    if min(len(first), len(last)) < FIRST:
        raise ProbeError(
            f"no recovery can be told: {len(first)} clear dates in the {AFTER_DAYS:g} days after the event and "
            f"{len(last)} later at the same time of year ({FIRST} of each are needed)"
        )
    groups = first, last
    if np.isnan(season.expected(days_n[np.concatenate(groups)])).any():
        raise ProbeError("no recovery can be told: the first or the last dates lie in a season not seen before")
    initial, current = (float((values_n - season.expected(days_n))[group].mean()) for group in groups)
    half = float(season.half_width(days_n[groups[0]]).mean())
    if abs(initial) <= half:
        raise ProbeError(
            f"nothing to recover from: the departure after the event ({initial:+.3g}) is inside the band (±{half:.3g})"
        )
    low, high = _interval(season, before, [(days_n[g], values_n[g]) for g in groups], seed)
    return Recovery(index=1 - current / initial, low=low, high=high, initial=initial, current=current)


def _interval(
    season: Season, before: tuple[np.ndarray, np.ndarray], groups: list[tuple[np.ndarray, np.ndarray]], seed: int
) -> tuple[float, float]:
    days_n, values_n = before
    rng, year_n = np.random.default_rng(seed), years_of(days_n)
    rows = [np.flatnonzero(year_n == year) for year in np.unique(year_n)]
    off_n = values_n - season.expected(days_n)
    found = []
    for _ in range(_DRAWS):
        drawn = [rows[i] for i in rng.integers(len(rows), size=len(rows))]
        again = _again(season, days_n[np.concatenate(drawn)], values_n[np.concatenate(drawn)])
        initial, current = (
            float((values - again.expected(days)).mean() + off_n[block].mean())
            for (days, values), block in zip(groups, _blocks(rng, rows), strict=True)
        )
        found.append(1 - current / initial)
    known = np.array(found)[np.isfinite(found)]
    return tuple(float(q) for q in np.quantile(known, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]))


def _blocks(rng: np.random.Generator, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Draw a year for each of two means, and `FIRST` of its dates."""
    return [rng.choice(rows[rng.integers(len(rows))], FIRST) for _ in range(2)]


def _again(season: Season, days_n: np.ndarray, values_n: np.ndarray) -> Season:
    """Fit redrawn dates again; where too few years were drawn, the curve stays."""
    return season if lacking(days_n, values_n) else fit_season(days_n, values_n)
