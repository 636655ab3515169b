"""Decide which dates of which places are read: one search over the whole window, one look a solar day."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import shapely

from geoelle.area import Area
from geoelle.errors import AreaError, NoItems
from geoelle.lattice import Addresses, Lattice
from geoelle.looks import every_look
from geoelle.models import Card
from geoelle.patches import chips_over, patch_lattice
from geoelle.places import Place, cells_of, zone_of
from geoelle.plan import Job, Plan, make_plan
from geoelle.probe import Probe
from geoelle.scene import footprint

__all__ = ["SeriesPlan", "check_places", "event_day", "plan_series"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPlan:
    """What will be read: `plan` has every look of the window, and the chips of all places; `cells` a table a place."""

    plan: Plan
    places: tuple[Place, ...]
    cells: tuple[Addresses, ...]

    @property
    def chips(self) -> int:
        """Count the chips of all dates."""
        return self.plan.chips * len(self.plan.looks)

    def fingerprint(self, probe: Probe) -> str:
        """Return a hash of everything that decides the scores; the event is not in it."""
        basis = {
            "plan": self.plan.fingerprint, "probe": probe.digest,
            "places": [[place.name, shapely.to_wkt(place.geometry, rounding_precision=-1)] for place in self.places],
            "cells": [cells.strings() for cells in self.cells],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        plan = self.plan
        return {
            "catalog": plan.found.endpoint, "sensor": plan.found.sensor.name, "masks_clouds": plan.found.sensor.note,
            "model": plan.job.model, "bands": list(plan.bands),
            "places": [
                {"place": place.name, "cells": len(cells), "cell_m": cells.lattice.cell_m, "epsg": cells.lattice.epsg}
                for place, cells in zip(self.places, self.cells, strict=True)
            ],
            "dates": [str(look.date) for look in plan.looks],
            "items": [item.id for look in plan.looks for item in look.items],
            "chips": self.chips, "bytes": plan.bytes, "encode_seconds": round(self.chips / plan.chips_per_second, 1),
        }  # fmt: skip


def plan_series(job: Job, places: Sequence[Place]) -> SeriesPlan:
    """Search once for the dates of the job over all places, whose ground (`places.ground_of`) is its area.

    Raises: AreaError (a polygon without a cell, no place, places of one name), NoItems (also where a place has none),
    CatalogError, ModelError.
    """
    check_places(places)
    plan = make_plan(replace(job, dense=False))
    for place in places:
        if not any(shapely.intersects(footprint(item), place.geometry) for item in plan.found.items):
            raise NoItems(
                f"place {place.name!r} lies outside of all {len(plan.found.items)} items found; longitude comes first, "
                "or leave it out"
            )
    card = plan.model.card
    cells = tuple(_cells(place, job, card, plan.found.sensor.gsd_m) for place in places)
    zones = [
        _union([table for table in cells if table.lattice == lattice]) for lattice in {c.lattice: 0 for c in cells}
    ]
    whole = replace(
        plan, job=job, looks=every_look(plan.found.items, job.area.geometry),
        zones=tuple(_chips(table, job, card) for table in zones),
        cells=tuple((table.lattice, table) for table in zones),
    )  # fmt: skip
    return SeriesPlan(plan=whole, places=tuple(places), cells=cells)


def check_places(places: Sequence[Place]) -> None:
    """Check that there are places, each with a name of its own.

    Raises: AreaError.
    """
    names = [place.name for place in places]
    if not names:
        raise AreaError("a series needs a place (none was given); give points or polygons")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise AreaError(f"place {twice!r} is given twice; give each once")


def event_day(text: str | None, area: Area) -> float | None:
    """Return the first day of an event, days since 1970-01-01, None for no event.

    Raises: AreaError (no date, or none inside the dates of the area).
    """
    if text is None:
        return None
    start = Area.parse(bbox=area.bbox, dates=text).start
    if not area.start < start <= area.end:
        raise AreaError(f"event ({text}) is not inside the dates ({area.dates}); widen these or correct it")
    return (start - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86_400


def _cells(place: Place, job: Job, card: Card, gsd_m: float) -> Addresses:
    """Return the cells of a place on the lattice of its zone: chips, or patches of a dense series."""
    size_px, stride_px = (card.patch_px,) * 2 if job.dense else (card.chip_px, job.stride_px or card.stride_px)
    epsg = zone_of(place) if job.epsg is None else job.epsg
    return cells_of(place, Lattice(epsg=epsg, gsd_m=gsd_m, size_px=size_px, stride_px=stride_px))


def _chips(cells: Addresses, job: Job, card: Card) -> tuple[Lattice, Addresses]:
    """Return the chips to read: the cells, or all that see one of the patches."""
    if not job.dense:
        return cells.lattice, cells
    grid, stride_px = cells.lattice, job.stride_px or card.chip_px // 2
    lattice = Lattice(epsg=grid.epsg, gsd_m=grid.gsd_m, size_px=card.chip_px, stride_px=stride_px)
    patch_lattice(lattice, card.patch_px)  # refuses a stride that no patches fit
    return lattice, chips_over(cells, lattice)


def _union(tables: Sequence[Addresses]) -> Addresses:
    """Return the cells of tables of one lattice, each once, by row, then column."""
    every = tables[0].concat(*tables[1:])
    rows, cols = np.unique(np.stack([every.rows, every.cols], axis=1), axis=0).T
    return Addresses(lattice=every.lattice, rows=rows, cols=cols)
