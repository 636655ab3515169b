"""geoelle fit --pairs and --report as their users type them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import invoke

from geoelle.pair_fit import RANDOM_FOLDS
from geoelle.probe import Probe


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path, x_nd = tmp_path_factory.mktemp("pairs") / "hubert.npz", rng.normal(size=(150, 6))
    np.savez(path, embedding=x_nd, nll=np.exp(x_nd[:, 0]), seconds=rng.uniform(size=150), speaker=np.arange(150) % 10)
    return path


def test_groups_from_the_command_line(pairs: Path, tmp_path: Path) -> None:
    options = ("--loss-column", "nll", "--group-column", "speaker", "--features", "seconds", "--folds", 3)
    named = ("--target", "HuBERT masked loss", "--model-name", "HuBERT base", "-o", tmp_path / "p.safetensors")
    plan = invoke("fit", "--pairs", pairs, *options, "--dry-run", "--json").json()
    assert (plan["rows"], plan["units"], plan["model"]) == (150, 10, "hubert")
    result = invoke("fit", "--pairs", pairs, *options, *named, "--report", tmp_path / "report", "--json")
    assert result.code == 0, result.err
    files = [tmp_path / f"p.{end}" for end in ("safetensors", "json", "html")] + [tmp_path / "report"]
    assert result.json()["files"] == [str(path) for path in files]
    probe = Probe.load(tmp_path / "p.safetensors")
    assert probe.space == {"model": "HuBERT base", "target": "HuBERT masked loss"}
    assert invoke("info", tmp_path / "p.safetensors", "--json").json()["target"] == "HuBERT masked loss"


def test_random_folds_have_to_be_asked_for_and_are_said(pairs: Path, tmp_path: Path) -> None:
    command = ("fit", "--pairs", pairs, "--loss-column", "nll", "-o", tmp_path / "p.safetensors")
    text = invoke(*command).failure()
    assert "--random-folds" in text and "--group-column" in text
    assert not list(tmp_path.iterdir())
    result = invoke(*command, "--random-folds")
    assert result.code == 0 and RANDOM_FOLDS in result.err
    assert result.out.strip() == str(tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "give either RUNS or --pairs FILE"),
        (("run", "--pairs", "a.npz"), "give either RUNS or --pairs FILE"),
        (("run", "--random-folds"), "--random-folds need --pairs FILE"),
        (("run", "--loss-column", "x", "--target", "y"), "--loss-column, --target need --pairs FILE"),
        (("--pairs", "a.npz", "--lon-column", "x"), "go together"),
        (("--pairs", "a.npz", "--lon-column", "x", "--lat-column", "y", "--group-column", "z"), "hold out either"),
    ],
)
def test_wrong_usage_is_two_and_says_why(args: tuple[str, ...], text: str) -> None:
    result = invoke("fit", *args)
    assert result.code == 2
    assert text in result.err
