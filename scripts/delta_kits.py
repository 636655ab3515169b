"""Find or fit the probes that the evaluation of a series needs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from delta_nulls import Kit
from delta_seen import TWIN, Reader
from geoelle.embed import embed_chips, embed_patches, space_of
from geoelle.embeddings import Embeddings
from geoelle.holdout import PlaceKFold
from geoelle.models import Model, load_model
from geoelle.probe import Probe, fit_probe, with_twin
from geoelle.sample import Sample
from geoelle.shipped import probe_of_space
from nano_samples import chips_of, scenes_of

CAP = 32
"""Chips a file at most, for the probes that are fitted here."""
FOLDS = 5
OTHER_BANDS = ("blue", "green", "red", "nir", "nir08")
"""Of the forest, those that other models read: the groups of Galileo need both short-wave infrared bands, or neither."""


def nano_kit(bands: tuple[str, ...], unit: str) -> tuple[Reader, Kit]:
    """Return nano with the probe that ships."""
    model, twin = load_model("nano"), load_model("nano", "untrained", seed=0)
    probe = probe_of_space(space_of(model, bands, dense=unit == "patches"))
    return Reader(model=model, twin=twin, loss=True, bands=bands), Kit(probe=probe, bands=bands)


def other_kit(
    name: str, weights: str, bands: tuple[str, ...], unit: str, imagery: Path, cache: Path | None
) -> tuple[Reader, Kit]:
    """Return another model, its probe and the map of its untrained twin fitted here on the `fit` places of nano's card."""
    model, twin, dense = load_model(name, weights), load_model(name, "untrained", seed=0), unit == "patches"
    sample, places_n = _sample(imagery, model, bands, dense, twin, cache)
    probe = with_twin(
        fitted_probe(sample, places_n, model, bands, dense=dense), sample.twins[TWIN].astype(np.float64), sample.loss_n,
        groups=places_n, cv=PlaceKFold(FOLDS),
    )  # fmt: skip
    return Reader(model=model, twin=twin, loss=True, bands=bands), Kit(probe=probe, bands=bands)


def fitted_probe(
    sample: Sample, places_n: np.ndarray, model: Model, bands: tuple[str, ...], *, dense: bool = True
) -> Probe:
    """Fit a probe of log-loss and its pixel part; strengths are chosen on places held out."""
    cv = PlaceKFold(min(FOLDS, len(np.unique(places_n))))
    return fit_probe(
        sample.vectors_nd.astype(np.float64), sample.loss_n, groups=places_n, space=space_of(model, bands, dense=dense),
        scale="log", cv=cv, features=(sample.features_nf.astype(np.float64), sample.feature_names),
    )  # fmt: skip


def _sample(
    imagery: Path, model: Model, bands: tuple[str, ...], dense: bool, twin: Model, cache: Path | None
) -> tuple[Sample, np.ndarray]:
    """Gather the chips, or drawn patches, of the `fit` places, and the place of each row."""
    space = space_of(model, bands, dense=dense)
    told = hashlib.sha256(f"{space} {twin.weights_sha256} {CAP}".encode()).hexdigest()[:12]
    tables, places = [], []
    for scene in scenes_of(imagery, ("fit",), bands):
        path = None if cache is None else cache / f"fit-{told}" / f"{Path(scene.path).stem}.parquet"
        if path is not None and path.is_file():
            table = Embeddings.read(path)
        else:
            chips = chips_of(scene, model, bands, CAP)
            embed = (lambda *a, **k: embed_patches(*a, **k)[1]) if dense else embed_chips
            table = embed(chips, model, loss=True, twins={TWIN: twin})
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                table.write(path)
        tables.append(table)
        places += [scene.place] * len(table)
    sample = Sample.of(tables)
    return sample.at(sample.usable_n), np.array(places)[sample.usable_n]
