"""Turn chips into embeddings, and their patches into a sample to fit a dense probe on, or into what such a probe says.

A chip under 90% valid pixels is invalid: its rows are NaN. Patches under 50% valid leave pooling and loss. Each loss is
the mean over the masks of `encode`, whose two independent permutations tell how far it can be relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from geoelle import complexity
from geoelle.chips import Chips
from geoelle.embeddings import Embeddings, Header
from geoelle.encode import BATCH, DRAWS, PERMUTATIONS, Seen, each_batch, errors_of, see
from geoelle.errors import CapabilityError, InputMismatch
from geoelle.models.base import Card, Loss, Model
from geoelle.patches import answering, drawn_patches, patch_means, patches_of, windows

__all__ = [
    "BATCH",
    "DRAWS",
    "PATCH_POOLING",
    "Readers",
    "embed_chips",
    "embed_patches",
    "patch_losses",
    "score_patches",
    "space_of",
]

Rows = dict[str, Any]
"""Columns of some rows of an `Embeddings`, by the name of its field."""

PATCH_POOLING = "none, each vector is a patch token"
"""The pooling of a space of patches."""


def space_of(model: Model, bands: tuple[str, ...], frames: int = 1, *, dense: bool = False) -> dict[str, str]:
    """Return what must agree before two numbers may be compared: model, weights, bands, pooling, target, masking.

    Of several frames each, chips are hidden frame by frame where the model masks so: their count is part of it. Patches
    (`dense`) are a space of their own: what is pooled and what is not do not compare.
    """
    card = model.card
    return {
        "model": card.name,
        "weights_sha256": model.weights_sha256,
        "bands": " ".join(bands),
        "pooling": PATCH_POOLING if dense else "mean of valid patch tokens",
        "target": f"{card.target}:{card.objective}",
        "masking": f"{card.mask_ratio:g} of {_extent(card, frames)}, {DRAWS} draws of {PERMUTATIONS} permutations, "
        "splitmix64",
    }


def _extent(card: Card, frames: int) -> str:
    """Return what the mask runs over: "8x8", or "2 frames x groups x 8x8" where those are hidden one by one too."""
    sizes = {"t": f"{frames} frame{'s' * (frames > 1)}", "g": "groups", "h": f"{card.grid}x{card.grid}"}
    return " x ".join(sizes[axis] for axis in card.mask_axes if axis in sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """What is read of patches: `difficulty`, `dissimilarity` from tokens, `pixels` from features of squares around.

    Each maps over the last axis. `keeps` keeps the tokens of the patches in the middle of chips, `twin` is an untrained
    model and what is read from its tokens, `loss` asks for the true loss.
    """

    difficulty: Callable[[np.ndarray], np.ndarray]
    pixels: Callable[[np.ndarray], np.ndarray]
    dissimilarity: Callable[[np.ndarray], np.ndarray] | None = None
    keeps: bool = False
    twin: tuple[Model, Callable[[np.ndarray], np.ndarray]] | None = None
    loss: bool = False


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
    _check(chips, model, loss)
    parts = each_batch(lambda part: _chip_rows(see(part, model, loss, twins or {}, precision)), chips, batch)
    return _chip_table(chips, model, parts)


def embed_patches(
    chips: Chips,
    model: Model,
    *,
    loss: bool = False,
    twins: Mapping[str, Model] | None = None,
    batch: int = BATCH,
    precision: str = "fp32",
) -> tuple[Embeddings, Embeddings]:
    """Embed chips, and beside them a few patches of each: both tables, of one look at the pixels.

    Patches are drawn by the address of their chip. The vector of one is its token, nothing masked; its loss is the mean
    over every mask that hides it; its features are those of the square around it. Rows of unusable patches are NaN.

    Raises: as `embed_chips`; AreaError (chips that do not share their patches).
    """
    _check(chips, model, loss)

    def both(part: Chips) -> tuple[Rows, Rows]:
        seen = see(part, model, loss, twins or {}, precision)
        return _chip_rows(seen), _patch_rows(seen)

    pairs = each_batch(both, chips, batch)
    return _chip_table(chips, model, [p for p, _ in pairs]), _patch_table(chips, model, [p for _, p in pairs])


def score_patches(
    chips: Chips, model: Model, readers: Readers, *, batch: int = BATCH, precision: str = "fp32"
) -> tuple[Embeddings, np.ndarray, dict[str, np.ndarray]]:
    """Embed chips and score every patch straight from its token.

    Returns the table of the chips, the difficulty of all patches, float32 (n, h, w), and of those in the middle of each
    chip, float32 (n, i, j, ...), `complexity`, `dissimilarity` (NaN where it is not read) and `means` of the bands;
    with `readers.keeps` the `token`, with a twin what is read from its token, `twin`, and with a loss that, `loss`. NaN
    where the chip or the patch is not valid.

    Raises: as `embed_chips`; AreaError.
    """
    _check(chips, model, readers.loss)
    patch_px = model.card.patch_px
    middle = (slice(None), *[answering(chips.addresses.lattice, patch_px)] * 2)
    twins = {} if readers.twin is None else {"twin": readers.twin[0]}

    def work(part: Chips) -> tuple[Rows, np.ndarray, dict[str, np.ndarray]]:
        seen = see(part, model, readers.loss, twins, precision)
        tokens_bhwd = seen.tokens_bhwd.cpu().numpy()
        scores_bhw = np.where(seen.usable_bhw, readers.difficulty(tokens_bhwd), np.nan)
        usable_bij = seen.usable_bhw[middle]
        at_ij = np.arange(seen.usable_bhw[0].size).reshape(seen.usable_bhw.shape[1:])[middle[1:]]
        squares = windows(seen.chips.pixels_btcyx, np.tile(at_ij.ravel(), (len(part), 1)), patch_px)
        found = {
            "complexity": readers.pixels(complexity.features(squares, part.bands)).reshape(usable_bij.shape),
            "dissimilarity": np.full(usable_bij.shape, np.nan),
            "means": patch_means(seen.chips.pixels_btcyx, patch_px)[middle],
        }
        if readers.dissimilarity is not None:
            found["dissimilarity"] = readers.dissimilarity(tokens_bhwd[middle])
        if readers.keeps:
            found["token"] = tokens_bhwd[middle]
        if readers.twin is not None:
            found["twin"] = readers.twin[1](seen.twins["twin"].cpu().numpy()[middle])
        if readers.loss:
            found["loss"] = np.nanmean(np.stack([errors_of(loss)[middle] for _, loss in seen.losses]), axis=0)
        blank = {name: _blank_patches(values, usable_bij) for name, values in found.items()}
        return _chip_rows(replace(seen, twins={}, losses=())), scores_bhw.astype(np.float32), blank

    rows, scores, found = zip(*each_batch(work, chips, batch), strict=True)
    middles = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    return _chip_table(chips, model, rows), np.concatenate(scores), middles


def _blank_patches(values: np.ndarray, usable_bij: np.ndarray) -> np.ndarray:
    usable = usable_bij.reshape(*usable_bij.shape, *[1] * (values.ndim - usable_bij.ndim))
    return np.where(usable, values, np.nan).astype(np.float32)


def patch_losses(chips: Chips, model: Model, batch: int = BATCH) -> np.ndarray:
    """Return float32 (n, h, w): the loss of each patch, mean over every mask that hides it; NaN where unusable."""

    def mean_errors(part: Chips) -> np.ndarray:
        seen = see(part, model, True, {}, "fp32")
        errors_kbhw = np.stack([errors_of(loss) for _, loss in seen.losses])
        return np.where(seen.usable_bhw, np.nanmean(errors_kbhw, axis=0), np.nan).astype(np.float32)

    return np.concatenate(each_batch(mean_errors, chips, batch))


def _check(chips: Chips, model: Model, loss: bool) -> None:
    if not len(chips):
        raise InputMismatch("there are no chips to embed; select an area that holds some")
    if loss and model.card.target != "loss":
        other = model.card.target
        told = "nor a proxy" if other == "none" else f"only the proxy {other}, which model.proxy(chips) gives in Python"
        raise CapabilityError(f"{model.card.name} has no true loss with these weights, {told}; embed without --loss")
    model.card.check(chips)


def _chip_rows(seen: Seen) -> Rows:
    usable, invalid = seen.half_bhw, ~seen.valid_b
    row: Rows = {
        "vectors_nd": _pool(seen.tokens_bhwd, usable, invalid),
        "features_nf": _blank(complexity.features(seen.chips.pixels_btcyx, seen.chips.bands), invalid),
        "twins": {name: _pool(tokens, usable, invalid) for name, tokens in seen.twins.items()},
        "loss_n": None,
        "loss_sd_n": None,
        "loss_rel_n2": None,
    }
    if seen.losses:
        streams, losses = zip(*seen.losses, strict=True)
        draws_kn = np.stack([_total(loss, usable, seen.card.additive) for loss in losses])
        rel = np.stack([draws_kn[np.array(streams) == s].mean(axis=0) for s in range(PERMUTATIONS)], axis=1)
        row["loss_rel_n2"] = _blank(rel, invalid)
        row["loss_n"] = _blank(rel.mean(axis=1), invalid)
        row["loss_sd_n"] = _blank(draws_kn.std(axis=0, ddof=1), invalid)
    return row


def _patch_rows(seen: Seen) -> Rows:
    """Return the columns of the patches drawn, (b * k, ...), chip by chip."""
    patch_px, grid = seen.card.patch_px, seen.card.grid
    drawn_bk = drawn_patches(seen.chips.addresses, grid * grid)
    chip_b1 = np.arange(len(drawn_bk))[:, None]

    def take(values_bhw: np.ndarray) -> np.ndarray:
        flat = values_bhw.reshape(len(drawn_bk), grid * grid, *values_bhw.shape[3:])[chip_b1, drawn_bk]
        return flat.reshape(-1, *flat.shape[2:])

    invalid = ~take(seen.usable_bhw)
    squares = windows(seen.chips.pixels_btcyx, drawn_bk, patch_px)
    row: Rows = {
        "vectors_nd": _blank(take(seen.tokens_bhwd.cpu().numpy()), invalid),
        "features_nf": _blank(complexity.features(squares, seen.chips.bands), invalid),
        "twins": {name: _blank(take(tokens.cpu().numpy()), invalid) for name, tokens in seen.twins.items()},
        "valid_n": ~invalid,
        "valid_fraction_n": take(seen.share_bhw),
        "drawn_n": drawn_bk.ravel(),
        "loss_n": None,
        "loss_sd_n": None,
        "loss_rel_n2": None,
    }
    if seen.losses:
        streams, losses = zip(*seen.losses, strict=True)
        draws_kn = np.stack([take(errors_of(loss)) for loss in losses])
        rel = np.stack([_mean(draws_kn[np.array(streams) == s].T) for s in range(PERMUTATIONS)], axis=1)
        row["loss_rel_n2"] = _blank(rel, invalid)
        row["loss_n"] = _blank(np.nanmean(draws_kn, axis=0), invalid)
        row["loss_sd_n"] = _blank(np.nanstd(draws_kn, axis=0, ddof=1), invalid)
    return row


def _chip_table(chips: Chips, model: Model, parts: Sequence[Rows]) -> Embeddings:
    return Embeddings(
        addresses=chips.addresses,
        valid_n=chips.valid_b,
        valid_fraction_n=chips.valid_fraction_b,
        times_n=chips.times_bt[:, 0],
        items_n=[";".join(i) for i in chips.items],
        header=_header(chips, model, dense=False),
        **_joined(parts),
    )


def _patch_table(chips: Chips, model: Model, parts: Sequence[Rows]) -> Embeddings:
    columns, card = _joined(parts), model.card
    drawn = columns.pop("drawn_n")
    each = len(drawn) // len(chips)
    chip = np.repeat(np.arange(len(chips)), each)
    return Embeddings(
        addresses=patches_of(chips.addresses, card.patch_px)[chip * card.grid**2 + drawn],
        times_n=chips.times_bt[chip, 0],
        items_n=[";".join(chips.items[i]) for i in chip],
        within_n2=np.stack(np.divmod(drawn, card.grid), axis=1),
        header=_header(chips, model, dense=True),
        **columns,
    )


def _header(chips: Chips, model: Model, *, dense: bool) -> Header:
    return Header(
        space=space_of(model, chips.bands, chips.shape[1], dense=dense),
        sensor=chips.sensor,
        bands=chips.bands,
        feature_names=complexity.feature_names(chips.bands),
        versions={"geoelle": version("geoelle"), "torch": torch.__version__.split("+")[0]},
    )


def _joined(parts: Sequence[Rows]) -> Rows:
    """Put the columns of batches one after the other; a column that is None stays None."""
    joined: Rows = {name: _stack([p[name] for p in parts]) for name in parts[0] if name != "twins"}
    joined["twins"] = {name: np.concatenate([p["twins"][name] for p in parts]) for name in parts[0]["twins"]}
    return joined


def _pool(tokens: torch.Tensor, usable: np.ndarray, invalid: np.ndarray) -> np.ndarray:
    """Return float32 (b, d): the mean of the usable patch tokens."""
    weight = torch.from_numpy(usable).to(tokens)[..., None]
    pooled = (tokens * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)
    return _blank(pooled.cpu().numpy(), invalid)


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
