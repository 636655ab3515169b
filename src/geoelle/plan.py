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
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from geoelle.area import Addresses, Area, Lattice, lattices_for
from geoelle.catalog import CLOUD_MAX, LOOKS, Found, search
from geoelle.chips import Chips
from geoelle.embed import Readers, embed_chips, embed_patches, score_patches
from geoelle.encode import BATCH
from geoelle.errors import AreaError, CatalogError, ModelError
from geoelle.harmonise import has_asset
from geoelle.models import Card, Model, load_model
from geoelle.patches import chips_over, patch_lattice
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

Zone = tuple[Lattice, Addresses]


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
    dense: bool = False
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
    """What will be done: items, looks, lattices, parts, bands and bytes.

    `zones` are the chips that are embedded, `cells` those of the map: the same, but for a dense map, whose cells are
    patches.
    """

    job: Job
    found: Found
    looks: tuple[Look, ...]
    bands: tuple[str, ...]
    zones: tuple[Zone, ...]
    cells: tuple[Zone, ...]
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
            self._embed(chips[:count], twins)
            return time.perf_counter() - began

        seconds(2)  # what is built once is not part of the rate
        count = min(max(int(2 / seconds(2)), 2), len(chips))
        return count / seconds(count)

    def _embed(self, chips: Chips, twins: dict[str, Model]) -> None:
        """Do the work of a run on these chips, for the clock: a probe costs as much whatever its numbers."""
        with_loss = {"loss": self.job.loss, "twins": twins, "precision": self.job.precision}
        if not self.job.dense:
            embed_chips(chips, self.model, **with_loss)
        elif self.job.loss:
            embed_patches(chips, self.model, **with_loss)
        else:
            first = itemgetter((..., 0))
            readers = Readers(difficulty=first, pixels=first)
            score_patches(chips, self.model, readers, precision=self.job.precision)

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
        """Return what `--dry-run --json` prints: what is decided, and how long this machine would embed."""
        return self.decided | {"encode_seconds": round(self.chips / self.chips_per_second, 1)}

    @property
    def decided(self) -> dict[str, Any]:
        """Return what `plan.json` holds: the same for the same job and items, so nothing that is timed."""
        lattice, cells = self.zones[0][0], self.cells[0][0]
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
            "cell_m": cells.cell_m,
            "chip_m": lattice.size_px * lattice.gsd_m,
            "cells": sum(len(addresses) for _, addresses in self.cells),
            "chips": self.chips,
            "parts": len(self.parts),
            "bytes": self.bytes,
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
    cells, zones = _ground(job, card, gsd, cells_for_map)
    looks = plan_looks(found.items, job.area.geometry, looks=job.looks)
    return Plan(job=job, found=found, looks=looks, bands=bands, zones=zones, cells=cells, model=model)


def _ground(job: Job, card: Card, gsd_m: float, for_map: bool) -> tuple[tuple[Zone, ...], tuple[Zone, ...]]:
    """Return the cells and the chips: the same, but for a dense map, whose cells are the patches that its chips see."""
    if job.dense and not for_map and not job.loss:
        told = "patches to fit on need it; add --loss"
        raise ModelError(f"a dense run of {card.name} cannot be planned without loss: {told}")
    dense_map = job.dense and for_map
    stride_px = (card.chip_px // 2 if dense_map else card.stride_px) if job.stride_px is None else job.stride_px
    cell_px, remedy = (card.patch_px, "take another --model") if dense_map else (stride_px, "lower --stride")
    cell_m = cell_px * gsd_m
    if for_map and cell_m > CELL_MAX_M:
        raise AreaError(f"cells of {cell_m:g} m are too coarse for a map (limit {CELL_MAX_M:g} m); {remedy}")
    cells = lattices_for(job.area, gsd_m, cell_px if dense_map else card.chip_px, cell_px, job.epsg)
    count = sum(len(a) for _, a in cells)
    if for_map and count < MIN_CELLS:
        raise AreaError(
            f"the area holds {count} cells of {cell_m:g} m, too few for a map (limit {MIN_CELLS}); widen --bbox "
            f"to at least {(MIN_CELLS**0.5 + 1) * cell_m / 1000:.1f} km a side, or {remedy}"
        )
    zones = [_chips_of(patches, card, stride_px) for _, patches in cells] if dense_map else cells
    if job.dense:
        patch_lattice(zones[0][0], card.patch_px)  # refuses a stride that no patches fit
    return tuple(cells), tuple(zones)


def _chips_of(patches: Addresses, card: Card, stride_px: int) -> Zone:
    """Return every chip that sees one of the patches: whatever the area, a patch is seen from all offsets."""
    grid = patches.lattice
    lattice = Lattice(epsg=grid.epsg, gsd_m=grid.gsd_m, size_px=card.chip_px, stride_px=stride_px)
    return lattice, chips_over(patches, lattice)


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
