"""`.elle` on a DataArray: the same chips and numbers as a run, lazily where the array is lazy, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtensionDa, xr_coords

import geoelle.accessor  # noqa: F401 - registers .elle
from geoelle.applicability import Reach
from geoelle.area import Addresses, Area, Lattice
from geoelle.change_states import STATUSES
from geoelle.complexity import feature_names
from geoelle.embed import space_of
from geoelle.embeddings import Embeddings
from geoelle.errors import AreaError, CapabilityError, InputMismatch, ProbeError, SpaceMismatch
from geoelle.intervals import Spread
from geoelle.models import Model, load_model
from geoelle.models.nano import BANDS
from geoelle.plan import Job, make_plan
from geoelle.probe import Probe, fit_probe
from geoelle.products import run_map, shipped_probe
from geoelle.read import read_window
from geoelle.shipped import WEIGHTS

EPSG = 32618
CORNER = (440320.0 - 1030, 4177920.0 + 770)  # 1,030 m and 770 m before a corner of four super-blocks, on no cell
SHAPE = (130, 175)
FOUR = ("blue", "green", "red", "nir")


def scene(bands: tuple[str, ...] = FOUR, *, corner: tuple[float, float] = CORNER, gsd_m: float = 10.0,
          shape: tuple[int, int] = SHAPE, epsg: int = EPSG) -> xr.DataArray:  # fmt: skip
    """Return seeded ground of smooth fields and rough ones, with a gap, as (band, y, x)."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[: shape[0], : shape[1]] / 40
    base = 0.15 + 0.1 * np.sin(3 * x + y) * (y > 1.2)
    rough = 0.02 * rng.standard_normal((len(bands), *shape)) * (x > 2)
    pixels = (base + rough + 0.01 * np.arange(len(bands))[:, None, None]).astype(np.float32)
    pixels[:, 40:56, 60:110] = np.nan
    box = GeoBox(shape, Affine(gsd_m, 0, corner[0], 0, -gsd_m, corner[1]), f"EPSG:{epsg}")
    return xr.DataArray(pixels, {"band": list(bands), **xr_coords(box)}, ("band", "y", "x"), name="ground")


