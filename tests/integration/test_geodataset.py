"""A torchgeo GeoDataset as a source of chips, against the catalog's reader on the same files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from geoelle.embed import embed_chips
from geoelle.errors import InputMismatch
from geoelle.geodataset import addresses_of, chips_of
from geoelle.models import load_model

datasets = pytest.importorskip("torchgeo.datasets")
BANDS = ("blue", "green", "red", "nir")
SIDE = 96


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two dated scenes side by side whose pixels are all different, and a gap in the second."""
    for n, name in enumerate(("scene_20160701.tif", "scene_20160703.tif")):
        pixels = np.arange(4 * SIDE * SIDE, dtype=np.float64).reshape(4, SIDE, SIDE) % 9_000 + 1 + 50 * n
        if n:
            pixels[:, :8, -8:] = 0
        place = from_origin(500_160 + n * SIDE * 10, 4_000_320, 10, 10)
        profile = dict(driver="GTiff", width=SIDE, height=SIDE, count=4, dtype="float32", crs="EPSG:32618", nodata=0)
        with rasterio.open(tmp_path / name, "w", transform=place, **profile) as file:
            file.write(pixels.astype("float32"))
    return tmp_path


class Scenes(datasets.RasterDataset):
    filename_glob = "scene_*.tif"
    filename_regex = r"scene_(?P<date>\d{8})"


def chips(folder: Path, **more: object) -> list:
    dataset = Scenes(folder)
    return list(chips_of(dataset, addresses_of(dataset, 32, 16), BANDS, scale=1e-4, nodata=0, **more))


def test_every_pixel_is_the_files(folder: Path) -> None:
    (batch, *rest) = chips(folder, batch=1000)
    assert not rest and len(batch) == 11 * 5
    with rasterio.open(folder / "scene_20160701.tif") as first, rasterio.open(folder / "scene_20160703.tif") as second:
        both = np.concatenate([first.read(), second.read()], axis=2)
        left, top = first.bounds.left, first.bounds.top
    for i, address in enumerate(batch.addresses):
        box = address.geobox.boundingbox
        x, y = round((box.left - left) / 10), round((top - box.top) / 10)
        wanted = both[:, y : y + 32, x : x + 32]
        np.testing.assert_allclose(batch.pixels_btcyx[i, 0], np.where(wanted == 0, np.nan, wanted * 1e-4), rtol=1e-6)


def test_times_and_items_are_those_of_the_files(folder: Path) -> None:
    (batch,) = chips(folder, batch=1000)
    alone = [i for i, names in enumerate(batch.items) if len(names) == 1]
    dates = {batch.items[i][0]: str(batch.times_bt[i, 0])[:10] for i in alone}
    assert dates == {"scene_20160701.tif": "2016-07-01", "scene_20160703.tif": "2016-07-03"}
    both = next(i for i, names in enumerate(batch.items) if len(names) == 2)
    assert str(batch.times_bt[both, 0])[:10] == "2016-07-02"


def test_chips_feed_a_model(folder: Path) -> None:
    found = [embed_chips(some, load_model("nano")) for some in chips(folder, batch=20, sensor="sentinel-2-l1c")]
    table = found[0].concat(*found[1:])
    assert len(table) == 55 and np.isfinite(table.vectors_nd).all() and table.header.sensor == "sentinel-2-l1c"


def test_where_the_dataset_has_nothing_is_nan(folder: Path) -> None:
    dataset = Scenes(folder)
    inside = addresses_of(dataset, 32, 16)
    moved = type(inside)(lattice=inside.lattice, rows=inside.rows[:1] - 50, cols=inside.cols[:1])
    (empty,) = chips_of(dataset, moved, BANDS)
    assert np.isnan(empty.pixels_btcyx).all() and np.isnat(empty.times_bt).all() and empty.items == ((),)


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    dataset = Scenes(folder)
    inside = addresses_of(dataset, 32, 16)
    with pytest.raises(InputMismatch, match="bands"):
        next(chips_of(dataset, inside, ("red",)))
    with pytest.raises(InputMismatch, match="no whole chip"):
        addresses_of(dataset, 256, 256)
    with pytest.raises(InputMismatch, match="make them agree"):
        coarse = replace(inside.lattice, gsd_m=20)
        other = type(inside)(lattice=coarse, rows=[0], cols=[0])
        next(chips_of(dataset, other, BANDS))
    with pytest.raises(InputMismatch, match="CRS in metres"):
        addresses_of(Scenes(folder, crs=rasterio.CRS.from_epsg(4326)), 32, 16)
