"""FG-MAE: a ViT for Sentinel-2 that rebuilds gradients and spectral indices instead of pixels.

Wang et al. 2024, Feature Guided Masked Autoencoder for Self-Supervised Learning in Remote Sensing, IEEE JSTARS,
arXiv:2310.18653. Upstream: github.com/zhu-xlab/FGMAE at 1144e55. Code: Apache-2.0. Weights: CC BY 4.0.

Input: the 13 bands of Level-1C, top-of-atmosphere reflectance as 8-bit levels, trunc(255 reflectance), over 255.
Seven tenths of the patches are hidden; the decoder gives two vectors for each:

* `hog`, histograms of oriented gradients: per band and cell of 8 x 8 pixels, the Sobel magnitude, weighted by a
  Gaussian that repeats every 16 pixels, summed into nine bins of direction and divided by the length of the nine;
* `ndi`: NDVI, NDWI and NDBI of every pixel.

Both targets are standardised by their own mean and deviation within the patch. The loss is the sum of the two mean
squared errors, mean over the hidden patches. Since each patch counts relative to its own contrast, noise on even
ground is as hard as a town.

Deviations. Upstream's cast to 8 bits wraps reflectance above 1.004 around to black; here it is clipped. The gradients
are taken of the integer levels and their angles in float64: where the horizontal response is exactly 0, some 4% of the
pixels of an 8-bit image, upstream's bin is 0 or 8 by the rounding of a sum, here it is always 0; the common factor
255 leaves the normalised histogram. Upstream groups the cells of a chip by a fixed 14, which gives the patch's own
four cells for grids of 14 to 20 patches (224 to 320 px) and nothing of use elsewhere; other sizes are refused.

Files named `_enc` are the encoder alone; they embed and have no loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.models.vision_transformer import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.errors import WeightsError
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    blocks,
    draw_weights,
    fill_masked,
    gather_tokens,
    on_meta,
    patchify,
    place_codes,
    scatter_error,
    standardise,
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
    "FgMae",
    "FgMaeConfig",
    "FgMaeNet",
    "hog",
    "load",
    "make",
    "read",
    "window",
]

BANDS = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "cirrus",
    "swir16", "swir22",
)  # fmt: skip
BINS = 9
WINDOW = 16
INDICES = (("nir", "red"), ("green", "nir"), ("swir16", "nir"))
"""NDVI, NDWI and NDBI: (a - b) / (a + b)."""
INDEX_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class FgMaeConfig:
    """Fix the shape of the network; the defaults are the published ViT-B/16 for Sentinel-2."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    patch_px: int = 16
    chip_px: int = 224
    bands: tuple[str, ...] = BANDS
    indices: bool = True
    """Whether spectral indices are a target besides the gradients; the radar models have none."""
    mask_ratio: float = 0.7

    def __post_init__(self) -> None:
        if self.chip_px % self.patch_px or self.chip_px % WINDOW or not 14 <= self.grid <= 20:
            raise ValueError(f"chips of FG-MAE have 14 to 20 patches a side, multiples of 16 px; not {self.chip_px} px")

    @property
    def grid(self) -> int:
        """Patches along one side of a chip."""
        return self.chip_px // self.patch_px

    @property
    def cell_px(self) -> int:
        """Side of a histogram's cell, four to a patch."""
        return self.patch_px // 2


@lru_cache(maxsize=8)
def window(device: torch.device) -> Tensor:
    """Return (16, 16) float32: a Gaussian of 8 px, centred, of sum 1."""
    with torch.inference_mode(False):
        place = torch.arange(WINDOW, dtype=torch.float64) - (WINDOW - 1) / 2
        bell = torch.exp(-0.5 * (place / (WINDOW / 2)) ** 2)
        return (torch.outer(bell, bell) / bell.sum() ** 2).float().to(device)


