"""The command line: argument parsing and printing, one function a verb.

stdout is the result (a path, a table or JSON), stderr is progress and talk. Exit codes: 0 done, 1 a failure with one
line of explanation, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import atexit
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from geoelle import console
from geoelle.delta_commands import delta
from geoelle.errors import GeoelleError
from geoelle.options import area_options, job_of, json_option, model_options, output_options
from geoelle.probe_commands import fit, rank, score
from geoelle.series_commands import series

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="geoelle")
def cli() -> None:
    """Map where a geospatial foundation model finds the ground hard.

    \b
    Example, offline:
      geoelle map --bbox -75.71,37.60,-75.53,37.75 --dates 2015/2018 --catalog demo -o out/
    """


@cli.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models, and which of them have a true loss.

    \b
    Example:
      geoelle models --json
      geoelle models pull galileo.nano
    """
    if context.invoked_subcommand:
        return
    from geoelle.hub import is_installed
    from geoelle.models import list_models, model_card

    cards = [model_card(name) for name in list_models()]
    if as_json:
        console.print_json([card.to_dict() | {"installed": is_installed(card)} for card in cards])
        return
    console.print_table(
        ["name", "dim", "chip", "gsd", "bands", "target", "a high value means", "licence", "download", "here"],
        [
            [
                c.name,
                c.dim,
                f"{c.chip_px} px",
                " to ".join(f"{g:g}" for g in dict.fromkeys(c.gsd_m)) + " m",
                len(c.bands),
                c.target if c.target == "none" else f"{c.target}: {c.objective}",
                c.reading,
                c.weights_licence,
                "in the wheel" if c.embedded else console.human_bytes(c.download_bytes) if c.download_bytes else "?",
                "yes" if is_installed(c) else "no",
            ]
            for c in cards
        ],
    )


@models.command()
@click.argument("name")
@click.option("--torchgeo", is_flag=True, help="Take the file that torchgeo's Weights enum names.")
@click.option("--yes", is_flag=True, help="Accept a restrictive licence without being asked.")
@json_option
def pull(name: str, torchgeo: bool, yes: bool, as_json: bool) -> None:
    """Fetch a model's published weights into the Hugging Face cache, and check their sha256.

    An interrupted download resumes. The token of `hf auth login` or HF_TOKEN is used where one is needed.

    \b
    Example:
      geoelle models pull galileo.nano
    """
    from geoelle import hub
    from geoelle.errors import CapabilityError
    from geoelle.models import model_card

    card = model_card(name)
    if card.embedded:
        console.talk(f"the weights of {name} ship with geoelle; nothing to fetch")
        return
    size = console.human_bytes(card.download_bytes) if card.download_bytes else "of unknown size"
    console.talk(f"{name}: {size}. Licence of the weights: {card.weights_licence}; of the code: {card.code_licence}")
    if card.terms and not hub.is_installed(card):
        console.talk(card.terms)
        if not yes and not sys.stdin.isatty():
            raise CapabilityError(f"{name} has a restrictive licence; read it, then add --yes")
        if not yes and not click.confirm("Do you accept these terms?", err=True):
            raise click.Abort
    pulled = hub.pull(name, torchgeo=torchgeo)
    if as_json:
        console.print_json([{**asdict(p), "path": str(p.path)} for p in pulled])
        return
    for p in pulled:
        check = "sha256 as published" if p.checked else "no published sha256 to compare with"
        console.talk(f"{p.file} at {p.commit[:12]}: {console.human_bytes(p.bytes)}, sha256 {p.sha256} ({check})")
        click.echo(p.path)


@cli.command()
@json_option
def sensors(as_json: bool) -> None:
    """List the sensors and the public endpoints that offer them.

    \b
    Example:
      geoelle sensors
    """
    from geoelle.catalog import endpoints, load_endpoint, load_sensor
    from geoelle.catalog import sensors as names

    found = [load_sensor(name) for name in names()]
    places = [load_endpoint(name) for name in endpoints()]
    offered = {s.name: [e.name for e in places if s.name in e.collections] for s in found}
    if as_json:
        console.print_json(
            {
                "sensors": [
                    {
                        "name": s.name,
                        "title": s.title,
                        "bands": list(s.band_names),
                        "gsd_m": s.gsd_m,
                        "unit": s.unit,
                        "note": s.note,
                        "endpoints": offered[s.name],
                    }
                    for s in found
                ],
                "endpoints": [{"name": e.name, "url": e.url, "auth": e.auth} for e in places],
            }
        )
        return
    console.print_table(
        ["sensor", "gsd", "unit", "bands", "endpoints", "clouds"],
        [[s.name, f"{s.gsd_m:g} m", s.unit, len(s.bands), " ".join(offered[s.name]), s.note] for s in found],
    )
    console.print_table(["endpoint", "url", "auth"], [[e.name, e.url, e.auth] for e in places])


