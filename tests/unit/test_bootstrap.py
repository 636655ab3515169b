"""Scores and their intervals: against scipy and scikit-learn, against rows really repeated, and coverage."""

import doctest

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import r2_score

from geoelle import bootstrap
from geoelle.bootstrap import METRICS, Bootstrap, Draws, Interval, reliability
from geoelle.errors import HoldoutError, ProbeError


def clusters(n_places=20, per=15, seed=0, shared=1.0):
    """y and a prediction that share an effect of the place and their own noise: true r is known."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(n_places), per)
    common, a, b = (rng.normal(size=n_places)[place] for _ in range(3))
    noise = rng.normal(size=(2, len(place)))
    return common + shared * a + noise[0], common + shared * b + noise[1], place


def test_the_data_itself_equals_scipy_and_scikit_learn():
    y, p, place = clusters()
    p = np.round(p, 1)
    draws = Bootstrap(place, 10).score(y, p)
    assert draws.r[0] == pytest.approx(pearsonr(y, p)[0], rel=1e-10)
    assert draws.r2[0] == pytest.approx(r2_score(y, p), rel=1e-10)
    assert draws.spearman[0] == pytest.approx(spearmanr(y, p)[0], rel=1e-10)
    within = np.mean([pearsonr(y[place == k], p[place == k])[0] for k in range(20)])
    assert draws.within[0] == pytest.approx(within, rel=1e-10)


def test_every_draw_equals_rows_really_repeated():
    y, p, place = clusters(6, 12)
    y, p = np.round(y, 1), np.round(p, 1)
    boot = Bootstrap(place, 25, seed=3)
    draws = boot.score(y, p)
    for d, counts in enumerate(boot.counts_dp.astype(int)):
        assert counts.sum() == 6
        rows = np.repeat(np.arange(len(y)), counts[place])
        assert draws.r[d] == pytest.approx(pearsonr(y[rows], p[rows])[0], rel=1e-9)
        assert draws.r2[d] == pytest.approx(r2_score(y[rows], p[rows]), rel=1e-9)
        assert draws.spearman[d] == pytest.approx(spearmanr(y[rows], p[rows])[0], rel=1e-9)
        each = [pearsonr(y[place == k], p[place == k])[0] for k in np.repeat(np.arange(6), counts)]
        assert draws.within[d] == pytest.approx(np.mean(each), rel=1e-9)


def test_intervals_of_places_cover_where_intervals_of_chips_do_not():
    truth = 1 / 3  # var 1 shared of var 3
    covered, naive = 0, 0
    for seed in range(120):
        y, p, place = clusters(40, 10, seed)
        interval = Interval.of(Bootstrap(place, 300, seed).r(y, p))
        covered += interval.low <= truth <= interval.high
        chips = Interval.of(Bootstrap(np.arange(len(y)), 300, seed).r(y, p))
        naive += chips.low <= truth <= chips.high
    assert 0.87 <= covered / 120 <= 0.99
    assert naive / 120 < 0.75


def test_differences_are_paired():
    y, p, place = clusters()
    close = p + 0.05 * np.random.default_rng(1).normal(size=len(p))
    boot = Bootstrap(place, 400)
    a, b = boot.score(y, p), boot.score(y, close)
    paired = a.minus(b).r
    width = a.metrics().r.high - a.metrics().r.low
    assert paired.high - paired.low < width / 10
    assert paired.value == pytest.approx(a.r[0] - b.r[0])
    same = Draws.mean([a, a])
    assert all(np.array_equal(getattr(same, m), getattr(a, m)) for m in METRICS)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.3, "beats"), (-0.1, 0.3, "ties with"), (-0.3, -0.1, "loses to")]
)
def test_verdicts(low, high, word):
    assert Interval(value=0.5 * (low + high), low=low, high=high).verdict == word


def test_undefined_is_said_and_not_zero():
    y, p, place = clusters()
    draws = Bootstrap(place, 20).score(y, np.full(len(y), 0.1 + 0.2))
    metrics = draws.metrics()
    assert all(np.isnan(getattr(metrics, name).value) for name in ("r", "spearman", "within"))
    assert metrics.r2.value <= 0
    assert (str(metrics.r), metrics.r.verdict) == ("-", "")
    few = Bootstrap(np.arange(len(y)) // 5, 20).score(y, p).metrics()
    assert np.isnan(few.within.value)


def test_scores_do_not_depend_on_offset_or_order():
    y, p, place = clusters()
    boot = Bootstrap(place, 50)
    base, far = boot.score(y, p), boot.score(y + 1e7, p + 1e7)
    order = np.random.default_rng(0).permutation(len(y))
    turned = Bootstrap(place[order], 50).score(y[order], p[order])
    for name in METRICS:
        np.testing.assert_allclose(getattr(far, name), getattr(base, name), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(getattr(turned, name), getattr(base, name), rtol=1e-9)


def test_partial_r_equals_residuals():
    y, p, place = clusters()
    given = y + p + np.random.default_rng(5).normal(size=len(y))
    design = np.stack([np.ones_like(given), given], 1)
    rest = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (y, p)]
    assert Bootstrap(place, 5).partial_r(y, p, given)[0] == pytest.approx(pearsonr(*rest)[0], rel=1e-9)


def test_one_place_has_no_interval():
    with pytest.raises(HoldoutError, match="1 found"):
        Bootstrap(np.zeros(30))


def test_reliability_bounds_what_can_be_predicted():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    halves = truth[:, None] + rng.normal(size=(20_000, 2))
    found = reliability(halves)
    assert found.r == pytest.approx(0.5, abs=0.02)
    assert found.spearman_brown == pytest.approx(2 / 3, abs=0.02)
    assert found.ceiling == pytest.approx(pearsonr(truth, halves.mean(1))[0], abs=0.01)
    assert reliability(np.vstack([halves, [[np.nan, 1]]])) == found
    with pytest.raises(ProbeError, match="2 chips"):
        reliability(halves[:2])


def test_the_printed_numbers_are_true():
    assert doctest.testmod(bootstrap).failed == 0


def test_a_mean_redraws_places_under_its_weights():
    place, values = np.repeat([0, 1, 2], [1, 4, 5]), np.r_[8.0, np.full(4, 2.0), np.full(5, 5.0)]
    bootstrap = Bootstrap(place, n_draws=400)
    plain, by_place = bootstrap.mean(values), bootstrap.mean(values, np.repeat([1, 1 / 4, 1 / 5], [1, 4, 5]))
    assert plain[0] == pytest.approx(values.mean()) and by_place[0] == pytest.approx(5)
    counts = bootstrap.counts_dp[1:]
    np.testing.assert_allclose(by_place[1:], counts @ [8, 2, 5] / 3)
    np.testing.assert_allclose(plain[1:], counts @ [8, 8, 25] / (counts @ [1, 4, 5]))
    alone = bootstrap.mean(values, place == 0)
    assert set(alone[np.isfinite(alone)]) == {8.0}
    assert np.isnan(alone[1:]).mean() == pytest.approx(8 / 27, abs=0.1)
