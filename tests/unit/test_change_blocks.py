"""Flags beside maps without the change, on fields that are alike in space and whose truth is known."""

import numpy as np
import pytest
from scipy import ndimage

from geoelle.change import judge, q_values
from geoelle.change_blocks import BlockCheck, YearCheck, check_blocks, check_years
from geoelle.lattice import Addresses, Lattice

SIDE, YEARS, ALIKE = 32, 4, 1.5
CELLS = SIDE * SIDE
LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
MESH = Addresses(lattice=LATTICE, rows=np.repeat(np.arange(SIDE), SIDE) + 31_000, cols=np.tile(np.arange(SIDE), SIDE))


class World:
    """Cells with a level and a spread of their own; each year adds noise that is alike over `alike` cells."""

    def __init__(self, seed: int, alike: float = ALIKE) -> None:
        self.rng, self.alike = np.random.default_rng(seed), alike
        self.level_n = self.rng.normal(size=CELLS)
        self.sd_n = np.sqrt(10 / self.rng.chisquare(10, CELLS))

    def year(self) -> np.ndarray:
        noise_yx = ndimage.gaussian_filter(self.rng.normal(size=(SIDE + 20, SIDE + 20)), self.alike)[10:-10, 10:-10]
        noise_yx *= 2 * np.sqrt(np.pi) * self.alike  # of unit variance
        return self.level_n + self.sd_n * noise_yx.ravel() + 0.3 * self.rng.normal()

    def checked(self, change_n: np.ndarray | float = 0.0, *, rate: float = 0.1, shuffles: int = 99):
        years_rn = np.array([self.year() for _ in range(YEARS + 1)])
        after_n = self.year() + change_n * self.sd_n
        _, tested = judge(years_rn[-1], after_n, years_rn[:-1], "difference")
        found = check_blocks(years_rn, years_rn, tested, MESH, design="difference", rate=rate, shuffles=shuffles)
        return tested, found, check_years(years_rn, after_n, rate)


def test_without_a_change_few_maps_stand_out_however_alike_neighbours_are() -> None:
    """A rate of 0.6 flags something on half of the maps: then p says how often a map stands out by chance."""
    p, flags, years = [], 0, []
    for seed in range(16):
        tested, found, among = World(seed).checked(rate=0.6, shuffles=39)
        assert found.flagged == (q_values(tested.p_n) <= 0.6).sum()
        p.append((found.p_flagged, found.p_largest))
        flags += found.flagged > 0
        years.append(among.p)
    p = np.array(p)
    assert 4 <= flags <= 14
    assert (p <= 0.05).mean(axis=0).max() <= 0.19  # 16 maps: 0.05 and two and a half standard deviations
    assert ((p == 1).sum(axis=0) >= 16 - flags).all()
    assert np.mean(np.array(years) <= 1 / 6 + 1e-9) <= 0.4


def test_a_block_that_changed_stands_out_and_its_false_share_is_small() -> None:
    change_yx = np.zeros((SIDE, SIDE))
    change_yx[4:10, 6:12] = 8
    tested, found, among = World(3).checked(change_yx.ravel())
    assert found.flagged > 25 and found.largest > 25
    assert found.p_flagged == found.p_largest == 0.01 and among == YearCheck(p=pytest.approx(1 / 6), years=6)
    assert found.false_share < 0.25 and found.expected <= found.most < found.flagged
    truth_n = change_yx.ravel() > 0
    false = ((q_values(tested.p_n) <= 0.1) & ~truth_n).sum()
    assert abs(found.expected - false) < 10


def test_expected_counts_cells_of_maps_without_the_change_at_the_p_of_the_flags() -> None:
    """Where cells are independent, at most so many as the p says; neighbours that are alike scatter more."""
    change_n = 8.0 * (np.arange(CELLS) % 8 == 0)
    spread = {}
    for alike in (0.3, 2.5):
        tested, found, _ = World(5, alike).checked(change_n)
        limit = tested.p_n[q_values(tested.p_n) <= 0.1].max()
        assert 0.1 * limit * CELLS < found.expected < 1.3 * limit * CELLS
        spread[alike] = found.most / found.expected
    assert spread[2.5] > 1.3 * spread[0.3]


def test_blocks_are_as_wide_as_t_is_alike_and_never_narrower_than_a_chip() -> None:
    rough, smooth = (World(6, alike).checked()[1] for alike in (0.3, 2.0))
    assert rough.block_m >= 320 and smooth.block_m > 2 * rough.block_m
    assert smooth.block_m >= smooth.range_m and smooth.blocks < rough.blocks


def test_equal_input_gives_equal_numbers() -> None:
    assert World(7).checked()[1] == World(7).checked()[1]


def test_gaps_are_left_out() -> None:
    world = World(8)
    years_rn = np.array([world.year() for _ in range(6)])
    years_rn[:, :100] = np.nan
    years_rn[2, 100:200] = np.nan
    _, tested = judge(years_rn[-2], years_rn[-1], years_rn[:-2], "difference")
    found = check_blocks(years_rn[:-1], years_rn[:-1], tested, MESH, design="difference", rate=0.1, shuffles=19)
    assert isinstance(found, BlockCheck) and 0 < found.p_flagged <= 1


@pytest.mark.parametrize(("design", "least"), [("difference", 4), ("departure", 3)])
def test_years_or_ground_too_few_give_no_check(design: str, least: int) -> None:
    world = World(9)
    years_rn, after_n = np.array([world.year() for _ in range(least)]), world.year()
    _, tested = judge(years_rn[-1], after_n, years_rn[:2], design)

    def check(years_rn: np.ndarray, mesh: Addresses = MESH) -> BlockCheck | None:
        return check_blocks(years_rn, years_rn, tested, mesh, design=design, rate=0.1, shuffles=9)

    assert check(years_rn) is not None and check(years_rn[1:]) is None
    row = Addresses(lattice=LATTICE, rows=np.zeros(CELLS, int), cols=np.arange(CELLS))
    assert check(years_rn, row) is not None
    assert check_years(years_rn[:2], after_n, 0.1) is None
