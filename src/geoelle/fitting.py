"""The fit and score verbs: a probe from runs that hold a loss, and difficulty for vectors that exist already."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geoelle.embeddings import Embeddings, Header
from geoelle.errors import FormatError, ProbeError
from geoelle.figures import Score
from geoelle.files import check_free, fresh_file, write_bytes
from geoelle.holdout import SpatialKFold
from geoelle.models import model_card
from geoelle.nulls import evaluate
from geoelle.probe import Probe, Scale, fit_probe, on_scale
from geoelle.report import FitFacts, fit_pictures, fit_report
from geoelle.ridge import cross_predict
from geoelle.sample import Sample
from geoelle.scores import Scores, Table, score_rows
from geoelle.vectors import parquet_files, vectors_from

__all__ = ["Fitted", "block_metres", "fit_runs", "plan_fit", "plan_score", "score_bars_of", "score_file"]

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(km|m)")
MIN_CHIPS_OF_A_PLACE = 10
_PATCHES = "The rows are patches, a few of each chip: where chips are counted here, they are patches"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A probe with its scores and the files it was written to."""

    probe: Probe
    scores: Scores
    files: tuple[Path, ...]

    @property
    def table(self) -> str:
        return self.scores.to_markdown()

    def to_dict(self) -> dict[str, Any]:
        return {"files": [str(f) for f in self.files], "scores": self.scores.to_dict()}


def block_metres(text: str) -> float:
    """Return the metres of "10km" or "2500 m".

    Raises: ProbeError.
    """
    match = _LENGTH.fullmatch(text.strip())
    if not match:
        raise ProbeError(f"block size {text!r} is not a length; give 10km or 2500m")
    return float(match[1]) * (1000 if match[2] == "km" else 1)


def fit_runs(
    runs: Sequence[Path], *, block_m: float, folds: int, scale: Scale, out: Path, overwrite: bool = False,
    dense: bool = False,
) -> Fitted:  # fmt: skip
    """Fit a probe on finished runs with blocks of ground held out; write the probe, its JSON and its report.

    Chips that may show a pixel of a held-out one leave the training side. With `dense` the rows are patches, and the
    chips they were seen in may not share a pixel either.

    Raises: HoldoutError (too few blocks), ProbeError (no loss), SpaceMismatch, GeoelleError (`out` exists).
    """
    beside = [out, out.with_suffix(".json"), out.with_suffix(".html")]
    if out.suffix != ".safetensors":
        raise ProbeError(f"a probe cannot be called {out.name}; give it a name that ends in .safetensors")
    for path in beside:
        check_free(path, overwrite=overwrite)
    tables, sample, cv = _prepared(runs, block_m, folds, dense)
    scores = evaluate(sample, cv=cv, scale=scale)
    if dense:
        scores = replace(scores, notes=(_PATCHES, *scores.notes))
    card = model_card(str(tables[0].header.space["model"]))
    probe = fit_probe(
        sample.vectors_nd,
        sample.loss_n,
        groups=sample.lonlat_n2,
        space=tables[0].header.space,
        scale=scale,
        cv=cv,
        features=(sample.features_nf, sample.feature_names),
    )
    probe = replace(
        probe,
        scores=scores.to_dict(),
        folds={"kind": " ".join(repr(cv).split()), "block_m": block_m, "n": folds},
        licence=card.weights_licence,
        versions={"geoelle": version("geoelle"), "scikit-learn": version("scikit-learn")},
        data={
            "unit": card.unit,
            "runs": [run.resolve().name for run in runs],
            "patches" if dense else "chips": len(sample.loss_n),
        },
    )
    page = _page(sample, scores, probe, cv, tables[0].header)
    probe.save(beside[0], overwrite=True)
    probe.to_json(beside[1], overwrite=True)
    write_bytes(beside[2], page.encode(), overwrite=True)
    return Fitted(probe=probe, scores=scores, files=tuple(beside))


