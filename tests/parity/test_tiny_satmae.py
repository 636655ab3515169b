"""SatMAE against a small instance of the upstream class: its own weights, input, noise and outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.models.networks import on_meta, split_order
from geoelle.models.satmae import SatMaeConfig, SatMaeNet
from geoelle.models.weights import load_strict


@pytest.fixture
def tiny(shared: Path) -> dict:
    path = shared / "goldens/tiny/satmae_tiny.pt"
    if not path.is_file():
        pytest.skip(f"{path} not present; set GEOELLE_SHARED=DIR to run")
    return torch.load(path, weights_only=True)


@pytest.fixture
def net(tiny: dict) -> SatMaeNet:
    told = tiny["config"]
    config = SatMaeConfig(
        dim=told["embed_dim"],
        depth=told["depth"],
        heads=told["num_heads"],
        channel_dim=told["channel_embed"],
        decoder_dim=told["decoder_embed_dim"],
        decoder_depth=told["decoder_depth"],
        decoder_heads=told["decoder_num_heads"],
        decoder_channel_dim=told["decoder_channel_embed"],
        mlp_ratio=told["mlp_ratio"],
        chip_px=told["img_size"],
        patch_px=told["patch_size"],
        groups=told["channel_groups"],
    )
    net = on_meta(lambda: SatMaeNet(config))
    load_strict(net, tiny["state_dict"], name="satmae_tiny.pt")
    return net.eval()


@torch.inference_mode()
def test_tokens_with_nothing_hidden(net: SatMaeNet, tiny: dict) -> None:
    np.testing.assert_allclose(net.encode(tiny["x"]), tiny["full_tokens_mask0_identity_order"], atol=2e-5)


@torch.inference_mode()
def test_the_masked_pass_and_its_loss(net: SatMaeNet, tiny: dict) -> None:
    mask = tiny["mask"].flatten(1).bool()
    visible, hidden = split_order(mask.numpy(), mask.device)
    order = torch.argsort(tiny["noise"], dim=1)[:, : visible.shape[1]]  # upstream's tokens come back in this order
    latent = net.encode(tiny["x"], visible)
    rank = torch.argsort(torch.argsort(order, dim=1), dim=1)[..., None].expand(-1, -1, latent.shape[2])
    np.testing.assert_allclose(latent[:, 1:].gather(1, rank), tiny["latent"][:, 1:], atol=2e-5)
    np.testing.assert_allclose(latent[:, 0], tiny["latent"][:, 0], atol=2e-5)
    np.testing.assert_allclose(net.decode(latent, visible), tiny["pred"], atol=1e-5)
    errors = net.errors(tiny["x"], visible).flatten(1).gather(1, hidden)
    np.testing.assert_allclose(errors.mean(dim=1), tiny["loss_per_sample"], atol=5e-6)
    np.testing.assert_allclose(errors.mean(), tiny["loss"], atol=5e-6)


@torch.inference_mode()
def test_stored_tables_are_sines_and_cosines(net: SatMaeNet, tiny: dict) -> None:
    net.set_tables()
    for name in ("pos_embed", "channel_embed", "decoder_pos_embed", "decoder_channel_embed"):
        np.testing.assert_allclose(getattr(net, name), tiny["state_dict"][name], atol=1e-6)
