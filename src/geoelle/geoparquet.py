"""Undo what stac-geoparquet does to items, and tell from its columns which rows may matter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import shapely

if TYPE_CHECKING:
    import pyarrow

__all__ = ["NEEDED", "feature", "near"]

NEEDED = frozenset({"id", "geometry", "assets"})  # columns without which a table holds no items
_TOP = frozenset(
    ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection")
)
_BBOX = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")


def feature(row: Mapping) -> dict:
    """Return a row as a GeoJSON feature: without WKB, flattened properties, typed times or empty fields."""
    row = {key: _json(value) for key, value in row.items() if value is not None}
    bbox = row.get("bbox")
    if isinstance(bbox, Mapping):
        row["bbox"] = [bbox[k] for k in _BBOX if k in bbox]
    geometry = row.get("geometry")
    if isinstance(geometry, bytes):
        row["geometry"] = json.loads(shapely.to_geojson(shapely.from_wkb(geometry)))
    properties = {key: value for key, value in row.items() if key not in _TOP}
    top = {key: value for key, value in row.items() if key in _TOP}
    properties.setdefault("datetime", None)
    return {"type": "Feature", "stac_version": "1.0.0", "links": [], **top, "properties": properties}


def near(
    batch: pyarrow.RecordBatch, bbox: tuple[float, float, float, float], start: datetime, end: datetime
) -> pyarrow.Array:
    """Say which rows may overlap a bbox (west, south, east, north) and dates, by the columns alone."""
    import pyarrow
    import pyarrow.compute

    keep = pyarrow.array([True] * len(batch))
    names, (west, south, east, north) = batch.schema.names, bbox
    if "bbox" in names and pyarrow.types.is_struct(batch.schema.field("bbox").type):
        for edge, test, limit in (
            ("xmin", pyarrow.compute.less_equal, east),
            ("xmax", pyarrow.compute.greater_equal, west),
            ("ymin", pyarrow.compute.less_equal, north),
            ("ymax", pyarrow.compute.greater_equal, south),
        ):
            keep = pyarrow.compute.and_(keep, test(pyarrow.compute.struct_field(batch["bbox"], edge), limit))
        wide = pyarrow.compute.greater(
            *(pyarrow.compute.struct_field(batch["bbox"], e) for e in ("xmin", "xmax"))
        )
        keep = pyarrow.compute.or_(keep, wide)  # a bbox across the antimeridian: the footprint will tell
    if "datetime" in names and pyarrow.types.is_timestamp(batch.schema.field("datetime").type):
        moment = batch["datetime"].cast(pyarrow.timestamp("us", "UTC"))
        for test, limit in (
            (pyarrow.compute.greater_equal, start),
            (pyarrow.compute.less_equal, end),
        ):
            inside = test(moment, pyarrow.scalar(limit, pyarrow.timestamp("us", "UTC")))
            keep = pyarrow.compute.and_(keep, pyarrow.compute.fill_null(inside, True))
    return pyarrow.compute.fill_null(keep, True)


def _json(value: object) -> object:
    if isinstance(value, datetime):
        return (
            (value if value.tzinfo else value.replace(tzinfo=UTC))
            .astimezone(UTC)
            .isoformat()
            .replace("+00:00", "Z")
        )
    if isinstance(value, Mapping):
        return {key: _json(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_json(part) for part in value]
    return value
