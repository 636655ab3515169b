"""Every command in a process of its own, on the embedded scene: what it prints where, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
import xarray as xr
import zarr
from commands import DEMO_ARGS, SEAM, Result, geoelle, invoke
from odc.geo.geobox import GeoBox
from rio_cogeo import cog_validate

from geoelle.embeddings import Embeddings
from geoelle.models import list_models, model_card
from geoelle.models.nano import BANDS
from geoelle.probe import Probe
from geoelle.shipped import WEIGHTS
from ground import save_catalog, three_places

ITEM = "S2A_18SVG_20160112_0_L1C"
FILES = ["difficulty.tif", "difficulty.zarr", "difficulty.qml", "difficulty.png", "report.html", "item.json"]
PROBE = WEIGHTS / "nano-probe-10.safetensors"

MAP_BANDS = ("difficulty", "complexity", "excess", "date", "lower", "upper", "applicable", "dissimilarity", "density")


@dataclass(frozen=True)
class Made:
    """A directory a command wrote, and what it printed."""

    path: Path
    result: Result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def mapped(home: Path) -> Made:
    return Made(home / "out", geoelle("map", SEAM, *DEMO_ARGS, "-o", "out/", cwd=home))


@pytest.fixture(scope="module")
def again(home: Path) -> Made:
    return Made(home / "again", geoelle("map", SEAM, *DEMO_ARGS, "-o", home / "again", "--json"))


@pytest.fixture(scope="module")
def lossy(home: Path) -> Made:
    """Embed 225 chips of the north-eastern corner with their loss, not overlapping."""
    place = ("--bbox", "-75.66,37.66,-75.61,37.70", "--stride", "32")
    result = geoelle("embed", *place, *DEMO_ARGS, "--loss", "--twins", 1, "-o", home / "lossy", "--json")
    return Made(home / "lossy", result)


@pytest.fixture(scope="module")
def fitted(home: Path, lossy: Made) -> Made:
    assert lossy.result.code == 0, lossy.result.err
    options = ("--block", "1km", "--folds", 3, "-o", home / "probe.safetensors", "--json")
    return Made(home / "probe.safetensors", geoelle("fit", lossy.path, *options))


# --- lists


def test_models_says_which_have_a_true_loss() -> None:
    listed = {row["name"]: row for row in geoelle("models", "--json").json()}
    assert set(listed) == set(list_models())
    nano = listed["nano"]
    assert nano["target"] == "loss" and nano["embedded"] is nano["installed"] is True
    assert nano == json.loads(json.dumps(model_card("nano").to_dict() | {"installed": True}))
    assert listed["dofa.v1-base"]["target"] == "dofa-distill" and listed["dinov2.base"]["target"] == "none"
    table = invoke("models")
    assert table.code == 0 and table.err == ""
    assert all(name in table.out for name in listed) and "in the wheel" in table.out


def test_sensors_lists_bands_and_endpoints() -> None:
    result = geoelle("sensors", "--json")
    assert result.code == 0 and result.err == ""
    listed = {sensor["name"]: sensor for sensor in result.json()["sensors"]}
    assert set(listed) >= {"sentinel-2-l2a", "sentinel-2-l1c", "sentinel-1-rtc", "landsat-c2-l2", "naip"}
    assert set(BANDS) <= set(listed["sentinel-2-l2a"]["bands"])
    assert "earth-search" in listed["sentinel-2-l2a"]["endpoints"]
    assert {e["name"] for e in result.json()["endpoints"]} >= {"earth-search", "planetary-computer"}
    assert "sentinel-2-l2a" in invoke("sensors").out


def test_search_lists_items_with_cloud_and_coverage() -> None:
    result = geoelle("search", SEAM, *DEMO_ARGS, "--json")
    assert result.code == 0 and result.err == ""
    (row,) = result.json()["items"]
    assert (row["id"], row["cloud"], row["coverage"], row["chosen"]) == (ITEM, 0.0, 1.0, True)
    assert result.json()["sensor"] == "sentinel-2-l1c"
    forest = ("search", "--bbox=22.14,45.19,22.16,45.21", "--dates", "2018", "--catalog", "demo", "--json")
    for looks in (4, 2):
        rows = invoke(*forest, "--looks", looks).json()["items"]
        assert len(rows) == 7 and sum(row["chosen"] for row in rows) == looks
        assert all(row["date"].startswith("2018") and 0 < row["coverage"] < 0.95 for row in rows)
    clear = invoke(*forest, "--cloud", 10).json()["items"]
    assert [row["id"] for row in rows if row["cloud"] <= 10] == [row["id"] for row in clear]
    assert ITEM in invoke("search", SEAM, *DEMO_ARGS).out


def test_help_and_version_are_results() -> None:
    assert invoke("--version").out.strip().endswith("0.1.0")
    for verb in ("", "models", "sensors", "search", "embed", "fit", "score", "map", "rank", "info"):
        result = invoke(*filter(None, (verb, "--help")))
        assert result.code == 0 and result.err == "" and "Example" in result.out, verb


# --- map


@pytest.mark.slow
def test_map_prints_paths_on_stdout_and_everything_else_on_stderr(mapped: Made) -> None:
    assert mapped.result.code == 0, mapped.result.err
    assert mapped.result.out.splitlines() == [f"out/{name}" for name in FILES]
    talk = mapped.result.err.splitlines()
    assert talk[0].startswith("1 date(s) of sentinel-2-l1c, 115 cells of 160 m, about ")
    assert [line.split()[0] for line in talk if "/115 chips (" in line][-1] == "115/115"
    assert "115 of 115 chips read, 0 empty, 0 assets skipped" in talk
    assert any(line.startswith("How to read it: ") for line in talk)


@pytest.mark.slow
def test_map_with_json_prints_one_document_and_no_progress(again: Made) -> None:
    assert again.result.code == 0, again.result.err
    facts = again.result.json()
    assert facts["counts"] == {"planned": 115, "read": 115, "empty": 0, "skipped": 0}
    assert [Path(f).name for f in facts["files"]] == FILES and facts["out"] == str(again.path)
    assert "chips (" not in again.result.err


def test_a_map_is_a_cloud_optimised_geotiff_with_described_bands(mapped: Made) -> None:
    valid, errors, warnings = cog_validate(mapped.path / "difficulty.tif", strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(mapped.path / "difficulty.tif") as file:
        assert file.descriptions == MAP_BANDS
        unit = model_card("nano").unit
        assert file.units == (unit, unit, "ln", "days since 1970-01-01", unit, unit, "1", "1", "1")
        assert file.crs.to_epsg() == 32618 and file.res == (160, 160) and np.isnan(file.nodata)
        bands = file.read()
        for number, values in enumerate(bands, start=1):
            tags = file.tags(number)
            finite = values[np.isfinite(values)]
            stated = [float(tags[f"STATISTICS_{key}"]) for key in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")]
            truth = [finite.min(), finite.max(), finite.mean(dtype=float), finite.std(dtype=float)]
            np.testing.assert_allclose(stated, truth, rtol=1e-5, atol=1e-7)
    difficulty, complexity, excess, date, lower, upper, applicable, dissimilarity, density = bands
    assert (lower[np.isfinite(lower)] < difficulty[np.isfinite(lower)]).all() and np.nanmin(upper - difficulty) > 0
    assert set(np.unique(applicable[np.isfinite(applicable)])) <= {0, 1} and np.nanmin(dissimilarity) > 0
    np.testing.assert_array_equal(density > 0, applicable == 1)
    assert np.isfinite(difficulty).sum() == 115
    np.testing.assert_allclose(excess, np.log(difficulty / complexity), rtol=1e-3, atol=1e-4)
    assert np.nanmin(difficulty) > 0 and np.nanstd(difficulty) > 0
    # The item states a day, not a moment: 2016-01-12, the 16,812th day.
    assert np.nanmin(date) == np.nanmax(date) == pytest.approx(16_812.5, abs=0.01)


def test_a_map_is_a_zarr_that_opens_with_its_crs(mapped: Made) -> None:
    with (
        rasterio.open(mapped.path / "difficulty.tif") as file,
        xr.open_zarr(mapped.path / "difficulty.zarr", group="0", decode_times=False) as store,
    ):
        assert store.odc.geobox == GeoBox.from_rio(file)
        for name, values in zip(file.descriptions, file.read(), strict=True):
            np.testing.assert_array_equal(store[name].values, values)


def test_a_map_has_a_style_a_picture_a_report_and_an_item(mapped: Made) -> None:
    style = ElementTree.parse(mapped.path / "difficulty.qml").getroot()
    assert style.find("pipe/rasterrenderer").get("type") == "singlebandpseudocolor"
    assert (mapped.path / "difficulty.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = (mapped.path / "report.html").read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>") and ITEM in page and "<script" not in page
    item = pystac.Item.from_file(str(mapped.path / "item.json"))
    assert item.properties["start_datetime"].startswith("2016-01-12")
    assert {Path(a.href).name for a in item.assets.values()} == set(FILES) - {"item.json"}
    for asset in item.assets.values():
        if size := asset.extra_fields.get("file:size"):
            assert size == (mapped.path / asset.href).stat().st_size


def test_the_manifest_holds_the_hash_of_every_file(mapped: Made) -> None:
    manifest = json.loads((mapped.path / "run.json").read_text())
    files = {p.relative_to(mapped.path).as_posix(): p for p in mapped.path.rglob("*") if p.is_file()}
    assert manifest["sha256"].keys() == files.keys() - {"plan.json", "run.json"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest, name
    assert manifest["plan"]["items"] == [ITEM] and manifest["job"]["catalog"] == "demo"
    assert manifest["counts"] == {"planned": 115, "read": 115, "empty": 0, "skipped": 0}
    assert set(manifest["statistics"]) == {f"difficulty:{b}" for b in MAP_BANDS}


@pytest.mark.slow
def test_two_runs_are_equal_byte_for_byte(mapped: Made, again: Made) -> None:
    def tree(path: Path) -> dict[str, str]:
        files = (p for p in path.rglob("*") if p.is_file())
        return {p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert tree(mapped.path) == tree(again.path)


@pytest.mark.parametrize("verb", ["map", "embed"])
def test_a_dry_run_is_the_plan_of_the_run_and_leaves_nothing(verb: str, mapped: Made, tmp_path: Path) -> None:
    result = invoke(verb, SEAM, *DEMO_ARGS, "-o", tmp_path / "dry", "--dry-run", "--json")
    assert result.code == 0 and result.err == ""
    plan = json.loads((mapped.path / "plan.json").read_text())
    seconds = result.json().pop("encode_seconds")
    assert seconds >= 0 and result.json() == plan | {"encode_seconds": seconds}
    manifest = json.loads((mapped.path / "run.json").read_text())
    assert manifest["plan"] == plan
    assert not (tmp_path / "dry").exists()
    table = invoke(verb, SEAM, *DEMO_ARGS, "-o", tmp_path / "dry", "--dry-run")
    assert table.code == 0 and table.err == "" and plan["fingerprint"] in table.out and ITEM in table.out


def test_reading_a_lot_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoelle.plan.ASK_BYTES", 1000)
    told = invoke("embed", SEAM, *DEMO_ARGS, "-o", tmp_path / "out").failure()
    assert "more than 1 kB; add --yes to go on, or make --bbox smaller" in told
    assert not (tmp_path / "out").exists()
    assert invoke("embed", SEAM, *DEMO_ARGS, "-o", tmp_path / "out", "--yes").code == 0


def test_a_polygon_selects_the_same_cells_from_any_file(tmp_path: Path) -> None:
    items, squares = three_places(tmp_path)
    catalog = ("--catalog", save_catalog(tmp_path / "items.json", items), "--dates", "2024")
    geopandas.read_file(squares).to_crs(3857).to_parquet(tmp_path / "squares.parquet")
    for file in (squares, tmp_path / "squares.parquet"):
        facts = invoke("map", "--polygon", file, *catalog, "-o", tmp_path / "o", "--dry-run", "--json").json()
        assert (facts["cells"], facts["parts"]) == (3 * 16, 3)


# --- embed, fit


@pytest.mark.slow
def test_embed_with_loss_holds_what_fit_needs(lossy: Made) -> None:
    assert lossy.result.code == 0, lossy.result.err
    facts = lossy.result.json()
    assert facts["out"] == str(lossy.path) and facts["counts"]["read"] == facts["counts"]["planned"] == 225
    table = Embeddings.read(lossy.path)
    assert len(table) == 225 and table.vectors_nd.shape == (225, model_card("nano").dim)
    assert (table.loss_n > 0).all() and (table.loss_sd_n > 0).all() and table.loss_rel_n2.shape == (225, 2)
    assert list(table.twins) == ["twin0"]
    assert np.corrcoef(*np.log(table.loss_rel_n2).T)[0, 1] > 0.9
    np.testing.assert_allclose(table.loss_rel_n2.mean(axis=1), table.loss_n, rtol=1e-5)
    manifest = json.loads((lossy.path / "run.json").read_text())
    assert manifest["job"]["loss"] is True and manifest["job"]["twins"] == 1
    assert not (lossy.path / "difficulty.tif").exists()


@pytest.mark.slow
def test_fit_prints_scores_beside_every_null(fitted: Made, home: Path) -> None:
    assert fitted.result.code == 0, fitted.result.err
    facts = fitted.result.json()
    assert facts["files"] == [str(fitted.path.with_suffix(end)) for end in (".safetensors", ".json", ".html")]
    rows = {row["name"] for row in facts["scores"]["tables"][0]["rows"]}
    assert {"ELLE", "untrained twins", "pixel ridge", "pixel boosted trees", "season", "shuffled targets"} <= rows
    probe = Probe.load(fitted.path)
    assert probe.space["model"] == "nano" and probe.folds["n"] == 3 and probe.data["chips"] == 225
    dry = invoke("fit", home / "lossy", "--block", "1km", "--folds", 3, "--dry-run", "--json").json()
    assert dry["usable"] == 225 and len(dry["folds"]) == 3


@pytest.mark.slow
def test_a_fitted_probe_maps_what_it_was_fitted_on(fitted: Made, lossy: Made, tmp_path: Path) -> None:
    """Difficulty of a map by this probe is near the loss it was fitted on, at the chips both have."""
    bbox = ("--bbox", "-75.64,37.67,-75.625,37.685")
    result = invoke("map", *bbox, *DEMO_ARGS, "--probe", fitted.path, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    table = Embeddings.read(lossy.path)
    with rasterio.open(tmp_path / "out" / "difficulty.tif") as file:
        found = np.array([v[0] for v in file.sample(table.addresses.xy_n2, indexes=1)])
    inside = np.isfinite(found)
    assert inside.sum() > 10
    assert np.corrcoef(np.log(found[inside]), np.log(table.loss_n[inside]))[0, 1] > 0.8


# --- score


@pytest.mark.slow
def test_score_of_a_run_is_its_map(mapped: Made, home: Path) -> None:
    result = geoelle("score", mapped.path, "--probe", PROBE, "-o", home / "scored.parquet", "--json")
    assert result.code == 0, result.err
    summary = result.json()
    assert summary["rows"] == summary["valid"] == 115 and summary["space_checked"] is True
    scored = geopandas.read_parquet(home / "scored.parquet")
    places = scored.geometry.to_crs(32618)
    with rasterio.open(mapped.path / "difficulty.tif") as file:
        painted = [v[0] for v in file.sample(zip(places.x, places.y, strict=True), indexes=1)]
    np.testing.assert_array_equal(scored["difficulty"], painted)


@pytest.mark.slow
def test_score_takes_the_tables_of_pandas_geopandas_and_zarr(mapped: Made, tmp_path: Path) -> None:
    table = Embeddings.read(mapped.path)
    vectors, lonlat = table.vectors_nd, table.addresses.lonlat_n2
    places = {"lon": lonlat[:, 0], "lat": lonlat[:, 1]}
    pd.DataFrame({"embedding": list(vectors), **places}).to_parquet(tmp_path / "pandas.parquet")
    points = geopandas.points_from_xy(*lonlat.T, crs=4326).to_crs(32618)
    geopandas.GeoDataFrame({"vec": list(vectors)}, geometry=points).to_parquet(tmp_path / "geo.parquet")
    group = zarr.open_group(tmp_path / "cube.zarr", mode="w")
    for name, values in {"embedding": vectors, **places}.items():
        group.create_array(name, data=values)
    expected = Probe.load(PROBE).score(vectors)
    for number, name in enumerate(("pandas.parquet", "geo.parquet", "cube.zarr")):
        out = tmp_path / f"scored{number}.parquet"
        result = geoelle("score", tmp_path / name, "--probe", PROBE, "-o", out)
        assert result.code == 0 and result.out.strip() == str(out), result.err
        assert result.err.startswith("115 rows, difficulty ")
        scored = geopandas.read_parquet(out)
        np.testing.assert_allclose(scored["difficulty"], expected, rtol=1e-6)
        np.testing.assert_allclose(np.stack([scored.geometry.x, scored.geometry.y], 1), lonlat, atol=1e-7)


# --- rank


def test_rank_lists_the_extremes_of_a_map(mapped: Made, tmp_path: Path) -> None:
    plain = invoke("rank", mapped.path, "--top", 3, "--above", 90, "--dry-run", "--json", "-o", tmp_path / "top")
    planned = plain.json()
    assert planned["lists"] == dict.fromkeys(["hardest", "easiest", "excess-high", "surprise-high"], 3)
    assert planned["valid"] == 115 and planned["route"]["clusters"] >= 1 and not (tmp_path / "top").exists()
    made = geoelle("rank", mapped.path, "--top", 3, "--above", 90, "-o", tmp_path / "top")
    assert made.code == 0 and "pictures" in made.err and "could not be read" not in made.err, made.err
    assert sorted(Path(line).name for line in made.out.split()) == sorted(p.name for p in (tmp_path / "top").iterdir())
    with rasterio.open(mapped.path / "difficulty.tif") as file:
        highest = float(file.tags(1)["STATISTICS_MAXIMUM"])
    table = geopandas.read_parquet(tmp_path / "top" / "ranked.parquet")
    assert table.crs == "EPSG:4326" and table["difficulty"].max() == pytest.approx(highest, rel=1e-6)


def test_rank_refuses_what_it_cannot_do(mapped: Made, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "top")
    assert "no loss; embed it with --loss" in invoke("rank", mapped.path, "--by", "residual", *out).failure()
    assert "name a run directory" in invoke("rank", tmp_path, *out).failure()
    wrong = invoke("rank", mapped.path, "--probe", WEIGHTS / "nano-probe-4.safetensors", *out)
    assert "bands" in wrong.failure() and not (tmp_path / "top").exists()
    assert "other files" in invoke("rank", mapped.path, "-o", mapped.path, "--overwrite").failure()
    for bad in (("--top", 0), ("--above", 100), ("--above", -1), ("--by", "loss")):
        assert invoke("rank", mapped.path, *bad, *out).code == 2


# --- info, exit codes


@pytest.mark.slow
def test_info_describes_and_verifies(mapped: Made, lossy: Made, fitted: Made) -> None:
    result = geoelle("info", mapped.path, "--json")
    assert result.code == 0 and result.err == "", result.err
    assert result.json()["verified"].endswith("files match run.json") and result.json()["cells"] == 115
    kinds = {
        lossy.path: "run", fitted.path: "probe", mapped.path / "difficulty.tif": "raster",
        mapped.path / "difficulty.zarr": "zarr", next(lossy.path.glob("embeddings/*.parquet")): "embeddings",
    }  # fmt: skip
    for path, kind in kinds.items():
        assert invoke("info", path, "--json").json()["kind"] == kind
        assert kind in invoke("info", path).out


@pytest.mark.parametrize("name", ["difficulty.tif", "difficulty.zarr/0/difficulty/c/0/0", "items.json"])
def test_info_notices_a_flipped_bit(mapped: Made, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(mapped.path, tmp_path / "run"))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert f"is damaged: {name} differ" in invoke("info", copy).failure()


@pytest.mark.parametrize(
    "args",
    [("map", "--bbxo", "1"), ("frobnicate",), (), ("map", SEAM, *DEMO_ARGS), ("fit",), ("fit", "run", "--folds", "1"),
     ("map", SEAM, *DEMO_ARGS, "-o", "x", "--errors", "ignore"), ("score", "x"), ("map", SEAM, "--crs", "utm")],
    ids=lambda args: " ".join(args) or "nothing",
)  # fmt: skip
def test_wrong_usage_is_two(args: tuple[str, ...]) -> None:
    result = invoke(*args)
    assert result.code == 2 and result.out == "" and result.err.startswith("Usage: ")


@pytest.mark.slow
def test_codes_of_real_processes(tmp_path: Path) -> None:
    assert geoelle("map", "--bbxo", "1").code == 2
    failed = geoelle("map", "--bbox=9,9,1,1", *DEMO_ARGS, "-o", tmp_path / "out", "--json")
    assert "bbox is reversed" in failed.failure() and not (tmp_path / "out").exists()
