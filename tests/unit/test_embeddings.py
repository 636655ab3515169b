"""`Embeddings`: what is written comes back, whole and equal, and nothing foreign or damaged passes for it."""

import dataclasses
import json
import os

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geoelle.area import Addresses, Lattice
from geoelle.embeddings import Embeddings, Header, vectors_from
from geoelle.errors import AreaError, FormatError, GeoelleError, InputMismatch, SpaceMismatch

SPACE = {
    "model": "nano",
    "weights_sha256": "ab" * 32,
    "pooling": "mean",
    "target": "log-loss",
    "masking": {"draws": 4, "ratio": 0.75},
}
FULL = {"loss_n", "loss_sd_n", "loss_rel_n2", "features_nf", "twins"}


def header(**change) -> Header:
    given = {
        "space": SPACE,
        "sensor": "sentinel-2-l2a",
        "bands": ("blue", "red"),
        "feature_names": ("variance", "slope"),
        "versions": {"geoelle": "0.1.0"},
    }
    return Header(**{**given, **change})


def table(count: int = 5, *, epsg: int = 32631, first: int = 0, head: Header | None = None) -> Embeddings:
    rng = np.random.default_rng(first)
    lattice = Lattice(epsg=epsg, gsd_m=10, size_px=32, stride_px=16)
    rows, cols = np.arange(first, first + count) - 35_000, np.arange(count) % 3 + 3_000
    times = np.full(count, "2024-06-01T10:30:05", "datetime64[s]") + np.arange(count)
    loss = rng.random(count)
    valid = np.arange(count) != 1
    loss[~valid] = np.nan
    return Embeddings(
        addresses=Addresses(lattice=lattice, rows=rows, cols=cols),
        vectors_nd=rng.normal(size=(count, 7)).astype(np.float32),
        valid_n=valid,
        valid_fraction_n=np.where(valid, 1.0, 0.25),
        times_n=times,
        items_n=[f"S2A_{i};S2B_{i}" for i in range(count)],
        header=head or header(),
        loss_n=loss,
        loss_sd_n=loss / 10,
        loss_rel_n2=np.stack([loss * 0.9, loss * 1.1], axis=1),
        features_nf=rng.random((count, 2)).astype(np.float32),
        twins={"twin1": rng.random((count, 3)).astype(np.float32), "twin0": np.zeros((count, 4), np.float32)},
    )


def bare(full: Embeddings) -> Embeddings:
    """Return the table with nothing that is optional."""
    empty = {name: None for name in FULL - {"twins"}}
    plain = dataclasses.replace(full.header, feature_names=())
    return dataclasses.replace(full, **empty, twins={}, header=plain)


def assert_equal(one: Embeddings, other: Embeddings) -> None:
    assert one.header == other.header
    assert one.addresses.strings() == other.addresses.strings()
    assert one.items_n == other.items_n
    assert list(one.twins) == list(other.twins)
    names = [f.name for f in dataclasses.fields(Embeddings) if f.name.rpartition("_")[2].startswith("n")]
    pairs = [(getattr(one, name), getattr(other, name)) for name in names if name != "items_n"]
    for mine, theirs in [*pairs, *zip(one.twins.values(), other.twins.values(), strict=True)]:
        if mine is None:
            assert theirs is None
            continue
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_a_file_gives_back_what_was_written(tmp_path):
    for number, given in enumerate((table(), bare(table()), table()[:0], bare(table())[:0], table(1)[[0]])):
        path = given.write(tmp_path / f"{number}.parquet")
        assert_equal(Embeddings.read(path), given)
        assert_equal(Embeddings.read(str(path)), given)


def test_missing_times_and_losses_come_back_missing(tmp_path):
    given = table()
    given.times_n[2] = np.datetime64("NaT")
    found = Embeddings.read(given.write(tmp_path / "a.parquet"))
    assert_equal(found, given)
    assert np.isnat(found.times_n[2])
    assert np.isnan(found.loss_n).tolist() == [False, True, False, False, False]
    assert pq.read_table(tmp_path / "a.parquet")["loss"].null_count == 1


