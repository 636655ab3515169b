"""Clay's goldens: tokens with and without metadata, the masked pass, and both halves of the objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from golden_chips import chips_of

from geoelle.chips import Chips
from geoelle.models.base import Loss
from geoelle.models.clay import CONFIGS, SENSORS, Clay, ClayConfig, ClayNet, _card
from geoelle.models.networks import on_meta, split_order
from geoelle.models.weights import load_strict, state_of

INPUTS = {"mask"}
TOLERANCES = {
    "model_input": 2e-6,
    "time_b4": 1e-6,
    "latlon_b4": 1e-6,
    "err": 5e-6,
    "loss": 5e-6,
    "rec": 5e-6,
    "rep": 5e-6,
    "pred": 1e-5,
    "cls": 2e-5,
    "teacher_cls": 2e-5,
    "proj_cls": 2e-5,
    "tokens": 5e-5,
    "patch_embed": 5e-5,
    "": 2e-6,
}
NAMES = {"landsat-c2l2-sr": "landsat-c2-l2"}
"""Upstream's name of a sensor -> geoelle's, where they differ."""


def config_of(config: dict) -> ClayConfig:
    """Return the shape of the network: what the golden says, the rest from the shapes of its weights."""
    shapes = {key.removeprefix("model."): shape for key, shape in config["shapes"].items()}
    wave = "encoder.patch_embedding.weight_generator."
    side = round(shapes["teacher.pos_embed"][1] ** 0.5) * shapes["teacher.patch_embed.proj.weight"][2]
    return replace(
        CONFIGS["clay.v1.5"],
        chip_px=config["chip_px"],
        patch_px=config["patch"],
        mask_ratio=config["mask_ratio"],
        **{key: config[key] for key in ("dim", "depth", "heads", "dim_head", "mlp_ratio")},
        **{f"decoder_{key}": config[f"decoder_{key}"] for key in ("dim", "depth", "heads", "dim_head", "mlp_ratio")},
        wave_dim=shapes[wave + "weight_tokens"][1],
        wave_tokens=shapes[wave + "weight_tokens"][0],
        wave_mlp_dim=shapes[wave + "encoder.layers.0.linear1.weight"][0],
        teacher_dim=shapes["teacher.cls_token"][2],
        teacher_depth=len({key.split(".")[2] for key in shapes if key.startswith("teacher.blocks.")}),
        teacher_heads=_said(config["teacher"], "num_heads"),
        teacher_px=side,
        teacher_patch_px=shapes["teacher.patch_embed.proj.weight"][2],
        teacher_registers=shapes["teacher.reg_token"][1],
    )


def _said(text: str, word: str) -> int:
    return int(text.split(f"{word} ")[1].split(",")[0].split()[0])


def model_of(config: dict, weights: dict[str, np.ndarray]) -> Clay:
    shape = config_of(config)
    net = on_meta(lambda: ClayNet(shape))
    state = state_of({"state_dict": {k: torch.from_numpy(v) for k, v in weights.items()}}, name="", strip=("model.",))
    load_strict(net, state, name="golden", ignore=ClayNet.IGNORED)
    return Clay(net, _card("clay.v1.5", shape), "")


def chips_in_units(config: dict, arrays: dict[str, np.ndarray]) -> Chips:
    """Return the golden's chips in the units that chips have: reflectance, DN / 255 or decibels; at its own GSD."""
    sensor = NAMES.get(config["platform"], config["platform"])
    known = SENSORS[sensor]
    numbers = arrays["pixels_btcyx"].astype(np.float64) * config["dn_per_unit"]
    chips = chips_of(arrays | {"pixels_btcyx": numbers * known.scale + known.offset}, config["bands"], sensor)
    lattice = replace(chips.addresses.lattice, gsd_m=config["gsd"])
    return replace(chips, addresses=replace(chips.addresses, lattice=lattice))


@torch.inference_mode()
def compute(config: dict, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    model, chips = model_of(config, weights), chips_in_units(config, arrays)
    x, net = model.inputs(chips), model.net
    order = [x.bands.index(band) for band in config["bands"]]
    tokens, untold = model.encode(chips), model.without_metadata().encode(chips)
    loss = model.loss(chips, arrays["mask"])
    seen, masked = split_order(arrays["mask"], model.device)
    encoded = net.encoder(x, seen)
    grid, asked = (model.card.grid,) * 2, torch.from_numpy(arrays["pred_index"])
    position = (masked[:, None] == asked[..., None]).int().argmax(-1)
    assert torch.equal(masked.gather(1, position), asked), "pred_index is not of hidden patches"
    predicted = net.decoder(encoded, x, seen, masked)
    predicted = predicted.gather(1, position[..., None].expand(-1, -1, predicted.shape[-1]))
    predicted = predicted.unflatten(2, (len(order), -1))[:, :, order].flatten(2)
    found = {
        "model_input": x.pixels_bcyx[:, order],
        "time_b4": x.meta_b8[:, :4],
        "latlon_b4": x.meta_b8[:, 4:],
        "patch_embed": net.encoder.patches(x)[: len(arrays["patch_embed"])].unflatten(1, grid),
        "cls": tokens.summary_bd,
        "tokens": tokens.patch_bhwd,
        "cls_nometa": untold.summary_bd,
        "tokens_nometa": untold.patch_bhwd[: len(arrays["tokens_nometa"])],
        "cls_masked": encoded[:, 0],
        "pred_first2": predicted,
        "teacher_cls": net.teach(x.colours()),
        "proj_cls": net.proj(encoded[:, 0]),
        **_losses(loss),
    }
    return {name: value.numpy() for name, value in found.items()}


def _losses(loss: Loss) -> dict[str, torch.Tensor]:
    return {"err": loss.error_bhw, "loss": loss.total_b, **loss.terms}
