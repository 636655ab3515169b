"""The network of OlmoEarth v1: keys as published, codes computed; `models.olmoearth` says what it is and feeds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.networks import discriminate, gather_tokens, month_codes

__all__ = ["MODALITY", "Inputs", "OlmoEarthConfig", "OlmoEarthNet"]

MODALITY = "sentinel2_l2a"
MODALITIES = {
    MODALITY: (4, 6, 2),
    "sentinel1": (2,),
    "landsat": (1, 10),
    "worldcover": (1,),
    "srtm": (1,),
    "openstreetmap_raster": (30,),
    "wri_canopy_height_map": (1,),
    "cdl": (1,),
    "worldcereal": (8,),
}
"""Everything the file has weights for -> the bands of its band sets. Only Sentinel-2 is fed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OlmoEarthConfig:
    """Fix the shape of the network, and how a chip is cut for it.

    The network was trained on patches of 1 to `kernel_px` px and 1 to 12 of them along a side, so `patch_px` and
    `chip_px` are choices: 8 x 8 patches of 4 px lie in the middle of both ranges and cover the 320 m of `nano`.
    """

    dim: int
    depth: int
    heads: int
    decoder_depth: int = 4
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    kernel_px: int = 8
    base_gsd_m: float = 10.0
    max_frames: int = 12
    temperature: float = 0.1
    mask_ratio: float = 0.5
    patch_px: int = 4
    chip_px: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.patch_px <= self.kernel_px or self.dim % 16:
            raise ValueError(f"OlmoEarth takes patches of 1 to {self.kernel_px} px and widths in steps of 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Hold normalised pixels, and where and when they lie.

    `pixels_btcyx` has the bands of the band sets `groups` (their numbers) one after another; `months_bt` counts
    from 0; `step` is the side of a patch in units of 10 m.
    """

    pixels_btcyx: Tensor
    groups: tuple[int, ...]
    months_bt: Tensor
    step: float


def _wave(values: Tensor, dim: int) -> Tensor:
    """Return (..., dim) float64: [sin | cos] of values times 10000^(-k / (2 dim)), k = 0 .. dim / 2 - 1.

    The exponent reaches -1/4 where the usual code goes to -1; the weights were trained so.
    """
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (2 * dim))
    angle = values.double()[..., None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@lru_cache(maxsize=64)
def _codes(
    dim: int, frames: int, height: int, width: int, step: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return float32 codes of slots (t, dim), of the twelve months (12, dim), of places (h, w, dim; column first)."""
    with torch.inference_mode(False):
        col = _wave(step * torch.arange(width), dim // 2)[None].expand(height, -1, -1)
        row = _wave(step * torch.arange(height), dim // 2)[:, None].expand(-1, width, -1)
        slots, places = _wave(torch.arange(frames), dim), torch.cat([col, row], dim=-1)
        return slots.float().to(device), month_codes(dim, device), places.float().to(device)


class CompositeEncodings(nn.Module):
    """Codes of a token, a quarter of its width each: band set (learned), slot in the series, month, place."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.dim = config.dim // 4
        self.per_modality_channel_embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(len(sets), self.dim)) for name, sets in MODALITIES.items()}
        )

    def forward(self, inputs: Inputs, height: int, width: int) -> Tensor:
        """Return (b, t, g, h, w, d)."""
        frames = inputs.months_bt.shape[1]
        groups = self.per_modality_channel_embeddings[MODALITY][list(inputs.groups)]
        slots, months, places = _codes(self.dim, frames, height, width, inputs.step, groups.device)
        shape = (*inputs.months_bt.shape, len(groups), height, width, -1)
        groups, slots = groups[:, None, None], slots[:, None, None, None]
        months = months[inputs.months_bt][:, :, None, None, None]
        return torch.cat([part.expand(shape) for part in (groups, slots, months, places)], dim=-1)


class PatchEmbeddings(nn.Module):
    """One convolution a band set, over patches resized to its kernel."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.patch, self.kernel = config.patch_px, config.kernel_px

        def projections(name: str, sets: tuple[int, ...]) -> nn.ModuleDict:
            convolutions = (nn.Conv2d(bands, config.dim, self.kernel, stride=self.kernel) for bands in sets)
            return nn.ModuleDict({f"{name}__{k}": nn.ModuleDict({"proj": c}) for k, c in enumerate(convolutions)})

        self.per_modality_embeddings = nn.ModuleDict({name: projections(name, s) for name, s in MODALITIES.items()})

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (b, t, g, h, w, d)."""
        x = inputs.pixels_btcyx.flatten(0, 1)
        if self.patch != self.kernel:
            # antialias changes the kernel of an enlargement too
            size = [side // self.patch * self.kernel for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
        parts = x.split([MODALITIES[MODALITY][g] for g in inputs.groups], dim=1)
        convolutions = self.per_modality_embeddings[MODALITY]
        tokens = [convolutions[f"{MODALITY}__{g}"]["proj"](part) for g, part in zip(inputs.groups, parts, strict=True)]
        found = torch.stack(tokens, dim=1).unflatten(0, inputs.pixels_btcyx.shape[:2])
        return found.permute(0, 1, 2, 4, 5, 3)


class Attention(nn.Module):
    """Multi-head attention with separate projections."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.proj = (nn.Linear(config.dim, config.dim) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q(x), self.k(y), self.v(y)))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block; it attends to `y`, which is not normalised here, or to its own tokens."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.dim, eps=config.norm_eps) for _ in range(2))
        self.attn = Attention(config)
        self.mlp = Mlp(config.dim, int(config.mlp_ratio * config.dim))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        own = self.norm1(x)
        x = x + self.attn(own, own if y is None else y)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """The encoder; the target encoder is another, of which only the patch embeddings count."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.composite_encodings = CompositeEncodings(config)
        self.patch_embeddings = PatchEmbeddings(config)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.project_and_aggregate = nn.ModuleDict({"projection": nn.Sequential(nn.Linear(config.dim, config.dim))})


class Predictor(nn.Module):
    """What stands at hidden tokens, by attention from a mask token with codes to the tokens that were seen."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.decoder_depth))
        self.composite_encodings = CompositeEncodings(config)
        self.input_norm, self.norm = (nn.LayerNorm(config.dim, eps=config.norm_eps) for _ in range(2))
        self.encoder_to_decoder_embed = nn.Linear(config.dim, config.dim)
        self.to_output_embed = nn.Linear(config.dim, config.dim)


class OlmoEarthNet(nn.Module):
    """The network. Tokens have axes t, g, h, w; flat, they lie in that order."""

    IGNORED = r"\.composite_encodings\.(month_embed\.weight|pos_embed)$"

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder, self.target_encoder = Encoder(config), Predictor(config), Encoder(config)

    def encode(self, inputs: Inputs, seen_bv: Tensor | None = None) -> Tensor:
        """Return (b, n or v, d): every token, or those at these flat indices and nothing of the others."""
        tokens = self.encoder.patch_embeddings(inputs)
        x = (tokens + self.encoder.composite_encodings(inputs, *tokens.shape[3:5])).flatten(1, 4)
        if seen_bv is not None:
            x = gather_tokens(x, seen_bv)
        for block in self.encoder.blocks:
            x = block(x)
        return self.encoder.norm(x)

    def predict(self, inputs: Inputs, seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, d): what the predictor puts at hidden tokens."""
        height, width = (side // self.config.patch_px for side in inputs.pixels_btcyx.shape[-2:])
        decoder = self.decoder
        codes = decoder.composite_encodings(inputs, height, width).flatten(1, 4)
        seen = decoder.encoder_to_decoder_embed(decoder.input_norm(self.encode(inputs, seen_bv)))
        y = seen + gather_tokens(codes, seen_bv)
        x = decoder.mask_token + gather_tokens(codes, hidden_bm)
        for block in decoder.blocks:
            x = block(x, y)
        return decoder.to_output_embed(decoder.norm(x))

    def discriminate(self, inputs: Inputs, seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m): how badly each prediction picks its target out of those of all hidden tokens of its chip."""
        predicted = self.predict(inputs, seen_bv, hidden_bm)
        targets = gather_tokens(self.target_encoder.patch_embeddings(inputs).flatten(1, 4), hidden_bm)
        tau = self.config.temperature
        return discriminate(predicted, targets, tau) * (2 * tau)
