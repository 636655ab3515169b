"""Fit the probes that ship with nano on the `fit` places of docs/nano-data.json.

    python scripts/fit_nano.py IMAGERY_FOLDER

Whole places are held out, in choosing alpha and in the scores stored in the file.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from geoelle.embed import space_of
from geoelle.holdout import PlaceKFold
from geoelle.models import Model, load_model
from geoelle.nulls import evaluate
from geoelle.probe import TWIN, fit_probe, with_twin
from geoelle.trust import fit_trust
from nano_samples import BAND_SETS, Labelled, labelled

FOLDS = 5
OUT = Path(__file__).parents[1] / "src" / "geoelle" / "weights"


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=2, show_default=True)
def main(imagery: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    model = load_model("nano")
    for name, (bands, dense) in {
        f"{kind}{n}": (bands, bool(kind)) for kind in ("", "dense-") for n, bands in BAND_SETS.items()
    }.items():
        found = labelled(imagery, ("fit",), model, bands, dense=dense)
        sample, cv = found.sample, PlaceKFold(FOLDS)
        scores = evaluate(sample, cv=cv, groups=found.places_n)
        probe = fit_probe(
            sample.vectors_nd, sample.loss_n, groups=found.places_n, space=space_of(model, bands, dense=dense), scale="log",
            cv=cv,
            features=(sample.features_nf, sample.feature_names),
        )  # fmt: skip
        probe = with_twin(probe, sample.twins[TWIN], sample.loss_n, groups=found.places_n, cv=cv)
        trust = fit_trust(
            probe, sample.vectors_nd, sample.loss_n, cv=cv, groups=found.places_n, halves_n2=sample.loss_rel_n2
        )
        table = scores.table()
        probe = replace(
            trust.probe,
            scores=scores.to_dict(),
            **account(found, model, cv, "patches" if dense else "chips"),
        )  # fmt: skip
        path = probe.save(OUT / f"nano-probe-{name}.safetensors", overwrite=True)
        click.echo(f"{path.name}: {table.sentence()} {' '.join(trust.lines)}")


def account(found: Labelled, model: Model, cv: PlaceKFold, rows: str) -> dict[str, Any]:
    """Say what a probe was fitted on, and how the ground was held out."""
    return {
        "folds": {"kind": repr(cv), "places": sorted(set(found.places_n.tolist())), "n": FOLDS},
        "versions": {"geoelle": version("geoelle"), "scikit-learn": version("scikit-learn")},
        "data": {
            "card": "docs/nano-data.json", "set": "fit", "unit": model.card.unit, rows: len(found.sample.loss_n),
            "credit": "contains modified Copernicus Sentinel data 2015-2023",
        },
        "licence": "CC-BY-4.0",
    }  # fmt: skip


if __name__ == "__main__":
    main()
