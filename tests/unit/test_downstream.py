"""The downstream test counts errors rightly: labels by patch, folds of whole places, rankings against scikit-learn."""

import doctest
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from geoelle.chips import Chips
from geoelle.errors import HoldoutError
from geoelle.models.base import Loss, Tokens
from geoelle.models.nano import CARDS

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import downstream
import error_scores
import labels
import patch_samples
from nano_data import Scene


def scene(height: int = 64, width: int = 64, seed: int = 0, path: str = "a.tif") -> Scene:
    pixels = np.random.default_rng(seed).random((2, height, width), dtype=np.float32)
    return Scene(
        place="somewhere",
        source="test",
        level="L2A",
        path=path,
        lonlat=(4.0, 52.0),
        bands=("red", "nir"),
        pixels_cyx=pixels,
        date=np.datetime64("2020-06-01", "D"),
        sensor="sentinel-2-l2a",
    )


def site(label_hw: np.ndarray, place: str = "p", **size: int) -> labels.Site:
    return labels.Site(scene=scene(**size), place=place, label_hw=label_hw)


def clustered(seed: int = 0, places: int = 12, each: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return errors, a score that tells some of them, and places that differ in both."""
    rng = np.random.default_rng(seed)
    place_n = np.repeat(np.arange(places), each)
    shift_n = rng.normal(size=places)[place_n]
    score_n = shift_n + rng.normal(size=len(place_n))
    return rng.random(len(place_n)) < 1 / (1 + np.exp(-score_n + 1)), score_n.round(1), place_n


@pytest.mark.parametrize("module", [labels, error_scores])
def test_examples_in_docstrings_hold(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


# --- labels


def test_a_patch_has_the_class_of_three_quarters_of_its_pixels() -> None:
    classes_yx = np.full((8, 9), 2)
    classes_yx[:4, :4].flat[:4] = 0  # 12 of 16 agree
    classes_yx[:4, 4:8].flat[:5] = 0  # 11 of 16 do not
    classes_yx[4:, :4].flat[:5] = labels.UNLABELLED  # nor do pixels without a label count for any class
    assert labels.majority(classes_yx, 3).tolist() == [[2, -1], [-1, 2]]


def test_a_class_of_one_place_is_left_out_and_the_rest_numbered_anew() -> None:
    left, right = np.zeros((16, 16), int), np.full((16, 16), 2)
    left[:8], right[:8] = 3, 3
    left[15], left[14, :4] = 2, 2  # 20 patches of class 2
    kept, names = labels.with_known_classes([site(left, "a"), site(right, "b")], ("x", "never", "y", "z"))
    assert names == ("y", "z")  # x is of place a only
    assert np.unique(kept[0].label_hw, return_counts=True)[1].tolist() == [108, 20, 128]
    assert (kept[1].label_hw[:8] == 1).all() and (kept[1].label_hw[8:] == 0).all()
    left[15, 0] = -1  # 19: place a does not count for y any more
    assert labels.with_known_classes([site(left, "a"), site(right, "b")], ("x", "never", "y", "z"))[1] == ("z",)


def test_two_sites_of_one_place_are_one_place() -> None:
    one = site(np.zeros((16, 16), int), "a")
    assert labels.with_known_classes([one, one], ("x",)) == ((), ())


@pytest.mark.parametrize("length", [32, 35, 36, 44, 64, 100, 130, 512])
def test_every_patch_is_read_from_the_chip_in_which_it_is_most_central(length: int) -> None:
    begin_o, owner_h = labels.owners(length)
    assert begin_o[0] == 0 and begin_o[-1] > length - 32 - 4 and (begin_o % 4 == 0).all()
    assert begin_o[-1] + 32 <= length and np.diff(begin_o, prepend=-16).max() <= 16
    assert len(owner_h) == length // 4
    for h, owner in enumerate(owner_h):
        off_o = np.abs(begin_o + 16 - (4 * h + 2))
        assert off_o[owner] == off_o.min()
        assert begin_o[owner] <= 4 * h <= begin_o[owner] + 28


def test_a_drawn_patch_lies_where_its_label_does() -> None:
    label_hw = np.arange(25 * 17).reshape(25, 17)
    label_hw[3:5] = -1
    drawn = labels.draw(site(label_hw, height=100, width=70), chips=6, patches=90)
    assert len(drawn.origin_k2) == 6 and len(drawn.label_n) == 90 == len(set(drawn.label_n.tolist()))
    row_n, col_n = (drawn.origin_k2[drawn.chip_n] // 4 + drawn.at_n2).T
    assert (label_hw[row_n, col_n] == drawn.label_n).all() and drawn.label_n.min() >= 0
    assert drawn.at_n2.min() >= 0 and drawn.at_n2.max() <= 7


def test_a_chip_with_nodata_gives_no_patch() -> None:
    one = site(np.zeros((16, 16), int))
    one.scene.pixels_cyx[0, 0, 63] = np.nan
    drawn = labels.draw(one, chips=99, patches=999)
    assert len(drawn.label_n) == 256 - 6 * 6  # what the chip of the upper right corner owns
    one.scene.pixels_cyx[:] = np.nan
    assert len(labels.draw(one, chips=99, patches=999).label_n) == 0


def test_chips_hold_the_pixels_at_their_origin_and_have_addresses_of_their_own() -> None:
    one = scene(height=80)
    origin_k2 = np.array([[0, 0], [16, 32], [48, 4]])
    chips = labels.chips_at(one, origin_k2)
    assert np.array_equal(chips.pixels_btcyx[1, 0], one.pixels_cyx[:, 16:48, 32:64])
    assert len(set(chips.addresses.strings())) == 3
    north, south = chips.lonlat_b2[0, 1], chips.lonlat_b2[2, 1]
    assert 0 < north - south < 0.01 and np.abs(chips.lonlat_b2 - one.lonlat).max() < 0.01


def test_the_window_holds_the_patch_and_stays_inside_the_chip() -> None:
    chip = np.arange(32 * 32, dtype=np.float32).reshape(1, 32, 32)
    at_n2 = np.array([[0, 0], [3, 5], [7, 7]])
    found = patch_samples.windows(np.stack([chip] * 3), at_n2)
    assert found[:, 0, 0, 0].tolist() == [0, 10 * 32 + 18, 24 * 32 + 24] and found.shape == (3, 1, 8, 8)


class Reader:
    """A model whose token is the mean red and nir of its patch, and whose loss is what it hides."""

    card = CARDS["nano"]
    weights_sha256 = "reader"

    def encode(self, chips: Chips) -> Tokens:
        return Tokens(patch_bhwd=self._patches(chips))

    def loss(self, chips: Chips, hidden: np.ndarray) -> Loss:
        error = torch.where(torch.from_numpy(hidden), self._patches(chips)[..., 0], torch.nan)
        return Loss(total_b=error.nanmean(dim=(1, 2)), terms={}, error=error)

    def _patches(self, chips: Chips) -> torch.Tensor:
        cut = torch.from_numpy(chips.pixels_btcyx[:, 0]).unflatten(3, (8, 4)).unflatten(2, (8, 4))
        return cut.mean(dim=(3, 5)).permute(0, 2, 3, 1)


@pytest.fixture
def toy() -> labels.Task:
    sites = tuple(
        labels.Site(scene=red_green(seed), place=f"p{seed}", label_hw=np.arange(18 * 17).reshape(18, 17) % 2)
        for seed in (1, 2)
    )
    return labels.Task(
        name="toy", sensor="Sentinel-2", classes=("a", "b"), sites=sites, chips_per_site=5, patches_per_site=60, folds=2
    )


def red_green(seed: int) -> Scene:
    three = np.random.default_rng(seed).random((3, 72, 70), dtype=np.float32)
    return replace(scene(path=f"{seed}.tif"), bands=("green", "red", "nir"), pixels_cyx=three)


def test_token_loss_and_label_are_of_the_same_patch(toy: labels.Task) -> None:
    sample = patch_samples.embedded(toy, Reader())
    assert sample.tokens_nd.shape == (120, 3)
    assert np.allclose(sample.loss_n, sample.tokens_nd[:, 0])
    for one in toy.sites:
        means = one.scene.pixels_cyx[:, :72, :68].reshape(3, 18, 4, 17, 4).mean(axis=(2, 4)).reshape(3, -1).T
        mine = sample.place_n == one.place
        nearest = np.abs(sample.tokens_nd[mine][:, None] - means).max(axis=2)
        assert nearest.min(axis=1).max() < 1e-6
        assert (one.label_hw.ravel()[nearest.argmin(axis=1)] == sample.label_n[mine]).all()
    assert (sample.chip_nd.std(axis=0) < sample.tokens_nd.std(axis=0)).all()
    half = sample.features_nf.shape[1] // 2
    in_window = np.corrcoef(sample.features_nf[:, 0], sample.tokens_nd[:, 0])[0, 1]
    in_chip = np.corrcoef(sample.features_nf[:, half], sample.chip_nd[:, 0])[0, 1]
    assert in_window > 0.3 and in_chip > 0.99


def test_a_sample_is_kept_for_the_same_labels_and_pixels_only(toy: labels.Task, tmp_path: Path) -> None:
    first = patch_samples.cached(toy, Reader(), tmp_path)
    (kept,) = tmp_path.iterdir()
    again = patch_samples.cached(toy, reads_nothing(), tmp_path)
    assert np.array_equal(first.tokens_nd, again.tokens_nd) and again.place_n.tolist() == first.place_n.tolist()
    toy.sites[0].label_hw[0, 0] = 1
    patch_samples.cached(toy, Reader(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and kept.is_file()


def reads_nothing() -> Reader:
    """Return a model of the same weights that fails when it is asked to read."""
    model = Reader()
    model.encode = None
    return model


# --- rankings


def test_auroc_is_that_of_scikit_learn_pooled_and_in_redrawn_places() -> None:
    error_n, score_n, place_n = clustered()
    errors = error_scores.Errors(error_n, place_n)
    auroc_d = errors.auroc(score_n)
    for d in (0, 1, 500):
        weight_n = errors.counts_dp[d][place_n]
        assert auroc_d[d] == pytest.approx(roc_auc_score(error_n, score_n, sample_weight=weight_n), abs=1e-12)
    assert errors.auroc(-score_n)[0] == pytest.approx(1 - auroc_d[0])


def test_auroc_inside_places_ignores_what_differs_between_them() -> None:
    error_n, score_n, place_n = clustered()
    errors = error_scores.Errors(error_n, place_n)
    assert errors.within(score_n + 100.0 * place_n)[0] == pytest.approx(errors.within(score_n)[0])
    enough = [p for p in range(12) if min(error_n[place_n == p].sum(), (~error_n[place_n == p]).sum()) >= 5]
    by_hand = [roc_auc_score(error_n[place_n == p], score_n[place_n == p]) for p in enough]
    assert len(enough) < 12 and errors.within(score_n)[0] == pytest.approx(np.mean(by_hand))
    assert errors.within(score_n)[0] < errors.auroc(score_n)[0]


def test_errors_caught_in_the_worst_fifth() -> None:
    place_n = np.arange(10) % 2
    error_n = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 1], bool)
    errors = error_scores.Errors(error_n, place_n)
    assert errors.caught(np.arange(10.0))[0] == pytest.approx(2 / 4)
    assert errors.caught(-((np.arange(10.0) - 4.5) ** 2))[0] == pytest.approx(0)
    assert errors.caught(np.zeros(10))[0] == pytest.approx(0.2)  # of equal scores, the fitting fraction
    assert errors.caught(np.arange(10.0), share=0.15)[0] == pytest.approx(1.5 / 4)
    assert errors.curve(np.arange(10.0), np.array([0, 0.5, 1])).tolist() == pytest.approx([0, 0.5, 1])


def test_errors_caught_redraws_whole_places() -> None:
    error_n, score_n, place_n = clustered()
    errors = error_scores.Errors(error_n, place_n)
    drawn = np.repeat(np.arange(len(place_n)), errors.counts_dp[7][place_n].astype(int))
    again = error_scores.Errors(error_n[drawn], place_n[drawn])
    assert errors.caught(score_n)[7] == pytest.approx(again.caught(score_n[drawn])[0])


def test_without_errors_there_is_nothing_to_rank() -> None:
    ranking = error_scores.Errors(np.zeros(8, bool), np.arange(8) % 4).ranking(np.arange(8.0))
    assert all(np.isnan(v.value) for v in (ranking.auroc, ranking.within, ranking.caught))


def test_one_place_has_no_interval() -> None:
    with pytest.raises(HoldoutError, match="places"):
        error_scores.Errors(np.array([True, False]), np.array(["a", "a"]))


# --- probes in folds of places


def test_the_task_probe_never_sees_the_place_it_answers_for() -> None:
    rng = np.random.default_rng(0)
    place_n = np.repeat(np.arange(6), 10)
    x_nd = np.eye(6)[place_n] + rng.normal(scale=0.01, size=(60, 6))  # tells the place and nothing else
    label_n = rng.permutation(np.arange(6) % 2)[place_n]
    probability_nk = error_scores.task_probabilities(x_nd, label_n, place_n, folds=6)
    assert np.allclose(probability_nk.sum(axis=1), 1)
    assert (probability_nk.argmax(axis=1) == label_n).mean() < 0.6  # a probe that saw the place would be always right


def test_the_task_probe_learns_what_places_share_and_a_class_it_lacks_is_an_error() -> None:
    rng = np.random.default_rng(0)
    place_n, label_n = np.repeat(np.arange(5), 20), np.tile([0, 1], 50)
    label_n[place_n == 4] = 2
    x_nd = rng.normal(size=(100, 4)) + 3 * np.eye(4)[label_n]
    probability_nk = error_scores.task_probabilities(x_nd, label_n, place_n, folds=5)
    assert (probability_nk.argmax(axis=1) == label_n)[place_n < 4].mean() > 0.9
    assert (probability_nk[place_n == 4, 2] == 0).all()


def test_doubt_is_high_where_the_largest_probability_is_small() -> None:
    doubt_n = error_scores.doubt(np.array([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]]))
    assert doubt_n[0] == pytest.approx(0) and (np.diff(doubt_n) < 0).all() and np.isfinite(doubt_n).all()


def test_what_lies_far_from_training_is_dissimilar_along_dimensions_that_matter() -> None:
    rng = np.random.default_rng(0)
    place_n = np.repeat(np.arange(4), 50)
    x_nd = rng.normal(size=(200, 3))
    y_n = x_nd[:, 0] + 0.01 * rng.normal(size=200)
    nested = error_scores.read_out(x_nd, y_n, place_n, folds=4)
    base_n, outside_n = error_scores.applicability(x_nd, y_n, place_n, nested)
    assert 0 < outside_n.mean() < 0.2 and base_n[outside_n == 1].min() > base_n[outside_n == 0].mean()
    far = {}
    for dimension in (0, 2):
        moved_nd = x_nd.copy()
        moved_nd[0, dimension] += 30  # the first row is the only one of its fold to move: training is as it was
        di_n, out_n = error_scores.applicability(moved_nd, y_n, place_n, nested)
        far[dimension] = di_n[0]
        assert (out_n[0] == 1) == (dimension == 0)
    assert base_n[0] < 1 < 10 < far[0]
    assert far[2] < 1


def test_mahalanobis_measures_against_the_training_part() -> None:
    rng = np.random.default_rng(0)
    place_n = np.repeat(np.arange(4), 50)
    x_nd = rng.normal(size=(200, 3)) * (1, 10, 1)
    x_nd[place_n == 3] += (6, 0, 0)
    nested = error_scores.read_out(x_nd, x_nd[:, 0], place_n, folds=4)
    found_n = error_scores.mahalanobis(x_nd, nested)
    assert np.median(found_n[place_n == 3]) > 4 > 2.5 > np.median(found_n[place_n < 3])


def test_a_score_that_tells_more_adds_and_one_that_tells_nothing_does_not() -> None:
    rng = np.random.default_rng(0)
    place_n = np.repeat(np.arange(30), 40)
    known_n, news_n, noise_n = rng.normal(size=(3, 1200))
    error_n = rng.random(1200) < 1 / (1 + np.exp(1 - known_n - news_n))
    scores = {"known": known_n, "news": -news_n, "noise": noise_n}  # its sign is learned
    errors = error_scores.Errors(error_n, place_n)
    assert downstream._gain(errors, scores, ["known"], "news").low > 0.03
    assert abs(downstream._gain(errors, scores, ["known"], "noise").value) < 0.01


# --- the section


@pytest.fixture(scope="module")
def result() -> downstream.Result:
    rng = np.random.default_rng(0)
    place_n, label_n = np.repeat(np.arange(6), 20).astype(str), np.tile([0, 1], 60)
    tokens_nd = rng.normal(size=(120, 5)) + label_n[:, None]
    sample = patch_samples.Sample(
        tokens_nd=tokens_nd,
        loss_n=np.exp(tokens_nd[:, 0] + 0.1 * rng.normal(size=120)),
        chip_nd=tokens_nd,
        chip_loss_n=np.exp(tokens_nd[:, 1]),
        features_nf=rng.normal(size=(120, 3)),
        label_n=label_n,
        place_n=place_n,
    )
    task = labels.Task(
        name="toy", sensor="Sentinel-2", classes=("a", "b"), sites=(), chips_per_site=1, patches_per_site=1, folds=4
    )
    return downstream.measure(task, "nano", sample)


def test_every_score_is_measured_and_difficulty_reads_the_loss(result: downstream.Result) -> None:
    assert list(result.rankings)[:2] == [downstream.CONFIDENCE, downstream.DIFFICULTY]
    assert set(downstream.NULLS) < set(result.rankings)
    assert result.r_difficulty > 0.95 > 0.5 > result.r_complexity
    assert result.rankings[downstream.CONFIDENCE].auroc.low > 0.5
    assert result.error_rate < 0.3 < result.commonest_error_rate


def test_the_section_says_yes_only_where_both_gains_are_clear_of_nothing(result: downstream.Result) -> None:
    def gain(low: float) -> downstream.Interval:
        return downstream.Interval(value=0.05, low=low, high=0.1)

    def told(first: float, second: float) -> downstream.Result:
        return replace(result, gains=result.gains | {downstream.DIFFICULTY: gain(first)}, beyond=gain(second))

    assert told(0.01, 0.01).useful
    assert not told(0.01, -0.01).useful and not told(-0.01, 0.01).useful
    text = downstream.markdown([told(0.01, 0.01), told(0.01, -0.01)])
    assert "Of 2 pairs of task and model, difficulty is useful for toy, nano on Sentinel-2.** " in text
    assert "useful for none.** " in downstream.markdown([told(0.01, -0.01)])
    assert text.startswith("## Does it matter downstream?\n\n**Protocol, written before the runs.**")
    assert text.count("| *random* (null) |") == 2


def test_numbers_are_plain_json_with_null_for_what_is_undefined(result: downstream.Result) -> None:
    undefined = downstream.Interval(value=float("nan"), low=float("nan"), high=float("nan"))
    found = downstream.numbers([replace(result, beyond=undefined)])
    assert found["results"][0]["beyond"] == {"value": None, "low": None, "high": None}
    assert found["results"][0]["rankings"]["random"]["auroc"]["value"] == result.rankings["random"].auroc.value
    assert found["results"][0]["useful"] is False


def test_the_picture_is_drawn(result: downstream.Result) -> None:
    assert downstream.picture([result]).startswith(b"\x89PNG")
