"""Fit the season of one number through time, with a band in which a new date should lie; arrays in, arrays out.

The curve is a mean with an annual wave, and a semi-annual one where dates are enough, fitted robustly: a hazy date
bends a least-squares curve for the whole season. The band holds the spread of dates, the spread of years (dates of one
year are alike) and the uncertainty of the curve. What it is worth is told by years left out, not by its formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from geoelle.errors import ProbeError

__all__ = [
    "LEVEL",
    "SEASON_DAYS",
    "YEAR_DAYS",
    "Coverage",
    "Season",
    "Years",
    "deseasonalised",
    "fit_season",
    "lacking",
    "left_out",
    "mean_squares",
    "season_gap",
    "years_of",
]

LEVEL = 0.9
"""Of new dates, the share that a band should hold."""
YEAR_DAYS = 365.2425
SEASON_DAYS = 45.0
"""Days of the year that two dates of one season may be apart, at most."""
MIN_YEARS = 2
MIN_DATES = 12
"""For a mean and an annual wave: four a coefficient, as Zhu and Woodcock (2014, doi:10.1016/j.rse.2014.01.011)."""
SEMI_YEARS, SEMI_DATES, SEMI_GAP_DAYS = 3, 30, 61.0
"""From these on a semi-annual wave is fitted too: six dates a coefficient, and no part of the year as long as a third
of the wave in which no date lies."""
MOST_LEVERAGE = 0.5
"""Where the curve is worth fewer than two dates, nothing is expected."""
_K = 1.345
_STEPS, _CLOSE = 100, 1e-7
_MOST_Z = 1e-300
"""Least p that a departure is turned into z from: |z| stays below 37.1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Season:
    """A seasonal curve of `dates` dates in `years` years, and what is known of it.

    `coefficients_p` are the mean, then cosine and sine of each of the harmonics. `inverse_pp` is (X'X)^-1 over the
    dates that were not clipped, `spread` the factor that makes it the covariance of the coefficients. `date_sd` and
    `year_sd` are robust standard deviations of dates in a year and of years, 0 where years differ no more than their
    dates; `sd` that of a date of a new year about a known curve, `dof` its degrees of freedom.
    """

    coefficients_p: np.ndarray
    inverse_pp: np.ndarray
    spread: float
    date_sd: float
    year_sd: float
    sd: float
    dof: float
    dates: int
    years: int

    @property
    def harmonics(self) -> int:
        return len(self.coefficients_p) // 2

    def expected(self, days_n: np.ndarray) -> np.ndarray:
        """Return the curve on days since 1970-01-01, float64 (n,); NaN in a season that the fit knows too little of."""
        return self._rows(days_n)[0] @ self.coefficients_p + 0 * self._se(days_n)

    def half_width(self, days_n: np.ndarray, level: float = LEVEL) -> np.ndarray:
        """Return half the width of the prediction interval of one new date, float64 (n,), NaN as in `expected`."""
        return stats.t.ppf(0.5 + level / 2, self.dof) * self._se(days_n)

    def z(self, days_n: np.ndarray, values_n: np.ndarray) -> np.ndarray:
        """Return how far values depart from the curve, as the normal quantile of their t, float64 (n,).

        |z| over 1.645 is outside of the 90% band, whatever the degrees of freedom.
        """
        t = (values_n - self.expected(days_n)) / self._se(days_n)
        return np.sign(t) * stats.norm.isf(np.maximum(stats.t.sf(np.abs(t), self.dof), _MOST_Z))

    def shared(self, one_n: np.ndarray, other_n: np.ndarray) -> float:
        """Return the covariance of the curve's means over two sets of days, dates being independent."""
        one_p, other_p = (self._rows(days_n)[0].mean(axis=0) for days_n in (one_n, other_n))
        return float(self.spread * (one_p @ self.inverse_pp @ other_p))

    def _se(self, days_n: np.ndarray) -> np.ndarray:
        leverage = self._rows(days_n)[1]
        return np.where(leverage <= MOST_LEVERAGE, np.sqrt(self.sd**2 + self.spread * leverage), np.nan)

    def _rows(self, days_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x_np = _waves(days_n, self.harmonics)
        return x_np, np.einsum("np,pq,nq->n", x_np, self.inverse_pp, x_np)


@dataclass(frozen=True, slots=True, kw_only=True)
class Years:
    """The mean squares of residuals in a one-way layout: `between` years and `within` them, with `dofs` of both.

    `each` is what `between` weighs the variance of years by: the dates of a year, where all have as many.
    """

    between: float
    within: float
    each: float
    years: int
    dofs: tuple[int, int]

    @property
    def variance(self) -> float:
        """Return the variance of years, 0 where they differ no more than their dates."""
        return max(self.between - self.within, 0.0) / self.each

    def ahead(self, dates: int) -> tuple[float, float]:
        """Return the variance of a mean of so many dates of a new year less the mean of these years, and its dof.

        It is a sum of mean squares; its degrees of freedom are Satterthwaite's (1946, doi:10.2307/3002019).
        """
        share = (1 + 1 / self.years) / self.each
        parts = share * self.between, (1 / dates - share) * self.within
        dof = sum(parts) ** 2 / sum(part**2 / max(dof, 1) for part, dof in zip(parts, self.dofs, strict=True))
        return sum(parts), dof


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The share of dates inside the band of a fit without their year, of how many dates and years."""

    share: float
    dates: int
    years: int


def years_of(days_n: np.ndarray) -> np.ndarray:
    """Return the calendar year of days since 1970-01-01, int64 (n,).

    >>> years_of(np.array([0.0, 364.0, 365.0])).tolist()
    [1970, 1970, 1971]
    """
    return np.floor(days_n).astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970


def season_gap(days_n: np.ndarray, day: float) -> np.ndarray:
    """Return how many days of the year days (since 1970-01-01) are from another one, 0 to 183, float64 (n,).

    >>> season_gap(np.array([5.0, 365.2425 - 4]), 0.0).round(4).tolist()
    [5.0, 4.0]
    """
    apart_n = np.abs(days_n - day) % YEAR_DAYS
    return np.minimum(apart_n, YEAR_DAYS - apart_n)


def lacking(days_n: np.ndarray, values_n: np.ndarray) -> str:
    """Return in words why there is no season of these dates, "" where there is one."""
    dates, years = len(days_n), len(np.unique(years_of(days_n)))
    if years < MIN_YEARS or dates < MIN_DATES:
        return f"{dates} dates of {years} years are too few for a season ({MIN_DATES} of {MIN_YEARS} are needed)"
    if np.ptp(values_n) <= 1e-12 * np.abs(values_n).max():
        return f"all {dates} dates have the same value, so there is no spread to judge by"
    return ""


def fit_season(days_n: np.ndarray, values_n: np.ndarray) -> Season:
    """Fit the season of finite values on days since 1970-01-01, in any order.

    Raises: ProbeError (what `lacking` says; or values without spread around their curve).

    Huber's M-estimate with his proposal 2 for the scale (Huber 1981, Robust Statistics, chapters 6 and 7); its
    covariance is his equation 6.6 with the correction for few data.
    """
    if why := lacking(days_n, values_n):
        raise ProbeError(f"no season can be fitted: {why}; give more dates")
    year_n, x_np = years_of(days_n), _waves(days_n, _harmonics(days_n))
    dates, years = len(days_n), len(np.unique(year_n))
    coefficients_p, scale = _huber(x_np, values_n)
    residual_n, parameters = values_n - x_np @ coefficients_p, x_np.shape[1]
    clipped_n = np.clip(residual_n, -_K * scale, _K * scale)
    kept_n = np.abs(residual_n) <= _K * scale
    inside = float(kept_n.mean())
    few = 1 + parameters / dates * (1 - inside) / inside
    return Season(
        coefficients_p=coefficients_p, dates=dates, years=years,
        inverse_pp=np.linalg.pinv(x_np[kept_n].T @ x_np[kept_n]),
        spread=few * np.square(clipped_n).sum() / (dates - parameters) / inside,
        **_spreads(clipped_n, year_n, scale, parameters),
    )  # fmt: skip


def deseasonalised(days_n: np.ndarray, values_n: np.ndarray) -> np.ndarray:
    """Return values less their waves, float64 (n,); these are fitted beside a straight trend, and take up none of it.

    Raises: as `fit_season`.
    """
    if why := lacking(days_n, values_n):
        raise ProbeError(f"no season can be fitted: {why}; give more dates")
    x_np = _waves(days_n, _harmonics(days_n))
    trend_n1 = ((days_n - days_n.mean()) / YEAR_DAYS)[:, None]
    coefficients_p, _ = _huber(np.concatenate([x_np, trend_n1], axis=1), values_n)
    return values_n - x_np[:, 1:] @ coefficients_p[1:-1]


def _harmonics(days_n: np.ndarray) -> int:
    """Return how many waves these dates can tell."""
    years = len(np.unique(years_of(days_n)))
    semi = years >= SEMI_YEARS and len(days_n) >= SEMI_DATES and _longest_gap(days_n) <= SEMI_GAP_DAYS
    return 2 if semi else 1


def mean_squares(residual_n: np.ndarray, year_n: np.ndarray, parameters: int) -> Years:
    """Part the squares of the residuals of a curve of so many parameters by years, of which there are two or more."""
    _, place, count_y = np.unique(year_n, return_inverse=True, return_counts=True)
    dates, years = len(year_n), len(count_y)
    mean_y = np.bincount(place, residual_n) / count_y
    dofs = years - 1, dates - years - parameters + 1
    between = (count_y * np.square(mean_y - residual_n.mean())).sum() / dofs[0]
    within = np.square(residual_n - mean_y[place]).sum() / max(dofs[1], 1)
    each = (dates - np.square(count_y).sum() / dates) / (years - 1)
    return Years(between=between, within=within, each=each, years=years, dofs=dofs)


def _spreads(clipped_n: np.ndarray, year_n: np.ndarray, scale: float, parameters: int) -> dict[str, float]:
    """Part the variance of residuals into that of dates and that of years.

    Where years do not differ more than dates do, that of a date of a new year is the square of the robust scale.
    """
    parts = mean_squares(clipped_n / math.sqrt(_clipped_square(_K)), year_n, parameters)
    if parts.dofs[1] < 1 or parts.between <= parts.within:
        return {"date_sd": scale, "year_sd": 0.0, "sd": scale, "dof": float(len(year_n) - parameters)}
    variance, dof = parts.ahead(1)
    return {
        "date_sd": math.sqrt(parts.within), "year_sd": math.sqrt(parts.variance), "sd": math.sqrt(variance), "dof": dof,
    }  # fmt: skip


def left_out(days_n: np.ndarray, values_n: np.ndarray, level: float = LEVEL) -> Coverage | None:
    """Measure how many dates lie in the band of the other years; None where no year can be left out."""
    year_n, held, years = years_of(days_n), [], 0
    for year in np.unique(year_n):
        out = year_n == year
        if lacking(days_n[~out], values_n[~out]):
            continue
        season = fit_season(days_n[~out], values_n[~out])
        apart = np.abs(values_n[out] - season.expected(days_n[out]))
        known = np.isfinite(apart)
        held.append(apart[known] <= season.half_width(days_n[out], level)[known])
        years += bool(known.any())
    every = np.concatenate(held) if held else np.empty(0)
    return Coverage(share=float(every.mean()), dates=len(every), years=years) if len(every) else None


def _longest_gap(days_n: np.ndarray) -> float:
    """Return the longest part of the year in which no date of any year lies, days.

    >>> round(_longest_gap(np.array([10.0, 100.0, 10.0 + 3 * YEAR_DAYS, 200.0])))
    175
    """
    day_n = np.sort(np.mod(days_n, YEAR_DAYS))
    return float(np.diff(day_n, append=day_n[0] + YEAR_DAYS).max())


def _waves(days_n: np.ndarray, harmonics: int) -> np.ndarray:
    """Return (n, 1 + 2 harmonics): ones, then cosine and sine of each."""
    turn_n = 2 * np.pi * np.asarray(days_n, np.float64) / YEAR_DAYS
    waves = [of(k * turn_n) for k in range(1, harmonics + 1) for of in (np.cos, np.sin)]
    return np.stack([np.ones_like(turn_n), *waves], axis=1)


def _huber(x_np: np.ndarray, y_n: np.ndarray) -> tuple[np.ndarray, float]:
    """Return coefficients and scale, by weights that are fitted again until both stand still.

    Raises: ProbeError (no residual).
    """
    dates, parameters = x_np.shape
    consistent = (dates - parameters) * _clipped_square(_K)
    coefficients_p = np.linalg.lstsq(x_np, y_n, rcond=None)[0]
    residual_n = y_n - x_np @ coefficients_p
    sd = float(stats.median_abs_deviation(residual_n, scale="normal")) or float(residual_n.std())
    for _ in range(_STEPS):
        if sd <= 1e-12 * np.abs(y_n).max():
            raise ProbeError("no season can be fitted: dates do not scatter around their curve; give measured values")
        weight_n = np.sqrt(_K * sd / np.maximum(np.abs(residual_n), _K * sd))
        coefficients_p = np.linalg.lstsq(x_np * weight_n[:, None], y_n * weight_n, rcond=None)[0]
        residual_n, last = y_n - x_np @ coefficients_p, sd
        sd = math.sqrt(np.minimum(np.square(residual_n), (_K * sd) ** 2).sum() / consistent)
        if abs(sd - last) <= _CLOSE * sd:
            break
    return coefficients_p, sd


def _clipped_square(k: float) -> float:
    """Return E[min(z^2, k^2)] of a standard normal z.

    >>> round(_clipped_square(10.0), 6)
    1.0
    """
    tail = math.erfc(k / math.sqrt(2))
    return 1 - tail - k * math.sqrt(2 / math.pi) * math.exp(-k * k / 2) + k * k * tail
