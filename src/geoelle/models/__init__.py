"""Find a foundation model by name: a literal table, plus the entry points `geoelle.models` of other packages."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from types import ModuleType

from geoelle.errors import UnknownModel
from geoelle.models.base import Card, Loss, Model, Tokens
from geoelle.models.weights import Remote

__all__ = [
    "MODELS",
    "Card",
    "Loss",
    "Model",
    "Remote",
    "Tokens",
    "list_models",
    "load_model",
    "model_card",
    "module_of",
]

MODELS = {
    "nano": "geoelle.models.nano",
    "clay.v1.5": "geoelle.models.clay",
    "dinov2.base": "geoelle.models.dino",
    "dinov3.sat-large": "geoelle.models.dino",
    "dofa.v1-base": "geoelle.models.dofa",
    "dofa.v1-large": "geoelle.models.dofa",
    "fgmae.s2-base": "geoelle.models.fgmae",
    "galileo.base": "geoelle.models.galileo",
    "galileo.nano": "geoelle.models.galileo",
    "galileo.tiny": "geoelle.models.galileo",
    "olmoearth.v1-base": "geoelle.models.olmoearth",
    "olmoearth.v1-large": "geoelle.models.olmoearth",
    "olmoearth.v1-nano": "geoelle.models.olmoearth",
    "olmoearth.v1-tiny": "geoelle.models.olmoearth",
    "presto": "geoelle.models.presto",
    "prithvi.v1-100m": "geoelle.models.prithvi",
    "prithvi.v2-100m-tl": "geoelle.models.prithvi",
    "prithvi.v2-300m": "geoelle.models.prithvi",
    "prithvi.v2-300m-tl": "geoelle.models.prithvi",
    "prithvi.v2-600m": "geoelle.models.prithvi",
    "prithvi.v2-600m-tl": "geoelle.models.prithvi",
    "prithvi.v2-tiny-tl": "geoelle.models.prithvi",
    "remoteclip.vit-l-14": "geoelle.models.remoteclip",
    "satclip.vit16-l40": "geoelle.models.satclip",
    "satmae.base": "geoelle.models.satmae",
    "satmae.large": "geoelle.models.satmae",
    "scalemae.large": "geoelle.models.scalemae",
    "vitmae.base": "geoelle.models.vitmae",
}
"""Name -> module with `CARDS` (name -> card) and `load(name, weights, seed=...)`."""


def list_models() -> list[str]:
    """Return every known model name, sorted."""
    return sorted({*MODELS, *(e.name for e in entry_points(group="geoelle.models"))})


def model_card(name: str) -> Card:
    """Return the card of a model without loading its weights.

    Raises: UnknownModel.
    """
    return module_of(name).CARDS[name]


def load_model(name: str, weights: str | None = None, *, seed: int = 0, device: str = "cpu") -> Model:
    """Return a model ready for inference.

    `weights`: None for the published weights in the user's cache, a path to a local file or folder, or `untrained` for
    a twin whose weights are drawn from `seed` (the null of every fit).

    Raises: UnknownModel, WeightsError.
    """
    return module_of(name).load(name, weights, seed=seed).to(device)


def module_of(name: str) -> ModuleType:
    """Return the module (or object) behind a name.

    Raises: UnknownModel.
    """
    if name in MODELS:
        return importlib.import_module(MODELS[name])
    for entry in entry_points(group="geoelle.models", name=name):
        return entry.load()
    close = difflib.get_close_matches(name, list_models(), 1)
    hint = f"did you mean {close[0]}?" if close else f"known models: {', '.join(list_models())}"
    raise UnknownModel(f"no model named {name!r}; {hint}")
