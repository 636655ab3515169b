"""Options that mean the same in every command, and what a command makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from geoelle.plan import Job

__all__ = ["area_options", "job_of", "json_option", "model_options", "output_options"]

F = TypeVar("F", bound=Callable[..., Any])


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

area_options = _stack(
    click.option("--bbox", metavar="W,S,E,N", help="Degrees, EPSG:4326."),
    click.option("--polygon", type=click.Path(path_type=Path), help="GeoJSON or GeoParquet instead of a bbox."),
    click.option("--dates", required=True, metavar="DATES", help="2024, 2024-06, 2024-06-01 or A/B of these."),
    click.option(
        "--catalog",
        help="Endpoint name, STAC URL, catalog.json, item collection, stac-geoparquet, or demo. "
        "Default: the endpoint that the sensor names.",
    ),
    click.option("--sensor", help="Default: the catalog's only matching collection."),
    click.option(
        "--cloud", "cloud_max", default=40.0, show_default=True, help="Drop items cloudier than this, percent."
    ),
    click.option(
        "--looks",
        default=4,
        show_default=True,
        help="Dates to choose the clearest from, chip by chip, where no date covers 95% of the area.",
    ),
)

model_options = _stack(
    click.option("--model", default="nano", show_default=True, help="See geoelle models."),
    click.option("--weights", help="A local file or folder, or untrained. Default: what geoelle models pull fetched."),
    click.option(
        "--crs", "epsg", type=int, metavar="EPSG", help="Projected CRS of the lattice. Default: the UTM zones."
    ),
    click.option("--stride", "stride_px", type=int, help="Pixels between chips. Default: the model's."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps."),
    click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True),
)

output_options = _stack(
    click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory of the run."),
    click.option("--overwrite", is_flag=True, help="Replace a finished run."),
    click.option(
        "--errors",
        type=click.Choice(["raise", "skip"]),
        default="raise",
        show_default=True,
        help="An asset that cannot be read: stop, or leave NaN and count it.",
    ),
    click.option("--dry-run", is_flag=True, help="Print items, chips, cells and bytes; read nothing."),
    click.option("--yes", is_flag=True, help="Go on although more than 2 GB would be read."),
    json_option,
)


def job_of(options: dict[str, Any], **more: Any) -> Job:
    """Return the job that a command's options describe."""
    from geoelle.area import Area
    from geoelle.plan import Job

    area = Area.parse(bbox=options["bbox"], polygon=options["polygon"], dates=options["dates"])
    names = (
        "catalog",
        "sensor",
        "model",
        "weights",
        "epsg",
        "stride_px",
        "cloud_max",
        "looks",
        "errors",
        "device",
        "precision",
    )
    return Job(area=area, **{name: options[name] for name in names}, **more)
