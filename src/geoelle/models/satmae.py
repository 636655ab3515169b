"""SatMAE for Sentinel-2: a masked autoencoder with one token for each place and each group of bands.

Cong et al. (2022), SatMAE: Pre-training Transformers for Temporal and Multi-Spectral Satellite Imagery,
arXiv:2207.08051. Upstream: github.com/sustainlab-group/SatMAE, `models_mae_group_channels.py`, commit e31c11f. Code is
CC-BY-NC-4.0 and none of it is here. The cards of the files on the Hub (MVRL, seen at commits 0890e45 for base and
c8b9c60 for large) state no licence, so the weights are taken to be under that of the code. The files of the authors
(Zenodo record 7338613, `pretrain-vit-base-e199.pth` and `-large-`) are the same models as pickles and load too.

Ten bands, pixels scaled band by band so that two standard deviations either side of the mean become 0 to 1, cut to 8
bits. The mask hides 75% of all tokens, whatever their group, so that a place may be seen in some bands and hidden in
others. The objective is the mean squared error of the hidden tokens; the error of a token is the mean over its bands.

Upstream's order of predictions is reproduced, because the weights were trained on it. The decoder gives its channels
group by group, and channel k is compared with band k as it comes: with the published groups, rededge1 is predicted
by the token of the first group and nir by that of the second, while each counts in the error of its own group. The
prediction of a hidden band can therefore come from a token that was visible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    blocks,
    draw_weights,
    fill_masked,
    gather_tokens,
    on_meta,
    patchify,
    place_codes,
    sincos_1d,
    standardise,
)
from geoelle.models.weights import (
    Remote,
    arguments_of,
    config_beside,
    digest,
    hold_to,
    load_strict,
    local_files,
    read_checkpoint,
    state_of,
)

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["CARDS", "CONFIGS", "SatMae", "SatMaeConfig", "SatMaeNet", "load", "make", "read"]

DN_PER_REFLECTANCE = 10_000.0
FILE = "model.safetensors"

BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")
"""B2, B3, B4, B5, B6, B7, B8, B8A, B11, B12: fMoW-Sentinel without B1, B9 and B10."""
MEAN = (1184.3824625, 1120.77120066, 1136.26026392, 1263.73947144, 1645.40315151,
        1846.87040806, 1762.59530783, 1972.62420416, 1732.16362238, 1247.91870117)  # fmt: skip
STD = (650.2842772, 712.12507725, 965.23119807, 948.9819932, 1108.06650639,
       1258.36394548, 1233.1492281, 1364.38688993, 1310.36996126, 1087.6020813)  # fmt: skip
"""Of fMoW-Sentinel, in digital numbers of L1C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SatMaeConfig:
    """Fix the network, its input and its objective; the defaults are ViT-B as published."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    channel_dim: int = 256
    """Part of `dim` that tells the group; the rest tells the place."""
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_channel_dim: int = 128
    mlp_ratio: float = 4.0
    chip_px: int = 96
    patch_px: int = 8
    bands: tuple[str, ...] = BANDS
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    groups: tuple[tuple[int, ...], ...] = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
    """Positions in `bands`."""
    mask_ratio: float = 0.75
    norm_pix: bool = False
    """Whether the target is each place's pixels of all bands, standardised."""

    @property
    def grid(self) -> int:
        return self.chip_px // self.patch_px


CONFIGS = {
    "satmae.base": SatMaeConfig(),
    "satmae.large": SatMaeConfig(dim=1024, depth=24, heads=16),
}

_REPOS = {
    "satmae.base": ("MVRL/satmae-vitbase-multispec-pretrain", 447_000_000, 441),
    "satmae.large": ("MVRL/satmae-vitlarge-multispec-pretrain", 1_320_000_000, 442),
}


