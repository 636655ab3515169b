"""Items out of every kind of catalogue, over disk and loopback; the filter is ours."""

import json
import shutil
from datetime import UTC, datetime

import pyarrow
import pyarrow.parquet
import pystac
import pytest
import shapely

from faults import Fault, serving
from geoelle.area import Area
from geoelle.errors import CatalogError
from geoelle.stac import open_source
from scenes import bare_item

AREA = Area.parse(bbox=(4.28, 45.13, 4.29, 45.14), dates="2024-06")
ID = "sentinel-2-l2a"


def items():
    """Four items: one that matches, one too early, one too far, one of another collection."""
    found = [
        bare_item("match"),
        bare_item("early", moment="2024-05-31T10:50:00Z"),
        bare_item("far", bounds=(700000, 5000000, 702000, 5002000)),
        bare_item("other", collection="naip"),
    ]
    for item in found:
        item.add_asset("red", pystac.Asset(href=f"./{item.id}/red.tif"))
    return found


def collection_of(name, members, bbox=(-180, -90, 180, 90)):
    extent = pystac.Extent(
        pystac.SpatialExtent([list(bbox)]),
        pystac.TemporalExtent([[datetime(2015, 1, 1, tzinfo=UTC), None]]),
    )
    collection = pystac.Collection(name, "test", extent)
    collection.add_items(members)
    return collection


@pytest.fixture
def static(tmp_path):
    catalog = pystac.Catalog("test", "test")
    catalog.add_child(collection_of(ID, items()[:3]))
    catalog.add_child(collection_of("naip", items()[3:], bbox=(100, 0, 110, 10)))
    catalog.normalize_and_save(str(tmp_path / "static"), pystac.CatalogType.SELF_CONTAINED)
    return tmp_path / "static"


@pytest.fixture
def site():
    with serving() as running:
        yield running


def api(site, features, page=2):
    """Serve a small STAC API that ignores the filter, in pages."""
    root = {"rel": "root", "href": site.url, "type": "application/json"}
    site.routes["/"] = site.routes[""] = lambda *_: {
        "type": "Catalog",
        "id": "api",
        "description": "test",
        "stac_version": "1.0.0",
        "conformsTo": [
            f"https://api.stacspec.org/v1.0.0/{c}" for c in ("core", "item-search", "collections")
        ],
        "links": [
            root,
            {"rel": "self", "href": f"{site.url}/", "type": "application/json"},
            {"rel": "search", "href": f"{site.url}/search", "type": "application/geo+json", "method": "POST"},
            {"rel": "data", "href": f"{site.url}/collections", "type": "application/json"},
        ],
    }

    def search(_path, sent):
        asked = json.loads(sent)
        start = int(asked.get("token", 0))
        links = (
            []
            if start + page >= len(features)
            else [
                {
                    "rel": "next",
                    "href": f"{site.url}/search",
                    "method": "POST",
                    "body": {**asked, "token": start + page},
                }
            ]
        )
        return {"type": "FeatureCollection", "features": features[start : start + page], "links": links}

    site.routes["/search"] = search
    held = [collection_of(name, []).to_dict(transform_hrefs=False) for name in (ID, "naip")]
    site.routes["/collections"] = lambda *_: {
        "collections": [{**c, "links": []} for c in held],
        "links": [root],
    }
    return f"{site.url}/"


def features(absolute=True):
    found = [item.to_dict(include_self_link=False) for item in items()]
    for feature in found if absolute else ():
        feature["assets"]["red"]["href"] = f"https://example.org/{feature['id']}.tif"
    return found


def ids(source, limit=10, collections=(ID,), area=AREA):
    return [item.id for item in source.items(area, collections, limit)]


def test_a_static_catalogue_is_walked_and_filtered(static):
    for where in (static, static / "catalog.json", str(static)):
        source = open_source(where)
        assert ids(source) == ["match"]
        assert {h.collection for h in source.holdings()} == {ID, "naip"}
    (item,) = source.items(AREA, (ID,), 10)
    assert item.assets["red"].href == str(static / ID / "match" / "match" / "red.tif")
    assert [link.rel for link in item.links] == ["self"]
    assert "2015-01-01" in source.holdings()[0].extent


