"""Draw the diagnostics of a fit as PNG; every figure is a function of arrays that returns bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator
from scipy.spatial import KDTree

from geoelle.bootstrap import MIN_WITHIN, Interval
from geoelle.diagnostics import Curve
from geoelle.errors import FormatError
from geoelle.figures import DPI, GRID, INK, LAND, MUTED, colormap, house_style, land, png
from geoelle.style import SEQUENTIAL, Ramp

__all__ = [
    "block_map",
    "coverage_curve",
    "dimension_curves",
    "error_over_density",
    "error_over_dissimilarity",
    "scaling_curves",
]

COLOURS = ("#8c2981", "#5f6570", "#1f7a8c", "#c77700", "#3b6fb6")
_LOWEST = {"r": -0.25, "R²": -0.5}
_WIDE_DEGREES = 3.0
_PANEL_INCHES = 3.4
_MOST_TICKS = 7


def scaling_curves(
    rows: Sequence[float], blocks: Sequence[float], curves: Sequence[Curve], *, units: tuple[str, str]
) -> bytes:
    """Draw held-out r and R² against training rows (below) and training blocks (above), both logarithmic.

    `units` name what rows and blocks are: ("chips", "blocks"); an empty name of blocks leaves them out.

    Raises:
        FormatError: no curve, or curves that do not have one value a size.
    """
    figure, axes = _pair_of_panels(rows, curves)
    with house_style():
        for axis in axes:
            axis.set_xlabel(f"training {units[0]}")
            if not units[1]:
                continue
            above = axis.secondary_xaxis("top")
            kept = _spaced(rows)
            above.xaxis.set_major_locator(FixedLocator([rows[i] for i in kept]))
            above.xaxis.set_minor_locator(NullLocator())
            above.set_xticklabels([f"{blocks[i]:.0f}" for i in kept], fontsize=7.5, color=MUTED)
            above.set_xlabel(f"training {units[1]}", fontsize=8, color=MUTED)
            above.spines["top"].set_visible(False)
            above.tick_params(length=2, color=MUTED)
        return png(figure)


def dimension_curves(dims: Sequence[int], curves: Sequence[Curve]) -> bytes:
    """Draw held-out r and R² against the number of dimensions that the probe may read.

    Raises:
        FormatError: no curve, or curves that do not have one value a size.
    """
    figure, axes = _pair_of_panels(dims, curves)
    with house_style():
        for axis in axes:
            axis.set_xlabel("dimensions k")
            axis.xaxis.set_major_locator(FixedLocator(list(dims)))
            axis.set_xticklabels([f"{k}" for k in dims], fontsize=7.5)
        return png(figure)


def coverage_curve(rows: Sequence[tuple[float, float, float, float]]) -> bytes:
    """Draw measured against nominal coverage; a row is (level, coverage, low, high), all shares of 1.

    Raises:
        FormatError: no row.
    """
    if not len(rows):
        raise FormatError("no coverage to draw; give a row (level, coverage, low, high) a level")
    level, coverage, low, high = np.array(sorted(rows), dtype=np.float64).T
    with house_style():
        figure = Figure(figsize=(4.2, 4.0), dpi=DPI, layout="constrained")
        axis = figure.add_subplot()
        axis.spines[["top", "right"]].set_visible(False)
        axis.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 2)))
        axis.fill_between(level, low, high, color=COLOURS[0], alpha=0.18, lw=0)
        axis.plot(level, coverage, color=COLOURS[0], marker="o", ms=4, lw=1.4)
        axis.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal", xlabel="nominal level of the interval")
        axis.set_ylabel("share of held-out values inside")
        for text, at in (("too wide", (0.05, 0.93)), ("too narrow", (0.74, 0.05))):
            axis.annotate(text, at, xycoords="axes fraction", size=8, color=MUTED)
        axis.grid(color=GRID, lw=0.6)
        return png(figure)


def error_over_dissimilarity(
    dissimilarity_n: np.ndarray,
    error_n: np.ndarray,
    groups: Sequence[tuple[float, float]],
    threshold: float,
    *,
    unit: str,
) -> bytes:
    """Draw the error of held-out chips over their dissimilarity, both (n,), with (dissimilarity, error) of groups.

    Raises:
        FormatError: arrays that do not match, or nothing finite.
    """
    with house_style():
        figure, axis = _errors_over(dissimilarity_n, error_n, groups, name="dissimilarities", unit=unit)
        axis.axvline(threshold, color=INK, lw=1, ls=(0, (4, 2)))
        axis.annotate(" outside", (threshold, 1), xycoords=("data", "axes fraction"), va="top", size=8, color=MUTED)
        axis.set(xscale="log", xlabel="dissimilarity to the training chips of other folds")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        return png(figure)


def error_over_density(
    density_n: np.ndarray, error_n: np.ndarray, groups: Sequence[tuple[float, float]], *, unit: str
) -> bytes:
    """Draw the error of held-out chips over their density, both (n,), with (density, error) of groups.

    Raises:
        FormatError: arrays that do not match, or nothing finite.
    """
    with house_style():
        figure, axis = _errors_over(density_n, error_n, groups, name="densities", unit=unit)
        axis.set_xscale("symlog", linthresh=1, linscale=0.3)  # none at all is a density like any other
        axis.set_xlim(-0.3, max(float(np.nanmax(density_n)), 1.0) * 1.3)
        axis.set_xlabel("training chips of other folds within the threshold (density)")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.xaxis.set_minor_locator(NullLocator())
        return png(figure)


def _errors_over(
    values_n: np.ndarray, error_n: np.ndarray, groups: Sequence[tuple[float, float]], *, name: str, unit: str
) -> tuple[Figure, Axes]:
    """Draw errors over values, and those of groups; the axis of the values is the caller's."""
    if values_n.shape != error_n.shape or not (np.isfinite(values_n) & np.isfinite(error_n)).any():
        sizes = f"{values_n.shape} {name} and {error_n.shape} errors"
        raise FormatError(f"no error to draw from {sizes}; give one finite pair a chip")
    figure = Figure(figsize=(5.2, 3.4), dpi=DPI, layout="constrained")
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    axis.plot(values_n, error_n, ls="", marker=".", ms=2.5, mew=0, color=COLOURS[0], alpha=0.25, rasterized=True)
    axis.plot(*np.array(groups).T, marker="o", ms=5, mfc="white", mec=INK, color=INK, lw=1)
    axis.set(ylim=(0, float(np.nanpercentile(error_n, 99.5)) * 1.05 or 1.0))
    axis.set_ylabel(f"|residual| [{unit}]" if unit else "|residual|")
    axis.grid(color=GRID, lw=0.6)
    return figure, axis


