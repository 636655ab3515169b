"""Score predictions with intervals that redraw whole places.

Chips of one place are not independent, so every interval redraws places, 1,000 times, seeded. Predictions
scored by one `Bootstrap` see the same draws, so that their differences are paired.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Self

import numpy as np

from geoelle.errors import HoldoutError, ProbeError

__all__ = ["METRICS", "Bootstrap", "Draws", "Interval", "Metrics", "Reliability", "Verdict", "reliability"]

METRICS = ("r", "r2", "spearman", "within")
MIN_WITHIN = 8  # chips a place needs for a correlation of its own

_ROUNDING = 1e-12
_CELLS = 2_000_000  # draws x chips ranked at a time

Verdict = Literal["beats", "ties with", "loses to", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95% interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Self:
        """Take the value from the first draw (the data itself) and percentiles from the others."""
        rest = draws[1:][np.isfinite(draws[1:])]
        if not np.isfinite(draws[0]) or not len(rest):
            return cls(value=float("nan"), low=float("nan"), high=float("nan"))
        low, high = np.percentile(rest, [2.5, 97.5])
        return cls(value=float(draws[0]), low=float(low), high=float(high))

    @property
    def verdict(self) -> Verdict:
        """Say what a difference means: "beats" where it is above 0, "loses to" below, else "ties with".

        Above and below by more than rounding: equal predictors differ in the last digits.
        """
        if not np.isfinite(self.value):
            return ""
        return "beats" if self.low > _ROUNDING else "loses to" if self.high < -_ROUNDING else "ties with"

    def to_dict(self) -> dict[str, float | None]:
        """Return plain JSON data, NaN as None."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if np.isfinite(self.value) else "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Pearson r, R2 and Spearman over all chips, and the mean of the r inside each place."""

    r: Interval
    r2: Interval
    spearman: Interval
    within: Interval


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """The four metrics in every draw, (1 + draws,) each; the first is the data itself."""

    r: np.ndarray
    r2: np.ndarray
    spearman: np.ndarray
    within: np.ndarray

    def metrics(self) -> Metrics:
        """Return values and intervals."""
        return Metrics(**{name: Interval.of(getattr(self, name)) for name in METRICS})

    def minus(self, other: Self) -> Metrics:
        """Return the paired differences to another prediction, with intervals."""
        return Metrics(**{name: Interval.of(getattr(self, name) - getattr(other, name)) for name in METRICS})

    @classmethod
    def mean(cls, each: Sequence[Self]) -> Self:
        """Average several predictions' metrics draw by draw."""
        return cls(**{name: np.mean([getattr(one, name) for one in each], axis=0) for name in METRICS})


