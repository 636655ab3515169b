"""DOFA v1: one vision transformer for any optical bands, whose patch projection is generated from their wavelengths.

Paper: Xiong et al. 2024, Neural Plasticity-Inspired Multimodal Foundation Model for Earth Observation,
arXiv:2403.15356. Code: zhu-xlab/DOFA (MIT); the layout of the weight generator is that of
pretraining/wave_dynamic_layer.py at d77aae0 and of torchgeo, not that of the file of the same name in the root.
Weights: earthflow/DOFA (CC-BY-4.0); a copy of the encoder at torchgeo/dofa; the teacher at timm (Apache-2.0).

Pretraining adds two terms: `mim`, the squared error of hidden patches normalised to their own mean and spread, and
`distill`, minus the cosine between the student's projected mean token before its last block and the teacher's, both
on red, green and blue. The published files lack the decoder, so `mim` cannot be computed. With `projector.*` (the
official file of the base model) and the teacher, `distill` can: it is offered as the proxy `dofa-distill`, one term of
the objective and never called the loss. The teacher of the large model is unpublished. A file that does hold
`decoder_*` gets the loss.

Three details are upstream's and stay. The convolution is padded by one pixel, so that token row r sees pixel rows
16 r - 1 to 16 r + 14 and nothing sees the last row and column of a chip. The decoder gives a patch channel by channel
while its target lies pixel by pixel, and the two are compared as they lie. The position table is loaded: it is the
teacher's, not a formula.

Files of before September 2024 hold tensors of the same names and shapes for another layout of the generator, one that
mixes bands. Nothing in them tells; so a file must be one that is known, by its sha256 or, where none was published, by
its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.dofa_net import Channel, DofaConfig, DofaNet
from geoelle.models.networks import draw_weights, on_meta, scatter_error, z_scores
from geoelle.models.weights import Remote, digest, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["CARDS", "CONFIGS", "COPIES", "TORCHGEO", "Dofa", "DofaConfig", "DofaNet", "load", "make", "read"]

PROXY = "dofa-distill"

CONFIGS = {
    "dofa.v1-base": DofaConfig(),
    "dofa.v1-large": DofaConfig(dim=1024, depth=24, heads=16, teacher_depth=0),
}


def eight_bit(pixels_bcyx: Tensor, channels: tuple[Channel, ...]) -> Tensor:
    """Return the numbers 0 to 255 that pretraining's images would hold for these pixels, not rounded."""
    gain = pixels_bcyx.new_tensor([c.gain for c in channels])[:, None, None]
    return (pixels_bcyx * gain).clamp(0, 255)


