"""Show what was measured outside the demo: tables and pictures of docs/, each with the script that printed it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluate_flags as flags
import improve_page
from geoelle.errors import GeoelleError
from geoelle.report import Picture

PREDICTORS = (
    "ELLE", "ELLE on random folds", "untrained twins", "pixel ridge", "pixel boosted trees", "pixel SVR",
)  # fmt: skip
RANKED = ("confidence of the task probe", "difficulty", "dissimilarity", "complexity")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One thing to see: a picture or a title, sentences, a table, links as (label, address)."""

    title: str
    lines: tuple[str, ...] = ()
    picture: Picture | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    links: tuple[tuple[str, str], ...] = ()


def published(docs: Path, out: Path) -> tuple[Block, ...]:
    """Return what was measured on imagery that the demo does not have, each with its script and its file.

    Raises `GeoelleError` for a file that is missing or does not hold what its script writes.
    """
    evaluation = read_json(docs / "evaluation.json", "scripts/evaluate.py")
    downstream = read_json(docs / "downstream.json", "scripts/downstream.py")
    columns, *faults = _markdown_table(there(docs / "evaluation.md", "scripts/evaluate.py"), "## Data-quality flags")
    try:
        scores, tasks = tuple(_score_row(each) for each in evaluation.values()), _task_rows(downstream)
    except (KeyError, TypeError, AttributeError, StopIteration) as cause:
        raise GeoelleError(f"the published numbers in {docs} cannot be shown ({cause!r}); write them again") from cause
    return (
        Block(
            title="Does the embedding know the loss, on places never seen?",
            lines=("r of log-loss on whole places held out, all chips, with 95% intervals from redrawing places.",),
            columns=("model", "chips, places", *PREDICTORS),
            rows=scores,
            links=_links(out, docs, "scripts/evaluate.py", "evaluation.json", "evaluation.md"),
        ),
        Block(
            title="Does it find the errors of a task?",
            lines=("AUROC of the errors of a linear probe for the task, places held out; above 0.5 ranks errors first.",),
            picture=_picture(
                docs / "img" / "downstream.png", "scripts/downstream.py", "Does it find the errors of a task?",
                "Errors caught against the share of patches reviewed, by score.",
            ),
            columns=("task, model, sensor", "places", "errors", *RANKED, "useful"),
            rows=tasks,
            links=_links(out, docs, "scripts/downstream.py", "downstream.json", "evaluation.md"),
        ),
        Block(
            title="Which score flags bad data? Every chip, three strengths",
            lines=("AUROC of faulty chips of the demo scene against clean ones; a star: the fault changes it beyond doubt.",),
            columns=columns,
            rows=tuple(faults),
            links=_links(out, docs, "scripts/evaluate_flags.py", "evaluation.md"),
        ),
        Block(
            title="Does Delta find what changed?",
            lines=("Changes of known size put into the last year of the Romanian forest, and the share of their cells that "
                   "each measure flags. Delta has little power and keeps its rate; a band flags far more, rightly and wrongly.",),
            picture=_picture(
                docs / "img" / "delta-power.png", "scripts/evaluate_power.py", "Does Delta find what changed?",
                "Share of the injected cells that are flagged at q <= 0.1, by kind, size and amplitude.",
            ),
            links=_links(out, docs, "scripts/evaluate_power.py and scripts/evaluate_delta.py", "evaluation-delta-series.md",
                         "evaluation-delta.md"),
        ),
        Block(
            title="Could it be better?",
            lines=tuple(line.replace("`", "") for line in improve_page.short(read_json(docs / "improve.json", "scripts/improve.py"))),
            links=_links(out, docs, "scripts/improve.py", "improve.json", "protocol.md"),
        ),
        _checkpoints(docs, out),
    )  # fmt: skip


def _markdown_table(path: Path, heading: str) -> list[tuple[str, ...]]:
    """Return the first table under a heading: its head, then its rows."""
    section = path.read_text("utf-8").partition(f"\n{heading}\n")[2].split("\n## ")[0]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    if not lines:
        raise GeoelleError(f"{path} has no table under {heading!r}; write it again with scripts/evaluate.py")
    head, _, *rows = lines[0].replace("**", "").splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in (head, *rows)]


