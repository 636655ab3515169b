"""The network of Prithvi-EO, keys as published: encoder and decoder over frames and places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.networks import (
    blocks,
    fill_masked,
    gather_tokens,
    patchify,
    sincos_1d,
    sincos_2d,
)

__all__ = ["BANDS", "CoordinateCode", "PrithviConfig", "PrithviNet", "Where", "place_table"]

BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
"""Upstream numbers them as Landsat does in HLS, B02 to B07; of Sentinel-2 they are B02, B03, B04, B8A, B11, B12."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrithviConfig:
    """Fix the shape of a network, what it was trained on, and how coordinates enter it."""

    dim: int
    depth: int
    heads: int
    patch_px: int = 16
    chip_px: int = 224
    table_px: int = 224
    """Chip size that the position table is made for; the table is resized to another `chip_px`, as upstream does."""
    frames: int = 4
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    mask_ratio: float = 0.75
    coordinates: bool = False
    """Whether year, day of the year and location are coded: the `-tl` models."""
    location_order: str = "lonlat"
    """`lonlat` or `latlon`: which comes first in the code of the location."""
    mean: tuple[float, ...] = (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0)
    std: tuple[float, ...] = (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)

    @property
    def grid(self) -> int:
        return self.chip_px // self.patch_px

    @property
    def table_grid(self) -> int:
        return self.table_px // self.patch_px


@lru_cache(maxsize=64)
def place_table(dim: int, frames: int, grid: int, trained_grid: int, device: torch.device) -> Tensor:
    """Return (1, frames * grid * grid, dim) float32: fixed codes of column, row and frame; that of CLS is zero.

    Six sixteenths of the width each for column and row, four for the frame. For a grid other than `trained_grid` the
    trained one is resized bicubically, corner on corner.
    """
    with torch.inference_mode(False):
        side = torch.arange(trained_grid)
        plane = sincos_2d(side, side, 12 * dim // 16)[None].expand(frames, -1, -1)
        time = sincos_1d(torch.arange(frames), 4 * dim // 16)[:, None].expand(-1, trained_grid**2, -1)
        table = torch.cat([plane, time], dim=-1).float()
        if grid != trained_grid:
            planes = table.view(frames, trained_grid, trained_grid, dim).permute(0, 3, 1, 2)
            planes = F.interpolate(planes, size=(grid, grid), mode="bicubic", align_corners=True)
            table = planes.permute(0, 2, 3, 1)
        return table.reshape(1, frames * grid * grid, dim).to(device)


class Where(NamedTuple):
    """What is known of date and place of each chip; None is how upstream trained for the absence of either."""

    dates_bt2: Tensor | None = None
    """Year, and day of the year from 1."""
    location_b2: Tensor | None = None
    """Degrees, in the order of the config."""


class CoordinateCode(nn.Module):
    """Code a pair of plain numbers, half the width each, weighted by one learned scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, pairs: Tensor) -> Tensor:
        """Return (..., dim) for (..., 2); in float64, for single precision blurs the sine of a year."""
        return self.scale * sincos_1d(pairs, self.dim // 2).flatten(-2).float()


class PatchEmbed(nn.Module):
    """Project the patches of every frame."""

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        size = (1, config.patch_px, config.patch_px)
        self.proj = nn.Conv3d(len(BANDS), config.dim, kernel_size=size, stride=size)

    def forward(self, x_bctyx: Tensor) -> Tensor:
        """Return (b, t * h * w, d): frame by frame, row by row."""
        return self.proj(x_bctyx).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Encode the tokens that may be seen."""

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.temporal_embed_enc = CoordinateCode(config.dim) if config.coordinates else None
        self.location_embed_enc = CoordinateCode(config.dim) if config.coordinates else None
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        more = {"mlp_ratio": config.mlp_ratio, "eps": config.norm_eps}
        self.blocks = blocks(config.dim, config.heads, config.depth, **more)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(self, x_bctyx: Tensor, where: Where, seen_bv: Tensor | None = None) -> Tensor:
        """Return (b, 1 + v, d): CLS, then the tokens at the flat indices `seen_bv`, or all of them in order."""
        x = self.patch_embed(x_bctyx)
        x = x + _codes(self.config, x, where, self.temporal_embed_enc, self.location_embed_enc)
        if seen_bv is not None:
            x = gather_tokens(x, seen_bv)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(self.blocks(x))


class Decoder(nn.Module):
    """Predict the pixels of hidden tokens."""

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.decoder_dim
        self.decoder_embed = nn.Linear(config.dim, dim)
        self.temporal_embed_dec = CoordinateCode(dim) if config.coordinates else None
        self.location_embed_dec = CoordinateCode(dim) if config.coordinates else None
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        more = {"mlp_ratio": config.mlp_ratio, "eps": config.norm_eps}
        self.decoder_blocks = blocks(dim, config.decoder_heads, config.decoder_depth, **more)
        self.decoder_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.decoder_pred = nn.Linear(dim, config.patch_px**2 * len(BANDS))

    def forward(self, encoded: Tensor, where: Where, frames: int, seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, e): pixels of the patches at `hidden_bm`, from what the encoder made of CLS and `seen_bv`."""
        seen = self.decoder_embed(encoded)
        x = fill_masked(seen[:, 1:], seen_bv, self.mask_token, frames * self.config.grid**2)
        x = x + _codes(self.config, x, where, self.temporal_embed_dec, self.location_embed_dec)
        x = torch.cat([seen[:, :1], x], dim=1)
        x = gather_tokens(self.decoder_blocks(x)[:, 1:], hidden_bm)
        return self.decoder_pred(self.decoder_norm(x))


class PrithviNet(nn.Module):
    """The network, keys as published. Pixels enter as `x_bctyx`: z-scores, bands in the order of `BANDS`."""

    IGNORED = r"^encoder\.pos_embed$|^decoder\.decoder_pos_embed$"
    """Fixed tables of the published files, for the frames and the chip size of training."""

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def predict(self, x_bctyx: Tensor, where: Where, seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, e): the decoder's pixels of the patches at `hidden_bm`, by row, column and band."""
        return self.decoder(self.encoder(x_bctyx, where, seen_bv), where, x_bctyx.shape[2], seen_bv, hidden_bm)

    def errors(self, x_bctyx: Tensor, where: Where, seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m): the mean squared error of each hidden patch, over its pixels and bands."""
        b, _, t, _, _ = x_bctyx.shape
        patches = patchify(x_bctyx.transpose(1, 2).flatten(0, 1), self.config.patch_px)
        truth = gather_tokens(patches.unflatten(0, (b, t)).flatten(1, 2), hidden_bm)
        return (self.predict(x_bctyx, where, seen_bv, hidden_bm).float() - truth).square().mean(dim=-1)


def _codes(
    config: PrithviConfig, x_bnd: Tensor, where: Where, date: CoordinateCode | None, place: CoordinateCode | None
) -> Tensor:
    """Return (b or 1, n, d): codes of position, and of date and place where they are known and the model has them."""
    _, count, dim = x_bnd.shape
    per_frame = config.grid**2
    codes = place_table(dim, count // per_frame, config.grid, config.table_grid, x_bnd.device)
    if date is not None and where.dates_bt2 is not None:
        codes = codes + date(where.dates_bt2).repeat_interleave(per_frame, dim=1)
    if place is not None and where.location_b2 is not None:
        codes = codes + place(where.location_b2)[:, None]
    return codes
