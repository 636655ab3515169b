"""SatCLIP: a ViT-S/16 for Sentinel-2, and an encoder of places trained to agree with it; half of the loss as a proxy.

Klemmer et al. 2025, SatCLIP: Global, General-Purpose Location Embeddings with Satellite Imagery, arXiv:2311.17179.
Upstream: github.com/microsoft/satclip at 1ead106, weights microsoft/SatCLIP-ViT16-L40 on the hub.
Code and weights: MIT. The image tower is MoCo's from torchgeo, frozen; its head and the encoder of places were trained.

Pixels. Twelve bands of Sentinel-2 L2A as reflectance (upstream: DN / 10000, no further statistics). The tower takes
13: upstream itself puts zeros where L1C has B10, at index 10, and trained the head on that, so it is done here too.

The objective is contrastive, symmetric over a batch: each picture against the places of the batch, each place against
its pictures. A chip alone has no batch. The proxy is the first half with the batch replaced by a fixed bank of
places, drawn once from a seed, uniform by area and on sea as on land:

    -log( exp(s cos(image, own place)) / (exp(s cos(image, own place)) + sum over the bank exp(s cos(image, place))) )

with the published scale s. It depends on the bank, whose size and seed are in the card's objective: it grows with
the size, and places at sea are easy to tell from a picture of land. The embedding is of pixels alone: only the proxy
reads longitude and latitude, so the card lists no need.

Places are encoded as spherical harmonics and a network of sines, all in float64. The harmonics are upstream's, not
those of a textbook: orders m > 0 and m < 0 lack the sign (-1)^m of Condon and Shortley, and m = 0 is pi times too
large. They are sums of monomials with coefficients printed to 15 digits, which cancel badly towards the poles (3% of
the vector at 85 degrees of latitude). The network was trained on these numbers, so they are computed the same way,
with the coefficients rebuilt from exact fractions and rounded as they were printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Context
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.errors import WeightsError
from geoelle.models.base import Adapter, Card, Tokens
from geoelle.models.networks import draw_weights, on_meta
from geoelle.models.weights import Remote, digest, hold_to, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = [
    "BANDS",
    "CARDS",
    "CONFIGS",
    "SatClip",
    "SatClipConfig",
    "SatClipNet",
    "Siren",
    "bank_places",
    "harmonics",
    "load",
    "make",
    "read",
]

BANDS = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16", "swir22",
)  # fmt: skip
B10_AT = 10
"""Where the image tower has the cirrus band of L1C, which L2A lacks and upstream fills with zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SatClipConfig:
    """Fix both towers and the bank of the proxy; the defaults are those of ViT16-L40."""

    dim: int = 384
    depth: int = 12
    heads: int = 6
    patch_px: int = 16
    chip_px: int = 224
    out_dim: int = 256
    """Length of the embeddings that are compared (upstream: embed_dim)."""
    degrees: int = 40
    """Degrees of the harmonics, from 0 (upstream: legendre_polys)."""
    capacity: int = 512
    hidden_layers: int = 2
    bank: int = 4096
    """Places that stand for the rest of the batch in the proxy."""
    bank_seed: int = 0


CONFIGS = {"satclip.vit16-l40": SatClipConfig()}


def _printed(value: float) -> float:
    """Return a number as upstream's table prints it: 15 significant digits, halves away from zero."""
    return float(Context(prec=15, rounding=ROUND_HALF_UP).create_decimal_from_float(value))


