"""Prithvi-EO 1.0 and 2.0 (IBM, NASA): masked autoencoders for time series of Harmonized Landsat and Sentinel-2.

Jakubik et al. 2023 (arXiv:2310.18660) and Szwarcman et al. 2024 (arXiv:2412.02732). Written after `PrithviMAE` of
github.com/IBM/terratorch at 85467a9, and equal to it to float precision. Code and weights: Apache-2.0.

Dates are one stack of patches: a token is a place on a date, three quarters of all tokens are hidden wherever they
lie, and the objective is the mean squared error of their z-scored pixels. The `-tl` models also add codes of year, day
of the year and location to the tokens of encoder and decoder; these enter by weights that training found. Encoder and
decoder are both published, so the true loss can be computed for every model.

Where this departs from upstream, or where upstream is unsure of itself, `Card.deviations` says so. All revisions and
hashes of files were read in third-party repositories that pin them, not on the hub itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geoelle.errors import InputMismatch, WeightsError
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import (
    draw_weights,
    on_meta,
    scatter_error,
    z_scores,
)
from geoelle.models.prithvi_net import BANDS, CoordinateCode, PrithviConfig, PrithviNet, Where
from geoelle.models.weights import Remote, digest, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["BANDS", "CARDS", "CONFIGS", "Prithvi", "PrithviConfig", "PrithviNet", "load", "make", "read"]

SCALE = 10_000.0
"""Of HLS: the statistics are of reflectance times this."""


_300M = {"dim": 1024, "depth": 24, "heads": 16}
_600M = {"dim": 1280, "depth": 32, "heads": 16, "patch_px": 14}
CONFIGS = {
    "prithvi.v1-100m": PrithviConfig(
        dim=768, depth=12, heads=12, frames=3,
        mean=(
            775.2290211032589, 1080.992780391705, 1228.5855250417867,
            2497.2022620507532, 2204.2139147975554, 1610.8324823273745,
        ),
        std=(
            1281.526139861424, 1270.0297974547493, 1399.4802505642526,
            1368.3446143747644, 1291.6764008585435, 1154.505683480695,
        ),
    ),
    "prithvi.v2-tiny-tl": PrithviConfig(dim=192, depth=12, heads=3, coordinates=True),
    "prithvi.v2-100m-tl": PrithviConfig(dim=768, depth=12, heads=12, coordinates=True),
    "prithvi.v2-300m": PrithviConfig(**_300M),
    "prithvi.v2-300m-tl": PrithviConfig(**_300M, coordinates=True),
    "prithvi.v2-600m": PrithviConfig(**_600M),
    "prithvi.v2-600m-tl": PrithviConfig(**_600M, coordinates=True),
}  # fmt: skip


class Prithvi(Adapter):
    """The adapter: chips in reflectance to tokens and to the true pretraining loss."""

    net: PrithviNet

    def normalised(self, chips: Chips) -> Tensor:
        """Return (b, 6, t, y, x) float32: reflectance times 10,000 as z-scores of the training imagery."""
        numbers, config = self.pixels(chips, BANDS) * SCALE, self.net.config
        return z_scores(numbers, config.mean, config.std).transpose(1, 2).contiguous()

    def where(self, chips: Chips) -> Where:
        """Return what the model codes of date and place; nothing unless the config says so.

        Raises: InputMismatch (a frame has no time).
        """
        config = self.net.config
        if not config.coordinates:
            return Where()
        if missing := int(np.isnat(chips.times_bt).sum()):
            raise InputMismatch(
                f"{self.card.name} needs the time of every frame and {missing} of {chips.times_bt.size} have none; "
                "give chips with times, or use a model without -tl"
            )
        years = chips.times_bt.astype("datetime64[Y]")
        days = (chips.times_bt.astype("datetime64[D]") - years).astype(np.int64) + 1
        dates = np.stack([years.astype(np.int64) + 1970, days], axis=-1).astype(np.float64)
        location = chips.lonlat_b2 if config.location_order == "lonlat" else chips.lonlat_b2[:, ::-1].copy()
        return Where(torch.from_numpy(dates).to(self.device), torch.from_numpy(location).to(self.device))

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens averaged over frames, and CLS, both after the last norm."""
        x, grid = self.net.encoder(self.normalised(chips), self.where(chips)), self.card.grid
        return Tokens(patch_bhwd=x[:, 1:].unflatten(1, (-1, grid, grid)).mean(dim=1), summary_bd=x[:, 0])

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective where `hidden` (b, t, h, w) is hidden; every chip must hide the same count."""
        seen, masked = self.split(chips, hidden, visible)
        error_bm = self.net.errors(self.normalised(chips), self.where(chips), seen, masked)
        total = error_bm.mean(dim=1)
        return Loss(total_b=total, terms={"pixel": total}, error=scatter_error(error_bm, masked, hidden.shape))


def _file(model: str, file: str, revision: str, sha256: str = "", size: int = 0, about: int = 0) -> Remote:
    return Remote(
        repo=f"ibm-nasa-geospatial/Prithvi-EO-{model}", file=f"Prithvi_EO_{file}.pt", revision=revision,
        sha256=sha256, bytes=size, bytes_about=about,
    )  # fmt: skip


FILES = {
    "prithvi.v1-100m": _file(
        "1.0-100M", "V1_100M", "f3a9ea7a1723621b0aeceb4de993093704d712c5",
        "7fac0c8a8693198e32a055e0c5a967f8b005f382182b63df1b29fdcd5c880731", 453_671_052,
    ),
    "prithvi.v2-tiny-tl": _file(
        "2.0-tiny-TL", "V2_tiny_TL", "335eadc2c45ad5abe7bd307223e1c48c5b60c41b",
        "d47326db9bad502b611f73e3e3f3a0e68b7b82640d67c22c795417f7209f8d70", about=129_000_000,
    ),
    "prithvi.v2-100m-tl": _file(
        "2.0-100M-TL", "V2_100M_TL", "2c84e383194986040f883cc43d7869002c425e1b",
        "d45406d5fc51af1d9657d48f2e2c3ff077408a2e1113f9a242889a4fe4469b17", 454_660_610,
    ),
    "prithvi.v2-300m": _file("2.0-300M", "V2_300M", "b2f2520ab889f42a25c5361ba18761fcb4ea44ad", about=1_330_000_000),
    "prithvi.v2-300m-tl": _file(
        "2.0-300M-TL", "V2_300M_TL", "63adbd39c271da4c42f447e69b1a7c91a338cdc9",
        "3629cedfbb350faafcb0dac902ae0d3c927e25ce8d9e0024aa1276ec66956ddb", 1_326_660_716,
    ),
    "prithvi.v2-600m": _file("2.0-600M", "V2_600M", "87f15784813828dc37aa3197a143cd4689e4d080", about=2_640_000_000),
    "prithvi.v2-600m-tl": _file(
        "2.0-600M-TL", "V2_600M_TL", "3d72adc6dfc4cc3862bf4f41da8c83db267193c9",
        "7b92c53b0204a76bb775bd8930f045e05776251caa8c83f7367ed0b75b594702", 2_638_217_218,
    ),
}  # fmt: skip

_PAPERS = {
    "v1": "Jakubik et al. 2023, Foundation Models for Generalist Geospatial Artificial Intelligence, arXiv:2310.18660",
    "v2": "Szwarcman et al. 2024, Prithvi-EO-2.0, arXiv:2412.02732",
}


def _deviations(name: str, config: PrithviConfig) -> tuple[str, ...]:
    ground = "HLS L30 (Landsat) of the contiguous United States" if name.startswith("prithvi.v1") else "global HLS"
    found = [
        f"trained on {ground} at 30 m: at 10 m, allowed here, a chip shows a ninth of the ground and everything in it "
        "three times as large, so compare numbers of one ground sampling distance only",
        "HLS is adjusted to nadir view (BRDF) and harmonised between sensors, other surface reflectance is not",
        f"trained on {config.frames} dates: fewer are legal and off-distribution, with the position table made for "
        "them as upstream does: never repeat a date, for its copy would show what is hidden",
        "pixels without data are filled with the chip's band mean and their patches leave the loss, where upstream "
        "sets them to 0.0001 after normalisation and counts them",
        "the embedding is the mean of patch tokens over all dates, CLS the summary",
    ]
    if name.startswith("prithvi.v1"):
        found.append("statistics are the original ones, which terratorch rounds to integers")
        found.append("layer norms use 1e-5 as in terratorch, where some loaders use 1e-6")
    if "tiny" in name:
        found.append("takes four dates: terratorch lists one, but the published file has the size of tables for four")
    if config.coordinates:
        order = {"lonlat": "longitude, latitude", "latlon": "latitude, longitude"}[config.location_order]
        found.append(
            f"location is coded in the order {order}: upstream's code names latitude first, its inference script gives "
            "longitude first, and the order of pretraining is not public"
        )
        found.append("days of the year count from 1 as in the inference script, where terratorch's guide has 0")
    return tuple(found)


def _card(name: str, config: PrithviConfig) -> Card:
    file = FILES[name]
    return Card(
        name=name,
        title=f"{file.repo.split('/')[1]}, a masked autoencoder for time series of HLS",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(10.0, 30.0),
        bands=BANDS,
        band_subset=False,
        frames=(1, config.frames),
        objective="pixel",
        unit="MSE in band variances of the training imagery",
        mask_ratio=config.mask_ratio,
        mask_axes=("t", "h", "w"),
        needs=("time", "lonlat") if config.coordinates else (),
        reading="High: the network cannot fill in the hidden ground from what it sees on this and other dates (edges, "
        "small fields, clouds, change); bright, contrasted ground weighs more. Low: smooth, dark or familiar ground.",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        files=(file,),
        source="github.com/IBM/terratorch 85467a9, terratorch/models/backbones/prithvi_mae.py",
        citation=_PAPERS[name.removeprefix("prithvi.")[:2]],
        deviations=_deviations(name, config),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


def make(name: str, config: PrithviConfig, *, seed: int = 0) -> Prithvi:
    """Return an untrained network of any config, as training starts it: the scales of coordinates at 0.1."""
    net = on_meta(lambda: PrithviNet(config))
    draw_weights(net, seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, CoordinateCode):
                module.scale.fill_(0.1)
    return Prithvi(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> Prithvi:
    """Load the published weights, a local file of them, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    (path,) = local_files(name, CARDS[name].files, weights).values()
    return read(name, CONFIGS[name], path)


