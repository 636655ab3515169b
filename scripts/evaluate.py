"""Evaluate every model that runs here on ground held out, and write docs/evaluation.md and docs/evaluation.json.

    python scripts/evaluate.py IMAGERY_FOLDER --weights galileo.nano=FOLDER --weights presto=FOLDER --cache build/samples
    python scripts/evaluate.py             the demo scene only, printed

IMAGERY_FOLDER holds the files of docs/nano-data.json and docs/radar-data.json. Models without weights are left out, and
the page says so. Every figure of the page is printed by this script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import torch

import downstream
import eval_delta
import eval_demo
import eval_nano
import eval_places
import eval_transfer
import eval_trust
import evaluate_flags
import improve_page
import nano_samples
from eval_cases import CAP, CASES, Case, rows_of
from geoelle.models import load_model
from geoelle.models.nano import BANDS
from geoelle.products import shipped_probe
from geoelle.scores import Scores
from geoelle.trust import Trust
from given import folders_of
from nano_samples import Labelled

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Evaluation

Written by `scripts/evaluate.py`; every figure is printed by it. Intervals are 95%, from redrawing whole places (or blocks).
Chips of one place share soil, weather and acquisition, so random folds flatter: their score stands in the tables as a warning,
not as a result. `loss` is the model's own pretraining loss, the mean over 8 fixed masks; a null is any predictor that does not
use the trained embedding, on the same folds, the same search for alpha and the same target. Every table as JSON:
[evaluation.json](evaluation.json). What Delta is worth has pages of its own: [on real damage](evaluation-delta.md), and
[where nothing changed, or a change was put in](evaluation-delta-series.md).
"""


def transfer_section(found: Mapping[str, Labelled], imagery: Path, cache: Path | None) -> str:
    """Return the tables of transfer between levels, sources, band sets and sensors."""
    lines = [
        "## Does a probe carry over?",
        "",
        eval_transfer.__doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "",
    ]
    for key, title in (("nano", "nano"), ("galileo-s2", "Galileo nano")):
        if key in found:
            lines += [f"### {title}: between levels", "", eval_transfer.table(eval_transfer.levels(found[key], title))]
            lines += [f"### {title}: one source held out", "", eval_transfer.sources(found[key])]
    nano = {"10 bands": found["nano"]} | {
        f"{n} bands": nano_samples.labelled(
            imagery, ("fit", "test"), load_model("nano"), nano_samples.BAND_SETS[n], CAP, cache and cache / f"nano-{n}"
        )
        for n in ("6", "4")
    }
    ways = [
        ("10 bands", "10 bands"),
        ("6 bands", "6 bands"),
        ("4 bands", "4 bands"),
        ("10 bands", "6 bands"),
        ("10 bands", "4 bands"),
    ]
    lines += [
        "### nano: with and without short-wave infrared", "",
        "Ten bands; six with one of short-wave infrared; four without any. A probe of one set of bands is refused on another "
        "(they are two spaces): the last two rows, measured past that refusal, say why.", "",
        eval_transfer.table([eval_transfer.Transfer(fitted_on=a, scored_on=b, train=nano[a], test=nano[b], pixels=a == b) for a, b in ways]),
    ]  # fmt: skip
    if {"galileo-s1", "galileo-s2"} <= found.keys():
        radar, optical = found["galileo-s1"], found["galileo-s2"]
        shared = sorted(set(radar.places_n) & set(optical.places_n))
        few = rows_of(radar, np.isin(radar.places_n, shared))
        pairs = [("Sentinel-1", "Sentinel-1", radar, radar), ("Sentinel-2", "Sentinel-1", optical, few)]
        lines += [
            "### Galileo nano: between sensors", "",
            f"Scored on Sentinel-1; the second row on the {len(shared)} places that have both sensors, by a probe of Sentinel-2 at "
            "other places. Two spaces again, and refused.", "",
            eval_transfer.table([
                eval_transfer.Transfer(fitted_on=a, scored_on=b, train=x, test=y, pixels=a == b) for a, b, x, y in pairs
            ]),
        ]  # fmt: skip
    return "\n".join(lines)


def verdict_of(section: str) -> str:
    """Return the first sentence in bold of a section, with the rest of its line."""
    return next(line for line in section.splitlines() if line.startswith("**Of "))


@click.command()
@click.argument("imagery", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--weights", multiple=True, metavar="NAME=FOLDER")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps embeddings between runs.")
@click.option("--threads", default=1, show_default=True)
def main(imagery: Path | None, weights: tuple[str, ...], cache: Path | None, threads: int) -> None:
    torch.set_num_threads(threads)
    folders = {name: Path(folder) for name, folder in folders_of(weights).items()}
    model = load_model("nano")
    probe = shipped_probe(model, BANDS)
    demo = eval_demo.demo_section(model, probe)
    if imagery is None:
        click.echo(demo[0])
        return
    found: dict[str, Labelled] = {}
    scores: dict[str, tuple[Case, Scores]] = {}
    trusts: dict[str, tuple[Case, Trust]] = {}
    for case in CASES:
        if case.model != "nano" and case.model not in folders:
            click.echo(f"{case.title}: no --weights {case.model}=FOLDER, left out", err=True)
            continue
        found[case.key] = case.gather(imagery, folders.get(case.model), cache)
        scores[case.key] = (case, eval_places.score(found[case.key]))
        trusts[case.key] = (case, eval_trust.trust_of(found[case.key]))
        click.echo(f"{case.title}: {scores[case.key][1].table().sentence()}", err=True)
    bench = evaluate_flags.make_bench(model)
    flags = evaluate_flags.measure(bench, model, probe)
    galileo = {name: str(folder) for name, folder in folders.items() if name == "galileo.nano"}
    useful = downstream.section(imagery, galileo, cache and cache / "downstream")
    gap = eval_nano.gap_section(imagery, model)
    absent = [case.title for case in CASES if case.key not in found]
    ranked = eval_places.order(list(scores.values()))
    short = [line for case, each in ranked for line in eval_places.short(case, each)]
    short += [*improve_page.short(), verdict_of(useful), f"As a flag of bad data, {evaluate_flags.summary(flags)[0].removeprefix('- ')}"]
    short += [line for case, each in trusts.values() for line in eval_trust.short(case, each)]
    short += [*demo[1], *gap[1]]
    short += [f"Left out for want of weights: {', '.join(absent)}."] if absent else []
    sections = [
        "## In short", "", *(f"- {line}" for line in short), "",
        "## Places held out", "", eval_places.matrix(scores), eval_trust.section(trusts),
        transfer_section(found, imagery, cache),
        improve_page.section(), improve_page.proxy_section(), useful, evaluate_flags.section(flags, bench),
        demo[0], eval_delta.section(), gap[0], eval_nano.objectives_section(),
        "## Every table", "", *(eval_places.section(case, each) for case, each in scores.values()),
    ]  # fmt: skip
    (DOCS / "evaluation.md").write_text("\n".join([HEAD, *sections]))
    tables = {
        key: {"title": case.title, "scores": each.to_dict(), "trust": dict(trusts[key][1].probe.trust)}
        for key, (case, each) in scores.items()
    }
    (DOCS / "evaluation.json").write_text(json.dumps(tables, indent=1) + "\n")
    click.echo((DOCS / "evaluation.md").read_text())


if __name__ == "__main__":
    main()
