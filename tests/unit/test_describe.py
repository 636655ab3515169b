"""What `info` says of each kind of file, and that it notices damage in every one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import xarray as xr
import zarr
from rasterio.shutil import copy

from geoelle.area import Area
from geoelle.describe import describe, in_words
from geoelle.errors import FormatError
from geoelle.plan import Job, make_plan
from geoelle.products import run_map, shipped_probe
from geoelle.shipped import WEIGHTS
from ground import save_catalog, three_places

PROBE = WEIGHTS / "nano-probe-6.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("places")
    items, squares = three_places(home)
    catalog = save_catalog(home / "items.json", items)
    plan = make_plan(Job(area=Area.parse(polygon=squares, dates="2024"), catalog=str(catalog)))
    run_map(plan, shipped_probe(plan.model, plan.bands), home / "run")
    return home / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0x10
    path.write_bytes(content)


def cut(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


# --- a run


def test_a_run(made: Path) -> None:
    facts, manifest = describe(made), json.loads((made / "run.json").read_text())
    assert facts["kind"] == "run" and facts["verified"] == f"{len(manifest['sha256'])} files match run.json"
    files = {f"difficulty.{end}" for end in ("png", "qml", "tif", "zarr")} | {"report.html", "item.json", "items.json"}
    assert facts["files"] == sorted(files | {f"embeddings/{path.name}" for path in made.glob("embeddings/*")})
    assert facts["cells"] == facts["planned"] == facts["read"] and facts["epsg"] == [32631]
    assert facts["fingerprint"] == manifest["plan"]["fingerprint"]
    json.dumps(facts, allow_nan=False)


FILES = [
    "difficulty.tif", "difficulty.qml", "difficulty.png", "report.html", "item.json", "items.json",
    "embeddings/part-32631_r-488_c59.parquet", "difficulty.zarr/zarr.json", "difficulty.zarr/0/excess/c/0/0",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_in_a_run_is_noticed(run: Path, name: str) -> None:
    flip(run / name)
    with pytest.raises(FormatError, match=rf"is damaged: {name} differ.*run the command again with --overwrite"):
        describe(run)


def test_a_missing_and_a_shortened_file_are_noticed_together(run: Path) -> None:
    (run / "report.html").unlink()
    cut(run / "difficulty.tif")
    with pytest.raises(FormatError, match=r"is damaged: difficulty.tif, report.html differ"):
        describe(run)


def test_an_unfinished_run_says_how_to_finish_it(run: Path) -> None:
    (run / "run.json").unlink()
    with pytest.raises(FormatError, match="no finished run; run the same command again"):
        describe(run)


# --- single files


def test_a_raster(made: Path) -> None:
    facts = describe(made / "difficulty.tif")
    with rasterio.open(made / "difficulty.tif") as file:
        assert facts["shape"] == list(file.shape) and facts["geoelle_fingerprint"] == file.tags()["GEOELLE_FINGERPRINT"]
        values = file.read(1)
    assert (facts["kind"], facts["crs"], facts["cell_m"], facts["layout"]) == ("raster", "EPSG:32631", 160.0, "COG")
    assert facts["verified"] == "every block decodes" and facts["nodata"] == "nan"
    json.dumps(facts, allow_nan=False)
    assert facts["band 1"].startswith("difficulty [") and f"maximum {np.nanmax(values):.4g}" in facts["band 1"]


def test_a_zarr(made: Path) -> None:
    facts = describe(made / "difficulty.zarr")
    assert (facts["kind"], facts["levels"], facts["crs"]) == ("zarr", 1, "EPSG:32631")
    shape = describe(made / "difficulty.tif")["shape"]
    assert facts["array difficulty"] == f"{tuple(shape)} float32" and facts["geoelle_items"].startswith("S2B_")


def test_embeddings(made: Path) -> None:
    (part, *_) = sorted(made.glob("embeddings/*.parquet"))
    facts = describe(part)
    assert (facts["kind"], facts["dim"], facts["loss"], facts["twins"]) == ("embeddings", 128, "no", 0)
    assert facts["rows"] == facts["valid"] == pq.read_metadata(part).num_rows
    assert facts["space model"] == "nano" and facts["bands"][0] == "blue"


def test_a_probe() -> None:
    facts = describe(PROBE)
    assert (facts["kind"], facts["verified"], facts["inputs"]) == ("probe", "digest matches", 128)
    assert facts["scores"]["tables"] and facts["licence"] and facts["space model"] == "nano"
    json.dumps(facts, allow_nan=False)


def foreign_tif(path: Path) -> None:
    """Write a raster of others, with the statistics GDAL guesses."""
    with rasterio.open(path, "w", driver="GTiff", width=700, height=600, count=2, dtype="uint8") as file:
        file.write(np.ones((2, 600, 700), np.uint8))
        file.update_tags(1, STATISTICS_APPROXIMATE="YES", STATISTICS_MEAN="1")


def test_a_raster_of_others_is_described_as_far_as_it_goes(tmp_path: Path) -> None:
    foreign_tif(tmp_path / "other.tif")
    facts = describe(tmp_path / "other.tif")
    assert facts["shape"] == [600, 700] and facts["layout"] == "not a COG" and facts["band 1"].endswith("mean 1")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_shortened_raster_is_noticed(made: Path, tmp_path: Path, share: float) -> None:
    path = Path(shutil.copy(made / "difficulty.tif", tmp_path))
    cut(path, share)
    with pytest.raises(FormatError, match=r"difficulty.tif is no whole raster .*; write it again"):
        describe(path)


def test_a_block_beyond_the_first_rows_is_noticed_too(tmp_path: Path) -> None:
    foreign_tif(tmp_path / "plain.tif")
    copy(tmp_path / "plain.tif", tmp_path / "large.tif", driver="COG", blocksize=128, compress="deflate")
    describe(tmp_path / "large.tif")
    cut(tmp_path / "large.tif", 0.97)
    with pytest.raises(FormatError, match="no whole raster"):
        describe(tmp_path / "large.tif")


def plain_parquet(path: Path) -> None:
    pq.write_table(pa.table({"vector": [[1.0, 2.0]]}), path)


def zarr_without_levels(path: Path) -> None:
    zarr.open_group(path, mode="w").create_array("a", data=np.ones(3))


def zarr_array(path: Path) -> None:
    zarr.save_array(path, np.ones(3))


def zarr_of_xarray(path: Path) -> None:
    xr.Dataset({"a": ("x", np.ones(3))}).to_zarr(path, zarr_format=3)


def write(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


OTHERS = {
    "text.txt": (write("dear"), "is nothing geoelle writes"),
    "text.tif": (write("dear"), "is no whole raster"),
    "text.parquet": (write("dear"), "cannot be read as Parquet"),
    "text.safetensors": (write("dear"), "is unreadable"),
    "plain.parquet": (plain_parquet, "has no `geoelle` metadata"),
    "folder": (Path.mkdir, "no finished run; name a run directory"),
    "levels.zarr": (zarr_without_levels, "Zarr group without levels"),
    "xarray.zarr": (zarr_of_xarray, "Zarr group without levels"),
    "array.zarr": (zarr_array, "is no whole Zarr group"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_ours_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, told = OTHERS[name]
    make(tmp_path / name)
    with pytest.raises(FormatError, match=told) as caught:
        describe(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_there() -> None:
    with pytest.raises(FormatError, match=r"nothing is at nowhere.tif; name a run"):
        describe(Path("nowhere.tif"))


def test_weights_are_no_probe() -> None:
    with pytest.raises(FormatError, match=r"nano.safetensors is not a geoelle probe"):
        describe(WEIGHTS / "nano.safetensors")


@pytest.mark.parametrize("at", [0.3, 0.6, 0.99])
def test_one_flipped_bit_of_a_probe_is_noticed(tmp_path: Path, at: float) -> None:
    path = Path(shutil.copy(PROBE, tmp_path))
    flip(path, at)
    with pytest.raises(FormatError, match=r"nano-probe-6.safetensors (is|breaks)"):
        describe(path)


def test_a_flipped_bit_of_vectors_is_noticed(run: Path) -> None:
    (part, *_) = sorted(run.glob("embeddings/*.parquet"))
    flip(part, 0.4)
    with pytest.raises(FormatError, match="cannot be read as Parquet"):
        describe(part)


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_text("{")])
@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "0/excess/zarr.json", "0/excess/c/0/0"])
def test_a_damaged_zarr_is_noticed(run: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(run / "difficulty.zarr" / name)
    with pytest.raises(FormatError, match=r"difficulty.zarr is (no whole Zarr group|a Zarr group without levels)"):
        describe(run / "difficulty.zarr")


def test_a_probe_is_told_in_sentences_and_its_numbers_stay_in_json() -> None:
    facts = describe(PROBE)
    told = in_words(facts)
    assert "tables" in facts["scores"] and "coverage" in facts["trust"]
    assert told["scores, 1"] == facts["scores"]["tables"][0]["sentence"]
    assert told["trust, 1"] in facts["trust"]["sentences"].values() and "trust" not in told
    assert len(str(told)) < 6_000 < len(str(facts)) and told["folds"] == facts["folds"]
    bare = facts | {"scores": {}, "trust": {}}
    assert in_words(bare) == bare
