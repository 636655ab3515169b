"""Embed the places of the data cards with their losses and nulls: the sample behind probes and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import nano_data
from geoelle.chips import Chips
from geoelle.embed import embed_chips, embed_patches, space_of
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
UNKNOWN = np.datetime64("2020-07-01", "s")
"""What stands for the date of a file that gives none, where a model cannot do without."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A sample with the place, source and level of every chip, and the table each file gave."""

    sample: Sample
    places_n: np.ndarray
    sources_n: np.ndarray
    levels_n: np.ndarray
    tables: tuple[Embeddings, ...]


def labelled(
    imagery: Path,
    sets: tuple[str, ...],
    model: Model,
    bands: tuple[str, ...] = BANDS,
    cap: int = CAP,
    cache: Path | None = None,
    dense: bool = False,
) -> Labelled:
    """Embed every file of the sets named that has all of `bands`, restricted to them.

    `cache` is a folder that keeps the table of each file; one of another space is made again. With `dense` the rows are
    patches, a few of each chip, as `geoelle embed --dense` draws them.
    """
    twins = {f"twin{seed}": load_model(model.card.name, "untrained", seed=seed) for seed in range(TWINS)}
    tables, labels = [], []
    for scene in scenes_of(imagery, sets, bands):
        stem = f"{scene.place}-{Path(scene.path).stem}-{cap}" + "-patches" * dense
        kept = None if cache is None else cache / f"{stem}.parquet"
        table = _kept(kept, model, bands, dense)
        if table is None:
            chips = chips_of(scene, model, bands, cap)
            if dense:
                table = embed_patches(chips, model, loss=True, twins=twins)[1]
            else:
                table = embed_chips(chips, model, loss=True, twins=twins)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                table.write(kept)
        tables.append(table)
        labels += [(scene.place, scene.source, scene.level)] * len(table)
    places, sources, levels = (np.array(column) for column in zip(*labels, strict=True))
    return Labelled(
        sample=Sample.of(tables, sources=levels.tolist()),
        places_n=places,
        sources_n=sources,
        levels_n=levels,
        tables=tuple(tables),
    )


def scenes_of(imagery: Path, sets: tuple[str, ...], bands: tuple[str, ...]) -> Iterator[nano_data.Scene]:
    """Yield the files of the sets that have these bands, in the order of the rows of `labelled`."""
    for name in sets:
        for scene in nano_data.load(imagery, name):
            if set(bands) <= set(scene.bands) and (name == "radar" or scene.bands == BANDS):
                yield scene


def chips_of(scene: nano_data.Scene, model: Model, bands: tuple[str, ...], cap: int) -> Chips:
    """Return the chips of a file that `labelled` embeds, in its order."""
    chips = scene.addressed(cap=cap, size=model.card.chip_px).select_bands(bands)
    if "time" in model.card.needs and np.isnat(scene.date):
        return replace(chips, times_bt=np.full_like(chips.times_bt, UNKNOWN))
    return chips


def _kept(path: Path | None, model: Model, bands: tuple[str, ...], dense: bool) -> Embeddings | None:
    if path is None or not path.is_file():
        return None
    table = Embeddings.read(path)
    return table if table.header.space == space_of(model, bands, dense=dense) else None
