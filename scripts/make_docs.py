"""Write the pages that follow from the code: docs/cli.md from the live commands, docs/models.md from the cards.

    python scripts/make_docs.py            writes them
    python scripts/make_docs.py --check    writes nothing; exit status 1 names the pages that are stale
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from geoelle.cli import cli
from geoelle.models import MODELS, Card, Remote, model_card

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 100
AXES = {"t": "frames", "g": "band groups", "h": "rows", "w": "columns"}
NOTICE = "<!-- Written by scripts/make_docs.py; edit the code instead. -->"


def cli_page() -> str:
    """Return the help of every command, in the order they are defined."""
    group = click.Context(cli, info_name="geoelle", **cli.context_settings | {"terminal_width": WIDTH})
    sections = [f"## geoelle\n\n{_block(cli.get_help(group))}"]
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=name, parent=group)
        sections.append(f"## geoelle {name}\n\n{_block(command.get_help(context))}")
        for below, inner in getattr(command, "commands", {}).items():
            nested = click.Context(inner, info_name=below, parent=context)
            sections.append(f"## geoelle {name} {below}\n\n{_block(inner.get_help(nested))}")
    contents = " · ".join(f"[{name}](#geoelle-{name})" for name in cli.commands)
    head = (
        "stdout is the result: a path, a table, or JSON with `--json`. stderr is progress and talk.\n"
        "Exit status: 0 done, 1 a failure with one line of explanation, 2 wrong usage, 130 interrupted; the same\n"
        "command then goes on where it stopped."
    )
    return _page("Command line", head, f"Commands: {contents}", *sections)


def models_page(cards: Sequence[Card]) -> str:
    """Return a table of the models and a section about each."""
    head = (
        "A model has a true [loss](glossary.md#loss) where geoelle computes the objective it was pretrained on; every\n"
        "other target is a [proxy](glossary.md#proxy) and named so. Numbers of two models never compare: they are of\n"
        "two [spaces](glossary.md#space). `geoelle models` prints the same table."
    )
    table = ["| model | target | chip | ground sampling | bands | dim | weights | licence of the weights |"]
    table += ["|---|---|---|---|---|---|---|---|"]
    table += [
        f"| [{card.name}](#{_anchor(card)}) | {_target(card)} | {card.chip_px} px | {_gsd(card)} | {len(card.bands)} | "
        f"{card.dim} | {_weights(card)} | {card.weights_licence} |"
        for card in cards
    ]
    return _page("Models", head, "\n".join(table), *("\n".join(_section(card)) for card in cards))


def _section(card: Card) -> Iterator[str]:
    needs = ", ".join(card.needs) or "nothing"
    frames = "1 frame" if card.frames == (1, 1) else f"{card.frames[0]} to {card.frames[1]} frames"
    least = f"; any subset of at least {card.min_bands}" if card.min_bands > 1 else "; any subset"
    subset = "; all of them" if not card.band_subset else "; any set of whole groups" if card.groups else least
    side_m = card.chip_px * card.gsd_m[0]
    yield f"## {card.name}\n\n{card.title}.\n\n| what | |\n|---|---|"
    yield f"| takes | chips of {card.chip_px} x {card.chip_px} px ({side_m:g} m), {frames}, {_gsd(card)} a pixel |"
    yield f"| bands | {', '.join(card.bands)}{subset} |"
    if card.groups:
        yield f"| band groups, a token each | {'; '.join(', '.join(group) for group in card.groups)} |"
    yield f"| needs besides pixels | {needs} |"
    yield f"| gives | {card.grid} x {card.grid} tokens of {card.dim} numbers, one a patch of {card.patch_px} px |"
    yield f"| target | {_target(card)}{': ' if card.objective else ''}{card.objective} |"
    if card.target == "loss":
        seen = "" if card.visible_ratio is None else f", {card.visible_ratio:.0%} visible"
        yield f"| hidden | {card.mask_ratio:.0%} of the tokens{seen}, over {', '.join(AXES[a] for a in card.mask_axes)} |"
    if card.unit:
        yield f"| unit | {card.unit} |"
    yield f"| stride | {card.stride_px} px: cells of {card.stride_px * card.gsd_m[0]:g} m |"
    yield f"| reading | {card.reading} |"
    yield f"| deviations | {'<br>'.join(card.deviations) or 'none'} |"
    yield f"| licence | code {card.code_licence}, weights {card.weights_licence} |"
    if card.terms:
        yield f"| terms | {card.terms} |"
    yield f"| weights | {_weights(card)}{''.join(map(_file, card.files))} |"
    yield f"| source | {card.source} |"
    yield f"| citation | {card.citation} |"


def _target(card: Card) -> str:
    return {"loss": "true loss", "none": "none: embeddings only"}.get(card.target, f"proxy, {card.target}")


def _anchor(card: Card) -> str:
    """Return the fragment a heading gets on the usual Markdown hosts: dots are dropped."""
    return card.name.replace(".", "")


def _file(remote: Remote) -> str:
    commit = "no commit pinned" if remote.revision == "main" else f"at {remote.revision[:12]}"
    known = f", sha256 {remote.sha256[:12]}" if remote.sha256 else ""
    return f"<br>`{remote.repo}/{remote.file}` {commit}{known}{', optional' if remote.optional else ''}"


def _gsd(card: Card) -> str:
    low, high = card.gsd_m
    return f"{low:g} m" if low == high else f"{low:g} to {high:g} m"


def _weights(card: Card) -> str:
    if card.embedded:
        return "in the wheel"
    return f"{card.download_bytes / 1e6:,.0f} MB to download" if card.download_bytes else "to download, size unknown"


def _block(text: str) -> str:
    return "```text\n" + "\n".join(line.rstrip() for line in text.splitlines()) + "\n```"


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", NOTICE, *parts]) + "\n"


def pages() -> dict[Path, str]:
    """Return the text of every generated page; models of other packages are theirs to document."""
    cards = [model_card(name) for name in MODELS]
    return {DOCS / "cli.md": cli_page(), DOCS / "models.md": models_page(cards)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` name those that differ; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a page is stale")
    check = parser.parse_args(arguments).check
    made = pages()
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        name = path.relative_to(DOCS.parent).as_posix()
        if check:
            print(f"{name} is stale; run: python scripts/make_docs.py", file=sys.stderr)
        else:
            path.write_text(made[path], "utf-8")
            print(name)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
