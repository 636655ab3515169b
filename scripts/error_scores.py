"""Measure how well scores rank the errors of a task probe: probe, scores and intervals, functions of arrays.

Nothing here knows of imagery. Every prediction is of places that its model has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.applicability import fit_reach
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.holdout import PlaceKFold
from geoelle.ridge import Nested, RidgeProbe, nested_ridge

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
MIN_WITHIN = 5
"""Errors, and right answers, that a place needs for an AUROC of its own."""
WORST = 0.2
SECOND_FOLDS = 5
_TINY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How a score ranks errors: AUROC over all patches, its mean inside places, share caught in the worst 20%."""

    auroc: Interval
    within: Interval
    caught: Interval


class Errors:
    """Score rankings of the same errors on the same redrawn places.

    `error_n` bool, `place_n` labels. High scores should be errors; one that ranks them the other way has an AUROC
    under 0.5.

    >>> errors = Errors(np.array([1, 0, 1, 0], bool), np.array(["a", "a", "b", "b"]))
    >>> float(errors.auroc(np.array([3.0, 1.0, 2.0, 2.0]))[0])
    0.875
    """

    def __init__(self, error_n: np.ndarray, place_n: np.ndarray) -> None:
        bootstrap = Bootstrap(place_n)
        self.error_n, self.place_n = np.asarray(error_n, bool), bootstrap.place_n
        self.counts_dp = bootstrap.counts_dp
        self.wrong_p, self.right_p = (
            np.bincount(self.place_n[which], minlength=bootstrap.n_places) for which in (self.error_n, ~self.error_n)
        )

    def auroc(self, score_n: np.ndarray) -> np.ndarray:
        """Return the AUROC of error in every draw, the data itself first; NaN in a draw without both kinds."""
        won_pp = self._won(score_n)
        pairs_d = (self.counts_dp @ self.wrong_p) * (self.counts_dp @ self.right_p)
        won_d = ((self.counts_dp @ won_pp) * self.counts_dp).sum(axis=1)
        return np.divide(won_d, pairs_d, out=np.full(len(won_d), np.nan), where=pairs_d > 0)

    def within(self, score_n: np.ndarray) -> np.ndarray:
        """Return the mean of the AUROC inside each place that has five errors and five right answers."""
        enough_p = np.minimum(self.wrong_p, self.right_p) >= MIN_WITHIN
        auroc_p = np.diag(self._won(score_n))[enough_p] / (self.wrong_p * self.right_p)[enough_p]
        weight_dp = self.counts_dp[:, enough_p]
        total_d = weight_dp.sum(axis=1)
        return np.divide(weight_dp @ auroc_p, total_d, out=np.full(len(total_d), np.nan), where=total_d > 0)

    def caught(self, score_n: np.ndarray, share: float = WORST) -> np.ndarray:
        """Return the share of errors among the `share` of patches with the highest scores, in every draw.

        Of equal scores at the border the fitting fraction is taken.
        """
        order = np.argsort(-np.asarray(score_n), kind="stable")
        in_order = np.asarray(score_n)[order]
        first = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))
        weight_dn = self.counts_dp[:, self.place_n[order]]
        size_dg = np.add.reduceat(weight_dn, first, axis=1)
        wrong_dg = np.add.reduceat(weight_dn * self.error_n[order], first, axis=1)
        room_dg = share * size_dg.sum(axis=1, keepdims=True) - (np.cumsum(size_dg, axis=1) - size_dg)
        taken_dg = np.clip(np.divide(room_dg, size_dg, out=np.zeros_like(room_dg), where=size_dg > 0), 0, 1)
        wrong_d = wrong_dg.sum(axis=1)
        return np.divide(
            (wrong_dg * taken_dg).sum(axis=1), wrong_d, out=np.full(len(wrong_d), np.nan), where=wrong_d > 0
        )

    def curve(self, score_n: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the share of errors caught at each share reviewed, most suspect first, without intervals."""
        order = np.argsort(-np.asarray(score_n), kind="stable")
        in_order = np.asarray(score_n)[order]
        last = np.flatnonzero(np.concatenate([in_order[1:] != in_order[:-1], [True]]))
        caught = np.cumsum(self.error_n[order])[last] / self.error_n.sum()
        return np.interp(shares, [0, *(last + 1) / len(order)], [0, *caught])

    def ranking(self, score_n: np.ndarray) -> Ranking:
        """Return the three figures of a score with their intervals."""
        return Ranking(
            auroc=Interval.of(self.auroc(score_n)),
            within=Interval.of(self.within(score_n)),
            caught=Interval.of(self.caught(score_n)),
        )

    def _won(self, score_n: np.ndarray) -> np.ndarray:
        """Count, for errors of each place and right answers of each, the pairs in which the error scores higher."""
        score_n, n_places = np.asarray(score_n, np.float64), len(self.wrong_p)
        wrong, of = score_n[self.error_n], self.place_n[self.error_n]
        won_pp = np.zeros((n_places, n_places))
        for q in range(n_places):
            right = np.sort(score_n[~self.error_n & (self.place_n == q)])
            below = (np.searchsorted(right, wrong, "left") + np.searchsorted(right, wrong, "right")) / 2
            won_pp[:, q] = np.bincount(of, below, n_places)
        return won_pp


def task_probabilities(x_nd: np.ndarray, label_n: np.ndarray, place_n: np.ndarray, folds: int) -> np.ndarray:
    """Return (n, k): what a logistic regression that has not seen the place makes of each patch.

    Its strength is that of the least log-loss in folds of places inside the training part. A class that a training
    part lacks has probability 0.
    """
    k = int(label_n.max()) + 1
    out_nk, cv = np.zeros((len(label_n), k)), PlaceKFold(folds)
    for train, test in cv.split(x_nd, None, place_n):
        strength = _strength(x_nd[train], label_n[train], place_n[train], cv)
        model = _logistic(strength).fit(x_nd[train], label_n[train])
        out_nk[np.ix_(test, model.classes_)] = model.predict_proba(x_nd[test])
    return out_nk


def doubt(probability_nk: np.ndarray) -> np.ndarray:
    """Return the logit of 1 - the largest probability: the task probe's own confidence, high = unsure."""
    p_n = np.clip(probability_nk.max(axis=1), _TINY, 1 - _TINY)
    return np.log((1 - p_n) / p_n)


def read_out(x_nd: np.ndarray, y_n: np.ndarray, place_n: np.ndarray, folds: int) -> Nested:
    """Predict a target by the ridge of geoelle in folds of places, alpha chosen inside each."""
    return nested_ridge(np.asarray(x_nd, np.float64), y_n[:, None], cv=PlaceKFold(folds), groups=place_n)


def applicability(
    x_nd: np.ndarray, y_n: np.ndarray, place_n: np.ndarray, nested: Nested
) -> tuple[np.ndarray, np.ndarray]:
    """Return the dissimilarity that a map would show, and 1 outside the area of applicability, else 0; both (n,).

    The reach is that of the ridge of the fold on its training part, its threshold from folds of places inside that.
    """
    di_n, outside_n = np.empty(len(x_nd)), np.empty(len(x_nd))
    for k, (train, test) in enumerate(_folds(nested)):
        weight_d = RidgeProbe(nested.alphas_kt[k, 0]).fit(x_nd[train], y_n[train]).coef_
        cv = PlaceKFold(min(SECOND_FOLDS, len(np.unique(place_n[train]))))
        reach, _ = fit_reach(x_nd[train], weight_d, cv.split(x_nd[train], None, place_n[train]))
        di_n[test] = reach.dissimilarity(x_nd[test])
        outside_n[test] = 1 - reach.inside(di_n[test])
    return di_n, outside_n


def mahalanobis(x_nd: np.ndarray, nested: Nested) -> np.ndarray:
    """Return the Mahalanobis distance to the training vectors of the fold, shrunk covariance (Ledoit and Wolf 2004)."""
    out_n = np.empty(len(x_nd))
    for train, test in _folds(nested):
        out_n[test] = np.sqrt(LedoitWolf().fit(x_nd[train]).mahalanobis(x_nd[test]))
    return out_n


def added(error_n: np.ndarray, inputs: Sequence[np.ndarray], place_n: np.ndarray) -> np.ndarray:
    """Return the log-odds of error by a logistic model of these inputs, from folds of places."""
    x_nk, out_n = np.column_stack(inputs), np.empty(len(error_n))
    cv = PlaceKFold(min(SECOND_FOLDS, len(np.unique(place_n))))
    for train, test in cv.split(x_nk, None, place_n):
        out_n[test] = _logistic(1.0).fit(x_nk[train], error_n[train]).decision_function(x_nk[test])
    return out_n


def _strength(x_nd: np.ndarray, label_n: np.ndarray, place_n: np.ndarray, cv: PlaceKFold) -> float:
    cost_s = np.zeros(len(STRENGTHS))
    for train, test in cv.inner(place_n).split(x_nd, None, place_n):
        for s, strength in enumerate(STRENGTHS):
            model = _logistic(strength).fit(x_nd[train], label_n[train])
            p_nk = np.full((len(test), int(label_n.max()) + 1), _TINY)
            p_nk[:, model.classes_] = np.maximum(model.predict_proba(x_nd[test]), _TINY)
            cost_s[s] -= np.log(p_nk[np.arange(len(test)), label_n[test]]).sum()
    return STRENGTHS[int(np.argmin(cost_s))]


def _logistic(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2_000))


def _folds(nested: Nested) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.flatnonzero(nested.fold_n != k), np.flatnonzero(nested.fold_n == k)) for k in range(len(nested.alphas_kt))
    ]
