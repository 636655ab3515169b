"""Embed the places of docs/nano-data.json with their losses and nulls: the sample behind probes and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import nano_data
from geoelle.embed import embed_chips
from geoelle.embeddings import Embeddings
from geoelle.models import Model, load_model
from geoelle.models.nano import BANDS
from geoelle.sample import Sample

TWINS = 3
CAP = 128
"""Chips a file at most, so that no place outweighs the others."""
BAND_SETS = {
    "10": BANDS,
    "6": ("blue", "green", "red", "nir", "nir08", "swir16"),
    "4": ("blue", "green", "red", "nir"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A sample with the place, source and level of every chip, and the table each file gave."""

    sample: Sample
    places_n: np.ndarray
    sources_n: np.ndarray
    levels_n: np.ndarray
    tables: tuple[Embeddings, ...]


def labelled(
    imagery: Path, sets: tuple[str, ...], model: Model, bands: tuple[str, ...] = BANDS, cap: int = CAP
) -> Labelled:
    """Embed every 10-band file of the sets named, restricted to `bands`."""
    twins = {f"twin{seed}": load_model(model.card.name, "untrained", seed=seed) for seed in range(TWINS)}
    tables, labels = [], []
    for name in sets:
        for scene in nano_data.load(imagery, name):
            if scene.bands != BANDS:
                continue
            chips = scene.addressed(cap=cap).select_bands(bands)
            tables.append(embed_chips(chips, model, loss=True, twins=twins))
            labels += [(scene.place, scene.source, scene.level)] * len(chips)
    places, sources, levels = (np.array(column) for column in zip(*labels, strict=True))
    return Labelled(
        sample=Sample.of(tables, sources=levels.tolist()),
        places_n=places,
        sources_n=sources,
        levels_n=levels,
        tables=tuple(tables),
    )
