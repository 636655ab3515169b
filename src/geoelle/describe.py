"""Say what a file of geoelle is, and whether it is whole: run, change, series, probe, embeddings, COG or Zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from rasterio.windows import Window

from geoelle.dense import PatchScores
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError
from geoelle.files import differing
from geoelle.probe import Probe
from geoelle.run import load_manifest

__all__ = ["describe", "in_words"]

_ROWS = 512
"""Rows of a raster decoded at a time: one row of blocks of ours."""


def describe(path: Path) -> dict[str, Any]:
    """Return the facts of any file or directory geoelle writes, `verified` among them.

    Raises: FormatError (missing, foreign or damaged; the text names the file).
    """
    if not path.exists():
        raise FormatError(f"nothing is at {path}; name a run, a probe, an embeddings file or a raster")
    if path.suffix == ".safetensors":
        return _probe(path)
    if path.suffix == ".parquet":
        return _patch_scores(path) if PatchScores.in_file(path) else _embeddings(path)
    if path.suffix in (".tif", ".tiff"):
        return _cog(path)
    if (path / "zarr.json").is_file():
        return _zarr(path)
    if path.is_dir():
        return {"geoelle-delta": _change, "geoelle-series": _series}.get(_format(path), _run)(path)
    raise FormatError(f"{path} is nothing geoelle writes; name a run, .safetensors, .parquet, .tif or .zarr")


def _format(path: Path) -> str:
    """Return what the manifest of a directory says it is, "" where there is none."""
    try:
        return str(json.loads((path / "run.json").read_text("utf-8")).get("format"))
    except (OSError, ValueError, AttributeError):
        return ""


def _check_files(path: Path, manifest: dict[str, Any]) -> str:
    """Compare the files of a directory with its manifest; raises `FormatError`."""
    if wrong := differing(path, manifest["sha256"]):
        raise FormatError(
            f"run {path} is damaged: {', '.join(wrong)} differ from run.json; run the command again with --overwrite"
        )
    return f"{len(manifest['sha256'])} files match run.json"


def in_words(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts for a reader: of the scores of a probe, and of how far to trust it, sentences instead of tables."""
    told: dict[str, Any] = {}
    for name, value in facts.items():
        lines = _sentences(name, value)
        told |= {f"{name}, {i}": line for i, line in enumerate(lines, start=1)} if lines else {name: value}
    return told


def _sentences(name: str, value: Any) -> list[str]:
    if name == "scores" and value:
        return [*(table["sentence"] for table in value["tables"]), *value["notes"]]
    if name == "trust" and value:
        return [*value["sentences"].values(), *value["notes"]]
    return []


def _change(path: Path) -> dict[str, Any]:
    manifest = json.loads((path / "run.json").read_text("utf-8"))
    verified = _check_files(path, manifest)
    zones = manifest["zones"]
    return {
        "kind": "change",
        "verified": verified,
        "model": manifest["probe"]["space"]["model"],
        "dates": [f"{date['name']}: {', '.join(date['items'])}" for date in manifest["dates"]],
        "test": [f"{name}: {zone['design']}" for name, zone in zones.items()],
        "cells": [
            f"{name}: {count} {state}" for name, zone in zones.items() for state, count in zone["counts"].items()
        ],
        "status": [
            f"{name}: {count} {status}"
            for name, zone in zones.items()
            for status, count in (zone["status"] or {}).items()
        ],
        **({} if manifest["alerts"] is None else {"alerts": manifest["alerts"]}),
        "probe": manifest["probe"]["digest"],
        "fingerprint": manifest["fingerprint"],
    }


def _series(path: Path) -> dict[str, Any]:
    manifest = json.loads((path / "run.json").read_text("utf-8"))
    return {
        "kind": "series",
        "verified": _check_files(path, manifest),
        "model": manifest["model"],
        "event": manifest["event"],
        "places": [f"{each['place']}: {each['counts']['clear']} clear dates" for each in manifest["places"]],
        "probe": manifest["probe"]["digest"],
        "fingerprint": manifest["fingerprint"],
    }


def _run(path: Path) -> dict[str, Any]:
    manifest = load_manifest(path)
    verified = _check_files(path, manifest)
    plan = manifest["plan"]
    files = {name.split(".zarr/")[0] + ".zarr" if ".zarr/" in name else name for name in manifest["sha256"]}
    return {
        "kind": "run",
        "verified": verified,
        "model": plan["model"],
        "sensor": plan["sensor"],
        "bbox": manifest["job"]["bbox"],
        "dates": manifest["job"]["dates"],
        "items": plan["items"],
        "cells": plan["cells"],
        "cell_m": plan["cell_m"],
        "epsg": plan["epsg"],
        "bands": plan["bands"],
        **manifest["counts"],
        "files": sorted(files),
        "fingerprint": plan["fingerprint"],
    }


