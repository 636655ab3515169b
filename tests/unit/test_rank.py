"""A ranking of a small run: lists, table, pictures, page and route, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
from matplotlib.image import imread

from geoelle.area import Area
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError, GeoelleError, ProbeError, SpaceMismatch
from geoelle.extremes import Asked, rank_chips
from geoelle.files import sha256
from geoelle.gallery import Entry, Stretch
from geoelle.measures import percentiles
from geoelle.plan import Job, make_plan
from geoelle.rank import _imagery, choose_chips, rank_run
from geoelle.read import cut, read_window
from geoelle.run import finish, load_manifest, run_embed
from geoelle.shipped import WEIGHTS
from geoelle.thumbnails import Thumbnail, Thumbnails, read_thumbnails
from ground import save_catalog, three_places

LISTS = ["hardest", "easiest", "excess-high", "surprise-high"]


@dataclass(frozen=True)
class Made:
    run: Path
    home: Path
    plan: object


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished run of three small places, its loss computed."""
    home = tmp_path_factory.mktemp("places")
    items, squares = three_places(home)
    area = Area.parse(polygon=squares, dates="2024")
    plan = make_plan(Job(area=area, catalog=str(save_catalog(home / "items.json", items)), loss=True))
    finish(run_embed(plan, home / "run"), plan, [], {})
    return Made(run=home / "run", home=home, plan=plan)


@pytest.fixture(scope="module")
def ranked(made: Made) -> Path:
    rank_run(made.run, choose_chips(made.run, asked=Asked(top=4, above=60)), made.home / "ranked")
    return made.home / "ranked"


# --- what is written


def test_the_directory_is_whole_and_says_so(made: Made, ranked: Path):
    names = {"ranked.parquet", "gallery.html", "clusters.parquet", "route.geojson", "route.png", "rank.json"}
    assert {p.name for p in ranked.iterdir()} == names | {f"{name}.png" for name in LISTS}
    about = json.loads((ranked / "rank.json").read_text())
    assert about["sha256"] == {p.name: sha256(p) for p in ranked.iterdir() if p.name != "rank.json"}
    assert about["lists"] == dict.fromkeys(LISTS, 4) and about["unread"] == {}
    assert about["fingerprint"] == made.plan.fingerprint


def test_the_table_opens_in_geopandas_and_agrees_with_the_embeddings(made: Made, ranked: Path):
    table = geopandas.read_parquet(ranked / "ranked.parquet")
    assert table.crs == "EPSG:4326" and table["list"].unique().tolist() == LISTS
    whole = Embeddings.read(made.run)
    at = [whole.addresses.strings().index(name) for name in table["address"]]
    shapes = whole.addresses.footprints[at]
    assert table.geometry.geom_equals_exact(geopandas.GeoSeries(shapes, crs=4326), 1e-9).all()
    np.testing.assert_allclose(table[["lon", "lat"]], whole.addresses.lonlat_n2[at])
    np.testing.assert_allclose(table["loss"], whole.loss_n[at])
    np.testing.assert_allclose(table["residual"], np.log(table["loss"] / table["difficulty"]), atol=1e-5)
    ranking = choose_chips(made.run)
    values_n = ranking.measures.difficulty_n
    np.testing.assert_allclose(table["difficulty_percentile"], percentiles(values_n)[at])
    hardest = table[table["list"] == "hardest"]
    assert hardest["rank"].tolist() == [1, 2, 3, 4] and hardest["difficulty"].is_monotonic_decreasing
    assert hardest["difficulty"].iloc[0] == values_n.max()


def test_no_two_chips_of_a_list_overlap(ranked: Path):
    table = geopandas.read_parquet(ranked / "ranked.parquet").to_crs(32631)
    for _, rows in table.groupby("list"):
        for i, shape in enumerate(rows.geometry):
            assert (rows.geometry.drop(rows.index[i]).intersection(shape).area < 1.0).all()


