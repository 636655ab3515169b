"""Chips of a golden: its pixels under band names of geoelle, at a made-up address."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips


def chips_of(arrays: dict[str, np.ndarray], bands: Sequence[str], sensor: str = "sentinel-2-l2a") -> Chips:
    """Return chips of `pixels_btcyx`, with the golden's times and places where it has them."""
    pixels = np.ascontiguousarray(arrays["pixels_btcyx"], np.float32)
    n, frames, _, size, _ = pixels.shape
    times = arrays.get("times_bt", np.full((n, frames), "2020-06-01T10:30:00", "datetime64[s]"))
    lattice = Lattice(epsg=32618, gsd_m=10, size_px=size, stride_px=size // 2)
    return Chips(
        pixels_btcyx=pixels,
        addresses=Addresses(lattice=lattice, rows=np.full(n, -2_600), cols=np.arange(n) + 260),
        times_bt=times.astype("datetime64[s]"),
        lonlat_b2=np.asarray(arrays.get("lonlat_b2", np.zeros((n, 2))), np.float64),
        bands=tuple(bands),
        items=(("item",),) * n,
        sensor=sensor,
    )
