import errno
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  registers .rio
import xarray as xr
from affine import Affine
from rio_cogeo.cogeo import cog_validate

import geoelle.raster
from geoelle.errors import FormatError, GeoelleError
from geoelle.files import sha256
from geoelle.lattice import Addresses, Lattice
from geoelle.raster import BandStatistics, geobox_of, paint, write_cog, write_zarr

LATTICE = Lattice(epsg=32618, gsd_m=10, size_px=32, stride_px=16)
TEXTS = {"descriptions": ["difficulty", "excess over complexity"], "units": ["ln loss", "ln loss"]}
TAGS = {"GEOELLE_VERSION": "0.1.0", "GEOELLE_SPACE": "nano/abc", "GEOELLE_ITEMS": "S2A_1;S2B_2"}


def block(height: int, width: int, holes: int = 0, seed: int = 0) -> tuple[Addresses, dict[str, np.ndarray]]:
    """Return addresses of a block with some missing, in random order, and two layers of values."""
    rng = np.random.default_rng(seed)
    keep = rng.permutation(height * width)[: height * width - holes]
    rows, cols = np.divmod(keep, width)
    addresses = Addresses(lattice=LATTICE, rows=rows - 26250, cols=cols + 1600)
    values = rng.normal(size=(2, len(addresses))).astype(np.float32)
    return addresses, {"difficulty": values[0], "excess": values[1]}


def names(directory: Path) -> list[str]:
    """List everything in a directory, temporary files included."""
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def raster() -> xr.DataArray:
    return paint(*block(60, 41, holes=37))


# --- paint


def test_each_value_lies_on_its_cell() -> None:
    addresses, values = block(7, 5, holes=9)
    painted = paint(addresses, values)
    assert painted.dims == ("band", "y", "x")
    assert painted.dtype == np.float32
    assert painted["band"].values.tolist() == ["difficulty", "excess"]
    assert painted.rio.crs.to_epsg() == 32618
    for i, address in enumerate(addresses):
        x, y = addresses.xy_n2[i]
        assert painted.sel(band="excess", x=x, y=y).item() == values["excess"][i]
        cell = address.cell
        assert cell.affine.c < x < cell.affine.c + 160
        assert (abs(cell.affine.a), abs(cell.affine.e)) == (160, 160)
    assert np.isfinite(painted.values).sum(axis=(1, 2)).tolist() == [26, 26]


def test_the_cell_is_the_stride_square_at_the_centre_of_the_chip() -> None:
    addresses = Addresses(lattice=LATTICE, rows=[-26250], cols=[1600])
    box = geobox_of(paint(addresses, {"difficulty": np.array([1.0])}))
    assert box.shape == (1, 1)
    # chip: x 256000..256320, its cell 80 m further in
    assert box.boundingbox.bbox == (256080.0, 4199760.0, 256240.0, 4199920.0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (6, 1)])
def test_a_raster_of_one_row_or_column_keeps_its_grid(tmp_path: Path, height: int, width: int) -> None:
    painted = paint(*block(height, width))
    write_cog(painted, tmp_path / "a.tif", **TEXTS, tags={})
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.transform == Affine(160, 0, 256080, 0, -160, 4199920)
        assert source.shape == (height, width)


def test_an_address_given_twice_is_named() -> None:
    addresses = Addresses(lattice=LATTICE, rows=[3, 4, 3], cols=[7, 7, 7])
    with pytest.raises(FormatError, match=r"32618/10/32/16/r3/c7 \(given more than once\)"):
        paint(addresses, {"difficulty": np.zeros(3)})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "0 layers"),
        ({"difficulty": np.zeros(3)}, r"layer difficulty \(shape \(3,\)\); give one value for each of 2"),
        ({"difficulty": np.zeros((2, 1))}, r"shape \(2, 1\)"),
        ({"difficulty": np.array([0.0, -np.inf])}, "infinite values"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, np.ndarray], text: str) -> None:
    with pytest.raises(FormatError, match=text):
        paint(Addresses(lattice=LATTICE, rows=[0, 0], cols=[0, 1]), values)


def test_no_address_is_refused() -> None:
    with pytest.raises(FormatError, match="0 addresses"):
        paint(Addresses(lattice=LATTICE, rows=[], cols=[]), {"difficulty": np.zeros(0)})


def test_geobox_of_refuses_what_paint_would_not_make(raster: xr.DataArray) -> None:
    for wrong in (raster.isel(band=0), raster.astype(np.float64), raster.drop_vars(["spatial_ref", "band"])):
        with pytest.raises(FormatError, match="give float32"):
            geobox_of(wrong)
    with pytest.raises(FormatError, match="not north-up"):
        geobox_of(raster.isel(y=slice(None, None, -1)))


