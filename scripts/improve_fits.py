"""Fit the candidates of docs/protocol.md and their nulls, each treated alike, fold by fold.

Everything here is a function of arrays: what a candidate changes (target, centring, weights, learner) is applied inside
the training part of each fold, to whatever inputs it is given: a trained embedding, a twin's, or pixel features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtri
from sklearn.decomposition import PCA

from geoelle.baselines import Ground, by_svr, by_trees
from geoelle.holdout import PlaceKFold
from geoelle.ridge import ALPHAS, nested_ridge

FOLDS = 5
PLACE_ROWS = 64
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)

Fold = tuple[np.ndarray, np.ndarray]
Learner = Literal["ridge", "svr", "trees", "joint", "joint-two"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done to any inputs: `target` log, raw, rank or normal; `centre` none, level, source or both; `pca` axes (0: none)."""

    target: str = "log"
    centre: str = "none"
    balanced: bool = False
    pca: int = 0
    learner: Learner = "ridge"

    def of_pixels(self, learner: Learner) -> Self:
        """Return the treatment a pixel null gets: the same, but for what concerns the embedding alone."""
        return replace(self, pca=0, learner=learner)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """What is known of each chip beside its inputs: loss, place, level, source (with level), pixel features (n, f)."""

    loss_n: np.ndarray
    places_n: np.ndarray
    levels_n: np.ndarray
    sources_n: np.ndarray
    features_nf: np.ndarray

    @property
    def log_n(self) -> np.ndarray:
        return np.log(self.loss_n)


class OneFold(PlaceKFold):
    """Predict the rows `test` by a model of the rows `train`, whose strength is chosen on places held out inside them."""

    def __init__(self, train: np.ndarray, test: np.ndarray) -> None:
        super().__init__(1)
        self.train, self.test = train, test

    def split(self, X: object, y: object = None, groups: np.ndarray | None = None) -> Iterator[Fold]:
        """Yield the one fold."""
        yield self.train, self.test

    def inner(self, groups: np.ndarray) -> PlaceKFold:
        """Return the splitter for the training part."""
        return PlaceKFold(FOLDS).inner(groups)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """A scale of the loss and its way back to log-loss, known from training losses alone."""

    kind: str
    sorted_m: np.ndarray

    @classmethod
    def of(cls, kind: str, loss_m: np.ndarray) -> Self:
        return cls(kind=kind, sorted_m=np.sort(loss_m))

    @property
    def _ranks_m(self) -> np.ndarray:
        return (np.arange(len(self.sorted_m)) + 0.5) / len(self.sorted_m)

    def forward(self, loss_n: np.ndarray) -> np.ndarray:
        """Return training losses on the scale of the fit."""
        if self.kind in ("rank", "normal"):
            first, last = (np.searchsorted(self.sorted_m, loss_n, side) for side in ("left", "right"))
            rank_n = (first + last) / 2 / len(self.sorted_m)
            return rank_n if self.kind == "rank" else ndtri(rank_n)
        return np.log(loss_n) if self.kind == "log" else loss_n

    def back(self, value_n: np.ndarray) -> np.ndarray:
        """Return predictions as log-loss; ranks beyond the training losses are the least and the greatest of them."""
        if self.kind == "log":
            return value_n
        if self.kind == "raw":
            return np.log(np.maximum(value_n, self.sorted_m[0]))
        ranks_m = self._ranks_m if self.kind == "rank" else ndtri(self._ranks_m)
        return np.interp(value_n, ranks_m, np.log(self.sorted_m))


def place_folds(places_n: np.ndarray) -> list[Fold]:
    """Return the folds of development: whole places."""
    return list(PlaceKFold(FOLDS).split(places_n, None, places_n))


def predict(x_nd: np.ndarray, labels: Labels, folds: Sequence[Fold], recipe: Recipe) -> np.ndarray:
    """Predict log-loss from inputs in every fold, float64 (n,); NaN in rows that no fold tests."""
    out_n = np.full(len(x_nd), np.nan)
    x_nd = centred(np.asarray(x_nd, np.float64), _centres(labels, recipe))
    features_nf = labels.features_nf.astype(np.float64)
    for train, test in folds:
        rows = balanced(train, labels.places_n) if recipe.balanced else train
        target = Target.of(recipe.target, labels.loss_n[rows])
        base_n = _source_means(labels, train, target) if recipe.centre == "both" else np.zeros(len(x_nd))
        y_n = np.zeros(len(x_nd))  # a test row has no target at all
        y_n[rows] = target.forward(labels.loss_n[rows]) - base_n[rows]
        x_nk = _projected(x_nd, rows, recipe.pca)
        ground = Ground(cv=OneFold(rows, test), groups=labels.places_n)
        out_n[test] = target.back((_learn(recipe.learner, x_nk, features_nf, y_n, ground) + base_n)[test])
    return out_n


def centred(x_nd: np.ndarray, label_n: np.ndarray | None) -> np.ndarray:
    """Subtract the mean over the chips of each label; no target is used."""
    if label_n is None:
        return x_nd
    at_n = np.unique(label_n, return_inverse=True)[1]
    mean_kd = np.stack([x_nd[at_n == k].mean(0) for k in range(at_n.max() + 1)])
    return x_nd - mean_kd[at_n]


