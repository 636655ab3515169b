"""What is drawn of the log of a training."""

from __future__ import annotations

import io

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from geoelle.errors import FormatError
from geoelle.training_figures import difficulty_ridges, loss_bands

RNG = np.random.default_rng(0)
STEPS = (100, 200, 300, 400)
LOSSES = np.cumsum(RNG.uniform(0.01, 0.1, (4, 5)), axis=1)
PERCENTILES = (5, 25, 50, 75, 95)
EDGES = np.logspace(-2, 1, 13)
DIFFICULTY, TRUE = RNG.integers(0, 40, (2, 4, 12))
R = {"ELLE": (0.9, 0.8, 0.7, 0.8), "pixel ridge": (0.5, 0.6, -0.2, 0.7)}
DRAWN = {
    "training": lambda: loss_bands(STEPS, PERCENTILES, LOSSES, LOSSES.mean(1)),
    "old training": lambda: loss_bands((100, 200), (), np.empty((2, 0)), LOSSES.mean(1)[:2]),
    "ridges": lambda: difficulty_ridges(STEPS, EDGES, DIFFICULTY, TRUE, R),
    "one checkpoint": lambda: difficulty_ridges((5,), EDGES, DIFFICULTY[:1], TRUE[:1], {"ELLE": (0.3,)}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_pictures_that_repeat(name: str) -> None:
    before = dict(matplotlib.rcParams)
    png = DRAWN[name]()
    assert png == DRAWN[name]() and dict(matplotlib.rcParams) == before
    seen = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert min(seen.shape[:2]) > 250 and seen[..., :3].std() > 0.02


def test_difficulty_loss_and_each_null_are_drawn() -> None:
    whole = DRAWN["ridges"]()
    assert difficulty_ridges(STEPS, EDGES, TRUE, TRUE, R) != whole
    assert difficulty_ridges(STEPS, EDGES, DIFFICULTY, DIFFICULTY, R) != whole
    assert difficulty_ridges(STEPS, EDGES, DIFFICULTY, TRUE, R | {"pixel ridge": (0.1,) * 4}) != whole
    assert difficulty_ridges(STEPS, EDGES, DIFFICULTY[::-1], TRUE[::-1], R) != whole


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(FormatError, match="give one row a step"):
        loss_bands((1, 2, 3), PERCENTILES, LOSSES, LOSSES.mean(1))
    for wrong in (
        (STEPS[:3], EDGES, DIFFICULTY, TRUE, R),
        (STEPS, EDGES[1:], DIFFICULTY, TRUE, R),
        (STEPS, EDGES, DIFFICULTY, TRUE[:, 1:], R),
        (STEPS, EDGES, DIFFICULTY, TRUE, {"ELLE": (0.1, 0.2)}),
        (STEPS, EDGES, DIFFICULTY * 0, TRUE * 0, R),
        ((), EDGES, DIFFICULTY[:0], TRUE[:0], {"ELLE": ()}),
    ):
        with pytest.raises(FormatError, match="histograms cannot be drawn from"):
            difficulty_ridges(*wrong)
