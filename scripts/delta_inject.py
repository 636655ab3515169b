"""Change pixels in a square, in four ways and at five strengths, before a model reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from delta_series import CHIP_PX, PATCH_PX, STRIDES, Image

SIZES_PX = {"patches": (4, 8, 16, 32, 64), "chips": (4, 8, 16, 32)}
"""Every chip sees a square of 64 px."""
AMPLITUDES = (0.25, 0.5, 1.0, 2.0, 4.0)
KINDS = ("smoothing", "texture", "spectral shift", "removal")
CELL_PX = {"patches": PATCH_PX, "chips": STRIDES["chips"]}
EDGE_PX = {unit: (CHIP_PX - stride) // 2 for unit, stride in STRIDES.items()}
"""Pixels around the ground whose cells are judged."""
SMOOTH_PX = 4.0
BARE_PX = 8
WINDOW_PX = 32
LEAST = 1e-4
FALLS = frozenset({"nir", "nir08"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """A square of ground, upper left pixel and side; `seed` draws its texture."""

    row: int
    col: int
    size_px: int
    seed: int

    @property
    def window(self) -> tuple[slice, slice]:
        return tuple(slice(at, at + self.size_px) for at in (self.row, self.col))

    def cells(self, shape: tuple[int, int], unit: str = "patches") -> np.ndarray:
        """Return which cells of the judged ground lie in the square, or it in them, bool (n,), by row, then column.

        >>> Square(row=12, col=8, size_px=4, seed=0).cells((2, 2)).tolist()
        [False, False, True, False]
        """
        return self._marked(shape, unit, 0)

    def unchanged(self, shape: tuple[int, int], unit: str = "patches") -> np.ndarray:
        """Return which cells count as unchanged, bool (n,): other patches; chips that share no pixel with the square.

        >>> Square(row=14, col=14, size_px=4, seed=0).unchanged((1, 4), "chips").tolist()
        [False, False, False, True]
        """
        return ~self._marked(shape, unit, EDGE_PX[unit] if unit == "chips" else 0)

    def apart(self, shape: tuple[int, int], unit: str = "patches") -> np.ndarray:
        """Return which cells the model saw without any pixel of the square beside, bool (n,).

        Of patches, those that no chip with such a pixel shows; of chips, all that are unchanged.

        >>> Square(row=8, col=16, size_px=4, seed=0).apart((2, 10)).tolist()[:10]
        [False, False, False, False, False, False, False, False, False, False]
        >>> Square(row=8, col=8, size_px=4, seed=0).apart((2, 10)).tolist()[:10]
        [False, False, False, False, False, False, True, True, True, True]
        """
        if unit == "chips":
            return self.unchanged(shape, unit)
        met = []
        for at, count in zip((self.row, self.col), shape, strict=True):
            first = max(-(-(at + 1 - CHIP_PX) // STRIDES[unit]), 0) * STRIDES[unit]
            last = (at + self.size_px - 1) // STRIDES[unit] * STRIDES[unit]
            pixel_k = EDGE_PX[unit] + PATCH_PX * np.arange(count)
            met.append((pixel_k >= first) & (pixel_k < last + CHIP_PX))
        return ~np.outer(*met).ravel()

    def _marked(self, shape: tuple[int, int], unit: str, around_px: int) -> np.ndarray:
        """Return the cells that share a pixel with the square, or with the ground of so many pixels around it."""
        met = []
        for at, count in zip((self.row, self.col), shape, strict=True):
            first_k = EDGE_PX[unit] + CELL_PX[unit] * np.arange(count)
            apart = (first_k + CELL_PX[unit] + around_px <= at) | (first_k - around_px >= at + self.size_px)
            met.append(~apart)
        return np.outer(*met).ravel()


def judged_shape(image: Image, unit: str = "patches") -> tuple[int, int]:
    """Return the rows and columns of cells that are judged of an image."""
    return tuple((side - 2 * EDGE_PX[unit]) // CELL_PX[unit] for side in image.pixels_cyx.shape[1:])


def squares(image: Image, size_px: int, count: int, unit: str = "patches") -> list[Square]:
    """Draw squares inside the judged ground, on whole cells; no one twice. Seeded by the day and the size.

    A square smaller than a cell lies in the middle of one.
    """
    rng, cell_px = np.random.default_rng([int(image.day.astype(int)), size_px]), CELL_PX[unit]
    inset_px = max(cell_px - size_px, 0) // 2
    free = [n - max(size_px // cell_px, 1) + 1 for n in judged_shape(image, unit)]
    drawn = rng.choice(free[0] * free[1], count, replace=False)
    at = (np.stack(np.divmod(drawn, free[1]), axis=1) * cell_px + EDGE_PX[unit] + inset_px).tolist()
    return [Square(row=r, col=c, size_px=size_px, seed=int(rng.integers(2**31))) for r, c in at]


def variants(image: Image, square: Square) -> Iterator[tuple[str, float, Image]]:
    """Yield the image with the square changed, by kind and amplitude."""
    full_cyx = _filled(image.pixels_cyx)
    sd_c11 = _spread(full_cyx, square)[:, None, None]
    parts = {
        "smoothing": gaussian_filter(full_cyx, (0, SMOOTH_PX, SMOOTH_PX)),
        "texture": sd_c11 * np.random.default_rng(square.seed).normal(size=(1, square.size_px, square.size_px)),
        "spectral shift": sd_c11 * np.array([-1.0 if band in FALLS else 1.0 for band in image.bands])[:, None, None],
        "removal": _bare(full_cyx, image.bands, square.size_px),
    }
    rows, cols = square.window
    own_cyx = full_cyx[:, rows, cols]
    for kind in KINDS:
        for amplitude in AMPLITUDES:
            part = parts[kind][:, rows, cols] if kind == "smoothing" else parts[kind]
            if kind in ("texture", "spectral shift"):
                new_cyx = own_cyx + amplitude * part
            else:
                new_cyx = part + np.exp(-amplitude) * (own_cyx - part)
            pixels = image.pixels_cyx.copy()
            old_cyx = pixels[:, rows, cols]
            pixels[:, rows, cols] = np.where(np.isfinite(old_cyx), np.maximum(new_cyx, LEAST), np.nan)
            yield kind, amplitude, replace(image, pixels_cyx=pixels)


def _spread(pixels_cyx: np.ndarray, square: Square) -> np.ndarray:
    """Return the standard deviation of each band in a window around the square."""
    side = max(WINDOW_PX, square.size_px)
    height, width = pixels_cyx.shape[1:]
    row, col = (
        int(np.clip(at - (side - square.size_px) // 2, 0, most - side))
        for at, most in ((square.row, height), (square.col, width))
    )
    return pixels_cyx[:, row : row + side, col : col + side].std(axis=(1, 2))


def _bare(pixels_cyx: np.ndarray, bands: tuple[str, ...], size_px: int) -> np.ndarray:
    """Return the square of lowest NDVI of the image, mirrored until it fills the side."""
    red, nir = (pixels_cyx[bands.index(name)] for name in ("red", "nir"))
    views = np.lib.stride_tricks.sliding_window_view((nir - red) / (nir + red), (BARE_PX, BARE_PX))
    row, col = np.unravel_index(np.argmin(views.mean(axis=(2, 3))), views.shape[:2])
    found_cyx = pixels_cyx[:, row : row + BARE_PX, col : col + BARE_PX]
    more = max(size_px - BARE_PX, 0)
    return np.pad(found_cyx, ((0, 0), (0, more), (0, more)), mode="symmetric")[:, :size_px, :size_px]


def _filled(pixels_cyx: np.ndarray) -> np.ndarray:
    means = np.nanmean(pixels_cyx, axis=(1, 2), keepdims=True)
    return np.where(np.isfinite(pixels_cyx), pixels_cyx, means).astype(np.float64)
