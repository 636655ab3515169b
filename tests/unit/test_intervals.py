"""Intervals: closed forms, MAPIE, and simulations in which chips are not exchangeable but places are."""

import numpy as np
import pytest
from mapie.regression import SplitConformalRegressor
from sklearn.linear_model import LinearRegression

from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import PlaceKFold
from geoelle.intervals import (
    CURVE,
    Coverage,
    HeldOut,
    Spread,
    calibrate,
    check_places,
    hold_out,
    place_quantile,
    place_weights,
)
from geoelle.ridge import Affine, cross_predict


def affine(d: int, value: float = 0.0, intercept: float = 0.0) -> Affine:
    return Affine(weights_d=np.full(d, value), intercept=intercept, mean_d=np.zeros(d), scale_d=np.ones(d), alpha=1.0)


# --- the threshold


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.37, 0.5])
@pytest.mark.parametrize("n", [20, 99, 100])
def test_one_chip_a_place_is_plain_split_conformal(n: int, alpha: float):
    scores = np.random.default_rng(n).exponential(size=n)
    (found,) = place_quantile(scores, np.arange(n), [alpha])
    assert found == np.sort(scores)[int(np.ceil((1 - alpha) * (n + 1) - 1e-9)) - 1]


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_one_chip_a_place_is_mapie(level: float):
    rng = np.random.default_rng(3)
    x, new = rng.normal(size=(250, 3)), rng.normal(size=(9, 3))
    y = x @ [1.0, -2.0, 0.5] + rng.normal(size=250)
    model = LinearRegression().fit(x[:100], y[:100])
    other = SplitConformalRegressor(model, confidence_level=level).conformalize(x[100:], y[100:])
    middle, ends = other.predict_interval(new)
    (half,) = place_quantile(np.abs(y[100:] - model.predict(x[100:])), np.arange(150), [1 - level])
    np.testing.assert_allclose(ends[:, :, 0].T, [middle - half, middle + half], rtol=1e-12)


def test_places_weigh_the_same_whatever_their_size():
    place = np.repeat(["large", "small", "third"], [98, 1, 1])
    scores = np.r_[np.linspace(0, 1, 98), 5.0, 7.0]
    # of mass 1/4 each and 1/4 at infinity: the large place fills a quarter, the small one half, the third 3/4
    assert place_quantile(scores, place, [0.75, 0.5, 0.25, 0.24]).tolist() == [1.0, 5.0, 7.0, np.inf]
    assert place_quantile(scores, place, [0.875])[0] == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(place_weights(place), np.r_[np.full(98, 1 / 98), 1, 1])


def test_order_and_ties_do_not_matter():
    rng = np.random.default_rng(0)
    scores, place = rng.integers(0, 5, 60).astype(float), rng.integers(0, 12, 60)
    turned = rng.permutation(60)
    np.testing.assert_array_equal(
        place_quantile(scores, place, CURVE), place_quantile(scores[turned], place[turned], CURVE)
    )


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ProbeError, match="3 scores"):
        place_quantile(np.array([1, np.nan, 2]), np.arange(3), [0.5])


@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (19, 0.05), (1, 0.5), (3, 0.25001 - 0.00002)])
def test_fewer_than_one_over_alpha_places_carry_no_interval(n: int, alpha: float):
    told = (
        rf"level {1 - alpha:g} fails for {n} blocks or places \({int(np.ceil(1 / alpha - 1e-9))} needed\); use smaller"
    )
    with pytest.raises(HoldoutError, match=told):
        check_places(n, alpha)


@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.2, 0.1, 0.05, 1 - 0.9])
def test_one_over_alpha_places_are_enough(alpha: float):
    check_places(round(1 / alpha), alpha)
    assert np.isfinite(place_quantile(np.ones(round(1 / alpha)), np.arange(round(1 / alpha)), [alpha])).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, np.nan])
def test_a_level_is_between_0_and_1(alpha: float):
    with pytest.raises(ProbeError, match="no interval has a level"):
        check_places(100, alpha)


