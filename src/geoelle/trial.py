"""Predict the loss by the probe and by every null, on the same folds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import KFold

from geoelle.baselines import (
    Ground,
    by_place,
    by_svr,
    by_trees,
    length_features,
    one_hot,
    season_features,
    stacked,
)
from geoelle.errors import HoldoutError
from geoelle.probe import Scale, on_scale
from geoelle.ridge import Nested, nested_ridge
from geoelle.sample import Sample
from geoelle.scores import Kind

__all__ = [
    "BOTH_RIDGE",
    "BOTH_TREES",
    "ELLE",
    "PIXEL_RIDGE",
    "PIXEL_SVR",
    "PIXEL_TREES",
    "TWINS",
    "Entry",
    "Trial",
    "predictions",
    "targets_of",
]

ELLE = "ELLE"
TWINS = "untrained twins"
PIXEL_RIDGE, PIXEL_TREES, PIXEL_SVR = "pixel ridge", "pixel boosted trees", "pixel SVR"
BOTH_RIDGE, BOTH_TREES = "embedding and pixels, ridge", "ELLE and pixels, boosted trees"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """Predictions (n, t) of one row of the table, several for twins; `target_nt` where it is not the loss."""

    name: str
    kind: Kind
    predicted: Sequence[np.ndarray]
    target_nt: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """What every predictor of one evaluation shares."""

    sample: Sample
    ground: Ground
    place_n: np.ndarray
    targets: Mapping[str, np.ndarray]
    alphas: Sequence[float]
    seed: int

    @property
    def y_nt(self) -> np.ndarray:
        return np.stack(list(self.targets.values()), 1)

    @property
    def label_n(self) -> np.ndarray:
        """The unit that folds keep whole."""
        cv = self.ground.cv
        return cv.labels(self.ground.groups) if hasattr(cv, "labels") else self.place_n

    def ridge(self, x_nd: np.ndarray, y_nt: np.ndarray | None = None) -> Nested:
        """Predict by a ridge on the shared folds, alpha chosen inside each."""
        y_nt = self.y_nt if y_nt is None else y_nt
        return nested_ridge(x_nd, y_nt, cv=self.ground.cv, groups=self.ground.groups, alphas=self.alphas)

    def each_target(self, predict: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
        """Stack the predictions of a model of one target: `predict(t, y_n)`."""
        return np.stack([predict(t, y_n) for t, y_n in enumerate(self.targets.values())], 1)


def targets_of(loss_n: np.ndarray, scale: Scale) -> dict[str, np.ndarray]:
    """Return the targets by scale, that of the fit first; a loss with values of 0 or less has no log-loss."""
    first = {scale: on_scale(loss_n, scale)}
    return first | {"raw": loss_n} | ({"log": np.log(loss_n)} if (loss_n > 0).all() else {})


def predictions(trial: Trial) -> tuple[Nested, list[Entry]]:
    """Return the probe's nested fit and the predictions of every row of the table.

    Raises `HoldoutError` for a splitter that does not test every chip.
    """
    sample, y_nt = trial.sample, trial.y_nt
    n_targets = len(trial.targets)
    shuffled_nt = y_nt[np.random.default_rng(trial.seed).permutation(len(y_nt))]
    both = trial.ridge(sample.vectors_nd, np.concatenate([y_nt, shuffled_nt], 1))
    probe = Nested(
        predicted_nt=both.predicted_nt[:, :n_targets],
        alphas_kt=both.alphas_kt[:, :n_targets],
        fold_n=both.fold_n,
    )
    if (probe.fold_n < 0).any():
        raise HoldoutError(
            f"{trial.ground.cv!r} tests {(probe.fold_n >= 0).sum()} of {len(y_nt)} chips; use folds"
        )
    twins = [trial.ridge(vectors).predicted_nt for vectors in sample.twins.values()]
    length = trial.ridge(length_features(sample.vectors_nd))
    entries = [
        Entry(name=ELLE, kind="probe", predicted=[probe.predicted_nt]),
        *_flattered_entries(trial, int(probe.fold_n.max()) + 1),
        *([Entry(name=TWINS, kind="null", predicted=twins)] if twins else []),
        *_pixel_entries(trial, probe),
        *_ground_entries(trial),
        *_source_entries(trial),
        Entry(name="vector length", kind="null", predicted=[length.predicted_nt]),
        Entry(
            name="shuffled targets",
            kind="null",
            predicted=[both.predicted_nt[:, n_targets:]],
            target_nt=shuffled_nt,
        ),
    ]
    return probe, entries


def _flattered_entries(trial: Trial, n_folds: int) -> list[Entry]:
    """Predict on random folds, unless the folds of the trial are random already."""
    if isinstance(trial.ground.cv, KFold):
        return []
    folds = KFold(n_folds, shuffle=True, random_state=trial.seed)
    random = nested_ridge(trial.sample.vectors_nd, trial.y_nt, cv=folds, groups=None, alphas=trial.alphas)
    return [Entry(name="ELLE on random folds", kind="flattered", predicted=[random.predicted_nt])]


def _ground_entries(trial: Trial) -> list[Entry]:
    """Predict from place and from season, where they are known."""
    sample, entries = trial.sample, []
    if sample.lonlat_n2 is not None:
        place = by_place(sample.lonlat_n2, trial.y_nt, trial.label_n, trial.ground)
        entries.append(Entry(name="nearest place", kind="null", predicted=[place]))
    if sample.lonlat_n2 is not None and sample.times_n is not None:
        season = trial.ridge(season_features(sample.times_n, sample.lonlat_n2))
        entries.append(Entry(name="season", kind="null", predicted=[season.predicted_nt]))
    return entries


def _source_entries(trial: Trial) -> list[Entry]:
    sources_n = trial.sample.sources_n
    if sources_n is None or len(np.unique(sources_n)) < 2:
        return []
    return [Entry(name="source", kind="null", predicted=[trial.ridge(one_hot(sources_n)).predicted_nt])]


def _pixel_entries(trial: Trial, probe: Nested) -> list[Entry]:
    """Predict from pixel complexity by three models, and by two of them with the embedding added."""
    x_nf, ground, seed = trial.sample.features_nf, trial.ground, trial.seed
    if x_nf is None:
        return []
    x_nf, vectors_nd = x_nf.astype(np.float64), trial.sample.vectors_nd

    def with_probe(t: int, y_n: np.ndarray) -> np.ndarray:
        added = stacked(vectors_nd, y_n, ground, probe, t)
        return by_trees(x_nf, y_n, ground, seed=seed, added=added)

    predictions = {
        PIXEL_RIDGE: trial.ridge(x_nf).predicted_nt,
        PIXEL_TREES: trial.each_target(lambda _, y_n: by_trees(x_nf, y_n, ground, seed=seed)),
        PIXEL_SVR: trial.each_target(lambda _, y_n: by_svr(x_nf, y_n, ground, seed=seed)),
        BOTH_RIDGE: trial.ridge(np.concatenate([vectors_nd, x_nf], 1)).predicted_nt,
        BOTH_TREES: trial.each_target(with_probe),
    }
    return [
        Entry(
            name=name, kind="joint" if name in (BOTH_RIDGE, BOTH_TREES) else "null", predicted=[predicted_nt]
        )
        for name, predicted_nt in predictions.items()
    ]
