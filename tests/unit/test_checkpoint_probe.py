"""What a training keeps of each checkpoint: histograms of difficulty and loss, and r beside its nulls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.complexity import features
from geoelle.holdout import PlaceKFold
from geoelle.models import masks
from geoelle.models.nano import BANDS, NanoConfig, NanoNet
from geoelle.ridge import cross_predict

ROOT = Path(__file__).parents[2]
CONFIG = NanoConfig(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import checkpoint_probe

    return checkpoint_probe


@pytest.fixture
def scenes(script) -> list:
    """Ten places, rough and smooth, of 160 px: 25 chips each, of which 16 are watched; one that lacks a band."""
    rng, made = np.random.default_rng(0), []
    for i in range(11):
        bands = BANDS if i < 10 else BANDS[:4]
        pixels = 0.1 + 0.01 * (i % 5 + 1) * rng.normal(size=(len(bands), 160, 160)) + 0.02 * rng.normal()
        made.append(
            script.nano_data.Scene(
                place=f"p{i // 2}", source="s", level="L2A", path=f"a/{i}.tif", lonlat=(5.0, 52.0), bands=bands,
                pixels_cyx=pixels.astype(np.float32), date=np.datetime64("2020-07-01"), sensor="sentinel-2-l2a",
            )
        )  # fmt: skip
    return made


def test_the_row_of_a_checkpoint_is_that_of_its_own_probe(script, scenes: list):
    first, later = NanoNet(CONFIG).init(0), NanoNet(CONFIG).init(1)
    watched = script.Watched.of(scenes, first)
    row = watched.read(later)
    assert (row["chips"], row["places"]) == (160, 5) and json.loads(json.dumps(row)) == row
    assert sum(row["difficulty"]) == sum(row["loss"]) == 160 and len(row["edges"]) == len(row["loss"]) + 1
    pixels = torch.from_numpy(watched.pixels_ncyx)
    bands = torch.arange(len(BANDS))
    order = torch.from_numpy(masks.permutations(watched.seeds_n, 64))
    with torch.inference_mode():
        patches = later.patchify(pixels, bands)
        loss = later.errors(patches, bands, order, masks.hidden_count(64, 0.75)).mean(1).numpy()
        vectors = later.encode(patches, bands).mean(1).numpy()
        twin = first.encode(patches, bands).mean(1).numpy()
    assert row["loss"] == np.histogram(loss, script.EDGES)[0].tolist()
    read_by = {"elle": vectors, "pixels": features(watched.pixels_ncyx, BANDS), "untrained": twin}
    for name, x_nd in read_by.items():
        predicted = cross_predict(x_nd, np.log(loss), PlaceKFold(5), watched.place_n)
        assert row["r"][name] == pytest.approx(np.corrcoef(predicted, np.log(loss))[0, 1], rel=1e-6)
        if name == "elle":
            assert row["difficulty"] == np.histogram(np.exp(predicted), script.EDGES)[0].tolist()
    assert row == script.Watched.of(scenes, first).read(later)  # the same chips, after a stop too
    assert row["loss"] != watched.read(first)["loss"]


def test_what_lies_beyond_the_bins_is_counted_at_their_ends(script):
    found = script.counts(np.array([1e-9, 1e9, script.EDGES[0], script.EDGES[-1]]))
    assert found[0] == found[-1] == 2 and sum(found) == 4


def test_the_committed_log_is_of_a_short_training_on_places_held_out(script):
    rows = [json.loads(line) for line in (ROOT / "docs" / "nano-checkpoints.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(100, 801, 100))
    for row in rows:
        assert row["probe"]["edges"] == pytest.approx(script.EDGES, rel=1e-3)
        assert sum(row["probe"]["difficulty"]) == sum(row["probe"]["loss"]) == row["probe"]["chips"]
        assert set(row["probe"]["r"]) == {"elle", "pixels", "untrained"} and row["probe"]["places"] == 19
