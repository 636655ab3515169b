"""OlmoEarth v1: every array of its goldens, through the adapter where one corresponds to it."""

import re
from dataclasses import replace

import numpy as np
import torch

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models.networks import months_of, on_meta, split_order
from geoelle.models.olmoearth import CONFIGS, GROUPS, OlmoEarth, OlmoEarthConfig, OlmoEarthNet, _card
from geoelle.models.weights import load_strict

INPUTS = {"mask", "mask_joint"}
TOLERANCES = {"timestamps": 0, "model_input": 2e-6, "err": 5e-6, "loss": 5e-6, "": 1e-5}
NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip


def shape_of(config: dict) -> OlmoEarthConfig:
    """Return the network's shape: from the tensors what they tell, the rest as published."""
    shapes, published = config["shapes"], CONFIGS[f"olmoearth.{config['model'].removeprefix('olmoearth-')}"]
    dim = shapes["encoder.norm.weight"][0]

    def depth(part: str) -> int:
        return 1 + max(int(found[1]) for key in shapes if (found := re.match(rf"{part}\.blocks\.(\d+)\.", key)))

    return replace(
        published, dim=dim, depth=depth("encoder"), decoder_depth=depth("decoder"),
        heads=config.get("heads", published.heads), patch_px=config["patch"], chip_px=config["chip_px"],
        mlp_ratio=shapes["encoder.blocks.0.mlp.fc1.weight"][0] / dim, temperature=config["tau"],
    )  # fmt: skip


def chips_of(config: dict, arrays: dict[str, np.ndarray]) -> Chips:
    pixels, times = arrays["pixels_btcyx"], arrays["times_bt"].astype("datetime64[s]")
    size = config["chip_px"]
    lattice = Lattice(epsg=32618, gsd_m=config["input_res"], size_px=size, stride_px=size)
    return Chips(
        pixels_btcyx=pixels, addresses=Addresses(lattice=lattice, rows=np.arange(len(pixels)), cols=[0] * len(pixels)),
        times_bt=times, lonlat_b2=arrays.get("lonlat_b2", np.zeros((len(pixels), 2))),
        bands=tuple(NAMES[band] for band in config["bands"]), items=(("item",),) * len(pixels), sensor="sentinel-2-l2a",
    )  # fmt: skip


def upstream_order(tokens_btghw: torch.Tensor) -> np.ndarray:
    """Return (b, h, w, t, g, ...): frames and band sets last, as the goldens have them."""
    return np.moveaxis(tokens_btghw.numpy(), (1, 2), (3, 4))


def hidden_of(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return bool (b, t, g, h, w) from a mask of places (b, h, w) or of tokens (b, h, w, t, g)."""
    if mask.ndim == 3:
        return np.broadcast_to(mask[:, None, None], shape).copy()
    return np.moveaxis(mask, (3, 4), (1, 2)).copy()


@torch.inference_mode()
def compute(config: dict, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shape = shape_of(config)
    net = on_meta(lambda: OlmoEarthNet(shape))
    state = {key: torch.from_numpy(value) for key, value in weights.items()}
    load_strict(net, state, name=config["model"], ignore=net.IGNORED)
    model = OlmoEarth(net, _card(f"olmoearth.{config['model'].removeprefix('olmoearth-')}", shape), "stand-in")
    chips, card = chips_of(config, arrays), model.card
    inputs, first = model.inputs(chips), model.inputs(chips[:1])
    sizes = card.mask_shape(chips)
    days = chips.times_bt.astype("datetime64[D]")
    day = (days - days.astype("datetime64[M]").astype("datetime64[D]")).astype(int) + 1
    year = days.astype("datetime64[Y]").astype(int) + 1970

    tokens = model.encode(chips).patch_bhwd
    hidden = hidden_of(arrays["mask"], (len(chips), *sizes))
    seen, masked = split_order(hidden, torch.device("cpu"))
    loss = model.loss(chips, hidden)
    joint = model.loss(chips, hidden_of(arrays["mask_joint"], hidden.shape))
    absent = GROUPS[int(re.search(r"band set (\d+) = MISSING", config["missing_case"])[1])]
    fewer = model.encode(chips.select_bands([band for band in chips.bands if band not in absent])).patch_bhwd

    h, w, t, g = np.moveaxis(arrays["pred_index"], -1, 0)
    flat = np.ravel_multi_index((t, g, h, w), sizes)
    predicted = net.predict(inputs, seen, masked)
    place = np.array([[int((row == i).nonzero()) for i in wanted] for row, wanted in zip(masked, flat, strict=True)])
    return {
        "timestamps": np.stack([day, months_of(chips.times_bt, "golden"), year], axis=-1),
        "model_input": np.moveaxis(inputs.pixels_btcyx.numpy(), (1, 2), (3, 4)),
        "patch_embed_first": upstream_order(net.encoder.patch_embeddings(first)),
        "target_first": upstream_order(net.target_encoder.patch_embeddings(first)),
        "tokens": tokens.numpy(),
        "tokens_full_first": upstream_order(net.encode(first).unflatten(1, sizes)),
        "summary": tokens.mean(dim=(1, 2)).numpy(),
        "err": loss.error_bhw.numpy(),
        "err_hwts": upstream_order(loss.error),
        "loss": loss.total_b.numpy(),
        "err_joint": upstream_order(joint.error),
        "loss_joint": joint.total_b.numpy(),
        "pred_pick": predicted.numpy()[np.arange(len(place))[:, None], place],
        "latent_masked_mean": net.encode(inputs, seen).mean(dim=1).numpy(),
        "missing_tokens": fewer.numpy(),
        "missing_summary": fewer.mean(dim=(1, 2)).numpy(),
    }
