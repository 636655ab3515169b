"""Make the runs that a change is read from: before, after and earlier years, each a run of its own in one directory.

    out/  before/  after/  history-1/  history-2/ ...  later-1/ ...

Every run is resumed as any other is. A history is the window after, so many years earlier: the change is judged in the
season in which it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from geoelle.area import Area
from geoelle.change import MIN_YEARS
from geoelle.errors import AreaError, CatalogError, FormatError, NoItems, ProbeError
from geoelle.files import differing
from geoelle.plan import Job, Plan, make_plan
from geoelle.probe import Probe
from geoelle.run import Progress, finish, load_manifest, run_embed
from geoelle.seasonal import SEASON_DAYS, season_gap

__all__ = ["Windows", "embed_windows", "plan_windows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The plans of all runs by name, before and after first, later windows last, and what was left out."""

    plans: dict[str, Plan]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Return the names of before, after and the history, and those of later windows."""
        later = [name for name in self.plans if name.startswith("later-")]
        return [name for name in self.plans if name not in later], later

    @property
    def bytes(self) -> int:
        """Estimate the uncompressed bytes to read."""
        return sum(plan.bytes for plan in self.plans.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        return {
            "runs": {name: plan.to_dict() for name, plan in self.plans.items()},
            "bytes": self.bytes,
            "notes": list(self.notes),
        }


def plan_windows(job: Job, before: str, years: int, later: Sequence[str] = ()) -> Windows:
    """Plan the window of the job as the date after, `before` of the same ground, and earlier years of the window after.

    These end before the window before begins. A year without an item is left out, and said. Windows `later` follow the
    window after.

    Raises: AreaError (windows that overlap, or of two seasons), NoItems (before, after or later), ProbeError (fewer
    than four years are left, or later windows without any), CatalogError, ModelError.
    """
    after = job.area
    ground = {"polygon": after.polygon} if after.polygon is not None else {"bbox": after.bbox}
    first = Area.parse(**ground, dates=before)
    further = _in_order(after, [Area.parse(**ground, dates=dates) for dates in later])
    if further and not years:
        raise ProbeError("later windows are judged by the history, and none was asked for; give --history")
    if first.end >= after.start:
        raise AreaError(
            f"the windows overlap, or are in the wrong order ({first.dates}, {after.dates}); --before ends first"
        )
    plans = {name: _plan(name, job, area) for name, area in (("before", first), ("after", after))}
    notes: list[str] = []
    since = next(back for back in count(1) if _earlier(after.end, back) < first.start)
    for number in range(1, years + 1):
        start, end = (_earlier(moment, since + number - 1) for moment in (after.start, after.end))
        area, name = replace(after, start=start, end=end), f"history-{number}"
        try:
            plans[name] = _plan(name, job, area)
        except NoItems:
            notes.append(f"{name} ({area.dates}) was left out: the catalogue has no item of it")
    if years and (left := len(plans) - 2) < MIN_YEARS:
        told = f" ({'; '.join(notes)})" if notes else ""
        raise ProbeError(
            f"of {years} earlier years {left} can be used{told} and {MIN_YEARS} are needed; give a longer --history, "
            "or none for a ranking without p-values"
        )
    plans |= {name: _plan(name, job, area) for name, area in further.items()}
    return Windows(plans=plans, notes=tuple(notes))


def embed_windows(
    windows: Windows, out: Path, probe: Probe, *, overwrite: bool = False, progress: Progress | None = None
) -> dict[str, Path]:
    """Make every run that is not there yet, or is damaged, or of another probe; return their directories by name.

    `overwrite` replaces other runs, and reads again where assets were skipped.

    Raises: as `run_embed`.
    """
    made = {}
    for name, plan in windows.plans.items():
        made[name] = folder = out / name
        found = _finished(folder, plan)
        if found and not (overwrite and found["skipped"]) and _is_whole(folder, found, plan, probe):
            continue
        outcome = run_embed(
            plan, folder, overwrite=overwrite or found is not None, progress=_named(name, progress),
            probe=probe if plan.job.dense else None,
        )  # fmt: skip
        told = {"probe": {"digest": probe.digest, "space": dict(probe.space)}} if plan.job.dense else {}
        finish(outcome, plan, [], told)
    return made


def _in_order(after: Area, later: list[Area]) -> dict[str, Area]:
    """Name the later windows by their order, or say why they do not follow the window after."""
    later.sort(key=lambda area: area.start)
    for one, other in pairwise((after, *later)):
        if other.start <= one.end:
            raise AreaError(
                f"the windows overlap, or one of --later is before --after ({one.dates}, {other.dates}); --later "
                "begins where the window before it has ended"
            )
    for area in later:
        middles = [(a.start + (a.end - a.start) / 2).timestamp() / 86_400 for a in (after, area)]
        if season_gap(*middles) > SEASON_DAYS:
            raise AreaError(
                f"--later {area.dates} is of another season than {after.dates} (more than {SEASON_DAYS:g} days of the "
                "year apart), which the history does not tell of; give the same season, of any year after"
            )
    return {f"later-{number}": area for number, area in enumerate(later, start=1)}


def _plan(name: str, job: Job, area: Area) -> Plan:
    try:
        return make_plan(replace(job, area=area), cells_for_map=True)
    except NoItems as cause:
        raise NoItems(f"{name}: {cause}") from cause
    except CatalogError as cause:
        raise CatalogError(f"{name}: {cause}") from cause


def _earlier(moment: datetime, years: int) -> datetime:
    """Return the same day so many years earlier, 28 for 29 February."""
    try:
        return moment.replace(year=moment.year - years)
    except ValueError:
        return moment.replace(year=moment.year - years, day=28)


def _finished(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """Return the manifest of a finished run of this plan, None where there is none."""
    try:
        manifest = load_manifest(folder)
    except FormatError:
        return None
    return manifest if manifest["plan"]["fingerprint"] == plan.fingerprint else None


def _is_whole(folder: Path, manifest: dict[str, Any], plan: Plan, probe: Probe) -> bool:
    """Say whether the files of a run are those that its manifest names, and its patches scored by this probe."""
    if plan.job.dense and manifest.get("probe", {}).get("digest") != probe.digest:
        return False
    return not differing(folder, manifest["sha256"])


def _named(name: str, progress: Progress | None) -> Callable[[int, int, str], None] | None:
    return None if progress is None else lambda done, total, part: progress(done, total, f"{name}, {part}")
