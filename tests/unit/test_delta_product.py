"""The delta verb over real files: from runs or from an area, resumed, refused, repeated byte for byte."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from click.testing import CliRunner
from odc.geo.geobox import GeoBox
from pyproj import Transformer

import scenes
from geoelle import delta_plan as plan_module
from geoelle import delta_product as product_module
from geoelle.applicability import Reach
from geoelle.area import Area
from geoelle.change import judge
from geoelle.change_baselines import baselines, gap_of
from geoelle.change_states import STATUSES
from geoelle.cli import cli
from geoelle.complexity import feature_names
from geoelle.dated import Dated, compare_runs
from geoelle.delta import STATES, Scored, compare
from geoelle.delta_bands import DeltaBands
from geoelle.delta_plan import embed_windows, plan_windows
from geoelle.delta_product import claim, write_delta
from geoelle.embed import space_of
from geoelle.embeddings import Embeddings
from geoelle.errors import (
    AreaError,
    FormatError,
    GeoelleError,
    InputMismatch,
    NoItems,
    ProbeError,
    ReadError,
    SpaceMismatch,
)
from geoelle.plan import Job, Plan
from geoelle.probe import Affine, Probe
from geoelle.shipped import probe_of_space
from ground import GSD_M, make_scene, save_catalog

WEST, NORTH = 10_240 * 59 + 2_000, 4_996_000
YEARS, FLOOD = range(2018, 2026), 2024
GROUND = shapely.box(WEST + 310, NORTH - 1610, WEST + 1590, NORTH - 330)
BBOX = ",".join(f"{v:.6f}" for v in scenes.to_lonlat(GROUND, 32631).bounds)
COMMAND = ("--bbox", BBOX, "--before", "2023-06", "--after", "2024-06", "--crs", 32631, "--stride", 8)


@pytest.fixture(scope="module", autouse=True)
def no_clock() -> Iterator[None]:
    """Do not measure the encoder once a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "chips_per_second", 100.0)
        yield


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One ground with new noise every year; in the last two the middle is flat, as after a flood."""
    home = tmp_path_factory.mktemp("years")
    items = []
    for year in YEARS:
        name = f"S2B_31TFJ_{year}0601_0_L2A"
        item = make_scene(home, name, west=WEST, north=NORTH)
        item.datetime = datetime(year, 6, 1, tzinfo=UTC)
        items.append(item)
        if year >= FLOOD:
            flatten(home / name, WEST, NORTH)
    return str(save_catalog(home / "items.json", items))


def flatten(folder: Path, west: float, north: float) -> None:
    """Make the middle of a scene flat."""
    for band, gsd_m in GSD_M.items():
        path = folder / f"{band}.tif"
        with rasterio.open(path) as file:
            pixels = file.read(1)
        if band != "scl":
            pixels[800 // gsd_m : 1120 // gsd_m, 800 // gsd_m : 1120 // gsd_m] = 700
        scenes.write_cog(path, pixels, gsd_m=gsd_m, west=west, north=north)


@pytest.fixture(scope="module")
def out(catalog: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A change of an area with four earlier years; copy it before you change it."""
    path = tmp_path_factory.mktemp("made") / "change"
    run("delta", *COMMAND, "--catalog", catalog, "--history", 4, "-o", path)
    return path


def run(*words: object) -> str:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def dated(out: Path, *names: str) -> list[Dated]:
    return [Dated.read(out / name, name) for name in names]


def history(out: Path, count: int = 4) -> list[Dated]:
    return dated(out, *(f"history-{back}" for back in range(1, 1 + count)))


