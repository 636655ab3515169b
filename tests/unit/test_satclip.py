"""SatCLIP: its Lightning file and those of its relatives, the band it lacks, and what the proxy reads."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.errors import CapabilityError, WeightsError
from geoelle.models import load_model, model_card
from geoelle.models.satclip import BANDS, CONFIGS, bank_places, make, read
from small import SMALLER, make_chips

NAME = "satclip.vit16-l40"
SMALL = replace(CONFIGS[NAME], **SMALLER[NAME], capacity=32)
STALE = {
    "eval_downstream": True,
    "air_temp_data_path": "/data/air_temp.csv",
    "election_data_path": "/data/election.csv",
}
"""Three words in the published files that upstream's own constructor does not take."""


def lightning(**told: object) -> dict:
    """Return a checkpoint as Lightning writes it: prefix, the encoder of places twice, arguments, and the rest."""
    state = make(NAME, SMALL, seed=4).net.state_dict()
    twice = {k.replace("location.nnet.", "nnet."): v for k, v in state.items() if k.startswith("location.")}
    arguments = {
        "embed_dim": SMALL.out_dim, "image_resolution": 256, "vision_layers": "moco_vit16", "vision_width": 768,
        "in_channels": 13, "le_type": "sphericalharmonics", "pe_type": "siren", "legendre_polys": SMALL.degrees,
        "harmonics_calculation": "analytic", "capacity": 32, "num_hidden_layers": 2, "learning_rate": 1e-4,
    }  # fmt: skip
    return {
        "epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.0.2", "callbacks": {}, "loops": {},
        "state_dict": {f"model.{k}": v for k, v in {**state, **twice}.items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "hparams_name": "kwargs", "hyper_parameters": {**arguments, **STALE, **told},
    }  # fmt: skip


def write(folder: Path, checkpoint: dict) -> Path:
    torch.save(checkpoint, path := folder / "satclip-vit16-l40.ckpt")
    return path


def test_the_lightning_file_loads_with_its_stale_words_and_copies(tmp_path: Path) -> None:
    twin = make(NAME, SMALL, seed=4)
    model = read(NAME, SMALL, write(tmp_path, lightning()))
    chips = make_chips(model.card, 2)
    torch.testing.assert_close(model.encode(chips).patch_bhwd, twin.encode(chips).patch_bhwd, rtol=0, atol=0)
    torch.testing.assert_close(model.proxy(chips), twin.proxy(chips), rtol=0, atol=0)
    kinds = {k: v.dtype for k, v in model.net.state_dict().items()}
    assert {v for k, v in kinds.items() if k.startswith("location.")} == {torch.float64}
    assert {v for k, v in kinds.items() if not k.startswith("location.")} == {torch.float32}


def test_a_bare_state_dict_loads(tmp_path: Path) -> None:
    read(NAME, SMALL, write(tmp_path, lightning()["state_dict"]))
    read(NAME, SMALL, write(tmp_path, make(NAME, SMALL).net.state_dict()))


def test_sizes_that_the_file_tells_are_honoured(tmp_path: Path) -> None:
    model = read(NAME, replace(SMALL, capacity=99, out_dim=5, hidden_layers=1), write(tmp_path, lightning()))
    assert model.net.config == SMALL


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("legendre_polys", 10),
        ("vision_layers", "moco_resnet18"),
        ("harmonics_calculation", "closed-form"),
        ("le_type", "grid"),
        ("pe_type", "fcnet"),
    ],
)
def test_arguments_of_another_satclip_are_refused(word: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"\.ckpt says {word} is {value}, not "):
        read(NAME, SMALL, write(tmp_path, lightning(**{word: value})))


def test_files_of_relatives_are_named(tmp_path: Path) -> None:
    bare = lightning()["state_dict"]
    places = {k.removeprefix("model.location."): v for k, v in bare.items() if ".location." in k}
    with pytest.raises(WeightsError, match="only the encoder of places"):
        read(NAME, SMALL, write(tmp_path, places))
    with pytest.raises(WeightsError, match="another image tower"):
        read(NAME, SMALL, write(tmp_path, {**bare, "model.visual.layer1.0.conv1.weight": torch.zeros(2)}))
    with pytest.raises(WeightsError, match=r"lacks 1 tensor \(location\.nnet\.last_layer\.bias\)"):
        read(NAME, SMALL, write(tmp_path, {k: v for k, v in bare.items() if "location.nnet.last_layer.bias" not in k}))
    with pytest.raises(WeightsError, match=r"foreign 1 tensor \(visual\.blocks\.7"):
        read(NAME, SMALL, write(tmp_path, {**bare, "model.visual.blocks.7.norm1.bias": torch.zeros(2)}))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, lightning())
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(WeightsError, match=r"satclip-vit16-l40\.ckpt .*truncated"):
        load_model(NAME, str(path))


