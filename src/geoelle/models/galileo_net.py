"""The networks of Galileo, keys as published: encoders of band groups, and a decoder of hidden tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.networks import (
    gather_tokens,
    month_codes,
)

__all__ = ["GROUPS", "OTHER_GROUPS", "Decoder", "GalileoConfig", "GalileoNet"]

GROUPS: dict[str, tuple[str, ...]] = {
    "S1": ("vv", "vh"),
    "S2_RGB": ("blue", "green", "red"),
    "S2_Red_Edge": ("rededge1", "rededge2", "rededge3"),
    "S2_NIR_10m": ("nir",),
    "S2_NIR_20m": ("nir08",),
    "S2_SWIR": ("swir16", "swir22"),
    "NDVI": ("red", "nir"),
}
"""Band groups that are a token each; NDVI is derived from its two bands."""
OTHER_GROUPS = {
    "space": {"SRTM": 2, "DW": 9, "WC": 5},
    "time": {"ERA5": 2, "TC": 3, "VIIRS": 1},
    "static": {"LS": 1, "location": 3, "DW_static": 9, "WC_static": 5},
}
"""Groups that chips do not have, and their channels: the files hold their projections."""


@dataclass(frozen=True, kw_only=True)
class GalileoConfig:
    """Fix the shape of the networks and the objective."""

    dim: int = 128
    depth: int = 4
    heads: int = 8
    decoder_depth: int = 2
    mlp_ratio: int = 4
    base_patch_px: int = 8
    """Side of the patches whose weights are stored; they are resized to `patch_px`."""
    patch_px: int = 4
    chip_px: int = 32
    frames: int = 24
    tau: float = 0.1
    hidden_ratio: float = 0.5
    visible_ratio: float = 0.1

    @property
    def grid(self) -> int:
        """Return the patches along one side of a chip."""
        return self.chip_px // self.patch_px


def _slow_sincos(values: Tensor, dim: int) -> Tensor:
    """Return (n, dim) float32: [sin | cos] of values times 10000^(-k / (2 dim)), k = 0 .. dim / 2 - 1.

    Four times slower in k than MAE's code of the same width: wavelengths end at 63 instead of 63,000. In float32
    throughout, like the tables that the network was trained with.
    """
    omega = 1.0 / 10000.0 ** (torch.arange(dim // 2) / (2 * dim))
    angle = values[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@lru_cache(maxsize=64)
def _frame_codes(dim: int, frames: int, device: torch.device) -> Tensor:
    """Return (t, dim): the code of a frame's place in the series."""
    with torch.inference_mode(False):
        return _slow_sincos(torch.arange(frames), dim).to(device)