def block_map(lonlat_n2: np.ndarray, place_n: np.ndarray, r_m: np.ndarray, bias_m: np.ndarray, *, unit: str) -> bytes:
    """Draw r within each of m places, and its mean residual in `unit`, on a map; grey: too few chips for r.

    `place_n` is the place of each chip, 0 .. m-1. Chips are drawn where the map is small, else a dot a place.

    Raises:
        FormatError: arrays that do not match.
    """
    if lonlat_n2.shape != (len(place_n), 2) or len(r_m) != len(bias_m) or not place_n.max(initial=-1) < len(r_m):
        sizes = (
            f"{lonlat_n2.shape} coordinates, {len(place_n)} places of chips, {len(r_m)} scores, {len(bias_m)} biases"
        )
        raise FormatError(f"a map of blocks cannot be drawn from {sizes}; give one place a chip, one score a place")
    enough = np.bincount(place_n, minlength=len(r_m)) >= MIN_WITHIN  # few chips must not stretch the ramp
    most = max(float(np.abs(bias_m[enough] if enough.any() else bias_m).max()), 1e-9)
    ramps = (
        Ramp(name="viridis", low=0.0, high=1.0, label="r within the place"),
        Ramp(name="RdBu_r", low=-most, high=most, label="mean residual, measured minus predicted", unit=unit),
    )
    with house_style():
        frame, stretch = _frame(lonlat_n2)
        tall = float(np.clip(3.6 * stretch * (frame[3] - frame[2]) / (frame[1] - frame[0]), 1.6, 6.0))
        figure = Figure(figsize=(8.4, tall + 1.0), dpi=DPI, layout="constrained")
        for axis, ramp, values_m in zip(figure.subplots(1, 2), ramps, (r_m, bias_m), strict=True):
            dots = _dots(axis, lonlat_n2, place_n, values_m, ramp)
            axis.set(xlim=frame[:2], ylim=frame[2:], aspect=stretch)
            axis.locator_params(nbins=4)
            for side, letters in ((axis.xaxis, "WE"), (axis.yaxis, "SN")):
                side.set_major_formatter(lambda v, _, ends=letters: f"{abs(v):.6g}°{ends[int(v > 0)] if v else ''}")
            ends = "min" if ramp.name in SEQUENTIAL else "both"
            bar = figure.colorbar(dots, ax=axis, location="bottom", shrink=0.8, aspect=28, pad=0.04, extend=ends,
                                  ticks=MaxNLocator(5))  # fmt: skip
            bar.set_label(ramp.legend.replace(" [", "\n["), size=8)
            bar.outline.set_linewidth(0.5)
        return png(figure)