def test_equal_tables_give_equal_bytes_and_an_older_file_is_replaced_whole(tmp_path):
    first, second = table().write(tmp_path / "a.parquet"), table().write(tmp_path / "b.parquet")
    assert first.read_bytes() == second.read_bytes()
    table(first=9).write(second)
    assert first.read_bytes() != second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_refused_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = table().write(tmp_path / "a.parquet")
    before = path.read_bytes()

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(GeoelleError, match="No space left"):
        table(first=9).write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_geopandas_opens_the_file_with_its_footprints(tmp_path):
    given = table()
    frame = geopandas.read_parquet(given.write(tmp_path / "a.parquet"))
    assert frame.crs.to_epsg() == 4326
    assert frame.address.tolist() == given.addresses.strings()
    assert np.array_equal(np.stack(frame.vector), given.vectors_nd)
    centres = np.stack([frame.lon, frame.lat], axis=1)
    np.testing.assert_allclose(centres, given.addresses.lonlat_n2)
    for outline, one in zip(frame.geometry, given.addresses, strict=True):
        assert outline.equals_exact(one.footprint)
    assert str(frame.time.dtype.tz) == "UTC"
    geo = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx(frame.total_bounds.tolist())


def test_columns_are_the_documented_ones(tmp_path):
    schema = pq.read_schema(table().write(tmp_path / "a.parquet"))
    assert schema.names == [
        *("address", "row", "col", "lon", "lat", "time", "items", "valid", "valid_fraction"),
        *("loss", "loss_sd", "loss_a", "loss_b", "vector", "features", "twin0", "twin1", "geometry"),
    ]
    assert schema.field("vector").type == pa.list_(pa.float32(), 7)
    kept = json.loads(schema.metadata[b"geoelle"])
    assert kept["format_version"] == 1
    assert kept["lattice"] == {"epsg": 32631, "gsd_m": 10.0, "size_px": 32, "stride_px": 16}
    assert kept["space"] == SPACE


def test_a_run_and_a_list_are_read_in_order(tmp_path):
    (tmp_path / "run" / "embeddings").mkdir(parents=True)
    pieces = [table(first=0), table(first=50, count=2), table(first=20)]
    paths = [p.write(tmp_path / f"run/embeddings/part-{i:05}.parquet") for i, p in enumerate(pieces)]
    (tmp_path / "run" / "embeddings" / ".part-00009.parquet.x.tmp").write_bytes(b"half")
    whole = pieces[0].concat(*pieces[1:])
    assert_equal(Embeddings.read(tmp_path / "run"), whole)
    assert_equal(Embeddings.read(paths), whole)
    assert Embeddings.read(paths[::-1]).addresses.rows[0] == 20 - 35_000


def test_lattices_are_kept_apart(tmp_path):
    paths = [
        table(epsg=epsg, first=first).write(tmp_path / f"{first}.parquet")
        for first, epsg in ((0, 32631), (10, 32632), (20, 32631))
    ]
    tables = Embeddings.read_each(paths)
    assert [(t.addresses.lattice.epsg, len(t)) for t in tables] == [(32631, 10), (32632, 5)]
    with pytest.raises(FormatError, match="2 lattices"):
        Embeddings.read(paths)
    with pytest.raises(AreaError, match="two lattices"):
        tables[0].concat(tables[1])


def test_lattices_side_by_side_are_of_one_space(tmp_path):
    other = table(epsg=32632, head=header(space={**SPACE, "model": "clay"}))
    paths = [table().write(tmp_path / "a.parquet"), other.write(tmp_path / "b.parquet")]
    with pytest.raises(SpaceMismatch, match="'nano' and 'clay'"):
        Embeddings.read_each(paths)


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="no embeddings at"):
        Embeddings.read(tmp_path / "missing.parquet")
    with pytest.raises(FormatError, match="no embeddings at"):
        Embeddings.read(tmp_path)
    with pytest.raises(FormatError, match="empty list"):
        Embeddings.read([])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"space": {**SPACE, "pooling": "cls"}}, "pooling: 'mean' and 'cls'"),
        ({"space": {**SPACE, "weights_sha256": "cd" * 32}}, "weights_sha256"),
        ({"sensor": "landsat-c2-l2"}, "sensor"),
        ({"bands": ("red", "blue")}, "bands"),
        ({"feature_names": ("slope", "variance")}, "feature_names"),
    ],
)
def test_concat_refuses_mixed_headers(tmp_path, change, says):
    mine, other = table(), table(first=9, head=header(**change))
    with pytest.raises(SpaceMismatch, match=says):
        mine.concat(other)
    paths = [mine.write(tmp_path / "a.parquet"), other.write(tmp_path / "b.parquet")]
    with pytest.raises(SpaceMismatch, match=says):
        Embeddings.read(paths)


