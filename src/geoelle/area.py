"""`Area`: the ground and the dates asked for, and the chips it selects; files are read for polygons only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyproj
import shapely
import shapely.geometry
from shapely.geometry.base import BaseGeometry

from geoelle.errors import AreaError
from geoelle.lattice import Address, Addresses, Lattice

__all__ = ["Address", "Addresses", "Area", "Lattice", "lattices_for"]

_CLOCK = r"T\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:\d\d)?"
_DATE = re.compile(rf"(\d{{4}})(?:-(\d\d)(?:-(\d\d)({_CLOCK})?)?)?")
_NOT_GEOJSON = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Hold the ground and the dates asked for.

    `bbox` is (west, south, east, north) in degrees, EPSG:4326; `start` and `end` are UTC and both belong to
    the area; `polygon`, when given, is a (multi)polygon in EPSG:4326 whose bounds are `bbox`.

    Raises:
        AreaError: a bbox, polygon or date that cannot be mapped; areas across the antimeridian are refused.
    """

    bbox: tuple[float, float, float, float]
    start: datetime
    end: datetime
    polygon: BaseGeometry | None = None

    def __post_init__(self) -> None:
        _check_bbox(self.bbox)
        if self.polygon is not None and tuple(self.polygon.bounds) != tuple(self.bbox):
            raise AreaError(
                f"bbox {self.bbox} is not the bounds of the polygon {self.polygon.bounds}; use Area.parse"
            )
        if self.start.utcoffset() != timedelta(0) or self.end.utcoffset() != timedelta(0):
            raise AreaError(f"dates are not in UTC ({self.start}, {self.end}); give both a UTC timezone")
        if self.start > self.end:
            raise AreaError(f"dates are reversed ({self.dates}); give the earlier one first")

    @classmethod
    def parse(
        cls,
        *,
        bbox: str | Sequence[float] | None = None,
        polygon: str | Path | Mapping | BaseGeometry | None = None,
        dates: str,
    ) -> Area:
        """Read what a user wrote: a bbox or a polygon, and dates.

        `bbox` is "W,S,E,N" or four numbers. `polygon` is a .geojson, .json or .parquet file, WKT, a
        GeoJSON mapping or a shapely geometry; a file's own CRS is honoured. `dates` is "2024", "2024-06",
        "2024-06-01", an RFC 3339 time, or "A/B" of any two of these; a time without a zone is UTC, and
        the end of a period is its last second.

        Raises:
            AreaError: neither or both of bbox and polygon, or one that cannot be mapped.
        """
        if (bbox is None) == (polygon is None):
            raise AreaError(
                "an area needs a bbox or a polygon, not both; give west,south,east,north or a polygon file"
            )
        start, end = _parse_dates(dates)
        if polygon is None:
            return cls(bbox=_parse_bbox(bbox), start=start, end=end)
        shape = _parse_polygon(polygon)
        return cls(bbox=tuple(float(v) for v in shape.bounds), start=start, end=end, polygon=shape)

    @property
    def geometry(self) -> BaseGeometry:
        """Return the polygon, or the bbox as one, in EPSG:4326."""
        return self.polygon if self.polygon is not None else shapely.box(*self.bbox)

    @property
    def km2(self) -> float:
        """Return the area on the WGS 84 ellipsoid, in square kilometres."""
        rings = shapely.orient_polygons(shapely.segmentize(self.geometry, 0.1))
        return pyproj.Geod(ellps="WGS84").geometry_area_perimeter(rings)[0] / 1e6

    @property
    def centroid(self) -> tuple[float, float]:
        """Return the centroid as (lon, lat) in degrees."""
        point = self.geometry.centroid
        return point.x, point.y

    @property
    def dates(self) -> str:
        """Return "A/B" in RFC 3339, UTC, both ends included."""
        return "/".join(side.isoformat().replace("+00:00", "Z") for side in (self.start, self.end))

    def utm_epsgs(self) -> list[int]:
        """List the UTM zones the area overlaps, west to east, north before south.

        Zones are 6 degrees wide everywhere: the exceptions of Norway and Svalbard are not followed, since all
        that matters here is that every place has one zone.

        Raises:
            AreaError: the area reaches beyond UTM (80 S to 84 N).
        """
        west, south, east, north = self.bbox
        if south < -80 or north > 84:
            raise AreaError(f"UTM does not reach {self.bbox} (80 S to 84 N); name another CRS, EPSG:3413 say")
        zones = range(int((west + 180) // 6) + 1, math.ceil((east + 180) / 6) + 1)
        boxes = [(base + zone, _zone_box(base + zone)) for zone in zones for base in (32600, 32700)]
        return [epsg for epsg, box in boxes if shapely.intersection(self.geometry, box).area > 0]

    def to_dict(self) -> dict[str, object]:
        """Return what a manifest keeps: bbox, dates, and the polygon as WKT or None."""
        wkt = None if self.polygon is None else shapely.to_wkt(self.polygon, rounding_precision=-1)
        return {"bbox": list(self.bbox), "dates": self.dates, "polygon": wkt}


def lattices_for(
    area: Area, gsd_m: float, size_px: int, stride_px: int, epsg: int | None = None
) -> list[tuple[Lattice, Addresses]]:
    """Select the chips of an area: one lattice for each UTM zone it overlaps, or one in the CRS given.

    A cell belongs to the zone its centre lies in, so no address depends on the area. Lattices of two
    zones are turned against each other: along their border, slivers of less than a cell are covered twice
    or not at all.

    Raises:
        AreaError: a CRS not projected in metres or that cannot hold the area, or no cell centre in the zone.
    """
    if epsg is not None:
        lattice = Lattice(epsg=epsg, gsd_m=gsd_m, size_px=size_px, stride_px=stride_px)
        return [(lattice, lattice.select(area.geometry))]
    found = []
    for zone in area.utm_epsgs():
        lattice = Lattice(epsg=zone, gsd_m=gsd_m, size_px=size_px, stride_px=stride_px)
        reach = 2 * lattice.cell_m / (111_000 * math.cos(math.radians(84)))
        clipped = shapely.get_parts(
            shapely.intersection(area.geometry, _zone_box(zone).buffer(reach, join_style="mitre"))
        )
        addresses = lattice.select(shapely.union_all(clipped[shapely.get_dimensions(clipped) == 2]))
        addresses = addresses[_zone_of(addresses.lonlat_n2) == zone]
        if len(addresses):
            found.append((lattice, addresses))
    if not found:
        raise AreaError(
            f"no cell centre lies in the UTM zone of {area.bbox}; widen the area or name its projected CRS"
        )
    return found


def _zone_of(lonlat_n2: np.ndarray) -> np.ndarray:
    zone = np.clip((lonlat_n2[:, 0] + 180) // 6 + 1, 1, 60).astype(int)
    return np.where(lonlat_n2[:, 1] >= 0, 32600, 32700) + zone


def _zone_box(epsg: int) -> shapely.Polygon:
    west = (epsg % 100 - 1) * 6 - 180
    south, north = (0, 84) if epsg < 32700 else (-80, 0)
    return shapely.box(west, south, west + 6, north)


def _check_bbox(bbox: tuple[float, float, float, float]) -> None:
    west, south, east, north = bbox
    hint = "give west,south,east,north in degrees, and an area across the antimeridian as two"
    if not all(math.isfinite(v) for v in bbox):
        raise AreaError(f"bbox holds a number that is not finite ({bbox}); {hint}")
    if min(west, east) < -180 or max(west, east) > 180 or min(south, north) < -90 or max(south, north) > 90:
        raise AreaError(f"bbox is out of range ({bbox}); {hint}")
    if west > east or south > north:
        raise AreaError(f"bbox is reversed ({bbox}); {hint}")
    if west == east or south == north:
        raise AreaError(f"bbox has no area ({bbox}); {hint}")
    if east - west > 180:
        raise AreaError(f"bbox spans {east - west:g} degrees ({bbox}); {hint}")


def _parse_bbox(bbox: str | Sequence[float]) -> tuple[float, float, float, float]:
    values = bbox.split(",") if isinstance(bbox, str) else list(bbox)
    try:
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError) as cause:
        raise AreaError(f"bbox is not made of numbers ({bbox!r}); give west,south,east,north") from cause
    if len(numbers) != 4:
        raise AreaError(f"bbox has {len(numbers)} numbers ({bbox!r}), not 4; give west,south,east,north")
    return numbers


def _parse_polygon(polygon: str | Path | Mapping | BaseGeometry) -> BaseGeometry:
    if isinstance(polygon, BaseGeometry):
        return _join([polygon], "geometry")
    if isinstance(polygon, Mapping):
        return _from_geojson(polygon, "mapping")
    if str(polygon).lstrip()[:12].upper().startswith(("POLYGON", "MULTIPOLYGON")):
        return _from_wkt(str(polygon))
    if str(polygon).lstrip().startswith("{"):
        return _from_json(str(polygon), "text")
    path = Path(polygon)
    if not path.is_file():
        raise AreaError(f"polygon file does not exist ({path}); give .geojson, .json, .parquet or WKT")
    if path.suffix == ".parquet":
        return _from_geoparquet(path)
    if path.suffix not in (".geojson", ".json"):
        raise AreaError(f"polygon file is not of a known kind ({path}); give .geojson, .json or .parquet")
    return _from_json(path.read_bytes(), str(path))


def _from_json(text: str | bytes, name: str) -> BaseGeometry:
    try:
        content = json.loads(text)
    except ValueError as cause:
        raise AreaError(f"polygon is not JSON ({name}: {cause}); give GeoJSON") from cause
    return _from_geojson(content, name)


def _from_wkt(text: str) -> BaseGeometry:
    try:
        shape = shapely.from_wkt(text)
    except shapely.errors.GEOSException as cause:
        raise AreaError(f"polygon is not WKT ({text[:40]!r}: {cause}); close every ring") from cause
    return _join([shape], "WKT")


def _from_geojson(content: object, name: str) -> BaseGeometry:
    """Join every geometry of a GeoJSON object; its old-style `crs` member is honoured."""
    try:
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        geometries = [f["geometry"] if f["type"] == "Feature" else f for f in features]
        shapes = [shapely.geometry.shape(geometry) for geometry in geometries]
        code = content["crs"]["properties"]["name"] if content.get("crs") else "OGC:CRS84"
        crs = pyproj.CRS.from_user_input(code)
    except (*_NOT_GEOJSON, shapely.errors.ShapelyError, pyproj.exceptions.CRSError) as cause:
        raise AreaError(f"polygon is not GeoJSON ({name}: {cause}); give a Polygon or Features") from cause
    return _to_4326(_join(shapes, name), crs)


def _from_geoparquet(path: Path) -> BaseGeometry:
    import geopandas
    import pyarrow

    try:
        geometry = geopandas.read_parquet(path).geometry
    except (AttributeError, KeyError, ValueError, pyarrow.ArrowException) as cause:
        raise AreaError(
            f"polygon file is not GeoParquet ({path}: {cause}); give one with geometry"
        ) from cause
    return _to_4326(_join(list(geometry.dropna()), str(path)), geometry.crs or pyproj.CRS("OGC:CRS84"))


def _join(shapes: Sequence[BaseGeometry], name: str) -> BaseGeometry:
    """Return one flat (multi)polygon; anything else, and what is not valid, is refused."""
    if not shapes:
        raise AreaError(f"polygon is missing: {name} holds no geometry; give a Polygon or MultiPolygon")
    for shape in shapes:
        if not shape.is_valid:
            reason = shapely.is_valid_reason(shape)
            raise AreaError(f"polygon is not valid ({name}: {reason}); repair it (shapely.make_valid)")
        if shape.geom_type not in ("Polygon", "MultiPolygon") or shape.area == 0:
            found = f"{shape.geom_type}, area {shape.area:g}"
            raise AreaError(f"polygon has no area ({name}: {found}); give a Polygon or MultiPolygon")
    return shapely.force_2d(shapes[0] if len(shapes) == 1 else shapely.union_all(shapes))


def _to_4326(shape: BaseGeometry, crs: pyproj.CRS) -> BaseGeometry:
    """Carry a geometry to EPSG:4326, lon first, with densified edges; degrees of WGS 84 stay as they are."""
    if crs.is_geographic and crs.equals("EPSG:4326", ignore_axis_order=True):
        return shape
    turn = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    west, south, east, north = shape.bounds
    dense = shapely.segmentize(shape, max(east - west, north - south) / 256)
    return shapely.transform(dense, lambda xy: np.stack(turn.transform(xy[:, 0], xy[:, 1]), axis=1))


def _parse_dates(dates: str) -> tuple[datetime, datetime]:
    sides = str(dates).split("/")
    if len(sides) > 2:
        raise AreaError(f"dates have {len(sides)} sides ({dates!r}); give 2024, 2024-06, 2024-06-01 or A/B")
    start, end = _period(sides[0])[0], _period(sides[-1])[1]
    if start > end:
        raise AreaError(f"dates are reversed ({dates!r}); give the earlier one first")
    return start, end


def _period(text: str) -> tuple[datetime, datetime]:
    """Return the first and last second, UTC, of a year, a month, a day or one moment."""
    hint = "give 2024, 2024-06, 2024-06-01 or A/B of these"
    if not (match := _DATE.fullmatch(text.strip())):
        raise AreaError(f"date cannot be read ({text!r}); {hint}")
    year, month, day, clock = match.groups()
    try:
        if clock:
            moment = datetime.fromisoformat(text.strip())
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            return moment, moment
        first = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        if day:
            after = first + timedelta(days=1)
        elif month:
            after = (first + timedelta(days=31)).replace(day=1)
        else:
            after = first.replace(year=first.year + 1)
    except (OverflowError, ValueError) as cause:
        raise AreaError(f"date does not exist ({text!r}: {cause}); {hint}") from cause
    return first, after - timedelta(seconds=1)
