"""Codes become a raster of classes that anybody can open: colours inside, overviews that are codes too."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from rio_cogeo.cogeo import cog_validate

from geoelle.class_raster import write_class_cog
from geoelle.errors import FormatError, GeoelleError
from geoelle.lattice import Addresses, Lattice
from geoelle.raster import paint
from geoelle.style import CLASS_NODATA, Classes

SIDE = 600
LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
CLASSES = Classes(label="what it is", names=("no", "maybe", "yes"), colours=("#000000", "#ff8000", "#ffffff"))


@pytest.fixture
def raster() -> xr.DataArray:
    rows, cols = np.divmod(np.arange(SIDE * SIDE), SIDE)
    codes = np.where(cols < 200, 0.0, np.where(cols < 400, 1.0, 2.0))
    codes[rows < 50] = np.nan
    return paint(Addresses(lattice=LATTICE, rows=rows, cols=cols), {"kind": codes})


def test_a_cog_of_codes_has_colours_names_and_overviews_of_codes(raster: xr.DataArray, tmp_path: Path) -> None:
    path = write_class_cog(raster, tmp_path / "a.tif", band="kind", classes=CLASSES, tags={"GEOELLE_X": "1"})
    assert cog_validate(path, quiet=True)[0] and [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    with rasterio.open(path) as file:
        assert (file.dtypes, file.nodata, file.descriptions) == (("uint8",), CLASS_NODATA, ("what it is",))
        assert [file.colormap(1)[code][:3] for code in range(3)] == [(0, 0, 0), (255, 128, 0), (255, 255, 255)]
        assert file.tags()["GEOELLE_CLASSES"] == "0 no, 1 maybe, 2 yes" and file.tags()["GEOELLE_X"] == "1"
        np.testing.assert_array_equal(file.read(1), np.nan_to_num(raster.values[0], nan=255))
        assert file.overviews(1) == [2]
    with rasterio.open(path, overview_level=0) as file:
        assert set(np.unique(file.read(1))) == {0, 1, 2, 255}
    again = write_class_cog(raster, tmp_path / "b.tif", band="kind", classes=CLASSES, tags={"GEOELLE_X": "1"})
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(GeoelleError, match="exists"):
        write_class_cog(raster, path, band="kind", classes=CLASSES, tags={})


@pytest.mark.parametrize("wrong", [3.0, -1.0, 0.5])
def test_a_value_that_is_no_code_is_refused(raster: xr.DataArray, tmp_path: Path, wrong: float) -> None:
    raster.values[0, 100, 100] = wrong
    with pytest.raises(FormatError, match="which is no code of 3 classes"):
        write_class_cog(raster, tmp_path / "a.tif", band="kind", classes=CLASSES, tags={})
    assert not (tmp_path / "a.tif").exists()


def test_each_class_has_a_colour() -> None:
    with pytest.raises(FormatError, match="2 classes and 1 colours"):
        Classes(label="kind", names=("a", "b"), colours=("#000000",))
