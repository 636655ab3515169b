"""DOFA v1 against its goldens: the stand-in weights hold a decoder and a teacher, so every term is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stand_in import fill
from torch.nn import functional as F

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models.dofa import Dofa, _card, eight_bit
from geoelle.models.dofa_net import SATLAS, TRUE_COLOUR, Channel, DofaConfig, DofaNet, resized
from geoelle.models.networks import on_meta, place_codes, split_order
from geoelle.models.weights import load_strict

INPUTS = {"mask"}
TOLERANCES = {
    "model_input": 2e-6,
    "err": 5e-6,
    "loss": 5e-6,
    "mim": 5e-6,
    "distill": 5e-6,
    "cls": 5e-5,
    "features": 6e-5,
    "tokens": 1e-4,
    "eight_bit_first": 1e-4,
    "pos_embed_224table": 1e-6,
    "decoder_pos_embed": 1e-6,
    "patch_embed": 5e-5,
    "z_": 2e-5,
    "": 1e-5,
}
"""Those of the goldens' README; of what it does not name, patch tokens as in other families, numbers of 0-255 1e-4."""
NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
GAINS = dict.fromkeys(("B02", "B03", "B04"), TRUE_COLOUR)


def config_of(given: dict[str, Any]) -> DofaConfig:
    """Return the adapter's config for a golden's."""
    rows = zip(given["bands"], given["wavelengths_um"], given["mean"], given["std"], strict=True)
    channels = tuple(
        Channel(
            name=NAMES[b], wavelength_um=w, gain=TRUE_COLOUR if b in ("B02", "B03", "B04") else SATLAS, mean=m, std=s
        )
        for b, w, m, s in rows
    )
    return DofaConfig(
        dim=given["embed_dim"],
        depth=given["depth"],
        heads=given["num_heads"],
        mlp_ratio=given["mlp_ratio"],
        patch_px=given["patch"],
        chip_px=given["chip_px"],
        table_px=given["chip_px"],
        wave_hidden=given["shapes"]["patch_embed.weight_generator.transformer_encoder.layers.0.linear1.bias"][0],
        teacher_depth=given["teacher"]["depth"],
        teacher_heads=given["teacher"]["num_heads"],
        decoder=True,
        decoder_dim=given["decoder_embed_dim"],
        decoder_depth=given["decoder_depth"],
        decoder_heads=given["decoder_num_heads"],
        norm_pix=given["norm_pix_loss"],
        mask_ratio=given["mask_ratio"],
        eps=given["block_eps"],
        sensors=(("sentinel-2", channels),),
        teacher_bands=tuple(c.name for c in channels[:3]),  # as upstream takes them: the first three
    )


def adapter_of(config: DofaConfig, weights: dict[str, np.ndarray]) -> Dofa:
    net = on_meta(lambda: DofaNet(config))
    state = {key: torch.from_numpy(value) for key, value in weights.items()}
    load_strict(net, state, name="golden", ignore=DofaNet.IGNORED)
    return Dofa(net, _card("dofa.v1-base", config), "golden")


def chips_of(given: dict[str, Any], arrays: dict[str, np.ndarray]) -> Chips:
    pixels = arrays["pixels_btcyx"]
    lattice = Lattice(epsg=32618, gsd_m=10, size_px=given["chip_px"], stride_px=given["chip_px"])
    b, t = pixels.shape[:2]
    return Chips(
        pixels_btcyx=pixels, addresses=Addresses(lattice=lattice, rows=np.zeros(b, np.int64), cols=np.arange(b)),
        times_bt=np.full((b, t), np.datetime64("NaT", "s")), lonlat_b2=np.zeros((b, 2)),
        bands=tuple(NAMES[band] for band in given["bands"]), items=((),) * b, sensor="sentinel-2-l1c",
    )  # fmt: skip


@torch.inference_mode()
def compute(given: dict[str, Any], arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return every array of a golden that is not an input."""
    config, chips, mask = config_of(given), chips_of(given, arrays), arrays["mask"]
    model = adapter_of(config, weights)
    net, (grid, dim) = model.net, (config.grid, config.dim)
    x, waves = model._input(chips)
    raw, tokens, loss = net.raw(x, waves), model.encode(chips), model.loss(chips, mask)
    student, teacher = net.views(*model._input(chips, config.teacher_bands))
    seen, hidden = split_order(mask, x.device)
    found = {
        "model_input": x,
        "eight_bit_first": eight_bit(model.pixels(chips, chips.bands)[:1, 0], config.sensors[0][1]),
        "patch_embed": net.patch_embed(x, waves)[0].unflatten(1, (grid, grid)),
        "tokens_raw": raw[:, 1:].unflatten(1, (grid, grid)),
        "cls_raw": raw[:, 0],
        "tokens": tokens.patch_bhwd,
        "cls": tokens.summary_bd,
        "features": features(raw),
        "err": loss.error_bhw,
        "loss": loss.total_b,
        **loss.terms,
        "z_student": student,
        "z_teacher": teacher,
        "decoder_pos_embed": place_codes(config.decoder_dim, grid, grid, x.device)[0],
    }
    if "pred_index" in arrays:
        wanted = torch.from_numpy(arrays["pred_index"])
        at = (hidden[:, None] == wanted[..., None]).int().argmax(dim=-1)
        out = net.predict(x, waves, seen, hidden)
        found["pred_first2"] = out.gather(1, at[..., None].expand(-1, -1, out.shape[-1]))
    if "pos_embed_224table" in arrays:
        table = fill({"pos_embed": (1, 1 + (224 // config.patch_px) ** 2, dim)}, given["seed"], given["weight_scale"])
        encoder = {k: v for k, v in weights.items() if not k.startswith(("decoder_", "teacher."))}
        wide = replace(config, table_px=224, decoder=False, teacher_depth=0)
        other = adapter_of(wide, encoder | table).net
        raw = other.raw(x, waves)
        found["pos_embed_224table"] = resized(other.pos_embed, grid)[0]
        found["tokens_raw_224table"] = raw[:, 1:].unflatten(1, (grid, grid))
        found["features_224table"] = features(raw)
    return {name: np.asarray(value) for name, value in found.items()}


def features(raw_bnd: torch.Tensor) -> torch.Tensor:
    """Return upstream's pooled features: the mean patch token, then a norm without affine part."""
    return F.layer_norm(raw_bnd[:, 1:].mean(dim=1), raw_bnd.shape[-1:], eps=1e-6)