# --- COG


def test_cog_is_valid_and_complete(tmp_path: Path, raster: xr.DataArray) -> None:
    path = write_cog(raster, tmp_path / "difficulty.tif", **TEXTS, tags=TAGS)
    assert cog_validate(path, strict=True) == (True, [], [])
    assert names(tmp_path) == ["difficulty.tif"]
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(), raster.values)
        assert np.isnan(source.nodata)
        assert set(source.dtypes) == {"float32"}
        assert source.crs.to_epsg() == 32618
        assert source.descriptions == ("difficulty", "excess over complexity")
        assert source.units == ("ln loss", "ln loss")
        assert source.block_shapes == [(512, 512)] * 2
        structure = source.tags(ns="IMAGE_STRUCTURE")
        assert structure["COMPRESSION"] == "DEFLATE"
        assert structure["LAYOUT"] == "COG"
        assert structure["PREDICTOR"] == "3"
        assert source.tags() == TAGS | {"AREA_OR_POINT": "Area"}


def test_statistics_inside_the_file_are_those_of_numpy(tmp_path: Path, raster: xr.DataArray) -> None:
    path = write_cog(raster, tmp_path / "difficulty.tif", **TEXTS, tags={})
    with rasterio.open(path) as source:
        for i, layer in enumerate(raster.values.astype(np.float64)):
            tags = {name: float(value) for name, value in source.tags(i + 1).items()}
            assert tags == {
                "STATISTICS_MINIMUM": np.nanmin(layer),
                "STATISTICS_MAXIMUM": np.nanmax(layer),
                "STATISTICS_MEAN": pytest.approx(np.nanmean(layer), rel=1e-12),
                "STATISTICS_STDDEV": pytest.approx(np.nanstd(layer), rel=1e-12),
                "STATISTICS_VALID_PERCENT": pytest.approx(100 * (60 * 41 - 37) / (60 * 41)),
            }


def test_a_band_without_a_finite_cell_has_no_moments(tmp_path: Path) -> None:
    addresses, values = block(4, 4)
    values["excess"][:] = np.nan
    path = write_cog(paint(addresses, values), tmp_path / "difficulty.tif", **TEXTS, tags={})
    with rasterio.open(path) as source:
        assert source.tags(2) == {"STATISTICS_VALID_PERCENT": "0.0"}
    assert BandStatistics.of(np.full(3, np.nan)).mean is None


def test_same_input_gives_the_same_bytes(tmp_path: Path, raster: xr.DataArray) -> None:
    one = write_cog(raster, tmp_path / "one.tif", **TEXTS, tags=TAGS)
    other = write_cog(raster.copy(), tmp_path / "other.tif", **TEXTS, tags=dict(reversed(TAGS.items())))
    assert sha256(one) == sha256(other)


def test_threads_do_not_change_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster = paint(*block(600, 1100))
    digests = set()
    for threads in ("1", "4"):
        monkeypatch.setitem(geoelle.raster._COG, "NUM_THREADS", threads)
        digests.add(sha256(write_cog(raster, tmp_path / f"{threads}.tif", **TEXTS, tags=TAGS)))
    assert len(digests) == 1


def test_overviews_average_the_finite_cells_only(tmp_path: Path) -> None:
    rows, cols = np.divmod(np.arange(600 * 520), 520)
    values = np.full(len(rows), 1.0, dtype=np.float32)
    values[(rows % 2 == 0) & (cols % 2 == 0)] = np.nan  # a quarter missing, everywhere
    values[(rows < 2) & (cols < 2)] = np.nan
    raster = paint(Addresses(lattice=LATTICE, rows=rows, cols=cols), {"difficulty": values})
    path = write_cog(raster, tmp_path / "a.tif", descriptions=["difficulty"], units=[""], tags={})
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as source:
        assert source.overviews(1) == [2]
    with rasterio.open(path, overview_level=0) as source:
        level = source.read(1)
    assert level.shape == (300, 260)
    assert np.isnan(level[0, 0])
    assert np.nanmin(level) == np.nanmax(level) == 1.0
    assert np.isfinite(level).sum() == 300 * 260 - 1


