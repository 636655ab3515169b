"""ViT-MAE: pixels are brightness 0-1 already, so the stretch of reflectance is the identity (`white` 1)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from golden_chips import chips_of

from geoelle.models.networks import split_order
from geoelle.models.vitmae import VitMae, VitMaeConfig, VitMaeNet, make
from geoelle.models.weights import load_strict

INPUTS = {"mask"}
TOLERANCES = {
    "model_input": 2e-6,
    "err": 5e-6,
    "loss": 5e-6,
    "cls": 2e-5,
    "tokens": 5e-5,
    "patch_embed": 5e-5,
    "pred": 1e-5,
    "table": 1e-6,
    "": 0.0,
}
PLACES, DECODER_PLACES = "vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"


def compute(config: dict, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ours = VitMaeConfig(
        dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        decoder_dim=config["decoder_hidden_size"],
        decoder_depth=config["decoder_num_hidden_layers"],
        decoder_heads=config["decoder_num_attention_heads"],
        decoder_mlp_dim=config["decoder_intermediate_size"],
        norm_eps=config["layernorm_eps"],
        chip_px=config["image_size"],
        patch_px=config["patch_size"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        white=1.0,
        mask_ratio=config["mask_ratio"],
        norm_pix=config["norm_pix_loss"],
    )
    state = make("vitmae.base", ours).net.state_dict()
    tables = {PLACES: state[PLACES].numpy(), DECODER_PLACES: state[DECODER_PLACES].numpy()}
    weights = {**weights, DECODER_PLACES: tables[DECODER_PLACES]}
    out = {"table_position_embeddings": tables[PLACES], "table_decoder_pos_embed": tables[DECODER_PLACES]}
    standard = replace(ours, norm_pix=True)
    for suffix, form, held in (
        ("", ours, weights),
        ("_normpix", standard, weights),
        ("_sincos", ours, {**weights, **tables}),
        ("_normpix_sincos", standard, {**weights, **tables}),
    ):
        found = outputs(loaded(form, held), config, arrays)
        out |= {f"{name}{suffix}": array for name, array in found.items()}
    out["tokens_sincos_first"] = out["tokens_sincos"][:1]
    return out


def loaded(config: VitMaeConfig, weights: dict[str, np.ndarray]) -> VitMae:
    model = make("vitmae.base", config)
    state = {key: torch.from_numpy(array.copy()) for key, array in weights.items()}
    load_strict(model.net, state, name="golden", ignore=VitMaeNet.IGNORED)
    return model


def outputs(model: VitMae, config: dict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    chips = chips_of(arrays, config["bands"])
    pixels, tokens, found = model.model_input(chips), model.encode(chips), model.loss(chips, arrays["mask"])
    seen, _ = split_order(arrays["mask"], model.device)
    with torch.inference_mode():
        latent = model.net.encode(pixels, seen)
        predicted = model.net.decode(latent, seen, torch.from_numpy(arrays["pred_index"]))
        embedded = model.net.embed(pixels[:1]).unflatten(1, (model.card.grid, -1))
    out = {
        "model_input": pixels,
        "patch_embed_first": embedded,
        "cls": tokens.summary_bd,
        "tokens": tokens.patch_bhwd,
        "cls_masked": latent[:, 0],
        "pred_first2": predicted,
        "err": found.error,
        "loss": found.total_b,
    }
    return {name: tensor.numpy() for name, tensor in out.items()}
