"""DINOv2 and DINOv3: vision transformers for RGB trained by self-distillation; embeddings, and no loss.

Oquab et al. 2023, DINOv2: Learning Robust Visual Features without Supervision, arXiv:2304.07193, trained on
photographs; code and weights Apache-2.0. Siméoni et al. 2025, DINOv3, arXiv:2508.10104: the ViT-L distilled on
493 million satellite images of 0.6 m; code and weights under Meta's DINOv3 licence, the files gated. Upstream:
github.com/facebookresearch/dinov2 at b8931f7 and dinov3 at 6876159. The networks are those of transformers, checked
against 5.23.0.

Both were trained to agree with a moving average of themselves over prototypes (DINO, iBOT, KoLeo; DINOv3 adds Gram
anchoring). The teacher's heads were not published, so the loss cannot be computed, and no proxy is offered.

Names of tensors. transformers 5 renames tensors when it reads and writes files. `DinoNet` speaks the spelling of the
files on the hub in `state_dict`, `named_parameters` and `load_state_dict`, whatever transformers calls them, so files
load as strictly as those of any other model and an untrained twin does not depend on the version.

Deviations: the table of places of DINOv2 (518 px) is resized bicubically to the size of the chip, as transformers
does; upstream adds 0.1 patch to that size first. The rotary frequencies of DINOv3 are exact, as in transformers; in
upstream's own file they are rounded to bfloat16 (timm's note on it). Both models saw 8-bit pictures: reflectance is
stretched so that `white` is 1, and clipped; the stretch is ours. Nothing is resized: a chip is 224 px as it lies on
the ground.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geoelle.models.base import Adapter, Card, Tokens
from geoelle.models.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    as_picture,
    draw_weights,
    needs_extra,
    on_meta,
    z_scores,
)
from geoelle.models.weights import Remote, digest, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["BANDS", "CARDS", "CONFIGS", "Dino", "DinoConfig", "DinoNet", "load", "make", "read"]

BANDS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True, kw_only=True)
class DinoConfig:
    """Fix the network and what it sees; the defaults are those of DINOv2 base."""

    version: int = 2
    dim: int = 768
    depth: int = 12
    heads: int = 12
    patch_px: int = 14
    chip_px: int = 224
    table_px: int = 518
    """Side of the image that the stored table of places is of; DINOv3 has rotary codes and no table."""
    registers: int = 0
    """Tokens between CLS and the patches that belong to no place."""
    rope_base: float = 100.0
    norm_eps: float = 1e-6
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    white: float = 0.3
    """Reflectance that is shown as full brightness."""


CONFIGS = {
    "dinov2.base": DinoConfig(),
    "dinov3.sat-large": DinoConfig(
        version=3, dim=1024, depth=24, heads=16, patch_px=16, registers=4, norm_eps=1e-5,
        mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143),
    ),
}  # fmt: skip


@lru_cache(maxsize=64)
def _rotation(head_dim: int, base: float, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (h * w, head_dim) cosines and sines: patch centres in -1 .. 1, row then column, times rising frequencies.

    Both halves of a head turn by the same angles.
    """
    with torch.inference_mode(False):
        rows, cols = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1 for n in (height, width))
        places = torch.cartesian_prod(rows, cols)
        frequency = base ** (-torch.arange(head_dim // 4, dtype=torch.float64) * 4 / head_dim)
        angle = (2 * torch.pi * places[:, :, None] * frequency).flatten(1).tile(2)
        return angle.cos().float().to(device), angle.sin().float().to(device)


class _Rotary(nn.Module):
    """Stand in for the module of transformers that keeps its frequencies in a buffer, which no file holds."""

    def __init__(self, head_dim: int, base: float, patch_px: int) -> None:
        super().__init__()
        self.head_dim, self.base, self.patch_px = head_dim, base, patch_px

    def forward(self, pixels_bcyx: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (side // self.patch_px for side in pixels_bcyx.shape[-2:])
        return _rotation(self.head_dim, self.base, height, width, pixels_bcyx.device)


def _vit(config: DinoConfig) -> nn.Module:
    """Return the network of transformers.

    Raises: CapabilityError (it is not installed).
    """
    with needs_extra("DINO"):
        from transformers import Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

    shape: dict[str, Any] = {
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": config.patch_px,
        "layer_norm_eps": config.norm_eps,
    }
    if config.version == 2:
        return Dinov2Model(Dinov2Config(image_size=config.table_px, mlp_ratio=4, **shape))
    more = {"intermediate_size": 4 * config.dim, "num_register_tokens": config.registers}
    net = DINOv3ViTModel(DINOv3ViTConfig(image_size=config.chip_px, **more, **shape))
    net.rope_embeddings = _Rotary(config.dim // config.heads, config.rope_base, config.patch_px)
    return net


_SPELLINGS = {
    2: (
        (r"\.attention\.q_proj\.", ".attention.attention.query."),
        (r"\.attention\.k_proj\.", ".attention.attention.key."),
        (r"\.attention\.v_proj\.", ".attention.attention.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
    ),
    3: ((r"^model\.layer\.", "layer."),),
}
"""DINO version -> how transformers 5 spells tensors in memory, and how files do; transformers 4 spells as files do."""


class DinoNet(nn.Module):
    """The network. Pixels enter as (b, 3, y, x), normalised; tensors are named as in the published file."""

    IGNORED = ""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = _vit(config)

    def forward(self, pixels_bcyx: Tensor) -> Tensor:
        """Return (b, 1 + registers + n, d): CLS, registers and patches, row-major, after the last norm."""
        return self.vit(pixel_values=pixels_bcyx).last_hidden_state

    def _published(self, key: str) -> str:
        for ours, theirs in _SPELLINGS[self.config.version]:
            key = re.sub(ours, theirs, key)
        return key

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return ((self._published(key), value) for key, value in self.vit.named_parameters(*args, **kwargs))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {self._published(key): value for key, value in self.vit.state_dict(*args, **kwargs).items()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        memory = {self._published(key): key for key in self.vit.state_dict()}
        spelled = {memory.get(key, key): value for key, value in state_dict.items()}
        return self.vit.load_state_dict(spelled, strict=strict, assign=assign)


class Dino(Adapter):
    """The adapter: RGB chips in physical units to tokens."""

    net: DinoNet

    def model_input(self, chips: Chips) -> Tensor:
        """Return (b, 3, y, x) float32: red, green, blue as brightness, less the mean, over the deviation."""
        config = self.net.config
        picture = as_picture(self.pixels(chips, BANDS)[:, 0], chips.sensor, config.white, name=self.card.name)
        return z_scores(picture, config.mean, config.std)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens, registers left out, and the CLS token."""
        tokens, grid = self.net(self.model_input(chips)), self.card.grid
        return Tokens(
            patch_bhwd=tokens[:, 1 + self.net.config.registers :].unflatten(1, (grid, grid)), summary_bd=tokens[:, 0]
        )


_STRETCH = "reflectance over 0.3, clipped, stands for the 8-bit pictures of training; NAIP's brightness as it is"


def _card(name: str, config: DinoConfig) -> Card:
    shared: dict[str, Any] = {
        "name": name,
        "dim": config.dim,
        "patch_px": config.patch_px,
        "chip_px": config.chip_px,
        "stride_px": config.chip_px // 2,
        "bands": BANDS,
        "band_subset": False,
        "target": "none",
        "mask_ratio": 0.5,  # the card wants one; nothing is ever hidden
        "needs": ("sensor",),
        "reading": "No loss and no proxy: the heads that the objective needs were not published.",
    }
    if config.version == 2:
        return Card(
            title="DINOv2 ViT-B/14, self-distilled on photographs",
            gsd_m=(0.1, 30.0),
            code_licence="Apache-2.0",
            weights_licence="Apache-2.0",
            files=(
                Remote(
                    repo="facebook/dinov2-base",
                    file="model.safetensors",
                    revision="f9e44c814b77203eaa57a6bdbbd535f21ede1415",
                    bytes_about=346_000_000,
                ),
            ),
            source="github.com/facebookresearch/dinov2@b8931f7; network of transformers, checked against 5.23.0",
            citation="Oquab et al. 2023, DINOv2: Learning Robust Visual Features without Supervision, arXiv:2304.07193",
            deviations=(
                "trained on photographs: no ground sampling distance is its own, and imagery from above is foreign",
                _STRETCH,
                "the table of places is resized to the chip as transformers does; upstream adds 0.1 patch first",
            ),
            **shared,
        )
    return Card(
        title="DINOv3 ViT-L/16, distilled on 493 million satellite images",
        gsd_m=(0.3, 1.0),
        code_licence="DINOv3 License",
        weights_licence="DINOv3 License",
        terms="Access is gated: accept Meta's DINOv3 License on the model's page first. It forbids military, weapons, "
        "nuclear and espionage uses, binds redistribution to the same terms, and wants credit in publications.",
        files=(
            Remote(repo="facebook/dinov3-vitl16-pretrain-sat493m", file="model.safetensors", bytes_about=1_213_000_000),
        ),
        source="github.com/facebookresearch/dinov3@6876159; network of transformers, checked against 5.23.0",
        citation="Siméoni et al. 2025, DINOv3, arXiv:2508.10104",
        deviations=(
            "trained at 0.6 m; the range is widened to that of NAIP, and Sentinel-2 lies outside it",
            _STRETCH,
            "rotary frequencies are exact, as in transformers; upstream's own file has them rounded to bfloat16",
            "the same network trained on web images (lvd1689m) loads too, but needs other statistics: no tensor tells",
        ),
        **shared,
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}

HINTS = {
    r"^(dinov2\.)?classifier\.": "a fine-tuned classifier",
    r"^blocks\.\d+\.": "in the layout of the original repository or of timm; the hub file is the one of transformers",
    r"\.mlp\.(weights_in|gate_proj)\.": "a larger DINO, whose blocks are gated",
    r"^stages\.": "a ConvNeXt DINO",
}
HINTS_OF = {
    2: {
        "register_tokens$": "DINOv2 with registers, or DINOv3",
        r"\.q_proj\.": "in the spelling transformers 5 has in memory; write it with save_pretrained",
    },
    3: {
        r"^embeddings\.position_embeddings$": "DINOv2",
        r"^model\.layer\.": "in the spelling transformers 5 has in memory; write it with save_pretrained",
    },
}


def make(name: str, config: DinoConfig, *, seed: int = 0) -> Dino:
    """Return an untrained network of this config."""
    net = on_meta(lambda: DinoNet(config))
    draw_weights(net, seed)
    return Dino(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> Dino:
    """Load the published weights, a local file of the same kind, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    (path,) = local_files(name, CARDS[name].files, weights).values()
    return read(name, CONFIGS[name], path)


def read(name: str, config: DinoConfig, path: Path) -> Dino:
    """Return the network of this config with the weights of a file.

    Raises: WeightsError.
    """
    state = state_of(read_checkpoint(path), name=path.name, strip=("module.", "dinov2."))
    net = on_meta(lambda: DinoNet(config))
    load_strict(net, state, name=path.name, ignore=net.IGNORED, hints={**HINTS, **HINTS_OF[config.version]})
    return Dino(net, _card(name, config), digest([path]))
