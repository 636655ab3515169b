"""paint(read(x)) gives x back at every address, whatever the selection, through memory, COG and Zarr."""

import tempfile
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from geoelle.lattice import Addresses, Lattice
from geoelle.raster import geobox_of, paint, write_cog, write_zarr


@st.composite
def painted_inputs(draw: st.DrawFn) -> tuple[Addresses, dict[str, np.ndarray]]:
    """Draw unique addresses on any lattice, with values that may be NaN."""
    stride = draw(st.sampled_from([1, 8, 16, 32]))
    lattice = Lattice(
        epsg=draw(st.sampled_from([32618, 32733, 3035])),
        gsd_m=draw(st.sampled_from([1.0, 10.0, 30.0, 2.5])),
        size_px=stride + 2 * draw(st.integers(0, 8)),
        stride_px=stride,
    )
    cells = draw(
        st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=40, unique=True)
    )
    row0, col0 = draw(st.integers(-20_000, 20_000)), draw(st.integers(0, 20_000))
    rows, cols = np.array(cells).T
    addresses = Addresses(lattice=lattice, rows=rows + row0, cols=cols + col0)
    number = st.floats(width=32, allow_infinity=False)
    names = draw(
        st.lists(st.sampled_from(["difficulty", "excess", "loss"]), min_size=1, max_size=3, unique=True)
    )
    column = st.lists(number, min_size=len(cells), max_size=len(cells))
    return addresses, {name: np.array(draw(column), dtype=np.float32) for name in names}


def unpaint(raster: xr.DataArray, addresses: Addresses) -> dict[str, np.ndarray]:
    """Read the cell under the centre of each chip, through the affine transform and not through rows."""
    affine, (east, north) = geobox_of(raster).affine, addresses.xy_n2.T
    x = np.floor((east - affine.c) / affine.a).astype(int)
    y = np.floor((north - affine.f) / affine.e).astype(int)
    return {str(name): raster.sel(band=name).values[y, x] for name in raster["band"].values}


@given(painted_inputs())
def test_every_value_comes_back_and_nothing_else_is_painted(
    inputs: tuple[Addresses, dict[str, np.ndarray]],
) -> None:
    addresses, values = inputs
    raster = paint(addresses, values)
    back = unpaint(raster, addresses)
    assert list(back) == list(values)
    for name, column in values.items():
        np.testing.assert_array_equal(back[name], column)
        assert np.isfinite(raster.sel(band=name)).sum() == np.isfinite(column).sum()


@given(painted_inputs(), st.randoms(use_true_random=False))
def test_order_does_not_matter(inputs: tuple[Addresses, dict[str, np.ndarray]], random: object) -> None:
    addresses, values = inputs
    order = np.array(random.sample(range(len(addresses)), len(addresses)))
    shuffled = paint(addresses[order], {name: column[order] for name, column in values.items()})
    xr.testing.assert_identical(shuffled, paint(addresses, values))


@settings(max_examples=15)
@given(painted_inputs())
def test_files_hold_what_was_painted(inputs: tuple[Addresses, dict[str, np.ndarray]]) -> None:
    raster = paint(*inputs)
    texts = {"descriptions": list(inputs[1]), "units": ["ln loss"] * len(inputs[1]), "tags": {"A": "b"}}
    with tempfile.TemporaryDirectory() as name:
        cog = write_cog(raster, Path(name) / "a.tif", **texts)
        with rasterio.open(cog) as source:
            np.testing.assert_array_equal(source.read(), raster.values)
            assert list(source.transform)[:6] == list(geobox_of(raster).affine)[:6]
            assert source.crs.to_epsg() == inputs[0].lattice.epsg
        store = write_zarr(raster, Path(name) / "a.zarr", **texts)
        with xr.open_zarr(store, group="0") as dataset:
            for band in inputs[1]:
                np.testing.assert_array_equal(dataset[band].values, raster.sel(band=band).values)
