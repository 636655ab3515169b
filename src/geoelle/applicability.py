"""Tell where a probe meets ground like that it was fitted on: dissimilarity, area of applicability, local density.

Distances are between embeddings, each coordinate weighted by |coefficient| x standard deviation of the standardised
input, which is |w| on the raw one: only what moves the difficulty counts. The dissimilarity index (DI) is the distance
to the nearest training chip over the mean distance between training chips; the area of applicability ends at the
largest DI, outliers removed, that training chips have to the training ground of their own fold (Meyer and Pebesma 2021,
doi:10.1111/2041-210X.13650). The local point density (LPD) counts the training chips that near (Schumacher et al. 2024,
Geoscientific Model Development); of thinned ground each counts at the reference point nearest to it.

Where the DI does not rank the errors on held-out ground it says only that ground was seen before; `informativeness`
measures that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from geoelle.bootstrap import Bootstrap, Interval
from geoelle.errors import HoldoutError, ProbeError

__all__ = ["MOST_POINTS", "Informativeness", "Reach", "fit_reach", "informativeness"]

MOST_POINTS = 1_000
"""Reference points kept: a megabyte or less for most models."""
_MEAN_OF = 2_000  # training chips whose mutual distances make the mean
_CELLS = 4_000_000  # distances in memory at a time
_GROUPS = 10  # of equal size, for error against dissimilarity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reach:
    """The ground a probe was fitted on, small enough to travel with it.

    `points_md` are raw embeddings, float32; `counts_m` how many training chips each stands for; `weights_d` >= 0 what a
    unit of each coordinate weighs; `mean_distance` and `threshold` as the module says, the latter a DI.

    Raises `ProbeError` for shapes that differ and for distances that are all 0, where no DI is defined.
    """

    points_md: np.ndarray
    counts_m: np.ndarray
    weights_d: np.ndarray
    mean_distance: float
    threshold: float

    def __post_init__(self) -> None:
        m, d = self.points_md.shape if np.ndim(self.points_md) == 2 else (0, 0)
        if not m or self.counts_m.shape != (m,) or self.weights_d.shape != (d,):
            shapes = [np.shape(a) for a in (self.points_md, self.counts_m, self.weights_d)]
            raise ProbeError(f"a reach cannot be built from arrays of shapes {shapes}; pass (m, d), (m,) and (d,)")
        if not (np.isfinite(self.points_md).all() and np.isfinite(self.weights_d).all()):
            raise ProbeError(f"a reach cannot be built from {m} points (NaN or inf); drop those rows")
        if not (math.isfinite(self.mean_distance) and self.mean_distance > 0 and self.threshold >= 0):
            raise ProbeError(
                f"dissimilarity is not defined for a mean distance of {self.mean_distance:g} (coefficients of 0, or "
                "embeddings all alike); fit on more diverse ground"
            )

    def dissimilarity(self, vectors: np.ndarray) -> np.ndarray:
        """Return the DI, float64 over the last axis of `vectors`; 0 on a reference point, NaN for NaN.

        Memory is bounded: distances are to at most a few thousand vectors at a time.
        """
        flat_nd, shape = self._flat(vectors)
        weighted_md = self._weighted(self.points_md)
        di_n = np.full(len(flat_nd), np.nan)
        for rows in _chunks(np.flatnonzero(np.isfinite(flat_nd).all(1)), len(weighted_md)):
            di_n[rows] = _nearest(self._weighted(flat_nd[rows]), weighted_md) / self.mean_distance
        return di_n.reshape(shape)

    def density(self, vectors: np.ndarray) -> np.ndarray:
        """Return the LPD, float64 over the last axis: the training chips within the threshold; 0 exactly outside.

        Of thinned ground it counts the chips that reference points within the threshold stand for: every chip nearer
        than the threshold by the covering radius, none farther than it by that radius. Counting the points themselves
        would tell nothing, since points that cover the ground lie evenly on it.
        """
        flat_nd, shape = self._flat(vectors)
        weighted_md = self._weighted(self.points_md)
        limit = self.threshold * self.mean_distance
        lpd_n = np.full(len(flat_nd), np.nan)
        for rows in _chunks(np.flatnonzero(np.isfinite(flat_nd).all(1)), len(weighted_md)):
            z_nd = self._weighted(flat_nd[rows])
            apart_nm = _distances(z_nd, weighted_md)
            nearest_n = apart_nm.argmin(1)  # measured exactly, so that inside and a density above 0 are the same
            apart_n = np.sqrt(np.square(z_nd - weighted_md[nearest_n]).sum(1)) / self.mean_distance
            apart_nm[np.arange(len(rows)), nearest_n] = 0.0
            near_nm = (apart_nm <= limit * (1 + 1e-12)) & (apart_n <= self.threshold)[:, None]
            lpd_n[rows] = near_nm @ self.counts_m.astype(np.float64)
        return lpd_n.reshape(shape)

    def nearest(self, vectors_nd: np.ndarray) -> np.ndarray:
        """Return the number of the reference point nearest to each of (n, d) finite vectors, int (n,)."""
        flat_nd, _ = self._flat(vectors_nd)
        weighted_md, nearest_n = self._weighted(self.points_md), np.empty(len(flat_nd), np.int64)
        for rows in _chunks(np.arange(len(flat_nd)), len(weighted_md)):
            nearest_n[rows] = _distances(self._weighted(flat_nd[rows]), weighted_md).argmin(1)
        return nearest_n

    def counted(self) -> str:
        """Say in words what the density counts."""
        chips, points = int(self.counts_m.sum()), len(self.counts_m)
        at = "" if points == chips else f", each at the nearest of {points:,} points kept of them"
        return f"density counts those of {chips:,} chips of the fit within a dissimilarity of {self.threshold:.3g}{at}"

    def inside(self, dissimilarity: np.ndarray) -> np.ndarray:
        """Mark DIs within the area of applicability: 1 inside, 0 outside, NaN for NaN, float32."""
        return np.where(np.isnan(dissimilarity), np.nan, dissimilarity <= self.threshold).astype(np.float32)

    def _flat(self, vectors: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        vectors = np.asarray(vectors)
        if vectors.shape[-1:] != self.weights_d.shape:
            raise ProbeError(f"the reach takes {len(self.weights_d)} inputs, not {vectors.shape}; check the model")
        return vectors.reshape(-1, vectors.shape[-1]), vectors.shape[:-1]

    def _weighted(self, vectors_nd: np.ndarray) -> np.ndarray:
        # The middle is taken out first: squares of far-off coordinates would eat the digits of near distances.
        middle_d = self.points_md.mean(0, dtype=np.float64)
        return (np.asarray(vectors_nd, np.float64) - middle_d) * self.weights_d


@dataclass(frozen=True, slots=True, kw_only=True)
class Informativeness:
    """Whether a higher DI goes with a larger error on held-out ground.

    `spearman` of DI and |residual|; `inside` and `outside` the mean |residual| on either side of the threshold, with
    the chips there (NaN for none); `groups` holds (median DI, mean |residual|) of ten groups of equal size by DI.
    """

    spearman: Interval
    inside: Interval
    outside: Interval
    n_inside: int
    n_outside: int
    groups: tuple[tuple[float, float], ...]

    @property
    def is_informative(self) -> bool:
        """Say whether the interval of the correlation lies above 0; an undefined one does not."""
        return bool(self.spearman.low > 0)

    def sentence(self) -> str:
        """Say it in words."""
        if self.is_informative:
            return f"dissimilarity ranks the errors on ground held out: Spearman {self.spearman}"
        return (
            f"dissimilarity is not informative of the error on ground held out (Spearman {self.spearman}): being "
            "inside says that such ground was seen, not that the difficulty is right"
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON data, NaN as None."""
        return {
            "spearman": self.spearman.to_dict(),
            "inside": self.inside.to_dict(),
            "outside": self.outside.to_dict(),
            "verdict": "informative" if self.is_informative else "not informative",
            "n_inside": self.n_inside,
            "n_outside": self.n_outside,
            "groups": [{"dissimilarity": di, "error": error} for di, error in self.groups],
        }


