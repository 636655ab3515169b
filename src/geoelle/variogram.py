"""How far residuals are alike: their variogram within places, a model of it, and its range.

Half the mean squared difference of pairs, by distance (Matheron 1963). Pairs of each lag come from as many
points as give about 20,000 of them, thinned by seed where all would give more, so that short lags are measured
on every point and long ones cost no more than they tell. The pairs of two places are left out.

The model is fitted by least squares of relative deviations, weighted by pairs (Cressie 1985), and its range is
believed only where shuffled residuals do not look the same.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import curve_fit
from scipy.spatial import KDTree

from geoelle.errors import HoldoutError
from geoelle.holdout import chord, metres, sphere_n3

__all__ = ["Variogram", "autocorrelation_range_m"]

PAIRS = 20_000
MIN_PAIRS = 30
_COUNTED = 3_000
_LAGS = 16
_MIN_LAGS = 5
_SHUFFLES = 199
_LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variogram:
    """Semivariance by lag, (b,) each, and the model that was fitted to it.

    `lag_m` is the mean distance of the pairs of a bin, `gamma` their semivariance, `pairs` their number.
    `range_m` is the effective range: where a spherical model ends, or an exponential one has reached 95%;
    `nugget` and `sill` (nugget included) are in squared units of the residual. Where no range could be
    measured, `model` is "" and the three are NaN; where the range is beyond the longest lag, `range_m` is that
    lag. `note` says which.
    """

    lag_m: np.ndarray
    gamma: np.ndarray
    pairs: np.ndarray
    model: str
    range_m: float
    nugget: float
    sill: float
    note: str

    @property
    def measured(self) -> bool:
        """Whether there is a range."""
        return bool(self.model)


def autocorrelation_range_m(
    lonlat_n2: np.ndarray, residual_n: np.ndarray, place_n: np.ndarray | None = None, *, seed: int = 0
) -> Variogram:
    """Measure the distance up to which residuals are alike, within places.

    `lonlat_n2` is degrees EPSG:4326, `residual_n` (n,), `place_n` labels (n,), None for one place. Lags go from
    the typical distance of neighbours to half the widest place: from its middle to its farthest chip.

    Raises: HoldoutError (arrays that do not match, residuals with NaN).
    """
    sphere, residual_n = sphere_n3(lonlat_n2), np.asarray(residual_n, np.float64)
    place_n = np.zeros(len(sphere), int) if place_n is None else np.unique(place_n, return_inverse=True)[1]
    if not (residual_n.shape == place_n.shape == (len(sphere),) and np.isfinite(residual_n).all()):
        raise HoldoutError(
            f"a variogram fails for residuals {residual_n.shape} of {len(sphere)} chips in places {place_n.shape}; "
            "pass one finite number a chip"
        )
    rng = np.random.default_rng(seed)
    bins = [b for b in _binned(sphere, place_n, _lag_edges(sphere, place_n), rng) if len(b[0]) >= MIN_PAIRS]
    lag_m = np.array([distance_m.mean() for _, distance_m in bins])
    gamma = np.array([_semivariance(residual_n, pairs) for pairs, _ in bins])
    counts = np.array([len(pairs) for pairs, _ in bins], np.int64)
    shown = {"lag_m": lag_m, "gamma": gamma, "pairs": counts}
    if len(bins) < _MIN_LAGS:
        return _nothing(shown, f"too few pairs of chips within places to measure a range ({counts.sum():,})")
    if _looks_shuffled(residual_n, place_n, [pairs for pairs, _ in bins[: len(bins) // 3]], rng):
        return _nothing(shown, "the residuals are not alike at any distance that can be measured (pure nugget)")
    return _fitted(shown)


def _nothing(shown: dict[str, np.ndarray], note: str) -> Variogram:
    return Variogram(**shown, model="", range_m=np.nan, nugget=np.nan, sill=np.nan, note=note)


def _lag_edges(sphere_n3: np.ndarray, place_n: np.ndarray) -> np.ndarray:
    """Return edges of lags in metres, each a constant factor wider, from neighbours to half the widest place."""
    half = 0.0
    for place in np.unique(place_n):
        points = sphere_n3[place_n == place]
        half = max(half, float(np.linalg.norm(points - points.mean(0), axis=1).max()))
    nearest = KDTree(sphere_n3).query(sphere_n3, k=2)[0][:, 1] if len(sphere_n3) > 1 else np.zeros(1)
    spacing = float(np.median(nearest[nearest > 0])) if (nearest > 0).any() else 0.0
    low, high = 0.9 * metres(spacing), metres(half)
    return np.geomspace(low, high, _LAGS + 1) if 0 < low < high else np.empty(0)


def _binned(
    sphere_n3: np.ndarray, place_n: np.ndarray, edges_m: np.ndarray, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the pairs (p, 2) of each lag, within places, and their distances (p,) in metres."""
    order, bins = rng.permutation(len(sphere_n3)), []
    for low_m, high_m in pairwise(edges_m):
        chosen = order[: _points_for(sphere_n3[order], chord(low_m), chord(high_m))]
        pairs = chosen[KDTree(sphere_n3[chosen]).query_pairs(chord(high_m), output_type="ndarray")]
        pairs = pairs[place_n[pairs[:, 0]] == place_n[pairs[:, 1]]]
        distance_m = metres(np.linalg.norm(sphere_n3[pairs[:, 0]] - sphere_n3[pairs[:, 1]], axis=1))
        bins.append((pairs[distance_m > low_m], distance_m[distance_m > low_m]))
    return bins


