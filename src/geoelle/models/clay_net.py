"""The network of Clay v1.5, spelled as its published file; `geoelle.models.clay` says what it is and feeds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.networks import gather_tokens

__all__ = ["META", "ClayConfig", "ClayNet", "Inputs", "Statistics"]

META = 8
"""Entries at the end of each patch token's code that tell time (4) and place (4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClayConfig:
    """Fix the shape of the networks and the weights of the objective."""

    chip_px: int = 256
    patch_px: int = 8
    mask_ratio: float = 0.75
    rec_weight: float = 0.9
    rep_weight: float = 0.1
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    dim_head: int = 64
    mlp_ratio: float = 4.0
    decoder_dim: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 4
    decoder_dim_head: int = 64
    decoder_mlp_ratio: float = 4.0
    wave_dim: int = 128
    wave_tokens: int = 128
    wave_heads: int = 4
    wave_mlp_dim: int = 2048
    wave_scale: float = 0.02
    """What generated weights, though not biases, are multiplied by."""
    teacher_dim: int = 1024
    teacher_depth: int = 24
    teacher_heads: int = 16
    teacher_px: int = 518
    teacher_patch_px: int = 14
    teacher_registers: int = 4
    has_decoder: bool = True
    has_teacher: bool = True

    @property
    def grid(self) -> int:
        return self.chip_px // self.patch_px


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Describe a sensor as Clay was trained on it.

    A pixel in physical units is number * scale + offset; Clay sees (number - mean) / std. `colours` are the bands
    shown to the teacher as red, green and blue; of two, the third is their mean. `rec_divisor` is what `rec` is
    divided by.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    wavelength_um: tuple[float, ...]
    scale: float
    offset: float = 0.0
    colours: tuple[str, ...] = ("red", "green", "blue")
    rec_divisor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Hold what the network is told of a batch: normalised pixels, and what they are pixels of.

    `meta_b8` is sine and cosine of week and hour, then of latitude and longitude; zeros for "not known".
    """

    pixels_bcyx: Tensor
    bands: tuple[str, ...]
    wavelength_um: tuple[float, ...]
    gsd_m: float
    meta_b8: Tensor
    sensor: Statistics

    def colours(self) -> Tensor:
        """Return (b, 3, y, x): what the teacher is shown, normalised as for Clay, which is how it was trained."""
        shown = self.pixels_bcyx[:, [self.bands.index(band) for band in self.sensor.colours]]
        return shown if shown.shape[1] == 3 else torch.cat([shown, shown.mean(1, keepdim=True)], dim=1)


def _wave_codes(wavelength_um: tuple[float, ...], dim: int, device: torch.device) -> Tensor:
    """Return (c, dim) float32: [sin | cos] of the wavelength in micrometres at frequencies from 1 down to 1e-4."""
    half = dim // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / (half - 1))
    angle = torch.tensor(wavelength_um, dtype=torch.float64, device=device)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


@lru_cache(maxsize=64)
def _place_codes(dim: int, grid: int, gsd_m: float, device: torch.device) -> Tensor:
    """Return (grid * grid, dim) float32: [sin | cos] of column, then of row, times frequencies.

    Upstream divides the step by the number of steps and then by the dimension too, so that all frequencies lie within
    2 % of the ground sampling distance. The weights were trained on that.
    """
    with torch.inference_mode(False):
        step = torch.arange(dim // 4, dtype=torch.float64) / (dim // 4 - 1)
        omega = gsd_m * 10000.0 ** (-2 * step / dim)
        angle = torch.arange(grid, dtype=torch.float64)[:, None] * omega
        axis = torch.cat([angle.sin(), angle.cos()], dim=1)
        cols, rows = axis.repeat(grid, 1), axis.repeat_interleave(grid, dim=0)
        return torch.cat([cols, rows], dim=1).float().to(device)


def _codes(x: Inputs, dim: int, grid: int) -> Tensor:
    """Return (b, n, dim): where each patch lies in the chip, and when and where on Earth the chip was seen."""
    place = _place_codes(dim - META, grid, x.gsd_m, x.meta_b8.device)
    b, n = len(x.meta_b8), len(place)
    return torch.cat([place.expand(b, -1, -1), x.meta_b8[:, None].expand(-1, n, -1)], dim=2)


def _full_precision(x: Tensor) -> torch.autocast:
    """Return a context without autocast: generated weights are too small for half floats, and cheap in full ones."""
    return torch.autocast(x.device.type, enabled=False)


class Attention(nn.Module):
    """Pre-norm attention without biases."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x_bnd: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x_bnd)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Pre-norm perceptron."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))

    def forward(self, x_bnd: Tensor) -> Tensor:
        return self.net(x_bnd)


class Transformer(nn.Module):
    """Pre-norm blocks and a last norm."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head), FeedForward(dim, int(dim * mlp_ratio))])
            for _ in range(depth)
        )

    def forward(self, x_bnd: Tensor) -> Tensor:
        for attention, feed_forward in self.layers:
            x_bnd = x_bnd + attention(x_bnd)
            x_bnd = x_bnd + feed_forward(x_bnd)
        return self.norm(x_bnd)


class WaveBlock(nn.Module):
    """A residual perceptron on wave codes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.l1, self.l2 = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, codes_cd: Tensor) -> Tensor:
        return codes_cd + F.gelu(self.l2(F.gelu(self.l1(codes_cd))))


