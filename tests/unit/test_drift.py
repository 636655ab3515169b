"""Drift and recovery: found where they are, and as often as stated where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from geoelle.drift import AFTER_DAYS, Recovery, drift_of, recovery_of
from geoelle.errors import ProbeError
from geoelle.seasonal import YEAR_DAYS, fit_season, years_of
from seasons import FIRST_DAY, simulate

EVENT = FIRST_DAY + 6 * YEAR_DAYS


def drifts(slope: float, year_sd: float, seeds: int) -> list[tuple[float, bool, bool]]:
    """Return slope, whether one was found, and whether the interval holds the truth, of simulated series."""
    found = []
    for seed in range(seeds):
        days_n, values_n = simulate(seed, years=7, year_sd=year_sd)
        values_n = values_n + slope * (days_n - FIRST_DAY) / YEAR_DAYS
        drift = drift_of(days_n, values_n)
        found.append((drift.per_year, drift.found, drift.low <= slope <= drift.high))
    return found


def test_no_drift_is_found_in_a_tenth_of_unchanged_series_at_most() -> None:
    found = drifts(0.0, 0.1, 200)
    assert np.mean([one[1] for one in found]) == pytest.approx(0.08, abs=0.05)
    assert np.mean([one[2] for one in found]) >= 0.88


def test_a_drift_is_found() -> None:
    found = drifts(0.1, 0.05, 40)
    assert np.median([one[0] for one in found]) == pytest.approx(0.1, rel=0.1)
    assert np.mean([one[1] for one in found]) > 0.95 and np.mean([one[2] for one in found]) > 0.8


def test_years_of_few_dates_do_not_count() -> None:
    days_n, values_n = simulate(1, years=3)
    alone = np.append(days_n, days_n[-1] + YEAR_DAYS)
    with pytest.raises(ProbeError, match=r"3 years have 3 dates or more \(4 are needed\)"):
        drift_of(alone[years_of(alone) < 2019], np.append(values_n, 0)[years_of(alone) < 2019])


def disturbed(seed: int, left: float, size: float = -1.0) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return (days, values) before and after a departure of which the share `left` stays after two years."""
    days_n, values_n = simulate(seed, years=10, dates=24, year_sd=0.03)
    since = (days_n - EVENT - AFTER_DAYS) / YEAR_DAYS
    values_n = values_n + np.where(days_n >= EVENT, size * np.interp(since, [0, 2], [1, left]), 0)
    after = days_n >= EVENT
    return (days_n[~after], values_n[~after]), (days_n[after], values_n[after])


def recovered(seed: int, left: float, size: float = -1.0) -> Recovery:
    before, after = disturbed(seed, left, size)
    return recovery_of(fit_season(*before), before, after, EVENT)


def test_recovery_is_the_truth_within_its_interval() -> None:
    found = [recovered(seed, 0.4) for seed in range(16)]
    assert np.mean([one.index for one in found]) == pytest.approx(0.6, abs=0.05)
    assert np.mean([one.low <= 0.6 <= one.high for one in found]) >= 0.75
    assert all(one.initial < -0.6 and one.low < one.index < one.high for one in found)
    assert recovered(1, 1.0).index == pytest.approx(0, abs=0.25)
    assert recovered(1, 0.0, size=1.0).index == pytest.approx(1, abs=0.25)
    assert recovered(2, 0.4) == recovered(2, 0.4)


def unrecovered(years: int, series: int) -> list[Recovery]:
    """Return what is said of departures that stay, where years differ twice as much as their dates."""
    found = []
    for seed in range(series):
        days_n, values_n = simulate(seed, years=years + 3, dates=12, year_sd=0.2)
        event = FIRST_DAY + years * YEAR_DAYS
        values_n = values_n - np.where(days_n >= event, 1.4, 0)
        sides = [(days_n[side], values_n[side]) for side in (days_n < event, days_n >= event)]
        try:
            found.append(recovery_of(fit_season(*sides[0]), *sides, event))
        except ProbeError as cause:
            assert "nothing to recover from" in str(cause) or "no recovery can be told" in str(cause)
    return found


@pytest.mark.parametrize("years", [3, 5])
def test_the_interval_holds_nine_of_ten_where_years_differ_more_than_dates(years: int) -> None:
    found = unrecovered(years, 250)
    assert len(found) > 200 and np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.9, abs=0.05)


def test_the_interval_is_wider_where_years_are_fewer() -> None:
    few, many = (np.median([one.high - one.low for one in unrecovered(years, 40)]) for years in (3, 10))
    assert few > 1.15 * many


def test_a_departure_no_larger_than_those_between_years_has_no_index() -> None:
    days_n, values_n = simulate(1, years=5, dates=12, year_sd=0.3)
    event = FIRST_DAY + 2 * YEAR_DAYS
    sides = [(days_n[side], values_n[side]) for side in (days_n < event, days_n >= event)]
    season = fit_season(*sides[0])
    later_n, later = sides[1]
    sides[1] = later_n, np.where(later_n <= event + AFTER_DAYS, season.expected(later_n) + 0.6, later)
    with pytest.raises(ProbeError, match=r"is no larger than means of 3 dates differ by between 2 years"):
        recovery_of(season, *sides, event)


@pytest.mark.parametrize("years", [1.6, 2.3, 3.0])
def test_what_departs_by_season_and_stays_so_does_not_recover_whenever_the_series_ends(years: float) -> None:
    """The departure is deepest in the season of the event, and next to nothing half a year later."""
    days_n, values_n = simulate(6, years=10, dates=24, year_sd=0.02)
    deep_n = 1 + 0.9 * np.cos(2 * np.pi * (days_n - EVENT - 30) / YEAR_DAYS)
    values_n = values_n - np.where(days_n >= EVENT, deep_n, 0)
    before, after = days_n < EVENT, (days_n >= EVENT) & (days_n <= EVENT + years * YEAR_DAYS)
    sides = [(days_n[side], values_n[side]) for side in (before, after)]
    found = recovery_of(fit_season(*sides[0]), *sides, EVENT)
    assert found.index == pytest.approx(0, abs=0.15)


def test_where_there_is_nothing_to_recover_from_it_is_said() -> None:
    with pytest.raises(ProbeError, match=r"nothing to recover from: .* is inside the band"):
        recovered(3, 0.4, size=0.05)


def test_too_few_dates_after_the_event_are_told() -> None:
    before, (days_n, values_n) = disturbed(4, 0.4)
    season = fit_season(*before)
    for few in (days_n <= EVENT + AFTER_DAYS, days_n > EVENT + AFTER_DAYS):
        with pytest.raises(ProbeError, match=r"\d+ clear dates in the 180 days after the event and \d+ later"):
            recovery_of(season, before, (days_n[few], values_n[few]), EVENT)


def test_dates_in_a_season_not_seen_before_are_no_measure() -> None:
    before, after = disturbed(5, 0.4)
    summer = np.abs(before[0] % YEAR_DAYS - 182) < 60
    seen = before[0][summer], before[1][summer]
    with pytest.raises(ProbeError, match="in a season not seen before"):
        recovery_of(fit_season(*seen), seen, after, EVENT)