def hog(levels_bcyx: Tensor, cell_px: int) -> Tensor:
    """Return (b, c, 9, y / cell, x / cell): the directions of the gradients in each cell, a vector of length 1.

    Levels are integers of at most 8 bits, in any float type, so that the gradients are exact. Bin k holds the
    directions, taken modulo 180 degrees, from 20 k up to 20 (k + 1); 0 is where the image changes vertically alone.
    """
    # At the border the image is mirrored without repeating its last pixel.
    padded = F.pad(levels_bcyx.float(), (1, 1, 1, 1), mode="reflect")
    across = padded[..., :-2] - padded[..., 2:]
    down = padded[..., :-2, :] - padded[..., 2:, :]
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    gy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    bins = (torch.atan2(gx.double(), gy.double()) / math.pi * BINS).floor().to(torch.int8) % BINS
    repeats = [side // WINDOW for side in levels_bcyx.shape[-2:]]
    weight = torch.hypot(gx, gy) * window(levels_bcyx.device).repeat(*repeats)
    # One bin at a time: a scattered sum has no fixed order on a GPU.
    cells = [F.avg_pool2d(weight * (bins == k), cell_px) for k in range(BINS)]
    return F.normalize(torch.stack(cells, dim=2), dim=2)


class FgMaeNet(nn.Module):
    """The network; `decoder` is false for a file without one. Images are 8-bit levels / 255, (b, c, y, x) float32."""

    IGNORED = r"^hog\.(weight_x|weight_y|gkern)$"
    """Constants of the gradients that published files hold."""

    def __init__(self, config: FgMaeConfig, *, decoder: bool = True) -> None:
        super().__init__()
        self.config = config
        bands, patch = len(config.bands), config.patch_px
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.grid**2, config.dim))
        self.patch_embed = PatchEmbed(img_size=config.chip_px, patch_size=patch, in_chans=bands, embed_dim=config.dim)
        self.blocks = blocks(config.dim, config.heads, config.depth)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        if not decoder:
            return
        dim = config.decoder_dim
        self.decoder_embed = nn.Linear(config.dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, 1 + config.grid**2, dim))
        self.decoder_blocks = blocks(dim, config.decoder_heads, config.decoder_depth)
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_pred = nn.Linear(dim, bands * BINS * 4)
        if config.indices:
            self.decoder_pred2 = nn.Linear(dim, patch**2 * len(INDICES))

    def encode(self, image_bcyx: Tensor, visible_bv: Tensor | None = None) -> Tensor:
        """Return (b, 1 + patches or visible, d): CLS, then the patches, only those of `visible_bv` where given."""
        x = self.patch_embed(image_bcyx) + self.pos_embed[:, 1:]
        if visible_bv is not None:
            x = gather_tokens(x, visible_bv)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        return self.norm(self.blocks(x))

    def predict(self, image_bcyx: Tensor, visible_bv: Tensor, masked_bm: Tensor) -> dict[str, Tensor]:
        """Return the decoder's output for every target at the masked patches, (b, m, values)."""
        seen = self.decoder_embed(self.encode(image_bcyx, visible_bv))
        places = fill_masked(seen[:, 1:], visible_bv, self.mask_token, self.config.grid**2)
        x = torch.cat([seen[:, :1], places], dim=1) + self.decoder_pos_embed
        x = self.decoder_norm(gather_tokens(self.decoder_blocks(x)[:, 1:], masked_bm))
        out = {"hog": self.decoder_pred(x).float()}
        if self.config.indices:
            out["ndi"] = self.decoder_pred2(x).float()
        return out

    def targets(self, levels_bcyx: Tensor) -> dict[str, Tensor]:
        """Return every target before it is standardised, (b, patches, values)."""
        # One chip at a time: it stays in the processor's cache, and the batch is four times as fast.
        cells = torch.cat([hog(chip, self.config.cell_px) for chip in levels_bcyx.split(1)])
        out = {"hog": patchify(cells.flatten(1, 2), 2, "cpq")}
        if self.config.indices:
            band = {name: levels_bcyx[:, i] / 255 for i, name in enumerate(self.config.bands)}
            indices = [(band[a] - band[b]) / (band[a] + band[b] + INDEX_EPS) for a, b in INDICES]
            out["ndi"] = patchify(torch.stack(indices, dim=1), self.config.patch_px)
        return out

    def errors(self, levels_bcyx: Tensor, visible_bv: Tensor, masked_bm: Tensor) -> dict[str, Tensor]:
        """Return the error of every masked patch for each target, (b, m)."""
        drawn = self.predict(levels_bcyx / 255, visible_bv, masked_bm)
        return {
            name: (drawn[name] - standardise(gather_tokens(target, masked_bm))).square().mean(-1)
            for name, target in self.targets(levels_bcyx).items()
        }


class FgMae(Adapter):
    """The adapter: Level-1C chips to tokens, and to the true pretraining loss where the file has the decoder."""

    net: FgMaeNet

    def levels(self, chips: Chips) -> Tensor:
        """Return (b, 13, y, x): reflectance as 8-bit levels, integers in float32."""
        return (255 * self.pixels(chips, self.card.bands)[:, 0]).clamp(0, 255).trunc().float()

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return tokens (b, 14, 14, d) of 224 px chips without NaN, top-of-atmosphere reflectance 0-1."""
        tokens = self.net.encode(self.levels(chips) / 255)
        return Tokens(patch_bhwd=tokens[:, 1:].unflatten(1, (self.card.grid, self.card.grid)), summary_bd=tokens[:, 0])

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective under this mask; every chip must hide the same count.

        Raises: CapabilityError (the weights are an encoder alone).
        """
        if self.card.target != "loss":
            raise self.encoder_alone()
        seen, masked = self.split(chips, hidden, visible)
        terms = self.net.errors(self.levels(chips), seen, masked)
        error = torch.stack([*terms.values()]).sum(0)
        return Loss(
            total_b=error.mean(dim=1),
            terms={name: term.mean(dim=1) for name, term in terms.items()},
            error=scatter_error(error, masked, hidden.shape),
        )


