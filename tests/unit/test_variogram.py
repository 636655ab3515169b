"""The variogram of residuals: pairs against a plain count, ranges of fields that are known, and what has none."""

import numpy as np
import pytest

from geoelle.errors import HoldoutError
from geoelle.variogram import PAIRS, autocorrelation_range_m

KM = 111.195


def fields(range_km, *, nugget=0.2, n=450, places=3, seed=0, side_km=40.0):
    """Return Gaussian fields with a spherical covariance at places far apart: lon/lat, values, place."""
    rng = np.random.default_rng(seed)
    lonlat, values = [], []
    for place in range(places):
        xy = rng.uniform(0, side_km, (n, 2))
        part = np.minimum(np.linalg.norm(xy[:, None] - xy, axis=2) / range_km, 1)
        covariance = (1 - nugget) * (1 - 1.5 * part + 0.5 * part**3) + (nugget + 1e-9) * np.eye(n)
        values.append(np.linalg.cholesky(covariance) @ rng.normal(size=n) + 3 * place)
        lat = 50 + 2 * place
        lonlat.append(np.stack([5 + xy[:, 0] / KM / np.cos(np.radians(lat)), lat + xy[:, 1] / KM], 1))
    return np.concatenate(lonlat), np.concatenate(values), np.repeat(np.arange(places), n)


@pytest.mark.parametrize("range_km", [4.0, 12.0])
def test_a_known_range_is_found(range_km):
    """By seed within 45%, the median of five within 20%: one field is one draw."""
    found = [autocorrelation_range_m(*fields(range_km, seed=seed)) for seed in range(5)]
    ranges = np.array([v.range_m / 1000 / range_km for v in found])
    assert all(v.measured and "alike up to" in v.note for v in found)
    assert (abs(np.log(ranges)) < np.log(1.5)).all() and abs(np.median(ranges) - 1) < 0.2
    assert np.median([v.sill for v in found]) == pytest.approx(1, abs=0.15)
    assert np.median([v.nugget for v in found]) == pytest.approx(0.2, abs=0.12)


def test_the_wider_field_has_the_wider_range():
    near, far = (autocorrelation_range_m(*fields(km, seed=7)).range_m for km in (3.0, 12.0))
    assert far > 2 * near


def test_semivariances_are_those_of_all_pairs_where_these_are_few():
    lonlat, values, place = fields(6, n=60)
    found = autocorrelation_range_m(lonlat, values, place)
    lon, lat = np.radians(lonlat).T
    cosine = np.sin(lat[:, None]) * np.sin(lat) + np.cos(lat[:, None]) * np.cos(lat) * np.cos(lon[:, None] - lon)
    i, j = np.triu_indices(len(values), 1)
    same = place[i] == place[j]
    apart = 6_371_008.8 * np.arccos(np.minimum(cosine[i, j], 1))
    square = (values[i] - values[j]) ** 2 / 2
    step = found.lag_m[-1] / found.lag_m[-2]
    for lag, gamma, pairs in zip(found.lag_m, found.gamma, found.pairs, strict=True):
        inside = same & (apart > lag / step) & (apart < lag * step)
        assert pairs <= inside.sum()
        assert square[inside].min() <= gamma <= square[inside].max()
    widest = same & (apart <= found.lag_m[-1] * step)
    assert found.pairs.sum() <= widest.sum() and found.pairs.sum() > 0.5 * widest.sum()


def test_pairs_of_two_places_do_not_count():
    """Places differ by 30 in level: one pair across them would lift every lag."""
    lonlat, values, place = fields(6, n=200, places=2)
    near = lonlat - np.where(place == 1, 1.9, 0)[:, None] * [0, 1]  # the second place half over the first
    found = autocorrelation_range_m(near, values + 30 * place, place)
    assert found.gamma.max() < 3
    assert autocorrelation_range_m(near, values + 30 * place).gamma.max() > 30


def test_pairs_are_capped_and_seeded():
    lonlat, values, place = fields(6, n=900, places=2)
    one, two = (autocorrelation_range_m(lonlat, values, place, seed=seed) for seed in (0, 0))
    assert one.pairs.max() < 1.5 * PAIRS
    np.testing.assert_array_equal(one.gamma, two.gamma)
    assert autocorrelation_range_m(lonlat, values, place, seed=1).gamma.tolist() != one.gamma.tolist()


def test_noise_has_no_range():
    """The test for shuffled residuals errs in one of twenty fields."""
    found = [autocorrelation_range_m(*fields(5, nugget=1.0, n=120, seed=seed)) for seed in range(20)]
    assert sum(v.measured for v in found) <= 3
    none = next(v for v in found if not v.measured)
    assert "pure nugget" in none.note and np.isnan([none.range_m, none.sill, none.nugget]).all() and none.model == ""


def test_a_slope_has_no_end():
    lonlat, _, place = fields(5, n=200, places=1)
    found = autocorrelation_range_m(lonlat, lonlat[:, 0], place)
    assert found.measured and found.range_m == found.lag_m[-1] and "more than" in found.note


@pytest.mark.parametrize(
    ("n", "values"), [(1, "noise"), (4, "noise"), (9, "noise"), (60, "one site"), (300, "constant")]
)
def test_what_has_too_little_to_measure(n, values):
    lonlat, residual, place = fields(5, n=n, places=1)
    lonlat = np.tile(lonlat[:1], (n, 1)) if values == "one site" else lonlat
    residual = np.full(n, 0.7) if values == "constant" else residual
    found = autocorrelation_range_m(lonlat, residual, place)
    assert not found.measured and ("too few pairs" in found.note) == (values != "constant")


def test_ground_across_the_date_line_is_one():
    lonlat, values, place = fields(8, places=1)
    moved = lonlat.copy()
    moved[:, 0] = (lonlat[:, 0] + 174.8 + 180) % 360 - 180
    assert (moved[:, 0] < 0).any() and (moved[:, 0] > 0).any()
    assert autocorrelation_range_m(moved, values, place).range_m == pytest.approx(
        autocorrelation_range_m(lonlat, values, place).range_m, rel=1e-3
    )


@pytest.mark.parametrize("broken", ["nan", "short", "places"])
def test_refusals(broken):
    lonlat, values, place = fields(5, n=30, places=1)
    values = {"nan": np.where(np.arange(30) == 3, np.nan, values), "short": values[:9]}.get(broken, values)
    with pytest.raises(HoldoutError, match="pass one finite number a chip"):
        autocorrelation_range_m(lonlat, values, place[:5] if broken == "places" else place)
