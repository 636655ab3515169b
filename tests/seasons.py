"""Series of numbers with a season, where a test knows the truth."""

from __future__ import annotations

import numpy as np

from geoelle.seasonal import YEAR_DAYS, years_of

__all__ = ["FIRST_DAY", "simulate", "truth"]

FIRST_DAY = 46 * 365.25  # early 2016


def simulate(
    seed: int, *, years: int = 6, dates: int = 8, noise: float = 0.1, year_sd: float = 0.0, semi: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return days and values of an annual wave of amplitude 0.3 about -3."""
    rng = np.random.default_rng(seed)
    starts = FIRST_DAY + YEAR_DAYS * np.arange(years)
    days_n = np.sort(np.concatenate([start + rng.choice(365, dates, replace=False) for start in starts]))
    of_year = dict(zip(range(2000, 2060), rng.normal(0, year_sd, 60), strict=True)) if year_sd else None
    values_n = truth(days_n, semi) + rng.normal(0, noise, len(days_n))
    return days_n, values_n if of_year is None else values_n + np.array([of_year[y] for y in years_of(days_n)])


def truth(days_n: np.ndarray, semi: float = 0.0) -> np.ndarray:
    turn = 2 * np.pi * days_n / YEAR_DAYS
    return -3 + 0.3 * np.cos(turn) + semi * np.sin(2 * turn)
