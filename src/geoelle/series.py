"""A place through time: its difficulty on every clear date, and what its season, drift and recovery are.

Numbers are on the linear scale of the probe. The fit of the season sees the dates before the event, or all of them
where none is given, and of these only dates on which at least half of the cells are inside the area of applicability:
as for a change, what is compared with is gated and what is looked for is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np

from geoelle.chips import MIN_VALID
from geoelle.drift import Drift, Recovery, drift_of, recovery_of
from geoelle.errors import ProbeError
from geoelle.lattice import Addresses
from geoelle.seasonal import LEVEL, Coverage, Season, fit_season, left_out
from geoelle.series_dates import DateScores

__all__ = ["INSIDE", "Observed", "Series", "judge", "observe"]

T = TypeVar("T")
INSIDE = 0.5
"""Share of the cells of a place that are inside the area of applicability on a date that the fit sees."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """What was seen of a place: a row a clear date, by day, all float64 (n,).

    `days_n` are days since 1970-01-01; `difficulty_n` and `complexity_n` means over the clear cells; `inside_n` the
    share of these inside the area of applicability; `clear_n` the share of valid pixels over all cells; `cells_n` how
    many are clear. `complexity_n` and `inside_n` are None where the probe cannot tell. `looks` counts the dates read.
    """

    name: str
    days_n: np.ndarray
    difficulty_n: np.ndarray
    clear_n: np.ndarray
    cells_n: np.ndarray
    items: tuple[str, ...]
    looks: int
    complexity_n: np.ndarray | None = None
    inside_n: np.ndarray | None = None

    @classmethod
    def of_values(
        cls, name: str, days_n: np.ndarray, difficulty_n: np.ndarray, complexity_n: np.ndarray | None = None,
        inside_n: np.ndarray | None = None,
    ) -> Self:  # fmt: skip
        """Take plain values in any order as those of one cell; a date without a finite difficulty is no clear one.

        Raises: ProbeError (two values of one day).
        """
        known = np.flatnonzero(np.isfinite(difficulty_n) & np.isfinite(days_n))
        order = known[np.argsort(np.asarray(days_n)[known], kind="stable")]
        one, given = np.ones(len(order)), (days_n, difficulty_n, complexity_n, inside_n)
        days, difficulty, complexity, inside = (None if v is None else np.asarray(v, np.float64)[order] for v in given)
        return _checked(cls(
            name=name, days_n=days, difficulty_n=difficulty, complexity_n=complexity, inside_n=inside, clear_n=one,
            cells_n=one, items=("",) * len(order), looks=len(difficulty_n),
        ))  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """A place through time, judged. What is None has its reason in `missing`, by name of the field."""

    observed: Observed
    event_day: float | None
    fitted_n: np.ndarray
    season: Season | None = None
    coverage: Coverage | None = None
    drift: Drift | None = None
    complexity_drift: Drift | None = None
    recovery: Recovery | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def expected_n(self) -> np.ndarray:
        """Return the season on every date, NaN without one."""
        return self._of_season(lambda season, days_n: season.expected(days_n))

    @cached_property
    def half_n(self) -> np.ndarray:
        """Return half the width of the band on every date."""
        return self._of_season(lambda season, days_n: season.half_width(days_n))

    @cached_property
    def z_n(self) -> np.ndarray:
        """Return the departure of every date in standard deviations."""
        return self._of_season(lambda season, days_n: season.z(days_n, self.observed.difficulty_n))

    @property
    def departure_n(self) -> np.ndarray:
        """Return difficulty less what the season expects."""
        return self.observed.difficulty_n - self.expected_n

    @property
    def departs_n(self) -> np.ndarray:
        """Return which dates lie outside of the band, bool."""
        return np.abs(self.departure_n) > self.half_n

    @property
    def counts(self) -> dict[str, int]:
        """Count dates: read, clear, in the fit, left out of it for being outside, outside of the band."""
        before = self.observed.days_n < (np.inf if self.event_day is None else self.event_day)
        return {
            "looks": self.observed.looks, "clear": len(self.observed.days_n), "fitted": int(self.fitted_n.sum()),
            "gated": int((before & ~self.fitted_n).sum()), "departures": int(self.departs_n.sum()),
            "departures_after": int((self.departs_n & ~before).sum()),
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return what series.json says of the place."""
        season, held = self.season, self.coverage
        words = None if season is None else {
            "harmonics": season.harmonics, "dates": season.dates, "years": season.years, "date_sd": season.date_sd,
            "year_sd": season.year_sd, "sd": season.sd, "level": LEVEL,
            "coverage": None if held is None else asdict(held),
        }  # fmt: skip
        rest = {name: getattr(self, name) for name in ("drift", "complexity_drift", "recovery")}
        return {
            "place": self.observed.name, "counts": self.counts, "season": words,
            **{name: None if value is None else asdict(value) for name, value in rest.items()},
            "missing": dict(self.missing),
        }  # fmt: skip

    def _of_season(self, of: Callable[[Season, np.ndarray], np.ndarray]) -> np.ndarray:
        days_n = self.observed.days_n
        return np.full(len(days_n), np.nan) if self.season is None else of(self.season, days_n)


