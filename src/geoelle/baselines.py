"""Predict the loss from what is not the embedding: pixels by curved models, place, season, length, source.

All take the same `Ground` as the probe, predict each chip from folds without its ground, and choose their own
strength on an inner holdout, so that a null loses for want of information and not for want of tuning.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.spatial import KDTree
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import BaseCrossValidator
from sklearn.svm import SVR
from threadpoolctl import threadpool_limits

from geoelle.holdout import sphere_n3
from geoelle.ridge import Nested, inner_cv, nested_ridge

__all__ = [
    "SVR_ROWS",
    "Ground",
    "by_place",
    "by_svr",
    "by_trees",
    "length_features",
    "one_hot",
    "season_features",
    "stacked",
]

SVR_ROWS = 4_000
TUNING_FOLDS = 3
_TUNING_ROWS = 1_500
_MAX_TREES = 150
_SVR_STRENGTHS = (1.0, 10.0, 100.0)

Fold = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """A splitter with the ground it splits: `groups` are (n, 2) lon, lat or (n,) places."""

    cv: BaseCrossValidator
    groups: np.ndarray

    def folds(self) -> list[Fold]:
        """Return (train, test) row numbers of each fold."""
        return list(self.cv.split(self.groups, None, self.groups))

    def within(self, rows: np.ndarray, most: int | None = None) -> Self:
        """Return the ground of these rows with its inner splitter, of at most `most` folds."""
        groups = np.asarray(self.groups)[rows]
        cv = inner_cv(self.cv, groups)
        if most is not None and hasattr(cv, "n_splits"):
            cv = copy(cv)
            cv.n_splits = min(most, cv.n_splits)
        return Ground(cv=cv, groups=groups)


def by_trees(
    x_nf: np.ndarray,
    y_n: np.ndarray,
    ground: Ground,
    *,
    seed: int = 0,
    added: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> np.ndarray:
    """Predict by gradient-boosted trees, their number chosen on an inner holdout; float64 (n,).

    `added` gives each fold a further input: its values on the (train, test) rows.
    """
    out_n = np.full(len(y_n), np.nan)
    for k, (train, test) in enumerate(ground.folds()):
        seen, unseen = x_nf[train], x_nf[test]
        if added is not None:
            seen, unseen = np.column_stack([seen, added[k][0]]), np.column_stack([unseen, added[k][1]])
        n_trees = _best_length(seen, y_n[train], ground.within(train, TUNING_FOLDS), seed)
        with threadpool_limits(1, "openmp"):
            out_n[test] = _trees(n_trees, seed).fit(seen, y_n[train]).predict(unseen)
    return out_n


def by_svr(x_nf: np.ndarray, y_n: np.ndarray, ground: Ground, *, seed: int = 0) -> np.ndarray:
    """Predict by support vectors (RBF), their strength chosen on an inner holdout; float64 (n,).

    Learns from at most 4,000 rows a fold, drawn at random; the strength is chosen on at most 1,500 of them.
    """
    rng = np.random.default_rng(seed)
    out_n = np.full(len(y_n), np.nan)
    for train, test in ground.folds():
        rows = _thinned(train, SVR_ROWS, rng)
        few = _thinned(rows, _TUNING_ROWS, rng)
        errors = np.zeros(len(_SVR_STRENGTHS))
        for inner_train, inner_test in ground.within(few, TUNING_FOLDS).folds():
            seen, unseen = few[inner_train], few[inner_test]
            guesses = [_svr(x_nf[seen], y_n[seen], x_nf[unseen], c) for c in _SVR_STRENGTHS]
            errors += [np.square(y_n[unseen] - guess).sum() for guess in guesses]
        out_n[test] = _svr(x_nf[rows], y_n[rows], x_nf[test], _SVR_STRENGTHS[int(np.argmin(errors))])
    return out_n


def by_place(lonlat_n2: np.ndarray, y_nt: np.ndarray, label_n: np.ndarray, ground: Ground) -> np.ndarray:
    """Predict the mean of the nearest block (or place) that was trained on; float64 (n, t)."""
    out_nt = np.full(y_nt.shape, np.nan)
    sphere = sphere_n3(lonlat_n2)
    for train, test in ground.folds():
        block = np.unique(label_n[train], return_inverse=True)[1]
        count = np.bincount(block)[:, None]
        centre, mean = (_sums(v[train], block, len(count)) / count for v in (sphere, y_nt))
        out_nt[test] = mean[KDTree(centre).query(sphere[test])[1]]
    return out_nt


def stacked(x_nd: np.ndarray, y_n: np.ndarray, ground: Ground, nested: Nested, target: int) -> list[Fold]:
    """Turn the probe into an input for another model: its values on the (train, test) rows of each fold.

    On the training rows they come from folds inside the training part, so that no test row is ever seen.
    """
    out = []
    for k, (train, test) in enumerate(ground.folds()):
        inside = ground.within(train)
        again = nested_ridge(
            x_nd[train],
            y_n[train, None],
            cv=inside.cv,
            groups=inside.groups,
            alphas=nested.alphas_kt[k, target, None],
        )
        out.append((again.predicted_nt[:, 0], nested.predicted_nt[test, target]))
    return out


def season_features(times_n: np.ndarray, lonlat_n2: np.ndarray) -> np.ndarray:
    """Return sine and cosine of the day of the year, plain and by hemisphere, and a mark if unknown."""
    times_n = np.asarray(times_n, "datetime64[s]")
    unknown_n = np.isnat(times_n)
    year_n = times_n.astype("datetime64[Y]")
    seconds_n = np.where(unknown_n, 0, (times_n - year_n.astype("datetime64[s]")).astype(np.int64))
    angle_n = 2 * np.pi * seconds_n / (365.25 * 86_400)
    waves = np.stack([np.sin(angle_n), np.cos(angle_n)], 1) * ~unknown_n[:, None]
    south = np.where(lonlat_n2[:, 1] < 0, -1.0, 1.0)[:, None]
    return np.column_stack([waves, waves * south, unknown_n])


def length_features(vectors_nd: np.ndarray) -> np.ndarray:
    """Return the L2 norm of each vector and its logarithm."""
    norm_n = np.linalg.norm(np.asarray(vectors_nd, np.float64), axis=1)
    return np.stack([norm_n, np.log(norm_n + 1e-12)], 1)


def one_hot(labels_n: np.ndarray) -> np.ndarray:
    """Return one 0/1 column a distinct label."""
    names, at = np.unique(np.asarray(labels_n).astype(str), return_inverse=True)
    return np.eye(len(names))[at]


def _best_length(x_nf: np.ndarray, y_n: np.ndarray, ground: Ground, seed: int) -> int:
    """Choose the number of trees by the squared error on held-out ground.

    One thread: on chips by the thousand, threads that wait for each other cost up to thirty times the work.
    """
    error_i = np.zeros(_MAX_TREES)
    for train, test in ground.folds():
        with threadpool_limits(1, "openmp"):
            model = _trees(_MAX_TREES, seed).fit(x_nf[train], y_n[train])
            error_i += [np.square(y_n[test] - stage).sum() for stage in model.staged_predict(x_nf[test])]
    return int(np.argmin(error_i)) + 1


def _trees(n_trees: int, seed: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=n_trees,
        learning_rate=0.1,
        max_leaf_nodes=15,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )


def _svr(x_nf: np.ndarray, y_n: np.ndarray, unseen_mf: np.ndarray, strength: float) -> np.ndarray:
    centre, spread = x_nf.mean(0), x_nf.std(0)
    spread = np.where(spread > 1e-12 * np.abs(x_nf).max(0), spread, 1.0)
    middle, width = y_n.mean(), y_n.std() or 1.0
    model = SVR(C=strength, epsilon=0.05).fit((x_nf - centre) / spread, (y_n - middle) / width)
    return model.predict((unseen_mf - centre) / spread) * width + middle


def _thinned(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _sums(values_nk: np.ndarray, block_n: np.ndarray, n_blocks: int) -> np.ndarray:
    return np.stack([np.bincount(block_n, column, n_blocks) for column in values_nk.T], 1)
