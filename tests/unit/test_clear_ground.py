"""How much of the ground two dates show: shares, pixels, dates and limits are counted, and warned of by thresholds."""

from dataclasses import replace

import numpy as np
import pytest

from geoelle.clear_ground import CLEAR_WARN, VALID_WARN, Ground, compare_ground
from geoelle.delta import Scored
from geoelle.guards import Check
from geoelle.lattice import Addresses, Lattice

LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
COUNT = 100
CELLS = Addresses(lattice=LATTICE, rows=np.arange(COUNT), cols=np.zeros(COUNT, int))


def ground(clear_n: np.ndarray, days: int = 1, valid: float = 1.0, cloud_max: float | None = 40.0) -> Ground:
    """One date whose clear cells were taken from so many days in turn."""
    scored = Scored(
        addresses=CELLS, difficulty_n=np.where(clear_n, 1.0, np.nan), probe="p",
        days_n=np.where(clear_n, 19_000 + np.arange(COUNT) % days + 0.4, np.nan),
    )  # fmt: skip
    return Ground(cells={LATTICE: scored}, valid_m=np.full(9, valid), cloud_max=cloud_max)


def found(before: Ground, after: Ground) -> dict[str, Check]:
    return {check.what: check for check in compare_ground(before, after)}


EVERY, FIRST, LAST = np.ones(COUNT, bool), np.arange(COUNT) < 60, np.arange(COUNT) >= 30


def test_two_clear_dates_differ_in_nothing_and_the_shares_are_kept() -> None:
    checks = found(ground(EVERY), ground(EVERY))
    assert {check.verdict for check in checks.values()} == {"same"}
    assert checks["clear ground"].reason == "100% of 100 cells are clear on both dates"
    assert (checks["valid pixels"].before, checks["dates used"].before, checks["cloud limit"].before) == (
        "100%", "1", "40%",
    )  # fmt: skip


def test_clear_ground_is_what_is_clear_on_both() -> None:
    """Six and seven tenths are clear, and only three of both."""
    check = found(ground(FIRST), ground(LAST))["clear ground"]
    assert (check.before, check.after, check.verdict) == ("60%", "70%", "warn")
    assert check.reason == f"30% of 100 cells are clear on both dates, less than {CLEAR_WARN:.0%}"
    assert found(ground(FIRST), ground(EVERY))["clear ground"].verdict == "same"


def test_cells_of_one_side_alone_were_asked_for_and_other_zones_do_not_count() -> None:
    half = replace(ground(EVERY).cells[LATTICE].at(CELLS[:50]))
    other = replace(LATTICE, epsg=32632)
    away = replace(half, addresses=Addresses(lattice=other, rows=CELLS.rows[:50], cols=CELLS.cols[:50]))
    side = Ground(cells={LATTICE: half, other: away}, valid_m=np.ones(3), cloud_max=40)
    check = found(side, ground(EVERY))["clear ground"]
    assert (check.before, check.after) == ("50%", "100%") and check.reason.startswith("50% of 100 cells")


@pytest.mark.parametrize(("one", "other", "verdict"), [(1, 4, "warn"), (2, 1, "warn"), (2, 3, "same"), (4, 4, "same")])
def test_a_mosaic_beside_one_date_is_told(one: int, other: int, verdict: str) -> None:
    check = found(ground(EVERY, one), ground(EVERY, other))["dates used"]
    assert (check.before, check.after, check.verdict) == (str(one), str(other), verdict)


def test_pixels_and_limits_of_cloud_that_differ_are_told() -> None:
    checks = found(ground(EVERY), ground(EVERY, valid=0.99 - VALID_WARN, cloud_max=80))
    assert checks["valid pixels"].verdict == checks["cloud limit"].verdict == "warn"
    assert (checks["valid pixels"].after, checks["cloud limit"].after) == ("89%", "80%")
    assert found(ground(EVERY), ground(EVERY, valid=1.01 - VALID_WARN))["valid pixels"].verdict == "same"


def test_what_no_cell_tells_is_not_recorded() -> None:
    bare = replace(ground(~EVERY, cloud_max=None), valid_m=np.empty(0))
    checks = found(bare, ground(EVERY))
    assert {checks[name].verdict for name in ("valid pixels", "dates used", "cloud limit")} == {"not recorded"}
    assert checks["clear ground"].verdict == "warn"