def _probe(path: Path) -> dict[str, Any]:
    probe = Probe.load(path)
    return {
        "kind": "probe",
        "verified": "digest matches",
        "inputs": len(probe.embedding.weights_d),
        "target": probe.target,
        "scale": probe.scale,
        "alpha": probe.embedding.alpha,
        **{f"space {k}": v for k, v in probe.space.items()},
        "licence": probe.licence,
        "intervals": "no" if probe.spread is None else f"{100 * (1 - probe.spread.alpha):g}%",
        "smearing": probe.smearing,
        "untrained twin": "no" if probe.twin is None else "yes",
        "reference points": 0 if probe.reach is None else len(probe.reach.counts_m),
        "scores": dict(probe.scores),
        "trust": dict(probe.trust),
        "folds": dict(probe.folds),
        "data": dict(probe.data),
    }


def _embeddings(path: Path) -> dict[str, Any]:
    table = Embeddings.read(path)
    return {
        "kind": "embeddings",
        "verified": "checksums of all pages match",
        "rows": len(table),
        "valid": int(table.valid_n.sum()),
        "dim": table.vectors_nd.shape[1],
        "loss": "no" if table.loss_n is None else "yes",
        "twins": len(table.twins),
        "sensor": table.header.sensor,
        "bands": list(table.header.bands),
        "space_id": table.header.space_id,
        **{f"space {k}": v for k, v in table.header.space.items()},
    }


def _patch_scores(path: Path) -> dict[str, Any]:
    scores = PatchScores.read(path)
    return {
        "kind": "scores of patches",
        "verified": "checksums of all pages match",
        "rows": len(scores),
        "valid": int(np.isfinite(scores.mean_n).sum()),
        "offsets": scores.by_offset_nk.shape[1],
        "probe": scores.probe,
        **{f"space {k}": v for k, v in scores.space.items()},
    }


def _cog(path: Path) -> dict[str, Any]:
    try:
        with rasterio.open(path) as file:
            for row in range(0, file.height, _ROWS):
                file.read(window=Window(0, row, file.width, min(_ROWS, file.height - row)))
            facts = {
                "kind": "raster",
                "verified": "every block decodes",
                "crs": str(file.crs),
                "shape": list(file.shape),
                "cell_m": file.res[0],
                "nodata": None if file.nodata is None else f"{file.nodata:g}",
                "layout": file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT", "not a COG"),
                "overviews": file.overviews(1),
            }
            for i, name in enumerate(file.descriptions, start=1):
                facts[f"band {i}"] = f"{name} [{file.units[i - 1]}] {_statistics(file.tags(i))}"
            return {**facts, **{k.lower(): v for k, v in sorted(file.tags().items()) if k.startswith("GEOELLE_")}}
    except rasterio.errors.RasterioError as cause:
        raise FormatError(f"{path} is no whole raster ({cause.__cause__ or cause}); write it again") from cause


def _statistics(tags: dict[str, str]) -> str:
    names = ("minimum", "maximum", "mean", "stddev", "valid_percent")
    known = {name: tags.get(f"STATISTICS_{name.upper()}") for name in names}
    return ", ".join(f"{name} {float(text):.4g}" for name, text in known.items() if text is not None)


def _zarr(path: Path) -> dict[str, Any]:
    shapes = {}
    try:
        # The root keeps a copy of all metadata: what it lists must be there.
        root = zarr.open_group(path, mode="r")
        for name in sorted(root.group_keys(), reverse=True):
            level = zarr.open_group(path / name, mode="r", use_consolidated=False)
            arrays = {key: np.asarray(level[key][...]) for key in sorted(root[name].array_keys())}
            shapes |= {f"array {key}": f"{v.shape} {v.dtype}" for key, v in arrays.items() if v.ndim == 2}
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as cause:
        raise FormatError(f"{path} is no whole Zarr group ({cause}); write it again") from cause
    if not shapes:
        raise FormatError(f"{path} is a Zarr group without levels; name one that geoelle wrote")
    return {
        "kind": "zarr",
        "verified": "every chunk decodes",
        "levels": len(list(root.group_keys())),
        "crs": root.attrs.get("proj:code"),
        **shapes,
        **{k.lower(): v for k, v in root.attrs.items() if k.startswith("GEOELLE_")},
    }