def read(name: str, config: PrithviConfig, path: Path) -> Prithvi:
    """Load a file in either published layout into a network of this config.

    Raises: WeightsError.
    """
    net = on_meta(lambda: PrithviNet(config))
    state = _published(state_of(read_checkpoint(path), name=path.name, strip=("module.", "model.")))
    if "encoder.cls_token" in state and not any(key.startswith("decoder.") for key in state):
        raise WeightsError(f"{path.name} is an encoder alone; the published file of {name} has the decoder too")
    hints = {r"^(neck|head)\.|vpt_prompt": "a model fine-tuned for a task, without the decoder of pretraining"}
    if not config.coordinates:
        hints[r"(temporal|location)_embed"] = "of a -tl model, which codes time and location"
    load_strict(net, state, name=path.name, ignore=net.IGNORED, hints=hints)
    return Prithvi(net, _card(name, config), digest([path]))


def _published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the keys of today's files: those of 2023 name neither encoder nor decoder."""
    state = {key.replace("_timm_module.", ""): value for key, value in state.items()}
    if any(key.startswith("encoder.") for key in state):
        return state
    part = {key: "decoder." if re.search(r"decoder|_dec\.|^mask_token$", key) else "encoder." for key in state}
    return {part[key] + key: value for key, value in state.items()}
