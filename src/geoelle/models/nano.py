"""nano: geoelle's own small masked autoencoder for Sentinel-2, encoder and decoder in the wheel.

A vision transformer after He et al. (2022, arXiv:2111.06377) on 32 px chips at 10 m with 4 px patches. Each band
has its own patch projection and the projections of the bands present are averaged, so any subset of the bands is a
legal input (bands were dropped in training). The objective is written in the weights file:

* `pixel`: mean squared error of the hidden patches, in units of each band's standard deviation;
* `pixel-norm`: the same after every patch of every band is normalised to its own mean and spread;
* `latent`: patch discrimination (InfoNCE among the hidden patches of the same chip, Oord et al. 2018,
  arXiv:1807.03748) against a frozen random projection of the pixels, the idea of OlmoEarth's latent masked image
  modelling (2025, arXiv:2511.13655) and of Galileo (Tseng et al. 2025, arXiv:2502.09356).

Code and weights: Apache-2.0 and CC-BY-4.0. Trained by scripts/train_nano.py; places, sources and licences stand in
docs/nano-data.json.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.errors import WeightsError
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import discriminate, gather_tokens, scatter_error

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["BANDS", "CARDS", "Nano", "NanoConfig", "NanoNet", "load"]

BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")
OBJECTIVES = ("pixel", "pixel-norm", "latent")
TEMPERATURE = 0.1
NORM_EPS = 0.01
"""Added to a patch's variance (in units of the band's own variance): sensor noise on flat water is not signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoConfig:
    """Fix the shape of the network and its objective; stored in the weights file."""

    objective: str = "pixel"
    dim: int = 128
    depth: int = 6
    heads: int = 4
    decoder_dim: int = 96
    decoder_depth: int = 2
    decoder_heads: int = 4
    target_dim: int = 64
    patch_px: int = 4
    chip_px: int = 32
    mask_ratio: float = 0.75

    @property
    def grid(self) -> int:
        return self.chip_px // self.patch_px

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def _sincos(dim: int, grid: int) -> Tensor:
    """Return (grid * grid, dim): fixed sine and cosine codes of row and column (He et al. 2022)."""
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = axis[:, None].expand(grid, grid, -1)
    cols = axis[None, :].expand(grid, grid, -1)
    return torch.cat([rows, cols], dim=-1).reshape(grid * grid, dim).float()


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x_bnd: Tensor) -> Tensor:
        b, n, d = x_bnd.shape
        q, k, v = self.qkv(self.norm1(x_bnd)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        # At 64 tokens plain attention beats the fused kernel, whose backward pass on a CPU takes 6 times as long.
        weights = (q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)).softmax(-1)
        attended = (weights @ v).transpose(1, 2).reshape(b, n, d)
        x_bnd = x_bnd + self.proj(attended)
        return x_bnd + self.fc2(F.gelu(self.fc1(self.norm2(x_bnd))))


class NanoNet(nn.Module):
    """The network. Pixels enter as `patches_bnce`: batch, patch, band present, pixels of the patch, normalised."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.config = config
        pixels, bands = config.patch_px**2, len(BANDS)
        self.embed = nn.Parameter(torch.empty(bands, pixels, config.dim))
        self.band_code = nn.Parameter(torch.empty(bands, config.dim))
        self.encoder = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.to_decoder = nn.Linear(config.dim, config.decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(config.decoder_dim))
        self.decoder = nn.ModuleList(
            Block(config.decoder_dim, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(config.decoder_dim)
        if config.objective == "latent":
            self.head: nn.Module = nn.Linear(config.decoder_dim, config.target_dim)
            self.register_buffer("target", torch.empty(bands, pixels, config.target_dim))
        else:
            self.head = nn.Linear(config.decoder_dim, bands * pixels)
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("std", torch.ones(bands))
        self.register_buffer("encoder_place", _sincos(config.dim, config.grid), persistent=False)
        self.register_buffer("decoder_place", _sincos(config.decoder_dim, config.grid), persistent=False)

    def init(self, seed: int) -> NanoNet:
        """Draw every weight from one seed: the start of training, and the untrained twin."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = math.sqrt(6.0 / (module.in_features + module.out_features))
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.zeros_(module.bias)
        pixels = self.config.patch_px**2
        nn.init.normal_(self.embed, std=1 / math.sqrt(pixels), generator=generator)
        nn.init.normal_(self.band_code, std=0.02, generator=generator)
        nn.init.normal_(self.mask_token, std=0.02, generator=generator)
        if self.config.objective == "latent":
            nn.init.normal_(self.get_buffer("target"), std=1 / math.sqrt(pixels), generator=generator)
        return self

    def patchify(self, pixels_bcyx: Tensor, bands: Tensor) -> Tensor:
        """Return (b, n, c, e): normalised pixels of each patch, row-major."""
        b, c, _, _ = pixels_bcyx.shape
        g, p = self.config.grid, self.config.patch_px
        z = (pixels_bcyx - self.mean[bands, None, None]) / self.std[bands, None, None]
        return z.view(b, c, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, c, p * p)

    def _tokens(self, patches_bnce: Tensor, bands: Tensor) -> Tensor:
        mean_scale = math.sqrt(len(BANDS)) / len(bands)
        x = torch.einsum("bnce,ced->bnd", patches_bnce, self.embed[bands]) * mean_scale
        return x + self.band_code[bands].sum(0) * mean_scale + self.encoder_place

    def encode(self, patches_bnce: Tensor, bands: Tensor, visible_bv: Tensor | None = None) -> Tensor:
        """Return (b, n or v, d) tokens; with `visible_bv` (int64 patch indices) only those are seen."""
        x = self._tokens(patches_bnce, bands)
        if visible_bv is not None:
            x = gather_tokens(x, visible_bv)
        for block in self.encoder:
            x = block(x)
        return self.norm(x)

    def predict(self, patches_bnce: Tensor, bands: Tensor, order_bn: Tensor, hidden: int) -> Tensor:
        """Return (b, hidden, out): the decoder's output at the first `hidden` entries of `order_bn`."""
        visible = order_bn[:, hidden:]
        seen = self.to_decoder(self.encode(patches_bnce, bands, visible))
        masked = self.mask_token.to(seen.dtype).expand(len(seen), hidden, -1)
        place = self.decoder_place[order_bn]
        x = torch.cat([masked, seen], dim=1) + place
        for block in self.decoder:
            x = block(x)
        return self.head(self.decoder_norm(x[:, :hidden]))

    def errors(self, patches_bnce: Tensor, bands: Tensor, order_bn: Tensor, hidden: int) -> Tensor:
        """Return (b, hidden): the objective at each hidden patch, in the order of `order_bn`."""
        out = self.predict(patches_bnce, bands, order_bn, hidden)
        index = order_bn[:, :hidden, None, None].expand(-1, -1, *patches_bnce.shape[2:])
        truth = patches_bnce.gather(1, index)
        if self.config.objective == "latent":
            target = torch.einsum("bnce,ced->bnd", truth, self.get_buffer("target")[bands])
            return discriminate(out, target, TEMPERATURE)
        predicted = out.float().view(*out.shape[:2], len(BANDS), -1)[:, :, bands]
        if self.config.objective == "pixel-norm":
            variance, mean = torch.var_mean(truth, dim=-1, keepdim=True, correction=0)
            truth = (truth - mean) / (variance + NORM_EPS).sqrt()
        return (predicted - truth).square().mean(dim=(2, 3))


