"""A finished run as one date of a change: its items, its scores by one probe, and what forbids to compare it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from geoelle.area import Area, lattices_for
from geoelle.delta import Scored
from geoelle.dense import PatchScores
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError, InputMismatch, SpaceMismatch
from geoelle.guards import Check, compare_items, refuse
from geoelle.lattice import Lattice
from geoelle.probe import Probe
from geoelle.run import load_manifest
from geoelle.shipped import probe_of_space, shipped_probes

__all__ = ["Dated", "check_dates", "probe_of_dates"]

_ALIKE = {"sensor": "plan", "looks": "job", "precision": "job", "dense": "job"}
"""What all runs have in common, and where their manifest says it. Another number of looks is another rule by which a
chip is chosen."""


@dataclass(frozen=True, kw_only=True)
class Dated:
    """One run: where it is, what to call it, its manifest and its items as GeoJSON features."""

    path: Path
    name: str
    manifest: Mapping[str, Any]
    items: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, path: Path, name: str) -> Self:
        """Read a finished run.

        Raises: FormatError.
        """
        manifest = load_manifest(path)
        try:
            items = tuple(json.loads((path / "items.json").read_text("utf-8"))["features"])
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise FormatError(f"{path} has no readable items.json ({cause}); run it again with --overwrite") from cause
        return cls(path=path, name=name, manifest=manifest, items=items)

    @property
    def is_dense(self) -> bool:
        """Say whether the run is a dense map: it then holds scores of patches, not their tokens."""
        job = self.manifest["job"]
        return bool(job.get("dense")) and not job["loss"]

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["plan"]["fingerprint"])

    @property
    def read_chips(self) -> int:
        return int(self.manifest["counts"]["read"])

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(sorted(self.manifest["plan"]["items"]))

    @cached_property
    def chips(self) -> Mapping[Lattice, Embeddings]:
        """Return the chips by lattice."""
        return {table.addresses.lattice: table for table in Embeddings.read_each(self.path)}

    def scored(self, probe: Probe) -> dict[Lattice, Scored]:
        """Return the scores by lattice, of the cells that the run was asked for.

        Raises: SpaceMismatch (the probe is of another space, or did not score the patches).
        """
        if not self.is_dense:
            return {lattice: Scored.of_chips(table, probe) for lattice, table in self.chips.items()}
        tables = self.patches()
        if wrong := {table.probe for table in tables} - {probe.digest}:
            raise SpaceMismatch(
                f"the patches of {self.path} were scored by another probe ({min(wrong)[:12]}); name that one with "
                "--probe, or map again with this one"
            )
        job = self.manifest["job"]
        area = Area.parse(bbox=None if job["polygon"] else job["bbox"], polygon=job["polygon"], dates=job["dates"])
        px, gsd_m = tables[0].addresses.lattice.size_px, tables[0].addresses.lattice.gsd_m
        asked = dict(lattices_for(area, gsd_m, px, px, job["epsg"]))
        return {
            table.addresses.lattice: Scored.of_patches(table.at(asked[table.addresses.lattice])) for table in tables
        }

    def patches(self) -> list[PatchScores]:
        """Return the scores of patches of a dense map, a table a lattice.

        Raises: FormatError.
        """
        by_zone: dict[str, list[Path]] = {}
        for file in sorted((self.path / "dense").glob("part-*.parquet")):
            by_zone.setdefault(file.name.partition("_")[0], []).append(file)
        if not by_zone:
            raise FormatError(f"{self.path} has no scores of patches; map it again with --dense --overwrite")
        return [PatchScores.read(files) for files in by_zone.values()]


def probe_of_dates(dates: Sequence[Dated], path: Path | None) -> Probe:
    """Return the probe named, else the one that ships for the space of the dates.

    Raises: ProbeError, SpaceMismatch.
    """
    if path is not None:
        return Probe.load(path)
    if not dates[0].is_dense:
        return probe_of_space(next(iter(dates[0].chips.values())).header.space)
    digest = dates[0].patches()[0].probe
    if probe := next((probe for probe in shipped_probes() if probe.digest == digest), None):
        return probe
    raise SpaceMismatch(f"{dates[0].path} was mapped with a probe that does not ship; name it with --probe")


def check_dates(before: Dated, after: Dated, history: Sequence[Dated]) -> dict[str, tuple[Check, ...]]:
    """Compare how all dates were seen, each with the date after; the checks by name of the pair.

    Raises: InputMismatch (another sensor, rule of looks or precision, a shared item, or conditions that are refused).
    """
    every = (before, after, *history)
    for one, other in combinations(every, 2):
        for key, where in _ALIKE.items():
            pair = [run.manifest[where].get(key) for run in (one, other)]
            if pair[0] != pair[1]:
                raise InputMismatch(
                    f"{one.path} and {other.path} differ in {key} ({pair[0]}, {pair[1]}); make both in the same way"
                )
        if shared := set(one.item_ids) & set(other.item_ids):
            raise InputMismatch(
                f"{one.path} and {other.path} share an item ({min(shared)}), so they are not two dates; choose dates "
                "that do not overlap"
            )
    checks = {}
    for run in (before, *history):
        pair = f"{run.name} and {after.name}"
        checks[pair] = compare_items(_used(run), _used(after))
        refuse(checks[pair], pair=pair)
    return checks


def _used(run: Dated) -> list[Mapping[str, Any]]:
    ids = set(run.item_ids)
    return [item for item in run.items if item["id"] in ids]
