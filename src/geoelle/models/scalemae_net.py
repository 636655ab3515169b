"""The network of ScaleMAE, keys as published: place codes at a relative resolution, a head for each band of detail."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from timm.models.vision_transformer import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    blocks,
    fill_masked,
    gather_tokens,
    sincos_2d,
)

__all__ = ["BANDS", "ScaleMaeConfig", "ScaleMaeNet"]

BANDS = ("red", "green", "blue")
HEAD_BATCH = 4
"""Chips through the heads at once: the published ones hold more than 100 MB a chip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleMaeConfig:
    """Fix the network, what it sees and what it is scored on; the defaults are the published model's."""

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    decoder_dim: int = 512
    decoder_depth: int = 3
    decoder_heads: int = 16
    head_dim: int = 512
    head_depth: int = 2
    source_patch_px: int = 16
    """Side of a patch as the encoder sees it; on the chip it is twice that."""
    chip_px: int = 448
    mask_ratio: float = 0.75
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    white: float = 0.3
    """Reflectance that is shown as full brightness."""
    embed_res: float = 1.0
    loss_res: float = 5.0
    blur_grid: int = 7
    """Cells along a side of the blur that the high band lacks."""
    high_l1: bool = False
    """Whether the high band is scored by absolute instead of squared error."""
    high_weight: float = 1.0
    """Factor of the absolute error."""
    aligned: bool = False
    """Whether the chip is halved with aligned corners, as in training, instead of by the mean of 2 x 2 pixels."""

    @property
    def patch_px(self) -> int:
        """Side of a patch on the chip."""
        return 2 * self.source_patch_px


@lru_cache(maxsize=64)
def _codes(dim: int, grid: int, res: float, device: torch.device) -> Tensor:
    """Return (1, grid * grid, dim) float32: codes of places `res` apart. CLS has none."""
    with torch.inference_mode(False):
        places = res * torch.arange(grid, dtype=torch.float64)
        return sincos_2d(places, places, dim).float()[None].to(device)


class _Norm2d(nn.Module):
    """Normalise the channels of every pixel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x_bcyx: Tensor) -> Tensor:
        return self.ln(x_bcyx.movedim(1, -1)).movedim(-1, 1).contiguous()


class _Mix(nn.Module):
    """Mix neighbours by a grouped convolution of half the width, beside a plain projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        grouped, back = nn.Conv2d(dim, half, 3, padding=1, groups=half), nn.Conv2d(half, dim, 1)
        self.convs = nn.Sequential(nn.GELU(), grouped, nn.GELU(), back)
        self.residual = nn.Conv2d(dim, dim, 1)

    def forward(self, x_bcyx: Tensor) -> Tensor:
        return self.convs(x_bcyx) + self.residual(x_bcyx)