def test_the_route_covers_the_cells_above_the_percentile(made: Made, ranked: Path):
    found = geopandas.read_parquet(ranked / "clusters.parquet")
    values_n = choose_chips(made.run).measures.difficulty_n
    assert found["cells"].sum() == (percentiles(values_n) > 60).sum()
    assert found["max"].max() == values_n.max() and found.crs == "EPSG:4326"
    route = geopandas.read_file(ranked / "route.geojson")
    assert route["kind"].tolist() == ["route", *["cluster"] * len(found)]


def test_the_page_holds_every_sheet_and_no_address(ranked: Path):
    page = (ranked / "gallery.html").read_text()
    assert page.count("data:image/png;base64,") == len(LISTS) + 1
    assert "No two chips overlap" not in page.split("<body>")[0] and "Mahalanobis distance" in page
    assert "http" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_pictures_show_the_pixels_of_the_chip(made: Made):
    ranking = choose_chips(made.run, asked=Asked(top=1))
    imagery = _imagery(made.run, load_manifest(made.run))
    pictures = read_thumbnails(imagery, ranking.measures, ranking.chips)
    assert pictures.bands == ("red", "green", "blue") and not pictures.reasons
    chip = int(ranking.chips[0])
    table, row = ranking.measures.at(chip)
    lattice = table.addresses.lattice
    box = lattice.geobox(int(table.addresses.rows[row]), int(table.addresses.cols[row]))
    window = read_window(made.plan.looks, box, made.plan.found.sensor, pictures.bands)
    wanted = cut(window, table.addresses[[row]]).pixels_btcyx[0, 0]
    shown = pictures.of[chip]
    assert shown.margin_px == 32 and shown.pixels_yxc.shape == (96, 96, 3)
    np.testing.assert_array_equal(np.moveaxis(shown.pixels_yxc[32:64, 32:64], -1, 0), wanted)


# --- imagery that is gone


def test_lost_imagery_is_replaced_by_mean_colour_and_named(made: Made, tmp_path: Path):
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    items = run / "items.json"
    items.write_text(items.read_text().replace(f"{made.home}/S2B_31TFJ", f"{made.home}/gone/S2B_31TFJ"))
    ranking = choose_chips(run, asked=Asked(top=6))
    told = rank_run(run, ranking, tmp_path / "ranked")
    about = json.loads((tmp_path / "ranked" / "rank.json").read_text())
    lost = [row for row in about["rows"] if row["items"] == "S2B_31TFJ_20240601_0_L2A"]
    assert lost and len(lost) < len(about["rows"])
    ((reason, count),) = about["unread"].items()
    assert "S2B_31TFJ_20240601_0_L2A" in reason and count == len({row["address"] for row in lost})
    assert any("mean colour" in line for line in told.lines)
    assert "mean colour" in (tmp_path / "ranked" / "gallery.html").read_text()
    assert (imread(tmp_path / "ranked" / "hardest.png")[..., :3].std(axis=(0, 1)) > 0.05).all()


