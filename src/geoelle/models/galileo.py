"""Galileo: masked modelling of Sentinel-1, Sentinel-2 and what else describes a place, in latent space.

Tseng et al. 2025, "Galileo: Learning Global & Local Features of Many Remote Sensing Modalities", arXiv:2502.09356.
Upstream: github.com/nasaharvest/galileo at 0f0b5b95ac81. Code and weights: MIT.

A token is one band group of one frame of one patch. Pretraining alternates two objectives. The one computed here is the
local one (random masks): the encoder sees a tenth of the tokens, a decoder predicts half of them, and each prediction
has to be told from the others' by its target, the patch projection of a slowly moving copy of the encoder, before any
attention. That is a cross entropy among the hidden tokens of one chip, times twice the temperature: exact per chip. The
global one (whole places or times hidden, deep targets) needs `decoder.pt` and is not computed.

Pixels are normalised as in pretraining: (x - (mean - 2 sd)) / (4 sd) by band, in the files' own numbers; NDVI stays as
it is. Upstream's helper for users (`construct_galileo_input(normalize=True)`) skips this at the commit read, by string
keys where integers are looked up: then a chip's embedding is another one (cosine 0.84 on the golden).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from geoelle.errors import CapabilityError, WeightsError
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.galileo_net import GROUPS, Decoder, GalileoConfig, GalileoNet
from geoelle.models.networks import (
    discriminate,
    draw_weights,
    gather_tokens,
    months_of,
    ndvi,
    on_meta,
    scatter_error,
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

__all__ = ["CARDS", "CONFIGS", "GROUPS", "Galileo", "GalileoConfig", "GalileoNet", "load", "make", "read"]

STATISTICS = {
    "vv": (-11.728724389184965, 4.887145774840316),
    "vh": (-18.85558188024017, 5.730270320384293),
    "blue": (1395.3408730676722, 917.7041440370853),
    "green": (1338.4026921784578, 913.2988423581528),
    "red": (1343.09883810357, 1092.678723527555),
    "rededge1": (1543.8607982512297, 1047.2206083460424),
    "rededge2": (2186.2022069512263, 1048.0101611156767),
    "rededge3": (2525.0932853316694, 1143.6903026819996),
    "nir": (2410.3377187373408, 1098.979177731649),
    "nir08": (2750.2854646886753, 1204.472755085893),
    "swir16": (2234.911100061487, 1145.9774063078878),
    "swir22": (1474.5311266077113, 980.2429840007796),
}
"""Mean and standard deviation of the pretraining data, in dB and in reflectance times 10,000."""
BANDS = tuple(STATISTICS)
REFLECTANCE_SCALE = 1e4
OBJECTIVE = {
    "loss_type": "patch_disc",
    "loss_mask_other_samples": True,
    "pred2unit": False,
    "random_masking": "half",
    "double_predictors": True,
    "target_exit_after": 0,
    "normalization": "std",
}
"""What `config.json` must say of training, where it says anything: another objective is not computed here."""


CONFIGS = {
    "galileo.nano": GalileoConfig(),
    "galileo.tiny": GalileoConfig(dim=192, depth=12, heads=3, decoder_depth=4),
    "galileo.base": GalileoConfig(dim=768, depth=12, heads=12, decoder_depth=4),
}


class Galileo(Adapter):
    """The adapter: chips in physical units to tokens and to the loss under random masks."""

    net: GalileoNet

    def inputs(self, chips: Chips) -> tuple[dict[str, Tensor], Tensor]:
        """Return normalised (b, t, c, y, x) float32 pixels of every band group there is, and int64 (b, t) months."""
        bands = [band for band in BANDS if band in chips.bands]
        pixels = dict(zip(bands, self.pixels(chips, bands).unbind(2), strict=True))
        names = [list(GROUPS)[i] for i in self.card.groups_of(bands)]
        groups = {name: _group(name, pixels).float() for name in names}
        return groups, torch.from_numpy(months_of(chips.times_bt, self.card.name)).to(self.device)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens (b, h, w, dim), mean over frames and band groups."""
        groups, months = self.inputs(chips)
        grid = self.card.grid
        tokens = self.net.encoder(groups, months).unflatten(1, (-1, grid, grid))
        return Tokens(patch_bhwd=tokens.mean(dim=1))

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective; every chip must hide the same count, and see the same count.

        What is neither hidden nor visible plays no part. The error of a token is its cross entropy, and holds the
        targets of all hidden tokens of the chip.

        Raises: CapabilityError (loaded without target encoder or second decoder).
        """
        if self.net.second_decoder is None:
            raise CapabilityError(
                f"{self.card.name} has no true pretraining loss with these weights; add target_encoder.pt and "
                "second_decoder.pt to their folder"
            )
        groups, months = self.inputs(chips)
        seen, masked = self.split(chips, hidden, visible)
        predicted, tau = self.net.predict(groups, months, seen, masked), self.net.config.tau
        error_bm = discriminate(predicted, gather_tokens(self.net.targets(groups), masked), tau) * (2 * tau)
        total = error_bm.mean(dim=1)
        return Loss(total_b=total, terms={"patch_disc": total}, error=scatter_error(error_bm, masked, hidden.shape))


def _group(name: str, pixels: Mapping[str, Tensor]) -> Tensor:
    """Return the channels of a group, normalised, from (b, t, y, x) float64 pixels by band."""
    if name == "NDVI":
        return ndvi(pixels["nir"], pixels["red"])[:, :, None]
    return torch.stack([_normalised(band, pixels[band]) for band in GROUPS[name]], dim=2)


def _normalised(band: str, pixels: Tensor) -> Tensor:
    mean, std = STATISTICS[band]
    scale = 1 if band in GROUPS["S1"] else REFLECTANCE_SCALE
    return (pixels * scale - (mean - 2 * std)) / (4 * std)


def _files(size: str, encoder_bytes: int, decoder_bytes: int) -> tuple[Remote, ...]:
    parts = (
        ("encoder.pt", encoder_bytes),
        ("target_encoder.pt", encoder_bytes),
        ("second_decoder.pt", decoder_bytes),
        ("config.json", 2_250),
    )
    return tuple(
        Remote(
            repo="nasaharvest/galileo",
            file=f"models/{size}/{file}",
            revision="0bbc53293a37dea7d563566f015c5527bdaf3793",
            bytes_about=count,
            optional=file != "encoder.pt",
        )
        for file, count in parts
    )


_FILES = {
    "galileo.nano": _files("nano", 4_190_000, 1_740_000),
    "galileo.tiny": _files("tiny", 22_900_000, 7_500_000),
    "galileo.base": _files("base", 346_000_000, 118_000_000),
}
"""Sizes of tiny and base follow from their shapes. `decoder.pt` serves the other objective and is not fetched."""


def _card(name: str, config: GalileoConfig) -> Card:
    size = name.rpartition(".")[2]
    return Card(
        name=name,
        title=f"Galileo {size}, masked modelling of Sentinel-1 and Sentinel-2 in latent space",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(10.0, 10.0),
        bands=BANDS,
        band_subset=True,
        groups=tuple(GROUPS.values()),
        frames=(1, config.frames),
        objective="patch discrimination under random masks",
        unit=f"cross entropy of patch discrimination, times {2 * config.tau:g}",
        mask_ratio=config.hidden_ratio,
        visible_ratio=config.visible_ratio,
        mask_axes=("t", "g", "h", "w"),
        needs=("time",),
        reading="High: hidden patches of the chip are hard to tell apart, as on water, bare fields and other uniform "
        "ground. Low: varied ground, where every patch has a look of its own that the rest foretells.",
        code_licence="MIT",
        weights_licence="MIT",
        files=_FILES.get(name, ()),
        source="github.com/nasaharvest/galileo 0f0b5b95ac81 (src/galileo.py, src/loss.py, train.py)",
        citation="Tseng et al. 2025, Galileo: Learning Global & Local Features of Many Remote Sensing Modalities, "
        "arXiv:2502.09356",
        deviations=(
            "elevation, land cover, weather, night lights, population and location are absent, as masked groups are in "
            "pretraining; shares of hidden and seen tokens are of the band groups present, not of every modality",
            "only the local objective (random masks, shallow targets) is computed; pretraining alternates it with the "
            "global one",
            f"chips are {config.grid} x {config.grid} patches of {config.patch_px} px; pretraining drew patches of 1 "
            "to 8 px, 4 to 12 of them a side",
            "pretrained on Sentinel-2 L1C and Sentinel-1 GRD sigma0, monthly, 3 to 12 frames; surface reflectance, "
            "gamma0, single dates and more than 12 frames are further from it",
            "the value grows with the logarithm of the hidden tokens: compare chips of as many frames and band groups",
            "patches without valid pixels leave the mean, yet their targets stay among those to choose from",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


def make(name: str, config: GalileoConfig, *, seed: int = 0) -> Galileo:
    """Return an untrained network of any shape; the target encoder is a copy, as at the start of pretraining."""
    net = on_meta(lambda: GalileoNet(config))
    draw_weights(net, seed)
    net.target_encoder.load_state_dict(net.encoder.state_dict())
    return Galileo(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> Galileo:
    """Load the published weights: a folder, or `encoder.pt` alone, which embeds but has no loss.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    return read(name, CONFIGS[name], weights)


