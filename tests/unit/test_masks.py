"""Masks: fixed count, full coverage, the same on every machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoelle.models.masks import hidden_count, hidden_patches, permutations, seeds_of, visible_patches


def test_permutation_is_the_same_on_every_machine() -> None:
    seeds = seeds_of(["32618/10/32/16/r-26000/c2600"])
    assert seeds.tolist() == [2448752650541337234]
    assert permutations(seeds, 8).tolist() == [[5, 3, 6, 4, 1, 0, 2, 7]]


def test_streams_are_independent() -> None:
    names = [f"32618/10/32/16/r{i}/c0" for i in range(400)]
    first, second = (permutations(seeds_of(names, s), 64) for s in (0, 1))
    assert (first == second).mean() == pytest.approx(1 / 64, abs=0.005)


def test_every_patch_is_first_equally_often() -> None:
    first = permutations(seeds_of([str(i) for i in range(16_000)]), 16)[:, 0]
    counts = np.bincount(first, minlength=16)
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000)).all()


@given(st.integers(2, 100), st.floats(0.05, 0.95), st.integers(1, 8))
def test_draws_hide_a_fixed_count_and_cover_every_patch(patches: int, ratio: float, draws: int) -> None:
    hidden = hidden_count(patches, ratio)
    order = permutations(seeds_of(["a", "b", "c"]), patches)
    assert (np.sort(order, axis=1) == np.arange(patches)).all()
    masks = np.stack([hidden_patches(order, hidden, j, draws) for j in range(draws)])
    assert (masks.sum(axis=2) == hidden).all()
    if hidden * draws >= patches + draws:
        assert masks.any(axis=0).all()


@pytest.mark.parametrize(
    ("tokens", "ratio", "hidden"), [(196, 0.75, 147), (432, 0.75, 324), (196, 0.7, 138), (7, 0.5, 4)]
)
def test_as_many_are_hidden_as_upstream_hides(tokens: int, ratio: float, hidden: int) -> None:
    assert hidden_count(tokens, ratio) == hidden


def test_what_is_seen_follows_what_is_hidden() -> None:
    order = permutations(seeds_of(["a", "b", "c"]), 60)
    for draw in range(4):
        hidden, seen = hidden_patches(order, 30, draw, 4), visible_patches(order, 30, 6, draw, 4)
        assert (seen.sum(axis=1) == 6).all() and not (hidden & seen).any()
    with pytest.raises(ValueError, match="more than 60"):
        visible_patches(order, 50, 11, 0, 4)
