"""The season and its band: near the truth and near the nominal coverage on simulated years, or a reason in words."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from geoelle import seasonal
from geoelle.errors import ProbeError
from geoelle.seasonal import YEAR_DAYS, fit_season, lacking, left_out, years_of
from seasons import FIRST_DAY, simulate, truth


@pytest.mark.parametrize("year_sd", [0.0, 0.1, 0.2])
def test_a_new_year_lies_in_the_band_as_often_as_it_says(year_sd: float) -> None:
    held, measured = [], []
    for seed in range(120):
        days_n, values_n = simulate(seed, year_sd=year_sd)
        new = years_of(days_n) >= 2021
        season = fit_season(days_n[~new], values_n[~new])
        off = np.abs(values_n[new] - season.expected(days_n[new]))
        held.append((off <= season.half_width(days_n[new])).mean())
        measured.append(left_out(days_n[~new], values_n[~new]).share)
    assert np.mean(held) == pytest.approx(0.9, abs=0.03 if year_sd == 0 else 0.06)
    assert np.mean(measured) == pytest.approx(np.mean(held), abs=0.04)


def test_the_curve_and_both_spreads_are_found() -> None:
    fits = [fit_season(*simulate(seed, years=12, dates=10, year_sd=0.2)) for seed in range(30)]
    assert np.mean([fit.date_sd for fit in fits]) == pytest.approx(0.1, rel=0.15)
    assert np.mean([fit.year_sd for fit in fits]) == pytest.approx(0.2, rel=0.15)
    days_n, values_n = simulate(1, years=10, noise=0.02, semi=0.2)
    season = fit_season(days_n, values_n)
    assert season.harmonics == 2 and season.dof == 75 and season.years >= 10
    np.testing.assert_allclose(season.expected(days_n), truth(days_n, 0.2), atol=0.02)


def test_haze_does_not_bend_the_curve() -> None:
    days_n, values_n = simulate(2)
    hazy = values_n.copy()
    hazy[::10] += 2.0
    season = fit_season(days_n, hazy)
    np.testing.assert_allclose(season.expected(days_n), truth(days_n), atol=0.15)
    assert (season.z(days_n, hazy)[::10] > 3).all()


def test_z_and_the_band_agree() -> None:
    days_n, values_n = simulate(3, years=3)
    season = fit_season(days_n, values_n)
    edge = season.expected(days_n) + season.half_width(days_n)
    np.testing.assert_allclose(season.z(days_n, edge), 1.6448536, rtol=1e-6)
    assert np.isfinite(season.z(days_n, values_n + 1e6)).all()


def test_the_order_of_dates_does_not_matter() -> None:
    days_n, values_n = simulate(4)
    shuffled = np.random.default_rng(0).permutation(len(days_n))
    one, other = fit_season(days_n, values_n), fit_season(days_n[shuffled], values_n[shuffled])
    np.testing.assert_allclose(one.coefficients_p, other.coefficients_p, rtol=1e-6)
    assert one.sd == pytest.approx(other.sd, rel=1e-6)


def test_a_season_without_dates_is_not_judged_and_gets_no_second_wave() -> None:
    days_n, values_n = simulate(5, years=8, dates=12)
    summer = np.abs(days_n % YEAR_DAYS - 182) < 60
    season = fit_season(days_n[summer], values_n[summer])
    assert season.harmonics == 1
    winter = np.array([FIRST_DAY - FIRST_DAY % YEAR_DAYS + 5.0])
    assert np.isnan([season.expected(winter), season.half_width(winter), season.z(winter, np.array([-3.0]))]).all()
    assert np.isfinite(season.expected(days_n[summer])).all()


def test_what_is_too_little_is_told() -> None:
    days_n, values_n = simulate(6, years=1, dates=20)
    same_year = years_of(days_n) == 2016
    assert "of 1 years are too few" in lacking(days_n[same_year], values_n[same_year])
    assert lacking(np.empty(0), np.empty(0)).startswith("0 dates")
    days_n, _ = simulate(7)
    for constant, told in ((np.full(len(days_n), -3.0), "the same value"), (truth(days_n), "do not scatter")):
        with pytest.raises(ProbeError, match=told):
            fit_season(days_n, constant)
    two_years, values_n = simulate(8, years=2, dates=8)
    assert left_out(two_years[years_of(two_years) < 2018], values_n[years_of(two_years) < 2018]) is None


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(seasonal).failed == 0
