"""Write the page that leads through the demo: every product of `make demo`, then what was measured elsewhere.

    python scripts/demo_page.py out

Reads the folders that the commands of the demo wrote, injects faults into the demo scene to see which score flags them,
and shows the published numbers of docs/, each with the script that printed it. Any other folder of the demo that holds a
report.html is shown too. A product or a file that is missing is an error, never a hole in the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import jinja2
import torch

import evaluate_flags as flags
from demo_evidence import Block, interval, negative_of, published, read_json, sentence_of, there
from geoelle.errors import GeoelleError
from geoelle.files import write_bytes
from geoelle.models import load_model
from geoelle.models.nano import BANDS
from geoelle.quicklook import CREDIT
from geoelle.report import Picture

DOCS = Path(__file__).parents[1] / "docs"
MOST_CHIPS = 120
"""Chips that faults are injected into, and clean ones: few, so that the demo stays short."""


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
        sentence="One square kilometre of forest in Romania in which small clearings are cut: difficulty of one August less "
        "that of the one before, patch by patch, tested by four earlier Augusts and followed into September. Delta flags "
        "nothing that it can stand by; the table of the report says what bands and indices flag.",
    ),
    Product(
        title="geoelle series: a place through time", folder="series", picture="series.png",
        sentence="Two patches of that forest on every clear date of six years. Grey: where nine of ten dates should lie by the "
        "season, with the share that did, measured on years left out. The dates above it in winter are snow.",
    ),
)  # fmt: skip


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
    page = there(folder / product.page, "make demo")
    numbers = folder / "diagnostics.json"
    told = []
    if numbers.is_file():
        scores = read_json(numbers, "make demo")["scores"]
        told = [f"Held out: {scores['holdout']}.", sentence_of(scores["tables"][0]["sentence"])]
    picture = Picture(
        title=product.title, caption=product.sentence, png=there(folder / product.picture, "make demo").read_bytes()
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
        rows=tuple((r.fault, r.strength, *(interval(r.auroc[s], 2) for s in flags.SCORES)) for r in rows),
        links=(("computed now by scripts/evaluate_flags.py", ""),),
    )


def live_flags() -> tuple[list[flags.Row], flags.Bench]:
    """Inject the middle strength of every fault into a few chips of the demo scene."""
    model = load_model("nano")
    bench = flags.make_bench(model, most=MOST_CHIPS)
    middle = {name: (told, strengths[1:2]) for name, (told, strengths) in flags.FAULTS.items()}
    return flags.measure(bench, model, flags.shipped_probe(model, BANDS), middle), bench


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
        "picture below is one command of the demo; each number stands beside the simpler predictors it has to beat.",
        negative=negative_of(docs, rows), parts=parts, credit=CREDIT,
    )  # fmt: skip


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
