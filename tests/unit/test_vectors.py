"""`vectors_from`: vectors of somebody else, in their order, or an error that says what to name."""

import json

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
import zarr

from geoelle.errors import FormatError
from geoelle.vectors import BATCH_ROWS, parquet_files, vectors_from

VECTORS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LON, LAT = np.linspace(4, 5, 6), np.linspace(51, 52, 6)


def fixed(vectors: np.ndarray = VECTORS) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def lists(vectors: np.ndarray = VECTORS, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([None if row is None else list(row) for row in vectors], kind or pa.list_(pa.float64()))


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "column",
    [
        fixed(),
        lists(),
        lists(kind=pa.large_list(pa.float32())),
        pa.array([list(v) for v in VECTORS.astype(np.float16)], pa.list_(pa.float16())),
    ],
    ids=["fixed", "float64", "large", "float16"],
)
def test_a_foreign_table_needs_only_a_list_column(tmp_path, column):
    [batch] = vectors_from(write(tmp_path / "a.parquet", id=pa.array(range(6)), whatever=column))
    assert batch.vectors_nd.dtype == np.float32
    np.testing.assert_allclose(batch.vectors_nd, VECTORS, atol=2e-3)
    assert batch.lonlat_n2 is None
    assert batch.addresses is None


def test_places_and_addresses_come_along(tmp_path):
    path = write(
        tmp_path / "a.parquet", lat=LAT, vector=fixed(), lon=LON, address=[f"a{i}" for i in range(6)]
    )
    [batch] = vectors_from(path)
    assert np.array_equal(batch.lonlat_n2, np.stack([LON, LAT], axis=1))
    assert batch.addresses == [f"a{i}" for i in range(6)]


@pytest.mark.parametrize("epsg", [4326, 32631])
def test_places_come_from_a_geometry_in_any_crs(tmp_path, epsg):
    points = geopandas.GeoSeries(geopandas.points_from_xy(LON, LAT), crs=4326).to_crs(epsg)
    squares = geopandas.GeoSeries(shapely.buffer(points.to_numpy(), 1e-6), crs=epsg)
    frame = geopandas.GeoDataFrame({"embedding": list(VECTORS)}, geometry=squares)
    frame.to_parquet(tmp_path / "a.geoparquet")
    [batch] = vectors_from(tmp_path / "a.geoparquet")
    np.testing.assert_allclose(batch.lonlat_n2, np.stack([LON, LAT], axis=1), atol=1e-9)
    np.testing.assert_array_equal(batch.vectors_nd, VECTORS)


def test_a_missing_vector_is_nan(tmp_path):
    rows = [*VECTORS[:2], None, *VECTORS[3:]]
    for column in (lists(rows), lists(rows, pa.list_(pa.float32(), 4))):
        [batch] = vectors_from(write(tmp_path / "a.parquet", vector=column))
        assert np.isnan(batch.vectors_nd[2]).all()
        np.testing.assert_allclose(batch.vectors_nd[3:], VECTORS[3:])


def test_batches_are_bounded_and_in_order(tmp_path):
    count = BATCH_ROWS + 10
    values = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    path = write(
        tmp_path / "a.parquet", vector=fixed(values), lon=np.zeros(count), lat=np.arange(count) / count
    )
    batches = list(vectors_from(path))
    assert max(len(b.vectors_nd) for b in batches) <= BATCH_ROWS
    np.testing.assert_array_equal(np.concatenate([b.vectors_nd for b in batches]), values)
    np.testing.assert_array_equal(
        np.concatenate([b.lonlat_n2[:, 1] for b in batches]), np.arange(count) / count
    )


def test_a_directory_is_read_file_by_file(tmp_path):
    write(tmp_path / "b.parquet", vector=fixed(VECTORS[3:]))
    write(tmp_path / "a.parquet", vector=fixed(VECTORS[:3]))
    assert [p.name for p in parquet_files(tmp_path)] == ["a.parquet", "b.parquet"]
    together = np.concatenate([b.vectors_nd for b in vectors_from(tmp_path)])
    np.testing.assert_array_equal(together, VECTORS)
    write(tmp_path / "c.parquet", vector=fixed(VECTORS[:, :3]))
    with pytest.raises(FormatError, match=r"c.parquet have 3 numbers, others 4"):
        list(vectors_from(tmp_path))


