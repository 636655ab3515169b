"""The area to be mapped: bbox, raster and run become points on the ground they cover."""

import doctest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin

from geoelle import domain
from geoelle.area import Addresses, Lattice
from geoelle.domain import domain_points
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import AreaError, FormatError, GeoelleError, HoldoutError


def save_raster(path: Path, values: np.ndarray, *, crs: str | None = "EPSG:32631", nodata: float | None = None) -> Path:
    bands, rows, cols = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=rows, width=cols, count=bands, dtype=values.dtype, crs=crs, nodata=nodata,
        transform=from_origin(600_000, 5_700_000, 100, 100),
    ) as file:  # fmt: skip
        file.write(values)
    return path


def save_run(path: Path) -> np.ndarray:
    (path / "embeddings").mkdir(parents=True)
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=32)
    every = []
    for part in range(2):
        rows, cols = (v.ravel() for v in np.mgrid[-15_625:-15_615, 1_880 + 10 * part : 1_890 + 10 * part])
        addresses = Addresses(lattice=lattice, rows=rows, cols=cols)
        space = dict.fromkeys(("model", "weights_sha256", "pooling", "target", "masking"), "x")
        Embeddings(
            addresses=addresses, vectors_nd=np.zeros((100, 2), np.float32), valid_n=np.ones(100, bool),
            valid_fraction_n=np.ones(100), times_n=np.full(100, "2024-06-01", "datetime64[s]"), items_n=["a"] * 100,
            header=Header(space=space, sensor="s", bands=("red",)),
        ).write(path / "embeddings" / f"part-{part}.parquet")  # fmt: skip
        every.append(addresses.lonlat_n2)
    return np.concatenate(every)


@pytest.mark.parametrize("bbox", [(4.0, 52.0, 5.0, 53.0), (-170, -60, 0, 85), (10, 78, 11, 78.01)])
def test_points_of_a_bbox_stand_for_as_much_ground_each(bbox):
    west, south, east, north = bbox
    lonlat = domain_points(",".join(map(str, bbox)))
    assert 1_500 < len(lonlat) < 6_000
    assert (lonlat > (west, south)).all() and (lonlat < (east, north)).all()
    middle = np.degrees(np.arcsin((np.sin(np.radians(south)) + np.sin(np.radians(north))) / 2))
    assert (lonlat[:, 1] < middle).mean() == pytest.approx(0.5, abs=0.03)  # half of the ground, half of the points
    assert lonlat[:, 0].mean() == pytest.approx((west + east) / 2, abs=0.02 * (east - west))


def test_a_strip_is_one_row_of_points():
    lonlat = domain_points("5,5,5.001,60")
    assert 3_000 < len(lonlat) < 6_000 and np.allclose(lonlat[:, 0], 5.0005) and np.ptp(np.diff(lonlat[:, 1])) < 1e-9


def test_points_of_a_raster_are_centres_of_valid_cells(tmp_path: Path):
    values = np.ones((2, 30, 40), np.float32)
    values[0, :, :10] = np.nan
    values[0, 20:, :] = -9
    values[1] = np.nan  # the first band decides
    lonlat = domain_points(str(save_raster(tmp_path / "a.tif", values, nodata=-9)))
    xy = np.column_stack(Transformer.from_crs(4326, 32631, always_xy=True).transform(*lonlat.T))
    col, row = (xy[:, 0] - 600_000) / 100, (5_700_000 - xy[:, 1]) / 100
    np.testing.assert_allclose(np.c_[row, col] % 1, 0.5, atol=1e-4)
    found = set(zip(row.astype(int), col.astype(int), strict=True))
    assert found == {(r, c) for r in range(20) for c in range(10, 40)}


def test_a_large_raster_is_thinned_to_real_centres(tmp_path: Path):
    values = np.zeros((1, 700, 900), np.int16)
    values[:, :, 450:] = 7
    lonlat = domain_points(str(save_raster(tmp_path / "a.tiff", values, nodata=0)))
    xy = np.column_stack(Transformer.from_crs(4326, 32631, always_xy=True).transform(*lonlat.T))
    col, row = (xy[:, 0] - 600_000) / 100, (5_700_000 - xy[:, 1]) / 100
    assert 1_500 < len(lonlat) < 2_300 and col.min() > 450 and col.max() > 885 and row.min() < 15 and row.max() > 685
    np.testing.assert_allclose(np.c_[row, col] % 1, 0.5, atol=1e-3)


def test_points_of_a_run_are_all_its_addresses(tmp_path: Path):
    wanted = save_run(tmp_path / "run")
    np.testing.assert_allclose(domain_points(str(tmp_path / "run")), wanted)


def no_cells(path: Path) -> str:
    return str(save_raster(path / "a.tif", np.zeros((1, 5, 5), np.uint8), nodata=0))


def no_crs(path: Path) -> str:
    return str(save_raster(path / "a.tif", np.ones((1, 5, 5), np.uint8), crs=None))


def no_raster(path: Path) -> str:
    (path / "a.tif").write_text("dear")
    return str(path / "a.tif")


def no_places(path: Path) -> str:
    pq.write_table(pa.table({"v": [1.0]}), path / "a.parquet")
    return str(path)


def no_parquet(path: Path) -> str:
    (path / "a.parquet").write_text("dear")
    return str(path)


def another_file(path: Path) -> str:
    (path / "a,b,c,d.csv").write_text("4,52,5,53")
    return str(path / "a,b,c,d.csv")


@pytest.mark.parametrize(
    ("make", "kind", "told"),
    [
        (lambda _: "nowhere.tif", HoldoutError, "no area to be mapped is found in 'nowhere.tif'; give west"),
        (lambda _: "", HoldoutError, "no area to be mapped is found in ''"),
        (lambda _: "4,52,5", HoldoutError, "no area to be mapped is found in '4,52,5'"),
        (lambda _: "4,52,5,x", AreaError, "the area to be mapped fails"),
        (lambda _: "5,52,4,53", AreaError, "the area to be mapped fails"),
        (lambda _: "4,52,5,nan", AreaError, "the area to be mapped fails"),
        (another_file, HoldoutError, "no area to be mapped is found"),
        (str, FormatError, "no embeddings at"),
        (no_cells, HoldoutError, "has no valid cell"),
        (no_crs, FormatError, "has no CRS"),
        (no_raster, FormatError, "cannot be read"),
        (no_places, FormatError, "has no columns lon and lat"),
        (no_parquet, FormatError, "cannot be read"),
    ],
)
def test_anything_else_is_refused(make, kind, told, tmp_path: Path):
    with pytest.raises(GeoelleError, match=told) as caught:
        domain_points(make(tmp_path))
    assert "\n" not in str(caught.value) and type(caught.value) is kind


def test_the_printed_example_is_true():
    assert doctest.testmod(domain).failed == 0
