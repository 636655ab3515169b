"""Pixel features: names, known pictures, missing pixels, units, the batch, water, uniform ground, speed."""

import doctest
import time
import zlib

import numpy as np
import pytest

from geoelle import complexity
from geoelle.complexity import feature_names, features, is_uniform_b, is_water_b
from geoelle.errors import InputMismatch

TEN = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")


def ground(n=6, px=32, bands=TEN, seed=0, rough=0.01):
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(n, len(bands), px, px)).cumsum(-1).cumsum(-2)
    field /= field.std((2, 3), keepdims=True)
    return (0.25 + 0.03 * field + rough * rng.normal(size=field.shape)).astype(np.float32)


def column(table, bands, name):
    return table[:, feature_names(bands).index(name)]


@pytest.mark.parametrize("bands", [TEN, ("red",), ("red", "green", "blue", "nir"), ("vv", "vh")])
@pytest.mark.parametrize("px", [8, 33, 64])
def test_names_match_columns_and_every_value_is_finite(bands, px):
    pixels = ground(5, px, bands) * (-40 if "vv" in bands else 1)
    table = features(pixels, bands)
    assert table.shape == (5, len(feature_names(bands)))
    assert table.dtype == np.float64
    assert np.isfinite(table).all()
    assert len(set(feature_names(bands))) == len(feature_names(bands))
    assert len(feature_names(TEN)) >= 30


def test_black_chips_are_finite_too():
    assert np.isfinite(features(np.zeros((2, 10, 16, 16), np.float32), TEN)).all()


def test_the_batch_changes_no_number():
    pixels = ground(70)
    whole = features(pixels, TEN)
    one_by_one = np.concatenate([features(chip[None], TEN) for chip in pixels])
    np.testing.assert_array_equal(whole, one_by_one)
    assert features(pixels[:0], TEN).shape == (0, len(feature_names(TEN)))


def test_known_pictures():
    y, x = np.mgrid[:32, :32].astype(np.float32)
    ramp = 0.1 + 0.01 * x
    board = 0.2 + 0.1 * ((x + y) % 2)
    rng = np.random.default_rng(0)
    noise = 0.2 + 0.03 * rng.normal(size=(32, 32)).astype(np.float32)
    table = features(np.stack([ramp, board, noise])[:, None], ("red",))
    mean, var = column(table, ("red",), "mean_red"), column(table, ("red",), "log_var_red")
    np.testing.assert_allclose(mean, [ramp.mean(), 0.25, noise.mean()], rtol=1e-5)
    np.testing.assert_allclose(np.exp(var), [ramp.var(), 0.0025, noise.var()], rtol=1e-3)
    np.testing.assert_allclose(np.exp(column(table, ("red",), "log_grad_red"))[:2], [0.005, 0.1], rtol=0.01)
    np.testing.assert_allclose(np.exp(column(table, ("red",), "log_range_red"))[:2], [0.31, 0.1], rtol=0.01)
    in_2px, in_8px = (np.exp(column(table, ("red",), f"log_var_in_{s}px")) for s in (2, 8))
    np.testing.assert_allclose(in_2px[:2], [0.01**2 / 4, 0.0025], rtol=0.01)
    np.testing.assert_allclose(in_8px[0], 0.01**2 * (8**2 - 1) / 12, rtol=0.01)
    slope = column(table, ("red",), "spectral_slope")
    assert slope[0] < -2
    assert abs(slope[2]) < 0.5
    anisotropy = column(table, ("red",), "grad_anisotropy")
    assert anisotropy[0] > 3
    assert abs(anisotropy[2]) < 0.3
    np.testing.assert_allclose(column(table, ("red",), "edge_density")[:2], [0, 1])
    entropy = column(table, ("red",), "entropy_relative")
    np.testing.assert_allclose(entropy[:2], [5, 1], atol=1e-6)


def test_rougher_ground_has_more_of_everything_rough():
    smooth, rough = features(ground(rough=0.001), TEN), features(ground(rough=0.03), TEN)
    for name in ("log_grad_red", "log_var_in_2px", "spectral_slope", "high_frequency_share", "edge_density",
                 "log_deflate_absolute", "log_deflate_relative"):  # fmt: skip
        assert (column(rough, TEN, name) > column(smooth, TEN, name)).all(), name


