"""Compare pretraining objectives for nano: whose loss does the embedding read best beyond the pixels?

    python scripts/compare_objectives.py IMAGERY_FOLDER runs/pixel runs/pixel-norm runs/latent

Each folder is one of scripts/train_nano.py's, all stopped at the same step. Scores are of whole places held out, over the
`fit` and `test` places of docs/nano-data.json. Writes docs/nano-objectives.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

import nano_samples
from geoelle.holdout import PlaceKFold
from geoelle.models import nano
from geoelle.nulls import evaluate

OUT = Path(__file__).parents[1] / "docs" / "nano-objectives.json"


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=2, show_default=True)
def main(imagery: Path, runs: tuple[Path, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    rows = []
    for run in runs:
        weights = run / "nano.safetensors"
        nano.WEIGHTS = weights  # the twins take the band statistics and the objective of the weights compared
        model = nano.load("nano")
        found = nano_samples.labelled(imagery, ("fit", "test"), model, cap=64)
        scores = evaluate(found.sample, cv=PlaceKFold(5), groups=found.places_n)
        last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        for scale in ("log", "raw"):
            table = scores.table(scale)
            rows.append({
                "objective": model.net.config.objective, "steps": last["step"], "scale": scale, "chips": table.n_chips,
                "places": table.n_places, "train_loss": last["train_places"], "held_out_loss": last["held_out_places"],
                "reliability": table.reliability.r if table.reliability else None,
                "r": {row.name: [row.metrics.r.value, row.metrics.r.low, row.metrics.r.high] for row in table.rows},
                "adds": {gain.name: [gain.value.value, gain.value.low, gain.value.high] for gain in table.adds},
            })  # fmt: skip
            click.echo(f"{model.net.config.objective}: {table.sentence()}")
    OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
