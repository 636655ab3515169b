"""What is decided before the first pixel is read; the files of these items do not exist."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pystac
import pytest
import shapely

import scenes
from geoelle.area import Area
from geoelle.catalog import load_sensor
from geoelle.embed import BATCH
from geoelle.errors import AreaError, CatalogError, ModelError, NoItems, UnknownModel, WeightsError
from geoelle.models.nano import BANDS
from geoelle.patches import keys_of, patches_of
from geoelle.plan import CELL_MAX_M, CUT_BYTES, MIN_CELLS, PART_PX, Job, Plan, chips_at_once, make_plan, part_side
from ground import save_catalog

L2A = load_sensor("sentinel-2-l2a")
WEST, NORTH, EPSG = 10_240 * 59 - 1_000, 10_240 * 488 + 700, 32631
"""The north-west corner of an area of 2 x 1.4 km in which four parts meet."""
PART_CHIPS = part_side(16)
PART_M = 16 * 10 * PART_CHIPS

Make = Callable[..., Plan]


def make_item(name: str = "S2B_31TFJ_20240601_0_L2A", bands: tuple[str, ...] = (*BANDS, "scl"), **more) -> pystac.Item:
    bounds = more.pop("bounds", (WEST - 5_000, NORTH - 9_000, WEST + 9_000, NORTH + 5_000))
    item = scenes.bare_item(name, bounds=bounds, epsg=EPSG, **more)
    for band in bands:
        item.add_asset(band, pystac.Asset(href=f"nowhere/{name}/{band}.tif"))
    return item


def area_of(width_m: float = 2_000, height_m: float = 1_400, dates: str = "2024") -> Area:
    square = shapely.box(WEST, NORTH - height_m, WEST + width_m, NORTH)
    return Area.parse(polygon=scenes.to_lonlat(square, EPSG), dates=dates)


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    return str(save_catalog(tmp_path / "items.json", [make_item()]))


@pytest.fixture
def make(catalog: str) -> Make:
    def build(*, cells_for_map: bool = False, **changes: object) -> Plan:
        return make_plan(Job(**{"area": area_of(), "catalog": catalog, **changes}), cells_for_map=cells_for_map)

    return build


def test_a_plan_says_what_will_be_done(make: Make) -> None:
    plan = make(cells_for_map=True)
    facts = plan.to_dict()
    assert facts["sensor"] == "sentinel-2-l2a" and facts["model"] == "nano"
    assert facts["items"] == ["S2B_31TFJ_20240601_0_L2A"]
    assert facts["looks"][0]["date"] == "2024-06-01T10:50:00" and facts["looks"][0]["coverage"] == 1
    assert facts["bands"] == list(BANDS)
    assert facts["epsg"] == [EPSG] and facts["cell_m"] == 160 and facts["chip_m"] == 320
    assert facts["cells"] == plan.chips == 13 * 9
    assert facts["parts"] == 4
    assert facts["area_km2"] == pytest.approx(2.8, rel=0.01)
    # Four bands and the mask of 10 and 20 m in the windows of four parts, 16 and 8 bit.
    per_km2 = 1e6 * (4 / 100 * 2 + 6 / 400 * 2 + 1 / 400)
    assert 2.8 * per_km2 < facts["bytes"] < 2 * 2.8 * per_km2
    assert facts["encode_seconds"] >= 0
    assert json.loads(json.dumps(facts)) == facts


def test_parts_are_super_blocks_of_the_lattice_whatever_is_selected(make: Make) -> None:
    plan = make()
    assert {p.name for p in plan.parts} == {f"{EPSG}_r-{r}_c{c}" for r in (489, 488) for c in (58, 59)}
    for part in plan.parts:
        row, col = (int(v) for v in re.findall(r"_[rc](-?\d+)", part.name))
        assert (part.addresses.rows // PART_CHIPS == row).all() and (part.addresses.cols // PART_CHIPS == col).all()
        assert (np.floor(part.addresses.xy_n2[:, 0] / PART_M) - col).max() <= 1
    every = [a for part in plan.parts for a in part.addresses.strings()]
    assert len(set(every)) == len(every) == plan.chips
    less = {p.name: p for p in make(area=area_of(1_500)).parts}
    more = {p.name: p for p in plan.parts}
    assert less.keys() == more.keys()
    for name, part in less.items():
        assert set(part.addresses.strings()) <= set(more[name].addresses.strings())


CHANGES = {
    "area": area_of(1_500), "catalog": "other.json", "sensor": "sentinel-2-l2a", "model": "other",
    "weights": "untrained", "epsg": 32632, "stride_px": 8, "cloud_max": 10.0, "looks": 2, "errors": "skip",
    "loss": True, "twins": 1, "dense": True, "precision": "bf16",
}  # fmt: skip


def test_the_fingerprint_moves_with_everything_that_decides_the_output(make: Make) -> None:
    plan = make()
    assert {field.name for field in fields(Job)} == CHANGES.keys() | {"device"}
    prints = {replace(plan, job=replace(plan.job, **{name: value})).fingerprint for name, value in CHANGES.items()}
    assert len({*prints, plan.fingerprint}) == len(CHANGES) + 1
    assert replace(plan, job=replace(plan.job, device="cuda")).fingerprint == plan.fingerprint
    assert replace(plan, bands=BANDS[:6]).fingerprint != plan.fingerprint
    assert replace(plan, looks=()).fingerprint != plan.fingerprint
    assert replace(plan, model=make(weights="untrained").model).fingerprint != plan.fingerprint
    assert make().fingerprint == plan.fingerprint


def test_a_job_is_plain_json(make: Make) -> None:
    words = make().job.to_dict()
    assert json.loads(json.dumps(words)) == words | {"bbox": list(words["bbox"])}
    assert words.keys() == {"bbox", "dates", "polygon", *(field.name for field in fields(Job))} - {"area"}
    assert words["polygon"].startswith("POLYGON") and words["dates"] == "2024-01-01T00:00:00Z/2024-12-31T23:59:59Z"


@pytest.mark.parametrize(("stride", "cell_m", "cells"), [(8, 80, 26 * 18), (16, 160, 13 * 9), (32, 320, 8 * 6)])
def test_the_stride_is_the_size_of_cells(make: Make, stride: int, cell_m: float, cells: int) -> None:
    facts = make(stride_px=stride).to_dict()
    assert (facts["cell_m"], facts["chip_m"]) == (cell_m, 320)
    assert facts["cells"] == pytest.approx(cells, rel=0.06)


def test_a_dense_map_has_a_cell_a_patch_and_every_chip_that_sees_one(make: Make) -> None:
    plan = make(dense=True, cells_for_map=True)
    facts = plan.to_dict()
    assert (facts["cell_m"], facts["chip_m"]) == (40, 320) and facts["cells"] == pytest.approx(50 * 35, rel=0.06)
    (_, cells), (lattice, chips) = plan.cells[0], plan.zones[0]
    assert lattice.stride_px == 16 and facts["chips"] == len(chips) == plan.chips == pytest.approx(14 * 10, rel=0.2)
    seen = np.isin(keys_of(patches_of(chips, 4)), keys_of(cells)).reshape(len(chips), 64)
    assert seen.any(axis=1).all() and seen.sum() == 4 * len(cells)
    assert make(dense=True, cells_for_map=True, stride_px=8).chips > 3 * plan.chips
    assert make().to_dict()["chips"] == make().to_dict()["cells"]


@pytest.mark.parametrize(
    ("changes", "for_map", "error", "told"),
    [
        ({"stride_px": 10}, True, AreaError, "10 px is no whole|10 px apart, do not share patches of 4 px"),
        ({"stride_px": 24}, True, AreaError, "24 px is no whole fraction of chips of 32 px"),
        ({"stride_px": 10, "loss": True}, False, AreaError, "10 px apart, do not share patches of 4 px"),
        ({}, False, ModelError, "dense run of nano cannot be planned without loss: .* add --loss"),
    ],
)
def test_a_dense_run_that_makes_no_sense_is_refused(make: Make, changes: dict, for_map: bool, error, told: str) -> None:
    with pytest.raises(error, match=told):
        make(**{"dense": True, "cells_for_map": for_map, **changes})


@pytest.mark.parametrize("stride", [0, -2, 7, 15])
def test_a_stride_that_makes_no_lattice_is_refused(make: Make, stride: int) -> None:
    with pytest.raises(AreaError, match=f"stride of {stride} px"):
        make(stride_px=stride, cells_for_map=True)


def test_a_map_wants_small_cells_and_enough_of_them(make: Make) -> None:
    with pytest.raises(AreaError, match=r"cells of 320 m are too coarse for a map \(limit 160 m\); lower --stride"):
        make(stride_px=32, cells_for_map=True)
    with pytest.raises(AreaError, match=r"holds \d+ cells of 160 m, too few .*\(limit 20\); widen --bbox to .* 0.9 km"):
        make(area=area_of(300, 300), cells_for_map=True)
    assert make(area=area_of(300, 300)).chips < MIN_CELLS
    assert make(area=area_of(900, 900), cells_for_map=True).chips >= MIN_CELLS
    assert CELL_MAX_M == 160


def test_bands_are_those_of_model_sensor_and_items_in_the_order_of_the_model(make: Make, tmp_path: Path) -> None:
    few = save_catalog(tmp_path / "few.json", [make_item(bands=("scl", "swir16", "red", "blue", "coastal"))])
    assert make(catalog=str(few)).bands == ("blue", "red", "swir16")
    two = save_catalog(tmp_path / "two.json", [make_item(bands=("scl", "red", "blue"))])
    with pytest.raises(CatalogError, match="offers blue, red of the bands that nano takes"):
        make(catalog=str(two))
    none = save_catalog(tmp_path / "none.json", [make_item(bands=("scl",))])
    with pytest.raises(CatalogError, match="offers none of the bands"):
        make(catalog=str(none))


def test_a_model_of_band_groups_gets_whole_ones(make: Make, tmp_path: Path) -> None:
    """One band of three red edges is no group; red and nir without blue and green are still the NDVI."""
    few = save_catalog(tmp_path / "few.json", [make_item(bands=("scl", "red", "nir", "rededge1", "swir16", "swir22"))])
    plan = make(catalog=str(few), model="galileo.nano", weights="untrained")
    assert plan.bands == ("red", "nir", "swir16", "swir22")
    none = save_catalog(tmp_path / "none.json", [make_item(bands=("scl", "red", "green"))])
    with pytest.raises(CatalogError, match="offers none of the bands"):
        make(catalog=str(none), model="galileo.nano", weights="untrained")


def test_models_that_need_a_date_are_timed_too(make: Make) -> None:
    assert make(model="galileo.nano", weights="untrained").chips_per_second > 0


def test_a_sensor_of_other_ground_sampling_is_refused(make: Make, tmp_path: Path) -> None:
    item = make_item("LC09_1", bands=("red",), collection="landsat-c2-l2")
    landsat = save_catalog(tmp_path / "landsat.json", [item])
    with pytest.raises(CatalogError, match="trained at 10 to 10 m and sensor landsat-c2-l2 has 30 m"):
        make(catalog=str(landsat))


@pytest.mark.parametrize("device", ["cuda:99", "foo"])
def test_a_device_that_is_not_there_is_refused_in_one_line(make: Make, device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used .*; use cpu") as caught:
        make(device=device)
    assert "\n" not in str(caught.value)


def test_unknown_models_and_weights_are_refused_before_the_search(make: Make) -> None:
    with pytest.raises(UnknownModel, match="nona"):
        make(model="nona", catalog="not there")
    with pytest.raises(WeightsError, match=r"nothing.safetensors"):
        make(weights="nothing.safetensors", catalog="not there")


def test_no_items_says_what_to_relax(make: Make, tmp_path: Path) -> None:
    with pytest.raises(NoItems, match=r"2023-01-01.*it spans .*2024-06-01/2024-06-01.; widen the dates or move"):
        make(area=area_of(dates="2023"))
    cloudy = save_catalog(tmp_path / "cloudy.json", [make_item(cloud=80)])
    with pytest.raises(NoItems, match=r"at most 40% cloud \(1 were dropped, the clearest has 80%\); raise the cloud"):
        make(catalog=str(cloudy))
    assert make(catalog=str(cloudy), cloud_max=90.0).chips == 13 * 9
    beside = make_item(bounds=(WEST + 2_000, NORTH - 5_000, WEST + 9_000, NORTH + 5_000))
    touching = save_catalog(tmp_path / "touching.json", [beside])
    plan = make(catalog=str(touching), area=area_of(2_001))
    assert plan.looks and plan.to_dict()["looks"][0]["coverage"] < 0.01


def test_two_zones_share_an_area_and_no_cell(tmp_path: Path) -> None:
    items = [make_item(bounds=(730_000, 4_980_000, 740_000, 4_990_000))]
    catalog = save_catalog(tmp_path / "items.json", items)
    area = Area.parse(bbox="5.99,44.996,6.008,45.004", dates="2024")
    plan = make_plan(Job(area=area, catalog=str(catalog)))
    assert plan.to_dict()["epsg"] == [32631, 32632]
    assert {part.name.split("_")[0] for part in plan.parts} == {"32631", "32632"}
    (_, west), (_, east) = plan.zones
    assert west.lonlat_n2[:, 0].max() < 6 < east.lonlat_n2[:, 0].min()
    assert plan.chips == len(west) + len(east)
    single = make_plan(Job(area=area, catalog=str(catalog), epsg=32631))
    assert single.to_dict()["epsg"] == [32631] and single.chips == pytest.approx(plan.chips, abs=15)


def test_a_window_and_a_cut_stay_small_whatever_the_model() -> None:
    assert part_side(16) == 64 and part_side(PART_PX) == part_side(5 * PART_PX) == 1
    for size, bands in ((32, 10), (256, 10), (448, 3)):
        some = chips_at_once(size, bands)
        assert some % BATCH == 0 and (some == BATCH or 4 * some * bands * size**2 <= CUT_BYTES)
    assert chips_at_once(32, 10) == 1024
