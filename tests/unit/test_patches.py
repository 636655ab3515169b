"""Patches by address: which chips see one, which chip answers for it, which are drawn, and what lies around it."""

from __future__ import annotations

import numpy as np
import pytest

from geoelle.area import Addresses, Lattice
from geoelle.errors import AreaError
from geoelle.models.masks import permutations, seeds_of
from geoelle.patches import (
    DRAWN,
    WINDOW_PX,
    answering,
    block_means,
    chips_over,
    drawn_patches,
    keys_of,
    offset_of,
    offsets_a_side,
    patch_lattice,
    patches_of,
    windows,
)

LATTICES = {"nano": (32, 16, 4), "prithvi": (224, 112, 16), "pixels": (16, 8, 1), "quarters": (32, 8, 4)}


def lattice_of(size_px: int = 32, stride_px: int = 16) -> Lattice:
    return Lattice(epsg=32631, gsd_m=10, size_px=size_px, stride_px=stride_px)


def block_of(lattice: Lattice, rows: range, cols: range) -> Addresses:
    row, col = (v.ravel() for v in np.meshgrid(rows, cols, indexing="ij"))
    return Addresses(lattice=lattice, rows=row, cols=col)


def test_a_patch_lies_where_its_chip_has_it() -> None:
    chips = Addresses(lattice=lattice_of(), rows=[-31_250, 7], cols=[3_125, -2])
    patches = patches_of(chips, 4)
    assert patches.lattice == Lattice(epsg=32631, gsd_m=10, size_px=4, stride_px=4) and len(patches) == 2 * 64
    for number, chip in enumerate(chips):
        west, _, _, north = chip.geobox.boundingbox.bbox
        for i, j in ((0, 0), (2, 5), (7, 7)):
            box = patches[number * 64 + i * 8 + j].geobox.boundingbox.bbox
            assert box == (west + 40 * j, north - 40 * (i + 1), west + 40 * (j + 1), north - 40 * i)


@pytest.mark.parametrize(("size_px", "stride_px", "patch_px"), LATTICES.values(), ids=LATTICES)
def test_every_patch_is_seen_once_from_each_offset_and_answered_for_once(size_px, stride_px, patch_px) -> None:
    lattice, grid = lattice_of(size_px, stride_px), size_px // patch_px
    wanted = block_of(patch_lattice(lattice, patch_px), range(-grid - 3, grid + 2), range(5, 2 * grid))
    chips = chips_over(wanted, lattice)
    keys = keys_of(patches_of(chips, patch_px)).reshape(len(chips), grid, grid)
    offsets = np.broadcast_to(offset_of(chips)[:, None, None], keys.shape)
    middle = answering(lattice, patch_px)
    for key in keys_of(wanted):
        assert sorted(offsets[keys == key]) == list(range(offsets_a_side(lattice) ** 2))
        assert (keys[:, middle, middle] == key).sum() == 1
    assert np.isin(keys, keys_of(wanted)).any(axis=(1, 2)).all(), "a chip that sees none of them"


def test_chips_over_do_not_depend_on_order_and_have_none_twice() -> None:
    wanted = block_of(patch_lattice(lattice_of(), 4), range(0, 9), range(-3, 4))
    mixed = wanted[np.random.default_rng(0).permutation(len(wanted))]
    one, other = chips_over(wanted, lattice_of()), chips_over(mixed, lattice_of())
    assert one.strings() == other.strings() and len(set(one.strings())) == len(one)
    assert (np.diff(keys_of(one)) > 0).all()


def test_patches_are_drawn_by_the_address_alone_and_not_as_masks_are() -> None:
    chips = block_of(lattice_of(), range(3), range(50))
    drawn = drawn_patches(chips, 64)
    assert drawn.shape == (150, DRAWN) and all(len(set(row)) == DRAWN for row in drawn.tolist())
    np.testing.assert_array_equal(drawn_patches(chips[[7]], 64)[0], drawn[7])
    np.testing.assert_array_equal(drawn, permutations(seeds_of(chips.strings(), 2), 64)[:, :DRAWN])
    assert not any((drawn == permutations(seeds_of(chips.strings(), s), 64)[:, :DRAWN]).all() for s in (0, 1))
    assert np.bincount(drawn.ravel(), minlength=64).min() > 0, "some place of the chip is never drawn"


def test_the_window_of_a_patch_is_around_it_and_inside_the_chip() -> None:
    pixels = np.arange(2 * 3 * 32 * 32, dtype=np.float32).reshape(2, 1, 3, 32, 32)
    found = windows(pixels, np.array([[0, 2 * 8 + 5], [7, 63]]), 4)
    assert WINDOW_PX == 12 and found.shape == (4, 1, 3, 12, 12)
    np.testing.assert_array_equal(found[0], pixels[0, :, :, 0:12, 0:12])
    np.testing.assert_array_equal(found[1], pixels[0, :, :, 4:16, 16:28])
    np.testing.assert_array_equal(found[2], pixels[1, :, :, 0:12, 20:32])
    np.testing.assert_array_equal(found[3], pixels[1, :, :, 20:32, 20:32])
    np.testing.assert_array_equal(windows(pixels, np.array([[1], [2]]), 16)[1], pixels[1, :, :, 16:, :16])
    small = pixels[..., :8, :8]
    np.testing.assert_array_equal(windows(small, np.array([[3], [0]]), 4), small)


def test_lattices_whose_chips_do_not_share_their_patches_are_refused() -> None:
    with pytest.raises(AreaError, match=r"32 px, 10 px apart, do not share patches of 4 px; .* multiple of 4"):
        patch_lattice(lattice_of(32, 10), 4)
    with pytest.raises(AreaError, match="24 px is no whole fraction of chips of 32 px"):
        chips_over(block_of(patch_lattice(lattice_of(), 4), range(2), range(2)), lattice_of(32, 24))


def test_block_means_are_those_of_the_patches_of_a_chip() -> None:
    rng, lattice = np.random.default_rng(1), lattice_of()
    patches = block_of(patch_lattice(lattice, 4), range(-16, 8), range(40, 60))
    patches = patches[rng.permutation(len(patches))]
    values = rng.normal(size=len(patches))
    values[keys_of(patches) == keys_of(patches_of(Addresses(lattice=lattice, rows=[-2], cols=[12]), 4))[9]] = np.nan
    chips = block_of(lattice, range(-5, 2), range(9, 15))
    found, of_key = block_means(values, patches, chips), dict(zip(keys_of(patches).tolist(), values, strict=True))
    for at, mean in enumerate(found):
        mine = [of_key.get(key, np.nan) for key in keys_of(patches_of(chips[[at]], 4)).tolist()]
        np.testing.assert_allclose(mean, np.mean(mine), rtol=1e-9)
    assert 5 < np.isfinite(found).sum() < len(chips) and np.isnan(found[chips.strings().index(str(chips[15]))])
