"""Simulate maps whose changes are known, and measure false discoveries and power; writes into docs/delta-series.json.

    python scripts/simulate_delta.py

No imagery and no model. What is measured stands in docs/protocol-delta-series.md, committed before any result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import click
import numpy as np
from scipy import stats
from scipy.ndimage import gaussian_filter

import delta_page
from delta_words import exact
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.change import MIN_YEARS, q_values
from geoelle.delta import RATE, judge

SIDE, SQUARE = 40, 4
DOF = 6
FIELDS, CLOUDY_FIELDS = 60, 240
YEARS = (3, 4, 5, 6)
SHARES = (0.0, 0.01, 0.05, 0.2)
EFFECTS = (2.0, 4.0, 8.0)
CELLS_APART = (0.0, 3.0)
MAD_TO_SD = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Field:
    """Years of one ground, (years, n), the last two before and after; which cells changed; the spread of each."""

    years_rn: np.ndarray
    changed_n: np.ndarray
    sd_n: np.ndarray


def field(rng: np.random.Generator, *, years: int, share: float, effect: float, apart: float) -> Field:
    """Draw one ground with so many years of history; a share of it changes by `effect` times its own spread."""
    noise_ryx = rng.normal(size=(years + 2, SIDE, SIDE))
    if apart:
        noise_ryx = gaussian_filter(noise_ryx, (0, apart, apart), mode="wrap")
        noise_ryx /= np.sqrt((gaussian_filter(_one(), apart, mode="wrap") ** 2).sum())
    sd_n = np.sqrt(DOF / rng.chisquare(DOF, SIDE * SIDE))
    shift_r = rng.normal(size=(years + 2, 1))
    level_n = rng.normal(size=SIDE * SIDE)
    years_rn = level_n + shift_r + sd_n * noise_ryx.reshape(years + 2, -1)
    a_side = SIDE // SQUARE
    marked = np.zeros(a_side * a_side, bool)
    marked[rng.choice(len(marked), round(share * len(marked)), replace=False)] = True
    changed_n = np.kron(marked.reshape(a_side, a_side), np.ones((SQUARE, SQUARE), bool)).ravel()
    years_rn[-1] += effect * sd_n * changed_n
    return Field(years_rn=years_rn, changed_n=changed_n, sd_n=sd_n)


def _one() -> np.ndarray:
    one_yx = np.zeros((SIDE, SIDE))
    one_yx[SIDE // 2, SIDE // 2] = 1
    return one_yx


def shrunk(f: Field) -> np.ndarray:
    """Return p as `geoelle delta` has it."""
    *history, before_n, after_n = f.years_rn
    return judge(before_n, after_n, np.array(history), "difference")[1].p_n


def per_cell(f: Field) -> np.ndarray:
    """Return p of a t-test with each cell's own spread, nothing borrowed from others."""
    centred_rn = _centred(f.years_rn[:-2])
    sd_n = centred_rn.std(axis=0, ddof=1)
    return 2 * stats.t.sf(np.abs(_apart(f)) / (sd_n * np.sqrt(2)), len(centred_rn) - 1)


def known(f: Field) -> np.ndarray:
    """Return p where the spread of each cell is known: no test can do better."""
    return 2 * stats.norm.sf(np.abs(_apart(f)) / (f.sd_n * np.sqrt(2)))


def median_mad(f: Field) -> np.ndarray:
    """Return normal p of the departure from the median of the history, in its median absolute deviations."""
    centred_rn = _centred(f.years_rn[:-2])
    middle_n = np.median(centred_rn, axis=0)
    mad_n = MAD_TO_SD * np.median(np.abs(centred_rn - middle_n), axis=0)
    after_n = f.years_rn[-1] - np.median(f.years_rn[-1] - f.years_rn[:-2].mean(axis=0))
    return 2 * stats.norm.sf(np.abs(after_n - middle_n) / np.maximum(mad_n, 1e-12))


def _centred(years_rn: np.ndarray) -> np.ndarray:
    return years_rn - np.median(years_rn - years_rn.mean(axis=0), axis=1, keepdims=True)


def _apart(f: Field) -> np.ndarray:
    apart_n = f.years_rn[-1] - f.years_rn[-2]
    return apart_n - np.median(apart_n)


