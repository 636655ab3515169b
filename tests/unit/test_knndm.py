"""kNNDM: the contract of a splitter, the matching against a plain reference, and maps whose truth is known."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance
from sklearn.model_selection import KFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsRegressor

from geoelle.errors import HoldoutError
from geoelle.holdout import EARTH_RADIUS_M, SpatialKFold
from geoelle.knndm import KNNDM
from geoelle.ridge import RidgeProbe, cross_predict

GROUND = {
    "utrecht": (4.0, 51.0, 6.0, 52.5),
    "date line": (179.0, -17.0, 181.0, -16.0),
    "south pole": (-180.0, -90.0, 180.0, -88.0),
}


def domain(ground="utrecht", side=45):
    west, south, east, north = GROUND[ground]
    lon, lat = np.meshgrid(np.linspace(west, east, side), np.linspace(south, north, side))
    return np.stack([(lon.ravel() + 180) % 360 - 180, lat.ravel()], 1)


def spread(ground="utrecht", n=300, seed=0):
    west, south, east, north = GROUND[ground]
    lonlat = np.random.default_rng(seed).uniform((west, south), (east, north), (n, 2))
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180
    return lonlat


def clustered(ground="utrecht", parents=20, each=12, seed=0):
    rng = np.random.default_rng(seed)
    centre = spread(ground, parents, seed)
    lonlat = (centre[:, None] + rng.normal(0, 0.02, (parents, each, 2))).reshape(-1, 2)
    return np.stack([(lonlat[:, 0] + 180) % 360 - 180, np.clip(lonlat[:, 1], -90, 90)], 1)


def haversine(a_n2, b_m2):
    (lon_a, lat_a), (lon_b, lat_b) = np.radians(a_n2).T[:, :, None], np.radians(b_m2).T[:, None]
    half = np.sin((lat_a - lat_b) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_a - lon_b) / 2) ** 2
    return 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(half, 1)))


# --- the contract, shared with SpatialKFold


@pytest.mark.parametrize("ground", GROUND)
@pytest.mark.parametrize("sample", [spread, clustered])
@pytest.mark.parametrize("buffer_m", [0.0, 3_000.0])
@pytest.mark.parametrize("kind", ["block", "knndm"])
def test_contract(ground, sample, buffer_m, kind):
    lonlat = sample(ground)
    cv = (
        SpatialKFold(4, block_m=20_000, buffer_m=buffer_m)
        if kind == "block"
        else KNNDM(4, domain_lonlat_m2=domain(ground), buffer_m=buffer_m)
    )
    label, tested = cv.labels(lonlat), np.zeros(len(lonlat), int)
    assert label.shape == (len(lonlat),) and label.dtype == np.int64
    apart = haversine(lonlat, lonlat)
    for train, test in cv.split(lonlat, groups=lonlat):
        tested[test] += 1
        assert len(train) and not set(label[train]) & set(label[test])
        assert apart[np.ix_(train, test)].min() > buffer_m
        left_out = np.setdiff1d(np.arange(len(lonlat)), np.concatenate([train, test]))
        assert not len(left_out) or apart[np.ix_(left_out, test)].min(1).max() <= buffer_m * (1 + 1e-9)
    assert (tested == 1).all() and cv.get_n_splits() == 4
    inner = cv.inner(lonlat)
    assert type(inner) is type(cv) and (inner.buffer_m, inner.n_splits) == (buffer_m, 4)


def test_folds_do_not_depend_on_the_order_of_rows_and_repeat():
    for lonlat in (clustered(), spread()):
        order = np.random.default_rng(3).permutation(len(lonlat))
        once = KNNDM(domain_lonlat_m2=domain()).match(lonlat).fold_n
        again = KNNDM(domain_lonlat_m2=domain()).match(lonlat[order]).fold_n
        np.testing.assert_array_equal(once[order], again)


def test_it_works_where_scikit_learn_takes_cv_and_where_a_probe_does():
    lonlat = clustered()
    cv = KNNDM(4, domain_lonlat_m2=domain())
    assert len(cross_val_score(RidgeProbe(), lonlat, lonlat[:, 0], cv=cv, groups=lonlat)) == 4
    assert np.isfinite(cross_predict(lonlat, lonlat[:, 1], cv, lonlat)).all()
    assert repr(cv) == "KNNDM(n_splits=4, domain=2025 points, buffer_m=0)"


def test_one_site_is_never_divided_whatever_its_spelling():
    lonlat = np.repeat(clustered(parents=6, each=5), 3, axis=0)
    match = KNNDM(3, domain_lonlat_m2=domain()).match(lonlat)
    assert (match.fold_n.reshape(-1, 3) == match.fold_n[::3, None]).all() and len(match.sample_s) == 30
    edge = np.array([[-180.0, -16.5], [180.0, -16.5], [179.2, -16.5], [179.9, -16.2], [0.0, 90.0], [90.0, 90.0]])
    match = KNNDM(2, domain_lonlat_m2=domain("date line")).match(edge)
    assert match.fold_n[0] == match.fold_n[1] and match.fold_n[4] == match.fold_n[5]


# --- the matching


def test_distances_are_those_of_a_plain_reference():
    lonlat, points = clustered(), domain(side=30)
    match = KNNDM(5, domain_lonlat_m2=points).match(lonlat)
    apart = haversine(lonlat, lonlat)
    own = apart + np.where(np.eye(len(lonlat)), np.inf, 0)
    across = apart + np.where(match.fold_n[:, None] == match.fold_n, np.inf, 0)
    to_domain = haversine(points, lonlat).min(1)
    for found, wanted in ((match.sample_s, own.min(1)), (match.domain_m, to_domain), (match.fold_s, across.min(1))):
        np.testing.assert_allclose(np.sort(found), np.sort(wanted), atol=0.05)
    assert match.w_m == pytest.approx(wasserstein_distance(across.min(1), to_domain), abs=0.1)


def test_the_chosen_folds_are_the_best_of_all_that_the_paper_would_try():
    """Every number of clusters, by great-circle distances and written out: none may match better by much."""
    lonlat, points, k = clustered(parents=15, each=8, seed=4), domain(side=30), 3
    match = KNNDM(k, domain_lonlat_m2=points).match(lonlat)
    apart = haversine(lonlat, lonlat)
    tree = linkage(apart[np.triu_indices(len(lonlat), 1)], "ward")
    flat = (lonlat - lonlat.mean(0)) * [np.cos(np.radians(51.7)), 1]
    along = flat @ np.linalg.svd(flat, full_matrices=False)[2][0]
    best = np.inf
    for q in range(k, len(lonlat) - 2):
        label = fcluster(tree, q, "maxclust") - 1
        size, middle = np.bincount(label), np.bincount(label, along) / np.bincount(label)
        fold = np.full(len(size), -1)
        order = np.argsort(middle)
        large = [c for c in order if size[c] >= len(lonlat) / k]
        fold[large] = range(len(large))
        rest = [c for c in order if fold[c] < 0]
        fold[rest] = [len(large) + i % max(k - len(large), 1) for i in range(len(rest))]
        if np.bincount(fold[label]).max() <= 0.5 * len(lonlat):
            across = apart + np.where(fold[label][:, None] == fold[label], np.inf, 0)
            best = min(best, wasserstein_distance(across.min(1), match.domain_m))
    assert match.clusters is not None and match.w_m <= 1.1 * best and match.w_m < 0.5 * match.random_w_m


def test_the_largest_fold_is_limited():
    lonlat = np.concatenate([clustered(parents=1, each=160, seed=1), clustered(parents=10, each=4, seed=2)])
    for largest in (0.4, 0.9):
        fold_n = KNNDM(3, domain_lonlat_m2=domain(), largest=largest).match(lonlat).fold_n
        assert np.bincount(fold_n).max() <= largest * len(lonlat)
    assert np.bincount(fold_n).max() > 0.5 * len(lonlat)  # which the limit of 0.4 has forbidden


@pytest.mark.parametrize("seed", range(3))
def test_a_random_sample_of_the_area_gets_folds_like_random_ones(seed):
    match = KNNDM(domain_lonlat_m2=domain()).match(spread(n=500, seed=seed))
    assert match.w_m <= match.random_w_m * 1.01 < 0.15 * np.mean(match.domain_m)
    assert np.median(match.fold_s) == pytest.approx(np.median(match.sample_s), rel=0.25)
    assert match.clusters is None or match.clusters > 300
    assert "random" in match.notes[0]


def test_a_gap_free_sample_of_the_area_gets_random_folds_and_no_chip_is_its_own_neighbour():
    lon, lat = np.meshgrid(5 + 0.0046 * np.arange(25), 52 + 0.0029 * np.arange(25))
    lattice = np.stack([lon.ravel(), lat.ravel()], 1)
    match = KNNDM(domain_lonlat_m2=lattice).match(lattice)
    assert match.clusters is None and match.domain_m.min() > 300
    assert "folds are random" in match.notes[0] and "hold there and nowhere else" in match.notes[0]
    # a buffer of two chips would take nearly all that random folds train on: compact ones are taken
    kept = KNNDM(domain_lonlat_m2=lattice, buffer_m=800)
    match = kept.match(lattice)
    assert match.clusters is not None and "were it not that the buffer" in match.notes[0]
    assert all(len(train) >= 0.5 * (625 - len(test)) for train, test in kept.split(lattice, groups=lattice))


def test_a_sample_that_is_too_compact_is_said_to_flatter():
    match = KNNDM(domain_lonlat_m2=domain()).match(clustered(parents=1, each=200))
    assert len(match.notes) == 2 and "scores flatter the map" in match.notes[1]
    assert len(KNNDM(domain_lonlat_m2=domain()).match(clustered(parents=30)).notes) == 1


def test_a_thinned_tree_still_matches():
    """Above 3,000 sites the tree stands on some of them."""
    lonlat = clustered(parents=60, each=80)
    match = KNNDM(domain_lonlat_m2=domain()).match(lonlat)
    assert match.w_m < 0.5 * match.random_w_m and np.bincount(match.fold_n).min() > 0.1 * len(lonlat)


# --- does it do what it is for?


def world(seed, parents, each, side=100):
    """Return a map of known truth (lon/lat, inputs, target) and the rows of a sample of it."""
    rng = np.random.default_rng(seed)

    def field(km):
        values = gaussian_filter(rng.normal(size=(side, side)), km, mode="wrap").ravel()
        return (values - values.mean()) / values.std()

    row, col = np.divmod(np.arange(side * side), side)
    lonlat = np.stack([5 + col / 111.195 / np.cos(np.radians(50.45)), 50 + row / 111.195], 1)
    inputs = np.stack([*(field(km) for km in (4, 8, 8, 16, 16)), row / 29, col / 29], 1)
    y = inputs[:, 0] * inputs[:, 1] + inputs[:, 2] + np.sin(2 * inputs[:, 3]) + field(10)
    y += 0.3 * rng.normal(size=side * side)
    if parents is None:
        return lonlat, inputs, y, rng.choice(side * side, 300, replace=False)
    centre = rng.uniform(5, side - 5, (parents, 1, 2))
    sample = np.clip(np.rint(centre + rng.normal(0, 2, (parents, each, 2))), 0, side - 1).astype(int).reshape(-1, 2)
    return lonlat, inputs, y, np.unique(sample[:, 0] * side + sample[:, 1])


def ratios(parents, each, seeds):
    """Return the error that random and kNNDM folds estimate, over the true error of the map, (seeds, 2)."""
    out = []
    for seed in seeds:
        lonlat, inputs, y, rows = world(seed, parents, each)
        model = KNeighborsRegressor(3)
        rest = np.setdiff1d(np.arange(len(y)), rows)
        truth = np.sqrt(np.mean((model.fit(inputs[rows], y[rows]).predict(inputs[rest]) - y[rest]) ** 2))
        folds = ((KFold(5, shuffle=True, random_state=0), None), (KNNDM(domain_lonlat_m2=lonlat), lonlat[rows]))
        guesses = [cross_val_predict(model, inputs[rows], y[rows], cv=cv, groups=groups) for cv, groups in folds]
        out.append([np.sqrt(np.mean((guess - y[rows]) ** 2)) / truth for guess in guesses])
    return np.array(out)


def test_the_error_of_a_map_is_recovered_from_a_clustered_sample():
    """Thirty clusters, 18 seeds: random folds see 0.41 of the true error, kNNDM 0.96 (0.64 to 1.29 by seed).

    One sample is one draw: it is the mean that must be right, and every seed that must be nearer than random.
    """
    random, knndm = ratios(30, 10, range(18)).T
    assert random.mean() < 0.5 and abs(knndm.mean() - 1) < 0.1
    assert (abs(knndm - 1) < abs(random - 1)).all()


def test_very_few_clusters_leave_some_of_the_error_unseen():
    """Twelve clusters, 12 seeds: random folds see 0.28 of the true error, kNNDM 0.87; no fold is as far as the map."""
    random, knndm = ratios(12, 20, range(12)).T
    assert random.mean() < 0.35 and 0.75 < knndm.mean() < 1.05


def test_the_error_of_a_map_is_recovered_from_a_random_sample():
    random, knndm = ratios(None, None, range(4)).T
    assert (abs(knndm - 1) < 0.2).all() and (abs(knndm - random) < 0.15).all()


# --- refusals


@pytest.mark.parametrize(
    ("options", "groups", "told"),
    [
        ({"domain_lonlat_m2": None}, spread(), r"without an area to be mapped .*--for"),
        ({"domain_lonlat_m2": np.empty((0, 2))}, spread(), r"--for"),
        ({"domain_lonlat_m2": np.array([[np.nan, 3.0]])}, spread(), "row 0"),
        ({}, np.full((10, 2), np.nan), "row 0"),
        ({}, spread(n=3), "too few sites to hold out .3, 5 needed"),
        ({}, np.repeat(spread(n=2), 40, axis=0), "too few sites to hold out .2, 5 needed"),
        ({}, None, "no coordinates"),
        ({"buffer_m": 1e6}, clustered(), "keep half of their training points outside the buffer"),
    ],
)
def test_refusals_name_the_value(options, groups, told):
    cv = KNNDM(**({"domain_lonlat_m2": domain()} | options))
    with pytest.raises(HoldoutError, match=told):
        list(cv.split(np.zeros((len(groups) if groups is not None else 5, 3)), groups=groups))


def test_an_inner_holdout_needs_two_sites():
    with pytest.raises(HoldoutError, match="too few sites"):
        KNNDM(domain_lonlat_m2=domain()).inner(np.repeat(spread(n=1), 9, axis=0))
