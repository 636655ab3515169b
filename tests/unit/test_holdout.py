"""Splitters: every point tested once, no ground on both sides, the buffer, the same folds every time."""

import doctest

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict, cross_val_score

from geoelle import holdout
from geoelle.errors import HoldoutError
from geoelle.holdout import EARTH_RADIUS_M, PlaceKFold, SpatialKFold, blocks_of, default_cv, sphere_n3

GROUND = {
    "utrecht": (4.8, 51.9, 5.6, 52.4),
    "equator": (-0.4, -0.4, 0.4, 0.4),
    "date line": (179.6, -17.2, 180.4, -16.4),
    "svalbard": (14.0, 78.0, 18.0, 78.6),
}


def points(ground, n=400, seed=0):
    west, south, east, north = GROUND[ground]
    lonlat = np.random.default_rng(seed).uniform((west, south), (east, north), (n, 2))
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180
    return lonlat


def metres(a_n3, b_m3):
    chord = np.linalg.norm(a_n3[:, None] - b_m3[None], axis=2)
    return 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(chord / 2, 1))


@pytest.mark.parametrize("ground", GROUND)
@pytest.mark.parametrize("buffer_m", [0.0, 4_000.0])
def test_contract_of_spatial_folds(ground, buffer_m):
    lonlat = points(ground)
    block = blocks_of(lonlat, 10_000)
    tested = np.zeros(len(lonlat), int)
    for train, test in SpatialKFold(5, buffer_m=buffer_m).split(lonlat, groups=lonlat):
        tested[test] += 1
        assert not set(block[train]) & set(block[test])
        distance = metres(sphere_n3(lonlat[train]), sphere_n3(lonlat[test])).min(1)
        assert distance.min() > buffer_m
        left_out = np.setdiff1d(np.arange(len(lonlat)), np.concatenate([train, test]))
        if len(left_out):
            assert metres(sphere_n3(lonlat[left_out]), sphere_n3(lonlat[test])).min(1).max() <= buffer_m
        assert bool(len(left_out)) == (buffer_m > 0)
    assert (tested == 1).all()


def test_folds_are_balanced_seeded_and_independent_of_row_order():
    lonlat = points("utrecht", 1000)
    folds = [test for _, test in SpatialKFold(5).split(lonlat, groups=lonlat)]
    assert max(map(len, folds)) <= 1.1 * min(map(len, folds))
    again = [test for _, test in SpatialKFold(5).split(lonlat, groups=lonlat)]
    assert all(np.array_equal(a, b) for a, b in zip(folds, again, strict=True))
    other = [test for _, test in SpatialKFold(5, random_state=1).split(lonlat, groups=lonlat)]
    assert not all(np.array_equal(a, b) for a, b in zip(folds, other, strict=True))
    order = np.random.default_rng(3).permutation(1000)
    shuffled = [np.sort(order[test]) for _, test in SpatialKFold(5).split(lonlat, groups=lonlat[order])]
    assert all(np.array_equal(a, b) for a, b in zip(folds, shuffled, strict=True))


@pytest.mark.parametrize("ground", GROUND)
def test_blocks_are_squares_of_ground(ground):
    lonlat = points(ground, 6000)
    sphere, block = sphere_n3(lonlat), blocks_of(lonlat, 10_000)
    full = np.bincount(block).argmax()
    spread = metres(sphere[block == full], sphere[block == full]).max()
    assert 10_000 < spread < 10_000 * np.sqrt(2) * 1.03


def test_blocks_close_at_the_antimeridian_and_the_pole():
    same = np.array([[-180.0, -16.83], [180.0, -16.83]])
    assert len(np.unique(blocks_of(same, 10_000))) == 1
    around_the_pole = np.array([[0.0, 90.0], [90.0, 90.0], [180.0, 90.0]])
    assert len(np.unique(blocks_of(around_the_pole, 1e6))) <= 3


def test_places_stay_whole_and_every_row_is_tested_once():
    rng = np.random.default_rng(0)
    places = np.array([f"place-{i}" for i in rng.integers(0, 23, 500)])
    tested = np.zeros(500, int)
    for train, test in PlaceKFold(5).split(places, groups=places):
        tested[test] += 1
        assert not set(places[train]) & set(places[test])
        assert 80 <= len(test) <= 120
    assert (tested == 1).all()


