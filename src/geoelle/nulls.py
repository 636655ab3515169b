"""Print beside a fit what it has to beat: the nulls, on the same folds, the same alphas and the same target.

A score is news only above its nulls: untrained twins of the encoder, pixel complexity (ridge, boosted trees
and support vectors), place, season and source, the length of the vector, and shuffled targets.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from sklearn.model_selection import BaseCrossValidator

from geoelle.baselines import SVR_ROWS, Ground
from geoelle.bootstrap import Bootstrap, Draws, Interval, reliability
from geoelle.complexity import is_uniform_b, is_water_b
from geoelle.embeddings import Embeddings
from geoelle.errors import HoldoutError
from geoelle.holdout import default_cv
from geoelle.probe import Scale, on_scale
from geoelle.ridge import ALPHAS, Nested
from geoelle.sample import Sample
from geoelle.scores import Gain, Row, Scores, Table, Terms
from geoelle.trial import (
    BOTH_RIDGE,
    BOTH_TREES,
    ELLE,
    PIXEL_RIDGE,
    PIXEL_SVR,
    PIXEL_TREES,
    TWINS,
    Entry,
    Trial,
    predictions,
    targets_of,
)

__all__ = ["Sample", "evaluate", "reliability", "score_table"]

FEW_PLACES = 20
FEW_CHIPS = 30
WANTED_TWINS = 3


def evaluate(
    emb: Embeddings | Sequence[Embeddings] | Sample,
    *,
    cv: BaseCrossValidator | None = None,
    groups: np.ndarray | None = None,
    places: np.ndarray | None = None,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    scale: Scale = "log",
) -> Scores:
    """Score ELLE and every null on ground held out, on log-loss and loss, with paired intervals.

    `groups` are what `cv` splits: (n, 2) lon, lat (default: the chips' own) or (n,) places; `cv` defaults to
    the splitter that fits them. `places` (default: the blocks or places of `cv`) are what intervals redraw.
    Rows with NaN are left out and counted. A second set of tables, scored from the same predictions, is
    without water and uniform chips.

    Raises `HoldoutError` for too little ground, `ProbeError` for a loss that is not positive on the log
    scale.
    """
    whole = emb if isinstance(emb, Sample) else Sample.of(emb)
    keep_n = whole.usable_n
    sample = whole.at(keep_n)
    groups = sample.lonlat_n2 if groups is None else _kept(groups, keep_n, "groups")
    cv = default_cv(groups) if cv is None else cv
    if places is None and not hasattr(cv, "labels"):
        raise HoldoutError(f"intervals need places ({type(cv).__name__} has none); pass places")
    trial = Trial(
        sample=sample,
        ground=Ground(cv=cv, groups=groups),
        place_n=cv.labels(groups) if places is None else _kept(places, keep_n, "places"),
        targets=targets_of(sample.loss_n, scale),
        alphas=alphas,
        seed=seed,
    )
    probe, entries = predictions(trial)
    subsets, notes = _subsets(trial)
    dropped = int((~keep_n).sum())
    notes += [f"{dropped:,} of {len(keep_n):,} chips have NaN and are left out"] if dropped else []
    return Scores(
        tables=tuple(
            score_table(trial, probe, entries, scale=name, subset=subset, rows=rows)
            for subset, rows in subsets.items()
            for name in trial.targets
        ),
        holdout=repr(cv),
        notes=tuple(notes + _gaps(trial)),
    )


def _kept(values: np.ndarray, keep_n: np.ndarray, name: str) -> np.ndarray:
    if len(values) != len(keep_n):
        raise HoldoutError(f"{name} do not match the chips ({len(values)} against {len(keep_n)}); pass one each")
    return np.asarray(values)[keep_n]


def _subsets(trial: Trial) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the chips of each set of tables, as row numbers, and why there is only one."""
    sample = trial.sample
    subsets = {"all chips": np.arange(len(sample.loss_n))}
    if sample.features_nf is None:
        return subsets, []
    water_n = is_water_b(sample.features_nf, sample.feature_names)
    uniform_n = is_uniform_b(sample.features_nf, sample.feature_names)
    rows = np.flatnonzero(~(water_n | uniform_n))
    told = f"{int(water_n.sum()):,} chips are water, {int(uniform_n.sum()):,} uniform"
    if len(rows) == len(water_n) or len(rows) < FEW_CHIPS or len(np.unique(trial.place_n[rows])) < 2:
        return subsets, [f"{told}: no table without them"]
    return subsets | {"without water and uniform chips": rows}, [told]


def _gaps(trial: Trial) -> list[str]:
    """Say what a reader has to know about nulls that are missing, thinned or weak."""
    sample, n_places = trial.sample, len(np.unique(trial.place_n))
    largest = max(len(train) for train, _ in trial.ground.folds())
    twins = len(sample.twins)
    told = {
        f"{twins} untrained twins where {WANTED_TWINS} are wanted: embed with more": twins < WANTED_TWINS,
        "no pixel features, so no pixel nulls: embed with features": sample.features_nf is None,
        f"{PIXEL_SVR} learns from {SVR_ROWS:,} of {largest:,} chips a fold": largest > SVR_ROWS,
        f"{n_places} places: intervals from fewer than {FEW_PLACES} are too narrow": n_places < FEW_PLACES,
        "a loss is 0 or less, so there is no log-loss": "log" not in trial.targets,
    }
    return [text for text, holds in told.items() if holds]


def score_table(
    trial: Trial,
    probe: Nested,
    entries: Sequence[Entry],
    *,
    scale: str,
    subset: str,
    rows: np.ndarray,
    terms: Terms = Terms(),  # noqa: B008 - frozen
) -> Table:
    """Score all entries on some chips and one scale, on the same draws of places."""
    sample, t = trial.sample, list(trial.targets).index(scale)
    bootstrap = Bootstrap(trial.place_n[rows], seed=trial.seed)
    y_n = trial.y_nt[rows, t]
    scored: dict[str, list[Draws]] = {}
    for entry in entries:
        target_n = y_n if entry.target_nt is None else entry.target_nt[rows, t]
        scored[entry.name] = [bootstrap.score(target_n, p_nt[rows, t]) for p_nt in entry.predicted]
    mean = {name: Draws.mean(each) for name, each in scored.items()}
    alone = {entry.name: entry.predicted[0][rows, t] for entry in entries}
    halves = None if sample.loss_rel_n2 is None else sample.loss_rel_n2[rows]
    halves = None if halves is None or not (scale == "raw" or (halves > 0).all()) else on_scale(halves, scale)
    return Table(
        scale=scale,
        subset=subset,
        n_chips=len(rows),
        n_places=bootstrap.n_places,
        rows=tuple(
            Row(
                name=entry.name,
                kind=entry.kind,
                metrics=mean[entry.name].metrics(),
                minus=None if entry.kind == "probe" else mean[ELLE].minus(mean[entry.name]),
                note=_seeds(scored[entry.name]) if entry.name == TWINS else "",
            )
            for entry in entries
        ),
        adds=tuple(_gains(bootstrap, y_n, alone, mean, probe.fold_n[rows])),
        alphas=tuple(float(a) for a in probe.alphas_kt[:, t]),
        reliability=None if halves is None else reliability(halves),
        terms=terms,
    )


def _gains(
    bootstrap: Bootstrap,
    y_n: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    draws: Mapping[str, Draws],
    fold_n: np.ndarray,
) -> Iterator[Gain]:
    """Measure what the embedding adds on top of pixel complexity.

    The partial r is that of deviations from the means of each fold: a predictor without skill predicts the
    mean of its training part, which is high where the held-out part is low, so its plain r is below 0.
    """
    y_n = _without_means(y_n, fold_n)
    centred = {name: _without_means(values_n, fold_n) for name, values_n in predicted.items()}
    for name in (PIXEL_RIDGE, PIXEL_TREES, PIXEL_SVR):
        if name in predicted:
            partial = bootstrap.partial_r(y_n, centred[ELLE], centred[name])
            yield Gain(name=f"partial r of ELLE given {name}", value=Interval.of(partial))
    for joint, alone in ((BOTH_RIDGE, PIXEL_RIDGE), (BOTH_TREES, PIXEL_TREES)):
        if joint in draws:
            yield Gain(name=f"R² of {joint} minus {alone}", value=draws[joint].minus(draws[alone]).r2)


def _without_means(values_n: np.ndarray, fold_n: np.ndarray) -> np.ndarray:
    folds = np.unique(fold_n, return_inverse=True)[1]
    return values_n - (np.bincount(folds, values_n) / np.bincount(folds))[folds]


def _seeds(each: Sequence[Draws]) -> str:
    r = [float(one.r[0]) for one in each]
    return f"{len(r)} seeds, r from {min(r):.3f} to {max(r):.3f}"
