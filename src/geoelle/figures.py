"""Draw the figures of a report as PNG: distribution, calibration, scores beside their nulls, scores by place.

Every figure is a function of arrays that returns bytes. Figures are made without pyplot, so nothing is left
in matplotlib's global state.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from geoelle.errors import FormatError
from geoelle.style import Ramp

__all__ = [
    "DPI",
    "GRID",
    "INK",
    "LAND",
    "MUTED",
    "Score",
    "calibration",
    "colormap",
    "histogram",
    "house_style",
    "land",
    "places",
    "png",
    "score_bars",
]

DPI = 160
INK, MUTED, GRID, ACCENT, NULL, LAND = "#1d1f24", "#5f6570", "#e3e5e8", "#8c2981", "#9aa0a8", "#e9e7e1"
_STYLE: dict[str, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "hatch.linewidth": 0.5,
}

_BINS = 60
_DEGREE_STEPS = (0.5, 1, 2, 3, 5, 10, 15, 20, 30, 45)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Give one row of a score chart: r with its interval, None where there is none; `is_null` greys it."""

    name: str
    r: float
    low: float | None = None
    high: float | None = None
    is_null: bool = True


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with the type, lines and colours shared by every figure of geoelle, whatever the user's own are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def colormap(ramp: Ramp) -> LinearSegmentedColormap:
    """Return the ramp for matplotlib; NaN is transparent."""
    colours = LinearSegmentedColormap.from_list(ramp.name, ramp.colours, N=1024)
    return colours.with_extremes(bad=(0, 0, 0, 0))