def _checkpoints(docs: Path, out: Path) -> Block:
    log = there(docs / "nano-checkpoints.jsonl", "scripts/train_nano.py")
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    last, title = rows[-1]["probe"], "What difficulty looks like while nano is trained"
    caption = (
        f"Difficulty that a probe of each checkpoint reads on {last['places']} places held out ({last['chips']} chips), "
        f"over the true loss, and r of both beside its nulls. A short training of {rows[-1]['step']:,} steps of the pixel "
        "objective, made to draw this: not that of the weights that ship."
    )
    return Block(
        title=title,
        picture=_picture(docs / "img" / "checkpoints.png", "scripts/plot_training.py --probe", title, caption),
        links=_links(out, docs, "scripts/train_nano.py and scripts/plot_training.py", "nano-checkpoints.jsonl"),
    )


def negative_of(docs: Path, rows: Sequence[flags.Row]) -> tuple[str, ...]:
    """Return what does not hold, out of the published numbers and the faults injected now."""
    evaluation, downstream = (read_json(docs / f"{name}.json", f"scripts/{name}.py") for name in ("evaluation", "downstream"))
    faults, tasks = rows[1:], downstream["results"]
    best = sum(max(flags.SCORES, key=row.apart) == "difficulty" for row in faults)
    lost = [f"{each['title']}, places never seen: {_first(each)['sentence']}" for each in evaluation.values()]
    return (
        *(line for line in lost if "loses to" in line or "ties with" in line),
        f"As a finder of a task's errors, difficulty is useful for {sum(task['useful'] for task in tasks)} of "
        f"{len(tasks)} pairs of task and model.",
        f"As a flag of bad data on the demo scene, difficulty is the best score for {best} of {len(faults)} faults.",
    )  # fmt: skip


def _score_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    table = _first(each)
    r = {row["name"]: row["metrics"]["r"] for row in table["rows"]}
    return (each["title"], f"{table['n_chips']:,}, {table['n_places']}", *(interval(r[name]) for name in PREDICTORS))


def _first(each: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the table of log-loss and all chips."""
    return next(table for table in each["scores"]["tables"] if table["scale"] == "log" and table["subset"].startswith("all"))


def _task_rows(downstream: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            f"{task['task']}, {task['model']}, {task['sensor']}", str(task["places"]),
            f"{task['error_rate']:.1%}" + ("" if task["works"] else " (the task probe does not work)"),
            *(interval(task["rankings"][name]["auroc"]) for name in RANKED), "yes" if task["useful"] else "no",
        )
        for task in downstream["results"]
    )  # fmt: skip


def interval(value: Any, digits: int = 3) -> str:
    point, low, high = (
        (value["value"], value["low"], value["high"]) if isinstance(value, dict) else (value.value, value.low, value.high)
    )
    return "-" if point is None else f"{point:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def sentence_of(text: str) -> str:
    return text[:1].upper() + text[1:]


def _picture(path: Path, made_by: str, title: str, caption: str) -> Picture:
    return Picture(title=title, caption=caption, png=there(path, made_by).read_bytes())


def _links(out: Path, docs: Path, script: str, *names: str) -> tuple[tuple[str, str], ...]:
    files = ((f"docs/{name}", Path(os.path.relpath(docs / name, out)).as_posix()) for name in names)
    return ((f"Printed by {script}", ""), *files)


def read_json(path: Path, made_by: str) -> Any:
    try:
        return json.loads(there(path, made_by).read_text("utf-8"))
    except json.JSONDecodeError as cause:
        raise GeoelleError(f"the page of the demo cannot be made for {path} ({cause}); run {made_by}") from cause


def there(path: Path, made_by: str) -> Path:
    if not path.is_file():
        raise GeoelleError(f"the page of the demo cannot be made for {path} (no such file); run {made_by}")
    return path
