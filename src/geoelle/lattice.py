"""The chip lattice over `odc.geo.GeoBox`, `Address` and `Addresses`: where a chip is, with no I/O.

A chip is addressed, not cut: its lattice is anchored at the origin of the CRS, so the same ground has the
same address in every run and an area only selects. Columns grow eastwards from x = 0; rows grow
southwards from y = 0 (rows north of the origin are negative). A chip is `size_px` wide; its cell is the
`stride_px` square at its centre, and the cells of a lattice tile the plane.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
import pyproj
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.aoi import AreaOfUse
from shapely.geometry.base import BaseGeometry

from geoelle.errors import AreaError

__all__ = ["Address", "Addresses", "Lattice"]

_SEGMENT_DEG = 0.01  # a parallel's chord of this length strays by centimetres from its arc in a metre CRS
_SELECT_BLOCK = 64  # cells a side that are accepted or refused together before any single cell is tested
_MAX_CELLS = 50_000_000
_NEAR_DEG = 6.0  # how far beyond its area of use a CRS is still taken: a neighbouring UTM zone
_ADDRESS = re.compile(r"(\d+)/(\d+(?:\.\d+)?(?:e[+-]?\d+)?)/(\d+)/(\d+)/r(-?\d+)/c(-?\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Place chips on a fixed grid anchored at the origin of a projected CRS.

    `gsd_m` is metres a pixel, `size_px` the side of a chip and `stride_px` the step between chips, in pixels.

    Raises:
        AreaError: a CRS that is not projected in metres, or sizes that do not make a lattice.
    """

    epsg: int
    gsd_m: float
    size_px: int
    stride_px: int

    def __post_init__(self) -> None:
        for name, kind in (("epsg", int), ("gsd_m", float), ("size_px", int), ("stride_px", int)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        _crs(self.epsg)
        if not (math.isfinite(self.gsd_m) and self.gsd_m > 0):
            raise AreaError(f"gsd_m of a lattice is {self.gsd_m}; give metres a pixel, above 0")
        if not 0 < self.stride_px <= self.size_px or (self.size_px - self.stride_px) % 2:
            raise AreaError(
                f"stride of {self.stride_px} px does not fit chips of {self.size_px} px; "
                "use a stride of 1 to the chip size that leaves an even margin"
            )

    @property
    def cell_m(self) -> float:
        """Return the side of a cell in metres."""
        return self.stride_px * self.gsd_m

    @property
    def margin_m(self) -> float:
        """Return the distance from a chip's edge to its cell's, in metres."""
        return (self.size_px - self.stride_px) // 2 * self.gsd_m

    def geobox(self, row: int, col: int) -> GeoBox:
        """Return the chip's window, `size_px` square at `gsd_m`."""
        return self.union_geobox([row], [col])

    def cell_geobox(self, row: int, col: int) -> GeoBox:
        """Return the chip's cell as one pixel."""
        return self.raster_geobox([row], [col])

    def raster_geobox(self, rows: Sequence[int] | np.ndarray, cols: Sequence[int] | np.ndarray) -> GeoBox:
        """Return the grid of all cells between the extreme rows and columns, one pixel a cell."""
        return self._window(rows, cols, self.cell_m, self.margin_m, stride=1, size=1)

    def union_geobox(self, rows: Sequence[int] | np.ndarray, cols: Sequence[int] | np.ndarray) -> GeoBox:
        """Return the smallest window at `gsd_m` that holds all the chips."""
        return self._window(rows, cols, self.gsd_m, 0.0, stride=self.stride_px, size=self.size_px)

    def select(self, geometry: BaseGeometry) -> Addresses:
        """List the chips whose cell the EPSG:4326 geometry overlaps, sorted by row, then column.

        A polygon that only touches the edge of a cell does not select it; a point or a line does.

        Raises:
            AreaError: the CRS cannot hold the geometry, or there would be over 50 million cells.
        """
        shape = _project(geometry, self.epsg)
        if (count := shape.area / self.cell_m**2) > _MAX_CELLS:
            cells = f"{count:.3g} cells of {self.cell_m:g} m"
            raise AreaError(f"area holds {cells} (limit {_MAX_CELLS:.0e}); split it or widen the stride")
        shapely.prepare(shape)
        block = _SELECT_BLOCK
        west, south, east, north = shape.bounds
        (row0, row1), (col0, col1) = self._index(-north, -south), self._index(west, east)
        rows, cols = _mesh(row0 // block, row1 // block, col0 // block, col1 // block)
        boxes = self._boxes(rows * block, cols * block, block)
        hit = shapely.intersects(shape, boxes)
        inside = shapely.contains_properly(shape, boxes[hit])
        row_steps, col_steps = _mesh(0, block - 1, 0, block - 1)
        rows = (rows[hit, None] * block + row_steps).ravel()
        cols = (cols[hit, None] * block + col_steps).ravel()
        keep = np.repeat(inside, block * block)
        keep[~keep] = _overlaps(shape, self._boxes(rows[~keep], cols[~keep], 1))
        rows, cols = rows[keep], cols[keep]
        order = np.lexsort((cols, rows))
        return Addresses(lattice=self, rows=rows[order], cols=cols[order])

    def _index(self, low: float, high: float) -> tuple[int, int]:
        return tuple(math.floor((value - self.margin_m) / self.cell_m) for value in (low, high))

    def _boxes(self, rows: np.ndarray, cols: np.ndarray, span: int) -> np.ndarray:
        """Return the squares of `span` x `span` cells whose north-west cells are given."""
        west, north = cols * self.cell_m + self.margin_m, -(rows * self.cell_m + self.margin_m)
        return shapely.box(west, north - span * self.cell_m, west + span * self.cell_m, north)

    def _window(
        self,
        rows: Sequence[int] | np.ndarray,
        cols: Sequence[int] | np.ndarray,
        pixel_m: float,
        inset_m: float,
        *,
        stride: int,
        size: int,
    ) -> GeoBox:
        (row0, row1), (col0, col1) = ((int(np.min(index)), int(np.max(index))) for index in (rows, cols))
        shape = (row1 - row0) * stride + size, (col1 - col0) * stride + size
        west, north = col0 * self.cell_m + inset_m, -(row0 * self.cell_m + inset_m)
        return GeoBox(shape, Affine(pixel_m, 0, west, 0, -pixel_m, north), f"EPSG:{self.epsg}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Name one chip: its lattice, row and column; `str()` gives "32631/10/256/256/r-2004/c137".

    Raises:
        AreaError: what names no lattice.
    """

    epsg: int
    gsd_m: float
    size_px: int
    stride_px: int
    row: int
    col: int

    def __post_init__(self) -> None:
        _ = self.lattice

    def __str__(self) -> str:
        return f"{_prefix(self)}/r{self.row}/c{self.col}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read the string form.

        Raises:
            AreaError: text that is not an address, or names no lattice.
        """
        if not (match := _ADDRESS.fullmatch(text)):
            raise AreaError(f"address is not EPSG/GSD/SIZE/STRIDE/rROW/cCOL ({text!r}); see docs/formats.md")
        epsg, gsd, size, stride, row, col = match.groups()
        return cls(
            epsg=int(epsg),
            gsd_m=float(gsd),
            size_px=int(size),
            stride_px=int(stride),
            row=int(row),
            col=int(col),
        )

    @property
    def lattice(self) -> Lattice:
        """Return the lattice the chip lies on."""
        return Lattice(epsg=self.epsg, gsd_m=self.gsd_m, size_px=self.size_px, stride_px=self.stride_px)

    @property
    def geobox(self) -> GeoBox:
        """Return the chip's window."""
        return self.lattice.geobox(self.row, self.col)

    @property
    def cell(self) -> GeoBox:
        """Return the chip's cell as one pixel."""
        return self.lattice.cell_geobox(self.row, self.col)

    @property
    def lonlat(self) -> tuple[float, float]:
        """Return the centre as (lon, lat) in degrees."""
        lon, lat = self._alone.lonlat_n2[0]
        return float(lon), float(lat)

    @property
    def footprint(self) -> shapely.Polygon:
        """Return the chip's outline in EPSG:4326, counter-clockwise."""
        return self._alone.footprints[0]

    @property
    def _alone(self) -> Addresses:
        return Addresses(lattice=self.lattice, rows=[self.row], cols=[self.col])


@dataclass(frozen=True, slots=True, eq=False)
class Addresses:
    """Hold many addresses of one lattice: `rows` and `cols` are int64 of equal length.

    Raises:
        AreaError: rows and columns that are not integers of one length.
    """

    lattice: Lattice
    rows: np.ndarray
    cols: np.ndarray

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            index = np.asarray(getattr(self, name))
            if index.size and not np.issubdtype(index.dtype, np.integer):
                raise AreaError(f"{name} of addresses are {index.dtype}; give integers")
            object.__setattr__(self, name, index.astype(np.int64))
        if self.rows.ndim != 1 or self.rows.shape != self.cols.shape:
            found = f"rows {self.rows.shape}, cols {self.cols.shape}"
            raise AreaError(f"rows and cols of addresses differ ({found}); give one of each a chip")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Address]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, key: int | np.integer) -> Address: ...
    @overload
    def __getitem__(self, key: slice | np.ndarray | Sequence[int]) -> Addresses: ...
    def __getitem__(self, key: int | np.integer | slice | np.ndarray | Sequence[int]) -> Address | Addresses:
        rows, cols, grid = self.rows[key], self.cols[key], self.lattice
        if np.ndim(rows):
            return Addresses(lattice=grid, rows=rows, cols=cols)
        return Address(
            epsg=grid.epsg,
            gsd_m=grid.gsd_m,
            size_px=grid.size_px,
            stride_px=grid.stride_px,
            row=int(rows),
            col=int(cols),
        )

    @property
    def xy_n2(self) -> np.ndarray:
        """Return chip centres in metres of the lattice's CRS, (n, 2) float64: x, y."""
        half = self.lattice.size_px * self.lattice.gsd_m / 2
        return np.stack(
            [self.cols * self.lattice.cell_m + half, -(self.rows * self.lattice.cell_m + half)], axis=1
        )

    @property
    def lonlat_n2(self) -> np.ndarray:
        """Return chip centres in degrees, (n, 2) float64: lon, lat."""
        return _to_degrees(self.xy_n2, self.lattice.epsg)

    @property
    def footprints(self) -> np.ndarray:
        """Return chip outlines in EPSG:4326, (n,) polygons, counter-clockwise.

        A chip across the antimeridian has longitudes beyond 180, so that its outline stays one small polygon.
        """
        half = self.lattice.size_px * self.lattice.gsd_m / 2
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * half
        corners_m2 = (self.xy_n2[:, None, :] + corners).reshape(-1, 2)
        rings = _to_degrees(corners_m2, self.lattice.epsg).reshape(-1, 5, 2)
        centre_lon = self.lonlat_n2[:, None, 0]
        rings[..., 0] = centre_lon + (rings[..., 0] - centre_lon + 180) % 360 - 180
        return shapely.polygons(rings)

    def strings(self) -> list[str]:
        """Return the string form of every address."""
        prefix = _prefix(self.lattice)
        pairs = zip(self.rows.tolist(), self.cols.tolist(), strict=True)
        return [f"{prefix}/r{row}/c{col}" for row, col in pairs]

    def concat(self, *others: Addresses) -> Addresses:
        """Append other addresses of the same lattice, in the order given.

        Raises:
            AreaError: addresses of two lattices.
        """
        for other in others:
            if other.lattice != self.lattice:
                pair = f"{_prefix(self.lattice)}, {_prefix(other.lattice)}"
                raise AreaError(f"addresses lie on two lattices ({pair}); keep them apart")
        every = (self, *others)
        return Addresses(
            lattice=self.lattice,
            rows=np.concatenate([a.rows for a in every]),
            cols=np.concatenate([a.cols for a in every]),
        )

    def parts(self, block: int) -> list[tuple[str, Addresses]]:
        """Shard by super-blocks of `block` x `block` addresses, named "r-12_c5".

        An address is in the part of the same name whatever else is selected; a part is sorted by row, then
        column. Names are unique in one lattice.

        Raises:
            AreaError: a block below 1.
        """
        if block < 1:
            raise AreaError(f"block of a part is {block} addresses; give at least 1")
        order = np.lexsort((self.cols, self.rows, self.cols // block, self.rows // block))
        keys = np.stack([self.rows // block, self.cols // block], axis=1)[order]
        starts = np.flatnonzero(np.any(np.diff(keys, axis=0, prepend=keys[:1] - 1), axis=1))
        names = [f"r{row}_c{col}" for row, col in keys[starts].tolist()]
        return [(name, self[kept]) for name, kept in zip(names, np.split(order, starts)[1:], strict=True)]


def _prefix(of: Lattice | Address) -> str:
    gsd = int(of.gsd_m) if float(of.gsd_m).is_integer() else float(of.gsd_m)
    return f"{of.epsg}/{gsd}/{of.size_px}/{of.stride_px}"


def _mesh(row0: int, row1: int, col0: int, col1: int) -> tuple[np.ndarray, np.ndarray]:
    rows, cols = np.arange(row0, row1 + 1), np.arange(col0, col1 + 1)
    return np.repeat(rows, len(cols)), np.tile(cols, len(rows))


def _overlaps(shape: BaseGeometry, boxes: np.ndarray) -> np.ndarray:
    hit = shapely.intersects(shape, boxes)
    if shapely.get_dimensions(shape) == 2:
        hit[hit] = ~shapely.touches(shape, boxes[hit])
    return hit


@lru_cache(maxsize=256)
def _crs(epsg: int) -> pyproj.CRS:
    try:
        crs = pyproj.CRS.from_epsg(epsg)
    except pyproj.exceptions.CRSError as cause:
        raise AreaError(f"no CRS has the code EPSG:{epsg}; name a projected CRS in metres") from cause
    units = {axis.unit_name for axis in crs.axis_info[:2]}
    if not crs.is_projected or units != {"metre"}:
        found = f"{crs.name}: {', '.join(sorted(units))}"
        raise AreaError(f"EPSG:{epsg} is not projected in metres ({found}); name a CRS that is")
    return crs


@lru_cache(maxsize=256)
def _transformer(source: int, target: int) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def _to_degrees(xy_n2: np.ndarray, epsg: int) -> np.ndarray:
    return np.stack(_transformer(epsg, 4326).transform(xy_n2[:, 0], xy_n2[:, 1]), axis=1)


def _project(geometry: BaseGeometry, epsg: int) -> BaseGeometry:
    """Carry an EPSG:4326 geometry with densified edges into a metre CRS made for that place."""
    dense = shapely.segmentize(geometry, _SEGMENT_DEG)
    turn = _transformer(4326, epsg)
    shape = shapely.transform(dense, lambda xy: np.stack(turn.transform(xy[:, 0], xy[:, 1]), axis=1))
    held = not shape.is_empty and np.isfinite(shapely.get_coordinates(shape)).all() and shape.is_valid
    if not held or not _in_use(geometry.bounds, _crs(epsg).area_of_use):
        bounds = tuple(round(v, 4) for v in geometry.bounds)
        raise AreaError(f"EPSG:{epsg} cannot hold the area {bounds}; name a CRS made for that place")
    return shape


def _in_use(bounds: tuple[float, float, float, float], use: AreaOfUse | None) -> bool:
    """Say whether bounds lie in the area of use of a CRS, or near it; either may cross the antimeridian."""
    if use is None:
        return True
    west, south, east, north = bounds
    if not use.south - _NEAR_DEG <= south <= north <= use.north + _NEAR_DEG:
        return False
    end = use.east + (360 if use.west > use.east else 0)
    return any(use.west - _NEAR_DEG <= west + k and east + k <= end + _NEAR_DEG for k in (-360, 0, 360))
