"""Figures of folds: pictures that repeat, show what they are given, and refuse what cannot be drawn."""

import io

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from geoelle.errors import FormatError
from geoelle.fold_figures import _COLOURS, _around, _degrees, _frame, _middle_lon, distances, fold_map

RNG = np.random.default_rng(0)
LONLAT = RNG.uniform((4, 51), (5, 52), (300, 2))
DOMAIN = RNG.uniform((3, 50), (6, 53), (500, 2))
FOLD = RNG.integers(0, 5, 300)
METRES = RNG.gamma(2, 900, (3, 400))


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def has(image: np.ndarray, colour: str) -> int:
    wanted = np.array(matplotlib.colors.to_rgb(colour))
    return int((np.abs(image - wanted).max(2) < 0.02).sum())


def test_figures_are_pictures_that_repeat() -> None:
    for draw in (
        lambda: fold_map(LONLAT, FOLD, DOMAIN),
        lambda: fold_map(LONLAT[:1], FOLD[:1]),
        lambda: fold_map(np.tile(LONLAT, (100, 1)), np.tile(FOLD, 100)),
        lambda: distances(*METRES, 812.0),
        lambda: distances(np.zeros(3), METRES[1], METRES[2], 0.0),
    ):
        before = dict(matplotlib.rcParams)
        png = draw()
        assert png == draw() and min(pixels(png).shape[:2]) > 150
        assert dict(matplotlib.rcParams) == before


def test_each_fold_has_its_colour_and_the_area_is_grey() -> None:
    image = pixels(fold_map(LONLAT, FOLD, DOMAIN))
    assert all(has(image, colour) > 200 for colour in _COLOURS[:5])
    assert not any(has(image, colour) > 20 for colour in _COLOURS[5:])
    assert has(image, "#c9ccd1") > 300 > 50 > has(pixels(fold_map(LONLAT, FOLD)), "#c9ccd1")
    many = fold_map(LONLAT, np.arange(300) % 30)  # colours are used again
    assert all(has(pixels(many), colour) > 100 for colour in _COLOURS)


def test_ground_across_the_antimeridian_hangs_together() -> None:
    lonlat = np.array([[179.9, 1.0], [-179.9, 1.2], [179.8, 1.1]])
    around = _around(lonlat, _middle_lon(lonlat[:, 0]))
    assert np.ptp(around[:, 0]) == pytest.approx(0.3)
    low, high = _frame(around)
    assert (around > low).all() and (around < high).all()
    assert _degrees(180.2, "WE") == "179.8°W" and _degrees(-0.5, "SN") == "0.5°S" and _degrees(0.0, "WE") == "0°"


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda: fold_map(LONLAT, FOLD[:9]), "give one fold a chip"),
        (lambda: fold_map(np.empty((0, 2)), np.empty(0, int)), "give one fold a chip"),
        (lambda: distances(METRES[0], METRES[1], np.append(METRES[2], np.inf), 1.0), "held out to training cannot"),
        (lambda: distances(METRES[0], np.empty(0), METRES[2], 1.0), "area to be mapped to sample cannot be drawn"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, told) -> None:
    with pytest.raises(FormatError, match=told):
        draw()
