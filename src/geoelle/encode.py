"""What a model makes of a batch of chips: its tokens, which patches are usable, and its loss under every mask.

The rules live here once, so that every model obeys them: missing pixels are filled with the chip's band mean; a patch
under 50% valid pixels is not usable; the loss is taken under `DRAWS` masks of each of two independent permutations,
seeded by the chip's address. Threads, precision and batches change no number beyond rounding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from geoelle.chips import Chips
from geoelle.models.base import Card, Loss, Model
from geoelle.models.masks import hidden_count, hidden_patches, permutations, seeds_of, visible_patches

__all__ = ["BATCH", "DRAWS", "PATCH_VALID", "PERMUTATIONS", "Seen", "each_batch", "errors_of", "see"]

T = TypeVar("T")

BATCH = 32
"""Chips through the encoder at once: what a core keeps in its cache. With eight times as many it is a third slower."""
DRAWS = 4
PATCH_VALID = 0.5
PERMUTATIONS = 2
ANY_TIME = np.datetime64("2020-07-01", "s")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What a model made of a batch: tokens of it and of its twins, and (permutation, loss) of every mask, or none.

    `chips` are without NaN; `valid_b` says which are valid. `share_bhw` is how much of each patch is valid, 0-1.
    """

    chips: Chips
    card: Card
    valid_b: np.ndarray
    share_bhw: np.ndarray
    tokens_bhwd: torch.Tensor
    twins: Mapping[str, torch.Tensor]
    losses: Sequence[tuple[int, Loss]]

    @property
    def half_bhw(self) -> np.ndarray:
        """Mark the patches that are at least half valid, bool, in chips of any kind."""
        return self.share_bhw >= PATCH_VALID

    @property
    def usable_bhw(self) -> np.ndarray:
        """Mark those of them whose chip is valid."""
        return self.half_bhw & self.valid_b[:, None, None]


def see(chips: Chips, model: Model, loss: bool, twins: Mapping[str, Model], precision: str) -> Seen:
    """Encode a batch, and with `loss` take its loss under every mask; `precision` is of the tokens alone."""
    filled, share = _fill(chips, model.card.patch_px)
    return Seen(
        chips=filled,
        card=model.card,
        valid_b=chips.valid_b,
        share_bhw=share,
        tokens_bhwd=_tokens(filled, model, precision),
        twins={name: _tokens(filled, twin, precision) for name, twin in twins.items()},
        losses=list(_draws(filled, model)) if loss else (),
    )


def each_batch(work: Callable[[Chips], T], chips: Chips, batch: int) -> list[T]:
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


def errors_of(loss: Loss) -> np.ndarray:
    """Return (b, h, w): the mean error of what is hidden at each patch, NaN where nothing is."""
    return loss.error_bhw.float().cpu().numpy()


def _fill(chips: Chips, patch: int) -> tuple[Chips, np.ndarray]:
    """Return chips without NaN, and float (b, h, w): the share of the pixels of each patch that are valid.

    A frame without an item has no time. Its chip is invalid, and gets a time that models which need one can take: its
    row stays NaN all the same.
    """
    pixels = chips.pixels_btcyx
    finite = np.isfinite(pixels)
    b, _, _, height, width = pixels.shape
    per_patch = finite.all(axis=(1, 2)).reshape(b, height // patch, patch, width // patch, patch).mean(axis=(2, 4))
    if finite.all():
        return chips, per_patch
    count = np.maximum(finite.sum(axis=(3, 4), keepdims=True), 1)
    mean = np.where(finite, pixels, 0).sum(axis=(3, 4), keepdims=True) / count
    times = np.where(np.isnat(chips.times_bt) & ~chips.valid_b[:, None], ANY_TIME, chips.times_bt)
    filled = replace(chips, pixels_btcyx=np.where(finite, pixels, mean).astype(np.float32), times_bt=times)
    return filled, per_patch


def _tokens(chips: Chips, model: Model, precision: str) -> torch.Tensor:
    with _autocast(precision):
        return model.encode(chips).patch_bhwd.float()


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
