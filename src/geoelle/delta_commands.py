"""The command about change: from two runs, or from an area and two windows of dates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoelle import console
from geoelle.errors import GeoelleError
from geoelle.options import job_of, model_options, output_options, place_options

if TYPE_CHECKING:
    from geoelle.dated import Comparison
    from geoelle.delta_plan import Windows
    from geoelle.lattice import Addresses

__all__ = ["delta"]

_OF_AREAS = ("bbox", "polygon", "before", "after", "catalog", "sensor", "weights", "epsg", "stride_px", "dense")


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@place_options
@click.option("--before", metavar="DATES", help="Window before, with --bbox: 2024-06, 2024-06-01 or A/B of these.")
@click.option("--after", metavar="DATES", help="Window after.")
@click.option(
    "--history",
    multiple=True,
    metavar="N | RUN",
    help="Earlier years to judge by, 4 or more: how many of the window after, or with RUNS a run each. Else no test.",
)
@click.option(
    "--later",
    multiple=True,
    metavar="DATES | RUN",
    help="A further look at what changed: a window of the same season after --after, or with RUNS a run. Repeat.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the flagged cells that may be false.",
)
@click.option("--probe", type=click.Path(path_type=Path), help="Default: the probe that ships with the model.")
@click.option(
    "--evaluate",
    "labels",
    type=click.Path(path_type=Path, exists=True),
    metavar="LABELS",
    help="GeoJSON or GeoParquet of polygons that changed: score Delta and every baseline against them.",
)
@click.option("--dense", is_flag=True, help="One cell a patch, with --bbox. Needs its own probe.")
@click.option(
    "--loss/--no-loss",
    default=None,
    help="With --bbox, judge the change of the true loss beside Delta: embedding takes some five times as long. "
    "Default: where the model has one.",
)
@model_options
@output_options
def delta(runs: tuple[Path, ...], **options: Any) -> None:
    """Write a change map: where difficulty changed between two dates, at a stated false-alarm rate.

    Takes two finished runs, before and after, or an area and two windows of dates. Both signs count: ground often gets
    easier in a disaster.

    \b
    Examples:
      geoelle delta before/ after/ --history y18/ --history y17/ --history y16/ --history y15/ -o change/
      geoelle delta before/ after/ --history y18/ --history y17/ --history y16/ --history y15/ --later next/ -o c/
      geoelle delta --bbox 22.147,45.201,22.157,45.209 --before 2019-08 --after 2020-08 --history 4 --catalog demo -o a/
    """
    _of_runs(runs, options) if runs else _of_area(options)


def _of_runs(runs: tuple[Path, ...], options: dict[str, Any]) -> None:
    from geoelle.dated import Dated, compare_runs
    from geoelle.delta_product import claim

    if len(runs) != 2:
        raise click.UsageError("give two runs, before and after, or none and --bbox, --before and --after")
    given = [f"--{name}" for name in _OF_AREAS if options[name]] + ["--loss"] * (options["loss"] is not None)
    if given:
        raise click.UsageError(f"{', '.join(given)} are of an area, not of runs")
    history = [Dated.read(Path(path), f"history {i}") for i, path in enumerate(options["history"], start=1)]
    pair = (Dated.read(path, name) for path, name in zip(runs, ("before", "after"), strict=True))
    later = [Dated.read(Path(path), f"later {i}") for i, path in enumerate(options["later"], start=1)]
    found = compare_runs(*pair, history, later=later, probe=options["probe"], rate=options["rate"])
    _check_labels(options["labels"], [delta.addresses for delta in found.zones.values()])
    if options["dry_run"]:
        console.show(found.to_dict(), options["as_json"])
        return
    claim(options["out"], found.fingerprint, overwrite=options["overwrite"])
    _write(found, options)


def _of_area(options: dict[str, Any]) -> None:
    from geoelle.dated import Dated, compare_runs, fingerprint_of
    from geoelle.delta_plan import embed_windows
    from geoelle.delta_product import claim
    from geoelle.plan import ASK_BYTES
    from geoelle.products import probe_for

    windows = _planned(options)
    probe = probe_for(windows.plans["after"], options["probe"])
    _check_labels(options["labels"], [cells for _, cells in windows.plans["after"].cells])
    if options["dry_run"]:
        _show_windows(windows, options["as_json"])
        return
    if windows.bytes > ASK_BYTES and not options["yes"]:
        raise GeoelleError(
            f"the plan reads about {console.human_bytes(windows.bytes)}, more than {console.human_bytes(ASK_BYTES)}; "
            "add --yes to go on, or make --bbox smaller"
        )
    out, overwrite = options["out"], options["overwrite"]
    runs, later = ([windows.plans[name].fingerprint for name in names] for names in windows.names)
    claim(out, fingerprint_of(runs, probe, options["rate"], later), overwrite=overwrite)
    with console.progress(options["as_json"]) as report:
        folders = embed_windows(windows, out, probe, overwrite=overwrite, progress=report)
    (before, after, *history), later = ([Dated.read(folders[n], n) for n in names] for names in windows.names)
    found = compare_runs(
        before, after, history, later=later, probe=options["probe"], rate=options["rate"], notes=windows.notes
    )
    _write(found, options)


def _check_labels(labels: Path | None, zones: Sequence[Addresses]) -> None:
    """Refuse labels that no zone can be scored with before anything is claimed or embedded."""
    from geoelle.detection import read_truth

    if labels is not None:
        read_truth(labels, zones)


def _planned(options: dict[str, Any]) -> Windows:
    """Plan all windows, with the null of every change beside: the true loss, and the untrained twin of the model."""
    from geoelle.delta_plan import plan_windows
    from geoelle.models import load_model

    if not options["before"] or not options["after"]:
        raise click.UsageError("give two runs, or an area with --before and --after")
    loss = options["loss"]
    if loss is None:  # other weights of a model may lack the decoder that a loss needs
        loss = load_model(options["model"], options["weights"]).card.target == "loss"
    job = job_of(options | {"dates": options["after"]}, dense=options["dense"], loss=loss, twins=_twins(options))
    return plan_windows(job, options["before"], _years(options["history"]), options["later"])


def _twins(options: dict[str, Any]) -> int:
    """Return 1 where the probe has a map of the twin; patches keep their tokens with it, whether or not."""
    from geoelle.probe import Probe
    from geoelle.shipped import shipped_probes

    named = options["probe"]
    probes = shipped_probes(options["model"]) if named is None else [Probe.load(named)]
    return int(options["dense"] or any(probe.twin is not None for probe in probes))


def _show_windows(windows: Windows, as_json: bool) -> None:
    if as_json:
        console.print_json(windows.to_dict())
        return
    console.print_table(
        ["run", "seen", "items", "cells", "chips", "to read"],
        [
            [name, " ".join(str(look.date)[:10] for look in plan.looks), sum(len(look.items) for look in plan.looks),
             sum(len(cells) for _, cells in plan.cells), plan.chips, console.human_bytes(plan.bytes)]
            for name, plan in windows.plans.items()
        ],
    )  # fmt: skip
    for note in windows.notes:
        console.talk(note)


def _years(given: tuple[str, ...]) -> int:
    if not given:
        return 0
    if len(given) > 1 or not given[0].isdigit():
        raise click.UsageError(f"--history {' '.join(given)} is no count of years; runs are for a change of two runs")
    return int(given[0])


def _write(found: Comparison, options: dict[str, Any]) -> None:
    from geoelle.delta_product import write_delta

    product = write_delta(found, options["out"], labels=options["labels"])
    console.finish(product, options["as_json"])
