"""Address the patches of chips: which chips see a patch, which one answers for it, which are drawn; arrays, no I/O.

A patch is named on the lattice whose chips and cells are both one patch wide, so a place has one name in every chip
that sees it, in every run. Chips that lie a whole fraction of their side apart see each patch from several offsets.
"""

from __future__ import annotations

import numpy as np

from geoelle.errors import AreaError
from geoelle.lattice import Addresses, Lattice
from geoelle.models.masks import permutations, seeds_of

__all__ = [
    "DRAWN",
    "WINDOW_PX",
    "answering",
    "block_means",
    "chips_over",
    "drawn_patches",
    "keys_of",
    "offset_of",
    "offsets_a_side",
    "patch_lattice",
    "patch_means",
    "patches_of",
    "windows",
]

DRAWN = 4
"""Patches of a chip that a fit learns from. With 16 of nano's 64 no score on held-out places was better by 0.01."""
WINDOW_PX = 12
"""Least side of the square that the pixel features of a patch are measured on: features need 8, and tokens see their
neighbours, so the null may too. Of 12 and 16 pixels, 12 made the stronger null for nano."""
_STREAM = 2
"""The stream of the hash that draws patches; 0 and 1 draw masks."""


def patch_lattice(lattice: Lattice, patch_px: int) -> Lattice:
    """Return the lattice of the patches of a lattice's chips: its chips and cells are patches.

    Raises: AreaError (patches that do not tile the chips, or chips that do not lie whole patches apart).
    """
    if lattice.size_px % patch_px or lattice.stride_px % patch_px:
        raise AreaError(
            f"chips of {lattice.size_px} px, {lattice.stride_px} px apart, do not share patches of {patch_px} px; "
            f"give a --stride that is a multiple of {patch_px}"
        )
    return Lattice(epsg=lattice.epsg, gsd_m=lattice.gsd_m, size_px=patch_px, stride_px=patch_px)


def offsets_a_side(lattice: Lattice) -> int:
    """Return how many chips see a patch along one axis; their square see it in all.

    Raises: AreaError (a stride that is no whole fraction of the chip: some patches would be seen more often).

    >>> offsets_a_side(Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16))
    2
    """
    if lattice.size_px % lattice.stride_px:
        raise AreaError(
            f"a stride of {lattice.stride_px} px is no whole fraction of chips of {lattice.size_px} px; "
            "give a --stride that divides the chip, half of it say"
        )
    return lattice.size_px // lattice.stride_px


def patches_of(chips: Addresses, patch_px: int) -> Addresses:
    """Return the patches of each chip, row-major, one chip after the other: n x h x w addresses.

    Raises: AreaError.
    """
    lattice = patch_lattice(chips.lattice, patch_px)
    step, grid = chips.lattice.stride_px // patch_px, np.arange(chips.lattice.size_px // patch_px)
    rows = (chips.rows * step)[:, None, None] + grid[:, None] + 0 * grid
    cols = (chips.cols * step)[:, None, None] + grid + 0 * grid[:, None]
    return Addresses(lattice=lattice, rows=rows.ravel(), cols=cols.ravel())


