"""Read looks onto a window of the lattice and cut chips from it: physical units, clouds and gaps as NaN.

A window holds many chips, so that each block of a file is read once. Within a look every pixel comes from one
item, never from two: from the item that has most of its bands, and of equals from the first, where items in
the window's own CRS come before others. `cut` then gives each chip the look that shows most of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pystac
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtensionDa, xr_coords
from shapely.geometry.base import BaseGeometry

from geoelle.access import OPEN, Access, public
from geoelle.area import Addresses
from geoelle.assets import POLICY, Asset, Policy, read_asset, reason
from geoelle.chips import Chips, Sensor
from geoelle.errors import CatalogError, InputMismatch, ReadError
from geoelle.harmonise import OffsetDoubt, find_asset, has_asset, masked, radiometry, to_physical
from geoelle.looks import Look, plan_looks
from geoelle.resample import Target
from geoelle.scene import footprint, interval

__all__ = ["Look", "cut", "estimate_bytes", "plan_looks", "read_window"]

_ERRORS = ("raise", "skip")
_ON_LATTICE = 1e-3  # pixels by which a window may miss the lattice
_NEAR_DEG = 0.01  # footprints are drawn with a broad pen: an item this close may still have pixels


def read_window(
    looks: Sequence[Look],
    geobox: GeoBox,
    sensor: Sensor,
    bands: Sequence[str],
    *,
    errors: str = "raise",
    sign: Access | None = None,
    policy: Policy = POLICY,
) -> xr.DataArray:
    """Read bands of the looks onto a window: (time, band, y, x) float32 in the sensor's unit, NaN for gaps.

    The coordinate `source` (time, y, x) tells which item a pixel is from: a position in
    `attrs["items"][time]`, -1 for none. With `errors="skip"` an item that cannot be read is left out whole
    and listed in `attrs["skipped"]` with its item, asset, href and cause. `attrs["doubts"]` has the items
    whose offset had to be guessed, and why; each also warns. `sign` opens the files (`Found.access`).

    Raises:
        CatalogError: no look or band, a band the sensor lacks, an unknown `errors`, or no token.
        ReadError: a file cannot be read or is missing, with `errors="raise"`.
    """
    if errors not in _ERRORS or not looks or not bands:
        raise CatalogError(
            f"window of {len(looks)} looks and {len(bands)} bands cannot be read with errors={errors!r}; "
            f"give at least one of each, and errors one of {', '.join(_ERRORS)}"
        )
    shape = tuple(geobox.shape)
    pixels = np.full((len(looks), len(bands), *shape), np.nan, np.float32)
    source = np.full((len(looks), *shape), -1, np.int16)
    items: list[list[str]] = [[] for _ in looks]
    skipped: list[dict[str, str]] = []
    doubts: dict[str, str] = {}
    with ThreadPoolExecutor(policy.workers) as pool:
        reader = _Reader(sensor, tuple(bands), Target(geobox), sign or OPEN, policy, pool)
        for look, ids, pixels_cyx, source_yx in zip(looks, items, pixels, source, strict=True):
            for item in _in_order(look, geobox):
                try:
                    found_cyx, doubt = reader.read(item)
                except ReadError as failure:
                    if errors == "raise":
                        raise
                    skipped.append(_skip(failure))
                    continue
                doubts |= {item.id: doubt} if doubt else {}
                _lay(found_cyx, pixels_cyx, source_yx, len(ids))
                ids.append(item.id)
    for name, doubt in doubts.items():
        warnings.warn(f"offset of item {name} is in doubt: {doubt}", OffsetDoubt, stacklevel=2)
    attrs = {"sensor": sensor.name, "unit": sensor.unit, "items": items, "skipped": skipped, "doubts": doubts}
    times = np.array([look.date for look in looks], "datetime64[s]")
    coords = {"time": times, "band": list(bands), **xr_coords(geobox)}
    coords["source"] = (("time", *geobox.dimensions), source)
    return xr.DataArray(pixels, coords, ("time", "band", *geobox.dimensions), "pixels", attrs)


def cut(window: xr.DataArray, addresses: Addresses, *, times: Sequence[np.datetime64] | None = None) -> Chips:
    """Cut chips from a window that `read_window` returned; pixels are copied, never resampled.

    A chip has one frame: the look that shows most of it, the first of equals. With `times`, it has one frame
    for each of these looks, in their order. Its items are those its pixels are from; a frame without any has
    no time.

    Raises:
        InputMismatch: chips outside of the window or on another lattice, or a time the window lacks.
    """
    rows, cols = _corners(window, addresses)
    size = addresses.lattice.size_px
    if times is None:
        frames_bt = _clearest(window.values, rows, cols, size)[:, None]
    else:
        frames_bt = np.tile(_frames(window, times), (len(addresses), 1))
    items, seen_bt = _items(window, frames_bt, rows, cols, size)
    moments = window["time"].values.astype("datetime64[s]")[frames_bt]
    moments[~seen_bt] = np.datetime64("NaT")
    views = np.lib.stride_tricks.sliding_window_view(window.values, (size, size), axis=(-2, -1))
    return Chips(
        pixels_btcyx=np.ascontiguousarray(views[frames_bt, :, rows[:, None], cols[:, None]]),
        addresses=addresses,
        times_bt=moments,
        lonlat_b2=addresses.lonlat_n2,
        bands=tuple(str(name) for name in window["band"].values),
        items=items,
        sensor=str(window.attrs.get("sensor", "")),
    )


def estimate_bytes(looks: Sequence[Look], geobox: GeoBox, sensor: Sensor, bands: Sequence[str]) -> int:
    """Estimate the bytes that `read_window` will take, from metadata only.

    For each file of bands and mask: the part of the footprint inside the window, as a share of `file:size`
    where the item states it, else its pixels uncompressed, by the asset's or band's ground sampling
    distance and the type `raster:bands` states, or 16 bit. Compressed files take about half of that; whole
    blocks are read, so small windows take more. An asset the item lacks counts nothing.

    Raises:
        CatalogError: a band the sensor lacks.
    """
    total, window = 0.0, _ground(geobox)
    for item in (item for look in looks for item in look.items):
        shape = footprint(item)
        part = 1.0 if window is None else shapely.intersection(shape, window).area / window.area
        if part > 0:
            share = 1.0 if window is None else part * window.area / shape.area
            area_m2 = part * geobox.extent.area
            total += sum(_bytes(item, sensor, name, share, area_m2) for name in _with_mask(sensor, bands))
    return math.ceil(total)


@dataclass(frozen=True, slots=True)
class _Reader:
    """What stays the same for all items of a window."""

    sensor: Sensor
    bands: tuple[str, ...]
    target: Target
    access: Access
    policy: Policy
    pool: ThreadPoolExecutor

    def read(self, item: pystac.Item) -> tuple[np.ndarray, str]:
        """Return the item's bands, (band, y, x) in physical units with clouds as NaN, and any doubt."""
        rules = [radiometry(item, find_asset(item, self.sensor, band), self.sensor) for band in self.bands]
        files = list(self._files(item, [rule.nodata for rule in rules]))
        tasks = [
            self.pool.submit(read_asset, file, self.target, access=self.access, policy=self.policy)
            for file, _ in files
        ]
        out = np.empty((len(self.bands), *self.target.geobox.shape), np.float32)
        bad = None
        try:
            for (file, places), task in zip(files, tasks, strict=True):
                numbers = task.result()
                if file.classes:
                    bad = masked(numbers[0], self.sensor)
                for place, band_yx in zip(places, numbers, strict=not file.classes):
                    out[place] = to_physical(band_yx, rules[place], to_db=self.sensor.to_db)
        finally:
            for task in tasks:
                task.cancel()
        if bad is not None:
            out[:, bad] = np.nan
        return out, next((rule.doubt for rule in rules if rule.doubt), "")

    def _files(
        self, item: pystac.Item, nodata: list[tuple[float, ...]]
    ) -> Iterator[tuple[Asset, tuple[int, ...]]]:
        """Give every file once, with the positions its bands take among ours; the mask has none."""
        groups: dict[str, list[int]] = {}
        refs = [find_asset(item, self.sensor, band) for band in self.bands]
        for place, ref in enumerate(refs):
            groups.setdefault(ref.key, []).append(place)
        for places in groups.values():
            first, indexes = refs[places[0]], tuple(refs[place].index for place in places)
            file = Asset(
                item=item.id, key=first.key, href=first.href, indexes=indexes, nodata=nodata[places[0]]
            )
            yield file, tuple(places)
        if self.sensor.mask_asset:
            ref = find_asset(item, self.sensor, self.sensor.mask_asset)
            yield Asset(item=item.id, key=ref.key, href=ref.href, indexes=(ref.index,), classes=True), ()


