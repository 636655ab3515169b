"""Keep of rows what a ridge needs, so that leaving rows out is a subtraction and not another pass over the rest.

A ridge on standardised inputs needs the number of rows, their sums and their products (the Gram matrix of inputs and
targets together). Sums of disjoint rows add and subtract. They are taken about one fixed origin near the mean: about
zero, the mean itself would fill the digits in which the variance stands. What remains after a subtraction has the
rounding errors of all that went into it, so `Moments.trusted` says where too little is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dormqr, dpttrf, dpttrs, dsytrd

from geoelle.errors import ProbeError

__all__ = ["Accumulator", "Means", "Moments", "Ridges", "origin_of", "shrunk", "squared_errors"]

_EPS = np.finfo(np.float64).eps
_CHUNK = 2**18  # numbers converted to float64 at a time for a product of matrices (2 MB)
_CACHED = 2**16  # the same for a sum, which is bound by memory: 512 kB stay in cache
_WORN = 30.0  # rounding errors of a difference may be this many times those of sums taken directly
_DOUBTFUL = 1e3  # sd in units of eps x size below which a column may be constant, and only its rows can tell
_LOST = 10 * _EPS  # part of the greatest eigenvalue below which another, or alpha, is rounding
_SURE = 1e-9  # greatest relative error of a sum of squared errors that is taken from moments


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ridges:
    """Ridges of t targets under a strengths, acting on raw inputs: (x - mean_d) @ weights + y_mean_t.

    `weights_adt`, `mean_d`, `scale_d`, `y_mean_t` are float64; `scale_d` is 1 for an input constant in training.
    """

    weights_adt: np.ndarray
    mean_d: np.ndarray
    scale_d: np.ndarray
    y_mean_t: np.ndarray

    def affine(self) -> tuple[np.ndarray, float]:
        """Return (w, b) of the first strength and target for raw inputs."""
        w_d = self.weights_adt[0, :, 0]
        return w_d, float(self.y_mean_t[0] - w_d @ self.mean_d)

    def predict(self, x_md: np.ndarray, strength_t: np.ndarray) -> np.ndarray:
        """Predict (m, t), each target under the strength of that number."""
        w_dt = self.weights_adt[strength_t, :, np.arange(len(self.y_mean_t))].T
        z_md = np.subtract(x_md, self.mean_d, dtype=np.float64)
        return z_md @ w_dt + self.y_mean_t


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Count, sums and products of rows about an origin; inputs first, then targets (e = d + t), all float64.

    `worn_e` is the sum of squares of every row that was ever added or subtracted: rounding errors are in proportion
    to it. Raises `ProbeError` for rows that are not finite, and in `+` and `-` for unlike origins or too few rows.

    >>> x, y = np.array([[0.0], [1], [2], [9]]), np.array([[1.0], [3], [5], [0]])
    >>> origin = origin_of(x, y)
    >>> left = Moments.of(x, y, origin) - Moments.of(x[3:], y[3:], origin)
    >>> left.mean_e, left.ridges(np.array([1e-12])).weights_adt.ravel().round(6)
    (array([1., 3.]), array([2.]))
    """

    count: int
    n_targets: int
    origin_e: np.ndarray
    sums_e: np.ndarray
    products_ee: np.ndarray
    worn_e: np.ndarray

    def __post_init__(self) -> None:
        if not (np.isfinite(self.products_ee).all() and np.isfinite(self.sums_e).all()):
            raise ProbeError(f"moments fail for {self.count} rows (NaN, inf or too large); drop those rows")

    @classmethod
    def of(cls, x_nd: np.ndarray, y_nt: np.ndarray, origin_e: np.ndarray, rows: np.ndarray | None = None) -> Self:
        """Sum all rows, or those numbered, of (n, d) inputs and (n, t) targets; float32 is converted by chunks."""
        sums = Accumulator(origin_e, y_nt.shape[1])
        sums.add(x_nd, y_nt, rows)
        return sums.moments()

    def __add__(self, other: "Moments") -> Self:
        return self._with(other, 1)

    def __sub__(self, other: "Moments") -> Self:
        if other.count > self.count:
            raise ProbeError(f"{other.count} rows cannot be taken from {self.count}; subtract a part of the rows")
        return self._with(other, -1)

    def _with(self, other: "Moments", sign: int) -> Self:
        if self.n_targets != other.n_targets or not np.array_equal(self.origin_e, other.origin_e):
            raise ProbeError(f"moments about unlike origins fail for {other.count} rows; use one origin for all")
        return replace(
            self,
            count=self.count + sign * other.count,
            sums_e=self.sums_e + sign * other.sums_e,
            products_ee=self.products_ee + sign * other.products_ee,
            worn_e=self.worn_e + other.worn_e,
        )

    @property
    def mean_e(self) -> np.ndarray:
        """Means of inputs and targets."""
        return self.origin_e + self.sums_e / self.count

    @property
    def sd_e(self) -> np.ndarray:
        """Standard deviations (divided by the count) of inputs and targets; exactly 0 where they are constant.

        Constant is what differs from its mean by no more than the rounding of that mean.
        """
        centred_e = np.diagonal(self.products_ee) - np.square(self.sums_e) / self.count
        sd_e = np.sqrt(np.maximum(centred_e, 0) / self.count)
        return np.where(sd_e <= 10 * _EPS * np.abs(self.mean_e), 0.0, sd_e)

    @property
    def trusted(self) -> bool:
        """Whether every column kept so much of its variance that it is as good as summed from the rows.

        Where it did not (a column that is constant, or nearly, without the rows that were taken away), the sums have
        to be taken again from the rows, about their own mean.
        """
        sd_e = self.sd_e
        size_e = np.abs(self.origin_e) + np.sqrt(self.worn_e)
        kept = _WORN * self.count * np.square(sd_e) >= self.worn_e
        varied = kept & (sd_e > _DOUBTFUL * _EPS * size_e)
        return bool((varied | (self.worn_e == 0)).all())  # what never left the origin is constant for certain

    def standardised(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the Gram matrix (d, d) of standardised inputs and their products (d, t) with centred targets.

        Rows and columns of constant inputs are 0, and so are the products of constant targets.
        """
        sd_e, d = self.sd_e, len(self.origin_e) - self.n_targets
        inverse_e = _inverse(sd_e)
        inverse_e[d:] = sd_e[d:] > 0
        centred_ee = np.multiply.outer(self.sums_e, self.sums_e / -self.count)
        centred_ee += self.products_ee
        centred_ee *= inverse_e
        centred_ee *= inverse_e[:, None]
        return centred_ee[:d, :d], centred_ee[:d, d:]

    def ridges(self, alphas_a: np.ndarray) -> Ridges:
        """Solve the ridges on standardised inputs of all targets for every alpha.

        Raises `ProbeError` for fewer than 2 rows.
        """
        if self.count < 2:
            raise ProbeError(f"a ridge cannot be fitted to {self.count} rows; pass at least 2")
        d, mean_e = len(self.origin_e) - self.n_targets, self.mean_e
        sd_d = self.sd_e[:d]
        weights_adt = _solve(*self.standardised(), alphas_a) * _inverse(sd_d)[:, None]
        scale_d = np.where(sd_d > 0, sd_d, 1.0)
        return Ridges(weights_adt=weights_adt, mean_d=mean_e[:d], scale_d=scale_d, y_mean_t=mean_e[d:])

    def squared_errors(self, ridges: Ridges) -> tuple[np.ndarray, np.ndarray]:
        """Sum the squared errors of ridges on these rows, (a, t), and say which sums are sure to 1e-9.

        The sum is a quadratic form that cancels where the fit is close; those errors have to be taken from the rows.
        """
        d = len(ridges.mean_d)
        step_e = np.concatenate([ridges.mean_d, ridges.y_mean_t]) - self.origin_e
        weights_atd = np.swapaxes(ridges.weights_adt, 1, 2)
        product_dd, cross_td, square_t = (
            self.products_ee[:d, :d],
            self.products_ee[d:, :d],
            np.diagonal(self.products_ee)[d:],
        )
        constant_at = weights_atd @ step_e[:d] - step_e[d:]
        sum_at = self.sums_e[d:] - weights_atd @ self.sums_e[:d]
        form_at = np.einsum("atd,atd->at", weights_atd, weights_atd @ product_dd - 2 * cross_td)
        sse_at = square_t + form_at + constant_at * (2 * sum_at + self.count * constant_at)
        size_e = np.sqrt(np.diagonal(self.products_ee)) + np.sqrt(self.count) * np.abs(step_e)
        size_at = np.abs(weights_atd) @ size_e[:d] + size_e[d:]
        return np.maximum(sse_at, 0), _EPS * np.square(size_at) <= _SURE * sse_at


class Means:
    """Average rows part by part, as their distance from the first: of a constant the mean is that constant, exactly."""

    def __init__(self) -> None:
        self.count, self._first_e, self._sums_e = 0, np.empty(0), np.empty(0)

    def add(self, x_nd: np.ndarray, y_nt: np.ndarray) -> None:
        """Add rows of (n, d) inputs and (n, t) targets."""
        if not len(x_nd):
            return
        if not self.count:
            self._first_e = np.concatenate([x_nd[0], y_nt[0]], dtype=np.float64)
            self._sums_e = np.zeros_like(self._first_e)
        for u_be in _joined(x_nd, y_nt, self._first_e, None, _CACHED):
            self._sums_e += u_be.sum(0)
        self.count += len(x_nd)

    @property
    def mean_e(self) -> np.ndarray:
        """Means of inputs and targets so far, float64 (d + t,)."""
        return self._first_e + self._sums_e / self.count


class Accumulator:
    """Sum rows into moments about an origin, part by part, in memory that does not depend on their number."""

    def __init__(self, origin_e: np.ndarray, n_targets: int) -> None:
        e = len(origin_e)
        self.origin_e, self.n_targets, self.count = origin_e, n_targets, 0
        self._sums_e, self._lower_ee = np.zeros(e), np.zeros((e, e), order="F")

    def add(self, x_nd: np.ndarray, y_nt: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Add all rows, or those numbered."""
        for u_be in _joined(x_nd, y_nt, self.origin_e, rows, _CHUNK):
            self._sums_e += u_be.sum(0)
            self._lower_ee = dsyrk(1.0, u_be.T, beta=1.0, c=self._lower_ee, lower=1, overwrite_c=1)
            self.count += len(u_be)

    def moments(self) -> Moments:
        """Return the moments of all rows so far."""
        products_ee = self._lower_ee + self._lower_ee.T  # what lies above the diagonal is 0
        np.fill_diagonal(products_ee, np.diagonal(self._lower_ee))
        return Moments(
            count=self.count,
            n_targets=self.n_targets,
            origin_e=self.origin_e,
            sums_e=self._sums_e.copy(),
            products_ee=products_ee,
            worn_e=np.diagonal(products_ee).copy(),
        )


def origin_of(x_nd: np.ndarray, y_nt: np.ndarray) -> np.ndarray:
    """Return the means (d + t,) of all rows: the origin that moments are best taken about."""
    means = Means()
    means.add(x_nd, y_nt)
    return means.mean_e


def squared_errors(
    ridges: Ridges, x_nd: np.ndarray, y_nt: np.ndarray, rows: np.ndarray, wanted_at: np.ndarray
) -> np.ndarray:
    """Sum the squared errors of ridges on the numbered rows, (a, t), where wanted; 0 elsewhere."""
    a, t = np.nonzero(wanted_at)
    weights_dk = ridges.weights_adt[a, :, t].T
    total_k = np.zeros(len(a))
    for part in _chunks(len(rows), x_nd.shape[1] + len(a), _CHUNK):
        z_bd = np.subtract(x_nd[rows[part]], ridges.mean_d, dtype=np.float64)
        error_bk = (y_nt[rows[part]] - ridges.y_mean_t)[:, t] - z_bd @ weights_dk
        total_k += np.square(error_bk).sum(0)
    sse_at = np.zeros(wanted_at.shape)
    sse_at[a, t] = total_k
    return sse_at


def _joined(
    x_nd: np.ndarray, y_nt: np.ndarray, origin_e: np.ndarray, rows: np.ndarray | None, numbers: int
) -> Iterator[np.ndarray]:
    """Yield distances from an origin, inputs and targets side by side, (b, d + t) float64 in a buffer used again."""
    n, d = len(x_nd) if rows is None else len(rows), x_nd.shape[1]
    parts = _chunks(n, len(origin_e), numbers)
    buffer_be = np.empty((max((part.stop - part.start for part in parts), default=0), len(origin_e)))
    for part in parts:
        at, u_be = part if rows is None else rows[part], buffer_be[: part.stop - part.start]
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused where it has been summed
            np.subtract(x_nd[at], origin_e[:d], out=u_be[:, :d], dtype=np.float64)
            np.subtract(y_nt[at], origin_e[d:], out=u_be[:, d:], dtype=np.float64)
        yield u_be


def shrunk(values_e: np.ndarray, target_et: np.ndarray, alpha: float) -> np.ndarray:
    """Divide by eigenvalues + alpha. Where both are lost in rounding the direction is empty, and gets nothing."""
    lost = max(_LOST * values_e.max(), -values_e.min())
    weight_e = np.divide(1.0, values_e + alpha, out=np.zeros_like(values_e), where=values_e > lost)
    if alpha > lost:
        weight_e = 1.0 / (np.maximum(values_e, 0.0) + alpha)
    return target_et * weight_e[:, None]


def _chunks(n: int, width: int, numbers: int) -> list[slice]:
    """Cut n rows of a width into slices of about so many numbers."""
    step = max(16, numbers // width)
    return [slice(at, min(at + step, n)) for at in range(0, n, step)]


def _solve(gram_dd: np.ndarray, target_dt: np.ndarray, alphas_a: np.ndarray) -> np.ndarray:
    """Solve (gram + alpha) w = target for every alpha, (a, d, t), from one reduction to a tridiagonal matrix.

    The reduction costs a third of an eigendecomposition and about three Cholesky factorisations; each alpha after it
    is nearly free (Golub and Van Loan, Matrix Computations, 8.3.1).
    """
    d, t = target_dt.shape
    if d == 1:
        return target_dt / (gram_dd + alphas_a[:, None, None])
    reflectors, diagonal_d, off, tau, _ = dsytrd(gram_dd, lower=1, lwork=64 * d)
    reduced_dt = _turned(reflectors, tau, target_dt, "T")
    solved = [_tridiagonal(diagonal_d, off, alpha, reduced_dt) for alpha in alphas_a]
    return _turned(reflectors, tau, np.hstack(solved), "N").reshape(d, len(alphas_a), t).swapaxes(0, 1)


def _turned(reflectors_dd: np.ndarray, tau: np.ndarray, v_dk: np.ndarray, trans: str) -> np.ndarray:
    """Multiply by the orthogonal matrix of the reduction, or its transpose; its first row is that of the unit."""
    out_dk = np.array(v_dk, order="F")
    below = np.asfortranarray(reflectors_dd[1:, :-1])
    out_dk[1:] = dormqr("L", trans, below, tau, out_dk[1:], max(1, 64 * out_dk.shape[1]))[0]
    return out_dk


def _tridiagonal(diagonal_d: np.ndarray, off: np.ndarray, alpha: float, target_dt: np.ndarray) -> np.ndarray:
    if alpha > _LOST * max(np.abs(diagonal_d).max(), np.abs(off).max()):
        pivots_d, factors, failed = dpttrf(diagonal_d + alpha, off)
        if not failed:
            return dpttrs(pivots_d, factors, target_dt)[0]
    values_d, basis_dd = eigh_tridiagonal(diagonal_d, off)
    return basis_dd @ shrunk(values_d, basis_dd.T @ target_dt, alpha)


def _inverse(sd_e: np.ndarray) -> np.ndarray:
    """Return 1 / sd, and 0 for what is constant."""
    return np.divide(1.0, sd_e, out=np.zeros_like(sd_e), where=sd_e > 0)
