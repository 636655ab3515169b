from __future__ import annotations

import io
import zlib

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from geoelle.bootstrap import Interval
from geoelle.diagnostic_figures import (
    _spaced,
    block_map,
    coverage_curve,
    dimension_curves,
    error_over_density,
    error_over_dissimilarity,
    scaling_curves,
)
from geoelle.diagnostics import Curve
from geoelle.errors import FormatError

RNG = np.random.default_rng(0)
SIZES = (50, 100, 200, 400)


def curve(name: str, r: list[float]) -> Curve:
    intervals = tuple(Interval(value=v, low=v - 0.1, high=v + 0.1) for v in r)
    return Curve(name=name, r=intervals, r2=intervals)


CURVES = (curve("ELLE", [0.2, 0.5, 0.7, 0.8]), curve("pixel ridge", [float("nan"), -0.9, 0.3, 0.7]))
LONLAT = RNG.uniform((4.0, 52.0), (4.2, 52.1), (90, 2))
PLACE = np.repeat(np.arange(9), 10)
R, BIAS = np.append(RNG.uniform(0, 1, 8), np.nan), RNG.normal(size=9)
DRAWN = {
    "scaling": lambda: scaling_curves(SIZES, (3, 6, 12, 24), CURVES, units=("chips", "blocks")),
    "dimensions": lambda: dimension_curves((1, 2, 4, 7), CURVES),
    "coverage": lambda: coverage_curve([(0.9, 0.85, 0.8, 0.9), (0.5, 0.52, 0.4, 0.6)]),
    "blocks": lambda: block_map(LONLAT, PLACE, R, BIAS, unit="ln loss"),
    "places of the world": lambda: block_map(LONLAT * [20, 1], PLACE, R, BIAS, unit="ln loss"),
    "one chip": lambda: block_map(LONLAT[:1], PLACE[:1], R[:1], BIAS[:1], unit=""),
}


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_pictures_that_repeat(name: str) -> None:
    before = dict(matplotlib.rcParams)
    png = DRAWN[name]()
    assert png == DRAWN[name]()
    assert dict(matplotlib.rcParams) == before
    seen = pixels(png)
    assert min(seen.shape[:2]) > 250 and seen[..., :3].std() > 0.02


def test_what_is_drawn_depends_on_the_values() -> None:
    other = (CURVES[0], curve("pixel ridge", [0.1, 0.2, 0.3, 0.75]))
    drawn = [scaling_curves(SIZES, (3, 6, 12, 24), c, units=("chips", "blocks")) for c in (CURVES, other)]
    assert zlib.crc32(drawn[0]) != zlib.crc32(drawn[1])
    assert block_map(LONLAT, PLACE, R, BIAS, unit="") != block_map(LONLAT, PLACE, R, -BIAS, unit="")


def test_a_residual_above_zero_is_red_to_the_right_and_below_it_blue() -> None:
    at = np.stack([np.linspace(4.0, 4.1, 40), np.full(40, 52.0)], 1)
    place = np.repeat([0, 1], 20)
    seen = pixels(block_map(at, place, np.ones(2), np.array([-1.0, 1.0]), unit=""))[..., :3]
    panel = seen[: int(seen.shape[0] * 0.7), seen.shape[1] // 2 :]
    red, blue = (panel[..., 0] > 0.3) & (panel[..., 2] < 0.2), (panel[..., 2] > 0.3) & (panel[..., 0] < 0.1)
    assert red.any() and blue.any()
    assert np.nonzero(red)[1].mean() > np.nonzero(blue)[1].mean()


def test_labels_keep_their_distance() -> None:
    assert _spaced((1, 2, 4, 8, 16)) == [0, 1, 2, 3, 4]
    assert _spaced((10, 990, 1_000)) == [0, 2]


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(FormatError, match="do not match 3 sizes"):
        scaling_curves(SIZES[:3], (1, 2, 3), CURVES, units=("chips", "blocks"))
    with pytest.raises(FormatError, match="none"):
        dimension_curves((1, 2), ())
    with pytest.raises(FormatError, match="no coverage"):
        coverage_curve([])
    with pytest.raises(FormatError, match="a map of blocks"):
        block_map(LONLAT, PLACE, R[:3], BIAS[:3], unit="")


def test_error_over_density_has_room_for_ground_without_any() -> None:
    rng = np.random.default_rng(0)
    density_n, error_n = rng.integers(0, 300, 80).astype(float), rng.exponential(0.1, 80)
    density_n[:30] = 0
    drawn = error_over_density(density_n, error_n, [(0.0, 0.1), (120.0, 0.12)], unit="ln")
    assert drawn != error_over_density(density_n + 1, error_n, [(0.0, 0.1), (120.0, 0.12)], unit="ln")
    assert error_over_density(np.zeros(80), error_n, [(0.0, 0.1)], unit="").startswith(b"\x89PNG")
    with pytest.raises(FormatError, match=r"no error to draw from \(80,\) densities and \(40,\) errors"):
        error_over_density(density_n, error_n[:40], [(0.0, 0.1)], unit="")


def test_error_over_dissimilarity_needs_a_pair_a_chip() -> None:
    rng = np.random.default_rng(0)
    apart_n, error_n = rng.uniform(0.05, 0.4, 80), rng.exponential(0.1, 80)
    drawn = error_over_dissimilarity(apart_n, error_n, [(0.1, 0.1), (0.3, 0.12)], 0.25, unit="ln")
    assert drawn.startswith(b"\x89PNG")
    for broken in (error_n[:40], np.full(80, np.nan)):
        with pytest.raises(FormatError, match="no error to draw from"):
            error_over_dissimilarity(apart_n, broken, [(0.1, 0.1)], 0.25, unit="")
