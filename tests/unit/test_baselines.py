"""The rivals of the probe: what each can see, that none sees its test ground, and that they are tuned."""

import numpy as np
import pytest
from sklearn.model_selection import KFold

from geoelle.baselines import (
    Ground,
    by_place,
    by_svr,
    by_trees,
    length_features,
    one_hot,
    season_features,
    stacked,
)
from geoelle.holdout import PlaceKFold, SpatialKFold
from geoelle.ridge import cross_predict, nested_ridge

PLACE = np.repeat(np.arange(12), 25)
GROUND = Ground(cv=PlaceKFold(4), groups=PLACE)


def curved(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 4))
    return x, np.abs(x[:, 0]) + 0.1 * rng.normal(size=300)


def r(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("predict", [by_trees, by_svr])
def test_curved_models_see_what_a_ridge_cannot(predict):
    x, y = curved()
    assert abs(r(cross_predict(x, y, PlaceKFold(4), PLACE), y)) < 0.4
    assert r(predict(x, y, GROUND), y) > 0.9


@pytest.mark.parametrize("predict", [by_trees, by_svr])
def test_curved_models_never_see_their_test_ground(predict):
    x, y = curved()
    test = GROUND.folds()[0][1]
    changed = y.copy()
    changed[test] += 100
    np.testing.assert_array_equal(predict(x, changed, GROUND)[test], predict(x, y, GROUND)[test])


def test_trees_stop_early_on_noise():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)), rng.normal(size=300)
    assert by_trees(x, y, GROUND).std() < 0.4 * y.std()


def test_svr_takes_units_as_they_come():
    x, y = curved()
    base = by_svr(x, y, GROUND)
    scaled = by_svr(x * [1e6, 1e-6, 1, 1] + 1e3, 1e4 * y - 7, GROUND)
    np.testing.assert_allclose((scaled + 7) / 1e4, base, rtol=1e-3, atol=1e-3)


def test_stacking_the_probe_never_sees_the_test_ground():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    y = x[:, 0] + 0.1 * rng.normal(size=300)
    train, test = GROUND.folds()[0]

    def columns(target):
        nested = nested_ridge(x, target[:, None], cv=GROUND.cv, groups=PLACE)
        return stacked(x, target, GROUND, nested, 0)[0]

    changed = y.copy()
    changed[test] = rng.normal(size=len(test))
    for before, after in zip(columns(y), columns(changed), strict=True):
        np.testing.assert_array_equal(before, after)
    on_train, on_test = columns(y)
    assert (on_train.shape, on_test.shape) == (train.shape, test.shape)
    assert r(on_train, y[train]) > 0.9
    noise = rng.normal(size=300)
    assert r(columns(noise)[0], noise[train]) < 0.1  # values fitted on their own rows correlate


def test_nearest_place_takes_the_mean_of_the_nearest_training_block():
    lonlat = np.array([[0.0, 0], [0.1, 0], [10, 0], [10.1, 0], [40, 0], [41, 0]])
    place = np.array([0, 0, 1, 1, 2, 2])
    y = np.array([[1.0, 10], [3, 30], [5, 50], [7, 70], [9, 90], [11, 110]])
    found = by_place(lonlat, y, place, Ground(cv=PlaceKFold(3), groups=place))
    np.testing.assert_allclose(found, [[6, 60], [6, 60], [2, 20], [2, 20], [6, 60], [6, 60]])


def test_inner_ground_is_of_the_same_kind_and_thrifty():
    lonlat = np.random.default_rng(0).uniform(0, 1, (200, 2))
    inside = Ground(cv=SpatialKFold(5, buffer_m=100.0), groups=lonlat).within(np.arange(150), 3)
    assert isinstance(inside.cv, SpatialKFold)
    assert (inside.cv.n_splits, inside.cv.buffer_m, len(inside.groups)) == (3, 100.0, 150)
    shared = Ground(cv=KFold(5), groups=np.arange(50))
    assert shared.within(np.arange(40), 3).cv.n_splits == 3
    assert shared.cv.n_splits == 5


def test_season_turns_with_the_hemisphere():
    times = np.array(["2023-07-01", "2024-07-01", "2024-07-01", "NaT"], "datetime64[s]")
    lonlat = np.array([[0.0, 50], [0, 50], [0, -50], [0, 50]])
    season = season_features(times, lonlat)
    np.testing.assert_allclose(season[0], season[1], atol=0.03)
    np.testing.assert_allclose(season[2, :2], season[1, :2])
    np.testing.assert_allclose(season[2, 2:4], -season[1, 2:4])
    np.testing.assert_array_equal(season[3], [0, 0, 0, 0, 1])
    assert season[0, 1] < -0.9


def test_length_and_labels():
    np.testing.assert_allclose(length_features(np.array([[3, 4], [0, 2]], np.float32))[:, 0], [5, 2])
    np.testing.assert_array_equal(one_hot(np.array(["b", "a", "b"])), [[0, 1], [1, 0], [0, 1]])