@cli.command()
@area_options
@json_option
def search(as_json: bool, **options: Any) -> None:
    """List the items of an area, their cloud and how much of it they cover.

    \b
    Example:
      geoelle search --bbox -75.71,37.60,-75.53,37.75 --dates 2015/2018 --catalog demo
    """
    from geoelle.area import Area
    from geoelle.catalog import search as find
    from geoelle.read import plan_looks

    area = Area.parse(bbox=options["bbox"], polygon=options["polygon"], dates=options["dates"])
    found = find(area, catalog=options["catalog"], sensor=options["sensor"], cloud_max=options["cloud_max"])
    chosen = {item.id for look in plan_looks(found.items, area.geometry, looks=options["looks"]) for item in look.items}
    rows = []
    for item in found.items:
        look = plan_looks((item,), area.geometry, looks=1)[0]
        rows.append(
            {
                "id": item.id,
                "date": str(look.date),
                "half_width_days": look.date_half_width_days,
                "cloud": look.cloud,
                "coverage": round(look.coverage, 4),
                "chosen": item.id in chosen,
            }
        )
    if as_json:
        console.print_json({"sensor": found.sensor.name, "masks_clouds": found.sensor.note, "items": rows})
        return
    console.print_table(
        ["item", "date", "cloud %", "coverage", "chosen"],
        [
            [
                r["id"],
                r["date"] + (f" ±{r['half_width_days']:.2g} d" if r["half_width_days"] else ""),
                "?" if r["cloud"] is None else f"{r['cloud']:.1f}",
                f"{r['coverage']:.0%}",
                "yes" if r["chosen"] else "",
            ]
            for r in rows
        ],
    )


@cli.command()
@area_options
@model_options
@click.option(
    "--loss", is_flag=True, help="Also compute the model's pretraining loss on every chip (needs its decoder)."
)
@click.option(
    "--twins", default=None, type=int, help="Untrained twins to embed beside. Default: 3 with --loss, else 0."
)
@click.option(
    "--dense", is_flag=True, help="Also keep a few patches of each chip, for geoelle fit --dense (with --loss)."
)
@output_options
def embed(loss: bool, twins: int | None, dense: bool, **options: Any) -> None:
    """Embed every chip of an area; with --loss, ready for geoelle fit.

    \b
    Example:
      geoelle embed --bbox -75.71,37.60,-75.53,37.75 --dates 2015/2018 --catalog demo --loss -o run/
    """
    from geoelle.plan import make_plan
    from geoelle.run import finish, run_embed

    plan = make_plan(job_of(options, loss=loss, dense=dense, twins=(3 if loss else 0) if twins is None else twins))
    if not _go_on(plan, options):
        return
    with console.progress(options["as_json"]) as report:
        outcome = run_embed(plan, options["out"], overwrite=options["overwrite"], progress=report)
    finish(outcome, plan, [], {})
    _tell(options, {"out": str(options["out"]), "counts": outcome.counts})


@cli.command("map")
@area_options
@model_options
@click.option("--probe", type=click.Path(path_type=Path), help="Default: the probe that ships with the model.")
@click.option("--expected", is_flag=True, help="Write difficulty as the mean loss, not the typical (median) one.")
@click.option(
    "--dense",
    is_flag=True,
    help="One cell a patch, averaged over chips half a chip apart, or --stride. Needs its own probe.",
)
@output_options
def map_(probe: Path | None, expected: bool, dense: bool, **options: Any) -> None:
    """Write a difficulty map: COG, Zarr, QGIS style, STAC item, picture and report.

    \b
    Example:
      geoelle map --bbox -75.71,37.60,-75.53,37.75 --dates 2015/2018 --catalog demo -o out/
      geoelle map --bbox -75.71,37.60,-75.53,37.75 --dates 2015/2018 --catalog demo --dense -o dense/
    """
    from geoelle.plan import make_plan
    from geoelle.products import probe_for, run_map

    plan = make_plan(job_of(options, dense=dense), cells_for_map=True)
    used = probe_for(plan, probe)
    if expected:
        used.check_expected()
    if not _go_on(plan, options):
        return
    with console.progress(options["as_json"]) as report:
        product = run_map(
            plan, used, options["out"], expected=expected, overwrite=options["overwrite"], progress=report
        )
    _tell(options, product.to_dict())


for command in (fit, score, rank, delta, series):
    cli.add_command(command)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def info(path: Path, as_json: bool) -> None:
    """Describe and verify a run, a probe, an embeddings file or a raster.

    \b
    Example:
      geoelle info out/
    """
    from geoelle.describe import describe, in_words

    facts = describe(path)
    console.show(facts if as_json else in_words(facts), as_json)


def _go_on(plan: Any, options: dict[str, Any]) -> bool:
    """Print the plan; return whether to carry it out."""
    from geoelle.plan import ASK_BYTES

    facts = plan.to_dict()
    if options["dry_run"]:
        console.show(facts, options["as_json"])
        return False
    console.talk(
        f"{len(facts['looks'])} date(s) of {facts['sensor']}, {facts['cells']} cells of {facts['cell_m']:g} m, about "
        f"{console.human_bytes(facts['bytes'])} to read, {facts['encode_seconds']:.0f} s to embed"
    )
    if facts["bytes"] > ASK_BYTES and not options["yes"]:
        raise GeoelleError(
            f"the plan reads about {console.human_bytes(facts['bytes'])}, more than {console.human_bytes(ASK_BYTES)}; "
            "add --yes to go on, or make --bbox smaller"
        )
    return True


def _tell(options: dict[str, Any], facts: dict[str, Any]) -> None:
    if options["as_json"]:
        console.print_json(facts)
        return
    for line in facts.get("lines", []):
        console.talk(line)
    counts = facts["counts"]
    console.talk("{read} of {planned} chips read, {empty} empty, {skipped} assets skipped".format(**counts))
    for path in facts.get("files", [facts["out"]]):
        click.echo(path)


def main() -> None:
    """Run the command line; turn expected failures into one line and an exit code."""
    try:
        code = cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as wrong:
        wrong.show()
        code = wrong.exit_code
    except GeoelleError as failure:
        console.talk(f"error: {failure}")
        code = 1
    except (KeyboardInterrupt, click.Abort):
        console.talk("interrupted; the same command goes on where it stopped")
        sys.stdout.flush()
        # A plain exit waits for reads under way, minutes where a server is slow.
        atexit._run_exitfuncs()
        os._exit(130)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
