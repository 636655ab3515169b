"""Prithvi against upstream: every array of `prithvi_*.npz`, through the adapter where it gives that array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models import prithvi
from geoelle.models.networks import on_meta, split_order
from geoelle.models.prithvi import Prithvi, PrithviConfig, PrithviNet, Where
from geoelle.models.prithvi_net import place_table
from geoelle.models.weights import load_strict

INPUTS = {"mask", "mask_joint"}
TOLERANCES = {
    "model_input": 2e-6, "temporal_coords": 0, "location_coords": 0, "pos_embed": 2e-6, "native_pos_embed": 2e-6,
    "err": 5e-6, "native_err": 5e-6, "t1_err": 5e-6, "loss": 5e-6, "native_loss": 5e-6, "t1_loss": 5e-6,
    "cls": 2e-5, "native_cls": 2e-5, "t1_cls": 2e-5, "pred": 1e-5, "patch_embed": 1e-5, "": 6e-5,
}  # fmt: skip
NAMES = {"B02": "blue", "B03": "green", "B04": "red", "B8A": "nir08", "B11": "swir16", "B12": "swir22"}


def config_of(config: dict, frames: int) -> PrithviConfig:
    """Return our config; statistics are listed as the bands are."""
    names = [NAMES[band] for band in config["bands"]]
    mean, std = (tuple(config[key][names.index(band)] for band in prithvi.BANDS) for key in ("mean", "std"))
    return PrithviConfig(
        dim=config["embed_dim"], depth=config["depth"], heads=config["num_heads"],
        patch_px=config["patch_size"][-1], chip_px=config["chip_px"], table_px=config["img_size"], frames=frames,
        decoder_dim=config["decoder_embed_dim"], decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"], mlp_ratio=config["mlp_ratio"], norm_eps=config["layernorm_eps"],
        mask_ratio=config["mask_ratio"], coordinates=config["tl"], mean=mean, std=std,
    )  # fmt: skip


def adapter_of(config: PrithviConfig, weights: dict[str, np.ndarray]) -> Prithvi:
    net = on_meta(lambda: PrithviNet(config))
    load_strict(net, {k: torch.from_numpy(v) for k, v in weights.items()}, name="golden", ignore=net.IGNORED)
    return Prithvi(net, prithvi._card("prithvi.v2-300m", config), "golden")


def chips_of(config: dict, arrays: dict[str, np.ndarray], frames: int) -> Chips:
    pixels = arrays["pixels_btcyx"][:, :frames]
    n, size = len(pixels), config["chip_px"]
    lattice = Lattice(epsg=32618, gsd_m=30, size_px=size, stride_px=size)
    return Chips(
        pixels_btcyx=pixels, addresses=Addresses(lattice=lattice, rows=np.zeros(n, int), cols=np.arange(n)),
        times_bt=arrays["times_bt"][:, :frames].astype("datetime64[s]"), lonlat_b2=arrays["lonlat_b2"],
        bands=tuple(NAMES[band] for band in config["bands"]), items=(("item",),) * n,
    )  # fmt: skip


def tokens_of(model: Prithvi, chips: Chips, where: Where) -> tuple[np.ndarray, np.ndarray]:
    """Return CLS and tokens (b, t, h, w, d)."""
    with torch.inference_mode():
        x = model.net.encoder(model.normalised(chips), where).numpy()
    grid = model.card.grid
    return x[:, 0], x[:, 1:].reshape(len(x), -1, grid, grid, x.shape[-1])


def loss_of(model: Prithvi, chips: Chips, where: Where, hidden: np.ndarray) -> np.ndarray:
    """Return (b,): the objective with other coordinates than the adapter gives."""
    with torch.inference_mode():
        return model.net.errors(model.normalised(chips), where, *split_order(hidden, model.device)).mean(dim=1).numpy()


def table_of(config: PrithviConfig, frames: int) -> np.ndarray:
    """Return the position table, the zero row of CLS first."""
    table = place_table(config.dim, frames, config.grid, config.table_grid, torch.device("cpu"))[0].numpy()
    return np.concatenate([np.zeros_like(table[:1]), table])


def compute(config: dict, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every array of the golden, computed here."""
    frames = arrays["pixels_btcyx"].shape[1]
    ours = config_of(config, frames)
    model, chips = adapter_of(ours, weights), chips_of(config, arrays, frames)
    where, grid = model.where(chips), ours.grid
    hidden = np.repeat(arrays["mask"][:, None], frames, axis=1)

    encoded, (_, tokens) = model.encode(chips), tokens_of(model, chips, where)
    np.testing.assert_allclose(encoded.patch_bhwd.numpy(), tokens.mean(axis=1), atol=1e-6)
    x = model.normalised(chips)
    with torch.inference_mode():
        seen, masked = split_order(hidden, model.device)
        pred = model.net.predict(x, where, seen, masked).numpy()
        first = model.net.encoder.patch_embed(x[:1]).numpy().reshape(1, frames, grid, grid, -1)
    at = [np.searchsorted(m, i) for m, i in zip(masked.numpy(), arrays["pred_index"], strict=True)]
    loss, joint = model.loss(chips, hidden), model.loss(chips, arrays["mask_joint"])
    found = {
        "model_input": x.numpy(), "patch_embed": first, "pos_embed": table_of(ours, frames),
        "cls": encoded.summary_bd.numpy(), "tokens": tokens,
        "err": loss.error_bhw.numpy(), "err_thw": loss.error.numpy(), "loss": loss.total_b.numpy(),
        "err_joint": joint.error.numpy(), "loss_joint": joint.total_b.numpy(),
        "pred_first2": np.stack([p[i] for p, i in zip(pred, at, strict=True)]),
    }  # fmt: skip

    native = adapter_of(replace(ours, table_px=ours.chip_px), weights)
    encoded, loss = native.encode(chips), native.loss(chips, hidden)
    found |= {
        "native_pos_embed": table_of(native.net.config, frames), "native_cls": encoded.summary_bd.numpy(),
        "native_tokens_first": tokens_of(native, chips[:1], native.where(chips[:1]))[1],
        "native_err_thw": loss.error.numpy(), "native_loss": loss.total_b.numpy(),
    }  # fmt: skip

    one = chips_of(config, arrays, 1)
    encoded, loss = model.encode(one), model.loss(one, hidden[:, :1])
    found |= {
        "t1_cls": encoded.summary_bd.numpy(), "t1_tokens": encoded.patch_bhwd.numpy()[:, None],
        "t1_err": loss.error_bhw.numpy(), "t1_loss": loss.total_b.numpy(),
    }  # fmt: skip
    return found | (_coordinates(model, weights, chips, hidden) if ours.coordinates else {})


def _coordinates(model: Prithvi, weights: dict, chips: Chips, hidden: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is stored for models that code date and place: both, neither, one, the other order."""
    where, swapped = model.where(chips), adapter_of(replace(model.net.config, location_order="latlon"), weights)
    nothing, other = tokens_of(model, chips, Where()), swapped.encode(chips)
    return {
        "temporal_coords": where.dates_bt2.numpy(), "location_coords": where.location_b2.numpy().astype(np.float32),
        "cls_nometa": nothing[0], "tokens_nometa_first": nothing[1][:1],
        "loss_nometa": loss_of(model, chips, Where(), hidden),
        "cls_latlon_order": other.summary_bd.numpy(),
        "tokens_latlon_order_first": tokens_of(swapped, chips[:1], swapped.where(chips[:1]))[1],
        "loss_latlon_order": swapped.loss(chips, hidden).total_b.numpy(),
        "cls_time_only": tokens_of(model, chips, Where(dates_bt2=where.dates_bt2))[0],
    }  # fmt: skip
