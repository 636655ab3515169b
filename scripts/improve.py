"""Try what could lift ELLE above its nulls, by docs/protocol.md; print the tables and write docs/improve.json.

    python scripts/improve.py IMAGERY_FOLDER [--weights galileo.nano=FOLDER] [--weights presto=FOLDER]
                              [--cache FOLDER] [--networks FOLDER]

`--cache` keeps embeddings, losses and pooled tokens; without it they are made again, in hours rather than minutes. `--networks` holds
what scripts/train_nano.py wrote for each objective: pixel/nano.safetensors and so on. A model without weights is left out, and what
docs/improve.json holds of it stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import torch
from threadpoolctl import threadpool_limits

import improve_page
from geoelle.models import Model, load_model, nano
from given import folders_of
from improve_fits import FOLDS, Fold, Recipe, blended, pixel_parts, place_folds, predict
from improve_material import Material, material_of
from improve_pools import inputs_of
from improve_proxy import proxy_rows
from improve_rule import LEVEL, OBJECTIVES, Predictions, Referee, Verdict, entries, holm, outcomes, survivors

OUT = Path(__file__).parents[1] / "docs" / "improve.json"
TEST = ("test",)
STEPS = 2_000
DEVELOPMENT = {"nano": ("fit",), "galileo.nano": ("pretrain", "fit"), "presto": ("pretrain", "fit")}
KEPT = {"nano": "nano", "galileo.nano": "galileo-s2", "presto": "presto"}
"""Model -> its folder in the cache."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the protocol's table; `stack` blends with pixel support vectors."""

    key: str
    family: str
    pooling: str = "mean"
    recipe: Recipe = field(default_factory=Recipe)
    stack: bool = False

    def with_(self, other: Candidate) -> Candidate:
        """Combine with a candidate of another family."""
        changed = {k: v for k, v in asdict(other.recipe).items() if v != asdict(Recipe())[k]}
        pooling = self.pooling if other.pooling == "mean" else other.pooling
        key, family = f"{self.key} + {other.key}", "combined"
        return Candidate(key=key, family=family, pooling=pooling, recipe=replace(self.recipe, **changed))


BASELINE = Candidate(key="ELLE", family="baseline")
_POOLED = ("pool-sd", "pool-log-sd", "pool-max", "pool-layers", "pool-layers-log-sd")
_GROUPED = ("pool-groups", "pool-groups-log-sd")
POOLED = {"nano": _POOLED, "galileo.nano": _POOLED + _GROUPED, "presto": ()}


def candidates_of(name: str) -> list[Candidate]:
    """Return the candidates of a model, in the order of the protocol."""
    joint = {"joint": "joint", "joint-two": "joint-two"}
    return [
        *(Candidate(key=f"target-{t}", family="target", recipe=Recipe(target=t)) for t in ("raw", "rank", "normal")),
        *(Candidate(key=key, family="pooling", pooling=key) for key in POOLED[name]),
        *(Candidate(key=f"pca-{k}", family="pooling", recipe=Recipe(pca=k)) for k in (16, 64)),
        *(
            Candidate(key=f"centre-{c}", family="centring", recipe=Recipe(centre=c))
            for c in ("level", "source", "both")
        ),
        Candidate(key="balanced", family="weights", recipe=Recipe(balanced=True)),
        *(Candidate(key=key, family="joint", recipe=Recipe(learner=learner)) for key, learner in joint.items()),
        Candidate(key="joint-stack", family="joint", stack=True),
        *(Candidate(key=f"bound-{k}", family="bound", recipe=Recipe(learner=k)) for k in ("svr", "trees")),
    ]