@pytest.fixture(scope="module")
def nano() -> Iterator[Model]:
    """Load the model; on one thread, since two that share a core with another test wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_model("nano")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def probe(nano: Model) -> Probe:
    return throwaway_probe(nano, FOUR)


def throwaway_probe(model: Model, bands: tuple[str, ...]) -> Probe:
    """Fit a probe of the right space on random numbers: what it says is nonsense, that it says the same is the test."""
    rng = np.random.default_rng(3)
    vectors, names = rng.standard_normal((80, model.card.dim)), feature_names(bands)
    features = rng.standard_normal((80, len(names)))
    return fit_probe(
        vectors, np.exp(0.1 * vectors[:, 0] + 0.1 * features[:, 1]), groups=np.repeat(np.arange(8), 10),
        space=space_of(model, bands), features=(features, names),
    )  # fmt: skip


def addresses_in(array: xr.DataArray, stride_px: int = 16) -> set[str]:
    """List the chips wholly inside an array the slow way: try every address around."""
    box = ODCExtensionDa(array).geobox.boundingbox
    lattice = Lattice(epsg=EPSG, gsd_m=10, size_px=32, stride_px=stride_px)
    rows = range(int(-box.top // lattice.cell_m) - 3, int(-box.bottom // lattice.cell_m) + 3)
    cols = range(int(box.left // lattice.cell_m) - 3, int(box.right // lattice.cell_m) + 3)
    pairs = np.array([(row, col) for row in rows for col in cols])
    chips = [lattice.geobox(row, col).boundingbox for row, col in pairs.tolist()]
    kept = [c.left >= box.left and c.right <= box.right and c.bottom >= box.bottom and c.top <= box.top for c in chips]
    return set(Addresses(lattice=lattice, rows=pairs[kept, 0], cols=pairs[kept, 1]).strings())


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("shift_px", [(0, 0), (3, 0), (-6, 9)])
def test_chips_are_all_those_wholly_inside(stride: int, shift_px: tuple[int, int], nano: Model) -> None:
    array = scene(corner=(CORNER[0] + 10 * shift_px[0], CORNER[1] + 10 * shift_px[1]))
    chips = array.elle.chips(nano, stride_px=stride)
    assert set(chips.addresses.strings()) == addresses_in(array, stride)
    assert len(chips) == len(addresses_in(array, stride))


def test_a_chip_holds_the_pixels_at_its_address(nano: Model) -> None:
    array = scene()
    chips = array.elle.chips(nano)
    for i in (0, 7, len(chips) - 1):
        box = chips.addresses[i].geobox.boundingbox
        there = array.sel(x=slice(box.left, box.right), y=slice(box.top, box.bottom))
        np.testing.assert_array_equal(chips.pixels_btcyx[i, 0], there.values)
    assert chips.bands == FOUR
    order = list(zip(chips.addresses.rows.tolist(), chips.addresses.cols.tolist(), strict=True))
    assert order == sorted(order)


def test_chips_name_the_array_and_keep_its_time(nano: Model) -> None:
    dated = scene().assign_coords(time=np.datetime64("2024-06-01T10:50:31.123456789"))
    chips = dated.elle.chips(nano)
    assert set(chips.times_bt.ravel().tolist()) == {np.datetime64("2024-06-01T10:50:31").item()}
    assert set(chips.items) == {("ground",)}
    assert np.isnat(scene().elle.chips(nano).times_bt).all()


def test_axes_may_come_in_any_order_and_rows_from_the_south(nano: Model, probe: Probe) -> None:
    array = scene()
    expected = array.elle.difficulty(probe, nano)
    turned = array.isel(y=slice(None, None, -1)).transpose("x", "band", "y").sel(band=list(FOUR[::-1]))
    xr.testing.assert_identical(turned.elle.difficulty(probe, nano), expected)
    xr.testing.assert_identical(array.astype("float64").elle.difficulty(probe, nano), expected)


def test_of_several_times_each_chip_takes_the_clearest(nano: Model) -> None:
    times = np.array(["2024-01-01", "2024-02-01"], "datetime64[ns]")
    array = xr.concat([scene(), scene() + 1], xr.Variable("time", times))
    array[0, :, :, 90:] = np.nan
    chips = array.elle.chips(nano)
    late = np.nanmedian(chips.pixels_btcyx, axis=(1, 2, 3, 4)) > 0.8
    assert 0 < late.sum() < len(chips)
    np.testing.assert_array_equal(chips.times_bt[:, 0] == times[1].astype("datetime64[s]"), late)


def test_embeddings_come_in_the_order_of_the_chips(nano: Model) -> None:
    array = scene()
    embeddings = array.elle.embed(nano, loss=True)
    assert isinstance(embeddings, Embeddings)
    assert embeddings.addresses.strings() == array.elle.chips(nano).addresses.strings()
    assert np.isfinite(embeddings.loss_n[embeddings.valid_n]).all()
    assert 0 < (~embeddings.valid_n).sum() < len(embeddings)


def test_embed_refuses_a_loss_that_the_model_lacks(nano: Model) -> None:
    class NoDecoder:
        card, weights_sha256 = replace(nano.card, target="patch-token variance"), ""

    with pytest.raises(CapabilityError, match="no true loss"):
        scene().elle.embed(NoDecoder(), loss=True)


class Counted:
    """An array on a slow disk: says which parts of it were read."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape, self.dtype, self.ndim = pixels, pixels.shape, pixels.dtype, pixels.ndim
        self.reads: list[tuple[slice, ...]] = []

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        self.reads.append(key)
        return self.pixels[key]


