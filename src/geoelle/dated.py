"""Finished runs as the dates of a change: what forbids to compare them, their scores, and the comparison of all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np

from geoelle.area import Area, lattices_for
from geoelle.change_baselines import Measured, baselines, gap_of, of_delta
from geoelle.clear_ground import Ground, compare_ground
from geoelle.delta import RATE, Delta, Scored, compare
from geoelle.dense import PatchScores
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError, InputMismatch, ProbeError, SpaceMismatch
from geoelle.guards import Check, compare_items, refuse
from geoelle.lattice import Lattice
from geoelle.probe import Probe
from geoelle.run import load_manifest
from geoelle.scores import plain_json
from geoelle.shipped import probe_of_space, shipped_probes

__all__ = ["Comparison", "Dated", "check_dates", "compare_runs", "fingerprint_of", "probe_of_dates"]

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
        return (self.path / "dense").is_dir()

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["plan"]["fingerprint"])

    @property
    def read_chips(self) -> int:
        return int(self.manifest["counts"]["read"])

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(sorted(self.manifest["plan"]["items"]))

    @property
    def area(self) -> Area:
        """Return the ground and the dates that the run was asked for."""
        job = self.manifest["job"]
        return Area.parse(bbox=None if job["polygon"] else job["bbox"], polygon=job["polygon"], dates=job["dates"])

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
        if wrong := {table.probe for table in self.patches.values()} - {probe.digest}:
            raise SpaceMismatch(
                f"the patches of {self.path} were scored by another probe ({min(wrong)[:12]}); name that one with "
                "--probe, or map again with this one"
            )
        return {lattice: Scored.of_patches(table, probe) for lattice, table in self.patches.items()}

    def ground(self, scored: Mapping[Lattice, Scored]) -> Ground:
        """Return how much of the ground the run shows, with its scores at hand."""
        valid = [table.valid_fraction_n[table.valid_n] for table in self.chips.values()]
        return Ground(
            cells=scored, valid_m=np.concatenate([np.empty(0), *valid]), cloud_max=self.manifest["job"].get("cloud_max")
        )

    @cached_property
    def patches(self) -> Mapping[Lattice, PatchScores]:
        """Return the scores of the patches that a dense map was asked for, by lattice.

        Raises: FormatError.
        """
        by_zone: dict[str, list[Path]] = {}
        for file in sorted((self.path / "dense").glob("part-*.parquet")):
            by_zone.setdefault(file.name.partition("_")[0], []).append(file)
        if not by_zone:
            raise FormatError(f"{self.path} has no scores of patches; map it again with --dense --overwrite")
        tables = [PatchScores.read(files) for files in by_zone.values()]
        px, gsd_m = tables[0].addresses.lattice.size_px, tables[0].addresses.lattice.gsd_m
        asked = dict(lattices_for(self.area, gsd_m, px, px, self.manifest["job"]["epsg"]))
        return {table.addresses.lattice: table.at(asked[table.addresses.lattice]) for table in tables}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two dates compared, zone by zone, with all that was checked; nothing is written yet."""

    before: Dated
    after: Dated
    history: tuple[Dated, ...]
    probe: Probe
    rate: float
    zones: Mapping[Lattice, Delta]
    measures: Mapping[Lattice, tuple[Measured, ...]]
    checks: Mapping[str, tuple[Check, ...]]
    notes: tuple[str, ...]
    later: tuple[Dated, ...] = ()

    @property
    def dates(self) -> tuple[Dated, ...]:
        return (self.before, self.after, *self.history, *self.later)

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that decides the change."""
        runs, later = (
            [run.fingerprint for run in dates] for dates in (self.dates[: 2 + len(self.history)], self.later)
        )
        return fingerprint_of(runs, self.probe, self.rate, later)

    def to_dict(self, home: Path | None = None) -> dict[str, Any]:
        """Return what `--dry-run --json` prints; runs inside `home` are named from there."""
        return plain_json({
            "dates": [{"name": run.name, "run": _named(run.path, home), "items": list(run.item_ids),
                       "fingerprint": run.fingerprint} for run in self.dates],
            "rate": self.rate,
            "zones": {self.stem(lattice): _numbers(found) for lattice, found in self.zones.items()},
            "checks": {pair: [check.to_dict() for check in checks] for pair, checks in self.checks.items()},
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        })  # fmt: skip

    def stem(self, lattice: Lattice) -> str:
        """Return the base name of the files of a zone."""
        return "delta" if len(self.zones) == 1 else f"delta_{lattice.epsg}"


def fingerprint_of(runs: Sequence[str], probe: Probe, rate: float, later: Sequence[str] = ()) -> str:
    """Return a hash of the fingerprints of the runs, the earlier years last, of the probe, the rate and later runs."""
    basis = {"runs": list(runs), "probe": probe.digest, "rate": rate, "geoelle": version("geoelle"),
             "later": list(later)}  # fmt: skip
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()


def compare_runs(
    before: Dated, after: Dated, history: Sequence[Dated] = (), *, later: Sequence[Dated] = (),
    probe: Path | None = None, rate: float = RATE, notes: Sequence[str] = (),
) -> Comparison:  # fmt: skip
    """Score and compare finished runs; writes nothing.

    A year of the history, or a later date, in which no chip could be read is left out, and said; so is a year wholly
    outside the area of applicability, and of several zones one that cannot be compared.

    Raises: InputMismatch, SpaceMismatch, AreaError, ProbeError, FormatError.
    """
    empty = [run for run in (*history, *later) if not run.read_chips]
    notes = (*notes, *(f"{run.name} has no clear chip and was left out" for run in empty))
    history, later = (tuple(run for run in runs if run.read_chips) for runs in (history, later))
    checks = check_dates(before, after, history, later)
    used = probe_of_dates((before, after, *history, *later), probe)
    scored = {run.path: run.scored(used) for run in (before, after, *history, *later)}
    for pair, sides in _pairs(before, after, history, later).items():
        checks[pair] += compare_ground(*(run.ground(scored[run.path]) for run in sides))
    zones, measures, failed = {}, {}, {}
    for lattice in [lattice for lattice in scored[before.path] if lattice in scored[after.path]]:
        try:
            found = _zone(lattice, (before, after, *history), later, scored, used, rate)
        except ProbeError as cause:  # other zones may be judged
            failed[lattice] = cause
            continue
        zones[lattice], measures[lattice], told = found
        notes = (*notes, *(note for note in told if note not in notes))
    if failed and not zones:
        raise next(iter(failed.values()))
    notes = (*notes, *(f"EPSG:{lattice.epsg} was left out: {cause}" for lattice, cause in failed.items()))
    if not zones:
        raise InputMismatch(
            f"{before.path} and {after.path} share no lattice; make both of one area, --crs and --stride"
        )
    return Comparison(
        before=before, after=after, history=history, probe=used, rate=rate, zones=zones, measures=measures,
        checks=checks, notes=(*notes, *_differences(checks)), later=later,
    )  # fmt: skip


_Zone = tuple[Delta, tuple[Measured, ...], list[str]]


def _zone(
    lattice: Lattice, dates: Sequence[Dated], later: Sequence[Dated], scored: Mapping[Path, Mapping[Lattice, Scored]],
    probe: Probe, rate: float,
) -> _Zone:  # fmt: skip
    """Compare the dates, before and after first, on one lattice; return the measures of the same cells and notes too.

    Raises: ProbeError.
    """
    before, after, *history = dates
    years, looks = ([run for run in runs if lattice in scored[run.path]] for runs in (history, later))
    outside = [run for run in years if not np.isfinite(scored[run.path][lattice].gated_n).any()]
    judged = [before, after, *(run for run in years if run not in outside)]
    first, then, *rest = (scored[run.path][lattice] for run in judged)
    found = compare(first, then, rest, later=[scored[run.path][lattice] for run in looks], rate=rate)
    tables = [(run.patches if run.is_dense else run.chips)[lattice] for run in judged]
    gap = gap_of(tables, probe)
    notes = [f"{run.name} has no cell in the area of applicability and was left out" for run in outside]
    measures = (of_delta(found), *baselines(found, [first, then, *rest], tables, probe))
    return found, measures, [*notes, *([gap] if gap else [])]


def probe_of_dates(dates: Sequence[Dated], path: Path | None) -> Probe:
    """Return the probe named, else the one that ships for the space of the dates.

    Raises: ProbeError, SpaceMismatch.
    """
    if path is not None:
        return Probe.load(path)
    if not dates[0].is_dense:
        return probe_of_space(next(iter(dates[0].chips.values())).header.space)
    digest = next(iter(dates[0].patches.values())).probe
    if probe := next((probe for probe in shipped_probes() if probe.digest == digest), None):
        return probe
    raise SpaceMismatch(f"{dates[0].path} was mapped with a probe that does not ship; name it with --probe")


def check_dates(
    before: Dated, after: Dated, history: Sequence[Dated], later: Sequence[Dated] = ()
) -> dict[str, tuple[Check, ...]]:
    """Compare how all dates were seen, each with the date after; the checks by name of the pair.

    Raises: InputMismatch (another sensor, rule of looks or precision, a shared item, or conditions that are refused).
    """
    every = (before, after, *history, *later)
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
    for pair, sides in _pairs(before, after, history, later).items():
        checks[pair] = compare_items(*map(_used, sides))
        refuse(checks[pair], pair=pair)
    return checks


def _pairs(
    before: Dated, after: Dated, history: Sequence[Dated], later: Sequence[Dated]
) -> dict[str, tuple[Dated, Dated]]:
    """Name each date with the date after, the earlier one first."""
    sides = [*((run, after) for run in (before, *history)), *((after, run) for run in later)]
    return {f"{one.name} and {other.name}": (one, other) for one, other in sides}


def _numbers(delta: Delta) -> dict[str, Any]:
    null, tested = delta.null, delta.tested
    return {
        "design": delta.design, "counts": delta.counts, "shift": delta.shift,
        "unchanged": None if delta.unchanged is None else asdict(delta.unchanged),
        "years": None if delta.years is None else asdict(delta.years),
        "blocks": None if delta.blocks is None else asdict(delta.blocks) | {"false_share": delta.blocks.false_share},
        "later": [{"day": str(np.datetime64("1970-01-01") + int(np.nanmedian(look.days_n))), "shift": look.shift,
                   "flagged": int((np.abs(look.signed_n) == 1).sum())} for look in delta.looks[1:]],
        "status": None if delta.followed is None else delta.followed.counts,
        "null": None if null is None else {"shifts": null.shifts_r.tolist(), "prior": asdict(null.prior),
                                           "years": len(null.shifts_r), "tested_shift": tested.shift,
                                           "inflation": tested.inflation},
    }  # fmt: skip


def _differences(checks: Mapping[str, Sequence[Check]]) -> tuple[str, ...]:
    """Word the warnings of all pairs, those that several pairs share once."""
    told: dict[str, list[str]] = {}
    for pair, found in checks.items():
        for check in found:
            if check.verdict == "warn":
                told.setdefault(check.sentence().replace(" before,", ",").replace(" after;", ";"), []).append(pair)
    return tuple(f"{'; '.join(pairs)} differ in {sentence}" for sentence, pairs in told.items())


def _named(path: Path, home: Path | None) -> str:
    inside = home is not None and path.is_relative_to(home)
    return (path.relative_to(home) if inside else path).as_posix()


def _used(run: Dated) -> list[Mapping[str, Any]]:
    ids = set(run.item_ids)
    return [item for item in run.items if item["id"] in ids]
