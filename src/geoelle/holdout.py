"""Hold out ground, not rows: scikit-learn splitters that keep a block or a place on one side.

Neighbouring chips share soil, weather and acquisition, so random folds let a probe look up the answer next
door and flatter every score (Roberts et al. 2017, doi:10.1111/ecog.02881; Valavi et al. 2019,
doi:10.1111/2041-210X.13107). The splitters read the ground from `groups`, as scikit-learn's GroupKFold does:

    cross_val_score(RidgeProbe(), X, y, cv=SpatialKFold(), groups=lonlat_n2)
"""

from collections.abc import Iterator
from typing import Self

import numpy as np
from scipy.spatial import KDTree
from sklearn.model_selection import BaseCrossValidator, GroupKFold
from sklearn.utils import check_random_state

from geoelle.errors import HoldoutError

__all__ = [
    "EARTH_RADIUS_M",
    "Folds",
    "PlaceKFold",
    "SpatialKFold",
    "blocks_of",
    "chord",
    "default_cv",
    "enough",
    "given",
    "metres",
    "near",
    "sphere_n3",
]

EARTH_RADIUS_M = 6_371_008.8
INNER_FOLDS = 5

Folds = Iterator[tuple[np.ndarray, np.ndarray]]


def blocks_of(lonlat_n2: np.ndarray, block_m: float = 10_000.0) -> np.ndarray:
    """Label each point with its block, a square of ground of about `block_m` metres at any latitude.

    `lonlat_n2` is degrees EPSG:4326. Rows of blocks follow the parallels; each row is cut into a whole number
    of columns, so that blocks close at the antimeridian. Returns int64 (n,), 0 .. blocks-1, south first.

    Raises `HoldoutError` for coordinates that are not (n, 2) degrees or a block size that is not positive.

    >>> blocks_of(np.array([[4.00, 52.0], [4.01, 52.0], [4.50, 52.0], [-180, 0], [180, 0]]))
    array([1, 1, 2, 0, 0])
    """
    lon, lat = _checked(lonlat_n2).T
    if not (np.isfinite(block_m) and block_m > 0):
        raise HoldoutError(f"blocks cannot be drawn for block_m={block_m}; pass a positive size in metres")
    n_rows = max(1, round(np.pi * EARTH_RADIUS_M / block_m))
    row = np.minimum(((lat + 90) / 180 * n_rows).astype(np.int64), n_rows - 1)
    parallel_m = 2 * np.pi * EARTH_RADIUS_M * np.cos(np.radians((row + 0.5) / n_rows * 180 - 90))
    n_cols = np.maximum(1, np.rint(parallel_m / block_m).astype(np.int64))
    col = (((lon + 180) / 360) % 1 * n_cols).astype(np.int64)
    return np.unique(row * (2 * n_rows + 1) + col, return_inverse=True)[1].astype(np.int64)


