"""RemoteCLIP against open_clip on the same file, flat as published and with the prefix of a copy of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_in import fill

from geoelle.models.remoteclip import CONFIGS, RemoteClipConfig, read
from small import make_chips

open_clip = pytest.importorskip("open_clip")

NAME = "remoteclip.vit-l-14"
SMALL = replace(CONFIGS[NAME], dim=64, depth=3, heads=4, out_dim=24, chip_px=84)
ATOL = 1e-5


def reference(config: RemoteClipConfig) -> torch.nn.Module:
    """Return open_clip's whole model, text tower included, with stand-in weights."""
    image = {
        "image_size": config.chip_px, "layers": config.depth, "width": config.dim, "patch_size": config.patch_px,
        "head_width": config.dim // config.heads,
    }  # fmt: skip
    text = {"context_length": 7, "vocab_size": 11, "width": 16, "heads": 2, "layers": 1}
    net = open_clip.CLIP(config.out_dim, image, text, quick_gelu=config.quick_gelu)
    drawn = fill({k: v.shape for k, v in net.state_dict().items()}, seed=5, scale=0.15)
    net.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in drawn.items()})
    return net.eval()


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_tokens_and_image_embedding(quick: bool, prefix: str, tmp_path: Path) -> None:
    config = replace(SMALL, quick_gelu=quick)
    net, path = reference(config), tmp_path / "RemoteCLIP-ViT-L-14.pt"
    torch.save({prefix + k: v for k, v in net.state_dict().items()}, path)
    model = read(NAME, config, path)
    chips = make_chips(model.card, 3)
    rgb = np.clip(chips.pixels_btcyx[:, 0].astype(np.float64) / 0.3, 0, 1)  # bands are red, green, blue
    mean, std = open_clip.constants.OPENAI_DATASET_MEAN, open_clip.constants.OPENAI_DATASET_STD
    ready = (rgb - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(model.model_input(chips).numpy(), ready, atol=2e-6)
    image = torch.from_numpy(ready.astype(np.float32))
    with torch.inference_mode():
        summary = net.encode_image(image)
        inside = net.visual.forward_intermediates(
            image, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
    ours = model.encode(chips)
    np.testing.assert_allclose(ours.summary_bd, summary, rtol=1e-5, atol=ATOL)
    tokens = ours.patch_bhwd.flatten(1, 2)
    np.testing.assert_allclose(tokens, inside["image_intermediates"][-1], rtol=1e-5, atol=ATOL)


def test_the_activation_shows() -> None:
    """The flag is no ornament: with the same weights, both activations differ by far more than rounding."""
    image = torch.rand(2, 3, SMALL.chip_px, SMALL.chip_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        quick, exact = (reference(replace(SMALL, quick_gelu=q)).encode_image(image) for q in (True, False))
    assert float((quick - exact).abs().max()) > 1e-3


def test_the_published_numbers_are_those_of_open_clip() -> None:
    config, theirs = CONFIGS[NAME], open_clip.get_model_config("ViT-L-14-quickgelu")
    vision = theirs["vision_cfg"]
    assert config.quick_gelu is theirs["quick_gelu"] is True
    assert (config.chip_px, config.depth, config.dim, config.patch_px, config.out_dim) == (
        vision["image_size"], vision["layers"], vision["width"], vision["patch_size"], theirs["embed_dim"],
    )  # fmt: skip
    assert config.dim // config.heads == open_clip.CLIPVisionCfg().head_width
