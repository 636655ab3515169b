"""Turn docs/improve.json into the sections of docs/evaluation.md: what was tried, what survived, and the old proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from improve_rule import LEVEL, OBJECTIVES

FOUND = Path(__file__).parents[1] / "docs" / "improve.json"
PLAIN = {"pixel svr": "pixel SVR", "pixel trees": "pixel boosted trees"}

Json = Mapping[str, object]


def section(found: Json | None = None) -> str:
    """Return what the candidates of docs/protocol.md scored, and what follows."""
    found = json.loads(FOUND.read_text()) if found is None else found
    lines = [
        "## What could make it better", "",
        "Candidates, data, rule and confirmation were fixed in [the protocol](protocol.md) before the first run; `scripts/improve.py` runs it. "
        "All scores are r of log-loss on whole places held out. `lift` is the difference to ELLE, p is one-sided after Holm; twins and pixels got the same "
        "treatment as the candidate. Joint and bound rows are not eligible as the default.", "",
    ]  # fmt: skip
    for name, result in found["models"].items():
        lines += [*_model(name, result), ""]
    if found["objectives"]:
        lines += [*_objectives(found["objectives"]), ""]
    return "\n".join(lines)


def proxy_section(found: Json | None = None) -> str:
    """Return the table of patch-token variance, the target that is often fitted in place of a loss."""
    found = json.loads(FOUND.read_text()) if found is None else found
    lines = [
        "## Why not the variance of patch tokens", "",
        "Where a model has no decoder at hand, the variance over the dimensions of its patch tokens, averaged over patches, has been fitted in place of the "
        "loss. It is a proxy, computed from the very tokens that the embedding is the mean of. Development places of [the protocol](protocol.md); r of a ridge.", "",
        "| model | variance of | read by | r, random folds | r, places held out | r of the variance with the true loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    rows = [(name, row) for name, result in found["models"].items() for row in result["proxy"]]
    for name, row in rows:
        cells = [_number(row[key]) for key in ("random", "held_out", "with_loss")]
        lines.append(f"| {name} | {row['variance_of']} | {row['read_by']} | {' | '.join(cells)} |")
    if constant := sorted({name for name, row in rows if row["random"] is None}):
        names = " or ".join(constant)
        lines += ["", f"No figure: the last LayerNorm of an untrained {names} gives every token the same variance."]
    return "\n".join([*lines, ""])


def line(verdict: Json) -> str:
    """Return one verdict as a line of the terminal."""
    return (
        f"{verdict['key']:<22} r {interval(verdict['metrics']['r'])}  lift {verdict['lift']['value']:+.3f} p {verdict['p']:.4f}  "
        f"twins {verdict['twins_r']:.3f}  {PLAIN[verdict['pixels']]} {verdict['pixels_r']:.3f}"
    )


def interval(of: Mapping[str, float | None]) -> str:
    """Return a value with its interval, "-" where it is undefined."""
    return "-" if of["value"] is None else f"{of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}]"


def _model(name: str, result: Json) -> list[str]:
    rows = [result["baseline"] | {"holm": None}, *result["candidates"]]
    return [
        f"### {name}", "", _told(name, result), "",
        f"{result['chips']:,} chips of {result['places']} places, {result['folds']} folds.", "",
        *_table(rows), "",
        "<details><summary>Secondary measures</summary>", "",
        "| candidate | R² | Spearman | r within places | partial r given the best pixel null | R² that the inputs add to the pixel ridge |",
        "| --- | --- | --- | --- | --- | --- |",
        *(f"| {row['key']} | {' | '.join(interval(row['metrics'][m]) for m in ('r2', 'spearman', 'within'))} | {interval(row['partial'])} "
          f"| {interval(row['adds_r2']) if row['adds_r2'] else ''} |" for row in rows), "",
        "</details>",
        *(_confirmation(result["confirmation"]) if "confirmation" in result else []),
    ]  # fmt: skip


def _told(name: str, result: Json) -> str:
    """Say in words what came of the candidates."""
    alive, best = result["survivors"], max(result["candidates"], key=lambda row: row["metrics"]["r"]["value"])
    lifted = [row["key"] for row in result["candidates"] if row["holm"] <= LEVEL and row["lift"]["value"] > 0]
    told = [
        f"Of {len(result['candidates'])} candidates {_listed(alive)} survived." if alive
        else f"None of {len(result['candidates'])} candidates survived.",
        f"The highest r is that of `{best['key']}`: {interval(best['metrics']['r'])}, ELLE {interval(result['baseline']['metrics']['r'])}.",
        f"Lifted beyond chance: {_listed(lifted)}." if lifted else "None lifts r beyond chance once the number of candidates is counted.",
    ]  # fmt: skip
    if "confirmation" in result:
        told += [
            f"On the confirmation places `{row['key']}` is {row['outcome']}."
            for row in result["confirmation"]["entries"]
        ]
    return " ".join(told)


def _table(rows: Sequence[Json]) -> list[str]:
    heads = ("candidate", "family", "r", "lift", "p (Holm)", "twins, treated alike", "minus twins",
             "best pixel null, treated alike", "minus it", "survives")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for row in rows:
        base = row["holm"] is None
        cells = (
            row["key"], row["family"], interval(row["metrics"]["r"]), "" if base else interval(row["lift"]), "" if base else f"{row['holm']:.3f}",
            f"{row['twins_r']:.3f}", interval(row["over_twins"]), f"{PLAIN[row['pixels']]} {row['pixels_r']:.3f}", interval(row["over_pixels"]),
            row.get("outcome", "" if base else "yes" if row.get("survives") else "no"),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _confirmation(found: Json) -> list[str]:
    head = f"Confirmation: {found['chips']:,} chips of {found['places']} places, read once, by fits on all development places."
    table = _table([found["baseline"] | {"holm": None}, *found["entries"]])
    return ["", head, "", table[0].replace("survives", "outcome"), *table[1:]]


def _objectives(rows: Sequence[Json]) -> list[str]:
    lines = [
        "### Other objectives", "",
        f"Networks of nano's shape after 2,000 steps, each read on its own loss, {rows[0]['chips']:,} chips of {rows[0]['places']} places; `pixel` is there to compare with.", "",
        "| objective | ELLE | untrained twins | minus twins | best pixel null | minus it | p (Holm) | outcome |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in rows:
        outcome = (
            "" if "survives" not in row else row.get("outcome", "survives" if row["survives"] else "does not survive")
        )
        lines.append(
            f"| {row['objective']} | {interval(row['metrics']['r'])} | {row['twins_r']:.3f} | {interval(row['over_twins'])} | "
            f"{PLAIN[row['pixels']]} {row['pixels_r']:.3f} | {interval(row['over_pixels'])} | {_number(row.get('holm'))} | {outcome} |"
        )
    absent = [name for name in OBJECTIVES if name not in {row["objective"] for row in rows}]
    return [
        *lines,
        *(["", f"Not trained for this page, and counted in Holm's correction: {_listed(absent)}."] if absent else []),
    ]


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