def _pair_of_panels(sizes: Sequence[float], curves: Sequence[Curve]) -> tuple[Figure, np.ndarray]:
    """Draw every curve with its interval on two panels, r and R², over the logarithm of the sizes."""
    if not curves or any(len(curve.r) != len(sizes) or len(curve.r2) != len(sizes) for curve in curves):
        had = ", ".join(f"{curve.name}: {len(curve.r)}" for curve in curves) or "none"
        raise FormatError(f"curves ({had}) do not match {len(sizes)} sizes; give one value a size")
    with house_style():
        figure = Figure(figsize=(8.4, 3.7), dpi=DPI, layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, name, metric in zip(axes, _LOWEST, ("r", "r2"), strict=True):
            for colour, curve in zip(COLOURS, curves, strict=False):
                _line(axis, sizes, getattr(curve, metric), colour, curve.name)
            lows = [interval.low for curve in curves for interval in getattr(curve, metric)]
            bottom = max(np.nanmin([*lows, 0.0]), _LOWEST[name])
            axis.set(xscale="log", ylabel=f"held-out {name}", ylim=(bottom * 1.05, 1.0))
            axis.axhline(0, color=INK, lw=0.6)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_locator(FixedLocator([sizes[i] for i in _spaced(sizes)]))
            axis.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
            axis.tick_params(axis="x", labelsize=7.5)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color=GRID, lw=0.6)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, frameon=False, fontsize=8, loc="outside lower center", ncols=len(curves))
        return figure, axes


def _line(axis: Axes, sizes: Sequence[float], values: Sequence[Interval], colour: str, name: str) -> None:
    low, middle, high = np.array([(v.low, v.value, v.high) for v in values]).T
    axis.fill_between(sizes, low, high, color=colour, alpha=0.14, lw=0)
    axis.plot(sizes, middle, color=colour, marker="o", ms=3.2, lw=1.4, label=name)


def _spaced(sizes: Sequence[float]) -> list[int]:
    """Return the positions of the sizes that leave room for their labels on a log axis, the last one first of all."""
    step = np.log(max(sizes) / min(sizes)) / _MOST_TICKS
    kept = [len(sizes) - 1]
    for i in range(len(sizes) - 2, -1, -1):
        if np.log(sizes[kept[-1]] / sizes[i]) >= 0.8 * step:
            kept.append(i)
    return kept[::-1]


def _dots(axis: Axes, lonlat_n2: np.ndarray, place_n: np.ndarray, values_m: np.ndarray, ramp: Ramp) -> PathCollection:
    """Draw chips as squares that touch where the map is small, else places as dots on the outline of the land."""
    axis.set_facecolor("#f6f8fa")
    spans = np.ptp(lonlat_n2, axis=0)
    if spans.max() <= _WIDE_DEGREES:
        near = KDTree(lonlat_n2).query(lonlat_n2, k=min(2, len(lonlat_n2)))[0].reshape(len(lonlat_n2), -1)[:, -1]
        points = _PANEL_INCHES * 72 * float(np.median(near)) / max(spans[0], 1e-6)
        look = {"s": float(np.clip(points, 1.5, 12)) ** 2, "marker": "s", "lw": 0}
        at_n2, values_n = lonlat_n2, values_m[place_n]
    else:
        axis.add_collection(PolyCollection(land(), fc=LAND, ec="#b9b6ad", lw=0.4, zorder=0.5))
        count_m = np.bincount(place_n, minlength=len(values_m))
        at_n2 = np.stack([np.bincount(place_n, v, len(values_m)) for v in lonlat_n2.T], 1) / count_m[:, None]
        look, values_n = {"s": 24, "ec": INK, "lw": 0.5}, values_m
    known = np.isfinite(values_n)
    axis.scatter(*at_n2[~known].T, c="#b8bcc2", **look)
    norm = Normalize(ramp.low, ramp.high)
    return axis.scatter(*at_n2[known].T, c=values_n[known], cmap=colormap(ramp), norm=norm, **look)


def _frame(lonlat_n2: np.ndarray) -> tuple[tuple[float, float, float, float], float]:
    """Return limits (west, east, south, north) close around the chips, and the stretch of a degree of latitude."""
    (west, south), (east, north) = lonlat_n2.min(axis=0), lonlat_n2.max(axis=0)
    longest = max(east - west, north - south, 0.01)
    pads = [max(longest * 0.06, (longest * 0.4 - span) / 2) for span in (east - west, north - south)]  # no thin strips
    stretch = 1 / max(np.cos(np.radians((south + north) / 2)), 0.3)
    return (west - pads[0], east + pads[0], max(south - pads[1], -90.0), min(north + pads[1], 90.0)), float(stretch)
