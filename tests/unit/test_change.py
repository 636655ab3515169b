"""A change is told from chance: uniform p where nothing happens, false discoveries held where something does."""

import numpy as np
import pytest
from scipy import stats

from geoelle.change import false_alarms, fit_null, q_values
from geoelle.errors import ProbeError

CELLS = 4_000


def ground(rng: np.random.Generator, years: int, dof: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return levels and spreads of cells, spreads drawn as in the model, and the years, each shifted as a whole."""
    level_n = 3 * rng.normal(size=CELLS)
    sd_n = np.sqrt(dof * 0.5 / rng.chisquare(dof, CELLS))
    years_rn = level_n + sd_n * rng.normal(size=(years, CELLS)) + rng.normal(size=(years, 1))
    return level_n, sd_n, years_rn


@pytest.mark.parametrize("years", [2, 3, 6])
def test_p_is_uniform_where_nothing_changes(years: int) -> None:
    rng = np.random.default_rng(years)
    level_n, sd_n, years_rn = ground(rng, years)
    tested = fit_null(years_rn).test(level_n + sd_n * rng.normal(size=CELLS) + 5)
    assert stats.kstest(tested.p_n, "uniform").statistic < 0.03
    assert (q_values(tested.p_n) <= 0.1).mean() < 0.002


@pytest.mark.parametrize("years", [2, 4])
def test_p_of_a_difference_is_uniform_and_blind_to_what_was_before(years: int) -> None:
    rng = np.random.default_rng(years)
    level_n, sd_n, years_rn = ground(rng, years)
    moved_n = level_n + 9 * (rng.random(CELLS) < 0.3)  # changed since the history, and not between the two maps
    before_n, after_n = (moved_n + sd_n * rng.normal(size=CELLS) + shift for shift in (0, 4))
    tested = fit_null(years_rn).test(after_n, before_n)
    assert stats.kstest(tested.p_n, "uniform").statistic < 0.03
    assert tested.shift == pytest.approx(4, abs=0.1)


def test_a_median_and_mad_with_a_normal_tail_would_not_be() -> None:
    rng = np.random.default_rng(1)
    level_n, sd_n, years_rn = ground(rng, 3)
    new_n = level_n + sd_n * rng.normal(size=CELLS)
    middle_n = np.median(years_rn, axis=0)
    mad_n = 1.4826 * np.median(np.abs(years_rn - middle_n), axis=0)
    naive = 2 * stats.norm.sf(np.abs(new_n - middle_n) / mad_n)
    assert (naive < 0.05).mean() > 0.3
    assert abs((fit_null(years_rn).test(new_n).p_n < 0.05).mean() - 0.05) < 0.015


def test_a_shift_of_the_whole_map_is_a_number_not_a_change() -> None:
    rng = np.random.default_rng(2)
    level_n, sd_n, years_rn = ground(rng, 4)
    new_n = level_n + sd_n * rng.normal(size=CELLS)
    null = fit_null(years_rn)
    as_it_is, shifted = null.test(new_n), null.test(new_n + 7)
    np.testing.assert_allclose(shifted.t_n, as_it_is.t_n, atol=1e-9)
    assert shifted.shift - as_it_is.shift == pytest.approx(7)
    assert np.median(null.shifts_r) == pytest.approx(0, abs=1e-9)
    moved = fit_null(years_rn + np.array([0, 0, 9, 0])[:, None])
    np.testing.assert_allclose(moved.sd_n, null.sd_n, rtol=1e-3)
    assert moved.shifts_r[2] - null.shifts_r[2] > 5


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_false_discoveries_stay_at_the_rate_asked_for(share: float) -> None:
    rng = np.random.default_rng(3)
    rates, power = [], []
    for _ in range(10):
        level_n, sd_n, years_rn = ground(rng, 5, dof=20)
        changed_n = rng.random(CELLS) < share
        sign_n = np.where(rng.random(CELLS) < 0.5, -1, 1)
        new_n = level_n + sd_n * rng.normal(size=CELLS) + 6 * sd_n * sign_n * changed_n
        flagged_n = q_values(fit_null(years_rn).test(new_n).p_n) <= 0.1
        rates.append((flagged_n & ~changed_n).sum() / max(flagged_n.sum(), 1))
        power.append((flagged_n & changed_n).sum() / changed_n.sum())
    assert np.mean(rates) < 0.1 + 2 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(power) > 0.5


def test_the_prior_is_found_again() -> None:
    prior = fit_null(ground(np.random.default_rng(4), 6, dof=8)[2]).prior
    assert prior.dof == pytest.approx(8, rel=0.25) and prior.variance == pytest.approx(0.5, rel=0.1)


def test_cells_alike_have_a_prior_of_infinite_weight() -> None:
    null = fit_null(np.random.default_rng(5).normal(size=(5, CELLS)))
    assert null.prior.dof > 50
    assert null.sd_n.std() < 0.02 and null.sd_n.mean() == pytest.approx(1, rel=0.03)


def test_shrinkage_is_the_weighted_mean_of_variances() -> None:
    rng = np.random.default_rng(6)
    years_rn = ground(rng, 3)[2]
    null = fit_null(years_rn)
    own_n = (years_rn - null.shifts_r[:, None]).var(axis=0, ddof=1)
    weighed = (null.prior.dof * null.prior.variance + 2 * own_n) / (null.prior.dof + 2)
    np.testing.assert_allclose(null.sd_n**2, weighed, rtol=1e-9)


def test_cells_with_gaps_have_the_degrees_of_freedom_they_earned() -> None:
    rng = np.random.default_rng(7)
    level_n, sd_n, years_rn = ground(rng, 4)
    years_rn[2:, :100] = np.nan
    years_rn[1:, 100:150] = np.nan
    null = fit_null(years_rn)
    tested = null.test(level_n + sd_n * rng.normal(size=CELLS))
    assert np.isnan(tested.p_n[100:150]).all() and np.isfinite(tested.p_n[:100]).all()
    assert tested.dof_n[0] == null.prior.dof + 1 and tested.dof_n[-1] == null.prior.dof + 3
    assert np.isnan(q_values(tested.p_n)[100:150]).all()


def test_years_without_a_change_raise_few_alarms() -> None:
    p_rn, share_r = false_alarms(ground(np.random.default_rng(8), 6)[2], 0.1)
    assert p_rn.shape == (6, CELLS) and share_r.max() < 0.002
    assert stats.kstest(p_rn.ravel(), "uniform").statistic < 0.02


def test_q_is_the_step_up_of_benjamini_and_hochberg() -> None:
    p_n = np.array([0.01, 0.04, 0.03, np.nan, 0.005])
    np.testing.assert_allclose(q_values(p_n), [0.02, 0.04, 0.04, np.nan, 0.02])
    assert np.isnan(q_values(np.full(3, np.nan))).all()


@pytest.mark.parametrize(
    ("years", "match"),
    [
        (np.zeros((1, 50)), "earlier maps, not 1"),
        (np.full((3, 50), np.nan), "cells seen in two earlier maps, not 0"),
        (np.random.default_rng(0).normal(size=(3, 5)), "not 5"),
        (np.tile(np.arange(50.0), (3, 1)), "different dates"),
    ],
)
def test_a_history_that_says_nothing_is_refused(years: np.ndarray, match: str) -> None:
    with pytest.raises(ProbeError, match=match):
        fit_null(years)


def test_a_new_map_that_no_cell_shares_is_refused() -> None:
    null = fit_null(np.random.default_rng(9).normal(size=(3, 50)))
    with pytest.raises(ProbeError, match="both a history and a new value"):
        null.test(np.full(50, np.nan))


def test_a_date_that_differs_everywhere_more_than_the_years_is_deflated_and_a_calm_one_is_not_inflated() -> None:
    rng = np.random.default_rng(0)
    null = fit_null(rng.normal(size=(4, 5000)))
    rough, calm = null.test(2 * rng.normal(size=5000)), null.test(0.5 * rng.normal(size=5000))
    assert rough.inflation == pytest.approx(np.sqrt((4 + 0.25) / 1.25), rel=0.1) and calm.inflation == 1
    assert (rough.p_n < 0.05).mean() == pytest.approx(0.05, abs=0.015) and (calm.p_n < 0.05).mean() < 0.02
    burnt_n = 2 * rng.normal(size=5000) + 40 * (np.arange(5000) % 10 == 0)
    assert null.test(burnt_n).inflation < 1.4 * rough.inflation  # a tenth of the map does not hide itself


def test_of_what_can_only_grow_the_larger_is_tested_alone() -> None:
    rng = np.random.default_rng(21)
    years_rn, new_n = rng.normal(size=(5, 4000)), rng.normal(size=4000)
    tested = fit_null(years_rn).test(new_n)
    np.testing.assert_allclose(tested.larger_p_n, np.where(tested.t_n > 0, tested.p_n / 2, 1 - tested.p_n / 2))
    assert (tested.larger_p_n < 0.05).mean() == pytest.approx(0.05, abs=0.012)
    p_rn, _ = false_alarms(years_rn, 0.1, larger=True)
    assert (p_rn < 0.05).mean() == pytest.approx(0.05, abs=0.012)


def test_a_year_that_cannot_be_judged_by_the_others_is_left_out() -> None:
    years_rn = np.random.default_rng(22).normal(size=(5, 300))
    years_rn[2] = np.nan
    p_kn, shares_k = false_alarms(years_rn, 0.1)
    assert p_kn.shape == (4, 300) and len(shares_k) == 4
    p_kn, shares_k = false_alarms(np.full((3, 300), np.nan), 0.1)
    assert p_kn.shape == (0, 300) and len(shares_k) == 0