def plan_fit(runs: Sequence[Path], *, block_m: float, folds: int, dense: bool = False) -> dict[str, Any]:
    """Return what `fit_runs` would fit on: chips or patches, blocks of ground and the size of each fold.

    Raises: as `fit_runs`.
    """
    tables, sample, cv = _prepared(runs, block_m, folds, dense)
    sizes = [
        {"train": len(train), "test": len(test)} for train, test in cv.split(sample.vectors_nd, None, sample.lonlat_n2)
    ]
    return {
        "model": tables[0].header.space["model"], "patches" if dense else "chips": sum(map(len, tables)),
        "usable": len(sample.loss_n),
        "twins": len(sample.twins), "block_m": block_m, "blocks": len(np.unique(cv.labels(sample.lonlat_n2))),
        "folds": sizes,
    }  # fmt: skip


def _prepared(
    runs: Sequence[Path], block_m: float, folds: int, dense: bool
) -> tuple[list[Embeddings], Sample, SpatialKFold]:
    """Read the runs, keep usable rows, and make the splitter, whose buffer lets no two sides share a pixel."""
    for run in runs:
        _check_finished(run)
    tables = [table for run in runs for table in Embeddings.read_each(_patches_of(run) if dense else run)]
    sample = Sample.of(tables, sources=[t.header.sensor for t in tables for _ in range(len(t))])
    lattice, card = tables[0].addresses.lattice, model_card(str(tables[0].header.space["model"]))
    # The chips of two patches may touch while the patches are at opposite corners: almost two chips along each axis.
    reach_px = 2 * card.chip_px - card.patch_px if dense else lattice.size_px
    cv = SpatialKFold(folds, block_m=block_m, buffer_m=reach_px * lattice.gsd_m * 2**0.5)
    return tables, sample.at(sample.usable_n), cv


def _patches_of(run: Path) -> Path:
    if not (run / "patches").is_dir():
        raise FormatError(f"run {run} has no patches to fit on; embed it with geoelle embed --loss --dense")
    return run / "patches"


def score_bars_of(table: Table) -> tuple[Score, ...]:
    """Return r of every predictor with its interval, for the figure."""
    return tuple(
        Score(
            name=row.name,
            r=row.metrics.r.value,
            low=row.metrics.r.low,
            high=row.metrics.r.high,
            is_null=row.kind == "null",
        )
        for row in table.rows
    )


def _page(sample: Sample, scores: Scores, probe: Probe, cv: SpatialKFold, header: Header) -> str:
    card, y_n = model_card(str(header.space["model"])), on_scale(sample.loss_n, probe.scale)
    predicted_n = cross_predict(sample.vectors_nd, y_n, cv, sample.lonlat_n2)
    labels = cv.labels(sample.lonlat_n2)
    middles, r_m = [], []
    for label in np.unique(labels):
        chosen = labels == label
        middles.append(sample.lonlat_n2[chosen].mean(axis=0))
        enough = chosen.sum() >= MIN_CHIPS_OF_A_PLACE and predicted_n[chosen].std() > 0 and y_n[chosen].std() > 0
        r_m.append(np.corrcoef(predicted_n[chosen], y_n[chosen])[0, 1] if enough else np.nan)
    table = scores.table()
    unit = "ln of " + card.unit if probe.scale == "log" else card.unit
    pictures = fit_pictures(
        predicted_n, y_n, score_bars_of(table), unit=unit, place_lonlat_m2=np.array(middles), place_r_m=np.array(r_m)
    )
    facts = FitFacts(
        title=f"Does {card.name} know what it does not know?",
        model=card.name,
        space=header.space_id,
        target=probe.target,
        reading=card.reading,
        sensor=header.sensor,
        chips=len(y_n),
        places=table.n_places,
        block_m=cv.block_m,
        folds=cv.n_splits,
        alpha=f"{probe.embedding.alpha:.3g}",
        scores=score_rows(scores.to_dict()["tables"][0]),
        warnings=(table.sentence(), *scores.notes),
        versions=dict(probe.versions),
    )
    return fit_report(facts, pictures)


