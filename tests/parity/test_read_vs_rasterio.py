"""The reader beside plain rasterio and odc-stac on the same files: equal where grids fit, else close."""

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from geoelle.assets import Asset, read_asset
from geoelle.catalog import load_sensor
from geoelle.read import Look, read_window
from geoelle.resample import Target
from scenes import EPSG, NORTH, WEST, bare_item, box_of, make_item, unique, write_cog

WINDOWS = [
    (0, 0, 192, 192),
    (17, 31, 64, 48),
    (127, 127, 2, 2),
    (191, 191, 1, 1),
    (-20, -30, 50, 60),
    (150, 150, 99, 99),
]


def read(path, geobox, indexes=(1,), **options):
    asset = Asset(item="x", key="x", href=str(path), indexes=tuple(indexes), **options)
    return read_asset(asset, Target(geobox))


def truth(path, geobox, indexes=(1,)):
    """Read what plain rasterio reads for a window on the file's own grid, NaN where its masks say missing."""
    with rasterio.open(path) as source:
        row, col = (
            round((geobox.affine.f - source.transform.f) / source.transform.e),
            round((geobox.affine.c - source.transform.c) / source.transform.a),
        )
        window = Window(col, row, geobox.shape[1], geobox.shape[0])
        inside = window.intersection(Window(0, 0, source.width, source.height))
        out = np.full((len(indexes), *geobox.shape), np.nan, np.float32)
        rows = slice(int(inside.row_off - row), int(inside.row_off - row + inside.height))
        cols = slice(int(inside.col_off - col), int(inside.col_off - col + inside.width))
        values = source.read(list(indexes), window=inside, masked=True)
        out[:, rows, cols] = values.astype(np.float32).filled(np.nan)
        return out


def own_window(path, col, row, width, height):
    with rasterio.open(path) as source:
        return GeoBox((height, width), source.transform @ Affine.translation(col, row), source.crs)


@pytest.fixture(scope="module")
def cog(tmp_path_factory):
    pixels = unique((192, 192))
    pixels[40:60, 50] = 0
    return write_cog(tmp_path_factory.mktemp("parity") / "b.tif", pixels)


@pytest.mark.parametrize(("col", "row", "width", "height"), WINDOWS)
def test_windows_are_equal_to_the_last_pixel(cog, col, row, width, height):
    box = box_of(WEST + 10 * col, NORTH - 10 * row, width, height)
    assert np.array_equal(read(cog, box), truth(cog, box), equal_nan=True)


@pytest.mark.parametrize(("col", "row", "width", "height"), WINDOWS[:3])
def test_a_window_of_a_scene_is_equal_to_odc_stac(tmp_path, col, row, width, height):
    item = make_item(tmp_path)
    box = box_of(WEST + 10 * col, NORTH - 10 * row, width, height)
    look = Look(date=np.datetime64("2024-06-01"), date_half_width_days=0, items=(item,), cloud=None, coverage=1)
    ours = read_window([look], box, load_sensor("sentinel-2-l2a"), ("red", "nir08"))
    config = {"*": {"assets": {"*": {"data_type": "uint16", "nodata": 0}}, "warnings": "ignore"}}
    theirs = odc.stac.load([item], bands=["red", "nir08"], geobox=box, stac_cfg=config, resampling="nearest")
    for band in ("red", "nir08"):
        expected = theirs[band].values[0].astype(np.float32) / 10000
        assert np.array_equal(ours.sel(band=band).values[0], expected)


@pytest.mark.parametrize(
    ("name", "col", "row"),
    [
        ("cog/cog.tif", 1000, 900),
        ("cog/cog_nodata.tif", 1000, 900),
        ("cog/cog_nodata.tif", 0, 0),
        ("cog/cog_nodata.tif", 2500, 2500),
        ("cog/nocog.tif", 100, 2600),
        ("cog/cog_dateline.tif", 1100, 1100),
        ("cog/scene_band1.tif", 300, 300),
        ("cog/cog_nodata_nan.tif", 450, 500),
        ("cog/mosaic_cog1.tif", 300, 300),
        ("cog/cog_rgb_mask.tif", 200, 100),
        ("rasterio/RGB.byte.tif", 700, 600),
        ("rasterio/RGBA.byte.tif", 50, 50),
        ("rasterio/all-nodata.tif", 0, 1000),
        ("rasterio/cogeo.tif", 480, 480),
        ("cogeotiff/DEM_BS28_2016_1000_1141.tif", 0, 100),
        ("cogeotiff/sparse.tiff", 0, 0),
        ("cogeotiff/sparse.tiff", 10000, 10000),
        ("jp2/T31TDH_20180101T105441_B01.jp2", 1200, 1000),
        ("jp2/rasterframes_B01.jp2", 1700, 0),
        ("openeo_stac/openEO_2023-06-04Z.tif", 10, 10),
    ],
)
def test_real_files_are_equal_on_their_own_grid(shared, name, col, row):
    path = shared / "data" / "fixtures" / name
    box = own_window(path, col, row, 180, 140)
    assert np.array_equal(read(path, box), truth(path, box), equal_nan=True)