def chips_over(patches: Addresses, lattice: Lattice) -> Addresses:
    """List every chip of a lattice that sees one of the patches, each once, sorted by row, then column.

    Raises: AreaError.
    """
    patch_lattice(lattice, patches.lattice.size_px)
    step, side = lattice.stride_px // patches.lattice.size_px, offsets_a_side(lattice)
    last = np.unique(np.stack([patches.rows // step, patches.cols // step], axis=1), axis=0)
    back = np.stack(np.mgrid[:side, :side], axis=-1).reshape(-1, 2)
    found = np.unique((last[:, None] - back).reshape(-1, 2), axis=0)
    return Addresses(lattice=lattice, rows=found[:, 0], cols=found[:, 1])


def offset_of(chips: Addresses) -> np.ndarray:
    """Number the offset that each chip sees its patches from, int64 (n,): chips of one offset do not overlap.

    Raises: AreaError.
    """
    side = offsets_a_side(chips.lattice)
    return chips.rows % side * side + chips.cols % side


def answering(lattice: Lattice, patch_px: int) -> slice:
    """Return the rows, and columns, of the patches in the middle of a chip: those of all chips tile the plane."""
    first = (lattice.size_px - lattice.stride_px) // patch_px // 2
    return slice(first, first + lattice.stride_px // patch_px)


def drawn_patches(chips: Addresses, patches: int, count: int = DRAWN) -> np.ndarray:
    """Draw patches of each chip from its address: int64 (n, count) positions of `patches`, row-major; no one twice."""
    return permutations(seeds_of(chips.strings(), _STREAM), patches)[:, :count]


def windows(pixels_btcyx: np.ndarray, patch_bk: np.ndarray, patch_px: int) -> np.ndarray:
    """Cut the square around k patches of each chip: (b * k, t, c, y, x), at least `WINDOW_PX` wide.

    A square that would leave the chip is moved inside: the null sees no pixel that the model did not.
    """
    size = pixels_btcyx.shape[-1]
    side, grid = min(max(patch_px, WINDOW_PX), size), size // patch_px
    corners = (np.clip(at * patch_px - (side - patch_px) // 2, 0, size - side) for at in np.divmod(patch_bk, grid))
    views = np.lib.stride_tricks.sliding_window_view(pixels_btcyx, (side, side), axis=(-2, -1))
    rows, cols = corners
    cut = views[np.arange(len(patch_bk))[:, None], :, :, rows, cols]
    return cut.reshape(-1, *cut.shape[2:])


def patch_means(pixels_btcyx: np.ndarray, patch_px: int) -> np.ndarray:
    """Return float64 (b, h, w, c): the mean of each band over the pixels and times of a patch that are not NaN."""
    b, t, c, y, x = pixels_btcyx.shape
    blocks = pixels_btcyx.reshape(b, t, c, y // patch_px, patch_px, x // patch_px, patch_px)
    known = np.isfinite(blocks)
    total, count = (v.sum(axis=(1, 4, 6), dtype=np.float64) for v in (np.where(known, blocks, 0), known))
    means_bchw = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.moveaxis(means_bchw, 1, -1)


def keys_of(patches: Addresses) -> np.ndarray:
    """Return one int64 an address of a lattice, ascending by row, then column: what tables are joined on."""
    return (patches.rows << 32) + patches.cols


def block_means(values_n: np.ndarray, patches: Addresses, chips: Addresses) -> np.ndarray:
    """Return float64 (m,): the mean of a value over all patches of each chip, NaN where one of them has none."""
    step, side = (px // patches.lattice.size_px for px in (chips.lattice.stride_px, chips.lattice.size_px))
    top, left = patches.rows.min(), patches.cols.min()
    grid = np.full((patches.rows.max() - top + 1, patches.cols.max() - left + 1), np.nan)
    grid[patches.rows - top, patches.cols - left] = values_n
    rows, cols = chips.rows * step - top, chips.cols * step - left
    inside = (rows >= 0) & (cols >= 0) & (rows + side <= grid.shape[0]) & (cols + side <= grid.shape[1])
    known = np.isfinite(grid)
    total, count = (_box_sums(v, rows[inside], cols[inside], side) for v in (np.where(known, grid, 0), known))
    out = np.full(len(chips), np.nan)
    out[inside] = np.where(count == side * side, total / side**2, np.nan)
    return out


def _box_sums(values_yx: np.ndarray, rows: np.ndarray, cols: np.ndarray, side: int) -> np.ndarray:
    """Sum squares of `side` cells by an integral image."""
    sums = np.zeros((values_yx.shape[0] + 1, values_yx.shape[1] + 1))
    np.cumsum(np.cumsum(values_yx, axis=0, dtype=np.float64), axis=1, out=sums[1:, 1:])
    down, right = rows + side, cols + side
    return sums[down, right] - sums[rows, right] - sums[down, cols] + sums[rows, cols]
