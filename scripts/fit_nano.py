"""Fit the probes that ship with nano, and those of its untrained twin, on the `fit` places of docs/nano-data.json.

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
from geoelle.probe import fit_probe
from geoelle.shipped import TWIN, twin_space
from geoelle.trust import fit_trust
from nano_samples import BAND_SETS, Labelled, labelled

FOLDS = 5
OUT = Path(__file__).parents[1] / "src" / "geoelle" / "weights"


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--twins-only", is_flag=True, help="Leave the probes of nano itself as they are.")
def main(imagery: Path, threads: int, twins_only: bool) -> None:
    torch.set_num_threads(threads)
    model = load_model("nano")
    for name, (bands, dense) in {
        f"{kind}{n}": (bands, bool(kind)) for kind in ("", "dense-") for n, bands in BAND_SETS.items()
    }.items():
        found = labelled(imagery, ("fit",), model, bands, dense=dense)
        sample, cv = found.sample, PlaceKFold(FOLDS)
        save_twin(found, model, bands, name)
        if twins_only:
            continue
        scores = evaluate(sample, cv=cv, groups=found.places_n)
        probe = fit_probe(
            sample.vectors_nd, sample.loss_n, groups=found.places_n, space=space_of(model, bands, dense=dense), scale="log",
            cv=cv,
            features=(sample.features_nf, sample.feature_names),
        )  # fmt: skip
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


def save_twin(found: Labelled, model: Model, bands: tuple[str, ...], name: str) -> None:
    """Fit the loss of nano on the vectors of its untrained twin, for what Delta of it says; no interval, no reach."""
    sample, cv = found.sample, PlaceKFold(FOLDS)
    vectors_nd, keep_n = sample.twins[TWIN], sample.usable_n
    probe = fit_probe(
        vectors_nd[keep_n], sample.loss_n[keep_n], groups=found.places_n[keep_n], scale="log", cv=cv,
        space=twin_space(space_of(model, bands, dense="dense" in name)),
    )  # fmt: skip
    path = replace(probe, **account(found, model, cv, "patches" if "dense" in name else "chips")).save(
        OUT / f"nano-twin-{name}.safetensors", overwrite=True
    )
    click.echo(f"{path.name}: alpha {probe.embedding.alpha:g}, {path.stat().st_size:,} bytes")


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
