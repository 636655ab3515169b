"""Draw the layers of a raster side by side as one PNG map: what a reader sees before opening a GIS.

Cells are drawn as cells, north up, with lon/lat ticks where round degrees cross the frame. The layout is set
in inches, so a map of any shape keeps its type size.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyproj
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from odc.geo.geobox import GeoBox

from geoelle.errors import FormatError
from geoelle.figures import DPI, INK, MUTED, colormap, house_style, png
from geoelle.raster import geobox_of
from geoelle.style import Classes, Ramp

__all__ = ["CREDIT", "MapText", "Scene", "quicklook"]

CREDIT = "Contains modified Copernicus Sentinel data"

_NODATA, _HATCH = "#d8dbe0", "#a3a9b1"
_STRIPES = 9, ((0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0))  # pixels apart; grey of each pixel that is drawn
_OPAQUE = 0.55
_AREA = 14.0  # square inches of one map
_SIDES = (1.9, 7.4)  # inches a side of a map may have
_PAGE = 5.4  # inches, narrowest
_LEFT, _RIGHT, _GAP, _TITLE, _TICKS, _BAR = 0.72, 0.25, 0.28, 0.3, 0.29, 0.52  # inches
_MARGIN, _SMALL, _LARGE = 0.14, 0.066, 0.118  # inches: page margin, width of a letter of body and title
_CORNER = 0.08  # share of an edge, from a corner on, that has no label
_HALO = [withStroke(linewidth=2.5, foreground="white")]
_GEOD = pyproj.Geod(ellps="WGS84")

Bounds = tuple[float, float, float, float]
"""West, south, east, north in metres of the raster's CRS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapText:
    """Say what the map is: `reading` is the model card's sentence on what a high value means."""

    title: str
    subtitle: str
    reading: str
    credit: str = CREDIT


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scene:
    """Hold the image beside a map: `rgb_yx3` reflectance with NaN for nodata, in the CRS of the raster.

    Raises:
        FormatError: an array of another shape.
    """

    rgb_yx3: np.ndarray
    bounds: Bounds

    def __post_init__(self) -> None:
        if self.rgb_yx3.ndim != 3 or self.rgb_yx3.shape[2] != 3:
            raise FormatError(f"scene has shape {self.rgb_yx3.shape}; give (y, x, 3) of red, green, blue")


