"""The verbs end to end over a run directory: embed, map; resumable, atomic, with a manifest.

    run/  plan.json  items.json  embeddings/part-32618_r-814_c8.parquet ...  difficulty.tif ...  run.json

`plan.json` is written first and names the run by its fingerprint; each part is written whole; `run.json`, the
manifest, is written last. A run without a manifest is unfinished: the same command goes on with the missing parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geoelle.embed import embed_chips
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError, GeoelleError
from geoelle.files import sha256, write_bytes
from geoelle.item import strip_url
from geoelle.models import Model, load_model
from geoelle.plan import Part, Plan
from geoelle.read import cut, read_window

__all__ = ["Outcome", "Progress", "finish", "load_manifest", "run_embed"]

BATCH = 1024
"""Chips cut from a window at a time: bounds memory, not results."""
Progress = Callable[[int, int, str], None]
"""Called with chips done, chips in all, and the name of the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished embedding step holds: its directory, its parts, and what was skipped and why."""

    out: Path
    parts: tuple[Path, ...]
    counts: dict[str, int]
    skipped: tuple[dict[str, str], ...]


def run_embed(plan: Plan, out: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Outcome:
    """Read and embed every part of a plan that is not there yet.

    Raises: GeoelleError (the directory belongs to another run, or is finished and `overwrite` is false), ReadError.
    """
    folder = _begin(plan, out, overwrite)
    twins = {f"twin{seed}": load_model(plan.job.model, "untrained", seed=seed, device=plan.job.device)
             for seed in range(plan.job.twins)}
    todo = [part for part in plan.parts if not _part_path(folder, part).exists()]
    done = plan.chips - sum(len(part.addresses) for part in todo)
    for part, window in _windows(plan, todo):
        skipped = window.attrs["skipped"]
        if skipped:
            write_bytes(_part_path(folder, part).with_suffix(".skipped.json"), _json(skipped), overwrite=True)
        _embed_window(plan, part, window, twins).write(_part_path(folder, part))
        done += len(part.addresses)
        if progress:
            progress(done, plan.chips, part.name)
    return _outcome(plan, out, folder)


def finish(outcome: Outcome, plan: Plan, outputs: list[Path], extra: dict[str, Any]) -> Path:
    """Write the manifest, last of all: arguments, versions, items, counts, and the hash of every output."""
    files = sorted({*outputs, *outcome.parts})
    manifest = {
        "format": "geoelle-run", "version": 1,
        "job": plan.job.to_dict(), "plan": {k: v for k, v in plan.to_dict().items() if k != "encode_seconds"},
        "versions": {name: version(name) for name in ("geoelle", "torch", "rasterio", "numpy")},
        "counts": outcome.counts, "skipped": list(outcome.skipped), **extra,
        "sha256": {str(f.relative_to(outcome.out)): sha256(f) for f in files if f.is_file()},
    }
    return write_bytes(outcome.out / "run.json", _json(manifest), overwrite=True)


def load_manifest(run: Path) -> dict[str, Any]:
    """Return the manifest of a finished run.

    Raises: FormatError.
    """
    path = run / "run.json"
    if not path.is_file():
        hint = "run the same command again to finish it" if (run / "plan.json").is_file() else "name a run directory"
        raise FormatError(f"{run} has no run.json, so it is no finished run; {hint}")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as cause:
        raise FormatError(f"{path} is not JSON ({cause}); run the command again with --overwrite") from cause
    if not isinstance(manifest, dict) or manifest.get("format") != "geoelle-run":
        raise FormatError(f"{path} is not a geoelle manifest; name a run directory")
    return manifest


def _begin(plan: Plan, out: Path, overwrite: bool) -> Path:
    """Claim the directory for this plan, or resume it; return the folder of the parts."""
    marker, folder = out / "plan.json", out / "embeddings"
    if out.exists() and not out.is_dir():
        raise GeoelleError(f"output {out} is a file; name a directory with -o")
    if out.is_dir() and any(out.iterdir()) and not marker.is_file():
        raise GeoelleError(f"output {out} holds other files and no plan.json; name a new directory with -o")
    mine = marker.is_file() and json.loads(marker.read_text()).get("fingerprint") == plan.fingerprint
    finished = (out / "run.json").is_file()
    if marker.is_file() and (finished or not mine):
        if not overwrite:
            state = "a finished run" if finished else "an unfinished run of another command"
            raise GeoelleError(f"output {out} holds {state}; use another -o, or --overwrite to replace it")
        _clear(out, keep_parts=mine)
    folder.mkdir(parents=True, exist_ok=True)
    if not mine:
        write_bytes(out / "items.json", _json(_items(plan)), overwrite=True)
        write_bytes(marker, _json(plan.to_dict()), overwrite=True)
    return folder


def _clear(out: Path, keep_parts: bool) -> None:
    """Withdraw the manifest first, so that a crash leaves an unfinished run; parts of another plan go too."""
    (out / "run.json").unlink(missing_ok=True)
    if not keep_parts:
        (out / "plan.json").unlink(missing_ok=True)
        for part in (out / "embeddings").glob("part-*"):
            part.unlink()


def _windows(plan: Plan, parts: list[Part]) -> Iterator[tuple[Part, xr.DataArray]]:
    """Read one window ahead of the encoder."""
    def read(part: Part) -> xr.DataArray:
        box = part.addresses.lattice.union_geobox(part.addresses.rows, part.addresses.cols)
        return read_window(
            plan.looks, box, plan.found.sensor, plan.bands, errors=plan.job.errors, sign=plan.found.access
        )

    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, parts[0]) if parts else None
        for i, part in enumerate(parts):
            window = pending.result()
            pending = reader.submit(read, parts[i + 1]) if i + 1 < len(parts) else None
            yield part, window


def _embed_window(plan: Plan, part: Part, window: xr.DataArray, twins: dict[str, Model]) -> Embeddings:
    pieces = [
        embed_chips(
            cut(window, part.addresses[i : i + BATCH]), plan.model, loss=plan.job.loss, twins=twins,
            precision=plan.job.precision, sensor=plan.found.sensor.name,
        )
        for i in range(0, len(part.addresses), BATCH)
    ]
    return pieces[0].concat(*pieces[1:])


def _outcome(plan: Plan, out: Path, folder: Path) -> Outcome:
    parts = tuple(_part_path(folder, part) for part in plan.parts)
    reports = [json.loads(p.read_text()) for p in (q.with_suffix(".skipped.json") for q in parts) if p.is_file()]
    skipped = tuple({json.dumps(row, sort_keys=True): row for rows in reports for row in rows}.values())
    valid = [Embeddings.read(path).valid_n for path in parts]
    read = int(sum(v.sum() for v in valid))
    counts = {"planned": plan.chips, "read": read, "empty": plan.chips - read, "skipped": len(skipped)}
    return Outcome(out=out, parts=parts, counts=counts, skipped=skipped)


def _items(plan: Plan) -> dict[str, Any]:
    """Return the items as an ItemCollection, URL signatures stripped."""
    features = []
    for item in {item.id: item for look in plan.looks for item in look.items}.values():
        feature = item.to_dict(include_self_link=False, transform_hrefs=False)
        for asset in feature["assets"].values():
            asset["href"] = strip_url(asset["href"])
        feature["links"] = []
        features.append(feature)
    return {"type": "FeatureCollection", "features": features}


def _part_path(folder: Path, part: Part) -> Path:
    return folder / f"part-{part.name}.parquet"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n").encode()


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
