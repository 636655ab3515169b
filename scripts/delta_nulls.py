"""Judge Delta, and what it has to beat, by the same history in the same way: cells of dates in, tests out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from delta_seen import Cells
from geoelle.change import Null, fit_null, q_values
from geoelle.delta import RATE
from geoelle.errors import ProbeError
from geoelle.probe import Probe

DIRECTIONS = 20
RANDOM = "random direction"
INDICES = {"NDVI": ("nir", "red"), "NDWI": ("green", "nir"), "MNDWI": ("green", "swir16"), "NDMI": ("nir", "swir16")}
_LEAST = 1e-12
"""A distance of nothing has no logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kit:
    """What turns cells into measures: the probe, and the names of the bands."""

    probe: Probe
    bands: tuple[str, ...]

    def measure(self, cells: Cells) -> Measured:
        """Return every measure of one date that the cells can tell."""
        tokens_nd = cells.tokens_nd.astype(np.float64)
        difficulty_n, pixels_n = self.probe.score_raw(tokens_nd), self.probe.pixels(cells.features_nf)
        band = dict(zip(self.bands, cells.bands_nc.T.astype(np.float64), strict=True))
        numbers = {"Delta": difficulty_n, "Delta excess": difficulty_n - pixels_n, "complexity": pixels_n}
        if np.isfinite(cells.loss_n).any():
            numbers["true loss"] = np.log(np.maximum(cells.loss_n.astype(np.float64), _LEAST))
        if self.probe.twin is not None:
            numbers["twin's probe"] = self.probe.twin(cells.twin_nd.astype(np.float64))
        numbers |= {n: (band[a] - band[b]) / (band[a] + band[b]) for n, (a, b) in INDICES.items() if {a, b} <= {*band}}
        numbers |= band | {f"{RANDOM} {k}": tokens_nd @ d for k, d in enumerate(_directions(tokens_nd.shape[1]))}
        vectors = {"token": tokens_nd, "bands": cells.bands_nc.astype(np.float64)}
        if cells.twin_nd.shape[1]:
            vectors["twin"] = cells.twin_nd.astype(np.float64)
        reach = self.probe.reach
        inside_n = np.isfinite(difficulty_n)
        if reach is not None:
            inside_n[inside_n] = reach.inside(reach.dissimilarity(cells.tokens_nd[inside_n]))
        return Measured(numbers=numbers, vectors=vectors, inside_n=inside_n)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """What one date gives: a number a cell by name, vectors that distances are taken of, and where the probe applies."""

    numbers: Mapping[str, np.ndarray]
    vectors: Mapping[str, np.ndarray]
    inside_n: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """One measure of one map: `size_n` ranks, `p_n` and `flag_n` judge; NaN, or no flag, where a cell was not judged."""

    size_n: np.ndarray
    p_n: np.ndarray
    flag_n: np.ndarray
    shift: float


class Judges:
    """The nulls of a date before and its history, one a measure; a measure that years do not vary in has none.

    As `geoelle delta` does, the date before and the history count where the probe applies, the date after anywhere; and
    all measures are judged on the cells of Delta. `departure` compares with the level of the history, not the date before.
    """

    def __init__(self, before: Measured, history: Sequence[Measured], *, departure: bool = False) -> None:
        self.before, self.departure = before, departure
        self.nulls: dict[str, Null] = {}
        for name in before.numbers:
            self._learn(name, np.array([np.where(h.inside_n, h.numbers[name], np.nan) for h in history]))
        for name, (of, apart) in DISTANCES.items():
            if of in before.vectors and not departure:
                rows = [np.where(h.inside_n, _log(apart(before.vectors[of], h.vectors[of])), np.nan) for h in history]
                self._learn(name, np.array(rows))

    def _learn(self, name: str, years_rn: np.ndarray) -> None:
        try:
            self.nulls[name] = fit_null(years_rn)
        except ProbeError:
            if name == "Delta":
                raise

    def _before(self, name: str) -> np.ndarray:
        return np.where(self.before.inside_n, self.before.numbers[name], np.nan)

    def judge(self, after: Measured, rate: float = RATE) -> dict[str, Outcome]:
        """Test a date after, every measure."""
        found: dict[str, Outcome] = {}
        for name, null in self.nulls.items():
            distance = DISTANCES.get(name)
            if distance:
                of, apart = distance
                tested = null.test(_log(apart(self.before.vectors[of], after.vectors[of])))
            else:
                tested = null.test(after.numbers[name], None if self.departure else self._before(name))
            known_n = np.isfinite(found["Delta"].p_n) if found else self.before.inside_n
            p_n = np.where(known_n, tested.larger_p_n if distance else tested.p_n, np.nan)
            with np.errstate(invalid="ignore"):
                flag_n = q_values(p_n) <= rate
            size_n = tested.t_n if distance else np.abs(tested.t_n)
            found[name] = Outcome(size_n=size_n, p_n=p_n, flag_n=flag_n, shift=tested.shift)
        return found


def _directions(width: int) -> np.ndarray:
    drawn_kd = np.random.default_rng(0).normal(size=(DIRECTIONS, width))
    return drawn_kd / np.linalg.norm(drawn_kd, axis=1, keepdims=True)


def _log(values_n: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values_n, _LEAST))


def euclidean(one_nd: np.ndarray, other_nd: np.ndarray) -> np.ndarray:
    """Return the distance of each pair of rows."""
    return np.linalg.norm(one_nd - other_nd, axis=1)


def cosine(one_nd: np.ndarray, other_nd: np.ndarray) -> np.ndarray:
    """Return 1 less the cosine of each pair of rows.

    >>> cosine(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])).tolist()
    [1.0]
    """
    return 1 - (one_nd * other_nd).sum(axis=1) / (np.linalg.norm(one_nd, axis=1) * np.linalg.norm(other_nd, axis=1))


Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
DISTANCES: dict[str, tuple[str, Distance]] = {
    "token, cosine distance": ("token", cosine),
    "token, Euclidean distance": ("token", euclidean),
    "twin, cosine distance": ("twin", cosine),
    "twin, Euclidean distance": ("twin", euclidean),
    "bands, Euclidean distance": ("bands", euclidean),
}


def merged(rows: Mapping[str, float]) -> dict[str, float]:
    """Put the random directions together as one measure, their mean.

    >>> merged({"Delta": 1.0, "random direction 0": 0.0, "random direction 1": 1.0})
    {'Delta': 1.0, 'random direction': 0.5}
    """
    drawn = [value for name, value in rows.items() if name.startswith(RANDOM)]
    kept = {name: value for name, value in rows.items() if not name.startswith(RANDOM)}
    return kept | ({RANDOM: float(np.mean(drawn))} if drawn else {})


def auroc(true_k: np.ndarray, false_k: np.ndarray) -> float:
    """Return how often a changed cell has more than an unchanged one, ties half; NaN without both.

    >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    if not len(true_k) or not len(false_k):
        return float("nan")
    ranks = rankdata(np.concatenate([true_k, false_k]))[: len(true_k)]
    return float((ranks.sum() - len(true_k) * (len(true_k) + 1) / 2) / (len(true_k) * len(false_k)))
