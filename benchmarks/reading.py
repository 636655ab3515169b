"""How fast chips are read from local COGs, beside odc.stac.load and beside rasterio itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mosaic
import numpy as np
import odc.stac
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.windows import from_bounds
from timing import Section, race, rates

from geoelle.assets import POLICY
from geoelle.plan import Plan
from geoelle.read import cut, read_window

OURS = "geoelle read_window"


def measure(repeats: int, *, quick: bool) -> Section:
    """Read the window of one part of a run in every way; the pixels of the first two are checked to be equal."""
    plan, chips, box = mosaic.one_part(16 if quick else 64)
    items = [item for look in plan.looks for item in look.items]

    def ours() -> xr.DataArray:
        return read_window(plan.looks, box, plan.found.sensor, plan.bands)

    def odc_stac() -> xr.Dataset:
        return odc.stac.load(items, bands=plan.bands, geobox=box, resampling="nearest", pool=POLICY.workers)

    window, peer = ours(), odc_stac()
    for band in plan.bands:
        np.testing.assert_allclose(window.sel(band=band).values, peer[band].values * 1e-4, atol=1e-6)
    seconds = race(
        {
            OURS: ours,
            f"{OURS} and cut": lambda: cut(ours(), chips),
            "odc.stac.load": odc_stac,
            "rasterio windows": lambda: _windows(plan, box),
        },
        repeats,
    )
    count, (height, width) = len(chips), box.shape
    return Section(
        title="Reading",
        text=(
            f"{count:,} chips of 32 px from one window of {width} x {height} px, {len(plan.bands)} bands (4 of 10 m, "
            f"6 of 20 m) of the demo scene: local COGs, files in the page cache. Every reader has {POLICY.workers} "
            "threads. geoelle returns reflectance with NaN and knows the item of each pixel; odc.stac.load returns "
            "the numbers of the same pixels (checked); plain rasterio decodes the windows at their own resolution "
            "and does nothing with them, which is the limit."
        ),
        ratio="geoelle / it",
        rows=rates(seconds, count, "chips/s", against=OURS),
    )


def _windows(plan: Plan, box: GeoBox) -> list[np.ndarray]:
    """Decode the blocks under the window of every band, on as many threads as geoelle takes."""
    bounds = box.boundingbox.bbox

    def read(href: str) -> np.ndarray:
        with rasterio.open(href) as source:
            return source.read(1, window=from_bounds(*bounds, source.transform))

    hrefs = [item.assets[band].href for look in plan.looks for item in look.items for band in plan.bands]
    with ThreadPoolExecutor(POLICY.workers) as pool:
        return list(pool.map(read, hrefs))