class Bootstrap:
    """Draw whole places, the same ones for every prediction scored.

    `place_n` are labels of any type, one a chip. A place drawn twice counts twice; a place has a correlation
    of its own from 8 chips on. Raises `HoldoutError` for fewer than two places.

    >>> y = np.arange(40.0); place = np.repeat(np.arange(4), 10)
    >>> print(Bootstrap(place).score(y, 2 * y + 1).metrics().r)
    1.000 [1.000, 1.000]
    """

    def __init__(self, place_n: np.ndarray, n_draws: int = 1_000, seed: int = 0) -> None:
        names, self.place_n = np.unique(np.asarray(place_n), return_inverse=True)
        self.n_places = len(names)
        if self.n_places < 2:
            raise HoldoutError(f"intervals need places to redraw ({self.n_places} found); add ground")
        drawn = np.random.default_rng(seed).integers(0, self.n_places, (n_draws, self.n_places))
        counts = [np.ones(self.n_places, int), *(np.bincount(row, minlength=self.n_places) for row in drawn)]
        self.counts_dp = np.stack(counts).astype(np.float64)

    def score(self, y_n: np.ndarray, predicted_n: np.ndarray) -> Draws:
        """Score a prediction of `y_n` in every draw."""
        y_n, p_n = np.asarray(y_n, np.float64), np.asarray(predicted_n, np.float64)
        return Draws(
            r=self.r(y_n, p_n),
            r2=self._r2(y_n, p_n),
            spearman=self.spearman(y_n, p_n),
            within=self._within(y_n, p_n),
        )

    def r(self, a_n: np.ndarray, b_n: np.ndarray) -> np.ndarray:
        """Return Pearson's r in every draw, NaN where one side is constant."""
        return _pearson(self.counts_dp @ self._moments(a_n, b_n))

    def mean(self, values_n: np.ndarray, weight_n: np.ndarray | None = None) -> np.ndarray:
        """Return the mean in every draw, weighted by `weight_n` >= 0; NaN where nothing that weighs is drawn."""
        values_n = np.asarray(values_n, np.float64)
        weight_n = np.ones_like(values_n) if weight_n is None else np.asarray(weight_n, np.float64)
        weight_d, sum_d = (self.counts_dp @ self._sums(weight_n, weight_n * values_n)).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return sum_d / weight_d

    def partial_r(self, y_n: np.ndarray, a_n: np.ndarray, given_n: np.ndarray) -> np.ndarray:
        """Return the correlation of y and a in every draw, after `given_n` is regressed out of both."""
        ya, yg, ag = self.r(y_n, a_n), self.r(y_n, given_n), self.r(a_n, given_n)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (ya - yg * ag) / np.sqrt((1 - yg**2) * (1 - ag**2))

    def _sums(self, *values_n: np.ndarray) -> np.ndarray:
        """Sum over each place: (places, values)."""
        return np.stack([np.bincount(self.place_n, v, self.n_places) for v in values_n], 1)

    def _moments(self, a_n: np.ndarray, b_n: np.ndarray) -> np.ndarray:
        a_n, b_n = _standard(a_n), _standard(b_n)
        return self._sums(np.ones_like(a_n), a_n, b_n, a_n * a_n, b_n * b_n, a_n * b_n)

    def _r2(self, y_n: np.ndarray, p_n: np.ndarray) -> np.ndarray:
        y0_n = y_n - y_n.mean()
        sums = self.counts_dp @ self._sums(np.ones_like(y_n), y0_n, y0_n**2, (y_n - p_n) ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - sums[:, 3] / (sums[:, 2] - sums[:, 1] ** 2 / sums[:, 0])

    def _within(self, y_n: np.ndarray, p_n: np.ndarray) -> np.ndarray:
        r_p = _pearson(self._moments(y_n, p_n))
        enough_p = np.isfinite(r_p) & (np.bincount(self.place_n, minlength=self.n_places) >= MIN_WITHIN)
        weight_dp = self.counts_dp[:, enough_p]
        with np.errstate(divide="ignore", invalid="ignore"):
            return weight_dp @ r_p[enough_p] / weight_dp.sum(1)

    def spearman(self, y_n: np.ndarray, p_n: np.ndarray) -> np.ndarray:
        """Return Spearman's r in every draw, ranked anew: a chip drawn twice takes two ranks."""
        ranks_y, ranks_p = _Ranks(y_n), _Ranks(p_n)
        step = max(1, _CELLS // len(y_n))
        out = []
        for start in range(0, len(self.counts_dp), step):
            weight_dn = self.counts_dp[start : start + step][:, self.place_n]
            n_d = weight_dn.sum(1)
            a_dn, b_dn = (ranks(weight_dn) / n_d[:, None] - 0.5 for ranks in (ranks_y, ranks_p))
            sums = [(weight_dn * v).sum(1) for v in (a_dn, b_dn, a_dn * a_dn, b_dn * b_dn, a_dn * b_dn)]
            out.append(_pearson(np.stack([n_d, *sums], 1)))
        return np.concatenate(out)


class _Ranks:
    """Rank fixed values under changing weights; ties share the mean of their ranks."""

    def __init__(self, values_n: np.ndarray) -> None:
        self.order = np.argsort(values_n, kind="stable")
        in_order = np.asarray(values_n)[self.order]
        new = np.concatenate([[True], in_order[1:] != in_order[:-1]])
        self.first, tied = np.flatnonzero(new), np.cumsum(new) - 1
        self.group_n = np.empty(len(tied), int)
        self.group_n[self.order] = tied

    def __call__(self, weight_dn: np.ndarray) -> np.ndarray:
        in_group = np.add.reduceat(weight_dn[:, self.order], self.first, axis=1)
        return (np.cumsum(in_group, axis=1) - 0.5 * (in_group - 1))[:, self.group_n]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How well the loss is measured: r between two halves of the masks, and what that allows.

    `spearman_brown` is the reliability of the mean of both halves, which is the loss that is fitted;
    `ceiling`, its square root, is the highest r that a perfect predictor of the noiseless loss can reach.
    """

    r: float
    spearman_brown: float
    ceiling: float


def reliability(loss_n2: np.ndarray) -> Reliability:
    """Compare the loss under two independent permutations, (n, 2), on the scale of the fit.

    Raises `ProbeError` for fewer than three finite rows.

    >>> truth = np.random.default_rng(0).normal(size=(4000, 1))
    >>> noise = np.random.default_rng(1).normal(size=(4000, 2))
    >>> [round(v, 1) for v in (reliability(truth + noise).r, reliability(truth + noise).spearman_brown)]
    [0.5, 0.7]
    """
    loss_n2 = np.asarray(loss_n2, np.float64)
    loss_n2 = loss_n2[np.isfinite(loss_n2).all(1)]
    if len(loss_n2) < 3:
        raise ProbeError(f"reliability fails for {len(loss_n2)} chips; compute the loss of more")
    r = float(np.corrcoef(loss_n2.T)[0, 1])
    both = 2 * r / (1 + r)
    return Reliability(r=r, spearman_brown=both, ceiling=float(np.sqrt(max(both, 0.0))))


def _standard(values_n: np.ndarray) -> np.ndarray:
    """Centre and scale, for the sake of rounding; a constant becomes 0."""
    centred_n = np.asarray(values_n, np.float64) - np.mean(values_n)
    spread = centred_n.std()
    return centred_n / spread if spread > 1e-12 * np.abs(values_n).max() else np.zeros_like(centred_n)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Pearson's r from sums of (1, a, b, aa, bb, ab) along the last axis."""
    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        var_a, var_b = aa / n - (a / n) ** 2, bb / n - (b / n) ** 2
        r = (ab / n - a * b / n**2) / np.sqrt(var_a * var_b)
        return np.where((var_a > 1e-13 * aa / n) & (var_b > 1e-13 * bb / n), np.clip(r, -1, 1), np.nan)