def read(name: str, config: GalileoConfig, weights: str | None = None) -> Galileo:
    """Load weights of this shape.

    Raises: WeightsError.
    """
    found = {path.name: path for path in local_files(name, _FILES[name], weights).values()}
    if "encoder.pt" not in found:  # one file, under another name
        found = {"encoder.pt": next(iter(found.values()))}
    _check_config(found["encoder.pt"], config)
    _check_statistics(found["encoder.pt"])
    decodes = {"target_encoder.pt", "second_decoder.pt"} <= set(found)
    net = on_meta(lambda: GalileoNet(config, decodes=decodes))
    parts = {
        "encoder.pt": net.encoder,
        "target_encoder.pt": net.target_encoder,
        "second_decoder.pt": net.second_decoder,
    }
    parts = {file: part for file, part in parts.items() if part is not None}
    for file, part in parts.items():
        _load_part(part, found[file])
    card = _card(name, config)
    card = card if decodes else replace(card, target="none")
    return Galileo(net, card, digest([found[file] for file in parts]))


def _load_part(part: nn.Module, path: Path) -> None:
    state = state_of(read_checkpoint(path), name=path.name)
    state = {key.replace("backbone.", ""): value for key, value in state.items()}
    foreign = (
        {r"^space_time_embed\.": "an encoder of Galileo, not a decoder"}
        if isinstance(part, Decoder)
        else {r"^encoder_to_decoder_embed\.": "a decoder of Galileo, not an encoder", r"\beo_patch_embed\.": "Presto"}
    )
    load_strict(part, state, name=path.name, ignore=GalileoNet.IGNORED, hints=foreign)