METHODS: dict[str, tuple[Callable[[Field], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "geoelle (shrunk t, BH)": (shrunk, lambda p_n: q_values(p_n) <= RATE),
    "known spread (z, BH)": (known, lambda p_n: q_values(p_n) <= RATE),
    "per-cell t, BH": (per_cell, lambda p_n: q_values(p_n) <= RATE),
    "median and MAD, normal p, BH": (median_mad, lambda p_n: q_values(p_n) <= RATE),
    "median and MAD, normal p < 0.05": (median_mad, lambda p_n: p_n < 0.05),
}


def setting(
    *, years: int, share: float, effect: float, apart: float, fields: int = FIELDS
) -> Iterator[dict[str, object]]:
    """Measure every method on the same fields; `each` is the false share of every field."""
    rng = np.random.default_rng([years, round(1000 * share), round(10 * effect), round(apart)])
    drawn = [field(rng, years=years, share=share, effect=effect, apart=apart) for _ in range(fields)]
    boot = Bootstrap(np.arange(fields))
    for name, (test, flags) in METHODS.items():
        p_fn = [test(f) for f in drawn]
        flag_fn = [flags(p_n) for p_n in p_fn]
        wrong = [(flag_n & ~f.changed_n).sum() / max(flag_n.sum(), 1) for f, flag_n in zip(drawn, flag_fn, strict=True)]
        row: dict[str, object] = {
            "method": name,
            "years": years,
            "share": share,
            "effect": effect,
            "apart": apart,
            "fields": fields,
        }
        row |= {"false": Interval.of(boot.mean(np.array(wrong))).to_dict(), "each": wrong}
        if share:
            hit = [flag_n[f.changed_n].mean() for f, flag_n in zip(drawn, flag_fn, strict=True)]
            row["power"] = Interval.of(boot.mean(np.array(hit))).to_dict()
        else:
            row["any"] = exact(sum(bool(flag_n.any()) for flag_n in flag_fn), fields)
            row["flagged"] = Interval.of(boot.mean(np.array([flag_n.mean() for flag_n in flag_fn]))).to_dict()
            row["below"] = Interval.of(boot.mean(np.array([(p_n < 0.05).mean() for p_n in p_fn]))).to_dict()
        yield row


def pooled(rows: list[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Return the false share over all settings with changes, by method, years and noise; fields are redrawn."""
    for name, years, apart in product(METHODS, YEARS, CELLS_APART):
        some = [r for r in rows if (r["method"], r["years"], r["apart"]) == (name, years, apart) and r["share"]]
        every = np.concatenate([r["each"] for r in some])
        found = Interval.of(Bootstrap(np.arange(len(every))).mean(every)).to_dict()
        yield {"method": name, "years": years, "apart": apart, "fields": len(every), "false": found}


def cloudy(apart: float, fields: int = CLOUDY_FIELDS) -> dict[str, object]:
    """Count unchanged maps with any flag, four years of history, where two of these saw a tenth of the map only."""
    rng, flagged = np.random.default_rng([4, round(apart)]), dict.fromkeys(("whole", "clouded", "ruled"), 0)
    for _ in range(fields):
        *history, before_n, after_n = field(rng, years=4, share=0.0, effect=0.0, apart=apart).years_rn
        whole_rn, hidden_n = np.array(history), np.arange(SIDE * SIDE) >= SIDE * SIDE // 10
        clouded_rn = whole_rn.copy()
        clouded_rn[:2, hidden_n] = np.nan
        ruled_rn = np.where(np.isfinite(clouded_rn).sum(axis=0) < MIN_YEARS, np.nan, clouded_rn)
        for name, years_rn in (("whole", whole_rn), ("clouded", clouded_rn), ("ruled", ruled_rn)):
            q_n = q_values(judge(before_n, after_n, years_rn, "difference")[1].p_n)
            flagged[name] += bool((q_n <= RATE).any())
    return {"apart": apart, "fields": fields} | {name: exact(count, fields) for name, count in flagged.items()}


@click.command()
def main() -> None:
    rows: list[dict[str, object]] = []
    for years, apart, share in product(YEARS, CELLS_APART, SHARES):
        for effect in EFFECTS if share else (0.0,):
            rows += setting(years=years, share=share, effect=effect, apart=apart)
        click.echo(f"{years} years, {share:.0%} changed, {apart:g} cells", err=True)
    together = list(pooled(rows))
    plain = [{name: value for name, value in row.items() if name != "each"} for row in rows]
    clouds = [cloudy(apart) for apart in CELLS_APART]
    delta_page.keep("simulated", {"settings": plain, "pooled": together, "cloudy": clouds})


if __name__ == "__main__":
    main()
