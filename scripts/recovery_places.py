"""Find clear-cuts by NDVI, when they were seen first, and uncut ground of the same shapes; arrays in, places out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from geoelle.seasonal import years_of

LEAVES = (6, 9)
"""First and last month with leaves."""
LEVEL_DATES = 3
"""Dates that a level needs."""
CUT, FALL = 0.1, 0.05
"""Loss of NDVI, against the median of the map, by which a patch is cut; and from which on it is not uncut."""
EACH = 20
"""Placebos a place."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Patches that are judged together: indices `cells_k` into those of the map, and the event, days since 1970."""

    cells_k: np.ndarray
    year: int
    event_day: float


def months_of(days_n: np.ndarray) -> np.ndarray:
    """Return the month of days since 1970-01-01, 1 to 12.

    >>> months_of(np.array([0.0, 31.0, 364.0])).tolist()
    [1, 2, 12]
    """
    return np.floor(days_n).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12 + 1


def anomalies(ndvi_dn: np.ndarray) -> np.ndarray:
    """Return NDVI less the median of all patches of the date: season and haze go."""
    return ndvi_dn - np.nanmedian(ndvi_dn, axis=1, keepdims=True)


def levels(days_d: np.ndarray, anomaly_dn: np.ndarray) -> dict[int, np.ndarray]:
    """Return the median of the dates with leaves, by year; NaN where a patch has fewer than three, none where the map has."""
    leaves_d = _with_leaves(days_d)
    found = {}
    for year in np.unique(years_of(days_d)):
        rows_dn = anomaly_dn[leaves_d & (years_of(days_d) == year)]
        seen_n = np.isfinite(rows_dn).sum(axis=0) >= LEVEL_DATES
        if seen_n.any():
            median_n = np.full(rows_dn.shape[1], np.nan)
            median_n[seen_n] = np.nanmedian(rows_dn[:, seen_n], axis=0)
            found[int(year)] = median_n
    return found


def _with_leaves(days_d: np.ndarray) -> np.ndarray:
    month_d = months_of(days_d)
    return (month_d >= LEAVES[0]) & (month_d <= LEAVES[1])


def falls(level: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Return by how much each year lies below the mean of the levels of all earlier years, NaN where that is not known."""
    years = sorted(level)
    return {year: _mean([level[y] for y in years[:k]]) - level[year] for k, year in enumerate(years) if k}


def _mean(rows: Sequence[np.ndarray]) -> np.ndarray:
    rows_yn = np.array(rows)
    count_n = np.isfinite(rows_yn).sum(axis=0)
    return np.where(count_n > 0, np.nansum(rows_yn, axis=0) / np.maximum(count_n, 1), np.nan)


def cut_years(days_d: np.ndarray, ndvi_dn: np.ndarray) -> np.ndarray:
    """Return the year in which each patch was cut, int (n,); 0 for none."""
    year_n = np.zeros(ndvi_dn.shape[1], int)
    for year, fall_n in falls(levels(days_d, anomalies(ndvi_dn))).items():
        year_n[(fall_n > CUT) & (year_n == 0)] = year
    return year_n


def cut_places(days_d: np.ndarray, ndvi_dn: np.ndarray, shape: tuple[int, int]) -> list[Place]:
    """Return the connected patches that were cut in one year, by year, then row and column; those without an event date go."""
    anomaly_dn = anomalies(ndvi_dn)
    level, year_n = levels(days_d, anomaly_dn), cut_years(days_d, ndvi_dn)
    found = []
    for year in np.unique(year_n[year_n > 0]):
        label_yx, count = ndimage.label((year_n == year).reshape(shape))
        for one in range(1, count + 1):
            cells_k = np.flatnonzero(label_yx == one)
            before = np.nanmean(_mean([level[y] for y in level if y < year])[cells_k])
            day = _event(days_d, anomaly_dn[:, cells_k], int(year), before)
            if day is not None:
                found.append(Place(cells_k=cells_k, year=int(year), event_day=day))
    return found


def _event(days_d: np.ndarray, anomaly_dk: np.ndarray, year: int, before: float) -> float | None:
    """Return the first date with leaves on which the place lies below its earlier level."""
    for at in np.flatnonzero((years_of(days_d) == year) & _with_leaves(days_d)):
        seen_k = np.isfinite(anomaly_dk[at])
        if seen_k.any() and anomaly_dk[at, seen_k].mean() < before - FALL:
            return float(days_d[at])
    return None


def uncut(days_d: np.ndarray, ndvi_dn: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the patches that fell in no year, of which one may be unknown; bool of the shape of the map."""
    fall_yn = np.array(list(falls(levels(days_d, anomalies(ndvi_dn))).values()))
    known_n = (~np.isfinite(fall_yn)).sum(axis=0) <= 1
    return (known_n & ~(fall_yn > FALL).any(axis=0)).reshape(shape)


def placebos(place: Place, uncut_yx: np.ndarray, *, seed: int) -> list[Place]:
    """Draw positions of the shape of a place, turned or not, wholly on uncut ground; as many as there are, 20 at most."""
    at_k = np.stack(np.unravel_index(place.cells_k, uncut_yx.shape))
    own_yx = np.zeros(np.ptp(at_k, axis=1) + 1, bool)
    own_yx[tuple(at_k - at_k.min(axis=1, keepdims=True))] = True
    turned = [np.rot90(way_yx, k) for way_yx in (own_yx, own_yx.T) for k in range(4)]
    shapes = {(t.shape, t.tobytes()): t for t in turned}.values()
    free = [cells_k for shape_yx in shapes for cells_k in _positions(shape_yx, uncut_yx)]
    chosen = np.random.default_rng(seed).permutation(len(free))[:EACH]
    return [Place(cells_k=free[k], year=place.year, event_day=place.event_day) for k in chosen]


def _positions(shape_yx: np.ndarray, uncut_yx: np.ndarray) -> list[np.ndarray]:
    rows, cols = np.nonzero(shape_yx)
    found = []
    for top in range(uncut_yx.shape[0] - shape_yx.shape[0] + 1):
        for left in range(uncut_yx.shape[1] - shape_yx.shape[1] + 1):
            if uncut_yx[rows + top, cols + left].all():
                found.append(np.ravel_multi_index((rows + top, cols + left), uncut_yx.shape))
    return found
