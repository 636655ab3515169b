"""Read an item's metadata: when and where it was seen, its clouds, tile, orbit, level and processing baseline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pystac
import shapely
import shapely.geometry
from shapely.geometry.base import BaseGeometry

from geoelle.errors import CatalogError

__all__ = ["baseline", "cloud", "footprint", "interval", "level", "relative_orbit", "tile"]

_BASELINE = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_PRODUCT = ("s2:product_uri", "s2:product_id", "sentinel:product_id", "s2:tile_id")
_PRODUCT_BASELINE = re.compile(r"_N(\d\d)\.?(\d\d)(?:_|\.|$)")
_PRODUCT_ORBIT = re.compile(r"_R(\d{3})(?:_|\.|$)")
_SENTINEL_2_LEVEL = re.compile(r"(?:s2msi|level-?|l)?(1c|2a)p?", re.IGNORECASE)
_MGRS = ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")
_MGRS_IN_ID = re.compile(r"(?:^|[_.])T?(\d{1,2}[C-X][A-Z]{2})(?:[_.]|$)")


def interval(item: pystac.Item) -> tuple[datetime, datetime]:
    """Return first and last moment of an item, UTC; the same one twice where it states a moment.

    Raises:
        CatalogError: the item states neither.
    """
    start = item.datetime or item.common_metadata.start_datetime
    end = item.datetime or item.common_metadata.end_datetime
    if start is None or end is None:
        raise CatalogError(f"item {item.id} has neither datetime nor start and end; correct the catalogue")
    return _utc(start), _utc(end)


def footprint(item: pystac.Item) -> BaseGeometry:
    """Return the footprint in EPSG:4326, or the bbox where there is none; split where it crosses 180 degrees.

    Raises:
        CatalogError: the item has neither, or one that is no geometry.
    """
    try:
        shape = shapely.geometry.shape(item.geometry) if item.geometry else shapely.box(*_flat(item.bbox))
    except (AttributeError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as cause:
        raise CatalogError(f"footprint of item {item.id} is no geometry ({cause}); correct the item") from cause
    shape = shapely.make_valid(shapely.force_2d(shape))
    west, _, east, _ = shape.bounds
    if east - west <= 180 or shape.geom_type != "Polygon":
        return shape
    # No scene is half the Earth wide: these are longitudes on both sides of the antimeridian.
    turned = _shifted(shape, 360, only_west=True)
    right = shapely.intersection(turned, shapely.box(180, -90, 360, 90))
    return shapely.union(shapely.intersection(turned, shapely.box(0, -90, 180, 90)), _shifted(right, -360))


def cloud(item: pystac.Item) -> float | None:
    """Return the cloud cover of the scene in percent, or None where it is not stated.

    Raises:
        CatalogError: it is not a number.
    """
    value = item.properties.get("eo:cloud_cover")
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as cause:
        raise CatalogError(f"eo:cloud_cover of item {item.id} is no number ({value!r})") from cause


def tile(item: pystac.Item) -> str:
    """Return the MGRS tile or WRS path/row of an item, without leading zeros; "" where nothing tells."""
    found = item.properties
    named = _MGRS_IN_ID.search(item.id)
    code = (
        str(found.get("grid:code", "")).removeprefix("MGRS-")
        or str(found.get("s2:mgrs_tile", ""))
        or "".join(str(found.get(name, "")) for name in _MGRS)
        or "/".join(str(found[k]).lstrip("0") for k in ("landsat:wrs_path", "landsat:wrs_row") if k in found)
    )
    return (code or (named[1] if named else "")).lstrip("0")


def baseline(item: pystac.Item) -> tuple[int, int] | None:
    """Return the processing baseline of a Sentinel-2 item, (4, 0) for 04.00, or None where nothing tells."""
    for name in _BASELINE:
        if match := re.fullmatch(r"N?(\d\d)\.?(\d\d)", str(item.properties.get(name, ""))):
            return int(match[1]), int(match[2])
    match = _in_product(item, _PRODUCT_BASELINE)
    return None if match is None else (int(match[1]), int(match[2]))


def relative_orbit(item: pystac.Item) -> int | None:
    """Return the relative orbit, from the name of the product where no field states it; None where nothing tells."""
    stated = str(item.properties.get("sat:relative_orbit", ""))
    if stated.isdecimal():
        return int(stated)
    match = _in_product(item, _PRODUCT_ORBIT)
    return None if match is None else int(match[1])


def level(item: pystac.Item) -> str:
    """Return the processing level: of Sentinel-2 "1C" or "2A" however it is written, else as stated; "" where it isn't.

    >>> found = pystac.Item("a", None, None, datetime(2024, 6, 1), {"s2:product_type": "S2MSI2A"})
    >>> level(found), level(pystac.Item("a", None, None, datetime(2024, 6, 1), {"processing:level": "L2SP"}))
    ('2A', 'L2SP')
    """
    fields = (item.properties.get(key) for key in ("processing:level", "s2:product_type"))
    stated = next((str(value) for value in fields if value is not None), "")
    match = _SENTINEL_2_LEVEL.fullmatch(stated) if _is_sentinel_2(item) else None
    return match[1].upper() if match else stated


def _is_sentinel_2(item: pystac.Item) -> bool:
    named = (item.collection_id, item.properties.get("platform"), *item.properties)
    return any(str(name).lower().startswith(("sentinel-2", "s2:")) for name in named)


def _in_product(item: pystac.Item, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """Search the names of the product, then the id of the item."""
    texts = (*(str(item.properties.get(name, "")) for name in _PRODUCT), item.id)
    return next((match for text in texts if (match := pattern.search(text))), None)


def _flat(bbox: Sequence[float]) -> tuple[float, ...]:
    return tuple(bbox) if len(bbox) == 4 else (*bbox[:2], *bbox[3:5])


def _shifted(shape: BaseGeometry, degrees: float, *, only_west: bool = False) -> BaseGeometry:
    def shift(xy: np.ndarray) -> np.ndarray:
        step = np.where(xy[:, :1] < 0, degrees, 0) if only_west else degrees
        return xy + np.array([[1.0, 0.0]]) * step

    return shapely.transform(shape, shift)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
