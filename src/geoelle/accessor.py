"""`.elle` on any georeferenced DataArray: chips, embeddings and difficulty without a catalog.

    import geoelle.accessor
    scene.elle.difficulty()          # (band, y, x), lazy where the scene is a dask array
    after.elle.delta(before)         # (band, y, x), what changed
    cube.elle.series([(22.15, 45.2)])  # a table of points through time

The array has dims band, y, x in any order, and may have time. Its `band` coordinate holds band names of geoelle (blue,
green, red, ...), its values are reflectance 0-1 with NaN for nodata. Its grid is that of a projected CRS in metres, at
the model's pixel size, with corners on multiples of it: then its chips have the addresses, and the numbers, that a map
of the same ground has. Of several times each chip takes the one that shows most of it. Models whose statistics differ
by sensor read its name from the attribute `sensor` ("sentinel-2-l2a", say).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtensionDa, xr_coords

from geoelle.area import Addresses, Lattice
from geoelle.bands import Bands
from geoelle.chips import Chips
from geoelle.delta import RATE, Scored, compare
from geoelle.delta_bands import DeltaBands
from geoelle.embed import embed_chips, space_of
from geoelle.embeddings import Embeddings
from geoelle.errors import InputMismatch, ProbeError
from geoelle.models import Card, Model, load_model
from geoelle.places import Place, cells_of, read_points
from geoelle.plan import chips_at_once, part_side
from geoelle.probe import Probe
from geoelle.products import shipped_probe
from geoelle.raster import paint
from geoelle.read import cut
from geoelle.series import judge, observe
from geoelle.series_dates import DateScores
from geoelle.series_product import table_of

__all__ = ["Elle"]

LIKELY = 100.0
"""Neither reflectance nor decibels are typically larger: such numbers were never scaled."""
OFF_PX = 1e-3
"""Pixels by which a coordinate may miss its grid."""


@xr.register_dataarray_accessor("elle")
class Elle:
    """Cut, embed and score the pixels of one DataArray; every method returns a new object.

    Chips are those of the lattice of the array's CRS that lie wholly inside the array, by row, then column.
    `model` is a name or a loaded model; `stride_px` defaults to the model's.
    """

    def __init__(self, pixels: xr.DataArray) -> None:
        self._pixels = pixels

    def chips(self, model: str | Model = "nano", stride_px: int | None = None) -> Chips:
        """Cut every chip; reads the whole array.

        Raises: InputMismatch, AreaError (a stride that does not fit).
        """
        grid = _Grid.of(self._pixels, _loaded(model).card, stride_px)
        return cut(_window(grid.under(grid.addresses), grid.labels, grid.addresses), grid.addresses)

    def embed(self, model: str | Model = "nano", stride_px: int | None = None, *, loss: bool = False) -> Embeddings:
        """Embed every chip, reading block by block; with `loss`, also compute the model's pretraining loss on each.

        Raises: InputMismatch, AreaError, CapabilityError (a loss is asked of a model that has none).
        """
        model = _loaded(model)
        grid = _Grid.of(self._pixels, model.card, stride_px)
        blocks = (chosen for line in grid.blocks() for chosen in line)
        first, *rest = (_embedded(grid.under(chosen), grid.labels, chosen, model, loss) for chosen in blocks)
        whole = first.concat(*rest)
        return whole[np.lexsort((whole.addresses.cols, whole.addresses.rows))]

    def difficulty(
        self, probe: Probe | str | Path | None = None, model: str | Model = "nano", stride_px: int | None = None
    ) -> xr.DataArray:
        """Return difficulty, complexity and excess, float32, one pixel a cell; lazy where the array is.

        A probe with a spread adds lower and upper, one with a reach applicable, dissimilarity and density.

        `probe` defaults to the one that ships for the model and these bands. A lazy result reads the pixels under a
        block of the lattice (64 x 64 cells for nano) when that block is computed, and holds exactly the numbers of an
        eager one.

        Raises: InputMismatch, AreaError, ProbeError (none ships, or it has no pixel part), SpaceMismatch.
        """
        model = _loaded(model)
        grid = _Grid.of(self._pixels, model.card, stride_px)
        probe = _checked_probe(probe, model, grid.labels.bands)
        if grid.pixels.chunks is not None:
            return _raster(_lazy(grid, model, probe), grid.addresses, model.card, probe)

        def score(chosen: Addresses) -> np.ndarray:
            return _scores(grid.under(chosen), grid.labels, chosen, model, probe)

        values = np.block([[score(chosen) for chosen in line] for line in grid.blocks()])
        return _raster(values, grid.addresses, model.card, probe)

    def delta(
        self,
        before: xr.DataArray,
        history: Sequence[xr.DataArray] = (),
        probe: Probe | str | Path | None = None,
        model: str | Model = "nano",
        stride_px: int | None = None,
        *,
        later: Sequence[xr.DataArray] = (),
        rate: float = RATE,
    ) -> xr.DataArray:
        """Return the change since `before`: delta, its excess, sign, rank, state, and with a history t, p, q, flag.

        All arrays have the CRS and pixel size of this one, and are read at once; cells are those of either date.
        `history` are arrays of the same season of earlier years, at least four, each with its `time`. Without them
        nothing is tested. `later` arrays, of that season too, follow the flags: they add status, first_detected and
        duration. Sun, orbit and processing are not compared: arrays do not state them.

        Raises: InputMismatch, AreaError (another grid), ProbeError, SpaceMismatch.
        """
        model = _loaded(model)
        arrays = (before, self._pixels, *history, *later)
        tables = [array.elle.embed(model, stride_px) for array in arrays]
        probe = _checked_probe(probe, model, tables[0].header.bands)
        first, after, *rest = (Scored.of_chips(table, probe) for table in tables)
        found = compare(first, after, rest[: len(history)], later=rest[len(history) :], rate=rate)
        bands = DeltaBands(delta=found, probe=probe)
        raster = paint(found.addresses, bands.values())
        return raster.rename("elle").assign_attrs(
            bands.tags(), long_name=tuple(bands.units), units=tuple(bands.units.values()), reading=model.card.reading
        )

    def series(
        self,
        points: Sequence[tuple[float, float]],
        event: str | None = None,
        probe: Probe | str | Path | None = None,
        model: str | Model = "nano",
        stride_px: int | None = None,
    ) -> pd.DataFrame:
        """Return points (lon, lat in degrees) through time, a row a point and clear date, as `geoelle series` has them.

        The array has a `time`. `attrs["places"]` of the table has season, drift and recovery after `event`, a date.

        Raises: InputMismatch (no time, or a point without a chip inside the array), AreaError, ProbeError (two times
        of one day), SpaceMismatch.
        """
        model = _loaded(model)
        grid = _Grid.of(self._pixels, model.card, stride_px)
        probe = _checked_probe(probe, model, grid.labels.bands)
        places = read_points([f"{lon},{lat}" for lon, lat in points])
        cells = [_held(place, grid) for place in places]
        wanted = cells[0].concat(*cells[1:])
        dates = [_date(grid, number, wanted, model, probe) for number in range(len(grid.labels.times))]
        day = None if event is None else float(np.datetime64(event, "D").astype(np.int64))
        judged = [judge(observe(place.name, held, dates), day) for place, held in zip(places, cells, strict=True)]
        table = table_of(judged, probe)
        table.attrs["places"] = [each.to_dict() for each in judged]
        return table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Labels:
    """What the axes of the pixels mean, and the name that stands for the item."""

    name: str
    times: np.ndarray
    bands: tuple[str, ...]
    sensor: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grid:
    """Pixels in the order (time, band, y, x), north up, and the lattice rows and columns of the chips inside.

    `left` and `top` count pixels from the origin of the CRS, east and south.
    """

    pixels: xr.DataArray
    labels: _Labels
    lattice: Lattice
    left: int
    top: int
    rows: np.ndarray
    cols: np.ndarray

    @classmethod
    def of(cls, pixels: xr.DataArray, card: Card, stride_px: int | None) -> _Grid:
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
        labels = _Labels(name=name, times=times, bands=tuple(pixels["band"].values.tolist()), sensor=sensor)
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


def _loaded(model: str | Model) -> Model:
    return load_model(model) if isinstance(model, str) else model


def _checked_probe(probe: Probe | str | Path | None, model: Model, bands: tuple[str, ...]) -> Probe:
    if probe is None:
        return shipped_probe(model, bands)
    probe = probe if isinstance(probe, Probe) else Probe.load(probe)
    probe.check_space(space_of(model, bands))
    if probe.pixels is None:
        raise ProbeError(f"the probe of {model.card.name} has no pixel part, so no complexity; fit it with features")
    return probe


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


def _held(place: Place, grid: _Grid) -> Addresses:
    """Return the chip that holds a point; raises `InputMismatch` where it is not wholly inside the array."""
    cell = cells_of(place, grid.lattice)
    if not (np.isin(cell.rows, grid.rows).all() and np.isin(cell.cols, grid.cols).all()):
        raise InputMismatch(f"the chip at {place.name} is not inside the array; name a point further from its edge")
    return cell


def _date(grid: _Grid, number: int, wanted: Addresses, model: Model, probe: Probe) -> DateScores:
    """Score some chips at one time of the array, each from its own pixels.

    Raises: InputMismatch (no time).
    """
    labels = replace(grid.labels, times=grid.labels.times[number : number + 1])
    if np.isnat(labels.times).any():
        raise InputMismatch("the array has no time; give it one a date, by .expand_dims(time=[...])")
    chips = [wanted[i : i + 1] for i in range(len(wanted))]
    first, *rest = (
        _embedded(grid.under(chip)[number : number + 1], labels, chip, model, loss=False) for chip in chips
    )
    table = first.concat(*rest)
    items = tuple((name,) if name else () for name in table.items_n)
    return DateScores(scored=Scored.of_chips(table, probe), clear_n=table.valid_fraction_n, items_n=items)


def _split(index: np.ndarray, side: int) -> list[np.ndarray]:
    return np.split(index, np.flatnonzero(np.diff(index // side)) + 1)


def _window(pixels_tcyx: Any, labels: _Labels, chosen: Addresses) -> xr.DataArray:
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


def _embedded(pixels_tcyx: Any, labels: _Labels, chosen: Addresses, model: Model, loss: bool) -> Embeddings:
    window = _window(pixels_tcyx, labels, chosen)
    some = chips_at_once(chosen.lattice.size_px, len(labels.bands))
    starts = range(0, len(chosen), some)
    first, *rest = (embed_chips(cut(window, chosen[i : i + some]), model, loss=loss) for i in starts)
    return first.concat(*rest)


def _scores(pixels_tcyx: Any, labels: _Labels, chosen: Addresses, model: Model, probe: Probe) -> np.ndarray:
    """Return float32 (band, y, x) of one block."""
    values = Bands(probe=probe).values(_embedded(pixels_tcyx, labels, chosen, model, False))
    return paint(chosen, {name: values[name] for name in _names(probe)}).values


def _names(probe: Probe) -> tuple[str, ...]:
    """Return the bands of a map of the probe but the date, which the array itself may carry."""
    return tuple(name for name in Bands(probe=probe).names if name != "date")


def _lazy(grid: _Grid, model: Model, probe: Probe) -> Any:
    """Return a dask array (band, y, x) of cells whose blocks read only the pixels under them."""
    import dask
    import dask.array as da

    count = len(_names(probe))
    model, probe = (dask.delayed(value, traverse=False) for value in (model, probe))
    score = dask.delayed(_scores, pure=False)

    def block(chosen: Addresses) -> Any:
        shape = (count, *chosen.lattice.raster_geobox(chosen.rows, chosen.cols).shape)
        return da.from_delayed(score(grid.under(chosen), grid.labels, chosen, model, probe), shape, np.float32)

    return da.block([[block(chosen) for chosen in line] for line in grid.blocks()])


def _raster(values: Any, addresses: Addresses, card: Card, probe: Probe) -> xr.DataArray:
    """Wrap cells of all bands; the texts are those that `rio.to_raster` writes into the file."""
    box = addresses.lattice.raster_geobox(addresses.rows, addresses.cols)
    out = xr.DataArray(values, {"band": list(_names(probe)), **xr_coords(box)}, ("band", "y", "x"), name="elle")
    out.encoding |= {"grid_mapping": "spatial_ref", "_FillValue": np.float32("nan")}
    bands = Bands(probe=probe)
    return out.assign_attrs(bands.tags(), long_name=_names(probe), unit=bands.unit, reading=card.reading)
