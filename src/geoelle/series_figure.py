"""Draw places through time as PNG: dates as points, the season as a band, departures and the event marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from geoelle.errors import FormatError
from geoelle.figures import DPI, GRID, INK, MUTED, house_style, png
from geoelle.probe import Scale
from geoelle.seasonal import LEVEL
from geoelle.series import INSIDE, Series

__all__ = ["draw_series"]

BAND, CURVE, FAINT, HARDER, EASIER = "#dfe3ea", "#8a93a3", "#c3c8d0", "#b1182b", "#2065ab"
"""The last two are those of the ramp of a change."""
_STEP_DAYS = 3.0
_MOST = 8
"""Panels of one figure: more are not readable."""
_ABREAST = 5
"""Entries of the legend that a line of the figure has room for."""
_POINT = {"ls": "", "marker": "o", "ms": 4.2, "mew": 0.9}


def draw_series(series: Sequence[Series], *, scale: Scale, unit: str, title: str) -> bytes:
    """Draw one panel a place, at most eight, all on the same axes.

    Raises: FormatError (no place with a clear date).
    """
    shown = [each for each in series if len(each.observed.days_n)][:_MOST]
    if not shown:
        raise FormatError("no place has a clear date to draw; choose other dates")
    with house_style():
        return png(_figure(shown, scale=scale, unit=unit, title=title))


def _figure(shown: Sequence[Series], *, scale: Scale, unit: str, title: str) -> Figure:
    figure = Figure(figsize=(7.4, 0.85 + 2.0 * len(shown)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, each in zip(axes, shown, strict=True):
        _panel(axis, each, scale)
    first, last = min(each.observed.days_n[0] for each in shown), max(each.observed.days_n[-1] for each in shown)
    pad = max((last - first) * 0.02, 5.0)
    axes[-1].set_xlim(_dates(first - pad), _dates(last + pad))
    locator = AutoDateLocator(minticks=4, maxticks=9)
    axes[-1].xaxis.set(major_locator=locator, major_formatter=ConciseDateFormatter(locator, show_offset=False))
    figure.supylabel(f"difficulty [{unit}]" if unit else "difficulty", size=8.5)
    figure.suptitle(title, x=0.01, ha="left", size=10, weight="bold", color=INK)
    marks = _legend(shown)
    rows = math.ceil(len(marks) / _ABREAST)
    figure.legend(handles=marks, loc="outside lower left", ncols=math.ceil(len(marks) / rows), frameon=False,
                  fontsize=7.5, handletextpad=0.4, columnspacing=1.2)  # fmt: skip
    return figure


def _panel(axis: Axes, series: Series, scale: Scale) -> None:
    seen, in_units = series.observed, np.exp if scale == "log" else np.asarray
    if series.season is not None:
        fine = np.arange(seen.days_n[0], seen.days_n[-1] + _STEP_DAYS, _STEP_DAYS)
        middle, half = series.season.expected(fine), series.season.half_width(fine)
        axis.fill_between(_dates(fine), in_units(middle - half), in_units(middle + half), color=BAND, lw=0)
        axis.plot(_dates(fine), in_units(middle), color=CURVE, lw=0.9)
    if series.event_day is not None:
        axis.axvline(_dates(series.event_day), color=INK, lw=1, ls=(0, (4, 2)))
    for chosen, style in _kinds(series):
        axis.plot(_dates(seen.days_n[chosen]), in_units(seen.difficulty_n[chosen]), **_POINT, **style)
    axis.set_title(seen.name, size=8.5)
    axis.annotate(_note(series), (1, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", ha="right",
                  va="bottom", size=7.5, color=MUTED)  # fmt: skip
    if scale == "log":
        axis.set_yscale("log")
        axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter="{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="both", color=GRID, lw=0.6)


def _kinds(series: Series) -> list[tuple[np.ndarray, dict[str, str]]]:
    """Return which dates are drawn alike, and how: hollow outside of the area of applicability."""
    departs, judged, harder = series.departs_n, np.isfinite(series.z_n), series.departure_n > 0
    kinds = ((~judged, FAINT), (judged & ~departs, MUTED), (departs & harder, HARDER), (departs & ~harder, EASIER))
    outside = _outside(series)
    return [
        (chosen & (outside == hollow), {"mfc": "white" if hollow else colour, "mec": colour})
        for chosen, colour in kinds
        for hollow in (False, True)
    ]


def _outside(series: Series) -> np.ndarray:
    inside_n = series.observed.inside_n
    return np.zeros(len(series.observed.days_n), bool) if inside_n is None else inside_n < INSIDE


def _note(series: Series) -> str:
    """Say in a line what the panel shows."""
    if series.season is None:
        return f"{series.counts['clear']} dates, no band: the season is not known"
    parts = [f"{series.counts['departures']} of {series.counts['clear']} dates outside"]
    if (held := series.coverage) is not None:
        parts.append(f"{held.share:.0%} inside, year left out ({LEVEL:.0%} nominal)")
    if (found := series.recovery) is not None:
        parts.append(f"recovery {found.index:.2f} [{found.low:.2f}, {found.high:.2f}]")
    return "; ".join(parts)


def _legend(shown: Sequence[Series]) -> list[Line2D | Patch]:
    def point(colour: str, label: str, fill: str | None = None) -> Line2D:
        return Line2D([], [], mfc=fill or colour, mec=colour, label=label, **_POINT)

    marks: list[Line2D | Patch] = [point(MUTED, "in the band"), point(HARDER, "harder"), point(EASIER, "easier")]
    if any(not np.isfinite(each.z_n).all() for each in shown):
        marks.append(point(FAINT, "not judged"))
    if any(_outside(each).any() for each in shown):
        marks.append(point(MUTED, "outside area of applicability", "white"))
    if any(each.season is not None for each in shown):
        marks.append(Patch(fc=BAND, label=f"{LEVEL:.0%} band of the season"))
    if any(each.event_day is not None for each in shown):
        marks.append(Line2D([], [], color=INK, lw=1, ls=(0, (4, 2)), label="event"))
    return marks


def _dates(days: float | np.ndarray) -> np.ndarray:
    return np.datetime64("1970-01-01", "s") + np.round(np.asarray(days) * 86_400).astype("timedelta64[s]")
