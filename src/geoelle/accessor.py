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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from odc.geo.xr import xr_coords

from geoelle.area import Addresses, Area
from geoelle.array_grid import Grid, Labels, check_apart, window_of
from geoelle.bands import Bands
from geoelle.change_baselines import baselines, in_words, of_delta
from geoelle.chips import Chips
from geoelle.delta import RATE, Scored, compare
from geoelle.delta_bands import DeltaBands
from geoelle.embed import embed_chips, space_of
from geoelle.embeddings import Embeddings
from geoelle.errors import InputMismatch, ProbeError
from geoelle.models import Card, Model, load_model
from geoelle.places import Place, cells_of, ground_of, read_points
from geoelle.plan import chips_at_once
from geoelle.probe import TWIN, Probe
from geoelle.products import shipped_probe
from geoelle.raster import paint
from geoelle.read import cut
from geoelle.series import judge, observe
from geoelle.series_dates import DateScores
from geoelle.series_plan import check_places, event_day
from geoelle.series_product import table_of

__all__ = ["Elle"]


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
        grid = Grid.of(self._pixels, _loaded(model).card, stride_px)
        return cut(window_of(grid.under(grid.addresses), grid.labels, grid.addresses), grid.addresses)

    def embed(self, model: str | Model = "nano", stride_px: int | None = None, *, loss: bool = False) -> Embeddings:
        """Embed every chip, reading block by block; with `loss`, also compute the model's pretraining loss on each.

        Raises: InputMismatch, AreaError, CapabilityError (a loss is asked of a model that has none).
        """
        model = _loaded(model)
        return _table(Grid.of(self._pixels, model.card, stride_px), model, loss, {})

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
        grid = Grid.of(self._pixels, model.card, stride_px)
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
        loss: bool | None = None,
    ) -> xr.DataArray:
        """Return the change since `before`: delta, its excess, sign, rank, state, and with a history t, p, q, flag.

        All arrays have the CRS and pixel size of this one, and are read at once; cells are those of either date.
        `history` are arrays of the same season of earlier years, at least four, each with its `time`. Without them
        nothing is tested. `later` arrays, of that season too, follow the flags: they add status, first_detected and
        duration. No two arrays may share a day. Sun, orbit and processing are not compared: arrays do not state them.

        With a history the attribute `baselines` says what plainer measures flag on the same cells, now and in unchanged
        years; `loss` puts the true loss among them, by default where the model has one. `notes` says what a reader must
        know: how p and flags behave in unchanged years, and what was not judged.

        Raises: InputMismatch (also arrays of one day, or of two sensors), AreaError (another grid), ProbeError,
        SpaceMismatch, CapabilityError.
        """
        model = _loaded(model)
        arrays = {"before": before, "after": self._pixels}
        arrays |= {f"history[{i}]": array for i, array in enumerate(history)}
        arrays |= {f"later[{i}]": array for i, array in enumerate(later)}
        grids = [Grid.of(array, model.card, stride_px) for array in arrays.values()]
        check_apart(dict(zip(arrays, grids, strict=True)))
        probe = _checked_probe(probe, model, grids[0].labels.bands)
        known = history and probe.twin is not None
        twins = {TWIN: load_model(model.card.name, "untrained", seed=0)} if known else {}
        loss = bool(history) and (model.card.target == "loss" if loss is None else loss)
        judged, looks = grids[: 2 + len(history)], grids[2 + len(history) :]
        tables = [_table(grid, model, loss, twins) for grid in judged]
        first, after, *rest = scored = [Scored.of_chips(table, probe) for table in tables]
        seen_later = [Scored.of_chips(_table(grid, model, False, {}), probe) for grid in looks]
        found = compare(first, after, rest, later=seen_later, rate=rate)
        bands = DeltaBands(delta=found, probe=probe)
        beside = {"baselines": in_words([of_delta(found), *baselines(found, scored, tables, probe)])} if history else {}
        _, *notes = bands.sentences()  # the first is the tag GEOELLE_TEST
        told = bands.tags() | {"notes": " ".join(notes), "units": tuple(bands.units.values())} | beside
        raster = paint(found.addresses, bands.values()).rename("elle")
        return _described(raster, tuple(bands.units), told, model.card, probe)

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

        Raises: InputMismatch (no time, or a point without a chip inside the array), AreaError (no point, one twice, or
        an event that is no date or not inside the times of the array), ProbeError (two times of one day),
        SpaceMismatch.
        """
        model = _loaded(model)
        grid = Grid.of(self._pixels, model.card, stride_px)
        probe = _checked_probe(probe, model, grid.labels.bands)
        places = read_points([f"{lon},{lat}" for lon, lat in points])
        check_places(places)
        day = event_day(event, Area.parse(polygon=ground_of(places), dates=grid.labels.span))
        cells = [_held(place, grid) for place in places]
        wanted = cells[0].concat(*cells[1:])
        dates = [_date(grid, number, wanted, model, probe) for number in range(len(grid.labels.times))]
        judged = [judge(observe(place.name, held, dates), day) for place, held in zip(places, cells, strict=True)]
        table = table_of(judged, probe)
        table.attrs["places"] = [each.to_dict() for each in judged]
        return table


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


def _held(place: Place, grid: Grid) -> Addresses:
    """Return the chip that holds a point; raises `InputMismatch` where it is not wholly inside the array."""
    cell = cells_of(place, grid.lattice)
    if not (np.isin(cell.rows, grid.rows).all() and np.isin(cell.cols, grid.cols).all()):
        raise InputMismatch(f"the chip at {place.name} is not inside the array; name a point further from its edge")
    return cell


def _date(grid: Grid, number: int, wanted: Addresses, model: Model, probe: Probe) -> DateScores:
    """Score some chips at one time of the array, each from its own pixels."""
    labels = replace(grid.labels, times=grid.labels.times[number : number + 1])
    chips = [wanted[i : i + 1] for i in range(len(wanted))]
    first, *rest = (_embedded(grid.under(chip)[number : number + 1], labels, chip, model) for chip in chips)
    table = first.concat(*rest)
    items = tuple((name,) if name else () for name in table.items_n)
    return DateScores(scored=Scored.of_chips(table, probe), clear_n=table.valid_fraction_n, items_n=items)


def _table(grid: Grid, model: Model, loss: bool, twins: Mapping[str, Model]) -> Embeddings:
    """Embed every chip of a grid, reading block by block; by row, then column."""
    blocks = (chosen for line in grid.blocks() for chosen in line)
    first, *rest = (
        _embedded(grid.under(chosen), grid.labels, chosen, model, loss=loss, twins=twins) for chosen in blocks
    )
    whole = first.concat(*rest)
    return whole[np.lexsort((whole.addresses.cols, whole.addresses.rows))]


def _embedded(pixels_tcyx: Any, labels: Labels, chosen: Addresses, model: Model, **how: Any) -> Embeddings:
    window = window_of(pixels_tcyx, labels, chosen)
    some = chips_at_once(chosen.lattice.size_px, len(labels.bands))
    starts = range(0, len(chosen), some)
    first, *rest = (embed_chips(cut(window, chosen[i : i + some]), model, **how) for i in starts)
    return first.concat(*rest)


def _scores(pixels_tcyx: Any, labels: Labels, chosen: Addresses, model: Model, probe: Probe) -> np.ndarray:
    """Return float32 (band, y, x) of one block."""
    values = Bands(probe=probe).values(_embedded(pixels_tcyx, labels, chosen, model))
    return paint(chosen, {name: values[name] for name in _names(probe)}).values


def _names(probe: Probe) -> tuple[str, ...]:
    """Return the bands of a map of the probe but the date, which the array itself may carry."""
    return tuple(name for name in Bands(probe=probe).names if name != "date")


def _lazy(grid: Grid, model: Model, probe: Probe) -> Any:
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
    """Wrap cells of all bands."""
    box = addresses.lattice.raster_geobox(addresses.rows, addresses.cols)
    out = xr.DataArray(values, {"band": list(_names(probe)), **xr_coords(box)}, ("band", "y", "x"), name="elle")
    bands = Bands(probe=probe)
    return _described(out, _names(probe), bands.tags() | {"unit": bands.unit}, card, probe)


def _described(
    raster: xr.DataArray, names: tuple[str, ...], told: Mapping[str, object], card: Card, probe: Probe
) -> xr.DataArray:
    """Say what a raster is, in the texts that `rio.to_raster` writes into the file and that maps of a run have."""
    raster.encoding |= {"grid_mapping": "spatial_ref", "_FillValue": np.float32("nan")}
    by = {"GEOELLE_SPACE": probe.space_text, "GEOELLE_PROBE": probe.digest}
    return raster.assign_attrs(told, long_name=names, reading=card.reading, **by)
