"""Options that mean the same in every command, and what a command makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from geoelle.fitting import FitJob
    from geoelle.pair_fit import PairJob
    from geoelle.plan import Job

__all__ = [
    "area_options",
    "check_pairs",
    "fit_job_of",
    "fit_options",
    "job_of",
    "json_option",
    "model_options",
    "output_options",
    "pair_job_of",
    "pair_options",
    "place_options",
    "source_options",
]

_OF_PAIRS = (
    "vector_column", "loss_column", "group_column", "lon_column", "lat_column", "features", "random_folds", "target",
    "model_name",
)  # fmt: skip
_OF_RUNS = ("holdout", "domain", "interval", "dense")

F = TypeVar("F", bound=Callable[..., Any])


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

_GROUND = (
    click.option("--bbox", metavar="W,S,E,N", help="Degrees, EPSG:4326."),
    click.option("--polygon", type=click.Path(path_type=Path), help="GeoJSON or GeoParquet instead of a bbox."),
)
_SOURCE = (
    click.option(
        "--catalog",
        help="Endpoint name, STAC URL, catalog.json, item collection, stac-geoparquet, or demo. "
        "Default: the endpoint that the sensor names.",
    ),
    click.option("--sensor", help="Default: the catalog's only matching collection."),
    click.option(
        "--cloud", "cloud_max", default=40.0, show_default=True, help="Drop items cloudier than this, percent."
    ),
)
_LOOKS = click.option(
    "--looks",
    default=4,
    show_default=True,
    help="Dates to choose the clearest from, chip by chip, where no date covers 95% of the area.",
)

area_options = _stack(
    *_GROUND,
    click.option("--dates", required=True, metavar="DATES", help="2024, 2024-06, 2024-06-01 or A/B of these."),
    *_SOURCE,
    _LOOKS,
)

place_options = _stack(*_GROUND, *_SOURCE, _LOOKS)
"""Those of `area_options` without its dates, for commands that have several."""

source_options = _stack(*_SOURCE)
"""Where items come from, for commands that read every date."""

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
    """Return the job that a command's options describe, among them its `dates`."""
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


fit_options = _stack(
    click.option(
        "--block", default="10km", show_default=True, help="Side of the blocks of ground that folds are made of."
    ),
    click.option(
        "--folds",
        type=click.IntRange(min=2),
        help="Default: 5; every place, source, scene or date in turn where these are held out, in 20 folds at most.",
    ),
    click.option(
        "--holdout",
        type=click.Choice(["block", "place", "source", "scene", "date", "knndm"]),
        help="What is held out; a place is a run. Default: block, with --for knndm.",
    ),
    click.option(
        "--for",
        "domain",
        metavar="AREA",
        help="The area to be mapped: W,S,E,N, a raster or a run. Folds become as far from their training part as it is "
        "from the sample (kNNDM).",
    ),
    click.option(
        "--buffer",
        default="auto",
        show_default=True,
        help="Ground left out around held-out chips, 2km say. auto: a chip's diagonal; with blocks as far as the "
        "residuals of a first fit are alike, if that is more.",
    ),
    click.option(
        "--scale",
        type=click.Choice(["log", "raw"]),
        default="log",
        show_default=True,
        help="Fit the loss or its logarithm.",
    ),
    click.option(
        "--interval",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Level of the intervals. Default: 0.9, left out where blocks are too few.",
    ),
    click.option("--dense", is_flag=True, help="Fit on the patches that geoelle embed --loss --dense kept."),
)


def fit_job_of(options: dict[str, Any]) -> FitJob:
    """Return the fit of runs that a command's options describe."""
    from geoelle.fitting import FitJob, block_metres, buffer_metres
    from geoelle.held import Asked

    return FitJob(
        block_m=block_metres(options["block"]),
        folds=options["folds"],
        scale=options["scale"],
        holdout=Asked(kind=options["holdout"], domain=options["domain"], buffer_m=buffer_metres(options["buffer"])),
        interval=options["interval"],
        dense=options["dense"],
    )


pair_options = _stack(
    click.option(
        "--pairs", type=click.Path(path_type=Path), metavar="FILE",
        help="Fit on (embedding, loss) pairs instead of runs: Parquet, npz or safetensors.",
    ),
    click.option("--vector-column", help="With --pairs: column or array of vectors. Default: the only one."),
    click.option("--loss-column", help="With --pairs. Default: loss."),
    click.option("--group-column", help="With --pairs: labels of what belongs together and is held out whole."),
    click.option("--lon-column", help="With --pairs: degrees, EPSG:4326. Default: lon, where there is no group."),
    click.option("--lat-column", help="With --pairs. Default: lat, where there is no group."),
    click.option("--features", multiple=True, metavar="COLUMN", help="With --pairs: a simple feature to beat. Repeat."),
    click.option("--random-folds", is_flag=True, help="With --pairs: hold out rows at random; scores are flattering."),
    click.option("--target", help="With --pairs: what the loss is. Default: loss as given in FILE."),
    click.option("--model-name", help="With --pairs: the model of the vectors. Default: the name of FILE."),
)  # fmt: skip


def check_pairs(runs: tuple[Path, ...], pairs: dict[str, Any]) -> Path | None:
    """Return the file of --pairs, or None for runs.

    Raises: click.UsageError (both, neither, or options that need --pairs).
    """
    given = ["--" + name.replace("_", "-") for name in _OF_PAIRS if pairs[name]]
    of_runs = ["--" + {"domain": "for"}.get(name, name) for name in _OF_RUNS if pairs[name]]
    if bool(runs) == (pairs["pairs"] is not None):
        raise click.UsageError("give either RUNS or --pairs FILE")
    if given and pairs["pairs"] is None:
        raise click.UsageError(f"{', '.join(given)} need --pairs FILE")
    if of_runs and pairs["pairs"] is not None:
        raise click.UsageError(f"{', '.join(of_runs)} need RUNS, not --pairs")
    if (pairs["lon_column"] is None) != (pairs["lat_column"] is None):
        raise click.UsageError("--lon-column and --lat-column go together")
    if pairs["group_column"] and pairs["lon_column"]:
        raise click.UsageError("hold out either --group-column or --lon-column and --lat-column")
    return pairs["pairs"]


def pair_job_of(pairs: dict[str, Any]) -> PairJob:
    """Return the fit that the options of --pairs describe."""
    from geoelle.fitting import block_metres
    from geoelle.pair_fit import PairJob
    from geoelle.pairs import PairColumns

    columns = PairColumns(
        loss=pairs["loss_column"] or "loss",
        vectors=pairs["vector_column"],
        group=pairs["group_column"],
        lonlat=(pairs["lon_column"], pairs["lat_column"]) if pairs["lon_column"] else None,
        features=pairs["features"],
    )
    return PairJob(
        columns=columns,
        random_folds=pairs["random_folds"],
        target=pairs["target"],
        model=pairs["model_name"],
        block_m=block_metres(pairs["block"]),
        folds=pairs["folds"] or 5,
        scale=pairs["scale"],
    )
