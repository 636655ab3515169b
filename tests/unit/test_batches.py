"""Fits to tables read batch by batch: the numbers of the fit in memory, and batches that are refused."""

import tracemalloc

import numpy as np
import pytest
from sklearn.model_selection import KFold, ShuffleSplit

from geoelle.batches import cross_predict_batches, fit_batches
from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import PlaceKFold, SpatialKFold
from geoelle.ridge import Affine, RidgeProbeCV, cross_predict

N, D = 300, 8
ALPHAS = (1e-3, 1.0, 1e3)
PLACE = np.repeat(np.arange(15), N // 15)
LONLAT = np.stack([0.02 * PLACE, np.zeros(N)], 1) + np.random.default_rng(9).uniform(0, 0.02, (N, 2))
PLACES = (PlaceKFold(5), PLACE)
BUFFERED = (SpatialKFold(4, block_m=2000, buffer_m=1500), LONLAT)
FIRST = np.isin(np.arange(N), next(test for _, test in PlaceKFold(5).split(PLACE, groups=PLACE)))


def table(change=None, dtype=np.float64):
    rng = np.random.default_rng(0)
    x_nd = rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) + rng.normal(0, 5, D)
    y_n = x_nd @ rng.normal(size=D) + rng.normal(size=N)
    if change is not None:
        change(x_nd, y_n)
    return x_nd.astype(dtype), y_n


def cut(x_nd, y_n, size=37):
    return lambda: ((x_nd[at : at + size], y_n[at : at + size]) for at in range(0, len(x_nd), size))


def loud(x_nd, y_n):
    x_nd[FIRST] *= 1000


def flat(x_nd, y_n):
    x_nd[~FIRST, :2] = 7 / 3


def always_flat(x_nd, y_n):
    x_nd[:, 3] = 1e6 / 3


def far(x_nd, y_n):
    x_nd += 1e6


def exact(x_nd, y_n):
    y_n[:] = x_nd @ np.arange(1.0, D + 1)


