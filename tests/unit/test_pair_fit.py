"""Fits on pairs: what is held out, which nulls there are, and where it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.errors import FormatError, GeoelleError, HoldoutError, ProbeError
from geoelle.fitting import Fitted
from geoelle.pair_fit import GROUP_FOLDS, RANDOM_FOLDS, PairJob, fit_pairs, plan_pairs
from geoelle.pairs import PairColumns
from geoelle.probe import Probe
from geoelle.scoring import score_file

GROUPS, EACH, DIM = 18, 10, 8
COUNT = GROUPS * EACH
RANDOM = PairJob(random_folds=True, folds=3)
BY_GROUP = PairJob(columns=PairColumns(group="speaker"), folds=3)


def related(seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs whose loss is an effect of the group, told by a fingerprint of the group in the vector, and nothing else.

    What is known of some groups says nothing of others: the true score on a new group is none.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(GROUPS), EACH)
    vectors = rng.normal(size=(GROUPS, 40))[group] + 0.1 * rng.normal(size=(COUNT, 40))
    loss = np.exp(rng.normal(size=GROUPS)[group] + 0.1 * rng.normal(size=COUNT))
    return {"embedding": vectors.astype(np.float32), "loss": loss, "speaker": group}


def linear(seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs whose log-loss is linear in the vector; `tokens` tells half of it."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(COUNT, DIM)).astype(np.float32)
    signal = vectors @ np.full(DIM, DIM**-0.5)
    return {
        "embedding": vectors, "loss": np.exp(signal + 0.1 * rng.normal(size=COUNT)),
        "tokens": signal + rng.normal(size=COUNT), "speaker": np.repeat(np.arange(GROUPS), EACH),
        "lon": rng.uniform(4, 5, COUNT), "lat": rng.uniform(52, 53, COUNT),
    }  # fmt: skip


def npz(path: Path, arrays: dict[str, np.ndarray], *without: str) -> Path:
    np.savez(path, **{name: array for name, array in arrays.items() if name not in without})
    return path


def r_of(fitted: Fitted, name: str = "ELLE") -> float:
    return fitted.scores.tables[0].row(name).metrics.r.value


# --- the point of it


def test_random_folds_flatter_where_rows_are_related_and_groups_do_not(tmp_path: Path) -> None:
    path = npz(tmp_path / "related.npz", related())
    random = fit_pairs(path, RANDOM, out=tmp_path / "random.safetensors")
    grouped = fit_pairs(path, BY_GROUP, out=tmp_path / "group.safetensors")
    assert r_of(random) > 0.97
    assert r_of(grouped) < 0.4
    assert r_of(grouped, "ELLE on random folds") > 0.97
    assert "ELLE on random folds" not in [row.name for row in random.scores.tables[0].rows]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, Path]:
    """A fit on random folds, with features, and its folder of diagnostics."""
    home = tmp_path_factory.mktemp("pairs")
    path = npz(home / "bart.npz", linear(), "lon", "lat")
    job = replace(RANDOM, columns=PairColumns(features=("tokens",)), target="BART denoising loss")
    return fit_pairs(path, job, out=home / "p.safetensors", report=home / "report"), home


def test_every_output_says_that_folds_were_random(written: tuple[Fitted, Path]) -> None:
    fitted, home = written
    probe = Probe.load(home / "p.safetensors")
    assert fitted.table.count(RANDOM_FOLDS) >= 3  # both tables and the note
    assert probe.folds["holdout"] == probe.scores["holdout"] == RANDOM_FOLDS
    assert "ground held out" not in fitted.table + (home / "p.html").read_text()
    for text in ((home / "p.html").read_text(), (home / "report" / "report.html").read_text()):
        assert text.count(RANDOM_FOLDS) >= 3
    numbers = json.loads((home / "report" / "diagnostics.json").read_text())
    assert numbers["holdout"] == RANDOM_FOLDS
    assert RANDOM_FOLDS in numbers["scores"]["tables"][0]["sentence"]


def test_the_target_is_called_what_the_caller_calls_it(written: tuple[Fitted, Path], tmp_path: Path) -> None:
    fitted, home = written
    assert fitted.probe.target == fitted.probe.space["target"] == "BART denoising loss"
    assert fitted.probe.space["model"] == "bart"
    assert "log-BART denoising loss, all rows: r = " in fitted.table
    assert "pretraining" not in (home / "p.html").read_text()
    path = npz(tmp_path / "hubert.npz", linear())
    unnamed = fit_pairs(path, replace(BY_GROUP, model="HuBERT base"), out=tmp_path / "p.safetensors")
    assert unnamed.probe.target == "loss as given in hubert.npz"
    assert unnamed.probe.space == {"model": "HuBERT base", "target": "loss as given in hubert.npz"}


def test_absent_nulls_are_said_to_be_absent_and_the_others_are_there(written: tuple[Fitted, Path]) -> None:
    fitted, _ = written
    rows = [row.name for row in fitted.scores.tables[0].rows]
    assert rows == [
        "ELLE", "feature ridge", "feature boosted trees", "feature SVR", "embedding and features, ridge",
        "ELLE and features, boosted trees", "vector length", "shuffled targets",
    ]  # fmt: skip
    assert r_of(fitted) > 0.97 and 0.5 < r_of(fitted, "feature ridge") < 0.85
    assert fitted.scores.tables[0].row("feature ridge").verdict == "beats"
    assert "adds to the features" in fitted.table and "pixel" not in fitted.table.replace("no pixels", "")
    assert "no untrained twins and no pixels, so those nulls are absent" in fitted.table


def test_the_report_has_every_figure_and_no_map(written: tuple[Fitted, Path]) -> None:
    fitted, home = written
    assert {p.name for p in (home / "report").iterdir()} == {
        "calibration.png", "diagnostics.json", "dimensions.png", "report.html", "sample-scaling.png", "scores.png",
    }  # fmt: skip
    assert fitted.files == (*(home / f"p.{end}" for end in ("safetensors", "json", "html")), home / "report")
    numbers = json.loads((home / "report" / "diagnostics.json").read_text())
    assert numbers["places"] == [] and "trust" not in numbers
    curves = {curve["name"]: curve for curve in numbers["sample_scaling"]["curves"]}
    assert curves["ELLE"]["r"][-1]["value"] > 0.97 and len(curves["feature ridge"]["first_minus_it"]) > 3


def test_scores_are_those_of_scikit_learn(tmp_path: Path) -> None:
    arrays = linear()
    fitted = fit_pairs(npz(tmp_path / "a.npz", arrays, "lon", "lat"), RANDOM, out=tmp_path / "p.safetensors")
    x_nd, y_n = arrays["embedding"].astype(float), np.log(arrays["loss"])
    wanted = np.empty(COUNT)
    folds = KFold(3, shuffle=True, random_state=0).split(x_nd)
    for alpha, (train, test) in zip(fitted.scores.tables[0].alphas, folds, strict=True):
        pipeline = make_pipeline(StandardScaler(), Ridge(alpha))
        wanted[test] = pipeline.fit(x_nd[train], y_n[train]).predict(x_nd[test])
    metrics = fitted.scores.tables[0].rows[0].metrics
    assert metrics.r.value == pytest.approx(np.corrcoef(wanted, y_n)[0, 1], abs=1e-10)
    assert metrics.r2.value == pytest.approx(r2_score(y_n, wanted), abs=1e-10)


# --- coordinates and groups


def test_blocks_are_held_out_where_there_are_coordinates(tmp_path: Path) -> None:
    fitted = fit_pairs(
        npz(tmp_path / "a.npz", linear()), PairJob(block_m=20_000, folds=3), out=tmp_path / "p.safetensors",
        report=tmp_path / "report",
    )  # fmt: skip
    rows = [row.name for row in fitted.scores.tables[0].rows]
    assert "nearest place" in rows and "season" not in rows and "ELLE on random folds" in rows
    assert "on ground held out" in fitted.table and "blocks." in fitted.table
    assert fitted.probe.folds["holdout"].startswith("blocks of 20 km held out, no buffer")
    assert (tmp_path / "report" / "blocks.png").is_file()
    places = json.loads((tmp_path / "report" / "diagnostics.json").read_text())["places"]
    assert {4 < place["lon"] < 5 and 52 < place["lat"] < 53 for place in places} == {True}


def test_groups_are_named_in_the_numbers(tmp_path: Path) -> None:
    path, out = npz(tmp_path / "a.npz", linear()), tmp_path / "p.safetensors"
    fitted = fit_pairs(path, BY_GROUP, out=out, report=tmp_path / "report")
    assert fitted.probe.folds["holdout"] == GROUP_FOLDS and GROUP_FOLDS in fitted.table
    assert f"{COUNT} rows, {GROUPS} groups" in fitted.table
    places = json.loads((tmp_path / "report" / "diagnostics.json").read_text())["places"]
    assert sorted(int(place["group"]) for place in places) == list(range(GROUPS))
    assert {place["rows"] for place in places} == {EACH}


def test_a_probe_of_pairs_scores_vectors_of_others(tmp_path: Path) -> None:
    arrays = linear()
    fit_pairs(npz(tmp_path / "a.npz", arrays), BY_GROUP, out=tmp_path / "p.safetensors")
    vectors = arrays["embedding"]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    pq.write_table(pa.table({"embedding": column}), tmp_path / "new.parquet")
    summary = score_file(tmp_path / "new.parquet", tmp_path / "p.safetensors", tmp_path / "scored.parquet")
    assert (summary["rows"], summary["space_checked"]) == (COUNT, False)
    difficulty = pq.read_table(tmp_path / "scored.parquet")["difficulty"].to_numpy()
    assert np.corrcoef(np.log(difficulty), np.log(arrays["loss"]))[0, 1] > 0.98


def test_more_dimensions_than_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 300))
    arrays = {"x": vectors, "loss": np.exp(vectors[:, 0] + vectors[:, 1])}
    fitted = fit_pairs(npz(tmp_path / "a.npz", arrays), RANDOM, out=tmp_path / "p.safetensors", report=tmp_path / "r")
    assert np.isfinite(r_of(fitted))
    assert json.loads((tmp_path / "r" / "diagnostics.json").read_text())["dimensions"]["dims"][-1] == 300


# --- what is refused


def test_nothing_to_hold_out_is_said_with_what_to_pass(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", linear(), "lon", "lat")
    with pytest.raises(HoldoutError, match=r"--group-column, or --lon-column and --lat-column, .*--random-folds"):
        fit_pairs(path, PairJob(), out=tmp_path / "p.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_random_folds_are_not_taken_where_there_is_something_to_hold_out(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", linear())
    with pytest.raises(HoldoutError, match="has coordinates, so its blocks are held out"):
        plan_pairs(path, RANDOM)
    with pytest.raises(HoldoutError, match="at random and by speaker"):
        plan_pairs(path, replace(BY_GROUP, random_folds=True))


@pytest.mark.parametrize("groups", [1, 2])
def test_too_few_groups(tmp_path: Path, groups: int) -> None:
    arrays = linear() | {"speaker": np.arange(COUNT) % groups}
    with pytest.raises(HoldoutError, match=rf"{groups} groups of 'speaker' in a\.npz are too few for 3 folds"):
        plan_pairs(npz(tmp_path / "a.npz", arrays), BY_GROUP)


def test_one_block_only(tmp_path: Path) -> None:
    with pytest.raises(HoldoutError, match="too few blocks"):
        plan_pairs(npz(tmp_path / "a.npz", linear()), PairJob(block_m=2e7))


def test_losses_that_cannot_be_fitted(tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    for change, error, text in (
        (np.full(COUNT, 0.25), ProbeError, r"loss of a\.npz is constant \(0\.25 in 180 rows\)"),
        (np.linspace(-1, 1, COUNT), ProbeError, "log-loss fails for 90 of 180"),
        (np.full(COUNT, np.nan), HoldoutError, "0 usable rows .*180 rows without loss are dropped"),
        (np.r_[np.full(COUNT - 4, np.nan), np.ones(4)], HoldoutError, "4 usable rows"),
    ):
        with pytest.raises(error, match=text):
            fit_pairs(npz(tmp_path / "a.npz", linear() | {"loss": change}), BY_GROUP, out=out)
    fit_pairs(
        npz(tmp_path / "a.npz", linear() | {"loss": np.linspace(-1, 1, COUNT)}), replace(BY_GROUP, scale="raw"), out=out
    )


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path, out, report = npz(tmp_path / "a.npz", linear()), tmp_path / "p.safetensors", tmp_path / "report"
    report.mkdir()
    with pytest.raises(GeoelleError, match=r"report \(it exists\)"):
        fit_pairs(path, BY_GROUP, out=out, report=report)
    assert not out.exists()
    fit_pairs(path, BY_GROUP, out=out, report=report, overwrite=True)
    assert (report / "report.html").is_file()
    with pytest.raises(ProbeError, match=r"ends in \.safetensors"):
        fit_pairs(path, BY_GROUP, out=tmp_path / "p.bin")
    with pytest.raises(FormatError, match="no such file"):
        fit_pairs(tmp_path / "absent.npz", BY_GROUP, out=tmp_path / "q.safetensors")


def test_the_plan_counts_what_the_fit_would_use(tmp_path: Path) -> None:
    plan = plan_pairs(npz(tmp_path / "a.npz", linear()), BY_GROUP)
    assert (plan["rows"], plan["dim"], plan["units"], plan["holdout"]) == (COUNT, DIM, GROUPS, GROUP_FOLDS)
    assert [fold["train"] + fold["test"] for fold in plan["folds"]] == [COUNT] * 3
