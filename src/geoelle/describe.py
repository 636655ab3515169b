"""Say what a file of geoelle is, and whether it is whole: run, probe, embeddings, COG or Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rasterio
import zarr

from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError
from geoelle.files import sha256
from geoelle.probe import Probe
from geoelle.run import load_manifest

__all__ = ["describe"]


def describe(path: Path) -> dict[str, Any]:
    """Return the facts of any file or directory geoelle writes, `verified` among them.

    Raises: FormatError (missing, foreign or damaged; the text names the file).
    """
    if not path.exists():
        raise FormatError(f"nothing is at {path}; name a run, a probe, an embeddings file or a raster")
    if path.suffix == ".safetensors":
        return _probe(path)
    if path.suffix == ".parquet":
        return _embeddings(path)
    if path.suffix in (".tif", ".tiff"):
        return _cog(path)
    if (path / "zarr.json").is_file():
        return _zarr(path)
    if path.is_dir():
        return _run(path)
    raise FormatError(f"{path} is nothing geoelle writes; name a run, .safetensors, .parquet, .tif or .zarr")


def _run(path: Path) -> dict[str, Any]:
    manifest = load_manifest(path)
    wrong = [name for name, digest in manifest["sha256"].items() if _digest(path / name) != digest]
    if wrong:
        raise FormatError(f"run {path} is damaged: {', '.join(wrong)} differ from run.json; run the command again with --overwrite")
    plan = manifest["plan"]
    return {
        "kind": "run", "verified": f"{len(manifest['sha256'])} files match run.json", "model": plan["model"], "sensor": plan["sensor"],
        "bbox": manifest["job"]["bbox"], "dates": manifest["job"]["dates"], "items": plan["items"], "cells": plan["cells"],
        "cell_m": plan["cell_m"], "epsg": plan["epsg"], "bands": plan["bands"], **manifest["counts"],
        "files": sorted(manifest["sha256"]), "fingerprint": plan["fingerprint"],
    }


def _digest(path: Path) -> str:
    return sha256(path) if path.is_file() else "missing"


def _probe(path: Path) -> dict[str, Any]:
    probe = Probe.load(path)
    return {
        "kind": "probe", "verified": "digest matches", "inputs": len(probe.embedding.weights_d), "target": probe.target,
        "scale": probe.scale, "alpha": probe.embedding.alpha, **{f"space {k}": v for k, v in probe.space.items()},
        "licence": probe.licence, "scores": dict(probe.scores), "folds": dict(probe.folds), "data": dict(probe.data),
    }


def _embeddings(path: Path) -> dict[str, Any]:
    table = Embeddings.read(path)
    return {
        "kind": "embeddings", "rows": len(table), "valid": int(table.valid_n.sum()), "dim": table.vectors_nd.shape[1],
        "loss": "no" if table.loss_n is None else "yes", "twins": len(table.twins), "sensor": table.header.sensor,
        "bands": list(table.header.bands), "space_id": table.header.space_id, **{f"space {k}": v for k, v in table.header.space.items()},
    }


def _cog(path: Path) -> dict[str, Any]:
    try:
        with rasterio.open(path) as file:
            facts = {
                "kind": "raster", "crs": str(file.crs), "shape": list(file.shape), "cell_m": file.res[0], "nodata": file.nodata,
                "layout": file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT", "not a COG"), "overviews": file.overviews(1),
            }
            for i, name in enumerate(file.descriptions, start=1):
                tags = file.tags(i)
                facts[f"band {i}"] = f"{name} [{file.units[i - 1]}] " + ", ".join(
                    f"{k.removeprefix('STATISTICS_').lower()} {float(v):.4g}" for k, v in tags.items() if k.startswith("STATISTICS_")
                )
            return {**facts, **{k.lower(): v for k, v in sorted(file.tags().items()) if k.startswith("GEOELLE_")}}
    except rasterio.errors.RasterioIOError as cause:
        raise FormatError(f"{path} cannot be opened as a raster ({cause}); run the command that wrote it again") from cause


def _zarr(path: Path) -> dict[str, Any]:
    root = zarr.open_group(path, mode="r")
    level = root["0"]
    return {
        "kind": "zarr", "levels": len(list(root.group_keys())), "crs": root.attrs.get("proj:code"),
        **{f"array {name}": f"{array.shape} {array.dtype}" for name, array in level.arrays() if array.ndim == 2},
        **{k.lower(): v for k, v in root.attrs.items() if k.startswith("GEOELLE_")},
    }