def _points_for(shuffled_n3: np.ndarray, low: float, high: float) -> int:
    """Return how many points have about `PAIRS` pairs between two chords: pairs go with their square."""
    for n in (_COUNTED, len(shuffled_n3)):
        tree = KDTree(shuffled_n3[:n])
        pairs = float(np.diff(tree.count_neighbors(tree, [low, high]))[0]) / 2
        if pairs > PAIRS / 20:  # counted on a few points, where these have enough
            break
    return min(len(shuffled_n3), round(min(n, len(shuffled_n3)) * (PAIRS / max(pairs, 1)) ** 0.5))


def _semivariance(residual_n: np.ndarray, pairs: np.ndarray) -> float:
    return float(np.square(residual_n[pairs[:, 0]] - residual_n[pairs[:, 1]]).mean() / 2)


def _looks_shuffled(
    residual_n: np.ndarray, place_n: np.ndarray, short: list[np.ndarray], rng: np.random.Generator
) -> bool:
    """Compare the semivariance of short lags with that of residuals shuffled within their places."""
    pairs = np.concatenate(short)
    by_place = np.argsort(place_n, kind="stable")
    own, below = _semivariance(residual_n, pairs), 0
    for _ in range(_SHUFFLES):
        shuffled_n = np.empty_like(residual_n)
        shuffled_n[by_place] = residual_n[np.lexsort((rng.random(len(place_n)), place_n))]
        below += _semivariance(shuffled_n, pairs) <= own
    return (1 + below) / (1 + _SHUFFLES) > _LEVEL


def _spherical(lag_m: np.ndarray, nugget: float, partial: float, range_m: float) -> np.ndarray:
    part = np.minimum(lag_m / range_m, 1)
    return nugget + partial * (1.5 * part - 0.5 * part**3)


def _exponential(lag_m: np.ndarray, nugget: float, partial: float, range_m: float) -> np.ndarray:
    return nugget + partial * -np.expm1(-3 * lag_m / range_m)


def _fitted(shown: dict[str, np.ndarray]) -> Variogram:
    """Fit both models and keep the closer one."""
    lag_m, gamma, longest = shown["lag_m"], shown["gamma"], shown["lag_m"][-1]
    level = gamma.max()
    weight = np.sqrt(shown["pairs"]) / gamma
    best: tuple[float, str, np.ndarray] | None = None
    for model in (_spherical, _exponential):
        for start_m in np.quantile(lag_m, (0.2, 0.5, 0.8)):  # least squares stops at the nearest hollow
            found = curve_fit(
                model, lag_m, gamma / level, (0.3, 0.7, start_m), sigma=level / gamma / weight, max_nfev=5_000,
                bounds=((0, 0, lag_m[0] / 10), (2, 5, 10 * longest)), x_scale=(1, 1, longest),
            )[0]  # fmt: skip
            error = float(np.square(weight * (model(lag_m, *found) * level - gamma)).sum())
            if best is None or error < best[0]:
                best = error, model.__name__[1:], found
    nugget, partial, range_m = best[2] * (level, level, 1)
    note = f"residuals are alike up to {range_m / 1000:.3g} km ({best[1]} variogram)"
    if range_m > longest:
        range_m = longest
        note = f"residuals are alike over more than {longest / 1000:.3g} km, the longest lag that can be measured"
    return Variogram(
        **shown, model=best[1], range_m=float(range_m), nugget=float(nugget), sill=float(nugget + partial), note=note
    )
