"""Fit a ridge whose strength is chosen on held-out ground, and predict every point from folds without it.

The numerics of `geoelle.probe`, float64 throughout. With at least as many rows as inputs, the moments of a training
part are those of everything minus those of the rows left out (`geoelle.moments`), so that choosing a strength costs
about one fit; where that subtraction would cancel, they are summed from the rows. With fewer rows than inputs, one
eigendecomposition of the Gram matrix of the rows serves every strength.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils.validation import check_is_fitted, validate_data

from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import default_cv
from geoelle.moments import Moments, Ridges, origin_of, shrunk, squared_errors

__all__ = [
    "ALPHAS",
    "Affine",
    "Nested",
    "RidgeProbe",
    "RidgeProbeCV",
    "cross_predict",
    "inner_cv",
    "nested_ridge",
]

ALPHAS: tuple[float, ...] = tuple(float(a) for a in np.logspace(-3, 6, 19))
_FLOATS = (np.float64, np.float32)
_CACHED = 2**16  # numbers converted to float64 at a time where a map is applied (512 kB)


class _Affine(RegressorMixin, BaseEstimator):
    """Predict w'x + b on raw inputs."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return w'x + b, float64 (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_FLOATS, reset=False)
        return _apply(X, self.coef_, self.intercept_)

    def _validated(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, dtype=_FLOATS, y_numeric=True, ensure_min_samples=2)
        return X, y.astype(np.float64, copy=False)[:, None]

    def _learn(self, ridges: Ridges) -> Self:
        self.coef_, self.intercept_ = ridges.affine()
        self.mean_, self.scale_ = ridges.mean_d, ridges.scale_d
        return self


class RidgeProbe(_Affine):
    """Read a number off an embedding: a ridge on standardised inputs, stored as one affine map.

    `alpha` weighs the squared coefficients of the standardised inputs, as scikit-learn's
    `make_pipeline(StandardScaler(), Ridge(alpha))` does, to which the predictions are equal.

    Learned: `coef_` (d,) and `intercept_` act on RAW inputs; `mean_`, `scale_` (d,) of the training inputs
    (`scale_` is 1 for a constant input); `n_features_in_`.

    Raises `ProbeError` for an `alpha` that is not positive; scikit-learn's `ValueError` for unusable arrays.

    >>> X = np.array([[0.0, 1], [1, 3], [2, 2], [3, 5]])
    >>> RidgeProbe(alpha=1e-9).fit(X, X @ [2, -1] + 7).predict([[10, 0]]).round(6)
    array([27.])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Learn from (n, d) inputs and (n,) targets."""
        X, y_n1 = self._validated(X, y)
        return self._learn(_ridges(X, y_n1, checked_alphas([self.alpha])))


