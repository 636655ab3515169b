"""Tell what is flagged in years in which nothing is looked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from delta_words import exact, listed, share, span, table
from geoelle.bootstrap import Bootstrap, Interval

RATE = 0.1
Found = Mapping[str, Any]


def false_alarms(found: Found) -> Iterator[str]:
    """Tell what is flagged where nothing is looked for."""
    yield "## Nothing is looked for, and what is flagged"
    yield ""
    yield (
        "Whole years are permuted; each date is judged once, by the date of the year before and the other years of its month (*one map a date*). "
        f"At a rate of {RATE:g}, at most {RATE:.0%} of maps without a change should have any flag, and p be uniform; alarms *hold* where the interval reaches {RATE:.0%}, and few maps contradict little. Exact intervals take maps "
        "as independent, which maps that share years are not: they are too narrow. Each series is one place."
    )
    told = {name: part for name, part in found.items() if "one_a_date" in part}
    for name, part in told.items():
        yield ""
        yield from _series(name, part)
    for part in told.values():
        if "seasons" in part and part["unit"] == "patches" and part["model"] == "nano":
            yield ""
            yield from _seasons(part)
    if "belgium" in found:
        yield ""
        yield from _belgium(found["belgium"])


def _series(name: str, part: Found) -> Iterator[str]:
    dates = sum(map(len, part["dates"].values()))
    yield f"### {part['place']}, {part['unit']}, `{part['model']}`: {part['cells']:,} cells, {dates} dates, one place"
    yield ""
    clean = part.get("without_cut", part["one_a_date"])
    ground = f"without {part['cut']} likely cut cells" if "without_cut" in part else "all ground, no change assumed"
    delta = clean["Delta"]
    holds = delta["any"]["low"] <= RATE
    yield (
        f"**Delta, {ground}: alarms {'hold' if holds else 'are too many'}; p is {uniform(delta)}.** {delta['any']['hits']} of {delta['maps']} maps have a flag "
        f"({span(delta['any'])}), {share(delta['flagged'])} of the judged cells are flagged; p < 0.05 in {span(delta['below']['0.05'])}; Kolmogorov-Smirnov distance {delta['ks']:.3f}."
    )
    worse = [n for n, s in clean.items() if n != "Delta" and s["flagged"]["value"] > delta["flagged"]["value"]]
    fewer = [n for n, s in clean.items() if n != "Delta" and s["flagged"]["value"] < delta["flagged"]["value"]]
    yield f"Fewer cells flagged than Delta: {listed(fewer)}. More: {listed(worse)}."
    if "without_cut" in part:
        with_cut = part["one_a_date"]["Delta"]
        yield f"With likely cut cells: {with_cut['any']['hits']} of {with_cut['maps']} maps, {share(with_cut['flagged'])} of cells."
    if part["in_order"]:
        yield _in_order(part["in_order"])
    if "on_cuts" in part:
        yield _on_cuts(part["on_cuts"])
    departure = part["departure"]["Delta"]
    yield f"Design *departure* (all ground): {departure['any']['hits']} of {departure['maps']} maps, {share(departure['flagged'])} of cells, p < 0.05 in {span(departure['below']['0.05'])}."
    yield ""
    yield from table(
        ("measure", "cells flagged", "maps with any flag", "p < 0.01", "p < 0.05", "p < 0.1", "p < 0.5", "KS"),
        ((f"**{n}**" if n == "Delta" else n, share(s["flagged"]), span(s["any"]), *(_level(s, level) for level in ("0.01", "0.05", "0.1", "0.5")), f"{s['ks']:.3f}")
         for n, s in sorted(clean.items(), key=lambda pair: pair[1]["flagged"]["value"])),
    )  # fmt: skip
    yield ""
    yield "Every pair of dates by every history of so many years, Delta alone (maps share years: no interval):"
    yield ""
    counted = {f"{years} years": value for years, value in part["pairs"].items() if value}
    if part["in_order"]:
        counted["in the order of time, all earlier years"] = part["in_order"]
    yield from table(
        ("history", "maps", "maps with any flag", "cells flagged", "p < 0.05"),
        ((n, v["maps"], f"{v['any'] / v['maps']:.1%}", f"{v['flagged']:.2%}", f"{v['below']['0.05']:.3f}") for n, v in counted.items()),
    )  # fmt: skip


def _in_order(found: Found) -> str:
    """Tell what a user gets, who has earlier years only."""
    of_maps = exact(found["any"], found["maps"])
    verdict = "hold" if of_maps["low"] <= RATE else "are too many"
    named = [
        f"{m['season']} {m['years']} years ({m['flagged']:.1%}; {_worth(m['prior_dof'])}, spread {m['prior_sd']:.3f})"
        for m in found["flagged_maps"]
    ]
    return (
        f"**In the order of time (two earlier years or more; `geoelle delta` asks for four), alarms {verdict}**: {found['any']} of {found['maps']} maps have a flag ({span(of_maps)}), {found['flagged']:.2%} of cells, "
        f"p < 0.05 in {found['below']['0.05']:.3f}{'; flagged, by month and years of history, with what the shared spread of the cells was taken to be worth: ' + listed(named) if named else ''}."
    )


def _on_cuts(found: Found) -> str:
    """Tell whether the flags lie on ground that was cut."""
    mine = found["Delta"]
    shares = [mine[f"{kind}_flagged"] / mine[kind] for kind in ("cut", "uncut")]
    others = sorted((n for n in found if n != "Delta"), key=lambda name: -found[name]["auroc"]["value"])
    ranked = ", ".join(f"{name} {span(found[name]['auroc'])}" for name in others)
    return (
        f"Exploratory: of the patches that were cut between the two dates (by [the rule](protocol-recovery.md) of NDVI) Delta flags {mine['cut_flagged']} of {mine['cut']} ({shares[0]:.1%}), of uncut ones {mine['uncut_flagged']} of {mine['uncut']} ({shares[1]:.1%}), "
        f"so {'flags on these maps are not all false' if shares[0] > shares[1] else 'flags do not go with cuts'}; it ranks cut above uncut at AUROC {span(mine['auroc'])}, mean of {mine['auroc']['maps']} maps that share years and cuts. "
        f"The others: {ranked}. Cuts were found by NDVI, so red, nir and the indices are not judged by this."
    )


def _worth(dof: float | None) -> str:
    return "infinite degrees of freedom" if dof is None else f"{dof:.1f} degrees of freedom"


def uniform(summary: Found) -> str:
    """Say how p compares with what it should be."""
    low, high = (summary["below"]["0.05"][end] for end in ("low", "high"))
    return "too small" if low > 0.05 else "too large" if high < 0.05 else "uniform enough"


def _level(summary: Found, level: str) -> str:
    return f"{summary['below'][level]['value']:.3f}"


def _seasons(part: Found) -> Iterator[str]:
    rows = part["seasons"]
    wrong, matched = ([r[key] for r in rows] for key in ("wrong", "matched"))
    means = [sum(values) / len(values) for values in (wrong, matched)]
    below = [r["wrong_below"] for r in rows]
    gap = Interval.of(Bootstrap(np.arange(len(rows))).mean(np.array(wrong) - np.array(matched)))
    yield f"### What breaking the season rule does ({part['place']}, {part['unit']})"
    yield ""
    yield (
        f"Months of 2020 judged by each other. By the years of the month *before*, which `geoelle delta` refuses, {min(wrong):.1%} to {max(wrong):.1%} of the ground is flagged "
        f"(mean {means[0]:.1%}) and p < 0.05 in {min(below):.3f} to {max(below):.3f}; by the years of the month *after*, {min(matched):.1%} to {max(matched):.1%} (mean {means[1]:.1%}). "
        + (
            "Breaking the rule raises alarms, as expected"
            if gap.low > 0
            else "That breaking the rule raises alarms, as was expected, is not shown"
        )
        + f" (difference {gap.value:.2%} [{gap.low:.2%}, {gap.high:.2%}], pairs redrawn). "
        + "The shift of the whole map is taken out in both."
    )
    yield ""
    yield from table(
        ("before", "after", "flagged, years of the month before", "p < 0.05", "flagged, years of the month after", "p < 0.05"),
        ((r["before"], r["after"], f"{r['wrong']:.1%}", f"{r['wrong_below']:.3f}", f"{r['matched']:.1%}", f"{r['matched_below']:.3f}") for r in rows),
    )  # fmt: skip


def _belgium(part: Found) -> Iterator[str]:
    lags = part["by_months_apart"]
    yield f"### {part['place']}: no p-value can be had"
    yield ""
    near = lags["12"]
    closer = [int(lag) for lag, r in lags.items() if r["spread"] < near["spread"]]
    yield (
        f"{part['cells']} cells, two years of monthly composites: no history. The spread of Delta over the ground (1.48 MAD, median of pairs) between the same month of two years is "
        f"{near['spread']:.3f} ({near['pairs']} pairs); of the other {len(lags) - 1} distances in time, {len(closer)} have less ({listed([f'{lag} months' for lag in closer])}). "
        "Crops change between years: same season is not no change."
    )
    yield ""
    yield from table(
        ("months apart", "pairs", "spread of Delta"),
        ((lag, r["pairs"], f"{r['spread']:.3f}") for lag, r in lags.items()),
    )