def test_concat_refuses_other_columns():
    mine = table()
    with pytest.raises(SpaceMismatch, match="loss_n"):
        mine.concat(dataclasses.replace(mine, loss_n=None))
    with pytest.raises(SpaceMismatch, match="twin1"):
        mine.concat(dataclasses.replace(mine, twins={"twin0": mine.twins["twin0"]}))
    with pytest.raises(SpaceMismatch, match="vectors_nd"):
        mine.concat(dataclasses.replace(mine, vectors_nd=mine.vectors_nd[:, :3]))


def test_versions_may_differ_and_are_listed():
    head = header(versions={"geoelle": "0.2.0", "torch": "2.5"})
    both = table().concat(table(first=9, head=head), table(first=19))
    assert both.header.versions == {"geoelle": "0.1.0, 0.2.0", "torch": "2.5"}
    assert both.header.space_id == header().space_id


def test_the_space_id_depends_on_the_space_and_on_nothing_else():
    backwards = dict(reversed(SPACE.items()))
    assert header(space=backwards, sensor="naip", versions={}).space_id == header().space_id
    assert header(space={**SPACE, "target": "loss"}).space_id != header().space_id
    assert len(header().space_id) == 12
    assert int(header().space_id, 16)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({}, "lacks model, weights_sha256"),
        ({**SPACE, "masking": float("nan")}, "not JSON"),
        ({**SPACE, "masking": {1, 2}}, "not JSON"),
    ],
)
def test_a_space_is_json_data_with_its_keys(space, says):
    with pytest.raises(InputMismatch, match=says):
        header(space=space)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vectors_nd": np.zeros((4, 7), np.float32)}, "vectors_nd of 5 embeddings"),
        ({"vectors_nd": np.zeros((7, 5), np.float32)}, "vectors_nd"),
        ({"vectors_nd": np.zeros((5, 0), np.float32)}, "vectors_nd"),
        ({"vectors_nd": np.zeros(5, np.float32)}, "vectors_nd"),
        ({"valid_n": np.ones(5)}, "valid_n"),
        ({"times_n": np.arange(5)}, "times_n"),
        ({"items_n": ["a"]}, "items"),
        ({"items_n": [["a"]] * 5}, "items"),
        ({"loss_n": np.zeros((5, 1))}, "loss_n"),
        ({"loss_rel_n2": np.zeros((2, 5))}, "loss_rel_n2"),
        ({"features_nf": np.zeros((5, 3), np.float32)}, "features of embeddings are 3"),
        ({"features_nf": None}, "features of embeddings are 0"),
        ({"twins": {"first": np.zeros((5, 3), np.float32)}}, "twin0"),
        ({"twins": {"twin0": np.zeros((3, 5), np.float32)}}, "twin0"),
    ],
)
def test_parts_that_disagree_are_refused_by_name(change, says):
    with pytest.raises(InputMismatch, match=says):
        dataclasses.replace(table(), **change)


def test_slices_masks_and_lists_take_every_part(tmp_path):
    given = table()
    for key, rows in ((slice(2, None), [2, 3, 4]), (given.valid_n, [0, 2, 3, 4]), ([3, 0], [3, 0])):
        some = given[key]
        assert some.items_n == [given.items_n[i] for i in rows]
        assert some.addresses.strings() == [given.addresses.strings()[i] for i in rows]
        np.testing.assert_array_equal(some.twins["twin1"], given.twins["twin1"][rows])
        np.testing.assert_array_equal(some.loss_rel_n2, given.loss_rel_n2[rows])
        assert_equal(Embeddings.read(some.write(tmp_path / "a.parquet")), some)
    with pytest.raises(InputMismatch, match="one by one"):
        given[2]


