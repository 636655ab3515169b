"""Presto: every pixel a time series of its own, masked and filled in again.

Tseng et al. 2023, "Lightweight, Pre-trained Transformers for Remote Sensing Timeseries", arXiv:2304.14065.
Upstream: github.com/nasaharvest/presto at 13173d028f03. Code and weights: MIT.

A token is one band group of one frame of one pixel; a pixel never sees its neighbours. Pretraining hides three quarters
of the tokens of twelve monthly frames, and a decoder fills in their values. The loss of a pixel is the mean squared
error over the hidden values, exact; that of a chip is the mean over its pixels, all of which are masked alike. Upstream
adds a cross entropy of hidden Dynamic World classes, which chips do not have: it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geoelle.errors import InputMismatch
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    draw_weights,
    months_of,
    ndvi,
    on_meta,
)
from geoelle.models.presto_net import CHANNELS, LAND_COVER, PrestoConfig, PrestoNet, Series
from geoelle.models.weights import Remote, digest, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["CARDS", "CHANNELS", "CONFIGS", "GROUPS", "Presto", "PrestoConfig", "PrestoNet", "load", "make", "read"]

GROUPS: dict[str, tuple[str, ...]] = {
    "S1": ("vv", "vh"),
    "S2_RGB": ("blue", "green", "red"),
    "S2_Red_Edge": ("rededge1", "rededge2", "rededge3"),
    "S2_NIR_10m": ("nir",),
    "S2_NIR_20m": ("nir08",),
    "S2_SWIR": ("swir16", "swir22"),
    "NDVI": ("red", "nir"),
}
"""The groups that chips can have, by their bands; NDVI is derived from its two."""
BANDS = tuple(band for name, bands in GROUPS.items() for band in bands if name != "NDVI")
S1_SHIFT = S1_SCALE = 25.0
"""Decibels enter as (x + 25) / 25, reflectance as it is."""
CHUNK_TOKENS = {"cpu": 8_192, "cuda": 1_048_576}
"""Tokens through the network at once, by kind of device (others as cpu): bounds memory, not results."""


CONFIGS = {"presto": PrestoConfig()}


class Presto(Adapter):
    """The adapter: each pixel of a chip is a series; masks are of frames and band groups, the same for all of them."""

    net: PrestoNet

    def series(self, chips: Chips) -> Series:
        """Return the pixels of the chips, chip by chip, row-major, north-up."""
        bands = [band for band in BANDS if band in chips.bands]
        pixels = dict(zip(bands, self.pixels(chips, bands).unbind(2), strict=True))
        months = torch.from_numpy(months_of(chips.times_bt, self.card.name)).to(self.device)
        names = [list(GROUPS)[i] for i in self.card.groups_of(bands)]
        each = self.card.chip_px**2
        return Series(
            values={name: _group(name, pixels).permute(0, 3, 4, 1, 2).flatten(0, 2).float() for name in names},
            months_nt=months.repeat_interleave(each, dim=0),
            place_n3=_place(torch.from_numpy(chips.lonlat_b2).to(self.device)).repeat_interleave(each, dim=0),
        )

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return pixel tokens (b, y, x, dim): each pixel's own embedding."""
        series = self.series(chips)
        frames, groups = chips.shape[1], len(series.values)
        chunks = _chunks(len(series), 1 + frames * groups, self.device)
        vectors = torch.cat([self.net.embed(series[rows]) for rows in chunks])
        return Tokens(patch_bhwd=vectors.view(len(chips), *[self.card.grid] * 2, -1))

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective; `hidden` is (b, t, g), and every chip must hide the same count.

        A group of three bands weighs three times as much as one of one band. The error of a token is its share: its
        sum of squares times the chip's hidden tokens over its hidden values, so that the mean over a pixel's tokens is
        the loss of that pixel.

        Raises: InputMismatch (nothing is hidden: one frame of one group).
        """
        series = self.series(chips)
        if not hidden.any():
            raise InputMismatch(
                f"{self.card.name} fills in hidden frames and band groups, and one frame of one group leaves none to "
                "hide; give chips of more frames or bands"
            )
        each, frames, names = self.card.chip_px**2, chips.shape[1], list(series.values)
        seen, masked = self.split(chips, hidden, visible)
        seen = seen.repeat_interleave(each, dim=0)
        chunks = _chunks(len(series), frames * (LAND_COVER + 1), self.device)
        error_ntg = torch.cat([self._squares(series[rows], seen[rows]) for rows in chunks])
        width = torch.tensor([CHANNELS[name] for name in names], device=self.device)
        values_b = width[masked % len(names)].sum(dim=1)
        share_b = masked.shape[1] / values_b
        error = error_ntg.unflatten(0, (len(chips), each)) * share_b[:, None, None, None]
        shown = torch.from_numpy(~hidden).to(self.device)
        error = error.masked_fill(shown[:, None], torch.nan).permute(0, 2, 3, 1)
        error = error.unflatten(-1, (self.card.grid, self.card.grid))
        total = error.flatten(1).nanmean(dim=1)
        return Loss(total_b=total, terms={"eo": total}, error=error)

    def _squares(self, series: Series, seen_nv: Tensor) -> Tensor:
        """Return (n, t, g): the sum of squared errors of every token, seen or not."""
        predicted = self.net.reconstruct(self.net.decode(series, seen_nv), list(series.values))
        squares = [(predicted[name].float() - truth).square().sum(dim=-1) for name, truth in series.values.items()]
        return torch.stack(squares, dim=-1)


def _chunks(count: int, tokens: int, device: torch.device) -> Iterator[slice]:
    step = max(CHUNK_TOKENS.get(device.type, CHUNK_TOKENS["cpu"]) // tokens, 1)
    return (slice(i, i + step) for i in range(0, count, step))


def _place(lonlat_n2: Tensor) -> Tensor:
    """Return (n, 3) float32: the unit vector of a longitude and latitude in degrees."""
    lon, lat = lonlat_n2.deg2rad().unbind(dim=1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=1).float()


def _group(name: str, pixels: Mapping[str, Tensor]) -> Tensor:
    """Return (b, t, c, y, x): the channels of a group, normalised, from (b, t, y, x) float64 pixels by band."""
    if name == "NDVI":
        return ndvi(pixels["nir"], pixels["red"])[:, :, None]
    values = torch.stack([pixels[band] for band in GROUPS[name]], dim=2)
    return (values + S1_SHIFT) / S1_SCALE if name == "S1" else values


UPSTREAM_FILE = "default_model.pt"
"""The name the same bytes have in upstream's own repository."""
_FILES = (
    Remote(
        repo="torchgeo/presto",
        file="model-bfa691d3.pth",
        revision="40de9c69b1611bb11de7b572cf3d24bb60cb8c82",
        sha256="559c9d76f525bdf2dd3774da8b1e7f1510769b73baacac12e9e4d8d5c67fbe65",
        bytes=3_321_716,
    ),
)