class Nano(Adapter):
    """The adapter: chips in physical units to tokens and to the true pretraining loss."""

    net: NanoNet

    def _patches(self, chips: Chips) -> tuple[Tensor, Tensor]:
        self.card.check(chips)
        device = self.net.mean.device
        bands = torch.tensor([BANDS.index(b) for b in chips.bands], device=device)
        pixels = torch.from_numpy(np.ascontiguousarray(chips.pixels_btcyx[:, 0])).to(device)
        return self.net.patchify(pixels, bands), bands

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens (b, 8, 8, dim) of 32 px chips without NaN, reflectance 0-1."""
        grid = self.card.grid
        return Tokens(patch_bhwd=self.net.encode(*self._patches(chips)).unflatten(1, (grid, grid)))

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective of the weights file under this mask; every chip must hide the same count."""
        patches, bands = self._patches(chips)
        seen, masked = self.split(chips, hidden, visible)
        error_bm = self.net.errors(patches, bands, torch.cat([masked, seen], dim=1), masked.shape[1])
        total = error_bm.mean(dim=1)
        error = scatter_error(error_bm, masked, hidden.shape)
        return Loss(total_b=total, terms={self.net.config.objective: total}, error=error)


WEIGHTS = Path(__file__).parents[1] / "weights" / "nano.safetensors"

CARD = Card(
    name="nano",
    title="geoelle nano, a masked autoencoder for Sentinel-2",
    dim=128,
    patch_px=4,
    chip_px=32,
    stride_px=16,
    gsd_m=(10.0, 10.0),
    bands=BANDS,
    band_subset=True,
    min_bands=3,
    objective="pixel",
    mask_ratio=0.75,
    unit="MSE in band variances",
    reading="High: the network cannot fill in the hidden ground from what surrounds it "
    "(texture, edges, rare surfaces). "
    "Low: uniform or familiar ground.",
    code_licence="Apache-2.0",
    weights_licence="CC-BY-4.0",
    embedded=True,
    source="scripts/train_nano.py",
    citation="He et al. 2022, Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377",
    deviations=("projections of the bands present are averaged; bands are dropped in training",),
)


CARDS = {CARD.name: CARD}


def load(name: str, weights: str | None = None, *, seed: int = 0) -> Nano:
    """Load the embedded weights, a local file of the same kind, or an untrained twin.

    The twin keeps the band statistics of the embedded weights: they are a property of the imagery, not of training.

    Raises: WeightsError.
    """
    if weights == "untrained":
        trained = _read(WEIGHTS).net
        net = NanoNet(trained.config).init(seed)
        net.mean, net.std = trained.mean, trained.std
        return Nano(net, CARD, f"untrained-{seed}")
    return _read(Path(weights) if weights else WEIGHTS)


def _read(path: Path) -> Nano:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (OSError, SafetensorError) as cause:
        raise WeightsError(f"cannot read nano weights {path.name} ({cause}); expected a safetensors file") from cause
    try:
        config = NanoConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as cause:
        raise WeightsError(
            f"{path.name} is not a nano weights file (no usable `config` in its header); "
            "train one with scripts/train_nano.py"
        ) from cause
    net = NanoNet(config)
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as cause:
        raise WeightsError(f"{path.name} does not fit its own config: {str(cause).splitlines()[1].strip()}") from cause
    return Nano(net, CARD, hashlib.sha256(path.read_bytes()).hexdigest())
