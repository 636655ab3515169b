"""Draw lists of chips as contact sheets: a picture of each with its rank, value and place, and the way to visit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from geoelle.figures import DPI, INK, MUTED, colormap, house_style, png
from geoelle.route import Route
from geoelle.style import Ramp
from geoelle.thumbnails import Thumbnail, Thumbnails

__all__ = ["Entry", "Stretch", "contact_sheet", "route_map"]

_COLUMNS = 6
_CELL, _GAP, _TEXT, _MARGIN = 1.36, 0.12, 0.5, 0.16  # inches: a picture, between two, its caption, the page's edge
_GAP_COLOUR, _NO_PICTURE = (0.85, 0.86, 0.88), "#a3a9b1"
_HALO = [withStroke(linewidth=2.2, foreground=INK)]
_GAMMA = 1.6
_LETTER = 0.0635  # inches of a letter of the subtitle
_LABELS = 40  # numbers on the way; more would cover one another


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Name one chip of a sheet: its picture's key, and what stands below it."""

    chip: int
    value: str
    lon: float
    lat: float
    date: str

    @property
    def place(self) -> str:
        """Return "37.654°N 75.612°W"."""
        return f"{abs(self.lat):.4f}°{'NS'[self.lat < 0]} {abs(self.lon):.4f}°{'EW'[self.lon < 0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Map pixels to brightness, the same for all pictures of a page, so that they compare.

    `dark` is what each band has where it is darkest, haze above all; `span` is one for all bands, so that what is
    grey stays grey.
    """

    dark: tuple[float, ...]
    span: float

    @classmethod
    def of(cls, pictures: Thumbnails) -> Self:
        """Take the 1st percentile of each band, and the widest way from there to a 99th."""
        count = max(len(pictures.bands), 1)
        pixels_nc = np.concatenate([picture.pixels_yxc.reshape(-1, count) for picture in pictures.of.values()])
        pixels_nc = pixels_nc[np.isfinite(pixels_nc).all(axis=1)]
        if not len(pixels_nc):
            return cls(dark=(0.0,) * count, span=1.0)
        low_c, high_c = np.percentile(pixels_nc, (1, 99), axis=0)
        return cls(dark=tuple(low_c.tolist()), span=max(float((high_c - low_c).max()), 1e-6))

    def __call__(self, pixels_yxc: np.ndarray) -> np.ndarray:
        """Return colours (y, x, 3) in 0-1; gaps are light grey."""
        shown = np.clip((pixels_yxc - self.dark) / self.span, 0, 1) ** (1 / _GAMMA)
        shown = np.broadcast_to(shown, (*shown.shape[:2], 3)).copy()
        shown[~np.isfinite(pixels_yxc).all(axis=2)] = _GAP_COLOUR
        return shown


def contact_sheet(
    title: str, meaning: str, entries: Sequence[Entry], pictures: Thumbnails, stretch: Stretch, *, credit: str
) -> bytes:
    """Draw the pictures of a list in rows of six, best first; return the bytes of a PNG.

    A thin frame is the chip where the picture shows more; a hatched square was not read and has its mean colour.
    """
    across = 2 * _MARGIN + _COLUMNS * (_CELL + _GAP) - _GAP
    words = textwrap.wrap(meaning, int((across - 2 * _MARGIN) / _LETTER))
    head = _MARGIN + 0.3 + 0.165 * len(words) + 0.1
    along = head + -(-len(entries) // _COLUMNS) * (_CELL + _TEXT) + 0.3
    with house_style():
        figure = Figure(figsize=(across, along), dpi=DPI)
        figure.text(_MARGIN / across, 1 - _MARGIN / along, title, size=13, weight="bold", va="top")
        below = 1 - (_MARGIN + 0.28) / along
        figure.text(_MARGIN / across, below, "\n".join(words), color=MUTED, va="top", linespacing=1.3)
        figure.text(_MARGIN / across, 0.08 / along, credit, size=7, color=MUTED, va="bottom")
        for i, entry in enumerate(entries):
            row, column = divmod(i, _COLUMNS)
            left, top = _MARGIN + column * (_CELL + _GAP), head + row * (_CELL + _TEXT)
            box = left / across, 1 - (top + _CELL) / along, _CELL / across, _CELL / along
            axis = figure.add_axes(box)
            _picture(axis, pictures.of[entry.chip], stretch)
            _caption(axis, i + 1, entry)
        return png(figure)


def route_map(title: str, route: Route, ramp: Ramp) -> bytes:
    """Draw the clusters in the colour of their mean, and the way between the stops, numbered, in degrees."""
    with house_style():
        west, south, east, north = route.clusters.total_bounds
        pad = 0.06 * max(east - west, north - south, 0.002)
        stretch = 1 / max(np.cos(np.radians((south + north) / 2)), 0.05)
        tall = stretch * (north - south + 2 * pad) / (east - west + 2 * pad)
        figure = Figure(figsize=(8.6, float(np.clip(7.2 * tall, 3, 9))), dpi=DPI, layout="compressed")
        axis = figure.add_subplot()
        patches = [PathPatch(_outline(shape)) for shape in route.clusters.geometry]
        drawn = PatchCollection(patches, cmap=colormap(ramp), norm=Normalize(ramp.low, ramp.high), ec=INK, lw=0.3)
        drawn.set_array(route.clusters["mean"].to_numpy())
        axis.add_collection(drawn)
        axis.plot(*route.line_m2.T, color=INK, lw=0.9, marker="o", ms=2.2, mfc="white", mew=0.6)
        for number in range(0, len(route.line_m2), -(-len(route.line_m2) // _LABELS)):
            axis.annotate(
                str(number + 1), route.line_m2[number], (2.5, 2.5), textcoords="offset points", size=7, weight="bold",
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
        axis.set(xlim=(west - pad, east + pad), ylim=(south - pad, north + pad), aspect=stretch, title=title)
        for side, letters in ((axis.xaxis, "WE"), (axis.yaxis, "SN")):
            side.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            side.set_major_formatter(lambda v, _, ends=letters: f"{abs(v):.4g}°{ends[int(v > 0)]}")
        bar = figure.colorbar(drawn, ax=axis, shrink=0.6, aspect=24, pad=0.02)
        bar.set_label(ramp.legend, size=8)
        bar.outline.set_linewidth(0.5)
        return png(figure)


def _picture(axis: Axes, picture: Thumbnail, stretch: Stretch) -> None:
    height, width = picture.pixels_yxc.shape[:2]
    axis.imshow(stretch(picture.pixels_yxc), extent=(0, width, height, 0), interpolation="nearest")
    axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    if picture.margin_px:
        corner, side = (picture.margin_px,) * 2, width - 2 * picture.margin_px
        for colour, thick in ((INK, 1.6), ("white", 0.8)):
            axis.add_patch(Rectangle(corner, side, side, fc="none", ec=colour, lw=thick))
    if not picture.was_read:
        axis.add_patch(Rectangle((0, 0), width, height, fc="none", ec=_NO_PICTURE, hatch="///", lw=0))


def _caption(axis: Axes, rank: int, entry: Entry) -> None:
    inside = {"xycoords": "axes fraction", "annotation_clip": False}
    axis.annotate(
        str(rank), (0.04, 0.96), va="top", size=10, weight="bold", color="white", path_effects=_HALO, **inside
    )
    axis.annotate(entry.value, (0, -0.03), va="top", size=8, weight="bold", **inside)
    axis.annotate(f"{entry.place}\n{entry.date}", (0, -0.135), va="top", size=6.6, color=MUTED, **inside)


def _outline(shape: shapely.Polygon) -> Outline:
    rings = [shape.exterior, *shape.interiors]
    return Outline.make_compound_path(*(Outline(np.asarray(ring.coords)[:, :2], closed=True) for ring in rings))
