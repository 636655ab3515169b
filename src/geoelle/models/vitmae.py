"""ViT-MAE: the masked autoencoder of He et al., trained on the photographs of ImageNet, with its decoder.

He et al. (2022), Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377. Upstream: `ViTMAEForPreTraining`
of huggingface/transformers (numbers here are checked against 5.23.0), Apache-2.0; weights facebook/vit-mae-base,
Apache-2.0, pinned below. Its config.json says `norm_pix_loss: false`: this is the checkpoint that reconstructs plain
pixels. It knows no remote sensing: it is a baseline that asks what photographs teach about the ground.

The objective is the mean squared error of the hidden patches (75%), in units of the variance of ImageNet's channels.
Reflectance becomes brightness by a straight stretch whose upper end is in the config; see the card's deviations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    as_picture,
    draw_weights,
    fill_masked,
    gather_tokens,
    on_meta,
    patchify,
    place_codes,
    scatter_error,
    standardise,
    z_scores,
)
from geoelle.models.weights import (
    Remote,
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

__all__ = ["CARDS", "CONFIGS", "VitMae", "VitMaeConfig", "VitMaeNet", "load", "make", "read"]

BANDS = ("red", "green", "blue")
FILE = "model.safetensors"
REPO, REVISION = "facebook/vit-mae-base", "25b184bea5538bf5c4c852c79d221195fdd2778d"


@dataclass(frozen=True, slots=True, kw_only=True)
class VitMaeConfig:
    """Fix the network, its input and its objective; the defaults are ViT-B as published."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_mlp_dim: int = 2048
    norm_eps: float = 1e-12
    chip_px: int = 224
    patch_px: int = 16
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    white: float = 0.3
    """Reflectance that is shown as brightness 1; all above it is 1 too."""
    mask_ratio: float = 0.75
    norm_pix: bool = False
    """Whether the target is each patch's pixels, standardised."""

    @property
    def grid(self) -> int:
        return self.chip_px // self.patch_px


CONFIGS = {"vitmae.base": VitMaeConfig()}


