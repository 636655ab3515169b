"""RemoteCLIP: the image tower of a CLIP fine-tuned on captions of aerial and satellite pictures; embeddings only.

Liu et al. 2024, RemoteCLIP: A Vision Language Foundation Model for Remote Sensing, arXiv:2306.11029. Upstream:
github.com/ChenDelong1999/RemoteCLIP at a6a4787, weights on the hub as chendelong/RemoteCLIP. Code Apache-2.0; the
page of the weights states no licence. They start from OpenAI's CLIP (MIT).

The objective is contrastive between a picture and its caption. A chip has no caption, so there is no loss; the
distance to a fixed caption would measure something else, so no proxy is offered either. The text tower of the file
is left unread: nothing here needs it.

The activation. No tensor tells whether the network has exact GELU or OpenAI's QuickGELU, x sigmoid(1.702 x). The
weights were fine-tuned from OpenAI's, which have the latter, and so has the evaluation in the repository; the example
of its README builds the former. QuickGELU is taken, and is a flag of the config.

Deviations: training saw 8-bit pictures, resized and cropped to 224 px; reflectance is stretched so that `white` is 1,
and clipped, the stretch being ours, and a chip of 224 px is taken as it lies on the ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geoelle.models.base import Adapter, Card, Tokens
from geoelle.models.networks import as_picture, draw_weights, needs_extra, on_meta, z_scores
from geoelle.models.weights import Remote, digest, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["BANDS", "CARDS", "CONFIGS", "RemoteClip", "RemoteClipConfig", "RemoteClipNet", "load", "make", "read"]

BANDS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteClipConfig:
    """Fix the image tower and what it sees; the defaults are those of ViT-L/14."""

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    out_dim: int = 768
    patch_px: int = 14
    chip_px: int = 224
    quick_gelu: bool = True
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    white: float = 0.3
    """Reflectance that is shown as full brightness."""


CONFIGS = {"remoteclip.vit-l-14": RemoteClipConfig()}


class RemoteClipNet(nn.Module):
    """The image tower, from open_clip. Pixels enter as (b, 3, y, x), normalised."""

    IGNORED = r"^(positional_embedding|text_projection|logit_scale|(token_embedding|transformer|ln_final)\..+)$"
    """The text tower."""

    def __init__(self, config: RemoteClipConfig) -> None:
        with needs_extra("RemoteCLIP"):
            from open_clip.model import CLIP

        super().__init__()
        self.config = config
        image = {
            "layers": config.depth,
            "width": config.dim,
            "head_width": config.dim // config.heads,
            "patch_size": config.patch_px,
            "image_size": config.chip_px,
            "output_tokens": True,
        }
        text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}  # built and dropped
        self.visual = CLIP(config.out_dim, image, text, quick_gelu=config.quick_gelu).visual

    def forward(self, pixels_bcyx: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image embedding (b, e) and the patch tokens (b, n, d) after the last norm, not projected."""
        return self.visual(pixels_bcyx)


class RemoteClip(Adapter):
    """The adapter: RGB chips in physical units to tokens."""

    net: RemoteClipNet

    def model_input(self, chips: Chips) -> Tensor:
        """Return (b, 3, y, x) float32: red, green, blue as brightness, less the mean, over the deviation."""
        config = self.net.config
        picture = as_picture(self.pixels(chips, BANDS)[:, 0], chips.sensor, config.white, name=self.card.name)
        return z_scores(picture, config.mean, config.std)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens, and CLIP's image embedding (not of unit length) as the summary."""
        summary, patches = self.net(self.model_input(chips))
        return Tokens(patch_bhwd=patches.unflatten(1, (self.card.grid, self.card.grid)), summary_bd=summary)


def _card(name: str, config: RemoteClipConfig) -> Card:
    return Card(
        name=name,
        title="RemoteCLIP ViT-L/14, pictures from above and their captions",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(0.1, 2.0),
        bands=BANDS,
        band_subset=False,
        target="none",
        mask_ratio=0.5,  # the card wants one; nothing is ever hidden
        needs=("sensor",),
        reading="No loss and no proxy: the objective compares a picture with its caption, and chips have none.",
        code_licence="Apache-2.0",
        weights_licence="none stated",
        terms="The page of the weights states no licence; the repository's code is Apache-2.0.",
        files=(
            Remote(
                repo="chendelong/RemoteCLIP",
                file="RemoteCLIP-ViT-L-14.pt",
                revision="bf1d8a3ccf2ddbf7c875705e46373bfe542bce38",
                bytes_about=1_710_000_000,
            ),
        ),
        source="github.com/ChenDelong1999/RemoteCLIP@a6a4787; network of open_clip, checked against 3.3.0",
        citation="Liu et al. 2024, RemoteCLIP: A Vision Language Foundation Model for Remote Sensing, arXiv:2306.11029",
        deviations=(
            "trained on very high resolution pictures of many cameras; the range is what is usual for these",
            "reflectance over 0.3, clipped, stands for the 8-bit pictures of training; NAIP's brightness as it is",
            "QuickGELU, as in the weights it was fine-tuned from; no tensor tells, and the README builds exact GELU",
            "any ViT-L/14 of OpenAI's layout loads: its tensors have the same names and shapes",
        ),
    )  # fmt: skip


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}

HINTS = {
    r"^visual\.layer1\.": "a CLIP with a ResNet image tower",
    r"^(vision_model|text_model)\.": "a CLIP in the layout of transformers; the published one is OpenCLIP's",
}


def make(name: str, config: RemoteClipConfig, *, seed: int = 0) -> RemoteClip:
    """Return an untrained network of this config."""
    net = on_meta(lambda: RemoteClipNet(config))
    draw_weights(net, seed)
    return RemoteClip(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> RemoteClip:
    """Load the published weights, a local file of the same kind, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    (path,) = local_files(name, CARDS[name].files, weights).values()
    return read(name, CONFIGS[name], path)


def read(name: str, config: RemoteClipConfig, path: Path) -> RemoteClip:
    """Return the network of this config with the weights of a file.

    Raises: WeightsError.
    """
    state = state_of(read_checkpoint(path), name=path.name, strip=("module.", "model."))
    net = on_meta(lambda: RemoteClipNet(config))
    load_strict(net, state, name=path.name, ignore=net.IGNORED, hints=HINTS)
    return RemoteClip(net, _card(name, config), digest([path]))
