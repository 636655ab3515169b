"""Moments: sums that add and subtract, what they say of a ridge, and where they admit that they cannot tell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoelle.errors import ProbeError
from geoelle.moments import Means, Moments, origin_of, squared_errors

ALPHAS = np.array([1e-3, 1.0, 1e3])


def rows(n=200, d=6, t=2, seed=0):
    rng = np.random.default_rng(seed)
    x_nd = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(0, 20, d)
    return x_nd, x_nd @ rng.normal(size=(d, t)) + rng.normal(size=(n, t))


def of(x_nd, y_nt, origin_e=None, at=None):
    return Moments.of(x_nd, y_nt, origin_of(x_nd, y_nt) if origin_e is None else origin_e, at)


def assert_same(a, b, worn=0.0):
    """Equal but for the rounding of all that went in."""
    limit_ee = 1e-14 * (a.count + b.count + 1) * np.sqrt(np.multiply.outer(a.worn_e + worn, a.worn_e + worn))
    assert a.count == b.count
    assert (np.abs(a.products_ee - b.products_ee) <= limit_ee).all()
    assert (np.abs(a.sums_e - b.sums_e) <= 1e-14 * (a.count + b.count + 1) * np.sqrt(a.worn_e + worn)).all()


def test_what_they_say_is_what_the_rows_say():
    x_nd, y_nt = rows()
    joint = np.hstack([x_nd, y_nt])
    for origin_e in (None, np.zeros(8), np.full(8, 3.0)):
        moments = of(x_nd, y_nt, origin_e)
        np.testing.assert_allclose(moments.mean_e, joint.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.sd_e, joint.std(0), rtol=1e-10)
        z_nd = (x_nd - x_nd.mean(0)) / x_nd.std(0)
        gram_dd, target_dt = moments.standardised()
        np.testing.assert_allclose(gram_dd, z_nd.T @ z_nd, atol=1e-8)
        np.testing.assert_allclose(target_dt, z_nd.T @ y_nt, atol=1e-8)


tables = st.integers(1, 4).flatmap(
    lambda d: st.tuples(
        *[
            st.integers(0, 12).flatmap(
                lambda n: arrays(np.float64, (n, d + 1), elements=st.floats(-1e6, 1e6, width=32))
            )
            for _ in range(3)
        ],
        arrays(np.float64, d + 1, elements=st.floats(-1e6, 1e6, width=32)),
    )
)


@given(tables)
def test_sums_of_disjoint_rows_add_and_subtract(table):
    *parts, origin_e = table
    a, b, c = (of(part[:, :-1], part[:, -1:], origin_e) for part in parts)
    together = np.concatenate(parts)
    everything = of(together[:, :-1], together[:, -1:], origin_e)
    worn = everything.worn_e
    assert_same(a + b + c, everything, worn)
    assert_same(a + (b + c), b + a + c, worn)
    assert_same(everything - b, a + c, worn)
    assert_same(everything - b - a, c, worn)
    assert ((everything - b).worn_e >= everything.worn_e).all()


@given(st.floats(-1e12, 1e12), st.integers(1, 500))
def test_the_mean_of_a_constant_is_the_constant(value, n):
    assert origin_of(np.full((n, 2), value), np.full((n, 1), value)).tolist() == [value] * 3


def test_means_do_not_depend_on_the_parts():
    x_nd, y_nt = rows()
    means = Means()
    for at in (slice(0, 0), slice(0, 7), slice(7, 200)):
        means.add(x_nd[at], y_nt[at])
    np.testing.assert_allclose(means.mean_e, np.hstack([x_nd, y_nt]).mean(0), rtol=1e-14)


def test_float32_is_converted_exactly_and_rows_may_be_named():
    x_nd, y_nt = rows()
    x_nd, origin_e, at = x_nd.astype(np.float32), np.zeros(8), np.array([3, 5, 8, 180])
    single, double = of(x_nd, y_nt, origin_e, at), of(x_nd.astype(np.float64)[at], y_nt[at], origin_e)
    np.testing.assert_array_equal(single.products_ee, double.products_ee)
    np.testing.assert_array_equal(single.sums_e, double.sums_e)


@pytest.mark.parametrize("d", [1, 2, 3, 40])
def test_ridges_solve_the_normal_equations(d):
    x_nd, y_nt = rows(d=d)
    ridges = of(x_nd, y_nt).ridges(ALPHAS)
    z_nd = (x_nd - x_nd.mean(0)) / x_nd.std(0)
    for a, alpha in enumerate(ALPHAS):
        w_dt = np.linalg.solve(z_nd.T @ z_nd + alpha * np.eye(d), z_nd.T @ (y_nt - y_nt.mean(0)))
        np.testing.assert_allclose(ridges.weights_adt[a], w_dt / x_nd.std(0)[:, None], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ridges.predict(x_nd, np.array([a, a])), z_nd @ w_dt + y_nt.mean(0), rtol=1e-9)


def test_a_strength_lost_in_rounding_gives_the_shortest_solution():
    x_nd, y_nt = rows(d=5)
    twice = np.hstack([x_nd, x_nd])
    found = of(twice, y_nt).ridges(np.array([1e-200]))
    once = of(x_nd, y_nt).ridges(np.array([1e-200]))
    expected = np.concatenate([once.weights_adt, once.weights_adt], 1) / 2
    np.testing.assert_allclose(found.weights_adt, expected, rtol=1e-9)


def test_held_out_errors_need_no_rows():
    x_nd, y_nt = rows()
    origin_e, seen, unseen = origin_of(x_nd, y_nt), np.arange(150), np.arange(150, 200)
    ridges = of(x_nd, y_nt, origin_e, seen).ridges(ALPHAS)
    sse_at, sure_at = of(x_nd, y_nt, origin_e, unseen).squared_errors(ridges)
    by_hand = [
        np.square(y_nt[unseen] - ridges.predict(x_nd[unseen], np.array([a, a]))).sum(0) for a in range(len(ALPHAS))
    ]
    assert sure_at.all()
    np.testing.assert_allclose(sse_at, by_hand, rtol=1e-9)
    everywhere = np.ones(sse_at.shape, bool)
    np.testing.assert_allclose(squared_errors(ridges, x_nd, y_nt, unseen, everywhere), by_hand, rtol=1e-12)
    everywhere[1, 0] = False
    assert squared_errors(ridges, x_nd, y_nt, unseen, everywhere)[1, 0] == 0


def test_errors_too_small_to_tell_are_not_sure():
    x_nd, y_nt = rows()
    y_nt[:, 0] = x_nd @ np.arange(1.0, 7.0)
    ridges = of(x_nd, y_nt).ridges(np.array([1e-6, 1e-3, 1e3]))
    sse_at, sure_at = of(x_nd, y_nt).squared_errors(ridges)
    exact_at = squared_errors(ridges, x_nd, y_nt, np.arange(200), np.ones(sse_at.shape, bool))
    assert sure_at.tolist() == [[False, True], [False, True], [True, True]]
    assert abs(sse_at[0, 0] / exact_at[0, 0] - 1) > 1e-6
    np.testing.assert_allclose(sse_at[sure_at], exact_at[sure_at], rtol=1e-9)
    assert (sse_at >= 0).all()


def test_what_is_left_is_trusted_only_where_enough_is_left():
    x_nd, y_nt = rows()
    x_nd[:, 5] = 7 / 3  # constant in every row: certain
    origin_e, odd, rest = origin_of(x_nd, y_nt), np.arange(40), np.arange(40, 200)
    assert (of(x_nd, y_nt, origin_e) - of(x_nd, y_nt, origin_e, odd)).trusted
    for change in (lambda v: v * 100, lambda v: v + 1e5):
        loud = x_nd.copy()
        loud[odd, 0] = change(loud[odd, 0])
        assert not (of(loud, y_nt, origin_e) - of(loud, y_nt, origin_e, odd)).trusted
        assert of(loud[rest], y_nt[rest]).trusted
    flat = x_nd.copy()
    flat[rest, 0] = 1 / 3
    assert not (of(flat, y_nt, origin_e) - of(flat, y_nt, origin_e, odd)).trusted
    assert of(flat[rest], y_nt[rest]).sd_e[0] == 0
    flat_y = y_nt.copy()
    flat_y[rest] = 0.1
    assert not (of(x_nd, flat_y, origin_e) - of(x_nd, flat_y, origin_e, odd)).trusted


def test_constants_take_no_part():
    x_nd, y_nt = rows()
    x_nd[:, 2], y_nt[:, 1] = 1e6 / 3, 0.1
    ridges = of(x_nd, y_nt).ridges(ALPHAS)
    assert not ridges.weights_adt[:, 2].any()
    assert not ridges.weights_adt[:, :, 1].any()
    assert ridges.scale_d[2] == 1
    assert ridges.y_mean_t[1] == 0.1


def test_sums_that_cannot_be_right_are_refused():
    x_nd, y_nt = rows()
    moments = of(x_nd, y_nt)
    with pytest.raises(ProbeError, match="origin"):
        moments + of(x_nd, y_nt, np.zeros(8))
    with pytest.raises(ProbeError, match="origin"):
        moments - of(x_nd, y_nt[:, :1])
    with pytest.raises(ProbeError, match="cannot be taken"):
        of(x_nd, y_nt, moments.origin_e, np.arange(3)) - moments
    with pytest.raises(ProbeError, match="1 rows"):
        of(x_nd[:1], y_nt[:1]).ridges(ALPHAS)
    for bad in (np.nan, np.inf, 1e200):
        with np.errstate(over="ignore"), pytest.raises(ProbeError, match="NaN, inf or too large"):
            of(np.where(x_nd == x_nd[7, 3], bad, x_nd), y_nt)
