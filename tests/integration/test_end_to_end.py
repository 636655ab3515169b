"""`geoelle map` through a subprocess against servers of others on loopback, and what is left after a crash."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from commands import DEMO_ARGS, SEAM, geoelle, start
from servers import DEMO, Fault, RangeServer, demo_collections, demo_items, stac_api

SCENE = "sentinel-2-l1c"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Map the seam of the embedded scene from the disk."""
    out = tmp_path_factory.mktemp("local") / "out"
    result = geoelle("map", SEAM, *DEMO_ARGS, "-o", out)
    assert result.code == 0, result.err
    return out


def values(out: Path) -> np.ndarray:
    with rasterio.open(out / "difficulty.tif") as file:
        return file.read()


def over_http(out: Path, files: RangeServer, *more: object) -> object:
    """Map the same ground through rustac's STAC API, its files on a range server."""
    with stac_api(demo_items(files.url), demo_collections()) as api:
        return geoelle("map", SEAM, "--dates", "2015/2018", "--catalog", api, "--sensor", SCENE, "-o", out, *more)


@pytest.mark.slow
def test_a_third_partys_api_gives_the_same_map(local: Path, tmp_path: Path) -> None:
    with RangeServer(DEMO) as files:
        result = over_http(tmp_path / "out", files)
        sent = files.bytes_sent
    assert result.code == 0, result.err
    np.testing.assert_array_equal(values(tmp_path / "out"), values(local))
    assert 0 < sent < 21_000_000, "the whole scene was fetched for a corner of it"


@pytest.mark.slow
def test_passing_faults_pass(local: Path, tmp_path: Path) -> None:
    faults = (
        Fault(kind="busy", pattern="*/blue.tif", times=1, retry_after_s=1),
        Fault(kind="broken", pattern="*/red.tif", times=2),
        Fault(kind="cut", pattern="*/nir.tif", times=1),
        Fault(kind="slow", pattern="*/swir16.tif", times=3, delay_s=0.5),
    )
    with RangeServer(DEMO, faults) as files:
        result = over_http(tmp_path / "out", files)
    assert result.code == 0, result.err
    np.testing.assert_array_equal(values(tmp_path / "out"), values(local))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "cut"])
def test_a_lasting_fault_is_named(kind: str, tmp_path: Path) -> None:
    with RangeServer(DEMO, (Fault(kind=kind, pattern="*/swir22.tif"),)) as files:
        failure = over_http(tmp_path / "out", files).failure()
    assert "S2A_18SVG_20160112_0_L1C" in failure
    assert "swir22" in failure and "127.0.0.1" in failure


@pytest.mark.slow
def test_a_skipped_item_is_nodata_and_counted(tmp_path: Path) -> None:
    with RangeServer(DEMO, (Fault(kind="missing", pattern="*/swir22.tif"),)) as files:
        result = over_http(tmp_path / "out", files, "--errors", "skip")
    assert "none of 115 chips" in result.failure()
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on(how: signal.Signals, local: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    items = tmp_path / "items.json"
    slow = (Fault(kind="slow", pattern="*.tif", delay_s=0.3),)
    with RangeServer(DEMO, slow) as files:
        features = [item.to_dict(include_self_link=False) for item in demo_items(files.url)]
        items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        args = ("map", SEAM, "--dates", "2015/2018", "--catalog", items, "--sensor", SCENE, "-o", out)
        process = start(*args)
        until = time.monotonic() + 120
        while not list(out.glob("embeddings/part-*.parquet")) and time.monotonic() < until:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(how)
        process.communicate(timeout=60)
        assert process.returncode == (130 if how is signal.SIGINT else -9)
        whole = len(list(local.glob("embeddings/part-*.parquet")))
        kept = {p.name: p.stat().st_mtime_ns for p in out.glob("embeddings/part-*.parquet")}
        assert 0 < len(kept) < whole
        assert not (out / "run.json").exists()
        files.faults = ()
        again = geoelle(*args)
        assert again.code == 0, again.err
    assert {n: (out / "embeddings" / n).stat().st_mtime_ns for n in kept} == kept
    np.testing.assert_array_equal(values(out), values(local))
    assert geoelle("info", out).code == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--bbox=-75.53,37.60,-75.71,37.75", "--dates", "2016", "--catalog", "demo"), "reversed"),
        (("--bbox=-75.71,37.60,-75.71,37.75", "--dates", "2016", "--catalog", "demo"), "no area"),
        (("--bbox=-275,37.60,-75.53,37.75", "--dates", "2016", "--catalog", "demo"), "out of range"),
        (("--bbox=a,b,c,d", "--dates", "2016", "--catalog", "demo"), "numbers"),
        ((SEAM, "--dates", "2016/2015", "--catalog", "demo"), "reversed"),
        ((SEAM, "--dates", "last summer", "--catalog", "demo"), "last summer"),
        ((SEAM, "--dates", "2024", "--catalog", "demo", "--sensor", SCENE), "dates"),
        ((SEAM, "--dates", "2016", "--catalog", "demo", "--sensor", "sentinel-9"), "sentinel-9"),
        ((SEAM, "--dates", "2016", "--catalog", "demo", "--model", "giga"), "giga"),
        ((SEAM, "--dates", "2016", "--catalog", "nowhere"), "nowhere"),
        ((SEAM, "--dates", "2016", "--catalog", "demo", "--crs", "4326"), "4326"),
        ((SEAM, "--dates", "2016", "--catalog", "demo", "--stride", "32"), "too coarse"),
        (("--bbox=-75.62,37.66,-75.619,37.661", "--dates", "2016", "--catalog", "demo"), "too few"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], told: str, tmp_path: Path) -> None:
    from commands import invoke

    assert told in invoke("map", *args, "-o", tmp_path / "out").failure()
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_refused_until_overwritten(local: Path) -> None:
    from commands import invoke

    before = (local / "run.json").read_bytes()
    assert "--overwrite" in invoke("map", SEAM, *DEMO_ARGS, "-o", local).failure()
    assert (local / "run.json").read_bytes() == before
    assert invoke("map", SEAM, *DEMO_ARGS, "-o", local, "--overwrite").code == 0
    assert (local / "run.json").read_bytes() == before


def test_usage_is_two() -> None:
    assert geoelle("map", "--bbxo", "1").code == 2