def test_deflate_size_is_that_of_zlib():
    chip = ground(1, bands=("red",))
    q = np.clip(chip / 0.004, 0, 255).astype(np.uint8)[0]
    delta = np.diff(q, axis=-1, prepend=np.uint8(0))
    expected = np.log(len(zlib.compress(delta.tobytes(), 1)) / delta.size)
    found = column(features(chip, ("red",)), ("red",), "log_deflate_absolute")[0]
    assert found == pytest.approx(expected, abs=0.02)


def test_bands_that_agree_have_one_effective_band():
    base = ground(1, bands=("red",))
    same = np.concatenate([base, base * 1.5], 1)
    other = np.concatenate([base, ground(1, bands=("red",), seed=9)], 1)
    bands = ("red", "nir")
    agree, differ = features(same, bands), features(other, bands)
    assert column(agree, bands, "band_corr_mean")[0] == pytest.approx(1, abs=1e-3)
    assert column(agree, bands, "log_band_rank")[0] == pytest.approx(0, abs=1e-3)
    assert column(differ, bands, "log_band_rank")[0] > 0.2


def test_missing_pixels_take_the_mean_of_their_band():
    pixels = ground(3)
    holed = pixels.copy()
    holed[0, 2, :5, :5] = np.nan
    filled = holed.copy()
    filled[0, 2, :5, :5] = np.nanmean(holed[0, 2])
    np.testing.assert_allclose(features(holed, TEN), features(filled, TEN), rtol=1e-5, atol=1e-6)
    holed[1, 4] = np.nan
    table = features(holed, TEN)
    assert np.isnan(table[1]).all()
    assert np.isfinite(table[[0, 2]]).all()
    np.testing.assert_array_equal(np.isnan(pixels), False)


def test_frames_are_averaged_and_their_change_is_told():
    a, b = ground(4), ground(4, seed=1)
    still = features(np.stack([a, a], 1), TEN)
    np.testing.assert_allclose(still, features(a, TEN), rtol=1e-6)
    moved = features(np.stack([a, b], 1), TEN)
    mean = 0.5 * (features(a, TEN) + features(b, TEN))
    change = feature_names(TEN).index("log_frame_change")
    np.testing.assert_allclose(np.delete(moved, change, 1), np.delete(mean, change, 1), rtol=1e-6)
    np.testing.assert_allclose(np.exp(moved[:, change]), np.abs(a - b).mean((1, 2, 3)) + 1e-5, rtol=1e-4)


def test_water_and_uniform_chips_are_told_apart():
    pixels = np.repeat(ground(4, bands=("all",)), 10, axis=1)
    at = {band: i for i, band in enumerate(TEN)}
    water = pixels * np.float32(0.02)
    water[:, at["green"]] += 0.05
    snow = np.full_like(pixels, 0.8)
    snow[:, at["nir"]] = 0.7
    table = features(np.concatenate([pixels, water, snow]), TEN)
    names = feature_names(TEN)
    assert is_water_b(table, names).tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert is_uniform_b(table, names).tolist() == [False] * 4 + [True] * 4 + [True] * 4
    np.testing.assert_array_equal(is_water_b(table.astype(np.float32), names), is_water_b(table, names))
    assert not is_water_b(features(pixels[:, :1], ("blue",)), feature_names(("blue",))).any()


def test_radar_thresholds_are_decibels():
    rng = np.random.default_rng(0)
    calm = rng.normal(-22, 1, (1, 2, 32, 32)).astype(np.float32)
    city = rng.normal(-8, 5, (1, 2, 32, 32)).astype(np.float32)
    table, names = features(np.concatenate([calm, city]), ("vv", "vh")), feature_names(("vv", "vh"))
    assert is_water_b(table, names).tolist() == [True, False]
    assert is_uniform_b(table, names).tolist() == [True, False]


@pytest.mark.parametrize(
    ("shape", "bands"), [((2, 10, 32, 32), TEN[:9]), ((2, 10, 7, 32), TEN), ((10, 32, 32), TEN)]
)
def test_refusals_name_the_shape(shape, bands):
    with pytest.raises(InputMismatch, match=str(shape[-2])):
        features(np.zeros(shape, np.float32), bands)


@pytest.mark.slow
def test_speed_leaves_room_for_the_encoder():
    pixels = ground(512)
    features(pixels[:64], TEN)
    start = time.process_time()
    features(pixels, TEN)
    assert 512 / (time.process_time() - start) > 500  # measured near 1,900 a second on one core


def test_the_printed_names_are_true():
    assert doctest.testmod(complexity).failed == 0
