"""Fit a ridge to a table that does not fit in memory, batch by batch, to the same numbers.

The first pass takes the means, which are the origin; the second the moments of what each fold leaves out, from which
every strength is fitted and scored. Where moments cannot be trusted (`Moments.trusted`, a fit too close for its errors
to be told from moments) further passes read those rows again. Memory is that of a few Gram matrices a fold, whatever
the number of rows, and of the ground and fold of each row.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Self
from zlib import crc32

import numpy as np
from sklearn.model_selection import BaseCrossValidator

from geoelle.errors import ProbeError
from geoelle.holdout import default_cv
from geoelle.moments import Accumulator, Means, Moments, Ridges, squared_errors
from geoelle.ridge import (
    ALPHAS,
    RidgeProbeCV,
    Split,
    checked_alphas,
    cross_predict,
    inner_cv,
    is_partition,
    splits_of,
    strongest_best,
)

__all__ = ["Batches", "cross_predict_batches", "fit_batches"]

Batches = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


def fit_batches(
    batches: Batches,
    groups: np.ndarray | None,
    *,
    cv: BaseCrossValidator | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> RidgeProbeCV:
    """Return a `RidgeProbeCV` fitted as `RidgeProbeCV(alphas, cv).fit(X, y, groups)` would be on the whole table.

    `batches()` yields (b, d) inputs and (b,) targets, float32 or float64, and is called for every pass: it must yield
    the same rows in the same order. `groups` is the ground of all rows, (n, 2) lon, lat or (n,) labels.

    Raises `ProbeError` for batches that change between passes, are not finite, or do not match `groups`,
    `HoldoutError` without ground to hold out, `TypeError` for batches that are not a function.

    >>> X = np.random.default_rng(0).normal(size=(90, 2))
    >>> probe = fit_batches(lambda: ((x, x @ [2, -1]) for x in np.split(X, 9)), np.arange(90) // 10)
    >>> probe.coef_.round(3)
    array([ 2., -1.])
    """
    cv, alphas_a = default_cv(groups) if cv is None else cv, checked_alphas(alphas)
    table = _Table.first_pass(batches, groups)
    probe = RidgeProbeCV(alphas=alphas, cv=cv)
    if table.is_small:
        return probe.fit(*table.in_memory(), groups)
    (level,) = _fit_levels(table, [_Level.of(cv, groups, np.arange(table.n))], alphas_a)
    probe.n_features_in_ = table.d
    return probe.settle(alphas_a, level.sse_at[:, 0] / table.n, level.moments.ridges)


def cross_predict_batches(
    batches: Batches,
    groups: np.ndarray | None,
    *,
    cv: BaseCrossValidator | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Iterator[np.ndarray]:
    """Yield what `cross_predict` says of each batch, (b,) float64, in order: predictions that have not seen its ground.

    Rows that `cv` never tests are NaN. A Gram matrix is held for every inner fold of every outer one. Raises as
    `fit_batches` does, and `ProbeError` for a splitter that tests a row twice.
    """
    cv, alphas_a = default_cv(groups) if cv is None else cv, checked_alphas(alphas)
    table = _Table.first_pass(batches, groups)
    if table.is_small:
        x_nd, y_n = table.in_memory()
        predicted_n = cross_predict(x_nd, y_n, cv, groups, alphas)
        yield from (predicted_n[at : at + len(x_bd)] for at, x_bd, _ in table.passed())
        return
    fold_n, levels = np.full(table.n, -1), []
    for k, split in enumerate(splits_of(cv, table.rows, groups)):
        if (fold_n[split.test] >= 0).any():
            raise ProbeError(
                f"fold {k} tests rows of an earlier fold ({cv!r}); use a splitter that tests each row once"
            )
        fold_n[split.test] = k
        inside = None if groups is None else np.asarray(groups)[split.train]
        one = _Level(rows=split.train, splits=[])
        levels.append(one if len(alphas_a) == 1 else _Level.of(inner_cv(cv, inside), inside, split.train))
    fitted = _fit_levels(table, levels, alphas_a)
    ridges_k = [level.moments.ridges(alphas_a[strongest_best(level.sse_at)]) for level in fitted]
    for at, x_bd, _ in table.passed():
        fold_b, predicted_b = fold_n[at : at + len(x_bd)], np.full(len(x_bd), np.nan)
        for k in np.unique(fold_b[fold_b >= 0]):
            chosen = fold_b == k
            predicted_b[chosen] = ridges_k[k].predict(x_bd[chosen], np.zeros(1, np.int64))[:, 0]
        yield predicted_b


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """Batches that have been read once: their rows, inputs, means and checksums."""

    batches: Batches
    n: int
    d: int
    origin_e: np.ndarray
    checksums: tuple[int, int]

    @classmethod
    def first_pass(cls, batches: Batches, groups: np.ndarray | None) -> Self:
        if not callable(batches):
            raise TypeError(
                f"batches cannot be read twice from a {type(batches).__name__}; pass a function that yields"
            )
        means, sums = Means(), (0, 0)
        for x_bd, y_b1 in _checked(batches(), None):
            means.add(x_bd, y_b1)
            sums = _checksums(sums, x_bd, y_b1)
        if means.count < 2:
            raise ProbeError(f"a ridge cannot be fitted to {means.count} rows; pass at least 2")
        if groups is not None and means.count != len(groups):
            raise ProbeError(f"batches fail for {len(groups)} groups ({means.count} rows); pass one group a row")
        if not np.isfinite(means.mean_e).all():
            raise ProbeError(f"batches fail for {means.count} rows (NaN, inf or too large); drop those rows")
        d = len(means.mean_e) - 1
        return cls(batches=batches, n=means.count, d=d, origin_e=means.mean_e, checksums=sums)

    @property
    def rows(self) -> np.ndarray:
        """Stand in for the inputs where only their number is asked for."""
        return np.broadcast_to(0.0, (self.n, 1))

    @property
    def is_small(self) -> bool:
        """Whether the rows take no more memory than two Gram matrices; a fold may then have fewer than inputs."""
        return self.n <= 2 * self.d

    def in_memory(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = zip(*((x_bd, y_b1[:, 0]) for _, x_bd, y_b1 in self.passed()), strict=True)
        return np.concatenate(x), np.concatenate(y)

    def passed(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (number of the first row, inputs (b, d), targets (b, 1)) once more, and check that they are the same.

        Raises `ProbeError` where they are not, at the latest after the last batch.
        """
        at, sums = 0, (0, 0)
        for x_bd, y_b1 in _checked(self.batches(), self.d):
            sums = _checksums(sums, x_bd, y_b1)
            if at + len(x_bd) > self.n:
                break
            yield at, x_bd, y_b1
            at += len(x_bd)
        if sums != self.checksums:
            raise ProbeError(f"batches changed between passes ({self.n} rows at first); yield the same rows in order")

    def means(self, wanted: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Average, in one pass, the rows of each (row numbers ascending)."""
        means = [Means() for _ in wanted]
        for at, x_bd, y_b1 in self.passed():
            for rows, each in zip(wanted, means, strict=True):
                here = _here(rows, at, len(x_bd))
                each.add(x_bd[here], y_b1[here])
        return [each.mean_e for each in means]

    def moments(self, wanted: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Moments]:
        """Sum, in one pass, the rows of each (row numbers ascending, origin)."""
        sums = [(rows, Accumulator(origin_e, 1)) for rows, origin_e in wanted]
        for at, x_bd, y_b1 in self.passed():
            for rows, accumulator in sums:
                accumulator.add(x_bd, y_b1, _here(rows, at, len(x_bd)))
        # each is let go as it is turned into moments, or there would be two Gram matrices of each
        return [sums.pop(0)[1].moments() for _ in wanted]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Level:
    """Rows among which a strength is chosen, ascending, and the splits of them."""

    rows: np.ndarray
    splits: list[Split]

    @classmethod
    def of(cls, cv: BaseCrossValidator, groups: np.ndarray | None, rows: np.ndarray) -> Self:
        return cls(rows=rows, splits=splits_of(cv, np.broadcast_to(0.0, (len(rows), 1)), groups))

    @property
    def adds_up(self) -> bool:
        """Whether the tests are all rows, each once."""
        return bool(self.splits) and is_partition(self.splits)

    def parts(self) -> list[np.ndarray]:
        """Row numbers to sum: each test, each buffer that there is, and all rows where the tests do not add up."""
        inside = [split.test for split in self.splits]
        inside += [split.buffer for split in self.splits if len(split.buffer)]
        return [self.rows[part] for part in inside] + ([] if self.adds_up else [self.rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fold:
    """One split of a level: the rows it tests and their moments, and its ridges or the rows to sum them from."""

    level: int
    test: np.ndarray
    held: Moments
    ridges: Ridges | None
    train: np.ndarray | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitted:
    """Held-out squared errors (a, 1) of a level, and the moments of its rows."""

    sse_at: np.ndarray
    moments: Moments


def _fit_levels(table: _Table, levels: Sequence[_Level], alphas_a: np.ndarray) -> list[_Fitted]:
    """Score every strength on every level from one pass, and from the rows again what moments cannot tell."""
    parts = [level.parts() for level in levels]
    sums = iter(table.moments([(rows, table.origin_e) for part in parts for rows in part]))
    folds, whole_l = [], []
    for number, (level, part) in enumerate(zip(levels, parts, strict=True)):
        found = [next(sums) for _ in part]
        whole_l.append(reduce(add, found[: len(level.splits)]) if level.adds_up else found[-1])
        folds += _folds(number, level, found, whole_l[-1], alphas_a)
    folds, whole_l = _summed_again(table, levels, folds, whole_l, alphas_a)
    sse_lat = np.zeros((len(levels), len(alphas_a), 1))
    for fold, sse_at in zip(folds, _errors(table, folds), strict=True):
        sse_lat[fold.level] += sse_at
    return [_Fitted(sse_at=sse_at, moments=whole) for sse_at, whole in zip(sse_lat, whole_l, strict=True)]


def _folds(
    number: int, level: _Level, found: Sequence[Moments], whole: Moments, alphas_a: np.ndarray
) -> Iterator[_Fold]:
    """Subtract from all rows of a level what each split leaves out."""
    buffers = iter(found[len(level.splits) :])
    for split, held in zip(level.splits, found, strict=False):
        left = held + next(buffers) if len(split.buffer) else held
        rest = None if split.drawn is not None else whole - left
        safe = rest is not None and rest.trusted
        yield _Fold(
            level=number,
            test=level.rows[split.test],
            held=held,
            ridges=rest.ridges(alphas_a) if safe else None,
            train=None if safe else level.rows[np.sort(split.train)],
        )


def _summed_again(
    table: _Table, levels: Sequence[_Level], folds: list[_Fold], whole_l: list[Moments], alphas_a: np.ndarray
) -> tuple[list[_Fold], list[Moments]]:
    """Read again, about their own means, the rows of which too little variance was left."""
    lost_k = [k for k, fold in enumerate(folds) if fold.train is not None]
    lost_l = [number for number, whole in enumerate(whole_l) if not whole.trusted]
    if lost_k or lost_l:
        rows = [folds[k].train for k in lost_k] + [levels[number].rows for number in lost_l]
        found = table.moments(list(zip(rows, table.means(rows), strict=True)))
        for k, moments in zip(lost_k, found, strict=False):
            folds[k] = replace(folds[k], ridges=moments.ridges(alphas_a), train=None)
        for number, moments in zip(lost_l, found[len(lost_k) :], strict=True):
            whole_l[number] = moments
    return folds, whole_l


def _errors(table: _Table, folds: Sequence[_Fold]) -> list[np.ndarray]:
    """Sum the squared errors of each fold, (a, 1), from moments, and in one more pass those not sure."""
    found = [fold.held.squared_errors(fold.ridges) for fold in folds]
    unsure = [(fold, ~sure_at, sse_at) for fold, (sse_at, sure_at) in zip(folds, found, strict=True)]
    unsure = [(fold, wanted_at, sse_at) for fold, wanted_at, sse_at in unsure if wanted_at.any()]
    for _, wanted_at, sse_at in unsure:
        sse_at[wanted_at] = 0
    for at, x_bd, y_b1 in table.passed() if unsure else ():
        for fold, wanted_at, sse_at in unsure:
            sse_at += squared_errors(fold.ridges, x_bd, y_b1, _here(fold.test, at, len(x_bd)), wanted_at)
    return [sse_at for sse_at, _ in found]


def _here(rows: np.ndarray, at: int, n: int) -> np.ndarray:
    """Return which rows of a batch of n that begins at a row are among ascending row numbers."""
    low, high = np.searchsorted(rows, (at, at + n))
    return rows[low:high] - at


def _checked(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], d: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (b, d) inputs and (b, 1) targets of batches that are what they should be."""
    for number, (x, y) in enumerate(batches):
        x, y = np.asarray(x), np.asarray(y)
        d = x.shape[-1] if d is None and x.ndim == 2 else d
        if x.ndim != 2 or x.shape[1] != d or y.shape != x.shape[:1] or not {x.dtype.kind, y.dtype.kind} <= set("fiu"):
            raise ProbeError(
                f"batch {number} fails for inputs of {x.shape} {x.dtype} and targets of {y.shape} {y.dtype}; "
                f"yield numbers of (b, {'d' if d is None else d}) and (b,)"
            )
        yield x, y.astype(np.float64)[:, None]


def _checksums(sums: tuple[int, int], x_bd: np.ndarray, y_b1: np.ndarray) -> tuple[int, int]:
    """Add a batch to the checksums of inputs and targets, which do not depend on where batches are cut."""
    return crc32(np.ascontiguousarray(x_bd), sums[0]), crc32(y_b1, sums[1])
