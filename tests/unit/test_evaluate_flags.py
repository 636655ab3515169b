"""The faults of scripts/evaluate_flags.py do what they say, and its AUROC is scikit-learn's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import evaluate_flags
    finally:
        sys.path.remove(str(SCRIPTS))
    return evaluate_flags


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.05, 0.4, (40, 1, 3, 32, 32)).astype(np.float32)


def test_auroc_is_that_of_scikit_learn(script):
    rng = np.random.default_rng(1)
    faulty_n, clean_m = rng.normal(1, 1, 200).round(1), rng.normal(0, 1, 300).round(1)
    draws = script.auroc_draws(faulty_n, rng.integers(0, 8, 200), clean_m, rng.integers(0, 9, 300))
    truth = roc_auc_score(np.r_[np.ones(200), np.zeros(300)], np.r_[faulty_n, clean_m])
    assert draws[0] == pytest.approx(truth) and len(draws) == 1 + script.DRAWS
    assert abs(draws[1:].mean() - truth) < 0.02


def test_intervals_redraw_blocks_and_not_chips(script):
    faulty_n = np.repeat(np.random.default_rng(2).normal(1, 1, 10), 50)  # ten blocks, all chips of a block alike
    clean_m = np.repeat(np.random.default_rng(3).normal(0, 1, 10), 50)
    blocks_n = np.repeat(np.arange(10), 50)
    together = script.auroc_draws(faulty_n, blocks_n, clean_m, blocks_n)[1:].std()
    apart = script.auroc_draws(faulty_n, np.arange(500), clean_m, np.arange(500))[1:].std()
    assert together > 3 * apart


def test_no_fault_touches_what_it_was_given(script, pixels: np.ndarray):
    before = pixels.copy()
    for _, strengths in script.FAULTS.values():
        for _, inject in strengths:
            assert inject(pixels, np.random.default_rng(1)).shape == pixels.shape
            np.testing.assert_array_equal(pixels, before)


def test_faults_are_as_strong_as_they_say(script, pixels: np.ndarray):
    rng = np.random.default_rng(1)
    moved = np.abs(script.stripes(0.2)(pixels, rng) - pixels) > 1e-6
    np.testing.assert_array_equal(moved.any(axis=(1, 2, 3)), moved.all(axis=(1, 2, 3)))  # whole lines, in all bands
    assert moved.mean() == pytest.approx(0.2, abs=0.03)
    dead = script.dead_lines(0.03)(pixels, rng) == 0
    assert (dead.all(axis=-2).any(axis=-1).sum(axis=(1, 2)) == 1).all()  # lines of exactly one band a chip
    filled = (script.edge(0.25)(pixels, rng) == 0).all(axis=2)
    assert filled.mean() == pytest.approx(0.25)
    assert (
        len({tuple(corners) for corners in filled[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]].tolist()}) == 4
    )  # all sides
    np.testing.assert_allclose(script.blank(1.0)(pixels, rng).std(axis=(3, 4)), 0, atol=1e-6)
    np.testing.assert_allclose(script.blank(0.5)(pixels, rng).mean(axis=(3, 4)), pixels.mean(axis=(3, 4)), rtol=1e-4)
    assert (script.noise(0.01)(pixels, rng) - pixels).std() == pytest.approx(0.01, rel=0.02)
    np.testing.assert_array_equal(script.duplicate(4)(pixels, rng)[..., 4:], pixels[..., :-4])
