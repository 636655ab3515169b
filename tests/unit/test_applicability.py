"""Dissimilarity, area of applicability and density against distances written out one by one."""

import numpy as np
import pytest

from geoelle.applicability import Reach, fit_reach, informativeness
from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import PlaceKFold


def ground(n: int = 120, d: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(n // 10), 10)
    vectors = (rng.normal(size=(n, d)) + 2 * rng.normal(size=(n // 10, d))[place] + 100).astype(np.float32)
    return vectors, rng.normal(size=d), place, list(PlaceKFold(4).split(vectors, groups=place))


def by_hand(a, b, weights):
    """Return the matrix of weighted distances, one pair after the other."""
    return np.array([[np.sqrt((((p - q) * weights) ** 2).sum()) for q in b.astype(float)] for p in a.astype(float)])


def test_every_number_is_the_one_of_its_definition():
    vectors, weights, _, folds = ground()
    vectors[::9] += (
        np.random.default_rng(2).standard_t(2, size=(14, 5)).astype(np.float32) * 3
    )  # outliers, near and far
    reach, di = fit_reach(vectors, weights, folds)
    between = by_hand(vectors, vectors, weights)
    mean = between[~np.eye(len(vectors), dtype=bool)].mean()
    assert reach.mean_distance == pytest.approx(mean, rel=1e-9)
    wanted = np.full(len(vectors), np.nan)
    for train, test in folds:
        wanted[test] = between[np.ix_(test, train)].min(1) / mean
    np.testing.assert_allclose(di, wanted, rtol=1e-6)
    low, high = np.percentile(wanted, [25, 75])
    assert ((wanted > high + 1.5 * (high - low)) & (wanted < high + 3 * (high - low))).any()
    assert reach.threshold == pytest.approx(wanted[wanted <= high + 1.5 * (high - low)].max(), rel=1e-6)
    new = ground(seed=1)[0]
    new[:9] += 10
    away = by_hand(new, vectors, weights) / mean
    np.testing.assert_allclose(reach.dissimilarity(new), away.min(1), rtol=1e-6)
    np.testing.assert_array_equal(reach.density(new), (away <= reach.threshold).sum(1))
    np.testing.assert_array_equal(reach.inside(reach.dissimilarity(new)), away.min(1) <= reach.threshold)
    assert 0 < reach.inside(reach.dissimilarity(new)).mean() < 1


def test_density_is_above_0_exactly_inside():
    vectors, weights, _, folds = ground()
    reach, _ = fit_reach(vectors, weights, folds)
    new = ground(seed=3)[0]
    np.testing.assert_array_equal(reach.density(new) > 0, reach.inside(reach.dissimilarity(new)) == 1)


def test_an_outlier_in_the_fit_does_not_stretch_the_area():
    vectors, weights, _, folds = ground()
    near, _ = fit_reach(vectors, weights, folds)
    vectors[5] += 1_000
    far, di = fit_reach(vectors, weights, folds)
    assert far.threshold * far.mean_distance < 2 * near.threshold * near.mean_distance
    assert di[5] > far.threshold


def test_only_what_the_probe_reads_counts():
    vectors, weights, _, folds = ground()
    weights[2] = 0
    reach, di = fit_reach(vectors, weights, folds)
    vectors[:, 2] = 0
    np.testing.assert_allclose(di, fit_reach(vectors, -weights, folds)[1], rtol=1e-6)
    strange = reach.points_md[:3] + np.array([0, 0, 1e4, 0, 0], np.float32)
    np.testing.assert_allclose(reach.dissimilarity(strange), 0, atol=1e-9)


def test_ground_of_the_fit_is_not_dissimilar_at_all_and_ground_far_away_is():
    vectors, weights, _, folds = ground()
    reach, _ = fit_reach(vectors, weights, folds)
    assert (reach.dissimilarity(vectors) == 0).all() and (reach.density(vectors) >= 1).all()
    assert reach.inside(reach.dissimilarity(vectors + 50)).max() == 0


def test_nan_stays_nan_and_shapes_are_kept():
    vectors, weights, _, folds = ground()
    reach, _ = fit_reach(vectors, weights, folds)
    dense = vectors[:12].reshape(3, 2, 2, 5).copy()
    dense[1, 0, 1, 3] = np.nan
    for values in (reach.dissimilarity(dense), reach.inside(reach.dissimilarity(dense)), reach.density(dense)):
        assert values.shape == (3, 2, 2) and np.argwhere(np.isnan(values)).tolist() == [[1, 0, 1]]
    with pytest.raises(ProbeError, match="takes 5 inputs"):
        reach.dissimilarity(vectors[:, :4])


def test_thinned_ground_covers_what_it_stands_for():
    vectors, weights, _, folds = ground(n=600)
    whole, whole_di = fit_reach(vectors, weights, folds)
    thin, thin_di = fit_reach(vectors, weights, folds, most=100)
    assert thin.points_md.shape == (100, 5) and thin.counts_m.sum() == 600 and thin.counts_m.min() >= 1
    assert thin.mean_distance == whole.mean_distance
    near = by_hand(vectors, thin.points_md, weights)
    radius = near.min(1).max() / whole.mean_distance
    owners = np.bincount(near.argmin(1), minlength=100)
    assert np.abs(owners - thin.counts_m).sum() <= 4  # ties between float32 and float64
    # a chip whose nearest one is of its own fold may lose more, since references of that fold do not count
    assert (thin_di >= whole_di - 1e-9).all() and np.median(thin_di - whole_di) < radius
    new = ground(n=600, seed=4)[0]
    gained = thin.dissimilarity(new) - whole.dissimilarity(new)
    assert gained.min() > -1e-9 and gained.max() <= radius + 1e-9
    random = np.random.default_rng(0).choice(600, 100, replace=False)
    assert radius < by_hand(vectors, vectors[random], weights).min(1).max() / whole.mean_distance
    assert thin.threshold >= whole.threshold
    inside = [reach.inside(reach.dissimilarity(new)).mean() for reach in (whole, thin)]
    assert inside[1] == pytest.approx(inside[0], abs=0.15)


def test_the_mean_of_many_is_that_of_some():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4_000, 2))
    reach, _ = fit_reach(vectors, np.ones(2), [(np.arange(2_000), np.arange(2_000, 4_000))], most=50)
    assert reach.mean_distance == pytest.approx(np.sqrt(np.pi), rel=0.03)  # of two standard normals in the plane


def test_memory_is_bounded(monkeypatch):
    vectors, weights, _, folds = ground()
    reach, di = fit_reach(vectors, weights, folds)
    whole = reach.dissimilarity(vectors + 1)
    monkeypatch.setattr("geoelle.applicability._CELLS", 1_000)
    np.testing.assert_array_equal(reach.dissimilarity(vectors + 1), whole)
    np.testing.assert_allclose(fit_reach(vectors, weights, folds)[1], di, rtol=1e-12)


@pytest.mark.parametrize(
    ("vectors", "weights"),
    [(np.eye(6), np.zeros(6)), (np.ones((6, 3)) * 0.1, np.ones(3)), (np.ones((1, 3)), np.ones(3))],
    ids=["coefficients of 0", "all alike", "one chip"],
)
def test_where_nothing_differs_dissimilarity_is_not_defined(vectors, weights):
    with pytest.raises(ProbeError, match="dissimilarity is not defined"):
        fit_reach(vectors, weights, [(np.arange(len(vectors)), np.arange(len(vectors)))])


def test_what_no_reach_is_made_of():
    vectors, weights, _, folds = ground()
    vectors[7, 1] = np.inf
    with pytest.raises(ProbeError, match="NaN or inf"):
        fit_reach(vectors, weights, folds)
    with pytest.raises(HoldoutError, match="trains on no reference point"):
        fit_reach(ground()[0], weights, [(np.array([], int), np.arange(120))])
    parts = {"points_md": np.ones((3, 2), np.float32), "counts_m": np.ones(3, int), "weights_d": np.ones(2)}
    numbers = {"mean_distance": 1.0, "threshold": 0.5}
    Reach(**parts, **numbers)
    for wrong in (
        {"counts_m": np.ones(2, int)}, {"weights_d": np.ones(3)}, {"points_md": np.ones((0, 2))},
        {"mean_distance": 0.0}, {"threshold": np.nan}, {"points_md": np.full((3, 2), np.nan)},
    ):  # fmt: skip
        with pytest.raises(ProbeError):
            Reach(**{**parts, **numbers, **wrong})


def test_more_dimensions_than_chips():
    rng = np.random.default_rng(0)
    reach, di = fit_reach(rng.normal(size=(20, 300)), rng.normal(size=300), [(np.arange(10), np.arange(10, 20))])
    assert np.isnan(di[:10]).all() and np.isfinite(di[10:]).all() and reach.threshold > 0


# --- does it say anything?


def test_errors_that_grow_with_dissimilarity_are_seen_and_others_are_not():
    rng = np.random.default_rng(0)
    place, di = np.repeat(np.arange(30), 20), rng.exponential(size=600)
    found = informativeness(di, di * rng.exponential(size=600), place, threshold=2.0)
    assert found.is_informative and found.spearman.low > 0.3 and "ranks the errors" in found.sentence()
    assert found.outside.value > 2 * found.inside.value and found.n_inside + found.n_outside == 600
    errors = [error for _, error in found.groups]
    assert len(errors) == 10 and errors[-1] > 3 * errors[0]
    assert found.to_dict()["verdict"] == "informative"
    for error in (rng.exponential(size=600), 1 / (0.1 + di)):
        flat = informativeness(di, error, place, threshold=2.0)
        assert not flat.is_informative and "not informative" in flat.sentence()
        assert flat.to_dict()["verdict"] == "not informative"


def test_an_area_without_an_outside_and_errors_all_alike():
    di, place = np.linspace(0, 1, 40), np.repeat(np.arange(4), 10)
    found = informativeness(di, np.full(40, 0.2), place, threshold=5.0)
    assert (found.n_inside, found.n_outside) == (40, 0) and found.inside.value == pytest.approx(0.2)
    assert found.to_dict()["outside"] == {"value": None, "low": None, "high": None}
    assert not found.is_informative and np.isnan(found.spearman.value)


def test_chips_of_one_place_tell_once():
    """A few places of which one has both: chips alone would call it certain."""
    place = np.repeat(np.arange(5), 100)
    di, error = np.array([1.0, 1.1, 0.9, 1.0, 3.0])[place], np.array([1.0, 1.05, 1.1, 0.9, 2.0])[place]
    noise = 0.2 * np.random.default_rng(0).normal(size=(2, 500))
    by_place = informativeness(di + noise[0], error + noise[1], place, threshold=2.0).spearman
    by_chip = informativeness(di + noise[0], error + noise[1], np.arange(500), threshold=2.0).spearman
    assert by_chip.high - by_chip.low < 0.5 * (by_place.high - by_place.low)