def test_inner_splitter_takes_as_many_folds_as_there_is_ground():
    places = np.repeat(["a", "b", "c"], 5)
    assert PlaceKFold(5).inner(places).n_splits == 3
    lonlat = np.array([[0.0, 0.0], [1.0, 0.0]])
    inner = SpatialKFold(5, block_m=5_000, buffer_m=7.0, random_state=4).inner(lonlat)
    assert (inner.n_splits, inner.block_m, inner.buffer_m, inner.random_state) == (2, 5_000, 7.0, 4)
    assert isinstance(default_cv(lonlat), SpatialKFold)
    assert isinstance(default_cv(places), PlaceKFold)


@pytest.mark.parametrize(
    ("splitter", "groups", "told"),
    [
        (SpatialKFold(5), None, "no coordinates"),
        (SpatialKFold(5), np.zeros((10, 2)), "too few blocks of 10000 m .*1, 5 needed"),
        (SpatialKFold(5), np.arange(10), "shape"),
        (SpatialKFold(5), np.full((10, 2), np.nan), "row 0"),
        (SpatialKFold(5), np.tile([52.0, 452.0], (10, 1)), "row 0"),
        (SpatialKFold(5), points("utrecht", 9), "9 against 10"),
        (SpatialKFold(5, buffer_m=1e7), points("utrecht", 10), "buffer"),
        (SpatialKFold(5, block_m=0), points("utrecht", 10), "block_m=0"),
        (PlaceKFold(5), None, "no places"),
        (PlaceKFold(5), np.repeat(["a", "b"], 5), "too few places"),
        (PlaceKFold(None), np.repeat(["a"], 10), "too few places"),
        (PlaceKFold(None), None, "no places"),
        (PlaceKFold(5), np.zeros((10, 2)), "shape"),
    ],
)
def test_refusals_name_the_value(splitter, groups, told):
    with pytest.raises(HoldoutError, match=told):
        list(splitter.split(np.zeros((10, 3)), groups=groups))


def test_every_place_in_turn():
    places = np.repeat([f"place-{i}" for i in range(7)], [1, 2, 3, 4, 5, 6, 7])
    cv = PlaceKFold(None)
    tested = [set(places[test]) for _, test in cv.split(places, groups=places)]
    assert sorted(map(len, tested)) == [1] * 7 and set.union(*tested) == set(places)
    assert cv.get_n_splits(groups=places) == 7 and cv.inner(places).n_splits == 5
    assert cv.inner(places[:6]).n_splits == 3
    with pytest.raises(HoldoutError, match="no places"):
        cv.get_n_splits()
    assert len(cross_val_predict(Ridge(), np.eye(28), np.arange(28.0), cv=cv, groups=places)) == 28


def test_default_needs_ground():
    with pytest.raises(HoldoutError, match="groups=None"):
        default_cv(None)


def test_random_folds_flatter_an_autocorrelated_field():
    """Inputs that only name the neighbourhood predict a smooth field on random folds, not on blocks."""
    rng = np.random.default_rng(0)
    lonlat = rng.uniform(0, 2, (900, 2))
    sites = rng.uniform(0, 2, (120, 2))
    field = np.exp(-np.square((lonlat[:, None] - sites) / 0.12).sum(2)) @ rng.normal(size=120)
    codes = np.exp(-np.square((lonlat[:, None] - rng.uniform(0, 2, (200, 2))) / 0.1).sum(2))
    random = cross_val_predict(Ridge(0.1), codes, field, cv=KFold(5, shuffle=True, random_state=0))
    blocked = cross_val_predict(
        Ridge(0.1), codes, field, cv=SpatialKFold(5, block_m=60_000), groups=lonlat, method="predict"
    )
    r_random, r_blocked = (np.corrcoef(p, field)[0, 1] for p in (random, blocked))
    assert r_random > 0.8
    assert r_blocked < r_random - 0.3


def test_splitters_work_where_scikit_learn_takes_cv():
    lonlat = points("utrecht", 120)
    scores = cross_val_score(Ridge(), lonlat, lonlat[:, 0], cv=SpatialKFold(4), groups=lonlat)
    assert len(scores) == SpatialKFold(4).get_n_splits() == 4
    assert PlaceKFold(3).get_n_splits() == 3
    assert repr(SpatialKFold(4)).startswith("SpatialKFold(")


def test_the_printed_maps_are_true():
    assert doctest.testmod(holdout).failed == 0
