"""Turn chips into embeddings: batches, missing pixels, pooling, and the loss over fixed masks.

These rules live here once, so that every model obeys them: a chip under 90% valid pixels is invalid; missing pixels are
filled with the chip's band mean; patches under 50% valid leave pooling and loss; each loss is the mean over `draws`
masks of each of two independent permutations seeded by the chip's address.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from typing import TypeVar

import numpy as np
import torch

from geoelle import complexity
from geoelle.chips import Chips
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import CapabilityError, InputMismatch
from geoelle.models.base import Card, Loss, Model
from geoelle.models.masks import hidden_count, hidden_patches, permutations, seeds_of, visible_patches

__all__ = ["BATCH", "DRAWS", "PATCH_VALID", "embed_chips", "patch_losses", "space_of"]

T = TypeVar("T")

BATCH = 32
"""Chips through the encoder at once: what a core keeps in its cache. With eight times as many it is a third slower."""
DRAWS = 4
PATCH_VALID = 0.5
PERMUTATIONS = 2
ANY_TIME = np.datetime64("2020-07-01", "s")


def space_of(model: Model, bands: tuple[str, ...], frames: int = 1) -> dict[str, str]:
    """Return what must agree before two numbers may be compared: model, weights, bands, pooling, target, masking.

    Of several frames each, chips are hidden frame by frame where the model masks so: their count is part of it.
    """
    card = model.card
    return {
        "model": card.name,
        "weights_sha256": model.weights_sha256,
        "bands": " ".join(bands),
        "pooling": "mean of valid patch tokens",
        "target": f"{card.target}:{card.objective}",
        "masking": f"{card.mask_ratio:g} of {_extent(card, frames)}, {DRAWS} draws of {PERMUTATIONS} permutations, "
        "splitmix64",
    }


def _extent(card: Card, frames: int) -> str:
    """Return what the mask runs over: "8x8", or "2 frames x groups x 8x8" where those are hidden one by one too."""
    sizes = {"t": f"{frames} frame{'s' * (frames > 1)}", "g": "groups", "h": f"{card.grid}x{card.grid}"}
    return " x ".join(sizes[axis] for axis in card.mask_axes if axis in sizes)


def embed_chips(
    chips: Chips,
    model: Model,
    *,
    loss: bool = False,
    twins: Mapping[str, Model] | None = None,
    batch: int = BATCH,
    precision: str = "fp32",
) -> Embeddings:
    """Embed chips, and with `loss` compute the model's pretraining loss on each.

    `twins` are untrained models embedded on the same pixels (nulls of a fit). Invalid chips keep their row with NaN
    vectors. `precision` is `fp32`, `bf16` or `fp16` (autocast). Rows do not depend on `batch` beyond rounding, nor on
    the count of cores at all.

    Raises: InputMismatch, CapabilityError (a loss is asked of a model that has none).
    """
    if not len(chips):
        raise InputMismatch("there are no chips to embed; select an area that holds some")
    if loss and model.card.target != "loss":
        other = model.card.target
        told = "nor a proxy" if other == "none" else f"only the proxy {other}, which model.proxy(chips) gives in Python"
        raise CapabilityError(f"{model.card.name} has no true loss with these weights, {told}; embed without --loss")
    model.card.check(chips)
    parts = _each_batch(lambda part: _embed_batch(part, model, loss, twins or {}, precision), chips, batch)
    columns = {name: _stack([p[name] for p in parts]) for name in parts[0] if name != "twins"}
    return Embeddings(
        addresses=chips.addresses,
        valid_n=chips.valid_b,
        valid_fraction_n=chips.valid_fraction_b,
        times_n=chips.times_bt[:, 0],
        items_n=[";".join(i) for i in chips.items],
        twins={name: np.concatenate([p["twins"][name] for p in parts]) for name in parts[0]["twins"]},
        header=Header(
            space=space_of(model, chips.bands, chips.shape[1]),
            sensor=chips.sensor,
            bands=chips.bands,
            feature_names=complexity.feature_names(chips.bands),
            versions={"geoelle": version("geoelle"), "torch": torch.__version__.split("+")[0]},
        ),
        **columns,
    )


def patch_losses(chips: Chips, model: Model, batch: int = BATCH) -> np.ndarray:
    """Return float32 (n, h, w): the loss of each patch, mean over every mask that hides it; NaN where unusable."""

    def mean_errors(part: Chips) -> np.ndarray:
        filled, usable = _fill(part, model.card.patch_px)
        errors = np.stack([loss.error_bhw.float().cpu().numpy() for _, loss in _draws(filled, model)])
        mean = np.where(usable, np.nanmean(errors, axis=0), np.nan)
        return np.where(part.valid_b[:, None, None], mean, np.nan).astype(np.float32)

    return np.concatenate(_each_batch(mean_errors, chips, batch))


def _each_batch(work: Callable[[Chips], T], chips: Chips, batch: int) -> list[T]:
    """Do the work on every batch, on as many threads as torch has, each of them on one batch and one core.

    torch's own way, all cores on one operation, waits hundreds of times a batch for the last core: where a core does
    something else too, that is up to ten times slower. Numbers do not depend on the count of cores this way. On a GPU
    convolutions keep single precision, which cuDNN gives up by default, and the order of their sums.
    """
    threads = torch.get_num_threads()
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with exact, ThreadPoolExecutor(threads, "embed", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(work, (chips[i : i + batch] for i in range(0, len(chips), batch))))
        finally:
            torch.set_num_threads(threads)  # threads to come begin with what any thread set last


def _embed_batch(
    chips: Chips, model: Model, loss: bool, twins: Mapping[str, Model], precision: str
) -> dict[str, np.ndarray | dict[str, np.ndarray] | None]:
    filled, usable = _fill(chips, model.card.patch_px)
    invalid = ~chips.valid_b
    row: dict[str, np.ndarray | dict[str, np.ndarray] | None] = {
        "vectors_nd": _pool(filled, model, usable, invalid, precision),
        "features_nf": _blank(complexity.features(filled.pixels_btcyx, chips.bands).astype(np.float32), invalid),
        "twins": {name: _pool(filled, twin, usable, invalid, precision) for name, twin in twins.items()},
        "loss_n": None,
        "loss_sd_n": None,
        "loss_rel_n2": None,
    }
    if loss:
        streams, losses = zip(*_draws(filled, model), strict=True)
        draws_kn = np.stack([_total(loss, usable, model.card.additive) for loss in losses])
        rel = np.stack([draws_kn[np.array(streams) == s].mean(axis=0) for s in range(PERMUTATIONS)], axis=1)
        row["loss_rel_n2"] = _blank(rel, invalid)
        row["loss_n"] = _blank(rel.mean(axis=1), invalid)
        row["loss_sd_n"] = _blank(draws_kn.std(axis=0, ddof=1), invalid)
    return row


def _fill(chips: Chips, patch: int) -> tuple[Chips, np.ndarray]:
    """Return chips without NaN, and bool (b, h, w): patches with at least half of their pixels valid.

    A frame without an item has no time. Its chip is invalid, and gets a time that models which need one can take: its
    row stays NaN all the same.
    """
    pixels = chips.pixels_btcyx
    finite = np.isfinite(pixels)
    b, _, _, height, width = pixels.shape
    per_patch = finite.all(axis=(1, 2)).reshape(b, height // patch, patch, width // patch, patch).mean(axis=(2, 4))
    if finite.all():
        return chips, per_patch >= PATCH_VALID
    count = np.maximum(finite.sum(axis=(3, 4), keepdims=True), 1)
    mean = np.where(finite, pixels, 0).sum(axis=(3, 4), keepdims=True) / count
    times = np.where(np.isnat(chips.times_bt) & ~chips.valid_b[:, None], ANY_TIME, chips.times_bt)
    filled = replace(chips, pixels_btcyx=np.where(finite, pixels, mean).astype(np.float32), times_bt=times)
    return filled, per_patch >= PATCH_VALID


def _pool(chips: Chips, model: Model, usable: np.ndarray, invalid: np.ndarray, precision: str) -> np.ndarray:
    """Return float32 (b, d): the mean of the usable patch tokens."""
    with _autocast(precision):
        tokens = model.encode(chips).patch_bhwd.float()
    weight = torch.from_numpy(usable).to(tokens)[..., None]
    pooled = (tokens * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)
    return _blank(pooled.cpu().numpy(), invalid)


def _autocast(precision: str) -> contextlib.ExitStack:
    """Return arithmetic in `bf16` or `fp16` wherever the model may lie; none of it for `fp32`."""
    stack = contextlib.ExitStack()
    if half := {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision):
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, half))
    return stack


def _draws(chips: Chips, model: Model) -> Iterator[tuple[int, Loss]]:
    """Yield (permutation, loss) for every mask drawn."""
    shape, names = model.card.mask_shape(chips), chips.addresses.strings()
    tokens = math.prod(shape)
    hidden = hidden_count(tokens, model.card.mask_ratio)
    seen = model.card.visible_ratio and max(int(tokens * model.card.visible_ratio), 1)
    for stream in range(PERMUTATIONS):
        order = permutations(seeds_of(names, stream), tokens)
        for draw in range(DRAWS):
            mask = hidden_patches(order, hidden, draw, DRAWS).reshape(len(chips), *shape)
            if seen is None:
                yield stream, model.loss(chips, mask)
            else:
                visible = visible_patches(order, hidden, seen, draw, DRAWS).reshape(mask.shape)
                yield stream, model.loss(chips, mask, visible)


def _total(loss: Loss, usable_bhw: np.ndarray, additive: bool) -> np.ndarray:
    """Return (b,): the objective. Where it is a mean of token errors, every hidden and usable token weighs the same."""
    if not additive:
        return loss.total_b.float().cpu().numpy()
    error = loss.error.float().cpu().numpy()
    usable = usable_bhw.reshape(len(error), *[1] * (error.ndim - 3), *usable_bhw.shape[1:])
    return _mean(np.where(usable, error, np.nan).reshape(len(error), -1))


def _mean(values_bn: np.ndarray) -> np.ndarray:
    """Return the mean over the finite values of each row, NaN for a row without any."""
    finite = np.isfinite(values_bn)
    total = np.where(finite, values_bn, 0).sum(axis=1)
    return np.where(finite.any(axis=1), total / np.maximum(finite.sum(axis=1), 1), np.nan)


def _blank(values: np.ndarray, invalid: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values[invalid] = np.nan
    return values


def _stack(values: list[np.ndarray | None]) -> np.ndarray | None:
    return None if values[0] is None else np.concatenate(values)