class RidgeProbeCV(_Affine):
    """Choose `alpha` on held-out ground, then fit a `RidgeProbe` on everything.

    `cv` is a splitter; None takes `SpatialKFold` for (n, 2) coordinates and `PlaceKFold` for (n,) labels,
    given as `groups` to `fit`. Without ground to hold out it raises `HoldoutError`: random folds flatter, so
    they have to be asked for by name (`cv=KFold(5)`).

    Learned, beside those of `RidgeProbe`: `alpha_`; `alphas_` (a,) ascending; `mse_path_` (a,), the mean
    squared error over all held-out points.
    """

    def __init__(self, alphas: Sequence[float] = ALPHAS, cv: BaseCrossValidator | None = None) -> None:
        self.alphas = alphas
        self.cv = cv

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Learn from (n, d) inputs, (n,) targets and the ground they stand on."""
        X, y_n1 = self._validated(X, y)
        cv = default_cv(groups) if self.cv is None else self.cv
        alphas_a = checked_alphas(self.alphas)
        sse_at, moments = _held_out(X, y_n1, cv, groups, alphas_a)
        return self.settle(alphas_a, sse_at[:, 0] / len(X), lambda alpha_1: _ridges(X, y_n1, alpha_1, moments))

    def settle(self, alphas_a: np.ndarray, mse_a: np.ndarray, ridges_at: Callable[[np.ndarray], Ridges]) -> Self:
        """Take the strength of the least held-out error, and the ridge on everything under it."""
        self.alphas_, self.mse_path_ = alphas_a, mse_a
        best = strongest_best(mse_a[:, None])
        self.alpha_ = float(alphas_a[best][0])
        return self._learn(ridges_at(alphas_a[best]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """A ridge as one affine map of raw inputs: w'x + b, with what it was fitted under.

    `weights_d`, `mean_d`, `scale_d` are float64 (d,); mean and scale are those of the training inputs.
    `alpha` is the strength chosen. Raises `ProbeError` for shapes that differ or values that are not finite.
    """

    weights_d: np.ndarray
    intercept: float
    mean_d: np.ndarray
    scale_d: np.ndarray
    alpha: float

    def __post_init__(self) -> None:
        arrays = [self.weights_d, self.mean_d, self.scale_d]
        shapes = [np.shape(a) for a in arrays]
        if not (len(set(shapes)) == 1 and len(shapes[0]) == 1):
            raise ProbeError(f"a probe cannot be built from arrays of shapes {shapes}; pass three of (d,)")
        if not all(np.isfinite(a).all() for a in (*arrays, self.intercept, self.alpha)):
            raise ProbeError(f"a probe cannot be built for {shapes[0][0]} inputs (NaN or inf); fit it again")

    @classmethod
    def of(cls, ridge: RidgeProbe | RidgeProbeCV) -> Self:
        """Take the map out of a fitted estimator."""
        alpha = ridge.alpha_ if isinstance(ridge, RidgeProbeCV) else ridge.alpha
        return cls(
            weights_d=ridge.coef_,
            intercept=float(ridge.intercept_),
            mean_d=ridge.mean_,
            scale_d=ridge.scale_,
            alpha=float(alpha),
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return w'x + b in float64 over the last axis; NaN inputs give NaN."""
        x = np.asarray(x)
        if x.shape[-1:] != self.weights_d.shape:
            raise ProbeError(f"the probe takes {len(self.weights_d)} inputs, not {x.shape}; check the model")
        return _apply(x, self.weights_d, self.intercept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nested:
    """Out-of-fold predictions (n, t), the alphas of the outer folds (k, t), the fold that tested each row."""

    predicted_nt: np.ndarray
    alphas_kt: np.ndarray
    fold_n: np.ndarray


def cross_predict(
    X: np.ndarray,
    y: np.ndarray,
    cv: BaseCrossValidator,
    groups: np.ndarray | None,
    alphas: Sequence[float] = ALPHAS,
) -> np.ndarray:
    """Predict each point by a ridge that has seen neither it nor its ground, in the fit or in choosing alpha.

    In each outer fold of `cv`, alpha is chosen by an inner holdout of the same kind inside the training part.
    `y` is (n,) or (n, t): targets share the decompositions, each has its own alpha. Returns float64 of its
    shape.
    """
    y = np.asarray(y, np.float64)
    nested = nested_ridge(X, y.reshape(len(y), -1), cv=cv, groups=groups, alphas=alphas)
    return nested.predicted_nt.reshape(y.shape)


def nested_ridge(
    X_nd: np.ndarray,
    y_nt: np.ndarray,
    *,
    cv: BaseCrossValidator,
    groups: np.ndarray | None,
    alphas: Sequence[float] = ALPHAS,
) -> Nested:
    """Do the work of `cross_predict` and say which alpha each outer fold chose.

    Raises `HoldoutError` where a splitter cannot split, `ProbeError` for alphas or values that are unusable.
    """
    X_nd, y_nt, alphas_a = np.asarray(X_nd), np.asarray(y_nt, np.float64), checked_alphas(alphas)
    X_nd = X_nd if X_nd.dtype in _FLOATS else X_nd.astype(np.float64)
    if not (np.isfinite(X_nd).all() and np.isfinite(y_nt).all()):
        raise ProbeError(f"a probe cannot be fitted to {X_nd.shape} inputs with NaN or inf; drop those rows")
    predicted_nt, fold_n, chosen = np.full(y_nt.shape, np.nan), np.full(len(y_nt), -1), []
    for k, (train, test) in enumerate(cv.split(X_nd, None, groups)):
        # moments of this fold's own rows: what is held out must not reach a prediction even by rounding
        x_md, y_mt, moments = X_nd[train], y_nt[train], None
        best_t = np.zeros(y_nt.shape[1], np.int64)
        if len(alphas_a) > 1:
            groups_k = None if groups is None else np.asarray(groups)[train]
            sse_at, moments = _held_out(x_md, y_mt, inner_cv(cv, groups_k), groups_k, alphas_a)
            best_t = strongest_best(sse_at)
        used, strength_t = np.unique(best_t, return_inverse=True)
        predicted_nt[test] = _ridges(x_md, y_mt, alphas_a[used], moments).predict(X_nd[test], strength_t)
        chosen.append(alphas_a[best_t])
        fold_n[test] = k
    return Nested(predicted_nt=predicted_nt, alphas_kt=np.array(chosen), fold_n=fold_n)


def inner_cv(cv: BaseCrossValidator, groups: np.ndarray | None) -> BaseCrossValidator:
    """Return the splitter for a training part: the same kind, with no more folds than it has blocks."""
    return cv.inner(groups) if hasattr(cv, "inner") else cv


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """The rows a split tests, the rows in neither part (a buffer), and how many it trains on.

    `drawn` is None, and the training rows are all others, except where a splitter draws a row twice or tests what it
    trains on; nothing can be subtracted there.
    """

    n: int
    test: np.ndarray
    buffer: np.ndarray
    n_train: int
    drawn: np.ndarray | None

    @property
    def train(self) -> np.ndarray:
        """The numbers of the training rows, made when asked for: all splits together would outgrow the rows."""
        if self.drawn is not None:
            return self.drawn
        trained_n = np.ones(self.n, bool)
        trained_n[self.test] = trained_n[self.buffer] = False
        return np.flatnonzero(trained_n)


def splits_of(cv: BaseCrossValidator, X: np.ndarray, groups: np.ndarray | None) -> list[Split]:
    """Return the splits of a splitter. Raises `HoldoutError` where one has nothing to train on or to test."""
    splits = []
    for k, (train, test) in enumerate(cv.split(X, None, groups)):
        if len(train) < 2 or not len(test):
            raise HoldoutError(
                f"fold {k} trains on {len(train)} points and tests {len(test)}; use smaller blocks or fewer folds"
            )
        used_n = np.bincount(train, minlength=len(X)) + np.bincount(test, minlength=len(X))
        buffer, drawn = np.flatnonzero(used_n == 0), train if used_n.max() > 1 else None
        splits.append(Split(n=len(X), test=np.sort(test), buffer=buffer, n_train=len(train), drawn=drawn))
    return splits


def is_partition(splits: Sequence[Split]) -> bool:
    """Whether every row is tested exactly once, so that the moments of the tests add up to those of everything."""
    tested_n = np.bincount(np.concatenate([split.test for split in splits]), minlength=splits[0].n)
    return bool((tested_n == 1).all())


def _held_out(
    X_nd: np.ndarray, y_nt: np.ndarray, cv: BaseCrossValidator, groups: np.ndarray | None, alphas_a: np.ndarray
) -> tuple[np.ndarray, Moments | None]:
    """Sum the squared errors over the held-out points of every fold, (a, t); return the moments of all rows too.

    There are no moments where there are more inputs than rows.
    """
    (n, d), splits = X_nd.shape, splits_of(cv, X_nd, groups)
    total_at = np.zeros((len(alphas_a), y_nt.shape[1]))
    if d > n:
        for split in splits:
            ridges = _ridges(X_nd[split.train], y_nt[split.train], alphas_a)
            total_at += squared_errors(ridges, X_nd, y_nt, split.test, np.ones(total_at.shape, bool))
        return total_at, None
    origin_e = origin_of(X_nd, y_nt)
    # Moments of all tests are kept where they take no more memory than the rows, and add up to those of everything.
    # Past that a fold has fewer rows than inputs, and summing it twice costs less than its reduction in `ridges`.
    kept = is_partition(splits) and len(splits) * d <= n
    held_k = [Moments.of(X_nd, y_nt, origin_e, split.test) for split in splits] if kept else []
    everything = reduce(add, held_k) if kept else Moments.of(X_nd, y_nt, origin_e)
    for k, split in enumerate(splits):
        held = held_k[k] if kept else Moments.of(X_nd, y_nt, origin_e, split.test)
        ridges = _trained(X_nd, y_nt, split, everything, held, alphas_a)
        sse_at, sure_at = held.squared_errors(ridges)
        if not sure_at.all():
            sse_at = np.where(sure_at, sse_at, squared_errors(ridges, X_nd, y_nt, split.test, ~sure_at))
        total_at += sse_at
    return total_at, everything


def _trained(
    X_nd: np.ndarray, y_nt: np.ndarray, split: Split, everything: Moments, held: Moments, alphas_a: np.ndarray
) -> Ridges:
    """Return the ridges of a training part, by subtraction where that is cheaper than its rows and as exact."""
    if split.drawn is None and len(split.buffer) < split.n_train >= X_nd.shape[1]:
        left = held
        if len(split.buffer):
            left += Moments.of(X_nd, y_nt, everything.origin_e, split.buffer)
        if (rest := everything - left).trusted:
            return rest.ridges(alphas_a)
    return _ridges(X_nd[split.train], y_nt[split.train], alphas_a)


def _ridges(X_nd: np.ndarray, y_nt: np.ndarray, alphas_a: np.ndarray, moments: Moments | None = None) -> Ridges:
    """Fit all rows for every alpha, from their moments where these are at hand."""
    if X_nd.shape[1] > len(X_nd):
        return _dual(X_nd, y_nt, alphas_a)
    return (moments or Moments.of(X_nd, y_nt, origin_of(X_nd, y_nt))).ridges(alphas_a)


def _dual(X_nd: np.ndarray, y_nt: np.ndarray, alphas_a: np.ndarray) -> Ridges:
    """Fit fewer rows than inputs: one eigendecomposition of the (n, n) Gram matrix of the rows."""
    X_nd = X_nd.astype(np.float64, copy=False)
    mean_d, y_mean_t, std_d = X_nd.mean(0), y_nt.mean(0), X_nd.std(0)
    constant = std_d <= 10 * np.finfo(np.float64).eps * np.abs(X_nd).max(0)
    scale_d = np.where(constant, 1.0, std_d)
    z_nd = (X_nd - mean_d) / scale_d
    z_nd[:, constant] = 0.0
    values_e, u_ne = np.linalg.eigh(z_nd @ z_nd.T)
    target_et = u_ne.T @ (y_nt - y_mean_t)
    shrunk_aet = np.stack([shrunk(values_e, target_et, alpha) for alpha in alphas_a])
    weights_adt = z_nd.T @ (u_ne @ shrunk_aet) / scale_d[:, None]
    return Ridges(weights_adt=weights_adt, mean_d=mean_d, scale_d=scale_d, y_mean_t=y_mean_t)


def _apply(x: np.ndarray, weights_d: np.ndarray, intercept: float) -> np.ndarray:
    """Return w'x + b in float64 over the last axis, converting so few rows at a time that they stay in cache."""
    rows_nd, step = x.reshape(-1, len(weights_d)), max(8, _CACHED // len(weights_d))
    if x.dtype == np.float64:
        return x @ weights_d + intercept
    out_n, buffer_bd = np.empty(len(rows_nd)), np.empty((min(step, len(rows_nd)), len(weights_d)))
    for at in range(0, len(rows_nd), step):
        part_bd = rows_nd[at : at + step]
        buffer_bd[: len(part_bd)] = part_bd
        np.dot(buffer_bd[: len(part_bd)], weights_d, out=out_n[at : at + len(part_bd)])
    out_n += intercept
    return out_n.reshape(x.shape[:-1])[()]


def strongest_best(sse_at: np.ndarray) -> np.ndarray:
    """Index of the least error for each target; the strongest alpha where errors are equal."""
    return len(sse_at) - 1 - np.argmin(sse_at[::-1], axis=0)


def checked_alphas(alphas: Sequence[float]) -> np.ndarray:
    """Return strengths ascending. Raises `ProbeError` for none, or any that is not positive."""
    alphas_a = np.sort(np.atleast_1d(np.asarray(alphas, np.float64)))
    if not (len(alphas_a) and np.isfinite(alphas_a).all() and alphas_a[0] > 0):
        raise ProbeError(f"a ridge cannot be fitted with alpha {alphas_a.tolist()}; pass positive numbers")
    return alphas_a