def test_collections_that_cannot_hold_the_area_are_not_walked(static):
    shutil.rmtree(static / "naip" / "other")
    assert ids(open_source(static), collections=(ID, "naip")) == ["match"]


def test_a_static_catalogue_over_http_with_a_busy_server(static, site):
    for path in static.rglob("*.json"):
        site.files[f"/{path.relative_to(static)}"] = path.read_bytes()
    site.faults["/catalog.json"] = [Fault(status=429, headers=(("Retry-After", "0"),)), Fault(status=503)]
    (item,) = open_source(f"{site.url}/catalog.json").items(AREA, (ID,), 10)
    assert item.assets["red"].href == f"{site.url}/{ID}/match/match/red.tif"


def test_an_api_is_searched_in_pages_and_filtered_again(site):
    source = open_source(api(site, features()))
    assert ids(source) == [
        "match",
        "other",
    ]  # the server's collections are trusted, its places and dates are not
    assert len([entry for entry in site.log if entry[1] == "/search"]) == 2
    assert {h.collection for h in source.holdings()} == {ID, "naip"}


def test_a_busy_api_is_asked_again_and_a_broken_one_named(site):
    url = api(site, features())
    site.faults["/search"] = [Fault(status=429, headers=(("Retry-After", "0"),)), Fault(status=502)]
    assert "match" in ids(open_source(url))
    site.always = lambda _method, path, _: Fault(status=400, body=b"bad bbox") if path == "/search" else None
    with pytest.raises(CatalogError, match=r"search failed for http://127.0.0.1:\d+/ \(HTTP 400: bad bbox"):
        ids(open_source(url))
    with pytest.raises(CatalogError, match=r"cannot be read .*404"):
        open_source(f"{site.url}/none.json?key=secret")


def test_a_retry_waits_as_long_as_it_is_asked_to_and_not_longer():
    from urllib3 import HTTPResponse

    from geoelle.access import MOST_RETRY_AFTER_S, retry

    for asked, given in (("7", 7), ("7200", MOST_RETRY_AFTER_S)):
        answer = HTTPResponse(headers={"Retry-After": asked}, status=429)
        assert retry().get_retry_after(answer) == given
    assert retry().get_retry_after(HTTPResponse(status=429)) is None


def test_an_unreachable_host_is_named(monkeypatch):
    monkeypatch.setattr("geoelle.access.RETRIES", 0)
    with pytest.raises(CatalogError, match=r"http://127.0.0.1:9/ cannot be read .*(refused|connect)"):
        open_source("http://127.0.0.1:9/?token=secret")


def test_an_item_collection_is_filtered_and_relative_to_its_file(tmp_path):
    path = tmp_path / "items.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features(absolute=False)}))
    source = open_source(path)
    (item,) = source.items(AREA, (ID,), 10)
    assert item.assets["red"].href == str(tmp_path / "match" / "red.tif")
    assert [h.collection for h in source.holdings()] == ["naip", ID]
    assert "2024-05-31/2024-06-01" in source.holdings()[1].extent
    path.write_text(json.dumps(features()[0]))
    assert ids(open_source(path)) == ["match"]


def test_an_item_without_collection_belongs_to_any(tmp_path):
    path = tmp_path / "items.json"
    document = features()
    document[0]["collection"] = None
    path.write_text(json.dumps({"type": "FeatureCollection", "features": document}))
    assert ids(open_source(path)) == ["match"]


