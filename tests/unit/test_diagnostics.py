"""Diagnostics against closed forms, scikit-learn and simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.baselines import Ground
from geoelle.bootstrap import Bootstrap
from geoelle.diagnostics import (
    ALPHAS,
    Task,
    _nested_part,
    _Subsets,
    calibration_line,
    dimension_ablation,
    pooled_metrics,
    principal_predictions,
    sample_scaling,
    score_places,
    whole_blocks,
)
from geoelle.errors import HoldoutError
from geoelle.holdout import PlaceKFold, SpatialKFold
from geoelle.ridge import nested_ridge

BLOCKS, EACH, DIM = 30, 16, 12


def make_task(y_n: np.ndarray, x_nd: np.ndarray, rivals: dict[str, np.ndarray] | None = None, each: int = EACH) -> Task:
    """Hold out places of `each` rows in three folds; predict by the ridge of the fit."""
    groups = np.repeat(np.arange(len(y_n) // each), each)
    cv = PlaceKFold(3)
    nested = nested_ridge(x_nd, y_n[:, None], cv=cv, groups=groups, alphas=ALPHAS)
    return Task(
        vectors_nd=x_nd, y_n=y_n, predicted_n=nested.predicted_nt[:, 0], ground=Ground(cv=cv, groups=groups),
        label_n=cv.labels(groups), rivals=rivals or {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def linear() -> Task:
    """A target that is linear in the vector but for noise: the best possible r is 1 / sqrt(1 + 0.5**2)."""
    rng = np.random.default_rng(1)
    x_nd = rng.normal(size=(BLOCKS * EACH, DIM))
    y_n = x_nd.sum(1) / DIM**0.5 + 0.5 * rng.normal(size=len(x_nd))
    return make_task(y_n, x_nd, {"noise": rng.normal(size=(len(x_nd), 5)), "itself": x_nd})


CEILING = 1 / 1.25**0.5


# --- calibration


def test_the_calibration_line_is_least_squares(linear: Task) -> None:
    line = calibration_line(linear.y_n, linear.predicted_n, linear.label_n)
    known = linregress(linear.predicted_n, linear.y_n)
    assert line.slope.value == pytest.approx(known.slope, rel=1e-9)
    assert line.intercept.value == pytest.approx(known.intercept, rel=1e-9)
    assert line.slope.low < line.slope.value < line.slope.high
    assert 0.5 < (line.slope.high - line.slope.low) / (3.92 * known.stderr) < 2  # rows are independent here


def test_the_interval_of_the_line_is_that_of_lines_through_redrawn_places() -> None:
    rng = np.random.default_rng(0)
    place_n = np.repeat(np.arange(8), 5)
    x_n = rng.normal(size=40) + place_n
    y_n = 0.5 * x_n + rng.normal(size=40) + 10
    counts_dn = Bootstrap(place_n, seed=0).counts_dp[:, place_n]
    lines = [np.polyfit(x_n, y_n, 1, w=np.sqrt(count_n)) for count_n in counts_dn[1:]]
    line = calibration_line(y_n, x_n, place_n)
    for column, found in enumerate((line.slope, line.intercept)):
        wanted = np.percentile([each[column] for each in lines], [2.5, 97.5])
        np.testing.assert_allclose([found.low, found.high], wanted, rtol=1e-9)


def test_predictions_that_are_too_extreme_have_a_slope_below_one(linear: Task) -> None:
    far = calibration_line(linear.y_n + 1e6, 2 * linear.predicted_n + 1e6, linear.label_n)
    fair = calibration_line(linear.y_n, linear.predicted_n, linear.label_n)
    assert far.slope.value == pytest.approx(fair.slope.value / 2, rel=1e-6)
    assert far.slope.high < 1


def test_a_constant_prediction_has_no_slope(linear: Task) -> None:
    assert np.isnan(calibration_line(linear.y_n, np.zeros(len(linear.y_n)), linear.label_n).slope.value)


# --- places


def test_places_have_their_own_r_and_bias() -> None:
    rng = np.random.default_rng(0)
    y_n, p_n = rng.normal(size=(2, 60))
    label_n = np.repeat([3, 1, 2], [30, 25, 5])
    scores = score_places(y_n, p_n, label_n)
    assert scores.rows_m.tolist() == [25, 5, 30]
    for place, label in enumerate((1, 2, 3)):
        mine = label_n == label
        assert scores.bias_m[place] == pytest.approx((y_n[mine] - p_n[mine]).mean())
        if mine.sum() >= 8:
            assert scores.r_m[place] == pytest.approx(np.corrcoef(y_n[mine], p_n[mine])[0, 1])
    assert np.isnan(scores.r_m[1])  # five rows
    assert (scores.place_n == np.repeat([2, 0, 1], [30, 25, 5])).all()


def test_pooled_and_within_place_scores_tell_a_place_effect_apart() -> None:
    """Between places the prediction is right, within them it is noise: r is high, r within is none."""
    rng = np.random.default_rng(0)
    effect_n = np.repeat(rng.normal(size=BLOCKS) * 3, EACH)
    y_n = effect_n + rng.normal(size=len(effect_n))
    task = make_task(y_n, rng.normal(size=(len(y_n), 2)))
    metrics = pooled_metrics(Task(**{**_fields(task), "predicted_n": effect_n + 0.1 * rng.normal(size=len(y_n))}))
    assert metrics.r.value > 0.9
    assert abs(metrics.within.value) < 0.15


def _fields(task: Task) -> dict[str, object]:
    return {name: getattr(task, name) for name in Task.__slots__}


# --- thinning


def test_thinning_keeps_blocks_whole() -> None:
    label_n = np.random.default_rng(0).integers(0, 50, 1_000)
    rows = whole_blocks(label_n, most=300)
    assert 240 < len(rows) <= 300
    assert (np.diff(rows) > 0).all()
    assert len(rows) == np.isin(label_n, label_n[rows]).sum()
    assert (whole_blocks(label_n, most=1_000) == np.arange(1_000)).all()
    assert len(np.unique(label_n[whole_blocks(label_n, most=10, least_blocks=7)])) == 7


# --- sample scaling


def test_the_scaling_curve_rises_to_the_ceiling_and_noise_stays_flat(linear: Task) -> None:
    scaling = sample_scaling(linear, draws=4)
    elle, noise, itself = scaling.curves
    r = [interval.value for interval in elle.r]
    assert r[-1] == pytest.approx(CEILING, abs=0.03)
    assert r[0] < r[-1] - 0.02
    assert elle.r[-1].low < CEILING < elle.r[-1].high
    assert elle.r2[-1].value == pytest.approx(CEILING**2, abs=0.05)
    assert max(interval.value for interval in noise.r) < 0.15
    assert all(interval.high < 0.3 for interval in noise.r)
    assert noise.first_minus_it[-1].low > 0.5
    # The same inputs see the same subsets, so that differences are exactly none.
    assert all((i.value, i.low, i.high) == (0, 0, 0) for i in itself.first_minus_it)


def test_the_last_size_is_all_of_the_training_part(linear: Task) -> None:
    scaling = sample_scaling(linear, draws=2)
    assert scaling.rows[0] == 3 * EACH
    assert scaling.rows[-1] == BLOCKS * EACH * 2 / 3
    assert scaling.blocks == tuple(rows / EACH for rows in scaling.rows)
    assert scaling.curves[0].r2[-1].value == pytest.approx(r2_score(linear.y_n, linear.predicted_n), abs=0.01)


def test_subsets_nest_and_leave_held_out_ground_alone(linear: Task) -> None:
    folds = linear.ground.folds()
    small, large = (_nested_part(folds, linear.label_n, share, seed=3) for share in (0.3, 0.7))
    for (few, test), (more, _), (_, whole_test) in zip(small, large, folds, strict=True):
        assert set(few) < set(more)
        assert not set(linear.label_n[more]) & set(linear.label_n[test])
        assert (test == whole_test).all()
        assert np.bincount(linear.label_n[few])[np.unique(linear.label_n[few])].tolist() == [EACH] * len(
            np.unique(few // EACH)
        )
    assert _nested_part(folds, linear.label_n, 0.3, seed=4)[0][0].tolist() != small[0][0].tolist()
    assert _Subsets(small).get_n_splits() == 3


def test_the_buffer_around_held_out_ground_stays() -> None:
    """Chips beside a held-out chip are in no training subset."""
    lon, lat = (v.ravel() for v in np.meshgrid(np.arange(24) * 0.01, np.arange(24) * 0.01))
    lonlat_n2, rng = np.stack([lon, lat], 1), np.random.default_rng(0)
    cv = SpatialKFold(3, block_m=5_000, buffer_m=1_200)
    ground, x_nd = Ground(cv=cv, groups=lonlat_n2), rng.normal(size=(len(lon), 3))
    task = Task(
        vectors_nd=x_nd, y_n=x_nd[:, 0], predicted_n=x_nd[:, 0], ground=ground, label_n=cv.labels(lonlat_n2), rivals={}
    )
    scaling = sample_scaling(task, draws=2)
    assert scaling.rows[-1] == np.mean([len(train) for train, _ in ground.folds()])
    assert scaling.rows[-1] < 0.6 * len(lon)
    assert scaling.curves[0].r[-1].value > 0.99


def test_too_few_blocks_have_no_curve() -> None:
    rng = np.random.default_rng(0)
    task = make_task(rng.normal(size=60), rng.normal(size=(60, 2)), each=20)
    with pytest.raises(HoldoutError, match="3 blocks to train on"):
        sample_scaling(task)


# --- dimensions


def test_all_components_are_the_ridge_on_the_inputs(linear: Task) -> None:
    all_of_them = principal_predictions(linear, [DIM])[:, 0]
    np.testing.assert_allclose(all_of_them, linear.predicted_n, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dim", [7, 400], ids=["tall", "wide"])
def test_components_equal_scikit_learns(dim: int) -> None:
    rng = np.random.default_rng(2)
    x_nd = rng.normal(size=(240, dim)) * rng.uniform(0.1, 10, dim) + 5
    x_nd[:, 1] = 3.0  # a constant column is no trouble
    task = make_task(rng.normal(size=240), x_nd)
    dims = [1, 3, 6]
    found_nk = principal_predictions(task, dims, alphas=[2.5])
    for column, k in enumerate(dims):
        pipeline = make_pipeline(StandardScaler(), PCA(k, svd_solver="full"), Ridge(alpha=2.5))
        for train, test in task.ground.folds():
            wanted = pipeline.fit(x_nd[train], task.y_n[train]).predict(x_nd[test])
            np.testing.assert_allclose(found_nk[test, column], wanted, rtol=1e-6, atol=1e-8)


def test_first_and_random_dimensions_agree_where_dimensions_are_exchangeable(linear: Task) -> None:
    ablation = dimension_ablation(linear, draws=4)
    first, random, components = ablation.curves
    assert ablation.dims == (1, 2, 4, 8, 12)
    assert all(i.low <= 0 <= i.high and abs(i.value) < 0.15 for i in random.first_minus_it)
    # k of 12 equal terms: r falls with the share of the signal that is read
    for k, interval in zip(ablation.dims, first.r, strict=True):
        assert interval.value == pytest.approx((k / DIM) ** 0.5 * CEILING, abs=0.12)
    assert first.r[-1] == random.r[-1]
    assert components.r[-1].value == pytest.approx(first.r[-1].value, abs=1e-9)


def test_a_matryoshka_order_shows() -> None:
    rng = np.random.default_rng(3)
    x_nd = rng.normal(size=(BLOCKS * EACH, 32))
    ablation = dimension_ablation(make_task(x_nd[:, :4].sum(1) + 0.3 * rng.normal(size=len(x_nd)), x_nd), draws=3)
    at = ablation.dims.index(4)
    assert ablation.curves[0].r[at].value > 0.95
    assert ablation.curves[1].first_minus_it[at].low > 0.1


def test_components_find_a_signal_along_the_widest_axis() -> None:
    rng = np.random.default_rng(4)
    hidden_n = rng.normal(size=BLOCKS * EACH)
    x_nd = hidden_n[:, None] * rng.normal(size=16) + rng.normal(size=(len(hidden_n), 16))
    first, _, components = dimension_ablation(make_task(hidden_n, x_nd), draws=2).curves
    assert components.r[0].value > 0.95
    assert components.first_minus_it[0].value < 0 and first.first_minus_it == ()


def test_ordinary_least_squares_is_the_limit(linear: Task) -> None:
    found = principal_predictions(linear, [DIM], alphas=[1e-9])[:, 0]
    train, test = linear.ground.folds()[0]
    wanted = LinearRegression().fit(linear.vectors_nd[train], linear.y_n[train]).predict(linear.vectors_nd[test])
    np.testing.assert_allclose(found[test], wanted, rtol=1e-6)
