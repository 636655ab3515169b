"""Published weights through the command line, on the embedded scene: embed with the true loss, fit, map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from commands import DEMO_ARGS, SMALL, Result, geoelle, invoke

from geoelle.embeddings import Embeddings
from geoelle.probe import Probe

PLACE = "--bbox=-75.66,37.665,-75.63,37.69"
"""A coast: 81 chips of 320 m side by side, water among them."""


@pytest.fixture(scope="module")
def galileo(shared: Path) -> tuple[str, ...]:
    folder = shared / "weights" / "galileo_nano"
    if not folder.is_dir():
        pytest.skip(f"the published weights are absent ({folder})")
    return ("--model", "galileo.nano", "--weights", str(folder))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("galileo")


def done(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


@pytest.mark.slow
def test_galileo_from_embedding_to_map(galileo: tuple[str, ...], home: Path) -> None:
    embedded = done(geoelle("embed", PLACE, *DEMO_ARGS, *galileo, "--stride", 32, "--loss", "-o", home / "run"))
    assert "0 assets skipped" in embedded.err
    rows = Embeddings.read(home / "run")
    assert rows.header.space["target"] == "loss:patch discrimination under random masks"
    assert rows.header.space["masking"].startswith("0.5 of 1 frame x groups x 8x8")
    assert len(rows.header.bands) == 10 and rows.vectors_nd.shape == (len(rows), 128)
    assert np.isfinite(rows.loss_n[rows.valid_n]).all() and 0.3 < np.nanmean(rows.loss_n) < 0.9

    done(invoke("fit", home / "run", "--block", "640m", "--folds", 3, "-o", home / "probe.safetensors", "--json"))
    assert Probe.load(home / "probe.safetensors").data["unit"].startswith("cross entropy")

    mapped = done(invoke("map", SMALL, *DEMO_ARGS, *galileo, "--probe", home / "probe.safetensors", "-o", home / "map"))
    assert "How to read it: High: hidden patches of the chip are hard to tell apart" in mapped.err
    with rasterio.open(home / "map" / "difficulty.tif") as file:
        difficulty = file.read(1)
        assert file.res == (160, 160) and np.isfinite(difficulty).sum() == 72
    assert 0.4 < np.nanmean(difficulty) < 0.8


@pytest.mark.slow
def test_presto_scores_pixels(shared: Path, home: Path) -> None:
    folder = shared / "weights" / "presto"
    if not folder.is_dir():
        pytest.skip(f"the published weights are absent ({folder})")
    place = "--bbox=-75.6555,37.665,-75.651,37.669"
    done(invoke("embed", place, *DEMO_ARGS, "--model", "presto", "--weights", folder, "--loss", "-o", home / "pixels"))
    rows = Embeddings.read(home / "pixels")
    assert rows.vectors_nd.shape[1] == 128 and len(rows) > 5
    assert (rows.loss_n > 0).all() and np.nanmean(rows.loss_n) < 0.1  # of reflectances


def test_chips_without_any_image_stay_empty(galileo: tuple[str, ...], home: Path) -> None:
    """They have no time, which Galileo needs: their rows are empty, and the run goes on."""
    place = ("--bbox", "22.14,45.19,22.16,45.21", "--dates", "2018", "--catalog", "demo")
    done(invoke("embed", *place, *galileo, "-o", home / "forest"))
    rows = Embeddings.read(home / "forest")
    assert rows.header.bands == ("blue", "green", "red", "nir", "nir08")  # swir16 is there, without its swir22
    assert rows.valid_n.any() and np.isnat(rows.times_n).any() and np.isfinite(rows.vectors_nd[rows.valid_n]).all()
    assert np.isnan(rows.vectors_nd[~rows.valid_n]).all()
