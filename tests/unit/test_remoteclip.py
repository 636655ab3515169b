"""RemoteCLIP: files that are not its own, the text tower left unread, brightness."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models import load_model, model_card
from geoelle.models.remoteclip import CONFIGS, make, read
from small import SMALLER, make_chips

NAME = "remoteclip.vit-l-14"
SMALL = replace(CONFIGS[NAME], **SMALLER[NAME])
TEXT = {
    "positional_embedding": torch.ones(3, 8),
    "text_projection": torch.ones(8, 24),
    "logit_scale": torch.tensor(4.6),
    "token_embedding.weight": torch.ones(5, 8),
    "transformer.resblocks.0.ln_1.weight": torch.ones(8),
    "ln_final.bias": torch.ones(8),
}


def write(folder: Path, tensors: dict) -> Path:
    torch.save(tensors, path := folder / "RemoteCLIP-ViT-L-14.pt")
    return path


def state() -> dict[str, torch.Tensor]:
    return make(NAME, SMALL, seed=4).net.state_dict()


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_a_file_comes_back_with_or_without_its_text_tower(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    twin = make(NAME, SMALL, seed=4)
    chips = make_chips(twin.card, 2)
    for text in (TEXT, {}):
        tensors = {prefix + k: v for k, v in {**state(), **text}.items()}
        model = read(NAME, SMALL, write(tmp_path, {wrapper: tensors} if wrapper else tensors))
        torch.testing.assert_close(model.encode(chips).patch_bhwd, twin.encode(chips).patch_bhwd, rtol=0, atol=0)
        assert set(model.net.state_dict()) == set(state())


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("visual.layer1.0.conv1.weight", "ResNet image tower"),
        ("vision_model.pre_layrnorm.weight", "layout of transformers"),
        ("visual.transformer.resblocks.9.ln_1.weight", "foreign 1 tensor"),
        ("positional_embedding.more", "foreign 1 tensor"),
    ],
)
def test_files_of_other_models_are_named(extra: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=told):
        read(NAME, SMALL, write(tmp_path, {**state(), **TEXT, extra: torch.zeros(2)}))


def test_another_size_is_refused(tmp_path: Path) -> None:
    """A ViT-B/32 has the same names."""
    other = make(NAME, replace(SMALL, patch_px=28), seed=4).net.state_dict()
    with pytest.raises(WeightsError, match=r"another shape \(visual\.positional_embedding"):
        read(NAME, SMALL, write(tmp_path, other))


def test_truncated_and_text_only_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks 3\d tensors \(visual\."):
        read(NAME, SMALL, write(tmp_path, TEXT))
    path = write(tmp_path, state())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"RemoteCLIP-ViT-L-14\.pt .*truncated"):
        load_model(NAME, str(path))


def test_brightness_by_hand() -> None:
    model = make(NAME, SMALL)
    chips = make_chips(model.card, 1, bands=("blue", "green", "red"))
    pixels = np.zeros_like(chips.pixels_btcyx)
    pixels[:, :, 2], pixels[:, :, 1], pixels[:, :, 0] = 0.03, 0.9, 0.15  # red, green, blue
    mean, std = np.array(SMALL.mean), np.array(SMALL.std)
    for sensor, brightness in (("landsat-c2-l2", [0.1, 1.0, 0.5]), ("naip", [0.03, 0.9, 0.15])):
        found = model.model_input(replace(chips, pixels_btcyx=pixels, sensor=sensor))
        np.testing.assert_allclose(found[0, :, 1, 1], (np.array(brightness) - mean) / std, atol=1e-6)
    with pytest.raises(InputMismatch, match="needs the sensor"):
        model.encode(replace(chips, sensor=""))


def test_the_summary_is_projected_and_the_tokens_are_not() -> None:
    model = make(NAME, SMALL)
    found = model.encode(make_chips(model.card, 2))
    assert found.summary_bd.shape == (2, SMALL.out_dim) and found.patch_bhwd.shape == (2, 4, 4, SMALL.dim)


def test_there_is_no_loss_and_no_proxy() -> None:
    model = make(NAME, SMALL)
    with pytest.raises(CapabilityError, match="no proxy either"):
        model.loss(make_chips(model.card, 1), np.zeros((1, 4, 4), bool))
    assert "no licence" in model_card(NAME).terms
