"""Keep the numbers of the series in docs/delta-series.json, and write docs/evaluation-delta-series.md from them.

    python scripts/delta_page.py

Every script of the series calls this when it has measured; called by itself it writes page and picture anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from delta_power_page import draw, power
from delta_words import listed, row, share, span, table
from geoelle.files import write_bytes

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS, PAGE = DOCS / "delta-series.json", DOCS / "evaluation-delta-series.md"
RATE = 0.1
HEAD = """\
# Delta where nothing changed, and where a change was put in

What `scripts/evaluate_false_alarms.py`, `evaluate_power.py`, `evaluate_radar.py` and `simulate_delta.py` measured, by the
[protocol](protocol-delta-series.md) that was committed before. They write this page; every number is in [delta-series.json](delta-series.json).
Brackets are 95% intervals. Real damage is on [a page of its own](evaluation-delta.md). Contains modified Copernicus Sentinel data.
"""
Found = Mapping[str, Any]


def keep(part: str, found: object) -> None:
    """Put the numbers of one script beside those of the others, and write the page."""
    every = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
    every |= {"protocol": "docs/protocol-delta-series.md", part: rounded(found)}
    write_bytes(NUMBERS, (json.dumps(every, indent=1) + "\n").encode(), overwrite=True)
    write()


def rounded(found: Any) -> Any:
    """Return plain data with numbers of four decimals."""
    if isinstance(found, Mapping):
        return {str(name): rounded(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [rounded(value) for value in found]
    return round(float(found), 4) if isinstance(found, float) else found


def write() -> None:
    """Write the page, and the picture of power, from the numbers."""
    every = json.loads(NUMBERS.read_text())
    write_bytes(PAGE, page(every).encode(), overwrite=True)
    if "power" in every:
        draw(every["power"][0])


def page(every: Found) -> str:
    """Return the page of the numbers that there are."""
    parts = {"false_alarms": false_alarms, "power": power, "radar": radar, "simulated": simulated}
    return "\n".join(
        [HEAD, *(line for name, tell in parts.items() if name in every for line in [*tell(every[name]), ""])]
    )


def false_alarms(found: Found) -> Iterator[str]:
    """Tell what is flagged where nothing is looked for."""
    yield "## Nothing is looked for, and what is flagged"
    yield ""
    yield (
        "Whole years are permuted; each date is judged once, by the date of the year before and the other years of its month (*one map a date*). "
        f"At a rate of {RATE:g}, a map without a change should have any flag in at most {RATE:.0%} of maps, and p be uniform. Exact intervals take maps "
        "as independent, which maps that share years are not: they are too narrow. Each series is one place."
    )
    told = {name: part for name, part in found.items() if "one_a_date" in part}
    for name, part in told.items():
        yield ""
        yield from _series(name, part)
    for part in told.values():
        if "seasons" in part:
            yield ""
            yield from _seasons(part)
    if "belgium" in found:
        yield ""
        yield from _belgium(found["belgium"])


def _series(name: str, part: Found) -> Iterator[str]:
    dates = sum(map(len, part["dates"].values()))
    yield f"### {part['place']}, {part['unit']}: {part['cells']:,} cells, {dates} dates, one place"
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


def uniform(summary: Found) -> str:
    """Say how p compares with what it should be."""
    low, high = (summary["below"]["0.05"][end] for end in ("low", "high"))
    return "too small" if low > 0.05 else "too large" if high < 0.05 else "uniform enough"


def _level(summary: Found, level: str) -> str:
    return f"{summary['below'][level]['value']:.3f}"


def _seasons(part: Found) -> Iterator[str]:
    rows = part["seasons"]
    wrong, matched = ([r[key] for r in rows] for key in ("wrong", "matched"))
    yield f"### Why the history is of the season of the date after ({part['place']}, {part['unit']})"
    yield ""
    yield (
        f"Months of 2020 judged by each other. By the years of the month *before*, which `geoelle delta` refuses, {min(wrong):.1%} to {max(wrong):.1%} of the ground is flagged "
        f"(mean {sum(wrong) / len(wrong):.1%}); by the years of the month *after*, {min(matched):.1%} to {max(matched):.1%} (mean {sum(matched) / len(matched):.1%})."
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


def radar(found: Found) -> Iterator[str]:
    """Tell what Sentinel-1 alone gives."""
    scores = found["scores"]
    first, vh = scores["difficulty, easier"], scores["vh, low"]
    yield "## Sentinel-1 alone: read and scored, one date, no change measured"
    yield ""
    yield (
        f"**Difficulty is {'useful' if found['useful'] else 'not useful'} here.** Within a scene it ranks water, as easier, at AUROC {span(first['auroc'])}; vh, low, at {span(vh['auroc'])}; "
        f"the difference is {span(vh['gap'])}. `{found['model']}` read all {found['files']} Sentinel-1 files end to end; {found['ranked']} of {len(found['scenes'])} scenes of sen1floods11, of {found['events']} floods, "
        "have enough of both kinds. "
        + (
            f"The protocol had the direction wrong: water is harder to this model, AUROC as harder {span(_turned(first['auroc']))}. "
            if first["auroc"]["high"] < 0.5
            else ""
        )
        + "Labels are of water, permanent or not, on one date; no image before exists, so this says nothing of Delta."
    )
    yield ""
    yield from table(("score", "AUROC, mean over scenes", "difficulty minus it"),
                     ((n, span(s["auroc"]), "" if n == "difficulty, easier" else span(s["gap"])) for n, s in sorted(scores.items(), key=lambda pair: -pair[1]["auroc"]["value"])))  # fmt: skip
    yield ""
    yield "How the held-out probe follows ln of the true loss in each scene (r), and AUROC by scene:"
    yield ""
    yield from table(
        ("scene", "chips", "patches of water", "dry", "r", "difficulty, easier", "true loss, easier", "vh, low"),
        ((r["scene"], r["chips"], f"{r['water']:,}", f"{r['dry']:,}", f"{r['r']:.2f}",
          *(f"{r['auroc'][n]:.3f}" if r["auroc"] else "-" for n in ("difficulty, easier", "true loss, easier", "vh, low"))) for r in found["scenes"]),
    )  # fmt: skip


def _turned(found: Found) -> dict[str, float]:
    return {"value": 1 - found["value"], "low": 1 - found["high"], "high": 1 - found["low"]}


def simulated(found: Found) -> Iterator[str]:
    """Tell what holds where the truth is known."""
    rows = found["settings"]
    mine, mad = "geoelle (shrunk t, BH)", "median and MAD, normal p < 0.05"
    changed = [r for r in rows if r["method"] == mine and r["share"]]
    above = [r for r in changed if r["false"]["low"] > RATE]
    below = [r for r in changed if r["false"]["high"] <= RATE]
    third = {r["years"]: r["flagged"] for r in rows if r["method"] == mad and not r["share"] and not r["apart"]}
    bh = {
        r["years"]: r["flagged"]
        for r in rows
        if r["method"] == "median and MAD, normal p, BH" and not r["share"] and not r["apart"]
    }
    empty = [r for r in rows if r["method"] == mine and not r["share"]]
    many = [f"{r['years']} years, {_noise(r)}" for r in empty if r["any"]["low"] > RATE]
    yield "## Simulated fields: the truth is known"
    yield ""
    yield (
        f"**False discoveries at a rate of {RATE:g}: above it in {len(above)} of {len(changed)} settings, at or below it in {len(below)}, not told apart in {len(changed) - len(above) - len(below)}** "
        f"(a share of exactly {RATE:g} would be called above it in about {0.025 * len(changed):.0f}). "
        f"({rows[0]['fields']} fields each; means {min(r['false']['value'] for r in changed):.3f} to {max(r['false']['value'] for r in changed):.3f}). "
        + (f"Above: {listed([_setting(r) for r in above])}. " if above else "")
        + f"On unchanged fields, more than {RATE:.0%} of maps have a flag, by the exact interval, in {len(many)} of {len(empty)} settings{': ' + listed(many) if many else ''}."
    )
    yield ""
    yield (
        f"What is not to be done: a median and MAD of each cell with a normal p < 0.05 flags {share(third[3])} of an unchanged map (white noise) at 3 years, {share(third[6])} at 6; "
        f"with Benjamini and Hochberg {share(bh[3])} and {share(bh[6])}. The claim was a third at 3 years."
    )
    yield ""
    yield "False share of the flagged cells, all settings with changes together:"
    yield ""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    pools = {(r["method"], r["years"], r["apart"]): span(r["false"]) for r in found["pooled"]}
    grounds = dict.fromkeys((r["years"], r["apart"]) for r in found["pooled"])
    yield from table(
        ("history", "noise", *methods),
        ((y, _noise({"apart": a}), *(pools[m, y, a] for m in methods)) for y, a in grounds),
    )
    yield ""
    yield "No change, at the shortest and the longest history (the others are in the numbers):"
    yield ""
    ends = {min(r["years"] for r in rows), max(r["years"] for r in rows)}
    yield from table(
        ("history", "noise", "method", "maps with any flag", "cells flagged", "p < 0.05"),
        ((r["years"], _noise(r), r["method"], span(r["any"]), share(r["flagged"]), span(r["below"])) for r in rows if not r["share"] and r["years"] in ends),
    )  # fmt: skip
    yield ""
    yield "Changed cells found (and the false share of flagged cells), the same histories:"
    yield ""
    yield row(("history", "noise", "changed", "effect (spreads)", *methods[:3]))
    yield row(("---",) * 7)
    for r in (r for r in changed if r["years"] in ends):
        same = [
            o
            for o in rows
            if all(o[k] == r[k] for k in ("years", "apart", "share", "effect")) and o["method"] in methods[:3]
        ]
        yield row(
            (
                r["years"],
                _noise(r),
                f"{r['share']:.0%}",
                f"{r['effect']:g}",
                *(f"{o['power']['value']:.3f} ({span(o['false'])})" for o in same),
            )
        )


def _noise(r: Found) -> str:
    return f"{r['apart']:g} cells" if r["apart"] else "white"


def _setting(r: Found) -> str:
    return f"{r['years']} years, {_noise(r)}, {r['share']:.0%} changed by {r['effect']:g} ({span(r['false'])})"


if __name__ == "__main__":
    write()
