"""The score verb: difficulty of vectors that exist already, streamed; no imagery needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geoelle.errors import FormatError
from geoelle.files import check_free, fresh_file
from geoelle.probe import Probe
from geoelle.vectors import check_finished, parquet_files, vectors_from

__all__ = ["plan_score", "score_file"]


def score_file(
    path: Path, probe_path: Path, out: Path, *, column: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write the difficulty of every vector of a table as GeoParquet, streaming; return a summary.

    A table of geoelle is checked against the probe's space. A foreign table carries no space: its vectors are taken as
    the caller says they are.

    Raises: SpaceMismatch, ProbeError (vectors of another length), FormatError, GeoelleError (`out` exists).
    """
    check_free(out, overwrite=overwrite)
    if out.exists() and path.exists() and out.samefile(path):
        raise FormatError(f"scores cannot take the place of the vectors they are of ({out}); name another file with -o")
    check_finished(path)
    probe = Probe.load(probe_path)
    known = _check_space(path, probe)
    seen: list[np.ndarray] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in vectors_from(path, column):
            scores = probe.score(batch.vectors_nd)
            seen.append(scores)
            yield _score_batch(batch.lonlat_n2, batch.addresses, scores)

    with fresh_file(out, overwrite=overwrite) as sink:
        writer = None
        for batch in batches():
            writer = writer or pq.ParquetWriter(sink, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            raise FormatError(f"{path} holds no vectors; embed something first")
        writer.close()
    values = np.concatenate(seen)
    finite = values[np.isfinite(values)]
    low, high = map(float, np.percentile(finite, (5, 95))) if len(finite) else (None, None)
    return {"out": str(out), "rows": len(values), "valid": len(finite), "space_checked": known, "p5": low, "p95": high}


def plan_score(path: Path, probe_path: Path, *, column: str | None = None) -> dict[str, Any]:
    """Return what `score_file` would score, from the first batch: length of the vectors, space, places.

    Raises: as `score_file`.
    """
    check_finished(path)
    probe = Probe.load(probe_path)
    known = _check_space(path, probe)
    first = next(iter(vectors_from(path, column)), None)
    if first is None:
        raise FormatError(f"{path} holds no vectors; embed something first")
    probe.score(first.vectors_nd[:1])
    return {
        "vectors": str(path),
        "dim": first.vectors_nd.shape[1],
        "space_checked": known,
        "has_places": first.lonlat_n2 is not None,
        "probe_model": probe.space["model"],
        "scale": probe.scale,
    }


def _check_space(path: Path, probe: Probe) -> bool:
    """Check the space of every file of a table; return False where one states none, as those of others do."""
    try:
        files = parquet_files(path)
    except FormatError:  # Zarr, or nothing at all: vectors_from will say
        return False
    spaces = [_space_of(file) for file in files]
    for space in spaces:
        if space is not None:
            probe.check_space(space)
    return None not in spaces


def _space_of(file: Path) -> dict[str, Any] | None:
    try:
        header = (pq.read_schema(file).metadata or {}).get(b"geoelle")
        return None if header is None else json.loads(header)["space"]
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as cause:
        raise FormatError(f"{file} cannot be read as Parquet ({cause}); write it again") from cause


def _score_batch(lonlat_n2: np.ndarray | None, addresses: list[str] | None, scores_n: np.ndarray) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = {}
    if addresses is not None:
        columns["address"] = pa.array(addresses)
    columns["difficulty"] = pa.array(scores_n, mask=~np.isfinite(scores_n))
    if lonlat_n2 is None:
        return pa.record_batch(columns)
    columns["geometry"] = pa.array(shapely.to_wkb(shapely.points(lonlat_n2)), pa.binary())
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
    }
    return pa.record_batch(columns).replace_schema_metadata({b"geo": json.dumps(geo).encode()})