def test_nothing_is_read_before_compute_and_each_block_reads_its_own_pixels(nano: Model, probe: Probe) -> None:
    array = scene()
    disk = Counted(array.values)
    pixels = da.from_array(disk, chunks=(4, 40, 40), meta=np.empty((0, 0, 0), np.float32))
    lazy = array.copy(data=pixels).elle.difficulty(probe, nano)
    assert isinstance(lazy.data, da.Array) and lazy.shape == (3, 6, 9)
    assert lazy.data.numblocks == (1, 2, 2)  # the corner of four super-blocks lies inside
    assert disk.reads == []
    corner = lazy.isel(x=slice(0, 1), y=slice(0, 1)).compute()
    read = {(key[1].start, key[2].start) for key in disk.reads}
    assert {(0, 0)} <= read < {(y, x) for y in range(0, 130, 40) for x in range(0, 175, 40)}
    np.testing.assert_array_equal(corner.values, array.elle.difficulty(probe, nano).values[:, :1, :1])


@pytest.mark.parametrize("chunks", [{"y": 40, "x": 50}, {"y": -1, "x": -1}, {"band": 1, "y": 64, "x": 64}])
def test_lazy_equals_eager_exactly(chunks: dict[str, int], nano: Model, probe: Probe) -> None:
    array = scene()
    eager, lazy = array.elle.difficulty(probe, nano), array.chunk(chunks).elle.difficulty(probe, nano)
    xr.testing.assert_identical(lazy.compute(), eager)
    assert np.isnan(eager.values).any() and np.isfinite(eager.values).mean() > 0.5
    np.testing.assert_array_equal(array.chunk(chunks).elle.embed(nano).vectors_nd, array.elle.embed(nano).vectors_nd)


def test_a_lazy_result_travels_to_another_machine(nano: Model, probe: Probe) -> None:
    lazy = scene().chunk({"x": 64}).elle.difficulty(probe, nano)
    xr.testing.assert_identical(cloudpickle.loads(cloudpickle.dumps(lazy)).compute(), lazy.compute())


def test_difficulty_lies_on_the_cells_and_says_what_it_is(nano: Model, probe: Probe) -> None:
    result = scene().elle.difficulty(probe, nano)
    addresses = scene().elle.chips(nano).addresses
    assert ODCExtensionDa(result).geobox == addresses.lattice.raster_geobox(addresses.rows, addresses.cols)
    assert result.dtype == np.float32 and result.dims == ("band", "y", "x")
    assert result["band"].values.tolist() == ["difficulty", "complexity", "excess"]
    assert result.attrs["reading"] == nano.card.reading
    hard, texture, excess = result.values
    np.testing.assert_allclose(excess, np.log(hard / texture), rtol=1e-4, atol=1e-5)


def test_a_probe_that_tells_more_has_more_bands_lazy_or_not(nano: Model, probe: Probe) -> None:
    embedded = scene().elle.embed(nano)
    some = embedded.vectors_nd[embedded.valid_n][::7]
    telling = replace(
        probe,
        spread=Spread(log_spread=probe.embedding, low=-3.0, high=0.0, alpha=0.1, threshold=2.0),
        reach=Reach(
            points_md=some, counts_m=np.ones(len(some), int), weights_d=np.abs(probe.embedding.weights_d),
            mean_distance=1.0, threshold=0.1,
        ),
    )  # fmt: skip
    eager = scene().elle.difficulty(telling, nano)
    assert eager["band"].values.tolist()[3:] == ["lower", "upper", "applicable", "dissimilarity", "density"]
    assert (eager.sel(band="dissimilarity") == 0).sum() >= len(some)
    assert "GEOELLE_REACH" in eager.attrs and "90%" in eager.attrs["GEOELLE_INTERVAL"]
    np.testing.assert_array_equal(scene().chunk({"x": 40}).elle.difficulty(telling, nano).values, eager.values)


