"""Pairs out of every kind of file, and what is said of files that are not pairs."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from safetensors.torch import save_file

from geoelle.errors import FormatError, GeoelleError
from geoelle.pairs import PairColumns, read_pairs

COUNT, DIM = 60, 5
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(COUNT, DIM)).astype(np.float32)
LOSS = RNG.uniform(1, 2, COUNT)
SPEAKER = np.array([f"s{i % 6}" for i in range(COUNT)])
TOKENS = RNG.integers(5, 90, COUNT)
LON, LAT = RNG.uniform(4, 5, COUNT), RNG.uniform(52, 53, COUNT)


def lists(vectors: np.ndarray = VECTORS) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table({"embedding": lists(), "loss": LOSS} | columns), path)
    return path


@pytest.fixture(params=["parquet", "npz", "safetensors"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same pairs in each kind of file, with labels as whole numbers."""
    path, group = tmp_path / f"pairs.{request.param}", np.arange(COUNT) % 6
    if request.param == "parquet":
        return parquet(path, group=group, tokens=TOKENS)
    arrays = {"embedding": VECTORS, "loss": LOSS, "group": group, "tokens": TOKENS}
    if request.param == "npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


# --- what is read


def test_every_kind_of_file_gives_the_same(file: Path) -> None:
    pairs = read_pairs(file, PairColumns(group="group", features=("tokens",)))
    np.testing.assert_array_equal(pairs.vectors_nd, VECTORS)
    assert pairs.vectors_nd.dtype == np.float32
    np.testing.assert_array_equal(pairs.loss_n, LOSS)
    assert pairs.group_n.tolist() == [str(i % 6) for i in range(COUNT)]
    np.testing.assert_array_equal(pairs.features_nf, TOKENS[:, None])
    assert (pairs.feature_names, pairs.lonlat_n2, pairs.notes) == (("tokens",), None, ())


def test_coordinates_are_found_or_named(tmp_path: Path) -> None:
    places = np.stack([LON, LAT], 1)
    assert read_pairs(parquet(tmp_path / "a.parquet"), PairColumns()).lonlat_n2 is None
    found = read_pairs(parquet(tmp_path / "b.parquet", lon=LON, lat=LAT), PairColumns())
    named = read_pairs(parquet(tmp_path / "c.parquet", x=LON, y=LAT), PairColumns(lonlat=("x", "y")))
    np.savez(tmp_path / "d.npz", v=VECTORS, loss=LOSS, lon=LON, lat=LAT)
    frame = geopandas.GeoDataFrame({"loss": LOSS}, geometry=shapely.points(places), crs=4326)
    frame["embedding"] = list(VECTORS)
    frame.to_crs(32631).to_parquet(tmp_path / "e.parquet")
    for pairs in (found, named, read_pairs(tmp_path / "d.npz", PairColumns())):
        np.testing.assert_array_equal(pairs.lonlat_n2, places)
    np.testing.assert_allclose(read_pairs(tmp_path / "e.parquet", PairColumns()).lonlat_n2, places, atol=1e-8)


def test_labels_win_over_coordinates_that_nobody_named(tmp_path: Path) -> None:
    pairs = read_pairs(parquet(tmp_path / "a.parquet", lon=LON, lat=LAT, who=SPEAKER), PairColumns(group="who"))
    assert pairs.lonlat_n2 is None
    assert pairs.group_n.tolist() == SPEAKER.tolist()


def test_half_precision_is_read(tmp_path: Path) -> None:
    save_file({"x": torch.from_numpy(VECTORS).bfloat16(), "loss": torch.from_numpy(LOSS)}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", x=VECTORS.astype(np.float16), loss=LOSS.astype(np.float16))
    for name, tolerance in (("a.safetensors", 1e-2), ("b.npz", 1e-3)):
        pairs = read_pairs(tmp_path / name, PairColumns())
        np.testing.assert_allclose(pairs.vectors_nd, VECTORS, rtol=tolerance)
        assert (pairs.vectors_nd.dtype, pairs.loss_n.dtype) == (np.float32, np.float64)


def test_rows_that_lack_something_are_dropped_and_counted(tmp_path: Path) -> None:
    vectors, loss, tokens = VECTORS.copy(), LOSS.copy(), TOKENS.astype(float)
    vectors[3, 2], vectors[4, 0], loss[[5, 6]], tokens[7] = np.nan, np.inf, (np.nan, np.inf), np.nan
    who = [None if i == 8 else name for i, name in enumerate(SPEAKER)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"v": lists(vectors), "loss": loss, "who": who, "tokens": tokens}), path)
    pairs = read_pairs(path, PairColumns(group="who", features=("tokens",)))
    kept = [i for i in range(COUNT) if i not in range(3, 9)]
    np.testing.assert_array_equal(pairs.vectors_nd, VECTORS[kept])
    np.testing.assert_array_equal(pairs.loss_n, LOSS[kept])
    assert pairs.group_n.tolist() == SPEAKER[kept].tolist()
    assert pairs.notes == (
        "2 rows without loss are dropped", "1 rows without group are dropped", "1 rows without features are dropped",
        "2 rows with NaN or infinity in the vector are dropped",
    )  # fmt: skip


