"""Find a foundation model by name: a literal table, plus the entry points `geoelle.models` of other packages."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from types import ModuleType

from geoelle.errors import UnknownModel
from geoelle.models.base import Card, Loss, Model, Tokens

__all__ = ["MODELS", "Card", "Loss", "Model", "Tokens", "list_models", "load_model", "model_card", "module_of"]

MODELS = {
    "nano": "geoelle.models.nano",
    "galileo.base": "geoelle.models.galileo",
    "galileo.nano": "geoelle.models.galileo",
    "galileo.tiny": "geoelle.models.galileo",
    "presto": "geoelle.models.presto",
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

    `weights`: None for the published weights, a path to a local file, or `untrained` for a twin whose weights are
    drawn from `seed` (the null of every fit).

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
