"""`Look`: one date over an area, and which dates are worth reading; metadata only, no pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pystac
import shapely
from shapely.geometry.base import BaseGeometry

from geoelle.errors import CatalogError
from geoelle.scene import cloud, footprint, interval

__all__ = ["FULL_COVER", "LOOKS", "Look", "every_look", "plan_looks"]

LOOKS = 4  # dates read where no single one covers the area
FULL_COVER = 0.95  # share of the area from which on one date is enough


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """Hold the items of one solar day.

    `date` is the middle of what was seen, datetime64[s] UTC; `date_half_width_days` is 0, or half the
    period of items that state a period instead of a moment. `cloud` is the mean cloud cover over the area
    in percent, or None where no item states one; `coverage` the share of the area inside the footprints.
    """

    date: np.datetime64
    date_half_width_days: float
    items: tuple[pystac.Item, ...]
    cloud: float | None
    coverage: float

    def __str__(self) -> str:
        sky = "cloud unknown" if self.cloud is None else f"cloud {self.cloud:.0f}%"
        return f"{self.date} {len(self.items)} items, {sky}, covers {self.coverage:.0%}"


def plan_looks(
    items: Iterable[pystac.Item], geometry: BaseGeometry, *, looks: int = LOOKS
) -> tuple[Look, ...]:
    """Choose the dates to read for an area given in EPSG:4326, best first.

    Where dates cover at least 95% of the area, the least cloudy of them is read alone (the latest of
    equals). Otherwise up to `looks` dates: each next one adds the most clear area that no earlier one
    covers, then the clearest of the rest. A date of unknown cloud counts as fully cloudy beside dates that
    state theirs, and as clear where none does.

    Raises:
        CatalogError: `looks` is below 1.
    """
    if looks < 1:
        raise CatalogError(f"looks of a plan is {looks}; read at least one date")
    seen = _looks(items, geometry)
    unknown = 100.0 if any(look.cloud is not None for look, _ in seen) else 0.0

    def clear(look: Look) -> float:
        return 1 - (unknown if look.cloud is None else look.cloud) / 100

    if whole := [look for look, _ in seen if look.coverage >= FULL_COVER]:
        return (max(whole, key=lambda look: (clear(look), look.date)),)
    chosen: list[Look] = []
    while seen and len(chosen) < looks:
        best, taken = max(
            seen, key=lambda pair: (clear(pair[0]) * pair[1].area, clear(pair[0]), pair[0].date)
        )
        chosen.append(best)
        seen = [(look, shapely.difference(ground, taken)) for look, ground in seen if look is not best]
    return tuple(chosen)


def every_look(items: Iterable[pystac.Item], geometry: BaseGeometry) -> tuple[Look, ...]:
    """Return the look of every solar day that shows some of an area given in EPSG:4326, the earliest first."""
    return tuple(look for look, _ in _looks(items, geometry))


def _looks(items: Iterable[pystac.Item], geometry: BaseGeometry) -> list[tuple[Look, BaseGeometry]]:
    """Return the look of every solar day with the ground it sees, in equal-area coordinates, the earliest first."""
    area, lon = _equal_area(geometry), geometry.centroid.x
    ordered = sorted(items, key=lambda item: (_solar_day(item, lon), interval(item)[0], item.id))
    days = (tuple(day) for _, day in itertools.groupby(ordered, key=lambda item: _solar_day(item, lon)))
    return [pair for pair in (_look(day, area) for day in days) if pair[0].coverage > 0]


def _middle(item: pystac.Item) -> datetime:
    start, end = interval(item)
    return start + (end - start) / 2


def _solar_day(item: pystac.Item, lon: float) -> str:
    """Return the day at the area's own noon, so that one pass is one day wherever UTC's midnight falls."""
    return (_middle(item) + timedelta(hours=lon / 15)).date().isoformat()


def _look(items: tuple[pystac.Item, ...], area: BaseGeometry) -> tuple[Look, BaseGeometry]:
    """Return the look of these items and the ground it sees of the area, in equal-area coordinates."""
    parts = [(item, shapely.intersection(_equal_area(footprint(item)), area)) for item in items]
    parts = [(item, part) for item, part in parts if part.area > 0] or parts[:1]
    ground = shapely.union_all([part for _, part in parts])
    spans = [interval(item) for item, _ in parts]
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    clouds = [(cloud(item), part.area) for item, part in parts]
    clouds = [(percent, weight) for percent, weight in clouds if percent is not None]
    total = sum(weight for _, weight in clouds)
    look = Look(
        date=np.datetime64((first + (last - first) / 2).replace(tzinfo=None), "s"),
        date_half_width_days=(last - first) / timedelta(days=2) if any(a != b for a, b in spans) else 0.0,
        items=tuple(item for item, _ in parts),
        cloud=sum(percent * weight for percent, weight in clouds) / total if total else None,
        coverage=ground.area / area.area,
    )
    return look, ground


def _equal_area(shape: BaseGeometry) -> BaseGeometry:
    """Return degrees as (longitude, sine of latitude), in which areas compare."""
    return shapely.transform(
        shape, lambda xy: np.stack([xy[:, 0], np.degrees(np.sin(np.radians(xy[:, 1])))], axis=1)
    )
