"""`Chips`: parts that agree, or an error that says which does not."""

import numpy as np
import pytest

from geoelle.area import Addresses, Lattice
from geoelle.chips import Band, Chips, Sensor
from geoelle.errors import CatalogError, InputMismatch

LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=8, stride_px=8)
BANDS = ("blue", "green", "red")


def parts(count: int = 3, frames: int = 2) -> dict:
    addresses = Addresses(lattice=LATTICE, rows=np.arange(count) - 60000, cols=np.full(count, 6000))
    size = (count, frames, 3, 8, 8)
    return {
        "pixels_btcyx": np.arange(np.prod(size), dtype=np.float32).reshape(size),
        "addresses": addresses,
        "times_bt": np.full((count, frames), "2024-06-01T10:30:00", "datetime64[s]"),
        "lonlat_b2": addresses.lonlat_n2,
        "bands": BANDS,
        "items": tuple((f"item{i}", "other") for i in range(count)),
    }


def test_chips_hold_what_they_were_given():
    chips = Chips(**parts())
    assert len(chips) == 3
    assert chips.shape == (3, 2, 3, 8, 8)
    assert chips.size_px == 8
    assert chips.valid_fraction_b.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("pixels_btcyx", lambda p: p[:, 0], "float32"),
        ("pixels_btcyx", lambda p: p.astype(np.float64), "float64"),
        ("pixels_btcyx", lambda p: p[..., :7], r"\(8, 7\), not \(8, 8\)"),
        ("pixels_btcyx", lambda p: p[..., :7, :7], r"\(7, 7\), not \(8, 8\)"),
        ("pixels_btcyx", lambda p: p[:, :, :2], "bands"),
        ("addresses", lambda a: a[:2], "addresses of 3 chips are 2"),
        ("times_bt", lambda t: t[:, :1], "times"),
        ("times_bt", lambda t: t.T, "times"),
        ("times_bt", lambda t: t.astype("datetime64[ns]"), "datetime64"),
        ("lonlat_b2", lambda x: x * np.nan, "longitude first"),
        ("lonlat_b2", lambda x: x.astype(np.float32), "float64"),
        ("lonlat_b2", lambda x: x.T, "lonlat"),
        ("bands", lambda b: b[:2], "bands"),
        ("bands", lambda b: ("red", "red", "blue"), "different bands of 3 chips are 2"),
        ("items", lambda i: i[:2], "items"),
    ],
)
def test_parts_that_disagree_are_refused_by_name(name, change, says):
    given = parts()
    with pytest.raises(InputMismatch, match=says):
        Chips(**{**given, name: change(given[name])})


def test_swapped_longitude_and_latitude_are_refused_where_they_can_be_told():
    given = parts()
    with pytest.raises(InputMismatch, match="longitude first"):
        Chips(**{**given, "lonlat_b2": np.array([[51.0, 104.0]] * 3)})


def test_a_pixel_counts_as_valid_in_all_bands_and_frames():
    given = parts()
    given["pixels_btcyx"][0, 1, 2, :4, :] = np.nan
    given["pixels_btcyx"][1, 0, 0, 0, :6] = np.nan
    given["pixels_btcyx"][1, 1, 2, 0, :6] = np.nan
    given["pixels_btcyx"][2, 0, 0, 0, :7] = np.inf
    chips = Chips(**given)
    assert chips.valid_fraction_b.tolist() == [0.5, 58 / 64, 57 / 64]
    assert chips.valid_b.tolist() == [False, True, False]


def test_nine_pixels_in_ten_are_enough():
    ten = Lattice(epsg=32631, gsd_m=10, size_px=10, stride_px=10)
    addresses = Addresses(lattice=ten, rows=[-60000, -60000], cols=[6000, 6001])
    pixels = np.ones((2, 1, 3, 10, 10), np.float32)
    pixels[0, 0, 0, 0] = pixels[1, 0, 0, 0] = np.nan
    pixels[1, 0, 0, 1, 1] = np.nan
    chips = Chips(
        pixels_btcyx=pixels,
        addresses=addresses,
        times_bt=np.full((2, 1), "2024-06-01", "datetime64[s]"),
        lonlat_b2=addresses.lonlat_n2,
        bands=BANDS,
        items=((), ()),
    )
    assert chips.valid_b.tolist() == [True, False]


def test_slices_masks_and_lists_take_every_part():
    chips = Chips(**parts())
    for key, rows in ((slice(1, None), [1, 2]), (np.array([True, False, True]), [0, 2]), ([2, 0], [2, 0])):
        some = chips[key]
        assert some.items == tuple(chips.items[i] for i in rows)
        assert some.addresses.rows.tolist() == chips.addresses.rows[rows].tolist()
        assert np.array_equal(some.pixels_btcyx, chips.pixels_btcyx[rows])
        assert np.array_equal(some.lonlat_b2, chips.lonlat_b2[rows])
        assert some.times_bt.shape == (len(rows), 2)
    assert len(chips[:0]) == 0
    with pytest.raises(InputMismatch, match="one by one"):
        chips[1]


def test_bands_are_reordered_with_their_pixels():
    chips = Chips(**parts())
    some = chips.select_bands(["red", "blue"])
    assert some.bands == ("red", "blue")
    assert np.array_equal(some.pixels_btcyx[:, :, 0], chips.pixels_btcyx[:, :, 2])
    assert np.array_equal(some.pixels_btcyx[:, :, 1], chips.pixels_btcyx[:, :, 0])
    with pytest.raises(InputMismatch, match="lack the bands nir, swir16"):
        chips.select_bands(["red", "nir", "swir16"])
    with pytest.raises(InputMismatch, match="different bands"):
        chips.select_bands(["red", "red"])


def test_a_sensor_knows_its_bands():
    sensor = Sensor(
        name="two-band",
        title="Two bands",
        bands=(
            Band(name="red", wavelength_um=0.665, gsd_m=10),
            Band(name="vv", wavelength_um=None, gsd_m=10),
        ),
        gsd_m=10,
        level="L2A",
        unit="reflectance",
        scale=0.0001,
        offset=0.0,
        offset_rule="fixed",
        nodata=0,
        mask_asset=None,
        mask_classes=(),
        mask_bits=(),
        assets=(("red", ("red", "B04")),),
        collections=("two-band-l2a",),
        endpoint="",
        note="nothing masks clouds",
        to_db=False,
    )
    assert sensor.band("red").wavelength_um == 0.665
    assert sensor.band_names == ("red", "vv")
    assert sensor.asset_keys("red") == ("red", "B04")
    assert sensor.asset_keys("vv") == ("vv",)
    assert hash(sensor)
    for ask in (sensor.band, sensor.asset_keys):
        with pytest.raises(CatalogError, match=r"no band 'nir'.*red, vv"):
            ask("nir")
