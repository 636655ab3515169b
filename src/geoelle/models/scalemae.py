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

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    as_picture,
    draw_weights,
    on_meta,
    scatter_error,
    z_scores,
)
from geoelle.models.scalemae_net import BANDS, ScaleMaeConfig, ScaleMaeNet
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