class SatMaeNet(nn.Module):
    """The network; pixels enter as (b, c, y, x), 0-1, and tokens are ordered group by group, then row-major.

    The tables of places and groups are sines and cosines, yet stored in the files, so they are loaded like weights.
    """

    IGNORED = ""

    def __init__(self, config: SatMaeConfig) -> None:
        super().__init__()
        self.config = c = config
        places, groups = c.grid**2, len(c.groups)
        self.patch_embed = nn.ModuleList(PatchEmbed(c.chip_px, c.patch_px, len(g), c.dim) for g in c.groups)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, c.dim - c.channel_dim))
        self.channel_embed = nn.Parameter(torch.zeros(1, groups, c.channel_dim))
        self.blocks = blocks(c.dim, c.heads, c.depth, mlp_ratio=c.mlp_ratio)
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.decoder_embed = nn.Linear(c.dim, c.decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + places, c.decoder_dim - c.decoder_channel_dim))
        self.decoder_channel_embed = nn.Parameter(torch.zeros(1, groups + 1, c.decoder_channel_dim))  # CLS comes last
        self.decoder_blocks = blocks(c.decoder_dim, c.decoder_heads, c.decoder_depth, mlp_ratio=c.mlp_ratio)
        self.decoder_norm = nn.LayerNorm(c.decoder_dim, eps=1e-6)
        self.decoder_pred = nn.ModuleList(nn.Linear(c.decoder_dim, len(g) * c.patch_px**2) for g in c.groups)

    def set_tables(self) -> None:
        """Write the sines and cosines that training starts from, and keeps, into the four tables."""
        grid = self.config.grid
        for places, groups in (
            (self.pos_embed, self.channel_embed),
            (self.decoder_pos_embed, self.decoder_channel_embed),
        ):
            places.data.copy_(place_codes(places.shape[-1], grid, grid, places.device))
            groups.data.copy_(sincos_1d(torch.arange(groups.shape[1]), groups.shape[-1]))

    def embed(self, pixels_bcyx: Tensor) -> Tensor:
        """Return (b, g, n, d): tokens out of the patch projections, before any code."""
        groups = zip(self.patch_embed, self.config.groups, strict=True)
        return torch.stack([project(pixels_bcyx[:, list(group)]) for project, group in groups], dim=1)

    def encode(self, pixels_bcyx: Tensor, visible_bv: Tensor | None = None) -> Tensor:
        """Return (b, 1 + g * n or 1 + v, d): CLS, then tokens; with `visible_bv` (flat indices) only those are seen."""
        x = self.embed(pixels_bcyx) + _codes(self.pos_embed, self.channel_embed)
        x = x.flatten(1, 2)
        if visible_bv is not None:
            x = gather_tokens(x, visible_bv)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # CLS has no code here
        return self.norm(self.blocks(x))

    def decode(self, seen_bvd: Tensor, visible_bv: Tensor) -> Tensor:
        """Return (b, c, n, pixels): predictions at every place, **the channels of one group after those of another**.

        `seen_bvd` is what `encode` returned, CLS first.
        """
        codes = _codes(self.decoder_pos_embed, self.decoder_channel_embed[:, :-1]).flatten(1, 2)
        cls_code = torch.cat([self.decoder_pos_embed[:, :1], self.decoder_channel_embed[:, -1:]], dim=-1)
        seen = self.decoder_embed(seen_bvd)
        x = fill_masked(seen[:, 1:], visible_bv, self.mask_token, codes.shape[1])
        x = torch.cat([seen[:, :1] + cls_code, x + codes], dim=1)
        x = self.decoder_norm(self.decoder_blocks(x))[:, 1:].unflatten(1, (len(self.config.groups), -1))
        channels = [
            head(x[:, i]).unflatten(2, (-1, self.config.patch_px**2)) for i, head in enumerate(self.decoder_pred)
        ]
        return torch.cat(channels, dim=2).transpose(1, 2)

    def errors(self, pixels_bcyx: Tensor, visible_bv: Tensor) -> Tensor:
        """Return (b, g, n): the objective at every token, hidden or not."""
        predicted = self.decode(self.encode(pixels_bcyx, visible_bv), visible_bv).float()
        target = patchify(pixels_bcyx, self.config.patch_px, "cpq")
        if self.config.norm_pix:
            target = standardise(target)
        target = target.unflatten(2, (len(self.config.bands), -1)).transpose(1, 2)
        error_bcn = (predicted - target).square().mean(dim=3)  # channel k against band k: see the module's docstring
        return torch.stack([error_bcn[:, list(group)].mean(dim=1) for group in self.config.groups], dim=1)


