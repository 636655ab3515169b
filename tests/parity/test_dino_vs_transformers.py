"""The DINOs against the networks of transformers on the same file, written by transformers as the hub has it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from stand_in import fill

from geoelle.models.dino import CARDS, CONFIGS, DinoConfig, read
from small import make_chips

transformers = pytest.importorskip("transformers", minversion="4.56")

SIZES = {
    "dinov2.base": [
        {"dim": 48, "depth": 3, "heads": 3, "chip_px": 84, "table_px": 98},
        {"dim": 32, "depth": 2, "heads": 2, "chip_px": 56, "table_px": 56, "norm_eps": 1e-2},
    ],
    "dinov3.sat-large": [
        {"dim": 64, "depth": 3, "heads": 4, "chip_px": 80},
        {"dim": 48, "depth": 2, "heads": 2, "chip_px": 64, "registers": 2, "norm_eps": 1e-2, "rope_base": 30.0},
    ],
}
CASES = [(name, i) for name, sizes in SIZES.items() for i in range(len(sizes))]
ATOL = 1e-5


def reference(name: str, config: DinoConfig) -> torch.nn.Module:
    """Return transformers' own network of this config with stand-in weights, none of them zero."""
    shape = {
        "hidden_size": config.dim, "num_hidden_layers": config.depth, "num_attention_heads": config.heads,
        "layer_norm_eps": config.norm_eps,
    }  # fmt: skip
    if name.startswith("dinov2"):
        net = transformers.Dinov2Model(transformers.Dinov2Config(image_size=config.table_px, patch_size=14, **shape))
    else:
        more = {
            "intermediate_size": 4 * config.dim,
            "num_register_tokens": config.registers,
            "rope_theta": config.rope_base,
        }
        net = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(patch_size=16, **more, **shape))
    drawn = fill({k: v.shape for k, v in net.state_dict().items()}, seed=3, scale=0.1)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in drawn.items()})
    return net.eval()


@pytest.mark.parametrize(("name", "which"), CASES)
def test_tokens_and_names(name: str, which: int, tmp_path: Path) -> None:
    config = replace(CONFIGS[name], **SIZES[name][which])
    net = reference(name, config)
    net.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    model = read(name, config, path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(model.net.state_dict())
    chips = make_chips(model.card, 3)
    order = [chips.bands.index(band) for band in ("red", "green", "blue")]
    rgb = np.clip(chips.pixels_btcyx[:, 0, order].astype(np.float64) / 0.3, 0, 1)
    mean, std = {
        "dinov2.base": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "dinov3.sat-large": ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
    }[name]
    ready = (rgb - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(model.model_input(chips).numpy(), ready, atol=2e-6)
    with torch.inference_mode():
        theirs = net(pixel_values=torch.from_numpy(ready.astype(np.float32))).last_hidden_state
    ours, grid = model.encode(chips), model.card.grid
    prefix = 1 if name.startswith("dinov2") else 1 + config.registers
    assert theirs.shape[1] == prefix + grid**2
    np.testing.assert_allclose(ours.summary_bd, theirs[:, 0], rtol=1e-5, atol=ATOL)
    np.testing.assert_allclose(ours.patch_bhwd.flatten(1, 2), theirs[:, prefix:], rtol=1e-5, atol=ATOL)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_published_numbers_are_the_defaults_of_transformers(name: str) -> None:
    """What no tensor tells: epsilons, activation, rotary base."""
    config = CONFIGS[name]
    if name.startswith("dinov2"):
        theirs = transformers.Dinov2Config()
        assert (config.dim, config.depth, config.heads) == (768, 12, 12) and theirs.hidden_act == "gelu"
    else:
        theirs = transformers.DINOv3ViTConfig()
        assert config.rope_base == theirs.rope_theta == 100 and theirs.hidden_act == "gelu" and not theirs.key_bias
        assert config.registers == 4 and CARDS[name].terms
    assert config.norm_eps == theirs.layer_norm_eps
