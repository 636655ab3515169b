"""Density against counts made one by one, on whole and on thinned ground, and whether it tells errors apart."""

from __future__ import annotations

import numpy as np
import pytest

from geoelle.applicability import Reach, fit_reach
from geoelle.density import density_told, held_out_density
from geoelle.holdout import PlaceKFold


def ground(n: int = 600, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(n // 10), 10)
    vectors = (rng.normal(size=(n, d)) + 2 * rng.normal(size=(n // 10, d))[place] + 100).astype(np.float32)
    return vectors, np.random.default_rng(99).normal(size=d), place


def apart(reach: Reach, a_nd: np.ndarray, b_md: np.ndarray) -> np.ndarray:
    """Return the dissimilarity of each pair, one row after the other."""
    rows = [np.sqrt(np.square((b_md.astype(float) - a) * reach.weights_d).sum(1)) for a in a_nd.astype(float)]
    return np.array(rows) / reach.mean_distance


@pytest.fixture(scope="module")
def folds() -> list[tuple[np.ndarray, np.ndarray]]:
    vectors, _, place = ground()
    return list(PlaceKFold(4).split(vectors, groups=place))


def test_of_whole_ground_it_is_the_number_of_chips_that_near(folds: list):
    vectors, weights, _ = ground()
    reach, di = fit_reach(vectors, weights, folds)
    new = np.concatenate([ground(seed=1)[0], vectors[:5], vectors[:5] + 40])
    np.testing.assert_array_equal(reach.density(new), (apart(reach, new, vectors) <= reach.threshold).sum(1))
    held = held_out_density(reach, vectors, folds)
    for train, test in folds:
        wanted = (apart(reach, vectors[test], vectors[train]) <= reach.threshold * (1 + 1e-12)).sum(1)
        np.testing.assert_array_equal(held[test], wanted)
    # the distance of one chip is the threshold itself, and rounds to either side
    assert (((held > 0) == (di <= reach.threshold)) | np.isclose(di, reach.threshold, rtol=1e-9)).all()
    said = reach.counted()
    assert f"600 chips of the fit within a dissimilarity of {reach.threshold:.3g}" in said and "kept" not in said


def test_of_thinned_ground_it_lies_between_the_counts_a_covering_radius_nearer_and_farther(folds: list):
    vectors, weights, _ = ground()
    reach, _ = fit_reach(vectors, weights, folds, most=100)
    radius = apart(reach, vectors, reach.points_md).min(1).max()
    new = ground(seed=1)[0]
    each = apart(reach, new, vectors)
    found = reach.density(new)
    assert (found >= (each <= reach.threshold - radius - 1e-5).sum(1)).all()
    assert (found <= (each <= reach.threshold + radius + 1e-5).sum(1)).all()
    true = (each <= reach.threshold).sum(1)
    points = (apart(reach, new, reach.points_md) <= reach.threshold).sum(1)
    told, blind = (np.corrcoef(values, true)[0, 1] for values in (found, points))
    assert told > 0.95 and told > blind + 0.1  # points that cover the ground lie evenly on it
    assert found.mean() == pytest.approx(true.mean(), rel=0.1)
    held = held_out_density(reach, vectors, folds)
    for train, test in folds:
        each = apart(reach, vectors[test], vectors[train])
        assert (held[test] >= (each <= reach.threshold - radius - 1e-5).sum(1)).all()
        assert (held[test] <= (each <= reach.threshold + radius + 1e-5).sum(1)).all()
    assert "600 chips of the fit" in reach.counted() and "nearest of 100 points kept" in reach.counted()


def test_it_is_above_0_exactly_inside_even_at_the_threshold():
    """Coordinates far from 0 and a threshold that is the distance of a chip: what rounding would put on both sides."""
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(40, 3)) + 5_000).astype(np.float32)
    new = (points + rng.normal(size=points.shape)).astype(np.float32)
    made = {"points_md": points, "counts_m": np.ones(40, int), "weights_d": np.ones(3), "mean_distance": 1.0}
    di = Reach(**made, threshold=1.0).dissimilarity(new)
    for threshold in di:
        reach = Reach(**made, threshold=float(threshold))
        np.testing.assert_array_equal(reach.density(new) > 0, reach.inside(di) == 1)


def test_a_chip_that_no_fold_tests_has_none(folds: list):
    vectors, weights, _ = ground()
    reach, _ = fit_reach(vectors, weights, folds)
    some = held_out_density(reach, vectors, folds[:1])
    assert np.isfinite(some[folds[0][1]]).all() and np.isnan(some[folds[0][0]]).all()


def test_errors_that_shrink_with_density_are_seen_and_others_are_not():
    rng = np.random.default_rng(0)
    place, density = np.repeat(np.arange(30), 20), rng.poisson(40, 600).astype(float)
    found = density_told(density, rng.exponential(size=600) / (1 + density) ** 3, place)
    assert found.is_informative and found.spearman.high < -0.2 and "smaller where density is higher" in found.sentence()
    errors = [error for _, error in found.groups]
    assert len(errors) == 10 and errors[0] > 2 * errors[-1]
    assert found.to_dict()["verdict"] == "informative"
    for error in (rng.exponential(size=600), density):  # noise, and the wrong way round
        flat = density_told(density, error, place)
        assert not flat.is_informative and "not informative" in flat.sentence()
        assert flat.to_dict()["verdict"] == "not informative"


def test_chips_of_one_density_are_one_group():
    place, density = np.repeat(np.arange(30), 20), np.zeros(600)
    density[400:] = np.arange(200)
    error = np.arange(600.0)
    groups = density_told(density, error, place).groups
    assert groups[0] == (0.0, pytest.approx(error[density == 0].mean())) and len(groups) < 10
    assert [d for d, _ in groups] == sorted({d for d, _ in groups})
    alone = density_told(np.zeros(600), error, place)
    assert len(alone.groups) == 1 and not alone.is_informative
