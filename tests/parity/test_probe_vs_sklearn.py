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