def _codes(places_1nd: Tensor, groups_1gd: Tensor) -> Tensor:
    """Return (1, g, n, d): the code of the place, then the code of the group; the row of CLS is left out."""
    places, groups = places_1nd[:, None, 1:], groups_1gd[:, :, None]
    return torch.cat([places.expand(-1, groups.shape[1], -1, -1), groups.expand(-1, -1, places.shape[2], -1)], dim=-1)


class SatMae(Adapter):
    """The adapter: chips of ten Sentinel-2 bands to tokens and to the true pretraining loss."""

    net: SatMaeNet

    def model_input(self, chips: Chips) -> Tensor:
        """Return (b, c, y, x) float32, 0-1 in steps of 1/255, of reflectance 0-1."""
        config = self.net.config
        numbers = self.pixels(chips, config.bands)[:, 0] * DN_PER_REFLECTANCE
        mean, std = (numbers.new_tensor(values)[:, None, None] for values in (config.mean, config.std))
        levels = ((numbers - (mean - 2 * std)) / (4 * std) * 255).clamp(0, 255).trunc()
        return (levels / 255).float()

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return (b, h, w, dim), the mean over the groups at each place, and CLS."""
        cls, groups = self.encode_groups(chips)
        return Tokens(patch_bhwd=groups.mean(dim=1), summary_bd=cls)

    @torch.inference_mode()
    def encode_groups(self, chips: Chips) -> tuple[Tensor, Tensor]:
        """Return CLS (b, dim) and the token of each group and place (b, g, h, w, dim)."""
        tokens = self.net.encode(self.model_input(chips))
        return tokens[:, 0], tokens[:, 1:].unflatten(1, (-1, self.card.grid, self.card.grid))

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective where `hidden` (b, g, h, w) is hidden; the terms are the shares of the groups."""
        seen, masked = self.split(chips, hidden, visible)
        error = self.net.errors(self.model_input(chips), seen)
        mask = torch.from_numpy(np.ascontiguousarray(hidden)).to(self.device).flatten(2)
        parts_bg = error.where(mask, 0).sum(dim=2) / masked.shape[1]
        return Loss(
            total_b=parts_bg.sum(dim=1),
            terms={" ".join(group): parts_bg[:, i] for i, group in enumerate(self.card.groups)},
            error=error.where(mask, torch.nan).view(hidden.shape),
        )


