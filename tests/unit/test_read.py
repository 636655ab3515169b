"""Windows and chips: offsets, clouds, looks, mosaics, failures and the cut."""

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import shapely

from faults import Fault, serving
from geoelle.area import Addresses, Lattice
from geoelle.assets import Policy
from geoelle.catalog import load_sensor
from geoelle.errors import CatalogError, InputMismatch, ReadError
from geoelle.harmonise import OffsetDoubt
from geoelle.read import Look, cut, estimate_bytes, plan_looks, read_window
from scenes import (
    BANDS,
    EPSG,
    NORTH,
    SIDE_M,
    WEST,
    bare_item,
    box_of,
    make_item,
    to_lonlat,
    unique,
    write_cog,
)

L2A = load_sensor("sentinel-2-l2a")
RGB = ("blue", "green", "red")
BOX = box_of(WEST + 320, NORTH - 480, 96, 64)
ROI = (slice(48, 112), slice(32, 128))
HASTY = Policy(attempts=2, pause_s=0.001, timeout_s=1)
LATTICE = Lattice(epsg=EPSG, gsd_m=10, size_px=32, stride_px=16)


def look_of(*items, date="2024-06-01T10:50:00"):
    return Look(date=np.datetime64(date, "s"), date_half_width_days=0, items=items, cloud=None, coverage=1)


def numbers(band, shape=(192, 192)):
    return unique(shape, 1 + BANDS.index(band) * 7).astype(np.float32)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_item(tmp_path_factory.mktemp("scene"))


def test_a_window_is_exact_in_value_place_and_axis_order(scene):
    window = read_window([look_of(scene)], BOX, L2A, ("red", "blue", "nir08"))
    assert window.dims == ("time", "band", "y", "x") and window.dtype == np.float32
    assert list(window["band"].values) == ["red", "blue", "nir08"]
    assert window.odc.geobox == BOX
    assert np.array_equal(window.values[0, 0], numbers("red")[ROI] / 10000)
    assert np.array_equal(window.values[0, 1], numbers("blue")[ROI] / 10000)
    coarse = np.kron(numbers("nir08", (96, 96)), np.ones((2, 2), np.float32))
    assert np.array_equal(window.values[0, 2], coarse[ROI] / 10000)
    assert window.attrs["items"] == [[scene.id]] and window.attrs["unit"] == "reflectance"
    assert (window["source"].values == 0).all() and window.attrs["skipped"] == []
    assert window["time"].values[0] == np.datetime64("2024-06-01T10:50:00")


@pytest.mark.parametrize(
    ("properties", "shift"),
    [
        ({}, 0),
        ({"earthsearch:boa_offset_applied": None, "s2:processing_baseline": "05.11"}, -1000),
        ({"earthsearch:boa_offset_applied": None, "s2:processing_baseline": "02.14"}, 0),
    ],
)
def test_the_offset_is_applied_once_and_nodata_is_seen_before_it(tmp_path, properties, shift):
    red = unique((192, 192), 500)
    red[60, 60], red[61, 61] = 0, 1
    item = make_item(tmp_path, pixels={"red": red}, properties=properties)
    item.properties = {k: v for k, v in item.properties.items() if v is not None}
    found = read_window([look_of(item)], BOX, L2A, ("red",)).values[0, 0]
    expected = (red[ROI].astype(np.float32) + shift) / 10000
    expected[12, 28] = np.nan
    assert np.array_equal(found, expected, equal_nan=True)
    assert found[13, 29] == np.float32(1 + shift) / 10000  # below zero stays


def test_a_guessed_offset_warns_and_is_recorded(tmp_path):
    item = make_item(tmp_path, properties={"earthsearch:boa_offset_applied": False}, bands=("red", "scl"))
    with pytest.warns(
        OffsetDoubt, match=f"offset of item {item.id} is in doubt: boa_offset_applied is false"
    ):
        window = read_window([look_of(item)], BOX, L2A, ("red",))
    assert list(window.attrs["doubts"]) == [item.id]
    assert np.array_equal(window.values[0, 0], (numbers("red")[ROI] - 1000) / 10000)


def test_clouds_shadows_and_nothing_are_masked_and_snow_is_not(tmp_path):
    scl = np.full((96, 96), 4, np.uint8)
    for row, code in enumerate(range(12)):
        scl[30 + row, 20] = code
    item = make_item(tmp_path, pixels={"scl": scl})
    found = read_window([look_of(item)], BOX, L2A, ("red", "rededge1"))
    bad = np.kron(np.isin(scl, [0, 1, 3, 8, 9, 10]), np.ones((2, 2), bool))[ROI]
    assert np.array_equal(np.isnan(found.values[0]), np.stack([bad, bad]))
    assert np.array_equal(found["source"].values[0] == -1, bad)


