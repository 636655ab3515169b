"""geoelle: map where a geospatial foundation model finds the ground hard, from a bbox and dates.

    Area --read--> Chips --embed--> Embeddings --fit--> Probe --paint--> Raster

Names are loaded when first used: `import geoelle` imports neither torch nor rasterio nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "Address": "area",
    "Addresses": "area",
    "Area": "area",
    "Band": "chips",
    "Card": "models",
    "Chips": "chips",
    "Embeddings": "embeddings",
    "FitJob": "fitting",
    "GeoelleError": "errors",
    "Job": "plan",
    "KNNDM": "knndm",
    "Lattice": "area",
    "PlaceKFold": "holdout",
    "Plan": "plan",
    "Probe": "probe",
    "RidgeProbe": "probe",
    "RidgeProbeCV": "probe",
    "Sensor": "chips",
    "SpatialKFold": "holdout",
    "cut": "read",
    "embed_chips": "embed",
    "fit_probe": "probe",
    "fit_runs": "fitting",
    "fit_trust": "trust",
    "list_models": "models",
    "load_model": "models",
    "make_plan": "plan",
    "paint": "raster",
    "rank_run": "rank",
    "read_window": "read",
    "run_embed": "run",
    "run_map": "products",
    "search": "catalog",
    "write_cog": "raster",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'geoelle' has no attribute {name!r}")
    return getattr(importlib.import_module(f"geoelle.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
