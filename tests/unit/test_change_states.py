"""Flags are followed as documented, whatever the order of looks, gaps and signs."""

from itertools import product

import numpy as np
import pytest

from geoelle.change_states import STATUSES, follow

NO, GAP = 0.0, float("nan")


@pytest.mark.parametrize(
    ("signs", "status", "first", "duration", "looks"),
    [
        ((NO, NO, NO), "none", GAP, GAP, 3),
        ((GAP, GAP, GAP), None, GAP, GAP, 0),
        ((1, GAP, GAP), "provisional", 0, 0, 1),
        ((1, NO, GAP), "transient", 0, 0, 2),
        ((1, GAP, 1), "confirmed", 0, 20, 2),
        ((1, 1, NO), "confirmed", 0, 10, 3),
        ((1, 1, 1), "confirmed", 0, 20, 3),
        ((1, -1, GAP), "provisional", 10, 0, 2),
        ((1, -1, -1), "confirmed", 10, 10, 3),
        ((1, NO, -1), "provisional", 20, 0, 3),
        ((NO, -1, -1), "confirmed", 10, 10, 3),
        ((-1, -1, 1), "confirmed", 0, 10, 3),
        ((GAP, NO, 1), "provisional", 20, 0, 2),
        ((1, NO, 1), "provisional", 20, 0, 3),
    ],
)
def test_a_cell_tells_of_its_first_episode_of_two_looks_else_of_its_last(signs, status, first, duration, looks) -> None:
    found = follow(np.array(signs)[:, None], np.array([[0.0], [10.0], [20.0]]))
    wanted = GAP if status is None else STATUSES.index(status)
    np.testing.assert_array_equal(
        [found.status_n[0], found.first_n[0], found.duration_n[0], found.looks_n[0]], [wanted, first, duration, looks]
    )


def test_cells_do_not_disturb_each_other_and_a_confirmed_one_stays_confirmed() -> None:
    """All rows of five looks at once give what each gives alone; looks after a confirmed episode change nothing."""
    rows_nl = np.array(list(product((NO, 1.0, -1.0, GAP), repeat=5)))
    days_ln = np.tile(np.arange(5.0)[:, None], (1, len(rows_nl)))
    together = follow(rows_nl.T, days_ln)
    for i in range(0, len(rows_nl), 7):
        alone = follow(rows_nl[i][:, None], days_ln[:, :1])
        for name in ("status_n", "sign_n", "first_n", "duration_n", "look_n", "looks_n"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i])
    shorter = follow(rows_nl.T[:4], days_ln[:4])
    done = shorter.status_n == STATUSES.index("confirmed")
    assert done.sum() > 100 and (together.status_n[done] == shorter.status_n[done]).all()
    assert (together.first_n[done] == shorter.first_n[done]).all()
    assert sum(together.counts.values()) == len(rows_nl) - 1  # one was never judged
