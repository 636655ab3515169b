"""Gather what the candidates of docs/protocol.md are fitted to: the chips of one model, embedded and pooled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import nano_samples
from geoelle.models import Model, load_model
from improve_fits import Fold, Labels
from improve_pools import Pools, pools_of

CAP = {"nano": 64, "galileo.nano": 64, "presto": 12}
"""Chips a file at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The chips of one model: labels, and the pooled tokens of the network and of its twins."""

    labels: Labels
    pools: Pools
    twins: Sequence[Pools]
    chips_of_set: Mapping[str, int]

    def last_set_held_out(self) -> Fold:
        """Return the one fold of a confirmation: all sets but the last, and the last."""
        *known, held_out = self.chips_of_set.values()
        return np.arange(sum(known)), np.arange(sum(known), sum(known) + held_out)


def material_of(imagery: Path, sets: tuple[str, ...], model: Model, kept: Path | None, *, pooled: bool) -> Material:
    """Embed the places of these sets, or take them from the cache."""
    cap = CAP[model.card.name]
    parts = [nano_samples.labelled(imagery, (name,), model, cap=cap, cache=kept) for name in sets]
    samples = [part.sample for part in parts]
    vectors = np.concatenate([s.vectors_nd for s in samples])
    twin_vectors = [np.concatenate([s.twins[t] for s in samples]) for t in samples[0].twins]
    pools: list[Pools] = [{"mean": v} for v in (vectors, *twin_vectors)]
    if pooled:
        twins = [load_model(model.card.name, "untrained", seed=seed) for seed in range(nano_samples.TWINS)]
        pools = [
            _joined([pools_of(network, imagery, (name,), cap, kept, mean[rows]) for name, rows in _rows_of(sets, samples)])
            for network, mean in zip((model, *twins), (vectors, *twin_vectors), strict=True)
        ]  # fmt: skip
    levels = np.concatenate([part.levels_n for part in parts])
    sources = np.concatenate([part.sources_n for part in parts])
    labels = Labels(
        loss_n=np.concatenate([s.loss_n for s in samples]).astype(np.float64),
        places_n=np.concatenate([part.places_n for part in parts]),
        levels_n=levels,
        sources_n=np.array([f"{source}, {level}" for source, level in zip(sources, levels, strict=True)]),
        features_nf=np.concatenate([s.features_nf for s in samples]),
    )
    counts = {name: len(s.loss_n) for name, s in zip(sets, samples, strict=True)}
    return Material(labels=labels, pools=pools[0], twins=pools[1:], chips_of_set=counts)


def _rows_of(sets: Sequence[str], samples: Sequence[nano_samples.Sample]) -> Iterator[tuple[str, slice]]:
    start = 0
    for name, sample in zip(sets, samples, strict=True):
        yield name, slice(start, start := start + len(sample.loss_n))


def _joined(parts: Sequence[Pools]) -> Pools:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