def test_difficulty_writes_as_a_raster(tmp_path: Path, nano: Model, probe: Probe) -> None:
    result = scene().elle.difficulty(probe, nano)
    result.rio.to_raster(tmp_path / "d.tif")
    with rasterio.open(tmp_path / "d.tif") as source:
        assert source.crs.to_epsg() == EPSG
        assert source.transform == ODCExtensionDa(result).geobox.affine
        assert np.isnan(source.nodata) and source.descriptions == ("difficulty", "complexity", "excess")
        np.testing.assert_array_equal(source.read(), result.values)
    again = rioxarray.open_rasterio(tmp_path / "d.tif")
    assert ODCExtensionDa(again).geobox == ODCExtensionDa(result).geobox


def test_difficulty_is_that_of_a_map_of_the_same_pixels(tmp_path: Path) -> None:
    area = Area.parse(bbox="-75.6535,37.6575,-75.6385,37.6665", dates="2015/2018")
    plan = make_plan(Job(area=area, catalog="demo"), cells_for_map=True)
    probe = throwaway_probe(plan.model, plan.bands)
    run_map(plan, probe, tmp_path / "out")
    lattice, chosen = plan.zones[0]
    window = read_window(plan.looks, lattice.union_geobox(chosen.rows, chosen.cols), plan.found.sensor, plan.bands)
    result = window.isel(time=0).elle.difficulty(probe)
    with rasterio.open(tmp_path / "out" / "difficulty.tif") as source:
        assert source.transform == ODCExtensionDa(result).geobox.affine
        mapped = source.read()[:3]
    held = np.isfinite(mapped)
    assert held.all(axis=0).sum() == len(chosen)
    np.testing.assert_allclose(result.values[held], mapped[held], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("nano-probe-[0-9]*.safetensors")), ids=lambda p: p.stem)
def test_a_probe_that_ships_is_found_by_the_bands(path: Path, nano: Model) -> None:
    probe = Probe.load(path)
    bands = tuple(str(probe.space["bands"]).split())
    array = scene(bands, shape=(64, 64))
    xr.testing.assert_identical(array.elle.difficulty(), array.elle.difficulty(path, nano))
    assert array.elle.difficulty().attrs["unit"] == probe.data["unit"]
    assert shipped_probe(nano, bands).space == probe.space


def test_without_a_probe_for_the_bands_the_error_says_how_to_fit_one() -> None:
    with pytest.raises(ProbeError, match=r"no probe ships for nano .* bands green rededge1 swir22; fit one"):
        scene(("green", "rededge1", "swir22")).elle.difficulty()


def test_a_probe_of_other_bands_or_without_pixels_is_refused_at_once(nano: Model, probe: Probe) -> None:
    lazy = scene(BANDS).chunk({"x": 64})
    with pytest.raises(SpaceMismatch, match="bands"):
        lazy.elle.difficulty(probe, nano)
    with pytest.raises(ProbeError, match="no pixel part"):
        scene().elle.difficulty(replace(probe, pixels=None, feature_names=()), nano)


def bare() -> xr.DataArray:
    """Return the ground as numbers with axes, in no CRS that anyone could find."""
    array = scene()
    return xr.DataArray(array.values, {k: array[k].values for k in ("band", "y", "x")}, array.dims)


def degrees() -> xr.DataArray:
    array = bare().assign_coords(x=4 + 1e-4 * np.arange(SHAPE[1]), y=52 - 1e-4 * np.arange(SHAPE[0]))
    return array.rio.write_crs("EPSG:4326")


def gappy() -> xr.DataArray:
    return xr.concat([scene().isel(x=slice(0, 60)), scene().isel(x=slice(100, None))], "x")