def new_place_coverage(alpha: float, n_places: int, draws: int = 3_000) -> tuple[float, float]:
    """Return how often a chip of a new place is covered: by our threshold, and by one over chips as if independent."""
    rng, ours, naive = np.random.default_rng(1), [], []
    for _ in range(draws):
        sizes = rng.integers(1, 30, n_places)
        place = np.repeat(np.arange(n_places), sizes)
        scores = np.abs(rng.normal(size=n_places)[place] + 0.1 * rng.normal(size=len(place)))
        new = np.abs(rng.normal() + 0.1 * rng.normal())
        ours.append(new <= place_quantile(scores, place, [alpha])[0])
        naive.append(new <= place_quantile(scores, np.arange(len(place)), [alpha])[0])
    return float(np.mean(ours)), float(np.mean(naive))


def test_new_places_are_covered_where_chips_as_if_independent_are_not():
    ours, naive = new_place_coverage(0.1, 10)
    assert naive < 0.87
    assert 0.9 - 0.015 < ours < 0.9 + 1 / 11 + 0.015  # the guarantee, and the most that one more place can add


# --- the spread, out of fold


def ground(seed: int = 0, n_places: int = 40, size: int = 30, d: int = 6, block_sd: float = 0.0):
    """Return embeddings, a target whose noise grows with the second coordinate, and places."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(n_places), size)
    x = rng.normal(size=(len(place), d))
    noise = np.exp(-2 + 0.8 * x[:, 1])
    y = x[:, 0] + noise * (rng.normal(size=len(place)) + block_sd * rng.normal(size=n_places)[place])
    return x, y, place, noise


def test_the_spread_follows_the_noise():
    x, y, place, noise = ground()
    found = calibrate(x, y, cv=PlaceKFold(5), groups=place)
    assert np.corrcoef(np.log(found.sizes(x)), np.log(noise))[0, 1] > 0.95
    predicted = cross_predict(x, y, PlaceKFold(5), place, [found.embedding.alpha])
    np.testing.assert_allclose(found.residual_n, y - predicted)
    assert len(np.unique(found.score_n)) == len(y) and np.isfinite(found.score_n).all()


def test_the_spread_of_strange_ground_stays_within_what_was_seen():
    x, y, place, _ = ground()
    found = calibrate(x, y, cv=PlaceKFold(5), groups=place)
    far = np.array([[0, 1e6, 0, 0, 0, 0], [0, -1e6, 0, 0, 0, 0]])
    np.testing.assert_allclose(found.sizes(far), np.exp([found.high, found.low]))
    sizes = np.log(found.sizes(x))
    assert (sizes == found.high).mean() < 0.05 and (sizes == found.low).mean() < 0.05


def test_no_row_is_scored_by_a_fit_that_saw_its_place():
    x, y, place, _ = ground(n_places=10)
    before = calibrate(x, y, cv=PlaceKFold(10), groups=place, embedding=affine(6))
    changed = y.copy()
    changed[place == 3] += 50
    after = calibrate(x, changed, cv=PlaceKFold(10), groups=place, embedding=affine(6))
    at = place == 3
    np.testing.assert_allclose(after.residual_n[at], before.residual_n[at] + 50)


def test_intervals_of_a_probe():
    spread = Spread(log_spread=affine(2, 1.0), low=-1.0, high=2.0, alpha=0.1, threshold=3.0)
    half = spread.half_width(np.array([[0.5, 0.5], [9, 9], [-9, -9], [np.nan, 0]]))
    np.testing.assert_allclose(half, [3 * np.e, 3 * np.exp(2), 3 * np.exp(-1), np.nan])
    for wrong in ({"low": 3.0}, {"threshold": np.inf}, {"threshold": -1.0}, {"alpha": 0.0}, {"high": np.nan}):
        numbers = {"low": -1.0, "high": 2.0, "alpha": 0.1, "threshold": 3.0} | wrong
        with pytest.raises(ProbeError):
            Spread(log_spread=affine(2), **numbers)


def test_few_places_have_a_calibration_but_no_interval():
    x, y, place, _ = ground(n_places=9)
    found = calibrate(x, y, cv=PlaceKFold(3), groups=place)
    assert found.spread(0.2).threshold > 0
    with pytest.raises(HoldoutError, match="9 blocks or places"):
        found.spread(0.1)


# --- what is covered on ground held out


def test_the_level_is_kept_on_new_places():
    x, y, place, _ = ground(block_sd=1.0)
    held = hold_out(x, y, cv=PlaceKFold(5), groups=place)
    coverage = Coverage.of(held, y, place, alpha=0.1)
    assert [round(point.level, 2) for point in coverage.curve] == [round(1 - a, 2) for a in CURVE]
    for point in coverage.curve:
        assert point.places.low - 0.03 < point.level < point.places.high + 0.03
    widths = [point.width for point in coverage.curve]
    assert widths == sorted(widths, reverse=True)
    new, truth, *_ = ground(seed=9, n_places=400, block_sd=1.0)
    whole = calibrate(x, y, cv=PlaceKFold(5), groups=place)
    half = whole.spread(0.1).half_width(new)
    share = (np.abs(truth - whole.embedding(new)) <= half).mean()
    assert coverage.measured.places.low < share < coverage.measured.places.high
    assert [fold[1] for fold in coverage.folds] == [240] * 5 and [fold[2] for fold in coverage.folds] == [8] * 5
    assert np.mean([fold[3] for fold in coverage.folds]) == pytest.approx(coverage.measured.chips.value)


def test_coverage_is_counted_by_hand():
    place, y = np.array(["a", "a", "a", "b"]), np.array([0.0, 1.0, 5.0, 1.0])
    one = calibrate(*ground(n_places=12)[:2], cv=PlaceKFold(3), groups=ground(n_places=12)[2])
    (threshold,) = place_quantile(one.score_n, one.place_n, [0.3])
    spread = 2.0 / threshold  # covered within 2
    held = HeldOut(predicted_n=np.zeros(4), spread_n=np.full(4, spread), fold_n=np.zeros(4, int), learned=(one,))
    point = Coverage.of(held, y, place, alpha=0.3).measured
    assert point.chips.value == pytest.approx(3 / 4) and point.places.value == pytest.approx((2 / 3 + 1) / 2)
    assert point.width == pytest.approx(4)


def test_held_out_ground_teaches_nothing():
    x, y, place, _ = ground(n_places=12)
    folds = [test for _, test in PlaceKFold(4).split(x, groups=place)]
    before = hold_out(x, y, cv=PlaceKFold(4), groups=place)
    wild = y.copy()
    wild[folds[1]] = 1e3 * np.random.default_rng(0).normal(size=len(folds[1]))
    after = hold_out(x, wild, cv=PlaceKFold(4), groups=place)
    at = folds[1]
    np.testing.assert_array_equal(after.predicted_n[at], before.predicted_n[at])
    np.testing.assert_array_equal(after.spread_n[at], before.spread_n[at])
    np.testing.assert_array_equal(after.thresholds_ka([0.2])[1], before.thresholds_ka([0.2])[1])
    assert not np.allclose(after.predicted_n[folds[0]], before.predicted_n[folds[0]])


def test_a_level_that_the_folds_cannot_measure_is_left_out():
    x, y, place, _ = ground(n_places=10)
    coverage = Coverage.of(hold_out(x, y, cv=PlaceKFold(5), groups=place), y, place, alpha=0.1)
    assert coverage.measured is None and coverage.folds == ()  # 8 places to train on, 9 needed
    assert min(1 - point.level for point in coverage.curve) == pytest.approx(0.15)
    assert coverage.to_dict()["folds"] == []


# --- what cannot be done


def test_more_dimensions_than_chips():
    rng = np.random.default_rng(0)
    x, place = rng.normal(size=(60, 200)), np.repeat(np.arange(15), 4)
    held = hold_out(x, x[:, 0] + rng.normal(size=60), cv=PlaceKFold(3), groups=place)
    assert np.isfinite(held.spread_n).all()


@pytest.mark.parametrize("value", [0.0, -3.7, 1e9])
def test_a_constant_loss_has_no_interval(value: float):
    x, _, place, _ = ground(n_places=12)
    with pytest.raises(ProbeError, match="constant loss"):
        calibrate(x, np.full(len(x), value), cv=PlaceKFold(3), groups=place)


def test_a_loss_that_is_read_perfectly_has_one():
    x, _, place, _ = ground(n_places=12)
    found = calibrate(x, 2 * x[:, 0], cv=PlaceKFold(3), groups=place)
    assert np.isfinite(found.score_n).all() and found.spread(0.1).half_width(x).max() < 0.1


def test_nan_and_one_place_are_refused():
    x, y, place, _ = ground(n_places=12)
    with pytest.raises(HoldoutError, match="places"):
        calibrate(x, y, cv=PlaceKFold(3), groups=np.zeros(len(x)))
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        calibrate(x, y, cv=PlaceKFold(3), groups=place)
