"""The loopback servers do what the other tests believe of them, seen by pystac-client, requests and GDAL."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pystac
import pystac_client
import pytest
import rasterio
import requests
from rasterio.windows import Window
from servers import DEMO, Fault, RangeServer, demo_collections, demo_items, stac_api

VIRGINIA = "sentinel-2-l1c/S2A_18SVG_20160112_0_L1C"
RED = f"{VIRGINIA}/red.tif"
SCL = "sentinel-2-l2a/romania_20200804_L2A/scl.tif"
BBOX = (-75.71, 37.60, -75.53, 37.75)
WINDOW = Window(512, 512, 64, 64)


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with RangeServer(DEMO) as running:
        yield running


@pytest.fixture(scope="module")
def api() -> Iterator[tuple[str, RangeServer]]:
    with RangeServer(DEMO) as files, stac_api(demo_items(files.url), demo_collections()) as url:
        yield url, files


def gdal(retries: int = 0) -> rasterio.Env:
    """Read over HTTP without a cache between tests, and retry what GDAL knows to retry."""
    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_HTTP_MAX_RETRY=retries,
        GDAL_HTTP_RETRY_DELAY=0.05,
        GDAL_HTTP_TIMEOUT=10,
        CPL_VSIL_CURL_NON_CACHED="/vsicurl/http://127.0.0.1",
    )


def read(server: RangeServer, path: str = RED, window: Window | None = WINDOW) -> np.ndarray:
    with rasterio.open(f"/vsicurl/{server.url}/{path}") as src:
        return src.read(1, window=window)


def truth(path: str = RED, window: Window | None = WINDOW) -> np.ndarray:
    with rasterio.open(DEMO / path) as src:
        return src.read(1, window=window)


class TestRanges:
    def test_gdal_reads_a_window_without_the_rest(self, server: RangeServer) -> None:
        with gdal():
            assert np.array_equal(read(server), truth())
        assert server.count(f"/{RED}", status=206) >= 1
        assert server.count(status=200) == server.count(status=200, pattern=f"/{RED}")
        assert 0 < server.bytes_sent < (DEMO / RED).stat().st_size / 2

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("bytes=0-3", slice(0, 4)),
            ("bytes=100-", slice(100, None)),
            ("bytes=-10", slice(-10, None)),
            ("bytes=5-999999999", slice(5, None)),
        ],
    )
    def test_ranges_are_those_asked_for(self, server: RangeServer, header: str, expected: slice) -> None:
        whole = (DEMO / SCL).read_bytes()
        answer = requests.get(f"{server.url}/{SCL}", headers={"Range": header}, timeout=5)
        assert answer.status_code == 206
        assert answer.content == whole[expected]
        first = range(len(whole))[expected][0]
        assert answer.headers["Content-Range"].startswith(f"bytes {first}-")
        assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")

    def test_a_range_beyond_the_end_is_refused(self, server: RangeServer) -> None:
        answer = requests.get(f"{server.url}/{SCL}", headers={"Range": "bytes=9999999-"}, timeout=5)
        assert answer.status_code == 416

    def test_head_sends_no_body_and_keeps_the_connection(self, server: RangeServer) -> None:
        with requests.Session() as session:
            head = session.head(f"{server.url}/{SCL}", timeout=5)
            body = session.get(f"{server.url}/{SCL}", timeout=5)
        assert int(head.headers["Content-Length"]) == len(body.content) == (DEMO / SCL).stat().st_size
        assert [request.sent for request in server.requests] == [0, len(body.content)]

    def test_nothing_outside_the_root_is_served(self, server: RangeServer) -> None:
        answer = requests.get(f"{server.url}/%2e%2e/sensors/naip.json", timeout=5)
        assert answer.status_code == 404

    def test_a_static_catalogue_can_be_walked(self, server: RangeServer) -> None:
        catalog = pystac.Catalog.from_file(f"{server.url}/catalog.json")
        item = next(catalog.get_items("S2A_18SVG_20160112_0_L1C", recursive=True))
        assert item.assets["red"].get_absolute_href() == f"{server.url}/{RED}"


class TestFaults:
    def test_missing(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="missing", pattern="*/red.tif")]
        with gdal(), pytest.raises(rasterio.errors.RasterioIOError):
            read(server)
        with gdal():
            assert read(server, SCL, None).shape == (100, 100)
        assert server.count("*/red.tif", status=404) >= 1

    def test_busy_twice_then_served(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="busy", times=2, retry_after_s=0)]
        with gdal(retries=5):
            assert np.array_equal(read(server), truth())
        assert server.count(status=429) == 2

    def test_busy_says_when_to_come_back(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="busy", times=1, retry_after_s=7)]
        answers = [requests.get(f"{server.url}/{SCL}", timeout=5) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [429, 200]
        assert answers[0].headers["Retry-After"] == "7"

    def test_broken_once_then_served(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="broken", times=1)]
        statuses = [requests.get(f"{server.url}/{SCL}", timeout=5).status_code for _ in range(2)]
        assert statuses == [500, 200]

    def test_slow(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="slow", delay_s=0.3, times=1)]
        begin = time.monotonic()
        assert requests.get(f"{server.url}/{SCL}", timeout=5).status_code == 200
        assert time.monotonic() - begin >= 0.3

    def test_slower_than_a_client_waits(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="slow", delay_s=30)]
        with pytest.raises(requests.Timeout):
            requests.get(f"{server.url}/{SCL}", timeout=0.2)

    def test_cut(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="cut")]
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
            requests.get(f"{server.url}/{SCL}", timeout=5)
        with gdal(), pytest.raises(rasterio.errors.RasterioIOError):
            read(server)

    def test_whole_where_a_range_was_asked_for(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="whole")]
        answer = requests.get(f"{server.url}/{SCL}", headers={"Range": "bytes=0-3"}, timeout=5)
        assert answer.status_code == 200
        assert answer.content == (DEMO / SCL).read_bytes()
        assert "Accept-Ranges" not in answer.headers

    def test_gdal_refuses_a_server_without_ranges(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="whole")]
        with gdal(), pytest.raises(rasterio.errors.RasterioIOError):
            read(server)

    def test_corrupt_pixels_do_not_inflate(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="corrupt", start=100_000)]
        with gdal(), pytest.raises(rasterio.errors.RasterioIOError):
            read(server, window=Window(0, 1200, 512, 512))

    def test_corrupt_bytes_begin_where_told(self, server: RangeServer) -> None:
        whole = (DEMO / SCL).read_bytes()
        server.faults = [Fault(kind="corrupt", start=50)]
        answer = requests.get(f"{server.url}/{SCL}", headers={"Range": "bytes=40-59"}, timeout=5)
        assert answer.content[:10] == whole[40:50]
        assert all(a != b for a, b in zip(answer.content[10:], whole[50:60], strict=True))

    def test_faults_can_be_switched_off(self, server: RangeServer) -> None:
        server.faults = [Fault(kind="missing")]
        assert requests.get(f"{server.url}/{SCL}", timeout=5).status_code == 404
        server.faults = []
        assert requests.get(f"{server.url}/{SCL}", timeout=5).status_code == 200
        server.forget()
        assert server.requests == ()


class TestStacApi:
    def test_item_of_an_interval_is_found_by_place_and_dates(self, api: tuple[str, RangeServer]) -> None:
        client = pystac_client.Client.open(api[0])
        found = list(client.search(bbox=BBOX, datetime="2015/2018").items())
        assert [item.id for item in found] == ["S2A_18SVG_20160112_0_L1C"]
        assert found[0].datetime is None

    @pytest.mark.parametrize(
        ("dates", "count"),
        [
            ("2016-01-12", 1),
            ("2016-01-12T05:00:00Z/2016-01-12T06:00:00Z", 1),
            ("2016-01-13/2018", 0),
            ("2015", 0),
        ],
    )
    def test_the_interval_filters(self, api: tuple[str, RangeServer], dates: str, count: int) -> None:
        client = pystac_client.Client.open(api[0])
        search = client.search(collections=["sentinel-2-l1c"], bbox=BBOX, datetime=dates)
        assert len(list(search.items())) == count

    def test_place_filters(self, api: tuple[str, RangeServer]) -> None:
        client = pystac_client.Client.open(api[0])
        assert not list(client.search(bbox=(0, 0, 1, 1)).items())
        forest = client.search(bbox=(22.14, 45.19, 22.16, 45.21), datetime="2018", limit=100)
        assert {item.datetime.year for item in forest.items()} == {2018}

    def test_pages_give_every_item_once(self, api: tuple[str, RangeServer]) -> None:
        client = pystac_client.Client.open(api[0])
        search = client.search(collections=["sentinel-2-l2a"], limit=7)
        pages = [len(page.items) for page in search.pages()]
        assert pages == [7] * 5 + [4]
        assert len({item.id for item in search.items()}) == 39

    def test_collections_keep_their_licence(self, api: tuple[str, RangeServer]) -> None:
        licences = {c.id: c.license for c in pystac_client.Client.open(api[0]).get_collections()}
        assert licences == {"sentinel-2-l1c": "CC0-1.0", "sentinel-2-l2a": "EUPL-1.2"}

    def test_items_survive_and_their_files_are_read(self, api: tuple[str, RangeServer]) -> None:
        client = pystac_client.Client.open(api[0])
        item = next(client.search(bbox=BBOX).items())
        sent = next(i for i in demo_items(api[1].url) if i.id == item.id)
        assert item.properties == sent.properties
        assert {k: a.to_dict() for k, a in item.assets.items()} == {
            k: a.to_dict() for k, a in sent.assets.items()
        }
        with gdal(), rasterio.open(f"/vsicurl/{item.assets['red'].href}") as src:
            assert np.array_equal(src.read(1, window=WINDOW), truth())

    def test_collections_are_made_up_where_none_are_given(self, tmp_path: Path) -> None:
        items = [item for item in demo_items("http://127.0.0.1:9") if item.collection_id == "sentinel-2-l1c"]
        with stac_api(items) as url:
            client = pystac_client.Client.open(url)
            assert [collection.id for collection in client.get_collections()] == ["sentinel-2-l1c"]
            assert len(list(client.search(bbox=BBOX).items())) == 1
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=2)
