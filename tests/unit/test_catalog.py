"""Sensors, endpoints and the search: what is kept, what is dropped, and what a user is told."""

import json
import shutil
from pathlib import Path

import pystac
import pytest

import geoelle.catalog as module
from geoelle.area import Area
from geoelle.catalog import (
    CLOUD_MAX,
    Endpoint,
    Found,
    catalogs_path,
    endpoints,
    load_endpoint,
    load_sensor,
    search,
    sensors,
)
from geoelle.errors import CatalogError, NoItems
from geoelle.harmonise import find_asset
from scenes import bare_item

AREA = Area.parse(bbox=(4.275, 45.13, 4.29, 45.14), dates="2024-06")
S2_BANDS = [
    *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3"),
    *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22"),
]
STAC = Path(__file__).parents[1] / "fixtures" / "stac"


@pytest.fixture
def saved(tmp_path):
    """Write items as an ItemCollection and return its path."""

    def save(*items, name="items.json"):
        features = [item.to_dict(include_self_link=False) for item in items]
        (tmp_path / name).write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return tmp_path / name

    return save


def ids(found: Found):
    return [item.id for item in found.items]


def s2(name, moment="2024-06-01T10:50:00Z", **properties):
    return bare_item(name, moment=moment, properties={"grid:code": "MGRS-31TFL", **properties})


def test_the_catalogs_that_ship():
    assert sensors() == (
        "hls2",
        "landsat-c2-l2",
        "naip",
        "sentinel-1-rtc",
        "sentinel-2-l1c",
        "sentinel-2-l2a",
    )
    assert endpoints() == ("earth-search", "hls", "planetary-computer")
    assert catalogs_path().name in ("catalogs", "_catalogs")


@pytest.mark.parametrize(
    "name", ["hls2", "landsat-c2-l2", "naip", "sentinel-1-rtc", "sentinel-2-l1c", "sentinel-2-l2a"]
)
def test_every_sensor_is_whole(name):
    sensor = load_sensor(name)
    assert sensor.name == name and sensor.title and sensor.note and sensor.collections and hash(sensor)
    assert sensor.offset_rule in ("sentinel-2", "declared", "fixed")
    assert sensor.gsd_m == min(band.gsd_m for band in sensor.bands)
    assert bool(sensor.mask_asset) == bool(sensor.mask_classes or sensor.mask_bits)
    assert len({band.name for band in sensor.bands}) == len(sensor.bands)
    optical = sensor.unit != "gamma0 dB"
    assert all((band.wavelength_um is not None) == optical for band in sensor.bands)
    assert all(0.4 < band.wavelength_um < 2.5 for band in sensor.bands if optical)
    offered = load_endpoint(sensor.endpoint).collections[name]
    assert offered and set(offered) <= set(sensor.collections)


def test_sentinel2_bands_have_the_names_used_everywhere():
    assert list(load_sensor("sentinel-2-l1c").band_names) == S2_BANDS
    assert list(load_sensor("sentinel-2-l2a").band_names) == [b for b in S2_BANDS if b != "cirrus"]


@pytest.mark.parametrize("name", ["earth-search", "hls", "planetary-computer"])
def test_every_endpoint_is_whole(name):
    endpoint = load_endpoint(name)
    assert endpoint.name == name and endpoint.url.startswith("https://") and endpoint.note
    for sensor in endpoint.collections:
        access = endpoint.access(sensor)
        assert access.auth != "signed" or (endpoint.token_url and endpoint.signed_hosts)
        assert sensor in sensors()
    assert load_endpoint("earth-search").access("naip").auth == "requester-pays"
    assert load_endpoint("earth-search").access("sentinel-2-l2a").auth == "none"


@pytest.mark.parametrize(
    ("path", "collection", "sensor"),
    [
        ("earth_search_v1/S2B_20EPT_20250731_0_L2A.json", "sentinel-2-l2a", "sentinel-2-l2a"),
        ("earth_search_v1/S2B_T20EPT_20250731T131905_L2A.json", "sentinel-2-c1-l2a", "sentinel-2-l2a"),
        ("earth_search_v1/S2B_20EPT_20250731_0_L1C.json", "sentinel-2-l1c", "sentinel-2-l1c"),
        ("odc_stac/S2A_28QCH_20200714_0_L2A.json", "sentinel-s2-l2a-cogs", "sentinel-2-l2a"),
        ("odc_stac/LC08_L2SP_028030_20200114_20200824_02_T1_SR.json", "landsat-c2l2-sr", "landsat-c2-l2"),
    ],
)
def test_real_items_have_every_band_of_their_sensor(shared, path, collection, sensor):
    item = pystac.Item.from_dict(json.loads((shared / "data" / "fixtures" / "stac" / path).read_text()))
    known = load_sensor(sensor)
    assert item.collection_id == collection and collection in known.collections
    for band in (*known.band_names, *([known.mask_asset] if known.mask_asset else [])):
        assert find_asset(item, known, band).href


