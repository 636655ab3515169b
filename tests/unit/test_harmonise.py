"""Offsets, scales, masks: against official products where the shared data is present, and rule by rule."""

import json
import re
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from geoelle.catalog import load_sensor
from geoelle.errors import CatalogError, ReadError
from geoelle.harmonise import find_asset, has_asset, masked, radiometry, to_physical
from geoelle.scene import baseline
from scenes import bare_item

L2A, L1C = load_sensor("sentinel-2-l2a"), load_sensor("sentinel-2-l1c")
STAC = Path(__file__).parents[1] / "fixtures" / "stac"
CLEAN = {"earthsearch:boa_offset_applied": None, "s2:processing_baseline": None}


def s2_item(properties, declared=None, name="scene", moment="2024-06-01T10:50:00Z", key="red"):
    item = bare_item(name, moment=moment, properties={**CLEAN, **properties})
    item.properties = {k: v for k, v in item.properties.items() if v is not None}
    fields = {} if declared is None else {"raster:bands": [declared]}
    item.add_asset(key, pystac.Asset(href="red.tif", extra_fields=fields))
    return item


def rule(item, sensor=L2A, band="red"):
    return radiometry(item, find_asset(item, sensor, band), sensor)


LIE = {"scale": 0.0001, "offset": -0.1, "nodata": 0}


@pytest.mark.parametrize(
    ("properties", "declared", "add", "doubt"),
    [
        ({"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.11"}, LIE, 0, ""),
        ({"sentinel:boa_offset_applied": True, "sentinel:processing_baseline": "04.00"}, None, 0, ""),
        ({"earthsearch:boa_offset_applied": True}, LIE, 0, ""),
        ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "02.14"}, LIE, 0, ""),
        ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "04.00"}, LIE, -1000, "untrue"),
        ({"s2:processing_baseline": "04.00"}, None, -1000, ""),
        ({"s2:processing_baseline": "05.11"}, {"nodata": 0}, -1000, ""),
        ({"s2:processing_baseline": "03.01"}, None, 0, ""),
        ({"s2:processing_baseline": "99.99"}, None, -1000, ""),
        ({"processing:version": "05.11"}, None, -1000, ""),
        ({"s2:processing_baseline": "05.10"}, LIE, -1000, ""),
        ({"s2:processing_baseline": "04.00"}, {"scale": 0.0001, "offset": -0.7}, -7000, ""),
        ({"s2:processing_baseline": "04.00"}, {"scale": 0.0001, "offset": 0}, 0, "already shifted"),
        ({"s2:processing_baseline": "02.12"}, LIE, 0, "has none"),
        ({"s2:processing_baseline": "02.12"}, {"scale": 0.0001, "offset": 0}, 0, ""),
        ({}, LIE, -1000, ""),
        ({}, {"scale": 0.0001, "offset": 0}, 0, ""),
        ({}, None, -1000, "judged by the date"),
    ],
)
def test_the_sentinel2_rule(properties, declared, add, doubt):
    found = rule(s2_item(properties, declared))
    assert (found.add, found.scale) == (add, 0.0001)
    assert (doubt in found.doubt) if doubt else (found.doubt == "")


def test_without_baseline_or_offset_the_date_decides_and_says_so():
    before = rule(s2_item({}, moment="2022-01-24T23:59:59Z"))
    after = rule(s2_item({}, moment="2022-01-25T00:00:00Z"))
    assert (before.add, after.add) == (0, -1000)
    assert before.doubt and after.doubt


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        ("S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857", {}, (2, 12)),
        ("S2B_MSIL1C_20220615T101559_N0400_R065_T32UPC_20220615T122549.SAFE", {}, (4, 0)),
        ("x", {"s2:tile_id": "S2B_OPER_MSI_L2A_TL_2BPS_20250731T143919_A043879_T20EPT_N05.11"}, (5, 11)),
        ("x", {"s2:processing_baseline": "N0509"}, (5, 9)),
        ("x", {"s2:processing_baseline": "05.10", "s2:product_uri": "S2A_N0211_R1.SAFE"}, (5, 10)),
        ("S2B_20EPT_20250731_0_L2A", {}, None),
        ("x", {"s2:processing_baseline": "new"}, None),
    ],
)
def test_baseline_from_property_product_or_id(name, properties, expected):
    assert baseline(s2_item(properties, name=name)) == expected


@pytest.mark.parametrize("year", ["baseline0400", "baseline0209"])
def test_level_1c_numbers_become_the_official_reflectance(shared, year):
    (official,) = (shared / "data" / "fixtures" / year).glob("*_toa.tif")
    chip = official.with_name(official.name.replace("_toa", ""))
    xml = chip.with_name(chip.stem + "_MTD.xml").read_text()
    offsets = {float(v) for v in re.findall(r"<RADIO_ADD_OFFSET[^>]*>(-?\d+)<", xml)} or {0.0}
    item = s2_item({"s2:processing_baseline": re.search(r"BASELINE>(\d\d\.\d\d)<", xml)[1]}, name=chip.stem)
    found = rule(item, L1C)
    assert {found.add} == offsets
    assert rule(s2_item({}, name=chip.stem), L1C).add == found.add
    with rasterio.open(chip) as source, rasterio.open(official) as truth:
        numbers, expected = source.read(out_dtype="float32"), truth.read()
    seen = numbers != 0
    assert np.array_equal(to_physical(numbers, found, to_db=False)[seen], expected[seen])


