"""Measure what a score hides: calibration, how much ground it takes, which dimensions carry it, where it fails.

Arrays in, arrays out. Everything is out of fold on the splitter of the fit. Intervals are 95% and redraw held-out
places; where training blocks or dimensions are drawn too, their draws are pooled with those of the places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from sklearn.model_selection import BaseCrossValidator

from geoelle.baselines import Fold, Ground
from geoelle.bootstrap import MIN_WITHIN, Bootstrap, Draws, Interval, Metrics
from geoelle.errors import HoldoutError
from geoelle.holdout import PlaceKFold
from geoelle.ridge import nested_ridge

__all__ = [
    "ALPHAS",
    "MOST_ROWS",
    "CalibrationLine",
    "Curve",
    "Dimensions",
    "PlaceScores",
    "Scaling",
    "Task",
    "calibration_line",
    "dimension_ablation",
    "pooled_metrics",
    "principal_predictions",
    "sample_scaling",
    "score_places",
    "whole_blocks",
]

ALPHAS: tuple[float, ...] = tuple(float(a) for a in np.logspace(-2, 6, 9))
"""Fewer strengths than a fit tries: a curve takes hundreds of fits."""
MOST_ROWS = 10_000
LEAST_BLOCKS = 3
_SIZES = 7
_PLACE_DRAWS = 200
_INNER_FOLDS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """What was fitted and how it was held out: the values that every diagnostic shares.

    `y_n` is the target on the scale of the fit, `predicted_n` what the probe says of each row out of fold, `label_n`
    the unit that folds keep whole. `rivals` are the (n, f) inputs of nulls that are ridges, by name.
    """

    vectors_nd: np.ndarray
    y_n: np.ndarray
    predicted_n: np.ndarray
    ground: Ground
    label_n: np.ndarray
    rivals: Mapping[str, np.ndarray]

    def at(self, rows: np.ndarray) -> Self:
        """Return some of the rows."""
        return replace(
            self,
            vectors_nd=self.vectors_nd[rows],
            y_n=self.y_n[rows],
            predicted_n=self.predicted_n[rows],
            ground=replace(self.ground, groups=np.asarray(self.ground.groups)[rows]),
            label_n=self.label_n[rows],
            rivals={name: x_nf[rows] for name, x_nf in self.rivals.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationLine:
    """The least-squares line measured = intercept + slope * predicted; 1 and 0 where the probe is calibrated."""

    slope: Interval
    intercept: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The scores of one predictor at every size, and the paired difference in r: first curve minus this one."""

    name: str
    r: tuple[Interval, ...]
    r2: tuple[Interval, ...]
    first_minus_it: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Held-out scores against the mean number of training rows and of training blocks over the folds."""

    rows: tuple[float, ...]
    blocks: tuple[float, ...]
    curves: tuple[Curve, ...]
    draws: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Held-out scores against the number of dimensions: the first k, k at random, the first k components."""

    dims: tuple[int, ...]
    curves: tuple[Curve, ...]
    draws: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlaceScores:
    """Scores of m places: rows, r within (NaN below 8 rows), mean residual, and the place of each row, 0 .. m-1."""

    rows_m: np.ndarray
    r_m: np.ndarray
    bias_m: np.ndarray
    place_n: np.ndarray


def calibration_line(
    y_n: np.ndarray, predicted_n: np.ndarray, place_n: np.ndarray, *, seed: int = 0
) -> CalibrationLine:
    """Regress measured on predicted values; a slope below 1 says that predictions are too extreme.

    Raises `HoldoutError` for fewer than two places.

    >>> y = np.arange(40.0); place = np.repeat(np.arange(4), 10)
    >>> line = calibration_line(y, 2 * y + 6, place)
    >>> print(line.slope, line.intercept)
    0.500 [0.500, 0.500] -3.000 [-3.000, -3.000]
    """
    bootstrap = Bootstrap(place_n, seed=seed)
    x0, y0 = float(np.mean(predicted_n)), float(np.mean(y_n))
    x_n, z_n = predicted_n - x0, y_n - y0  # centred, for the sake of rounding
    columns = (np.ones_like(x_n), x_n, z_n, x_n * x_n, x_n * z_n)
    sums_p5 = np.stack([np.bincount(bootstrap.place_n, v, bootstrap.n_places) for v in columns], 1)
    n, x, z, xx, xz = (bootstrap.counts_dp @ sums_p5).T
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (xz - x * z / n) / (xx - x * x / n)
        intercept = y0 + (z - slope * x) / n - slope * x0
    return CalibrationLine(slope=Interval.of(slope), intercept=Interval.of(intercept))