@pytest.mark.parametrize(("cv", "groups"), [PLACES, BUFFERED], ids=["places", "buffered"])
@pytest.mark.parametrize("change", [None, loud, flat, always_flat, far, exact])
def test_equals_the_fit_in_memory(change, cv, groups):
    x_nd, y_n = table(change)
    whole = RidgeProbeCV(ALPHAS, cv).fit(x_nd, y_n, groups)
    found = fit_batches(cut(x_nd, y_n), groups, cv=cv, alphas=ALPHAS)
    expected = whole.predict(x_nd)
    np.testing.assert_allclose(found.predict(x_nd), expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(found.mse_path_, whole.mse_path_, rtol=1e-8)
    np.testing.assert_allclose(found.scale_, whole.scale_, rtol=1e-10)
    assert (found.alpha_, found.n_features_in_) == (whole.alpha_, D)
    nested = np.concatenate(list(cross_predict_batches(cut(x_nd, y_n), groups, cv=cv, alphas=ALPHAS)))
    np.testing.assert_allclose(nested, cross_predict(x_nd, y_n, cv, groups, ALPHAS), rtol=1e-8)


def test_wide_tables_random_folds_and_one_strength():
    x_nd, y_n = table()
    wide = np.hstack([x_nd] + [np.sin(k * x_nd) for k in range(1, 25)])
    for x, cv, groups, alphas in (
        (wide, *PLACES, ALPHAS),
        (x_nd, KFold(3), None, ALPHAS),
        (x_nd, *PLACES, (2.0,)),
        (x_nd, PlaceKFold(2), np.arange(N) // 150, (2.0,)),
    ):
        whole = RidgeProbeCV(alphas, cv).fit(x, y_n, groups)
        np.testing.assert_allclose(fit_batches(cut(x, y_n), groups, cv=cv, alphas=alphas).coef_, whole.coef_, rtol=1e-8)
        nested = list(cross_predict_batches(cut(x, y_n), groups, cv=cv, alphas=alphas))
        assert [len(part) for part in nested] == [37] * 8 + [4]
        np.testing.assert_allclose(np.concatenate(nested), cross_predict(x, y_n, cv, groups, alphas), rtol=1e-8)


def test_tests_that_are_not_a_partition():
    x_nd, y_n = table()
    cv = ShuffleSplit(4, test_size=0.2, train_size=0.5, random_state=0)
    whole = RidgeProbeCV(ALPHAS, cv).fit(x_nd, y_n)
    found = fit_batches(cut(x_nd, y_n), None, cv=cv, alphas=ALPHAS)
    np.testing.assert_allclose(found.mse_path_, whole.mse_path_, rtol=1e-8)
    np.testing.assert_allclose(found.coef_, whole.coef_, rtol=1e-8)
    with pytest.raises(ProbeError, match="earlier fold"):
        list(cross_predict_batches(cut(x_nd, y_n), None, cv=cv, alphas=ALPHAS))


def test_neither_the_cut_nor_float32_matters():
    x_nd, y_n = table(dtype=np.float32)
    base = Affine.of(fit_batches(cut(x_nd, y_n), PLACE))
    for other in (cut(x_nd, y_n, 1), cut(x_nd, y_n, N), cut(x_nd.astype(np.float64), y_n, 64)):
        np.testing.assert_allclose(Affine.of(fit_batches(other, PLACE)).weights_d, base.weights_d, rtol=1e-9)


def test_memory_does_not_grow_with_the_rows():
    def peak(n):
        def batches():
            rng = np.random.default_rng(0)
            for _ in range(n // 500):
                x_bd = rng.normal(size=(500, 40))
                yield x_bd, x_bd[:, 0] + rng.normal(size=500)

        place = np.arange(n) % 20
        tracemalloc.start()
        fit_batches(batches, place, cv=PlaceKFold(5), alphas=ALPHAS)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    ground = 5 * 8 * 8 * 30_000  # what splitters take for the fold of each row: eight integers a fold is plenty
    assert peak(40_000) - peak(10_000) < ground
    assert ground < 40_000 * 40 * 8


def test_batches_that_change_are_refused():
    x_nd, y_n = table()
    calls = []

    def once_more(first, later):
        calls.clear()

        def batches():
            calls.append(1)
            return (first if len(calls) == 1 else later)()

        return batches

    moved, swapped = x_nd.copy(), np.roll(np.arange(N), 1)
    moved[100, 0] += 1e-9
    for later in (cut(moved, y_n), cut(x_nd[swapped], y_n[swapped]), cut(x_nd[:-1], y_n[:-1]), cut(x_nd, -y_n)):
        with pytest.raises(ProbeError, match="changed between passes"):
            fit_batches(once_more(cut(x_nd, y_n), later), PLACE)
    longer = cut(np.vstack([x_nd, x_nd]), np.hstack([y_n, y_n]))
    with pytest.raises(ProbeError, match="changed between passes"):
        list(cross_predict_batches(once_more(cut(x_nd, y_n), longer), PLACE, cv=PlaceKFold(3)))
    spent = iter(list(cut(x_nd, y_n)()))
    with pytest.raises(ProbeError, match="changed between passes"):
        fit_batches(lambda: spent, PLACE)


def test_batches_that_cannot_be_fitted_are_refused():
    x_nd, y_n = table()
    with pytest.raises(ProbeError, match=r"299 groups \(300 rows\)"):
        fit_batches(cut(x_nd, y_n), PLACE[:-1])
    for bad in (np.nan, np.inf):
        with pytest.raises(ProbeError, match="NaN"):
            fit_batches(cut(np.where(x_nd == x_nd[5, 5], bad, x_nd), y_n), PLACE)
        with pytest.raises(ProbeError, match="NaN"):
            fit_batches(cut(x_nd, np.where(y_n == y_n[5], bad, y_n)), PLACE)
    for rows in (0, 1):
        with pytest.raises(ProbeError, match=f"{rows} rows"):
            fit_batches(cut(x_nd[:rows], y_n[:rows]), PLACE[:rows], cv=PlaceKFold(2))
    for x, y in ((x_nd[0], y_n), (x_nd, y_n[:, None]), (x_nd, y_n.astype(str)), (x_nd, y_n[1:])):
        with pytest.raises(ProbeError, match="batch 0 fails"):
            fit_batches(lambda x=x, y=y: [(x, y)], PLACE)
    with pytest.raises(ProbeError, match="batch 1 fails"):
        fit_batches(lambda: [(x_nd[:150], y_n[:150]), (x_nd[150:, 1:], y_n[150:])], PLACE)
    with pytest.raises(TypeError, match="function"):
        fit_batches(cut(x_nd, y_n)(), PLACE)
    with pytest.raises(HoldoutError, match="groups=None"):
        fit_batches(cut(x_nd, y_n), None)
    with pytest.raises(ProbeError, match="positive"):
        fit_batches(cut(x_nd, y_n), PLACE, alphas=(1.0, 0.0))
