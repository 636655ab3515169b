"""The lattice, whatever the place: cells cover without overlap; no address depends on what was asked for."""

import itertools

import numpy as np
import pyproj
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from geoelle.area import Address, Addresses, Area, Lattice, lattices_for

SIZES = st.sampled_from([(10.0, 32, 16), (10.0, 256, 256), (30.0, 128, 64), (0.6, 224, 112), (7.3, 9, 3)])
EPSGS = st.sampled_from([32601, 32631, 32660, 32733, 3035, 3413, 2193])
INDEX = st.integers(-100_000, 100_000)


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    gsd, size, stride = draw(SIZES)
    return Lattice(epsg=draw(EPSGS), gsd_m=gsd, size_px=size, stride_px=stride)


@st.composite
def places(draw: st.DrawFn) -> tuple[Lattice, shapely.Polygon]:
    """Give a lattice and a bbox inside one UTM zone, at most some 12 cells wide."""
    gsd, size, stride = draw(SIZES)
    zone, north = draw(st.integers(1, 60)), draw(st.booleans())
    lattice = Lattice(epsg=(32600 if north else 32700) + zone, gsd_m=gsd, size_px=size, stride_px=stride)
    lat = draw(st.floats(1, 70)) * (1 if north else -1)
    cell_lat, cell_lon = lattice.cell_m / 111_000, lattice.cell_m / (111_000 * np.cos(np.radians(lat)))
    lon = (zone - 1) * 6 - 180 + draw(st.floats(0.8, 5.0))
    width, height = (draw(st.floats(0.05, 12)) for _ in "xy")
    return lattice, shapely.box(lon, lat, lon + width * cell_lon, lat + height * cell_lat)


def cells(addresses: Addresses) -> list[shapely.Polygon]:
    return [shapely.box(*one.cell.boundingbox) for one in addresses]


def in_metres(geometry: shapely.Polygon, lattice: Lattice) -> shapely.Polygon:
    """Carry a bbox to metres by another route than the lattice's own: 50 steps along every edge."""
    west, south, east, north = geometry.bounds
    there = np.linspace(0, 1, 50, endpoint=False)[:, None]
    corners = np.array([(west, south), (east, south), (east, north), (west, north), (west, south)])
    ring = np.concatenate([a + there * (b - a) for a, b in itertools.pairwise(corners)])
    turn = pyproj.Transformer.from_crs(4326, lattice.epsg, always_xy=True)
    return shapely.Polygon(np.stack(turn.transform(*ring.T), axis=1))


def corner(geobox: GeoBox, right: int, down: int) -> tuple[float, float]:
    step_x, _, west, _, step_y, north = geobox.affine[:6]
    return west + right * step_x, north + down * step_y


@given(places())
@settings(max_examples=60)
def test_cells_cover_the_bbox_without_overlap(place):
    lattice, bbox = place
    addresses = lattice.select(bbox)
    squares = cells(addresses)
    union = shapely.union_all(squares)
    ground = in_metres(bbox, lattice)
    assert ground.difference(union.buffer(lattice.cell_m * 1e-3)).area == 0
    assert abs(union.area - len(squares) * lattice.cell_m**2) < 1e-6 * union.area
    slack = ground.buffer(lattice.cell_m * 1e-3)
    assert all(slack.intersects(square) for square in squares)


@given(places(), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
@settings(max_examples=60)
def test_the_same_place_has_the_same_address_whatever_the_bbox(place, along, up):
    lattice, bbox = place
    west, south, east, north = bbox.bounds
    inner = shapely.box(west, south, west + along * (east - west), south + up * (north - south))
    outer = set(lattice.select(bbox).strings())
    assert set(lattice.select(inner).strings()) <= outer
    area = Area.parse(bbox=bbox.bounds, dates="2024")
    [(found, addresses)] = lattices_for(area, lattice.gsd_m, lattice.size_px, lattice.stride_px)
    assert found == lattice
    assert set(addresses.strings()) == outer


@given(places(), st.integers(1, 7), st.floats(0.1, 0.9))
@settings(max_examples=60)
def test_parts_do_not_depend_on_the_selection(place, block, along):
    lattice, bbox = place
    west, south, east, north = bbox.bounds
    inner = shapely.box(west, south, west + along * (east - west), north)
    every = lattice.select(bbox)
    some = set(lattice.select(inner).strings())
    wide, narrow = dict(every.parts(block)), dict(lattice.select(inner).parts(block))
    assert sorted(t for part in wide.values() for t in part.strings()) == sorted(every.strings())
    for name, part in narrow.items():
        assert part.strings() == [text for text in wide[name].strings() if text in some]
    mixed = np.random.default_rng(0).permutation(len(every))
    again = {name: part.strings() for name, part in every[mixed].parts(block)}
    assert list(again.items()) == [(name, part.strings()) for name, part in wide.items()]


@given(lattices(), INDEX, INDEX)
def test_address_strings_round_trip(lattice, row, col):
    [address] = Addresses(lattice=lattice, rows=[row], cols=[col])
    assert Address.parse(str(address)) == address
    assert address.lattice == lattice
    assert Addresses(lattice=lattice, rows=[row], cols=[col]).strings() == [str(address)]


@given(lattices(), INDEX, INDEX)
def test_row_and_column_are_not_interchangeable(lattice, row, col):
    chip, cell = lattice.geobox(row, col).boundingbox, lattice.cell_geobox(row, col).boundingbox
    step = lattice.stride_px * lattice.gsd_m
    assert np.isclose(chip.left, col * step)
    assert np.isclose(chip.top, -row * step)
    assert np.isclose(chip.left + chip.right, cell.left + cell.right)
    assert np.isclose(chip.top + chip.bottom, cell.top + cell.bottom)
    if row != col:
        assert lattice.geobox(col, row) != lattice.geobox(row, col)


@given(places())
@settings(max_examples=60)
def test_the_centre_of_a_chip_selects_that_chip(place):
    lattice, bbox = place
    for address in lattice.select(bbox)[:3]:
        [found] = lattice.select(shapely.Point(address.lonlat))
        assert found == address
        assert address.footprint.contains(shapely.Point(address.lonlat))


@given(places(), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=40)
def test_a_raster_of_cells_and_a_window_of_chips_are_aligned(place, down, right):
    lattice, _ = place
    rows, cols = np.array([-30_000, -30_000 + down]), np.array([3_000, 3_000 + right])
    raster, window = lattice.raster_geobox(rows, cols), lattice.union_geobox(rows, cols)
    assert raster.shape == (down + 1, right + 1)
    cell, chip = lattice.cell_geobox(rows[1], cols[1]), lattice.geobox(rows[1], cols[1])
    assert np.allclose(corner(raster, right, down), corner(cell, 0, 0))
    assert np.allclose(corner(raster, right + 1, down + 1), corner(cell, 1, 1))
    left, top, size = right * lattice.stride_px, down * lattice.stride_px, lattice.size_px
    assert window.shape == (top + size, left + size)
    assert np.allclose(corner(window, left, top), corner(chip, 0, 0))
    assert np.allclose(corner(window, left + size, top + size), corner(chip, size, size))
