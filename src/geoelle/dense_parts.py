"""Score the patches of a part as its probe says: what to read of them, and windows of chips put together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from geoelle.chips import Chips
from geoelle.dense import PatchScores
from geoelle.embed import Readers, score_patches
from geoelle.embeddings import Embeddings
from geoelle.models import Model
from geoelle.probe import Probe

__all__ = ["readers_of", "scored_patches"]


def readers_of(probe: Probe, twin: Model | None = None, *, keeps: bool = False, loss: bool = False) -> Readers:
    """Return what a probe reads of patches; of the untrained twin as well, where it is given and the probe knows it."""
    return Readers(
        difficulty=probe.embedding, pixels=probe.pixels,
        dissimilarity=None if probe.reach is None else probe.reach.dissimilarity, keeps=keeps, loss=loss,
        twin=None if twin is None or probe.twin is None else (twin, probe.twin),
    )  # fmt: skip


def scored_patches(
    cuts: Iterable[Chips], model: Model, readers: Readers, probe: Probe, *, precision: str = "fp32"
) -> tuple[Embeddings, PatchScores]:
    """Score the patches of several cuts of one lattice as one table, beside that of their chips.

    Raises: as `score_patches`.
    """
    pieces = [score_patches(chips, model, readers, precision=precision) for chips in cuts]
    first, *rest = (table for table, _, _ in pieces)
    table, linear_nhw = first.concat(*rest), np.concatenate([linear for _, linear, _ in pieces])
    middle = {name: np.concatenate([each[name] for *_, each in pieces]) for name in pieces[0][2]}
    return table, PatchScores.of(table, linear_nhw, middle, patch_px=model.card.patch_px, probe=probe)