def _card(name: str, config: SatMaeConfig) -> Card:
    repo, about, config_bytes = _REPOS[name]
    return Card(
        name=name,
        title=f"SatMAE {name.rsplit('.', 1)[-1]}, a masked autoencoder over groups of Sentinel-2 bands",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(10.0, 10.0),
        bands=config.bands,
        band_subset=False,
        groups=tuple(tuple(config.bands[i] for i in group) for group in config.groups),
        objective="pixel-norm" if config.norm_pix else "pixel",
        unit="MSE in variances of the place" if config.norm_pix else "MSE in squares of 4 band standard deviations",
        mask_ratio=config.mask_ratio,
        mask_axes=("g", "h", "w"),
        reading="High: the network cannot fill in hidden places or hidden groups of bands from what it sees (texture, "
        "edges, bright or rare spectra). Low: uniform or familiar ground.",
        code_licence="CC-BY-NC-4.0 upstream, none of it used here",
        weights_licence="none stated; taken as CC-BY-NC-4.0, that of the code",
        terms="No commercial use (CC-BY-NC-4.0 of the code; the weights carry no licence of their own).",
        files=(
            Remote(repo=repo, file=FILE, bytes_about=about),
            Remote(repo=repo, file="config.json", bytes=config_bytes, optional=True),
        ),
        source="github.com/sustainlab-group/SatMAE e31c11f, models_mae_group_channels.py",
        citation="Cong et al. 2022, SatMAE: Pre-training Transformers for Temporal and Multi-Spectral Satellite "
        "Imagery, arXiv:2207.08051",
        deviations=(
            "trained on Sentinel-2 L1C (top of the atmosphere): surface reflectance (L2A) lacks the path radiance and "
            "lies lower on the network's scale, most in blue; sentinel-2-l1c is the sensor it knows, and losses of the "
            "two levels do not compare",
            "trained on random crops of fMoW-Sentinel resized to 96 px, so on mixed effective ground sampling; here "
            "96 px at 10 m as they come",
            "as upstream, channel k of the decoder is compared with band k though the channels come group by group: "
            "the error of rededge1 is of a prediction by the first group's token, that of nir by the second's",
            "patch tokens are the mean over the three groups; CLS has no code of its own, as in pretraining",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}

HINTS = {
    r"^(head|fc_norm)\.|^channel_cls_embed$": "a SatMAE fine-tuned on labels (no decoder, so no loss; other codes)",
    r"^patch_embed\.proj\.": "a SatMAE for RGB or time series, or another vision transformer (one patch projection)",
}


def make(name: str, config: SatMaeConfig, *, seed: int = 0) -> SatMae:
    """Return an untrained network of any size."""
    net = on_meta(lambda: SatMaeNet(config))
    draw_weights(net, seed)
    net.set_tables()
    return SatMae(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> SatMae:
    """Load the published weights, a local file of them, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    return read(name, CONFIGS[name], local_files(name, CARDS[name].files, weights)[FILE])


def read(name: str, config: SatMaeConfig, path: Path) -> SatMae:
    """Load a file of a network of this config: safetensors with config.json beside it, or the authors' pickle.

    Raises: WeightsError (among others where the file says that it was trained with another count of heads).
    """
    checkpoint = read_checkpoint(path)
    beside = config_beside(path)
    config = _as_told(config, arguments_of(checkpoint), path.name)
    config = _as_told(config, beside.get("config", beside), f"config.json beside {path.name}")
    net = on_meta(lambda: SatMaeNet(config))
    load_strict(net, state_of(checkpoint, name=path.name), name=path.name, ignore=net.IGNORED, hints=HINTS)
    return SatMae(net, _card(name, config), digest([path]))


def _as_told(config: SatMaeConfig, told: dict[str, Any], where: str) -> SatMaeConfig:
    """Return the config with the objective that the weights tell; refuse another network."""
    groups = {"channel_groups": config.groups, "grouped_bands": config.groups, "spatial_mask": False}
    sizes = {"img_size": config.chip_px, "input_size": config.chip_px, "patch_size": config.patch_px}
    encoder = {"embed_dim": config.dim, "depth": config.depth, "num_heads": config.heads}
    decoder = {"decoder_embed_dim": config.decoder_dim, "decoder_depth": config.decoder_depth}
    rest = {
        "in_chans": len(config.bands),
        "channel_embed": config.channel_dim,
        "mlp_ratio": config.mlp_ratio,
        "decoder_num_heads": config.decoder_heads,
        "decoder_channel_embed": config.decoder_channel_dim,
    }
    hold_to(told, {**groups, **sizes, **encoder, **decoder, **rest}, name=where)
    return replace(
        config,
        norm_pix=bool(told.get("norm_pix_loss", config.norm_pix)),
        mask_ratio=float(told.get("mask_ratio", config.mask_ratio)),
    )
