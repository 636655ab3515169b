"""Draw how hard held-out ground is at every checkpoint of a training of nano.

    python scripts/plot_training.py runs/latent/log.jsonl -o training.png --probe difficulty.png

`-o` has percentile bands of the loss over steps; rows of a log that is older than the percentiles are drawn by their mean
alone, and the number of them is said. `--probe` has the histogram of the difficulty that a probe of each checkpoint reads
on places held out, beside that of the true loss, and its r beside the nulls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from geoelle.files import write_bytes
from geoelle.training_figures import difficulty_ridges, loss_bands

NAMES = {"elle": "ELLE", "pixels": "pixel ridge", "untrained": "untrained twin"}


def read_log(path: Path) -> tuple[list[int], list[int], np.ndarray, np.ndarray]:
    """Return steps, percentiles, losses (s, p) with NaN where a row kept none, and the mean over places (s,).

    A step that was trained again after an interruption is the later one.
    """
    rows = _rows(path)
    kept = [row.get("held_out_loss_percentiles", {}) for row in rows.values()]
    names = sorted({name for row in kept for name in row}, key=float)
    losses_sp = np.array([[row.get(name, np.nan) for name in names] for row in kept]).reshape(len(rows), len(names))
    order = np.argsort(list(rows))
    mean_s = np.array([row["held_out_places"] for row in rows.values()])
    return np.array(list(rows))[order].tolist(), [int(name) for name in names], losses_sp[order], mean_s[order]


def probe_picture(path: Path) -> bytes:
    """Draw what the probes of the checkpoints read.

    Raises KeyError or ValueError for a log without it, or whose bins change on the way.
    """
    rows = dict(sorted(_rows(path).items()))
    kept = [row["probe"] for row in rows.values()]
    (edges,) = {tuple(probe["edges"]) for probe in kept}
    counts = {name: np.array([probe[name] for probe in kept]) for name in ("difficulty", "loss")}
    r_s = {title: [probe["r"][name] for probe in kept] for name, title in NAMES.items()}
    return difficulty_ridges(list(rows), np.array(edges), counts["difficulty"], counts["loss"], r_s)


def _rows(path: Path) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for line in path.read_text().splitlines() if line.strip() for row in [json.loads(line)]}


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
@click.option("--probe", type=click.Path(path_type=Path), help="PNG of difficulty at every checkpoint, to write too.")
@click.option("--overwrite", is_flag=True)
def main(log: Path, out: Path, probe: Path | None, overwrite: bool) -> None:
    try:
        steps, percentiles, losses_sp, mean_s = read_log(log)
        drawn = None if probe is None else probe_picture(log)
    except (KeyError, TypeError, ValueError) as cause:
        raise click.ClickException(f"{log} is not a log of scripts/train_nano.py ({cause!r}); name another") from cause
    bare = int((~np.isfinite(losses_sp).all(1)).sum()) if percentiles else len(steps)
    if bare:
        click.echo(f"{bare} of {len(steps)} checkpoints kept no percentiles: their mean alone is drawn", err=True)
    click.echo(write_bytes(out, loss_bands(steps, percentiles, losses_sp, mean_s), overwrite=overwrite))
    if drawn is not None:
        click.echo(write_bytes(probe, drawn, overwrite=overwrite))


if __name__ == "__main__":
    main()