def test_planetary_computer_items_have_every_band(shared):
    sensor = load_sensor("sentinel-2-l2a")
    for path in (shared / "data" / "fixtures" / "stac" / "planetary_computer_items").glob("*.json"):
        item = pystac.Item.from_dict(json.loads(path.read_text()))
        assert all(find_asset(item, sensor, band).href for band in (*sensor.band_names, "scl"))


def test_own_sensors_and_wrong_ones(tmp_path):
    own = json.loads((catalogs_path() / "sensors" / "naip.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps({**own, "name": "mine"}))
    assert load_sensor(tmp_path / "mine.json").name == "mine"
    del own["bands"]
    (tmp_path / "half.json").write_text(json.dumps(own))
    with pytest.raises(CatalogError, match=r"half\.json describes no sensor"):
        load_sensor(tmp_path / "half.json")
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(CatalogError, match=r"endpoint text\.json cannot be read"):
        load_endpoint(tmp_path / "text.json")
    with pytest.raises(
        CatalogError, match=r"no sensor of that name \('sentinel-3'\); there are hls2, landsat"
    ):
        load_sensor("sentinel-3")
    (tmp_path / "half.json").write_text("[]")
    with pytest.raises(CatalogError, match="describes no endpoint"):
        load_endpoint(tmp_path / "half.json")


def test_an_installed_wheel_uses_its_own_catalogs(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "geoelle"
    shutil.copytree(catalogs_path(), package / "_catalogs")
    monkeypatch.setattr(module, "__file__", str(package / "catalog.py"))
    assert catalogs_path() == package / "_catalogs" and "naip" in sensors()
    shutil.rmtree(package / "_catalogs")
    with pytest.raises(CatalogError, match="catalogs are missing"):
        catalogs_path()


def test_items_are_sorted_by_time_and_id_and_found_once(saved):
    twin = s2("b_31TFL", "2024-06-01T10:50:00Z", **{"grid:code": "MGRS-31TFM"})
    items = [
        s2("c", "2024-06-11T10:50:00Z"),
        s2("a", "2024-06-01T10:50:00Z"),
        twin,
        s2("c", "2024-06-11T10:50:00Z"),
    ]
    found = search(AREA, catalog=saved(*items))
    assert ids(found) == ["a", "b_31TFL", "c"]
    assert found.sensor.name == "sentinel-2-l2a" and found.endpoint.endswith("items.json")
    assert found.dropped_versions == 1 and len(found) == 3 and found.access.auth == "ambient"


def test_of_several_versions_the_newest_baseline_stays(saved):
    old = s2(
        "S2B_31TFL_20240601_0_L2A", **{"s2:processing_baseline": "04.00", "created": "2026-01-01T00:00:00Z"}
    )
    new = s2("S2B_31TFL_20240601_1_L2A", "2024-06-01T10:50:03Z", **{"s2:processing_baseline": "05.00"})
    c1 = s2("S2B_T31TFL_20240601_L2A", **{"s2:processing_baseline": "05.00"})
    c1.collection_id = "sentinel-2-c1-l2a"
    other_satellite = s2("S2A_31TFL_20240601_0_L2A", platform="sentinel-2a")
    found = search(AREA, catalog=saved(old, new, c1, other_satellite))
    assert ids(found) == [other_satellite.id, new.id] and found.dropped_versions == 2


def test_of_one_baseline_the_youngest_stays(saved):
    first = s2("S2B_x_0", **{"s2:generation_time": "2024-06-01T15:00:00Z"})
    second = s2("S2B_x_1", **{"s2:generation_time": "2024-06-02T15:00:00Z"})
    assert ids(search(AREA, catalog=saved(second, first))) == ["S2B_x_1"]


def test_two_parts_of_one_tile_both_stay(saved):
    west = bare_item(
        "w_31TFL", bounds=(600000, 4998080, 601000, 5000000), properties={"grid:code": "MGRS-31TFL"}
    )
    east = bare_item(
        "e_31TFL", bounds=(600900, 4998080, 601920, 5000000), properties={"grid:code": "MGRS-31TFL"}
    )
    assert ids(search(AREA, catalog=saved(west, east))) == ["e_31TFL", "w_31TFL"]


def test_clouds_are_limited_and_unknown_ones_kept(saved):
    items = [bare_item("a", cloud=5), bare_item("b", cloud=41), bare_item("c", cloud=None)]
    path = saved(*items)
    assert CLOUD_MAX == 40
    assert ids(search(AREA, catalog=path)) == ["a", "c"]
    assert search(AREA, catalog=path).dropped_cloudy == 1
    assert ids(search(AREA, catalog=path, cloud_max=None)) == ["a", "b", "c"]
    assert ids(search(AREA, catalog=path, cloud_max=4.9)) == ["c"]


def test_nothing_found_says_what_to_relax(saved):
    path = saved(
        bare_item("a", cloud=55), bare_item("b", cloud=90), bare_item("c", moment="2023-06-01T10:50:00Z")
    )
    with pytest.raises(
        NoItems, match=r"at most 40% cloud \(2 were dropped, the clearest has 55%\); raise the cloud"
    ):
        search(AREA, catalog=path)
    away = Area.parse(bbox=(10, 10, 11, 11), dates="2024-06")
    with pytest.raises(
        NoItems, match=r"shows \(10.0, 10.0, 11.0, 11.0\) .*spans bbox 4\.27.*2023-06-01/2024-06-01"
    ):
        search(away, catalog=path)
    assert issubclass(NoItems, CatalogError)


def test_too_many_items_are_refused_not_cut(saved):
    path = saved(*(bare_item(f"i{n}") for n in range(4)))
    with pytest.raises(CatalogError, match="more than 3 items of sentinel-2-l2a"):
        search(AREA, catalog=path, limit=3)
    assert len(search(AREA, catalog=path, limit=4)) == 4


def test_the_only_sensor_is_chosen_and_several_are_listed(saved):
    path = saved(bare_item("a"), bare_item("n", collection="naip"))
    with pytest.raises(CatalogError, match=r"several sensors \(naip, sentinel-2-l2a\); name one"):
        search(AREA, catalog=path)
    elsewhere = bare_item("n", collection="naip", bounds=(700000, 5000000, 701000, 5001000))
    assert ids(search(AREA, catalog=saved(bare_item("a"), elsewhere, name="two.json"))) == ["a"]
    away = Area.parse(bbox=(10, 10, 11, 11), dates="2024-06")
    with pytest.raises(NoItems, match=r"of any sensor \(naip, sentinel-2-l2a\), shows \(10\.0, .*; widen the dates or"):
        search(away, catalog=path)
    assert ids(search(AREA, catalog=path, sensor="naip")) == ["n"]
    assert ids(search(AREA, catalog=path, sensor=load_sensor("sentinel-2-l2a"))) == ["a"]
    with pytest.raises(CatalogError, match=r"has no collection of hls2 .* but naip, sentinel-2-l2a"):
        search(AREA, catalog=path, sensor="hls2")
    with pytest.raises(CatalogError, match=r"no collection of .* belongs to a known sensor .*my-own"):
        search(AREA, catalog=saved(bare_item("m", collection="my-own")))
    assert ids(search(AREA, catalog=saved(bare_item("m", collection="my-own")), sensor="sentinel-2-l2a")) == [
        "m"
    ]
    with pytest.raises(CatalogError, match="has no collection of naip"):
        search(AREA, catalog=saved(bare_item("m")), sensor="naip")


def test_questions_without_an_answer():
    with pytest.raises(CatalogError, match="needs a catalogue or a sensor"):
        search(AREA)
    with pytest.raises(CatalogError, match="catalogue does not exist"):
        search(AREA, catalog="earth-serach")


@pytest.fixture
def asked(monkeypatch):
    """Answer searches of endpoints without a network, and remember what was asked."""
    log = []

    class Answer:
        def __init__(self, where):
            self.where = where

        def holdings(self):
            raise AssertionError("a named endpoint needs no listing")

        def items(self, _area, collections, _limit):
            log.append((self.where, collections))
            return [bare_item("a", collection=collections[0])]

    monkeypatch.setattr(module, "open_source", Answer)
    return log


def test_named_endpoints_and_their_addresses(asked):
    found = search(AREA, sensor="sentinel-2-l2a")
    assert asked[-1] == ("https://earth-search.aws.element84.com/v1", ("sentinel-2-l2a",))
    assert (found.endpoint, found.access.auth) == ("earth-search", "none")
    found = search(AREA, sensor="sentinel-2-l1c", catalog="earth-search")
    assert found.access.auth == "requester-pays"
    found = search(
        AREA, sensor="sentinel-1-rtc", catalog="https://planetarycomputer.microsoft.com/api/stac/v1/"
    )
    assert (found.endpoint, found.access.auth) == ("planetary-computer", "signed")
    found = search(AREA, catalog="hls")
    assert asked[-1][1] == ("HLSS30_2.0", "HLSL30_2.0") and found.access.auth == "earthdata"
    with pytest.raises(CatalogError, match="several sensors"):
        search(AREA, catalog="earth-search")
    with pytest.raises(CatalogError, match="endpoint earth-search has no hls2; it offers sentinel-2-l2a"):
        search(AREA, catalog="earth-search", sensor="hls2")


def test_saved_items_of_a_signing_endpoint_are_signed(saved):
    item = pystac.Item.from_file(STAC / "planetary-computer.json")
    west, south = item.bbox[:2]
    area = Area.parse(bbox=(west + 0.5, south + 0.5, west + 0.6, south + 0.6), dates="2024")
    found = search(area, catalog=saved(item))
    assert found.access.auth == "signed" and found.access.token_url.startswith("https://planetarycomputer")


def test_the_demo_is_a_catalogue():
    if not (catalogs_path() / "demo" / "catalog.json").is_file():
        pytest.skip("catalogs/demo is not there; build it with scripts/build_demo_catalog.py")
    found = search(Area.parse(bbox=(-180, -80, -1, 80), dates="2000/2030"), catalog="demo", cloud_max=None)
    assert found.endpoint == "demo" and len(found) > 0


def test_values_are_frozen():
    endpoint = load_endpoint("hls")
    assert isinstance(endpoint, Endpoint)
    with pytest.raises(AttributeError):
        endpoint.url = "x"