def rewritten(path: object, change: object) -> None:
    old = pq.read_table(path)
    pq.write_table(change(old), path)


def with_header(old: pa.Table, **change: object) -> pa.Table:
    content = {**json.loads(old.schema.metadata[b"geoelle"]), **change}
    kept = {key: value for key, value in content.items() if value is not None}
    return old.replace_schema_metadata({**old.schema.metadata, b"geoelle": json.dumps(kept)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.replace_schema_metadata({}), "no `geoelle` metadata"),
        (lambda t: t.replace_schema_metadata({b"geoelle": b"{"}), "damaged"),
        (lambda t: t.replace_schema_metadata({b"geoelle": b"[]"}), "damaged"),
        (lambda t: with_header(t, lattice=None), "damaged.*lattice"),
        (lambda t: with_header(t, sensor=None), "damaged.*sensor"),
        (lambda t: with_header(t, surplus=1), "damaged.*surplus"),
        (lambda t: with_header(t, space={"model": "nano"}), "lacks weights_sha256"),
        (lambda t: with_header(t, format_version=2), "format version 2, not 1"),
        (lambda t: with_header(t, feature_names=[]), "features"),
        (
            lambda t: with_header(t, lattice={"epsg": 4326, "gsd_m": 10, "size_px": 32, "stride_px": 16}),
            "metres",
        ),
        (
            lambda t: with_header(t, lattice={"epsg": 32632, "gsd_m": 10, "size_px": 32, "stride_px": 16}),
            "addresses",
        ),
        (lambda t: t.drop_columns(["vector", "row"]), "lacks the columns row, vector"),
        (lambda t: t.set_column(2, "row", t["row"].cast(pa.int32())), "lacks the columns col"),
        (lambda t: t.set_column(1, "row", t["row"].cast(pa.int32())), "column row of .* is int32, not int64"),
        (lambda t: t.set_column(1, "row", pc_shift(t["row"])), "addresses of .* are not those"),
        (lambda t: t.set_column(13, "vector", t["row"]), "column vector of .* is int64"),
        (lambda t: t.set_column(7, "valid", pa.array([True, None, True, True, True])), "valid_n"),
    ],
)
def test_what_is_not_a_geoelle_file_is_refused_by_name(tmp_path, change, says):
    path = table().write(tmp_path / "part-00000.parquet")
    rewritten(path, change)
    with pytest.raises(FormatError, match=says) as failure:
        Embeddings.read(path)
    assert "part-00000.parquet" in str(failure.value)


def pc_shift(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([value + 1 for value in column.to_pylist()])


def test_damaged_bytes_are_never_data(tmp_path):
    path = table(300).write(tmp_path / "a.parquet")
    whole = path.read_bytes()
    expected, [streamed] = Embeddings.read(path), vectors_from(path)
    cases = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"address,vector\n"}
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in np.linspace(4, footer - 1, 60).astype(int):
        cases[f"flip {place}"] = whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :]
    refused = 0
    for content in cases.values():
        path.write_bytes(content)
        try:
            [batch] = vectors_from(path)
            np.testing.assert_array_equal(batch.vectors_nd, streamed.vectors_nd)
            np.testing.assert_array_equal(batch.lonlat_n2, streamed.lonlat_n2)
            assert_equal(Embeddings.read(path), expected)
        except FormatError as failure:
            assert "a.parquet" in str(failure)
            refused += 1
    assert refused > 40


def test_own_files_can_be_scored_as_vectors(tmp_path):
    given = table()
    [batch] = vectors_from(given.write(tmp_path / "a.parquet"))
    assert batch.addresses == given.addresses.strings()
    np.testing.assert_array_equal(batch.lonlat_n2, given.addresses.lonlat_n2)
    np.testing.assert_array_equal(batch.vectors_nd[given.valid_n], given.vectors_nd[given.valid_n])
    assert np.isnan(batch.vectors_nd[~given.valid_n]).all()
