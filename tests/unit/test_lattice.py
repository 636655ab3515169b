"""`Lattice`, `Address`, `Addresses`: where a chip is, to the metre."""

import numpy as np
import pytest
import shapely

from geoelle.errors import AreaError
from geoelle.lattice import Address, Addresses, Lattice

TEXT = "32631/10/256/256/r-2004/c137"
NANO = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)


def addresses(rows: list[int], cols: list[int], lattice: Lattice = NANO) -> Addresses:
    return Addresses(lattice=lattice, rows=np.array(rows), cols=np.array(cols))


def test_an_address_says_where_its_chip_is():
    address = Address.parse(TEXT)
    assert address.geobox.shape == (256, 256)
    assert address.geobox.crs.epsg == 32631
    assert address.geobox.affine[:6] == (10, 0, 137 * 2560, 0, -10, 2004 * 2560)
    assert address.geobox.boundingbox == (350720, 5127680, 353280, 5130240)
    # EPSG:32631 has its central meridian at 3 E: x below 500 km is west of it
    assert address.lonlat == pytest.approx((1.07829, 46.29807), abs=1e-5)


def test_rows_grow_southwards_and_columns_eastwards():
    here, south, east = (NANO.geobox(r, c).boundingbox for r, c in ((5, 7), (6, 7), (5, 8)))
    assert (south.top - here.top, south.left - here.left) == (-160, 0)
    assert (east.top - here.top, east.left - here.left) == (0, 160)
    assert NANO.geobox(-1, 0).boundingbox.top == 160


def test_the_cell_is_the_stride_square_at_the_centre_of_the_chip():
    chip, cell = NANO.geobox(-30000, 3000), NANO.cell_geobox(-30000, 3000)
    assert cell.shape == (1, 1)
    assert cell.resolution.x == NANO.cell_m == 160
    assert (
        cell.boundingbox.left - chip.boundingbox.left == chip.boundingbox.right - cell.boundingbox.right == 80
    )
    assert (
        cell.boundingbox.bottom - chip.boundingbox.bottom == chip.boundingbox.top - cell.boundingbox.top == 80
    )
    address = Address.parse("32631/10/32/16/r-30000/c3000")
    assert (address.geobox, address.cell) == (chip, cell)


def test_windows_of_many_chips():
    rows, cols = np.array([-10, -7, -8]), np.array([4, 4, 9])
    raster, union = NANO.raster_geobox(rows, cols), NANO.union_geobox(rows, cols)
    assert raster.shape == (4, 6)
    assert raster.boundingbox.left == NANO.cell_geobox(-10, 4).boundingbox.left
    assert raster.boundingbox.bottom == NANO.cell_geobox(-7, 4).boundingbox.bottom
    assert union.shape == (3 * 16 + 32, 5 * 16 + 32)
    assert union.boundingbox.top == NANO.geobox(-10, 4).boundingbox.top
    assert union.boundingbox.right == NANO.geobox(-7, 9).boundingbox.right


@pytest.mark.parametrize(
    "text", [TEXT, "3413/0.6/224/112/r0/c-9", "2154/1e-05/16/2/r7/c7", "32701/1000/2/2/r-1/c1"]
)
def test_address_strings_round_trip(text):
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "32631/10/256/256",
        TEXT + "/x",
        " " + TEXT,
        TEXT.replace("r-2004", "r-2004.5"),
        TEXT.replace("r-2004/c137", "c137/r-2004"),
        TEXT.replace("/10/", "/nan/"),
        TEXT.replace("/10/", "/-10/"),
        TEXT.replace("/10/", "/0/"),
        TEXT.replace("32631", "4326"),
        TEXT.replace("32631", "0"),
        TEXT.replace("256/256", "256/0"),
        TEXT.replace("256/256", "256/512"),
        TEXT.replace("256/256", "256/255"),
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(AreaError):
        Address.parse(text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gsd_m": 0}, "gsd_m"),
        ({"gsd_m": float("inf")}, "gsd_m"),
        ({"stride_px": 0}, "stride"),
        ({"stride_px": 15}, "even margin"),
        ({"stride_px": 34}, "stride"),
        ({"epsg": 4326}, "metres"),
    ],
)
def test_a_lattice_that_does_not_tile_is_refused(change, says):
    with pytest.raises(AreaError, match=says):
        Lattice(**{"epsg": 32631, "gsd_m": 10, "size_px": 32, "stride_px": 16, **change})


def test_equal_lattices_are_equal_whatever_the_number_type():
    other = Lattice(epsg=np.int64(32631), gsd_m=np.float32(10), size_px=np.int32(32), stride_px=16)
    assert other == NANO
    assert hash(other) == hash(NANO)


