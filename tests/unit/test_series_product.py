"""The series verb over real files: points and polygons, chips and patches, resumed, refused, repeated byte for byte."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from click.testing import CliRunner

from geoelle import series_run
from geoelle.area import Area
from geoelle.cli import cli
from geoelle.errors import AreaError, FormatError, GeoelleError, NoItems, SpaceMismatch
from geoelle.places import cells_of, ground_of, read_points, read_polygons, zone_of
from geoelle.plan import Job, Plan, make_plan
from geoelle.products import shipped_probe
from geoelle.run import run_embed
from geoelle.series_plan import event_day, plan_series
from geoelle.series_product import SeriesFacts, table_of, write_series

POINT = "22.1520,45.2050"
SQUARE = shapely.box(22.1490, 45.2040, 22.1530, 45.2080)
COMMAND = ("series", "--at", POINT, "--catalog", "demo")
YEARS = ("--dates", "2016/2018", "--event", "2018-08")


@pytest.fixture(scope="module", autouse=True)
def no_clock() -> Iterator[None]:
    """Do not measure the encoder once a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "chips_per_second", 100.0)
        yield


@pytest.fixture(scope="module")
def polygons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("places") / "places.geojson"
    return save(path, {"stand": SQUARE})


@pytest.fixture(scope="module")
def out(polygons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A point and a polygon over three years, with an event; copy it before you change it."""
    path = tmp_path_factory.mktemp("made") / "series"
    run(*COMMAND, *YEARS, "--polygons", polygons, "-o", path)
    return path


def save(path: Path, shapes: dict[str, shapely.Geometry]) -> Path:
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": json.loads(shapely.to_geojson(shape))}
        for name, shape in shapes.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def run(*words: object) -> str:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def tree(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_a_point_has_the_numbers_that_a_map_has_at_its_cell(out: Path, tmp_path: Path) -> None:
    area = Area.parse(bbox="22.147,45.201,22.157,45.209", dates="2018-06-06")
    plan = make_plan(Job(area=area, catalog="demo"))
    probe = shipped_probe(plan.model, plan.bands)
    run_embed(plan, tmp_path / "map")
    from geoelle.embeddings import Embeddings

    table, rows = Embeddings.read(tmp_path / "map"), pq.read_table(out / "series.parquet").to_pandas()
    rows = rows[rows["date"] == np.datetime64("2018-06-06")].set_index("place")
    (point,) = read_points([POINT])
    (cell,) = cells_of(point, table.addresses.lattice)
    assert cell.cell.extent.to_crs("EPSG:4326").geom.contains(point.geometry)
    at = table.addresses.strings().index(str(cell))
    assert rows.loc[POINT, "difficulty"] == pytest.approx(float(probe.score(table.vectors_nd)[at]), rel=1e-4)
    assert rows.loc[POINT, "complexity"] == pytest.approx(float(probe.complexity(table.features_nf)[at]), rel=1e-4)
    inside = shapely.contains_xy(SQUARE, *table.addresses.lonlat_n2.T)
    assert rows.loc["stand", "cells"] == inside.sum() > 3
    mean = np.exp(probe.score_raw(table.vectors_nd)[inside].mean())
    assert rows.loc["stand", "difficulty"] == pytest.approx(mean, rel=1e-4)
    assert rows.loc[POINT, "items"] == "romania_20180606_L2A" and rows.loc[POINT, "clear"] > 0.9


def test_the_files_say_the_same(out: Path) -> None:
    rows, told = pq.read_table(out / "series.parquet").to_pandas(), json.loads((out / "series.json").read_text())
    with (out / "series.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(rows.columns) and len(lines) == len(rows)
    assert [place["place"] for place in told["places"]] == [POINT, "stand"]
    for place in told["places"]:
        mine = rows[rows["place"] == place["place"]]
        assert mine["date"].is_monotonic_increasing and len(mine) == place["counts"]["clear"]
        assert mine["fitted"].sum() == place["counts"]["fitted"] and place["season"]["years"] == 3
        assert (mine["date"][mine["fitted"]] < np.datetime64("2018-08-01")).all()
        outside = ((mine["difficulty"] < mine["low"]) | (mine["difficulty"] > mine["high"])).sum()
        assert outside == place["counts"]["departures"]
    np.testing.assert_allclose(rows["departure"], np.log(rows["difficulty"] / rows["expected"]), atol=1e-9)
    np.testing.assert_allclose(rows["excess"], np.log(rows["difficulty"] / rows["complexity"]), atol=1e-9)
    page = (out / "report.html").read_text()
    assert POINT in page and "were left out of the fit" in page and page.count("data:image/png;base64,") == 1


def test_equal_commands_give_equal_bytes_and_a_killed_one_goes_on(
    out: Path, polygons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Path(shutil.copytree(out, tmp_path / "again"))
    dates = sorted((again / "dates").iterdir())
    for lost in (again / "run.json", again / "series.png", dates[2]):
        lost.unlink()
    dates[5].write_bytes(dates[5].read_bytes()[:100])
    (again / "dates" / ".half.tmp").write_text("killed here")
    read: list[str] = []
    real = series_run.read_window
    monkeypatch.setattr(
        series_run, "read_window", lambda looks, *a, **k: read.append(str(looks[0].date)[:10]) or real(looks, *a, **k)
    )
    words = (*COMMAND, *YEARS, "--polygons", polygons, "-o", again)
    told = json.loads(run(*words, "--dry-run", "--json"))
    assert read == [] and len(told["dates"]) == len(dates) == len(told["items"]) and told["bytes"] > 0
    assert told["chips"] == len(dates) * (told["places"][1]["cells"] + 1 - 1) and told["places"][0]["cells"] == 1
    run(*words)
    assert read == [path.name[:4] + "-" + path.name[4:6] + "-" + path.name[6:8] for path in (dates[2], dates[5])]
    assert tree(again) == tree(out)


def test_another_event_reads_nothing_again(out: Path, polygons: Path, tmp_path: Path, monkeypatch) -> None:
    again = Path(shutil.copytree(out, tmp_path / "again"))
    words = (*COMMAND, "--dates", "2016/2018", "--polygons", polygons, "-o", again)
    with pytest.raises(GeoelleError, match="a finished series"):
        run(*words)
    monkeypatch.setattr(series_run, "read_window", None)
    run(*words, "--overwrite")
    told = json.loads((again / "series.json").read_text())
    assert told["event"] is None and "without an event" in " ".join(told["notes"])
    assert told["places"][0]["season"]["years"] == 3


def test_another_series_keeps_no_date_of_the_one_it_replaces(tmp_path: Path) -> None:
    run(*COMMAND, "--dates", "2018-05", "-o", tmp_path / "out")
    run(*COMMAND, "--dates", "2018-06", "-o", tmp_path / "out", "--overwrite")
    assert [path.name[:6] for path in (tmp_path / "out" / "dates").iterdir()] == ["201806"]


def test_a_foreign_directory_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(GeoelleError, match="holds other files and no series"):
        run(*COMMAND, "--dates", "2018-06", "-o", tmp_path, "--overwrite")
    with pytest.raises(GeoelleError, match="is a file"):
        run(*COMMAND, "--dates", "2018-06", "-o", tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_series_describes_and_verifies_itself(out: Path, tmp_path: Path) -> None:
    told = json.loads(run("info", out, "--json"))
    assert told["kind"] == "series" and told["event"] == "2018-08" and len(told["places"]) == 2
    damaged = Path(shutil.copytree(out, tmp_path / "damaged"))
    (damaged / "series.csv").write_text("other")
    with pytest.raises(FormatError, match=r"series\.csv differ"):
        run("info", damaged)


def test_patches_are_scored_as_a_dense_map_scores_them(tmp_path: Path) -> None:
    words = (*COMMAND, "--dates", "2018-06", "--dense", "-o", tmp_path / "dense", "--json")
    told = json.loads(run(*words))
    assert told["places"][0]["season"] is None
    run("map", "--bbox", "22.147,45.201,22.157,45.209", "--dates", "2018-06", "--catalog", "demo", "--dense", "-o",
        tmp_path / "map")  # fmt: skip
    import rasterio
    from pyproj import Transformer

    with rasterio.open(tmp_path / "map" / "difficulty.tif") as file:
        x, y = Transformer.from_crs(4326, file.crs, always_xy=True).transform(*map(float, POINT.split(",")))
        (wanted,) = file.sample([(x, y)])
    row = pq.read_table(tmp_path / "dense" / "series.parquet").to_pylist()[0]
    assert row["difficulty"] == pytest.approx(wanted[0], rel=1e-5) and row["inside"] in (0, 1)


def test_few_dates_have_no_band_and_say_so(tmp_path: Path) -> None:
    told = json.loads(run(*COMMAND, "--dates", "2018-05/2018-06", "-o", tmp_path / "out", "--json"))
    assert told["places"][0]["season"] is None
    assert any("2 dates of 1 years are too few for a season" in note for note in told["notes"])
    assert (tmp_path / "out" / "series.png").is_file()


def test_the_change_of_the_offset_is_told(out: Path, tmp_path: Path) -> None:
    from geoelle.probe import Probe  # the probe of the demo catalogue, whatever it is
    from geoelle.series import Observed, judge
    from geoelle.shipped import shipped_probes

    probe: Probe = next(shipped_probes("nano"))
    days = (np.array(["2021-06-01", "2023-06-01"], "datetime64[D]") - np.datetime64("1970-01-01")).astype(float)
    series = [judge(Observed.of_values("here", days, np.array([-3.0, -3.1])))]
    for sensor, told in (("sentinel-2-l2a", True), ("landsat-c2-l2", False)):
        facts = SeriesFacts(sensor=sensor, clouds="none", event=None, items=())
        notes = " ".join(write_series(series, probe, tmp_path, facts, {}).lines)
        assert ("offset of Sentinel-2 products changed" in notes) is told
    assert table_of(series, probe)["complexity"].isna().all()


# --- what cannot be


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--at", "45.205,122.15"), r"out of range .* \(they seem to be swapped\)"),
        (("--at", "200,45"), "out of range"),
        (("--at", "22.15"), "is not LON,LAT"),
        (("--at", "nan,45"), "out of range"),
        (("--at", "45.205,22.152"), r"no item of .*, of any sensor \(sentinel-2-l1c, .*; .* area, longitude first"),
        (("--at", POINT, "--dates", "2018/2017"), "reversed"),
        (("--at", POINT, "--event", "2017"), r"event \(2017\) is not inside the dates"),
        (("--at", POINT, "--event", "2019"), "is not inside the dates"),
        (("--at", POINT, "--event", "soon"), "date cannot be read"),
        (("--at", POINT, "--at", POINT), "is given twice"),
        (("--at", POINT, "--at", "10.0,50.0"), r"place '10.0,50.0' lies outside of all 7 items"),
        (("--at", "22.1456,45.2030"), "none of 7 dates shows a place clearly"),
        (("--at", POINT, "--dense", "--stride", "10"), "stride"),
        (("--polygons", "none.geojson"), "holds no polygons"),
    ],
)
def test_bad_input_is_told(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with pytest.raises(GeoelleError, match=told):
        run("series", "--catalog", "demo", "--dates", "2018", *words, "-o", tmp_path / "out")


def test_a_place_is_needed(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["series", "--dates", "2018", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2 and "--at LON,LAT or --polygons FILE" in result.output


def test_polygons_without_a_cell_or_area_are_named(tmp_path: Path) -> None:
    tiny = save(tmp_path / "tiny.geojson", {"whole": SQUARE, "speck": shapely.Point(22.1521, 45.2051).buffer(1e-5)})
    with pytest.raises(AreaError, match="'speck' holds no centre of a cell of 160 m"):
        run("series", "--polygons", tiny, "--catalog", "demo", "--dates", "2018-06", "-o", tmp_path / "out")
    for shapes, told in (
        ({"here": shapely.Point(22.1, 45.2)}, "'here' .* is no polygon with an area"),
        ({"bow": shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])}, "'bow' .*Self-intersection"),
        ({}, "holds no polygon"),
    ):
        with pytest.raises(AreaError, match=told):
            read_polygons(save(tmp_path / "bad.geojson", shapes))
    twice = {"type": "FeatureCollection", "features": json.loads(tiny.read_text())["features"][:1] * 2}
    (tmp_path / "twice.geojson").write_text(json.dumps(twice))
    with pytest.raises(AreaError, match="two polygons called 'whole'"):
        read_polygons(tmp_path / "twice.geojson")


def test_places_of_two_zones_are_read_in_their_own(tmp_path: Path) -> None:
    places = read_points(["5.9999,45", "6.0001,45"])
    assert [zone_of(place) for place in places] == [32631, 32632]
    with pytest.raises(NoItems):
        plan_series(Job(area=Area.parse(polygon=ground_of(places), dates="2018"), catalog="demo"), places)


def test_the_event_is_a_day_inside() -> None:
    area = Area.parse(bbox="0,0,1,1", dates="2016/2018")
    assert event_day(None, area) is None and event_day("2017-01-02", area) == 17_168.0
    with pytest.raises(AreaError, match="is not inside"):
        event_day("2016", area)


def test_a_probe_of_another_space_is_refused(tmp_path: Path) -> None:
    from geoelle.shipped import WEIGHTS

    with pytest.raises(SpaceMismatch):
        run(*COMMAND, "--dates", "2018-06", "--probe", WEIGHTS / "nano-probe-10.safetensors", "-o", tmp_path / "out")