def balanced(rows: np.ndarray, places_n: np.ndarray, each: int = PLACE_ROWS) -> np.ndarray:
    """Return `each` row numbers of every place: evenly thinned where there are more, repeated where there are fewer."""
    places = np.unique(places_n[rows])
    taken = [np.flatnonzero(places_n[rows] == place) for place in places]
    return rows[np.concatenate([own[np.arange(each) * len(own) // each] for own in taken])]


def blended(x_nd: np.ndarray, labels: Labels, folds: Sequence[Fold], pixels: Sequence[Fold]) -> np.ndarray:
    """Predict by a weighted sum of a ridge on `x_nd` and pixel support vectors, weights found inside each training part.

    `pixels` are `pixel_parts` of the same folds.
    """
    out_n = np.full(len(x_nd), np.nan)
    x_nd, y_n = np.asarray(x_nd, np.float64), labels.log_n
    for (train, test), (inside, outside) in zip(folds, pixels, strict=True):
        ground = Ground(cv=OneFold(train, test), groups=labels.places_n)
        within = ground.within(train)
        own = nested_ridge(x_nd[train], y_n[train, None], cv=within.cv, groups=within.groups).predicted_nt[:, 0]
        parts, middle = np.stack([own, inside], 1), y_n[train].mean()
        weights, _ = nnls(parts - middle, y_n[train] - middle)
        out_n[test] = (np.stack([_ridge(x_nd, y_n, ground)[test], outside], 1) - middle) @ weights + middle
    return out_n


def pixel_parts(labels: Labels, folds: Sequence[Fold]) -> list[Fold]:
    """Return what pixel support vectors say of the (train, test) rows of each fold, those of training from folds inside."""
    out, x_nf = [], labels.features_nf.astype(np.float64)
    for train, test in folds:
        ground = Ground(cv=OneFold(train, test), groups=labels.places_n)
        inside = by_svr(x_nf[train], labels.log_n[train], ground.within(train))
        out.append((inside, by_svr(x_nf, labels.log_n, ground)[test]))
    return out


def two_penalties(x_nd: np.ndarray, features_nf: np.ndarray, y_n: np.ndarray, ground: Ground) -> np.ndarray:
    """Predict by a ridge with a penalty for each part; both chosen on the inner holdout.

    A feature scaled by s after it was standardised is penalised by alpha / s².
    """
    out_n = np.full(len(y_n), np.nan)
    both_nd, n_scaled = np.concatenate([x_nd, features_nf], 1), features_nf.shape[1]
    for train, test in ground.folds():
        within = ground.within(train)
        errors_sa = np.zeros((len(SCALES), len(ALPHAS)))
        for seen, unseen in within.folds():
            seen, unseen = train[seen], train[unseen]
            for s, scale in enumerate(SCALES):
                guesses_am = _ridges(both_nd, y_n, seen, unseen, n_scaled, scale)
                errors_sa[s] += np.square(guesses_am - y_n[unseen]).sum(1)
        s, a = np.unravel_index(np.argmin(errors_sa), errors_sa.shape)
        out_n[test] = _ridges(both_nd, y_n, train, test, n_scaled, SCALES[s])[a]
    return out_n


def _ridges(
    x_nd: np.ndarray, y_n: np.ndarray, seen: np.ndarray, unseen: np.ndarray, n_scaled: int, scale: float
) -> np.ndarray:
    """Return (alphas, unseen): ridges of every strength, the last `n_scaled` inputs scaled once standardised."""
    mean, spread = x_nd[seen].mean(0), x_nd[seen].std(0)
    factor = np.where(spread > 1e-12, 1 / np.maximum(spread, 1e-12), 0.0)
    factor[-n_scaled:] *= scale
    z, middle = (x_nd[seen] - mean) * factor, y_n[seen].mean()
    values, basis = np.linalg.eigh(z.T @ z)
    towards = basis.T @ (z.T @ (y_n[seen] - middle))
    paths = towards / (np.maximum(values, 0) + np.array(ALPHAS)[:, None])
    return paths @ ((x_nd[unseen] - mean) * factor @ basis).T + middle


def _learn(learner: Learner, x_nd: np.ndarray, features_nf: np.ndarray, y_n: np.ndarray, ground: Ground) -> np.ndarray:
    if learner == "svr":
        return by_svr(x_nd, y_n, ground)
    if learner == "trees":
        return by_trees(x_nd, y_n, ground)
    if learner == "joint-two":
        return two_penalties(x_nd, features_nf, y_n, ground)
    return _ridge(np.concatenate([x_nd, features_nf], 1) if learner == "joint" else x_nd, y_n, ground)


def _ridge(x_nd: np.ndarray, y_n: np.ndarray, ground: Ground) -> np.ndarray:
    return nested_ridge(x_nd, y_n[:, None], cv=ground.cv, groups=ground.groups).predicted_nt[:, 0]


def _centres(labels: Labels, recipe: Recipe) -> np.ndarray | None:
    return {"none": None, "level": labels.levels_n, "source": labels.sources_n, "both": labels.sources_n}[recipe.centre]


def _source_means(labels: Labels, train: np.ndarray, target: Target) -> np.ndarray:
    """Return (n,): the mean training target of each chip's source, that of all training chips where it has none."""
    y_m = target.forward(labels.loss_n[train])
    out_n = np.full(len(labels.loss_n), y_m.mean())
    for source in np.unique(labels.sources_n[train]):
        out_n[labels.sources_n == source] = y_m[labels.sources_n[train] == source].mean()
    return out_n


def _projected(x_nd: np.ndarray, rows: np.ndarray, axes: int) -> np.ndarray:
    return PCA(axes, svd_solver="full").fit(x_nd[rows]).transform(x_nd) if axes else x_nd
