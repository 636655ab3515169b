"""ScaleMAE: a ViT-L/16 for RGB whose place codes grow with the size of a pixel, encoder and decoder.

Reed et al. 2023, Scale-MAE: A Scale-Aware Masked Autoencoder for Multiscale Geospatial Representation Learning,
arXiv:2212.14532. Upstream: github.com/bair-climate-initiative/scale-mae at 89280d8. Code and weights: CC BY-NC 4.0.

The chip is the image to be rebuilt. The encoder sees it at half its size with three quarters of its patches hidden.
The decoder draws two images: a high band at full size (the chip less a blur of it, the means of a 7 x 7 grid spread
bilinearly) and a low band at half size (the mean of 2 x 2 pixels). The loss is the sum over the two bands of the
squared error, summed over the three channels, mean over the hidden pixels; all patches have as many, so it is the
mean of patch errors exactly. A file that was trained on the absolute error in the high band says so in its
arguments, and these are honoured.

The relative resolution. Place codes are taken at `res` times row and column. In training res never was in metres: it
is 2.5 for a chip that is a whole picture, less for a crop that is enlarged to it, and twice that at half the size.

* The loss takes 5.0: a chip of geoelle is such a whole picture, and 2.24 to 5 is what training saw.
* Embeddings take 1.0, as upstream's own evaluation does whatever the sensor. Its accuracy on EuroSAT falls from 0.954
  to 0.876 with res 10.

Both are numbers of the config, and the card's objective names them.

Brightness. Training saw 8-bit pictures. Sensors in `networks.PICTURES` deliver such (DN / 255); the reflectance of
others is stretched so that `white` is 1, and clipped. The stretch is ours: no file or paper fixes one.

An encoder without decoder, such as the one torchgeo loads, embeds and has no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.models.vision_transformer import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    as_picture,
    blocks,
    draw_weights,
    fill_masked,
    gather_tokens,
    on_meta,
    scatter_error,
    sincos_2d,
    z_scores,
)
from geoelle.models.weights import (
    Remote,
    arguments_of,
    digest,
    hold_to,
    load_strict,
    local_files,
    read_checkpoint,
    state_of,
)

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = [
    "BANDS",
    "CARDS",
    "CONFIGS",
    "ENCODER",
    "TORCHGEO",
    "ScaleMae",
    "ScaleMaeConfig",
    "ScaleMaeNet",
    "load",
    "make",
    "read",
]

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


class ScaleMae(Adapter):
    """The adapter: RGB chips to tokens, and to the true pretraining loss where the file has the decoder."""

    net: ScaleMaeNet

    def images(self, chips: Chips) -> Tensor:
        """Return (b, 3, y, x): brightness less ImageNet's mean, over its standard deviation.

        Raises: InputMismatch (chips that do not fit, or of no named sensor).
        """
        config = self.net.config
        bright = as_picture(self.pixels(chips, BANDS)[:, 0], chips.sensor, config.white, name=self.card.name)
        return z_scores(bright, config.mean, config.std)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return tokens of chips without NaN, RGB as reflectance or DN / 255, seen at half their size."""
        tokens = self.net.encode(self.net.halve(self.images(chips)), self.net.config.embed_res)
        return Tokens(patch_bhwd=tokens[:, 1:].unflatten(1, (self.card.grid, self.card.grid)), summary_bd=tokens[:, 0])

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective under this mask; every chip must hide the same count.

        Raises: CapabilityError (the weights are an encoder alone), InputMismatch.
        """
        if self.card.target != "loss":
            raise self.encoder_alone()
        seen, masked = self.split(chips, hidden, visible)
        bands = {
            name: error.flatten(1).gather(1, masked)
            for name, error in self.net.errors(self.images(chips), seen).items()
        }
        error = bands["high"] + bands["low"]
        return Loss(
            total_b=error.mean(dim=1),
            terms={name: band.mean(dim=1) for name, band in bands.items()},
            error=scatter_error(error, masked, hidden.shape),
        )


FULL = Remote(
    repo="torchgeo/vit_large_patch16_224_fmow_rgb_scalemae",
    file="scalemae-vitlarge-800.pth",
    bytes_about=1_290_000_000,
)
"""Encoder and decoder, a mirror of upstream's release base-800."""
ENCODER = Remote(
    repo="isaaccorley/vit_large_patch16_224_fmow_rgb_scalemae",
    file="vit_large_patch16_224_fmow_rgb_scalemae-98ed9821.pth",
    revision="9dc7f569424baeb780698352cf6e87638c882123",
    bytes=1_213_304_038,
)
"""The encoder alone, a file `read` takes as well; it has no loss."""
TORCHGEO = {"scalemae.large": ("ScaleMAELarge16_Weights", "FMOW_RGB")}
"""Model -> the enum and member of torchgeo that names the file in `ENCODER`."""

AREA = "the encoder sees the mean of 2 x 2 pixels; training halved bilinearly with aligned corners"