class _Head(nn.Module):
    """Draw an image eight times as large as the features it is given."""

    def __init__(self, dim_in: int, dim: int, depth: int) -> None:
        super().__init__()
        half, quarter = dim // 2, dim // 4
        self.proj = nn.Conv2d(dim_in, dim, 1)
        self.conv_blocks = nn.Sequential(*(_Mix(dim) for _ in range(depth)))
        self.pred = nn.Sequential(
            _Norm2d(dim),
            nn.ConvTranspose2d(dim, half, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(half, quarter, 3, padding=1, groups=quarter),
            nn.GELU(),
            nn.Conv2d(quarter, half, 1),
            nn.GELU(),
            nn.ConvTranspose2d(half, len(BANDS), 2, stride=2),
        )

    def forward(self, x_bcyx: Tensor) -> Tensor:
        return self.pred(self.conv_blocks(self.proj(x_bcyx)))


class ScaleMaeNet(nn.Module):
    """The network; `decoder` is false for a file without one. Images are normalised, (b, 3, y, x) float32."""

    IGNORED = r"^(pos_embed|decoder_pos_embed|mask_token_decoder)$"
    """Dead weight of published files: the tables are computed for each resolution, the token is never used."""

    def __init__(self, config: ScaleMaeConfig, *, decoder: bool = True) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.patch_embed = PatchEmbed(
            img_size=None, patch_size=config.source_patch_px, in_chans=len(BANDS), embed_dim=config.dim
        )
        self.blocks = blocks(config.dim, config.heads, config.depth)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        if not decoder:
            return
        dim = config.decoder_dim
        self.decoder_embed = nn.Linear(config.dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.decoder_blocks = blocks(dim, config.decoder_heads, config.decoder_depth)
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        twice = partial(nn.ConvTranspose2d, dim, dim, 2, stride=2)
        self.fpn = nn.ModuleDict(
            {"fpn1": nn.Sequential(twice(), _Norm2d(dim), nn.GELU(), twice()), "fpn2": nn.Sequential(twice())}
        )
        self.fcn_high = _Head(dim, config.head_dim, config.head_depth)
        self.fcn_low = _Head(dim, config.head_dim, config.head_depth)

    def encode(self, source_bcyx: Tensor, res: float, visible_bv: Tensor | None = None) -> Tensor:
        """Return (b, 1 + patches or visible, d): CLS, then the patches, only those of `visible_bv` where given."""
        x = self.patch_embed(source_bcyx)
        x = x + _codes(x.shape[-1], source_bcyx.shape[-1] // self.config.source_patch_px, res, x.device)
        if visible_bv is not None:
            x = gather_tokens(x, visible_bv)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(self.blocks(x))

    def predict(self, source_bcyx: Tensor, res: float, visible_bv: Tensor) -> tuple[Tensor, Tensor]:
        """Return the high band (b, 3, 2y, 2x) and the low band (b, 3, y, x), drawn from the visible patches."""
        seen = self.decoder_embed(self.encode(source_bcyx, res, visible_bv)[:, 1:])
        grid = source_bcyx.shape[-1] // self.config.source_patch_px
        # The decoder, too, is given the resolution of the half-size image: that of the chip never enters the loss.
        codes = _codes(seen.shape[-1], grid, res, seen.device)
        x = fill_masked(seen, visible_bv, self.mask_token, grid * grid) + codes
        image = self.decoder_norm(self.decoder_blocks(x)).transpose(1, 2).unflatten(2, (grid, grid))
        drawn = [
            (self.fcn_high(self.fpn["fpn1"](few)), self.fcn_low(self.fpn["fpn2"](few)))
            for few in image.split(HEAD_BATCH)
        ]
        return torch.cat([high for high, _ in drawn]).float(), torch.cat([low for _, low in drawn]).float()

    def targets(self, chip_bcyx: Tensor) -> tuple[Tensor, Tensor]:
        """Return the high band and the low band of a chip."""
        coarse = F.adaptive_avg_pool2d(chip_bcyx, self.config.blur_grid)
        return chip_bcyx - F.interpolate(coarse, chip_bcyx.shape[-2:], mode="bilinear"), F.avg_pool2d(chip_bcyx, 2)

    def halve(self, chip_bcyx: Tensor) -> Tensor:
        """Return what the encoder sees of a chip."""
        if self.config.aligned:
            return F.interpolate(chip_bcyx, scale_factor=0.5, mode="bilinear", align_corners=True)
        return F.avg_pool2d(chip_bcyx, 2)

    def errors(self, chip_bcyx: Tensor, visible_bv: Tensor) -> dict[str, Tensor]:
        """Return the error of every patch in each band, (b, h, w): summed over channels, mean over pixels."""
        config = self.config
        drawn = self.predict(self.halve(chip_bcyx), config.loss_res, visible_bv)
        high, low = (band - image for band, image in zip(self.targets(chip_bcyx), drawn, strict=True))
        high = config.high_weight * high.abs() if config.high_l1 else high.square()
        return {
            "high": F.avg_pool2d(high.sum(1), config.patch_px),
            "low": F.avg_pool2d(low.square().sum(1), config.source_patch_px),
        }
