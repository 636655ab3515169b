"""Look where flags lie in maps in which nothing was looked for: on ground that was cut, or on ground that was not?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from delta_nulls import RANDOM, Judges, Measured, Outcome, auroc
from delta_series import Series
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.errors import ProbeError

LEAST = 3
"""Cut, and uncut, patches that a map needs to be ranked."""


Plan = Callable[[int], Iterator[tuple[int, int, list[int]]]]
"""From the number of dates to the maps that are judged: after, before and history."""


def on_cuts(
    dates: dict[str, list[Measured]], series: Series, plan: Plan, year_n: np.ndarray, uncut_n: np.ndarray
) -> dict[str, object]:
    """Count flags on patches that were cut between the dates compared, and on uncut ones, by measure, over maps.

    `year_n` is the year in which a patch was cut, 0 for none. Patches that are neither cut nor uncut count in nothing.
    """
    counted: dict[str, list[tuple[int, int, int, int, float]]] = {}
    for season, found in dates.items():
        for after, before, history in plan(len(found)):
            years = [series.seasons[season][k].year for k in (before, after)]
            new_n = (year_n > years[0]) & (year_n <= years[1])
            try:
                outcomes = Judges(found[before], [found[k] for k in history]).judge(found[after])
            except ProbeError:
                continue
            for name, out in outcomes.items():
                counted.setdefault(name, []).append(_counts(out, new_n, uncut_n))
    drawn = [rows for name, rows in counted.items() if name.startswith(RANDOM)]
    told = {name: _told(rows) for name, rows in counted.items() if not name.startswith(RANDOM)}
    return told | ({RANDOM: _told([row for rows in drawn for row in rows])} if drawn else {})


def _counts(out: Outcome, new_n: np.ndarray, uncut_n: np.ndarray) -> tuple[int, int, int, int, float]:
    known_n = np.isfinite(out.p_n)
    cut_n, free_n = known_n & new_n, known_n & uncut_n
    ranked = min(cut_n.sum(), free_n.sum()) >= LEAST
    area = auroc(out.size_n[cut_n], out.size_n[free_n]) if ranked else float("nan")
    return int(out.flag_n[cut_n].sum()), int(cut_n.sum()), int(out.flag_n[free_n].sum()), int(free_n.sum()), area


def _told(rows: Sequence[tuple[int, int, int, int, float]]) -> dict[str, object]:
    hits, cuts, wrong, free, areas = (np.array(column, float) for column in zip(*rows, strict=True))
    known = areas[np.isfinite(areas)]
    told = Interval.of(Bootstrap(np.arange(len(known))).mean(known)).to_dict() if len(known) > 1 else {}
    return {
        "maps": len(rows), "cut": int(cuts.sum()), "cut_flagged": int(hits.sum()), "uncut": int(free.sum()),
        "uncut_flagged": int(wrong.sum()),
        "auroc": told | {"maps": len(known)},
    }  # fmt: skip
