"""Measure how often Delta flags ground in years in which nothing is looked for, and write it into docs/delta-series.json.

    python scripts/evaluate_false_alarms.py [--imagery FOLDER] [--weights galileo.nano=FOLDER] [--cache FOLDER]

Romania needs nothing but the demo catalogue; the other series, and the probes of other models, need the imagery.
What is measured stands in docs/protocol-delta-series.md, which was committed before any of the results was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import click
import numpy as np
import torch
from scipy import stats

import delta_page
import delta_series
import recovery_ground
from delta_cuts import Plan, on_cuts
from delta_kits import OTHER_BANDS, nano_kit, other_kit
from delta_nulls import RANDOM, Judges, Kit, Measured
from delta_seen import Reader, cached
from delta_series import STRIDES, Image, Series
from delta_words import exact
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.change import MIN_REPLICATES
from geoelle.errors import ProbeError
from given import folders_of
from recovery_places import cut_years, uncut

LEVELS = (0.01, 0.05, 0.1, 0.5)
CUT = 0.15
"""Loss of NDVI by which a cell of the forest is called likely cut."""
MOST = 20
"""Flagged maps that are named."""
Cuts = tuple[np.ndarray, np.ndarray]
LEAVES = ("June", "July", "August", "September")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Map:
    """One measure of one map: p of the cells judged, and which are flagged."""

    p_k: np.ndarray
    flag_k: np.ndarray


def seen(series: Series, reader: Reader, kit: Kit, unit: str, cache: Path | None) -> dict[str, list[Measured]]:
    """Measure every date of a series, by season."""

    def one(image: Image) -> Measured:
        name = f"{series.name}-{unit}-{image.day}-{reader.name}"
        return kit.measure(cached(cache, name, lambda: (reader.read(image, unit),))[0])

    return {season: [one(image) for image in images] for season, images in series.seasons.items()}


def likely_cut(dates: dict[str, list[Measured]], series: Series) -> np.ndarray:
    """Return the cells whose NDVI, median of the months with leaves, is in 2020 so much below 2016, bool (n,)."""

    def level(year: int) -> np.ndarray:
        rows = [
            found.numbers["NDVI"]
            for month in LEAVES
            for found, image in zip(dates[month], series.seasons[month], strict=True)
            if image.year == year
        ]
        return np.nanmedian(rows, axis=0)

    return level(2016) - level(2020) > CUT


def one_a_date(count: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield after, before and history: each date once, judged with the one before it (the first, with the next).

    >>> list(one_a_date(4))
    [(0, 1, [2, 3]), (1, 0, [2, 3]), (2, 1, [0, 3]), (3, 2, [0, 1])]
    """
    for after in range(count):
        before = after - 1 if after else 1
        yield after, before, [k for k in range(count) if k not in (after, before)]