CONFIGS = {"scalemae.large": ScaleMaeConfig()}


def _card(name: str, config: ScaleMaeConfig) -> Card:
    high = f"{config.high_weight:g} x absolute" if config.high_l1 else "squared"
    return Card(
        name=name,
        title="ScaleMAE, a scale-aware masked autoencoder for RGB (fMoW)",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(0.3, 10.0),
        bands=BANDS,
        band_subset=False,
        objective=f"{high} error in the high band, squared in the low; relative resolution {config.loss_res:g} "
        f"(embeddings {config.embed_res:g})",
        unit="squared error over ImageNet's variance of brightness, summed over three channels and two bands",
        mask_ratio=config.mask_ratio,
        needs=("sensor",),
        reading="High: detail and brightness of hidden ground do not follow from what surrounds it; contrast is not "
        "normalised, so bright or contrasty ground is high and even ground low.",
        code_licence="CC-BY-NC-4.0",
        weights_licence="CC-BY-NC-4.0",
        terms="CC BY-NC 4.0: no commercial use, and the authors are to be named.",
        files=(FULL,),
        source="github.com/bair-climate-initiative/scale-mae at 89280d8",
        citation="Reed et al. 2023, Scale-MAE: A Scale-Aware Masked Autoencoder for Multiscale Geospatial "
        "Representation Learning, arXiv:2212.14532",
        deviations=(
            *(() if config.aligned else (AREA,)),
            f"reflectance / {config.white:g}, clipped to 0-1, stands for the 8-bit pictures of training",
            "trained on fMoW pictures of about 0.3 to 3 m; the range goes to 10 m because upstream evaluates on "
            "Sentinel-2 (EuroSAT)",
            f"relative resolution {config.embed_res:g} for embeddings as in upstream's evaluation, "
            f"{config.loss_res:g} for the loss as for a whole picture in training; no metres enter",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


def make(name: str, config: ScaleMaeConfig, *, seed: int = 0) -> ScaleMae:
    """Return an untrained network of any config, encoder and decoder."""
    net = on_meta(lambda: ScaleMaeNet(config))
    draw_weights(net, seed)
    return ScaleMae(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> ScaleMae:
    """Load the published weights, a local file of the same kind (whole, or encoder alone), or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    return read(name, CONFIGS[name], local_files(name, CARDS[name].files, weights)[FULL.file])


HINTS = {
    r"^decoder_pred\.": "a plain masked autoencoder (MAE, SatMAE or FG-MAE), not ScaleMAE",
    r"^(vit|decoder)\.": "a masked autoencoder in the spelling of transformers, not ScaleMAE",
    r"^fcn\.": "a ScaleMAE with one head for both bands",
    r"^pos_emb_projection\.": "a ScaleMAE that projects its place codes",
    r"^fpn\.fpn1\.0\.ln\.": "a ScaleMAE with progressive heads",
}


def read(name: str, config: ScaleMaeConfig, path: Path) -> ScaleMae:
    """Return the model of one file, honouring the training arguments that it carries.

    Raises: WeightsError.
    """
    checkpoint = read_checkpoint(path)
    state = state_of(checkpoint, name=path.name)
    whole = any(key.startswith(("decoder", "mask_token", "fpn.", "fcn")) for key in state)
    said = arguments_of(checkpoint)
    config = _as_told(config, said, path.name)
    net = on_meta(lambda: ScaleMaeNet(config, decoder=whole))
    load_strict(net, state, name=path.name, ignore=ScaleMaeNet.IGNORED, hints=HINTS)
    card = _card(name, config)
    if not whole:
        card = replace(
            card,
            target="none",
            objective=f"relative resolution of embeddings {config.embed_res:g}",
            unit="",
            deviations=(*card.deviations, "an encoder alone; nothing in it tells ScaleMAE from another ViT-L/16"),
        )
    elif not said:
        card = replace(
            card, deviations=(*card.deviations, "the file does not say its training arguments; defaults are assumed")
        )
    return ScaleMae(net, card, digest([path]))


def _as_told(config: ScaleMaeConfig, said: dict[str, Any], name: str) -> ScaleMaeConfig:
    """Return the config with what a file says of its training; refuse what this network does not do."""
    half = config.chip_px // 2
    sizes = {"input_size": half, "source_size": (half,), "target_size": (config.chip_px,)}
    hold_to(said, {**sizes, "use_mask_token": True}, name=name)
    renamed = {"use_l1_loss": "high_l1", "l1_loss_weight": "high_weight", "mask_ratio": "mask_ratio"}
    changed = {ours: said[theirs] for theirs, ours in renamed.items() if theirs in said}
    if "band_config" in said:
        changed["blur_grid"] = said["band_config"][0]  # upstream's second number has no effect
    if "base_resolution" in said:
        changed["loss_res"] = 2.0 * said["base_resolution"]
    if said.get("absolute_scale"):
        changed["loss_res"] = 1.0
    return replace(config, **changed)
