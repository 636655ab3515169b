"""The ridge: alpha from held-out ground, nested predictions, and numbers it refuses."""

import numpy as np
import pytest
from sklearn.model_selection import KFold

from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import PlaceKFold, SpatialKFold
from geoelle.ridge import Affine, RidgeProbe, RidgeProbeCV, cross_predict


def world(n=300, d=20, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    loss = np.exp(vectors[:, :3] @ [0.5, -0.3, 0.2] - 1 + 0.05 * rng.normal(size=n))
    features = np.stack([vectors[:, 0] + 0.2 * rng.normal(size=n), rng.normal(size=n)], 1)
    return vectors, loss, features, rng.uniform(0, 1, (n, 2))


def test_it_never_fits_on_random_folds_by_itself():
    vectors, loss, _, lonlat = world()
    with pytest.raises(HoldoutError, match="groups=None"):
        RidgeProbeCV().fit(vectors, loss)
    with pytest.raises(HoldoutError, match="too few"):
        RidgeProbeCV().fit(vectors, loss, groups=np.zeros(len(loss)))
    by_name = RidgeProbeCV(cv=KFold(5)).fit(vectors, loss)
    by_ground = RidgeProbeCV().fit(vectors, loss, groups=lonlat)
    assert by_name.mse_path_.shape == by_ground.mse_path_.shape


def test_alpha_follows_the_holdout():
    """A code that only names the place helps random folds; held-out places call for a far stronger alpha."""
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(40), 10)
    X = rng.normal(size=(40, 60))[place] + 0.01 * rng.normal(size=(400, 60))
    y = rng.normal(size=40)[place]
    random = RidgeProbeCV(cv=KFold(5, shuffle=True, random_state=0)).fit(X, y)
    blocked = RidgeProbeCV().fit(X, y, groups=place)
    assert blocked.alpha_ >= 1000 * random.alpha_


def test_nested_prediction_sees_neither_the_point_nor_its_place():
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(20), 8)
    X, y = rng.normal(size=(160, 5)), rng.normal(size=160)
    base = cross_predict(X, y, PlaceKFold(5), place)
    changed = y + 100.0 * (place == 7)
    again = cross_predict(X, changed, PlaceKFold(5), place)
    fold = next(test for _, test in PlaceKFold(5).split(X, groups=place) if 7 in place[test])
    np.testing.assert_array_equal(base[fold], again[fold])
    assert not np.allclose(np.delete(base, fold), np.delete(again, fold))


def test_targets_share_the_work_but_not_the_alpha():
    vectors, loss, _, lonlat = world()
    noise = np.random.default_rng(0).normal(size=len(loss))
    both = cross_predict(vectors, np.stack([np.log(loss), noise], 1), SpatialKFold(5), lonlat)
    np.testing.assert_allclose(both[:, 0], cross_predict(vectors, np.log(loss), SpatialKFold(5), lonlat))
    np.testing.assert_allclose(both[:, 1], cross_predict(vectors, noise, SpatialKFold(5), lonlat))
    with pytest.raises(ProbeError, match="NaN"):
        cross_predict(np.where(vectors > 3, np.nan, vectors), loss, SpatialKFold(5), lonlat)


def test_constant_inputs_do_not_matter():
    X, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50.0)
    padded = np.concatenate([X, np.full((50, 2), 1e6 / 3)], 1)
    a, b = RidgeProbe().fit(X, y), RidgeProbe().fit(padded, y)
    np.testing.assert_allclose(b.coef_, [*a.coef_, 0, 0], rtol=1e-10)
    np.testing.assert_allclose(b.predict(padded), a.predict(X), rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, np.inf])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ProbeError, match="positive"):
        RidgeProbe(alpha).fit(np.eye(4), np.arange(4.0))


def test_a_map_of_broken_numbers_is_refused():
    three = np.ones(3)
    good = {"weights_d": three, "intercept": 0.0, "mean_d": three, "scale_d": three, "alpha": 1.0}
    with pytest.raises(ProbeError, match="shapes"):
        Affine(**(good | {"mean_d": np.zeros(2)}))
    with pytest.raises(ProbeError, match="NaN"):
        Affine(**(good | {"weights_d": np.array([0, np.nan, 0])}))


def test_the_affine_map_is_the_estimator():
    vectors, loss, _, lonlat = world()
    for ridge in (RidgeProbe(3.0).fit(vectors, loss), RidgeProbeCV().fit(vectors, loss, groups=lonlat)):
        mapped = Affine.of(ridge)
        np.testing.assert_allclose(mapped(vectors), ridge.predict(vectors), rtol=1e-12)
        assert mapped.alpha == getattr(ridge, "alpha_", 3.0)
        np.testing.assert_allclose(mapped.mean_d, vectors.mean(0), atol=1e-6)


def test_inner_folds_shrink_with_the_ground_that_is_left():
    place = np.repeat(np.arange(5), 10)
    X = np.random.default_rng(0).normal(size=(50, 3))
    found = cross_predict(X, X[:, 0], PlaceKFold(5), place)
    assert np.corrcoef(found, X[:, 0])[0, 1] > 0.99
    with pytest.raises(HoldoutError, match="too few places"):
        cross_predict(X[:20], X[:20, 0], PlaceKFold(2), place[:20])
