"""The log of a training of nano and its figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "plot_training.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True, check=False)


def row(step: int, *, kept: bool = True) -> str:
    content = {"step": step, "held_out_places": 3.0 / step}
    if kept:
        losses = np.percentile(np.arange(1, 50) / step, (5, 25, 50, 75, 95))
        content["held_out_loss_percentiles"] = dict(zip(("5", "25", "50", "75", "95"), losses.tolist(), strict=True))
    return json.dumps(content)


def test_a_log_is_read_in_the_order_of_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from plot_training import read_log

    log = tmp_path / "log.jsonl"
    log.write_text("\n".join([row(20), row(10, kept=False), row(30, kept=False), row(30), ""]))
    steps, percentiles, losses_sp, mean_s = read_log(log)
    assert (steps, percentiles) == ([10, 20, 30], [5, 25, 50, 75, 95])
    assert np.isnan(losses_sp[0]).all() and np.isfinite(losses_sp[1:]).all()  # the later row of step 30
    assert losses_sp[1].tolist() == sorted(losses_sp[1])
    np.testing.assert_allclose(mean_s, [0.3, 0.15, 0.1])


def test_checkpoints_without_percentiles_are_counted(tmp_path: Path) -> None:
    """The log of the shipped weights is older than the percentiles."""
    out = tmp_path / "training.png"
    done = run(ROOT / "docs" / "nano-training.jsonl", "-o", out)
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    assert "16 of 16 checkpoints kept no percentiles" in done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")


def test_what_is_not_a_log_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"loss": 1}\n')
    done = run(tmp_path / "a.jsonl", "-o", tmp_path / "a.png")
    assert done.returncode == 1 and "is not a log of scripts/train_nano.py" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_probes_of_the_checkpoints_are_drawn_where_the_log_keeps_them(tmp_path: Path) -> None:
    log = ROOT / "docs" / "nano-checkpoints.jsonl"
    done = run(log, "-o", tmp_path / "a.png", "--probe", tmp_path / "b.png")
    assert (done.returncode, done.stdout.split()) == (0, [str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert done.stderr == "" and (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows[3]["probe"]["edges"][0] = 1e-5
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for odd in (ROOT / "docs" / "nano-training.jsonl", tmp_path / "c.jsonl"):
        done = run(odd, "-o", tmp_path / "c.png", "--probe", tmp_path / "d.png")
        assert done.returncode == 1 and "is not a log of scripts/train_nano.py" in done.stderr
        assert not (tmp_path / "c.png").exists() and not (tmp_path / "d.png").exists()
