"""The fit verb: a probe from runs that hold a loss, scored on ground held out, beside every null."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from geoelle.baselines import Ground
from geoelle.diagnostic_report import diagnose, write_diagnostics
from geoelle.diagnostics import Task
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError, ProbeError
from geoelle.files import check_free, write_bytes
from geoelle.fit_page import fit_facts, fold_pictures, score_pictures, trust_pictures
from geoelle.held import Asked, Held, Stand, holdout_for, with_measured_buffer
from geoelle.intervals import check_places
from geoelle.large import Large, fit_large, large_runs
from geoelle.models import model_card
from geoelle.nulls import evaluate
from geoelle.probe import TWIN, Probe, Scale, fit_probe, on_scale, with_twin
from geoelle.report import fit_report
from geoelle.ridge import cross_predict
from geoelle.sample import Sample
from geoelle.scores import Scores
from geoelle.trial import PIXEL_RIDGE
from geoelle.trust import LEVEL, Trust, fit_trust
from geoelle.vectors import check_finished

__all__ = ["FitJob", "Fitted", "block_metres", "buffer_metres", "check_outputs", "fit_runs", "plan_fit"]

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(km|m)")
_PATCHES = "the rows are patches, a few of each chip: where chips are counted here, they are patches"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """Say how runs are fitted: the side of blocks, the folds (None: as `holdout_for`), the scale of the target.

    `interval` is the level of the intervals; None takes 0.9 where there are places enough, and else leaves them out and
    says so. With `dense` the rows are patches, and the chips they were seen in may not share a pixel either.
    """

    block_m: float = 10_000.0
    folds: int | None = None
    scale: Scale = "log"
    holdout: Asked = field(default_factory=Asked)
    interval: float | None = None
    dense: bool = False

    @property
    def rows(self) -> str:
        """Name what the rows are."""
        return "patches" if self.dense else "chips"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A probe with its scores, how far to trust it (None for pairs), and the files it was written to."""

    probe: Probe
    scores: Scores
    files: tuple[Path, ...]
    trust: Trust | None = None

    @property
    def table(self) -> str:
        lines = () if self.trust is None else self.trust.lines
        return self.scores.to_markdown() + "".join(f"- {line}\n" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "files": [str(f) for f in self.files],
            "scores": self.scores.to_dict(),
            "trust": dict(self.probe.trust),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """What a fit rests on: the usable rows it is scored on, where they stand, and where all usable rows do.

    These are one and the same but for runs that are too `large` to be scored whole.
    """

    tables: list[Embeddings]
    sample: Sample
    stand: Stand
    ground: Stand
    large: Large | None

    @property
    def count(self) -> int:
        """Return the number of rows, usable or not."""
        return sum(map(len, self.tables)) if self.large is None else self.large.rows

    @property
    def usable(self) -> int:
        return len(self.ground.place_n)


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


def check_outputs(out: Path, report: Path | None, *, overwrite: bool) -> list[Path]:
    """Return the files of a probe once they, and the folder of its diagnostics, may be written.

    Raises: ProbeError (no name for a probe), GeoelleError (one exists, or its directory does not).
    """
    if out.suffix != ".safetensors":
        raise ProbeError(f"a probe cannot be called {out.name}; give it a name that ends in .safetensors")
    beside = [out, out.with_suffix(".json"), out.with_suffix(".html")]
    for path in (*beside, *([] if report is None else [report])):
        check_free(path, overwrite=overwrite)
    return beside


def fit_runs(
    runs: Sequence[Path], job: FitJob, *, out: Path, report: Path | None = None, overwrite: bool = False
) -> Fitted:
    """Fit a probe on finished runs with ground held out; write the probe, its JSON and its report.

    Where the buffer of blocks is not given, it is measured on the residuals of a first fit with a buffer of a chip's
    diagonal: what lies nearer shows the same pixels. `report` names a folder for the diagnostics, which take longer
    than the fit. Of runs with more than `large.MOST_CHIPS` usable chips the probe is fitted on all, and everything that
    is measured is measured on whole blocks drawn by lot.

    Raises: HoldoutError (too little to hold out), ProbeError (no loss), SpaceMismatch, GeoelleError (`out` exists).
    """
    beside = check_outputs(out, report, overwrite=overwrite)
    rows = _prepared(runs, job)
    sample, header, held = rows.sample, rows.tables[0].header, _held(job, rows)
    if job.interval is not None:
        check_places(len(np.unique(held.place_n)), round(1 - job.interval, 12))
    scores = evaluate(sample, cv=held.cv, groups=held.groups, places=held.place_n, scale=job.scale)
    scores = replace(scores, notes=(*held.notes, *_notes(job, rows), *scores.notes))
    trust = _fitted(rows, held, job)
    card = model_card(str(header.space["model"]))
    probe = replace(
        trust.probe,
        scores=scores.to_dict(),
        folds={"kind": " ".join(repr(held.cv).split()), "block_m": job.block_m, "n": held.count, **held.to_dict()},
        licence=card.weights_licence,
        versions={"geoelle": version("geoelle"), "scikit-learn": version("scikit-learn")},
        data={
            "unit": card.unit,
            "runs": [run.resolve().name for run in runs],
            job.rows: rows.usable,
        },
    )
    task, facts = _task(sample, probe, held), fit_facts(scores, probe, held, header, trust.lines)
    unit = "ln of " + card.unit if probe.scale == "log" else card.unit
    scored = score_pictures(task, scores, sample.lonlat_n2, unit)
    others = fold_pictures(held, sample.lonlat_n2) | trust_pictures(trust, unit)
    deep = None if report is None else diagnose(task, scores.tables[0].terms)
    probe.save(beside[0], overwrite=True)
    probe.to_json(beside[1], overwrite=True)
    write_bytes(beside[2], fit_report(facts, (*scored, *others.values())).encode(), overwrite=True)
    if deep is not None:
        write_diagnostics(
            report, deep, facts, scores, pictures={"scores": scored[0], **others}, numbers={"trust": dict(probe.trust)},
            unit=unit, lonlat_n2=sample.lonlat_n2, overwrite=overwrite,
        )  # fmt: skip
    files = (*beside, *([] if report is None else [report]))
    return Fitted(probe=probe, scores=scores, trust=trust, files=files)


def plan_fit(runs: Sequence[Path], job: FitJob) -> dict[str, Any]:
    """Return what `fit_runs` would fit on: chips, what is held out and the size of each fold.

    A buffer that is to be measured stands at a chip's diagonal here: it takes a fit.

    Raises: as `fit_runs`.
    """
    rows = _prepared(runs, job)
    held = holdout_for(job.holdout, rows.ground, block_m=job.block_m, folds=job.folds)
    sizes = [{"train": len(train), "test": len(test)} for train, test in held.folds()]
    return {
        "model": rows.tables[0].header.space["model"], job.rows: rows.count, "usable": rows.usable,
        "twins": len(rows.sample.twins), "block_m": job.block_m, "blocks": len(np.unique(held.place_n)),
        "holdout": held.text, "buffer_m": held.buffer_m, "folds": sizes,
        "notes": [*held.notes, *([] if rows.large is None else [rows.large.note(job.rows)])],
    }  # fmt: skip


def _notes(job: FitJob, rows: _Rows) -> list[str]:
    """Say what is counted, and what the scores are of where that is not all."""
    return [*([_PATCHES] if job.dense else []), *([] if rows.large is None else [rows.large.note(job.rows)])]


def _prepared(runs: Sequence[Path], job: FitJob) -> _Rows:
    """Read the runs, or what is drawn of large ones, keep usable rows, and say where each stands; a run is a place."""
    for run in runs:
        check_finished(run)
    sources = {str(run.resolve()): _patches_of(run) if job.dense else run for run in runs}
    large = large_runs(sources, job.block_m)
    if large is None:
        each = [(name, table) for name, source in sources.items() for table in Embeddings.read_each(source)]
    else:
        each = large.drawn()
    tables = [table for _, table in each]
    sample = Sample.of(tables, sources=[t.header.sensor for t in tables for _ in range(len(t))])
    keep_n = sample.usable_n
    stand = Stand(
        lonlat_n2=sample.lonlat_n2[keep_n],
        place_n=np.repeat([name for name, _ in each], [len(table) for table in tables])[keep_n],
        source_n=sample.sources_n[keep_n],
        scene_n=np.array([items for table in tables for items in table.items_n])[keep_n],
        times_n=sample.times_n[keep_n],
        chip_m=max(_reach_m(table, job.dense) for table in tables),
    )
    ground = stand if large is None else large.stand(stand.chip_m)
    return _Rows(tables=tables, sample=sample.at(keep_n), stand=stand, ground=ground, large=large)


def _reach_m(table: Embeddings, dense: bool) -> float:
    """Return the least distance at which two rows share no pixel: a chip's diagonal; of patches, almost two.

    The chips of two patches may touch while the patches are at opposite corners.
    """
    lattice, card = table.addresses.lattice, model_card(str(table.header.space["model"]))
    reach_px = 2 * card.chip_px - card.patch_px if dense else lattice.size_px
    return reach_px * lattice.gsd_m * 2**0.5


def _patches_of(run: Path) -> Path:
    if not (run / "patches").is_dir():
        raise FormatError(f"run {run} has no patches to fit on; embed it with geoelle embed --loss --dense")
    return run / "patches"


def _held(job: FitJob, rows: _Rows) -> Held:
    """Decide what is held out of the rows that are scored, the buffer of blocks measured where it is not given."""
    sample, held = rows.sample, holdout_for(job.holdout, rows.stand, block_m=job.block_m, folds=job.folds)
    if held.kind != "block" or job.holdout.buffer_m is not None:
        return held
    y_n = on_scale(sample.loss_n, job.scale)
    residual_n = y_n - cross_predict(sample.vectors_nd, y_n, held.cv, held.groups)
    return with_measured_buffer(held, rows.stand, residual_n, rows.ground)


def _fitted(rows: _Rows, held: Held, job: FitJob) -> Trust:
    """Fit the probe on every usable row, and on those that are scored its twin and what tells how far to trust it."""
    sample, space = rows.sample, rows.tables[0].header.space
    if rows.large is None:
        probe = fit_probe(
            sample.vectors_nd,
            sample.loss_n,
            groups=held.groups,
            space=space,
            scale=job.scale,
            cv=held.cv,
            features=(sample.features_nf, sample.feature_names),
        )
    else:
        asked = replace(job.holdout, buffer_m=held.buffer_m)
        whole = holdout_for(asked, rows.ground, block_m=job.block_m, folds=job.folds)
        probe = fit_large(rows.large, whole, space=space, scale=job.scale)
    if TWIN in sample.twins:
        probe = with_twin(probe, sample.twins[TWIN], sample.loss_n, groups=held.groups, cv=held.cv)
    return fit_trust(
        probe,
        sample.vectors_nd,
        sample.loss_n,
        cv=held.cv,
        groups=held.groups,
        place_n=np.unique(held.place_n, return_inverse=True)[1],
        level=LEVEL if job.interval is None else job.interval,
        halves_n2=sample.loss_rel_n2,
    )


def _task(sample: Sample, probe: Probe, held: Held) -> Task:
    """Predict every chip out of fold; the pixel ridge is the rival of the curves."""
    y_n = on_scale(sample.loss_n, probe.scale)
    return Task(
        vectors_nd=sample.vectors_nd,
        y_n=y_n,
        predicted_n=cross_predict(sample.vectors_nd, y_n, held.cv, held.groups),
        ground=Ground(cv=held.cv, groups=held.groups),
        label_n=np.unique(held.place_n, return_inverse=True)[1],
        rivals={} if sample.features_nf is None else {PIXEL_RIDGE: sample.features_nf},
    )
