"""Write the page that leads through the demo: every product of `make demo`, then what was measured elsewhere.

    python scripts/demo_page.py out

Reads the folders that the commands of the demo wrote, injects faults into the demo scene to see which score flags them,
and shows the published numbers of docs/, each with the script that printed it. Any other folder of the demo that holds a
report.html is shown too. A product or a file that is missing is an error, never a hole in the page.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import jinja2
import torch

import evaluate_flags as flags
from geoelle.errors import GeoelleError
from geoelle.files import write_bytes
from geoelle.models import load_model
from geoelle.models.nano import BANDS
from geoelle.quicklook import CREDIT
from geoelle.report import Picture

DOCS = Path(__file__).parents[1] / "docs"
MOST_CHIPS = 120
"""Chips that faults are injected into, and clean ones: few, so that the demo stays short."""
PREDICTORS = (
    "ELLE", "ELLE on random folds", "untrained twins", "pixel ridge", "pixel boosted trees", "pixel SVR",
)  # fmt: skip
RANKED = ("confidence of the task probe", "difficulty", "dissimilarity", "complexity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What one command of the demo leaves behind: names of files are relative to `folder`, itself to the demo's."""

    title: str
    sentence: str
    folder: str
    picture: str
    page: str = "report.html"


PRODUCTS = (
    Product(
        title="geoelle map: where nano finds the coast hard", folder="", picture="difficulty.png",
        sentence="The loss that the probe reads from each chip's embedding, beside what the pixels alone predict; red in "
        "the last panel is harder than the texture warrants.",
    ),
    Product(
        title="geoelle fit: a probe of your own", folder="fit", picture="scores.png",
        sentence="A probe fitted on half of the scene and judged on ground held out, in folds as far from their training "
        "part as the map is from the sample (kNNDM), beside every null: a score is news only above its nulls.",
    ),
    Product(
        title="geoelle fit --pairs: any other model", folder="pairs", picture="calibration.png",
        sentence="The same from plain arrays of embeddings, losses and coordinates, as they would come from a model that "
        "geoelle does not know: no twins and no pixels, so those nulls are absent. Three simple features are all there is to "
        "beat, a weaker opponent than the pixel nulls above.",
    ),
    Product(
        title="geoelle map --dense: patch by patch", folder="dense", picture="difficulty.png",
        sentence="A probe of patches, each the mean over the chips that see it, one pixel a patch.",
    ),
    Product(
        title="geoelle rank: the extreme chips", folder="rank", picture="hardest.png", page="gallery.html",
        sentence="The chips that the probe calls hardest, with their pictures; the gallery also has the easiest, the most "
        "excessive, the most surprising, and a route past the worst.",
    ),
    Product(
        title="geoelle delta: what changed", folder="delta", picture="delta.png",
        sentence="Difficulty of one summer minus that of another, tested against earlier years, beside three changes that "
        "need no model.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One thing to see: a picture or a title, sentences, a table, links as (label, address)."""

    title: str
    lines: tuple[str, ...] = ()
    picture: Picture | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A part of the page."""

    title: str
    lead: str
    blocks: tuple[Block, ...]


def products_of(out: Path) -> tuple[Block, ...]:
    """Return a block for each product of the demo, in the order of its commands, then for folders it grew since.

    Raises `GeoelleError` for a product that is not there.
    """
    known = [_block(out, product) for product in PRODUCTS]
    pages = sorted(page for page in out.glob("*/report.html") if page.parent.name not in {p.folder for p in PRODUCTS})
    return (*known, *(_block(out, _grown(page)) for page in pages))


def _grown(page: Path) -> Product:
    """Describe a folder by its own page."""
    found = re.search(r"<title>(.*?)</title>", page.read_text("utf-8"), re.DOTALL)
    pictures = sorted(path.name for path in page.parent.glob("*.png"))
    if not found or not pictures:
        raise GeoelleError(f"{page.parent} cannot be shown (no title or no picture); make it again or remove it")
    first = f"{page.parent.name}.png"
    return Product(
        title=html.unescape(found[1].strip()), sentence="", folder=page.parent.name,
        picture=first if first in pictures else pictures[0],
    )  # fmt: skip


def _block(out: Path, product: Product) -> Block:
    folder = out / product.folder
    page = _there(folder / product.page, "make demo")
    numbers = folder / "diagnostics.json"
    told = []
    if numbers.is_file():
        scores = _read(numbers, "make demo")["scores"]
        told = [f"Held out: {scores['holdout']}.", _sentence(scores["tables"][0]["sentence"])]
    picture = Picture(
        title=product.title, caption=product.sentence, png=_there(folder / product.picture, "make demo").read_bytes()
    )
    links = (("Open its report", page.relative_to(out).as_posix()),)
    return Block(title=product.title, lines=tuple(told), picture=picture, links=links)


def flags_of(rows: Sequence[flags.Row], bench: flags.Bench) -> Block:
    """Return the table of faults that were injected just now, and which score shows them."""
    return Block(
        title="Which score flags bad data? Faults injected into the demo scene",
        lines=(
            f"Faults in {len(bench.lent):,} chips of the demo scene, against {len(bench.clean):,} clean chips of other "
            f"blocks; {len(bench.archive_nd):,} chips of a third set of blocks are the archive. AUROC: 0.5 is no use, "
            "below 0.5 the fault lowers the score; 95% intervals from redrawing blocks, wide from so few chips. The row "
            "without a fault says what the two sets of blocks differ by anyhow. The published table has every chip and "
            "three strengths of each fault.",
        ),
        columns=("fault", "strength", *flags.SCORES),
        rows=tuple((r.fault, r.strength, *(_interval(r.auroc[s], 2) for s in flags.SCORES)) for r in rows),
        links=(("computed now by scripts/evaluate_flags.py", ""),),
    )


def live_flags() -> tuple[list[flags.Row], flags.Bench]:
    """Inject the middle strength of every fault into a few chips of the demo scene."""
    model = load_model("nano")
    bench = flags.make_bench(model, most=MOST_CHIPS)
    middle = {name: (told, strengths[1:2]) for name, (told, strengths) in flags.FAULTS.items()}
    return flags.measure(bench, model, flags.shipped_probe(model, BANDS), middle), bench


def published(docs: Path, out: Path) -> tuple[Block, ...]:
    """Return what was measured on imagery that the demo does not have, each with its script and its file.

    Raises `GeoelleError` for a file that is missing or does not hold what its script writes.
    """
    evaluation = _read(docs / "evaluation.json", "scripts/evaluate.py")
    downstream = _read(docs / "downstream.json", "scripts/downstream.py")
    columns, *faults = _markdown_table(_there(docs / "evaluation.md", "scripts/evaluate.py"), "## Data-quality flags")
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
    log = _there(docs / "nano-checkpoints.jsonl", "scripts/train_nano.py")
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
    evaluation, downstream = (_read(docs / f"{name}.json", f"scripts/{name}.py") for name in ("evaluation", "downstream"))
    faults, tasks = rows[1:], downstream["results"]
    best = sum(max(flags.SCORES, key=row.apart) == "difficulty" for row in faults)
    lost = [f"{each['title']}, places never seen: {_first(each)['sentence']}" for each in evaluation.values()]
    return (
        *(line for line in lost if "loses to" in line or "ties with" in line),
        f"As a finder of a task's errors, difficulty is useful for {sum(task['useful'] for task in tasks)} of "
        f"{len(tasks)} pairs of task and model.",
        f"As a flag of bad data on the demo scene, difficulty is the best score for {best} of {len(faults)} faults.",
    )  # fmt: skip


def render(out: Path, docs: Path, rows: Sequence[flags.Row], bench: flags.Bench) -> str:
    """Return the page."""
    parts = (
        Part(title="What the demo made", lead="Computed here, from imagery that ships with geoelle.",
             blocks=products_of(out)),
        Part(title="Data-quality flags", lead="Computed here, when this page was written.", blocks=(flags_of(rows, bench),)),
        Part(title="Published evidence, not computed here",
             lead="Measured on imagery and weights that the demo does not have; each table and picture names the script "
             "that made it and the file it stands in.", blocks=published(docs, out)),
    )  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.FileSystemLoader(Path(__file__).parent), jinja2.PackageLoader("geoelle")]),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("demo_page.html").render(
        title="geoelle on the embedded scenes",
        summary="A foundation model learns by filling in hidden ground; its loss says how badly it does. A ridge probe "
        "reads that loss off the model's embedding, without hiding anything: the number it reads is the difficulty. Each "
        "picture below is one command of `make demo`; each number stands beside the simpler predictors it has to beat.",
        negative=negative_of(docs, rows), parts=parts, credit=CREDIT,
    )  # fmt: skip


def _score_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    table = _first(each)
    r = {row["name"]: row["metrics"]["r"] for row in table["rows"]}
    return (each["title"], f"{table['n_chips']:,}, {table['n_places']}", *(_interval(r[name]) for name in PREDICTORS))


def _first(each: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the table of log-loss and all chips."""
    return next(table for table in each["scores"]["tables"] if table["scale"] == "log" and table["subset"].startswith("all"))


def _task_rows(downstream: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            f"{task['task']}, {task['model']}, {task['sensor']}", str(task["places"]),
            f"{task['error_rate']:.1%}" + ("" if task["works"] else " (the task probe does not work)"),
            *(_interval(task["rankings"][name]["auroc"]) for name in RANKED), "yes" if task["useful"] else "no",
        )
        for task in downstream["results"]
    )  # fmt: skip


def _interval(value: Any, digits: int = 3) -> str:
    point, low, high = (
        (value["value"], value["low"], value["high"]) if isinstance(value, dict) else (value.value, value.low, value.high)
    )
    return "-" if point is None else f"{point:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _picture(path: Path, made_by: str, title: str, caption: str) -> Picture:
    return Picture(title=title, caption=caption, png=_there(path, made_by).read_bytes())


def _links(out: Path, docs: Path, script: str, *names: str) -> tuple[tuple[str, str], ...]:
    there = ((f"docs/{name}", Path(os.path.relpath(docs / name, out)).as_posix()) for name in names)
    return ((f"Printed by {script}", ""), *there)


def _read(path: Path, made_by: str) -> Any:
    try:
        return json.loads(_there(path, made_by).read_text("utf-8"))
    except json.JSONDecodeError as cause:
        raise GeoelleError(f"the page of the demo cannot be made for {path} ({cause}); run {made_by}") from cause


def _there(path: Path, made_by: str) -> Path:
    if not path.is_file():
        raise GeoelleError(f"the page of the demo cannot be made for {path} (no such file); run {made_by}")
    return path


@click.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--threads", default=2, show_default=True)
def main(out: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        products_of(out)  # a product that is missing is said before anything is computed
        page = render(out, DOCS, *live_flags())
        click.echo(write_bytes(out / "index.html", page.encode(), overwrite=True))
    except GeoelleError as cause:
        raise click.ClickException(str(cause)) from cause


if __name__ == "__main__":
    main()