def fit_reach(
    vectors_nd: np.ndarray,
    weights_d: np.ndarray,
    folds: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    most: int = MOST_POINTS,
    seed: int = 0,
) -> tuple[Reach, np.ndarray]:
    """Take the reach of (n, d) training embeddings under the coefficients of a probe; also return their own DI, (n,).

    `folds` are (train, test) row numbers as a splitter yields them: the DI of a training chip is to the training side
    of the fold that tests it, NaN for a chip that none tests. Of more than `most` chips, points that cover the ground
    are kept (each next one farthest from those before, Gonzalez 1985), not random ones: no DI grows by more than the
    covering radius, where random ones would drop rare ground and put it outside. The threshold is found with the same
    points, so it grows with the DI. The mean distance is that of 2,000 random chips where there are more (`seed`).

    Raises `ProbeError` for coefficients that are all 0 or embeddings all alike, `HoldoutError` for a fold without
    reference points.
    """
    vectors_nd = np.asarray(vectors_nd, np.float32)
    weights_d = np.abs(np.asarray(weights_d, np.float64))
    if not np.isfinite(vectors_nd).all():
        raise ProbeError(f"a reach cannot be built from {vectors_nd.shape} embeddings with NaN or inf; drop those rows")
    z_nd = (vectors_nd - vectors_nd.mean(0, dtype=np.float64)) * weights_d
    mean_distance = _mean_distance(z_nd, seed)
    if not mean_distance > 0:
        raise ProbeError(
            f"dissimilarity is not defined for {len(z_nd)} chips (coefficients of 0, or embeddings all alike); fit on "
            "more diverse ground"
        )
    kept_m, counts_m = _cover(z_nd, most)
    di_n = np.full(len(z_nd), np.nan)
    for k, (train, test) in enumerate(folds):
        seen = kept_m[np.isin(kept_m, train)]
        if not len(seen):
            raise HoldoutError(f"fold {k} trains on no reference point ({len(kept_m)} in all); use fewer folds")
        for rows in _chunks(test, len(seen)):
            di_n[rows] = _nearest(z_nd[rows], z_nd[seen]) / mean_distance
    reach = Reach(
        points_md=vectors_nd[kept_m],
        counts_m=counts_m,
        weights_d=weights_d,
        mean_distance=mean_distance,
        threshold=_without_outliers(di_n[np.isfinite(di_n)]),
    )
    return reach, di_n


