"""The network of DOFA: its sizes, the bands it was trained on, the generated patch projection, the transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.networks import blocks, fill_masked, gather_tokens, patchify, place_codes, sincos_1d, standardise

__all__ = ["SENSORS", "Channel", "DofaConfig", "DofaNet", "resized"]

TRUE_COLOUR = 255 / 0.3558
"""8-bit numbers per unit of reflectance in ESA's true-colour image, which saturates at a reflectance near 0.3558."""
SATLAS = 10_000 / 32
"""8-bit numbers per unit of reflectance in the other bands of SatlasPretrain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Describe a band as pretraining saw it: `gain` 8-bit numbers per unit of a chip's pixels, and their statistics."""

    name: str
    wavelength_um: float
    gain: float
    mean: float
    std: float


def _channels(*rows: tuple[str, float, float, float, float]) -> tuple[Channel, ...]:
    return tuple(Channel(name=n, wavelength_um=w, gain=g, mean=m, std=s) for n, w, g, m, s in rows)


SENSORS = (
    ("sentinel-2", _channels(
        ("red", 0.665, TRUE_COLOUR, 114.1099739, 77.84352553),
        ("green", 0.56, TRUE_COLOUR, 114.81779093, 69.96844919),
        ("blue", 0.49, TRUE_COLOUR, 126.63977424, 67.42465279),
        ("rededge1", 0.705, SATLAS, 84.33539309, 64.57022983),
        ("rededge2", 0.74, SATLAS, 97.84789168, 61.72545487),
        ("rededge3", 0.783, SATLAS, 103.94461911, 61.34187099),
        ("nir", 0.842, SATLAS, 101.435633, 60.29744676),
        ("swir16", 1.61, SATLAS, 72.32804172, 47.88519516),
        ("swir22", 2.19, SATLAS, 56.66528851, 42.55886798),
    )),
    ("naip", _channels(
        ("red", 0.665, 255.0, 123.675, 58.395),
        ("green", 0.56, 255.0, 116.28, 57.12),
        ("blue", 0.49, 255.0, 103.53, 57.375),
    )),
)  # fmt: skip
"""Start of a sensor's name -> its channels, in the order of pretraining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DofaConfig:
    """Fix the shape of the network and what its files hold."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch_px: int = 16
    chip_px: int = 224
    table_px: int = 224
    """Side of the chips that the position tables of the files are for."""
    wave_dim: int = 128
    wave_heads: int = 4
    wave_hidden: int = 2048
    weight_tokens: int = 128
    kernel_scale: float = 0.01
    extras: bool = True
    """Whether the file holds `norm`, `projector` and `mask_token`: the official ones do, torchgeo's copies do not."""
    teacher_depth: int = 12
    """Blocks of the teacher, 0 where there is none. Its width is the student's."""
    teacher_heads: int = 12
    decoder: bool = False
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = True
    mask_ratio: float = 0.75
    eps: float = 1e-6
    sensors: tuple[tuple[str, tuple[Channel, ...]], ...] = SENSORS
    teacher_bands: tuple[str, str, str] = ("red", "green", "blue")

    @property
    def grid(self) -> int:
        return self.chip_px // self.patch_px

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.name for _, channels in self.sensors for c in channels))


class WeightGenerator(nn.Module):
    """Turn the codes of c wavelengths into `out` numbers for each and `bias` numbers for all."""

    def __init__(self, config: DofaConfig, out: int, bias: int) -> None:
        super().__init__()
        width = config.wave_dim
        layer = nn.TransformerEncoderLayer(width, config.wave_heads, config.wave_hidden, 0.0, "gelu")
        self.transformer_encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.fc_weight, self.fc_bias = nn.Linear(width, out), nn.Linear(width, bias)
        self.weight_tokens = nn.Parameter(torch.empty(config.weight_tokens, width))
        self.bias_token = nn.Parameter(torch.empty(1, width))

    def forward(self, waves_ck: Tensor) -> tuple[Tensor, Tensor]:
        x = self.transformer_encoder(torch.cat([self.weight_tokens, waves_ck, self.bias_token]))
        return self.fc_weight(x[len(self.weight_tokens) : -1] + waves_ck), self.fc_bias(x[-1])