def tree(out: Path) -> dict[str, bytes]:
    """Return all files."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def bands(path: Path) -> dict[str, np.ndarray]:
    with rasterio.open(path) as file:
        return dict(zip(file.descriptions, file.read(), strict=True))


def flood() -> shapely.Polygon:
    return scenes.to_lonlat(shapely.box(WEST + 800, NORTH - 1120, WEST + 1120, NORTH - 800), 32631)


def test_the_flood_is_found_as_easier_ground(out: Path) -> None:
    found = bands(out / "delta.tif")
    names = ["delta", "delta_excess", "t", "p", "q", "flag", "sign", "rank", "state"]
    assert list(found) == names
    assert set(xr.open_zarr(out / "delta.zarr", group="0").data_vars) == set(names)
    alerts = geopandas.read_parquet(out / "alerts.parquet")
    first = alerts.loc[0]
    assert first["sign"] == "easier" and first["mean_delta"] < -0.3 and first["least_q"] < 1e-6
    assert first[["date_before", "date_after", "status"]].tolist() == ["2023-06-01", "2024-06-01", "provisional"]
    assert first.geometry.covers(flood().centroid) and first.geometry.intersection(flood()).area > 0.9 * flood().area
    seen = scenes.to_lonlat(shapely.box(WEST + 600, NORTH - 1320, WEST + 1320, NORTH - 600), 32631)  # by a chip
    assert alerts.geometry.union_all().difference(seen).area < 0.2 * alerts.geometry.union_all().area
    assert alerts["cells"].sum() == np.nansum(found["flag"])
    assert len(json.loads((out / "alerts.geojson").read_text())["features"]) == len(alerts)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "The surest alerts before" in page and "read again" not in page
    assert "<h2>Alerts</h2>" in page and f"<td>{first['date_after']}</td>" in page and "more are in" not in page
    shift = json.loads((out / "run.json").read_text())["zones"]["delta"]["shift"]
    assert f"Delta holds the shift of the whole map, {shift:+.2g} ln; t, sign and flags are without it" in page
    assert first["mean_delta_less_shift"] == pytest.approx(first["mean_delta"] - shift)
    assert "The change beside its baselines" in page and "embedding cosine" in page and "random direction" in page
    assert "untrained twin" in page and "--twins" not in page


def test_a_later_date_confirms_the_flood(
    catalog: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Path(shutil.copytree(out, tmp_path / "again"))
    run("delta", *COMMAND, "--catalog", catalog, "--history", 4, "--later", "2025-06", "--overwrite", "-o", again)
    assert (again / "later-1" / "run.json").is_file()
    found, old = bands(again / "delta.tif"), bands(out / "delta.tif")
    for name in old:
        np.testing.assert_array_equal(found[name], old[name])
    flagged = old["flag"] == 1
    confirmed = found["status"] == STATUSES.index("confirmed")
    assert (confirmed & flagged).sum() > 0.8 * flagged.sum()
    assert (found["first_detected"][confirmed & flagged] == 19_875).all()
    assert (found["duration"][confirmed & flagged] == 365).all()
    assert np.isnan(found["duration"][found["status"] == 0]).all()
    codes = bands(again / "delta_status.tif")["status of the change"]
    np.testing.assert_array_equal(np.where(codes == 255, np.nan, codes), found["status"])
    first = geopandas.read_parquet(again / "alerts.parquet").loc[0]
    assert first[["status", "first_detected", "duration_days", "looks"]].tolist() == ["confirmed", "2024-06-01", 365, 2]
    assert "S2B_31TFJ_20250601_0_L2A" in first["items_after"]
    manifest = json.loads((again / "run.json").read_text())
    assert manifest["zones"]["delta"]["status"]["confirmed"] == confirmed.sum()
    assert f"delta: {confirmed.sum()} confirmed" in json.loads(run("info", again, "--json"))["status"]
    assert manifest["fingerprint"] != json.loads((out / "run.json").read_text())["fingerprint"]
    page = (again / "report.html").read_text()
    assert "Followed through 2 dates after" in page and "not independent of the first flag" in page
    words = [word for run in history(out) for word in ("--history", run.path)]
    run("delta", out / "before", out / "after", *words, "--later", again / "later-1", "-o", tmp_path / "runs")
    assert (tmp_path / "runs" / "delta_status.tif").read_bytes() == (again / "delta_status.tif").read_bytes()
    seen = json.loads((tmp_path / "runs" / "run.json").read_text())["fingerprint"]
    assert seen == manifest["fingerprint"]
    drawn = Mock(return_value=())
    monkeypatch.setattr(product_module, "alert_pictures", drawn)
    found = compare_runs(*dated(out, "before", "after"), history(out), later=dated(again, "later-1"))
    write_delta(found, tmp_path / "runs")
    _, first, afters = drawn.call_args.args
    wanted = [out / "before", out / "after", again / "later-1"]
    assert [side.imagery.items.parent for side in (first, *afters)] == wanted
    with pytest.raises(ProbeError, match="judged by the history"):
        compare_runs(*dated(out, "before", "after"), later=dated(again, "later-1"))


def test_flags_are_classes_beside_the_change(out: Path) -> None:
    found = bands(out / "delta.tif")
    flagged, state = (bands(out / f"delta_{name}.tif") for name in ("flagged", "state"))
    codes = flagged["flagged change"]
    np.testing.assert_array_equal(codes == 1, (found["flag"] == 1) & (found["sign"] == -1))
    np.testing.assert_array_equal(codes == 2, (found["flag"] == 1) & (found["sign"] == 1))
    np.testing.assert_array_equal(codes == 255, np.isnan(found["flag"]))
    np.testing.assert_array_equal(state["state of the test"], np.nan_to_num(found["state"], nan=255))
    assert not (out / "delta_status.tif").exists()


def test_labels_score_delta_and_every_baseline(out: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.geojson").write_text(shapely.to_geojson(flood()))
    words = [word for run in history(out) for word in ("--history", run.path)]
    words += ["--evaluate", tmp_path / "labels.geojson"]
    run("delta", out / "before", out / "after", *words, "-o", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "run.json").read_text())["measures"]["delta"]
    rows = {row["measure"]: row for row in told["rows"]}
    assert told["prevalence"] == pytest.approx(320**2 / 1360**2, rel=0.4)
    assert rows["Delta"]["auroc"]["value"] > 0.95 and rows["Delta"]["lift"]["value"] > 5
    assert rows["Delta"]["auroc"]["low"] <= rows["Delta"]["auroc"]["value"] <= rows["Delta"]["auroc"]["high"]
    assert {"NDVI", "red", "pixel difference", "complexity (pixels alone)", "embedding Euclidean"} < rows.keys()
    assert "AUPRC / prevalence" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "sea.geojson").write_text(shapely.to_geojson(shapely.box(0, 0, 1, 1)))
    assert told["block_m"] == 640 and 4 <= told["blocks"] <= 16
    assert f"{told['blocks']} blocks of 0.64 km a side" in (tmp_path / "out" / "report.html").read_text()


def test_labels_of_other_ground_are_refused_before_anything_is_made(
    catalog: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "embed_windows", Mock(side_effect=AssertionError("embedded first")))
    (tmp_path / "sea.geojson").write_text(shapely.to_geojson(shapely.box(0, 0, 1, 1)))
    words = ("--evaluate", tmp_path / "sea.geojson", "-o", tmp_path / "sea")
    for where in ((out / "before", out / "after"), (*COMMAND, "--catalog", catalog)):
        with pytest.raises(FormatError, match="labels 0 of"):
            run("delta", *where, *words)
        assert not (tmp_path / "sea").exists()


def test_the_nulls_of_every_change_are_beside_it_unless_a_run_or_the_probe_lacks_them(
    catalog: str, out: Path, tmp_path: Path
) -> None:
    nulls = ("untrained twin", "true loss", "random direction", "complexity (pixels alone)")
    page = (out / "report.html").read_text()
    assert all(name in page for name in nulls) and "not among the baselines" not in page
    (delta,) = compare_runs(*dated(out, "before", "after"), history(out)).measures.values()
    assert all(each.flag_n is not None for each in delta if each.name in nulls)
    knows = probe_of_space(Embeddings.read(out / "before").header.space)
    bare = replace(knows, twin=None).save(tmp_path / "bare.safetensors")
    words = ("--catalog", catalog, "--history", 4, "--no-loss", "--probe", bare)
    run("delta", *COMMAND, *words, "-o", tmp_path / "out")
    told = (tmp_path / "out" / "report.html").read_text()
    assert "the probe has no map of it; fit one" in told and "a run holds none (geoelle embed --loss" in told
    table = Embeddings.read(tmp_path / "out" / "after")
    assert table.loss_n is None and not table.twins


def test_unchanged_years_have_next_to_no_flag(out: Path, catalog: str, tmp_path: Path) -> None:
    where = ("--bbox", BBOX, "--crs", 32631, "--stride", 8, "--catalog", catalog)
    run("embed", *where, "--dates", "2018-06", "--twins", 1, "-o", tmp_path / "first")
    before, after, *rest = dated(out, "history-1", "before", "history-2", "history-3", "history-4")
    rest.append(Dated.read(tmp_path / "first", "first"))
    found = compare_runs(before, after, rest)
    (delta,) = found.zones.values()
    assert delta.design == "difference" and delta.counts["flagged"] <= 0.02 * len(delta.delta_n)
    claim(tmp_path / "out", found.fingerprint)
    product = write_delta(found, tmp_path / "out")
    assert any("judged by the others" in line for line in product.lines)


def test_delta_is_that_of_the_two_runs(out: Path) -> None:
    (before, after), probe = dated(out, "before", "after"), compare_runs(*dated(out, "before", "after")).probe
    tables = [Embeddings.read(run.path) for run in (before, after)]
    wanted_n = probe.score_raw(tables[1].vectors_nd) - probe.score_raw(tables[0].vectors_nd)
    painted = bands(out / "delta.tif")["delta"]
    cells = tables[0].addresses
    np.testing.assert_allclose(
        painted[cells.rows - cells.rows.min(), cells.cols - cells.cols.min()], wanted_n, rtol=1e-5, atol=1e-6
    )


def test_without_a_history_everything_says_that_it_is_a_ranking(out: Path, tmp_path: Path) -> None:
    told = json.loads(run("delta", out / "before", out / "after", "--json", "-o", tmp_path / "out"))
    assert told["alerts"] is None and not any("alerts" in line for line in told["lines"])
    assert json.loads((tmp_path / "out" / "run.json").read_text())["alerts"] is None
    assert "alerts" not in run("info", tmp_path / "out")
    assert "sign and rank are without it" in (tmp_path / "out" / "report.html").read_text()
    assert list(bands(tmp_path / "out" / "delta.tif")) == ["delta", "delta_excess", "sign", "rank", "state"]
    assert not list((tmp_path / "out").glob("alerts*"))
    with rasterio.open(tmp_path / "out" / "delta.tif") as file:
        assert file.tags()["GEOELLE_TEST"].startswith("A ranking only")
    assert "A ranking only" in (tmp_path / "out" / "report.html").read_text()
    state = bands(tmp_path / "out" / "delta.tif")["state"]
    assert set(state[np.isfinite(state)]) == {STATES.index("short history")}


def test_runs_give_what_the_area_gave(out: Path, tmp_path: Path) -> None:
    words = [word for run in history(out) for word in ("--history", run.path)]
    told = json.loads(run("delta", out / "before", out / "after", *words, "--json", "-o", tmp_path / "out"))
    assert (tmp_path / "out" / "delta.tif").read_bytes() == (out / "delta.tif").read_bytes()
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["fingerprint"] == told["fingerprint"] == json.loads((out / "run.json").read_text())["fingerprint"]
    assert manifest["sha256"].keys() >= {"delta.tif", "report.html", "alerts.parquet", "delta.zarr/zarr.json"}


def test_equal_commands_give_equal_bytes_and_an_interrupted_one_goes_on(
    catalog: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Path(shutil.copytree(out, tmp_path / "again"))
    for lost in ("run.json", "delta.tif", "history-2/run.json"):
        (again / lost).unlink()
    next((again / "history-2" / "embeddings").glob("*.parquet")).unlink()
    from geoelle import run as module

    read: list[str] = []
    monkeypatch.setattr(
        module,
        "read_window",
        lambda looks, *a, real=module.read_window, **k: read.append(str(looks[0].date)[:4]) or real(looks, *a, **k),
    )
    run("delta", *COMMAND, "--catalog", catalog, "--history", 4 + 1, "-o", tmp_path / "again", "--dry-run")
    assert read == []
    run("delta", *COMMAND, "--catalog", catalog, "--history", 4, "-o", again)
    assert set(read) == {"2021"}
    assert tree(again) == tree(out)


def test_a_damaged_or_skipped_run_of_a_change_is_made_again(catalog: str, out: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(out, tmp_path / "again"))
    part = next((again / "before" / "embeddings").glob("*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 0xFF
    part.write_bytes(content)
    (again / "run.json").unlink()
    run("delta", *COMMAND, "--catalog", catalog, "--history", 4, "-o", again)
    assert tree(again) == tree(out)
    manifest = json.loads((again / "after" / "run.json").read_text())
    gap = [{"item": "i", "asset": "red", "reason": "gone"}]
    (again / "after" / "run.json").write_text(json.dumps(manifest | {"skipped": gap}))
    run("delta", *COMMAND, "--catalog", catalog, "--history", 4, "--overwrite", "-o", again)
    assert json.loads((again / "after" / "run.json").read_text()) == manifest


def test_a_finished_or_foreign_directory_is_not_touched(out: Path, tmp_path: Path) -> None:
    words = ("delta", out / "before", out / "after", "-o")
    run(*words, tmp_path / "out")
    with pytest.raises(GeoelleError, match="a finished change"):
        run(*words, tmp_path / "out")
    run(*words, tmp_path / "out", "--overwrite", "--rate", "0.2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(GeoelleError, match="holds other files"):
        run(*words, tmp_path / "other", "--overwrite")
    with pytest.raises(GeoelleError, match="holds other files"):
        run(*words, out / "before", "--overwrite")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_a_change_describes_and_verifies_itself(out: Path, tmp_path: Path) -> None:
    told = json.loads(run("info", out, "--json"))
    assert told["kind"] == "change" and told["test"] == ["delta: difference"] and told["alerts"] > 0
    assert told["status"] == []
    damaged = Path(shutil.copytree(out, tmp_path / "damaged"))
    (damaged / "delta.qml").write_text("other")
    with pytest.raises(FormatError, match=r"delta\.qml differ"):
        run("info", damaged)


def test_pictures_that_cannot_be_read_again_are_told(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geoelle import thumbnails

    def gone(*_: object, **__: object) -> None:
        raise ReadError("the server is gone")

    monkeypatch.setattr(thumbnails, "read_window", gone)
    words = [word for run in history(out) for word in ("--history", run.path)]
    run("delta", out / "before", out / "after", *words, "-o", tmp_path / "out")
    assert "could not be read again" in (tmp_path / "out" / "report.html").read_text()


# --- what cannot be compared


def with_manifest(run: Dated, **changes: object) -> Dated:
    manifest = json.loads(json.dumps(run.manifest))
    for key, value in changes.items():
        where, name = key.split("__")
        manifest[where][name] = value
    return replace(run, manifest=manifest)


def test_another_rule_of_looks_or_sensor_is_refused(out: Path) -> None:
    before, after = dated(out, "before", "after")
    for change, told in (({"job__looks": 2}, "differ in looks"), ({"plan__sensor": "landsat"}, "differ in sensor")):
        with pytest.raises(InputMismatch, match=told):
            compare_runs(with_manifest(before, **change), after)


def test_one_run_twice_and_shared_items_are_refused(out: Path) -> None:
    before, after = dated(out, "before", "after")
    with pytest.raises(InputMismatch, match="share an item"):
        compare_runs(before, before)
    with pytest.raises(InputMismatch, match="share an item"):
        compare_runs(before, after, [*history(out), before])


def test_items_that_differ_are_warned_of_or_refused(out: Path) -> None:
    before, after = dated(out, "before", "after")

    def seen(run: Dated, **properties: object) -> Dated:
        items = json.loads(json.dumps(run.items))
        for item in items:
            item["properties"] |= properties
        return replace(run, items=tuple(items))

    found = compare_runs(seen(before, **{"s2:processing_baseline": "02.14"}), after)
    assert any("differ in processing baseline: 02.14, 05.10" in note for note in found.notes)
    checks = {check.what: check for check in found.checks["before and after"]}
    assert checks["clear ground"].reason == "100% of 289 cells are clear on both dates"
    assert checks["dates used"].before == checks["dates used"].after == "1" and not any(
        "dates" in n for n in found.notes
    )
    other = compare_runs(with_manifest(before, job__cloud_max=80.0), after)
    assert any("differ in cloud limit: 80%, 40%" in note for note in other.notes)
    with pytest.raises(InputMismatch, match=r"sun elevation: 20.0° before, 60.0° after"):
        compare_runs(seen(before, **{"view:sun_elevation": 20}), seen(after, **{"view:sun_elevation": 60}))


def test_another_space_is_refused(out: Path, tmp_path: Path) -> None:
    found = compare_runs(*dated(out, "before", "after"))
    other = replace(found.probe, space={**found.probe.space, "weights_sha256": "0" * 64})
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(SpaceMismatch, match="weights_sha256"):
        compare_runs(*dated(out, "before", "after"), probe=tmp_path / "other.safetensors")


def test_windows_that_overlap_or_hold_no_item_are_refused(catalog: str) -> None:
    job = Job(area=Area.parse(bbox=BBOX, dates="2024-06"), catalog=catalog, epsg=32631, stride_px=8)
    with pytest.raises(AreaError, match="the windows overlap"):
        plan_windows(job, "2024-05/2024-06-15", 0)
    with pytest.raises(NoItems, match="before: "):
        plan_windows(job, "2023-01", 0)
    with pytest.raises(ProbeError, match=r"of 6 earlier years 2 can be used .* and 4 are needed"):
        plan_windows(job, "2020-06", 6)
    for later, told in ((["2024-05"], "--later is before --after"), (["2025-06", "2025-06-15"], "the windows overlap"),
                        (["2025-10"], "another season")):  # fmt: skip
        with pytest.raises(AreaError, match=told):
            plan_windows(job, "2023-06", 4, later)
    with pytest.raises(ProbeError, match="give --history"):
        plan_windows(job, "2023-06", 0, ["2025-06"])
    windows = plan_windows(job, "2023-06", 8)
    assert list(windows.plans) == ["before", "after", *(f"history-{back}" for back in (1, 2, 3, 4, 5))]
    assert len(windows.notes) == 3 and "has no item" in windows.notes[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run/",), "give two runs"),
        (("a/", "b/", "--bbox", "1,2,3,4"), "--bbox are of an area"),
        (("a/", "b/", "--no-loss"), "--loss are of an area"),
        (("--bbox", "1,2,3,4", "--before", "2020"), "with --before and --after"),
        (("--bbox", "4,52,5,53", "--before", "2020", "--after", "2021", "--history", "x"), "no count of years"),
    ],
)
def test_wrong_usage_is_told(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["delta", *words, "-o", str(tmp_path / "out")])
    assert result.exit_code == 2 and told in result.output


# --- several zones


def test_an_area_on_a_border_of_zones_is_judged_zone_by_zone(tmp_path: Path) -> None:
    """The ground of one scene lies half in zone 31 and half in zone 32; in the last year its middle is flat."""
    border, north = Transformer.from_crs(4326, 32631, always_xy=True).transform(6.0, 45.08)[0], 4_996_000
    west = border - 960 - border % 80
    items = []
    for year in range(2019, 2025):
        item = make_scene(tmp_path, f"S2B_31TGL_{year}0601_0_L2A", west=west, north=north)
        item.datetime = datetime(year, 6, 1, tzinfo=UTC)
        items.append(item)
    flatten(tmp_path / items[-1].id, west, north)
    ground = scenes.to_lonlat(shapely.box(border - 560, north - 1500, border + 560, north - 420), 32631)
    words = ["--bbox", ",".join(f"{v:.6f}" for v in ground.bounds), "--before", "2023-06", "--after", "2024-06"]
    words += ["--history", 4, "--stride", 8, "--catalog", save_catalog(tmp_path / "items.json", items)]
    run("delta", *words, "-o", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(manifest["zones"]) == set(manifest["measures"]) == {"delta_32631", "delta_32632"}
    for epsg in (32631, 32632):
        with rasterio.open(tmp_path / "out" / f"delta_{epsg}.tif") as file:
            assert file.crs.to_epsg() == epsg
        found = bands(tmp_path / "out" / f"delta_{epsg}.tif")
        assert np.isfinite(found["t"]).sum() >= 20 and np.nansum(found["flag"]) > 0
        for name in (f"delta_{epsg}.qml", f"delta_{epsg}_flagged.tif", f"delta_{epsg}_state.qml", f"item_{epsg}.json",
                     f"report_{epsg}.html"):  # fmt: skip
            assert name in manifest["sha256"] or (tmp_path / "out" / name).is_file()
    alerts = geopandas.read_parquet(tmp_path / "out" / "alerts.parquet")
    assert alerts["stop_lon"].min() < 6 < alerts["stop_lon"].max() and alerts["alert"].is_unique
    counts = [zone["counts"] for zone in manifest["zones"].values()]
    assert alerts["cells"].sum() == sum(count["flagged"] for count in counts)
    for epsg in (32631, 32632):
        page = (tmp_path / "out" / f"report_{epsg}.html").read_text()
        inside = alerts["stop_lon"].between(0, 6) if epsg == 32631 else alerts["stop_lon"].between(6, 12)
        assert (
            re.findall(r"<tr><td>(\d+)</td><td>(?:easier|harder)", page) == alerts[inside]["alert"].astype(str).tolist()
        )
    western = shapely.box(border - 160, north - 1120, border - 20, north - 800)
    (tmp_path / "west.geojson").write_text(shapely.to_geojson(scenes.to_lonlat(western, 32631)))
    run("delta", *words, "--evaluate", tmp_path / "west.geojson", "-o", tmp_path / "out", "--overwrite")
    scored = json.loads((tmp_path / "out" / "run.json").read_text())["measures"]
    assert scored["delta_32631"]["prevalence"] > 0 and "prevalence" not in scored["delta_32632"]
    run("delta", *words, "-o", tmp_path / "out", "--overwrite")
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == manifest


# --- cells that are patches


def test_a_dense_change_is_of_patches_scored_by_one_probe(catalog: str, tmp_path: Path) -> None:
    ground = shapely.box(WEST + 700, NORTH - 1220, WEST + 1220, NORTH - 700)
    area = Area.parse(polygon=scenes.to_lonlat(ground, 32631), dates="2024-06")
    job = Job(area=area, catalog=catalog, dense=True, twins=1, loss=True)
    windows = plan_windows(job, "2023-06", 4)
    plan = windows.plans["after"]
    names = feature_names(plan.bands)
    parts = [
        Affine(weights_d=np.random.default_rng(i).normal(size=n) / 50, intercept=-3.0, mean_d=np.zeros(n),
               scale_d=np.ones(n), alpha=1.0)
        for i, n in enumerate((plan.model.card.dim, len(names), plan.model.card.dim))
    ]  # fmt: skip
    space = space_of(plan.model, plan.bands, dense=True)
    weights_d, points_md = np.abs(parts[0].weights_d), np.zeros((1, plan.model.card.dim), np.float32)
    reach = Reach(points_md=points_md, counts_m=np.ones(1, int), weights_d=weights_d, mean_distance=1.0, threshold=1e3)
    probe = Probe(embedding=parts[0], pixels=parts[1], twin=parts[2], feature_names=names, space=space, reach=reach)
    path = probe.save(tmp_path / "dense.safetensors")
    folders = embed_windows(windows, tmp_path / "out", probe)
    before, after, *rest = (Dated.read(folder, name) for name, folder in folders.items())
    found = compare_runs(before, after, rest, probe=path)
    (lattice, delta), (measures,) = next(iter(found.zones.items())), found.measures.values()
    assert lattice.cell_m == 40 and len(delta.delta_n) == len(plan.cells[0][1])
    assert delta.counts["judged"] == len(delta.delta_n)
    scores = [next(iter(run.scored(probe).values())) for run in (before, after)]
    np.testing.assert_allclose(delta.delta_n, scores[1].difficulty_n - scores[0].difficulty_n)
    named = {each.name: each for each in measures}
    assert {"Delta", "complexity (pixels alone)", "excess", "NDVI", "MNDWI", "red", "pixel difference", "true loss",
            "random direction", "embedding cosine", "embedding Euclidean", "untrained twin"} <= set(named)  # fmt: skip
    kept = [next(iter(run.patches.values())) for run in (before, after, *rest)]
    marks = [Scored.of_patches(table, probe) for table in kept]
    bare = [replace(table, token_nd=None, twin_n=None, loss_n=None) for table in kept]
    assert {each.name for each in baselines(delta, marks, bare, probe)} == set(named) - {
        "Delta", "random direction", "embedding cosine", "embedding Euclidean", "untrained twin", "true loss",
    }  # fmt: skip
    assert "give --bbox" in gap_of(bare, probe) and gap_of(kept, probe) == ""
    away_n = np.linalg.norm(kept[1].token_nd.astype(float) - kept[0].token_nd, axis=1)
    flat = compare(*(replace(mark) for mark in marks[:2]))
    (ranked,) = (e for e in baselines(flat, marks[:2], kept[:2], probe) if e.name == "embedding Euclidean")
    np.testing.assert_allclose(ranked.size_n, np.log(away_n), rtol=1e-5)
    reds = [run.patches[lattice].means_nc[:, plan.bands.index("red")].astype(float) for run in (before, after, *rest)]
    _, tested = judge(reds[0], reds[1], np.array(reds[2:]), "difference")
    np.testing.assert_allclose(named["red"].size_n, np.abs(tested.t_n))
    x, y = delta.addresses.xy_n2.T
    flooded = (abs(x - WEST - 960) < 140) & (abs(NORTH - 960 - y) < 140)
    away = (abs(x - WEST - 960) > 240) | (abs(NORTH - 960 - y) > 240)
    assert np.median(np.abs(delta.tested.t_n[flooded])) > 4 * np.median(np.abs(delta.tested.t_n[away]))
    tables = [next(iter(run.patches.values())) for run in (before, after)]
    middle = float(np.median(tables[0].dissimilarity_n))
    half = [Scored.of_patches(t, replace(probe, reach=replace(reach, threshold=middle))) for t in tables]
    assert 0.4 < half[0].inside_n.mean() < 0.6 and compare(*half).counts["gated"] == (half[0].inside_n == 0).sum()
    middle = scenes.to_lonlat(shapely.box(WEST + 800, NORTH - 1120, WEST + 1120, NORTH - 800), 32631)
    (tmp_path / "labels.geojson").write_text(shapely.to_geojson(middle))
    product = write_delta(found, tmp_path / "out", labels=tmp_path / "labels.geojson")
    scored = product.facts["measures"]["delta"]
    assert scored["block_m"] == 640 and scored["blocks"] < 8 and scored["rows"][0]["auroc"]["low"] is None
    assert scored["rows"][0]["auroc"]["value"] > 0.5
    rough = replace(delta, tested=replace(delta.tested, inflation=2.04))
    assert any("differs 2.0 times as much" in told for told in DeltaBands(delta=rough, probe=probe).sentences())
    calm = replace(delta, tested=replace(delta.tested, inflation=1.2))
    assert not any("times as much" in told for told in DeltaBands(delta=calm, probe=probe).sentences())
    bare = DeltaBands(delta=delta, probe=replace(probe, reach=None)).sentences()
    assert any("no area of applicability" in told for told in bare)
    assert "no area of applicability" not in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SpaceMismatch, match="does not ship"):
        compare_runs(before, after, rest)
    other = replace(probe, licence="another").save(tmp_path / "other.safetensors")
    with pytest.raises(SpaceMismatch, match="scored by another probe"):
        compare_runs(before, after, rest, probe=other)


def test_the_ground_is_shown_as_the_items_show_it_and_coarser_where_it_is_large(out: Path, monkeypatch) -> None:
    run, bounds = Dated.read(out / "before", "before"), (WEST + 320, NORTH - 1600, WEST + 1600, NORTH - 320)
    box = GeoBox.from_bbox(bounds, 32631, resolution=80)
    scene = product_module._scene(run, "before", box)["before"]
    assert scene.rgb_yx3.shape == (128, 128, 3) and np.isfinite(scene.rgb_yx3).mean() > 0.9
    with rasterio.open(read_items(run)["red"]) as file:
        left, top = round((WEST + 320 - file.bounds.left) / 10), round((file.bounds.top - NORTH + 320) / 10)
        raw = file.read(1)[top : top + 128, left : left + 128]
    red = scene.rgb_yx3[..., 0]
    assert np.corrcoef(red[np.isfinite(red)], raw[np.isfinite(red)])[0, 1] > 0.999
    monkeypatch.setattr(product_module, "MOST_PX", 32)
    assert product_module._scene(run, "before", box)["before"].rgb_yx3.shape == (32, 32, 3)
    monkeypatch.setattr(product_module, "read_ground", Mock(side_effect=ReadError("gone")))
    assert product_module._scene(run, "before", box) == {}


def read_items(run: Dated) -> dict[str, str]:
    return {name: asset["href"] for name, asset in run.items[0]["assets"].items()}


def test_a_dry_run_is_a_table_of_the_runs(catalog: str, tmp_path: Path) -> None:
    told = run("delta", *COMMAND, "--catalog", catalog, "--history", 4, "-o", tmp_path / "dry", "--dry-run")
    rows = [line.split() for line in told.splitlines()]
    assert [row[0] for row in rows] == ["run", "before", "after", *(f"history-{back}" for back in range(1, 5))]
    assert rows[1][1:3] == ["2023-06-01", "1"] and not (tmp_path / "dry").exists()