def test_the_column_is_found_or_named(tmp_path):
    path = write(tmp_path / "a.parquet", one=fixed(), two=fixed(-VECTORS), whole=lists(np.ones((6, 2), int)))
    with pytest.raises(FormatError, match=r"float lists: one, two.*name one"):
        list(vectors_from(path))
    [batch] = vectors_from(path, "two")
    np.testing.assert_array_equal(batch.vectors_nd, -VECTORS)
    path = write(tmp_path / "b.parquet", other=fixed(), embedding=fixed(-VECTORS))
    [batch] = vectors_from(path)
    np.testing.assert_array_equal(batch.vectors_nd, -VECTORS)
    quantised = (VECTORS * 10).astype(np.int8)
    path = write(tmp_path / "c.parquet", q=pa.array(quantised.tolist(), pa.list_(pa.int8())), vector=fixed())
    [batch] = vectors_from(path, "q")
    np.testing.assert_array_equal(batch.vectors_nd, quantised)


@pytest.mark.parametrize(
    ("columns", "column", "says"),
    [
        ({"id": [1, 2]}, None, "float lists: none"),
        ({"id": [1, 2], "vector": [[1.0], [2.0]]}, "id", "no list column 'id'"),
        ({"id": [1, 2], "vector": [[1.0], [2.0]]}, "embedding", "name one of id, vector"),
        ({"vector": [["a"], ["b"]]}, "vector", "no list column"),
        ({"vector": [[1.0], [2.0, 3.0]]}, None, r"have \[1, 2\] numbers"),
        ({"vector": pa.array([None, None], pa.list_(pa.float32()))}, None, r"have \[\] numbers"),
    ],
)
def test_tables_without_vectors_are_refused_by_name(tmp_path, columns, column, says):
    path = write(tmp_path / "theirs.parquet", **columns)
    with pytest.raises(FormatError, match=says) as failure:
        list(vectors_from(path, column))
    assert "theirs.parquet" in str(failure.value)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(FormatError, match="no embeddings at"):
        list(vectors_from(tmp_path / "missing.parquet"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="cannot be read as Parquet"):
        list(vectors_from(tmp_path / "a.parquet"))
    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": "EPSG:0"}}}
    table = pa.table({"vector": fixed(), "geometry": shapely.to_wkb(shapely.points(LON, LAT))})
    pq.write_table(table.replace_schema_metadata({b"geo": json.dumps(geo)}), tmp_path / "b.parquet")
    with pytest.raises(FormatError, match="CRS that does not exist"):
        list(vectors_from(tmp_path / "b.parquet"))
    pq.write_table(table.replace_schema_metadata({b"geo": b"{"}), tmp_path / "c.parquet")
    with pytest.raises(FormatError, match=r"c\.parquet"):
        list(vectors_from(tmp_path / "c.parquet"))


GRID = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)  # y, x, d


def group(path, *, zarr_format: int = 3) -> zarr.Group:
    return zarr.create_group(path, zarr_format=zarr_format)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_table_is_read_in_order(tmp_path, zarr_format):
    root = group(tmp_path / "a.zarr", zarr_format=zarr_format)
    root.create_array("embeddings", data=VECTORS, chunks=(2, 4))
    root.create_array("lon", data=LON)
    root.create_array("lat", data=LAT)
    [batch] = vectors_from(tmp_path / "a.zarr")
    np.testing.assert_array_equal(batch.vectors_nd, VECTORS)
    np.testing.assert_array_equal(batch.lonlat_n2, np.stack([LON, LAT], axis=1))
    assert batch.addresses is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_zarr_grid_is_read_row_major_whatever_its_feature_axis(tmp_path, axis):
    names = ["y", "x"]
    names.insert(axis, "Band")
    data = np.ascontiguousarray(np.moveaxis(GRID, 2, axis))
    root = group(tmp_path / "a.zarr")
    root.create_array("anything", data=data, dimension_names=names)
    older = group(tmp_path / "b.zarr", zarr_format=2)
    older.create_array("anything", data=data, attributes={"_ARRAY_DIMENSIONS": names})
    for path in ("a.zarr", "b.zarr"):
        [batch] = vectors_from(tmp_path / path)
        np.testing.assert_array_equal(batch.vectors_nd, GRID.reshape(6, 4))
        assert batch.lonlat_n2 is None


