"""SatMAE: `mask` hides all groups of a place, `mask_joint` single tokens; both go through the one adapter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from golden_chips import chips_of

from geoelle.models.networks import split_order
from geoelle.models.satmae import SatMae, SatMaeConfig, SatMaeNet, make
from geoelle.models.weights import load_strict

INPUTS = {"mask", "mask_joint"}
TOLERANCES = {
    "model_input": 2e-6,
    "err": 5e-6,
    "loss": 5e-6,
    "cls": 2e-5,
    "pooled": 2e-5,
    "tokens": 5e-5,
    "patch_embed": 5e-5,
    "pred": 1e-5,
    "table": 1e-6,
    "": 0.0,
}

BANDS = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
TABLES = ("pos_embed", "channel_embed", "decoder_pos_embed", "decoder_channel_embed")


def compute(config: dict, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ours = SatMaeConfig(
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        channel_dim=config["channel_embed"],
        decoder_dim=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        decoder_channel_dim=config["decoder_channel_embed"],
        mlp_ratio=config["mlp_ratio"],
        chip_px=config["img_size"],
        patch_px=config["patch_size"],
        bands=tuple(BANDS[b] for b in config["model_bands"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        groups=tuple(map(tuple, config["channel_groups"])),
        mask_ratio=config["mask_ratio"],
        norm_pix=config["norm_pix_loss"],
    )
    tables = tables_of(ours)
    model = loaded(ours, {**weights, "decoder_pos_embed": tables["decoder_pos_embed"]})
    out = {f"table_{name}": table for name, table in tables.items()}
    out |= outputs(model, config, arrays)

    standard = loaded(replace(ours, norm_pix=True), {**weights, "decoder_pos_embed": tables["decoder_pos_embed"]})
    sincos = loaded(ours, {**weights, **tables})
    for suffix, twin in (("_normpix", standard), ("_sincos", sincos)):
        out |= {f"{name}{suffix}": array for name, array in outputs(twin, config, arrays).items()}
    out["tokens_ghw_first_sincos"] = out["tokens_ghw_sincos"][:1]
    return out


def tables_of(config: SatMaeConfig) -> dict[str, np.ndarray]:
    """Return the tables that an untrained network of this config has."""
    net = make("satmae.base", config).net
    return {name: getattr(net, name).numpy() for name in TABLES}


def loaded(config: SatMaeConfig, weights: dict[str, np.ndarray]) -> SatMae:
    model = make("satmae.base", config)
    state = {key: torch.from_numpy(array.copy()) for key, array in weights.items()}
    load_strict(model.net, state, name="golden", ignore=SatMaeNet.IGNORED)
    return model


def outputs(model: SatMae, config: dict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [BANDS[b] for b in config["bands"]]
    chips = chips_of(arrays, names).select_bands([n for n in names if n in model.card.bands])
    pixels = model.model_input(chips)
    tokens, (_, groups) = model.encode(chips), model.encode_groups(chips)
    grid, count = model.card.grid, len(model.card.groups)
    with torch.inference_mode():
        embedded = model.net.embed(pixels[:1]).unflatten(2, (grid, grid))
    out = {
        "model_input": pixels,
        "patch_embed_first": embedded,
        "cls": tokens.summary_bd,
        "tokens": tokens.patch_bhwd,
        "tokens_ghw": groups,
        "pooled": groups.mean(dim=(1, 2, 3)),
    }
    spatial = np.repeat(arrays["mask"][:, None], count, axis=1)
    for suffix, mask in (("", spatial), ("_joint", arrays["mask_joint"])):
        found = model.loss(chips, mask)
        seen, _ = split_order(mask, model.device)
        with torch.inference_mode():
            latent = model.net.encode(pixels, seen)
            predicted = model.net.decode(latent, seen)
        parts = "loss_parts" if not suffix else "loss_joint_parts"
        out |= {
            f"loss{suffix}": found.total_b,
            parts: torch.stack(list(found.terms.values()), dim=1),
            f"err{suffix}": found.error_bhw if not suffix else found.error,
            f"cls_masked{suffix}": latent[:, 0],
        }
        if not suffix:
            index = torch.from_numpy(arrays["pred_index"])[:, None, :, None]
            index = index.expand(-1, predicted.shape[1], -1, predicted.shape[3])
            out |= {"err_ghw": found.error, "pred_first2": predicted.gather(2, index).transpose(1, 2)}
    return {name: tensor.numpy() for name, tensor in out.items()}
