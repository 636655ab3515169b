"""Two dates joined on address: Delta, its sign, states and tests, on fields whose change is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from geoelle import delta as module
from geoelle.change_blocks import check_blocks
from geoelle.change_states import STATUSES
from geoelle.delta import STATES, Scored, compare
from geoelle.errors import AreaError, ProbeError, SpaceMismatch
from geoelle.lattice import Addresses, Lattice

SIDE = 60
CELLS = SIDE * SIDE
LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
MESH = Addresses(lattice=LATTICE, rows=np.repeat(np.arange(SIDE), SIDE), cols=np.tile(np.arange(SIDE), SIDE))
YEAR = 365.2425


@pytest.fixture(autouse=True)
def no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the check against maps of blocks: it takes longest, and has tests of its own."""
    monkeypatch.setattr(module, "check_blocks", lambda *_, **__: None)


class World:
    """Ground with a level and a spread of its own in each cell; every year is a new draw, shifted as a whole."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.level_n = self.rng.normal(size=CELLS)
        self.sd_n = np.sqrt(0.05 * 8 / self.rng.chisquare(8, CELLS))

    def year(self, year: float, *, plus: np.ndarray | float = 0.0) -> Scored:
        difficulty_n = self.level_n + self.sd_n * self.rng.normal(size=CELLS) + 0.3 * self.rng.normal() + plus
        return Scored(
            addresses=MESH, difficulty_n=difficulty_n, complexity_n=self.level_n + 0.0, probe="p",
            days_n=np.full(CELLS, 17_000 + year * YEAR),
        )  # fmt: skip

    def history(self, years: int) -> list[Scored]:
        return [self.year(-1 - k) for k in range(years)]


def test_delta_is_a_join_on_address_on_the_linear_scale() -> None:
    world = World(0)
    before, after = world.year(0), world.year(1)
    some = before.at(MESH[np.random.default_rng(0).permutation(CELLS)[:3000]])
    found = compare(some, after)
    order = found.addresses.rows * SIDE + found.addresses.cols
    assert (np.diff(order) > 0).all() and len(order) == CELLS
    seen = np.isfinite(found.delta_n)
    assert seen.sum() == 3000
    np.testing.assert_array_equal(found.delta_n[seen], (after.difficulty_n - before.difficulty_n)[seen])
    np.testing.assert_allclose(found.excess_n[seen], found.delta_n[seen], atol=1e-12)
    assert found.shift == pytest.approx(np.median(found.delta_n[seen]))
    assert found.counts["no look before"] == CELLS - 3000


def test_without_a_history_there_is_a_ranking_and_nothing_is_claimed() -> None:
    world = World(1)
    found = compare(world.year(0), world.year(1))
    assert found.design == "none" and found.tested is found.q_n is found.flag_n is found.unchanged is None
    assert set(found.state_n) == {STATES.index("short history")}
    size_n = np.abs(found.delta_n - found.shift)
    assert found.rank_n.argmax() == size_n.argmax() and stats.spearmanr(found.rank_n, size_n)[0] > 0.999999


def test_a_cell_is_judged_by_four_years_that_saw_it_and_not_by_four_that_were_given() -> None:
    world = World(11)
    before, after, history = world.year(0), world.year(1), world.history(5)
    cloudy_n = np.arange(CELLS) % 2 == 0
    for year in history[:2]:
        year.difficulty_n[cloudy_n] = np.nan
    found = compare(before, after, history)
    np.testing.assert_array_equal(np.isfinite(found.q_n), ~cloudy_n)
    assert set(found.state_n[cloudy_n]) == {STATES.index("short history")}
    for year in history[2:4]:
        year.difficulty_n[~cloudy_n] = np.nan
    with pytest.raises(ProbeError, match=f"only 0 of {CELLS} cells are clear, and applicable, in 4 earlier years"):
        compare(before, after, history)


def test_a_year_that_saw_nothing_of_the_ground_does_not_stop_the_others() -> None:
    world = World(12)
    before, after, history = world.year(0), world.year(1), world.history(5)
    whole = compare(before, after, history[:4])
    for part, value in (("inside_n", 0.0), ("difficulty_n", np.nan)):
        gone = replace(history[4], **{part: np.full(CELLS, value)})
        found = compare(before, after, [*history[:4], gone])
        np.testing.assert_allclose(found.q_n, whole.q_n, rtol=1e-9)
        assert len(found.unchanged.shares) == len(whole.unchanged.shares) == 5
    assert found.years == whole.years


@pytest.mark.parametrize("after_day", [1.0, 1.4])
def test_nothing_is_flagged_where_nothing_changed(after_day: float) -> None:
    """A date of the same season is compared by the difference, one of another by the departure from its own."""
    world = World(2)
    before = world.year(0)
    history = [world.year(after_day - 2 - k) for k in range(4)]
    found = compare(before, world.year(after_day), history)
    assert found.design == ("difference" if after_day == 1 else "departure")
    assert stats.kstest(found.tested.p_n, "uniform").statistic < 0.03
    assert found.flag_n.mean() < 0.002
    assert found.unchanged.below == pytest.approx(0.05, abs=0.015)
    assert len(found.unchanged.shares) == 4 + (after_day == 1) and max(found.unchanged.shares) < 0.002


def test_false_discoveries_are_as_rare_as_asked_and_changes_of_both_signs_are_found() -> None:
    false, power = [], []
    for seed in range(8):
        world = World(10 + seed)
        truth_n = np.zeros(CELLS)
        truth_n[: CELLS // 20], truth_n[CELLS // 20 : CELLS // 10] = 8, -8
        found = compare(world.year(0), world.year(1, plus=truth_n * world.sd_n), world.history(5))
        flagged = found.flag_n == 1
        false.append((truth_n[flagged] == 0).mean())
        power.append(flagged[truth_n != 0].mean())
        assert (found.sign_n[flagged & (truth_n != 0)] == np.sign(truth_n[flagged & (truth_n != 0)])).all()
    assert np.mean(false) < 0.12 and np.mean(power) > 0.9


def test_a_change_before_the_first_date_is_not_a_change_between_the_two() -> None:
    world = World(3)
    history = world.history(4)
    old_n = 9 * world.sd_n * (np.arange(CELLS) % 10 == 0)
    found = compare(world.year(0, plus=old_n), world.year(1, plus=old_n), history)
    assert found.flag_n.mean() < 0.002


def test_a_hazy_date_is_a_number_not_a_change() -> None:
    world = World(4)
    before, after, history = world.year(0), world.year(1), world.history(4)
    clear = compare(before, after, history)
    hazy = compare(before, replace(after, difficulty_n=after.difficulty_n - 2), history)
    assert hazy.shift - clear.shift == pytest.approx(-2)
    np.testing.assert_allclose(hazy.tested.t_n, clear.tested.t_n, atol=1e-9)
    np.testing.assert_array_equal(hazy.sign_n, clear.sign_n)


def test_the_area_of_applicability_gates_before_and_history_but_not_after() -> None:
    world = World(5)
    inside_n = np.ones(CELLS)

    def gate(table: Scored, *outside: int) -> Scored:
        marks_n = inside_n.copy()
        marks_n[list(outside)] = 0
        return replace(table, inside_n=marks_n)

    history = [gate(year, 2, *([3] if k else [])) for k, year in enumerate(world.history(4))]
    found = compare(gate(world.year(0), 1), gate(world.year(1), 0), history)
    names = [STATES[int(i)] for i in found.state_n[:5]]
    assert names == ["outside", "gated", "short history", "short history", "judged"]
    assert np.isfinite(found.delta_n[:5]).all()
    np.testing.assert_array_equal(np.isfinite(found.tested.p_n[:5]), [True, False, False, False, True])
    np.testing.assert_array_equal(np.isfinite(found.flag_n[:5]), [True, False, False, False, True])


def test_cells_without_a_look_are_counted() -> None:
    world = World(6)
    before, after = world.year(0), world.year(1)
    before.difficulty_n[:7] = after.difficulty_n[5:12] = np.nan
    counts = compare(before, after, world.history(4)).counts
    assert counts["no look before"] == 7 and counts["no look after"] == 5
    assert counts["judged"] == CELLS - 12 and sum(v for k, v in counts.items() if k != "flagged") == CELLS


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda b, a, h: (a, b, h), ProbeError, "is not before 20"),
        (lambda b, a, h: (b, replace(a, probe="q"), h), SpaceMismatch, "two probes"),
        (lambda b, a, h: (b, a, [replace(h[0], probe="q"), *h[1:]]), SpaceMismatch, "two probes"),
        (lambda b, a, h: (b, a, h[:3]), ProbeError, "a history too short"),
        (lambda b, a, h: (b, a, [h[0], *h[:3]]), ProbeError, "of one year"),
        (lambda b, a, h: (b, a, [b, *h]), ProbeError, "of one year"),
        (lambda b, a, h: (b, a, [*h[:3], replace(h[3], days_n=h[3].days_n + 80)]), ProbeError, "another season"),
        (lambda b, a, h: (b, a, [*h[:3], replace(h[3], days_n=a.days_n + 2 * YEAR)]), ProbeError, "give earlier years"),
        (lambda b, a, h: (replace(b, days_n=b.days_n * np.nan), a, h), ProbeError, "no clear look, or no time"),
        (lambda b, a, h: (b, replace(a, difficulty_n=a.difficulty_n * np.nan), h), ProbeError, "seen before and after"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(change, error: type, told: str) -> None:
    world = World(7)
    before, after, history = change(world.year(0), world.year(1), world.history(4))
    with pytest.raises(error, match=told):
        compare(before, after, history)


def test_two_lattices_are_refused() -> None:
    world = World(8)
    other = Addresses(lattice=replace(LATTICE, stride_px=8), rows=MESH.rows, cols=MESH.cols)
    with pytest.raises(AreaError, match="two lattices"):
        compare(world.year(0), replace(world.year(1), addresses=other))


# --- later dates


def test_a_change_that_lasts_is_confirmed_and_one_that_passes_is_transient() -> None:
    world = World(20)
    stays_n, passes_n = (9 * world.sd_n * (np.arange(CELLS) % 20 == k) for k in (0, 10))
    before, history = world.year(0), world.history(5)
    after, *later = (world.year(1 + k, plus=plus_n) for k, plus_n in enumerate((stays_n + passes_n, stays_n, stays_n)))
    found = compare(before, after, history, later=later[::-1])
    alone = compare(before, after, history)
    for name in ("delta_n", "flag_n", "q_n", "state_n", "rank_n"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    seen, flagged = found.followed, found.flag_n == 1
    names = np.array(STATUSES)[seen.status_n.astype(int)]
    assert (names[flagged & (stays_n != 0)] == "confirmed").mean() > 0.95
    assert (names[flagged & (passes_n != 0)] == "transient").mean() > 0.95
    assert (names[~flagged & (stays_n == 0)] == "none").mean() > 0.97
    kept = (names == "confirmed") & flagged
    np.testing.assert_allclose(seen.first_n[kept], after.day)
    assert np.median(seen.duration_n[kept]) == pytest.approx(2 * YEAR)
    assert alone.followed is None and alone.looks == ()


@pytest.mark.parametrize("days", [1.0, 1.4])
def test_a_second_look_thins_false_flags_but_not_as_if_it_were_independent(days: float) -> None:
    """Dates after share the date before, or their history: a false flag comes back more often than one starts."""
    false = confirmed = second = unchanged = 0
    for seed in range(6):
        world = World(40 + seed)
        truth_n = 8 * world.sd_n * (np.arange(CELLS) % 10 == 0)
        history, before = [world.year(days - 2 - k) for k in range(4)], world.year(0)
        looks = [world.year(days + k, plus=truth_n) for k in range(2)]
        found = compare(before, looks[0], history, later=looks[1:])
        same = truth_n == 0
        first_n, second_n = (look.signed_n[same] for look in found.looks)
        false += (first_n != 0).sum()
        confirmed += ((first_n != 0) & (first_n == second_n)).sum()
        second += (second_n != 0).sum()
        unchanged += same.sum()
    assert false > 40
    assert second / unchanged < confirmed / false < 0.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b, a, h, n: (b, a, [], [n]), "later dates are judged by the history"),
        (lambda b, a, h, n: (b, a, h, [a]), "is not after"),
        (lambda b, a, h, n: (b, a, h, [n, n]), "is not after"),
        (lambda b, a, h, n: (b, a, h, [b]), "is not after"),
        (lambda b, a, h, n: (b, a, h, [replace(n, days_n=n.days_n + 90)]), "another season"),
        (lambda b, a, h, n: (b, a, h, [replace(n, days_n=n.days_n * np.nan)]), "no clear look"),
        (lambda b, a, h, n: (b, a, h, [replace(n, probe="q")]), "two probes"),
    ],
)  # fmt: skip
def test_later_dates_that_cannot_follow_are_refused(change, told: str) -> None:
    world = World(21)
    before, after, history, later = change(world.year(0), world.year(1), world.history(4), world.year(2))
    with pytest.raises((ProbeError, SpaceMismatch), match=told):
        compare(before, after, history, later=later)


def test_a_later_look_weeks_after_is_as_good_as_one_of_another_year() -> None:
    world = World(22)
    soon = world.year(1 + 30 / YEAR)
    soon.difficulty_n[:50] = np.nan
    found = compare(world.year(0), world.year(1), world.history(4), later=[soon])
    assert (found.followed.looks_n[:50] == 1).all() and (found.followed.looks_n[50:] == 2).all()


def test_flags_are_set_beside_maps_without_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_blocks", check_blocks)
    world = World(23)
    block_n = 9 * world.sd_n * ((MESH.rows < 8) & (MESH.cols < 8))
    found = compare(world.year(0), world.year(1, plus=block_n), world.history(4))
    assert found.blocks.flagged == np.nansum(found.flag_n) and found.blocks.p_flagged < 0.05
    assert found.years.years == 6 and found.years.p == pytest.approx(1 / 6)
    assert compare(world.year(0), world.year(1)).years is None