def pooled_metrics(task: Task, *, seed: int = 0) -> Metrics:
    """Score the out-of-fold predictions over all rows and within places.

    Raises `HoldoutError` for fewer than two places.
    """
    return Bootstrap(task.label_n, seed=seed).score(task.y_n, task.predicted_n).metrics()


def score_places(y_n: np.ndarray, predicted_n: np.ndarray, label_n: np.ndarray) -> PlaceScores:
    """Score each place by itself; the mean residual, measured minus predicted, is its bias.

    >>> scores = score_places(np.arange(18.0), np.arange(18.0) % 9, np.repeat(["a", "b"], 9))
    >>> scores.r_m.round(3), scores.bias_m
    (array([1., 1.]), array([0., 9.]))
    """
    place_n, rows_m = np.unique(label_n, return_inverse=True, return_counts=True)[1:]
    residual_n = y_n - predicted_n
    r_m = np.full(len(rows_m), np.nan)
    for place in np.flatnonzero(rows_m >= MIN_WITHIN):
        y, p = y_n[place_n == place], predicted_n[place_n == place]
        if y.std() > 0 and p.std() > 0:
            r_m[place] = np.corrcoef(y, p)[0, 1]
    return PlaceScores(rows_m=rows_m, r_m=r_m, bias_m=np.bincount(place_n, residual_n) / rows_m, place_n=place_n)


def whole_blocks(label_n: np.ndarray, *, most: int = MOST_ROWS, least_blocks: int = 2, seed: int = 0) -> np.ndarray:
    """Return the rows, in order, of whole blocks drawn at random: about `most`, from `least_blocks` blocks or more.

    Blocks are taken until the next would pass `most`; all rows are returned where they are no more.

    >>> whole_blocks(np.repeat([7, 8, 9], 4), most=9)
    array([ 0,  1,  2,  3,  8,  9, 10, 11])
    """
    place_n, sizes = np.unique(label_n, return_inverse=True, return_counts=True)[1:]
    order = np.random.default_rng(seed).permutation(len(sizes))
    taken = (np.cumsum(sizes[order]) <= most) | (np.arange(len(order)) < least_blocks)
    return np.flatnonzero(np.isin(place_n, order[taken]))


def sample_scaling(task: Task, *, draws: int = 6, seed: int = 0) -> Scaling:
    """Score probe and rivals trained on ever more whole blocks of each training part.

    Every draw orders the blocks anew and takes nested subsets, from three blocks to all; probe and rivals see the same
    subsets, and all held-out rows are predicted each time. Strengths are chosen on whole blocks of the subset, without
    the buffer, which would leave small subsets nothing to train on; the buffer around held-out ground stays.

    Raises `HoldoutError` where a fold trains on fewer than three blocks.
    """
    folds = task.ground.folds()
    shares = _shares(min(len(np.unique(task.label_n[train])) for train, _ in folds))
    subsets = [
        [_nested_part(folds, task.label_n, share, seed + draw) for draw in range(draws if share < 1 else 1)]
        for share in shares
    ]
    bootstrap = Bootstrap(task.label_n, n_draws=_PLACE_DRAWS, seed=seed)
    scored = {
        name: [[bootstrap.score(task.y_n, _predict(x_nd, task, part)) for part in parts] for parts in subsets]
        for name, x_nd in ({"ELLE": task.vectors_nd} | dict(task.rivals)).items()
    }
    trained = [[train for part in parts for train, _ in part] for parts in subsets]
    return Scaling(
        rows=tuple(float(np.mean([len(rows) for rows in each])) for each in trained),
        blocks=tuple(float(np.mean([len(np.unique(task.label_n[rows])) for rows in each])) for each in trained),
        curves=_curves(scored),
        draws=draws,
    )


