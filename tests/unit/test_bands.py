"""The bands of a map are what the probe can tell, and say what they are."""

from dataclasses import replace

import numpy as np
import pytest

from geoelle.applicability import Reach
from geoelle.area import Addresses, Lattice
from geoelle.bands import Bands
from geoelle.dense import PatchScores
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import ProbeError
from geoelle.intervals import Spread
from geoelle.probe import Probe
from geoelle.raster import paint
from geoelle.ridge import Affine

ALWAYS = ("difficulty", "complexity", "excess", "date")

SPACE = dict.fromkeys(("model", "weights_sha256", "pooling", "target", "masking"), "x")


def affine(weights: list[float], intercept: float = 0.0) -> Affine:
    d = len(weights)
    return Affine(weights_d=np.array(weights), intercept=intercept, mean_d=np.zeros(d), scale_d=np.ones(d), alpha=1.0)


@pytest.fixture
def table() -> Embeddings:
    vectors = np.array([[0, 0], [1, 2], [np.nan, np.nan], [40, 0]], np.float32)
    return Embeddings(
        addresses=Addresses(
            lattice=Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16), rows=[-9] * 4, cols=[5, 6, 7, 8]
        ),
        vectors_nd=vectors, features_nf=vectors[:, :1], valid_n=np.array([True, True, False, True]),
        valid_fraction_n=np.array([1, 1, 0.5, 1]), times_n=np.full(4, "2024-06-01", "datetime64[s]"),
        items_n=["a"] * 4, header=Header(space=SPACE, sensor="s", bands=("red",), feature_names=("f",)),
    )  # fmt: skip


@pytest.fixture
def probe() -> Probe:
    embedding = affine([0.1, -0.2], -1.0)
    return Probe(
        embedding=embedding, pixels=affine([0.05]), feature_names=("f",), space={"model": "m"}, smearing=1.5,
        spread=Spread(log_spread=affine([0.0, 0.0]), low=-1.0, high=1.0, alpha=0.2, threshold=0.5),
        reach=Reach(points_md=np.zeros((1, 2), np.float32), counts_m=np.full(1, 7),
                    weights_d=np.abs(embedding.weights_d), mean_distance=0.5, threshold=1.0),
        data={"unit": "ells"}, trust={"sentences": {"interval": "it covers 0.79", "reach": "it ranks"}, "notes": ["n"]},
    )  # fmt: skip


def test_each_band_is_that_of_the_probe(probe: Probe, table: Embeddings):
    bands = Bands(probe=probe)
    found = bands.values(table)
    assert tuple(found) == bands.names == (*ALWAYS, "lower", "upper", "applicable", "dissimilarity", "density")
    assert {values.dtype for values in found.values()} == {np.dtype("f4")}
    log = np.array([-1.0, -1.3, np.nan, 3.0])
    np.testing.assert_allclose(found["difficulty"], np.exp(log), rtol=1e-6)
    np.testing.assert_allclose(found["lower"], np.exp(log - 0.5), rtol=1e-6)
    np.testing.assert_allclose(found["upper"], np.exp(log + 0.5), rtol=1e-6)
    np.testing.assert_allclose(found["dissimilarity"], [0, 2 * np.hypot(0.1, 0.4), np.nan, 8], rtol=1e-6)
    np.testing.assert_array_equal(found["applicable"], [1, 1, np.nan, 0])
    np.testing.assert_array_equal(found["density"], [7, 7, np.nan, 0])
    assert all(np.isnan(values[2]) for values in found.values())


@pytest.mark.parametrize(
    ("without", "names"),
    [
        ({"spread": None}, (*ALWAYS, "applicable", "dissimilarity", "density")),
        ({"reach": None}, (*ALWAYS, "lower", "upper")),
        ({"spread": None, "reach": None, "smearing": None}, ALWAYS),
    ],
)
def test_what_the_probe_lacks_is_no_band(probe: Probe, table: Embeddings, without: dict, names: tuple):
    bands = Bands(probe=replace(probe, **without))
    assert tuple(bands.values(table)) == bands.names == names
    assert ("GEOELLE_INTERVAL" in bands.tags()) == ("lower" in names)
    assert ("GEOELLE_REACH" in bands.tags()) == ("GEOELLE_DENSITY" in bands.tags()) == ("applicable" in names)


