"""Read small pictures of a few chips again, from the items of their run; say why where they cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pystac
import xarray as xr
from odc.geo.geobox import GeoBox

from geoelle.access import public
from geoelle.area import Area
from geoelle.catalog import Found, search
from geoelle.embeddings import Embeddings
from geoelle.errors import AreaError, CatalogError, ReadError
from geoelle.harmonise import has_asset
from geoelle.looks import Look
from geoelle.measures import Measures
from geoelle.read import read_window

__all__ = ["COLOURS", "Imagery", "Thumbnail", "Thumbnails", "read_ground", "read_thumbnails", "window_of"]

COLOURS = ("red", "green", "blue")
SIDE_PX = 96
"""A chip smaller than this is shown with the ground around it: 32 pixels alone are hard to recognise."""
_GREYS = ("vv", "vh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagery:
    """Name what pictures are read from: the items of a run, its sensor and area, as its manifest has them."""

    items: Path
    sensor: str
    area: Area


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thumbnail:
    """Hold one picture: `pixels_yxc` in the sensor's unit, NaN for gaps; `margin_px` around the chip.

    A chip that was not read is a single pixel, the mean of its features, or NaN where it has none.
    """

    pixels_yxc: np.ndarray
    margin_px: int = 0
    was_read: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thumbnails:
    """Hold the pictures by chip, the bands they show (three, or one grey), and why others are missing."""

    of: Mapping[int, Thumbnail]
    bands: tuple[str, ...]
    reasons: Mapping[str, int] = field(default_factory=dict)


def read_thumbnails(
    imagery: Imagery,
    measures: Measures,
    chips: np.ndarray,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> Thumbnails:
    """Read the pixels of these chips again, with what surrounds a small one; nothing else is read.

    A chip shows the items it was embedded from. Where they cannot be read any more, the mean colour from the
    features stands in, and the reason is counted; an item that failed once is not tried again.
    """
    failed: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    of: dict[int, Thumbnail] = {}
    try:
        found = search(imagery.area, catalog=imagery.items, sensor=imagery.sensor, cloud_max=None)
        bands = _bands(found)
    except (AreaError, CatalogError) as cause:
        found, bands = None, _feature_bands(measures.tables[0])
        failed = dict.fromkeys({i for t in measures.tables for ids in t.items_n for i in ids.split(";")}, str(cause))
    for done, chip in enumerate(dict.fromkeys(chips.tolist()), start=1):
        table, row = measures.at(chip)
        ids = table.items_n[row].split(";")
        reason = next((failed[name] for name in ids if name in failed), "")
        if not reason:
            try:
                of[chip] = _read(found, table, row, bands)
            except (ReadError, CatalogError) as cause:
                reason = public(str(cause))
                failed |= dict.fromkeys([getattr(cause, "item", "") or ids[0]], reason)
        if reason:
            reasons[reason] += 1
            of[chip] = Thumbnail(pixels_yxc=_mean_colour(table, row, bands), was_read=False)
        if progress:
            progress(done, len(set(chips.tolist())), "pictures")
    return Thumbnails(of=of, bands=bands, reasons=reasons)


def read_ground(imagery: Imagery, ids: Sequence[Sequence[str]], box: GeoBox) -> np.ndarray:
    """Read a whole window in true colour, (y, x, 3) in the sensor's unit: each pixel from the first look that shows it.

    `ids` are the items of each look, best first.

    Raises: CatalogError, ReadError (an item cannot be read any more, or has no red, green and blue).
    """
    found = search(imagery.area, catalog=imagery.items, sensor=imagery.sensor, cloud_max=None)
    if _bands(found) != COLOURS:
        raise ReadError(f"{imagery.sensor} has no red, green and blue; choose another sensor for pictures")
    ground_yx3 = np.full((*box.shape, 3), np.nan, np.float32)
    for names in ids:
        items = _items(found, ";".join(names))
        look = Look(date=np.datetime64("NaT"), date_half_width_days=0.0, items=items, cloud=None, coverage=1.0)
        window = read_window([look], box, found.sensor, COLOURS, sign=found.access)
        ground_yx3 = np.where(np.isfinite(ground_yx3), ground_yx3, np.moveaxis(window.values[0], 0, -1))
    return ground_yx3


def window_of(table: Embeddings, row: int) -> tuple[GeoBox, int]:
    """Return the window that a picture of a chip shows, and its margin around the chip in pixels."""
    lattice = table.addresses.lattice
    margin_px = max(SIDE_PX - lattice.size_px, 0) // 2
    return lattice.geobox(int(table.addresses.rows[row]), int(table.addresses.cols[row])).pad(margin_px), margin_px


def _read(found: Found, table: Embeddings, row: int, bands: tuple[str, ...]) -> Thumbnail:
    items = _items(found, table.items_n[row])
    look = Look(date=table.times_n[row], date_half_width_days=0.0, items=items, cloud=None, coverage=1.0)
    box, margin_px = window_of(table, row)
    window: xr.DataArray = read_window([look], box, found.sensor, bands, sign=found.access)
    pixels_yxc = np.moveaxis(window.values[0], 0, -1)
    inside = slice(margin_px, margin_px + table.addresses.lattice.size_px)
    if not np.isfinite(pixels_yxc[inside, inside]).any():
        raise ReadError(
            f"no pixel of chip {table.addresses[row]} is left in {table.items_n[row]}; has the item changed?"
        )
    return Thumbnail(pixels_yxc=pixels_yxc, margin_px=margin_px)


def _items(found: Found, ids: str) -> tuple[pystac.Item, ...]:
    by_id = {item.id: item for item in found.items}
    if missing := [name for name in ids.split(";") if name not in by_id]:
        raise ReadError(f"item {missing[0]} is not in items.json any more; embed the run again", item=missing[0])
    return tuple(by_id[name] for name in ids.split(";"))


def _bands(found: Found) -> tuple[str, ...]:
    """Return the bands to look at: true colour, else one radar band, else the first the sensor has."""
    names = [b for b in found.sensor.band_names if all(has_asset(item, found.sensor, b) for item in found.items)]
    if set(COLOURS) <= set(names):
        return COLOURS
    return next(((grey,) for grey in (*_GREYS, *names) if grey in names), (found.sensor.band_names[0],))


def _feature_bands(table: Embeddings) -> tuple[str, ...]:
    """Return the bands whose means the features hold, chosen as `_bands` does."""
    names = table.header.bands
    if set(COLOURS) <= set(names):
        return COLOURS
    return next(((grey,) for grey in (*_GREYS, *names) if grey in names), ())


def _mean_colour(table: Embeddings, row: int, bands: tuple[str, ...]) -> np.ndarray:
    """Return the means of the bands as one pixel, NaN where the features lack one."""
    names = table.header.feature_names
    wanted = [f"mean_{band}" for band in bands]
    if table.features_nf is None or not set(wanted) <= set(names):
        return np.full((1, 1, max(len(bands), 1)), np.nan, np.float32)
    return table.features_nf[row, [names.index(name) for name in wanted]].reshape(1, 1, -1)