def test_footprints_hold_the_chip_counter_clockwise():
    many = addresses([-30000, -30001], [3000, 3001])
    assert many[0].footprint.equals_exact(many.footprints[0])
    for one, outline in zip(many, many.footprints, strict=True):
        assert outline.exterior.is_ccw
        assert outline.contains(shapely.Point(one.lonlat))
        west, south, east, north = outline.bounds
        assert (east - west) * 111.32 * np.cos(np.radians(south)) == pytest.approx(0.32, rel=0.02)
        assert (north - south) * 111.2 == pytest.approx(0.32, rel=0.02)


def test_footprints_across_the_antimeridian_stay_small():
    lattice = Lattice(epsg=32660, gsd_m=10, size_px=256, stride_px=256)
    many = lattice.select(shapely.Point(179.9999, 51))
    [outline] = many.footprints
    west, _, east, _ = outline.bounds
    assert east - west < 0.1
    assert east > 180


def test_indexing_gives_addresses_and_an_integer_gives_one():
    many = addresses([1, 2, 3], [4, 5, 6])
    assert isinstance(many[1], Address)
    assert (many[1].row, many[1].col, many[np.int64(-1)].col) == (2, 5, 6)
    assert many[1:].rows.tolist() == [2, 3]
    assert many[np.array([True, False, True])].cols.tolist() == [4, 6]
    assert many[[2, 0]].cols.tolist() == [6, 4]
    assert len(many) == 3
    assert [str(one) for one in many] == many.strings()
    assert many.concat(many[:1]).rows.tolist() == [1, 2, 3, 1]


def test_addresses_agree_with_the_windows_they_name():
    many = addresses([-30000, -29999, 17], [3000, -4, 3001])
    for one, (x, y), lonlat in zip(many, many.xy_n2, many.lonlat_n2, strict=True):
        box = one.geobox.boundingbox
        assert ((box.left + box.right) / 2, (box.top + box.bottom) / 2) == (x, y)
        assert one.lonlat == tuple(lonlat)


def test_bad_addresses_are_refused():
    with pytest.raises(AreaError, match="differ"):
        addresses([1, 2], [3])
    with pytest.raises(AreaError, match="float64"):
        addresses([1.5], [3])
    other = Lattice(epsg=32632, gsd_m=10, size_px=32, stride_px=16)
    with pytest.raises(AreaError, match="32631/10/32/16, 32632/10/32/16"):
        addresses([1], [3]).concat(addresses([1], [3], other))


def test_no_addresses_are_legal():
    none = addresses([], [])
    assert len(none) == 0
    assert none.rows.dtype == np.int64
    assert none.lonlat_n2.shape == (0, 2)
    assert len(none.footprints) == 0
    assert none.parts(8) == none.strings() == []


def test_parts_are_named_by_super_block():
    many = addresses([-1, 0, -1, -9, 7, -1], [8, 0, -1, 3, 7, 2])
    parts = dict(many.parts(8))
    assert list(parts) == ["r-2_c0", "r-1_c-1", "r-1_c0", "r-1_c1", "r0_c0"]
    assert parts["r0_c0"].rows.tolist() == [0, 7]
    assert sum(len(part) for part in parts.values()) == len(many)
    with pytest.raises(AreaError, match="block of a part is 0"):
        many.parts(0)


def test_a_polygon_that_only_touches_a_cell_does_not_select_it():
    lattice = Lattice(epsg=3857, gsd_m=10, size_px=32, stride_px=16)
    cell = lattice.cell_geobox(-50, 60).boundingbox
    degrees = shapely.box(cell.left, cell.bottom, cell.right, cell.top)
    scale = 180 / 20037508.342789244
    lonlat = shapely.transform(
        degrees,
        lambda xy: np.stack(
            [xy[:, 0] * scale, np.degrees(2 * np.arctan(np.exp(np.radians(xy[:, 1] * scale))) - np.pi / 2)],
            axis=1,
        ),
    )
    inside = lattice.select(shapely.affinity.scale(lonlat, 0.999, 0.999))
    assert (inside.rows.tolist(), inside.cols.tolist()) == ([-50], [60])
    beyond = lattice.select(shapely.affinity.scale(lonlat, 1.01, 1.01))
    assert len(beyond) == 9


def test_an_area_on_the_edge_of_cells_does_not_select_beyond_it():
    lattice = Lattice(epsg=32632, gsd_m=10, size_px=32, stride_px=32)
    above, below = (
        lattice.select(shapely.box(8.5, 0, 8.6, 0.01)),
        lattice.select(shapely.box(8.5, -0.01, 8.6, 0)),
    )
    assert above.rows.max() == -1
    assert below.rows.min() == 0


def test_points_and_lines_select_too():
    lonlat = Address.parse("32631/10/32/16/r-32000/c3100").lonlat
    found = NANO.select(shapely.Point(lonlat))
    assert (found.rows.tolist(), found.cols.tolist()) == ([-32000], [3100])
    line = shapely.LineString([lonlat, (lonlat[0], lonlat[1] + 0.01)])
    assert len(NANO.select(line)) in (7, 8, 9)
