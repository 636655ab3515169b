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
from geoelle.fold_figures import distances, fold_map
from geoelle.held import Asked, Held, Stand, holdout_for, with_measured_buffer
from geoelle.intervals import check_places
from geoelle.models import model_card
from geoelle.nulls import evaluate
from geoelle.probe import Probe, Scale, fit_probe, on_scale
from geoelle.report import FitFacts, Picture, fit_pictures, fit_report
from geoelle.ridge import cross_predict
from geoelle.sample import Sample
from geoelle.scores import Scores, Table, score_rows
from geoelle.trust import LEVEL, Trust, fit_trust
from geoelle.vectors import parquet_files, vectors_from

__all__ = [
    "Fitted",
    "block_metres",
    "buffer_metres",
    "fit_runs",
    "plan_fit",
    "plan_score",
    "score_bars_of",
    "score_file",
]

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(km|m)")
MIN_CHIPS_OF_A_PLACE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A probe with its scores, how far to trust it, and the files it was written to."""

    probe: Probe
    scores: Scores
    trust: Trust
    files: tuple[Path, ...]

    @property
    def table(self) -> str:
        return self.scores.to_markdown() + "".join(f"- {line}\n" for line in self.trust.lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "files": [str(f) for f in self.files],
            "scores": self.scores.to_dict(),
            "trust": dict(self.probe.trust),
        }


def block_metres(text: str) -> float:
    """Return the metres of "10km" or "2500 m".

    Raises: ProbeError.
    """
    return _metres(text, "block size")


def buffer_metres(text: str) -> float | None:
    """Return the metres of "2km" or "500 m"; None of "auto", which measures them.

    Raises: ProbeError.
    """
    return None if text.strip() == "auto" else _metres(text, "buffer")


def _metres(text: str, what: str) -> float:
    match = _LENGTH.fullmatch(text.strip())
    if not match:
        raise ProbeError(f"{what} {text!r} is not a length; give 10km or 2500m")
    return float(match[1]) * (1000 if match[2] == "km" else 1)


def fit_runs(
    runs: Sequence[Path],
    *,
    block_m: float,
    folds: int | None = None,
    scale: Scale,
    out: Path,
    interval: float | None = None,
    overwrite: bool = False,
    holdout: Asked | None = None,
) -> Fitted:
    """Fit a probe on finished runs with ground held out; write the probe, its JSON and its report.

    `holdout` None holds out blocks. Where their buffer is not given, it is measured on the residuals of a first
    fit with a buffer of a chip's diagonal: what lies nearer shows the same pixels. `interval` is the level of the
    intervals; None takes 0.9 where there are places enough, and else leaves them out and says so.

    Raises: HoldoutError (too little to hold out), ProbeError (no loss), SpaceMismatch, GeoelleError (`out` exists).
    """
    beside = [out, out.with_suffix(".json"), out.with_suffix(".html")]
    if out.suffix != ".safetensors":
        raise ProbeError(f"a probe cannot be called {out.name}; give it a name that ends in .safetensors")
    for path in beside:
        check_free(path, overwrite=overwrite)
    asked = holdout or Asked()
    tables, sample, stand = _prepared(runs)
    held = holdout_for(asked, stand, block_m=block_m, folds=folds)
    if held.kind == "block" and asked.buffer_m is None:
        y_n = on_scale(sample.loss_n, scale)
        held = with_measured_buffer(held, stand, y_n - cross_predict(sample.vectors_nd, y_n, held.cv, held.groups))
    if interval is not None:
        check_places(len(np.unique(held.place_n)), round(1 - interval, 12))
    scores = evaluate(sample, cv=held.cv, groups=held.groups, places=held.place_n, scale=scale)
    scores = replace(scores, notes=(*held.notes, *scores.notes))
    card = model_card(str(tables[0].header.space["model"]))
    probe = fit_probe(
        sample.vectors_nd,
        sample.loss_n,
        groups=held.groups,
        space=tables[0].header.space,
        scale=scale,
        cv=held.cv,
        features=(sample.features_nf, sample.feature_names),
    )
    trust = fit_trust(
        probe,
        sample.vectors_nd,
        sample.loss_n,
        cv=held.cv,
        groups=held.groups,
        level=LEVEL if interval is None else interval,
        halves_n2=sample.loss_rel_n2,
    )
    probe = replace(
        trust.probe,
        scores=scores.to_dict(),
        folds={"kind": " ".join(repr(held.cv).split()), "block_m": block_m, "n": _count(held), **held.to_dict()},
        licence=card.weights_licence,
        versions={"geoelle": version("geoelle"), "scikit-learn": version("scikit-learn")},
        data={"unit": card.unit, "runs": [run.resolve().name for run in runs], "chips": len(sample.loss_n)},
    )
    page = _page(sample, scores, probe, held, tables[0].header, trust.lines)
    probe.save(beside[0], overwrite=True)
    probe.to_json(beside[1], overwrite=True)
    write_bytes(beside[2], page.encode(), overwrite=True)
    return Fitted(probe=probe, scores=scores, trust=trust, files=tuple(beside))


def plan_fit(
    runs: Sequence[Path], *, block_m: float, folds: int | None = None, holdout: Asked | None = None
) -> dict[str, Any]:
    """Return what `fit_runs` would fit on: chips, what is held out and the size of each fold.

    A buffer that is to be measured stands at a chip's diagonal here: it takes a fit.

    Raises: as `fit_runs`.
    """
    tables, sample, stand = _prepared(runs)
    held = holdout_for(holdout or Asked(), stand, block_m=block_m, folds=folds)
    sizes = [{"train": len(train), "test": len(test)} for train, test in held.folds()]
    return {
        "model": tables[0].header.space["model"], "chips": sum(map(len, tables)), "usable": len(sample.loss_n),
        "twins": len(sample.twins), "block_m": block_m, "blocks": len(np.unique(held.place_n)),
        "holdout": held.text, "buffer_m": held.buffer_m, "folds": sizes, "notes": list(held.notes),
    }  # fmt: skip


def _prepared(runs: Sequence[Path]) -> tuple[list[Embeddings], Sample, Stand]:
    """Read the runs, keep usable chips, and say where each stands; a run is a place."""
    for run in runs:
        _check_finished(run)
    each = [(str(run.resolve()), table) for run in runs for table in Embeddings.read_each(run)]
    tables = [table for _, table in each]
    sample = Sample.of(tables, sources=[t.header.sensor for t in tables for _ in range(len(t))])
    keep_n, lattices = sample.usable_n, [table.addresses.lattice for table in tables]
    stand = Stand(
        lonlat_n2=sample.lonlat_n2[keep_n],
        place_n=np.repeat([name for name, _ in each], [len(table) for table in tables])[keep_n],
        source_n=sample.sources_n[keep_n],
        scene_n=np.array([items for table in tables for items in table.items_n])[keep_n],
        times_n=sample.times_n[keep_n],
        chip_m=max(lattice.size_px * lattice.gsd_m for lattice in lattices) * 2**0.5,
    )
    return tables, sample.at(keep_n), stand


def _count(held: Held) -> int:
    return held.cv.get_n_splits(groups=held.groups)


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


def _page(sample: Sample, scores: Scores, probe: Probe, held: Held, header: Header, told: tuple[str, ...]) -> str:
    card, y_n = model_card(str(header.space["model"])), on_scale(sample.loss_n, probe.scale)
    predicted_n = cross_predict(sample.vectors_nd, y_n, held.cv, held.groups)
    labels = held.place_n
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
        held_out=held.text,
        folds=_count(held),
        alpha=f"{probe.embedding.alpha:.3g}",
        scores=score_rows(scores.to_dict()["tables"][0]),
        warnings=(table.sentence(), *scores.notes, *told),
        versions=dict(probe.versions),
    )
    return fit_report(facts, (*pictures, *_fold_pictures(held, sample.lonlat_n2)))


def _fold_pictures(held: Held, lonlat_n2: np.ndarray) -> list[Picture]:
    """Draw the map of the folds and, where there is an area to be mapped, the distances that decide."""
    matching, domain = held.matching, held.cv.domain_lonlat_m2 if held.matching is not None else None
    drawn = [
        Picture(
            title="Folds",
            caption=f"Chips by the fold that tests them: {held.text}.",
            png=fold_map(lonlat_n2, held.fold_n, domain),
        )
    ]
    if matching is not None:
        drawn.append(
            Picture(
                title="Distances",
                caption="Folds are fair to the map where held-out chips are as far from their training part as the "
                "area to be mapped is from the sample; W is the area between these two lines, in km.",
                png=distances(matching.sample_s, matching.domain_m, matching.fold_s, matching.w_m),
            )
        )
    return drawn


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
