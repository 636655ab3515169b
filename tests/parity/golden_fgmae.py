"""FG-MAE: 8-bit input, tokens, both targets, both predictions, both errors, with filled and with fixed tables."""

from __future__ import annotations

import numpy as np
import torch
from golden_chips import chips_of

from geoelle.chips import Chips
from geoelle.models import fgmae
from geoelle.models.networks import on_meta, place_codes, scatter_error, split_order
from geoelle.models.weights import load_strict

INPUTS = {"mask"}
TOLERANCES = {
    "model_input": 2e-6,
    "target_": 1e-6,
    "cls": 2e-5,
    "tokens": 5e-5,
    "patch_embed": 5e-5,
    "pred_": 1e-5,
    "table_": 1e-6,
    "hog_gkern": 1e-7,
    "": 5e-6,
}
NAMES = dict(zip(("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"),
                 fgmae.BANDS, strict=True))  # fmt: skip


def compute(config: dict, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every array of a golden: with the filled encoder table, then with fixed tables as published."""
    ours = fgmae.FgMaeConfig(
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        decoder_dim=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        patch_px=config["patch_size"],
        chip_px=config["chip_px"],
        bands=tuple(NAMES[band] for band in config["model_bands"]),
        indices="ndi" in config["feature"],
        mask_ratio=config["mask_ratio"],
    )
    cpu = torch.device("cpu")
    tables = {
        f"{part}pos_embed": place_codes(dim, ours.grid, ours.grid, cpu)
        for part, dim in (("", ours.dim), ("decoder_", ours.decoder_dim))
    }
    filled = {key: torch.from_numpy(value) for key, value in weights.items()}
    chips = chips_of(arrays, [NAMES[band] for band in config["bands"]], "sentinel-2-l1c")
    with torch.inference_mode():
        out = _all(ours, tables | filled, chips, arrays)
        fixed = _all(ours, filled | tables, chips, arrays)
        out |= {f"{name}_sincos": fixed[name] for name in ("cls", "err", "loss", "hog", "ndi") if name in fixed}
        out["tokens_sincos_first"] = fixed["tokens"][:1]
        out |= {f"table_{key}": table for key, table in tables.items()}
        out["hog_gkern"] = fgmae.window(cpu)
    return {name: value.numpy() for name, value in out.items()}


def _all(
    config: fgmae.FgMaeConfig, state: dict[str, torch.Tensor], chips: Chips, arrays: dict[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    net = on_meta(lambda: fgmae.FgMaeNet(config))
    load_strict(net, state, name="golden", ignore=net.IGNORED)
    model = fgmae.FgMae(net, fgmae._card("fgmae.s2-base", config), "golden")
    levels, grid, shape = model.levels(chips), config.grid, arrays["mask"].shape
    tokens, loss = model.encode(chips), model.loss(chips, arrays["mask"])
    seen, masked = split_order(arrays["mask"], torch.device("cpu"))
    first = torch.from_numpy(arrays["pred_index"])
    drawn, targets = net.predict(levels / 255, seen, first), net.targets(levels)
    errors = net.errors(levels, seen, masked)
    out = {
        "model_input": levels / 255,
        "patch_embed_first": net.patch_embed(levels[:1] / 255).unflatten(1, (grid, grid)),
        "tokens": tokens.patch_bhwd,
        "cls": tokens.summary_bd,
        "cls_masked": net.encode(levels / 255, seen)[:, 0],
        "loss": loss.total_b,
        "err": loss.error,
        "pred_first2": drawn["hog"],
        "target_hog_mean": targets["hog"].mean((0, 1)),
        **loss.terms,
    }
    for name, target in targets.items():
        out[f"target_{name}_first2"] = torch.stack([t[index] for t, index in zip(target, first, strict=True)])
        out[f"err_{name}"] = scatter_error(errors[name], masked, shape)
    if "ndi" in drawn:
        out["pred_ndi_first2"] = drawn["ndi"]
    return out