class Dofa(Adapter):
    """The adapter: chips in physical units to tokens, to the proxy, and to the loss where a file holds a decoder."""

    net: DofaNet

    def _input(self, chips: Chips, only: tuple[str, ...] = ()) -> tuple[Tensor, tuple[float, ...]]:
        """Return normalised pixels (b, c, y, x) float32 and their wavelengths, in the order of pretraining or `only`.

        Raises: InputMismatch.
        """
        sensors = self.net.config.sensors
        known = next((channels for start, channels in sensors if chips.sensor.startswith(start)), None)
        if known is None:
            raise InputMismatch(
                f"{self.card.name} has no statistics for sensor {chips.sensor or 'unknown'}; "
                f"give chips whose sensor is one of {', '.join(start for start, _ in sensors)}"
            )
        channels = tuple(c for c in known if c.name in chips.bands)
        if only:
            if lacking := [name for name in only if name not in chips.bands]:
                raise InputMismatch(f"the teacher of DOFA sees {', '.join(only)}; the chips lack {', '.join(lacking)}")
            channels = tuple(next(c for c in channels if c.name == name) for name in only)
        if not channels:
            names = ", ".join(c.name for c in known)
            raise InputMismatch(f"{self.card.name} takes of sensor {chips.sensor} {names}; the chips have none of them")
        x = eight_bit(self.pixels(chips, [c.name for c in channels])[:, 0], channels)
        x = z_scores(x, [c.mean for c in channels], [c.std for c in channels])
        return x, tuple(c.wavelength_um for c in channels)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens (b, h, w, d) and CLS after the final norm, of reflectance or, for NAIP, DN / 255."""
        x = self.net.norm(self.net.raw(*self._input(chips)))
        grid = self.card.grid
        return Tokens(patch_bhwd=x[:, 1:].unflatten(1, (grid, grid)), summary_bd=x[:, 0])

    def _distill(self, chips: Chips) -> Tensor:
        student, teacher = self.net.views(*self._input(chips, self.net.config.teacher_bands))
        return -F.cosine_similarity(student, teacher, dim=1)

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return `mim`, and `distill` where the teacher is there, under this mask; every chip must hide the same count.

        Raises: CapabilityError (the file holds no decoder), InputMismatch.
        """
        if not self.net.config.decoder:
            return super().loss(chips, hidden, visible)
        x, waves = self._input(chips)
        seen, masked = self.split(chips, hidden, visible)
        error = self.net.errors(x, waves, seen, masked)
        terms = {"mim": error.mean(dim=1)}
        if self.net.config.teacher_depth:
            terms["distill"] = self._distill(chips)
        return Loss(
            total_b=torch.stack(list(terms.values())).sum(dim=0),
            terms=terms,
            error=scatter_error(error, masked, hidden.shape),
        )

    @torch.inference_mode()
    def proxy(self, chips: Chips) -> Tensor:
        """Return (b,): minus the cosine between student and teacher on red, green and blue.

        Raises: CapabilityError (these files do not permit it), InputMismatch (a band of the three is not there).
        """
        if self.card.target == PROXY:
            return self._distill(chips)
        config = self.net.config
        if config.decoder:
            why = "its file holds the decoder, so ask for the loss"
        elif not CONFIGS[self.card.name].teacher_depth:
            why = "the teacher of this size was never published"
        elif not config.extras:
            why = f"its file lacks the projector; give {OFFICIAL[self.card.name].name}"
        else:
            why = f"the teacher is not on this machine; run: geoelle models pull {self.card.name}"
        raise CapabilityError(f"{self.card.name} has no proxy with these weights: {why}")


_HUB = "7a5219e48d2f8848511b0fabea7920a8836bc480"
_TORCHGEO = "b8db318b64a90b9e085ec04ba8851233c5893666"
OFFICIAL = {
    "dofa.v1-base": Remote(
        repo="earthflow/DOFA", file="DOFA_ViT_base_e100.pth", revision=_HUB, bytes_about=447_000_000,
        sha256="4720985e42b918ac0307009eb06121a3435d9bbce6fd95446f84824a538165b1",
    ),
    "dofa.v1-large": Remote(
        repo="earthflow/DOFA", file="DOFA_ViT_large_e100.pth", revision=_HUB, bytes_about=1_350_000_000
    ),
}  # fmt: skip
COPIES = {
    "dofa.v1-base": Remote(
        repo="torchgeo/dofa", file="dofa_base_patch16_224-a0275954.pth", revision=_TORCHGEO, bytes_about=445_000_000
    ),
    "dofa.v1-large": Remote(
        repo="torchgeo/dofa", file="dofa_large_patch16_224-0ff904d3.pth", revision=_TORCHGEO, bytes_about=1_350_000_000
    ),
}
"""torchgeo's copies: the encoder alone. `load` takes one where the official file is not there."""
TORCHGEO = {"dofa.v1-base": ("DOFABase16_Weights", "DOFA_MAE"), "dofa.v1-large": ("DOFALarge16_Weights", "DOFA_MAE")}
"""The enum of torchgeo.models, and its member, that names each copy."""
TEACHER = Remote(
    repo="timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    file="model.safetensors",
    revision="063c6c38a5d8510b2e57df480445e94b231dad2c",
    sha256="32aa17d6e17b43500f531d5f6dc9bc93e56ed8841b8a75682e1bb295d722405b",
    bytes=346_284_714,
    optional=True,
)

