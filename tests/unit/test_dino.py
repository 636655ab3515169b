"""The DINOs: files that are not theirs, brightness, and tokens that belong to no place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models import load_model, model_card
from geoelle.models.dino import CONFIGS, Dino, make, read
from small import SMALLER, make_chips

SMALL = {name: replace(CONFIGS[name], **SMALLER[name]) for name in CONFIGS}


def state(name: str) -> dict[str, torch.Tensor]:
    return make(name, SMALL[name], seed=4).net.state_dict()


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, path := folder / "model.safetensors")
    return path


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_file_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    twin = make(name, SMALL[name], seed=4)
    model = read(name, SMALL[name], write(tmp_path, state(name)))
    chips = make_chips(model.card, 2)
    torch.testing.assert_close(model.encode(chips).patch_bhwd, twin.encode(chips).patch_bhwd, rtol=0, atol=0)
    assert len(model.weights_sha256) == 64


def test_a_training_checkpoint_of_it_loads(name: str, tmp_path: Path) -> None:
    torch.save({"model": {f"module.{k}": v for k, v in state(name).items()}}, path := tmp_path / "checkpoint.pth")
    assert isinstance(read(name, SMALL[name], path), Dino)


def test_the_twin_does_not_depend_on_how_transformers_spells() -> None:
    """Weights are drawn by the published name, so another version of transformers gives the same twin."""
    drawn = make("dinov2.base", SMALL["dinov2.base"]).net
    key = "encoder.layer.1.attention.attention.query.weight"
    assert key in dict(drawn.named_parameters())
    other = make("dinov2.base", replace(SMALL["dinov2.base"], depth=3)).net
    assert torch.equal(drawn.state_dict()[key], other.state_dict()[key])


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("classifier.weight", "fine-tuned classifier"),
        ("blocks.0.attn.qkv.weight", "original repository or of timm"),
        ("encoder.layer.0.mlp.weights_in.weight", "blocks are gated"),
        ("embeddings.register_tokens", "DINOv2 with registers, or DINOv3"),
        ("encoder.layer.0.attention.q_proj.weight", "save_pretrained"),
    ],
)
def test_files_of_other_models_are_named(extra: str, told: str, tmp_path: Path) -> None:
    path = write(tmp_path, {**state("dinov2.base"), extra: torch.zeros(2)})
    with pytest.raises(WeightsError, match=told):
        read("dinov2.base", SMALL["dinov2.base"], path)


def test_one_dino_is_not_the_other(tmp_path: Path) -> None:
    for own, other, told in (
        ("dinov3.sat-large", "dinov2.base", "is DINOv2;"),
        ("dinov2.base", "dinov3.sat-large", "or DINOv3"),
    ):
        with pytest.raises(WeightsError, match=told):
            read(own, SMALL[own], write(tmp_path, state(other)))
    spelled = {k.replace("layer.", "model.layer.", 1): v for k, v in state("dinov3.sat-large").items()}
    with pytest.raises(WeightsError, match="save_pretrained"):
        read("dinov3.sat-large", SMALL["dinov3.sat-large"], write(tmp_path, spelled))


def test_missing_and_wrongly_shaped_tensors_are_named_as_in_the_file(tmp_path: Path) -> None:
    tensors = state("dinov2.base")
    del tensors["encoder.layer.1.attention.output.dense.bias"]
    tensors["layernorm.weight"] = torch.zeros(7)
    with pytest.raises(
        WeightsError, match=r"lacks 1 tensor \(encoder\.layer\.1\.attention\.output\.dense\.bias\)"
    ) as e:
        read("dinov2.base", SMALL["dinov2.base"], write(tmp_path, tensors))
    assert "layernorm.weight is (7,), not (48,)" in str(e.value)


def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, state(name))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors .*truncated"):
        load_model(name, str(path))


def test_brightness_by_hand(name: str) -> None:
    model = make(name, SMALL[name])
    mean, std = (np.array(getattr(SMALL[name], k)) for k in ("mean", "std"))
    chips = make_chips(model.card, 1, bands=("blue", "red", "green"))  # any order
    pixels = np.zeros_like(chips.pixels_btcyx)
    pixels[:, :, 1], pixels[:, :, 2], pixels[:, :, 0] = 0.15, 0.6, -0.02  # red, green, blue
    for sensor, brightness in (("sentinel-2-l2a", [0.5, 1.0, 0.0]), ("naip", [0.15, 0.6, 0.0])):
        found = model.model_input(replace(chips, pixels_btcyx=pixels, sensor=sensor))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found[0, :, 3, 5], (np.array(brightness) - mean) / std, atol=1e-6)


def test_an_unknown_sensor_is_refused(name: str) -> None:
    model = make(name, SMALL[name])
    with pytest.raises(InputMismatch, match=f"{name} needs the sensor"):
        model.encode(replace(make_chips(model.card, 1), sensor=""))


def test_registers_are_no_patches() -> None:
    model = make("dinov3.sat-large", SMALL["dinov3.sat-large"])
    chips = make_chips(model.card, 2)
    tokens = model.net(model.model_input(chips))
    assert tokens.shape[1] == 1 + 4 + 4 * 4
    assert torch.equal(model.encode(chips).patch_bhwd[:, 0, 0], tokens[:, 5])
    assert torch.equal(model.encode(chips).patch_bhwd[:, 1, 2], tokens[:, 5 + 4 + 2])


def test_there_is_no_loss_and_no_proxy(name: str) -> None:
    model = make(name, SMALL[name])
    chips = make_chips(model.card, 1)
    with pytest.raises(CapabilityError, match="no true pretraining loss"):
        model.loss(chips, np.zeros((1, 4, 4), bool))
    with pytest.raises(CapabilityError, match="no proxy"):
        model.proxy(chips)


def test_the_restrictive_licence_is_told() -> None:
    card = model_card("dinov3.sat-large")
    assert "gated" in card.terms and card.weights_licence == "DINOv3 License"
    assert not model_card("dinov2.base").terms
