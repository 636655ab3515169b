"""Measures of chips: right order on known embeddings, percentiles by their definition, and lists without overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pyproj import Transformer

from geoelle.area import Addresses, Lattice
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import ProbeError, ReadError, SpaceMismatch
from geoelle.measures import Distance, Measures, most_apart, percentiles, surprise
from geoelle.probe import Affine, Probe

SPACE = {"model": "m", "weights_sha256": "w", "pooling": "p", "target": "loss:x", "masking": "k"}
LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)


def affine(*weights: float) -> Affine:
    count = len(weights)
    return Affine(weights_d=np.array(weights), intercept=0.0, mean_d=np.zeros(count), scale_d=np.ones(count), alpha=1.0)


def made(
    vectors_nd: np.ndarray, *, lattice: Lattice = LATTICE, cols: np.ndarray | None = None, valid: object = None, **more
) -> Embeddings:
    """Return embeddings along one row of the lattice."""
    count = len(vectors_nd)
    return Embeddings(
        addresses=Addresses(
            lattice=lattice, rows=np.full(count, -31_250), cols=np.arange(count) + 3_125 if cols is None else cols
        ),
        vectors_nd=np.asarray(vectors_nd, np.float32),
        valid_n=np.ones(count, bool) if valid is None else valid,
        valid_fraction_n=np.ones(count),
        times_n=np.full(count, "2024-06-01", "datetime64[s]"),
        items_n=["item"] * count,
        header=Header(space=SPACE, sensor="s", bands=("red",), feature_names=("f",) if "features_nf" in more else ()),
        **more,
    )


PROBE = Probe(embedding=affine(1.0, 0.0), space=SPACE, pixels=affine(1.0), feature_names=("f",))
VECTORS = np.random.default_rng(0).normal(size=(40, 2))


# --- the measures


def test_every_measure_is_what_its_definition_says():
    loss_n = np.exp(np.linspace(-1, 1, 40))
    table = made(VECTORS, loss_n=loss_n, features_nf=VECTORS[:, 1:].astype(np.float32))
    found = Measures.of([table], PROBE)
    raw_n = VECTORS[:, 0].astype(np.float32)
    np.testing.assert_allclose(found.difficulty_n, np.exp(raw_n), rtol=1e-6)
    np.testing.assert_allclose(found.excess_n, np.log(found.difficulty_n / found.complexity_n), atol=1e-5)
    np.testing.assert_allclose(found.residual_n, np.log(loss_n) - raw_n, atol=1e-6)
    assert found.known == ("difficulty", "complexity", "excess", "loss", "residual", "surprise")


def test_a_residual_on_the_raw_scale_is_a_difference():
    table = made(VECTORS, loss_n=np.linspace(-1, 1, 40))
    found = Measures.of([table], replace(PROBE, scale="raw"))
    np.testing.assert_allclose(found.residual_n, np.linspace(-1, 1, 40) - VECTORS[:, 0], atol=1e-6)


def test_invalid_chips_are_no_part_of_anything():
    valid_n = np.arange(40) % 2 == 0
    vectors_nd = np.where(valid_n[:, None], VECTORS, np.nan)
    found = Measures.of([made(vectors_nd, valid=valid_n)], PROBE)
    np.testing.assert_array_equal(found.surprise_n, surprise(VECTORS[valid_n].astype(np.float32)))
    table, row = found.at(3)
    assert str(table.addresses[row]).endswith("/c3131")


def test_what_cannot_be_told_is_named():
    found = Measures.of([made(VECTORS)], PROBE)
    assert found.known == ("difficulty", "surprise")
    with pytest.raises(ProbeError, match=r"no residual .*embed it with --loss"):
        found.values("residual")
    with pytest.raises(ProbeError, match=r"no excess .*pixel part"):
        found.values("excess")


def test_a_loss_that_is_missing_has_no_residual():
    loss_n = np.where(np.arange(40) == 7, np.nan, 1.0)
    found = Measures.of([made(VECTORS, loss_n=loss_n)], PROBE)
    assert np.flatnonzero(np.isnan(found.residual_n)).tolist() == [7]
    assert 7 not in most_apart(found, found.residual_n, top=40)


def test_bad_tables_are_refused():
    with pytest.raises(SpaceMismatch, match="model"):
        Measures.of([made(VECTORS)], replace(PROBE, space={**SPACE, "model": "other"}))
    with pytest.raises(SpaceMismatch, match="features"):
        Measures.of([made(VECTORS, features_nf=VECTORS[:, :1])], replace(PROBE, feature_names=("g",)))
    with pytest.raises(ReadError, match="none has enough valid pixels"):
        Measures.of([made(VECTORS * np.nan, valid=np.zeros(40, bool))], PROBE)
    with pytest.raises(ProbeError, match="1 valid chips"):
        Measures.of([made(VECTORS[:1])], PROBE)


# --- surprise


def test_surprise_is_the_mahalanobis_distance_where_chips_are_many():
    rng = np.random.default_rng(1)
    x_nd = rng.normal(size=(20_000, 3)) @ np.array([[5, 1, 0], [0, 1, 2], [0, 0, 30.0]]) + 100
    away_nd = x_nd - x_nd.mean(axis=0)
    exact_n = np.sqrt(np.einsum("nd,de,ne->n", away_nd, np.linalg.inv(np.cov(x_nd.T)), away_nd))
    np.testing.assert_allclose(surprise(x_nd), exact_n, rtol=0.01)


def test_surprise_stands_with_more_dimensions_than_chips_and_finds_the_odd_one():
    x_nd = np.random.default_rng(2).normal(size=(30, 200))
    x_nd[11] *= 3
    found_n = surprise(x_nd)
    assert np.isfinite(found_n).all() and found_n.argmax() == 11


def test_surprise_knows_no_units_and_no_constants():
    x_nd = np.random.default_rng(3).normal(size=(100, 5))
    wide_nd = np.column_stack([x_nd * [1, 1e3, 1e-3, 7, 1], np.full(100, 5.0)])
    np.testing.assert_allclose(surprise(wide_nd), surprise(x_nd), rtol=1e-9)
    np.testing.assert_array_equal(surprise(np.ones((4, 3))), np.zeros(4))


def test_a_distance_is_of_what_it_learnt_from():
    x_nd = np.random.default_rng(4).normal(size=(500, 3))
    known = Distance.of(x_nd)
    np.testing.assert_allclose(known(x_nd), surprise(x_nd))
    assert known(x_nd[:1] + 50)[0] > known(x_nd).max()


# --- percentiles and lists


def test_percentiles_are_midranks():
    np.testing.assert_allclose(percentiles(np.array([10.0, 30, 20, 20])), [12.5, 87.5, 50, 50])
    np.testing.assert_allclose(percentiles(np.array([np.nan, 1.0])), [np.nan, 50])
    found_n = percentiles(np.random.default_rng(0).permutation(1_000).astype(float))
    assert (found_n > 95).sum() == 50 and found_n.min() > 0 and found_n.max() < 100


def measured(cols: np.ndarray, lattice: Lattice = LATTICE) -> Measures:
    return Measures.of([made(np.random.default_rng(0).normal(size=(len(cols), 2)), cols=cols, lattice=lattice)], PROBE)


def test_no_chip_of_a_list_overlaps_a_better_one():
    found = measured(np.arange(9))
    chosen = most_apart(found, np.array([0, 1, 8, 9, 7, 6, 3, 2, 4.0]), top=9)
    assert chosen.tolist() == [3, 5, 8, 1]  # 32 px chips every 16 px: neighbours overlap, every second one does not
    assert most_apart(found, np.array([0, 1, 8, 9, 7, 6, 3, 2, 4.0]), top=2).tolist() == [3, 5]
    lowest = most_apart(found, np.array([0, 1, 8, 9, 7, 6, 3, 2, 4.0]), top=2, highest=False)
    assert lowest.tolist() == [0, 7]


def test_chips_side_by_side_do_not_overlap():
    found = measured(np.arange(5), Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=32))
    assert most_apart(found, np.arange(5.0), top=9).tolist() == [4, 3, 2, 1, 0]


def test_equal_values_keep_the_order_of_the_run_and_nan_is_never_chosen():
    found = measured(np.arange(8))
    assert most_apart(found, np.zeros(8), top=3).tolist() == [0, 2, 4]
    assert most_apart(found, np.full(8, np.nan), top=3).tolist() == []


def test_chips_of_two_zones_overlap_where_they_are_near():
    west = made(VECTORS[:2], lattice=LATTICE, cols=np.array([4_700, 4_000]))
    lon, lat = west.addresses.lonlat_n2[0]
    other = Lattice(epsg=32632, gsd_m=10, size_px=32, stride_px=16)
    x, y = Transformer.from_crs(4326, 32632, always_xy=True).transform(lon, lat)
    near = Addresses(lattice=other, rows=np.array([round(-y / 160), round(-y / 160)]), cols=np.array(
        [round(x / 160), round(x / 160) + 6]))  # fmt: skip
    east = replace(made(VECTORS[2:4]), addresses=near)
    found = Measures.of([west, east], PROBE)
    assert most_apart(found, np.array([4.0, 3, 2, 1]), top=4).tolist() == [0, 1, 3]
