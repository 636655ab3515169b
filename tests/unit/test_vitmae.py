"""What the goldens of ViT-MAE cannot show: its files in both spellings, and how ground becomes a picture."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geoelle.errors import InputMismatch, WeightsError
from geoelle.models import vitmae
from geoelle.models.vitmae import VitMae, VitMaeConfig
from small import SMALLER, make_chips, small

CONFIG = VitMaeConfig(**SMALLER["vitmae.base"])
TOLD = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64, "image_size": 64, "patch_size": 16,
}  # fmt: skip


@pytest.fixture
def model() -> VitMae:
    return small("vitmae.base", seed=3)


@pytest.fixture
def file(model: VitMae, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(model.net.state_dict(), path)
    return path


def read(path: Path) -> VitMae:
    return vitmae.read("vitmae.base", CONFIG, path)


def half_hidden() -> np.ndarray:
    return np.arange(16).reshape(1, 4, 4) % 4 > 0


@pytest.mark.parametrize(("sensor", "brightness"), [("sentinel-2-l2a", [0.5, 1, 1, 0]), ("naip", [0.15, 0.3, 0.9, 0])])
def test_reflectance_is_stretched_and_a_picture_is_not(sensor: str, brightness: list[float], model: VitMae) -> None:
    chips = make_chips(model.card, 1)
    chips.pixels_btcyx[0, 0, 2, 0, :4] = [0.15, 0.3, 0.9, -0.1]  # bands are red, green, blue
    found = model.model_input(replace(chips, sensor=sensor))[0, 2, 0, :4]
    np.testing.assert_allclose(found, (np.array(brightness) - 0.406) / 0.225, rtol=1e-6)


def test_red_comes_first(model: VitMae) -> None:
    chips = make_chips(model.card, 1).select_bands(("blue", "green", "red"))
    red = model.model_input(chips)[0, 0].double().numpy() * 0.229 + 0.485
    np.testing.assert_allclose(red, (chips.pixels_btcyx[0, 0, 2] / 0.3).clip(0, 1), atol=1e-6)


def test_chips_of_no_sensor_have_no_loss_either(model: VitMae) -> None:
    with pytest.raises(InputMismatch, match="sensor"):
        model.loss(replace(make_chips(model.card, 1), sensor=""), half_hidden())


def test_files_of_transformers_give_its_numbers(tmp_path: Path) -> None:
    """A model saved by transformers, whatever its spelling of the decoder, and its loss under the same mask."""
    transformers = pytest.importorskip("transformers", reason="pip install 'geoelle[models]' to run")
    torch.manual_seed(0)
    theirs = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**TOLD, norm_pix_loss=True)).eval()
    for table in (theirs.vit.embeddings.position_embeddings, theirs.decoder.decoder_pos_embed):
        torch.nn.init.normal_(table.data, std=0.5)  # a config-built model has zeros there, which would hide an error
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    hub = {k.replace("decoder_encoder.layer", "decoder_layers"): v for k, v in state.items()}
    v5 = {k.replace("decoder_layers", "decoder_encoder.layer"): v for k, v in state.items()}
    assert hub.keys() != v5.keys()
    for spelled in (hub, v5):
        save_file(spelled, tmp_path / "model.safetensors")
        ours = read(tmp_path / "model.safetensors")
        assert ours.card.objective == "pixel-norm"
        chips, hidden = make_chips(ours.card, 1), half_hidden()
        noise = torch.from_numpy(hidden.reshape(1, -1) + np.linspace(0, 0.5, 16))
        with torch.inference_mode():
            out = theirs(ours.model_input(chips), noise=noise)
        assert out.mask.bool().numpy().reshape(hidden.shape).tolist() == hidden.tolist()
        np.testing.assert_allclose(ours.loss(chips, hidden).total_b, out.loss, rtol=1e-5)


def test_a_config_of_another_network_is_refused(file: Path) -> None:
    for word, value in (("num_attention_heads", 8), ("layer_norm_eps", 1e-6), ("model_type", "vit")):
        file.with_name("config.json").write_text(json.dumps({**TOLD, word: value}))
        with pytest.raises(WeightsError, match=rf"config\.json beside model\.safetensors says {word} is {value}, not"):
            read(file)


def test_files_that_are_something_else_say_what(model: VitMae, tmp_path: Path) -> None:
    state = model.net.state_dict()
    bare = {k.removeprefix("vit."): v for k, v in state.items() if k.startswith("vit.")}
    stem = {k: v for k, v in state.items() if k.startswith("vit.")}
    tuned = {**stem, "classifier.weight": torch.zeros(10, 64)}
    fair = {"blocks.0.norm1.weight": torch.zeros(64), "patch_embed.proj.bias": torch.zeros(64)}
    for name, held, told in (
        ("bare", bare, "encoder without its decoder"),
        ("stem", stem, r"lacks .*decoder"),
        ("tuned", tuned, "fine-tuned on labels"),
        ("fair", fair, "facebookresearch/mae"),
    ):
        save_file(held, tmp_path / f"{name}.safetensors")
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors .*{told}"):
            read(tmp_path / f"{name}.safetensors")


def test_an_encoder_saved_by_transformers_is_named(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'geoelle[models]' to run")
    transformers.ViTMAEModel(transformers.ViTMAEConfig(**TOLD)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="encoder without its decoder"):
        read(tmp_path / "model.safetensors")


def test_an_old_pickle_loads(model: VitMae, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(model.net.state_dict(), path)
    chips = make_chips(model.card, 1)
    np.testing.assert_array_equal(read(path).encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="truncated"):
        read(file)