KNOWN = {
    "DOFA_ViT_base_e100.pth": OFFICIAL["dofa.v1-base"].sha256,
    "dofa_base_patch16_224-a0275954.pth": "a0275954",
    "dofa_large_patch16_224-0ff904d3.pth": "0ff904d3",
}
"""File -> how its sha256 begins. All have the current layout of the weight generator.

The official one is as several public repositories pin it at the commit above; torchgeo writes its own into the name.
"""
NAMED = ("DOFA_ViT_large_e100.pth", "DOFA_ViT_base_e100_full_weight.pth")
"""Files of the current release without a published sha256."""
OBSOLETE = {
    "7cc0f413": "torchgeo's first copy of the base model",
    "fbd47fa9": "torchgeo's first copy of the large model",
    "74ae0908": "the first file that was called DOFA_ViT_base_e100.pth",
    # ^ what upstream's checkout linked to at af65d2be, before its notice of new weights; the layout is inferred from it
    "_e120": "a file of an early release",
}
"""Part of a file's name, or beginning of its sha256 -> what it is."""


def identify(file: str, sha256: str) -> bool:
    """Return whether the sha256 proves the file (True) or only its name speaks for it (False).

    Raises: WeightsError (obsolete, changed, or not known).
    """
    if "dofav2" in file:
        raise WeightsError(f"{file} is of DOFA v2, another network (patches of 14 px); this model cannot take it")
    for mark, meaning in OBSOLETE.items():
        if mark in file or sha256.startswith(mark):
            raise WeightsError(
                f"{file} is {meaning}, made for an obsolete weight generator that mixes bands (torchgeo pull request "
                "2256); its tensors have the shapes of today's but mean something else: fetch the current file"
            )
    if sha256.startswith(tuple(KNOWN.values())):
        return True
    if file in KNOWN:
        raise WeightsError(
            f"{file} is not the published file of that name (its sha256 begins {sha256[:8]}, not {KNOWN[file][:8]}); "
            "it is damaged, changed or of an earlier release: fetch it again"
        )
    if file in NAMED:
        return False
    raise WeightsError(
        f"{file} cannot be told from obsolete DOFA files, whose tensors have the same shapes; give a published file "
        f"under its own name ({', '.join([*KNOWN, *NAMED])})"
    )


_BY_NAME = "no sha256 of this file was published: that it is of the current layout rests on its name"
_DEVIATIONS = (
    "pretraining read SatlasPretrain's 8-bit images of Sentinel-2 L1C; here their numbers are made from reflectance, "
    "of L1C or L2A: 255 r / 0.3558 for red, green, blue (the true-colour image, saturation our assumption), "
    "10000 r / 32 else, clipped to 0-255, not rounded",
    "patch tokens and CLS pass the file's final norm, or one without affine part where the file has none; upstream's "
    "features are the mean of tokens without the norm, normalised afterwards without affine part",
    "bands without published statistics (coastal, nir08, nir09, cirrus; other sensors) are refused though the network "
    "takes any wavelength; of NAIP red, green and blue are used and nir is left out, as in pretraining",
    "no Sentinel-1: its statistics are of uncalibrated digital numbers clipped at 255 (allenai/satlas issue 49), which "
    "decibels cannot give back, and upstream disagrees with itself on their order",
    "pretraining resized random crops, which makes Sentinel-2 some 10 to 23 m and NAIP 1 to 2.3 m; gsd is no input",
)


