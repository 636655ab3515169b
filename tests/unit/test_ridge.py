"""The ridge: alpha from held-out ground, nested predictions, and numbers it refuses."""

import numpy as np
import pytest
from sklearn.model_selection import KFold, PredefinedSplit, ShuffleSplit

from geoelle import moments
from geoelle import ridge as numerics
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


PLACE = np.repeat(np.arange(10), 30)
FIRST = np.isin(np.arange(300), next(test for _, test in PlaceKFold(5).split(PLACE, groups=PLACE)))


def summed(monkeypatch, work):
    """Count the rows whose products are summed while it works."""
    counts, add = [], moments.Accumulator.add

    def counting(self, x_nd, y_nt, rows=None):
        counts.append(len(x_nd) if rows is None else len(rows))
        add(self, x_nd, y_nt, rows)

    monkeypatch.setattr(moments.Accumulator, "add", counting)
    work()
    return sum(counts)


def test_choosing_a_strength_sums_every_row_once(monkeypatch):
    vectors, loss, _, _ = world()
    assert summed(monkeypatch, lambda: RidgeProbeCV(cv=PlaceKFold(5)).fit(vectors, loss, PLACE)) == 300


def test_nested_folds_sum_each_training_row_once(monkeypatch):
    vectors, loss, _, _ = world()
    assert summed(monkeypatch, lambda: cross_predict(vectors, loss, PlaceKFold(5), PLACE)) == 5 * 240


def test_rows_that_a_buffer_leaves_out_are_summed_too(monkeypatch):
    """Two blocks side by side a fold: the buffers hold less than the training parts, and are subtracted."""
    vectors, loss, _, lonlat = world()
    cv = SpatialKFold(4, block_m=30_000, buffer_m=2_000)
    buffers = 300 * 4 - sum(len(train) + len(test) for train, test in cv.split(vectors, groups=lonlat))
    assert 0 < buffers < 300
    assert summed(monkeypatch, lambda: RidgeProbeCV(cv=cv).fit(vectors, loss, lonlat)) == 300 + buffers


def test_only_a_fold_that_would_cancel_is_summed_from_its_rows(monkeypatch):
    vectors, loss, _, _ = world()
    vectors[FIRST] *= 100
    assert summed(monkeypatch, lambda: RidgeProbeCV(cv=PlaceKFold(5)).fit(vectors, loss, PLACE)) == 300 + 240


def test_more_folds_than_memory_for_their_moments_change_nothing(monkeypatch):
    vectors, loss, _, _ = world(d=40)
    few, many = PlaceKFold(5), PlaceKFold(10)
    kept = RidgeProbeCV(cv=few).fit(vectors, loss, PLACE)
    found = RidgeProbeCV(cv=many).fit(vectors, loss, PLACE)
    by_hand = [RidgeProbe(alpha).fit for alpha in found.alphas_]
    mse_a = [
        sum(
            np.square(loss[test] - fit(vectors[train], loss[train]).predict(vectors[test])).sum()
            for train, test in many.split(vectors, groups=PLACE)
        )
        / 300
        for fit in by_hand
    ]
    np.testing.assert_allclose(found.mse_path_, mse_a, rtol=1e-8)
    assert not np.allclose(kept.mse_path_, found.mse_path_)
    assert summed(monkeypatch, lambda: RidgeProbeCV(cv=many).fit(vectors, loss, PLACE)) == 600


class Drawn:
    """Trains on rows drawn with replacement, as a bootstrap does."""

    def split(self, X, y=None, groups=None):
        for seed in range(3):
            train = np.random.default_rng(seed).integers(0, len(X), len(X))
            yield train, np.setdiff1d(np.arange(len(X)), train)


@pytest.mark.parametrize("cv", [ShuffleSplit(3, train_size=0.5, test_size=0.2, random_state=0), Drawn()])
def test_any_splitter_is_served(cv):
    vectors, loss, _, _ = world()
    vectors = vectors.astype(np.float64)
    found = RidgeProbeCV((0.1, 10.0), cv).fit(vectors, loss)
    mse_a = np.zeros(2)
    for train, test in cv.split(vectors):
        for a, alpha in enumerate((0.1, 10.0)):
            fitted = RidgeProbe(alpha).fit(vectors[train], loss[train])
            mse_a[a] += np.square(loss[test] - fitted.predict(vectors[test])).sum() / 300
    np.testing.assert_allclose(found.mse_path_, mse_a, rtol=1e-8)


def test_a_constant_target_takes_the_strongest_alpha():
    vectors, _, _, _ = world()
    found = RidgeProbeCV(cv=PlaceKFold(5)).fit(vectors, np.full(300, 0.1), PLACE)
    assert found.alpha_ == found.alphas_[-1]
    np.testing.assert_array_equal(found.predict(vectors), np.full(300, 0.1))


def test_a_fold_without_points_is_refused():
    vectors, loss, _, _ = world()

    class Lame:
        def split(self, X, y=None, groups=None):
            yield np.arange(300), np.array([], int)

    with pytest.raises(HoldoutError, match="fold 0 trains on 300 points and tests 0"):
        RidgeProbeCV(cv=Lame()).fit(vectors, loss)
    with pytest.raises(HoldoutError, match="trains on 1 points"):
        RidgeProbeCV(cv=PredefinedSplit([0] * 299 + [1])).fit(vectors, loss)


def test_float32_is_never_converted_whole():
    vectors, loss, _, _ = world()
    single = RidgeProbeCV(cv=PlaceKFold(5)).fit(vectors, loss, PLACE)
    double = RidgeProbeCV(cv=PlaceKFold(5)).fit(vectors.astype(np.float64), loss, PLACE)
    np.testing.assert_array_equal(single.coef_, double.coef_)
    assert single.coef_.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_a_map_is_applied_in_float64_whatever_comes_in(dtype, monkeypatch):
    monkeypatch.setattr(numerics, "_CACHED", 700)
    rng = np.random.default_rng(0)
    x = ((1e9 if dtype is np.int64 else 100) * rng.normal(size=(7, 11, 33))).astype(dtype)
    mapped = Affine(weights_d=rng.normal(size=33), intercept=3.0, mean_d=np.zeros(33), scale_d=np.ones(33), alpha=1.0)
    exact = (x.astype(np.longdouble) * mapped.weights_d).sum(-1) + 3
    np.testing.assert_allclose(mapped(x), exact.astype(np.float64), rtol=1e-12, atol=1e-12 * np.abs(exact).max())
    assert mapped(x).dtype == np.float64
    assert mapped(x[0, 0]).shape == ()
    assert mapped(x[:, :0]).shape == (7, 0)
    np.testing.assert_allclose(mapped(x[:, ::2, :]), mapped(x)[:, ::2], rtol=1e-12)
    with pytest.raises(ProbeError, match="takes 33 inputs"):
        mapped(x[..., 1:])
    if np.dtype(dtype).kind == "f":
        x[2, 3, 4] = np.nan
        assert np.argwhere(np.isnan(mapped(x))).tolist() == [[2, 3]]


def test_a_strength_lost_in_rounding_is_no_worse_with_fewer_rows_than_inputs():
    vectors, loss, _, _ = world(n=15)
    fitted = RidgeProbe(1e-200).fit(vectors, loss)
    np.testing.assert_allclose(fitted.predict(vectors), loss, rtol=1e-5)
    assert np.abs(fitted.coef_).max() < 1