def shared_items(shared, pattern):
    for path in sorted((shared / "data" / "fixtures" / "stac").glob(pattern)):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature" and "S2" in document["id"]:
            document["assets"] = {k: v for k, v in document["assets"].items() if k in ("red", "B04")}
            yield pystac.Item.from_dict(document)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("earth_search_v1/S2*_[0-9]_L2A.json", {0.0}),
        ("earth_search_v1/S2*_T*_L2A.json", {-1000.0}),
        ("earth_search_v1/S2*_L1C.json", {-1000.0}),
        ("planetary_computer_items/*.json", {-1000.0}),
        ("odc_stac/S2*.json", {0.0}),
        ("stactools_sentinel2/*N02*.json", {0.0}),
        ("stactools_sentinel2/*N05*.json", {-1000.0}),
    ],
)
def test_real_items_of_many_endpoints(shared, pattern, expected):
    items = list(shared_items(shared, pattern))
    assert items
    assert {rule(item).add for item in items} == expected
    assert {rule(item).doubt for item in items} == {""}


def test_trimmed_items_in_the_repository():
    added = {path.stem: rule(pystac.Item.from_file(path)).add for path in STAC.glob("*.json")}
    assert added == {"earth-search": 0.0, "earth-search-c1": -1000.0, "planetary-computer": -1000.0}


def test_physical_values_are_exact_negative_ones_stay_and_nan_stays():
    numbers = np.array([[1000, 999, 1, 11000, np.nan]], np.float32)
    found = rule(s2_item({"s2:processing_baseline": "05.11"}))
    values = to_physical(numbers, found, to_db=False)
    assert np.array_equal(values, np.array([[0, -0.0001, -0.0999, 1, np.nan]], np.float32), equal_nan=True)
    assert values is numbers


def test_radar_becomes_decibels_and_what_is_not_positive_is_masked():
    radar = load_sensor("sentinel-1-rtc")
    item = s2_item({}, key="vv")
    found = rule(item, radar, "vv")
    assert found.nodata == (-32768,)
    values = to_physical(np.array([1.0, 0.1, 0.0, -0.5, np.nan], np.float32), found, to_db=True)
    assert np.allclose(values, [0, -10, np.nan, np.nan, np.nan], equal_nan=True)


def test_declared_rule_follows_the_asset_and_falls_back_to_the_sensor():
    landsat = load_sensor("landsat-c2-l2")
    plain, stated = s2_item({}), s2_item({}, {"scale": 2e-05, "offset": 0.1, "nodata": 5})
    band = s2_item({})
    band.assets["red"].extra_fields["bands"] = [{"name": "red", "raster:scale": 0.5, "raster:offset": 1}]
    assert (rule(plain, landsat).scale, round(rule(plain, landsat).add, 3)) == (2.75e-05, -7272.727)
    assert (rule(stated, landsat).scale, round(rule(stated, landsat).add, 3)) == (2e-05, 5000.0)
    assert rule(stated, landsat).nodata == (0, 5)
    assert (rule(band, landsat).scale, rule(band, landsat).add) == (0.5, 2.0)


def test_metadata_that_are_no_numbers_are_named():
    with pytest.raises(CatalogError, match="offset of red in item scene is not a number"):
        rule(s2_item({}, {"scale": 0.0001, "offset": "a tenth"}))
    item = s2_item({})
    item.assets["red"].extra_fields["raster:bands"] = ["0.0001"]
    with pytest.raises(CatalogError, match="raster:bands of red"):
        rule(item)
    with pytest.raises(CatalogError, match="scale of red in item scene is 0"):
        rule(s2_item({}, {"scale": 0, "offset": 0}))


def test_assets_are_found_by_endpoint_collection_and_band():
    naip, hls = load_sensor("naip"), load_sensor("hls2")
    assert find_asset(s2_item({}, key="image"), naip, "nir").index == 4
    for collection, key in (("HLSS30_2.0", "B8A"), ("hls2-s30", "B8A"), ("hls2-l30", "B05")):
        item = bare_item("x", collection=collection)
        for name in ("B05", "B8A", "Fmask"):
            item.add_asset(name, pystac.Asset(href=f"{name}.tif"))
        assert find_asset(item, hls, "nir08").key == key
        assert find_asset(item, hls, "fmask").key == "Fmask"
    pc = s2_item({}, key="B04")
    assert find_asset(pc, L2A, "red").key == "B04"
    with pytest.raises(ReadError, match=r"no asset for band scl .*looked for scl, SCL, SCL_20m; it has B04"):
        find_asset(pc, L2A, "scl")
    assert has_asset(pc, L2A, "red") and not has_asset(pc, L2A, "scl")
    for ask in (find_asset, has_asset):
        with pytest.raises(CatalogError, match="no band 'thermal'"):
            ask(pc, L2A, "thermal")


def test_masks_by_class_and_by_bit():
    scl = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, np.nan], np.float32)
    assert masked(scl, L2A).tolist() == [*map(bool, (1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0)), True]
    qa = np.array(
        [21824, 1, 22280, 23888, 30048, 21824 | 2, 21952], np.float32
    )  # clear fill cloud shadow snow
    assert masked(qa, load_sensor("landsat-c2-l2")).tolist() == [False, True, True, True, False, True, False]
    fmask = np.array([0, 2, 4, 8, 16, 32, 64, 192, 255], np.float32)
    assert masked(fmask, load_sensor("hls2")).tolist() == [
        *(False, True, True, True, False, False, False, False, True)
    ]
