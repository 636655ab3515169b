"""Join flagged cells into polygons that somebody can act on: where, how large, how sure, harder or easier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import geopandas
import numpy as np
import pandas as pd
from scipy import ndimage

from geoelle.change_states import STATUSES
from geoelle.delta import Delta
from geoelle.lattice import Lattice
from geoelle.route import join_cells

__all__ = ["ALERT_COLUMNS", "MOST_TOLD", "alerts_of", "join_alerts", "to_geojson", "told_alerts", "zone_alerts"]

ALERT_COLUMNS = {
    "alert": "int64", "sign": "str", "cells": "int64", "area_km2": "float64", "mean_delta": "float64",
    "mean_delta_less_shift": "float64", "least_q": "float64",
    "date_before": "str", "date_after": "str", "items_before": "str", "items_after": "str",
    "status": "str", "first_detected": "str", "duration_days": "int64", "looks": "int64",
    "stop_lon": "float64", "stop_lat": "float64",
}  # fmt: skip
MOST_TOLD = 50
"""Alerts that the page lists; the file has all."""
_SIGNS = {1: "harder", -1: "easier"}
_EPOCH = np.datetime64("1970-01-01")


def alerts_of(delta: Delta, *, items_before: Sequence[str], items_after: Sequence[str]) -> geopandas.GeoDataFrame:
    """Join the flagged cells of one sign and status that share a side: a row a polygon, EPSG:4326, `ALERT_COLUMNS`.

    Numbers are those of the look of first detection; its shift is the median Delta of all cells. Without later dates
    every alert is provisional: one date after does not confirm it. Without a flag the table is empty.
    """
    found = []
    flags = _flags(delta)
    for sign, name in _SIGNS.items():
        for status in STATUSES[1:]:
            chosen = np.flatnonzero((flags["sign"] == sign) & (flags["status"] == STATUSES.index(status)))
            if not len(chosen):
                continue
            table, of_n = join_cells(delta.addresses[flags["row"][chosen]])
            every = np.arange(len(table))
            table["sign"], table["status"] = name, status
            for column, key in (("mean_delta", "delta"), ("mean_delta_less_shift", "less_shift")):
                table[column] = ndimage.mean(flags[key][chosen], of_n, every)
            table["least_q"] = ndimage.minimum(flags["q"][chosen], of_n, every)
            for column, key in (("date_before", "before"), ("date_after", "first"), ("first_detected", "first")):
                table[column] = [_date(day) for day in ndimage.median(flags[key][chosen], of_n, every)]
            for column in ("duration_days", "looks"):
                table[column] = np.round(ndimage.median(flags[column][chosen], of_n, every)).astype(np.int64)
            table["items_before"], table["items_after"] = ";".join(items_before), ";".join(items_after)
            found.append(table)
    return join_alerts(found)


def _flags(delta: Delta) -> dict[str, np.ndarray]:
    """Return the flagged cells, (m,) each: their row in the table of cells, and what an alert tells of them."""
    if delta.q_n is None:
        return {"sign": np.empty(0), "status": np.empty(0)}
    seen = delta.followed
    if seen is None:
        row = np.flatnonzero(delta.flag_n == 1)
        one = np.ones(len(row))
        return {
            "row": row, "sign": delta.sign_n[row], "status": one * STATUSES.index("provisional"),
            "delta": delta.delta_n[row], "less_shift": delta.delta_n[row] - delta.shift, "q": delta.q_n[row],
            "before": delta.days_n2[row, 0],
            "first": delta.days_n2[row, 1], "duration_days": 0 * one, "looks": one,
        }  # fmt: skip
    row = np.flatnonzero(seen.status_n > 0)
    look, delta_ln = seen.look_n[row].astype(int), np.array([k.delta_n for k in delta.looks])
    less_ln = delta_ln - np.nanmedian(delta_ln, axis=1, keepdims=True)
    return {
        "row": row, "sign": seen.sign_n[row], "status": seen.status_n[row],
        "delta": delta_ln[look, row], "less_shift": less_ln[look, row],
        "q": np.array([k.q_n for k in delta.looks])[look, row], "before": delta.days_n2[row, 0],
        "first": seen.first_n[row], "duration_days": seen.duration_n[row], "looks": seen.looks_n[row],
    }  # fmt: skip


def zone_alerts(
    zones: Mapping[Lattice, Delta], *, items_before: Sequence[str], items_after: Sequence[str]
) -> tuple[geopandas.GeoDataFrame | None, dict[Lattice, geopandas.GeoDataFrame]]:
    """Return the alerts of all zones, None where nothing was tested, and those of each zone, numbered over all."""
    items = {"items_before": items_before, "items_after": items_after}
    parts = {lattice: alerts_of(delta, **items) for lattice, delta in zones.items()}
    table = join_alerts(list(parts.values()))
    shapes = {lattice: set(part.geometry.to_wkb()) for lattice, part in parts.items()}
    by_zone = {lattice: table[[shape in mine for shape in table.geometry.to_wkb()]] for lattice, mine in shapes.items()}
    return table if any(delta.flag_n is not None for delta in zones.values()) else None, by_zone


def join_alerts(parts: Sequence[geopandas.GeoDataFrame]) -> geopandas.GeoDataFrame:
    """Put the alerts of all zones into one table, the surest first, numbered from 1."""
    parts = [part for part in parts if len(part)]
    if not parts:
        empty = {name: pd.Series(dtype="object" if kind == "str" else kind) for name, kind in ALERT_COLUMNS.items()}
        return geopandas.GeoDataFrame(empty, geometry=geopandas.GeoSeries([], crs=4326))
    table = pd.concat(parts, ignore_index=True)
    order = ["least_q", "area_km2", "stop_lon", "stop_lat"]
    table = table.sort_values(order, ascending=[True, False, True, True], kind="stable", ignore_index=True)
    table["alert"] = np.arange(1, len(table) + 1)
    return table[[*ALERT_COLUMNS, "geometry"]]


def told_alerts(alerts: geopandas.GeoDataFrame) -> tuple[list[dict[str, object]], int]:
    """Return the rows of the table of a page, the surest first, and how many more there are; places as in `--at`."""
    rows = [
        {
            "alert": int(row.alert), "sign": row.sign, "status": row.status, "area, km²": f"{row.area_km2:.3g}",
            "mean Delta": f"{row.mean_delta_less_shift:+.2f}",
            "least q": f"{row.least_q:.2g}" if row.least_q else "< 1e-300", "before": row.date_before,
            "first detected": row.first_detected, "lasts, days": int(row.duration_days),
            "lon, lat": f"{row.stop_lon:.5f},{row.stop_lat:.5f}",
            "items": f"{row.items_before} > {row.items_after}".replace(";", ", "),
        }
        for row in alerts.head(MOST_TOLD).itertuples()
    ]  # fmt: skip
    return rows, max(len(alerts) - MOST_TOLD, 0)


def to_geojson(alerts: geopandas.GeoDataFrame) -> bytes:
    """Return a FeatureCollection, a polygon a feature."""
    features = json.loads(alerts.to_json(drop_id=True, show_bbox=False))["features"] if len(alerts) else []
    return (json.dumps({"type": "FeatureCollection", "features": features}) + "\n").encode()


def _date(day: float) -> str:
    return str(_EPOCH + int(day))
