"""The demo catalogue is what docs/demo-data.md says: whole, small, credited, and pixel for pixel as found."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import shapely.geometry
from rio_cogeo import cog_validate

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "catalogs" / "demo"
VIRGINIA = "sentinel-2-l1c/S2A_18SVG_20160112_0_L1C"
TUTORIAL_BBOX = (-75.71, 37.60, -75.53, 37.75)
MOST_BYTES = 25_000_000
# Taken from the source packages by hand, not by the script that builds the catalogue.
PIXELS_SHA256 = {
    f"{VIRGINIA}/blue.tif": "35ac627b8b59bcef9ac41d96f7ffe497bbd912909aba66718461841c5ae98ae6",
    f"{VIRGINIA}/swir22.tif": "0352655351c69ced65185faa2206da0fcaa3541a75f1703e6a4a9aec7f6e69c0",
    "sentinel-2-l2a/romania_20200804_L2A/red.tif": (
        "31e99976f5530cab58b20669c9b565174850a98a1b68b8b7fafce4de23a9abd0"
    ),
}


@pytest.fixture(scope="module")
def catalog() -> pystac.Catalog:
    return pystac.Catalog.from_file(str(DEMO / "catalog.json"))


@pytest.fixture(scope="module")
def items(catalog: pystac.Catalog) -> list[pystac.Item]:
    return list(catalog.get_items(recursive=True))


@pytest.fixture(scope="module")
def virginia(items: list[pystac.Item]) -> pystac.Item:
    return next(item for item in items if item.collection_id == "sentinel-2-l1c")


def assets(items: list[pystac.Item]) -> Iterator[tuple[pystac.Item, str, pystac.Asset, Path]]:
    for item in items:
        for key, asset in item.assets.items():
            yield item, key, asset, Path(asset.get_absolute_href())


def test_holds_one_item_of_virginia_and_many_dates_of_romania(items: list[pystac.Item]) -> None:
    ids = [item.id for item in items]
    assert len(ids) == len(set(ids)) == 40
    assert sum(item.collection_id == "sentinel-2-l2a" for item in items) == 39
    years = {item.datetime.year for item in items if item.datetime}
    assert years == set(range(2015, 2021))


def test_every_file_belongs_to_an_item_and_every_address_resolves(items: list[pystac.Item]) -> None:
    named = {path for _, _, _, path in assets(items)}
    assert named == set(DEMO.rglob("*.tif"))
    for path in DEMO.rglob("*.json"):
        for link in json.loads(path.read_text("utf-8")).get("links", []):
            if not link["href"].startswith("https://"):
                assert (path.parent / link["href"]).is_file(), (path.name, link)


def test_holds_no_absolute_path() -> None:
    for path in DEMO.rglob("*.json"):
        text = path.read_text("utf-8")
        assert not re.search(r'"(/|file://|[A-Za-z]:\\)', text), path
        hrefs = re.findall(r'"href": "([^"]*)"', text)
        assert all(href.startswith(("./", "../", "https://")) for href in hrefs), path


def test_is_small_enough_to_travel_in_the_wheel() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert len(files) < 400


def test_files_are_cogs(items: list[pystac.Item]) -> None:
    for _, _, _, path in assets(items):
        valid, errors, warnings = cog_validate(str(path), strict=True)
        assert valid, (path.name, errors, warnings)


def test_metadata_equals_the_files(items: list[pystac.Item]) -> None:
    for item, key, asset, path in assets(items):
        fields = asset.extra_fields
        band = fields["raster:bands"][0]
        with rasterio.open(path) as src:
            assert item.properties["proj:code"] == f"EPSG:{src.crs.to_epsg()}"
            assert fields["proj:shape"] == list(src.shape)
            assert fields["proj:transform"] == list(src.transform)[:6]
            assert (band["data_type"], band["nodata"]) == (src.dtypes[0], src.nodata)
            assert band["spatial_resolution"] == src.res[0]
            assert src.descriptions == (key,)
            assert "modified Copernicus Sentinel data" in src.tags()["TIFFTAG_COPYRIGHT"]
            west, south, east, north = rasterio.warp.transform_bounds(src.crs, 4326, *src.bounds)
        assert np.allclose(item.bbox, (west, south, east, north), atol=1e-5)
        assert (band.get("scale"), band.get("offset")) == ((None, None) if key == "scl" else (0.0001, 0))
        content = path.read_bytes()
        assert fields["file:size"] == len(content)
        assert fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()


def test_pixels_equal_the_source(items: list[pystac.Item]) -> None:
    recorded = json.loads((DEMO / "sources.json").read_text("utf-8"))["pixels"]
    found = {}
    for _, _, _, path in assets(items):
        with rasterio.open(path) as src:
            pixels_yx = src.read(1)
        little = pixels_yx.astype(pixels_yx.dtype.newbyteorder("<"))
        found[path.relative_to(DEMO).as_posix()] = hashlib.sha256(little.tobytes()).hexdigest()
    assert found == {name: entry["sha256"] for name, entry in recorded.items()}
    assert {name: found[name] for name in PIXELS_SHA256} == PIXELS_SHA256


def test_virginia_covers_the_tutorial_in_space_and_time(virginia: pystac.Item) -> None:
    assert shapely.geometry.shape(virginia.geometry).contains(shapely.box(*TUTORIAL_BBOX))
    assert virginia.datetime is None
    start, end = virginia.common_metadata.start_datetime, virginia.common_metadata.end_datetime
    assert start.date().isoformat() == end.date().isoformat() == "2016-01-12"
    sensor = json.loads((ROOT / "catalogs" / "sensors" / "sentinel-2-l1c.json").read_text("utf-8"))
    assert list(virginia.assets) == [band["name"] for band in sensor["bands"]]
    assert [asset.extra_fields["gsd"] for asset in virginia.assets.values()] == [
        band["gsd_m"] for band in sensor["bands"]
    ]


def test_only_one_collection_shows_virginia(items: list[pystac.Item]) -> None:
    ground = shapely.box(*TUTORIAL_BBOX)
    shown = {i.collection_id for i in items if shapely.geometry.shape(i.geometry).intersects(ground)}
    assert shown == {"sentinel-2-l1c"}


def test_virginia_has_land_in_the_west_and_ocean_in_the_east(virginia: pystac.Item) -> None:
    with rasterio.open(virginia.assets["nir"].get_absolute_href()) as src:
        nir_yx = src.read(1) * 0.0001
    assert np.median(nir_yx[:, :100]) > 0.15
    assert np.median(nir_yx[:, -100:]) < 0.06
    assert np.median(nir_yx[:200, -300:]) < 0.1 < np.median(nir_yx[:200, :600])


def test_asset_keys_read_through_odc_stac(virginia: pystac.Item) -> None:
    loaded = odc.stac.load([virginia], bands=["blue", "swir16"], crs="EPSG:32618", resolution=10)
    with rasterio.open(virginia.assets["blue"].get_absolute_href()) as src:
        expected_yx = src.read(1)
        west, north = src.bounds.left, src.bounds.top
    # odc-stac snaps to its own grid; ours is a multiple of the resolution, so the pixels are the same ones
    window = loaded.sel(x=slice(west, west + 16_680), y=slice(north, north - 17_520))
    assert np.array_equal(window.blue.values[0], expected_yx)
    assert window.blue.attrs["nodata"] == 0
    assert window.swir16.dtype == np.uint16


def test_romania_states_its_cloud_by_the_scene_classes(items: list[pystac.Item]) -> None:
    for item in items:
        if item.collection_id != "sentinel-2-l2a":
            continue
        with rasterio.open(item.assets["scl"].get_absolute_href()) as src:
            scl_yx = src.read(1)
        assert scl_yx.min() >= 1
        assert scl_yx.max() <= 11
        assert np.isin(scl_yx, (4, 5, 6, 7, 11)).mean() >= 0.7
        cloud = np.isin(scl_yx, (8, 9, 10)).mean() * 100
        assert item.properties["eo:cloud_cover"] == pytest.approx(cloud, abs=0.005)
        assert item.id == f"romania_{item.datetime:%Y%m%d}_L2A"


def test_romania_is_a_forest_in_summer(items: list[pystac.Item]) -> None:
    item = next(item for item in items if item.id == "romania_20200804_L2A")
    bands = {}
    for key in ("red", "nir"):
        with rasterio.open(item.assets[key].get_absolute_href()) as src:
            bands[key] = src.read(1) * 0.0001
    ndvi_yx = (bands["nir"] - bands["red"]) / (bands["nir"] + bands["red"])
    assert np.median(ndvi_yx) > 0.8


def test_credits_are_given(catalog: pystac.Catalog) -> None:
    licences = {c.id: c.license for c in catalog.get_children() if isinstance(c, pystac.Collection)}
    assert licences == {"sentinel-2-l1c": "CC0-1.0", "sentinel-2-l2a": "EUPL-1.2"}
    for collection in catalog.get_children():
        assert re.search(r"[Cc]ontains modified Copernicus Sentinel data 20\d\d", collection.description)
        assert {"producer", "licensor"} <= {role for p in collection.providers for role in p.roles}
        assert collection.get_links("license")
        assert collection.get_links("derived_from")
    licence = (DEMO / "sentinel-2-l2a" / "LICENSE.txt").read_text("utf-8")
    assert licence.lstrip().startswith("EUROPEAN UNION PUBLIC LICENCE v. 1.2")


def test_the_document_names_the_sources() -> None:
    text = (ROOT / "docs" / "demo-data.md").read_text("utf-8")
    for package in json.loads((DEMO / "sources.json").read_text("utf-8"))["packages"]:
        assert f"{package['name']} {package['version']}" in text
        assert package["sha256"] in text
        assert package["licence"] in text


@pytest.mark.slow
def test_building_again_gives_the_same_pixels_and_metadata(tmp_path: Path) -> None:
    cache = os.environ.get("GEOELLE_DEMO_CACHE")
    if not cache:
        pytest.skip("source packages not at hand; set GEOELLE_DEMO_CACHE=DIR to download them there and run")
    pytest.importorskip("h5py", reason="h5py is missing; pip install h5py")
    script = ROOT / "scripts" / "build_demo_catalog.py"
    out = tmp_path / "demo"
    subprocess.run([sys.executable, str(script), "--cache", cache, "--out", str(out)], check=True)
    here, there = (
        {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
        for root in (DEMO, out)
    )
    assert here.keys() == there.keys()
    # Another GDAL may deflate the same pixels into other bytes; sources.json is over the pixels.
    assert here["sources.json"].read_bytes() == there["sources.json"].read_bytes()