def test_two_dates_are_two_looks_in_their_order(scene, tmp_path):
    later = make_item(
        tmp_path,
        "S2B_31TFJ_20240606_0_L2A",
        moment="2024-06-06T10:50:00Z",
        pixels={"red": unique((192, 192), 9000)},
    )
    looks = [look_of(later, date="2024-06-06T10:50:00"), look_of(scene)]
    window = read_window(looks, BOX, L2A, ("red",))
    assert window.attrs["items"] == [[later.id], [scene.id]]
    assert np.array_equal(window.values[0, 0], unique((192, 192), 9000)[ROI].astype(np.float32) / 10000)
    assert np.array_equal(window.values[1, 0], numbers("red")[ROI] / 10000)


def test_a_mosaic_takes_whole_pixels_from_one_item(tmp_path):
    left = unique((192, 192))
    left[:, 80:] = 0
    first = make_item(tmp_path, "a_31TFJ_x", pixels={"red": left})
    second = make_item(tmp_path, "b_31TFJ_x", pixels={"red": unique((192, 192), 20000)})
    window = read_window([look_of(second, first)], BOX, L2A, ("red", "blue"))
    source = window["source"].values[0]
    assert window.attrs["items"] == [["a_31TFJ_x", "b_31TFJ_x"]]
    assert (source[:, :48] == 0).all() and (source[:, 48:] == 1).all()
    expected = np.where(source == 0, left[ROI], unique((192, 192), 20000)[ROI]).astype(np.float32)
    assert np.array_equal(window.values[0, 0], expected / 10000)


def test_items_in_the_crs_of_the_window_go_first(tmp_path):
    other = make_item(tmp_path, "a_other_zone", epsg=32630, west=1072000, north=5026000, side_m=1920)
    own = make_item(tmp_path, "b_own_zone")
    look = look_of(other, own)
    window = read_window([look], BOX, L2A, ("red",))
    assert window.attrs["items"] == [["b_own_zone", "a_other_zone"]]
    assert np.array_equal(window.values[0, 0], numbers("red")[ROI] / 10000)


def test_items_away_from_the_window_are_not_opened(scene, tmp_path):
    away = make_item(tmp_path, "away", west=WEST + 100_000)
    away.assets["red"].href = "/nowhere.tif"
    window = read_window([look_of(scene, away)], BOX, L2A, ("red",))
    assert window.attrs["items"] == [[scene.id]]


def test_radar_is_decibels_after_masking(tmp_path):
    linear = np.full((192, 192), 0.1, np.float32)
    linear[50, 40], linear[51, 41], linear[52, 42] = -32768, 0, 1
    item = bare_item("S1", collection="sentinel-1-rtc", cloud=None)
    item.add_asset("vv", pystac.Asset(href=str(write_cog(tmp_path / "vv.tif", linear, nodata=-32768))))
    window = read_window([look_of(item)], BOX, load_sensor("sentinel-1-rtc"), ("vv",))
    found = window.values[0, 0]
    assert np.isnan(found[2, 8]) and np.isnan(found[3, 9]) and np.isnan(found).sum() == 2
    assert found[4, 10] == 0 and found[0, 0] == pytest.approx(-10) and window.attrs["unit"] == "gamma0 dB"


def test_bands_of_one_file(tmp_path):
    pixels = np.stack([np.full((192, 192), v, np.uint8) for v in (51, 102, 153, 204)])
    item = bare_item("m_4709963", collection="naip", cloud=None)
    item.add_asset("image", pystac.Asset(href=str(write_cog(tmp_path / "n.tif", pixels, nodata=None))))
    found = read_window([look_of(item)], BOX, load_sensor("naip"), ("nir", "red")).values[0]
    assert np.allclose(found[0], 0.8) and np.allclose(found[1], 0.2)


def test_a_missing_asset_is_named(scene, tmp_path):
    item = make_item(tmp_path, "no_red", bands=("blue", "scl"))
    with pytest.raises(ReadError, match="no asset for band red of sentinel-2-l2a in item no_red"):
        read_window([look_of(item)], BOX, L2A, ("blue", "red"))
    unmasked = make_item(tmp_path, "no_scl", bands=("blue",))
    with pytest.raises(ReadError, match="no asset for band scl"):
        read_window([look_of(unmasked)], BOX, L2A, ("blue",))
    window = read_window([look_of(item, scene)], BOX, L2A, ("blue", "red"), errors="skip")
    assert [(s["item"], s["asset"]) for s in window.attrs["skipped"]] == [("no_red", "red")]
    assert np.array_equal(window.values[0, 1], numbers("red")[ROI] / 10000)


