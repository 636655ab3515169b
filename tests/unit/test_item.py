import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import odc.stac
import pystac
import pytest
import shapely
import xarray as xr
from pystac.validation import validate_dict

from geoelle.errors import FormatError, GeoelleError
from geoelle.files import sha256
from geoelle.item import ItemFacts, OutputFile, SourceItem, strip_url, write_item
from geoelle.lattice import Addresses, Lattice
from geoelle.raster import paint, write_cog, write_zarr

LATTICE = Lattice(epsg=32618, gsd_m=10, size_px=32, stride_px=16)
FACTS = ItemFacts(
    id="difficulty-32618",
    start=datetime(2024, 6, 1, tzinfo=UTC),
    end=datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC),
    descriptions=("difficulty", "excess over complexity"),
    units=("ln loss", ""),
    properties={"geoelle:space": "nano/abc"},
)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@pytest.fixture
def raster() -> xr.DataArray:
    rows, cols = np.divmod(np.arange(30 * 20), 20)
    values = np.arange(600, dtype=np.float32)
    addresses = Addresses(lattice=LATTICE, rows=rows - 26250, cols=cols + 1600)
    return paint(addresses, {"difficulty": values, "excess": np.where(values > 299, np.nan, -values)})


@pytest.fixture
def files(tmp_path: Path, raster: xr.DataArray) -> list[OutputFile]:
    texts = {"descriptions": FACTS.descriptions, "units": FACTS.units, "tags": {}}
    cog = write_cog(raster, tmp_path / "difficulty.tif", **texts)
    store = write_zarr(raster, tmp_path / "difficulty.zarr", **texts)
    return [
        OutputFile(key="difficulty", path=cog, media_type=COG, roles=("data",), title="COG", is_raster=True),
        OutputFile(key="zarr", path=store, media_type="application/vnd+zarr", roles=("data",), title="Zarr"),
    ]


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://h/a/b.tif?sv=1&sig=s3cret", "https://h/a/b.tif"),
        ("https://me:pw@h:8443/a%20b.tif#frag", "https://h:8443/a%20b.tif"),
        ("s3://bucket/key/B02.jp2", "s3://bucket/key/B02.jp2"),
        ("https://h/a@b/c.json?", "https://h/a@b/c.json"),
        ("/data/catalog/item.json", "/data/catalog/item.json"),
        ("items/a.json", "items/a.json"),
    ],
)
def test_strip_url_drops_signatures_and_passwords(url: str, bare: str) -> None:
    assert strip_url(url) == bare


def test_item_is_valid_and_describes_the_files(
    tmp_path: Path, raster: xr.DataArray, files: list[OutputFile]
) -> None:
    path = write_item(tmp_path / "item.json", FACTS, raster, files=files, sources=[])
    record = json.loads(path.read_text())
    assert validate_dict(record, extensions=[]) == [
        "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
    ]
    properties = record["properties"]
    assert properties["proj:code"] == "EPSG:32618"
    assert properties["proj:shape"] == [30, 20]
    assert properties["proj:transform"] == [160, 0, 256080, 0, -160, 4199920]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "2024-06-01T00:00:00Z"
    assert properties["end_datetime"] == "2024-06-30T23:59:59Z"
    assert properties["geoelle:space"] == "nano/abc"
    cog, store = record["assets"]["difficulty"], record["assets"]["zarr"]
    assert (cog["href"], store["href"]) == ("./difficulty.tif", "./difficulty.zarr")
    assert cog["file:checksum"] == "1220" + sha256(tmp_path / "difficulty.tif")
    assert cog["file:size"] == (tmp_path / "difficulty.tif").stat().st_size
    assert "file:checksum" not in store
    difficulty, excess = cog["bands"]
    assert difficulty["statistics"]["maximum"] == 599
    assert (difficulty["name"], difficulty["unit"], "unit" in excess) == ("difficulty", "ln loss", False)
    assert excess["statistics"]["valid_percent"] == 50
    assert cog["nodata"] == "nan"
    assert {uri.split("/")[3] for uri in record["stac_extensions"]} == {"raster", "projection", "file"}