def test_absent_blocks_of_a_sparse_file_are_nothing(shared, tmp_path):
    empty = shared / "data" / "fixtures" / "cogeotiff" / "sparse.tiff"
    assert np.isnan(read(empty, own_window(empty, 5000, 5000, 64, 64), (1, 2, 3))).all()
    options = {"driver": "GTiff", "width": 192, "height": 192, "count": 1, "dtype": "uint16", "tiled": True}
    grid = {"crs": f"EPSG:{EPSG}", "transform": Affine(10, 0, WEST, 0, -10, NORTH)}
    path = tmp_path / "sparse.tif"
    with rasterio.open(path, "w", **options, **grid, blockxsize=64, blockysize=64, SPARSE_OK=True) as sink:
        sink.write(unique((64, 64)), 1, window=Window(64, 64, 64, 64))
    found = read(path, box_of(WEST, NORTH, 192, 192), nodata=(0.0,))[0]
    assert np.array_equal(found[64:128, 64:128], unique((64, 64))) and np.isfinite(found).sum() == 64 * 64


def test_60_m_of_a_jpeg_2000_on_a_10_m_lattice_is_repeated(shared):
    path = shared / "data" / "fixtures" / "jp2" / "T31TDH_20180101T105441_B01.jp2"
    box = box_of(399960 + 60 * 1000, 4800000 - 60 * 900, 240, 180)
    coarse = truth(path, own_window(path, 1000, 900, 40, 30))[0]
    expected = np.kron(np.where(coarse == 0, np.nan, coarse), np.ones((6, 6)))
    assert np.array_equal(read(path, box, nodata=(0.0,))[0], expected, equal_nan=True)


@pytest.mark.parametrize("smooth", [True, False])
def test_a_rotated_file_is_warped_as_rasterio_does(shared, tmp_path, smooth):
    path = shared / "data" / "fixtures" / "rasterio" / "rotated.tif"
    with rasterio.open(path) as source:
        pixels, transform = source.read(1).astype(np.float32), source.transform
    copy = tmp_path / "rotated.tif"
    profile = {"driver": "GTiff", "width": 10, "height": 15, "count": 1, "dtype": "float32"}
    with rasterio.open(copy, "w", **profile, crs=f"EPSG:{EPSG}", transform=transform, nodata=-1) as sink:
        sink.write(pixels, 1)
    box = box_of(120, 330, 40, 50, gsd_m=7.0)
    expected = np.full(box.shape, np.nan, np.float32)
    rasterio.warp.reproject(
        pixels,
        expected,
        src_transform=transform,
        src_crs=f"EPSG:{EPSG}",
        dst_transform=box.affine,
        dst_crs=f"EPSG:{EPSG}",
        dst_nodata=np.nan,
        resampling=Resampling.bilinear if smooth else Resampling.nearest,
    )
    found = read(copy, box, classes=not smooth)[0]
    both = np.isfinite(found) & np.isfinite(expected)
    assert both.sum() > 400 and (np.isfinite(found) != np.isfinite(expected)).sum() < 0.1 * both.sum()
    assert np.allclose(found[both], expected[both], atol=1e-3)


def test_another_zone_is_as_close_as_gdal_is_exact(tmp_path):
    rows, cols = np.mgrid[:400, :400]
    plane = (cols + 3.0 * rows).astype(np.float32)
    path = write_cog(tmp_path / "p.tif", plane, west=700000, north=7000020, nodata=None)
    source = GeoBox((400, 400), Affine(10, 0, 700000, 0, -10, 7000020), f"EPSG:{EPSG}")
    box = source.to_crs("EPSG:32632", resolution=10)[150:260, 140:270]
    expected = np.full(box.shape, np.nan, np.float32)
    rasterio.warp.reproject(
        plane,
        expected,
        src_transform=source.affine,
        src_crs=f"EPSG:{EPSG}",
        dst_transform=box.affine,
        dst_crs="EPSG:32632",
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    # GDAL may be an eighth of a pixel off; the plane rises by sqrt(10) a pixel.
    assert np.abs(read(path, box)[0] - expected).max() < 0.125 * np.sqrt(10)


def test_a_finer_file_is_the_average_rasterio_takes(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 1000, (192, 192)).astype(np.float32)
    path = write_cog(tmp_path / "f.tif", pixels, nodata=None)
    for factor in (3, 4):
        box = box_of(WEST, NORTH, 192 // factor, 192 // factor, gsd_m=10 * factor)
        expected = np.empty(box.shape, np.float32)
        rasterio.warp.reproject(
            pixels,
            expected,
            src_transform=Affine(10, 0, WEST, 0, -10, NORTH),
            src_crs=f"EPSG:{EPSG}",
            dst_transform=box.affine,
            dst_crs=f"EPSG:{EPSG}",
            resampling=Resampling.average,
        )
        assert np.allclose(read(path, box)[0], expected, rtol=1e-5)


def test_numbers_of_any_type_survive(tmp_path):
    for dtype, high in (
        ("uint8", 255),
        ("int16", 32000),
        ("uint16", 65000),
        ("float32", 1e6),
        ("float64", 1e6),
    ):
        pixels = np.linspace(1, high, 64 * 64).reshape(64, 64).astype(dtype)
        path = write_cog(tmp_path / f"{dtype}.tif", pixels, nodata=None)
        assert np.array_equal(read(path, box_of(WEST, NORTH, 64, 64))[0], pixels.astype(np.float32))


def test_an_item_without_geometry_is_read_by_its_bbox(tmp_path):
    item = bare_item("x", collection="naip")
    item.geometry = None
    item.add_asset(
        "image",
        pystac.Asset(href=str(write_cog(tmp_path / "i.tif", np.full((4, 192, 192), 51, np.uint8), nodata=None))),
    )
    look = Look(date=np.datetime64("2024-06-01"), date_half_width_days=0, items=(item,), cloud=None, coverage=1)
    window = read_window([look], box_of(WEST, NORTH, 32, 32), load_sensor("naip"), ("red",))
    assert np.allclose(window.values, 0.2)
