"""Read the forest at all its dates, and let a model say what every measure is on every patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from delta_inject import judged_shape
from delta_nulls import Kit, Measured
from delta_seen import Reader, cached
from delta_series import BAND_SETS, FOREST_EPSG, Image

CLEAR = (4, 5, 6, 7, 11)
"""Scene classes of clear ground, as for the demo catalogue."""
CLEAR_SHARE = 0.7
"""Share of the square kilometre that is clear on a date that counts."""
STEP_PX = 16
FINE, COARSE = ("blue", "green", "red", "nir"), ("nir08", "swir16")
SOURCE = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "nir08": "B8A", "swir16": "B11"}
CELLS_SEEN = 0.9
"""Share of the patches of a place that are seen on a date that counts for it, as in `geoelle series`."""
OURS = {"Delta": "difficulty", "Delta excess": "excess"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """Every measure of every patch at every date, (dates, patches), NaN where not seen; patches lie by row of `shape`."""

    days_d: np.ndarray
    numbers: dict[str, np.ndarray]
    inside_dn: np.ndarray
    shape: tuple[int, int]

    def of(self, cells_k: np.ndarray) -> Seen:
        """Return the means over the patches of a place, of the dates on which enough of them are seen."""
        seen_dk = np.isfinite(self.numbers["difficulty"][:, cells_k])
        rows = np.flatnonzero(seen_dk.mean(axis=1) >= CELLS_SEEN)
        pick = np.ix_(rows, cells_k)
        weight = np.where(seen_dk[rows], 1.0, np.nan)
        means = {name: np.nanmean(value_dn[pick] * weight, axis=1) for name, value_dn in self.numbers.items()}
        inside_d = np.nanmean(self.inside_dn[pick] * weight, axis=1)
        return Seen(days_d=self.days_d[rows], numbers=means, inside_d=inside_d)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """A place at its dates: every measure, and the share of its patches inside the area of applicability, (dates,)."""

    days_d: np.ndarray
    numbers: dict[str, np.ndarray]
    inside_d: np.ndarray


def cube(root: Path) -> list[Image]:
    """Return the dates of the source that are clear enough, by day, on the patches of the demo catalogue; nothing is interpolated."""
    folder = root / "change" / "nrt_romania"
    with rasterio.open(folder / "S2_10m_140dates.tif") as fine, rasterio.open(folder / "S2_20m_140dates.tif") as coarse:
        names, others = fine.descriptions, coarse.descriptions
        fine_cyx, coarse_cyx = fine.read(), coarse.read()
        left, top = fine.bounds.left, fine.bounds.top
    col, row = round(left / 10), -round(top / 10)
    spare = -row % STEP_PX, -col % STEP_PX
    side = (fine_cyx.shape[1] - max(spare)) // STEP_PX * STEP_PX
    at = slice(spare[0], spare[0] + side), slice(spare[1], spare[1] + side)
    images = []
    for day in sorted({name[:10] for name in names}):
        clear_yx = np.isin(fine_cyx[names.index(f"{day}_SCL")], CLEAR)
        if clear_yx.mean() < CLEAR_SHARE:
            continue
        bands = [fine_cyx[names.index(f"{day}_{SOURCE[b]}")] for b in FINE]
        bands += [np.kron(coarse_cyx[others.index(f"{day}_{SOURCE[b]}")], np.ones((2, 2), int)) for b in COARSE]
        pixels_cyx = np.where(clear_yx, np.array(bands) / 10_000, np.nan).astype(np.float32)
        images.append(Image(
            day=np.datetime64(day), pixels_cyx=pixels_cyx[:, *at], bands=BAND_SETS["6"], epsg=FOREST_EPSG,
            corner=(row + spare[0], col + spare[1]), sensor="sentinel-2-l2a",
        ))  # fmt: skip
    return images


def ground(images: Sequence[Image], reader: Reader, kit: Kit, name: str, cache: Path | None) -> Ground:
    """Let the model read every date; measures that any date lacks are left out."""
    found = list(_measured(images, reader, kit, name, cache))
    kept = [part for part in found[0].numbers if all(part in one.numbers for one in found)]
    numbers = {OURS.get(part, part): np.array([one.numbers[part] for one in found]) for part in kept}
    return Ground(
        days_d=np.array([image.day.astype("datetime64[D]").astype(float) for image in images]), numbers=numbers,
        inside_dn=np.array([one.inside_n for one in found], float), shape=judged_shape(images[0]),
    )  # fmt: skip


def _measured(images: Sequence[Image], reader: Reader, kit: Kit, name: str, cache: Path | None) -> Iterator[Measured]:
    for image in images:
        kept = f"{name}-patches-{image.day}-{reader.name}"
        yield kit.measure(cached(cache, kept, lambda i=image: (reader.read(i, "patches"),))[0])