class Trial:
    """Run candidates and their nulls on the same chips and folds."""

    def __init__(self, material: Material, folds: Sequence[Fold]) -> None:
        self.material, self.folds = material, folds
        self._pixels: dict[Recipe, np.ndarray] = {}
        self._parts: list[Fold] | None = None
        tested = [np.full(len(test), k) for k, (_, test) in enumerate(folds)]
        self.rows = np.concatenate([test for _, test in folds])
        self.referee = Referee(
            material.labels.log_n[self.rows], material.labels.places_n[self.rows], np.concatenate(tested), self.run(BASELINE)
        )  # fmt: skip

    def verdict(self, candidate: Candidate) -> Verdict:
        """Run one candidate and score it."""
        return self.referee.verdict(candidate.key, candidate.family, self.run(candidate))

    def run(self, candidate: Candidate) -> Predictions:
        """Return the predictions of a candidate and of its nulls on the rows tested."""
        recipe, labels = candidate.recipe, self.material.labels
        networks = [inputs_of(pools, candidate.pooling) for pools in (self.material.pools, *self.material.twins)]
        elle_n, *twins = [self._predict(x_nd, candidate) for x_nd in networks]
        ridges = None
        if recipe.learner == "ridge" and not candidate.stack:
            joint_n = predict(networks[0], labels, self.folds, replace(recipe, pca=0, learner="joint"))
            ridges = self._of_pixels(recipe.of_pixels("ridge")), joint_n[self.rows]
        pixels = {f"pixel {name}": self._of_pixels(recipe.of_pixels(name)) for name in ("svr", "trees")}
        return Predictions(elle_n=elle_n, twins=twins, pixels=pixels, ridges=ridges)

    def _predict(self, x_nd: np.ndarray, candidate: Candidate) -> np.ndarray:
        labels = self.material.labels
        if not candidate.stack:
            return predict(x_nd, labels, self.folds, candidate.recipe)[self.rows]
        if self._parts is None:
            self._parts = pixel_parts(labels, self.folds)
        return blended(x_nd, labels, self.folds, self._parts)[self.rows]

    def _of_pixels(self, recipe: Recipe) -> np.ndarray:
        if recipe not in self._pixels:
            labels = self.material.labels
            self._pixels[recipe] = predict(labels.features_nf, labels, self.folds, recipe)[self.rows]
        return self._pixels[recipe]


def develop(name: str, material: Material) -> dict[str, object]:
    """Score every candidate of a model on its development places."""
    trial = Trial(material, place_folds(material.labels.places_n))
    candidates = candidates_of(name)
    verdicts = []
    for candidate in candidates:
        verdicts.append(trial.verdict(candidate))
        click.echo(improve_page.line(_plain(verdicts[-1])))
    alive = survivors(verdicts)
    return {
        "chips": len(trial.rows), "places": len(set(material.labels.places_n)), "folds": FOLDS,
        "baseline": _plain(trial.verdict(BASELINE)),
        "candidates": [_plain(v) | {"holm": p, "survives": v.key in alive}
                       for v, p in zip(verdicts, holm([v.p for v in verdicts]), strict=True)],
        "survivors": alive,
        "entries": [list(keys) for keys in entries(verdicts, alive)],
    }  # fmt: skip


def confirm(name: str, material: Material, keys: Sequence[Sequence[str]]) -> dict[str, object]:
    """Score the entries on the confirmation places, fitted on all development places."""
    known = {candidate.key: candidate for candidate in candidates_of(name)}
    trial = Trial(material, [material.last_set_held_out()])
    found = []
    for entry in keys:
        chosen, *others = [known[key] for key in entry]
        for other in others:
            chosen = chosen.with_(other)
        found.append(trial.verdict(chosen))
    return {
        "chips": len(trial.rows), "places": len(set(material.labels.places_n[trial.rows])),
        "baseline": _plain(trial.verdict(BASELINE)),
        "entries": [_plain(v) | {"holm": p, "outcome": outcome}
                    for v, p, outcome in zip(found, holm([v.p for v in found]), outcomes(found), strict=True)],
    }  # fmt: skip


