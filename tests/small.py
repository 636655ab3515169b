"""Every model, small enough to run anywhere: the real network and the real adapter with a few thousand weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models import MODELS, Model, load_model, module_of
from geoelle.models.base import Card

_PRITHVI = {"dim": 32, "depth": 2, "heads": 4, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 4, "patch_px": 8}

SMALLER: dict[str, dict] = {
    "fgmae.s2-base": {
        "dim": 48, "depth": 1, "heads": 3, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 4,
    },
    "scalemae.large": {
        "dim": 64, "depth": 2, "heads": 4, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 4,
        "head_dim": 16, "head_depth": 1, "chip_px": 192,
    },
    "clay.v1.5": {
        "chip_px": 64, "dim": 48, "depth": 2, "heads": 3, "dim_head": 16, "decoder_dim": 40, "decoder_depth": 1,
        "decoder_heads": 2, "decoder_dim_head": 16, "wave_dim": 32, "wave_tokens": 16, "wave_heads": 2,
        "wave_mlp_dim": 64, "teacher_dim": 48, "teacher_depth": 1, "teacher_heads": 3, "teacher_px": 56,
    },
    "dinov2.base": {"dim": 48, "depth": 2, "heads": 3, "chip_px": 56, "table_px": 70},
    "dinov3.sat-large": {"dim": 64, "depth": 2, "heads": 4, "chip_px": 64},
    "dofa.v1-base": {
        "dim": 64, "depth": 3, "heads": 4, "chip_px": 64, "table_px": 64, "wave_hidden": 256, "teacher_depth": 3,
        "teacher_heads": 4,
    },
    "dofa.v1-large": {"dim": 64, "depth": 3, "heads": 4, "chip_px": 64, "table_px": 64, "wave_hidden": 256},
    "galileo.nano": {"dim": 48, "depth": 2, "heads": 2, "decoder_depth": 1, "chip_px": 16},
    "olmoearth.v1-nano": {"dim": 32, "depth": 2, "heads": 4, "decoder_depth": 1},
    "prithvi.v1-100m": {**_PRITHVI, "chip_px": 32, "table_px": 32},
    "prithvi.v2-600m": {**_PRITHVI, "patch_px": 14, "chip_px": 56, "table_px": 70},
    "prithvi.v2-tiny-tl": {**_PRITHVI, "chip_px": 32, "table_px": 32},
    "presto": {"dim": 32, "depth": 1, "heads": 2, "decoder_dim": 32, "decoder_depth": 1, "chip_px": 8},
    "remoteclip.vit-l-14": {"dim": 48, "depth": 2, "heads": 3, "out_dim": 24, "chip_px": 56},
    "satclip.vit16-l40": {"dim": 48, "depth": 2, "heads": 3, "chip_px": 64, "out_dim": 16, "degrees": 6, "bank": 64},
    "satmae.base": {
        "dim": 64, "depth": 2, "heads": 4, "channel_dim": 16, "chip_px": 32,
        "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4, "decoder_channel_dim": 8,
    },
    "vitmae.base": {
        "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128, "chip_px": 64,
        "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4, "decoder_mlp_dim": 64,
    },
}  # fmt: skip
"""Model -> what its published config is changed to. Models that are not named here stand in for by a sibling."""


def small(name: str, seed: int = 0) -> Model:
    """Return an untrained, small model; nano as it is."""
    if name == "nano":
        return load_model("nano")
    module = module_of(name)
    return module.make(name, replace(module.CONFIGS[name], **SMALLER[name]), seed=seed)


def names() -> list[str]:
    """Return the models to test: nano and every one that can be made small."""
    return ["nano", *SMALLER]


def families() -> set[str]:
    """Return the modules that hold models."""
    return set(MODELS.values())


def make_chips(
    card: Card, n: int = 8, bands: tuple[str, ...] | None = None, frames: int | None = None, seed: int = 0
) -> Chips:
    """Return chips of smooth random ground, in reflectance or decibels, for as few frames as the model takes."""
    bands, frames = bands or _usual_bands(card), frames or card.frames[0]
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(2.0, 0.06, (n, frames, len(bands), 8, 8)).astype(np.float32)
    size = -(-card.chip_px // 8)
    pixels = np.kron(coarse, np.ones((size, size), np.float32))[..., : card.chip_px, : card.chip_px]
    pixels = pixels + rng.normal(0, 0.005, pixels.shape).astype(np.float32)
    for i, band in enumerate(bands):
        if band in ("vv", "vh"):
            pixels[:, :, i] = 40 * pixels[:, :, i] - 20
    lattice = Lattice(epsg=32618, gsd_m=card.gsd_m[0], size_px=card.chip_px, stride_px=card.stride_px)
    addresses = Addresses(lattice=lattice, rows=np.full(n, -2_600), cols=np.arange(n) + 260)
    times = np.datetime64("2016-07-01T10:30:00", "s") + 30 * 86_400 * np.arange(frames)
    sensor = "sentinel-1-rtc" if "vv" in bands and "red" not in bands else "sentinel-2-l2a"
    return Chips(
        pixels_btcyx=np.ascontiguousarray(pixels), addresses=addresses, times_bt=np.tile(times, (n, 1)),
        lonlat_b2=np.tile([-75.6, 37.7], (n, 1)), bands=bands, items=(("item",),) * n, sensor=sensor,
    )  # fmt: skip


def _usual_bands(card: Card) -> tuple[str, ...]:
    """Return the bands of one sensor: the optical ones where there are any."""
    return tuple(b for b in card.bands if b not in ("vv", "vh", "sur_refl_b05")) or card.bands
