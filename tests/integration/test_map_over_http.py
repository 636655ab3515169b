"""Maps of the embedded scene through a STAC API of others and a server of ranges that is not always well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from commands import DEMO_ARGS, SMALL, geoelle, invoke
from servers import DEMO, Fault, RangeServer, demo_collections, demo_items, stac_api

from geoelle.embeddings import Embeddings
from ground import save_catalog, three_places

ITEM = "S2A_18SVG_20160112_0_L1C"
HTTP_ARGS = ("--dates", "2015/2018")


@dataclass(frozen=True)
class Service:
    """A STAC API and the server of the files its items name."""

    api: str
    files: RangeServer


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Map from the files themselves."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert invoke("map", SMALL, *DEMO_ARGS, "-o", out).code == 0
    return out


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    # GDAL keeps what it read of an address, and a port may come twice.
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")
    with RangeServer(DEMO) as files, stac_api(demo_items(files.url), demo_collections()) as api:
        yield Service(api, files)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses between attempts instead of waiting."""
    taken: list[float] = []
    monkeypatch.setattr("geoelle.assets.time", SimpleNamespace(sleep=taken.append))
    return taken


def bands(out: Path) -> np.ndarray:
    with rasterio.open(out / "difficulty.tif") as file:
        return file.read()


def vectors(out: Path) -> np.ndarray:
    return Embeddings.read(out).vectors_nd


# --- nothing wrong


