"""Clay v1.5: a masked autoencoder for any optical or radar sensor whose wavelengths are known, taught by DINOv2.

No paper. Specification and code: github.com/Clay-foundation/model, a5790ce (claymodel/model.py, configs/metadata.yaml).
Code and weights, the DINOv2 teacher in the file included: Apache-2.0. A hyper-network turns the wavelength of each band
into the weights of that band's patch embedding and of its reconstruction (the idea of DOFA, Xiong et al. 2024,
arXiv:2403.15356), so any subset of a sensor's bands is a legal input.

The objective is 0.9 rec + 0.1 rep for each chip:

* `rec`: mean absolute error of the hidden patches, in standard deviations of each band; a tenth of it for MODIS;
* `rep`: 1 - cosine between the summary token of the visible patches and what DINOv2 says of the whole chip's colours.

The published text speaks of 95 % and 5 %; the code of the release has 0.9 and 0.1, and so has this file. A file without
the teacher gives `rec` alone, and its card says so; one without the decoder embeds and has no loss.

Pixels come in physical units and are put back into the numbers Clay was normalised on (`SENSORS`). Time and place are
two halves of one code: upstream knows both or, in a fifth of its training chips, neither. Chips without a time are
therefore refused rather than half described; `Clay.without_metadata` withholds both on purpose.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from geoelle.errors import InputMismatch, WeightsError
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.clay_net import META, ClayConfig, ClayNet, Inputs, Statistics
from geoelle.models.networks import draw_weights, gather_tokens, on_meta, patchify, scatter_error, z_scores
from geoelle.models.weights import Remote, digest, hold_to, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = [
    "CARDS",
    "CONFIGS",
    "SENSORS",
    "Clay",
    "ClayConfig",
    "ClayNet",
    "Inputs",
    "Statistics",
    "load",
    "make",
    "read",
]

# --- what is published


SENSORS = {
    "sentinel-2-l2a": Statistics(
        bands=("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22"),
        mean=(1105, 1355, 1552, 1887, 2422, 2630, 2743, 2785, 2388, 1835),
        std=(1809, 1757, 1888, 1870, 1732, 1697, 1742, 1648, 1470, 1379),
        wavelength_um=(0.493, 0.56, 0.665, 0.704, 0.74, 0.783, 0.842, 0.865, 1.61, 2.19),
        scale=1e-4,
    ),
    "landsat-c2-l2": Statistics(
        bands=("red", "green", "blue", "nir08", "swir16", "swir22"),
        mean=(13705, 13310, 12474, 17801, 14615, 12701),
        std=(9578, 9408, 10144, 8277, 5300, 4522),
        wavelength_um=(0.65, 0.56, 0.48, 0.86, 1.6, 2.2),
        scale=2.75e-5,
        offset=-0.2,
    ),
    "naip": Statistics(
        bands=("red", "green", "blue", "nir"),
        mean=(110.16, 115.41, 98.15, 139.04),
        std=(47.23, 39.82, 35.43, 49.86),
        wavelength_um=(0.65, 0.56, 0.48, 0.842),
        scale=1 / 255,
    ),
    "linz": Statistics(
        bands=("red", "green", "blue"),
        mean=(89.96, 99.46, 89.51),
        std=(41.83, 36.96, 31.45),
        wavelength_um=(0.635, 0.555, 0.465),
        scale=1 / 255,
    ),
    "sentinel-1-rtc": Statistics(
        bands=("vv", "vh"),
        mean=(-12.113, -18.673),
        std=(8.314, 8.017),
        wavelength_um=(3.5, 4.0),  # stand-ins of upstream, no wavelengths of a radar
        scale=1.0,
        colours=("vv", "vh"),
    ),
    "modis": Statistics(
        bands=("red", "nir08", "blue", "green", "sur_refl_b05", "swir16", "swir22"),
        mean=(1072, 1624, 931, 1023, 1599, 1404, 1051),
        std=(1643, 1878, 1449, 1538, 1763, 1618, 1396),
        wavelength_um=(0.645, 0.858, 0.469, 0.555, 1.24, 1.64, 2.13),
        scale=1e-4,
        rec_divisor=10.0,
    ),
}
"""Sensor -> what upstream's configs/metadata.yaml says of it. MODIS band 5 (1.24 um) has no common name."""


CONFIGS = {"clay.v1.5": ClayConfig()}