def test_the_zero_band_lies_at_index_ten() -> None:
    model = make(NAME, SMALL)
    chips = make_chips(model.card, 1, bands=BANDS[::-1])
    pixels = np.zeros_like(chips.pixels_btcyx)
    for i, band in enumerate(chips.bands):
        pixels[:, :, i] = 0.01 * (1 + BANDS.index(band))
    found = model.model_input(replace(chips, pixels_btcyx=pixels))
    assert found.shape[1] == 13 and found.dtype == torch.float32
    wanted = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10, 0.0, 0.11, 0.12]
    np.testing.assert_allclose(found[0, :, 2, 9], wanted, rtol=1e-6)


def test_only_the_proxy_reads_places() -> None:
    model = make(NAME, SMALL)
    chips = make_chips(model.card, 2)
    moved = replace(chips, lonlat_b2=np.array([[20.0, -35.0], [-75.6, 37.7]]))
    assert torch.equal(model.encode(chips).patch_bhwd, model.encode(moved).patch_bhwd)
    before, after = model.proxy(chips), model.proxy(moved)
    assert abs(float(before[0] - after[0])) > 1e-6 and float(before[1]) == float(after[1])
    assert "lonlat" not in model.card.needs


def test_the_proxy_is_near_its_chance_level_and_above_zero() -> None:
    """An image that fits all places alike has ln(K + 1)."""
    model = make(NAME, SMALL)
    with torch.inference_mode():
        model.net.logit_scale.fill_(-20.0)
    chips = make_chips(model.card, 2)
    np.testing.assert_allclose(model.proxy(chips), math.log(SMALL.bank + 1), rtol=1e-6)
    model.net.logit_scale.fill_(math.log(100.0))
    assert (model.proxy(chips) > 0).all()


def test_the_proxy_does_not_depend_on_the_batch() -> None:
    model = make(NAME, SMALL)
    chips = make_chips(model.card, 5)
    single = torch.cat([model.proxy(chips[[i]]) for i in range(5)])
    np.testing.assert_allclose(single, model.proxy(chips), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_places_stay_in_float64_under_autocast(half: torch.dtype) -> None:
    model = make(NAME, SMALL)
    chips = make_chips(model.card, 2)
    lonlat = torch.from_numpy(bank_places(5, 1))
    whole, exact = model.proxy(chips), model.net.place(lonlat)
    other = copy.deepcopy(model)
    other._bank = None  # built under autocast too
    with torch.autocast("cpu", half), torch.inference_mode():
        found, rough = model.net.place(lonlat), other.proxy(chips)
    assert found.dtype == torch.float64 and torch.equal(found, exact)
    assert torch.equal(other._bank, model._bank)
    assert rough.dtype == torch.float32
    np.testing.assert_allclose(rough, whole, rtol=0.03)


def test_the_bank_is_fixed_and_uniform_by_area() -> None:
    places = bank_places(4096, 0)
    np.testing.assert_array_equal(places, bank_places(4096, 0))
    assert not np.array_equal(places, bank_places(4096, 1))
    assert np.abs(places[:, 0]).max() <= 180 and np.abs(places[:, 1]).max() <= 90
    sine = np.sin(np.radians(places[:, 1]))
    for value in (sine, places[:, 0] / 180):
        counts = np.histogram(value, bins=16, range=(-1, 1))[0]
        assert ((counts - 256) ** 2 / 256).sum() < 38  # chi-squared, 15 degrees of freedom: 0.999
    np.testing.assert_allclose(places[0], [49.306207435723536, -40.03041980175178], rtol=1e-12)


def test_there_is_no_true_loss() -> None:
    model = make(NAME, SMALL)
    with pytest.raises(CapabilityError, match="satclip-bank-infonce"):
        model.loss(make_chips(model.card, 1), np.zeros((1, 4, 4), bool))
    card = model_card(NAME)
    assert "4096 area-uniform places, seed 0" in card.objective and card.unit == "nats"