def png(figure: Figure) -> bytes:
    """Return the figure as PNG bytes that depend on nothing but its content."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return sink.getvalue()


def histogram(values: np.ndarray, ramp: Ramp) -> bytes:
    """Draw how the finite values of any shape are distributed, in the colours of the map.

    Raises:
        FormatError: no value is finite.
    """
    finite = _finite(ramp.label, np.asarray(values, dtype=np.float64))[0]
    with house_style():
        figure, axis = _axis(6.4, 2.6)
        low, high = np.percentile(finite, (0.1, 99.9))
        pad = max((high - low) * 0.03, 1e-6)
        counts, edges = np.histogram(np.clip(finite, low, high), bins=_BINS, range=(low - pad, high + pad))
        middle = (edges[1:] + edges[:-1]) / 2
        colours = colormap(ramp)(Normalize(ramp.low, ramp.high)(middle))
        axis.bar(middle, counts, width=np.diff(edges), color=colours, ec="white", lw=0.3)
        median = float(np.median(finite))
        axis.axvline(median, color=INK, lw=1, ls=(0, (4, 2)))
        note = f" median {median:#.3g}"
        axis.annotate(note, (median, 1), xycoords=("data", "axes fraction"), va="bottom", size=8)
        axis.set(xlabel=ramp.legend, ylabel="cells", xlim=(edges[0], edges[-1]))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        _grid(axis, "y")
        return png(figure)


def calibration(
    predicted: np.ndarray,
    measured: np.ndarray,
    *,
    label: str,
    unit: str,
    line: tuple[float, float] | None = None,
    counted: str = "chips",
) -> bytes:
    """Draw the density of measured over predicted values, (n,) each, with the line of perfect prediction.

    Points are medians of measured in twelve equal groups of predicted, bars their quartiles. The chips should
    be held out by place; the figure cannot tell. `line` is the (slope, intercept) of measured on predicted,
    drawn where it is given; `counted` names what is counted.

    Raises:
        FormatError: no pair is finite.
    """
    x, y = _finite(label, np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64))
    with house_style():
        figure, axis = _axis(5.2, 4.3, layout="compressed")
        low, high = (float(v) for v in np.percentile(np.concatenate([x, y]), (0.2, 99.8)))
        pad = max((high - low) * 0.05, 1e-6)
        limits = low - pad, high + pad
        shades = LinearSegmentedColormap.from_list("density", ["#efe6ef", "#c08abb", ACCENT, "#2a0a3a"])
        cells = axis.hexbin(
            x,
            y,
            gridsize=45,
            extent=(*limits, *limits),
            mincnt=1,
            norm=LogNorm(),
            cmap=shades,
            linewidths=0.1,
        )
        axis.plot(limits, limits, color=INK, lw=1, ls=(0, (4, 2)))
        if line is not None:
            axis.plot(limits, line[1] + line[0] * np.array(limits), color=ACCENT, lw=1.4)
        centre, quartiles = _groups(x, y, 12)
        spread = np.abs(quartiles[[0, 2]] - quartiles[1])
        point = {
            "fmt": "o",
            "ms": 4,
            "mfc": "white",
            "mec": INK,
            "mew": 0.9,
            "ecolor": INK,
            "elinewidth": 0.9,
        }
        axis.errorbar(centre, quartiles[1], yerr=spread, **point)
        suffix = f" [{unit}]" if unit else ""
        axis.set(xlim=limits, ylim=limits, xlabel=f"difficulty{suffix}", ylabel=f"{label}{suffix}")
        axis.set_aspect("equal")
        bar = figure.colorbar(cells, ax=axis, shrink=0.55, aspect=16, pad=0.03)
        bar.set_label(counted, size=8)
        bar.outline.set_linewidth(0.5)
        note = f"r = {_correlation(x, y):.3f}\nn = {len(x):,}"
        note += "" if line is None else f"\nslope {line[0]:.3f}\nintercept {line[1]:+.3f}"
        axis.annotate(note, (0.04, 0.96), xycoords="axes fraction", va="top", linespacing=1.4)
        _grid(axis, "both")
        return png(figure)


def score_bars(scores: Sequence[Score], *, axis_label: str) -> bytes:
    """Draw r of ELLE and of each null with their intervals, in the order given, first on top.

    `axis_label` says what r is of: "r, chips of held-out places".

    Raises:
        FormatError: no score.
    """
    if not scores:
        raise FormatError("no score to draw; give at least one")
    with house_style():
        figure, axis = _axis(6.4, 0.75 + 0.3 * len(scores))
        ends = [value for s in scores for value in (s.r, s.low, s.high, 0.0) if value is not None]
        best = max((s.r for s in scores if not s.is_null), default=None)
        if best is not None:
            axis.axvline(best, color=ACCENT, lw=0.8, ls=(0, (2, 2)), zorder=0)
        for i, score in enumerate(scores):
            colour = NULL if score.is_null else ACCENT
            axis.barh(i, score.r, height=0.62, color=colour, alpha=0.55 if score.is_null else 1)
            if score.low is not None and score.high is not None:
                axis.plot([score.low, score.high], [i, i], color=INK, lw=1.1, solid_capstyle="butt")
                axis.plot([score.low, score.high], [i, i], ls="", marker="|", ms=6, mew=1.1, color=INK)
            axis.annotate(
                _interval(score), (1.01, i), xycoords=("axes fraction", "data"), va="center", size=8,
                weight="normal" if score.is_null else "bold",
            )  # fmt: skip
        axis.set_yticks(range(len(scores)), [s.name for s in scores])
        for tick, score in zip(axis.get_yticklabels(), scores, strict=True):
            tick.set_weight("normal" if score.is_null else "bold")
        axis.axvline(0, color=INK, lw=0.7)
        right = min(max(max(ends) * 1.04, 0.2), 1.0)
        axis.set(ylim=(len(scores) - 0.4, -0.6), xlim=(min(ends) * 1.08, right))
        axis.set_xlabel(axis_label)
        axis.tick_params(axis="y", length=0)
        axis.spines[["left"]].set_visible(False)
        _grid(axis, "x")
        return png(figure)


def places(lonlat_n2: np.ndarray, scores_n: np.ndarray, ramp: Ramp) -> bytes:
    """Draw one dot a place at its lon/lat in degrees, coloured by its score; a ring marks NaN.

    Raises:
        FormatError: no place, or not one score a place.
    """
    if lonlat_n2.shape != (len(scores_n), 2) or not len(scores_n):
        sizes = f"places {lonlat_n2.shape} and scores {np.shape(scores_n)}"
        raise FormatError(f"{sizes} do not match; give one score a place")
    with house_style():
        frame = _frame(lonlat_n2)
        stretch = 1 / max(np.cos(np.radians(np.mean(frame[2:]))), 0.3)
        tall = stretch * (frame[3] - frame[2]) / (frame[1] - frame[0])
        figure, axis = _axis(7.4, float(np.clip(6.2 * tall, 2.2, 5.6)), layout="compressed")
        axis.set_facecolor("#f6f8fa")
        axis.add_collection(PolyCollection(land(), fc=LAND, ec="#b9b6ad", lw=0.4, zorder=0.5))
        known = np.isfinite(scores_n)
        order = np.argsort(np.where(known, scores_n, np.inf))[::-1]  # the worst places on top
        lon, lat = lonlat_n2[order].T
        norm = Normalize(ramp.low, ramp.high)
        dots = axis.scatter(lon, lat, c=scores_n[order], cmap=colormap(ramp), norm=norm, s=30, ec=INK, lw=0.5)
        if not known.all():
            axis.scatter(*lonlat_n2[~known].T, s=30, fc="none", ec=INK, lw=0.7)
        axis.set(xlim=frame[:2], ylim=frame[2:], aspect=stretch)
        step = next(s for s in _DEGREE_STEPS if s >= (frame[1] - frame[0]) / 8)
        for side, letters in ((axis.xaxis, "WE"), (axis.yaxis, "SN")):
            side.set_major_locator(MultipleLocator(step))
            side.set_major_formatter(lambda v, _, ends=letters: f"{abs(v):g}°{ends[int(v > 0)] if v else ''}")
        bar = figure.colorbar(dots, ax=axis, shrink=0.8, aspect=20, pad=0.02, extend="min")
        bar.set_label(ramp.legend, size=8)
        bar.outline.set_linewidth(0.5)
        _grid(axis, "both")
        return png(figure)


def _axis(width: float, height: float, *, layout: str = "constrained") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _grid(axis: Axes, which: str) -> None:
    axis.grid(axis=which, color=GRID, lw=0.6)


def _finite(label: str, *columns: np.ndarray) -> list[np.ndarray]:
    keep = np.logical_and.reduce([np.isfinite(column) for column in columns])
    if not keep.any():
        raise FormatError(f"no finite value of {label} to draw; check how many chips were read")
    return [column[keep] for column in columns]


def _groups(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of x and the quartiles (3, g) of y in at most `count` equal groups along x."""
    parts = [part for part in np.array_split(np.argsort(x, kind="stable"), count) if part.size]
    centre = np.array([np.median(x[part]) for part in parts])
    return centre, np.array([np.percentile(y[part], (25, 50, 75)) for part in parts]).T


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.r:.2f}"
    return f"{score.r:.2f}  [{score.low:.2f}, {score.high:.2f}]"


def _frame(lonlat_n2: np.ndarray) -> tuple[float, float, float, float]:
    """Return lon and lat limits: the world where places span over 100 degrees, else a margin around them."""
    (west, south), (east, north) = lonlat_n2.min(axis=0), lonlat_n2.max(axis=0)
    if east - west > 100:
        return -180.0, 180.0, min(-58.0, south - 3), max(80.0, north + 3)
    pad = max(east - west, north - south, 4.0) * 0.12
    return west - pad, east + pad, max(south - pad, -90.0), min(north + pad, 90.0)


def land() -> list[np.ndarray]:
    """Return the outlines of land, each (m, 2) degrees, from Natural Earth (public domain)."""
    text = (resources.files("geoelle") / "data" / "land.json").read_text(encoding="utf-8")
    return [np.reshape(ring, (-1, 2)) / 10 for ring in json.loads(text)["rings"]]