def informativeness(
    dissimilarity_n: np.ndarray, error_n: np.ndarray, place_n: np.ndarray, *, threshold: float
) -> Informativeness:
    """Compare the DI with |residual|, both of held-out chips; intervals redraw whole places.

    Raises `HoldoutError` for fewer than two places.
    """
    bootstrap = Bootstrap(place_n)
    inside_n = dissimilarity_n <= threshold
    order = np.argsort(dissimilarity_n, kind="stable")
    groups = [rows for rows in np.array_split(order, _GROUPS) if len(rows)]
    return Informativeness(
        spearman=Interval.of(bootstrap.spearman(dissimilarity_n, error_n)),
        inside=Interval.of(bootstrap.mean(error_n, inside_n)),
        outside=Interval.of(bootstrap.mean(error_n, ~inside_n)),
        n_inside=int(inside_n.sum()),
        n_outside=int((~inside_n).sum()),
        groups=tuple((float(np.median(dissimilarity_n[g])), float(error_n[g].mean())) for g in groups),
    )


def _without_outliers(di_n: np.ndarray) -> float:
    """Return the largest DI not above the upper quartile by more than 1.5 quartile ranges."""
    low, high = np.percentile(di_n, (25, 75))
    return float(di_n[di_n <= high + 1.5 * (high - low)].max())


def _cover(z_nd: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of at most `most` covering points and how many rows each is the nearest to."""
    if len(z_nd) <= most:
        return np.arange(len(z_nd)), np.ones(len(z_nd), np.int64)
    z_nd = z_nd.astype(np.float32)
    square_n = np.einsum("nd,nd->n", z_nd, z_nd)
    kept = [int(np.argmin(square_n))]
    gap_n, owner_n = np.full(len(z_nd), np.inf, np.float32), np.zeros(len(z_nd), np.int64)
    for i in range(most):
        to_n = square_n + square_n[kept[i]] - 2 * (z_nd @ z_nd[kept[i]])
        nearer_n = to_n < gap_n
        gap_n[nearer_n], owner_n[nearer_n] = to_n[nearer_n], i
        gap_n[kept[i]], owner_n[kept[i]] = -np.inf, i
        if i + 1 < most:
            kept.append(int(np.argmax(gap_n)))
    return np.array(kept), np.bincount(owner_n, minlength=most)


def _mean_distance(z_nd: np.ndarray, seed: int) -> float:
    """Return the mean distance between different rows, 0 for fewer than two."""
    if len(z_nd) > _MEAN_OF:
        z_nd = z_nd[np.sort(np.random.default_rng(seed).choice(len(z_nd), _MEAN_OF, replace=False))]
    n = len(z_nd)
    total = sum(float(_distances(z_nd[rows], z_nd).sum()) for rows in _chunks(np.arange(n), n))
    # rounding leaves identical rows a little apart; that is no distance
    mean = total / (n * (n - 1)) if n > 1 else 0.0
    return mean if mean > 1e-7 * float(np.abs(z_nd).max(initial=0)) else 0.0


def _distances(a_nd: np.ndarray, b_md: np.ndarray) -> np.ndarray:
    square = np.einsum("nd,nd->n", a_nd, a_nd)[:, None] + np.einsum("md,md->m", b_md, b_md) - 2 * (a_nd @ b_md.T)
    return np.sqrt(np.maximum(square, 0.0))


def _nearest(a_nd: np.ndarray, b_md: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest of b, found by products of matrices and then measured exactly."""
    nearest_n = _distances(a_nd, b_md).argmin(1)
    return np.sqrt(np.square(a_nd - b_md[nearest_n]).sum(1))


def _chunks(rows: np.ndarray, width: int) -> Iterable[np.ndarray]:
    step = max(1, _CELLS // max(width, 1))
    return (rows[i : i + step] for i in range(0, len(rows), step))
