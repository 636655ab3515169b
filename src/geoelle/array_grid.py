"""The pixels of one DataArray as chips: its grid checked against a model, its bands in order, its chips addressed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtensionDa, xr_coords

from geoelle.area import Addresses, Lattice
from geoelle.errors import InputMismatch
from geoelle.models import Card
from geoelle.plan import part_side

__all__ = ["Grid", "Labels", "check_apart", "window_of"]

LIKELY = 100.0
"""Neither reflectance nor decibels are typically larger: such numbers were never scaled."""
OFF_PX = 1e-3
"""Pixels by which a coordinate may miss its grid."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """What the axes of the pixels mean, and the name that stands for the item."""

    name: str
    times: np.ndarray
    bands: tuple[str, ...]
    sensor: str

    @property
    def days(self) -> frozenset[np.datetime64]:
        """Return the days of the times, none where there is no time."""
        return frozenset(self.times[~np.isnat(self.times)].astype("datetime64[D]"))

    @property
    def span(self) -> str:
        """Return the first and the last day as `Area.parse` reads dates.

        Raises: InputMismatch (no time).
        """
        if np.isnat(self.times).any():
            raise InputMismatch("the array has no time; give it one a date, by .expand_dims(time=[...])")
        return f"{min(self.days)}/{max(self.days)}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """Pixels in the order (time, band, y, x), north up, and the lattice rows and columns of the chips inside.

    `left` and `top` count pixels from the origin of the CRS, east and south.
    """

    pixels: xr.DataArray
    labels: Labels
    lattice: Lattice
    left: int
    top: int
    rows: np.ndarray
    cols: np.ndarray

    @classmethod
    def of(cls, pixels: xr.DataArray, card: Card, stride_px: int | None) -> Grid:
        """Check an array against a model, from its metadata alone.

        Raises: InputMismatch.
        """
        name, sensor = str(pixels.name or "array"), str(pixels.attrs.get("sensor", ""))
        pixels = _in_order(pixels, card)
        if _geobox(pixels).affine.e > 0:
            pixels = pixels.isel(y=slice(None, None, -1))
        box = _geobox(pixels)
        lattice = _lattice(box, card, stride_px)
        left, top = round(box.affine.c / lattice.gsd_m), -round(box.affine.f / lattice.gsd_m)
        rows, cols = _inside(top, box.shape.y, lattice), _inside(left, box.shape.x, lattice)
        if not len(rows) or not len(cols):
            raise InputMismatch(
                f"the array is too small ({box.shape.x} x {box.shape.y} px) to hold a chip of {lattice.size_px} px; "
                f"{lattice.size_px + lattice.stride_px - 1} px a side hold one wherever the corner falls"
            )
        times = pixels["time"].values.astype("datetime64[s]")
        labels = Labels(name=name, times=times, bands=tuple(pixels["band"].values.tolist()), sensor=sensor)
        return cls(pixels=pixels, labels=labels, lattice=lattice, left=left, top=top, rows=rows, cols=cols)

    @property
    def addresses(self) -> Addresses:
        return self._mesh(self.rows, self.cols)

    def blocks(self) -> list[list[Addresses]]:
        """Return the chips of each block of the lattice, line by line: the shards that a run has."""
        side = part_side(self.lattice.stride_px)
        return [[self._mesh(rows, cols) for cols in _split(self.cols, side)] for rows in _split(self.rows, side)]

    def under(self, chosen: Addresses) -> Any:
        """Return the pixels (time, band, y, x) under a rectangle of chips, a numpy or dask array."""
        step, size = self.lattice.stride_px, self.lattice.size_px
        y, x = (
            slice(int(index.min()) * step - first, int(index.max()) * step + size - first)
            for index, first in ((chosen.rows, self.top), (chosen.cols, self.left))
        )
        return self.pixels.isel(y=y, x=x).data

    def _mesh(self, rows: np.ndarray, cols: np.ndarray) -> Addresses:
        return Addresses(lattice=self.lattice, rows=np.repeat(rows, len(cols)), cols=np.tile(cols, len(rows)))


def check_apart(named: Mapping[str, Grid]) -> None:
    """Check that arrays, by what to call them, are dates of their own, seen by one sensor where they state it.

    Raises: InputMismatch.
    """
    for (one, left), (other, right) in combinations([(name, grid.labels) for name, grid in named.items()], 2):
        if shared := left.days & right.days:
            raise InputMismatch(
                f"arrays {one} and {other} share a day ({min(shared)}), so they are not two dates; choose dates that "
                "do not overlap"
            )
        if left.sensor and right.sensor and left.sensor != right.sensor:
            raise InputMismatch(
                f"arrays {one} and {other} differ in sensor ({left.sensor}, {right.sensor}); give arrays of one sensor"
            )


def _in_order(pixels: xr.DataArray, card: Card) -> xr.DataArray:
    """Return the array as (time, band, y, x), bands in the model's order; raises `InputMismatch`."""
    if not {"band", "y", "x"} <= set(pixels.dims) <= {"time", "band", "y", "x"}:
        raise InputMismatch(
            f"the array has dims {', '.join(map(str, pixels.dims))}; give band, y, x and no other than time, "
            "by .rename or .isel"
        )
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputMismatch(
            f"the array holds {pixels.dtype}; scale it to reflectance 0-1 as float32, NaN for nodata "
            "(.where(a != 0) * 0.0001 for Sentinel-2 without an offset)"
        )
    bands = _bands([str(name) for name in pixels.coords["band"].values] if "band" in pixels.coords else [], card)
    if "time" not in pixels.dims:
        time = pixels.coords["time"].values if "time" in pixels.coords else np.datetime64("NaT", "ns")
        pixels = pixels.drop_vars("time", errors="ignore").expand_dims(time=[time])
    if not np.issubdtype(pixels["time"].dtype, np.datetime64):
        raise InputMismatch(f"the array has times of type {pixels['time'].dtype}; give datetime64")
    return pixels.sel(band=bands).transpose("time", "band", "y", "x")


