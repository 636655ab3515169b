"""Measure what a series does besides its season: drift over years, and recovery after an event; arrays in, values out.

Years are the replicates: dates of one year share its weather. Drift is judged by one number a year, recovery by how
far means of a few dates lie apart between years.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from geoelle.errors import ProbeError
from geoelle.seasonal import (
    LEVEL,
    SEASON_DAYS,
    YEAR_DAYS,
    Season,
    deseasonalised,
    mean_squares,
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
    season: Season, before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray], event_day: float
) -> Recovery:
    """Return the relative recovery after an event, from (days, values) before and after it, sorted by day, finite.

    index = 1 - current / initial, of mean departures from the season before: the first three clear dates within 180
    days after the event, and the last three of the same time of year, at most 45 days of it apart (after Kennedy et al.
    2012, doi:10.1016/j.rse.2011.09.024): cut forest departs less when nothing has leaves. The 90% interval is
    Fieller's (1954, J. R. Stat. Soc. B 16, 175) of a ratio of two means that share the error of the curve.

    Raises: ProbeError (too few dates, or an initial departure inside the band, or no larger than such means differ by
    between years: nothing to recover from).
    """
    days_n, values_n = after
    first, last = _groups(days_n, event_day)
    off_n = values_n - season.expected(days_n)
    if np.isnan(off_n[np.concatenate([first, last])]).any():
        raise ProbeError("no recovery can be told: the first or the last dates lie in a season not seen before")
    initial, current = (float(off_n[group].mean()) for group in (first, last))
    half = float(season.half_width(days_n[first]).mean())
    if abs(initial) <= half:
        raise ProbeError(
            f"nothing to recover from: the departure after the event ({initial:+.3g}) is inside the band (±{half:.3g})"
        )
    low, high = _interval(season, before, (initial, days_n[first]), (current, days_n[last]))
    return Recovery(index=1 - current / initial, low=low, high=high, initial=initial, current=current)


def _groups(days_n: np.ndarray, event_day: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which dates are the first ones after the event, and which the last ones of that time of year."""
    soon_n = days_n <= event_day + AFTER_DAYS
    first = np.flatnonzero(soon_n)[:FIRST]
    middle = float(days_n[first].mean()) if len(first) else event_day
    last = np.flatnonzero(~soon_n & (season_gap(days_n, middle) <= SEASON_DAYS))[-FIRST:]
    if min(len(first), len(last)) < FIRST:
        raise ProbeError(
            f"no recovery can be told: {len(first)} clear dates in the {AFTER_DAYS:g} days after the event and "
            f"{len(last)} later at the same time of year ({FIRST} of each are needed)"
        )
    return first, last


def _interval(
    season: Season, before: tuple[np.ndarray, np.ndarray], first: tuple[float, np.ndarray],
    last: tuple[float, np.ndarray],
) -> tuple[float, float]:  # fmt: skip
    """Return the interval of the index from two mean departures, each with its days.

    The spread is that of the years before, at least that of their dates, hazy ones included: means of three are not
    robust. Its degrees of freedom are those of few years, so a short history gives a wide interval. It holds 87 to 93%
    of large departures; of small ones, after three years that differ more than dates, some 85% (decision 26).
    """
    (initial, first_n), (current, last_n) = first, last
    days_n, values_n = before
    off_n = values_n - season.expected(days_n)
    known = np.isfinite(off_n)
    years = mean_squares(off_n[known], years_of(days_n)[known], len(season.coefficients_p))
    years = replace(years, between=max(years.between, years.within))
    spread, dof = years.ahead(FIRST)
    t = float(stats.t.ppf(0.5 + LEVEL / 2, dof))
    # Ratios x that hold (current - x initial)² <= t² var(current - x initial), that is a x² - 2 b x + c <= 0.
    a = initial**2 - t**2 * (spread + season.shared(first_n, first_n))
    b = initial * current - t**2 * (years.variance / years.years + season.shared(first_n, last_n))
    c = current**2 - t**2 * (spread + season.shared(last_n, last_n))
    if a <= 0:
        raise ProbeError(
            f"nothing to recover from: the departure after the event ({initial:+.3g}) is no larger than means of "
            f"{FIRST} dates differ by between {years.years} years (±{math.sqrt(initial**2 - a):.3g})"
        )
    root = math.sqrt(b**2 - a * c)
    return float(1 - (b + root) / a), float(1 - (b - root) / a)
