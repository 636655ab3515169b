"""Fit a ridge whose strength is chosen on held-out ground, and predict every point from folds without it.

The numerics of `geoelle.probe`: float64, centred and standardised inputs, one eigendecomposition of the
smaller Gram matrix for all strengths and all targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils.validation import check_is_fitted, validate_data

from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import default_cv

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


class _Affine(RegressorMixin, BaseEstimator):
    """Predict w'x + b on raw inputs."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return w'x + b, float64 (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_ + self.intercept_

    def _validated(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)

    def _learn(self, path: "_Path", alpha: float) -> Self:
        self.coef_, self.intercept_ = path.affine(alpha)
        self.mean_, self.scale_ = path.mean_d, path.scale_d
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
        X, y = self._validated(X, y)
        (alpha,) = _checked_alphas([self.alpha])
        return self._learn(_Path(X, y[:, None]), alpha)


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
        X, y = self._validated(X, y)
        cv = default_cv(groups) if self.cv is None else self.cv
        self.alphas_ = _checked_alphas(self.alphas)
        sse_at = _held_out_sse(X, y[:, None], cv, groups, self.alphas_)
        self.mse_path_ = sse_at[:, 0] / len(X)
        self.alpha_ = float(self.alphas_[_strongest_best(sse_at)[0]])
        return self._learn(_Path(X, y[:, None]), self.alpha_)


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
        return x.astype(np.float64) @ self.weights_d + self.intercept


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
    X_nd, y_nt, alphas_a = np.asarray(X_nd, np.float64), np.asarray(y_nt, np.float64), _checked_alphas(alphas)
    if not (np.isfinite(X_nd).all() and np.isfinite(y_nt).all()):
        raise ProbeError(f"a probe cannot be fitted to {X_nd.shape} inputs with NaN or inf; drop those rows")
    predicted_nt, fold_n, chosen = np.full(y_nt.shape, np.nan), np.full(len(y_nt), -1), []
    for k, (train, test) in enumerate(cv.split(X_nd, None, groups)):
        chosen.append(np.repeat(alphas_a, y_nt.shape[1]))
        if len(alphas_a) > 1:
            groups_k = None if groups is None else np.asarray(groups)[train]
            sse_at = _held_out_sse(X_nd[train], y_nt[train], inner_cv(cv, groups_k), groups_k, alphas_a)
            chosen[k] = alphas_a[_strongest_best(sse_at)]
        predicted_nt[test] = _Path(X_nd[train], y_nt[train]).predict(X_nd[test], chosen[-1])
        fold_n[test] = k
    return Nested(predicted_nt=predicted_nt, alphas_kt=np.array(chosen), fold_n=fold_n)


def inner_cv(cv: BaseCrossValidator, groups: np.ndarray | None) -> BaseCrossValidator:
    """Return the splitter for a training part: the same kind, with no more folds than it has blocks."""
    return cv.inner(groups) if hasattr(cv, "inner") else cv


class _Path:
    """All ridges of (n, d) inputs on (n, t) targets, over every alpha, from one eigendecomposition."""

    def __init__(self, X_nd: np.ndarray, y_nt: np.ndarray) -> None:
        n, d = X_nd.shape
        self.mean_d = X_nd.mean(0)
        std_d = X_nd.std(0)
        constant = std_d <= 10 * np.finfo(np.float64).eps * np.abs(X_nd).max(0)
        self.scale_d = np.where(constant, 1.0, std_d)
        self.y_mean_t = y_nt.mean(0)
        z_nd = (X_nd - self.mean_d) / self.scale_d
        z_nd[:, constant] = 0.0
        y_nt = y_nt - self.y_mean_t
        if d <= n:
            values, self.basis_de = np.linalg.eigh(z_nd.T @ z_nd)
            self.target_et = self.basis_de.T @ (z_nd.T @ y_nt)
        else:
            values, u_ne = np.linalg.eigh(z_nd @ z_nd.T)
            self.basis_de, self.target_et = z_nd.T @ u_ne, u_ne.T @ y_nt
        self.values_e = np.maximum(values, 0.0)

    def affine(self, alpha: float) -> tuple[np.ndarray, float]:
        """Return (w, b) of the first target for raw inputs."""
        w_d = self.basis_de @ (self.target_et[:, 0] / (self.values_e + alpha)) / self.scale_d
        return w_d, float(self.y_mean_t[0] - w_d @ self.mean_d)

    def predict(self, X_md: np.ndarray, alpha_t: np.ndarray) -> np.ndarray:
        """Predict (m, t), each target under its own alpha."""
        w_dt = self.basis_de @ (self.target_et / (self.values_e[:, None] + alpha_t))
        return (X_md - self.mean_d) / self.scale_d @ w_dt + self.y_mean_t

    def squared_errors(self, X_md: np.ndarray, y_mt: np.ndarray, alphas_a: np.ndarray) -> np.ndarray:
        """Return the sum of squared errors on unseen points, (a, t)."""
        seen_me = (X_md - self.mean_d) / self.scale_d @ self.basis_de
        shifted_mt = y_mt - self.y_mean_t
        paths = (self.target_et / (self.values_e[:, None] + alpha) for alpha in alphas_a)
        return np.stack([np.square(shifted_mt - seen_me @ weights_et).sum(0) for weights_et in paths])


def _held_out_sse(
    X_nd: np.ndarray,
    y_nt: np.ndarray,
    cv: BaseCrossValidator,
    groups: np.ndarray | None,
    alphas_a: np.ndarray,
) -> np.ndarray:
    """Sum the squared errors over the held-out points of every fold, (a, t)."""
    total_at = np.zeros((len(alphas_a), y_nt.shape[1]))
    for train, test in cv.split(X_nd, None, groups):
        if len(train) < 2:
            raise HoldoutError(f"an inner fold trains on {len(train)} points; use smaller blocks")
        total_at += _Path(X_nd[train], y_nt[train]).squared_errors(X_nd[test], y_nt[test], alphas_a)
    return total_at


def _strongest_best(sse_at: np.ndarray) -> np.ndarray:
    """Index of the least error for each target; the strongest alpha where errors are equal."""
    return len(sse_at) - 1 - np.argmin(sse_at[::-1], axis=0)


def _checked_alphas(alphas: Sequence[float]) -> np.ndarray:
    alphas_a = np.sort(np.atleast_1d(np.asarray(alphas, np.float64)))
    if not (len(alphas_a) and np.isfinite(alphas_a).all() and alphas_a[0] > 0):
        raise ProbeError(f"a ridge cannot be fitted with alpha {alphas_a.tolist()}; pass positive numbers")
    return alphas_a