def test_a_run_without_items_still_has_its_lists(made: Made, tmp_path: Path):
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    (run / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    told = rank_run(run, choose_chips(run, asked=Asked(top=2)), tmp_path / "ranked")
    assert len(told.facts["unread"]) == 1 and sum(told.facts["unread"].values()) == told.facts["pictures"]


def test_one_stretch_is_for_all_and_gaps_are_grey():
    dark = Thumbnail(pixels_yxc=np.full((2, 2, 3), 0.1, np.float32))
    light = Thumbnail(pixels_yxc=np.full((2, 2, 3), 0.3, np.float32))
    gap = Thumbnail(pixels_yxc=np.full((1, 1, 3), np.nan, np.float32), was_read=False)
    stretch = Stretch.of(Thumbnails(of={0: dark, 1: light, 2: gap}, bands=("red", "green", "blue")))
    assert stretch(dark.pixels_yxc).max() < 0.2 and stretch(light.pixels_yxc).min() > 0.9
    assert stretch(gap.pixels_yxc)[0, 0].min() > 0.8
    nothing = Stretch.of(Thumbnails(of={2: gap}, bands=("red", "green", "blue")))
    assert np.isfinite(nothing(gap.pixels_yxc)).all()
    radar = Thumbnail(pixels_yxc=np.array([[[-20.0], [-5.0]]], np.float32))
    shown = Stretch.of(Thumbnails(of={0: radar}, bands=("vv",)))(radar.pixels_yxc)
    assert shown.shape == (1, 2, 3) and shown[0, 0].max() < shown[0, 1].min()


def test_a_place_names_its_hemispheres():
    assert Entry(chip=0, value="", lon=-75.5, lat=-3.25, date="").place == "3.2500°S 75.5000°W"


# --- what is refused, what is said


@pytest.mark.parametrize(("by", "names"), [("excess", ["excess-high", "excess-low"]),
                                           ("residual", ["residual-high", "residual-low"]),
                                           ("surprise", ["surprise-high", "surprise-low"])])  # fmt: skip
def test_a_measure_is_listed_from_both_ends(made: Made, by: str, names: list[str]):
    ranking = choose_chips(made.run, asked=Asked(by=by, top=3))
    assert [each.listing.name for each in ranking.lists] == names
    high, low = (ranking.measures.values(by)[each.chips] for each in ranking.lists)
    assert np.all(np.diff(high) <= 0) and np.all(np.diff(low) >= 0) and high[0] > low[0]


def test_fewer_chips_than_asked_for_is_said(made: Made):
    ranking = choose_chips(made.run, asked=Asked(by="difficulty", top=1_000))
    assert 3 <= len(ranking.lists[0].chips) < len(ranking.measures)
    assert len(ranking.notes) == 2 and "not 1000" in ranking.notes[0]


def test_without_a_loss_residual_is_refused(made: Made):
    table = replace(Embeddings.read(made.run), loss_n=None, loss_sd_n=None, loss_rel_n2=None)
    probe = choose_chips(made.run).probe
    with pytest.raises(ProbeError, match=r"no residual .*--loss"):
        rank_chips([table], probe, Asked(by="residual"))
    assert "loss" not in rank_chips([table], probe, Asked(top=2)).table.columns


def test_without_a_pixel_part_excess_is_left_out_and_said(made: Made):
    probe = replace(choose_chips(made.run).probe, pixels=None, feature_names=())
    ranking = rank_chips([Embeddings.read(made.run)], probe, Asked(top=2))
    assert [each.listing.name for each in ranking.lists] == ["hardest", "easiest", "surprise-high"]
    assert ranking.notes == ("Most excessive: left out, for the probe has no pixel part or the run no features.",)
    with pytest.raises(ProbeError, match="no excess"):
        rank_chips([Embeddings.read(made.run)], probe, Asked(by="excess"))


def test_a_run_that_is_not_finished_or_of_another_space_is_refused(made: Made, tmp_path: Path):
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    with pytest.raises(SpaceMismatch, match="bands"):
        choose_chips(run, WEIGHTS / "nano-probe-10.safetensors")
    (run / "run.json").unlink()
    with pytest.raises(FormatError, match="no finished run"):
        choose_chips(run)


def test_no_probe_for_a_space_says_what_to_do(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("geoelle.shipped.WEIGHTS", tmp_path)
    with pytest.raises(ProbeError, match="geoelle fit"):
        choose_chips(made.run)


def test_nothing_above_the_percentile_is_an_error(made: Made):
    with pytest.raises(GeoelleError, match="lower --above"):
        choose_chips(made.run, asked=Asked(above=99.9))


def test_only_a_ranking_is_replaced(made: Made, ranked: Path, tmp_path: Path):
    ranking = choose_chips(made.run, asked=Asked(top=1))
    with pytest.raises(GeoelleError, match="--overwrite"):
        rank_run(made.run, ranking, ranked)
    with pytest.raises(GeoelleError, match="other files"):
        rank_run(made.run, ranking, made.run, overwrite=True)
    (tmp_path / "empty").mkdir()
    rank_run(made.run, ranking, tmp_path / "empty")
    before = {p.name: sha256(p) for p in (tmp_path / "empty").iterdir()}
    rank_run(made.run, ranking, tmp_path / "empty", overwrite=True)
    assert {p.name: sha256(p) for p in (tmp_path / "empty").iterdir()} == before
