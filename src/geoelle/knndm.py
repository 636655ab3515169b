"""Folds as far from their training points as the area to be mapped is from the sample: kNNDM.

After Linnenbrink, Milà, Ludwig and Meyer (2024, doi:10.5194/gmd-17-5897-2024). Three distributions of
nearest-neighbour distances decide: sample to sample (Gj), prediction points to sample (Gij) and test to
training points of the folds (Gj*). Folds are good for a map as far as Gj* is like Gij; what is left is W, the
Wasserstein distance between the two in metres.

Clusters are cuts of one Ward tree, as it gives every number of clusters at once and always the same ones;
k-means would run anew for each. The tree needs the distances of its points, so that it stands on at most
3,000 of them, drawn by seed, and every other point joins the nearest.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.cluster.hierarchy import cut_tree, ward
from scipy.spatial import KDTree
from scipy.stats import ks_2samp, wasserstein_distance
from sklearn.model_selection import BaseCrossValidator

from geoelle.errors import HoldoutError
from geoelle.holdout import Folds, enough, given, metres, near, sphere_n3

__all__ = ["KNNDM", "MIN_TRAIN", "Matching"]

DOMAIN_POINTS = 2_000
MIN_TRAIN = 0.5  # of the points outside a fold: with fewer, the buffer tests a poorer probe than the map's
_TREE_POINTS = 3_000
_TESTED = 2_000  # sites whose distances compare the candidates; the chosen one is measured on all
_CANDIDATES = 40
_LEVEL = 0.05
_SAME_M = 1.0
_GIVE = "give the area to be mapped (geoelle fit --for BBOX, a raster or a run)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matching:
    """The folds that were chosen, int64 (n,), and how well they match the area to be mapped.

    `label_n` is what was never divided: clusters, or sites where folds are random (`clusters` is None).
    Distances in metres: `sample_s` and `fold_s` of each distinct site, `domain_m` of each point of the domain.
    `w_m` and `random_w_m` are W of these folds and of random ones; `p` is that of the test for clustering.
    """

    fold_n: np.ndarray
    label_n: np.ndarray
    clusters: int | None
    sample_s: np.ndarray
    domain_m: np.ndarray
    fold_s: np.ndarray
    w_m: float
    random_w_m: float
    p: float

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was found: random folds where they are right, and folds too near where none are far enough."""
        against = f"W = {_length(self.w_m)} against the area to be mapped"
        if self.clusters is None:
            said = (
                f"kNNDM folds are random, {against}: the sample is no denser than that area asks for (one-sided KS "
                f"test, p = {self.p:.2g}); the scores hold there and nowhere else"
            )
        else:
            said = f"kNNDM folds are {self.clusters:,} clusters, {against}; random folds: {_length(self.random_w_m)}"
        if self.clusters is not None and self.p >= _LEVEL:
            said += " (random folds would do, were it not that the buffer takes too much of their training part)"
        fold_m, domain_m = float(np.median(self.fold_s)), float(np.median(self.domain_m))
        if fold_m >= domain_m / 2:
            return (said,)
        return said, (
            f"the area to be mapped lies {_length(domain_m)} from the sample, held-out chips only {_length(fold_m)} "
            "from their training part (medians): the scores flatter the map; add chips there"
        )


