"""Fit a probe on (embedding, loss) pairs of any model, and say how they were held out, on the ground or not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import BaseCrossValidator, KFold

from geoelle.baselines import Ground
from geoelle.diagnostic_report import diagnose, write_diagnostics
from geoelle.diagnostics import Task
from geoelle.errors import HoldoutError, ProbeError
from geoelle.figures import calibration, score_bars
from geoelle.files import write_bytes
from geoelle.fit_page import score_bars_of
from geoelle.fitting import Fitted, check_outputs
from geoelle.holdout import Folds, PlaceKFold, SpatialKFold
from geoelle.nulls import score_table
from geoelle.pairs import PairColumns, Pairs, read_pairs
from geoelle.probe import Probe, Scale, fit_probe
from geoelle.report import FitFacts, Picture, fit_report
from geoelle.ridge import ALPHAS
from geoelle.sample import Sample
from geoelle.scores import Scores, Table, Terms, score_rows
from geoelle.trial import Trial, predictions, targets_of

__all__ = ["RANDOM_FOLDS", "PairJob", "RowKFold", "fit_pairs", "plan_pairs"]

RANDOM_FOLDS = "non-spatial, random folds: flattering where rows are related"
GROUP_FOLDS = "non-spatial, whole groups held out"
_LEAST_ROWS = 2
_REDRAWN = 2_000
_MOST_OF_A_DRAW = 7  # fewer than a place needs for an r of its own: a draw of rows is no place


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJob:
    """Say how pairs are fitted. `target` and `model` default to what the name of the file tells."""

    columns: PairColumns = field(default_factory=PairColumns)
    block_m: float = 10_000.0
    folds: int = 5
    scale: Scale = "log"
    random_folds: bool = False
    target: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Held:
    """How pairs are held out; `place_n` are what intervals redraw, `label` goes into everything that is written."""

    ground: Ground
    place_n: np.ndarray
    terms: Terms
    label: str


class RowKFold(KFold):
    """Hold out rows at random, with the `labels` and `inner` that fits ask of a splitter of ground."""

    def __init__(self, n_splits: int = 5) -> None:
        super().__init__(n_splits, shuffle=True, random_state=0)

    def split(self, X: object, y: object = None, groups: object = None) -> Folds:
        """Yield (train, test) row numbers; `groups` are row numbers and tell nothing."""
        yield from super().split(X)

    def labels(self, groups: np.ndarray) -> np.ndarray:
        """Label each row with itself: nothing is kept together."""
        return np.arange(len(groups))

    def inner(self, groups: np.ndarray) -> RowKFold:
        """Return the splitter for a training part."""
        return RowKFold(min(self.n_splits, len(groups)))


def fit_pairs(path: Path, job: PairJob, *, out: Path, report: Path | None = None, overwrite: bool = False) -> Fitted:
    """Fit a probe on pairs; write the probe, its JSON and its report; with `report`, a folder of diagnostics.

    Blocks are held out where there are coordinates, whole groups where there are labels. Where there is neither,
    `random_folds` has to be asked for, and every output says so.

    Raises: HoldoutError (nothing to hold out, or too little), ProbeError (a loss that is constant, or not positive on
    the log scale), FormatError (see `read_pairs`), GeoelleError (`out` exists).
    """
    beside = check_outputs(out, report, overwrite=overwrite)
    pairs, held = _prepared(path, job)
    target, model = _names(path, job)
    scores, predicted_n = _evaluated(pairs, held, job.scale, replace(held.terms, target=target))
    probe = fit_probe(
        pairs.vectors_nd, pairs.loss_n, groups=held.ground.groups, space={"model": model, "target": target},
        target=target, scale=job.scale, cv=held.ground.cv,
    )  # fmt: skip
    probe = replace(
        probe,
        scores=scores.to_dict(),
        folds={"kind": " ".join(repr(held.ground.cv).split()), "holdout": held.label, "n": job.folds},
        versions={"geoelle": version("geoelle"), "scikit-learn": version("scikit-learn")},
        data={"file": path.name, "rows": len(pairs.loss_n), "notes": list(pairs.notes)},
    )
    facts, unit = _facts(scores, probe, held, job.folds), "ln" if job.scale == "log" else ""
    y_n = np.log(pairs.loss_n) if job.scale == "log" else pairs.loss_n
    bars, *others = _pictures(scores, predicted_n, y_n, unit)
    task = Task(
        vectors_nd=pairs.vectors_nd, y_n=y_n, predicted_n=predicted_n, ground=held.ground, label_n=held.place_n,
        rivals={} if pairs.features_nf is None else {"feature ridge": pairs.features_nf},
    )  # fmt: skip
    deep = None if report is None else diagnose(task, scores.tables[0].terms)
    probe.save(beside[0], overwrite=True)
    probe.to_json(beside[1], overwrite=True)
    write_bytes(beside[2], fit_report(facts, (bars, *others)).encode(), overwrite=True)
    if deep is not None:
        write_diagnostics(
            report,
            deep,
            facts,
            scores,
            pictures={"scores": bars},
            numbers={},
            unit=unit,
            lonlat_n2=pairs.lonlat_n2,
            overwrite=overwrite,
        )
    return Fitted(probe=probe, scores=scores, files=(*beside, *([] if report is None else [report])))


def plan_pairs(path: Path, job: PairJob) -> dict[str, Any]:
    """Return what `fit_pairs` would fit on: rows, what is held out and the size of each fold.

    Raises: as `fit_pairs`.
    """
    pairs, held = _prepared(path, job)
    target, model = _names(path, job)
    return {
        "model": model, "target": target, "rows": len(pairs.loss_n), "dim": pairs.vectors_nd.shape[1],
        "holdout": held.label, "units": len(np.unique(held.ground.cv.labels(held.ground.groups))),
        "folds": [{"train": len(train), "test": len(test)} for train, test in held.ground.folds()],
        "notes": list(pairs.notes),
    }  # fmt: skip


def _prepared(path: Path, job: PairJob) -> tuple[Pairs, _Held]:
    columns = job.columns
    if job.random_folds and (columns.group or columns.lonlat):
        raise HoldoutError(
            f"{path.name} is not held out at random and by {columns.group or columns.lonlat}; choose one"
        )
    pairs = read_pairs(path, columns, block_m=job.block_m)
    if job.random_folds and pairs.lonlat_n2 is not None:
        raise HoldoutError(f"{path.name} has coordinates, so its blocks are held out; drop --random-folds")
    if len(pairs.loss_n) < _LEAST_ROWS * job.folds:
        n, notes = len(pairs.loss_n), "; ".join(pairs.notes)
        raise HoldoutError(f"{n} usable rows of {path.name} are too few for {job.folds} folds ({notes}); give more")
    if np.ptp(pairs.loss_n) == 0:
        raise ProbeError(
            f"the loss of {path.name} is constant ({pairs.loss_n[0]:g} in {len(pairs.loss_n):,} rows); name another one"
        )
    return pairs, _held_out(path, pairs, job)


def _held_out(path: Path, pairs: Pairs, job: PairJob) -> _Held:
    cv: BaseCrossValidator
    if pairs.lonlat_n2 is not None:
        cv = SpatialKFold(job.folds, block_m=job.block_m)
        label = f"blocks of {job.block_m / 1000:g} km held out, no buffer: the size of a sample is not known"
        terms, groups = (
            Terms(held_out="ground held out", rows="rows", places="blocks", inputs="features"),
            pairs.lonlat_n2,
        )
        held = Ground(cv=cv, groups=groups)
        held.folds()  # too little ground is said here, before anything is computed
        return _Held(ground=held, place_n=cv.labels(groups), terms=terms, label=label)
    if pairs.group_n is not None:
        found = len(np.unique(pairs.group_n))
        if found < job.folds:
            raise HoldoutError(
                f"{found} groups of {job.columns.group!r} in {path.name} are too few for {job.folds} folds; pass fewer "
                "--folds (2 at least) or another --group-column"
            )
        cv = PlaceKFold(job.folds)
        terms = Terms(held_out=f"groups held out ({GROUP_FOLDS})", rows="rows", places="groups", inputs="features")
        ground = Ground(cv=cv, groups=pairs.group_n)
        return _Held(ground=ground, place_n=cv.labels(pairs.group_n), terms=terms, label=GROUP_FOLDS)
    if not job.random_folds:
        raise HoldoutError(
            f"{path.name} has neither coordinates nor groups to hold out; pass --group-column, or --lon-column and "
            "--lat-column, or accept flattering scores with --random-folds"
        )
    count = len(pairs.loss_n)
    size = min(_MOST_OF_A_DRAW, -(-count // _REDRAWN))
    place_n = np.random.default_rng(0).permutation(count) // size
    terms = Terms(held_out=f"rows held out at random ({RANDOM_FOLDS})", rows="rows", places="", inputs="features")
    ground = Ground(cv=RowKFold(job.folds), groups=np.arange(count))
    return _Held(ground=ground, place_n=place_n, terms=terms, label=RANDOM_FOLDS)


def _names(path: Path, job: PairJob) -> tuple[str, str]:
    return job.target or f"loss as given in {path.name}", job.model or path.stem


def _evaluated(pairs: Pairs, held: _Held, scale: Scale, terms: Terms) -> tuple[Scores, np.ndarray]:
    """Score the probe and the nulls that pairs allow; return the out-of-fold predictions of the probe too."""
    sample = Sample(
        vectors_nd=pairs.vectors_nd, loss_n=pairs.loss_n, lonlat_n2=pairs.lonlat_n2, features_nf=pairs.features_nf,
        feature_names=pairs.feature_names,
    )  # fmt: skip
    trial = Trial(
        sample=sample, ground=held.ground, place_n=held.place_n, targets=targets_of(pairs.loss_n, scale), alphas=ALPHAS,
        seed=0,
    )  # fmt: skip
    probe, entries = predictions(trial)
    rows = np.arange(len(pairs.loss_n))
    tables = [
        _of_features(score_table(trial, probe, entries, scale=name, subset="all rows", rows=rows, terms=terms))
        for name in trial.targets
    ]
    notes = [*pairs.notes, "pairs hold no untrained twins and no pixels, so those nulls are absent"]
    notes += ["no simple features to beat: name columns with --features"] if pairs.features_nf is None else []
    return Scores(tables=tuple(tables), holdout=held.label, notes=tuple(notes)), probe.predicted_nt[:, 0]


def _of_features(table: Table) -> Table:
    """Call the nulls of given features by what they are: not pixels."""

    def renamed(name: str) -> str:
        return name.replace("pixels", "features").replace("pixel ", "feature ")

    rows = tuple(replace(row, name=renamed(row.name)) for row in table.rows)
    return replace(table, rows=rows, adds=tuple(replace(gain, name=renamed(gain.name)) for gain in table.adds))


def _facts(scores: Scores, probe: Probe, held: _Held, folds: int) -> FitFacts:
    table, model = scores.table(subset="all rows"), str(probe.space["model"])
    return FitFacts(
        title=f"Can the {probe.target} be read from {model}?",
        model=model,
        space=f"model {model}, target {probe.target}; as the caller says",
        target=probe.target,
        reading=f"A high value means a high {probe.target}.",
        sensor="",
        chips=table.n_chips,
        places=table.n_places,
        held_out=f"{folds} folds; {held.label}",
        folds=folds,
        alpha=f"{probe.embedding.alpha:.3g}",
        scores=score_rows(scores.to_dict()["tables"][0]),
        terms=table.terms,
        warnings=(table.sentence(), scores.holdout, *scores.notes),
        versions=dict(probe.versions),
        credit="",
    )


def _pictures(scores: Scores, predicted_n: np.ndarray, y_n: np.ndarray, unit: str) -> tuple[Picture, ...]:
    terms = scores.tables[0].terms
    return (
        Picture(
            title="Score and nulls",
            caption=f"Correlation of predicted and measured on {terms.held_out}, with its interval.",
            png=score_bars(score_bars_of(scores.tables[0]), axis_label=f"r, {scores.holdout}"),
        ),
        Picture(
            title="Calibration",
            caption=f"On {terms.held_out}; points: medians and quartiles of equal groups.",
            png=calibration(predicted_n, y_n, label=f"measured {terms.target}", unit=unit, counted=terms.rows),
        ),
    )