def observe(name: str, cells: Addresses, dates: Sequence[DateScores]) -> Observed:
    """Gather a place from the scores of dates, in any order; dates of which it has no cell do not count as looks.

    A date is clear where at least 90% of the cells of the place are, so that means of two dates are of the same ground.

    Raises: AreaError (another lattice), ProbeError (two dates of one day).
    """
    rows: list[dict[str, Any]] = []
    looks = 0
    for date in dates:
        scored, clear_n, items = date.at(cells)
        looks += bool(np.isfinite(clear_n).any())
        seen = np.isfinite(scored.difficulty_n)
        if seen.mean() < MIN_VALID:
            continue
        parts = {"difficulty_n": scored.difficulty_n, "complexity_n": scored.complexity_n, "inside_n": scored.inside_n}
        means = {part: None if v is None else float(v[seen].mean()) for part, v in parts.items()}
        rows.append(means | {
            "days_n": float(np.median(scored.days_n[seen])), "clear_n": float(np.nanmean(clear_n)),
            "cells_n": float(seen.sum()), "items": ";".join(items),
        })  # fmt: skip
    rows.sort(key=lambda row: row["days_n"])
    names = ("days_n", "difficulty_n", "complexity_n", "inside_n", "clear_n", "cells_n")
    columns = {part: [row[part] for row in rows] for part in names}
    arrays = {part: None if None in values else np.array(values, np.float64) for part, values in columns.items()}
    return _checked(Observed(name=name, items=tuple(row["items"] for row in rows), looks=looks, **arrays))


def judge(observed: Observed, event_day: float | None = None) -> Series:
    """Fit season and drift to the dates before the event (all of them where it is None), and the recovery after it.

    What cannot be told is None, with the reason in words. The drift of complexity is beside that of difficulty: where
    both drift alike, brightness, haze or the sensor did, not the ground as the model sees it.
    """
    days_n, values_n = observed.days_n, observed.difficulty_n
    fitted_n = np.ones(len(days_n), bool) if event_day is None else days_n < event_day
    before_n = fitted_n.copy()
    if observed.inside_n is not None:
        fitted_n &= observed.inside_n >= INSIDE
    told: dict[str, str] = {} if len(days_n) else {"season": f"none of {observed.looks} dates has a clear look"}
    season = None if told else _tried(told, "season", lambda: fit_season(days_n[fitted_n], values_n[fitted_n]))
    if season is None:
        return Series(observed=observed, event_day=event_day, fitted_n=fitted_n, missing=told)
    before = days_n[fitted_n], values_n[fitted_n]
    coverage = left_out(*before)
    if coverage is None:
        told["coverage"] = f"no year of {season.years} can be left out, so what the band covers was not measured"
    pixels = None if observed.complexity_n is None else (days_n[fitted_n], observed.complexity_n[fitted_n])
    recovery = None
    if event_day is not None:
        after = days_n[~before_n], values_n[~before_n]
        recovery = _tried(told, "recovery", lambda: recovery_of(season, before, after, event_day))
    return Series(
        observed=observed, event_day=event_day, fitted_n=fitted_n, season=season, coverage=coverage,
        drift=_tried(told, "drift", lambda: drift_of(*before)),
        complexity_drift=None if pixels is None else _tried(told, "complexity_drift", lambda: drift_of(*pixels)),
        recovery=recovery, missing=told,
    )  # fmt: skip


def _tried(told: dict[str, str], name: str, make: Callable[[], T]) -> T | None:
    """Return what is made; where it cannot be, note why."""
    try:
        return make()
    except ProbeError as cause:
        told[name] = str(cause)
        return None


def _checked(observed: Observed) -> Observed:
    day_n = np.floor(observed.days_n)
    if (twice := np.flatnonzero(np.diff(day_n) == 0)).size:
        day = np.datetime64("1970-01-01") + int(day_n[twice[0]])
        raise ProbeError(
            f"place {observed.name!r} has two dates on {day}, which are not independent; give each day once"
        )
    return observed