def sphere_n3(lonlat_n2: np.ndarray) -> np.ndarray:
    """Put degrees on the unit sphere, (n, 3), where chords stand for distances at the poles too."""
    lon, lat = np.radians(_checked(lonlat_n2)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


class SpatialKFold(BaseCrossValidator):
    """Split points into folds of whole blocks of ground.

    `groups` is (n, 2) lon, lat in degrees. Blocks of `block_m` metres are dealt to the folds, largest first,
    each to the fold with the fewest points (ties and order seeded by `random_state`). Training points within
    `buffer_m` metres of any test point are left out. Distances are between points: add the chip's width.

    Raises `HoldoutError` in `split` without coordinates, with fewer blocks than folds, or where the buffer
    leaves nothing to train on.

    The digits are the folds of sixteen blocks of 10 km, two by two points in a block:

    >>> lon, lat = np.meshgrid(0.045 * np.arange(8) + 0.067, 0.045 * np.arange(8)[::-1] + 0.022)
    >>> lonlat = np.stack([lon.ravel(), lat.ravel()], 1)
    >>> fold = np.empty(64, int)
    >>> for k, (train, test) in enumerate(SpatialKFold(4).split(lonlat, groups=lonlat)):
    ...     fold[test] = k
    >>> for row in fold.reshape(8, 8): print(*row)
    3 3 0 0 3 3 2 2
    3 3 0 0 3 3 2 2
    2 2 3 3 0 0 3 3
    2 2 3 3 0 0 3 3
    1 1 2 2 1 1 1 1
    1 1 2 2 1 1 1 1
    1 1 0 0 2 2 0 0
    1 1 0 0 2 2 0 0
    """

    __metadata_request__split = {"groups": True}  # noqa: RUF012 - scikit-learn's own convention

    def __init__(
        self,
        n_splits: int = 5,
        *,
        block_m: float = 10_000.0,
        buffer_m: float = 0.0,
        random_state: int | None = 0,
    ) -> None:
        self.n_splits = n_splits
        self.block_m = block_m
        self.buffer_m = buffer_m
        self.random_state = random_state

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        """Return the number of folds."""
        return self.n_splits

    def labels(self, groups: np.ndarray) -> np.ndarray:
        """Label the unit that is never divided: the block of each point, int64 (n,)."""
        return blocks_of(groups, self.block_m)

    def inner(self, groups: np.ndarray) -> Self:
        """Return the same splitter for a training part: at most `n_splits` folds, no more than its blocks."""
        n = enough(len(np.unique(self.labels(groups))), 2, "blocks", "use smaller blocks or more ground")
        return type(self)(
            min(self.n_splits, n),
            block_m=self.block_m,
            buffer_m=self.buffer_m,
            random_state=self.random_state,
        )

    def split(self, X: object, y: object = None, groups: np.ndarray | None = None) -> Folds:
        """Yield (train, test) row numbers; every point is tested exactly once."""
        lonlat_n2 = given(groups, X, "coordinates", "an (n, 2) array of lon, lat in degrees")
        block_n = self.labels(lonlat_n2)
        sizes = np.bincount(block_n)
        enough(len(sizes), max(2, self.n_splits), f"blocks of {self.block_m:g} m", "use smaller blocks")
        fold_n = _deal(sizes, self.n_splits, self.random_state)[block_n]
        sphere = sphere_n3(lonlat_n2)
        for k in range(self.n_splits):
            test, train = np.flatnonzero(fold_n == k), np.flatnonzero(fold_n != k)
            train = train[~near(sphere[train], sphere[test], self.buffer_m)]
            if not len(train):
                raise HoldoutError(
                    f"fold {k} has no training points outside the buffer (buffer_m={self.buffer_m:g}); use a "
                    "narrower buffer or more ground"
                )
            yield train, test


class PlaceKFold(BaseCrossValidator):
    """Split points into folds of whole places, balanced by count; None gives every place a fold of its own.

    `groups` is (n,) labels: scenes, sites, dates, sensors. The same folds whatever the order of the rows.

    Raises `HoldoutError` in `split` without labels or with fewer places than folds.

    >>> places = np.array(["lake", "lake", "town", "dune", "dune", "fen"])
    >>> [sorted(set(places[test].tolist())) for _, test in PlaceKFold(2).split(places, groups=places)]
    [['lake', 'town'], ['dune', 'fen']]
    """

    __metadata_request__split = {"groups": True}  # noqa: RUF012 - scikit-learn's own convention

    def __init__(self, n_splits: int | None = 5) -> None:
        self.n_splits = n_splits

    def get_n_splits(self, X: object = None, y: object = None, groups: np.ndarray | None = None) -> int:
        """Return the number of folds; where every place is one, they are counted in `groups`."""
        if self.n_splits is not None:
            return self.n_splits
        return len(np.unique(self.labels(given(groups, groups, "places", "(n,) labels"))))

    def labels(self, groups: np.ndarray) -> np.ndarray:
        """Label the unit that is never divided: the place of each point, int64 (n,)."""
        groups = np.asarray(groups)
        if groups.ndim != 1:
            raise HoldoutError(f"places are unreadable for groups of shape {groups.shape}; pass (n,) labels")
        return np.unique(groups.astype(str), return_inverse=True)[1].astype(np.int64)

    def inner(self, groups: np.ndarray) -> Self:
        """Return the splitter for a training part: at most `n_splits` folds, no more than its places.

        Where every place is a fold, the training parts get five at most: only the strength is chosen there.
        """
        n = enough(len(np.unique(self.labels(groups))), 2, "places", "add places")
        return type(self)(min(self.n_splits or INNER_FOLDS, n))

    def split(self, X: object, y: object = None, groups: np.ndarray | None = None) -> Folds:
        """Yield (train, test) row numbers; every point is tested exactly once."""
        place_n = self.labels(given(groups, X, "places", "(n,) labels"))
        n_splits = enough(self.get_n_splits(groups=place_n), 2, "places", "add places")
        enough(len(np.unique(place_n)), n_splits, "places", "add places")
        yield from GroupKFold(n_splits).split(np.empty((len(place_n), 1)), groups=place_n)


def default_cv(groups: np.ndarray | None) -> SpatialKFold | PlaceKFold:
    """Choose the splitter that fits: (n, 2) coordinates -> `SpatialKFold`, (n,) labels -> `PlaceKFold`.

    With fewer than five blocks or places there are as many folds. Raises `HoldoutError` for None.
    """
    if groups is None:
        raise HoldoutError("nothing to hold out (groups=None); pass (n, 2) lon, lat or (n,) place labels")
    return (SpatialKFold() if np.ndim(groups) == 2 else PlaceKFold()).inner(groups)


def _checked(lonlat_n2: np.ndarray) -> np.ndarray:
    lonlat = np.asarray(lonlat_n2)
    if lonlat.ndim != 2 or lonlat.shape[1] != 2 or lonlat.dtype.kind not in "fiu":
        raise HoldoutError(f"coordinates fail for groups of shape {lonlat.shape}; pass (n, 2) lon, lat")
    lonlat = lonlat.astype(np.float64)
    bad = ~(np.isfinite(lonlat).all(1) & (np.abs(lonlat[:, 0]) <= 360) & (np.abs(lonlat[:, 1]) <= 90))
    if bad.any():
        at = int(np.argmax(bad))
        raise HoldoutError(f"coordinates fail for row {at} ({lonlat[at].tolist()}); pass lon, lat in degrees")
    return lonlat


def given(groups: np.ndarray | None, X: object, what: str, form: str) -> np.ndarray:
    """Return groups that were given, one a row of `X`; raises `HoldoutError`."""
    if groups is None:
        raise HoldoutError(f"no {what} to hold out (groups=None); pass groups, {form}")
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    if len(groups) != n:
        raise HoldoutError(f"{what} do not match the rows ({len(groups)} against {n}); pass one a row")
    return groups


def enough(n: int, least: int, what: str, remedy: str) -> int:
    """Return a count that is large enough; raises `HoldoutError`."""
    if n < least:
        raise HoldoutError(f"too few {what} to hold out ({n}, {least} needed); {remedy} or fewer folds")
    return n


def _deal(sizes: np.ndarray, n_splits: int, random_state: int | None) -> np.ndarray:
    """Give each block a fold: largest first, each to the least filled; shuffled before, for ties."""
    order = check_random_state(random_state).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.empty(len(sizes), np.int64), np.zeros(n_splits, np.int64)
    for block in order:
        fold_of[block] = int(np.argmin(filled))
        filled[fold_of[block]] += sizes[block]
    return fold_of


def near(train_n3: np.ndarray, test_m3: np.ndarray, buffer_m: float) -> np.ndarray:
    """Mark the training points within `buffer_m` metres of a test point along the sphere, bool (n,)."""
    if buffer_m <= 0:
        return np.zeros(len(train_n3), bool)
    nearest_n = KDTree(test_m3).query(train_n3, distance_upper_bound=np.nextafter(chord(buffer_m), 3))[0]
    return np.isfinite(nearest_n)


def chord(distance_m: float) -> float:
    """Return the straight line through the unit sphere between points that far apart on the ground."""
    return 2 * np.sin(min(distance_m / EARTH_RADIUS_M, np.pi) / 2)


def metres(chords: np.ndarray) -> np.ndarray:
    """Return the distances along the ground of lines through the unit sphere."""
    return 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(np.asarray(chords) / 2, 1))