def objectives(imagery: Path, networks: Path, cache: Path | None) -> list[dict[str, object]]:
    """Score networks of nano's shape, each on its own loss, on the development places; confirm those that survive."""
    rows, sets = [], DEVELOPMENT["nano"]
    for objective in OBJECTIVES:
        if steps_of(networks / objective) != STEPS:
            click.echo(f"{objective} is left out: {networks / objective} holds no network of {STEPS:,} steps", err=True)
            continue
        with _as_nano(networks / objective / "nano.safetensors") as model:
            kept = None if cache is None else cache / f"objective-{objective}"
            material = material_of(imagery, sets, model, kept, pooled=False)
            trial = Trial(material, place_folds(material.labels.places_n))
            rows.append({"objective": objective, "places": len(set(material.labels.places_n)), "chips": len(trial.rows)}
                        | _plain(trial.verdict(BASELINE)))  # fmt: skip
        click.echo(improve_page.line(rows[-1] | {"key": f"objective-{objective}"}))
    rivals = [row for row in rows if row["objective"] != "pixel"]
    absent = [1.0] * (len(OBJECTIVES) - 1 - len(rivals))  # they count among the candidates all the same
    for row, p in zip(rivals, holm([row["p_over_pixels"] for row in rivals] + absent), strict=False):
        row["holm"] = p
        row["survives"] = _above_its_nulls(row, p)
    alive = [row for row in rivals if row["survives"]]
    for row in alive:
        with _as_nano(networks / row["objective"] / "nano.safetensors") as model:
            kept = None if cache is None else cache / f"objective-{row['objective']}"
            material = material_of(imagery, (*sets, *TEST), model, kept, pooled=False)
            trial = Trial(material, [material.last_set_held_out()])
            row["confirmation"] = _plain(trial.verdict(BASELINE))
    for row, p in zip(alive, holm([row["confirmation"]["p_over_pixels"] for row in alive]), strict=True):
        row["outcome"] = "confirmed" if _above_its_nulls(row["confirmation"], p) else "not confirmed"
    return rows


def steps_of(run: Path) -> int:
    """Return the steps that a run of scripts/train_nano.py has made, whose weights are written as it goes; 0 for none."""
    log = run / "log.jsonl"
    return json.loads(log.read_text().splitlines()[-1])["step"] if log.is_file() else 0


def _above_its_nulls(row: Mapping[str, object], p: float) -> bool:
    return row["over_pixels"]["value"] > 0 and p <= LEVEL and row["over_twins"]["low"] > 0


@contextmanager
def _as_nano(weights: Path) -> Iterator[Model]:
    """Give a network of nano's shape, with twins that take its objective and band statistics."""
    shipped = nano.WEIGHTS
    nano.WEIGHTS = weights
    try:
        yield nano.load("nano")
    finally:
        nano.WEIGHTS = shipped


def _plain(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON data: figures to six digits, None for NaN."""
    text = json.dumps(asdict(verdict))
    return json.loads(text, parse_float=lambda number: round(float(number), 6), parse_constant=lambda _: None)


def tried(name: str, imagery: Path, folder: str | None, cache: Path | None) -> dict[str, object]:
    """Return what a model's candidates score, confirmed where some survive, and its rows of the proxy."""
    model, sets, pooled = load_model(name, folder), DEVELOPMENT[name], bool(POOLED[name])
    kept = None if cache is None else cache / KEPT[name]
    material = material_of(imagery, sets, model, kept, pooled=pooled)
    result = develop(name, material)
    result["proxy"] = proxy_rows(material.pools, material.twins, material.labels) if pooled else []
    if result["entries"]:
        whole = material_of(imagery, (*sets, *TEST), model, kept, pooled=pooled)
        result["confirmation"] = confirm(name, whole, result["entries"])
    return result


def keep(**changed: object) -> None:
    """Put results into docs/improve.json as they come; what was not run again stays."""
    found = json.loads(OUT.read_text()) if OUT.is_file() else {"models": {}, "objectives": []}
    found["models"] |= changed.pop("models", {})
    OUT.write_text(json.dumps(found | changed, indent=1, allow_nan=False) + "\n")


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.option("--weights", multiple=True, help="NAME=FOLDER of published weights; may be given several times.")
@click.option("--cache", type=click.Path(path_type=Path), help="Keeps embeddings, losses and pooled tokens.")
@click.option(
    "--networks", type=click.Path(exists=True, path_type=Path), help="Networks of nano's shape, one an objective."
)
def main(imagery: Path, weights: tuple[str, ...], cache: Path | None, networks: Path | None) -> None:
    torch.set_num_threads(1)
    began, folders = time.monotonic(), folders_of(weights)
    with threadpool_limits(1):
        for name in DEVELOPMENT:
            if name != "nano" and name not in folders:
                click.echo(f"\n{name} is left out: give --weights {name}=FOLDER", err=True)
                continue
            click.echo(f"\n{name}")
            keep(models={name: tried(name, imagery, folders.get(name), cache)})
        if networks is not None:
            click.echo("\nobjectives")
            keep(objectives=objectives(imagery, networks, cache))
    click.echo(f"\n{improve_page.section()}\n{improve_page.proxy_section()}")
    click.echo(f"{OUT.name}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