class KNNDM(BaseCrossValidator):
    """Split points into folds whose distances to their training points match those of the area to be mapped.

    `groups` is (n, 2) lon, lat in degrees, `domain_lonlat_m2` points of the area to be mapped, of which 2,000
    are drawn. Points of one site (the same coordinates) are never divided. Where the sample is no denser than
    the area asks for (one-sided Kolmogorov-Smirnov test, p of 0.05), folds are random; else clusters are
    merged along the first principal axis, for a row of numbers of clusters. The least W wins, random folds
    included, among those whose largest fold has at most `largest` of the points (0.6 for two folds).

    A chip never counts as its own neighbour: where a point of the domain is a sampled chip, its distance is
    to the nearest other one. On ground without gaps, the least distance is therefore that of two chips.

    Training points within `buffer_m` of a test point are left out, and distances are those of what is left.
    Folds that lose more than half of their training points to the buffer are not taken, random ones included.

    Raises `HoldoutError` without a domain, with fewer sites than folds, or where no folds are left to take.
    """

    __metadata_request__split = {"groups": True}  # noqa: RUF012 - scikit-learn's own convention

    def __init__(
        self,
        n_splits: int = 5,
        *,
        domain_lonlat_m2: np.ndarray | None = None,
        largest: float = 0.5,
        buffer_m: float = 0.0,
        random_state: int = 0,
    ) -> None:
        self.n_splits = n_splits
        self.domain_lonlat_m2 = domain_lonlat_m2
        self.largest = largest
        self.buffer_m = buffer_m
        self.random_state = random_state
        self._known: dict[bytes, Matching] = {}

    def __repr__(self) -> str:
        points = 0 if self.domain_lonlat_m2 is None else len(self.domain_lonlat_m2)
        return f"KNNDM(n_splits={self.n_splits}, domain={points} points, buffer_m={self.buffer_m:.6g})"

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        """Return the number of folds."""
        return self.n_splits

    def labels(self, groups: np.ndarray) -> np.ndarray:
        """Label the unit that is never divided: the cluster, or the site where folds are random; int64 (n,)."""
        return self.match(groups).label_n

    def inner(self, groups: np.ndarray) -> Self:
        """Return the same splitter for a training part, matched to the same area, with what is known so far."""
        n = enough(len(np.unique(_rounded(sphere_n3(groups)), axis=0)), 2, "sites", "add chips")
        made = type(self)(
            min(self.n_splits, n),
            domain_lonlat_m2=self.domain_lonlat_m2,
            largest=self.largest,
            buffer_m=self.buffer_m,
            random_state=self.random_state,
        )
        made._known = self._known
        return made

    def split(self, X: object, y: object = None, groups: np.ndarray | None = None) -> Folds:
        """Yield (train, test) row numbers; every point is tested exactly once."""
        lonlat_n2 = given(groups, X, "coordinates", "an (n, 2) array of lon, lat in degrees")
        fold_n, sphere = self.match(lonlat_n2).fold_n, sphere_n3(lonlat_n2)
        for k in range(self.n_splits):
            test, train = np.flatnonzero(fold_n == k), np.flatnonzero(fold_n != k)
            yield train[~near(sphere[train], sphere[test], self.buffer_m)], test

    def match(self, groups: np.ndarray) -> Matching:
        """Choose the folds and say how they match; kept, as a fit and its nulls ask for the same ones often."""
        sphere = sphere_n3(groups)
        limits = f"{self.n_splits} {self.largest} {self.buffer_m} {self.random_state}"
        key = hashlib.sha256(sphere.tobytes() + limits.encode()).digest()
        if key not in self._known:
            self._known[key] = self._match(sphere)
        return self._known[key]

    def _match(self, sphere_n3: np.ndarray) -> Matching:
        sphere_s3, site_n, count_s = np.unique(_rounded(sphere_n3), axis=0, return_inverse=True, return_counts=True)
        enough(len(count_s), max(2, self.n_splits), "sites", "add chips")
        sample_m = metres(KDTree(sphere_s3).query(sphere_s3, k=2)[0][:, 1])
        domain_m = self._domain_distances(sphere_s3)
        p = float(ks_2samp(sample_m, domain_m, alternative="greater", method="asymp").pvalue)
        sites = _Sites(sphere_s3, count_s, self)
        random = sites.random()
        chosen = random if p >= _LEVEL and sites.allows(random) else sites.best(random, domain_m)
        distance_s, random_s = sites.distances(chosen), sites.distances(random)
        return Matching(
            fold_n=chosen.fold_s[site_n.ravel()],
            label_n=chosen.label_s[site_n.ravel()],
            clusters=None if chosen is random else int(chosen.label_s.max()) + 1,
            sample_s=sample_m,
            domain_m=domain_m,
            fold_s=distance_s,
            w_m=float(wasserstein_distance(distance_s, domain_m)),
            random_w_m=float(wasserstein_distance(random_s, domain_m)) if np.isfinite(random_s).all() else np.inf,
            p=p,
        )

    def _domain_distances(self, sites_s3: np.ndarray) -> np.ndarray:
        """Measure each point of the domain to the nearest sampled site that is not itself."""
        domain = self.domain_lonlat_m2
        if domain is None or not len(domain):
            raise HoldoutError(f"kNNDM folds fail without an area to be mapped (domain={domain}); {_GIVE}")
        points_m3 = _rounded(sphere_n3(domain))
        if len(points_m3) > DOMAIN_POINTS:
            rng = np.random.default_rng(self.random_state)
            points_m3 = points_m3[np.sort(rng.choice(len(points_m3), DOMAIN_POINTS, replace=False))]
        nearest_m2 = metres(KDTree(sites_s3).query(points_m3, k=2)[0])
        return np.where(nearest_m2[:, 0] < _SAME_M, nearest_m2[:, 1], nearest_m2[:, 0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Folds:
    """Folds of sites, the label that was not divided, and the sites that each fold trains on."""

    fold_s: np.ndarray
    label_s: np.ndarray
    training: tuple[np.ndarray, ...]


class _Sites:
    """Distinct sites on the unit sphere, `count_s` points each, and the folds they can be dealt to."""

    def __init__(self, sphere_s3: np.ndarray, count_s: np.ndarray, cv: KNNDM) -> None:
        self.sphere_s3, self.count_s = sphere_s3, count_s
        self.n_splits, self.buffer_m = cv.n_splits, cv.buffer_m
        self.most = max(cv.largest, 1.2 / cv.n_splits) * count_s.sum()
        self.rng = np.random.default_rng(cv.random_state)
        centred_s3 = sphere_s3 - np.average(sphere_s3, axis=0, weights=count_s)
        axes = np.linalg.eigh((centred_s3 * count_s[:, None]).T @ centred_s3)[1]
        self.along_s = centred_s3 @ axes[:, -1]

    def random(self) -> _Folds:
        """Deal the sites at random, as many to each fold."""
        n = len(self.count_s)
        return self._folds(self.rng.permutation(np.arange(n) % self.n_splits), np.arange(n))

    def best(self, random: _Folds, domain_m: np.ndarray) -> _Folds:
        """Return the folds of least W: merged clusters, or the random ones."""
        tested = np.sort(self.rng.permutation(len(self.count_s))[:_TESTED])
        found: tuple[float, _Folds] | None = None
        for folds in (*map(self._merged, self._clusters()), random):
            if not self.allows(folds):
                continue
            w_m = wasserstein_distance(self.distances(folds, tested)[tested], domain_m)
            if found is None or w_m < found[0]:
                found = w_m, folds
        if found is None:
            raise HoldoutError(
                f"kNNDM finds no {self.n_splits} folds of {len(self.count_s)} sites that keep half of their training "
                f"points outside the buffer (buffer_m={self.buffer_m:g}); use more ground or a narrower buffer"
            )
        return found[1]

    def allows(self, folds: _Folds) -> bool:
        """Return whether no fold is too large and each keeps enough to train on outside the buffer."""
        size_k = np.bincount(folds.fold_s, self.count_s)
        kept_k = np.array([self.count_s[train].sum() for train in folds.training])
        return bool(size_k.max() <= self.most and (kept_k >= MIN_TRAIN * (size_k.sum() - size_k)).all())

    def distances(self, folds: _Folds, tested: np.ndarray | None = None) -> np.ndarray:
        """Measure each site, or those `tested`, to the nearest one its fold trains on, metres; inf if none."""
        out_s = np.full(len(folds.fold_s), np.inf)
        rows = np.arange(len(out_s)) if tested is None else tested
        for k, train in enumerate(folds.training):
            test = rows[folds.fold_s[rows] == k]
            if len(train):
                tree = KDTree(self.sphere_s3[train], balanced_tree=False, compact_nodes=False)
                out_s[test] = metres(tree.query(self.sphere_s3[test])[0])
        return out_s

    def _folds(self, fold_s: np.ndarray, label_s: np.ndarray) -> _Folds:
        training = []
        for k in range(self.n_splits):
            train = np.flatnonzero(fold_s != k)
            training.append(train[~near(self.sphere_s3[train], self.sphere_s3[fold_s == k], self.buffer_m)])
        return _Folds(fold_s=fold_s, label_s=label_s, training=tuple(training))

    def _clusters(self) -> Iterator[np.ndarray]:
        """Yield a cluster for each site, few large ones first."""
        n = len(self.count_s)
        chosen = np.sort(self.rng.permutation(n)[:_TREE_POINTS])
        nearest_s = KDTree(self.sphere_s3[chosen]).query(self.sphere_s3)[1]
        sizes = np.geomspace(self.n_splits, len(chosen) - 1, _CANDIDATES).round().astype(int)
        # scipy's cut_tree puts all in one where it is asked for as many clusters as there are points
        sizes = np.unique(sizes[(sizes >= self.n_splits) & (sizes < len(chosen))])
        for label_c in cut_tree(ward(self.sphere_s3[chosen]), sizes).T:
            yield label_c[nearest_s].astype(np.int64)

    def _merged(self, label_s: np.ndarray) -> _Folds:
        """Merge clusters into folds: large ones are folds, the others dealt in turn along the principal axis."""
        size_c = np.bincount(label_s, self.count_s)
        order = np.argsort(np.bincount(label_s, self.along_s * self.count_s) / size_c, kind="stable")
        large = size_c[order] >= size_c.sum() / self.n_splits
        n_large = int(large.sum())
        fold_c = np.empty(len(size_c), np.int64)
        fold_c[order[large]] = np.arange(n_large)
        fold_c[order[~large]] = n_large + np.arange(len(size_c) - n_large) % max(self.n_splits - n_large, 1)
        return self._folds(fold_c[label_s], label_s)


def _rounded(sphere_n3: np.ndarray) -> np.ndarray:
    """Round to 6 mm, so that one site has one spelling (180 E is 180 W); without minus zero."""
    return sphere_n3.round(9) + 0.0


def _length(distance_m: float) -> str:
    return f"{distance_m / 1000:.3g} km" if distance_m >= 1000 else f"{distance_m:.3g} m"
