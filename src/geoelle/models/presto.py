"""Presto: every pixel a time series of its own, masked and filled in again.

Tseng et al. 2023, "Lightweight, Pre-trained Transformers for Remote Sensing Timeseries", arXiv:2304.14065.
Upstream: github.com/nasaharvest/presto at 13173d028f03. Code and weights: MIT.

A token is one band group of one frame of one pixel; a pixel never sees its neighbours. Pretraining hides three quarters
of the tokens of twelve monthly frames, and a decoder fills in their values. The loss of a pixel is the mean squared
error over the hidden values, exact; that of a chip is the mean over its pixels, all of which are masked alike. Upstream
adds a cross entropy of hidden Dynamic World classes, which chips do not have: it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from geoelle.errors import InputMismatch
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    blocks,
    draw_weights,
    fill_masked,
    gather_tokens,
    month_codes,
    months_of,
    ndvi,
    on_meta,
)
from geoelle.models.weights import Remote, digest, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["CARDS", "CHANNELS", "CONFIGS", "GROUPS", "Presto", "PrestoConfig", "PrestoNet", "load", "make", "read"]

CHANNELS = {
    "S1": 2,
    "S2_RGB": 3,
    "S2_Red_Edge": 3,
    "S2_NIR_10m": 1,
    "S2_NIR_20m": 1,
    "S2_SWIR": 2,
    "ERA5": 2,
    "SRTM": 2,
    "NDVI": 1,
}
"""Every group of values the network knows, and its channels, in the order of the group codes."""
LAND_COVER = len(CHANNELS)
"""Where the Dynamic World class stands in that order: last."""
LAND_COVER_CLASSES = 9
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


@dataclass(frozen=True, kw_only=True)
class PrestoConfig:
    """Fix the shape of the network and the objective."""

    dim: int = 128
    depth: int = 2
    heads: int = 8
    decoder_dim: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 8
    mlp_ratio: int = 4
    frames: int = 24
    chip_px: int = 16
    hidden_ratio: float = 0.75

    @property
    def group_dim(self) -> int:
        """Return the width of a group's code, a quarter of the encoder's in both networks."""
        return self.dim // 4


CONFIGS = {"presto": PrestoConfig()}


@dataclass(frozen=True, kw_only=True)
class Series:
    """Hold n pixels: values by group (n, t, c), normalised, months (n, t), and where they are (n, 3), a unit vector."""

    values: dict[str, Tensor]
    months_nt: Tensor
    place_n3: Tensor

    def __len__(self) -> int:
        return len(self.months_nt)

    def __getitem__(self, rows: slice) -> Series:
        values = {name: value[rows] for name, value in self.values.items()}
        return Series(values=values, months_nt=self.months_nt[rows], place_n3=self.place_n3[rows])


@lru_cache(maxsize=64)
def _frame_codes(dim: int, frames: int, device: torch.device) -> Tensor:
    """Return (t, dim): sines and cosines of the frame's number in turn, with wavelengths up to 1,000 x 2 pi."""
    with torch.inference_mode(False):
        rate = 1000.0 ** (-2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
        angle = torch.arange(frames, dtype=torch.float64)[:, None] * rate
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float().to(device)


def _codes(group_codes: nn.Embedding, rows: Sequence[int], months_nt: Tensor, width: int, month_dim: int) -> Tensor:
    """Return (n, t, g, width): the codes of month, group and frame side by side."""
    n, t = months_nt.shape
    device, groups = months_nt.device, group_codes.weight[list(rows)]
    parts = (
        month_codes(month_dim, device)[months_nt][:, :, None],
        groups[None, None],
        _frame_codes(width - month_dim - groups.shape[1], t, device)[None, :, None],
    )
    return torch.cat([part.expand(n, t, len(groups), -1) for part in parts], dim=-1)


class Encoder(nn.Module):
    """Encode what is seen of a pixel, and where it lies."""

    def __init__(self, config: PrestoConfig) -> None:
        super().__init__()
        dim = config.dim
        self.eo_patch_embed = nn.ModuleDict({name: nn.Linear(count, dim) for name, count in CHANNELS.items()})
        self.dw_embed = nn.Embedding(LAND_COVER_CLASSES + 1, dim)
        self.latlon_embed = nn.Linear(3, dim)
        self.channel_embed = nn.Embedding(len(CHANNELS) + 1, config.group_dim)
        self.blocks = blocks(dim, config.heads, config.depth, mlp_ratio=config.mlp_ratio, eps=1e-5)
        self.norm = nn.LayerNorm(dim)

    def forward(self, series: Series, seen_nv: Tensor | None = None) -> Tensor:
        """Return (n, 1 + v, d) before the last norm: the place, then what is seen (all without `seen_nv`, t x g)."""
        tokens = torch.stack([self.eo_patch_embed[name](value) for name, value in series.values.items()], dim=2)
        dim, quarter = tokens.shape[-1], self.channel_embed.embedding_dim
        codes = _codes(self.channel_embed, _rows(series.values), series.months_nt, dim, quarter)
        tokens = (tokens + codes).flatten(1, 2)
        if seen_nv is not None:
            tokens = gather_tokens(tokens, seen_nv)
        x = torch.cat([self.latlon_embed(series.place_n3)[:, None], tokens], dim=1)
        return self.blocks(x)


class Decoder(nn.Module):
    """Fill in every token of every group, whether chips have the group or not."""

    def __init__(self, config: PrestoConfig, group_codes: nn.Embedding) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.decoder_embed = nn.Linear(config.dim, dim)
        self.channel_embeddings = group_codes  # the encoder's own: the file holds it twice
        self.decoder_blocks = blocks(
            dim, config.decoder_heads, config.decoder_depth, mlp_ratio=config.mlp_ratio, eps=1e-5
        )
        self.decoder_norm = nn.LayerNorm(dim)
        self.eo_decoder_pred = nn.ModuleDict({name: nn.Linear(dim, count) for name, count in CHANNELS.items()})
        self.dw_decoder_pred = nn.Linear(dim, LAND_COVER_CLASSES)

    def forward(self, encoded_nvd: Tensor, months_nt: Tensor, seen_nv: Tensor) -> Tensor:
        """Return (n, t, 10, d): decoded tokens of every group and of land cover.

        `seen_nv` says which of t x 10 the encoder saw; `encoded_nvd` begins with the place. Terrain is one token for
        all frames, without month and frame.
        """
        n, t = months_nt.shape
        encoded = self.decoder_embed(encoded_nvd)
        groups, dim, group_dim = LAND_COVER + 1, encoded.shape[-1], self.channel_embeddings.embedding_dim
        tokens = fill_masked(encoded[:, 1:], seen_nv, self.mask_token, t * groups)
        codes = _codes(self.channel_embeddings, range(groups), months_nt, dim, (dim - group_dim) // 2)
        terrain = list(CHANNELS).index("SRTM")
        codes[:, 0, terrain, : (dim - group_dim) // 2] = 0
        codes[:, 0, terrain, (dim + group_dim) // 2 :] = 0
        kept = torch.ones(t, groups, dtype=torch.bool, device=tokens.device)
        kept[1:, terrain] = False
        kept = kept.flatten()
        x = torch.cat([encoded[:, :1], (tokens + codes.flatten(1, 2))[:, kept]], dim=1)
        x = self.decoder_norm(self.decoder_blocks(x)[:, 1:])
        out = x.new_zeros(n, t * groups, dim)
        out[:, kept] = x
        out = out.unflatten(1, (t, groups))
        out[:, 1:, terrain] = out[:, :1, terrain]
        return out


class PrestoNet(nn.Module):
    """Encoder and decoder, with the keys of the published file."""

    IGNORED = r"^(en|de)coder\.(pos_embed|month_embed\.weight)$"

    def __init__(self, config: PrestoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, self.encoder.channel_embed)

    def embed(self, series: Series) -> Tensor:
        """Return (n, d): the embedding of each pixel."""
        return self.encoder.norm(self.encoder(series).mean(dim=1))

    def decode(self, series: Series, seen_nv: Tensor) -> Tensor:
        """Return (n, t, 10, d): every token decoded from those at `seen_nv` (of t x the groups there are)."""
        rows = torch.tensor(_rows(series.values), device=seen_nv.device)
        frame, group = seen_nv // len(rows), rows[seen_nv % len(rows)]
        encoded = self.encoder.norm(self.encoder(series, seen_nv))
        return self.decoder(encoded, series.months_nt, frame * (LAND_COVER + 1) + group)

    def reconstruct(self, decoded: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return (n, t, c) by group: the values predicted."""
        heads = self.decoder.eo_decoder_pred
        return {name: heads[name](decoded[:, :, list(CHANNELS).index(name)]) for name in names}


def _rows(names: Mapping[str, object]) -> list[int]:
    return [list(CHANNELS).index(name) for name in names]


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
