"""ScaleMAE: the chip and its half, tokens at several resolutions, both bands of the loss, and the variants of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from golden_chips import chips_of

from geoelle.models.networks import on_meta, patchify, split_order
from geoelle.models.scalemae import ScaleMae, ScaleMaeConfig, ScaleMaeNet, _card
from geoelle.models.weights import load_strict

INPUTS = {"input_res", "mask"}
TOLERANCES = {
    "model_input": 2e-6,
    "target_input": 2e-6,
    "target_": 1e-6,
    "cls": 2e-5,
    "tokens": 6e-5,
    "patch_embed": 6e-5,
    "pred_": 1e-6,
    "": 5e-6,
}


def compute(config: dict, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every array of a golden; a sample's relative resolution is a number of the adapter's config."""
    ours = ScaleMaeConfig(
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        decoder_dim=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        head_dim=config["fcn_dim"],
        head_depth=config["fcn_layers"],
        source_patch_px=config["patch_size"],
        chip_px=config["chip_px"],
        mask_ratio=config["mask_ratio"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        embed_res=config["embed_res"],
        blur_grid=config["band_config"][0],
        high_weight=config["l1_loss_weight"],
    )
    TOLERANCES["pred_"] = 1e-5 if config["weight_scale"] > 0.1 else 1e-6  # the README's bound for `head_sharp`
    state = {key: torch.from_numpy(value) for key, value in weights.items()}
    chips = chips_of(arrays, config["bands"], "naip")  # whose brightness is passed on as it is
    singles = [(chips[i : i + 1], arrays["mask"][i : i + 1], float(r)) for i, r in enumerate(arrays["input_res"])]

    def model(**changed: float | bool) -> ScaleMae:
        config = replace(ours, **changed)
        net = on_meta(lambda: ScaleMaeNet(config))
        load_strict(net, state, name="golden", ignore=ScaleMaeNet.IGNORED)
        return ScaleMae(net, _card("scalemae.large", config), "golden")

    def losses(res: float | None = None, **changed: bool) -> dict[str, np.ndarray]:
        found = [model(loss_res=res or own, **changed).loss(chip, mask) for chip, mask, own in singles]
        out = {"loss": [f.total_b for f in found], "err": [f.error for f in found]}
        out |= {band: [f.terms[band] for f in found] for band in ("high", "low")}
        return {name: torch.cat(parts).numpy() for name, parts in out.items()}

    with torch.inference_mode():
        return _all(model, losses, chips, singles, arrays)


def _all(model, losses, chips, singles, arrays) -> dict[str, np.ndarray]:
    plain, aligned = model(), model(aligned=True)
    image = plain.images(chips)
    source = plain.net.halve(image)
    tokens = plain.encode(chips)
    scaled = [model(embed_res=res).encode(chip) for chip, _, res in singles]
    whole = plain.net.encode(image, plain.net.config.embed_res)
    grid = plain.card.grid
    out = {
        "target_input": image,
        "model_input": source,
        "model_input_kornia": aligned.net.halve(image),
        "patch_embed_first": plain.net.patch_embed(source[:1]).unflatten(1, (grid, grid)),
        "tokens": tokens.patch_bhwd,
        "cls": tokens.summary_bd,
        "tokens_res_first": scaled[0].patch_bhwd,
        "cls_res": torch.cat([s.summary_bd for s in scaled]),
        "tokens_full_first": whole[:1, 1:].unflatten(1, (2 * grid, 2 * grid)),
        "cls_full": whole[:, 0],
    }
    hidden, shown, errors = [], [], []
    for i, (_, mask, res) in enumerate(singles):
        net, absolute = model(loss_res=res).net, model(loss_res=res, high_l1=True)
        seen, _ = split_order(mask, torch.device("cpu"))
        hidden.append(net.encode(source[i : i + 1], res, seen)[:, 0])
        images = [*net.predict(source[i : i + 1], res, seen), *net.targets(image[i : i + 1])]
        shown.append([_patches(image, grid)[:, arrays["pred_index"][i]] for image in images])
        errors.append({**net.errors(image[i : i + 1], seen), "l1": absolute.net.errors(image[i : i + 1], seen)["high"]})
    out["cls_masked"] = torch.cat(hidden)
    for name, parts in zip(
        ("pred_high", "pred_low", "target_high", "target_low"), zip(*shown, strict=True), strict=True
    ):
        out[f"{name}_first2"] = torch.cat(parts)
    masked = torch.from_numpy(arrays["mask"])
    for band, name in (("high", "err_high"), ("low", "err_low"), ("l1", "err_high_l1")):
        out[name] = torch.cat([e[band] for e in errors]).masked_fill(~masked, torch.nan)
    out = {name: value.numpy() for name, value in out.items()}
    absolute = losses(high_l1=True)
    return {
        **out,
        **losses(),
        **{f"{name}_l1": absolute[name] for name in ("err", "loss", "high")},
        **{f"{name}_res1": value for name, value in losses(res=1.0).items() if name in ("err", "loss")},
        **{f"{name}_kornia": value for name, value in losses(aligned=True).items()},
        "loss_l1_kornia": losses(aligned=True, high_l1=True)["loss"],
    }


def _patches(image_bcyx: torch.Tensor, grid: int) -> torch.Tensor:
    """Return (b, patches, c, p, p)."""
    side = image_bcyx.shape[-1] // grid
    return patchify(image_bcyx, side, "cpq").unflatten(-1, (-1, side, side))