def _in_order(look: Look, geobox: GeoBox) -> list[pystac.Item]:
    """Return the items that may have pixels in the window: those in its CRS first, then by time and id."""
    window = _ground(geobox)
    near = [
        item for item in look.items if window is None or shapely.dwithin(footprint(item), window, _NEAR_DEG)
    ]
    code = f"EPSG:{geobox.crs.epsg}"
    return sorted(near, key=lambda item: (_crs(item) != code, interval(item)[0], item.id))


def _crs(item: pystac.Item) -> str:
    return str(item.properties.get("proj:code") or f"EPSG:{item.properties.get('proj:epsg')}")


def _ground(geobox: GeoBox) -> BaseGeometry | None:
    """Return the window in EPSG:4326, or None where degrees cannot draw it: at a pole or the antimeridian."""
    shape = geobox.extent.to_crs("EPSG:4326", resolution=math.inf).geom
    west, _, east, _ = shape.bounds
    return shape if shape.is_valid and east - west < 90 and shape.area > 0 else None


def _skip(failure: ReadError) -> dict[str, str]:
    cause = str(failure) if failure.__cause__ is None else reason(failure.__cause__)
    return {"item": failure.item, "asset": failure.asset, "href": failure.href, "cause": public(cause)}


def _lay(found_cyx: np.ndarray, pixels_cyx: np.ndarray, source_yx: np.ndarray, number: int) -> None:
    """Lay an item's pixels where it has more bands than what is there, in place."""
    better = np.isfinite(found_cyx).sum(axis=0) > np.isfinite(pixels_cyx).sum(axis=0)
    np.copyto(pixels_cyx, found_cyx, where=better)
    source_yx[better] = number


