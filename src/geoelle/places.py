"""Read the places whose series is asked for, points or polygons with names, and find the cells that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import shapely
from shapely.geometry.base import BaseGeometry

from geoelle.area import Area
from geoelle.errors import AreaError
from geoelle.lattice import Addresses, Lattice

__all__ = ["Place", "cells_of", "ground_of", "read_points", "read_polygons", "zone_of"]

_NAMES = ("name", "id")
_SPECK_DEG = 1e-5  # a point as an area: about a metre
_ANY = "2000"  # an area needs dates; these are not used


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A named point or (multi)polygon in EPSG:4326."""

    name: str
    geometry: BaseGeometry

    @property
    def lonlat(self) -> tuple[float, float]:
        """Return a point inside of it, degrees."""
        point = self.geometry.representative_point()
        return point.x, point.y


def read_points(texts: Sequence[str]) -> tuple[Place, ...]:
    """Read "LON,LAT" in degrees; a point is named by its text.

    Raises: AreaError.
    """
    return tuple(Place(name=text.strip(), geometry=_point(text)) for text in texts)


def read_polygons(path: Path) -> tuple[Place, ...]:
    """Read the polygons of a GeoJSON or GeoParquet file in any CRS, named by their `name` or `id`, else by number.

    Raises: AreaError (unreadable, none, other shapes, or a name twice).
    """
    try:
        table = geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
        shapes = table.geometry.to_crs(4326)
    except Exception as cause:  # drivers raise what they like
        raise AreaError(f"{path} holds no polygons ({cause}); give GeoJSON or GeoParquet") from cause
    column = next((name for name in _NAMES if name in table.columns and table[name].notna().all()), None)
    names = [f"polygon {i + 1}" for i in range(len(table))] if column is None else table[column].astype(str).tolist()
    if not names:
        raise AreaError(f"{path} holds no polygon; give at least one")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise AreaError(f"{path} has two polygons called {twice!r}; give each its own name")
    for name, shape in zip(names, shapes, strict=True):
        if shape is None or shape.geom_type not in ("Polygon", "MultiPolygon") or shape.area == 0 or not shape.is_valid:
            kind = "empty" if shape is None else shape.geom_type if shape.is_valid else shapely.is_valid_reason(shape)
            raise AreaError(
                f"{name!r} of {path} is no polygon with an area ({kind}); repair it, or give points by --at"
            )
    return tuple(Place(name=n, geometry=shapely.force_2d(s)) for n, s in zip(names, shapes, strict=True))


def ground_of(places: Sequence[Place]) -> BaseGeometry:
    """Return the ground of all places as one (multi)polygon, points as specks of a metre."""
    return shapely.union_all([_speck(place) for place in places])


def zone_of(place: Place) -> int:
    """Return the EPSG code of the UTM zone that a place lies in, by a point inside of it.

    Raises: AreaError (beyond UTM).
    """
    point = Place(name=place.name, geometry=shapely.Point(place.lonlat))
    return Area.parse(polygon=_speck(point), dates=_ANY).utm_epsgs()[0]


def cells_of(place: Place, lattice: Lattice) -> Addresses:
    """Return the cell that holds a point, or the cells whose centre lies in a polygon, by row, then column.

    Raises: AreaError (no centre in the polygon, or the CRS cannot hold it).
    """
    cells = lattice.select(place.geometry)
    if place.geometry.geom_type == "Point":
        return cells[:1]
    inside = cells[shapely.contains_xy(place.geometry, *cells.lonlat_n2.T)]
    if not len(inside):
        raise AreaError(
            f"polygon {place.name!r} holds no centre of a cell of {lattice.cell_m:g} m; draw it larger, name a point "
            "in it with --at, or take --dense or a smaller --stride"
        )
    return inside


def _point(text: str) -> shapely.Point:
    try:
        lon, lat = (float(part) for part in text.split(","))
    except ValueError as cause:
        raise AreaError(f"point is not LON,LAT ({text!r}); give two numbers in degrees") from cause
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        swapped = " (they seem to be swapped)" if -90 <= lon <= 90 and -180 <= lat <= 180 else ""
        raise AreaError(f"point is out of range ({text!r}){swapped}; give longitude, then latitude, in degrees")
    return shapely.Point(lon, lat)


def _speck(place: Place) -> BaseGeometry:
    if place.geometry.geom_type != "Point":
        return place.geometry
    return place.geometry.buffer(_SPECK_DEG / 2, cap_style="square")