def test_overviews_of_classes_hold_the_commonest_code(tmp_path: Path) -> None:
    """A float band beside is averaged as ever; of codes that are as common the highest is taken."""
    addresses, _ = block(600, 520)
    quads = [[1, 1, 1, 2], [0, 0, 3, 3], [np.nan, np.nan, np.nan, 2], [np.nan] * 4]
    row, col = addresses.rows - addresses.rows.min(), addresses.cols - addresses.cols.min()
    codes = np.array(quads)[(col // 2) % 4, 2 * (row % 2) + col % 2]
    raster = paint(addresses, {"difficulty": col.astype(float), "state": codes})
    texts = {"descriptions": ["difficulty", "state"], "units": ["ln", "1"], "tags": TAGS, "classes": ("state",)}
    path, store = write_cog(raster, tmp_path / "a.tif", **texts), write_zarr(raster, tmp_path / "a.zarr", **texts)
    assert cog_validate(path, quiet=True)[0]
    with rasterio.open(path) as file:
        assert file.overviews(1) == file.overviews(2) == [2] and file.tags()["GEOELLE_SPACE"] == "nano/abc"
        assert file.descriptions == ("difficulty", "state") and file.tags(2)["STATISTICS_MAXIMUM"] == "3.0"
        np.testing.assert_array_equal(file.read(), raster.values)
    with rasterio.open(path, overview_level=0) as file:
        means_yx, codes_yx = file.read()
    np.testing.assert_array_equal(codes_yx[7, :8], [1, 3, 2, np.nan] * 2)
    np.testing.assert_array_equal(means_yx[7, :3], [0.5, 2.5, 4.5])
    level = xr.open_zarr(store, group="1")
    np.testing.assert_array_equal(level["state"], codes_yx)
    np.testing.assert_array_equal(level["difficulty"], means_yx)
    assert write_cog(raster, tmp_path / "b.tif", **texts).read_bytes() == path.read_bytes()


def test_cog_is_not_overwritten_by_accident(tmp_path: Path, raster: xr.DataArray) -> None:
    path = write_cog(raster, tmp_path / "difficulty.tif", **TEXTS, tags={})
    before = sha256(path)
    with pytest.raises(GeoelleError, match="it exists"):
        write_cog(raster * 2, path, **TEXTS, tags={})
    assert sha256(path) == before
    write_cog(raster * np.float32(2), path, **TEXTS, tags={}, overwrite=True)
    assert sha256(path) != before


def test_a_stale_sidecar_does_not_outlive_the_file_it_described(tmp_path: Path, raster: xr.DataArray) -> None:
    (tmp_path / "difficulty.tif.aux.xml").write_text("<PAMDataset/>")
    write_cog(raster, tmp_path / "difficulty.tif", **TEXTS, tags={})
    assert names(tmp_path) == ["difficulty.tif"]


def test_a_disk_that_fills_up_leaves_the_old_cog(tmp_path: Path, raster: xr.DataArray) -> None:
    path = write_cog(raster, tmp_path / "difficulty.tif", **TEXTS, tags={})
    before = sha256(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the system cuts every write off there
    try:
        with pytest.raises(GeoelleError, match=r"writing failed for .*difficulty\.tif \(File too large\)"):
            write_cog(raster, path, **TEXTS, tags=TAGS, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sha256(path) == before
    assert names(tmp_path) == ["difficulty.tif"]


@pytest.mark.parametrize(
    "texts",
    [
        {"descriptions": ["difficulty"], "units": ["", ""]},
        {"descriptions": ["a", "b"], "units": "xy"},
    ],
)
def test_every_band_needs_its_texts(
    tmp_path: Path, raster: xr.DataArray, texts: dict[str, list[str]]
) -> None:
    with pytest.raises(FormatError, match="give one a band"):
        write_cog(raster, tmp_path / "a.tif", **texts, tags={})
    assert names(tmp_path) == []


# --- Zarr


def test_zarr_reopens_with_its_crs_and_units(tmp_path: Path, raster: xr.DataArray) -> None:
    path = write_zarr(raster, tmp_path / "difficulty.zarr", **TEXTS, tags=TAGS)
    with xr.open_zarr(path, group="0") as dataset:
        assert list(dataset) == ["difficulty", "excess"]
        for name in dataset:
            layer = dataset[name]
            np.testing.assert_array_equal(layer.values, raster.sel(band=name).values)
            assert layer.dims == ("y", "x")
            assert layer.rio.crs.to_epsg() == 32618
            assert list(layer.rio.transform())[:6] == list(geobox_of(raster).affine)[:6]
        assert dataset.rio.crs.to_epsg() == 32618
        assert dataset["excess"].attrs["long_name"] == "excess over complexity"
        assert dataset["excess"].attrs["units"] == "ln loss"
        assert dataset["x"].attrs["standard_name"] == "projection_x_coordinate"
    assert names(tmp_path) == ["difficulty.zarr"]


def test_zarr_is_version_3_unsharded_and_says_where_it_lies(tmp_path: Path, raster: xr.DataArray) -> None:
    path = write_zarr(raster, tmp_path / "difficulty.zarr", **TEXTS, tags=TAGS)
    root = json.loads((path / "zarr.json").read_text())
    array = json.loads((path / "0" / "difficulty" / "zarr.json").read_text())
    assert root["zarr_format"] == array["zarr_format"] == 3
    assert "sharding_indexed" not in [codec["name"] for codec in array["codecs"]]
    attributes = root["attributes"]
    assert attributes | TAGS == attributes
    assert attributes["proj:code"] == "EPSG:32618"
    assert attributes["spatial:bbox"] == list(geobox_of(raster).boundingbox.bbox)
    assert [c["name"] for c in attributes["zarr_conventions"]] == ["multiscales", "proj:", "spatial:"]
    assert [level["asset"] for level in attributes["multiscales"]["layout"]] == ["0"]


def test_zarr_levels_halve_and_stay_in_place(tmp_path: Path) -> None:
    raster = paint(*block(30, 1101, holes=500))
    path = write_zarr(raster, tmp_path / "difficulty.zarr", **TEXTS, tags={})
    layout = json.loads((path / "zarr.json").read_text())["attributes"]["multiscales"]["layout"]
    assert [level["spatial:shape"] for level in layout] == [[30, 1101], [15, 551], [8, 276]]
    assert [level.get("derived_from") for level in layout] == [None, "0", "1"]
    full = raster.sel(band="difficulty").values
    for i, level in enumerate(layout):
        with xr.open_zarr(path, group=str(i)) as dataset:
            transform = dataset["difficulty"].rio.transform()
            assert list(transform)[:6] == level["spatial:transform"]
            assert (transform.c, transform.f, transform.a) == (256080, 4199920, 160 * 2**i)
            corner = dataset["difficulty"].values[3, 5]
        if i == 1:
            assert corner == pytest.approx(np.nanmean(full[6:8, 10:12]), rel=1e-6)
            tail = xr.open_zarr(path, group="1")["difficulty"].values[3, 550]
            assert tail == pytest.approx(np.nanmean(full[6:8, 1100]), rel=1e-6)


def test_zarr_opens_without_a_warning(
    tmp_path: Path, raster: xr.DataArray, recwarn: pytest.WarningsRecorder
) -> None:
    path = write_zarr(raster, tmp_path / "difficulty.zarr", **TEXTS, tags={})
    xr.open_zarr(path, group="0").close()
    assert [str(w.message) for w in recwarn if issubclass(w.category, (UserWarning, RuntimeWarning))] == []


def test_zarr_bytes_repeat(tmp_path: Path, raster: xr.DataArray) -> None:
    one = write_zarr(raster, tmp_path / "one.zarr", **TEXTS, tags=TAGS)
    other = write_zarr(raster, tmp_path / "other.zarr", **TEXTS, tags=TAGS)
    digests = [
        {str(p.relative_to(store)): sha256(p) for p in store.rglob("*") if p.is_file()}
        for store in (one, other)
    ]
    assert digests[0] == digests[1]


def test_zarr_is_atomic(tmp_path: Path, raster: xr.DataArray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zarr(raster, tmp_path / "difficulty.zarr", **TEXTS, tags=TAGS)
    before = sha256(path / "zarr.json")
    with pytest.raises(GeoelleError, match="it exists"):
        write_zarr(raster, path, **TEXTS, tags={})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", refuse)
    with pytest.raises(GeoelleError, match="No space left on device"):
        write_zarr(raster, path, **TEXTS, tags={}, overwrite=True)
    assert sha256(path / "zarr.json") == before
    assert names(tmp_path) == ["difficulty.zarr"]


def test_a_band_may_not_be_called_like_a_coordinate(tmp_path: Path, raster: xr.DataArray) -> None:
    with pytest.raises(FormatError, match="band x has the name of a coordinate"):
        write_zarr(raster.assign_coords(band=["x", "excess"]), tmp_path / "a.zarr", **TEXTS, tags={})


def test_gdal_reads_the_zarr(tmp_path: Path, raster: xr.DataArray) -> None:
    if tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2]) < (3, 11):
        pytest.skip(
            f"GDAL {rasterio.__gdal_version__} does not know Zarr v3; pip install 'rasterio>=1.5' to run"
        )
    path = write_zarr(raster, tmp_path / "difficulty.zarr", **TEXTS, tags=TAGS)
    with rasterio.open(f'ZARR:"{path}":/0/difficulty') as source:
        np.testing.assert_array_equal(source.read(1), raster.sel(band="difficulty").values)
        assert source.crs.to_epsg() == 32618
        assert list(source.transform)[:6] == list(geobox_of(raster).affine)[:6]
