"""Grids on grids: exact where they fit, smooth where they do not, and the same in every window."""

import numpy as np
import pyproj
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from geoelle.resample import Target, _apply, block_mean, place, sample
from scenes import box_of, unique

SOURCE = box_of(600000, 5000000, 60, 50)


def put(pixels, source, wanted, smooth=True):
    target = Target(wanted)
    return sample(pixels[None].astype(np.float32), place(source, target), tuple(wanted.shape), smooth=smooth)[
        0
    ]


def test_the_same_grid_is_copied_wherever_the_window_lies():
    pixels = unique(SOURCE.shape)
    assert np.array_equal(put(pixels, SOURCE, SOURCE), pixels)
    for west, north in ((599950, 5000030), (600100, 4999900), (600500, 4999600)):
        wanted = box_of(west, north, 20, 20)
        found = put(pixels, SOURCE, wanted)
        row, col = round((5000000 - north) / 10), round((west - 600000) / 10)
        padded = np.pad(pixels.astype(np.float32), 30, constant_values=np.nan)
        expected = padded[row + 30 : row + 50, col + 30 : col + 50]
        assert np.array_equal(found, expected, equal_nan=True)
    assert np.isnan(put(pixels, SOURCE, box_of(700000, 5000000, 5, 5))).all()


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_coarser_grid_that_fits_is_repeated_not_smoothed(parts):
    coarse = box_of(600000, 5000000, 20, 20, gsd_m=10 * parts)
    pixels = unique(coarse.shape)
    found = put(pixels, coarse, box_of(600000, 5000000, 20 * parts, 20 * parts))
    assert np.array_equal(found, np.kron(pixels, np.ones((parts, parts))))
    shifted = put(pixels, coarse, box_of(600010, 4999990, 12, 12))
    assert np.array_equal(shifted, np.kron(pixels, np.ones((parts, parts)))[1:13, 1:13])


def test_a_south_up_source_is_turned():
    pixels = unique((50, 60))
    upside = GeoBox((50, 60), Affine(10, 0, 600000, 0, 10, 4999500), "EPSG:32631")
    assert np.array_equal(put(pixels, upside, SOURCE), pixels[::-1])


def test_half_a_pixel_off_is_the_mean_of_neighbours():
    pixels = unique(SOURCE.shape).astype(np.float32)
    found = put(pixels, SOURCE, box_of(600005, 5000000, 59, 50))
    assert np.allclose(found, (pixels[:, :-1] + pixels[:, 1:]) / 2)
    assert np.array_equal(put(pixels, SOURCE, box_of(600002, 5000000, 59, 50), smooth=False), pixels[:, :59])


def test_missing_pixels_do_not_bleed():
    pixels = np.full(SOURCE.shape, 7.0, np.float32)
    pixels[:, 30:] = np.nan
    found = put(pixels, SOURCE, box_of(600004, 5000000, 58, 50))
    assert (
        np.allclose(found[:, :30], 7) and not np.isnan(found[:, :30]).any() and np.isnan(found[:, 30:]).all()
    )


def test_another_crs_is_exact_to_the_bilinear_value_and_the_same_in_every_window():
    height = width = 400
    source = GeoBox((height, width), Affine(10, 0, 700000, 0, -10, 7000020), "EPSG:32631")
    rows, cols = np.mgrid[:height, :width]
    plane = (cols + 3.0 * rows).astype(np.float32)
    whole = source.to_crs("EPSG:32632", resolution=10)[150:260, 140:270]
    found = put(plane, source, whole)
    x, y = np.meshgrid(*(np.arange(n) + 0.5 for n in whole.shape[::-1]))
    east, north = _apply(whole.affine, x, y)
    west, south = pyproj.Transformer.from_crs(32632, 32631, always_xy=True).transform(east, north)
    exact = (west - 700000) / 10 - 0.5 + 3 * ((7000020 - south) / 10 - 0.5)
    assert np.abs(found - exact).max() < 1e-3
    assert np.array_equal(put(plane, source, whole[20:60, 30:90]), found[20:60, 30:90])


def test_a_rotated_source_lands_where_its_corners_say():
    turned = GeoBox((40, 40), Affine(8.66, 5, 600000, 5, -8.66, 5000000), "EPSG:32631")
    rows, cols = np.mgrid[:40, :40]
    wanted = box_of(599900, 5000100, 60, 60)
    found = put(cols.astype(np.float32), turned, wanted)
    x, y = _apply(wanted.affine, 30.5, 40.5)
    col, row = _apply(~turned.affine, x, y)
    assert found[40, 30] == pytest.approx(col - 0.5, abs=1e-4)
    assert put(rows.astype(np.float32), turned, wanted)[40, 30] == pytest.approx(row - 0.5, abs=1e-4)


def test_what_a_crs_cannot_hold_is_outside():
    degrees = GeoBox((10, 10), Affine(1, 0, 100, 0, -1, 10), "EPSG:4326")
    assert np.isnan(put(unique((10, 10)), degrees, SOURCE)).all()


def test_blocks_average_what_is_valid():
    pixels = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    pixels[0, :2, :2] = np.nan
    pixels[0, 0, 2] = np.nan
    found = block_mean(pixels, 2)[0]
    assert np.isnan(found[0, 0])
    assert found[0, 1] == np.float32(np.mean([3, 8, 9])) and found[1, 2] == np.float32(
        np.mean([16, 17, 22, 23])
    )
    assert block_mean(pixels, 4).shape == (1, 1, 2)
    assert block_mean(pixels, 4)[0, 0, 1] == np.float32(np.mean([4, 5, 10, 11, 16, 17, 22, 23]))
