"""Read patches of the bark-beetle places on both dates, as a model sees them: one row a patch, arrays of both dates."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from geoelle import complexity
from geoelle.chips import Chips
from geoelle.embed import BATCH, patch_losses
from geoelle.models import Model, load_model
from geoelle.patches import windows
from labels import CHIP_PX, PATCH_PX, Drawn, Site, chips_at, damage, damage_scene, draw
from nano_data import Scene

BEFORE_DAY = np.datetime64("2019-09-15", "D")
"""The middle of the month that the files give."""
CHIPS, PATCHES = 8, 60
"""Chips and patches that are drawn from a place at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """One pair of files: `site` is the date after with its labels, on ground that both dates have."""

    site: Site
    before: Scene
    test: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Patches before and after, all finite; the first axis of what has one of length 2 is the date.

    `tokens_2nd` and `twin_2nd` of the model and of its untrained twin, `loss_2n`, `bands_2nc` mean reflectance,
    `features_2nf` of the pixels around the patch; `damaged_n`; `file_n` the pair of files, `block_n` the 20 km block,
    `test_n` whether its author holds the place out.
    """

    tokens_2nd: np.ndarray
    twin_2nd: np.ndarray
    loss_2n: np.ndarray
    bands_2nc: np.ndarray
    features_2nf: np.ndarray
    damaged_n: np.ndarray
    file_n: np.ndarray
    block_n: np.ndarray
    test_n: np.ndarray

    def take(self, keep_n: np.ndarray) -> Pairs:
        """Return the patches that are kept."""
        cut = {f.name: getattr(self, f.name) for f in fields(self)}
        return Pairs(**{name: v[:, keep_n] if "_2n" in name else v[keep_n] for name, v in cut.items()})

    @property
    def clear_n(self) -> np.ndarray:
        """Return where a fit may learn: train places in blocks without a test place."""
        return ~self.test_n & ~np.isin(self.block_n, self.block_n[self.test_n])


def places(root: Path) -> list[Place]:
    """Return the pairs of files, with the split of their author."""
    split = {row["path"]: row.get("split") for row in json.loads((root / "index.json").read_text())}
    found = []
    for site in damage(root).sites:
        path = site.scene.path.replace("_202009", "_201909")
        before = replace(damage_scene(root, root / path), date=BEFORE_DAY)
        pixels_cyx = np.where(np.isfinite(before.pixels_cyx).all(axis=0), site.scene.pixels_cyx, np.nan)
        whole = replace(site, scene=replace(site.scene, pixels_cyx=pixels_cyx))
        found.append(Place(site=whole, before=before, test=split[path] == "test"))
    return found


def cached(every: list[Place], model: Model, folder: Path | None) -> Pairs:
    """Read every place, or take what the folder keeps of the same places, weights and caps."""
    if folder is None:
        return read(every, model)
    digest = hashlib.sha256(f"{model.card.name} {model.weights_sha256} {CHIPS} {PATCHES}".encode())
    for place in every:
        digest.update(f"{place.site.scene.path} {place.test}".encode() + place.site.label_hw.tobytes())
        digest.update(place.site.scene.pixels_cyx.tobytes() + place.before.pixels_cyx.tobytes())
    path = folder / f"delta-{digest.hexdigest()[:16]}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pairs = read(every, model)
        np.savez(path, **{f.name: getattr(pairs, f.name) for f in fields(Pairs)})
    with np.load(path) as kept:
        return Pairs(**kept)


def read(every: list[Place], model: Model) -> Pairs:
    """Draw patches of every place and let the model, and its untrained twin, read both dates.

    A place without a whole chip that both dates have gives no rows.
    """
    twin = load_model(model.card.name, "untrained", seed=0)
    parts = [part for place in every if (part := _read(place, model, twin))]
    names = [f.name for f in fields(Pairs)]
    joined = {name: np.concatenate([part[name] for part in parts], axis=int("_2n" in name)) for name in names}
    pairs = Pairs(**joined)
    finite = (pairs.tokens_2nd, pairs.twin_2nd, pairs.loss_2n[..., None], pairs.bands_2nc, pairs.features_2nf)
    return pairs.take(np.logical_and.reduce([np.isfinite(v).all(axis=(0, 2)) for v in finite]))


def _read(place: Place, model: Model, twin: Model) -> dict[str, np.ndarray]:
    """Read one place; the masks of both dates are the same, as they follow from where a chip lies."""
    drawn = draw(place.site, CHIPS, PATCHES)
    if not len(drawn.label_n):
        return {}
    dates = [_look(chips_at(scene, drawn.origin_k2), drawn, model, twin) for scene in (place.before, place.site.scene)]
    count = len(drawn.label_n)
    return {name: np.stack([date[name] for date in dates]) for name in dates[0]} | {
        "damaged_n": drawn.label_n == 1,
        "file_n": np.full(count, place.site.scene.path),
        "block_n": np.full(count, place.site.place),
        "test_n": np.full(count, place.test),
    }


def _look(chips: Chips, drawn: Drawn, model: Model, twin: Model) -> dict[str, np.ndarray]:
    at = (drawn.chip_n, *drawn.at_n2.T)
    pixels_ntcyx = chips.pixels_btcyx[drawn.chip_n]
    row_n, col_n = drawn.at_n2.T
    squares = windows(pixels_ntcyx, (row_n * (CHIP_PX // PATCH_PX) + col_n)[:, None], PATCH_PX)
    return {
        "tokens_2nd": _tokens(chips, model)[at],
        "twin_2nd": _tokens(chips, twin)[at],
        "loss_2n": patch_losses(chips, model)[at],
        "bands_2nc": patch_means(chips.pixels_btcyx[:, 0])[at],
        "features_2nf": complexity.features(squares, chips.bands),
    }


def patch_means(pixels_bcyx: np.ndarray) -> np.ndarray:
    """Return (b, h, w, c): the mean of each band over each patch."""
    b, c, y, x = pixels_bcyx.shape
    cut = pixels_bcyx.reshape(b, c, y // PATCH_PX, PATCH_PX, x // PATCH_PX, PATCH_PX)
    return np.moveaxis(cut.mean(axis=(3, 5)), 1, -1)


def _tokens(chips: Chips, model: Model) -> np.ndarray:
    batches = [chips[i : i + BATCH] for i in range(0, len(chips), BATCH)]
    return torch.cat([model.encode(batch).patch_bhwd.float() for batch in batches]).cpu().numpy()
