"""Join the cells above a percentile into polygons, and put them in an order in which a field team can visit them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import geopandas
import numpy as np
import pandas as pd
import pyproj
import shapely
from rasterio.features import shapes
from scipy import ndimage

from geoelle.area import Addresses
from geoelle.holdout import EARTH_RADIUS_M, sphere_n3

__all__ = ["MOST_STOPS", "Route", "clusters", "join_cells", "plan_route", "tour"]

MOST_STOPS = 300
"""Clusters that are put in order; 2-opt on many more would take minutes, and no team visits them."""
_GEOD = pyproj.Geod(ellps="WGS84")
_DIGITS = 6  # of a degree: a decimetre


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """Hold the clusters, in the order of the visit, and the way between their stops.

    `clusters` has `order` (1 first, null for those left out), `cells`, `area_km2`, `mean`, `max`, `stop_lon`,
    `stop_lat` and the polygon, EPSG:4326. `line_m2` is lon, lat of the stops; `km` its great-circle length.
    """

    clusters: geopandas.GeoDataFrame
    line_m2: np.ndarray
    km: float

    def to_geojson(self) -> bytes:
        """Return a FeatureCollection: the way as a LineString, if there are two stops, then the polygons."""
        features = json.loads(self.clusters.to_json(drop_id=True, show_bbox=False))["features"]
        facts = {"kind": "route", "stops": len(self.line_m2), "km": round(self.km, 3)}
        if len(self.line_m2) > 1:
            line = shapely.LineString(np.round(self.line_m2, _DIGITS))
            shape = shapely.geometry.mapping(line)
            features.insert(0, {"type": "Feature", "properties": facts, "geometry": shape})
        return (json.dumps({"type": "FeatureCollection", "features": features}) + "\n").encode()


def clusters(addresses: Addresses, values_n: np.ndarray) -> geopandas.GeoDataFrame:
    """Join cells that share a side into polygons, each with the mean and the highest of its values.

    `addresses` are the cells of one lattice that lie above the threshold. Columns as `join_cells` gives them.
    """
    table, cluster_n = join_cells(addresses)
    every = np.arange(len(table))
    table.insert(0, "kind", "cluster")
    table.insert(3, "mean", ndimage.mean(values_n, cluster_n, every))
    table.insert(4, "max", ndimage.maximum(values_n, cluster_n, every))
    return table


def join_cells(addresses: Addresses) -> tuple[geopandas.GeoDataFrame, np.ndarray]:
    """Join cells of one lattice that share a side: a polygon a row, and the row of each cell, int64 (n,).

    `area_km2` is on the ellipsoid. A stop is the centroid, or where that falls outside of its polygon a point inside.
    """
    box = addresses.lattice.raster_geobox(addresses.rows, addresses.cols)
    at = addresses.rows - addresses.rows.min(), addresses.cols - addresses.cols.min()
    above_yx = np.zeros(tuple(box.shape), bool)
    above_yx[at] = True
    labels_yx, count = ndimage.label(above_yx)
    found = dict.fromkeys(range(1, count + 1))
    for shape, label in shapes(labels_yx.astype(np.int32), mask=above_yx, connectivity=4, transform=box.affine):
        found[int(label)] = shapely.geometry.shape(shape)
    ground = geopandas.GeoSeries(list(found.values()), crs=addresses.lattice.epsg)
    middle = ground.centroid.where(ground.covers(ground.centroid), ground.representative_point()).to_crs(4326)
    polygons = ground.to_crs(4326)
    cluster_n = labels_yx[at].astype(np.int64) - 1
    columns = {
        "cells": np.bincount(cluster_n, minlength=count),
        "area_km2": [_GEOD.geometry_area_perimeter(shapely.orient_polygons(p))[0] / 1e6 for p in polygons],
        "stop_lon": middle.x.round(_DIGITS),
        "stop_lat": middle.y.round(_DIGITS),
    }
    return geopandas.GeoDataFrame(columns, geometry=polygons), cluster_n


def plan_route(parts: Sequence[geopandas.GeoDataFrame]) -> Route:
    """Put the clusters of all lattices in order of visit; the largest where there are more than `MOST_STOPS`."""
    table = pd.concat(parts, ignore_index=True)
    table = table.sort_values(["area_km2", "max"], ascending=False, kind="stable", ignore_index=True)
    lonlat_m2 = table[["stop_lon", "stop_lat"]].to_numpy()[:MOST_STOPS]
    visit_m = tour(lonlat_m2)
    order = pd.Series(pd.NA, index=table.index, dtype="Int64")
    order.iloc[visit_m] = np.arange(1, len(visit_m) + 1)
    table.insert(1, "order", order)
    table = table.sort_values("order", kind="stable", na_position="last", ignore_index=True)
    line_m2 = lonlat_m2[visit_m]
    return Route(clusters=table, line_m2=line_m2, km=float(np.diag(_km(line_m2), 1).sum()))


def tour(lonlat_m2: np.ndarray) -> np.ndarray:
    """Return a short order of visiting all stops once, starting and ending anywhere, int64 (m,).

    Nearest neighbour from the westernmost stop, then 2-opt (Croes 1958, doi:10.1287/opre.6.6.791) until no
    reversal of a stretch shortens the way. The result is a local optimum, not the shortest way.

    >>> tour(np.array([[4.0, 52], [4.2, 52], [4.1, 52], [4.3, 52]])).tolist()
    [0, 2, 1, 3]
    """
    count = len(lonlat_m2)
    # A stop that is no way from all others turns the open way into a round trip, which is cut there again.
    km = np.pad(_km(lonlat_m2), ((0, 1), (0, 1)))
    left = np.ones(count, bool)
    order = [int(np.argmin(lonlat_m2[:, 0]))]
    left[order[0]] = False
    while left.any():
        order.append(int(np.argmin(np.where(left, km[order[-1], :count], np.inf))))
        left[order[-1]] = False
    round_trip = _two_opt(np.array([count, *order]), km)
    start = int(np.flatnonzero(round_trip == count)[0])
    way = np.roll(round_trip, -start)[1:]
    return way if lonlat_m2[way[0], 0] <= lonlat_m2[way[-1], 0] else way[::-1]


def _two_opt(order: np.ndarray, km: np.ndarray) -> np.ndarray:
    improved = True
    while improved:
        improved = False
        for i in range(len(order) - 2):
            ends, after = order[i + 1 :], np.append(order[i + 2 :], order[0])
            gain = km[order[i], order[i + 1]] + km[ends, after] - km[order[i], ends] - km[order[i + 1], after]
            best = int(np.argmax(gain))
            if gain[best] > 1e-9:
                order[i + 1 : i + 2 + best] = order[i + 1 : i + 2 + best][::-1].copy()
                improved = True
    return order


def _km(lonlat_m2: np.ndarray) -> np.ndarray:
    """Return great-circle distances between all stops, (m, m) km."""
    at_m3 = sphere_n3(lonlat_m2)
    chord = np.linalg.norm(at_m3[:, None] - at_m3, axis=2)
    return 2 * EARTH_RADIUS_M / 1000 * np.arcsin(np.clip(chord / 2, 0, 1))
