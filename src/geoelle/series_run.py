"""Score the places of a series date by date, in one directory that is resumed after whatever stopped it.

    out/  plan.json  dates/20190601T093000-34.parquet ...

`plan.json` is written first and names the series by its fingerprint; each date is written whole.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from geoelle.chips import Chips
from geoelle.claims import TEMPORARY, claim_output
from geoelle.delta import Scored
from geoelle.dense import PatchScores
from geoelle.dense_parts import readers_of, scored_patches
from geoelle.embed import embed_chips
from geoelle.lattice import Addresses
from geoelle.patches import keys_of
from geoelle.plan import Part, Plan, chips_at_once, part_side
from geoelle.probe import Probe
from geoelle.read import Look, cut, read_window
from geoelle.series_dates import DateScores
from geoelle.series_plan import SeriesPlan

__all__ = ["FORMAT", "claim_series", "score_dates"]

FORMAT = "geoelle-series", 1
PRODUCTS = ("series.parquet", "series.csv", "series.json", "series.png", "report.html")
Progress = Callable[[int, int, str], None]


_Piece = tuple[Scored | PatchScores, Chips, tuple[dict[str, str], ...]]
"""What one window gave: scores, the pixels of its cells, and what was skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One file: the cells of one lattice on one date, and the parts whose windows show them."""

    look: Look
    cells: Addresses
    parts: tuple[Part, ...]
    path: Path

    @property
    def chips(self) -> int:
        return sum(len(part.addresses) for part in self.parts)


def claim_series(out: Path, fingerprint: str, *, overwrite: bool = False) -> Path:
    """Take a directory for a series, or go on with it; return the folder of its dates.

    With `overwrite` a finished series gives up its products, and one of another fingerprint its dates too.

    Raises: GeoelleError (it holds something else, or is finished and `overwrite` is false).
    """
    folder = out / "dates"

    def clear(is_same: bool) -> None:
        if not is_same and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        for path in [*(out / name for name in PRODUCTS), *out.glob(TEMPORARY), *folder.glob(TEMPORARY)]:
            path.unlink(missing_ok=True)

    claim_output(out, fingerprint, clear, form=FORMAT, kind="series", overwrite=overwrite)
    return folder


def score_dates(
    series: SeriesPlan, probe: Probe, folder: Path, *, progress: Progress | None = None
) -> tuple[DateScores, ...]:
    """Read and score every date that is not there yet, or is damaged; return all of them, the earliest first.

    Raises: ReadError, CatalogError.
    """
    plan, tasks = series.plan, _tasks(series.plan, folder)
    todo = [task for task in tasks if not DateScores.is_whole(task.path, probe.digest, task.cells)]
    total = sum(task.chips for task in tasks)
    done = total - sum(task.chips for task in todo)
    windows = _windows(plan, [(task, part) for task in todo for part in task.parts])
    for task in todo:
        pieces = [_score(plan, task.cells, *next(windows), probe) for _ in task.parts]
        _joined(pieces, task.cells, probe).write(task.path)
        done += task.chips
        if progress:
            progress(done, total, str(task.look.date)[:10])
    return tuple(DateScores.read(task.path) for task in tasks)


def _tasks(plan: Plan, folder: Path) -> list[_Task]:
    """Return the files there should be, date by date."""
    tasks = []
    for look in plan.looks:
        moment = re.sub(r"[-:]", "", str(look.date))
        for (lattice, chips), (_, cells) in zip(plan.zones, plan.cells, strict=True):
            parts = tuple(Part(name=n, addresses=a) for n, a in chips.parts(part_side(lattice.stride_px)))
            path = folder / f"{moment}-{lattice.epsg}.parquet"
            tasks.append(_Task(look=look, cells=cells, parts=parts, path=path))
    return tasks


def _windows(plan: Plan, wanted: list[tuple[_Task, Part]]) -> Iterator[tuple[Part, xr.DataArray]]:
    """Read one window ahead of the encoder."""

    def read(task: _Task, part: Part) -> xr.DataArray:
        box = part.addresses.lattice.union_geobox(part.addresses.rows, part.addresses.cols)
        return read_window(
            [task.look], box, plan.found.sensor, plan.bands, errors=plan.job.errors, sign=plan.found.access
        )

    reader = ThreadPoolExecutor(1)
    try:
        pending = reader.submit(read, *wanted[0]) if wanted else None
        for i, (_, part) in enumerate(wanted):
            window = pending.result()
            pending = reader.submit(read, *wanted[i + 1]) if i + 1 < len(wanted) else None
            yield part, window
    finally:
        # Whoever stops early does not wait for a slow server.
        reader.shutdown(wait=False, cancel_futures=True)


def _score(plan: Plan, cells: Addresses, part: Part, window: xr.DataArray, probe: Probe) -> _Piece:
    """Score the cells that one window shows."""
    some = chips_at_once(part.addresses.lattice.size_px, len(plan.bands))
    batches = [part.addresses[i : i + some] for i in range(0, len(part.addresses), some)]
    chips = (cut(window, batch) for batch in batches)
    how = {"precision": plan.job.precision}
    if not plan.job.dense:
        first, *rest = (embed_chips(each, plan.model, **how) for each in chips)
        table = first.concat(*rest)
        return Scored.of_chips(table, probe), cut(window, table.addresses), tuple(window.attrs["skipped"])
    _, patches = scored_patches(chips, plan.model, readers_of(probe), probe, **how)
    shown = cells[np.isin(keys_of(cells), keys_of(patches.addresses))]
    return patches, cut(window, shown), tuple(window.attrs["skipped"])


def _joined(pieces: list[_Piece], cells: Addresses, probe: Probe) -> DateScores:
    """Put the windows of a date together; a patch keeps every offset, whichever window it was seen in."""
    first, *rest = (table for table, _, _ in pieces)
    if isinstance(first, PatchScores):
        scored = Scored.of_patches(first.join(*rest).at(cells), probe)
    else:
        scored = _concat([first, *rest]).at(cells)
    shares, items = {}, {}
    for _, seen, _ in pieces:
        keys = keys_of(seen.addresses).tolist()
        shares |= dict(zip(keys, seen.valid_fraction_b.tolist(), strict=True))
        items |= dict(zip(keys, seen.items, strict=True))
    keys = keys_of(cells).tolist()
    return DateScores(
        scored=scored, clear_n=np.array([shares[key] for key in keys]), items_n=tuple(items[key] for key in keys),
        skipped=tuple({json.dumps(row, sort_keys=True): row for *_, rows in pieces for row in rows}.values()),
    )  # fmt: skip


def _concat(tables: list[Scored]) -> Scored:
    """Append the scores of several windows."""
    first, *rest = tables

    def every(name: str) -> np.ndarray | None:
        return None if getattr(first, name) is None else np.concatenate([getattr(table, name) for table in tables])

    return replace(
        first, addresses=first.addresses.concat(*(table.addresses for table in rest)),
        **{name: every(name) for name in ("difficulty_n", "days_n", "complexity_n", "inside_n")},
    )  # fmt: skip