REFUSED: dict[str, tuple[Callable[[], xr.DataArray], str]] = {
    "no CRS": (bare, r"has no CRS; .*write_crs"),
    "no grid": (lambda: bare().drop_vars(["x", "y"]), r"has no grid"),
    "degrees": (degrees, r"EPSG:4326 \(degree.*\.odc\.reproject\(\"utm\""),
    "feet": (lambda: scene(epsg=2263), r"EPSG:2263 \(US survey foot\)"),
    "CRS without a code": (lambda: scene().rio.write_crs("+proj=laea +lat_0=10 +lon_0=20"), r"a CRS without a code"),
    "20 m": (lambda: scene(gsd_m=20.0), r"pixels of 20 m, nano was trained at 10 m; .*EPSG:32618\", resolution=10"),
    "corner": (lambda: scene(corner=(2.577, 4.215)), r"corner \(2\.577, 4\.215\) is on no multiple .* \(10 m\)"),
    "gap": (gappy, r"not on a regular grid"),
    "tall pixels": (lambda: scene().isel(y=slice(None, None, 2)), r"not on a regular grid .* \(10 x 20 m\)"),
    "mirrored": (lambda: scene().isel(x=slice(None, None, -1)), r"not on a regular grid"),
    "too small": (lambda: scene(shape=(31, 90)), r"too small \(90 x 31 px\) to hold a chip of 32 px; 47 px"),
    "integers": (lambda: scene().fillna(0).astype("uint16"), r"holds uint16; scale it to reflectance"),
    "never scaled": (lambda: scene() * 10_000, r"numbers of about \d+; scale it"),
    "unknown band": (lambda: scene(("red", "green", "swir1")), r"does not know \(swir1\); did you mean swir16\?"),
    "numbered bands": (lambda: scene().assign_coords(band=[1, 2, 3, 4]), r"does not know \(1, 2, 3, 4\); name them"),
    "nameless bands": (lambda: scene().drop_vars("band"), r"does not know \(none has a name\)"),
    "band twice": (lambda: scene(("blue", "red", "red", "nir")), r"each once"),
    "two bands": (lambda: scene(("blue", "red")), r"give nano 3 or more of"),
    "no band axis": (lambda: scene().isel(band=0), r"has dims y, x; give band, y, x"),
    "another axis": (lambda: scene().expand_dims("member"), r"has dims member, band, y, x"),
    "time of another kind": (lambda: scene().expand_dims(time=[2016]), r"times of type int"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_with_a_way_out(name: str, nano: Model, probe: Probe) -> None:
    make, text = REFUSED[name]
    for ask in (lambda e: e.chips(nano), lambda e: e.embed(nano), lambda e: e.difficulty(probe, nano)):
        with pytest.raises(InputMismatch, match=text) as caught:
            ask(make().elle)
        assert "\n" not in str(caught.value)


def test_a_remedy_in_an_error_works(nano: Model) -> None:
    moved = scene(corner=(CORNER[0] + 2.577, CORNER[1] - 4.215))
    assert len(moved.odc.reproject("EPSG:32618", resolution=10).elle.chips(nano)) == len(scene().elle.chips(nano))
    coarse = scene(gsd_m=20.0)
    assert len(coarse.odc.reproject("EPSG:32618", resolution=10).elle.chips(nano)) > 4 * 40


def test_a_stride_that_does_not_fit_is_refused(nano: Model) -> None:
    with pytest.raises(AreaError, match="stride of 15 px"):
        scene().elle.chips(nano, stride_px=15)


# --- change


def dated_scene(year: int, *, flat: bool = False) -> xr.DataArray:
    array = scene()
    noise = np.random.default_rng(year).standard_normal(array.shape).astype(np.float32)
    array = array + 0.01 * noise
    if flat:
        array[:, 80:, 100:] = 0.07
    return array.assign_coords(time=np.datetime64(f"{year}-06-01", "ns"))


def test_delta_is_the_difference_of_two_difficulties(nano: Model, probe: Probe) -> None:
    before, after = dated_scene(2023), dated_scene(2024, flat=True)
    found = after.elle.delta(before, probe=probe, model=nano)
    assert found["band"].values.tolist() == ["delta", "delta_excess", "sign", "rank", "state"]
    difference = [np.log(a.elle.difficulty(probe, nano).sel(band="difficulty")) for a in (before, after)]
    xr.testing.assert_allclose(
        found.sel(band="delta", drop=True), (difference[1] - difference[0]).drop_vars("band"), rtol=1e-3, atol=1e-5
    )
    assert found.attrs["GEOELLE_TEST"].startswith("A ranking only") and "baselines" not in found.attrs
    bare = before.drop_vars("time").elle, after.drop_vars("time")
    np.testing.assert_array_equal(bare[1].elle.delta(before.drop_vars("time"), probe=probe, model=nano), found)


def test_delta_with_a_history_is_tested(nano: Model, probe: Probe) -> None:
    years = [dated_scene(year) for year in (2019, 2020, 2021, 2022)]
    found = dated_scene(2024, flat=True).elle.delta(dated_scene(2023), years, probe=probe, model=nano, stride_px=8)
    assert {"t", "p", "q", "flag"} < set(found["band"].values.tolist())
    assert np.nansum(found.sel(band="flag")) > 0
    share = np.nanmean(found.sel(band="flag"))
    assert found.attrs["baselines"].startswith(f"Delta {share:.1%} (") and "; true loss " in found.attrs["baselines"]
    assert "untrained twin" not in found.attrs["baselines"]
    knows, model = shipped_probe(nano, FOUR), nano
    told = dated_scene(2024, flat=True).elle.delta(dated_scene(2023), years, knows, model, 8, loss=False)
    assert "; untrained twin " in told.attrs["baselines"] and "true loss" not in told.attrs["baselines"]
    later = dated_scene(2024, flat=True).elle.delta(
        dated_scene(2023), years, probe=probe, model=nano, stride_px=8, later=[dated_scene(2025, flat=True)]
    )
    np.testing.assert_array_equal(later.sel(band="flag"), found.sel(band="flag"))
    assert later["band"].values.tolist()[-3:] == ["status", "first_detected", "duration"]
    flagged = found.sel(band="flag").values == 1
    assert (later.sel(band="status").values[flagged] == STATUSES.index("confirmed")).mean() > 0.5
    assert later.attrs["GEOELLE_STATUSES"].startswith("0 none")
    with pytest.raises(ProbeError, match="no time"):
        dated_scene(2024).elle.delta(dated_scene(2023), [year.drop_vars("time") for year in years], probe, nano)
    with pytest.raises(AreaError, match="two lattices"):
        dated_scene(2024).elle.delta(
            scene(epsg=32617).assign_coords(time=np.datetime64("2023-06-01", "ns")), (), probe, nano
        )


def test_delta_writes_as_a_raster_that_says_what_made_it(tmp_path: Path, nano: Model, probe: Probe) -> None:
    years = [dated_scene(year) for year in (2019, 2020, 2021, 2022)]
    found = dated_scene(2024, flat=True).elle.delta(dated_scene(2023), years, probe=probe, model=nano, loss=False)
    found.rio.to_raster(tmp_path / "delta.tif")
    with rasterio.open(tmp_path / "delta.tif") as source:
        tags, names = source.tags(), source.descriptions
        assert np.isnan(source.nodata) and names == tuple(found["band"].values)
        np.testing.assert_array_equal(source.read(), found.values)
    assert tags["GEOELLE_PROBE"] == probe.digest and f"model={nano.card.name}" in tags["GEOELLE_SPACE"]
    assert "years judged by the others" in tags["notes"] and "of p are below 0.05" in tags["notes"]
    assert tags["GEOELLE_TEST"].startswith("Tested: ") and tags["GEOELLE_TEST"] not in tags["notes"]
    found.to_dataset(name="elle").to_zarr(tmp_path / "delta.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "delta.zarr", consolidated=False)["elle"]
    assert again.attrs["notes"] == found.attrs["notes"] and again.attrs["GEOELLE_PROBE"] == probe.digest
    alone = dated_scene(2024).elle.difficulty(probe, nano)
    assert {alone.attrs[key] for key in ("GEOELLE_PROBE", "GEOELLE_SPACE")} == {
        found.attrs[key] for key in ("GEOELLE_PROBE", "GEOELLE_SPACE")
    }


def test_dates_of_a_change_are_of_their_own_and_of_one_sensor(nano: Model, probe: Probe) -> None:
    year = {n: dated_scene(n) for n in range(2018, 2026)}
    both = xr.concat([year[2022], year[2023]], "time")
    history = [year[n] for n in (2018, 2019, 2020, 2021)]
    for before, more, told in (
        (both, {"history": [*history, year[2022]]}, r"before and history\[4\] share a day \(2022-06-01\)"),
        (year[2023], {"history": [*history[:3], xr.concat(history[2:], "time")]}, r"history\[2\] and history\[3\]"),
        (year[2023], {"history": history, "later": [both]}, r"before and later\[0\] share a day .* not two dates; "),
        (year[2024] + 0.01, {}, r"before and after share a day \(2024-06-01\)"),
    ):
        with pytest.raises(InputMismatch, match=told):
            year[2024].elle.delta(before, probe=probe, model=nano, **more)
    before, after = (year[n].assign_attrs(sensor=f"sentinel-2-{level}") for n, level in ((2023, "l1c"), (2024, "l2a")))
    with pytest.raises(InputMismatch, match=r"before and after differ in sensor \(sentinel-2-l1c, sentinel-2-l2a\); "):
        after.elle.delta(before, probe=probe, model=nano)
    assert "delta" in after.elle.delta(year[2023], probe=probe, model=nano)["band"]


def test_a_series_is_the_difficulty_of_each_time(nano: Model, probe: Probe) -> None:
    cube = xr.concat([dated_scene(year) for year in (2021, 2020, 2022)], "time")
    chips = cube.isel(time=0).elle.chips(nano)
    clear = np.flatnonzero(chips.valid_b)[[0, -1]]
    points = [tuple(lonlat) for lonlat in chips.lonlat_b2[clear]]
    table = cube.elle.series(points, probe=probe, model=nano)
    assert table["date"].dt.year.tolist() == [2020, 2021, 2022] * 2
    assert table["place"].nunique() == 2 and (table["cells"] == 1).all()
    for year in (2020, 2021, 2022):
        whole = dated_scene(year).elle.embed(nano)
        found = table["difficulty"][table["date"].dt.year == year].to_numpy()
        np.testing.assert_allclose(found, probe.score(whole.vectors_nd)[clear], rtol=1e-5)
    assert table.attrs["places"][0]["missing"]["season"].startswith("no season can be fitted: 3 dates")


def test_a_series_needs_times_and_points_inside(nano: Model, probe: Probe) -> None:
    cube = xr.concat([dated_scene(year) for year in (2020, 2021)], "time")
    with pytest.raises(InputMismatch, match="is not inside the array"):
        cube.elle.series([(-75.0, 37.0)], probe=probe, model=nano)
    chips = cube.isel(time=0).elle.chips(nano)
    inside = tuple(chips.lonlat_b2[chips.valid_b][0])
    with pytest.raises(InputMismatch, match="the array has no time"):
        scene().elle.series([inside], probe=probe, model=nano)
    twice = xr.concat([dated_scene(2020), dated_scene(2020)], "time")
    with pytest.raises(ProbeError, match="has two dates on 2020"):
        twice.elle.series([inside], probe=probe, model=nano)
    with pytest.raises(AreaError, match="swapped"):
        cube.elle.series([(37.7, -135.6)], probe=probe, model=nano)
    with pytest.raises(AreaError, match="a series needs a place"):
        cube.elle.series([], probe=probe, model=nano)
    with pytest.raises(AreaError, match="is given twice"):
        cube.elle.series([inside, inside], probe=probe, model=nano)
    with pytest.raises(AreaError, match=r"'nonsense'|date cannot be read"):
        cube.elle.series([inside], "nonsense", probe, nano)
    for event in ("2050-01-01", "2020-06-01", "2021-06-02", "2019"):
        with pytest.raises(AreaError, match=rf"event \({event}\) is not inside the dates \(2020-06-01T.*/2021-06-01T"):
            cube.elle.series([inside], event, probe, nano)
    table = cube.elle.series([inside], "2021-01", probe, nano)
    assert "missing" in table.attrs["places"][0] and len(table) == 2
