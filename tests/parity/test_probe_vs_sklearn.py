"""The probe against scikit-learn: same numbers, and scikit-learn's own contract for estimators."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from geoelle.holdout import PlaceKFold, SpatialKFold
from geoelle.probe import RidgeProbe, RidgeProbeCV, cross_predict


@parametrize_with_checks([RidgeProbe(), RidgeProbeCV(alphas=(0.01, 1.0, 100.0), cv=KFold(2))])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def regression(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * rng.uniform(0.1, 30, d) + rng.normal(0, 50, d)
    return X, X @ rng.normal(size=d) / d + rng.normal(size=n) + 5


@pytest.mark.parametrize(("n", "d"), [(200, 12), (40, 90), (64, 64)])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e4])
def test_equals_standardised_ridge(n, d, alpha):
    X, y = regression(n, d)
    ours = RidgeProbe(alpha).fit(X, y)
    theirs = make_pipeline(StandardScaler(), Ridge(alpha, solver="svd")).fit(X, y)
    coef = theirs[-1].coef_ / theirs[0].scale_
    np.testing.assert_allclose(ours.coef_, coef, rtol=1e-8, atol=1e-8 * np.abs(coef).max())
    new = regression(50, d, seed=1)[0]
    np.testing.assert_allclose(ours.predict(new), theirs.predict(new), rtol=1e-8)


def test_one_decomposition_serves_every_alpha():
    X, y = regression(150, 10)
    places = np.repeat(np.arange(15), 10)
    probe = RidgeProbeCV(cv=PlaceKFold(5)).fit(X, y, groups=places)
    by_hand = np.zeros(len(probe.alphas_))
    for i, alpha in enumerate(probe.alphas_):
        for train, test in PlaceKFold(5).split(X, groups=places):
            theirs = make_pipeline(StandardScaler(), Ridge(alpha)).fit(X[train], y[train])
            by_hand[i] += np.square(y[test] - theirs.predict(X[test])).sum() / len(y)
    np.testing.assert_allclose(probe.mse_path_, by_hand, rtol=1e-8)
    assert probe.alpha_ == probe.alphas_[np.argmin(by_hand)]


def test_nested_choice_equals_grid_search_in_each_fold():
    X, y = regression(120, 8)
    places, alphas = np.repeat(np.arange(12), 10), (0.1, 10.0, 1000.0)
    ours = cross_predict(X, y, PlaceKFold(4), places, alphas)
    for train, test in PlaceKFold(4).split(X, groups=places):
        pipeline = make_pipeline(StandardScaler(), Ridge())
        search = GridSearchCV(
            pipeline, {"ridge__alpha": list(alphas)}, cv=PlaceKFold(4), scoring="neg_mean_squared_error"
        ).fit(X[train], y[train], groups=places[train])
        np.testing.assert_allclose(ours[test], search.predict(X[test]), rtol=1e-8)


def test_splitters_serve_scikit_learn():
    X, y = regression(80, 4)
    lonlat = np.random.default_rng(0).uniform(0, 1, (80, 2))
    scores = cross_val_score(RidgeProbe(), X, y, cv=SpatialKFold(4), groups=lonlat)
    assert scores.shape == (4,)
    assert np.isfinite(scores).all()


PLACE = np.repeat(np.arange(15), 20)
FIRST = np.isin(np.arange(300), next(test for _, test in PlaceKFold(5).split(PLACE, groups=PLACE)))
ALPHAS = (1e-3, 1.0, 1e3, 1e6)


def plain(X, y):
    pass


def badly_scaled(X, y):
    X *= np.logspace(-9, 9, X.shape[1])


def nearly_collinear(X, y):
    X[:, 1] = X[:, 0] + 1e-7 * X[:, 1]
    X[:, 3] = X[:, 2] * (1 + 1e-9 * X[:, 3])


def few_directions(X, y):
    X[:] = X[:, :3] @ np.random.default_rng(5).normal(size=(3, X.shape[1])) + 1e-6 * X


def far_from_zero(X, y):
    X += 1e6 * np.where(np.arange(X.shape[1]) % 2, 1, -1)


def one_fold_of_100_times_the_variance(X, y):
    X[FIRST] *= 10


def one_fold_a_million_times_louder(X, y):
    X[FIRST] *= 1e6
    y[FIRST] *= 1e6


def constant_where_trained(X, y):
    X[~FIRST, :3] = 7 / 3


def nearly_constant_where_trained(X, y):
    X[~FIRST, 0] = 5 + 1e-9 * X[~FIRST, 0]


def target_constant_where_trained(X, y):
    y[~FIRST] = 0.1


def noiseless(X, y):
    y[:] = X @ np.arange(1.0, X.shape[1] + 1)


CASES = (
    plain,
    badly_scaled,
    nearly_collinear,
    few_directions,
    far_from_zero,
    one_fold_of_100_times_the_variance,
    one_fold_a_million_times_louder,
    constant_where_trained,
    nearly_constant_where_trained,
    target_constant_where_trained,
    noiseless,
)
BUFFERED = SpatialKFold(4, block_m=2000, buffer_m=1500)
LONLAT = np.stack([0.02 * PLACE, np.zeros(300)], 1) + np.random.default_rng(9).uniform(0, 0.02, (300, 2))


@pytest.mark.parametrize(("cv", "groups"), [(PlaceKFold(5), PLACE), (BUFFERED, LONLAT)], ids=["places", "buffered"])
@pytest.mark.parametrize("case", CASES)
def test_held_out_rows_cost_no_digits(case, cv, groups):
    """Against the singular values of each training part, one alpha at a time: held-out error and each prediction."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 12))
    y = X @ rng.normal(size=12) + rng.normal(size=300)
    case(X, y)
    ours = RidgeProbeCV(ALPHAS, cv).fit(X, y, groups)
    by_hand = np.zeros(len(ALPHAS))
    for a, alpha in enumerate(ALPHAS):
        predicted = cross_predict(X, y, cv, groups, (alpha,))
        for train, test in cv.split(X, groups=groups):
            theirs = make_pipeline(StandardScaler(), Ridge(alpha, solver="svd")).fit(X[train], y[train])
            expected = theirs.predict(X[test])
            np.testing.assert_allclose(predicted[test], expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
            by_hand[a] += np.square(y[test] - expected).sum() / len(y)
    np.testing.assert_allclose(ours.mse_path_, by_hand, rtol=1e-8, atol=1e-20 * np.square(y).mean())
    everything = make_pipeline(StandardScaler(), Ridge(ours.alpha_, solver="svd")).fit(X, y).predict(X)
    np.testing.assert_allclose(ours.predict(X), everything, rtol=1e-8, atol=1e-8 * np.abs(everything).max())
