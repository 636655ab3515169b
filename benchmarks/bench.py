"""Measure geoelle beside its peers and beside the limits of this machine; write docs/benchmarks.md.

    python benchmarks/bench.py [--quick] [--repeats N] [-o PAGE]
"""

from __future__ import annotations

import logging
import os
import platform
import re
import warnings
from importlib.metadata import version
from pathlib import Path

import click
import encoding
import fitting
import memory
import rasterio
import reading
import scoring
import writing
from timing import Section

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PARTS = (reading, encoding, fitting, scoring, memory, writing)
LIBRARIES = ("geoelle", "numpy", "torch", "rasterio", "odc-stac", "scikit-learn", "xarray")


@click.command()
@click.option("--quick", is_flag=True, help="Small inputs, two repeats, no page: shows that it runs, measures nothing.")
@click.option("--repeats", type=click.IntRange(1), help="Default: 7, of whole maps 3.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: docs/benchmarks.md, with --quick none.")
def main(quick: bool, repeats: int | None, out: Path | None) -> None:
    """Measure reading, embedding, fitting, scoring, memory and writing; print the tables and write the page."""
    warnings.simplefilter("ignore")
    logging.getLogger("rasterio").setLevel(logging.ERROR)
    before = os.getloadavg()[0]
    sections = []
    for part in PARTS:
        count = repeats or (2 if quick else 3 if part is memory else 7)
        click.echo(f"{part.__name__}, {count} repeats", err=True)
        sections.append(part.measure(count, quick=quick))
        click.echo(sections[-1].to_markdown())
    out = out or (None if quick else PAGE)
    if out:
        out.write_text(page(sections, before), "utf-8")
        click.echo(out.name, err=True)


def page(sections: list[Section], load: float) -> str:
    """Return the page: what was measured where, then a table a section."""
    head = (
        "# Benchmarks\n\nWritten by `make bench` (`benchmarks/bench.py`); numbers are of one machine and one day. "
        "Each figure has its least, median and greatest over repeats, in turns with its peers, after one that is "
        "not counted (whole maps: none). Ratios are of medians. All files are local: how fast a server answers is "
        "not measured here.\n"
    )
    return "\n".join([head, _machine(load), *(section.to_markdown() for section in sections)])


def _machine(load: float) -> str:
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in LIBRARIES)
    facts = {
        "processor": f"{_processor()}, {_cores()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "libraries": f"{versions}, GDAL {rasterio.__gdal_version__}",
        "load before the start": f"{load:.1f} (processes that wanted a core)",
    }
    lines = ["| machine | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in facts.items())]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