def test_a_zarr_grid_says_where_it_is(tmp_path):
    root = group(tmp_path / "a.zarr")
    root.create_array("embeddings", data=GRID)
    x, y = np.array([600_000.0, 600_160.0]), np.array([5_650_400.0, 5_650_240.0, 5_650_080.0])
    root.create_array("x", data=x)
    root.create_array("y", data=y)
    spatial_ref = root.create_array("spatial_ref", data=np.int64(0))
    spatial_ref.attrs["crs_wkt"] = pyproj.CRS(32631).to_wkt()
    [batch] = vectors_from(tmp_path / "a.zarr")
    turn = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    expected = [turn.transform(east, north) for north in y for east in x]
    np.testing.assert_allclose(batch.lonlat_n2, expected)
    root.create_array("lon", data=np.array([4.0, 5.0]))
    root.create_array("lat", data=np.array([53.0, 52.0, 51.0]))
    [batch] = vectors_from(tmp_path / "a.zarr")
    assert batch.lonlat_n2.tolist() == [[4, 53], [5, 53], [4, 52], [5, 52], [4, 51], [5, 51]]


@pytest.mark.parametrize("shape", [(BATCH_ROWS + 5, 1), (3, BATCH_ROWS // 2 + 5, 1), (2, BATCH_ROWS + 5, 1)])
def test_zarr_batches_are_bounded_and_in_order(tmp_path, shape):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    group(tmp_path / "a.zarr").create_array("embeddings", data=data)
    batches = list(vectors_from(tmp_path / "a.zarr"))
    assert len(batches) > 1
    assert max(len(b.vectors_nd) for b in batches) <= BATCH_ROWS
    np.testing.assert_array_equal(np.concatenate([b.vectors_nd[:, 0] for b in batches]), data.ravel())


def test_a_bare_zarr_array_will_do(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=GRID)
    [batch] = vectors_from(tmp_path / "a.zarr")
    np.testing.assert_array_equal(batch.vectors_nd, GRID.reshape(6, 4))


def test_zarrs_without_vectors_are_refused_by_name(tmp_path):
    root = group(tmp_path / "a.zarr")
    with pytest.raises(FormatError, match=r"a\.zarr does not say which array holds vectors \(none\)"):
        list(vectors_from(tmp_path / "a.zarr"))
    root.create_array("one", data=GRID)
    root.create_array("count", data=np.ones((3, 2), np.int16))
    root.create_array("flat", data=np.ones(3, np.float32))
    [batch] = vectors_from(tmp_path / "a.zarr")
    assert batch.vectors_nd.shape == (6, 4)
    [batch] = vectors_from(tmp_path / "a.zarr", "count")
    assert batch.vectors_nd.shape == (3, 2)
    for column in ("flat", "missing"):
        with pytest.raises(FormatError, match="name a 2-D or 3-D one"):
            list(vectors_from(tmp_path / "a.zarr", column))
    root.create_array("two", data=GRID)
    with pytest.raises(FormatError, match=r"one \(3, 2, 4\) float32, two"):
        list(vectors_from(tmp_path / "a.zarr"))


def test_damaged_zarrs_are_refused_by_name(tmp_path):
    root = group(tmp_path / "a.zarr")
    root.create_array("embeddings", data=GRID, chunks=(3, 2, 4))
    chunk = tmp_path / "a.zarr" / "embeddings" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:9])
    with pytest.raises(FormatError, match=r"a\.zarr cannot be read as Zarr"):
        list(vectors_from(tmp_path / "a.zarr"))
    root.create_array("lon", data=LON[:5])
    root.create_array("lat", data=LAT)
    with pytest.raises(FormatError, match=r"a\.zarr cannot be read as Zarr"):
        list(vectors_from(tmp_path / "a.zarr"))
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(FormatError, match=r"a\.zarr cannot be read as Zarr"):
        list(vectors_from(tmp_path / "a.zarr"))
