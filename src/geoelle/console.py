"""Print for people on stderr and for programs on stdout: tables, progress, sizes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from geoelle.claims import Written
    from geoelle.run import Progress as Report

__all__ = ["finish", "human_bytes", "print_json", "print_table", "progress", "show", "talk"]


def talk(text: str) -> None:
    """Say something to a person: stderr."""
    click.echo(text, err=True)


def print_json(value: object) -> None:
    """Print the result for a program: stdout."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stdout; a pipe gets its full width."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(v) for v in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or as a table of two columns with lists and objects as text."""
    if as_json:
        print_json(facts)
        return
    print_table(["what", "value"], [[name, _plain(value)] for name, value in facts.items()])


def finish(written: Written, as_json: bool) -> None:
    """Print a finished output: as JSON, or its sentences on stderr and its files on stdout."""
    if as_json:
        print_json(written.to_dict())
        return
    for line in written.lines:
        talk(line)
    for path in written.files:
        click.echo(path)


def _plain(value: object, between: str = ", ") -> str:
    """Return a value as a person writes it.

    >>> _plain([{"date": "2024-06-01", "items": ["a", "b"]}, None])
    'date 2024-06-01, items a b; none'
    """
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each, ' ')}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(each, dict) for each in value) else between).join(map(_plain, value))
    return "none" if value is None else str(value)


@contextmanager
def progress(quiet: bool) -> Iterator[Report | None]:
    """Show a progress bar on stderr; off for `--json` and where stderr is no terminal prints a line a part."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield lambda done, total, name: talk(f"{done}/{total} chips ({name})")
    else:
        bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("chips"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        with bar:
            task = bar.add_task("embedding", total=None)
            yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


def human_bytes(count: float) -> str:
    """Return 1234567 as "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