def test_a_failing_item_is_raised_or_skipped_whole(scene, tmp_path):
    broken = make_item(tmp_path, "broken")
    path = tmp_path / "broken" / "green.tif"
    path.write_bytes(path.read_bytes()[:2000])
    looks = [look_of(broken), look_of(scene, date="2024-06-06T10:50:00")]
    with pytest.raises(
        ReadError, match="reading failed for asset green of item broken at EPSG:32631"
    ) as failure:
        read_window(looks, BOX, L2A, RGB, policy=HASTY)
    assert failure.value.href == str(path)
    window = read_window(looks, BOX, L2A, RGB, errors="skip", policy=HASTY)
    assert np.isnan(window.values[0]).all() and not np.isnan(window.values[1]).any()
    assert window.attrs["items"] == [[], [scene.id]]
    (skipped,) = window.attrs["skipped"]
    assert set(skipped) == {"item", "asset", "href", "cause"} and "TIFFReadEncodedTile" in skipped["cause"]
    assert json.loads(json.dumps(window.attrs["skipped"])) == window.attrs["skipped"]


def test_over_http_a_busy_server_is_waited_for_and_secrets_stay_secret(scene):
    with serving() as site:
        item = scene.clone()
        for band, asset in item.assets.items():
            site.files[f"/{band}.tif"] = Path(asset.href).read_bytes()
            asset.href = f"{site.url}/{band}.tif?sig=secret"
        site.faults["/green.tif"] = [Fault(status=429), Fault(answer=True), Fault(status=500)]
        patient = Policy(attempts=4, pause_s=0.001, timeout_s=2)
        window = read_window([look_of(item)], BOX, L2A, RGB, policy=patient)
        assert np.array_equal(window.values[0, 1], numbers("green")[ROI] / 10000)
        del site.files["/red.tif"]
        fresh = [look_of(item)]
        for asset in item.assets.values():
            asset.href += "2"
        with pytest.raises(ReadError, match="404") as failure:
            read_window(fresh, BOX, L2A, RGB, policy=HASTY)
        window = read_window(fresh, BOX, L2A, RGB, policy=HASTY, errors="skip")
        assert np.isnan(window.values).all() and window.attrs["skipped"][0]["href"] == f"{site.url}/red.tif"
        assert "secret" not in str(failure.value) + json.dumps(window.attrs["skipped"])


def test_wrong_questions_are_refused(scene):
    for looks, bands, errors in (
        ([], RGB, "raise"),
        ([look_of(scene)], (), "raise"),
        ([look_of(scene)], RGB, "warn"),
    ):
        with pytest.raises(CatalogError, match="cannot be read with errors="):
            read_window(looks, BOX, L2A, bands, errors=errors)
    with pytest.raises(CatalogError, match="no band 'thermal'"):
        read_window([look_of(scene)], BOX, L2A, ("thermal",))


def chips_of(window):
    geometry = to_lonlat(shapely.box(*BOX.boundingbox.bbox).buffer(-200), EPSG)
    addresses = LATTICE.select(geometry)
    assert len(addresses) > 5
    return addresses, cut(window, addresses)


def window_for(items, bands=RGB):
    everything = box_of(WEST, NORTH, 192, 192)
    looks = [look_of(item, date=f"2024-06-{day:02d}T10:50:00") for day, item in enumerate(items, 1)]
    return read_window(looks, everything, L2A, bands)


def test_chips_are_the_window_at_their_addresses(scene):
    window = window_for([scene])
    addresses, chips = chips_of(window)
    assert chips.shape == (len(addresses), 1, 3, 32, 32) and chips.bands == RGB
    for index in range(len(addresses)):
        box = addresses[index].geobox.boundingbox
        row, col = round((NORTH - box.top) / 10), round((box.left - WEST) / 10)
        for band in range(3):
            expected = numbers(RGB[band])[row : row + 32, col : col + 32] / 10000
            assert np.array_equal(chips.pixels_btcyx[index, 0, band], expected)
    assert set(chips.items) == {(scene.id,)}
    assert np.array_equal(chips.lonlat_b2, addresses.lonlat_n2)
    assert set(chips.times_bt.ravel().tolist()) == {np.datetime64("2024-06-01T10:50:00").item()}


def test_a_chip_is_the_same_from_any_window(scene):
    addresses, chips = chips_of(window_for([scene], ("red", "nir08")))
    for index in (0, len(addresses) - 1):
        alone = addresses[index : index + 1]
        small = read_window(
            [look_of(scene)], alone.lattice.union_geobox(alone.rows, alone.cols), L2A, ("red", "nir08")
        )
        assert np.array_equal(cut(small, alone).pixels_btcyx[0], chips.pixels_btcyx[index])