class Layer(nn.Module):
    """One pre-norm transformer block, its parts named as in the files."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "attention": nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("query", "key", "value")}),
                "output": _dense(dim, dim),
            }
        )
        self.intermediate, self.output = _dense(dim, mlp_dim), _dense(mlp_dim, dim)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)

    def forward(self, x_bnd: Tensor) -> Tensor:
        normed = self.layernorm_before(x_bnd)
        query, key, value = (
            project(normed).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in self.attention["attention"].values()
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x_bnd = x_bnd + self.attention["output"]["dense"](attended)
        inner = F.gelu(self.intermediate["dense"](self.layernorm_after(x_bnd)))
        return x_bnd + self.output["dense"](inner)


def _dense(inputs: int, outputs: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, outputs)})


class Embeddings(nn.Module):
    """The patch projection, CLS and the table of places."""

    def __init__(self, config: VitMaeConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.dim))
        project = nn.Conv2d(3, config.dim, config.patch_px, config.patch_px)
        self.patch_embeddings = nn.ModuleDict({"projection": project})


class Decoder(nn.Module):
    """The decoder, its parts named as in the files."""

    def __init__(self, config: VitMaeConfig) -> None:
        super().__init__()
        c, dim = config, config.decoder_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + c.grid**2, dim))
        self.decoder_embed = nn.Linear(c.dim, dim)
        layer = partial(Layer, dim, c.decoder_heads, c.decoder_mlp_dim, c.norm_eps)
        self.decoder_layers = nn.Sequential(*(layer() for _ in range(c.decoder_depth)))
        self.decoder_norm = nn.LayerNorm(dim, eps=c.norm_eps)
        self.decoder_pred = nn.Linear(dim, 3 * c.patch_px**2)


class VitMaeNet(nn.Module):
    """The network; pixels enter as (b, c, y, x): red, green, blue, standardised.

    The tables of places are sines and cosines, yet stored in the file, so they are loaded like weights.
    """

    IGNORED = ""

    def __init__(self, config: VitMaeConfig) -> None:
        super().__init__()
        self.config = c = config
        layer = partial(Layer, c.dim, c.heads, c.mlp_dim, c.norm_eps)
        self.vit = nn.ModuleDict(
            {
                "embeddings": Embeddings(c),
                "encoder": nn.ModuleDict({"layer": nn.Sequential(*(layer() for _ in range(c.depth)))}),
                "layernorm": nn.LayerNorm(c.dim, eps=c.norm_eps),
            }
        )
        self.decoder = Decoder(c)

    def set_tables(self) -> None:
        """Write the sines and cosines that training starts from, and keeps, into both tables."""
        grid = self.config.grid
        for table in (self.vit["embeddings"].position_embeddings, self.decoder.decoder_pos_embed):
            table.data.copy_(place_codes(table.shape[-1], grid, grid, table.device))

    def embed(self, pixels_bcyx: Tensor) -> Tensor:
        """Return (b, n, d): tokens out of the patch projection, before any code."""
        return self.vit["embeddings"].patch_embeddings["projection"](pixels_bcyx).flatten(2).transpose(1, 2)

    def encode(self, pixels_bcyx: Tensor, visible_bv: Tensor | None = None) -> Tensor:
        """Return (b, 1 + n or 1 + v, d): CLS, then tokens; with `visible_bv` (flat indices) only those are seen."""
        embeddings = self.vit["embeddings"]
        places = embeddings.position_embeddings
        x = self.embed(pixels_bcyx) + places[:, 1:]
        if visible_bv is not None:
            x = gather_tokens(x, visible_bv)
        x = torch.cat([(embeddings.cls_token + places[:, :1]).expand(len(x), -1, -1), x], dim=1)
        return self.vit["layernorm"](self.vit["encoder"]["layer"](x))

    def decode(self, seen_bvd: Tensor, visible_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m, 3 * pixels): predictions at the hidden places, channel last.

        `seen_bvd` is what `encode` returned, CLS first.
        """
        decoder = self.decoder
        seen = decoder.decoder_embed(seen_bvd)
        x = fill_masked(seen[:, 1:], visible_bv, decoder.mask_token, self.config.grid**2)
        x = torch.cat([seen[:, :1], x], dim=1) + decoder.decoder_pos_embed
        x = decoder.decoder_layers(x)
        return decoder.decoder_pred(decoder.decoder_norm(gather_tokens(x, 1 + hidden_bm)))

    def errors(self, pixels_bcyx: Tensor, visible_bv: Tensor, hidden_bm: Tensor) -> Tensor:
        """Return (b, m): the objective at the hidden places."""
        predicted = self.decode(self.encode(pixels_bcyx, visible_bv), visible_bv, hidden_bm).float()
        target = gather_tokens(patchify(pixels_bcyx, self.config.patch_px, "pqc"), hidden_bm)
        if self.config.norm_pix:
            target = standardise(target)
        return (predicted - target).square().mean(dim=2)


class VitMae(Adapter):
    """The adapter: chips of red, green and blue to tokens and to the true pretraining loss."""

    net: VitMaeNet

    def model_input(self, chips: Chips) -> Tensor:
        """Return (b, c, y, x) float32: brightness, standardised, of reflectance or of a picture's 0-1.

        Raises: InputMismatch (chips that do not say what sensor they are of).
        """
        config = self.net.config
        picture = as_picture(self.pixels(chips, BANDS)[:, 0], chips.sensor, config.white, name=self.card.name)
        return z_scores(picture, config.mean, config.std)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return (b, h, w, dim) and CLS, after the final norm."""
        tokens = self.net.encode(self.model_input(chips))
        return Tokens(patch_bhwd=tokens[:, 1:].unflatten(1, (self.card.grid, -1)), summary_bd=tokens[:, 0])

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective where `hidden` (b, h, w) is hidden."""
        seen, masked = self.split(chips, hidden, visible)
        error_bm = self.net.errors(self.model_input(chips), seen, masked)
        total = error_bm.mean(dim=1)
        return Loss(total_b=total, terms={"pixel": total}, error=scatter_error(error_bm, masked, hidden.shape))


