"""Ask at a checkpoint of a training of nano how hard the probe finds held-out ground, beside how hard it is.

A few chips of each held-out place, the same ones at every checkpoint. The ridge probe reads the log-loss of this very
checkpoint off its own embedding, whole places held out, in choosing alpha too; so do its nulls: the pixels' complexity,
and the embedding of the network before its first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

import nano_data
from geoelle.complexity import features
from geoelle.holdout import PlaceKFold
from geoelle.models import masks
from geoelle.models.nano import BANDS, NanoNet
from geoelle.ridge import cross_predict

CAP = 16
"""Chips a file, drawn once with a seed of their own."""
SEED = 7
FOLDS = 5
EDGES = np.logspace(-4, 2, 73)
"""Ends of the bins, in the unit of the loss: 12 a factor of 10, wide enough for any checkpoint."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """The chips watched: pixels (n, c, y, x), the seed of each one's mask, its place, and what the nulls read."""

    pixels_ncyx: np.ndarray
    seeds_n: np.ndarray
    place_n: np.ndarray
    features_nf: np.ndarray
    untrained_nd: np.ndarray

    @classmethod
    def of(cls, scenes: list[nano_data.Scene], untrained: NanoNet) -> Self:
        """Draw chips of the scenes that have all bands, and embed them with the network before its first step."""
        pixels, names, places = [], [], []
        for scene in scenes:
            if scene.bands != BANDS:
                continue
            chips, where = scene.chips(untrained.config.chip_px, CAP, SEED)
            pixels.append(chips)
            names += [f"{scene.path}/{r}/{c}" for r, c in where]
            places += [scene.place] * len(chips)
        pixels_ncyx = np.concatenate(pixels)
        return cls(
            pixels_ncyx=pixels_ncyx,
            seeds_n=masks.seeds_of(names),
            place_n=np.array(places),
            features_nf=features(pixels_ncyx, BANDS),
            untrained_nd=_embed(untrained, pixels_ncyx),
        )

    def read(self, net: NanoNet) -> dict[str, object]:
        """Return the row of a checkpoint: counts of difficulty and loss over the bins, and r on places held out.

        Values beyond the outermost edges are counted in the outermost bins. `r` is of log-loss.
        """
        log_loss_n = np.log(_losses(net, self.pixels_ncyx, self.seeds_n))
        read_by = {"elle": _embed(net, self.pixels_ncyx), "pixels": self.features_nf, "untrained": self.untrained_nd}
        predicted = {
            name: cross_predict(x_nd, log_loss_n, PlaceKFold(FOLDS), self.place_n) for name, x_nd in read_by.items()
        }
        return {
            "chips": len(log_loss_n),
            "places": len(np.unique(self.place_n)),
            "edges": [float(f"{edge:.4g}") for edge in EDGES],
            "difficulty": counts(np.exp(predicted["elle"])),
            "loss": counts(np.exp(log_loss_n)),
            "r": {name: float(np.corrcoef(log_loss_n, p_n)[0, 1]) for name, p_n in predicted.items()},
        }


def counts(values_n: np.ndarray) -> list[int]:
    """Count values in the bins of `EDGES`, those beyond the ends in the outermost.

    >>> sum(counts(np.array([1e-9, 0.2, 0.2, 1e9])))
    4
    """
    bins_n = np.clip(np.searchsorted(EDGES, values_n, side="right") - 1, 0, len(EDGES) - 2)
    return np.bincount(bins_n, minlength=len(EDGES) - 1).tolist()


@torch.inference_mode()
def _embed(net: NanoNet, pixels_ncyx: np.ndarray) -> np.ndarray:
    """Return the mean of the patch tokens, (n, d), no patch hidden."""
    bands = torch.arange(len(BANDS))
    return net.encode(net.patchify(torch.from_numpy(pixels_ncyx), bands), bands).mean(1).numpy()


@torch.inference_mode()
def _losses(net: NanoNet, pixels_ncyx: np.ndarray, seeds_n: np.ndarray) -> np.ndarray:
    """Return the loss of each chip under one fixed mask, (n,)."""
    bands, patches = torch.arange(len(BANDS)), net.config.grid**2
    hidden = masks.hidden_count(patches, net.config.mask_ratio)
    order = torch.from_numpy(masks.permutations(seeds_n, patches))
    return net.errors(net.patchify(torch.from_numpy(pixels_ncyx), bands), bands, order, hidden).mean(1).numpy()