def _card(name: str, config: DofaConfig) -> Card:
    size = name.rsplit("-", 1)[-1]
    distill = bool(config.extras and config.teacher_depth)
    if config.decoder:
        target, objective = "loss", "mim + distill" if distill else "mim"
        unit = "squared error of patches of unit variance" + (", less a cosine" if distill else "")
        reading = "High: the network cannot fill in the hidden ground from what surrounds it. Low: familiar ground."
    elif distill:
        target, objective, unit = PROXY, "distill", "minus the cosine of two vectors, -1 to 1"
        reading = (
            "High: in red, green and blue the network sees the ground unlike its teacher, which learnt from "
            "photographs; how hard the ground is does not follow. Low: the two agree."
        )
    else:
        target = "none"
        objective = unit = ""
        reading = "Nothing is high or low: these files permit neither the loss nor its distillation term."
    return Card(
        name=name,
        title=f"DOFA v1 {size}, a wavelength-conditioned masked autoencoder",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(1.0, 20.0),
        bands=config.bands,
        band_subset=True,
        target=target,
        objective=objective,
        unit=unit,
        mask_ratio=config.mask_ratio,
        additive=not distill,
        needs=("sensor",),
        reading=reading,
        code_licence="MIT",
        weights_licence="CC-BY-4.0" + (", teacher Apache-2.0" if CONFIGS[name].teacher_depth else ""),
        files=(OFFICIAL[name], TEACHER) if CONFIGS[name].teacher_depth else (OFFICIAL[name],),
        source="https://github.com/zhu-xlab/DOFA, pretraining/ at d77aae0",
        citation="Xiong et al. 2024, Neural Plasticity-Inspired Multimodal Foundation Model for Earth Observation, "
        "arXiv:2403.15356",
        deviations=_DEVIATIONS,
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


def make(name: str, config: DofaConfig, *, seed: int = 0) -> Dofa:
    """Return an untrained network of any size, its teacher included."""
    net = on_meta(lambda: DofaNet(config))
    draw_weights(net, seed)
    return Dofa(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> Dofa:
    """Load the official file or torchgeo's copy, and the teacher where it is there; or an untrained twin.

    The card follows the files: `card.target` is the proxy, `none`, or `loss`.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    found = _find(name, weights)
    teacher = found.pop(TEACHER.file, None)
    [path] = found.values()
    return read(name, CONFIGS[name], path, teacher)


def _find(name: str, weights: str | None) -> dict[str, Path]:
    """Return where the model's file lies, official or else torchgeo's, and its teacher's; what is given comes first."""
    files = CARDS[name].files
    try:
        found = local_files(name, files, weights)
    except WeightsError:
        found = local_files(name, [replace(f, optional=True) for f in (COPIES[name], *files[1:])], weights)
        if COPIES[name].file not in found:
            raise
    return local_files(name, files[1:]) | found


def read(name: str, config: DofaConfig, path: Path, teacher: Path | None = None) -> Dofa:
    """Load a file, of the sizes of `config`, and the teacher beside it where the file has what it is compared with.

    Raises: WeightsError.
    """
    checkpoint = read_checkpoint(path)
    proven = identify(path.name, digest([path]))
    state, files = state_of(checkpoint, name=path.name), [path]
    config = replace(config, extras=_any(state, "norm.", "projector.", "decoder_"), decoder=_any(state, "decoder_"))
    if teacher is not None and config.extras and not _any(state, "teacher."):
        given = state_of(read_checkpoint(teacher), name=teacher.name)
        state |= {f"teacher.{key}": tensor for key, tensor in given.items()}
        files.append(teacher)
    if not _any(state, "teacher."):
        config = replace(config, teacher_depth=0)
    net = on_meta(lambda: DofaNet(config))
    load_strict(
        net,
        state,
        name=" with ".join(f.name for f in files),
        ignore=DofaNet.IGNORED,
        hints={
            r"^model\.": "of DOFA v2, another network",
            r"^(fc_norm|head)\.": "a DOFA with a classifier, saved after training for a task",
        },
    )
    card = _card(name, config)
    if not proven:
        card = replace(card, deviations=(*card.deviations, _BY_NAME))
    return Dofa(net, card, digest(files))


def _any(state: Mapping[str, Tensor], *starts: str) -> bool:
    return any(key.startswith(starts) for key in state)