def quicklook(
    raster: xr.DataArray, ramps: Mapping[str, Ramp | Classes], text: MapText, *,
    scenes: Mapping[str, Scene] | None = None,
) -> bytes:  # fmt: skip
    """Draw one panel a ramp, or classes, keyed by band, after the scenes, keyed by title; return the bytes of a PNG.

    All scenes have the stretch of the last. Where the raster has a band `applicable`, cells of 0 are hatched on every
    layer.

    Raises:
        FormatError: not a raster, no ramp, or a ramp for a band it does not have.
    """
    box, bands = geobox_of(raster), raster["band"].values.tolist()
    if missing := [name for name in ramps if name not in bands]:
        raise FormatError(f"no band {missing[0]!r} to draw in a raster of {bands}; name one of them")
    if not ramps:
        raise FormatError(f"no ramp to draw a raster of {bands}; give at least one")
    grid = _Grid.of(box)
    scenes = scenes or {}
    with house_style():
        sheet = _Sheet.plan(len(ramps) + len(scenes), grid, text)
        figure = Figure(figsize=sheet.inches, dpi=DPI)
        outside_yx = raster.sel(band="applicable").values == 0 if "applicable" in bands else np.zeros(box.shape, bool)
        sheet.write(figure, text, hatched=bool(outside_yx.any()))
        axes = [sheet.panel(figure, i, grid) for i in range(sheet.count)]
        for axis, scene in zip(axes, scenes.values(), strict=False):
            west, south, east, north = scene.bounds
            colours = _stretch(scene.rgb_yx3, [*scenes.values()][-1].rgb_yx3)
            axis.imshow(colours, extent=(west, east, south, north), interpolation="antialiased")
        for i, (name, ramp) in enumerate(ramps.items(), start=len(scenes)):
            image = _paint(axes[i], raster.sel(band=name).values, ramp, grid)
            (_class_bar if isinstance(ramp, Classes) else _colour_bar)(figure.add_axes(sheet.bar(i)), image, ramp)
            _hatch(axes[i], outside_yx, grid, sheet.map_inches)
        for i, name in enumerate([*scenes, *ramps]):
            axes[i].set_title(f"{'abcdefghijkl'[i]}  {name}", pad=5)
            axes[i].set(xlim=(grid.bounds[0], grid.bounds[2]), ylim=(grid.bounds[1], grid.bounds[3]))
        _scale_bar(axes[0], grid, sheet.map_inches)
        return png(figure)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Grid:
    """The frame of a map and the way from its metres to degrees."""

    bounds: Bounds
    to_degrees: pyproj.Transformer

    @classmethod
    def of(cls, box: GeoBox) -> _Grid:
        transformer = pyproj.Transformer.from_crs(box.crs.to_epsg(), 4326, always_xy=True)
        return cls(bounds=tuple(box.boundingbox.bbox), to_degrees=transformer)

    @property
    def aspect(self) -> float:
        west, south, east, north = self.bounds
        return (east - west) / (north - south)

    @property
    def ground_m(self) -> float:
        """Width on the ellipsoid along the middle of the map: a metre of the CRS need not be one there."""
        west, south, east, north = self.bounds
        middle = (south + north) / 2
        (lon0, lon1), (lat0, lat1) = self.to_degrees.transform([west, east], [middle, middle])
        return _GEOD.inv(lon0, lat0, lon1, lat1)[2]

    def edges(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Return (x, lon) along the south edge and (y, lat) along the west edge."""
        west, south, east, north = self.bounds
        x, y = np.linspace(west, east, 201), np.linspace(south, north, 201)
        lon, _ = self.to_degrees.transform(x, np.full_like(x, south))
        _, lat = self.to_degrees.transform(np.full_like(y, west), y)
        return (x, lon), (y, lat)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """Lay out `count` maps of one size in `columns`; all lengths in inches, from the top left."""

    count: int
    columns: int
    map_inches: tuple[float, float]
    head: tuple[list[str], list[str]]
    foot: list[str]

    @classmethod
    def plan(cls, count: int, grid: _Grid, text: MapText) -> _Sheet:
        low, high = _SIDES
        width = float(np.clip(np.sqrt(_AREA * grid.aspect), low, high))
        size = width, float(np.clip(width / grid.aspect, low / 2, high))
        # as near to a 4:3 page as it goes without leaving places empty
        columns = min(
            range(1, count + 1),
            key=lambda n: abs(np.log(grid.aspect * n / -(-count // n) / 1.4)) + 0.6 * (-count % n),
        )
        bare = cls(count=count, columns=columns, map_inches=size, head=([], []), foot=[])
        page = bare.inches[0] - 2 * _MARGIN
        head = _wrap(text.title, page / _LARGE), _wrap(text.subtitle, page / _SMALL)
        foot = _wrap(text.reading, page / _SMALL)
        return cls(count=count, columns=columns, map_inches=size, head=head, foot=foot)

    @property
    def head_inches(self) -> float:
        title, subtitle = self.head
        return _MARGIN + 0.24 * len(title) + 0.16 * len(subtitle) + 0.1

    @property
    def foot_inches(self) -> float:
        return _MARGIN + 0.16 * (len(self.foot) + 1)

    @property
    def cell(self) -> tuple[float, float]:
        width, height = self.map_inches
        return width + _GAP, _TITLE + height + _TICKS + _BAR

    @property
    def inches(self) -> tuple[float, float]:
        (width, height), rows = self.cell, -(-self.count // self.columns)
        across = max(_LEFT + self.columns * width - _GAP + _RIGHT, _PAGE)
        return across, self.head_inches + rows * height + self.foot_inches

    def rectangle(self, i: int, down: float, height: float) -> Bounds:
        """Return the figure fractions of a strip of panel i that starts `down` inches below its map's top."""
        row, column = divmod(i, self.columns)
        left = _LEFT + column * self.cell[0]
        top = self.head_inches + row * self.cell[1] + _TITLE + down
        across, along = self.inches
        return left / across, 1 - (top + height) / along, self.map_inches[0] / across, height / along

    def bar(self, i: int) -> Bounds:
        return self.rectangle(i, self.map_inches[1] + _TICKS, 0.1)

    def panel(self, figure: Figure, i: int, grid: _Grid) -> Axes:
        axis = figure.add_axes(self.rectangle(i, 0.0, self.map_inches[1]))
        axis.set_facecolor(_NODATA)
        frame = Rectangle((0, 0), 1, 1, fc="none", ec=_HATCH, hatch="////", lw=0, zorder=0)
        frame.set_transform(axis.transAxes)
        axis.add_patch(frame)
        for (along, degrees), side, inches, letters in zip(
            grid.edges(), (axis.xaxis, axis.yaxis), self.map_inches, ("WE", "SN"), strict=True
        ):
            at, ticks = _round_degrees(along, degrees, count=max(int(inches / 0.85), 1))
            side.set_ticks(at, _degree_labels(ticks, letters))
        axis.tick_params(labelleft=i % self.columns == 0)
        return axis

    def write(self, figure: Figure, text: MapText, *, hatched: bool) -> None:
        across, along = self.inches
        left, top = _MARGIN / across, 1 - _MARGIN / along
        (title, subtitle), foot = (["\n".join(lines) for lines in self.head]), "\n".join(self.foot)
        below = 0.24 * len(self.head[0]) / along
        figure.text(left, top, title, size=13, weight="bold", va="top", linespacing=1.15)
        figure.text(left, top - below - 0.02 / along, subtitle, color=MUTED, va="top", linespacing=1.25)
        figure.text(left, (self.foot_inches - 0.04) / along, foot, va="top", linespacing=1.25)
        figure.text(left, 0.08 / along, text.credit, size=7, color=MUTED, va="bottom")
        keys = [Patch(fc=_NODATA, ec=_HATCH, hatch="//////", lw=0.5, label="no data")]
        if hatched:
            keys.append(Patch(fc="white", ec=INK, hatch="\\\\\\\\", lw=0.5, label="outside the area of applicability"))
        figure.legend(
            handles=keys, ncols=len(keys), loc="lower right", bbox_to_anchor=(1 - 0.06 / across, 0.0), frameon=False,
            fontsize=7, handlelength=1.6, labelcolor=MUTED, borderaxespad=0.2,
        )  # fmt: skip


def _wrap(text: str, letters: float) -> list[str]:
    return textwrap.wrap(text, int(letters), break_on_hyphens=False)


def _paint(axis: Axes, values_yx: np.ndarray, ramp: Ramp | Classes, grid: _Grid) -> AxesImage:
    west, south, east, north = grid.bounds
    if isinstance(ramp, Classes):
        colours, norm = ListedColormap(ramp.colours), Normalize(-0.5, len(ramp.names) - 0.5)
    else:
        colours, norm = colormap(ramp), Normalize(ramp.low, ramp.high)
    extent = west, east, south, north
    return axis.imshow(values_yx, cmap=colours, norm=norm, extent=extent, interpolation="nearest")


def _hatch(axis: Axes, outside_yx: np.ndarray, grid: _Grid, map_inches: tuple[float, float]) -> None:
    """Stripe the cells outside, a dark line beside a light one, so that both show on any colour and let it through.

    Drawn as pixels of the page: patches of many thousand cells would take minutes.
    """
    if not outside_yx.any():
        return
    across, down = (max(1, round(inches * DPI)) for inches in map_inches)
    rows, cols = (np.arange(n) * cells // n for n, cells in zip((down, across), outside_yx.shape, strict=True))
    apart, lines = _STRIPES
    phase_yx = (np.arange(across) - np.arange(down)[:, None]) % apart
    rgba_yx4 = np.zeros((down, across, 4))
    for at, grey in lines:
        rgba_yx4[(phase_yx == at) & outside_yx[np.ix_(rows, cols)]] = (grey, grey, grey, _OPAQUE)
    west, south, east, north = grid.bounds
    axis.imshow(rgba_yx4, extent=(west, east, south, north), interpolation="nearest")


def _colour_bar(axis: Axes, image: AxesImage, ramp: Ramp) -> None:
    """Draw the legend; a pointed end says that some cells lie beyond it."""
    finite = image.get_array().compressed()
    below, above = bool((finite < ramp.low).any()), bool((finite > ramp.high).any())
    ends = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    legend = Colorbar(axis, image, orientation="horizontal", extend=ends, extendfrac=0.03)
    legend.outline.set_linewidth(0.5)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.tick_params(labelsize=8, length=2.5, pad=2)
    legend.set_label(ramp.legend, size=8, labelpad=2)


def _class_bar(axis: Axes, image: AxesImage, classes: Classes) -> None:
    """Draw the legend of classes: a field each, its name below."""
    legend = Colorbar(axis, image, orientation="horizontal", ticks=range(len(classes.names)))
    legend.outline.set_linewidth(0.5)
    axis.set_xticklabels(classes.names)
    axis.tick_params(labelsize=7.5, length=0, pad=3)
    legend.set_label(classes.label, size=8, labelpad=2)


def _stretch(rgb_yx3: np.ndarray, like_yx3: np.ndarray) -> np.ndarray:
    """Return RGBA in 0-1: one joint 1-99% stretch, that of `like_yx3`, so colours stay true, brightened a little."""
    finite, known = (np.isfinite(rgb).all(axis=2) for rgb in (rgb_yx3, like_yx3))
    shown = np.zeros((*rgb_yx3.shape[:2], 4))
    if finite.any() and known.any():
        low, high = np.percentile(like_yx3[known], (1, 99))
        scaled = np.clip((rgb_yx3[finite] - low) / max(high - low, 1e-9), 0, 1)
        shown[finite] = np.concatenate([scaled ** (1 / 1.3), np.ones((len(scaled), 1))], axis=1)
    return shown


def _round_degrees(along: np.ndarray, degrees: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where about `count` round degrees fall on an edge of the frame, and which they are.

    None lies so near to a corner that its label would meet that of the map beside, where others are left.
    """
    low, high = degrees.min(), degrees.max()
    ticks = MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    away = np.minimum(ticks - low, high - ticks) > _CORNER * (high - low)
    ticks = ticks[away] if away.any() else ticks
    order = np.argsort(degrees)
    return np.interp(ticks, degrees[order], along[order]), ticks


def _degree_labels(ticks: np.ndarray, letters: str) -> list[str]:
    shortest = [f"{abs(tick):.4f}".rstrip("0").rstrip(".") for tick in ticks]
    digits = max((len(text.partition(".")[2]) for text in shortest), default=0)
    return [f"{abs(tick):.{digits}f}°{letters[int(tick > 0)] if tick else ''}" for tick in ticks]


def _scale_bar(axis: Axes, grid: _Grid, map_inches: tuple[float, float]) -> None:
    """Draw a bar of a round length on the ground, at most a third of the map."""
    limit = grid.ground_m / 3
    power = 10.0 ** np.floor(np.log10(limit))
    length_m = max(step * power for step in (1, 2, 5) if step * power <= limit)
    share = length_m / grid.ground_m
    label = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    (width, height), dress = map_inches, {"transform": axis.transAxes, "zorder": 5}
    left, base = 0.14 / width, 0.14 / height
    for part, colour in ((share, "white"), (share / 2, INK)):
        bar = Rectangle((left, base), part, 0.055 / height, fc=colour, ec=INK, lw=0.6, **dress)
        axis.add_patch(bar)
    above = base + 0.085 / height
    axis.text(left + share / 2, above, label, ha="center", va="bottom", size=8, path_effects=_HALO, **dress)
