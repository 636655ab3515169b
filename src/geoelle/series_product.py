"""Write a series: table, JSON, picture, page, and last the manifest.

out/  plan.json  dates/  series.parquet  series.csv  series.json  series.png  report.html  run.json
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from geoelle.claims import Written
from geoelle.errors import ReadError
from geoelle.files import sha256, write_bytes
from geoelle.models import model_card
from geoelle.probe import Probe
from geoelle.quicklook import CREDIT
from geoelle.report import GalleryFacts, Picture, gallery_report
from geoelle.scores import plain_json
from geoelle.seasonal import LEVEL
from geoelle.series import Series
from geoelle.series_figure import draw_series
from geoelle.series_run import FORMAT

__all__ = ["SeriesFacts", "table_of", "write_series"]

BASELINE_CHANGE = np.datetime64("2022-01-25")
"""Products of Sentinel-2 have an offset from here on (baseline 04.00)."""
_READING = (
    "Points are dates, the band is where 90% of new dates should lie if nothing but the season happens. "
    "Both signs count: ground often gets easier in a disaster. One date outside is no event: of unchanged dates a "
    "tenth is."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """What a series is made of besides its numbers; `event` as it was given; `skipped` as in a run."""

    sensor: str
    clouds: str
    event: str | None
    items: tuple[str, ...]
    skipped: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def table_of(series: Sequence[Series], probe: Probe) -> pd.DataFrame:
    """Return a row a place and date: difficulty and band in units of the loss, differences on the linear scale."""
    in_units = np.exp if probe.scale == "log" else np.asarray
    tables = []
    for each in series:
        seen = each.observed
        gaps = np.full(len(seen.days_n), np.nan)
        pixels_n = gaps if seen.complexity_n is None else seen.complexity_n
        moments = np.datetime64("1970-01-01", "s") + np.round(seen.days_n * 86_400).astype("timedelta64[s]")
        tables.append(pd.DataFrame({
            "place": seen.name, "date": moments.astype("datetime64[ms]"), "items": list(seen.items),
            "difficulty": in_units(seen.difficulty_n), "complexity": in_units(pixels_n),
            "excess": seen.difficulty_n - pixels_n, "clear": seen.clear_n,
            "inside": gaps if seen.inside_n is None else seen.inside_n, "cells": seen.cells_n.astype(np.int64),
            "expected": in_units(each.expected_n), "low": in_units(each.expected_n - each.half_n),
            "high": in_units(each.expected_n + each.half_n), "departure": each.departure_n, "z": each.z_n,
            "fitted": each.fitted_n,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True).astype({"place": "str", "items": "str"})


def write_series(
    series: Sequence[Series], probe: Probe, out: Path, facts: SeriesFacts, manifest: Mapping[str, Any]
) -> Written:
    """Write all files of a series into a claimed directory, the manifest last; `manifest` is added to it.

    Raises: ReadError (no place has a clear date), GeoelleError (the system refused the write).
    """
    if not any(len(each.observed.days_n) for each in series):
        looks = max(each.observed.looks for each in series)
        raise ReadError(f"no series can be made: none of {looks} dates shows a place clearly; choose other --dates")
    card = model_card(str(probe.space["model"]))
    notes = (*facts.notes, *_notes(series, facts))
    told = plain_json({
        "format": FORMAT[0], "version": FORMAT[1], "model": card.name, "reading": card.reading, "scale": probe.scale,
        "event": facts.event, "places": [each.to_dict() for each in series], "notes": list(notes),
    })  # fmt: skip
    places = "a place" if len(series) == 1 else f"{len(series)} places"
    title = f"Difficulty of {places} for {card.name}, through time"
    drawn = draw_series(series, scale=probe.scale, unit=str(probe.data.get("unit", "")), title=title)
    table = table_of(series, probe)
    lines = tuple(line for each in series for line in _lines(each))
    files = [
        write_bytes(out / "series.parquet", _parquet(table), overwrite=True),
        write_bytes(out / "series.csv", table.to_csv(index=False, float_format="%.6g").encode(), overwrite=True),
        write_bytes(out / "series.json", _json(told), overwrite=True),
        write_bytes(out / "series.png", drawn, overwrite=True),
    ]
    about = GalleryFacts(
        title=title, summary=f"{_when(table)} · {facts.sensor} · {card.name}",
        reading=f"{card.reading} {_READING}", more=_more(series, probe),
        warnings=(*notes, f"Clouds: {facts.clouds}"), items=facts.items, versions={"geoelle": version("geoelle")},
        files={path.name: sha256(path) for path in files}, credit=_credit(facts, table),
    )  # fmt: skip
    page = gallery_report(about, [Picture(title="Places through time", caption="A panel a place.", png=drawn)])
    files.append(write_bytes(out / "report.html", page.encode(), overwrite=True))
    written = told | {
        "sensor": facts.sensor, "items": list(facts.items), "skipped": [dict(row) for row in facts.skipped], **manifest,
        "probe": {"digest": probe.digest, "space": dict(probe.space), "scores": dict(probe.scores)},
        "versions": {name: version(name) for name in ("geoelle", "torch", "rasterio", "numpy", "scipy")},
        "sha256": {f.relative_to(out).as_posix(): sha256(f) for f in sorted([*files, *out.glob("dates/*.parquet")])},
    }  # fmt: skip
    files.append(write_bytes(out / "run.json", _json(written), overwrite=True))
    return Written(out=out, files=tuple(files), lines=(*lines, *notes), facts=told)


def _notes(series: Sequence[Series], facts: SeriesFacts) -> list[str]:
    """Return what a reader must know before the numbers."""
    notes = [f"{each.observed.name}: {why}" for each in series for why in dict.fromkeys(each.missing.values())]
    notes += [
        f"{each.observed.name}: {count} dates outside of the area of applicability were left out of the fit (hollow)"
        for each in series
        if (count := each.counts["gated"])
    ]
    if facts.event is None and any(each.season is not None for each in series):
        notes.append(
            "without an event every date is in the fit, so departures look smaller than they are; --event DATE judges "
            "what came after by what was before"
        )
    days = np.concatenate([each.observed.days_n for each in series])
    change = (BASELINE_CHANGE - np.datetime64("1970-01-01")).astype(float)
    if facts.sensor.startswith("sentinel-2") and days.min() < change <= days.max():
        notes.append(
            f"the dates span {BASELINE_CHANGE}, when the offset of Sentinel-2 products changed; it is undone, but a "
            "step there, above all one of complexity, is of the processing"
        )
    if facts.skipped:
        notes.append(
            f"{len({(r['item'], r['asset']) for r in facts.skipped})} assets could not be read and were skipped"
        )
    return notes


def _lines(series: Series) -> list[str]:
    """Say the findings of a place."""
    name, counts = series.observed.name, series.counts
    lines = [f"{name}: {counts['clear']} clear dates of {counts['looks']}"]
    if series.season is None:
        return lines
    lines[0] += f", {counts['departures']} outside of the band"
    if (held := series.coverage) is not None:
        lines[0] += f"; it holds {held.share:.0%} of {held.dates} dates whose year was left out ({LEVEL:.0%} nominal)"
    for what, drift in (("difficulty", series.drift), ("complexity", series.complexity_drift)):
        if drift is not None:
            lines.append(
                f"{name}: {what} drifts by {drift.per_year:+.3f} a year [{drift.low:+.3f}, {drift.high:+.3f}] over "
                f"{drift.years} years{'' if drift.found else ', which may be none'}"
            )
    if (found := series.recovery) is not None:
        lines.append(
            f"{name}: departure {found.initial:+.3f} after the event, {found.current:+.3f} last; recovery "
            f"{found.index:.2f} [{found.low:.2f}, {found.high:.2f}]"
        )
    return lines


def _more(series: Sequence[Series], probe: Probe) -> dict[str, str]:
    """Return the facts of the page, a row a place."""
    rows = {each.observed.name: "; ".join(line.partition(": ")[2] for line in _lines(each)) for each in series}
    return rows | {
        "Scale": "the logarithm of the loss: differences are log-ratios" if probe.scale == "log" else "the loss",
        "Recovery": "1 - current / initial departure: 0 is none, 1 all of it",
        "Space": ", ".join(f"{k}: {v}" for k, v in sorted(probe.space.items())),
    }


def _when(table: pd.DataFrame) -> str:
    return f"{table['date'].min():%Y-%m-%d} to {table['date'].max():%Y-%m-%d}"


def _credit(facts: SeriesFacts, table: pd.DataFrame) -> str:
    if not facts.sensor.startswith("sentinel"):
        return f"Imagery: {facts.sensor}"
    years = sorted(set(table["date"].dt.year))
    return f"{CREDIT} {years[0]}" + (f" to {years[-1]}" if len(years) > 1 else "")


def _parquet(table: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    plain = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(plain, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
