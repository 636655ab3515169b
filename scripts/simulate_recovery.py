"""Measure how often the interval of a recovery index holds the truth: simulated series with an event.

    python scripts/simulate_recovery.py

A season of a known amplitude, independent dates and independent years, then a departure, of which a share
is gone after 180 days. Coverage is of the series that have an index; the nominal one is 90%.
"""

from __future__ import annotations

from itertools import product

import click
import numpy as np
from scipy import stats

from geoelle.drift import AFTER_DAYS, Recovery, recovery_of
from geoelle.errors import ProbeError
from geoelle.seasonal import YEAR_DAYS, fit_season, years_of

FIRST_DAY = 46 * 365.25  # early 2016
DATE_SD = 0.1
WAVE = 0.3
YEARS_AFTER = 3


def one_series(
    rng: np.random.Generator, years: int, dates: int, ratio: float, truth: float, size_sd: float
) -> Recovery | None:
    """Return what is said of one series with so many years before the event and dates a year, None without an index."""
    starts = FIRST_DAY + YEAR_DAYS * np.arange(years + YEARS_AFTER)
    days_n = np.sort(np.concatenate([start + rng.choice(365, dates, replace=False) for start in starts]))
    _, year_n = np.unique(years_of(days_n), return_inverse=True)
    of_year = rng.normal(0, ratio * DATE_SD, year_n.max() + 1)
    values_n = WAVE * np.cos(2 * np.pi * days_n / YEAR_DAYS) + rng.normal(0, DATE_SD, len(days_n)) + of_year[year_n]
    since_n = days_n - (event := float(starts[years]))
    left_n = np.where(since_n < 0, 0, np.where(since_n <= AFTER_DAYS, 1, 1 - truth))
    values_n -= size_sd * DATE_SD * np.hypot(1, ratio) * left_n
    before, after = ((days_n[side], values_n[side]) for side in (since_n < 0, since_n >= 0))
    try:
        return recovery_of(fit_season(*before), before, after, event)
    except ProbeError:
        return None


@click.command()
@click.option("--series", default=1000, show_default=True, help="Series of each row.")
@click.option("--dates", default=12, show_default=True, help="Clear dates a year.")
@click.option("--departure", "size_sd", default=6.0, show_default=True, help="In sd of a date of a new year.")
def main(series: int, dates: int, size_sd: float) -> None:
    click.echo("| years before | sd of years / of dates | recovered | with an index | covered [95%] | median width |")
    click.echo("|---|---|---|---|---|---|")
    for years, ratio, truth in product((3, 5, 8), (0, 1, 2), (0.0, 0.6)):
        rng = np.random.default_rng([years, ratio, round(10 * truth)])
        found = [one for _ in range(series) if (one := one_series(rng, years, dates, ratio, truth, size_sd))]
        held = sum(one.low <= truth <= one.high for one in found)
        low, high = stats.binomtest(held, len(found)).proportion_ci(method="exact")
        width = np.median([one.high - one.low for one in found])
        click.echo(
            f"| {years} | {ratio} | {truth:g} | {len(found) / series:.0%} | {held / len(found):.1%} "
            f"[{100 * low:.0f}, {100 * high:.0f}] | {width:.2f} |"
        )


if __name__ == "__main__":
    main()
