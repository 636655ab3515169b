"""Say which models are evaluated, on which imagery and places, and gather their samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import nano_samples
from geoelle.models import Model, load_model
from geoelle.models.nano import BANDS
from geoelle.sample import Sample
from nano_data import RADAR
from nano_samples import Labelled

CAP = 64
"""Chips a file at most, so that no place outweighs the others."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model on one kind of imagery: `sets` are those of the data cards whose places the model has not seen."""

    key: str
    title: str
    model: str
    bands: tuple[str, ...]
    sets: tuple[str, ...]
    note: str
    cap: int = CAP
    dense: bool = False

    def load(self, weights: Path | None) -> Model:
        return load_model(self.model) if weights is None else load_model(self.model, str(weights))

    def gather(self, imagery: Path, weights: Path | None, cache: Path | None) -> Labelled:
        folder = None if cache is None else cache / self.key
        return nano_samples.labelled(imagery, self.sets, self.load(weights), self.bands, self.cap, folder, dense=self.dense)


EVERY = ("pretrain", "fit", "test")
UNDATED = "Files without a date are given 1 July 2020."
CASES = (
    Case(
        key="nano",
        title="nano",
        model="nano",
        bands=BANDS,
        sets=("fit", "test"),
        note="The `fit` and `test` places of docs/nano-data.json; nano was pretrained on neither.",
    ),
    Case(
        key="nano-patches",
        title="nano, patches (--dense)",
        model="nano",
        bands=BANDS,
        sets=("fit", "test"),
        note="The same places, four patches of each chip: a row is a patch, its vector a token that saw its neighbours.",
        dense=True,
    ),
    Case(
        key="galileo-s2",
        title="Galileo nano, Sentinel-2",
        model="galileo.nano",
        bands=BANDS,
        sets=EVERY,
        note=f"Published weights; every 10-band place of docs/nano-data.json. {UNDATED}",
    ),
    Case(
        key="galileo-s1",
        title="Galileo nano, Sentinel-1 alone",
        model="galileo.nano",
        bands=RADAR,
        sets=("radar",),
        note=f"Published weights; the places of docs/radar-data.json. {UNDATED}",
    ),
    Case(
        key="presto",
        title="Presto, one date of Sentinel-2",
        model="presto",
        bands=BANDS,
        sets=EVERY,
        note="Published weights; every 10-band place, one frame where Presto was trained on twelve, at most 12 chips a "
        f"file (every pixel is a series: slow without a GPU). {UNDATED}",
        cap=12,
    ),
)


def joined(*parts: Labelled) -> Labelled:
    """Put labelled samples of one space together."""
    tables = tuple(table for part in parts for table in part.tables)
    levels = np.concatenate([part.levels_n for part in parts])
    return Labelled(
        sample=Sample.of(tables, sources=levels.tolist()),
        tables=tables,
        levels_n=levels,
        places_n=np.concatenate([part.places_n for part in parts]),
        sources_n=np.concatenate([part.sources_n for part in parts]),
    )


def rows_of(found: Labelled, keep_n: np.ndarray) -> Labelled:
    """Return some chips of a sample, without the tables they came from."""
    return Labelled(
        sample=found.sample.at(keep_n),
        tables=(),
        levels_n=found.levels_n[keep_n],
        places_n=found.places_n[keep_n],
        sources_n=found.sources_n[keep_n],
    )