def test_of_many_rows_whole_groups_are_taken(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", who=SPEAKER, lon=LON, lat=LAT)
    by_group = read_pairs(path, PairColumns(group="who"), most=35)
    assert sorted(np.unique(by_group.group_n, return_counts=True)[1]) == [10, 10, 10]
    row_of = {tuple(v): i for i, v in enumerate(VECTORS)}
    rows = [row_of[tuple(v)] for v in by_group.vectors_nd]
    assert (SPEAKER[rows] == by_group.group_n).all() and (LOSS[rows] == by_group.loss_n).all()
    assert by_group.notes == ("30 of 60 rows are used, the most a fit takes, drawn at random as wholes",)
    by_block = read_pairs(path, PairColumns(), most=35, block_m=20_000)
    assert 0 < len(by_block.loss_n) <= 35
    single = read_pairs(path, PairColumns(group="loss"), most=35)
    assert len(single.loss_n) == 35


def test_only_what_was_chosen_is_kept_of_streamed_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of seven rows give the rows that one batch gives."""
    path = parquet(tmp_path / "a.parquet", who=SPEAKER)
    whole = read_pairs(path, PairColumns(group="who"), most=35)
    monkeypatch.setattr("geoelle.vectors.BATCH_ROWS", 7)
    np.testing.assert_array_equal(read_pairs(path, PairColumns(group="who"), most=35).vectors_nd, whole.vectors_nd)


# --- what is refused


def test_columns_that_are_not_there(file: Path) -> None:
    for columns, text in (
        (PairColumns(loss="perplexity"), r"has no column 'perplexity'; name one of .*loss"),
        (PairColumns(group="who"), "has no column 'who'"),
        (PairColumns(vectors="cls"), r"has no vectors 'cls' .*embedding.*--vector-column"),
        (PairColumns(vectors="loss"), "has no vectors 'loss'"),
        (PairColumns(loss="embedding"), "not one value a row"),
        (PairColumns(lonlat=("lon", "lat")), "has no column 'lon'"),
    ):
        with pytest.raises(FormatError, match=text):
            read_pairs(file, columns)


def test_several_vectors_have_to_be_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=VECTORS, two=2 * VECTORS, loss=LOSS)
    with pytest.raises(FormatError, match=r"does not say which column holds vectors .*one, two"):
        read_pairs(tmp_path / "a.npz", PairColumns())
    np.testing.assert_array_equal(read_pairs(tmp_path / "a.npz", PairColumns(vectors="two")).vectors_nd, 2 * VECTORS)


def test_unlike_lengths(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=VECTORS, loss=LOSS[:-1])
    with pytest.raises(FormatError, match=r"v of .* has 60 rows for 59 losses"):
        read_pairs(tmp_path / "a.npz", PairColumns())
    np.savez(tmp_path / "b.npz", v=VECTORS, loss=LOSS, who=SPEAKER[:5])
    with pytest.raises(FormatError, match=r"unlike length .*'loss': 60, 'group': 5"):
        read_pairs(tmp_path / "b.npz", PairColumns(group="who"))
    np.savez(tmp_path / "c.npz", v=VECTORS, loss=LOSS, lon=LON, lat=LAT[1:])
    with pytest.raises(FormatError, match=r"\[60, 59\] values"):
        read_pairs(tmp_path / "c.npz", PairColumns())
    ragged = pa.array([[1.0, 2.0], [3.0]])
    pq.write_table(pa.table({"v": ragged, "loss": [1.0, 2.0]}), tmp_path / "d.parquet")
    with pytest.raises(FormatError, match="lists of one length"):
        read_pairs(tmp_path / "d.parquet", PairColumns())


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("column", ["loss", "who"])
def test_pickle_inside_npz_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", **({"v": VECTORS, "loss": LOSS} | {column: np.array([_Bomb()] * COUNT, dtype=object)}))
    with pytest.raises(FormatError, match="Object arrays cannot be loaded"):
        read_pairs("a.npz", PairColumns(group="who" if column == "who" else None))
    assert not Path("exploded").exists()


def test_text_is_not_a_loss(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds .*, not numbers"):
        read_pairs(parquet(tmp_path / "a.parquet", who=SPEAKER), PairColumns(loss="who"))


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not what the name says")
    with pytest.raises(FormatError, match=r"pairs cannot be read from .*write it again"):
        read_pairs(tmp_path / name, PairColumns())


@pytest.mark.parametrize("at", [100, 700], ids=["header", "vectors"])
def test_a_damaged_npz(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, v=VECTORS, loss=LOSS)
    content = bytearray(path.read_bytes())
    content[at : at + 20] = b"\0" * 20
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.npz"):
        read_pairs(path, PairColumns())


def test_other_kinds_of_files(tmp_path: Path) -> None:
    (tmp_path / "pairs.pt").write_bytes(b"")
    with pytest.raises(FormatError, match=r"\.pt is none of \.parquet, \.npz, \.safetensors"):
        read_pairs(tmp_path / "pairs.pt", PairColumns())
    with pytest.raises(FormatError, match="no such file"):
        read_pairs(tmp_path / "absent.npz", PairColumns())
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(FormatError, match="none, among nothing"):
        read_pairs(tmp_path / "empty.npz", PairColumns())


def test_embeddings_of_geoelle_keep_their_space(tmp_path: Path) -> None:
    table = pa.table({"vector": lists(), "loss": LOSS}).replace_schema_metadata({b"geoelle": b"{}"})
    pq.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(FormatError, match="fit them without --pairs"):
        read_pairs(tmp_path / "part.parquet", PairColumns())


def test_places_that_are_not_degrees(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", lon=LON * 1e5, lat=LAT)
    with pytest.raises(GeoelleError, match="lon, lat in degrees"):
        read_pairs(path, PairColumns(), most=30)
