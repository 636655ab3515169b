"""Join flagged cells into polygons that somebody can act on: where, how large, how sure, harder or easier."""

from __future__ import annotations

import json
from collections.abc import Sequence

import geopandas
import numpy as np
import pandas as pd
from scipy import ndimage

from geoelle.delta import Delta
from geoelle.route import join_cells

__all__ = ["ALERT_COLUMNS", "alerts_of", "join_alerts", "to_geojson"]

ALERT_COLUMNS = {
    "alert": "int64", "sign": "str", "cells": "int64", "area_km2": "float64", "mean_delta": "float64",
    "least_q": "float64", "date_before": "str", "date_after": "str", "items_before": "str", "items_after": "str",
    "status": "str", "stop_lon": "float64", "stop_lat": "float64",
}  # fmt: skip
_SIGNS = {1: "harder", -1: "easier"}
_EPOCH = np.datetime64("1970-01-01")


def alerts_of(delta: Delta, *, items_before: Sequence[str], items_after: Sequence[str]) -> geopandas.GeoDataFrame:
    """Join the flagged cells of one sign that share a side: a row a polygon, EPSG:4326, columns `ALERT_COLUMNS`.

    Every alert is provisional: one date after does not confirm it. Without a flag the table is empty.
    """
    found = []
    for sign, name in _SIGNS.items():
        rows = (
            np.flatnonzero((np.nan_to_num(delta.flag_n) == 1) & (delta.sign_n == sign)) if delta.q_n is not None else []
        )
        if not len(rows):
            continue
        table, of_n = join_cells(delta.addresses[rows])
        every = np.arange(len(table))
        table["sign"], table["status"] = name, "provisional"
        table["mean_delta"] = ndimage.mean(delta.delta_n[rows], of_n, every)
        table["least_q"] = ndimage.minimum(delta.q_n[rows], of_n, every)
        for column, days_n in zip(("date_before", "date_after"), delta.days_n2[rows].T, strict=True):
            table[column] = [_date(day) for day in ndimage.median(days_n, of_n, every)]
        table["items_before"], table["items_after"] = ";".join(items_before), ";".join(items_after)
        found.append(table)
    return join_alerts(found)


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


def to_geojson(alerts: geopandas.GeoDataFrame) -> bytes:
    """Return a FeatureCollection, a polygon a feature."""
    features = json.loads(alerts.to_json(drop_id=True, show_bbox=False))["features"] if len(alerts) else []
    return (json.dumps({"type": "FeatureCollection", "features": features}) + "\n").encode()


def _date(day: float) -> str:
    return str(_EPOCH + int(day))
