import io

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from geoelle.errors import FormatError
from geoelle.figures import (
    Score,
    _correlation,
    _frame,
    _groups,
    calibration,
    colormap,
    histogram,
    land,
    places,
    score_bars,
)
from geoelle.style import Ramp

RAMP = Ramp(name="magma", low=-1.0, high=1.0, label="difficulty", unit="ln loss")
RNG = np.random.default_rng(0)


def shape(png: bytes) -> tuple[int, ...]:
    return matplotlib.image.imread(io.BytesIO(png), format="png").shape


def test_figures_are_pictures_that_repeat() -> None:
    x = RNG.normal(size=500)
    y = x + RNG.normal(size=500) * 0.1
    scores = [Score(name="ELLE", r=0.9, low=0.8, high=0.95, is_null=False), Score(name="norm", r=-0.1)]
    lonlat = RNG.uniform(-50, 50, (9, 2))
    for draw in (
        lambda: histogram(np.append(x, np.nan), RAMP),
        lambda: calibration(x, y, label="loss", unit="ln loss"),
        lambda: score_bars(scores, axis_label="r"),
        lambda: places(lonlat, np.append(np.full(8, 0.7), np.nan), RAMP),
    ):
        before = dict(matplotlib.rcParams)
        png = draw()
        assert png == draw()
        assert min(shape(png)[:2]) > 150
        assert dict(matplotlib.rcParams) == before


def test_colours_of_a_ramp_and_of_nodata() -> None:
    colours = colormap(RAMP)(np.array([0.0, 0.5, 1.0, np.nan]))
    assert colours[:3, 3].tolist() == [1, 1, 1]
    assert colours[3].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(colours[1, :3], np.array([0xB7, 0x37, 0x79]) / 255, atol=0.01)


def test_groups_are_equal_and_carry_quartiles() -> None:
    x = np.arange(100.0)[::-1]
    centre, quartiles = _groups(x, 2 * x, 4)
    assert centre.tolist() == [12, 37, 62, 87]
    assert quartiles[1].tolist() == [24, 74, 124, 174]
    assert (quartiles[0] < quartiles[1]).all()
    assert len(_groups(x[:3], x[:3], 12)[0]) == 3


def test_correlation_of_a_constant_is_not_a_number() -> None:
    assert np.isnan(_correlation(np.ones(5), np.arange(5.0)))
    assert _correlation(np.arange(5.0), -np.arange(5.0)) == pytest.approx(-1)


def test_the_frame_holds_every_place() -> None:
    for lonlat in (
        np.array([[10.0, 50.0]]),
        RNG.uniform(-5, 5, (20, 2)),
        np.array([[-179.0, -80.0], [179.0, 85.0]]),
    ):
        west, east, south, north = _frame(lonlat)
        assert west <= lonlat[:, 0].min() <= lonlat[:, 0].max() <= east
        assert south <= lonlat[:, 1].min() <= lonlat[:, 1].max() <= north


def test_land_is_on_the_earth_and_closed() -> None:
    rings = land()
    assert len(rings) > 100
    assert all((ring[0] == ring[-1]).all() and np.abs(ring).max() <= 180 for ring in rings)


def test_nothing_to_draw_is_said() -> None:
    nothing = np.full(3, np.nan)
    with pytest.raises(FormatError, match="no finite value of difficulty"):
        histogram(nothing, RAMP)
    with pytest.raises(FormatError, match="no finite value of loss"):
        calibration(nothing, np.ones(3), label="loss", unit="")
    with pytest.raises(FormatError, match="no score"):
        score_bars([], axis_label="r")
    with pytest.raises(FormatError, match="give one score a place"):
        places(np.zeros((3, 2)), np.zeros(2), RAMP)


def test_figures_look_the_same_whatever_the_user_set(tmp_path) -> None:
    values = np.random.default_rng(0).normal(size=500)
    ramp = Ramp.diverging(values, label="x", unit="")
    before, mine = histogram(values, ramp), {"axes.grid": True, "font.size": 20, "figure.constrained_layout.use": True}
    with matplotlib.rc_context(mine):
        assert histogram(values, ramp) == before
        assert all(matplotlib.rcParams[name] == value for name, value in mine.items())