REVISION = "24dd3077d7a99ecd454eaec7adb83d045d7fa122"
FULL = Remote(repo="wangyi111/FGMAE", file="B13_vitb16_fgmae_ep99.pth", revision=REVISION, bytes_about=1_370_000_000)
"""Encoder, decoder and the optimizer's state."""
ENCODER = Remote(
    repo="wangyi111/FGMAE", file="B13_vitb16_fgmae_ep99_enc.pth", revision=REVISION, bytes_about=351_000_000
)
"""The encoder alone, a file `read` takes as well; it has no loss."""
TORCHGEO = {"fgmae.s2-base": ("ViTBase16_Weights", "SENTINEL2_ALL_FGMAE")}
"""Model -> the enum and member of torchgeo that names the file in `ENCODER`."""

CONFIGS = {"fgmae.s2-base": FgMaeConfig()}


def _card(name: str, config: FgMaeConfig) -> Card:
    return Card(
        name=name,
        title="FG-MAE ViT-B/16, a feature-guided masked autoencoder for Sentinel-2 Level-1C",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(10.0, 10.0),
        bands=config.bands,
        band_subset=False,
        objective="gradient histograms and spectral indices" if config.indices else "gradient histograms",
        unit="squared error over the variance of each patch's own target, summed over histograms and indices",
        mask_ratio=config.mask_ratio,
        reading="High: edges and the pattern of vegetation, water and built ground in hidden patches do not follow "
        "from what surrounds them; a patch counts relative to its own contrast, so noise on even ground is high too.",
        code_licence="Apache-2.0",
        weights_licence="CC-BY-4.0",
        files=(FULL,),
        source="github.com/zhu-xlab/FGMAE at 1144e55",
        citation="Wang et al. 2024, Feature Guided Masked Autoencoder for Self-Supervised Learning in Remote Sensing, "
        "IEEE JSTARS, arXiv:2310.18653",
        deviations=(
            "reflectance above 1 is clipped; upstream's 8-bit cast wraps it around",
            "levels are 255 x reflectance, the default of upstream's reader; the flag its database was written with is "
            "not recorded",
            "gradients are exact on 8-bit levels; where the horizontal one is 0, upstream's bin depends on rounding",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


def make(name: str, config: FgMaeConfig, *, seed: int = 0) -> FgMae:
    """Return an untrained network of any config, encoder and decoder, with the fixed position tables of MAE."""
    net = on_meta(lambda: FgMaeNet(config))
    draw_weights(net, seed)
    with torch.no_grad():
        for table in (net.pos_embed, net.decoder_pos_embed):
            table.copy_(place_codes(table.shape[-1], config.grid, config.grid, table.device))
    return FgMae(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> FgMae:
    """Load the published weights, a local file of the same kind (whole, or encoder alone), or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    return read(name, CONFIGS[name], local_files(name, CARDS[name].files, weights)[FULL.file])


HINTS = {
    r"^fpn\.": "a ScaleMAE, not FG-MAE",
    r"^(vit|decoder)\.": "a masked autoencoder in the spelling of transformers, not FG-MAE",
    r"^channel_embed$": "a SatMAE, not FG-MAE",
    r"^(head|fc_norm)\.": "a fine-tuned classifier",
}


def read(name: str, config: FgMaeConfig, path: Path) -> FgMae:
    """Return the model of one file, refusing one that was trained on another objective.

    Raises: WeightsError.
    """
    checkpoint = read_checkpoint(path)
    state = state_of(checkpoint, name=path.name)
    first = state.get("patch_embed.proj.weight")
    if first is not None and first.ndim == 4 and first.shape[1] != len(config.bands):
        kind = {2: "the FG-MAE of Sentinel-1", 3: "a model of RGB"}.get(first.shape[1], "another model")
        raise WeightsError(f"{path.name} takes {first.shape[1]} bands: it is {kind}; {name} takes {len(config.bands)}")
    config = _as_told(config, arguments_of(checkpoint), path.name)
    whole = any(key.startswith(("decoder", "mask_token")) for key in state)
    net = on_meta(lambda: FgMaeNet(config, decoder=whole))
    load_strict(net, state, name=path.name, ignore=FgMaeNet.IGNORED, hints=HINTS)
    card = _card(name, config)
    if not whole:
        told = "an encoder alone; nothing in it tells FG-MAE from another ViT of these bands"
        card = replace(card, target="none", objective="", unit="", deviations=(*card.deviations, told))
    return FgMae(net, card, digest([path]))


def _as_told(config: FgMaeConfig, said: dict[str, Any], name: str) -> FgMaeConfig:
    """Return the config with the mask ratio a file says it was trained with; refuse another objective or size."""
    fixed = {
        "feature": "hog+ndi" if config.indices else "hog",
        "hog_norm": True,
        "norm_pix_loss": True,
        "input_size": config.chip_px,
    }
    hold_to(said, fixed, name=name)
    return replace(config, mask_ratio=said.get("mask_ratio", config.mask_ratio))