def _bands(given: list[str], card: Card) -> list[str]:
    """Return the bands given in the model's order; raises `InputMismatch` for others, for doubles and for too few."""
    bands = [name for name in card.bands if name in given]
    if unknown := [name for name in given if name not in card.bands] or ([] if given else ["none has a name"]):
        close = difflib.get_close_matches(unknown[0], card.bands, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputMismatch(
            f"the array has bands that {card.name} does not know ({', '.join(unknown)}); {hint}name them with "
            f".assign_coords(band=[...]) or leave them out with .sel(band=[...]): it takes {', '.join(card.bands)}"
        )
    if len(given) > len(bands) or len(bands) < (card.min_bands if card.band_subset else len(card.bands)):
        wanted = f"{card.min_bands} or more" if card.band_subset else "all"
        raise InputMismatch(
            f"the array has bands {', '.join(given)}; give {card.name} {wanted} of {', '.join(card.bands)}, each once"
        )
    return bands


def _geobox(pixels: xr.DataArray) -> GeoBox:
    """Return the grid of the array; raises `InputMismatch` where it is not one of square pixels in metres."""
    box = ODCExtensionDa(pixels).geobox
    if box is None:
        raise InputMismatch("the array has no grid (no x and y coordinates of two pixels and more); give it both")
    if box.crs is None:
        raise InputMismatch('the array has no CRS; set the one it is in with .rio.write_crs("EPSG:...")')
    if not box.crs.projected or set(box.crs.units) != {"metre"} or box.crs.to_epsg() is None:
        raise InputMismatch(
            f"the array is in {_crs_name(box)}; reproject it to a CRS in metres that has an EPSG code, as "
            '.odc.reproject("utm", resolution=10) does'
        )
    even = box.axis_aligned and box.affine.a > 0 and np.isclose(box.affine.a, abs(box.affine.e), rtol=1e-6)
    true = xr_coords(box) if even else {}
    if not even or any(np.abs(pixels[k].values - true[k].values).max() > OFF_PX * box.affine.a for k in "xy"):
        raise InputMismatch(
            "the array is not on a regular grid of square pixels from west to east "
            f"({box.affine.a:g} x {abs(box.affine.e):g} m); {_remedy(box, 10)}"
        )
    return box


def _crs_name(box: GeoBox) -> str:
    code = box.crs.to_epsg()
    return f"{'a CRS without a code' if code is None else f'EPSG:{code}'} ({', '.join(sorted(set(box.crs.units)))})"


def _remedy(box: GeoBox, gsd_m: float) -> str:
    return f'resample it, with .odc.reproject("EPSG:{box.crs.to_epsg()}", resolution={gsd_m:g}) say'


def _lattice(box: GeoBox, card: Card, stride_px: int | None) -> Lattice:
    gsd, (low, high) = round(box.affine.a, 6), card.gsd_m
    if not low <= gsd <= high:
        trained = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        raise InputMismatch(
            f"the array has pixels of {gsd:g} m, {card.name} was trained at {trained} m; "
            f"{_remedy(box, min(max(gsd, low), high))}"
        )
    if max(abs(edge / gsd - round(edge / gsd)) for edge in (box.affine.c, box.affine.f)) > OFF_PX:
        raise InputMismatch(
            f"the array's corner ({box.affine.c:.10g}, {box.affine.f:.10g}) is on no multiple of its pixel size "
            f"({gsd:g} m), so its chips have no address; {_remedy(box, gsd)}"
        )
    epsg = box.crs.to_epsg()
    return Lattice(epsg=epsg, gsd_m=gsd, size_px=card.chip_px, stride_px=stride_px or card.stride_px)


def _inside(start: int, count: int, lattice: Lattice) -> np.ndarray:
    """Return the lattice indices of the chips wholly inside `count` pixels from pixel `start` of the CRS on."""
    first = -(-start // lattice.stride_px)
    return np.arange(first, (start + count - lattice.size_px) // lattice.stride_px + 1)


def _split(index: np.ndarray, side: int) -> list[np.ndarray]:
    return np.split(index, np.flatnonzero(np.diff(index // side)) + 1)


def window_of(pixels_tcyx: Any, labels: Labels, chosen: Addresses) -> xr.DataArray:
    """Return what `cut` takes: the pixels under the chips, read now; the array itself stands for the item.

    Raises: InputMismatch (numbers that were never scaled).
    """
    pixels_tcyx = np.asarray(pixels_tcyx, np.float32)
    few = pixels_tcyx[..., ::8, ::8]
    few = np.abs(few[np.isfinite(few)])
    if few.size and (typical := float(np.median(few))) > LIKELY:
        raise InputMismatch(
            f"the array holds numbers of about {typical:.4g}; scale it to reflectance 0-1, NaN for nodata"
        )
    source = np.where(np.isfinite(pixels_tcyx).any(axis=1), 0, -1).astype(np.int16)
    box = chosen.lattice.union_geobox(chosen.rows, chosen.cols)
    coords = {"time": labels.times, "band": list(labels.bands), **xr_coords(box)}
    coords["source"] = (("time", "y", "x"), source)
    attrs = {"items": [[labels.name]] * len(labels.times), "sensor": labels.sensor}
    return xr.DataArray(pixels_tcyx, coords, ("time", "band", "y", "x"), attrs=attrs)
