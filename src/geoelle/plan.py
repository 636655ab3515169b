"""Decide everything before the first pixel is read: `Job` is what was asked, `Plan` is what will be done.

`--dry-run` prints a plan; the run executes the very same one. Its fingerprint names the run: a directory is resumed
only by the plan that began it.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from geoelle.area import Addresses, Area, Lattice, lattices_for
from geoelle.catalog import CLOUD_MAX, LOOKS, Found, search
from geoelle.chips import Chips
from geoelle.embed import BATCH, embed_chips
from geoelle.errors import AreaError, CatalogError, ModelError
from geoelle.harmonise import has_asset
from geoelle.models import Model, load_model
from geoelle.read import Look, estimate_bytes, plan_looks

__all__ = ["ASK_BYTES", "MIN_CELLS", "Job", "Part", "Plan", "chips_at_once", "make_plan", "part_side"]

PART_PX = 1024
"""Pixels along one side of a part, less one chip's overlap: of a 10 m band it spans each COG block once."""
CUT_BYTES = 42_000_000
"""Pixels cut from a window at a time: 1,024 chips of nano in ten bands."""
MIN_CELLS = 20
ASK_BYTES = 2_000_000_000
"""Reading more than this needs `--yes`."""
CELL_MAX_M = 160.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a user asks for: where and when, from which catalog, through which model, and how."""

    area: Area
    catalog: str | None = None
    sensor: str | None = None
    model: str = "nano"
    weights: str | None = None
    epsg: int | None = None
    stride_px: int | None = None
    cloud_max: float = CLOUD_MAX
    looks: int = LOOKS
    errors: str = "raise"
    loss: bool = False
    twins: int = 0
    device: str = "cpu"
    precision: str = "fp32"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, the polygon as WKT."""
        rest = {name: getattr(self, name) for name in self.__slots__ if name != "area"}
        return {**self.area.to_dict(), **rest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One shard: the chips of one super-block of the lattice, read through one window."""

    name: str
    addresses: Addresses


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done: items, looks, lattices, parts, bands and bytes."""

    job: Job
    found: Found
    looks: tuple[Look, ...]
    bands: tuple[str, ...]
    zones: tuple[tuple[Lattice, Addresses], ...]
    model: Model

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Return the shards, the same whatever else is selected."""
        return tuple(
            Part(name=f"{lattice.epsg}_{name}", addresses=addresses)
            for lattice, chosen in self.zones
            for name, addresses in chosen.parts(part_side(lattice.stride_px))
        )

    @property
    def chips(self) -> int:
        return sum(len(addresses) for _, addresses in self.zones)

    @cached_property
    def bytes(self) -> int:
        """Estimate the uncompressed bytes to read."""
        sensor = self.found.sensor
        boxes = (p.addresses.lattice.union_geobox(p.addresses.rows, p.addresses.cols) for p in self.parts)
        return sum(estimate_bytes(self.looks, box, sensor, self.bands) for box in boxes)

    @cached_property
    def chips_per_second(self) -> float:
        """Measure blank chips on this machine, embedded as the run will: with its loss and as many twins.

        As many of them as take about a second, at most two batches: a large model needs seconds for one.
        """
        chips = _blank_chips(self.zones[0][0], self.bands, self.found.sensor.name, 2 * BATCH)
        twins = {f"twin{number}": self.model for number in range(self.job.twins)}

        def seconds(count: int) -> float:
            began = time.perf_counter()
            embed_chips(chips[:count], self.model, loss=self.job.loss, twins=twins, precision=self.job.precision)
            return time.perf_counter() - began

        seconds(2)  # what is built once is not part of the rate
        count = min(max(int(2 / seconds(2)), 2), len(chips))
        return count / seconds(count)

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of everything that decides the parts; the probe is not in it."""
        basis = {
            "job": {k: v for k, v in self.job.to_dict().items() if k != "device"},
            "items": [[str(look.date), [item.id for item in look.items]] for look in self.looks],
            "weights": self.model.weights_sha256,
            "bands": self.bands,
            "geoelle": version("geoelle"),
        }
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        lattice = self.zones[0][0]
        return {
            "area_km2": round(self.job.area.km2, 2),
            "catalog": self.found.endpoint,
            "sensor": self.found.sensor.name,
            "masks_clouds": self.found.sensor.note,
            "model": self.job.model,
            "bands": list(self.bands),
            "items": [item.id for look in self.looks for item in look.items],
            "looks": [_look(look) for look in self.looks],
            "epsg": [zone.epsg for zone, _ in self.zones],
            "cell_m": lattice.cell_m,
            "chip_m": lattice.size_px * lattice.gsd_m,
            "cells": self.chips,
            "parts": len(self.parts),
            "bytes": self.bytes,
            "encode_seconds": round(self.chips / self.chips_per_second, 1),
            "fingerprint": self.fingerprint,
        }


def part_side(stride_px: int) -> int:
    """Return how many chips a part has along a side."""
    return max(PART_PX // stride_px, 1)


def chips_at_once(size_px: int, bands: int) -> int:
    """Return how many chips to cut at a time: whole batches of the encoder, at least one."""
    return max(CUT_BYTES // (4 * bands * size_px**2) // BATCH, 1) * BATCH


def make_plan(job: Job, *, cells_for_map: bool = False) -> Plan:
    """Search the catalog, choose looks, lay the lattice and load the model.

    `cells_for_map` applies the rules of a map: cells of at most 160 m and at least 20 of them.

    Raises: CatalogError, NoItems, AreaError, ModelError.
    """
    _check_device(job.device)
    model = load_model(job.model, job.weights, device=job.device)
    card = model.card
    stride = card.stride_px if job.stride_px is None else job.stride_px
    found = search(job.area, catalog=job.catalog, sensor=job.sensor, cloud_max=job.cloud_max)
    sensor = found.sensor
    gsd = sensor.gsd_m
    if not card.gsd_m[0] <= gsd <= card.gsd_m[1]:
        raise CatalogError(
            f"{card.name} was trained at {card.gsd_m[0]:g} to {card.gsd_m[1]:g} m and sensor {sensor.name} has "
            f"{sensor.gsd_m:g} m; choose another --sensor or --model"
        )
    offered = [b for b in card.bands if b in sensor.band_names and any(has_asset(i, sensor, b) for i in found.items)]
    bands = card.whole_groups(offered)
    if len(bands) < (card.min_bands if card.band_subset else len(card.bands)):
        raise CatalogError(
            f"sensor {sensor.name} offers {', '.join(bands) or 'none'} of the bands that {card.name} takes "
            f"({', '.join(card.bands)}); choose another --sensor or --model"
        )
    if cells_for_map and stride * gsd > CELL_MAX_M:
        raise AreaError(
            f"cells of {stride * gsd:g} m are too coarse for a map (limit {CELL_MAX_M:g} m); lower --stride"
        )
    zones = lattices_for(job.area, gsd, card.chip_px, stride, job.epsg)
    cells = sum(len(a) for _, a in zones)
    if cells_for_map and cells < MIN_CELLS:
        raise AreaError(
            f"the area holds {cells} cells of {stride * gsd:g} m, too few for a map (limit {MIN_CELLS}); widen --bbox "
            f"to at least {(MIN_CELLS**0.5 + 1) * stride * gsd / 1000:.1f} km a side, or lower --stride"
        )
    looks = plan_looks(found.items, job.area.geometry, looks=job.looks)
    return Plan(job=job, found=found, looks=looks, bands=bands, zones=tuple(zones), model=model)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as cause:  # torch asserts where it was built without CUDA
        told = str(cause).splitlines()[0].rstrip(".")
        raise ModelError(f"device {name!r} cannot be used ({told}); use cpu, or one that torch has here") from cause


def _look(look: Look) -> dict[str, Any]:
    return {
        "date": str(look.date),
        "half_width_days": look.date_half_width_days,
        "cloud": look.cloud,
        "coverage": round(look.coverage, 4),
        "items": [item.id for item in look.items],
    }


def _blank_chips(lattice: Lattice, bands: tuple[str, ...], sensor: str, n: int) -> Chips:
    addresses = Addresses(lattice=lattice, rows=np.zeros(n, np.int64), cols=np.arange(n))
    return Chips(
        pixels_btcyx=np.full((n, 1, len(bands), lattice.size_px, lattice.size_px), 0.1, np.float32),
        addresses=addresses,
        times_bt=np.full((n, 1), "2020-07-01", "datetime64[s]"),
        lonlat_b2=np.zeros((n, 2)),
        bands=bands,
        items=((),) * n,
        sensor=sensor,
    )