def _check_config(path: Path, config: GalileoConfig) -> None:
    """Refuse a `config.json` of another network, or of an objective that is not computed here."""
    told = config_beside(path)
    shared = {"mlp_ratio": config.mlp_ratio, "num_heads": config.heads, "max_patch_size": config.base_patch_px}
    encoder = {**shared, "embedding_size": config.dim, "depth": config.depth}
    decoder = {**shared, "decoder_embedding_size": config.dim, "depth": config.decoder_depth}
    networks = told.get("model", {})
    for part, wanted, said in (
        ("encoder", encoder, networks.get("encoder", {})),
        ("decoder", decoder, networks.get("decoder", {})),
        ("training", {**OBJECTIVE, "tau": config.tau}, told.get("training", {})),
    ):
        hold_to(said, wanted, name=f"config.json beside {path.name} ({part})")


def _check_statistics(path: Path) -> None:
    """Refuse a `normalization.json` with other numbers than the published models have."""
    if not (told := config_beside(path, "normalization.json")):
        return
    given = told.get(str(len(BANDS) + 1), {})
    found = [given.get(key, [])[: len(BANDS)] for key in ("mean", "std")]
    wanted = np.array(list(STATISTICS.values())).T
    if np.shape(found) != wanted.shape or not np.allclose(found, wanted, rtol=1e-6):
        raise WeightsError(
            f"normalization.json beside {path.name} is not that of the published Galileo, whose numbers are used; "
            "remove it, or give the published folder"
        )