@pytest.mark.slow
def test_a_map_through_the_api_is_the_map_from_the_files(service: Service, local: Path, tmp_path: Path) -> None:
    result = invoke("map", SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    np.testing.assert_array_equal(bands(tmp_path / "out"), bands(local))
    np.testing.assert_array_equal(vectors(tmp_path / "out"), vectors(local))
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["plan"]["catalog"] == service.api and manifest["plan"]["items"] == [ITEM]
    items = json.loads((tmp_path / "out" / "items.json").read_text())
    (feature,) = items["features"]
    assert feature["assets"]["red"]["href"].startswith(service.files.url)
    # Ranges, never whole files.
    reads = [request for request in service.files.requests if request.method == "GET" and request.path.endswith(".tif")]
    assert len(reads) >= 10 and {request.status for request in reads} == {206}
    whole = sum(path.stat().st_size for path in (DEMO / "sentinel-2-l1c" / ITEM).glob("*.tif"))
    assert service.files.bytes_sent < 0.6 * whole


@pytest.mark.slow
def test_a_process_of_its_own_does_the_same(service: Service, local: Path, tmp_path: Path) -> None:
    result = geoelle("embed", SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    np.testing.assert_allclose(vectors(tmp_path / "out"), vectors(local), rtol=1e-4, atol=1e-5)


def test_a_dry_run_reads_no_pixel_and_the_run_keeps_to_it(service: Service, tmp_path: Path) -> None:
    args = (SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out")
    plan = invoke("embed", *args, "--dry-run", "--json").json()
    assert invoke("search", SMALL, *HTTP_ARGS, "--catalog", service.api).code == 0
    assert service.files.count() == 0
    assert not (tmp_path / "out").exists()
    assert invoke("embed", *args).code == 0
    assert service.files.count("*.tif") > 0
    done = json.loads((tmp_path / "out" / "run.json").read_text())["plan"]
    assert done == {key: value for key, value in plan.items() if key != "encode_seconds"}


def test_the_items_of_a_run_are_a_catalogue_for_another(service: Service, local: Path, tmp_path: Path) -> None:
    assert invoke("embed", SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "one").code == 0
    again = ("--catalog", tmp_path / "one" / "items.json", "-o", tmp_path / "two")
    assert invoke("embed", SMALL, *HTTP_ARGS, *again).code == 0
    np.testing.assert_array_equal(vectors(tmp_path / "two"), vectors(local))


# --- faults that pass

# Of each file GDAL asks HEAD, the header and two spans of blocks; some failures it mends by asking again itself.
UNDISTURBED = 4
PASSING = {
    "busy, come back in a second": (Fault(kind="busy", pattern="*/red.tif", times=2, retry_after_s=1), True),
    "busy for longer": (Fault(kind="busy", pattern="*/nir.tif", times=6), True),
    "broken twice": (Fault(kind="broken", pattern="*/swir16.tif", times=2), True),
    "two broken at once": (Fault(kind="broken", pattern="*/swir*.tif", times=7), True),
    "slow": (Fault(kind="slow", pattern="*/blue.tif", delay_s=0.5), False),
    "cut short": (Fault(kind="cut", pattern="*/green.tif", times=4), False),
    "corrupt at first": (Fault(kind="corrupt", pattern="*/nir.tif", times=4, start=40_000), False),
    "corrupt for longer": (Fault(kind="corrupt", pattern="*/nir.tif", times=9, start=40_000), True),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_leaves_no_trace(
    service: Service, local: Path, tmp_path: Path, pauses: list[float], name: str
) -> None:
    fault, ours = PASSING[name]
    service.files.faults = [fault]
    result = invoke("embed", SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    if fault.kind != "slow":
        files = 2 if "swir*" in fault.pattern else 1
        assert service.files.count(fault.pattern) > UNDISTURBED * files, "the fault changed nothing"
    assert bool(pauses) == ours
    np.testing.assert_array_equal(vectors(tmp_path / "out"), vectors(local))
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["counts"] == {"planned": 72, "read": 72, "empty": 0, "skipped": 0} and manifest["skipped"] == []


@pytest.mark.slow
def test_attempts_are_spaced_and_few(service: Service, tmp_path: Path, pauses: list[float]) -> None:
    service.files.faults = [Fault(kind="busy", pattern="*/red.tif")]
    invoke("embed", SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out").failure()
    assert len(pauses) == 3 and service.files.count("*/red.tif", status=429) == 2 * 4
    assert all(0.5 * base <= pause <= 1.5 * base for pause, base in zip(pauses, (0.5, 1, 2), strict=True))


# --- faults that stay

LASTING = {
    "missing": "404",
    "busy": "429",
    "broken": "500",
    "cut": "",
    "corrupt": "",
    "whole": "",
}


def lasting(kind: str) -> Fault:
    return Fault(kind=kind, pattern="*/swir22.tif", start=40_000)


@pytest.mark.parametrize("kind", LASTING)
def test_what_stays_is_named_and_leaves_no_map(
    service: Service, tmp_path: Path, pauses: list[float], kind: str
) -> None:
    service.files.faults = [lasting(kind)]
    result = invoke("map", SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out")
    told = result.failure()
    assert told.startswith(f"reading failed for asset swir22 of item {ITEM} at EPSG:32618 ")
    assert f"{service.files.url}/sentinel-2-l1c/{ITEM}/swir22.tif" in told and LASTING[kind] in told
    assert len(pauses) == (0 if kind in ("missing", "whole") else 3)
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["embeddings", "items.json", "plan.json"]
    service.files.faults = []
    again = invoke("embed", SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out")
    assert again.code == 0, again.err


def test_an_api_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *_: None)
    told = invoke("map", SMALL, *HTTP_ARGS, "--catalog", "http://127.0.0.1:9/", "-o", tmp_path / "out").failure()
    assert told.startswith("catalogue http://127.0.0.1:9/ cannot be read") and told.endswith("try again later")


# --- leaving out


@dataclass(frozen=True)
class Places:
    """Three scenes on a server, and the command that maps a square of each."""

    files: RangeServer
    args: tuple[object, ...]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("ground")
    three_places(home)
    return home


@pytest.fixture
def places(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")
    items, squares = three_places(ground)
    with RangeServer(ground) as files:
        catalog = save_catalog(tmp_path / "items.json", items, root=ground, base=files.url)
        yield Places(files, ("--polygon", squares, "--dates", "2024", "--catalog", catalog))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "corrupt"])
def test_skipping_leaves_a_gap_where_the_item_was_and_nowhere_else(
    places: Places, tmp_path: Path, pauses: list[float], kind: str
) -> None:
    assert invoke("map", *places.args, "-o", tmp_path / "whole").code == 0
    places.files.faults = [Fault(kind=kind, pattern="*TFK*/red.tif", start=2_000)]
    result = invoke("map", *places.args, "-o", tmp_path / "out", "--errors", "skip", "--json")
    assert result.code == 0, result.err
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["counts"] == result.json()["counts"] == {"planned": 48, "read": 32, "empty": 16, "skipped": 1}
    (row,) = manifest["skipped"]
    assert (row["item"], row["asset"]) == ("S2B_31TFK_20240601_0_L2A", "red")
    assert row["href"] == f"{places.files.url}/S2B_31TFK_20240601_0_L2A/red.tif" and row["cause"]
    whole, gappy = bands(tmp_path / "whole"), bands(tmp_path / "out")
    middle = np.zeros(whole.shape[1:], bool)
    third = whole.shape[2] // 3
    middle[:, third : 2 * third] = True
    assert np.isnan(gappy[:, middle]).all() and np.isfinite(whole[0, middle]).sum() == 16
    np.testing.assert_array_equal(gappy[:, ~middle], whole[:, ~middle])
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "1 assets could not be read and were skipped" in page
    assert "48 planned, 32 read, 16 empty; 1 assets skipped" in page


def test_the_rest_of_the_run_stops_at_the_first_item_that_fails(places: Places, tmp_path: Path) -> None:
    places.files.faults = [Fault(kind="missing", pattern="*TFK*/red.tif")]
    told = invoke("map", *places.args, "-o", tmp_path / "out").failure()
    assert "asset red of item S2B_31TFK_20240601_0_L2A" in told
    assert [p.stem for p in (tmp_path / "out").glob("embeddings/*")] == ["part-32631_r-488_c58"]


Damage = Callable[[dict], object]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda assets: assets.pop("nir"), "nir"),
        (lambda assets: assets.pop("scl"), "scl"),
        (lambda assets: assets["red"].update(href="http://127.0.0.1:9/red.tif"), "asset red"),
    ],
    ids=["band missing", "mask missing", "server missing"],
)
def test_an_item_that_lacks_an_asset_is_named_or_left_out(
    places: Places, tmp_path: Path, pauses: list[float], damage: Damage, told: str
) -> None:
    path = tmp_path / "items.json"
    collection = json.loads(path.read_text())
    damage(collection["features"][1]["assets"])
    path.write_text(json.dumps(collection))
    failure = invoke("embed", *places.args, "-o", tmp_path / "out").failure()
    assert "S2B_31TFK_20240601_0_L2A" in failure and told in failure
    skipped = invoke("embed", *places.args, "-o", tmp_path / "skip", "--errors", "skip", "--json")
    assert skipped.json()["counts"] == {"planned": 48, "read": 32, "empty": 16, "skipped": 1}


@pytest.mark.slow
def test_a_map_of_nothing_is_refused(service: Service, tmp_path: Path) -> None:
    service.files.faults = [lasting("missing")]
    args = (SMALL, *HTTP_ARGS, "--catalog", service.api, "-o", tmp_path / "out", "--errors", "skip")
    told = invoke("map", *args).failure()
    assert told.startswith("no map can be made: none of 72 chips has enough valid pixels, 1 assets were skipped")
    service.files.faults = []
    assert invoke("map", *args, "--overwrite").code == 0