def _corners(window: xr.DataArray, addresses: Addresses) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and column in the window of every chip's first pixel."""
    # `window.odc` would keep itself on the window: a cycle that holds 43 MB until the collector comes round.
    lattice, geobox = addresses.lattice, ODCExtensionDa(window).geobox
    if geobox is None or geobox.crs is None or geobox.crs.epsg != lattice.epsg:
        found = "no CRS" if geobox is None else str(geobox.crs)
        raise InputMismatch(f"window is in {found}, chips in EPSG:{lattice.epsg}; read one for their lattice")
    way = ~geobox.affine
    west, north = addresses.cols * lattice.cell_m, -addresses.rows * lattice.cell_m
    cols, rows = way.a * west + way.c, way.e * north + way.f
    scale = (way.a * lattice.gsd_m - 1, way.e * lattice.gsd_m + 1, way.b, way.d)
    off = max(np.abs(at - np.round(at)).max(initial=0) for at in (rows, cols))
    if max(abs(v) for v in scale) > 1e-9 or off > _ON_LATTICE:
        raise InputMismatch(
            f"window of {geobox.resolution.x:g} m pixels does not lie on the lattice of {lattice.gsd_m:g} m; "
            "read it with the geobox of the lattice"
        )
    rows, cols = np.round(rows).astype(np.intp), np.round(cols).astype(np.intp)
    height, width = geobox.shape
    outside = (rows < 0) | (cols < 0) | (rows + lattice.size_px > height) | (cols + lattice.size_px > width)
    if outside.any():
        first = addresses[int(np.argmax(outside))]
        raise InputMismatch(
            f"{outside.sum()} of {len(addresses)} chips are outside of the window, {first} first; "
            "read a window that holds them"
        )
    return rows, cols