@lru_cache(maxsize=4)
def _series(degrees: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (pairs,) factors, (terms, pairs) coefficients and their powers of cos(theta), falling; pairs are (l, m).

    The m-th derivative of the Legendre polynomial P_l as a sum of monomials. Only for m = 0 is the factor multiplied
    into the coefficients before they are rounded.
    """
    pairs = [(deg, order) for deg in range(degrees) for order in range(deg + 1)]
    factors = np.ones(len(pairs))
    coefficients = np.zeros(((degrees + 1) // 2, len(pairs)))
    powers = np.zeros(coefficients.shape, dtype=np.int64)
    fact = math.factorial
    for i, (deg, order) in enumerate(pairs):
        count = (deg - order) // 2 + 1
        exact = [
            Fraction((-1) ** k * fact(2 * deg - 2 * k), 2**deg * fact(k) * fact(deg - k) * fact(deg - 2 * k - order))
            for k in range(count)
        ]
        if order == 0:
            norm = math.sqrt((2 * deg + 1) / 4) * math.sqrt(math.pi)  # pi times the textbook's
            values = [_printed(float(c) * norm) for c in exact]
        else:
            norm = math.sqrt(Fraction((2 * deg + 1) * fact(deg - order), fact(deg + order)) / Fraction(2 * math.pi))
            single = count == 1  # one monomial was merged into the factor
            factors[i] = _printed(norm * float(exact[0]) if single else norm)
            values = [1.0] if single else [_printed(float(c)) for c in exact]
        coefficients[:count, i] = values
        powers[:count, i] = [deg - order - 2 * k for k in range(count)]
    return factors, coefficients, powers


def harmonics(lonlat_n2: Tensor, degrees: int) -> Tensor:
    """Return (n, degrees^2) float64: upstream's harmonics of places in degrees, degree l and order m at l^2 + l + m.

    Every sum runs from the highest power down, as upstream writes it: the order decides what cancellation leaves.
    """
    factors, coefficients, powers = (torch.from_numpy(a).to(lonlat_n2.device) for a in _series(degrees))
    phi, theta = torch.deg2rad(lonlat_n2.double() + lonlat_n2.new_tensor([180.0, 90.0])).unbind(1)
    x = theta.cos()
    x_powers = torch.stack([x**k for k in range(degrees)], dim=1)
    sums = torch.zeros(len(x), powers.shape[1], dtype=torch.float64, device=x.device)
    for weight, power in zip(coefficients, powers, strict=True):
        sums = sums + weight * x_powers[:, power]
    deg = torch.cat([torch.full((n + 1,), n) for n in range(degrees)]).to(x.device)
    order = torch.cat([torch.arange(n + 1) for n in range(degrees)]).to(x.device)
    sines = torch.stack([(1.0 - x**2) ** (m / 2) for m in range(degrees)], dim=1)
    scaled = factors * sines[:, order] * sums
    angle = order * phi[:, None]
    out = torch.empty(len(x), degrees**2, dtype=torch.float64, device=x.device)
    out[:, deg**2 + deg - order] = scaled * angle.sin()
    out[:, deg**2 + deg + order] = scaled * angle.cos()  # after the sines: m = 0 has a cosine
    return out


def bank_places(count: int, seed: int) -> np.ndarray:
    """Return (count, 2) float64: longitude and latitude, uniform by area, from PCG64's own numbers."""
    u, v = (np.random.PCG64(seed).random_raw(2 * count) >> np.uint64(11)).astype(np.float64).reshape(2, count) / 2**53
    return np.stack([360 * u - 180, np.degrees(np.arcsin(2 * v - 1))], axis=1)


class Siren(nn.Module):
    """A network of sines: sin(30 (W x + b)), then sin(W x + b), then a linear layer; float64."""

    def __init__(self, dim_in: int, dim: int, dim_out: int, layers: int) -> None:
        super().__init__()
        sizes = [dim_in, *[dim] * layers]
        self.layers = nn.ModuleList(nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(sizes))
        self.last_layer = nn.Linear(dim, dim_out, dtype=torch.float64)

    def forward(self, x_nd: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x_nd = torch.sin((1.0 if i else 30.0) * layer(x_nd))
        return self.last_layer(x_nd)


class SatClipNet(nn.Module):
    """Both towers. Pixels enter as (b, 13, y, x) reflectance, places as (n, 2) longitude and latitude in degrees."""

    IGNORED = r"^nnet\."
    """The encoder of places a second time: upstream registers it under two names."""

    def __init__(self, config: SatClipConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = VisionTransformer(
            img_size=config.chip_px,
            patch_size=config.patch_px,
            in_chans=len(BANDS) + 1,
            num_classes=config.out_dim,
            embed_dim=config.dim,
            depth=config.depth,
            num_heads=config.heads,
        )
        siren = Siren(config.degrees**2, config.capacity, config.out_dim, config.hidden_layers)
        self.location = nn.ModuleDict({"nnet": siren})
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def tokens(self, pixels_bcyx: Tensor) -> Tensor:
        """Return (b, 1 + n, d): CLS and patches after the last norm, MoCo's features."""
        return self.visual.forward_features(pixels_bcyx)

    def image(self, tokens_bnd: Tensor) -> Tensor:
        """Return (b, e): the image embedding, not of unit length."""
        return self.visual.forward_head(tokens_bnd)

    def place(self, lonlat_n2: Tensor) -> Tensor:
        """Return (n, e) float64: the embedding of places, not of unit length."""
        return self.location["nnet"](harmonics(lonlat_n2, self.config.degrees))


class SatClip(Adapter):
    """The adapter: Sentinel-2 chips in reflectance to tokens, and to the proxy."""

    net: SatClipNet

    def __init__(self, net: SatClipNet, card: Card, weights_sha256: str) -> None:
        super().__init__(net, card, weights_sha256)
        self._bank: Tensor | None = None

    def model_input(self, chips: Chips) -> Tensor:
        """Return (b, 13, y, x) float32: reflectance in upstream's band order, zeros where L1C has B10."""
        pixels = self.pixels(chips, BANDS)[:, 0].float()
        return torch.cat([pixels[:, :B10_AT], torch.zeros_like(pixels[:, :1]), pixels[:, B10_AT:]], dim=1)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens, and the embedding that is compared with places (not of unit length) as the summary."""
        tokens, grid = self.net.tokens(self.model_input(chips)), self.card.grid
        return Tokens(patch_bhwd=tokens[:, 1:].unflatten(1, (grid, grid)), summary_bd=self.net.image(tokens))

    @torch.inference_mode()
    def proxy(self, chips: Chips) -> Tensor:
        """Return (b,): the image-to-place half of the loss, each chip against its own place and the bank."""
        tokens = self.net.tokens(self.model_input(chips))
        image = F.normalize(self.net.image(tokens).float(), dim=1)
        if self._bank is None or self._bank.device != self.device:
            config = self.net.config
            self._bank = self._places(bank_places(config.bank, config.bank_seed))
        with torch.autocast(self.device.type, enabled=False):
            scale = self.net.logit_scale.exp()
            own = scale * (image * self._places(chips.lonlat_b2)).sum(dim=1)
            others = scale * image @ self._bank.T
            return torch.logaddexp(own, others.logsumexp(dim=1)) - own

    def _places(self, lonlat_n2: np.ndarray) -> Tensor:
        """Return (n, e) float32 of unit length: embeddings of places."""
        return F.normalize(self.net.place(torch.from_numpy(lonlat_n2).to(self.device)).float(), dim=1)


def _card(name: str, config: SatClipConfig) -> Card:
    return Card(
        name=name,
        title="SatCLIP ViT-S/16 (L = 40), pictures and their places",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(10.0, 10.0),
        bands=BANDS,
        band_subset=False,
        target="satclip-bank-infonce",
        objective=f"InfoNCE of the image against {config.bank} area-uniform places, seed {config.bank_seed}",
        unit="nats",
        mask_ratio=0.5,  # the card wants one; nothing is ever hidden
        reading="High: the picture fits other places on Earth better than its own. Low: it could hardly be elsewhere.",
        code_licence="MIT",
        weights_licence="MIT",
        # The size is foretold by the layout from that of the L10 file, 103 MB.
        files=(
            Remote(
                repo="microsoft/SatCLIP-ViT16-L40",
                file="satclip-vit16-l40.ckpt",
                revision="0ef2acc0b91d3c8cfdf4a0cc03207095989287ab",
                bytes_about=121_000_000,
            ),
        ),
        source="github.com/microsoft/satclip@1ead106",
        citation="Klemmer et al. 2025, SatCLIP: Global, General-Purpose Location Embeddings with Satellite Imagery, "
        "arXiv:2311.17179",
        deviations=(
            "B10 is zero, as in upstream's own training; it is no band of geoelle's chips",
            "the proxy is the image-to-place half of the loss, with a fixed bank in the place of the batch",
            "longitude and latitude enter the proxy only; the embedding is of pixels alone",
            "training took 2021 to 2023 scenes as they were filed, later ones with 0.1 added to reflectance; "
            "geoelle takes that off",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}

HINTS = {
    r"^visual\.(layer1|conv1)\.": "a SatCLIP with another image tower (ResNet or CLIP's own)",
    r"^location\.nnet\.(feats|features|class_emb)\.": "a SatCLIP with another encoder of places",
}


def _as_told(config: SatClipConfig, told: Mapping[str, Any], name: str) -> SatClipConfig:
    """Return the config with the sizes that a checkpoint's hyper-parameters tell; other words in them decide nothing.

    Raises: WeightsError (they are of another model).
    """
    ours = {
        "vision_layers": "moco_vit16",
        "le_type": "sphericalharmonics",
        "pe_type": "siren",
        "harmonics_calculation": "analytic",
        "legendre_polys": config.degrees,
    }
    hold_to(told, ours, name=name)
    return replace(
        config,
        out_dim=told.get("embed_dim", config.out_dim),
        capacity=told.get("capacity", config.capacity),
        hidden_layers=told.get("num_hidden_layers", config.hidden_layers),
    )


def make(name: str, config: SatClipConfig, *, seed: int = 0) -> SatClip:
    """Return an untrained network of this config; its scale is the one training started from."""
    net = on_meta(lambda: SatClipNet(config))
    draw_weights(net, seed)
    net.logit_scale.data.fill_(math.log(1 / 0.07))
    return SatClip(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> SatClip:
    """Load the published weights, a local file of the same kind, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    (path,) = local_files(name, CARDS[name].files, weights).values()
    return read(name, CONFIGS[name], path)


def read(name: str, config: SatClipConfig, path: Path) -> SatClip:
    """Return the network of this config with the weights of a Lightning checkpoint, or of its bare state dict.

    Raises: WeightsError.
    """
    checkpoint = read_checkpoint(path)
    told = checkpoint.get("hyper_parameters")
    config = _as_told(config, told if isinstance(told, Mapping) else {}, path.name)
    state = state_of(checkpoint, name=path.name, strip=("module.", "model."))
    if not any(key.startswith("visual.") for key in state):
        raise WeightsError(f"{path.name} has no image tower, only the encoder of places if any; give the whole SatCLIP")
    net = on_meta(lambda: SatClipNet(config))
    load_strict(net, state, name=path.name, ignore=net.IGNORED, hints=HINTS)
    return SatClip(net, _card(name, config), digest([path]))
