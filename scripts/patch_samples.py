"""Draw the patches of a task and let a model read them: tokens, losses and pixel complexity, one row a patch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from geoelle import complexity
from geoelle.embed import BATCH, patch_losses
from geoelle.models import Model
from labels import CHIP_PX, PATCH_PX, Site, Task, chips_at, draw
from nano_samples import UNKNOWN

WINDOW_PX = 8
"""Side of the pixels around a patch that complexity is measured on: the least that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """The patches of a task as one model sees them, all finite.

    `tokens_nd` with their `loss_n`; `chip_nd` and `chip_loss_n`, the mean token and the mean patch loss of the chip of
    each; `features_nf`, pixel complexity around the patch and of its chip; `label_n`; `place_n`.
    """

    tokens_nd: np.ndarray
    loss_n: np.ndarray
    chip_nd: np.ndarray
    chip_loss_n: np.ndarray
    features_nf: np.ndarray
    label_n: np.ndarray
    place_n: np.ndarray


def cached(task: Task, model: Model, folder: Path | None) -> Sample:
    """Return the sample of a task, from the folder where the same one was kept there."""
    if folder is None:
        return embedded(task, model)
    path = folder / f"downstream-{_fingerprint(task, model)}.npz"
    if path.is_file():
        with np.load(path) as kept:
            return Sample(**kept)
    sample = embedded(task, model)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{f.name: getattr(sample, f.name) for f in fields(sample)})
    return sample


def _fingerprint(task: Task, model: Model) -> str:
    """Hash what decides a sample: weights, pixels, labels and how much is drawn."""
    digest = hashlib.sha256(f"{model.weights_sha256} {task.chips_per_site} {task.patches_per_site}".encode())
    for site in task.sites:
        digest.update(f"{site.scene.path} {site.place}".encode() + site.scene.pixels_cyx.tobytes())
        digest.update(site.label_hw.tobytes())
    return digest.hexdigest()[:16]


def embedded(task: Task, model: Model) -> Sample:
    """Draw patches from every site of a task and let the model read them."""
    parts = [_read(site, task, model) for site in task.sites]
    sample = Sample(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Sample)})
    keep_n = np.isfinite(sample.loss_n) & np.isfinite(sample.features_nf).all(axis=1)
    return Sample(**{f.name: getattr(sample, f.name)[keep_n] for f in fields(Sample)})


def _read(site: Site, task: Task, model: Model) -> Sample:
    drawn = draw(site, task.chips_per_site, task.patches_per_site)
    chips = chips_at(site.scene, drawn.origin_k2)
    if "time" in model.card.needs and np.isnat(chips.times_bt).any():
        chips = replace(chips, times_bt=np.full_like(chips.times_bt, UNKNOWN))
    batches = [chips[i : i + BATCH] for i in range(0, len(chips), BATCH)]
    tokens_khwd = torch.cat([model.encode(batch).patch_bhwd.float() for batch in batches]).cpu().numpy()
    loss_khw, at = patch_losses(chips, model), (drawn.chip_n, *drawn.at_n2.T)
    features = [complexity.features(windows(chips.pixels_btcyx[drawn.chip_n, 0], drawn.at_n2), chips.bands),
                complexity.features(chips.pixels_btcyx, chips.bands)[drawn.chip_n]]  # fmt: skip
    return Sample(
        tokens_nd=tokens_khwd[at],
        loss_n=loss_khw[at],
        chip_nd=tokens_khwd.mean(axis=(1, 2))[drawn.chip_n],
        chip_loss_n=loss_khw.mean(axis=(1, 2))[drawn.chip_n],
        features_nf=np.concatenate(features, axis=1),
        label_n=drawn.label_n,
        place_n=np.full(len(drawn.label_n), site.place),
    )


def windows(pixels_ncyx: np.ndarray, at_n2: np.ndarray) -> np.ndarray:
    """Return (n, c, 8, 8): the pixels around the patch at row and column `at_n2` of each chip, inside the chip."""
    corner_n2 = np.clip(at_n2 * PATCH_PX - (WINDOW_PX - PATCH_PX) // 2, 0, CHIP_PX - WINDOW_PX)
    cut = [chip[:, r : r + WINDOW_PX, c : c + WINDOW_PX] for chip, (r, c) in zip(pixels_ncyx, corner_n2, strict=True)]
    return np.stack(cut)
