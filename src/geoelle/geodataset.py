"""Cut chips from a torchgeo `GeoDataset`, so that imagery torchgeo already knows needs no catalog.

The dataset is only sliced (`dataset[xmin:xmax:xres, ymin:ymax:yres]`), never imported: any object with torchgeo's
`crs`, `res`, `bounds`, `index` and slicing will do. Its files are resampled by torchgeo where their grid is not the
lattice's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geom import BoundingBox
from pyproj import CRS

from geoelle.chips import Chips
from geoelle.errors import InputMismatch
from geoelle.lattice import Addresses, Lattice

__all__ = ["addresses_of", "chips_of"]

LONGEST_DAYS = 40
"""A file that covers more time than this (a yearly mosaic, a file without a date) gives its chips no time."""


def addresses_of(dataset: Any, size_px: int, stride_px: int) -> Addresses:
    """Return every chip of the dataset's own CRS and resolution that lies wholly inside its bounds.

    Raises: InputMismatch (no CRS in metres with an EPSG code, pixels that are not square, not one whole chip).
    """
    lattice = _lattice(dataset, size_px, stride_px)
    x, y, _ = dataset.bounds
    cols = _inside(x.start, x.stop, lattice)
    rows = _inside(-y.stop, -y.start, lattice)
    if not len(rows) or not len(cols):
        side = size_px * lattice.gsd_m
        raise InputMismatch(f"the dataset holds no whole chip of {side:g} m; use one of {side:g} m a side or more")
    return Addresses(lattice=lattice, rows=np.repeat(rows, len(cols)), cols=np.tile(cols, len(rows)))


def chips_of(
    dataset: Any,
    addresses: Addresses,
    bands: Sequence[str],
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    nodata: float | None = None,
    sensor: str = "",
    batch: int = 32,
) -> Iterator[Chips]:
    """Yield batches of chips: one frame each, pixels times `scale` plus `offset`, `nodata` and gaps as NaN.

    `bands` names the dataset's channels by STAC common names ("red"), in its own order; `scale` and `offset` turn its
    numbers into reflectance 0-1 (0.0001 for Sentinel-2 before 2022) or decibels.

    Raises: InputMismatch (another CRS or resolution than the addresses', another count of channels).
    """
    mine = _lattice(dataset, addresses.lattice.size_px, addresses.lattice.stride_px)
    if mine != addresses.lattice:
        raise InputMismatch(f"the dataset is on {mine}, the addresses on {addresses.lattice}; make them agree")
    for start in range(0, len(addresses), batch):
        some = addresses[start : start + batch]
        read = [_read(dataset, address.geobox.boundingbox, len(bands), mine) for address in some]
        pixels = np.stack([image for image, _, _ in read])[:, None]
        if nodata is not None:
            pixels[pixels == nodata] = np.nan
        yield Chips(
            pixels_btcyx=(pixels * np.float32(scale) + np.float32(offset)).astype(np.float32),
            addresses=some,
            times_bt=np.array([[time] for _, time, _ in read], "datetime64[s]"),
            lonlat_b2=some.lonlat_n2,
            bands=tuple(bands),
            items=tuple(names for _, _, names in read),
            sensor=sensor,
        )


def _lattice(dataset: Any, size_px: int, stride_px: int) -> Lattice:
    crs = CRS.from_user_input(dataset.crs)
    xres, yres = dataset.res
    if crs.to_epsg() is None or not crs.is_projected or xres != yres:
        raise InputMismatch(
            f"the dataset is in {crs.name} with pixels of {xres:g} x {yres:g}; open it with crs=CRS.from_epsg(...) "
            "of a CRS in metres and one res"
        )
    return Lattice(epsg=crs.to_epsg(), gsd_m=float(xres), size_px=size_px, stride_px=stride_px)


def _inside(low: float, high: float, lattice: Lattice) -> np.ndarray:
    """Return the lattice indices of the chips wholly between two coordinates that grow with the index."""
    step, side = lattice.cell_m, lattice.size_px * lattice.gsd_m
    return np.arange(int(np.ceil(round(low / step, 9))), int(np.floor(round((high - side) / step, 9))) + 1)


def _read(
    dataset: Any, box: BoundingBox, bands: int, lattice: Lattice
) -> tuple[np.ndarray, np.datetime64, tuple[str, ...]]:
    """Return float32 (c, y, x), the time and the names of the files of one chip; NaN where the dataset has none."""
    size, gsd = lattice.size_px, lattice.gsd_m
    here = dataset.index.cx[box.left : box.right, box.bottom : box.top]
    here = here[here.intersection(box.polygon.geom).area > 0]  # a neighbour that shares an edge is no source
    if not len(here):
        return np.full((bands, size, size), np.nan, np.float32), np.datetime64("NaT"), ()
    image = dataset[box.left : box.right : gsd, box.bottom : box.top : gsd]["image"].float().numpy()
    if image.shape != (bands, size, size):
        raise InputMismatch(
            f"the dataset gives {image.shape} for a chip of {bands} bands ({bands}, {size}, {size}); name its channels "
            "in bands, and make it one frame"
        )
    names = tuple(sorted({Path(str(p)).name for p in here["filepath"]})) if "filepath" in here else ()
    begin, end = here.index.left.min(), here.index.right.max()
    short = (end - begin).days <= LONGEST_DAYS
    return image, np.datetime64((begin + (end - begin) / 2).to_datetime64() if short else "NaT", "s"), names