def test_each_chip_takes_its_clearest_look_and_the_first_of_equals(tmp_path):
    scl = np.full((96, 96), 4, np.uint8)
    scl[:, :48] = 9
    west_cloudy = make_item(tmp_path, "a_31TFJ", pixels={"scl": scl})
    east_cloudy = make_item(
        tmp_path, "b_31TFJ", pixels={"scl": scl[:, ::-1], "red": unique((192, 192), 20000)}
    )
    window = window_for([west_cloudy, east_cloudy], ("red",))
    addresses, chips = chips_of(window)
    left = addresses.cols * 160 - WEST
    assert {chips.items[i] for i in np.flatnonzero(left >= 960)} == {("a_31TFJ",)}
    assert {chips.items[i] for i in np.flatnonzero(left <= 960 - 320)} == {("b_31TFJ",)}
    middle = np.flatnonzero(left == 960 - 160)
    assert middle.size and {chips.items[i] for i in middle} == {("a_31TFJ",)}
    assert (chips.valid_fraction_b[middle] == 0.5).all()
    shown = chips.times_bt[:, 0].astype("datetime64[D]")
    assert np.array_equal(shown == np.datetime64("2024-06-02"), left < 800)


def test_frames_can_be_asked_for_by_time(scene, tmp_path):
    second = make_item(tmp_path, "later", pixels={"red": unique((192, 192), 9000)})
    window = window_for([scene, second], ("red",))
    addresses, _ = chips_of(window)
    times = window["time"].values[[1, 0]]
    chips = cut(window, addresses, times=times)
    assert chips.shape[:2] == (len(addresses), 2)
    assert np.array_equal(chips.times_bt[0], times) and chips.items[0] == ("later", scene.id)
    single = cut(window, addresses, times=times[:1])
    assert np.array_equal(chips.pixels_btcyx[:, :1], single.pixels_btcyx)
    with pytest.raises(InputMismatch, match="window has no look of 2020-01-01"):
        cut(window, addresses, times=[np.datetime64("2020-01-01")])


def test_a_chip_with_nothing_has_no_time_and_no_items(tmp_path):
    item = make_item(tmp_path, pixels={"scl": np.full((96, 96), 8, np.uint8)})
    _, chips = chips_of(window_for([item]))
    assert np.isnat(chips.times_bt).all() and set(chips.items) == {()} and not chips.valid_b.any()


def test_chips_that_are_not_in_the_window_are_refused(scene):
    window = window_for([scene])
    addresses, _ = chips_of(window)
    away = Addresses(lattice=LATTICE, rows=addresses.rows[:2] + np.array([0, 500]), cols=addresses.cols[:2])
    with pytest.raises(InputMismatch, match="1 of 2 chips are outside of the window, 32631/10/32/16/r"):
        cut(window, away)
    zone = Addresses(
        lattice=Lattice(epsg=32632, gsd_m=10, size_px=32, stride_px=16),
        rows=addresses.rows,
        cols=addresses.cols,
    )
    with pytest.raises(InputMismatch, match="chips in EPSG:32632"):
        cut(window, zone)
    coarse = Lattice(epsg=EPSG, gsd_m=20, size_px=32, stride_px=16)
    with pytest.raises(InputMismatch, match="does not lie on the lattice of 20 m"):
        cut(window, Addresses(lattice=coarse, rows=addresses.rows, cols=addresses.cols))
    shifted = read_window([look_of(scene)], box_of(WEST + 3, NORTH, 180, 180), L2A, RGB)
    with pytest.raises(InputMismatch, match="does not lie on the lattice"):
        cut(shifted, addresses)


def test_the_estimate_follows_metadata(scene, tmp_path):
    geometry = to_lonlat(shapely.box(*BOX.boundingbox.bbox), EPSG)
    looks = plan_looks([scene], geometry)
    pixels = BOX.shape[0] * BOX.shape[1]
    assert estimate_bytes(looks, BOX, L2A, ("red",)) == pytest.approx(pixels * 3, rel=0.02)
    sized = scene.clone()
    for asset in sized.assets.values():
        asset.extra_fields["file:size"] = 1_000_000
    share = pixels / (SIDE_M / 10) ** 2
    assert estimate_bytes([look_of(sized)], BOX, L2A, ("red",)) == pytest.approx(2e6 * share, rel=0.02)
    typed = scene.clone()
    typed.assets["red"].extra_fields["raster:bands"] = [{"data_type": "uint8"}]
    assert estimate_bytes([look_of(typed)], BOX, L2A, ("red",)) == pytest.approx(pixels * 2, rel=0.02)
    assert estimate_bytes([look_of(scene)], box_of(WEST + 50_000, NORTH, 64, 64), L2A, ("red",)) == 0
    with pytest.raises(CatalogError, match="no band"):
        estimate_bytes(looks, BOX, L2A, ("thermal",))
