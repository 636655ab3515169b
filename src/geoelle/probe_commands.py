"""The commands about probes: fit one, score with one, rank the chips of a run by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geoelle import console
from geoelle.options import check_pairs, fit_job_of, fit_options, json_option, pair_job_of, pair_options

__all__ = ["fit", "rank", "score"]


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@fit_options
@pair_options
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("probe.safetensors"), show_default=True)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="DIR",
    help="Also write a folder of diagnostics: page, figures as PNG, numbers as JSON. Takes a minute.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True)
@click.option("--dry-run", is_flag=True, help="Print chips, blocks and folds; fit nothing.")
@json_option
def fit(
    runs: tuple[Path, ...],
    out: Path,
    report: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit a probe on runs that hold a loss; print its score on held-out ground beside every null.

    With --pairs, fit it on embeddings and losses of any other model instead: whole groups or blocks are held out.

    \b
    Examples:
      geoelle fit run/ --block 4km --folds 5 -o probe.safetensors
      geoelle fit run/ --for -75.71,37.60,-75.53,37.75 --report diagnostics/
      geoelle fit --pairs hubert.npz --group-column speaker --target "HuBERT masked loss"
    """
    from geoelle.fitting import fit_runs, plan_fit

    file = check_pairs(runs, options)
    if file is not None:
        from geoelle.pair_fit import fit_pairs, plan_pairs

        job = pair_job_of(options)
        if dry_run:
            console.show(plan_pairs(file, job), as_json)
            return
        fitted = fit_pairs(file, job, out=out, report=report, overwrite=overwrite)
    elif dry_run:
        console.show(plan_fit(runs, fit_job_of(options)), as_json)
        return
    else:
        fitted = fit_runs(runs, fit_job_of(options), out=out, report=report, overwrite=overwrite)
    if as_json:
        console.print_json(fitted.to_dict())
        return
    console.talk(fitted.table)
    click.echo(out)


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option("--probe", type=click.Path(path_type=Path), required=True)
@click.option("--column", help="Column or array that holds the vectors. Default: the only one.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="GeoParquet to write.")
@click.option("--overwrite", is_flag=True)
@click.option("--dry-run", is_flag=True, help="Check vectors and probe against each other; write nothing.")
@json_option
def score(
    embeddings: Path, probe: Path, column: str | None, out: Path, overwrite: bool, dry_run: bool, as_json: bool
) -> None:
    """Score vectors that exist already (GeoParquet, Parquet, Zarr or a run); no imagery needed.

    \b
    Example:
      geoelle score run/ --probe probe.safetensors -o scored.parquet
    """
    from geoelle.scoring import plan_score, score_file

    if dry_run:
        console.show(plan_score(embeddings, probe, column=column), as_json)
        return
    summary = score_file(embeddings, probe, out, column=column, overwrite=overwrite)
    if as_json:
        console.print_json(summary)
        return
    spread = "difficulty {p5:.4g} to {p95:.4g} (5th to 95th percentile)" if summary["valid"] else "none valid"
    console.talk(("{rows} rows, " + spread).format(**summary))
    click.echo(out)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--probe", type=click.Path(path_type=Path), help="Default: the probe that ships with the run's space.")
@click.option(
    "--by",
    type=click.Choice(["difficulty", "excess", "residual", "surprise"]),
    help="List both ends of this measure. Default: hardest, easiest, most excessive, most surprising.",
)
@click.option("--top", type=click.IntRange(min=1), default=24, show_default=True, help="Chips a list.")
@click.option(
    "--above",
    type=click.FloatRange(0, 100, max_open=True),
    metavar="PERCENTILE",
    help="Also join the cells above this percentile into clusters, with a way to visit them.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory to write.")
@click.option("--overwrite", is_flag=True, help="Replace an older ranking.")
@click.option("--dry-run", is_flag=True, help="Choose the chips and print how many; read no picture, write nothing.")
@json_option
def rank(run: Path, probe: Path | None, out: Path, overwrite: bool, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """List the extreme chips of a run, with a gallery of their pictures and a way to visit the worst.

    \b
    Example:
      geoelle rank out/ --above 95 -o extremes/
    """
    from geoelle.extremes import Asked
    from geoelle.rank import choose_chips, rank_run

    ranking = choose_chips(run, probe, Asked(**asked))
    if dry_run:
        console.show(ranking.to_dict(), as_json)
        return
    with console.progress(as_json) as report:
        ranked = rank_run(run, ranking, out, overwrite=overwrite, progress=report)
    if as_json:
        console.print_json(ranked.to_dict())
        return
    for line in ranked.lines:
        console.talk(line)
    for path in ranked.files:
        click.echo(path)
