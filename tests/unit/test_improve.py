"""The pure parts of scripts/improve.py: no candidate sees what it is scored on; the rule is that of the protocol."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from geoelle.baselines import Ground, by_svr
from geoelle.bootstrap import Interval, Metrics
from geoelle.embed import embed_chips
from geoelle.holdout import PlaceKFold
from geoelle.models import load_model
from geoelle.ridge import ALPHAS, cross_predict
from small import make_chips

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import improve
import improve_fits
import improve_page
import improve_pools
import improve_proxy
import improve_rule
import nano_samples
from improve_fits import Labels, OneFold, Recipe, Target, place_folds, predict
from improve_rule import Predictions, Referee, Verdict

N_PLACES, EACH = 10, 12
RECIPES = {
    c.key: c.recipe for c in improve.candidates_of("nano") if not c.key.startswith(("pool", "joint-stack", "pca-64"))
}


def sample(seed: int = 0) -> tuple[np.ndarray, Labels]:
    """Return inputs (n, 24) that hold a noisy log-loss, and labels: ten places of three sources, two levels."""
    rng = np.random.default_rng(seed)
    n = N_PLACES * EACH
    x = rng.normal(size=(n, 24))
    place = np.repeat(np.arange(N_PLACES), EACH)
    source = place % 3
    log = x[:, :3].sum(1) + 0.3 * source + 0.3 * rng.normal(size=n)
    return x, Labels(
        loss_n=np.exp(log), places_n=place.astype(str), levels_n=np.where(source == 0, "L1C", "L2A"),
        sources_n=source.astype(str), features_nf=x[:, :6] + rng.normal(size=(n, 6)),
    )  # fmt: skip


@pytest.mark.parametrize("key", RECIPES)
def test_a_prediction_never_depends_on_the_loss_it_is_scored_on(key: str):
    x, labels = sample()
    folds = place_folds(labels.places_n)
    train, test = folds[1]
    before = predict(x, labels, [(train, test)], RECIPES[key])
    loss = labels.loss_n.copy()
    loss[test] = np.random.default_rng(9).permutation(loss[test]) * 50
    after = predict(x, replace(labels, loss_n=loss), [(train, test)], RECIPES[key])
    np.testing.assert_array_equal(before[test], after[test])
    assert np.isnan(before[train]).all() and np.isfinite(before[test]).all()


def test_a_blend_never_depends_on_the_loss_it_is_scored_on():
    x, labels = sample()
    fold = place_folds(labels.places_n)[:1]
    loss = labels.loss_n.copy()
    loss[fold[0][1]] *= 50
    changed = replace(labels, loss_n=loss)
    before, after = (
        improve_fits.blended(x, each, fold, improve_fits.pixel_parts(each, fold)) for each in (labels, changed)
    )
    np.testing.assert_array_equal(before, after)


def test_the_baseline_is_the_probe_that_is_published():
    x, labels = sample()
    found = predict(x, labels, place_folds(labels.places_n), Recipe())
    np.testing.assert_allclose(found, cross_predict(x, labels.log_n, PlaceKFold(5), labels.places_n), rtol=1e-10)


def test_the_pixel_null_is_the_one_that_is_published():
    _, labels = sample()
    ground = Ground(cv=PlaceKFold(5), groups=labels.places_n)
    found = predict(labels.features_nf, labels, place_folds(labels.places_n), Recipe(learner="svr"))
    np.testing.assert_allclose(found, by_svr(labels.features_nf, labels.log_n, ground), rtol=1e-10)


@pytest.mark.parametrize("kind", ["log", "raw", "rank", "normal"])
def test_a_target_finds_its_way_back_to_log_loss(kind: str):
    loss = np.random.default_rng(0).lognormal(size=50)
    target = Target.of(kind, loss)
    np.testing.assert_allclose(target.back(target.forward(loss)), np.log(loss), atol=1e-9)


@pytest.mark.parametrize("kind", ["raw", "rank", "normal"])
def test_a_prediction_beyond_the_training_losses_stays_finite(kind: str):
    loss = np.array([0.5, 1.0, 2.0])
    back = Target.of(kind, loss).back(np.array([-9.0, 0.5, 9.0]))
    assert np.isfinite(back).all() and back[0] == pytest.approx(np.log(0.5))


def test_equal_losses_share_a_rank():
    assert Target.of("rank", np.array([1.0, 1, 3, 3])).forward(np.array([1.0, 3])).tolist() == [0.25, 0.75]


def test_centring_takes_each_mean_away_and_nothing_else():
    x = np.array([[1.0, 5], [3, 7], [10, 0]])
    out = improve_fits.centred(x, np.array(["a", "a", "b"]))
    assert out.tolist() == [[-1, -1], [1, 1], [0, 0]]
    assert improve_fits.centred(x, None) is x


def test_a_source_without_training_chips_gets_the_mean_of_all():
    x, labels = sample()
    rows = np.arange(len(x))
    test = np.flatnonzero(labels.sources_n == "2")
    train = np.setdiff1d(rows, test)
    means = improve_fits._source_means(labels, train, Target.of("log", labels.loss_n[train]))
    np.testing.assert_allclose(means[test], labels.log_n[train].mean())
    own = train[labels.sources_n[train] == "0"]
    np.testing.assert_allclose(means[own], labels.log_n[own].mean())


def test_balanced_places_weigh_the_same_and_keep_every_chip_they_can():
    places = np.array(["big"] * 10 + ["small"] * 2 + ["left out"])
    rows = improve_fits.balanced(np.arange(12), places, each=4)
    assert rows.tolist() == [0, 2, 5, 7, 10, 10, 11, 11]


def test_one_fold_holds_out_places_inside_its_training_part():
    _, labels = sample()
    train, test = place_folds(labels.places_n)[0]
    within = Ground(cv=OneFold(train, test), groups=labels.places_n).within(train)
    assert isinstance(within.cv, PlaceKFold) and within.cv.n_splits == 5
    for seen, unseen in within.folds():
        assert not set(within.groups[seen]) & set(within.groups[unseen])
        assert max(*seen, *unseen) < len(train)


def test_a_ridge_of_scaled_inputs_is_scikit_learns():
    x, labels = sample()
    seen, unseen = place_folds(labels.places_n)[0]
    found = improve_fits._ridges(x, labels.log_n, seen, unseen, 6, 0.3)
    z = (x - x[seen].mean(0)) / x[seen].std(0) * np.where(np.arange(24) < 18, 1, 0.3)
    for a in (0, 9, 18):
        reference = Ridge(ALPHAS[a]).fit(z[seen], labels.log_n[seen]).predict(z[unseen])
        np.testing.assert_allclose(found[a], reference, rtol=1e-7)


def test_two_penalties_tell_a_part_of_signal_from_a_part_of_noise():
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(10), 12).astype(str)
    signal, noise = rng.normal(size=(120, 5)), rng.normal(size=(120, 60))
    y = signal.sum(1) + 0.1 * rng.normal(size=120)
    ground = Ground(cv=PlaceKFold(5), groups=places)
    apart = improve_fits.two_penalties(noise, signal, y, ground)
    one = cross_predict(np.concatenate([noise, signal], 1), y, PlaceKFold(5), places)
    assert np.square(y - apart).mean() < 0.5 * np.square(y - one).mean()


def test_p_values_are_raised_as_holm_says():
    assert improve_rule.holm([0.01, 0.02, 0.03, 0.005]) == [0.03, 0.04, 0.04, 0.02]
    assert improve_rule.holm([0.9, 0.8]) == [1.0, 1.0]
    assert improve_rule.holm([]) == []


def test_a_draw_without_a_difference_counts_against():
    assert improve_rule.one_sided(np.array([1.0, 0, 1, 1])) == 0.5
    assert improve_rule.one_sided(np.array([1.0, np.nan, 1, 1])) == 0.5


def referee(labels: Labels, noise: float = 1.0) -> tuple[Referee, Predictions]:
    rng = np.random.default_rng(1)
    log = labels.log_n

    def noisy(size: float) -> np.ndarray:
        return log + size * rng.normal(size=len(log))

    base = Predictions(elle_n=noisy(noise), twins=[noisy(2 * noise)] * 2, pixels={"pixel svr": noisy(1.2 * noise)})
    return Referee(log, labels.places_n, np.zeros(len(log), int), base), base


def test_a_true_lift_holds_and_one_the_nulls_share_does_not():
    _, labels = sample()
    judge, base = referee(labels)
    better = labels.log_n + 0.3 * np.random.default_rng(2).normal(size=len(labels.loss_n))
    alone = judge.verdict("a", "pooling", replace(base, elle_n=better))
    assert alone.holds(alone.p) and alone.lift.low > 0 and alone.pixel_gain > 0
    for name, shared in (("twins", [better, better]), ("pixels", {"pixel svr": better})):
        found = judge.verdict("b", "pooling", replace(base, elle_n=better, **{name: shared}))
        assert found.p == alone.p and not found.holds(found.p)


def test_the_baseline_lifts_nothing():
    _, labels = sample()
    judge, base = referee(labels)
    found = judge.verdict("ELLE", "baseline", base)
    assert (found.lift.value, found.twin_gain, found.p) == (0, 0, 1)
    assert found.pixel_gain == pytest.approx(0, abs=1e-12) and not found.holds(0.0)


def test_a_treatment_that_spoils_the_pixels_does_not_weaken_the_null():
    _, labels = sample()
    judge, base = referee(labels)
    spoiled = np.random.default_rng(3).normal(size=len(labels.loss_n))
    found = judge.verdict("a", "target", replace(base, pixels={"pixel svr": spoiled}))
    assert found.pixels_r == pytest.approx(np.corrcoef(base.pixels["pixel svr"], labels.log_n)[0, 1])


def verdict(key: str, family: str, r: float, p: float = 0.0001, **changed: object) -> Verdict:
    one = Interval(value=r, low=r - 0.1, high=r + 0.1)
    up = Interval(value=0.05, low=0.01, high=0.09)
    made = Verdict(
        key=key, family=family, metrics=Metrics(r=one, r2=one, spearman=one, within=one), partial=one, lift=up, p=p,
        twins_r=r - 0.05, over_twins=up, twin_gain=0.1, pixels="pixel svr", pixels_r=r - 0.05, over_pixels=up,
        p_over_pixels=p, pixel_gain=0.1,
    )  # fmt: skip
    return replace(made, **changed)


def test_survivors_are_those_of_which_all_points_hold_best_first():
    low = Interval(value=0.05, low=-0.01, high=0.09)
    found = [
        verdict("a", "target", 0.5), verdict("b", "pooling", 0.9), verdict("late", "pooling", 0.99, p=0.02),
        verdict("twins do it", "pooling", 0.9, over_twins=low), verdict("twins gain", "pooling", 0.9, twin_gain=-0.1),
        verdict("pixels gain", "pooling", 0.9, pixel_gain=0.0), verdict("c", "pooling", 0.7),
    ]  # fmt: skip
    assert improve_rule.survivors(found) == ["late", "b", "c", "a"]
    assert improve_rule.survivors([*found, verdict("other", "target", 0.6, p=0.02)]) == ["b", "c", "a"]


def test_entries_are_the_best_alone_and_the_best_of_each_family_together():
    found = [verdict("t", "target", 0.5), verdict("p", "pooling", 0.9), verdict("q", "pooling", 0.8),
             verdict("joint", "joint", 0.99), verdict("bound", "bound", 0.98)]  # fmt: skip
    assert improve_rule.entries(found, ["joint", "bound", "p", "q", "t"]) == [("p",), ("t", "p")]
    assert improve_rule.entries(found, ["p", "q"]) == [("p",)]
    assert improve_rule.entries(found, ["joint", "bound"]) == []


def test_outcomes_say_what_may_change_a_default():
    down = Interval(value=-0.05, low=-0.09, high=-0.01)
    found = [
        verdict("a", "target", 0.5),
        verdict("b", "target", 0.5, p=0.2),
        verdict("c", "target", 0.5, p=0.9, lift=down),
    ]
    assert improve_rule.outcomes(found) == ["confirmed", "not refuted", "not confirmed"]


def test_candidates_are_as_many_as_the_protocol_counts():
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    counts = {name: len(improve.candidates_of(name)) for name in improve.DEVELOPMENT}
    assert ", ".join(f"{count} {'candidates ' * (name == 'nano')}for {name}" for name, count in counts.items()) in page
    for key in {c.key for name in counts for c in improve.candidates_of(name)}:
        assert f"`{key}`" in page, key


def test_families_combine():
    known = {c.key: c for c in improve.candidates_of("galileo.nano")}
    made = known["target-rank"].with_(known["pool-groups"]).with_(known["centre-level"]).with_(known["balanced"])
    assert made.pooling == "pool-groups"
    assert made.recipe == Recipe(target="rank", centre="level", balanced=True)
    assert made.key == "target-rank + pool-groups + centre-level + balanced"


def test_statistics_of_tokens_are_those_named():
    tokens = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    pools = improve_pools.statistics([2 * tokens, tokens])
    patch = tokens.double().numpy().mean(1)
    np.testing.assert_allclose(pools["mean"], patch.mean(1))
    np.testing.assert_allclose(pools["sd"], patch.std(1))
    np.testing.assert_allclose(pools["layers"], np.concatenate([2 * patch.mean(1), patch.mean(1)], 1))
    np.testing.assert_allclose(pools["max"], patch.max(1))
    np.testing.assert_allclose(pools["layers_log_sd"][:, :4], np.log(2 * patch.std(1) + 1e-6), rtol=1e-5)
    np.testing.assert_allclose(pools["layers_log_sd"][:, 4:], pools["log_sd"])
    np.testing.assert_allclose(pools["groups"][:, :4], tokens[:, 0].double().numpy().mean(1))
    np.testing.assert_allclose(pools["groups_log_sd"][:, 4:], np.log(tokens[:, 1].double().numpy().std(1) + 1e-6))
    np.testing.assert_allclose(pools["variance"][:, 0], patch.var(-1, ddof=1).mean(1))


@pytest.mark.parametrize(("name", "layers", "groups"), [("nano", 7, 1), ("galileo.nano", 5, 6)])
def test_pools_of_a_network_end_in_its_embedding(name: str, layers: int, groups: int):
    model = load_model(name) if name == "nano" else load_model(name, "untrained")
    chips = make_chips(model.card, 3, bands=nano_samples.BANDS)
    pools, dim = improve_pools._of_chips(chips, model), model.card.dim
    vectors = embed_chips(chips, model).vectors_nd
    np.testing.assert_allclose(pools["mean"], vectors, atol=1e-5)
    np.testing.assert_allclose(pools["layers"][:, -dim:], vectors, atol=1e-5)
    assert pools["layers"].shape == (3, layers * dim) and pools["groups"].shape == (3, groups * dim)
    np.testing.assert_allclose(pools["groups"].reshape(3, groups, dim).mean(1), vectors, atol=1e-5)


def test_pools_of_other_chips_are_refused(tmp_path: Path):
    model = load_model("nano")
    kept = tmp_path / f"pools-fit-{model.weights_sha256[:12]}.npz"
    np.savez(kept, mean=np.zeros((4, 128), np.float32))
    assert improve_pools.pools_of(model, tmp_path, ("fit",), 64, tmp_path, np.zeros((4, 128)))["mean"].shape == (4, 128)
    for other in (np.ones((4, 128)), np.zeros((5, 128))):
        with pytest.raises(SystemExit, match="not of the chips embedded"):
            improve_pools.pools_of(model, tmp_path, ("fit",), 64, tmp_path, other)


def test_a_constant_proxy_has_no_figure():
    x, labels = sample()
    assert improve_proxy.read(x, np.ones(len(x)), labels) == {"random": None, "held_out": None, "with_loss": None}
    found = improve_proxy.read(x, x[:, 0] + 3, labels)
    assert found["random"] > 0.99 and found["held_out"] > 0.99


def test_the_page_tells_survivors_and_their_absence():
    base = improve._plain(verdict("ELLE", "baseline", 0.8))
    row = improve._plain(verdict("pool-sd", "pooling", 0.9)) | {"holm": 0.001, "survives": True}
    model = {
        "chips": 10,
        "places": 3,
        "folds": 5,
        "baseline": base,
        "candidates": [row],
        "survivors": ["pool-sd"],
        "entries": [],
    }
    found = {"models": {"nano": model}, "objectives": []}
    text = improve_page.section(found)
    assert "Of 1 candidates `pool-sd` survived." in text
    assert "| pool-sd | pooling | 0.900 [0.800, 1.000] | 0.050 [0.010, 0.090] | 0.001 |" in text
    model |= {"survivors": [], "candidates": [row | {"holm": 0.3, "survives": False}]}
    text = improve_page.section(found)
    assert "None of 1 candidates survived." in text and "None lifts r beyond chance" in text


def test_the_proxy_is_never_called_by_the_name_of_what_it_stands_for():
    rows = [
        {
            "model": "nano",
            "variance_of": "each untrained twin",
            "read_by": "itself",
            "random": None,
            "held_out": None,
            "with_loss": None,
        }
    ]
    text = improve_page.proxy_section({"models": {"nano": {"proxy": rows}}})
    assert "| nano | each untrained twin | itself | - | - | - |" in text and "an untrained nano" in text


def test_results_are_kept_model_by_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(improve, "OUT", tmp_path / "improve.json")
    improve.keep(models={"nano": {"places": 1}})
    improve.keep(models={"presto": {"places": 2}})
    improve.keep(models={"nano": {"places": 3}}, objectives=[])
    found = improve.json.loads(improve.OUT.read_text())
    assert found == {"models": {"nano": {"places": 3}, "presto": {"places": 2}}, "objectives": []}


def test_a_network_still_in_training_is_told_from_a_finished_one(tmp_path: Path):
    assert improve.steps_of(tmp_path) == 0
    (tmp_path / "log.jsonl").write_text('{"step": 500}\n{"step": 1000}\n')
    assert improve.steps_of(tmp_path) == 1_000
