"""Whatever is wrong is said in one line that says what to do, with exit code 1, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import DEMO_ARGS, SMALL, geoelle, invoke

from geoelle.models.nano import WEIGHTS as NANO
from geoelle.probe import Probe
from geoelle.shipped import WEIGHTS
from ground import make_scene, save_catalog, three_places

PROBE = WEIGHTS / "nano-probe-10.safetensors"
L1C = ("--sensor", "sentinel-2-l1c")
DATES = ("--dates", "2015/2018")
CATALOG = ("--catalog", "demo")


def bbox(text: str) -> tuple[str, ...]:
    return (f"--bbox={text}", *DATES, *CATALOG)


def dates(text: str, *more: str) -> tuple[str, ...]:
    return (SMALL, "--dates", text, *CATALOG, *more)


AREAS = {
    "bbox reversed": (bbox("-75.60,37.70,-75.70,37.60"), "bbox is reversed", "give west,south,east,north"),
    "bbox upside down": (bbox("-75.70,37.70,-75.60,37.60"), "bbox is reversed", "give west,south,east,north"),
    "bbox over the antimeridian": (bbox("170,10,-170,20"), "reversed", "an area across the antimeridian as two"),
    "longitude out of range": (bbox("-275.7,37.6,-75.6,37.7"), "out of range", "degrees"),
    "latitude out of range": (bbox("-75.7,95,-75.6,99"), "out of range", "degrees"),
    "metres for degrees": (bbox("440000,4167000,445000,4172000"), "out of range", "degrees"),
    "bbox without area": (bbox("-75.7,37.6,-75.7,37.7"), "has no area", "give west,south,east,north"),
    "bbox of letters": (bbox("a,b,c,d"), "'a,b,c,d'", "give west,south,east,north"),
    "bbox of three": (bbox("-75.7,37.6,-75.6"), "has 3 numbers", "give west,south,east,north"),
    "bbox not a number": (bbox("nan,37.6,-75.6,37.7"), "not finite", "give west,south,east,north"),
    "bbox of nothing": (bbox(""), "bbox is not made of numbers", "give west,south,east,north"),
    "no area at all": ((*DATES, *CATALOG), "needs a bbox or a polygon", "give"),
    "bbox and polygon": ((SMALL, "--polygon", "a.geojson", *DATES, *CATALOG), "not both", "give"),
    "no such polygon": (("--polygon", "a.geojson", *DATES, *CATALOG), "a.geojson", "give .geojson"),
    "dates reversed": (dates("2018/2015"), "dates are reversed", "earlier one first"),
    "dates in words": (dates("last summer"), "'last summer'", "give 2024, 2024-06"),
    "month of thirteen": (dates("2016-13"), "month must be in 1..12", "give 2024"),
    "day that never was": (dates("2023-02-29"), "does not exist", "give 2024"),
    "half a range": (dates("2016/"), "cannot be read", "give 2024"),
    "three sides": (dates("2015/2016/2017"), "3 sides", "A/B"),
    "no dates": (dates(""), "cannot be read", "give 2024"),
    "no items in these dates": (dates("2024", *L1C), "no item of sentinel-2-l1c", "widen the dates or move the area"),
    "no items at this place": (("--bbox=1,1,1.1,1.1", *DATES, *CATALOG, *L1C), "no item", "widen the dates or move"),
    "too cloudy": (dates("2016", "--cloud=-1"), "1 were dropped, the clearest has 0%", "raise the cloud limit"),
    "too few cells": (bbox("-75.652,37.662,-75.651,37.663"), "too few for a map", "widen --bbox to at least 0.9 km"),
}
OPTIONS = {
    "unknown sensor": (("--sensor", "sentinel-9"), "no sensor of that name ('sentinel-9')", "sentinel-2-l2a"),
    "sensor elsewhere": (("--sensor", "naip"), "has no collection of naip", "name another sensor"),
    "unknown model": (("--model", "nanno"), "no model named 'nanno'", "did you mean nano?"),
    "unknown catalog": (("--catalog", "dmeo"), "catalogue does not exist (dmeo)", "give an endpoint, demo"),
    "no such catalog file": (("--catalog", "none.json"), "does not exist (none.json)", "give"),
    "stride too coarse": (("--stride", 32), "cells of 320 m are too coarse", "lower --stride"),
    "stride of nothing": (("--stride", 0), "stride of 0 px", "use a stride of 1 to"),
    "odd stride": (("--stride", 5), "stride of 5 px", "even margin"),
    "degrees for a CRS": (("--crs", 4326), "EPSG:4326 is not projected in metres", "name a CRS that is"),
    "feet for a CRS": (("--crs", 2263), "US survey foot", "name a CRS that is"),
    "no such CRS": (("--crs", 999999), "no CRS has the code EPSG:999999", "name a projected CRS"),
    "a CRS of elsewhere": (("--crs", 32733), "cannot hold the area", "name a CRS made for that place"),
    "no looks": (("--looks", 0), "looks of a plan is 0", "at least one"),
    "no such device": (("--device", "abacus"), "device 'abacus' cannot be used", "use cpu"),
    "no probe for these weights": (("--weights", "untrained"), "no probe ships for nano", "pass it with --probe"),
    "no such weights": (("--weights", "none.safetensors"), "none.safetensors", "expected a safetensors file"),
    "no such probe": (("--probe", "none.safetensors"), "the probe none.safetensors is unreadable", "name a whole"),
    "weights for a probe": (("--probe", NANO), "is not a geoelle probe", "name another file"),
    "a probe for weights": (("--weights", PROBE), "is not a nano weights file", "train one"),
}


@pytest.mark.parametrize("name", AREAS)
def test_areas_dates_and_searches(name: str, tmp_path: Path) -> None:
    args, what, remedy = AREAS[name]
    told = invoke("map", *args, "-o", tmp_path / "out").failure()
    assert what in told and remedy in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args, what, remedy = OPTIONS[name]
    told = invoke("map", SMALL, *DEMO_ARGS, *args, "-o", tmp_path / "out").failure()
    assert what in told and remedy in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["search", "embed"])
def test_other_verbs_say_the_same(verb: str, tmp_path: Path) -> None:
    args, what, _ = AREAS["bbox reversed"]
    more = () if verb == "search" else ("-o", tmp_path / "out")
    assert what in invoke(verb, *args, *more).failure()


@pytest.mark.slow
def test_a_process_of_its_own_says_no_more(tmp_path: Path) -> None:
    args, what, remedy = OPTIONS["stride too coarse"]
    told = geoelle("map", SMALL, *DEMO_ARGS, *args, "-o", tmp_path / "out", "--json").failure()
    assert what in told and remedy in told


# --- files that are not what they should be


def flipped(path: Path, at: int = -7) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_space(path: Path) -> None:
    probe = Probe.load(path)
    replace(probe, space={**probe.space, "weights_sha256": "0" * 64}).save(path, overwrite=True)


def of_another_pooling(path: Path) -> None:
    probe = Probe.load(path)
    replace(probe, space={**probe.space, "pooling": "CLS"}).save(path, overwrite=True)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flipped, "is damaged (its digest differs); copy or fit it again"),
        (shortened, "is unreadable"),
        (lambda path: path.write_bytes(b""), "is unreadable"),
        (of_another_space, "weights_sha256: '0000"),
        (of_another_pooling, "pooling: 'CLS' against 'mean of valid patch tokens'"),
    ],
    ids=["flipped", "shortened", "empty", "of other weights", "of another pooling"],
)
def test_a_probe_that_does_not_fit(tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    probe = Path(shutil.copy(PROBE, tmp_path / "p.safetensors"))
    damage(probe)
    assert told in invoke("map", SMALL, *DEMO_ARGS, "--probe", probe, "-o", tmp_path / "out").failure()
    assert not (tmp_path / "out").exists()


def test_a_probe_of_other_bands_names_both(tmp_path: Path) -> None:
    other = WEIGHTS / "nano-probe-6.safetensors"
    told = invoke("map", SMALL, *DEMO_ARGS, "--probe", other, "-o", tmp_path / "out").failure()
    assert "bands: 'blue green red nir nir08 swir16' against 'blue green red rededge1" in told
    assert told.endswith("fit a probe there or embed with the probe's model")


@pytest.mark.parametrize("keep", [0, 7, 1_000, 1_000_000])
def test_weights_cut_short(tmp_path: Path, keep: int) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(NANO.read_bytes()[:keep])
    told = invoke("map", SMALL, *DEMO_ARGS, "--weights", weights, "-o", tmp_path / "out").failure()
    assert "cannot read nano weights w.safetensors" in told and told.endswith("expected a safetensors file")


# --- catalogues


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ground")


@pytest.fixture(scope="module")
def items(home: Path) -> tuple[str, Path]:
    scenes, squares = three_places(home)
    return save_catalog(home / "items.json", scenes).read_text(), squares


def damaged(tmp_path: Path, text: str, damage: Callable[[list[dict]], object]) -> Path:
    collection = json.loads(text)
    damage(collection["features"])
    path = tmp_path / "items.json"
    path.write_text(json.dumps(collection))
    return path


def only(*names: str) -> Callable[[list[dict]], object]:
    def damage(features: list[dict]) -> None:
        for feature in features:
            feature["assets"] = {name: feature["assets"][name] for name in names}

    return damage


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (only("scl", "red", "green"), "offers green, red of the bands that nano takes"),
        (only("scl"), "offers none of the bands that nano takes"),
        (only("scl", "red", "green", "blue"), "with these weights and the bands blue green red; fit one"),
        (lambda features: features[1]["assets"].pop("nir"), "S2B_31TFK_20240601_0_L2A"),
        (lambda features: features[0]["assets"]["red"].update(href="gone.tif"), "S2B_31TFJ_20240601_0_L2A"),
        (lambda features: features.clear(), "no"),
    ],
    ids=["too few bands", "no bands", "bands without a probe", "asset missing", "file missing", "no items"],
)
def test_items_that_lack_something(tmp_path: Path, items, damage: Callable, told: str) -> None:
    text, squares = items
    catalog = damaged(tmp_path, text, damage)
    place = ("--polygon", squares, "--dates", "2024", "--catalog", catalog)
    found = invoke("map", *place, "-o", tmp_path / "out").failure()
    assert told in found and ";" in found
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"type": "Feature"}', '{"type": "FeatureCollection"}'])
def test_a_catalogue_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "items.json").write_text(text)
    args = (SMALL, "--dates", "2024", "--catalog", tmp_path / "items.json", "-o", tmp_path / "out")
    assert "items.json" in invoke("map", *args).failure()


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"type": "Point", "coordinates": [1, 2]}', '{"type": "FeatureCollection", "features": []}',
     '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 1], [1, 0], [0, 0]]]}'],
)  # fmt: skip
def test_a_polygon_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "area.geojson").write_text(text)
    args = ("--polygon", tmp_path / "area.geojson", *DEMO_ARGS, "-o", tmp_path / "out")
    assert "polygon" in invoke("map", *args).failure()


def test_a_scene_whose_file_is_no_image(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, "S2B_31TFJ_20240601_0_L2A", west=600_000, north=5_000_000)
    Path(scene.assets["green"].href).write_text("<html>Sign in</html>")
    catalog = save_catalog(tmp_path / "items.json", [scene])
    args = ("--bbox=4.275,45.138,4.290,45.145", "--dates", "2024", "--catalog", catalog, "-o", tmp_path / "out")
    told = invoke("map", *args).failure()
    assert "asset green of item S2B_31TFJ_20240601_0_L2A" in told and "green.tif" in told


# --- fit and score


@pytest.fixture(scope="module")
def run(home: Path, items: tuple[str, Path]) -> Path:
    """A run without a loss."""
    catalog = ("--polygon", items[1], "--dates", "2024", "--catalog", home / "items.json")
    assert invoke("embed", *catalog, "-o", home / "run").code == 0
    return home / "run"


def test_fit_without_a_run_a_loss_or_enough_ground(run: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "p.safetensors")
    assert "no embeddings at" in invoke("fit", tmp_path / "none", *out).failure()
    assert "have no loss; embed them with loss" in invoke("fit", run, *out).failure()
    assert "'10' is not a length; give 10km or 2500m" in invoke("fit", run, "--block", "10", *out).failure()
    wrong = invoke("fit", run, "-o", tmp_path / "probe.json").failure()
    assert "give it a name that ends in .safetensors" in wrong
    part = next(run.glob("embeddings/*.parquet"))
    lossy = tmp_path / "lossy.parquet"
    table = pq.read_table(part)
    for name in ("loss", "loss_sd", "loss_a", "loss_b"):
        table = table.append_column(name, pa.array(np.linspace(1, 2, len(table))))
    pq.write_table(table, lossy)
    told = invoke("fit", lossy, "--block", "1km", "--folds", 4, *out).failure()
    assert "too few blocks of 1000 m to hold out" in told and "use smaller blocks or fewer folds" in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lossy.parquet"]


@pytest.mark.parametrize("damage", [shortened, lambda path: flipped(path, 3_000), lambda path: path.write_bytes(b"")])
def test_score_of_a_damaged_table(run: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    part = Path(shutil.copy(next(run.glob("embeddings/*.parquet")), tmp_path / "v.parquet"))
    damage(part)
    probe = ("--probe", WEIGHTS / "nano-probe-6.safetensors", "-o", tmp_path / "s.parquet")
    assert "v.parquet cannot be read as Parquet" in invoke("score", part, *probe).failure()
    assert not (tmp_path / "s.parquet").exists()


def test_score_of_what_is_no_table(run: Path, tmp_path: Path) -> None:
    probe = ("--probe", WEIGHTS / "nano-probe-6.safetensors", "-o", tmp_path / "s.parquet")
    assert "no embeddings at" in invoke("score", tmp_path / "none", *probe).failure()
    assert "no embeddings at" in invoke("score", tmp_path, *probe).failure()
    other = invoke("score", run, "--probe", PROBE, "-o", tmp_path / "s.parquet").failure()
    assert "cannot score embeddings of 'nano'" in other and "bands: " in other
    pq.write_table(pa.table({"v": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "two.parquet")
    assert "takes 128 inputs" in invoke("score", tmp_path / "two.parquet", *probe).failure()
    assert "name one" in invoke("score", tmp_path / "two.parquet", *probe, "--column", "w").failure()
    (tmp_path / "s.parquet").write_text("precious")
    assert "it exists" in invoke("score", run, *probe).failure()
    assert (tmp_path / "s.parquet").read_text() == "precious"
    assert "no directory" in invoke("score", run, *probe[:2], "-o", tmp_path / "none" / "s.parquet").failure()


def test_info_of_nothing_and_of_something_else(tmp_path: Path) -> None:
    assert "nothing is at" in invoke("info", tmp_path / "none").failure()
    assert "no finished run" in invoke("info", tmp_path).failure()
    (tmp_path / "a.tif").write_text("dear")
    assert "no whole raster" in invoke("info", tmp_path / "a.tif").failure()