@lru_cache(maxsize=64)
def _place_codes(dim: int, grid: int, step: int, device: torch.device) -> Tensor:
    """Return (h, w, dim): codes of column, then row, of patches `step` units of 10 m apart."""
    with torch.inference_mode(False):
        axis = _slow_sincos(torch.arange(grid) * step, dim // 2)
        cols, rows = axis[None].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
        return torch.cat([cols, rows], dim=-1).to(device)


@lru_cache(maxsize=8)
def _resizing(base: int, patch: int, device: torch.device) -> Tensor:
    """Return (base^2, patch^2): takes weights of large patches to small ones (Beyer et al. 2023, arXiv:2212.08013).

    The pseudo-inverse of bicubic shrinking: of all weights, those whose projection changes least when a patch shrinks.
    """
    with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        pixels = torch.eye(base * base).view(-1, 1, base, base)
        small = F.interpolate(pixels, (patch, patch), mode="bicubic", antialias=True).flatten(1)
        return torch.linalg.pinv(small).T.contiguous().to(device)


class PatchProjection(nn.Module):
    """Project patches linearly."""

    def __init__(self, channels: int, config: GalileoConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, config.dim, config.base_patch_px, config.base_patch_px)
        self.patch_px = config.patch_px

    def forward(self, pixels_btcyx: Tensor) -> Tensor:
        """Return (b, t, h, w, d)."""
        weight, patch = self.proj.weight, self.patch_px
        if patch != weight.shape[-1]:
            resizing = _resizing(weight.shape[-1], patch, weight.device)
            weight = (weight.flatten(2) @ resizing).unflatten(2, (patch, patch))
        out = F.conv2d(pixels_btcyx.flatten(0, 1), weight, self.proj.bias, stride=patch)
        return out.unflatten(0, pixels_btcyx.shape[:2]).movedim(2, -1)


class Attention(nn.Module):
    """Attend from x to y with separate projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x_bnd: Tensor, y_bmd: Tensor) -> Tensor:
        q, k, v = (
            linear(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, tokens in ((self.q, x_bnd), (self.k, y_bmd), (self.v, y_bmd))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One pre-norm block: self-attention, or attention to other tokens, which are taken as they come."""

    def __init__(self, config: GalileoConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, config.heads), Mlp(dim, config.mlp_ratio * dim)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn(normed, normed if y is None else y)
        return x + self.mlp(self.norm2(x))


class Coded(nn.Module):
    """What encoder and decoder share: blocks, and codes that say which group, frame, month and place a token is."""

    def __init__(self, config: GalileoConfig, depth: int) -> None:
        super().__init__()
        self.config = config
        quarter = config.dim // 4
        self.s_t_channel_embed = nn.Parameter(torch.empty(len(GROUPS), quarter))
        self.sp_channel_embed = nn.Parameter(torch.empty(len(OTHER_GROUPS["space"]), quarter))
        self.t_channel_embed = nn.Parameter(torch.empty(len(OTHER_GROUPS["time"]), quarter))
        self.st_channel_embed = nn.Parameter(torch.empty(len(OTHER_GROUPS["static"]), quarter))
        self.blocks = nn.ModuleList(Block(config) for _ in range(depth))
        self.norm = nn.LayerNorm(config.dim)

    def codes(self, names: Sequence[str], months_bt: Tensor) -> Tensor:
        """Return (b, n, d), n = t x g x h x w: a quarter each for group, frame, month and place."""
        grid, quarter = self.config.grid, self.config.dim // 4
        device, (b, t), g = months_bt.device, months_bt.shape, len(names)
        rows = [list(GROUPS).index(name) for name in names]
        parts = (
            self.s_t_channel_embed[rows].view(1, 1, g, 1, 1, -1),
            _frame_codes(quarter, t, device).view(1, t, 1, 1, 1, -1),
            month_codes(quarter, device)[months_bt].view(b, t, 1, 1, 1, -1),
            _place_codes(quarter, grid, self.config.patch_px, device),
        )
        return torch.cat([part.expand(b, t, g, grid, grid, -1) for part in parts], dim=-1).flatten(1, 4)


class Encoder(Coded):
    """Projections of every group, and self-attention among the tokens that are seen."""

    def __init__(self, config: GalileoConfig) -> None:
        super().__init__(config, config.depth)
        dim, other = config.dim, OTHER_GROUPS
        self.space_time_embed = nn.ModuleDict(
            {name: PatchProjection(1 if name == "NDVI" else len(bands), config) for name, bands in GROUPS.items()}
        )
        self.space_embed = nn.ModuleDict({name: PatchProjection(c, config) for name, c in other["space"].items()})
        self.time_embed = nn.ModuleDict({name: nn.Linear(c, dim) for name, c in other["time"].items()})
        self.static_embed = nn.ModuleDict({name: nn.Linear(c, dim) for name, c in other["static"].items()})

    def project(self, groups: Mapping[str, Tensor]) -> Tensor:
        """Return (b, n, d), n = t x g x h x w: patches of (b, t, c, y, x) pixels by group, projected."""
        tokens = [self.space_time_embed[name](pixels) for name, pixels in groups.items()]
        return torch.stack(tokens, dim=2).flatten(1, 4)

    def forward(self, groups: Mapping[str, Tensor], months_bt: Tensor, seen_bv: Tensor | None = None) -> Tensor:
        """Return (b, n or v, d): tokens, of which only those at `seen_bv` exist where it is given."""
        x = self.project(groups) + self.codes(list(groups), months_bt)
        x = x if seen_bv is None else gather_tokens(x, seen_bv)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Decoder(Coded):
    """Predict hidden tokens from those seen; they do not attend to one another."""

    def __init__(self, config: GalileoConfig) -> None:
        super().__init__(config, config.decoder_depth)
        self.mask_token = nn.Parameter(torch.empty(config.dim))
        self.input_norm = nn.LayerNorm(config.dim)
        self.encoder_to_decoder_embed = nn.Linear(config.dim, config.dim)
        self.to_output_embed = nn.Linear(config.dim, config.dim)

    def forward(self, encoded_bvd: Tensor, codes_bnd: Tensor, seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, d): the target predicted for every hidden token."""
        y = self.encoder_to_decoder_embed(self.input_norm(encoded_bvd)) + gather_tokens(codes_bnd, seen_bv)
        x = self.mask_token + gather_tokens(codes_bnd, hidden_bm)
        for block in self.blocks:
            x = block(x, y)
        return self.to_output_embed(self.norm(x))


class GalileoNet(nn.Module):
    """The encoder and, where their files are there, what the loss needs: target encoder and second decoder.

    Every part has the keys of its file. Pixels enter normalised, by group: (b, t, c, y, x).
    """

    IGNORED = r"^pos_embed$|^month_embed\.weight$"

    def __init__(self, config: GalileoConfig, *, decodes: bool = True) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.target_encoder = Encoder(config) if decodes else None
        self.second_decoder = Decoder(config) if decodes else None

    def predict(self, groups: Mapping[str, Tensor], months_bt: Tensor, seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, d): predictions at the hidden tokens."""
        codes = self.second_decoder.codes(list(groups), months_bt)
        return self.second_decoder(self.encoder(groups, months_bt, seen_bv), codes, seen_bv, hidden_bm)

    def targets(self, groups: Mapping[str, Tensor]) -> Tensor:
        """Return (b, n, d): the target of every token."""
        return self.target_encoder.norm(self.target_encoder.project(groups))
