"""Show once why the variance of patch tokens is no stand-in for the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import KFold

from geoelle.holdout import PlaceKFold
from geoelle.ridge import cross_predict
from improve_fits import FOLDS, Labels
from improve_pools import Pools

CONSTANT = 1e-4
"""Relative spread under which a target counts as constant: after a LayerNorm without training every token has variance 1."""


def proxy_rows(pools: Pools, twins: Sequence[Pools], labels: Labels) -> list[dict[str, object]]:
    """Read the patch-token variance of a network, and of its twins, on random folds and with places held out.

    Each row: whose variance, whose embedding, r on random folds, r of places held out, and the r of the variance with
    the true loss; None where the variance is constant.
    """
    own = pools["variance"][:, 0].astype(np.float64)
    cells = [("the trained network", "the trained network", [(pools["mean"], own)]),
             ("the trained network", "untrained twins", [(twin["mean"], own) for twin in twins]),
             ("each untrained twin", "itself", [(twin["mean"], twin["variance"][:, 0].astype(np.float64)) for twin in twins])]  # fmt: skip
    return [
        {"variance_of": of, "read_by": by}
        | {key: _mean([read(x_nd, y_n, labels)[key] for x_nd, y_n in pairs]) for key in ("random", "held_out", "with_loss")}
        for of, by, pairs in cells
    ]  # fmt: skip


def read(x_nd: np.ndarray, y_n: np.ndarray, labels: Labels) -> dict[str, float | None]:
    """Return r of a ridge on random folds and with places held out, and r of the target with the loss."""
    if y_n.std() <= CONSTANT * np.abs(y_n).max():
        return dict.fromkeys(("random", "held_out", "with_loss"))
    random = cross_predict(x_nd, y_n, KFold(FOLDS, shuffle=True, random_state=0), None)
    held_out = cross_predict(x_nd, y_n, PlaceKFold(FOLDS), labels.places_n)
    return {"random": _r(y_n, random), "held_out": _r(y_n, held_out), "with_loss": _r(y_n, labels.loss_n)}


def _r(a_n: np.ndarray, b_n: np.ndarray) -> float:
    return round(float(np.corrcoef(a_n, b_n)[0, 1]), 6)


def _mean(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else round(float(np.mean(values)), 6)