class WeightGenerator(nn.Module):
    """The hyper-network: wave codes to one row of weights a band, and a bias where there is one."""

    def __init__(self, config: ClayConfig, out: int, bias: int) -> None:
        super().__init__()
        dim = config.wave_dim
        self.weight_tokens = nn.Parameter(torch.empty(config.wave_tokens, dim))
        self.bias_token = nn.Parameter(torch.empty(1, dim))
        layer = nn.TransformerEncoderLayer(dim, config.wave_heads, config.wave_mlp_dim, dropout=0.0, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.fc_weight = nn.Linear(dim, out)
        self.fc_bias = nn.Linear(dim, bias) if bias else None

    def forward(self, codes_cd: Tensor) -> tuple[Tensor, Tensor | None]:
        seen = self.encoder(torch.cat([self.weight_tokens, codes_cd, self.bias_token]))
        weights = self.fc_weight(seen[len(self.weight_tokens) : -1] + codes_cd)
        return weights, self.fc_bias(seen[-1]) if self.fc_bias else None


class DynamicEmbedding(nn.Module):
    """Weights of a linear map between the pixels of a patch and a token, made from the wavelengths of the bands."""

    def __init__(self, config: ClayConfig, dim: int, bias: bool) -> None:
        super().__init__()
        self.wave_dim, self.scale = config.wave_dim, config.wave_scale
        self.weight_generator = WeightGenerator(config, config.patch_px**2 * dim, dim if bias else 0)
        self.fclayer = WaveBlock(config.wave_dim)

    def forward(self, wavelength_um: tuple[float, ...]) -> tuple[Tensor, Tensor | None]:
        """Return (c, pixels of a patch times dim) and (dim,) or None."""
        codes = _wave_codes(wavelength_um, self.wave_dim, self.fclayer.l1.weight.device)
        weights, bias = self.weight_generator(self.fclayer(codes))
        return self.scale * weights, bias


class Encoder(nn.Module):
    """Pixels to tokens, the summary token first."""

    def __init__(self, config: ClayConfig) -> None:
        super().__init__()
        self.patch_px, self.dim = config.patch_px, config.dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.patch_embedding = DynamicEmbedding(config, config.dim, bias=True)
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.dim_head, config.mlp_ratio)

    def patches(self, x: Inputs) -> Tensor:
        """Return (b, n, d): patches as embedded, row-major, without codes."""
        with _full_precision(x.pixels_bcyx):
            weights, bias = self.patch_embedding(x.wavelength_um)
            kernel = weights.view(-1, self.dim, self.patch_px, self.patch_px).transpose(0, 1)
            return F.conv2d(x.pixels_bcyx, kernel, bias, stride=self.patch_px).flatten(2).transpose(1, 2)

    def forward(self, x: Inputs, visible_bv: Tensor | None = None) -> Tensor:
        """Return (b, 1 + n or 1 + v, d); with `visible_bv` (int64 patch indices) only those are seen."""
        tokens = self.patches(x) + _codes(x, self.dim, x.pixels_bcyx.shape[-1] // self.patch_px)
        if visible_bv is not None:
            tokens = gather_tokens(tokens, visible_bv)
        return self.transformer(torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1))


class Decoder(nn.Module):
    """Tokens of the visible patches to pixels of the hidden ones."""

    def __init__(self, config: ClayConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.patch_px, self.dim = config.patch_px, dim
        self.mask_patch = nn.Parameter(torch.empty(dim))
        self.enc_to_dec = nn.Linear(config.dim, dim) if config.dim != dim else nn.Identity()
        self.transformer = Transformer(
            dim, config.decoder_depth, config.decoder_heads, config.decoder_dim_head, config.decoder_mlp_ratio
        )
        self.embed_to_pixels = DynamicEmbedding(config, dim, bias=False)

    def forward(self, encoded_bnd: Tensor, x: Inputs, visible_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, c * pixels of a patch): normalised pixels of the hidden patches, band by band."""
        codes = _codes(x, self.dim, x.pixels_bcyx.shape[-1] // self.patch_px)
        summary, seen = self.enc_to_dec(encoded_bnd).split([1, visible_bv.shape[1]], dim=1)
        masked = self.mask_patch + gather_tokens(codes, hidden_bm)
        decoded = self.transformer(torch.cat([masked, seen + gather_tokens(codes, visible_bv), summary], dim=1))
        with _full_precision(decoded):
            weights, _ = self.embed_to_pixels(x.wavelength_um)
            return F.linear(decoded[:, : hidden_bm.shape[1]].float(), weights.reshape(-1, self.dim))


class ClayNet(nn.Module):
    """Encoder, decoder and teacher, spelled as in the published file less its prefix `model.`."""

    IGNORED = ""

    def __init__(self, config: ClayConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        if config.has_decoder:
            self.decoder = Decoder(config)
        if config.has_teacher:
            self.proj = nn.Linear(config.dim, config.teacher_dim)
            self.teacher = VisionTransformer(
                img_size=config.teacher_px, patch_size=config.teacher_patch_px, num_classes=0,
                embed_dim=config.teacher_dim, depth=config.teacher_depth, num_heads=config.teacher_heads,
                init_values=1e-5, reg_tokens=config.teacher_registers, no_embed_class=True, weight_init="skip",
            )  # fmt: skip

    def teach(self, colours_b3yx: Tensor) -> Tensor:
        """Return (b, teacher_dim): what the teacher says of these colours."""
        side = self.config.teacher_px
        with _full_precision(colours_b3yx):
            return self.teacher(F.interpolate(colours_b3yx, (side, side), mode="bilinear", antialias=True))
