"""Clusters are the cells, no more and no less; the way visits each once and cannot be shortened by a turn."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import shapely

from geoelle import route as module
from geoelle.area import Addresses, Lattice
from geoelle.route import clusters, plan_route, tour

LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)


def cells(*row_col: tuple[int, int]) -> Addresses:
    rows, cols = np.array(row_col).T
    return Addresses(lattice=LATTICE, rows=rows - 31_250, cols=cols + 3_125)


def test_cells_that_share_a_side_are_one_cluster():
    found = clusters(cells((0, 0), (0, 1), (1, 1), (2, 2), (5, 5)), np.array([1.0, 2, 6, 4, 5]))
    assert sorted(zip(found["cells"], found["mean"], found["max"], strict=True)) == [(1, 4, 4), (1, 5, 5), (3, 3, 6)]
    np.testing.assert_allclose(found["area_km2"] / found["cells"], 0.0256, rtol=2e-3)
    assert found.crs == "EPSG:4326" and (found.geom_type == "Polygon").all()
    assert shapely.contains(found.geometry.values, shapely.points(found["stop_lon"], found["stop_lat"])).all()


def test_a_cluster_lies_where_its_cells_lie():
    chip = cells((7, 3))
    (shape,) = clusters(chip, np.array([1.0])).geometry
    lon, lat = chip.lonlat_n2[0]
    assert shapely.distance(shape.centroid, shapely.Point(lon, lat)) < 1e-7


def test_a_ring_keeps_its_hole_and_its_stop_is_on_it():
    ring = [(r, c) for r in range(3) for c in range(3) if (r, c) != (1, 1)]
    found = clusters(cells(*ring), np.ones(8))
    (shape,) = found.geometry
    assert len(shape.interiors) == 1 and found["cells"].tolist() == [8]
    np.testing.assert_allclose(found["area_km2"], 8 * 0.0256, rtol=2e-3)
    assert shape.contains(shapely.Point(found["stop_lon"][0], found["stop_lat"][0]))


def length(lonlat_m2: np.ndarray) -> float:
    return float(np.diag(module._km(lonlat_m2), 1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_no_reversal_shortens_the_way(seed: int):
    stops = np.random.default_rng(seed).uniform((4, 52), (5, 53), (25, 2))
    way = stops[tour(stops)]
    assert sorted(map(tuple, way)) == sorted(map(tuple, stops))
    for i, j in itertools.combinations(range(26), 2):
        turned = np.concatenate([way[:i], way[i:j][::-1], way[j:]])
        assert length(turned) >= length(way) - 1e-9


def test_the_way_is_short():
    ratios = []
    for seed in range(20):
        stops = np.random.default_rng(seed).uniform((4, 52), (5, 53), (7, 2))
        best = min(length(stops[list(order)]) for order in itertools.permutations(range(7)))
        ratios.append(length(stops[tour(stops)]) / best)
    assert min(ratios) >= 1 - 1e-12 and np.mean(ratios) < 1.05


def test_stops_on_a_line_are_visited_along_it_and_few_stops_are_no_trouble():
    at = np.random.default_rng(0).permutation(40) / 100
    assert np.all(np.diff(at[tour(np.stack([4 + at, 52 + at], 1))]) > 0)
    assert tour(np.array([[4.0, 52]])).tolist() == [0]
    assert tour(np.array([[5.0, 52], [4.0, 52]])).tolist() == [1, 0]


def test_kilometres_are_great_circles():
    assert length(np.array([[0.0, 0], [1, 0]])) == pytest.approx(111.195, abs=1e-3)
    assert length(np.array([[179.5, 60], [-179.5, 60]])) == pytest.approx(55.6, abs=0.1)


def test_a_route_is_geojson_in_order():
    found = plan_route([clusters(cells((0, 0), (0, 9), (0, 4)), np.array([1.0, 2, 3]))])
    assert found.clusters["order"].tolist() == [1, 2, 3] and found.clusters["mean"].tolist() == [1, 3, 2]
    assert found.km == pytest.approx(9 * 0.16, rel=4e-3)  # a sphere stands for the ellipsoid
    line, *polygons = json.loads(found.to_geojson())["features"]
    assert line["geometry"]["type"] == "LineString" and line["properties"]["stops"] == 3
    assert [p["properties"]["order"] for p in polygons] == [1, 2, 3]
    alone = json.loads(plan_route([clusters(cells((0, 0)), np.array([1.0]))]).to_geojson())
    assert [f["geometry"]["type"] for f in alone["features"]] == ["Polygon"]


def test_of_too_many_clusters_the_largest_are_visited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_STOPS", 2)
    found = plan_route([clusters(cells((0, 0), (0, 1), (0, 5), (0, 8), (0, 9)), np.ones(5))])
    assert found.clusters["order"].isna().tolist() == [False, False, True]
    assert found.clusters["cells"].tolist() == [2, 2, 1] and len(found.line_m2) == 2
    assert json.loads(found.to_geojson())["features"][-1]["properties"]["order"] is None
