"""The verbs end to end over a run directory: embed, map; resumable, atomic, with a manifest.

    run/  plan.json  items.json  embeddings/part-32618_r-814_c8.parquet ...  difficulty.tif ...  run.json

`plan.json` is written first and names the run by its fingerprint; each part is written whole; `run.json`, the
manifest, is written last. A run without a manifest is unfinished: the same command goes on with the missing parts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geoelle.dense import PatchScores
from geoelle.dense_parts import readers_of, scored_patches
from geoelle.embed import embed_chips, embed_patches
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError, GeoelleError
from geoelle.files import sha256, write_bytes
from geoelle.item import strip_url
from geoelle.models import Model, load_model
from geoelle.plan import Part, Plan, chips_at_once
from geoelle.probe import TWIN, Probe
from geoelle.read import cut, read_window

__all__ = ["Outcome", "Progress", "finish", "load_manifest", "run_embed"]

Progress = Callable[[int, int, str], None]
"""Called with chips done, chips in all, and the name of the part."""
_FORMAT = "geoelle-run", 1
_KEYS = frozenset(["job", "plan", "counts", "sha256"])
_FOLDERS = ("embeddings", "patches", "dense")
"""Where parts lie: chips, patches drawn for a fit, scores of patches."""
_TEMPORARY = ".*.tmp"
"""How `files` calls what it has not finished: a killed process leaves one."""
_PRODUCT = re.compile(r"(difficulty|report|item)(_\d+)?\.(tif|tif\.aux\.xml|zarr|qml|png|html|json)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished embedding step holds: its directory, its parts, and what was skipped and why.

    `patches` are the files of patches beside the parts: those drawn for a fit, or the scores of all.
    """

    out: Path
    parts: tuple[Path, ...]
    patches: tuple[Path, ...]
    counts: dict[str, int]
    skipped: tuple[dict[str, str], ...]


def run_embed(
    plan: Plan, out: Path, *, overwrite: bool = False, progress: Progress | None = None, probe: Probe | None = None
) -> Outcome:
    """Read and embed every part of a plan that is not there yet, or is damaged.

    A dense plan keeps patches beside the chips: with `probe` what it says of every patch, else a few with their tokens.

    Raises: GeoelleError (the directory belongs to another run, or is finished and `overwrite` is false), ReadError.
    """
    folder = _begin(plan, out, overwrite)
    if plan.job.dense:
        _patches_path(plan, out, plan.parts[0], probe).parent.mkdir(exist_ok=True)
    twins = {
        f"twin{seed}": load_model(plan.job.model, "untrained", seed=seed, device=plan.job.device)
        for seed in range(plan.job.twins)
    }
    todo = [part for part in plan.parts if not _is_whole(plan, out, part, probe)]
    done = plan.chips - sum(len(part.addresses) for part in todo)
    for part, window in _windows(plan, todo):
        skips = _skips_path(_part_path(folder, part))
        if window.attrs["skipped"]:
            write_bytes(skips, _json(window.attrs["skipped"]), overwrite=True)
        else:
            skips.unlink(missing_ok=True)
        chips, patches = _embed_window(plan, part, window, twins, probe)
        if patches is not None:
            patches.write(_patches_path(plan, out, part, probe))
        chips.write(_part_path(folder, part))
        done += len(part.addresses)
        if progress:
            progress(done, plan.chips, part.name)
    return _outcome(plan, out, folder, probe)


