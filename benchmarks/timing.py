"""Time tasks in turns, and keep what was measured as rows that print themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: every repeat of it, and how it compares (None where nothing is compared)."""

    name: str
    unit: str
    values: Sequence[float]
    ratio: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    def cells(self) -> list[str]:
        """Return name, unit, least, median, greatest and ratio as text."""
        figures = [_figure(v) for v in (min(self.values), self.median, max(self.values))]
        return [self.name, self.unit, *figures, "" if self.ratio is None else f"{self.ratio:.2f}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Rows that were measured together: what was done, and what the last column means."""

    title: str
    text: str
    ratio: str
    rows: Sequence[Row]

    def to_markdown(self) -> str:
        heads = ["what", "unit", "min", "median", "max", self.ratio]
        lines = [heads, ["---", "---", *["---:"] * 4], *(row.cells() for row in self.rows)]
        return f"## {self.title}\n\n{self.text}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def race(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every repeat of every task.

    Tasks take turns, so that other work on the machine falls on all of them; a first round of each is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def rates(seconds: Mapping[str, Sequence[float]], amount: float, unit: str, *, against: str) -> list[Row]:
    """Turn seconds into amounts a second; the ratio is that of `against` to each, of medians."""
    base = median(seconds[against])
    return [
        Row(name=name, unit=unit, values=[amount / s for s in each], ratio=median(each) / base)
        for name, each in seconds.items()
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