def test_footprint_is_the_raster_in_degrees(
    tmp_path: Path, raster: xr.DataArray, files: list[OutputFile]
) -> None:
    path = write_item(tmp_path / "item.json", FACTS, raster, files=files, sources=[])
    record = json.loads(path.read_text())
    footprint = shapely.geometry.shape(record["geometry"])
    assert footprint.exterior.is_ccw
    assert record["bbox"] == list(footprint.bounds)
    assert record["bbox"] == pytest.approx([-77.7747, 37.8702, -77.7358, 37.9152], abs=2e-3)
    edge = Addresses(lattice=LATTICE, rows=[-26250, -26221], cols=[1600, 1619]).lonlat_n2
    assert all(footprint.contains(shapely.Point(*corner)) for corner in edge)


def test_sources_are_linked_without_their_signatures(
    tmp_path: Path, raster: xr.DataArray, files: list[OutputFile]
) -> None:
    sources = [
        SourceItem(id="S2A_1", href="https://u:p@stac.test/collections/s2/items/S2A_1?token=s3cret"),
        SourceItem(id="S2B_2", href=str(tmp_path / "catalog" / "S2B_2.json")),
        SourceItem(id="S2C_3", href=None),
    ]
    path = write_item(tmp_path / "item.json", FACTS, raster, files=files, sources=sources)
    record = json.loads(path.read_text())
    assert [(link["rel"], link["title"], link["href"]) for link in record["links"]] == [
        ("derived_from", "S2A_1", "https://stac.test/collections/s2/items/S2A_1"),
        ("derived_from", "S2B_2", "catalog/S2B_2.json"),
    ]
    assert record["properties"]["geoelle:items"] == ["S2A_1", "S2B_2", "S2C_3"]
    assert "s3cret" not in path.read_text()
    assert str(tmp_path) not in path.read_text()


def test_a_stac_reader_loads_the_raster_through_the_item(
    tmp_path: Path, raster: xr.DataArray, files: list[OutputFile]
) -> None:
    path = write_item(tmp_path / "item.json", FACTS, raster, files=files, sources=[])
    loaded = odc.stac.load([pystac.Item.from_file(path)], bands=["difficulty"])
    np.testing.assert_array_equal(loaded["difficulty"].values[0], raster.sel(band="difficulty").values)
    assert loaded.odc.geobox == raster.odc.geobox


def test_one_moment_is_a_datetime(tmp_path: Path, raster: xr.DataArray, files: list[OutputFile]) -> None:
    moment = ItemFacts(id="x", start=FACTS.start, end=FACTS.start, descriptions=("a", "b"), units=("", ""))
    path = write_item(tmp_path / "item.json", moment, raster, files=files, sources=[])
    properties = json.loads(path.read_text())["properties"]
    assert properties["datetime"] == "2024-06-01T00:00:00Z"
    assert "start_datetime" not in properties


def test_item_repeats_byte_for_byte_and_is_not_overwritten(
    tmp_path: Path, raster: xr.DataArray, files: list[OutputFile]
) -> None:
    path = write_item(tmp_path / "item.json", FACTS, raster, files=files, sources=[])
    before = path.read_bytes()
    with pytest.raises(GeoelleError, match="it exists"):
        write_item(path, FACTS, raster, files=files, sources=[])
    write_item(path, FACTS, raster, files=files, sources=[], overwrite=True)
    assert path.read_bytes() == before


def test_files_must_exist_beside_the_item(
    tmp_path: Path, raster: xr.DataArray, files: list[OutputFile]
) -> None:
    (tmp_path / "deep").mkdir()
    with pytest.raises(FormatError, match=r"asset difficulty .* lies outside"):
        write_item(tmp_path / "deep" / "item.json", FACTS, raster, files=files, sources=[])
    (tmp_path / "difficulty.tif").unlink()
    with pytest.raises(FormatError, match=r"no file .*difficulty\.tif for asset difficulty"):
        write_item(tmp_path / "item.json", FACTS, raster, files=files, sources=[])
    assert not (tmp_path / "item.json").exists()