def dimension_ablation(task: Task, *, draws: int = 5, seed: int = 0) -> Dimensions:
    """Score probes on k dimensions, k a power of 2 up to all: the first k, k at random, k principal components.

    Where the first k do no better than k at random, the order of the dimensions means nothing to the loss. The random
    dimensions of a draw are nested.
    """
    dim = task.vectors_nd.shape[1]
    dims = [2**i for i in range(int(np.log2(dim)) + 1)]
    dims += [dim] if dims[-1] < dim else []
    orders = [np.random.default_rng([seed, draw]).permutation(dim) for draw in range(draws)]
    bootstrap = Bootstrap(task.label_n, n_draws=_PLACE_DRAWS, seed=seed)

    def scored(columns: np.ndarray) -> Draws:
        y_nt, ground = task.y_n[:, None], task.ground
        x_nk = task.vectors_nd[:, np.sort(columns)]
        nested = nested_ridge(x_nk, y_nt, cv=ground.cv, groups=ground.groups, alphas=ALPHAS)
        return bootstrap.score(task.y_n, nested.predicted_nt[:, 0])

    first = [[scored(np.arange(k))] for k in dims]
    components = principal_predictions(task, dims).T
    curves = {
        "first k": first,
        "k at random": [
            [scored(o[:k]) for o in orders] if k < dim else each for k, each in zip(dims, first, strict=True)
        ],
        "k principal components": [[bootstrap.score(task.y_n, p_n)] for p_n in components],
    }
    return Dimensions(dims=tuple(dims), curves=_curves(curves), draws=draws)


def principal_predictions(task: Task, dims: Sequence[int], alphas: Sequence[float] = ALPHAS) -> np.ndarray:
    """Predict every row out of fold by ridges on the first k principal components, (n, len(dims)).

    Inputs are standardised and turned by the training part alone; components keep their own variances, so that all of
    them together are the ridge on the inputs. Strengths are chosen for each k on the inner folds of the splitter.
    """
    alphas_a, k_index = np.sort(np.asarray(alphas, np.float64)), np.asarray(dims) - 1
    out_nk = np.full((len(task.y_n), len(dims)), np.nan)
    x_nd = np.asarray(task.vectors_nd, np.float64)
    for train, test in task.ground.folds():
        errors_ak = np.zeros((len(alphas_a), len(dims)))
        for seen, unseen in task.ground.within(train).folds():
            paths = _component_paths(x_nd[train[seen]], task.y_n[train[seen]], x_nd[train[unseen]], alphas_a, k_index)
            errors_ak += [np.square(task.y_n[train[unseen], None] - path_mk).sum(0) for path_mk in paths]
        best_k = len(alphas_a) - 1 - np.argmin(errors_ak[::-1], axis=0)  # the strongest where errors are equal
        for a, path_mk in enumerate(_component_paths(x_nd[train], task.y_n[train], x_nd[test], alphas_a, k_index)):
            chosen = np.flatnonzero(best_k == a)
            out_nk[np.ix_(test, chosen)] = path_mk[:, chosen]
    return out_nk


