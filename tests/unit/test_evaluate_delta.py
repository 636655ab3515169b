"""The evaluation of Delta ranks as scikit-learn does, turns scores the right way, and learns on train places only."""

import doctest
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import delta_pairs
import delta_scores
from delta_pairs import Pairs
from error_scores import Errors
from geoelle.models.nano import BANDS


def pairs(seed: int = 0, files: int = 12, each: int = 30) -> Pairs:
    """Return noise with labels; the last third of the files is held out, and the first train file shares its block."""
    rng, n = np.random.default_rng(seed), files * each
    file_n = np.repeat(np.arange(files), each)
    return Pairs(
        tokens_2nd=rng.normal(size=(2, n, 5)),
        twin_2nd=rng.normal(size=(2, n, 5)),
        loss_2n=rng.uniform(0.1, 1, (2, n)),
        bands_2nc=rng.uniform(0.1, 0.4, (2, n, len(BANDS))),
        features_2nf=rng.normal(size=(2, n, 3)),
        damaged_n=rng.random(n) < 0.3,
        file_n=file_n,
        block_n=np.where(file_n == 0, files - 1, file_n),
        test_n=file_n >= files * 2 // 3,
    )


def test_examples_in_docstrings_hold() -> None:
    failed, tried = doctest.testmod(delta_scores)
    assert tried and not failed


def test_average_precision_is_that_of_scikit_learn_with_ties() -> None:
    given = pairs()
    score_n = np.random.default_rng(1).normal(size=len(given.damaged_n)).round(1) + given.damaged_n
    found = delta_scores.auprc(Errors(given.damaged_n, given.block_n), score_n)[0]
    assert found == pytest.approx(average_precision_score(given.damaged_n, score_n))


def test_a_draw_of_average_precision_counts_blocks_as_often_as_drawn() -> None:
    given = pairs()
    errors, score_n = Errors(given.damaged_n, given.block_n), np.random.default_rng(2).normal(size=360)
    weight_n = errors.counts_dp[7][errors.place_n]
    wanted = average_precision_score(given.damaged_n, score_n, sample_weight=weight_n)
    assert delta_scores.auprc(errors, score_n)[7] == pytest.approx(wanted)


@pytest.mark.parametrize(("band", "fall"), [("nir", True), ("swir22", False)])
def test_a_band_that_moves_as_damage_does_ranks_it_first(band: str, fall: bool) -> None:
    given = pairs()
    bands_2nc = np.stack([given.bands_2nc[0]] * 2)
    bands_2nc[1, given.damaged_n, BANDS.index(band)] += -0.05 if fall else 0.05
    scores = delta_scores.of_bands(replace(given, bands_2nc=bands_2nc))
    for name in (f"{band}, signed", f"{band}, two-sided", "NBR, signed"):
        assert roc_auc_score(given.damaged_n, scores[name]) == 1


def test_delta_is_after_less_before() -> None:
    given = pairs()
    loss_2n = np.stack([given.loss_2n[0], given.loss_2n[0] * np.where(given.damaged_n, 2, 1)])
    scores = delta_scores.of_model(replace(given, loss_2n=loss_2n), None)
    assert roc_auc_score(given.damaged_n, scores["Delta of the true loss, harder"]) == 1
    assert roc_auc_score(given.damaged_n, scores["Delta of the true loss, easier"]) == 0


def test_a_shift_of_a_whole_place_changes_no_score() -> None:
    given = pairs()
    shifted = given.loss_2n * np.stack([np.ones(360), np.exp(given.file_n % 3)])
    one, other = (delta_scores.of_model(p, None) for p in (given, replace(given, loss_2n=shifted)))
    np.testing.assert_allclose(one["Delta of the true loss, two-sided"], other["Delta of the true loss, two-sided"])


def test_what_is_fitted_or_chosen_sees_no_block_of_a_test_place() -> None:
    given = pairs()
    assert not given.clear_n[given.file_n == 0].any() and given.clear_n[given.file_n == 1].all()
    loss_2n = np.where(given.clear_n, given.loss_2n, given.loss_2n[::-1] * 50)
    one, other = (delta_scores.of_fits(p) for p in (given, replace(given, loss_2n=loss_2n)))
    assert all((one[name] == other[name]).all() for name in one)
    swapped = replace(given, damaged_n=np.where(given.clear_n, given.damaged_n, ~given.damaged_n))
    scores = delta_scores.of_bands(given)
    assert delta_scores.best_of(scores, given) == delta_scores.best_of(scores, swapped)


def test_taking_patches_keeps_dates_and_rows_together() -> None:
    given = pairs()
    cut = given.take(given.test_n)
    for field in fields(Pairs):
        whole, part = getattr(given, field.name), getattr(cut, field.name)
        np.testing.assert_array_equal(part, whole[:, given.test_n] if whole.shape[0] == 2 else whole[given.test_n])


def test_mean_of_a_patch() -> None:
    pixels_bcyx = np.arange(2 * 3 * 8 * 12, dtype=float).reshape(2, 3, 8, 12)
    found = delta_pairs.patch_means(pixels_bcyx)
    assert found.shape == (2, 2, 3, 3)
    assert found[1, 1, 2, 0] == pixels_bcyx[1, 0, 4:8, 8:12].mean()