def _card(name: str, config: PrestoConfig) -> Card:
    return Card(
        name=name,
        title="Presto, a masked autoencoder of pixel time series",
        dim=config.dim,
        patch_px=1,
        chip_px=config.chip_px,
        stride_px=config.chip_px,
        gsd_m=(10.0, 10.0),
        bands=BANDS,
        band_subset=True,
        groups=tuple(GROUPS.values()),
        frames=(1, config.frames),
        objective="masked mean squared error",
        unit="MSE over hidden values: reflectance, NDVI, and decibels by 25",
        mask_ratio=config.hidden_ratio,
        mask_axes=("t", "g"),
        needs=("time", "lonlat"),
        reading="High: what is hidden of a pixel's bands and dates does not follow from the rest: unusual or bright "
        "surfaces, change, cloud. Low: familiar land cover, and dark ground, whose errors are small in reflectance.",
        code_licence="MIT",
        weights_licence="MIT",
        files=_FILES,
        source="github.com/nasaharvest/presto 13173d028f03 (presto/presto.py, train.py)",
        citation="Tseng et al. 2023, Lightweight, Pre-trained Transformers for Remote Sensing Timeseries, "
        "arXiv:2304.14065",
        deviations=(
            "a chip is its pixels, each encoded alone; neighbours do not overlap, for they would share nothing",
            "weather, terrain and land cover are absent, as masked groups are in pretraining; every pixel has the "
            "place of its chip's centre",
            "the cross entropy of hidden Dynamic World classes is left out: chips have none",
            "masks are of random frames and groups, one of upstream's four kinds, and alike for all pixels of a chip",
            "pretrained on twelve monthly frames; one date is legal, and thin",
            "the file is torchgeo's copy of upstream's data/default_model.pt, the same bytes",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


def make(name: str, config: PrestoConfig, *, seed: int = 0) -> Presto:
    """Return an untrained network of any shape."""
    net = on_meta(lambda: PrestoNet(config))
    draw_weights(net, seed)
    return Presto(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> Presto:
    """Load the published weights: a file, or a folder that holds it under its name here or upstream.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    return read(name, CONFIGS[name], weights)


def read(name: str, config: PrestoConfig, weights: str | None = None) -> Presto:
    """Load weights of this shape.

    Raises: WeightsError.
    """
    if weights is not None and (inside := Path(weights) / UPSTREAM_FILE).is_file():
        weights = str(inside)
    (path,) = local_files(name, _FILES, weights).values()
    net = on_meta(lambda: PrestoNet(config))
    state = state_of(read_checkpoint(path), name=path.name)
    hints = {r"^space_time_embed\.": "an encoder of Galileo"}
    load_strict(net, state, name=path.name, ignore=PrestoNet.IGNORED, hints=hints)
    return Presto(net, _card(name, config), digest([path]))
