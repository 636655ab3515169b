"""Let a model read an image: what every measure of change needs, one row a cell; kept in a folder, so runs resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from delta_series import PATCH_PX, Image
from geoelle import complexity
from geoelle.chips import Chips
from geoelle.embed import embed_chips
from geoelle.encode import BATCH, Seen, each_batch, errors_of, see
from geoelle.models import Model
from geoelle.patches import answering, keys_of, patch_means, patches_of, windows

TWIN = "twin0"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """What there is to say of the cells of one date, (n, ...), NaN where a cell was not seen.

    `tokens_nd` of the model and `twin_nd` of its untrained twin (mean over the offsets of a patch), `loss_n` the mean
    loss, `bands_nc` the mean of every band, `features_nf` of the pixels. What was not asked for has no columns, or NaN.
    """

    tokens_nd: np.ndarray
    twin_nd: np.ndarray
    loss_n: np.ndarray
    bands_nc: np.ndarray
    features_nf: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reader:
    """A model with what is asked of it; `twin` and the loss are slow, and may be left out."""

    model: Model
    twin: Model | None
    loss: bool
    bands: tuple[str, ...]

    @property
    def name(self) -> str:
        parts = (self.model.weights_sha256, self.twin and self.twin.weights_sha256, self.loss, self.bands)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def read(self, image: Image, unit: str) -> Cells:
        """Read every cell of an image."""
        chips = image.chips(unit).select_bands(self.bands)
        return laid(self.chip_parts(chips), chips) if unit == "patches" else self.chip_cells(chips)

    def chip_parts(self, chips: Chips) -> dict[str, np.ndarray]:
        """Return tokens, loss and features of every patch of every chip, (chips, h, w, ...), NaN where not usable."""
        twins = {} if self.twin is None else {TWIN: self.twin}
        parts = each_batch(lambda part: _of_patches(see(part, self.model, self.loss, twins, "fp32")), chips, BATCH)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def chip_cells(self, chips: Chips) -> Cells:
        """Return what there is to say of every chip, one row each."""
        twins = {} if self.twin is None else {TWIN: self.twin}
        table = embed_chips(chips, self.model, loss=self.loss, twins=twins)
        empty = np.zeros((len(chips), 0), np.float32)
        means = np.where(chips.valid_b[:, None], np.nanmean(chips.pixels_btcyx, axis=(1, 3, 4)), np.nan)
        return Cells(
            tokens_nd=table.vectors_nd,
            twin_nd=table.twins.get(TWIN, empty),
            loss_n=table.loss_n if self.loss else np.full(len(chips), np.nan, np.float32),
            bands_nc=means.astype(np.float32),
            features_nf=table.features_nf.astype(np.float32),
        )


def cached(folder: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """Return cells (one, or a tuple of them) that a folder keeps under a name, or make them and keep them there."""
    path = None if folder is None else folder / f"{name}.npz"
    if path is None or not path.is_file():
        made = make()
        if path is None:
            return made
        path.parent.mkdir(parents=True, exist_ok=True)
        held = path.with_suffix(".part.npz")
        np.savez(held, **{f"{i}.{f.name}": getattr(c, f.name) for i, c in enumerate(made) for f in fields(Cells)})
        held.rename(path)
    with np.load(path) as kept:
        count = 1 + max(int(key.partition(".")[0]) for key in kept)
        return tuple(Cells(**{f.name: kept[f"{i}.{f.name}"] for f in fields(Cells)}) for i in range(count))


def laid(parts: dict[str, np.ndarray], chips: Chips) -> Cells:
    """Average what chips say of each patch that lies in the middle of one; patches by row, then column.

    As in `PatchScores`, a patch is not known where the chip that has it in its middle is not valid.
    """
    lattice = chips.addresses.lattice
    keys = keys_of(patches_of(chips.addresses, PATCH_PX)).reshape(parts["loss"].shape)
    middle = answering(lattice, PATCH_PX)
    cells, first = np.unique(keys[:, middle, middle], return_index=True)
    at = np.minimum(np.searchsorted(cells, keys), len(cells) - 1)
    inside = cells[at] == keys
    own = {name: parts[name].reshape(-1, parts[name].shape[-1])[first] for name in ("features", "bands")}
    gone_n = ~np.isfinite(own["features"]).all(axis=1)
    means = {}
    for name in ("tokens", "twin", "loss"):
        value = parts[name][..., None] if name == "loss" else parts[name]
        mean = _means(value[inside], at[inside], len(cells))
        mean[gone_n] = np.nan
        means[name] = mean
    return Cells(
        tokens_nd=means["tokens"], twin_nd=means["twin"], loss_n=means["loss"][:, 0], bands_nc=own["bands"],
        features_nf=own["features"],
    )  # fmt: skip


def _means(values_kd: np.ndarray, at_k: np.ndarray, count: int) -> np.ndarray:
    """Return float32 (count, d): the mean of the finite rows of each cell."""
    known_k = np.isfinite(values_kd).all(axis=1)
    total, seen = np.zeros((count, values_kd.shape[1])), np.zeros(count)
    np.add.at(total, at_k[known_k], values_kd[known_k])
    np.add.at(seen, at_k[known_k], 1)
    return np.where(seen[:, None] > 0, total / np.maximum(seen, 1)[:, None], np.nan).astype(np.float32)


def _of_patches(seen: Seen) -> dict[str, np.ndarray]:
    """Return what a batch says of its patches; features and bands of those in the middle of their chip."""
    chips, usable = seen.chips, seen.usable_bhw
    b, h, w = usable.shape
    middle = answering(chips.addresses.lattice, PATCH_PX)
    inner = np.arange(h * w).reshape(h, w)[middle, middle]
    squares = windows(chips.pixels_btcyx, np.tile(inner.ravel(), (b, 1)), PATCH_PX)
    features = complexity.features(squares, chips.bands).reshape(b, *inner.shape, -1)
    bands = patch_means(chips.pixels_btcyx, PATCH_PX)[:, middle, middle]
    losses = [errors_of(loss) for _, loss in seen.losses]
    twin = seen.twins.get(TWIN)
    parts = {
        "tokens": seen.tokens_bhwd.float().cpu().numpy(),
        "twin": np.zeros((b, h, w, 0), np.float32) if twin is None else twin.float().cpu().numpy(),
        "features": features.astype(np.float32),
        "bands": bands.astype(np.float32),
        "loss": np.nanmean(losses, axis=0) if losses else np.full((b, h, w), np.nan),
    }
    for name, value in parts.items():
        known = usable[:, middle, middle] if name in ("features", "bands") else usable
        parts[name] = np.where(known.reshape(*known.shape, *[1] * (value.ndim - 3)), value, np.nan).astype(np.float32)
    return parts
