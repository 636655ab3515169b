"""Put pixels of one grid on another, exactly: one place has one number, whatever window it is read in.

GDAL's warper approximates the way between two CRSs to an eighth of a pixel, and where it approximates depends
on the window. Chips are addressed, so here every pixel centre is transformed by itself, once for all files of
a CRS. A source whose pixels are those of the target, or hold whole ones, is copied, not interpolated; a finer
source is averaged over whole blocks first; all else is bilinear over the valid neighbours, or nearest for
classes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pyproj
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import map_coordinates

__all__ = ["Placement", "Target", "place", "sample"]

_FIT = 0.01  # pixels of misfit over the whole window below which two grids are the same
_LEAST_WEIGHT = 0.5  # a bilinear value needs at least half of its weight from valid pixels


class Target:
    """Hold the pixels wanted, and where their centres lie in other CRSs; safe to share between threads."""

    def __init__(self, geobox: GeoBox) -> None:
        self.geobox = geobox
        self._centres: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def centres(self, crs: str) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of every pixel centre in another CRS, two (rows, cols) float64 arrays."""
        with self._lock:
            if crs not in self._centres:
                height, width = self.geobox.shape
                cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
                x, y = _apply(self.geobox.affine, cols, rows)
                turn = pyproj.Transformer.from_crs(str(self.geobox.crs), crs, always_xy=True)
                self._centres[crs] = turn.transform(x, y)
            return self._centres[crs]


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Say where target pixels lie in a source.

    `rows` and `cols` broadcast to the target's shape, in source pixels; 0 is the centre of the first.
    `scale` is source pixels a target pixel; `whole` tells that no interpolation is needed.
    """

    rows: np.ndarray
    cols: np.ndarray
    scale: float
    whole: bool

    def window(self, shape: tuple[int, int], margin: int = 2) -> tuple[slice, slice]:
        """Return the (rows, cols) of the source that the target needs; empty where they do not meet."""
        slices = []
        for index, count in zip((self.rows, self.cols), shape, strict=True):
            known = index[np.isfinite(index)]
            if not known.size:
                return slice(0, 0), slice(0, 0)
            low, high = int(np.floor(known.min())) - margin, int(np.ceil(known.max())) + margin + 1
            slices.append(slice(min(max(low, 0), count), min(max(high, 0), count)))
        return slices[0], slices[1]

    def within(self, window: tuple[slice, slice], shrink: int) -> Placement:
        """Return the same placement in a window of the source whose blocks of `shrink` became one pixel."""
        rows, cols = (
            (index + 0.5) / shrink - 0.5 - part.start // shrink
            for index, part in zip((self.rows, self.cols), window, strict=True)
        )
        return Placement(rows, cols, self.scale / shrink, self.whole and shrink == 1)


def place(source: GeoBox, target: Target) -> Placement:
    """Locate every target pixel centre in a source grid of any CRS."""
    wanted = target.geobox
    if source.crs != wanted.crs:
        x, y = target.centres(str(source.crs))
        cols, rows = _apply(~source.affine, x, y)
        return Placement(rows - 0.5, cols - 0.5, _local_scale(rows, cols), False)
    way = _chain(~source.affine, wanted.affine)
    height, width = wanted.shape
    cols, rows = (np.arange(width) + 0.5)[None, :], (np.arange(height) + 0.5)[:, None]
    if abs(way.b) * height > _FIT or abs(way.d) * width > _FIT:
        x, y = _apply(way, cols, rows)
        return Placement(y - 0.5, x - 0.5, _local_scale(y, x), False)
    across, down = way.a * cols + way.c - 0.5, way.e * rows + way.f - 0.5
    whole = _fits(way.a, way.c, width) and _fits(way.e, way.f, height)
    return Placement(down, across, min(abs(way.a), abs(way.e)), whole)


def sample(pixels_cyx: np.ndarray, where: Placement, shape: tuple[int, int], *, smooth: bool) -> np.ndarray:
    """Take float32 pixels (c, y, x), NaN where missing, at a placement: (c, *shape) float32, NaN outside."""
    if not smooth or where.whole:
        return _nearest(pixels_cyx, where, shape)
    at = np.stack(np.broadcast_arrays(where.rows, where.cols))
    at[~np.isfinite(at)] = -9
    edge = np.array(pixels_cyx.shape[1:])[:, None, None] - 1
    inside = bool((at >= 0).all() and (at <= edge).all())
    out = np.empty((len(pixels_cyx), *shape), np.float32)
    for band_yx, out_yx in zip(pixels_cyx, out, strict=True):
        valid = np.isfinite(band_yx)
        if inside and valid.all():
            out_yx[:] = _bilinear(band_yx, at)
            continue
        total = _bilinear(np.where(valid, band_yx, np.float32(0)), at)
        weight = _bilinear(valid.astype(np.float32), at)
        enough = weight >= _LEAST_WEIGHT
        np.divide(total, weight, out=out_yx, where=enough)
        out_yx[~enough] = np.nan
    return out


def block_mean(pixels_cyx: np.ndarray, shrink: int) -> np.ndarray:
    """Average blocks of `shrink` x `shrink` pixels over what is valid in them; the last may be cut short."""
    bands, height, width = pixels_cyx.shape
    short = ((0, 0), (0, -height % shrink), (0, -width % shrink))
    padded = np.pad(pixels_cyx, short, constant_values=np.nan)
    blocks = padded.reshape(bands, padded.shape[1] // shrink, shrink, padded.shape[2] // shrink, shrink)
    valid = np.isfinite(blocks)
    count = valid.sum(axis=(2, 4))
    total = np.where(valid, blocks, 0).sum(axis=(2, 4), dtype=np.float64)
    mean = np.full(count.shape, np.nan, np.float32)
    return np.divide(total, count, out=mean, where=count > 0, casting="same_kind")


def _apply(way: Affine, x: np.ndarray | float, y: np.ndarray | float) -> tuple:
    return way.a * x + way.b * y + way.c, way.d * x + way.e * y + way.f


def _chain(last: Affine, first: Affine) -> Affine:
    """Return the two as one, spelled out: releases of affine differ in the operator."""
    c, f = _apply(last, first.c, first.f)
    a, b = last.a * first.a + last.b * first.d, last.a * first.b + last.b * first.e
    d, e = last.d * first.a + last.e * first.d, last.d * first.b + last.e * first.e
    return Affine(a, b, c, d, e, f)


def _nearest(pixels_cyx: np.ndarray, where: Placement, shape: tuple[int, int]) -> np.ndarray:
    _, height, width = pixels_cyx.shape
    rows, row_in = _index(where.rows, height)
    cols, col_in = _index(where.cols, width)
    out = np.full((len(pixels_cyx), *shape), np.nan, np.float32)
    if pixels_cyx.size:
        np.copyto(out, pixels_cyx[:, rows, cols], where=row_in & col_in)
    return out


def _index(position: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest pixel of each position and whether it exists."""
    near = np.floor(np.where(np.isfinite(position), position, -9) + 0.5)
    inside = (near >= 0) & (near < count)
    return np.where(inside, near, 0).astype(np.intp), inside


def _bilinear(values_yx: np.ndarray, at: np.ndarray) -> np.ndarray:
    return map_coordinates(values_yx, at, output=np.float32, order=1, mode="grid-constant", prefilter=False)


def _fits(rate: float, start: float, count: int) -> bool:
    """Say whether target pixels are whole source pixels, or whole parts of them, along one axis."""
    parts = max(round(1 / abs(rate)), 1)
    drift = abs(abs(rate) * parts - 1) * count
    return drift < _FIT and abs(start * parts - round(start * parts)) < _FIT


def _local_scale(rows: np.ndarray, cols: np.ndarray) -> float:
    """Return the source pixels between neighbouring target centres in the middle of the target."""
    y, x = rows.shape[0] // 2, rows.shape[1] // 2
    steps = [(slice(max(y - 1, 0), y + 1), slice(x, x + 1)), (slice(y, y + 1), slice(max(x - 1, 0), x + 1))]
    lengths = [np.hypot(np.diff(rows[s].ravel()), np.diff(cols[s].ravel())) for s in steps]
    known = [float(v[0]) for v in lengths if v.size and np.isfinite(v[0])]
    return min(known, default=1.0)