def table(path, members, typed=True):
    rows = []
    for item in members:
        feature = item.to_dict(include_self_link=False)
        times = {k: v for k, v in feature["properties"].items() if "datetime" in k}
        rest = {k: v for k, v in feature["properties"].items() if "datetime" not in k}
        if typed:
            times = {k: v and datetime.fromisoformat(v.replace("Z", "+00:00")) for k, v in times.items()}
        keys = ("type", "stac_version", "id", "assets", "collection", "links")
        rows.append(
            {
                **{k: feature[k] for k in keys},
                **rest,
                **times,
                "geometry": shapely.to_wkb(shapely.geometry.shape(feature["geometry"])),
                "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), feature["bbox"], strict=True)),
            }
        )
    rows[0]["assets"]["extra"] = {"href": "./x.tif"}
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_geoparquet_gives_the_same_items(tmp_path, site):
    period = bare_item("period")
    period.datetime = None
    period.properties |= {"start_datetime": "2024-05-01T00:00:00Z", "end_datetime": "2024-06-02T00:00:00Z"}
    members = [*items(), period]
    path = table(tmp_path / "items.parquet", members)
    source = open_source(path)
    assert ids(source) == ["match", "period"]
    assert ids(source, collections=("naip",)) == ["other"]
    found, truth = source.items(AREA, (ID,), 10)[0], members[0]
    assert found.datetime == truth.datetime and found.properties["eo:cloud_cover"] == 5.0
    assert found.assets["red"].href == str(tmp_path / "match" / "red.tif")
    assert set(found.assets) == {"red", "extra"} and found.bbox == pytest.approx(truth.bbox)
    assert shapely.geometry.shape(found.geometry).equals_exact(shapely.geometry.shape(truth.geometry), 1e-9)
    site.files["/items.parquet"] = path.read_bytes()
    assert ids(open_source(f"{site.url}/items.parquet")) == ["match", "period"]
    assert len(open_source(path).items(AREA, (ID, "naip"), 1)) == 2


def test_a_real_geoparquet(shared):
    source = open_source(shared / "data" / "fixtures" / "stac" / "rustac" / "100-sentinel-2-items.parquet")
    assert [h.collection for h in source.holdings()] == [ID]
    area = Area.parse(bbox=(-105.6, 40.0, -105.5, 40.1), dates="2024-11-08/2024-11-12")
    found = source.items(area, (ID,), 99)
    assert [item.properties["s2:mgrs_tile"] for item in found] == ["13TDE"] * len(found) and found
    assert all(item.assets["B04"].href.startswith("https://sentinel2l2a01.blob") for item in found)


def test_writing_a_found_item_touches_no_network(shared):
    source = open_source(shared / "data" / "fixtures" / "stac" / "earth_search_v1" / "item-collection.json")
    area = Area.parse(bbox=(-106, 39.8, -105, 40.5), dates="2024")
    found = source.items(area, [h.collection for h in source.holdings()], 99)
    assert found and all(item.to_dict()["assets"] for item in found)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{not json", "cannot be read"),
        ("b.json", '{"type": "Banana"}', "is no STAC catalogue"),
        ("c.json", "[1, 2]", "cannot be read"),
        (
            "d.json",
            '{"type": "FeatureCollection", "features": [{"type": "Feature"}]}',
            "items of .* cannot be read",
        ),
        ("e.parquet", "not parquet", "cannot be read as stac-geoparquet"),
    ],
)
def test_what_is_no_catalogue_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(CatalogError, match=words):
        open_source(tmp_path / name)


def test_broken_links_missing_files_and_wrong_columns_are_named(static, tmp_path):
    with pytest.raises(CatalogError, match=r"catalogue does not exist \(nowhere\)"):
        open_source("nowhere")
    shutil.rmtree(static / ID / "match")
    with pytest.raises(CatalogError, match="cannot be walked"):
        ids(open_source(static))
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CatalogError, match="no column assets, geometry, id"):
        open_source(tmp_path / "a.parquet")


def test_a_catalogue_that_links_to_itself_ends(tmp_path):
    link = {"rel": "child", "href": "./catalog.json"}
    document = {"type": "Catalog", "id": "x", "description": "x", "stac_version": "1.0.0", "links": [link]}
    (tmp_path / "catalog.json").write_text(json.dumps(document))
    assert ids(open_source(tmp_path)) == []
