"""The command about places through time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoelle import console
from geoelle.errors import GeoelleError
from geoelle.options import job_of, model_options, output_options, source_options

if TYPE_CHECKING:
    from geoelle.places import Place
    from geoelle.probe import Probe
    from geoelle.series_plan import SeriesPlan

__all__ = ["series"]


@click.command()
@click.option("--at", "points", multiple=True, metavar="LON,LAT", help="A point, degrees, EPSG:4326. Repeat for more.")
@click.option("--polygons", type=click.Path(path_type=Path), help="GeoJSON or GeoParquet of places, by name.")
@click.option("--dates", required=True, metavar="DATES", help="2015/2020, 2024, or A/B of dates.")
@click.option("--event", metavar="DATE", help="The season is that before this date; recovery is measured after it.")
@click.option("--dense", is_flag=True, help="Cells are patches. Needs its own probe.")
@source_options
@click.option("--probe", type=click.Path(path_type=Path), help="Default: the probe that ships with the model.")
@model_options
@output_options
def series(**options: Any) -> None:
    """Show places through time: difficulty with its seasonal band, drift, and recovery after an event.

    Every date is read, whatever its season: a point has the chip that holds it, a polygon the mean of the cells whose
    centre lies in it. Dates without a clear look are left out.

    The example is a patch of forest that was cut by June 2019, as its NDVI says. Of 15 dates since then 6 are harder
    than its season lets expect, two of them for snow; those of summer are not, so no recovery can be told.

    \b
    Example:
      geoelle series --at 22.1518,45.2030 --dates 2015/2020 --event 2019-06 --dense --catalog demo -o series/
    """
    from geoelle.looks import LOOKS
    from geoelle.places import ground_of
    from geoelle.plan import ASK_BYTES
    from geoelle.products import probe_for
    from geoelle.series_plan import event_day, plan_series

    places = _places(options)
    job = job_of(options | {"bbox": None, "polygon": ground_of(places), "looks": LOOKS}, dense=options["dense"])
    day = event_day(options["event"], job.area)
    plan = plan_series(job, places)
    probe = probe_for(plan.plan, options["probe"])
    if options["dry_run"]:
        console.show(plan.to_dict(), options["as_json"])
        return
    size = console.human_bytes(plan.plan.bytes)
    console.talk(f"{len(plan.plan.looks)} dates of {plan.plan.found.sensor.name}, {plan.chips} chips, about {size}")
    if plan.plan.bytes > ASK_BYTES and not options["yes"]:
        limit = console.human_bytes(ASK_BYTES)
        raise GeoelleError(f"the plan reads about {size}, more than {limit}; add --yes to go on, or shorten --dates")
    _run(plan, probe, day, options)


def _run(plan: SeriesPlan, probe: Probe, day: float | None, options: dict[str, Any]) -> None:
    from geoelle.series import judge, observe
    from geoelle.series_product import SeriesFacts, write_series
    from geoelle.series_run import claim_series, score_dates

    fingerprint = plan.fingerprint(probe)
    folder = claim_series(options["out"], fingerprint, overwrite=options["overwrite"])
    with console.progress(options["as_json"]) as report:
        dates = score_dates(plan, probe, folder, progress=report)
    series = [
        judge(observe(place.name, cells, dates), day) for place, cells in zip(plan.places, plan.cells, strict=True)
    ]
    facts = SeriesFacts(
        sensor=plan.plan.found.sensor.name, clouds=plan.plan.found.sensor.note, event=options["event"],
        items=tuple(item.id for look in plan.plan.looks for item in look.items),
        skipped=tuple(row for date in dates for row in date.skipped),
    )  # fmt: skip
    told = {"fingerprint": fingerprint, "job": plan.plan.job.to_dict(), "bands": list(plan.plan.bands)}
    product = write_series(series, probe, options["out"], facts, told)
    console.finish(product, options["as_json"])


def _places(options: dict[str, Any]) -> tuple[Place, ...]:
    from geoelle.places import read_points, read_polygons

    if not options["points"] and options["polygons"] is None:
        raise click.UsageError("give places: --at LON,LAT or --polygons FILE")
    polygons = () if options["polygons"] is None else read_polygons(options["polygons"])
    return (*read_points(options["points"]), *polygons)