def _component_paths(
    x_nd: np.ndarray, y_n: np.ndarray, unseen_md: np.ndarray, alphas_a: np.ndarray, k_index: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the predictions (m, k) under each alpha; sizes above the rank of the training rows are the full ridge."""
    mean_d, spread_d = x_nd.mean(0), x_nd.std(0)
    varies = spread_d > 10 * np.finfo(np.float64).eps * np.abs(x_nd).max(0)
    scale_d = np.where(varies, spread_d, 1.0)
    z_nd = (x_nd - mean_d) / scale_d * varies
    y_mean = y_n.mean()
    if len(z_nd) >= len(mean_d):
        values_e, basis_de = (part[..., ::-1] for part in np.linalg.eigh(z_nd.T @ z_nd))
    else:
        values_e, left_ne = (part[..., ::-1] for part in np.linalg.eigh(z_nd @ z_nd.T))
        basis_de = z_nd.T @ (left_ne / np.sqrt(np.maximum(values_e, np.finfo(np.float64).eps * values_e[0])))
    target_e = basis_de.T @ (z_nd.T @ (y_n - y_mean))
    seen_me = (unseen_md - mean_d) / scale_d * varies @ basis_de
    last = np.minimum(k_index, len(values_e) - 1)
    for alpha in alphas_a:
        yield y_mean + np.cumsum(seen_me * (target_e / (np.maximum(values_e, 0.0) + alpha)), axis=1)[:, last]


class _Subsets(BaseCrossValidator):
    """Give folds that are fixed; choose strengths inside by whole blocks, whose labels are the groups."""

    def __init__(self, folds: Sequence[Fold]) -> None:
        self.folds = folds

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        return len(self.folds)

    def split(self, X: object, y: object = None, groups: object = None) -> Iterator[Fold]:
        yield from self.folds

    def inner(self, groups: np.ndarray) -> PlaceKFold:
        return PlaceKFold(_INNER_FOLDS).inner(groups)


def _shares(blocks: int) -> np.ndarray:
    """Return the shares of the training blocks to train on, in geometric steps from three blocks to all."""
    if blocks < LEAST_BLOCKS:
        raise HoldoutError(
            f"a scaling curve needs {LEAST_BLOCKS} blocks to train on ({blocks} in a fold); use smaller blocks or more "
            "ground"
        )
    return np.unique(np.rint(np.geomspace(LEAST_BLOCKS, blocks, _SIZES))) / blocks


def _nested_part(folds: Sequence[Fold], label_n: np.ndarray, share: float, seed: int) -> list[Fold]:
    """Keep the first blocks of each training part in an order that depends on the seed alone, so shares nest."""
    order_b = np.random.default_rng(seed).permutation(np.unique(label_n))
    rank_n = np.argsort(order_b)[np.unique(label_n, return_inverse=True)[1]]
    part = []
    for train, test in folds:
        ranks = np.unique(rank_n[train])
        last = ranks[max(LEAST_BLOCKS, round(share * len(ranks))) - 1]
        part.append((train[rank_n[train] <= last], test))
    return part


def _predict(x_nd: np.ndarray, task: Task, part: Sequence[Fold]) -> np.ndarray:
    nested = nested_ridge(x_nd, task.y_n[:, None], cv=_Subsets(part), groups=task.label_n, alphas=ALPHAS)
    return nested.predicted_nt[:, 0]


def _curves(scored: Mapping[str, Sequence[Sequence[Draws]]]) -> tuple[Curve, ...]:
    """Pool the draws of each size; pair them with those of the first curve, which may be a single one."""
    (first_name, first), *_ = scored.items()
    return tuple(
        Curve(
            name=name,
            r=tuple(_pooled([one.r for one in each]) for each in sizes),
            r2=tuple(_pooled([one.r2 for one in each]) for each in sizes),
            first_minus_it=()
            if name == first_name
            else tuple(
                _pooled([(of_first[i] if len(of_first) > 1 else of_first[0]).r - one.r for i, one in enumerate(each)])
                for of_first, each in zip(first, sizes, strict=True)
            ),
        )
        for name, sizes in scored.items()
    )


def _pooled(each: Sequence[np.ndarray]) -> Interval:
    """Average the values and take the interval over all draws of all."""
    return Interval.of(np.concatenate([[np.mean([one[0] for one in each])], *(one[1:] for one in each)]))