def _card(name: str, config: ClayConfig) -> Card:
    known = [band for sensor in SENSORS.values() for band in sensor.bands]
    objective, unit = "rec", "mean absolute error in standard deviations of the bands"
    reading = "High: the network cannot fill in the hidden ground from what it sees (texture, edges, rare surfaces)"
    if config.has_teacher:
        objective = f"{config.rec_weight:g} rec + {config.rep_weight:g} rep"
        unit = f"{config.rec_weight:g} x {unit} + {config.rep_weight:g} x (1 - cosine)"
        reading += ", or its summary of what it sees is unlike DINOv2's of the whole chip"
    return Card(
        name=name,
        title="Clay v1.5 large, a masked autoencoder for many sensors",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(0.5, 500.0),
        bands=tuple(dict.fromkeys(known)),
        band_subset=True,
        target="loss" if config.has_decoder else "none",
        objective=objective if config.has_decoder else "",
        unit=unit if config.has_decoder else "",
        mask_ratio=config.mask_ratio,
        additive=not config.has_teacher,
        needs=("time", "lonlat", "gsd", "wavelength", "sensor"),
        reading=f"{reading}. Low: uniform or familiar ground.",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        files=(
            Remote(
                repo="made-with-clay/Clay",
                file="v1.5/clay-v1.5.ckpt",
                revision="70200ebcccdf67bf2a0cb9984c77ddee26c10ed2",
                bytes_about=5_160_000_000,
            ),
        ),
        source="https://github.com/Clay-foundation/model at a5790ce",
        citation="Clay Foundation 2024, Clay v1.5 (specification; there is no paper)",
        deviations=(
            "bands are never dropped at random, as training did to a share of the chips; masks are drawn by geoelle",
            "trained at 0.5, 1, 10, 30 and 500 m only, each sensor at its own; other ground sampling distances are "
            "legal and were never seen",
            "fewer bands than a sensor's own are legal to the network; training showed it all of them, or zeros",
            "Sentinel-2 numbers are taken to be harmonised (the offset of 2022 removed); upstream does not say",
            "Landsat 8 and 9 were trained on, 4 to 7 were not; Level-1, the seventh source of training, is left out: "
            "its numbers cannot be had back from reflectance without the sun's height",
            "radar numbers of zero or less are missing here; upstream made them -100 dB",
            "codes are computed in float64; upstream's float32 rounds them by up to 0.001 at 500 m",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


# --- the adapter


def _iso_week(times_b: np.ndarray) -> np.ndarray:
    """Return int64 (b,): the ISO week of datetimes, which is that of the Thursday beside them."""
    days = times_b.astype("datetime64[D]").astype(np.int64)
    thursday = days - (days + 3) % 7 + 3
    new_year = thursday.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    return (thursday - new_year) // 7 + 1


def meta_codes(times_b: np.ndarray, lonlat_b2: np.ndarray) -> np.ndarray:
    """Return float64 (b, 8): sine, cosine of ISO week / 52 and whole hour / 24, then of latitude and longitude."""
    hour = times_b.astype("datetime64[h]").astype(np.int64) % 24
    turns = np.stack([_iso_week(times_b) / 52, hour / 24, lonlat_b2[:, 1] / 360, lonlat_b2[:, 0] / 360], axis=1)
    angle = 2 * math.pi * turns
    return np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(times_b), META)


class Clay(Adapter):
    """The adapter: chips in physical units to tokens and to the pretraining loss."""

    net: ClayNet

    def __init__(self, net: ClayNet, card: Card, weights_sha256: str) -> None:
        super().__init__(net, card, weights_sha256)
        self._taught = threading.local()

    def without_metadata(self) -> Clay:
        """Return the same network told neither time nor place, as for a fifth of its training chips.

        Its card, and so the space of its embeddings, says so.
        """
        needs = tuple(need for need in self.card.needs if need not in ("time", "lonlat"))
        objective = ", ".join(filter(None, [self.card.objective, "time and place withheld"]))
        return Clay(self.net, replace(self.card, needs=needs, objective=objective), self.weights_sha256)

    def inputs(self, chips: Chips) -> Inputs:
        """Return what the network sees of these chips: bands in the order of the sensor's table.

        Raises: InputMismatch.
        """
        self.card.check(chips)
        name, sensor = self.card.name, SENSORS.get(chips.sensor)
        if sensor is None:
            raise InputMismatch(
                f"{name} has no statistics for sensor {chips.sensor!r}; it was trained on {', '.join(SENSORS)}"
            )
        if foreign := [band for band in chips.bands if band not in sensor.bands]:
            raise InputMismatch(
                f"{name} does not know bands {', '.join(foreign)} of sensor {chips.sensor}; "
                f"it takes {', '.join(sensor.bands)}"
            )
        rows = [i for i, band in enumerate(sensor.bands) if band in chips.bands]
        bands = tuple(sensor.bands[i] for i in rows)
        numbers = (self.pixels(chips, bands)[:, 0] - sensor.offset) / sensor.scale
        return Inputs(
            pixels_bcyx=z_scores(numbers, [sensor.mean[i] for i in rows], [sensor.std[i] for i in rows]),
            bands=bands,
            wavelength_um=tuple(sensor.wavelength_um[i] for i in rows),
            gsd_m=float(chips.addresses.lattice.gsd_m),
            meta_b8=torch.from_numpy(self._meta(chips)).float().to(self.device),
            sensor=sensor,
        )

    def _meta(self, chips: Chips) -> np.ndarray:
        if "time" not in self.card.needs:
            return np.zeros((len(chips), META))
        times = chips.times_bt[:, 0]
        if timeless := int(np.isnat(times).sum()):
            raise InputMismatch(
                f"{self.card.name} needs the time of every chip, and {timeless} of {len(chips)} have none; "
                "give it, or withhold time and place from all with Clay.without_metadata()"
            )
        return meta_codes(times, chips.lonlat_b2)

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens (b, grid, grid, dim) after the last norm, and the summary token."""
        tokens = self.net.encoder(self.inputs(chips))
        grid = (self.card.grid, self.card.grid)
        return Tokens(patch_bhwd=tokens[:, 1:].unflatten(1, grid), summary_bd=tokens[:, 0])

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective under this mask; `error` is that of `rec`, and its mean over hidden patches is `rec`.

        Raises: CapabilityError (a file without the decoder), InputMismatch (the teacher lacks a colour).
        """
        if not self.net.config.has_decoder:
            raise self.encoder_alone()
        config, x = self.net.config, self.inputs(chips)
        if config.has_teacher and (missing := [band for band in x.sensor.colours if band not in x.bands]):
            raise InputMismatch(
                f"the loss of {self.card.name} shows {', '.join(x.sensor.colours)} to a teacher, and the chips lack "
                f"{', '.join(missing)}; add them, or only embed"
            )
        seen, masked = self.split(chips, hidden, visible)
        encoded = self.net.encoder(x, seen)
        predicted = self.net.decoder(encoded, x, seen, masked)
        truth = gather_tokens(patchify(x.pixels_bcyx, config.patch_px, "cpq"), masked)
        error_bm = (predicted - truth).abs().mean(dim=2) / x.sensor.rec_divisor
        rec = error_bm.mean(dim=1)
        total, terms = rec, {"rec": rec}
        if config.has_teacher:
            rep = 1 - F.cosine_similarity(self.net.proj(encoded[:, 0]).float(), self._target(x))
            total, terms = config.rec_weight * rec + config.rep_weight * rep, {"rec": rec, "rep": rep}
        return Loss(total_b=total, terms=terms, error=scatter_error(error_bm, masked, hidden.shape))

    def _target(self, x: Inputs) -> Tensor:
        """Return the teacher's answer, kept by each thread for the other masks of a batch: it is most of the work."""
        colours = x.colours()
        shown, target = getattr(self._taught, "last", (None, None))
        if shown is None or shown.device != colours.device or not torch.equal(shown, colours):
            target = self.net.teach(colours)
            self._taught.last = (colours, target)
        return target


# --- weights

HINTS = {
    r"latlon_embedding|band_encoding": "a file of Clay v0",
    r"^mrl\.": "a Clay trained with Matryoshka heads",
}


def make(name: str, config: ClayConfig, *, seed: int = 0) -> Clay:
    """Return an untrained network of any shape."""
    net = on_meta(lambda: ClayNet(config))
    draw_weights(net, seed)
    return Clay(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> Clay:
    """Load the published weights, a local file of the same kind, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    (path,) = local_files(name, CARDS[name].files, weights).values()
    return read(name, CONFIGS[name], path)


def read(name: str, config: ClayConfig, path: Path) -> Clay:
    """Return the model in a training checkpoint, which may lack the teacher, or the decoder and the teacher.

    Tensors stay on disk until they are used, and the moments of the optimiser, half of the file, for good.

    Raises: WeightsError.
    """
    checkpoint = read_checkpoint(path)
    state = state_of(checkpoint, name=path.name, strip=("model.",))
    parts = {key.split(".", 1)[0] for key in state}
    decoder = "decoder" in parts
    config = replace(
        _as_told(config, checkpoint.get("hyper_parameters"), path.name),
        has_decoder=decoder,
        has_teacher=decoder and "teacher" in parts,
    )
    if "teacher" in parts and "teacher.reg_token" not in state:
        raise WeightsError(f"{path.name} has a teacher without registers, as Clay v1.0; give a file of {name}")
    net = on_meta(lambda: ClayNet(config))
    spare = "" if config.has_teacher else r"^proj\." if decoder else r"^(proj|teacher)\."
    load_strict(net, state, name=path.name, ignore=spare, hints=HINTS)
    return Clay(net, _card(name, config), digest([path]))


def _as_told(config: ClayConfig, said: Any, name: str) -> ClayConfig:
    """Return the config with the mask ratio the file says it was trained with; refuse another objective or patch."""
    if not isinstance(said, Mapping):
        return config
    hold_to(said, {"norm_pix_loss": False, "patch_size": config.patch_px}, name=name)
    return replace(config, mask_ratio=float(said.get("mask_ratio", config.mask_ratio)))