def test_a_dense_map_marks_ground_by_the_token_in_the_middle_of_a_chip_and_has_no_interval(probe: Probe):
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=4, stride_px=4)
    away_n = np.array([0.2, np.nan, 1.4], np.float32)
    scores = PatchScores(
        addresses=Addresses(lattice=lattice, rows=np.arange(3), cols=np.zeros(3, int)), probe="p", space={"bands": "r"},
        by_offset_nk=np.zeros((3, 4), np.float32), complexity_n=away_n, dissimilarity_n=away_n, days_n=away_n,
        means_nc=np.zeros((3, 1), np.float32),
    )  # fmt: skip
    bands = Bands(probe=probe, dense=True)
    found = bands.of_patches(scores)
    assert tuple(found) == bands.names == (*ALWAYS, "shift_sd", "offsets", "applicable", "dissimilarity")
    np.testing.assert_array_equal(found["applicable"], [1, np.nan, 0])
    assert set(bands.tags()) == {"GEOELLE_SCALE", "GEOELLE_REACH"} and bands.warnings() == ("it ranks",)
    without = Bands(probe=replace(probe, reach=None), dense=True)
    assert tuple(without.of_patches(scores)) == without.names == (*ALWAYS, "shift_sd", "offsets")


def test_the_mean_loss_takes_the_place_of_the_typical_one_and_says_so(probe: Probe, table: Embeddings):
    typical, expected = Bands(probe=probe), Bands(probe=probe, expected=True)
    a, b = typical.values(table), expected.values(table)
    np.testing.assert_allclose(b["difficulty"], 1.5 * a["difficulty"], rtol=1e-6)
    for name in set(a) - {"difficulty"}:
        np.testing.assert_array_equal(a[name], b[name])
    assert "a typical (median) loss" in typical.tags()["GEOELLE_SCALE"]
    assert "an expected loss, 1.5 times the typical" in expected.tags()["GEOELLE_SCALE"]
    raster = paint(table.addresses, b)
    assert typical.ramps(raster)["difficulty"].label == "typical loss"
    assert expected.ramps(raster)["difficulty"].label == "expected loss"
    with pytest.raises(ProbeError, match="no smearing factor"):
        Bands(probe=replace(probe, smearing=None), expected=True)
    Bands(probe=replace(probe, smearing=None, scale="raw"), expected=True)


def test_tags_say_level_coverage_and_whether_dissimilarity_ranks_errors(probe: Probe):
    tags = Bands(probe=probe).tags()
    assert tags["GEOELLE_INTERVAL"] == "lower, upper: it covers 0.79"
    assert tags["GEOELLE_REACH"] == "it ranks"
    assert tags["GEOELLE_DENSITY"] == (
        "density counts those of 7 chips of the fit within a dissimilarity of 1, each at the nearest of 1 points kept "
        "of them, not compared with errors"
    )
    said = replace(probe, trust={"sentences": {"density": "it tells nothing"}})
    assert Bands(probe=said).tags()["GEOELLE_DENSITY"] == "it tells nothing"
    assert Bands(probe=probe).warnings() == ("it covers 0.79", "it ranks", "n")
    bare = Bands(probe=replace(probe, trust={}))
    assert bare.tags()["GEOELLE_INTERVAL"] == "lower, upper: an interval of 80%, whose coverage was not measured"
    assert "at most 1, not compared with errors" in bare.tags()["GEOELLE_REACH"] and bare.warnings() == ()


def test_units_are_those_of_the_loss(probe: Probe):
    units = Bands(probe=probe).units
    assert (units["lower"], units["upper"], units["excess"]) == ("ells", "ells", "ln")
    assert Bands(probe=replace(probe, scale="raw")).units["excess"] == "ells"
