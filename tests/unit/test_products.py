"""From a run to a map: the right numbers at the right places, in every form, with their provenance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

import scenes
from geoelle import run as module
from geoelle.applicability import Reach
from geoelle.area import Address, Addresses, Area, Lattice
from geoelle.bands import Bands
from geoelle.complexity import feature_names
from geoelle.embed import space_of
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import FormatError, ProbeError, ReadError, SpaceMismatch
from geoelle.intervals import Spread
from geoelle.models import load_model
from geoelle.models.nano import BANDS as NANO
from geoelle.plan import Job, Plan, make_plan
from geoelle.probe import Affine, Probe
from geoelle.products import Product, probe_for, run_map, shipped_probe
from geoelle.run import load_manifest
from geoelle.shipped import WEIGHTS
from ground import GSD_M, make_scene, save_catalog, three_places

SIX = tuple(band for band in GSD_M if band != "scl")


def affine(count: int, seed: int) -> Affine:
    weights = np.random.default_rng(seed).normal(size=count) / 50
    return Affine(weights_d=weights, intercept=-3.0, mean_d=np.zeros(count), scale_d=np.ones(count), alpha=1.0)


def make_probe(plan: Plan, **changes: object) -> Probe:
    names = feature_names(plan.bands)
    probe = Probe(
        embedding=affine(plan.model.card.dim, 0), pixels=affine(len(names), 1), feature_names=names,
        space=space_of(plan.model, plan.bands), data={"unit": "ells"},
    )  # fmt: skip
    return replace(probe, **changes)


def plan_of(home: Path, items: Sequence[pystac.Item], area: Area, **options: object) -> Plan:
    return make_plan(Job(area=area, catalog=str(save_catalog(home / "items.json", items)), **options))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    home = tmp_path_factory.mktemp("places")
    items, squares = three_places(home)
    return plan_of(home, items, Area.parse(polygon=squares, dates="2024"))


@pytest.fixture(scope="module")
def product(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Product:
    return run_map(plan, shipped_probe(plan.model, plan.bands), tmp_path_factory.mktemp("map") / "run")


def raster_of(path: Path) -> tuple[dict[str, np.ndarray], rasterio.DatasetReader]:
    with rasterio.open(path) as file:
        return dict(zip(file.descriptions, file.read(), strict=True)), file


# --- the numbers


def test_layers_are_the_maps_of_the_probe() -> None:
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
    rng, model = np.random.default_rng(0), load_model("nano")
    names = feature_names(SIX)
    vectors, features = rng.normal(size=(3, 128)).astype("f4"), rng.normal(size=(3, len(names))).astype("f4")
    vectors[1] = features[1] = np.nan
    table = Embeddings(
        addresses=Addresses(lattice=lattice, rows=[-31_250] * 3, cols=[3_125, 3_126, 3_127]), vectors_nd=vectors,
        features_nf=features, valid_n=np.array([True, False, True]), valid_fraction_n=np.array([1, 0.5, 1]),
        times_n=np.array(["2024-06-01T12:00", "2024-06-01", "1970-01-02"], "datetime64[s]"), items_n=["a", "a", "b"],
        header=Header(space=space_of(model, SIX), sensor="s", bands=SIX, feature_names=names),
    )  # fmt: skip
    probe = Probe(embedding=affine(128, 0), pixels=affine(len(names), 1), feature_names=names, space={"model": "nano"})
    found = Bands(probe=probe).values(table)
    assert tuple(found) == ("difficulty", "complexity", "excess", "date")
    assert all(values.dtype == np.float32 for values in found.values())
    log_difficulty = vectors @ probe.embedding.weights_d - 3
    log_complexity = features @ probe.pixels.weights_d - 3
    np.testing.assert_allclose(found["difficulty"], np.exp(log_difficulty), rtol=1e-4)
    np.testing.assert_allclose(found["complexity"], np.exp(log_complexity), rtol=1e-4)
    np.testing.assert_allclose(found["excess"], log_difficulty - log_complexity, rtol=1e-3, atol=1e-4)
    assert found["date"][0] == 19_875.5 and np.isnan(found["date"][1]) and found["date"][2] == 1
    raw = Bands(probe=replace(probe, scale="raw")).values(table)
    np.testing.assert_allclose(raw["difficulty"], log_difficulty, rtol=1e-4)
    np.testing.assert_allclose(raw["excess"], raw["difficulty"] - raw["complexity"], rtol=1e-3, atol=1e-5)


def test_each_cell_has_the_difficulty_of_its_chip(plan: Plan, product: Product) -> None:
    bands, file = raster_of(product.out / "difficulty.tif")
    probe = shipped_probe(plan.model, plan.bands)
    count = 0
    for part in sorted(product.out.glob("embeddings/*.parquet")):
        table = Embeddings.read(part)
        values = probe.score(table.vectors_nd)
        for address, value in zip(table.addresses.strings(), values, strict=True):
            middle = Address.parse(address).cell.extent.centroid.coords[0]
            row, col = file.index(*middle)
            assert bands["difficulty"][row, col] == value
            count += 1
    assert np.isfinite(bands["difficulty"]).sum() == count == plan.chips
    assert (bands["date"][np.isfinite(bands["date"])] == np.float32(19_875 + (10 * 60 + 50) / 1440)).all()


def test_zarr_and_cog_hold_the_same_map(product: Product) -> None:
    bands, file = raster_of(product.out / "difficulty.tif")
    with xr.open_zarr(product.out / "difficulty.zarr", group="0", decode_times=False) as store:
        assert store.odc.geobox == GeoBox.from_rio(file)
        for name, values in bands.items():
            np.testing.assert_array_equal(store[name].values, values)


def test_a_product_says_what_it_is(plan: Plan, product: Product) -> None:
    names = ["difficulty.tif", "difficulty.zarr", "difficulty.qml", "difficulty.png", "report.html", "item.json"]
    assert [path.name for path in product.files] == names and all(path.exists() for path in product.files)
    assert product.counts == {"planned": plan.chips, "read": plan.chips, "empty": 0, "skipped": 0}
    assert json.loads(json.dumps(product.to_dict(), allow_nan=False))["files"] == [str(path) for path in product.files]
    bands, _ = raster_of(product.out / "difficulty.tif")
    for name, values in bands.items():
        stated = product.statistics[f"difficulty:{name}"]
        assert stated["mean"] == pytest.approx(np.nanmean(values), rel=1e-5)
        assert stated["maximum"] == np.nanmax(values)
    assert f"{np.nanmin(bands['difficulty']):.3g} to" in product.lines[0]
    assert plan.model.card.reading in product.lines[-1]
    manifest = load_manifest(product.out)
    assert manifest["statistics"] == product.statistics
    assert manifest["probe"]["digest"] == shipped_probe(plan.model, plan.bands).digest
    item = pystac.Item.from_file(str(product.out / "item.json"))
    assert item.properties["geoelle:counts"] == product.counts
    assert {a.href.removeprefix("./") for a in item.assets.values()} == set(names) - {"item.json"}
    page = (product.out / "report.html").read_text("utf-8")
    assert plan.model.card.reading[:60] in page and "S2B_31TFK_20240601_0_L2A" in page


def test_provenance_travels_inside_the_file(plan: Plan, product: Product) -> None:
    with rasterio.open(product.out / "difficulty.tif") as file:
        tags = file.tags()
        unit = plan.model.card.unit
        assert file.units == (unit, unit, "ln", "days since 1970-01-01", unit, unit, "1", "1", "1")
    assert tags["GEOELLE_FINGERPRINT"] == plan.fingerprint
    assert tags["GEOELLE_DATE"] == "2024-06-01T10:50:00"
    assert tags["GEOELLE_ITEMS"] == " ".join(item.id for item in plan.looks[0].items)
    assert "Copernicus Sentinel data 2024" in tags["COPYRIGHT"]
    assert "log-loss" in tags["GEOELLE_SCALE"] and plan.model.weights_sha256 in tags["GEOELLE_SPACE"]


def test_a_probe_of_the_loss_itself_says_so(plan: Plan, tmp_path: Path) -> None:
    run_map(plan, make_probe(plan, scale="raw"), tmp_path / "run")
    with rasterio.open(tmp_path / "run" / "difficulty.tif") as file:
        assert file.units[:3] == ("ells",) * 3
        assert "expected loss" in file.tags()["GEOELLE_SCALE"]


def test_what_a_probe_can_tell_is_in_every_form(plan: Plan, tmp_path: Path) -> None:
    probe = make_probe(plan)
    table = Embeddings.read(sorted(run_map(plan, probe, tmp_path / "run").out.glob("embeddings/*.parquet")))
    points = table.vectors_nd[table.valid_n][:3]
    reach = Reach(
        points_md=points, counts_m=np.ones(3, int), weights_d=np.abs(probe.embedding.weights_d), mean_distance=1.0,
        threshold=float(np.median(distances(table.vectors_nd[table.valid_n], points, probe))),
    )  # fmt: skip
    spread = Spread(log_spread=affine(128, 3), low=-3.0, high=0.0, alpha=0.1, threshold=2.0)
    said = {"sentences": {"reach": "dissimilarity is not informative of the error"}, "notes": ["a note"]}
    telling = replace(probe, spread=spread, reach=reach, smearing=1.3, trust=said)
    made = run_map(plan, telling, tmp_path / "run", overwrite=True, expected=True)
    bands, _ = raster_of(made.out / "difficulty.tif")
    assert list(bands) == list(Bands(probe=telling).names)
    with rasterio.open(made.out / "difficulty.tif") as file:
        tags = file.tags()
    assert tags["GEOELLE_REACH"] == "dissimilarity is not informative of the error"
    assert "expected loss, 1.3 times" in tags["GEOELLE_SCALE"] and "90%" in tags["GEOELLE_INTERVAL"]
    inside = bands["applicable"][np.isfinite(bands["applicable"])]
    assert 0.4 < inside.mean() < 0.6
    assert any("of the cells are in the area of applicability" in line for line in made.lines)
    page = (made.out / "report.html").read_text("utf-8")
    assert "dissimilarity is not informative of the error" in page and "a note" in page
    assert "striped: outside the area of applicability" in page
    item = json.loads((made.out / "item.json").read_text())
    assert [b["name"] for b in item["assets"]["difficulty"]["bands"]] == list(bands)
    assert load_manifest(made.out)["probe"]["trust"] == said
    with pytest.raises(ProbeError, match="no smearing factor"):
        run_map(plan, probe, tmp_path / "other", expected=True)
    assert not (tmp_path / "other").exists()


def distances(vectors: np.ndarray, points: np.ndarray, probe: Probe) -> np.ndarray:
    away = (vectors[:, None].astype(float) - points) * probe.embedding.weights_d
    return np.sqrt(np.square(away).sum(2)).min(1)


def test_another_probe_repaints_without_reading(plan: Plan, product: Product, tmp_path: Path, monkeypatch) -> None:
    out = Path(shutil.copytree(product.out, tmp_path / "run"))
    monkeypatch.setattr(module, "read_window", None)
    run_map(plan, make_probe(plan), out, overwrite=True)
    old, new = (raster_of(place / "difficulty.tif")[0]["difficulty"] for place in (product.out, out))
    assert (np.isfinite(old) == np.isfinite(new)).all() and not np.array_equal(old, new, equal_nan=True)
    assert load_manifest(out)["probe"]["digest"] == make_probe(plan).digest


# --- probes


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("nano-probe-*.safetensors")), ids=lambda p: p.stem)
def test_every_probe_that_ships_is_of_the_weights_that_ship(path: Path) -> None:
    probe = Probe.load(path)
    bands = tuple(str(probe.space["bands"]).split())
    model = load_model("nano")
    dense = "-dense-" in path.name
    assert probe.space == space_of(model, bands, dense=dense)
    assert probe.pixels is not None and probe.feature_names == feature_names(bands)
    assert probe.data["unit"] == model.card.unit and probe.scores["tables"]
    assert shipped_probe(model, bands, dense=dense).digest == probe.digest


def test_bands_or_weights_without_a_probe_say_how_to_fit_one() -> None:
    with pytest.raises(ProbeError, match=r"no probe ships for nano .* bands blue green; fit one"):
        shipped_probe(load_model("nano"), ("blue", "green"))
    with pytest.raises(ProbeError, match="no probe ships"):
        shipped_probe(load_model("nano", "untrained"), NANO)


def test_a_named_probe_must_be_of_the_plans_space_and_have_a_pixel_part(plan: Plan, tmp_path: Path) -> None:
    good = make_probe(plan)
    assert probe_for(plan, None).space == good.space
    assert probe_for(plan, good.save(tmp_path / "good.safetensors")).digest == good.digest
    other = make_probe(plan, space={**good.space, "weights_sha256": "untrained-0"})
    with pytest.raises(SpaceMismatch, match="weights_sha256: 'untrained-0' against"):
        probe_for(plan, other.save(tmp_path / "other.safetensors"))
    with pytest.raises(ProbeError, match="has no pixel part"):
        probe_for(plan, make_probe(plan, pixels=None, feature_names=()).save(tmp_path / "bare.safetensors"))
    with pytest.raises(FormatError, match=r"none.safetensors is unreadable"):
        probe_for(plan, tmp_path / "none.safetensors")


# --- zones, and maps with hardly anything on them


def near_six(home: Path, *, east: bool) -> Plan:
    """Return the plan of an area on both sides of 6 degrees east, which is at x = 736,420 m in the western zone.

    Without `east`, imagery ends before the meridian, though its footprint says otherwise.
    """
    scene = make_scene(home, "S2A_31TGK_20240601_0_L2A", west=734_280, north=4_988_200)
    scene.geometry = json.loads(shapely.to_geojson(shapely.box(5.95, 44.95, 6.05, 45.05)))
    items = [scene]
    if east:
        items.append(make_scene(home, "S2A_32TLR_20240601_0_L2A", west=263_000, north=4_988_200, epsg=32632))
    ground = shapely.box(735_520, 4_986_800, 737_320, 4_987_500)
    return plan_of(home, items, Area.parse(polygon=scenes.to_lonlat(ground, 32631), dates="2024"))


def test_each_zone_has_a_map_of_its_own(tmp_path: Path) -> None:
    plan = near_six(tmp_path, east=True)
    product = run_map(plan, make_probe(plan), tmp_path / "run")
    assert [p.name for p in product.files if p.suffix == ".tif"] == ["difficulty_32631.tif", "difficulty_32632.tif"]
    names = {p.name for p in product.files}
    for epsg in (32631, 32632):
        assert {f"difficulty_{epsg}.{end}" for end in ("tif", "zarr", "qml", "png")} <= names
        assert {f"report_{epsg}.html", f"item_{epsg}.json"} <= names
        bands, file = raster_of(tmp_path / "run" / f"difficulty_{epsg}.tif")
        assert file.crs.to_epsg() == epsg and np.isfinite(bands["difficulty"]).any()
    finite = sum(np.isfinite(raster_of(p)[0]["difficulty"]).sum() for p in product.files if p.suffix == ".tif")
    assert finite == product.counts["read"] == plan.chips
    assert "difficulty.tif" not in names and "item.json" not in names
    assert load_manifest(tmp_path / "run")["sha256"].keys() >= {"difficulty_32631.tif", "difficulty_32632.tif"}
    assert [line.split(":")[0] for line in product.lines[:2]] == ["difficulty_32631", "difficulty_32632"]


def test_a_zone_without_imagery_has_no_map_and_spoils_none(tmp_path: Path) -> None:
    plan = near_six(tmp_path, east=False)
    assert plan.to_dict()["epsg"] == [32631, 32632] and plan.to_dict()["looks"][0]["coverage"] == 1
    product = run_map(plan, make_probe(plan), tmp_path / "run")
    assert [p.name for p in product.files if p.suffix == ".tif"] == ["difficulty_32631.tif"]
    assert 20 < product.counts["read"] < plan.chips - len(plan.zones[1][1])
    assert {name.split(":")[0] for name in product.statistics} == {"difficulty_32631"}


@pytest.mark.parametrize("valid", [0, 1])
def test_a_map_of_one_cell_is_a_map_and_of_none_is_not(plan: Plan, product: Product, tmp_path: Path, valid) -> None:
    out = Path(shutil.copytree(product.out, tmp_path / "run"))
    (out / "run.json").unlink()
    for place, part in enumerate(sorted(out.glob("embeddings/*.parquet"))):
        table = Embeddings.read(part)
        kept = np.zeros(len(table), bool)
        kept[: valid if place == 0 else 0] = True
        gone = ~kept[:, None]
        replace(
            table, valid_n=kept, vectors_nd=np.where(gone, np.nan, table.vectors_nd).astype(np.float32),
            features_nf=np.where(gone, np.nan, table.features_nf).astype(np.float32),
        ).write(part)  # fmt: skip
    if not valid:
        with pytest.raises(ReadError, match=f"none of {plan.chips} chips has enough valid pixels, 0 assets were"):
            run_map(plan, make_probe(plan), out)
        assert not (out / "run.json").exists()
        return
    made = run_map(plan, make_probe(plan), out)
    assert np.isfinite(raster_of(out / "difficulty.tif")[0]["difficulty"]).sum() == 1 == made.counts["read"]