def score_file(
    path: Path, probe_path: Path, out: Path, *, column: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write the difficulty of every vector of a table as GeoParquet, streaming; return a summary.

    A table of geoelle is checked against the probe's space. A foreign table carries no space: its vectors are taken as
    the caller says they are.

    Raises: SpaceMismatch, ProbeError (vectors of another length), FormatError, GeoelleError (`out` exists).
    """
    check_free(out, overwrite=overwrite)
    if out.exists() and path.exists() and out.samefile(path):
        raise FormatError(f"scores cannot take the place of the vectors they are of ({out}); name another file with -o")
    _check_finished(path)
    probe = Probe.load(probe_path)
    known = _check_space(path, probe)
    seen: list[np.ndarray] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in vectors_from(path, column):
            scores = probe.score(batch.vectors_nd)
            seen.append(scores)
            yield _score_batch(batch.lonlat_n2, batch.addresses, scores)

    with fresh_file(out, overwrite=overwrite) as sink:
        writer = None
        for batch in batches():
            writer = writer or pq.ParquetWriter(sink, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            raise FormatError(f"{path} holds no vectors; embed something first")
        writer.close()
    values = np.concatenate(seen)
    finite = values[np.isfinite(values)]
    low, high = map(float, np.percentile(finite, (5, 95))) if len(finite) else (None, None)
    return {"out": str(out), "rows": len(values), "valid": len(finite), "space_checked": known, "p5": low, "p95": high}


def plan_score(path: Path, probe_path: Path, *, column: str | None = None) -> dict[str, Any]:
    """Return what `score_file` would score, from the first batch: length of the vectors, space, places.

    Raises: as `score_file`.
    """
    _check_finished(path)
    probe = Probe.load(probe_path)
    known = _check_space(path, probe)
    first = next(iter(vectors_from(path, column)), None)
    if first is None:
        raise FormatError(f"{path} holds no vectors; embed something first")
    probe.score(first.vectors_nd[:1])
    return {
        "vectors": str(path),
        "dim": first.vectors_nd.shape[1],
        "space_checked": known,
        "has_places": first.lonlat_n2 is not None,
        "probe_model": probe.space["model"],
        "scale": probe.scale,
    }


def _check_space(path: Path, probe: Probe) -> bool:
    """Check the space of every file of a table; return False where one states none, as those of others do."""
    try:
        files = parquet_files(path)
    except FormatError:  # Zarr, or nothing at all: vectors_from will say
        return False
    spaces = [_space_of(file) for file in files]
    for space in spaces:
        if space is not None:
            probe.check_space(space)
    return None not in spaces


def _space_of(file: Path) -> dict[str, Any] | None:
    try:
        header = (pq.read_schema(file).metadata or {}).get(b"geoelle")
        return None if header is None else json.loads(header)["space"]
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as cause:
        raise FormatError(f"{file} cannot be read as Parquet ({cause}); write it again") from cause


def _check_finished(run: Path) -> None:
    if (run / "plan.json").is_file() and not (run / "run.json").is_file():
        raise FormatError(f"run {run} is not finished; give its command again first")


def _score_batch(lonlat_n2: np.ndarray | None, addresses: list[str] | None, scores_n: np.ndarray) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = {}
    if addresses is not None:
        columns["address"] = pa.array(addresses)
    columns["difficulty"] = pa.array(scores_n, mask=~np.isfinite(scores_n))
    if lonlat_n2 is None:
        return pa.record_batch(columns)
    columns["geometry"] = pa.array(shapely.to_wkb(shapely.points(lonlat_n2)), pa.binary())
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
    }
    return pa.record_batch(columns).replace_schema_metadata({b"geo": json.dumps(geo).encode()})