class WaveResidual(nn.Module):
    """Two rectified layers around which the code is passed on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x_ck: Tensor) -> Tensor:
        return x_ck + F.relu(self.w2(F.relu(self.w1(x_ck))))


class WavePatches(nn.Module):
    """Project patches by a kernel made for these wavelengths; in float32 whatever the precision around it."""

    def __init__(self, config: DofaConfig) -> None:
        super().__init__()
        self.patch, self.dim, self.width = config.patch_px, config.dim, config.wave_dim
        self.scale = config.kernel_scale
        self.weight_generator = WeightGenerator(config, config.patch_px**2 * config.dim, config.dim)
        self.fclayer = WaveResidual(config.wave_dim)

    def forward(self, pixels_bcyx: Tensor, waves_um: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """Return (b, h * w, d) tokens, row-major, and the codes (c, k) of the wavelengths."""
        with torch.autocast(pixels_bcyx.device.type, enabled=False):
            waves_ck = self.fclayer(wave_codes(waves_um, self.width, pixels_bcyx.device))
            weight, bias = self.weight_generator(waves_ck)
            kernel = weight.view(len(waves_um), self.patch, self.patch, self.dim).permute(3, 0, 1, 2)
            x = F.conv2d(pixels_bcyx, kernel * self.scale, bias * self.scale, stride=self.patch, padding=1)
            return x.flatten(2).transpose(1, 2), waves_ck


class WavePixels(nn.Module):
    """Predict the pixels of a patch by a matrix made for these wavelengths, channel after channel."""

    def __init__(self, config: DofaConfig) -> None:
        super().__init__()
        self.scale = config.kernel_scale
        self.weight_generator = WeightGenerator(config, config.patch_px**2 * config.decoder_dim, config.decoder_dim)

    def forward(self, x_bmd: Tensor, waves_ck: Tensor) -> Tensor:
        with torch.autocast(x_bmd.device.type, enabled=False):
            weight, _ = self.weight_generator(waves_ck)
            return F.linear(x_bmd.float(), weight.view(-1, x_bmd.shape[-1]) * self.scale)


class DofaNet(nn.Module):
    """The network, its teacher under `teacher.`. Pixels enter normalised, with a wavelength a channel."""

    IGNORED = r"^decoder_pos_embed$|^teacher\.head\."

    def __init__(self, config: DofaConfig) -> None:
        super().__init__()
        self.config = config
        norm = partial(nn.LayerNorm, eps=config.eps)
        more = {"mlp_ratio": config.mlp_ratio, "eps": config.eps}
        dim, table = config.dim, config.table_px // config.patch_px
        self.patch_embed = WavePatches(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + table**2, dim))
        self.blocks = blocks(dim, config.heads, config.depth, **more)
        self.norm = norm(dim, elementwise_affine=config.extras)
        if config.extras:
            self.projector = nn.Linear(dim, dim)
            self.mask_token = nn.Parameter(torch.empty(1, 1, config.decoder_dim))
        if config.decoder:
            self.decoder_embed = nn.Linear(dim, config.decoder_dim)
            self.decoder_blocks = blocks(config.decoder_dim, config.decoder_heads, config.decoder_depth, **more)
            self.decoder_norm = norm(config.decoder_dim)
            self.decoder_pred = WavePixels(config)
        if config.teacher_depth:
            self.teacher = VisionTransformer(
                config.table_px, config.patch_px, num_classes=0, embed_dim=dim, depth=config.teacher_depth,
                num_heads=config.teacher_heads, norm_layer=norm, weight_init="skip", dynamic_img_size=True,
            )  # fmt: skip

    def start(self, pixels_bcyx: Tensor, waves_um: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """Return what enters the blocks, (b, 1 + n, d) with CLS first, and the codes of the wavelengths."""
        x, waves_ck = self.patch_embed(pixels_bcyx, waves_um)
        table = resized(self.pos_embed, pixels_bcyx.shape[-1] // self.config.patch_px)
        cls = (self.cls_token + table[:, :1]).expand(len(x), -1, -1)
        return torch.cat([cls, x + table[:, 1:]], dim=1), waves_ck

    def raw(self, pixels_bcyx: Tensor, waves_um: tuple[float, ...]) -> Tensor:
        """Return (b, 1 + n, d): tokens after the last block, not normalised, CLS first."""
        return self.blocks(self.start(pixels_bcyx, waves_um)[0])

    def views(self, pixels_b3yx: Tensor, waves_um: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """Return (b, d) twice: the student's projected mean token before its last block, and the teacher's."""
        x = self.blocks[:-1](self.start(pixels_b3yx, waves_um)[0])
        [(places, prefix)] = self.teacher.forward_intermediates(
            pixels_b3yx, indices=[self.config.teacher_depth - 2], norm=False, stop_early=True,
            return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True,
        )  # fmt: skip
        return self.projector(x.mean(dim=1)).float(), torch.cat([prefix, places], dim=1).mean(dim=1).float()

    def predict(self, pixels_bcyx: Tensor, waves_um: tuple[float, ...], seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, e): the decoder's output at the hidden places."""
        x, waves_ck = self.start(pixels_bcyx, waves_um)
        x = torch.cat([x[:, :1], gather_tokens(x[:, 1:], seen_bv)], dim=1)
        x = self.decoder_embed(self.norm(self.blocks(x)))
        grid = pixels_bcyx.shape[-1] // self.config.patch_px
        places = fill_masked(x[:, 1:], seen_bv, self.mask_token, grid * grid)
        x = torch.cat([x[:, :1], places], dim=1) + place_codes(x.shape[-1], grid, grid, x.device)
        x = self.decoder_norm(self.decoder_blocks(x))[:, 1:]
        return self.decoder_pred(gather_tokens(x, hidden_bm), waves_ck)

    def errors(self, pixels_bcyx: Tensor, waves_um: tuple[float, ...], seen_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m): the squared error of each hidden patch."""
        truth = gather_tokens(patchify(pixels_bcyx, self.config.patch_px), hidden_bm)
        if self.config.norm_pix:
            truth = standardise(truth)
        return (self.predict(pixels_bcyx, waves_um, seen_bv, hidden_bm) - truth).square().mean(dim=-1)


@lru_cache(maxsize=64)
def wave_codes(waves_um: tuple[float, ...], dim: int, device: torch.device) -> Tensor:
    """Return (c, dim) float32: codes of wavelengths, taken in nanometres."""
    with torch.inference_mode(False):
        return sincos_1d(torch.tensor(waves_um, dtype=torch.float64) * 1000, dim).float().to(device)


def resized(table_1nd: Tensor, grid: int) -> Tensor:
    """Return the position table for grid x grid places: bicubic, the row of CLS kept."""
    side = math.isqrt(table_1nd.shape[1] - 1)
    if side == grid:
        return table_1nd
    places = table_1nd[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    places = F.interpolate(places, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table_1nd[:, :1], places.flatten(2).transpose(1, 2)], dim=1)
