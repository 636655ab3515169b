"""Write what stands behind a score into a folder: a page, each figure as PNG, every number as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from geoelle.bootstrap import Metrics
from geoelle.diagnostic_figures import block_map, dimension_curves, scaling_curves
from geoelle.diagnostics import (
    MOST_ROWS,
    CalibrationLine,
    Dimensions,
    PlaceScores,
    Scaling,
    Task,
    calibration_line,
    dimension_ablation,
    pooled_metrics,
    sample_scaling,
    score_places,
    whole_blocks,
)
from geoelle.errors import HoldoutError
from geoelle.figures import calibration
from geoelle.files import fresh_directory, write_bytes
from geoelle.report import FitFacts, Picture, fit_report
from geoelle.scores import Scores, Terms, plain_json

__all__ = ["Study", "diagnose", "study_pictures", "write_diagnostics"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """All diagnostics of one fit; `scaling` is None where a fold trains on too few blocks, and a note says so."""

    task: Task
    pooled: Metrics
    line: CalibrationLine
    places: PlaceScores
    dimensions: Dimensions
    scaling: Scaling | None
    notes: tuple[str, ...]


def diagnose(task: Task, terms: Terms, *, most_rows: int = MOST_ROWS, seed: int = 0) -> Study:
    """Run every diagnostic; the curves are of whole blocks, at most `most_rows` rows of them, and a note says so.

    Raises `HoldoutError` where the folds of the fit cannot be drawn.
    """
    rows, notes = whole_blocks(task.label_n, most=most_rows, least_blocks=3 * len(task.ground.folds()), seed=seed), []
    if len(rows) < len(task.y_n):
        notes.append(f"curves over {terms.rows} and dimensions are of {len(rows):,} of {len(task.y_n):,} {terms.rows}")
    few, scaling = task.at(rows), None
    try:
        scaling = sample_scaling(few, seed=seed)
    except HoldoutError as reason:
        notes.append(f"no sample scaling: {reason}")
    return Study(
        task=task,
        pooled=pooled_metrics(task, seed=seed),
        line=calibration_line(task.y_n, task.predicted_n, task.label_n, seed=seed),
        places=score_places(task.y_n, task.predicted_n, task.label_n),
        dimensions=dimension_ablation(few, seed=seed),
        scaling=scaling,
        notes=tuple(notes),
    )


def study_pictures(study: Study, terms: Terms, *, unit: str, lonlat_n2: np.ndarray | None) -> dict[str, Picture]:
    """Draw every figure of a study, by file stem; without coordinates there is no map."""
    line = study.line
    wholes = f"whole {terms.places}" if terms.places else terms.rows
    drawn = {
        "calibration": Picture(
            title="Calibration",
            caption=f"Out of fold, {terms.held_out}. Solid: measured regressed on predicted, slope {line.slope}, "
            f"intercept {line.intercept}; dashed: perfect. Points: medians and quartiles of equal groups.",
            png=calibration(
                study.task.predicted_n, study.task.y_n, label=f"measured {terms.target}", unit=unit, counted=terms.rows,
                line=(line.slope.value, line.intercept.value),
            ),
        )
    }  # fmt: skip
    if study.scaling is not None:
        drawn["sample-scaling"] = Picture(
            title="Sample scaling",
            caption=f"Scores on all held-out {terms.rows} by probes trained on nested subsets of {wholes}, "
            f"{study.scaling.draws} orders of them, the same for every curve. Band: 95%, over orders and held-out "
            f"{wholes}. R² below -0.5 is cut off.",
            png=scaling_curves(
                study.scaling.rows, study.scaling.blocks, study.scaling.curves, units=(terms.rows, terms.places)
            ),
        )
    drawn["dimensions"] = Picture(
        title="Dimensions",
        caption=f"Probes that read k dimensions only; {study.dimensions.draws} draws of k at random. Where the first k "
        "do no better than k at random, the order of the dimensions means nothing to the target.",
        png=dimension_curves(study.dimensions.dims, study.dimensions.curves),
    )
    if lonlat_n2 is not None:
        places = study.places
        drawn["blocks"] = Picture(
            title="Score and bias by place",
            caption="r within each held-out place (grey: too few chips) and its mean residual; red: harder than said.",
            png=block_map(lonlat_n2, places.place_n, places.r_m, places.bias_m, unit=unit),
        )
    return drawn


def write_diagnostics(
    folder: Path, study: Study, facts: FitFacts, scores: Scores, *, pictures: Mapping[str, Picture],
    numbers: Mapping[str, object], unit: str, lonlat_n2: np.ndarray | None, overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write `report.html`, `diagnostics.json` and a PNG a figure into a folder, whole or not at all.

    `pictures`, by file stem, come before those of the study; `numbers` join its own in the JSON.

    Raises `GeoelleError` where the folder exists and `overwrite` is false.
    """
    terms = scores.tables[0].terms
    pictures = dict(pictures) | study_pictures(study, terms, unit=unit, lonlat_n2=lonlat_n2)
    more = {f"r, all {terms.rows}": str(study.pooled.r), "Calibration slope": str(study.line.slope)}
    if terms.places:
        more[f"Mean r within {terms.places}"] = str(study.pooled.within)
    facts = replace(facts, warnings=(*facts.warnings, *study.notes), more={**facts.more, **more})
    with fresh_directory(folder, overwrite=overwrite) as fresh:
        for stem, picture in pictures.items():
            write_bytes(fresh / f"{stem}.png", picture.png)
        write_bytes(
            fresh / "diagnostics.json", json.dumps(_numbers(study, scores, lonlat_n2, numbers), indent=1).encode()
        )
        write_bytes(fresh / "report.html", fit_report(facts, list(pictures.values())).encode())
    return folder


def _numbers(study: Study, scores: Scores, lonlat_n2: np.ndarray | None, more: Mapping[str, object]) -> object:
    """Return every number of the figures as plain JSON data, NaN as None."""
    return plain_json(
        {
            "holdout": scores.holdout,
            "pooled": asdict(study.pooled),
            "calibration": asdict(study.line),
            "sample_scaling": None if study.scaling is None else asdict(study.scaling),
            "dimensions": asdict(study.dimensions),
            "places": _places(study, lonlat_n2) if scores.tables[0].terms.places else [],
            "notes": list(study.notes),
            "scores": scores.to_dict(),
            **more,
        }
    )


def _places(study: Study, lonlat_n2: np.ndarray | None) -> list[dict[str, object]]:
    places = study.places
    columns = {"rows": places.rows_m, "r": places.r_m, "bias": places.bias_m}
    groups = np.asarray(study.task.ground.groups)
    if groups.ndim == 1:
        columns["group"] = groups[np.unique(places.place_n, return_index=True)[1]].astype(str)
    if lonlat_n2 is not None:
        sums = [np.bincount(places.place_n, degrees) for degrees in lonlat_n2.T]
        columns |= {"lon": sums[0] / places.rows_m, "lat": sums[1] / places.rows_m}
    lists = {name: values.tolist() for name, values in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