def _frames(window: xr.DataArray, times: Sequence[np.datetime64]) -> np.ndarray:
    held = window["time"].values.astype("datetime64[s]")
    wanted = np.array(times, "datetime64[s]")
    if missing := [str(time) for time in wanted if time not in held]:
        raise InputMismatch(
            f"window has no look of {', '.join(missing)} (it has {', '.join(map(str, held))}); ask for these"
        )
    return np.array([int(np.argmax(held == time)) for time in wanted])


def _clearest(pixels_tcyx: np.ndarray, rows: np.ndarray, cols: np.ndarray, size: int) -> np.ndarray:
    """Return the look in which most pixels of each chip have all bands, the first of equals: (n,) int."""
    if len(pixels_tcyx) == 1:
        return np.zeros(len(rows), np.intp)
    counts = [_count(np.isfinite(look).all(axis=0), rows, cols, size) for look in pixels_tcyx]
    return np.argmax(np.stack(counts), axis=0)


def _count(flags_yx: np.ndarray, rows: np.ndarray, cols: np.ndarray, size: int) -> np.ndarray:
    """Count the true pixels of each chip, by an integral image."""
    total = np.zeros((flags_yx.shape[0] + 1, flags_yx.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(flags_yx, axis=0, dtype=np.int64), axis=1, out=total[1:, 1:])
    down, right = rows + size, cols + size
    return total[down, right] - total[rows, right] - total[down, cols] + total[rows, cols]


def _items(
    window: xr.DataArray, frames_bt: np.ndarray, rows: np.ndarray, cols: np.ndarray, size: int
) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
    """Return the ids of the items each chip shows, frame by frame, and which frames show any, (b, t) bool."""
    shown: list[dict[str, None]] = [{} for _ in rows]
    seen_bt = np.zeros(frames_bt.shape, bool)
    sources = window["source"].values
    for frame, looks in enumerate(frames_bt.T):
        for look in np.unique(looks):
            mine = np.flatnonzero(looks == look)
            for number, name in enumerate(window.attrs["items"][look]):
                held = mine[_count(sources[look] == number, rows[mine], cols[mine], size) > 0]
                seen_bt[held, frame] = True
                for chip in held:
                    shown[chip][name] = None
    return tuple(tuple(names) for names in shown), seen_bt


def _with_mask(sensor: Sensor, bands: Sequence[str]) -> tuple[str, ...]:
    return (*bands, sensor.mask_asset) if sensor.mask_asset else tuple(bands)


def _bytes(item: pystac.Item, sensor: Sensor, name: str, share: float, area_m2: float) -> float:
    if not has_asset(item, sensor, name):
        return 0.0
    ref = find_asset(item, sensor, name)
    fields = item.assets[ref.key].extra_fields
    shared = [band for band in sensor.band_names if sensor.asset_keys(band)[0].startswith(f"{ref.key}#")]
    if size := fields.get("file:size"):
        return share * float(size) / max(len(shared), 1)
    bands = fields.get("raster:bands") or [{}]
    mask = name == sensor.mask_asset
    usual = "uint8" if mask and sensor.mask_classes else "uint16"
    kind = np.dtype(bands[min(ref.index, len(bands)) - 1].get("data_type", usual))
    gsd_m = fields.get("gsd") or (sensor.gsd_m if mask else sensor.band(name).gsd_m)
    return area_m2 / float(gsd_m) ** 2 * kind.itemsize