def _card(name: str, config: VitMaeConfig) -> Card:
    return Card(
        name=name,
        title="ViT-MAE base, a masked autoencoder trained on photographs",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(0.3, 30.0),
        bands=BANDS,
        band_subset=False,
        objective="pixel-norm" if config.norm_pix else "pixel",
        unit="MSE in variances of the patch" if config.norm_pix else "MSE in variances of ImageNet's channels",
        mask_ratio=config.mask_ratio,
        needs=("sensor",),
        reading="High: the network cannot fill in the hidden ground from what surrounds it (texture, edges, bright "
        "ground). Low: smooth or dark ground.",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        files=(
            Remote(
                repo=REPO,
                file=FILE,
                revision=REVISION,
                sha256="479dcef4bd5df06259399027b789f21e9d9a1b79f37155a64176d55bc26fdae8",
                bytes=447_670_680,
            ),
            Remote(
                repo=REPO,
                file="config.json",
                revision=REVISION,
                sha256="1f7a507e1f7f63a262c5500b86470c3b22ff1a9e42de81bbba27105396572dae",
                bytes=676,
                optional=True,
            ),
        ),
        source="github.com/huggingface/transformers 5.23.0, models/vit_mae",
        citation="He et al. 2022, Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377",
        deviations=(
            "trained on photographs of ImageNet, so any imagery from above is outside what it knows, at any ground "
            "sampling: the range on this card is that of geoelle's sensors",
            f"reflectance is divided by {config.white:g} and cut to 0-1, a straight true-colour stretch without the "
            "gamma of photographs, so ground looks darker than a photograph of it; snow, cloud and bright sand "
            "saturate, and their loss is low because they are flat white",
            "NAIP is brightness already and is not stretched",
            "pixels are not resized, and not rounded to 8 bits",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}

HINTS = {
    r"^classifier\.|^vit\.pooler\.": "a ViT fine-tuned on labels",
    r"^(blocks|patch_embed)\.": "an MAE in the spelling of facebookresearch/mae; "
    "the files of facebook/vit-mae-base hold the same in the one that is read here",
    r"^(embeddings|encoder)\.": "an encoder without its decoder (saved from ViTMAEModel), so it has no loss",
}


def make(name: str, config: VitMaeConfig, *, seed: int = 0) -> VitMae:
    """Return an untrained network of any size."""
    net = on_meta(lambda: VitMaeNet(config))
    draw_weights(net, seed)
    net.set_tables()
    return VitMae(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> VitMae:
    """Load the published weights, a local file of them, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    return read(name, CONFIGS[name], local_files(name, CARDS[name].files, weights)[FILE])


def read(name: str, config: VitMaeConfig, path: Path) -> VitMae:
    """Load a file of a network of this config, with config.json beside it where there is one.

    Both spellings of the decoder's layers are read: that of the Hub (`decoder_layers`) and that which transformers 5
    writes (`decoder_encoder.layer`).

    Raises: WeightsError.
    """
    config = _as_told(config, config_beside(path), f"config.json beside {path.name}")
    state = {
        key.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."): tensor
        for key, tensor in state_of(read_checkpoint(path), name=path.name).items()
    }
    net = on_meta(lambda: VitMaeNet(config))
    load_strict(net, state, name=path.name, ignore=net.IGNORED, hints=HINTS)
    return VitMae(net, _card(name, config), digest([path]))


def _as_told(config: VitMaeConfig, told: dict[str, Any], where: str) -> VitMaeConfig:
    """Return the config with the objective that config.json tells; refuse another network."""
    encoder = {"hidden_size": config.dim, "num_hidden_layers": config.depth, "num_attention_heads": config.heads}
    decoder = {"decoder_hidden_size": config.decoder_dim, "decoder_num_hidden_layers": config.decoder_depth}
    rest = {
        "model_type": "vit_mae",
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "image_size": config.chip_px,
        "patch_size": config.patch_px,
        "intermediate_size": config.mlp_dim,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": config.decoder_mlp_dim,
    }
    hold_to(told, {**encoder, **decoder, **rest}, name=where)
    return replace(
        config,
        norm_pix=bool(told.get("norm_pix_loss", config.norm_pix)),
        mask_ratio=float(told.get("mask_ratio", config.mask_ratio)),
    )