def every(count: int, years: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield each pair of dates with each history of so many other years."""
    for before, after in combinations(range(count), 2):
        rest = [k for k in range(count) if k not in (after, before)]
        yield from ((after, before, list(chosen)) for chosen in combinations(rest, years))


def in_order(count: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield the maps that keep the order of time: all years before the date before are the history."""
    for before in range(MIN_REPLICATES, count):
        yield from ((after, before, list(range(before))) for after in range(before + 1, count))


def judged(dates: Sequence[Measured], plan: Iterator[tuple[int, int, list[int]]], keep_n: np.ndarray, departure: bool = False) -> Iterator[dict[str, Map]]:  # fmt: skip
    """Judge the maps of one season; those with too few cells or years are left out."""
    for after, before, history in plan:
        years = [*history, before] if departure else history
        try:
            judges = Judges(dates[before], [dates[k] for k in years], departure=departure)
            found = judges.judge(dates[after])
        except ProbeError:
            continue
        yield {name: _kept(out.p_n, out.flag_n, keep_n) for name, out in found.items()}


def _kept(p_n: np.ndarray, flag_n: np.ndarray, keep_n: np.ndarray) -> Map:
    known_n = np.isfinite(p_n) & keep_n
    return Map(p_k=p_n[known_n], flag_k=flag_n[known_n])


def summary(maps: Sequence[Map]) -> dict[str, object]:
    """Return what is told of maps: shares with intervals that redraw maps, and how far p is from uniform."""
    weight_m = np.array([len(m.p_k) for m in maps], float)
    boot, any_m = Bootstrap(np.arange(len(maps))), np.array([m.flag_k.any() for m in maps])
    p_k = np.concatenate([m.p_k for m in maps])
    below = {
        f"{level:g}": Interval.of(boot.mean([(m.p_k < level).mean() for m in maps], weight_m)).to_dict()
        for level in LEVELS
    }
    return {
        "maps": len(maps),
        "cells": int(weight_m.sum()),
        "flagged": Interval.of(boot.mean([m.flag_k.mean() for m in maps], weight_m)).to_dict(),
        "any": exact(int(any_m.sum()), len(maps)),
        "below": below,
        "ks": float(stats.kstest(p_k, "uniform").statistic),
    }


def by_measure(maps: Sequence[dict[str, Map]]) -> dict[str, dict[str, object]]:
    """Summarise every measure; of random directions, the means of their numbers."""
    names = [name for name in maps[0] if all(name in m for m in maps)]
    told = {name: summary([m[name] for m in maps]) for name in names}
    drawn = [told.pop(name) for name in names if name.startswith(RANDOM)]
    return told | ({RANDOM: _mean(drawn)} if drawn else {})


def _mean(rows: list) -> object:
    if isinstance(rows[0], dict):
        return {key: _mean([row[key] for row in rows]) for key in rows[0]}
    return float(np.mean([row for row in rows if row is not None]))


def of_series(
    series: Series, unit: str, reader: Reader, kit: Kit, cache: Path | None, cuts: Cuts | None = None
) -> dict[str, object]:
    """Measure the false alarms of one series, one unit and one model, and of what was `cuts`, what flags lie on."""
    dates = seen(series, reader, kit, unit, cache)
    all_n = np.ones(len(next(iter(dates.values()))[0].inside_n), bool)
    cut_n = likely_cut(dates, series) if series.name == "romania" else ~all_n
    found: dict[str, object] = {"place": series.place, "model": reader.model.card.name, "credit": series.credit, "unit": unit, "cells": len(all_n), "cut": int(cut_n.sum()),
                                "dates": {season: [str(i.day) for i in images] for season, images in series.seasons.items()}}  # fmt: skip
    every_map = [one for d in dates.values() for one in judged(d, one_a_date(len(d)), all_n)]
    found["one_a_date"] = by_measure(every_map)
    found["departure"] = {
        "Delta": summary([m["Delta"] for d in dates.values() for m in judged(d, one_a_date(len(d)), all_n, True)])
    }
    if cut_n.any():
        found["without_cut"] = by_measure([m for d in dates.values() for m in judged(d, one_a_date(len(d)), ~cut_n)])
    found["pairs"] = {years: _counted(dates, lambda n, y=years: every(n, y), ~cut_n) for years in (2, 3, 4)}
    found["in_order"] = _counted(dates, in_order, ~cut_n)
    if series.name == "romania":
        found["seasons"] = across(dates, series, ~cut_n)
    if cuts is not None:
        found["on_cuts"] = on_cuts(dates, series, in_order, *cuts)
    return found


def cuts_of(imagery: Path | None, cache: Path | None) -> Cuts:
    """Return the year in which each patch of the forest was cut, and which were not, as the protocol of recovery says."""
    images, name = (delta_series.forest(), "demo") if imagery is None else (recovery_ground.cube(imagery), "cube")
    seen_there = recovery_ground.ground(images, *nano_kit(images[0].bands, "patches"), f"recovery-{name}", cache)
    days_d, ndvi_dn = seen_there.days_d, seen_there.numbers["NDVI"]
    return cut_years(days_d, ndvi_dn), uncut(days_d, ndvi_dn, seen_there.shape).ravel()


def _counted(dates: dict[str, list[Measured]], plan: Plan, keep_n: np.ndarray) -> dict[str, object] | None:
    """Count the maps of Delta alone, over all seasons, and describe the flagged ones; they share dates, so no interval."""
    maps, flagged = [], []
    for season, found in dates.items():
        every = [only(date) for date in found]
        for after, before, history in plan(len(found)):
            try:
                judges = Judges(every[before], [every[k] for k in history])
            except ProbeError:
                continue
            out, prior = judges.judge(every[after])["Delta"], judges.nulls["Delta"].prior
            maps.append(one := _kept(out.p_n, out.flag_n, keep_n))
            if one.flag_k.any():
                dof = prior.dof if np.isfinite(prior.dof) else None
                told = {"season": season, "after": after, "before": before, "years": len(history)}
                flagged.append(
                    told | {"flagged": float(one.flag_k.mean()), "prior_dof": dof, "prior_sd": prior.variance**0.5}
                )
    if not maps:
        return None
    p_k = np.concatenate([m.p_k for m in maps])
    return {
        "maps": len(maps), "any": len(flagged), "flagged": float(np.concatenate([m.flag_k for m in maps]).mean()),
        "below": {f"{level:g}": float((p_k < level).mean()) for level in LEVELS}, "flagged_maps": flagged[:MOST],
    }  # fmt: skip


def only(found: Measured) -> Measured:
    """Keep nothing but Delta."""
    return Measured(numbers={"Delta": found.numbers["Delta"]}, vectors={}, inside_n=found.inside_n)


def across(dates: dict[str, list[Measured]], series: Series, keep_n: np.ndarray) -> list[dict[str, object]]:
    """Judge the months of 2020 by each other: with years of the month before, which `compare` refuses, and as it does."""
    last = {season: len(images) - 1 for season, images in series.seasons.items() if images[-1].year == 2020}
    rows = []
    for before, after in combinations(last, 2):
        one, other = dates[before][last[before]], dates[after][last[after]]
        shares = {}
        for name, season, departure in (("wrong", before, False), ("matched", after, True)):
            history = [only(d) for d in dates[season][: last[season]]]
            found = _kept(*_flags(Judges(only(one), history, departure=departure).judge(only(other))["Delta"]), keep_n)
            shares[name] = float(found.flag_k.mean())
            shares[f"{name}_below"] = float((found.p_k < 0.05).mean())
        rows.append({"before": before, "after": after, **shares})
    return rows


def _flags(outcome: object) -> tuple[np.ndarray, np.ndarray]:
    return outcome.p_n, outcome.flag_n


def spread(series: Series, unit: str, cache: Path | None) -> dict[str, object]:
    """Return how far difficulty of a cell moves between months: the robust spread of Delta by months apart."""
    reader, kit = nano_kit(series.images[0].bands, unit)
    dates = [found[0].numbers["Delta"] for found in seen(series, reader, kit, unit, cache).values()]
    days = [image.day.astype("datetime64[M]").astype(int) for image in series.images]
    by_lag: dict[int, list[float]] = {}
    for (one_n, a), (other_n, b) in combinations(zip(dates, days, strict=True), 2):
        apart_n = other_n - one_n
        known_n = np.isfinite(apart_n)
        if known_n.any():
            by_lag.setdefault(int(b - a), []).append(
                float(stats.median_abs_deviation(apart_n[known_n], scale="normal"))
            )
    rows = {lag: {"pairs": len(s), "spread": float(np.median(s))} for lag, s in sorted(by_lag.items())}
    return {
        "place": series.place,
        "credit": series.credit,
        "unit": unit,
        "cells": len(dates[0]),
        "by_months_apart": rows,
    }


@click.command()
@click.option(
    "--imagery",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of the other series, and of the places of the data card.",
)
@click.option("--weights", multiple=True, metavar="MODEL=FOLDER", help="A published model to measure too; repeatable.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps what the model gave.")
def main(imagery: Path | None, weights: tuple[str, ...], cache: Path | None) -> None:
    torch.set_num_threads(1)
    if weights and imagery is None:
        raise click.UsageError("--weights needs --imagery: the probe of another model is fitted on its places")
    found: dict[str, object] = {}
    cuts = cuts_of(imagery, cache)
    for series in (delta_series.romania(), *([delta_series.dakota(imagery)] if imagery else [])):
        for unit in STRIDES:
            pair = nano_kit(series.images[0].bands, unit)
            found[f"{series.name}, {unit}"] = _told(series, unit, pair, cache, cuts)
    for name, folder in folders_of(weights).items():
        series = delta_series.romania().of_bands(OTHER_BANDS)
        for unit in STRIDES:
            pair = other_kit(name, folder, OTHER_BANDS, unit, imagery, cache)
            found[f"{series.name}, {unit}, {name}"] = _told(series, unit, pair, cache, cuts)
    if imagery:
        found["belgium"] = spread(delta_series.belgium(imagery), "patches", cache)
    delta_page.keep("false_alarms", found)


def _told(series: Series, unit: str, pair: tuple[Reader, Kit], cache: Path | None, cuts: Cuts) -> dict[str, object]:
    where = f"{series.name}, {unit}, {pair[0].model.card.name}"
    click.echo(where, err=True)
    is_forest = series.name == "romania" and unit == "patches"
    try:
        return of_series(series, unit, *pair, cache, cuts if is_forest else None)
    except ProbeError as cause:
        raise click.ClickException(f"{where}: {cause}") from cause


if __name__ == "__main__":
    main()
