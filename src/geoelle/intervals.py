"""Put intervals around difficulty that hold on unseen ground: conformal, with the place as the unit.

Chips of one place resemble each other, so a new place is exchangeable with the places seen, not its chips with their
chips. A threshold over chips as if they were independent covers too little of new ground; here every place weighs the
same, its chips equally, and one more place that nobody has seen weighs as much at infinity (hierarchical conformal
prediction, Lee, Barber and Willett 2023, arXiv:2306.06342). The guarantee is for a chip drawn from a new place drawn
like the old ones, with scores of a probe that saw neither. Ours are out of fold and the probe that ships is fitted on
every fold, so the coverage is measured too, by doing everything again without each fold.

The interval covers the loss under the masks that were drawn, not its noise-free mean: it is wider than one of the mean.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.model_selection import BaseCrossValidator

from geoelle.bootstrap import Bootstrap, Interval
from geoelle.errors import HoldoutError, ProbeError
from geoelle.ridge import Affine, RidgeProbeCV, inner_cv, nested_ridge

__all__ = [
    "CURVE", "Calibration", "Coverage", "HeldOut", "Level", "Spread", "calibrate", "check_level", "check_places",
    "hold_out",
    "place_quantile", "place_weights",
]  # fmt: skip

CURVE = tuple(round(0.05 * i, 2) for i in range(1, 11))
"""Shares left outside at which the coverage is measured."""
FLOOR = 0.05
"""Share of the mean |residual| added before the logarithm, which would else be ruled by lucky hits."""
CLIP = (1.0, 99.0)
"""Percentiles of the spreads seen: no ground gets a narrower or wider interval than these allow."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spread:
    """How far a loss typically lies from its difficulty, read from the embedding, and how many of it cover enough.

    `log_spread` is a ridge on ln(|residual| + floor), kept within `low` .. `high`; `alpha` is the share of losses that
    the interval leaves outside, `threshold` the number of spreads on either side that does so.

    Raises `ProbeError` for numbers that make no interval.
    """

    log_spread: Affine
    low: float
    high: float
    alpha: float
    threshold: float

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.threshold)
        if not (all(map(math.isfinite, numbers)) and self.low <= self.high and self.threshold >= 0):
            raise ProbeError(f"no interval can be made from clip and threshold {numbers}; fit it again")
        check_level(self.alpha)

    def half_width(self, vectors: np.ndarray) -> np.ndarray:
        """Return half the width of the interval on the probe's scale, float64 over the last axis; NaN gives NaN."""
        return self.threshold * np.exp(np.clip(self.log_spread(vectors), self.low, self.high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What a piece of ground teaches: a probe, its spread, and both out of fold.

    `residual_n` is target minus prediction, `score_n` its size in predicted spreads, each from folds without the row;
    `place_n` the place of each row.
    """

    embedding: Affine
    log_spread: Affine
    low: float
    high: float
    residual_n: np.ndarray
    score_n: np.ndarray
    place_n: np.ndarray

    def spread(self, alpha: float) -> Spread:
        """Return the spread with the threshold of one level; raises `HoldoutError` for too few places."""
        check_places(len(np.unique(self.place_n)), alpha)
        (threshold,) = place_quantile(self.score_n, self.place_n, [alpha])
        return Spread(log_spread=self.log_spread, low=self.low, high=self.high, alpha=alpha, threshold=float(threshold))

    def sizes(self, vectors: np.ndarray) -> np.ndarray:
        """Return the predicted spread, float64 over the last axis."""
        return np.exp(np.clip(self.log_spread(vectors), self.low, self.high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Predictions and spreads of every row by the calibration of the other folds' ground.

    `predicted_n`, `spread_n` and `fold_n` a row; `learned` one calibration a fold.
    """

    predicted_n: np.ndarray
    spread_n: np.ndarray
    fold_n: np.ndarray
    learned: tuple[Calibration, ...]

    def thresholds_ka(self, alphas: Sequence[float]) -> np.ndarray:
        """Return the threshold of each fold and level, infinite where a fold trains on too few places."""
        return np.stack([place_quantile(one.score_n, one.place_n, alphas) for one in self.learned])


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One point of the curve: the level aimed at and what was covered on held-out ground.

    `places` is the coverage with each place weighing the same, which is what the level aims at; `chips` the share of
    all chips; `width` the mean width on the probe's scale (on "log" a difference of logarithms).
    """

    level: float
    places: Interval
    chips: Interval
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Measured coverage at every level that the folds can measure, and fold by fold at one level.

    `folds` holds (fold, chips, places, share of its chips covered, mean width); empty where `level` is not measured.
    """

    level: float
    curve: tuple[Level, ...]
    folds: tuple[tuple[int, int, int, float, float], ...]

    @classmethod
    def of(cls, held_out: HeldOut, y_n: np.ndarray, place_n: np.ndarray, *, alpha: float) -> Self:
        """Count what intervals cover of `y_n` at `alpha` and along `CURVE`; whole places are redrawn.

        Raises `HoldoutError` for fewer than two places.
        """
        bootstrap, weight_n = Bootstrap(place_n), place_weights(place_n)
        score_n = np.abs(y_n - held_out.predicted_n) / held_out.spread_n
        curve, folds = [], ()
        alphas = sorted({*(a for a in CURVE if not math.isclose(a, alpha)), alpha})
        for a, thresholds_k in zip(alphas, held_out.thresholds_ka(alphas).T, strict=True):
            if not np.isfinite(thresholds_k).all():
                continue
            threshold_n = thresholds_k[held_out.fold_n]
            covered_n, width_n = score_n <= threshold_n, 2 * threshold_n * held_out.spread_n
            curve.append(
                Level(
                    level=1 - a,
                    places=Interval.of(bootstrap.mean(covered_n, weight_n)),
                    chips=Interval.of(bootstrap.mean(covered_n)),
                    width=float(width_n.mean()),
                )
            )
            if math.isclose(a, alpha):
                folds = tuple(_by_fold(held_out.fold_n, place_n, covered_n, width_n))
        return cls(level=1 - alpha, curve=tuple(curve), folds=folds)

    @property
    def measured(self) -> Level | None:
        """Return the point at the level itself, None where the folds cannot measure it."""
        return next((point for point in self.curve if math.isclose(point.level, self.level)), None)

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON data."""
        keys = ("fold", "chips", "places", "coverage", "width")
        return {
            "level": self.level,
            "curve": [
                {"level": p.level, "places": p.places.to_dict(), "chips": p.chips.to_dict(), "width": p.width}
                for p in self.curve
            ],
            "folds": [dict(zip(keys, row, strict=True)) for row in self.folds],
        }


def check_level(alpha: float) -> None:
    """Raise `ProbeError` for a share left outside that is not between 0 and 1."""
    if not 0 < alpha < 1:
        raise ProbeError(f"no interval has a level of {1 - alpha:g}; give one between 0 and 1, 0.9 say")


def check_places(n_places: int, alpha: float) -> None:
    """Raise `HoldoutError` where fewer than 1 / alpha places carry an interval, `ProbeError` for another alpha."""
    check_level(alpha)
    if n_places * alpha < 1 - 1e-9:
        raise HoldoutError(
            f"an interval of level {1 - alpha:g} fails for {n_places} blocks or places ({math.ceil(1 / alpha - 1e-9)} "
            "needed); use smaller blocks, more ground or a lower level"
        )


def place_weights(place_n: np.ndarray) -> np.ndarray:
    """Weigh chips so that every place weighs 1 and its chips equally, float64 (n,).

    >>> place_weights(np.array(["fen", "dune", "fen", "fen"])).round(2)
    array([0.33, 1.  , 0.33, 0.33])
    """
    _, index_n, sizes = np.unique(place_n, return_inverse=True, return_counts=True)
    return 1.0 / sizes[index_n]


def place_quantile(scores_n: np.ndarray, place_n: np.ndarray, alphas: Sequence[float]) -> np.ndarray:
    """Return the least threshold that the score of a chip of a new place exceeds with probability alpha at most, (a,).

    Each of B places weighs 1 / (B + 1), its chips equally, infinity 1 / (B + 1): the threshold is infinite for alpha
    below 1 / (B + 1). With one chip a place it is that of split conformal prediction, the
    ceil((1 - alpha)(B + 1))-th least score.

    Raises `ProbeError` for scores that are not finite (Lee, Barber and Willett 2023, hierarchical CP).

    >>> place_quantile(np.arange(1.0, 20), np.arange(19), [0.1, 0.5, 0.01])
    array([18., 10., inf])
    """
    scores_n = np.asarray(scores_n, np.float64)
    if not np.isfinite(scores_n).all():
        raise ProbeError(f"a threshold fails for {scores_n.size} scores (NaN or inf among them); drop those rows")
    order = np.argsort(scores_n, kind="stable")
    weight_n = place_weights(place_n)[order]
    reached_n, n_places = np.cumsum(weight_n), weight_n.sum()
    wanted_a = (1 - np.asarray(alphas, np.float64)) * (n_places + 1)
    at_a = np.searchsorted(reached_n, wanted_a - 1e-9 * (n_places + 1))
    return np.append(scores_n[order], np.inf)[at_a]


def calibrate(
    vectors_nd: np.ndarray,
    y_n: np.ndarray,
    *,
    cv: BaseCrossValidator,
    groups: np.ndarray,
    place_n: np.ndarray | None = None,
    embedding: Affine | None = None,
) -> Calibration:
    """Fit a probe (unless `embedding` is one of these very rows) and its spread, and score both out of fold.

    `place_n` are the places that are exchangeable; None takes what `cv` never divides.

    Strengths are chosen on the ground `cv` holds out; the out-of-fold predictions have the strength of the whole. That
    choice saw every row, one number among thousands of rows, and `hold_out` measures what it costs.

    Raises `ProbeError` for a constant target, `HoldoutError` without ground to hold out.
    """
    y_n = np.asarray(y_n, np.float64)
    spread_of_y = float(y_n.std()) if len(y_n) else 0.0
    if not spread_of_y > 1e-12 * float(np.abs(y_n).max(initial=0)):
        raise ProbeError(f"an interval fails for a constant loss ({len(y_n)} chips); embed more diverse ground")
    embedding = _fitted(vectors_nd, y_n, cv, groups) if embedding is None else embedding
    residual_n = y_n - _out_of_fold(vectors_nd, y_n, cv, groups, embedding.alpha)
    size_n = np.abs(residual_n)
    log_n = np.log(size_n + max(FLOOR * float(size_n.mean()), 1e-12 * spread_of_y))
    log_spread = _fitted(vectors_nd, log_n, cv, groups)
    predicted_n = _out_of_fold(vectors_nd, log_n, cv, groups, log_spread.alpha)
    low, high = map(float, np.percentile(predicted_n, CLIP))
    return Calibration(
        embedding=embedding,
        log_spread=log_spread,
        low=low,
        high=high,
        residual_n=residual_n,
        score_n=size_n / np.exp(np.clip(predicted_n, low, high)),
        place_n=_labels(cv, groups) if place_n is None else place_n,
    )


def hold_out(
    vectors_nd: np.ndarray,
    y_n: np.ndarray,
    *,
    cv: BaseCrossValidator,
    groups: np.ndarray,
    place_n: np.ndarray | None = None,
) -> HeldOut:
    """Calibrate without each fold of `cv` in turn, and predict the fold: nothing of its ground is seen before.

    `place_n` as of `calibrate`.

    Raises as `calibrate`.
    """
    vectors_nd, y_n, groups = np.asarray(vectors_nd), np.asarray(y_n, np.float64), np.asarray(groups)
    predicted_n, spread_n, fold_n = np.full(len(y_n), np.nan), np.full(len(y_n), np.nan), np.full(len(y_n), -1)
    every: list[Calibration] = []
    for k, (train, test) in enumerate(cv.split(vectors_nd, None, groups)):
        ground = groups[train]
        places = None if place_n is None else place_n[train]
        learned = calibrate(vectors_nd[train], y_n[train], cv=inner_cv(cv, ground), groups=ground, place_n=places)
        predicted_n[test], spread_n[test] = learned.embedding(vectors_nd[test]), learned.sizes(vectors_nd[test])
        fold_n[test] = k
        every.append(learned)
    _check_all_tested(fold_n, cv)
    return HeldOut(predicted_n=predicted_n, spread_n=spread_n, fold_n=fold_n, learned=tuple(every))


def _fitted(vectors_nd: np.ndarray, y_n: np.ndarray, cv: BaseCrossValidator, groups: np.ndarray) -> Affine:
    return Affine.of(RidgeProbeCV(cv=cv).fit(vectors_nd, y_n, groups))


def _out_of_fold(
    vectors_nd: np.ndarray, y_n: np.ndarray, cv: BaseCrossValidator, groups: np.ndarray, strength: float
) -> np.ndarray:
    nested = nested_ridge(vectors_nd, y_n[:, None], cv=cv, groups=groups, alphas=[strength])
    _check_all_tested(nested.fold_n, cv)
    return nested.predicted_nt[:, 0]


def _labels(cv: BaseCrossValidator, groups: np.ndarray) -> np.ndarray:
    if not hasattr(cv, "labels"):
        raise HoldoutError(f"intervals need places ({type(cv).__name__} has none); hold out blocks or places")
    return cv.labels(groups)


def _check_all_tested(fold_n: np.ndarray, cv: BaseCrossValidator) -> None:
    if (fold_n < 0).any():
        raise HoldoutError(f"{cv!r} tests {(fold_n >= 0).sum()} of {len(fold_n)} chips; use folds that test each")


def _by_fold(
    fold_n: np.ndarray, place_n: np.ndarray, covered_n: np.ndarray, width_n: np.ndarray
) -> Iterator[tuple[int, int, int, float, float]]:
    for k in range(int(fold_n.max()) + 1):
        at = fold_n == k
        places = len(np.unique(place_n[at]))
        yield k, int(at.sum()), places, float(covered_n[at].mean()), float(width_n[at].mean())