def finish(outcome: Outcome, plan: Plan, outputs: list[Path], extra: dict[str, Any]) -> Path:
    """Write the manifest, last of all: arguments, versions, items, counts, and the hash of every output."""
    outputs = [outcome.out / "items.json", *outputs, *outcome.parts, *outcome.patches]
    files = sorted({f for path in outputs for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()})
    manifest = {
        "format": _FORMAT[0],
        "version": _FORMAT[1],
        "job": plan.job.to_dict(),
        "plan": plan.decided,
        "versions": {name: version(name) for name in ("geoelle", "torch", "rasterio", "numpy")},
        "counts": outcome.counts,
        "skipped": list(outcome.skipped),
        **extra,
        "sha256": {f.relative_to(outcome.out).as_posix(): sha256(f) for f in files},
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
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT[0]:
        raise FormatError(f"{path} is not a geoelle manifest; name a run directory")
    if manifest.get("version") != _FORMAT[1] or not manifest.keys() >= _KEYS:
        raise FormatError(f"{path} is not a whole manifest of version {_FORMAT[1]}; use the geoelle that wrote it")
    return manifest


def _begin(plan: Plan, out: Path, overwrite: bool) -> Path:
    """Claim the directory for this plan, or resume it; return the folder of the parts."""
    marker, folder = out / "plan.json", out / "embeddings"
    if out.exists() and not out.is_dir():
        raise GeoelleError(f"output {out} is a file; name a directory with -o")
    owner = _owner(marker)
    if not owner and out.is_dir() and any(not path.match(_TEMPORARY) for path in out.iterdir()):
        raise GeoelleError(f"output {out} holds other files and no plan.json of a run; name a new directory with -o")
    mine = owner == plan.fingerprint
    finished = (out / "run.json").is_file()
    if owner and (finished or not mine) and not overwrite:
        state = "a finished run" if finished else "an unfinished run of another command"
        raise GeoelleError(f"output {out} holds {state}; use another -o, or --overwrite to replace it")
    if owner and overwrite:
        _clear(out, keep_parts=mine)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not mine:
            write_bytes(marker, _json(plan.decided), overwrite=True)
        folder.mkdir(exist_ok=True)
    except OSError as cause:
        raise GeoelleError(f"output {out} cannot be made ({cause.strerror}); name a writable place with -o") from cause
    for leftover in [*out.glob(_TEMPORARY), *(p for name in _FOLDERS for p in (out / name).glob(_TEMPORARY))]:
        _remove(leftover)
    write_bytes(out / "items.json", _json(_items(plan)), overwrite=True)
    return folder


def _owner(marker: Path) -> str:
    """Return the fingerprint of the plan that claimed a directory, "" where none did."""
    try:
        claim = json.loads(marker.read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(claim.get("fingerprint", "")) if isinstance(claim, dict) else ""


def _clear(out: Path, keep_parts: bool) -> None:
    """Withdraw the manifest first, so that a crash leaves an unfinished run; then parts with gaps, or all of
    another plan."""
    (out / "run.json").unlink(missing_ok=True)
    parts = [path for name in _FOLDERS for path in (out / name).glob("part-*.parquet")]
    products = [path for path in out.iterdir() if _PRODUCT.fullmatch(path.name)]
    for path in [part for part in parts if _skips_path(part).is_file()] if keep_parts else [*products, *parts]:
        _remove(path)
        _skips_path(path).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_whole(plan: Plan, out: Path, part: Part, probe: Probe | None) -> bool:
    """Say whether the files of a part are there and whole; scores of another probe count as missing."""
    patches = _patches_path(plan, out, part, probe)
    try:
        if patches is not None and probe is not None and PatchScores.read(patches).probe != probe.digest:
            return False
        chips = [_part_path(out / "embeddings", part), *([patches] if patches is not None and probe is None else [])]
        return all(len(Embeddings.read(path)) for path in chips)
    except FormatError:
        return False


def _windows(plan: Plan, parts: list[Part]) -> Iterator[tuple[Part, xr.DataArray]]:
    """Read one window ahead of the encoder."""

    def read(part: Part) -> xr.DataArray:
        box = part.addresses.lattice.union_geobox(part.addresses.rows, part.addresses.cols)
        return read_window(
            plan.looks, box, plan.found.sensor, plan.bands, errors=plan.job.errors, sign=plan.found.access
        )

    reader = ThreadPoolExecutor(1)
    try:
        pending = reader.submit(read, parts[0]) if parts else None
        for i, part in enumerate(parts):
            window = pending.result()
            pending = reader.submit(read, parts[i + 1]) if i + 1 < len(parts) else None
            yield part, window
    finally:
        # Whoever stops early does not wait for a slow server.
        reader.shutdown(wait=False, cancel_futures=True)


def _embed_window(
    plan: Plan, part: Part, window: xr.DataArray, twins: dict[str, Model], probe: Probe | None
) -> tuple[Embeddings, Embeddings | PatchScores | None]:
    """Return the chips of a part, and of a dense plan its patches."""
    some = chips_at_once(part.addresses.lattice.size_px, len(plan.bands))
    cuts = (cut(window, part.addresses[i : i + some]) for i in range(0, len(part.addresses), some))
    how = {"precision": plan.job.precision}
    if plan.job.dense and probe is not None:
        readers = readers_of(probe, twins.get(TWIN), keeps=bool(twins), loss=plan.job.loss)
        return scored_patches(cuts, plan.model, readers, probe, **how)
    how |= {"loss": plan.job.loss, "twins": twins}
    if plan.job.dense:
        first, *rest = (embed_patches(chips, plan.model, **how) for chips in cuts)
        return first[0].concat(*(table for table, _ in rest)), first[1].concat(*(table for _, table in rest))
    first, *rest = (embed_chips(chips, plan.model, **how) for chips in cuts)
    return first.concat(*rest), None


def _outcome(plan: Plan, out: Path, folder: Path, probe: Probe | None) -> Outcome:
    parts = tuple(_part_path(folder, part) for part in plan.parts)
    reports = [json.loads(p.read_text()) for p in map(_skips_path, parts) if p.is_file()]
    skipped = tuple({json.dumps(row, sort_keys=True): row for rows in reports for row in rows}.values())
    valid = [Embeddings.read(path).valid_n for path in parts]
    read = int(sum(v.sum() for v in valid))
    assets = {(row["item"], row["asset"]) for row in skipped}
    counts = {"planned": plan.chips, "read": read, "empty": plan.chips - read, "skipped": len(assets)}
    patches = [_patches_path(plan, out, part, probe) for part in plan.parts]
    patches = tuple(path for path in patches if path is not None)
    return Outcome(out=out, parts=parts, patches=patches, counts=counts, skipped=skipped)


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


def _patches_path(plan: Plan, out: Path, part: Part, probe: Probe | None) -> Path | None:
    """Return where the patches of a part lie: drawn ones, or with a probe the scores of all; None of a plain run."""
    if not plan.job.dense:
        return None
    return _part_path(out / ("patches" if probe is None else "dense"), part)


def _skips_path(part: Path) -> Path:
    return part.with_suffix(".skipped.json")


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n").encode()


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
