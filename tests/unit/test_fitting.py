"""fit and score on vectors made of numbers: what is fitted, on which ground, and what is written where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import zarr

from geoelle.area import Addresses, Lattice
from geoelle.complexity import feature_names
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import FormatError, GeoelleError, HoldoutError, ProbeError, SpaceMismatch
from geoelle.fitting import FitJob, Fitted, block_metres, buffer_metres, fit_runs, plan_fit
from geoelle.held import Asked
from geoelle.models import model_card
from geoelle.probe import Probe
from geoelle.scoring import plan_score, score_file

SIDE, DIM = 20, 12
BANDS = ("red", "nir")
NAMES = feature_names(BANDS)
SPACE = {
    "model": "nano", "weights_sha256": "0" * 64, "bands": " ".join(BANDS), "pooling": "mean", "target": "loss:pixel",
    "masking": "some",
}  # fmt: skip
RNG = np.random.default_rng(5)
WEIGHTS = RNG.normal(size=DIM) / 4


def make_table(west_col: int = 1_880, seed: int = 0, space: dict[str, str] = SPACE) -> Embeddings:
    """Return 400 chips of 320 m whose log-loss is linear in the vector, but for a little noise."""
    rng = np.random.default_rng(seed)
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=32)
    rows, cols = (v.ravel() for v in np.mgrid[-15_625 : SIDE - 15_625, west_col : west_col + SIDE])
    count = SIDE * SIDE
    vectors = rng.normal(size=(count, DIM)).astype(np.float32)
    loss = np.exp(vectors @ WEIGHTS - 2 + 0.1 * rng.normal(size=count))
    return Embeddings(
        addresses=Addresses(lattice=lattice, rows=rows, cols=cols), vectors_nd=vectors, valid_n=np.ones(count, bool),
        valid_fraction_n=np.ones(count), times_n=np.full(count, "2024-06-01", "datetime64[s]"), items_n=["a"] * count,
        header=Header(space=space, sensor="sentinel-2-l2a", bands=BANDS, feature_names=NAMES),
        loss_n=loss, loss_sd_n=loss / 10, loss_rel_n2=np.stack([loss * 1.02, loss * 0.98], axis=1),
        features_nf=rng.normal(size=(count, len(NAMES))).astype(np.float32),
        twins={"twin0": rng.normal(size=(count, DIM)).astype(np.float32)},
    )  # fmt: skip


def make_run(path: Path, *tables: Embeddings, finished: bool = True) -> Path:
    (path / "embeddings").mkdir(parents=True)
    for number, table in enumerate(tables):
        table.write(path / "embeddings" / f"part-{number}.parquet")
    (path / "plan.json").write_text("{}")
    if finished:
        (path / "run.json").write_text("{}")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = make_table()
    vectors = table.vectors_nd.copy()
    vectors[7] = np.nan
    return make_run(tmp_path_factory.mktemp("runs") / "run", replace(table, vectors_nd=vectors))


@pytest.fixture(scope="module")
def fitted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    out = tmp_path_factory.mktemp("fit") / "probe.safetensors"
    return fit_runs([run], FitJob(block_m=1_600, folds=3), out=out)


@pytest.fixture
def probe(fitted: Fitted) -> Path:
    return fitted.files[0]


# --- fit


def test_a_linear_loss_is_found_on_ground_held_out(fitted: Fitted) -> None:
    table = fitted.scores.table()
    assert table.rows[0].metrics.r.value > 0.95 and table.row("untrained twins").metrics.r.value < 0.3
    np.testing.assert_allclose(fitted.probe.embedding.weights_d, WEIGHTS, atol=0.05)
    assert fitted.probe.embedding.intercept == pytest.approx(-2, abs=0.1)
    # the vectors of the twin are noise here, and its map says so
    assert fitted.probe.twin.weights_d.shape == (DIM,) and np.abs(fitted.probe.twin.weights_d).max() < 0.2
    assert table.n_chips == SIDE * SIDE - 1 and any("twins where 3 are wanted" in note for note in fitted.scores.notes)


def test_the_probe_says_where_it_comes_from(fitted: Fitted) -> None:
    probe, card = Probe.load(fitted.files[0]), model_card("nano")
    assert probe.space == SPACE and probe.scale == "log" and probe.feature_names == NAMES
    assert probe.data == {"unit": card.unit, "runs": ["run"], "chips": SIDE * SIDE - 1}
    assert probe.folds["block_m"] == 1_600 and probe.folds["n"] == 3 and "buffer_m=452.5" in probe.folds["kind"]
    assert probe.licence == card.weights_licence and probe.scores == json.loads(json.dumps(fitted.scores.to_dict()))
    assert probe.versions.keys() == {"geoelle", "scikit-learn"}


def test_the_probe_tells_how_far_to_trust_it(fitted: Fitted, run: Path) -> None:
    probe, trust = Probe.load(fitted.files[0]), fitted.trust
    assert probe.trust == fitted.probe.trust and probe.spread.alpha == 0.1 and probe.reach is not None
    assert probe.smearing == pytest.approx(np.exp(0.1**2 / 2), abs=0.01)
    assert trust.coverage.measured.places.value > 0.9 and trust.noise.widening > 0
    page = fitted.files[2].read_text("utf-8")
    for line in trust.lines:
        assert line in fitted.table and line.replace("'", "&#39;") in page
    assert fitted.to_dict()["trust"]["level"] == pytest.approx(0.9)


def test_a_level_is_chosen_and_needs_its_blocks(run: Path, tmp_path: Path) -> None:
    chosen = fit_runs([run], FitJob(block_m=1_600, folds=3, interval=0.8), out=tmp_path / "a.safetensors")
    assert chosen.probe.spread.alpha == pytest.approx(0.2) and chosen.trust.coverage.level == pytest.approx(0.8)
    few = fit_runs([run], FitJob(block_m=3_200, folds=2), out=tmp_path / "b.safetensors")
    assert few.probe.spread is None and few.probe.reach is not None
    (note,) = few.trust.notes
    assert "no intervals" in note and note in few.table and note in few.files[2].read_text("utf-8")
    assert note in Probe.load(few.files[0]).trust["notes"]
    with pytest.raises(HoldoutError, match=r"an interval of level 0\.9 fails for \d blocks or places \(10 needed\)"):
        fit_runs([run], FitJob(block_m=3_200, folds=2, interval=0.9), out=tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_three_files_stand_beside_each_other(fitted: Fitted) -> None:
    home = fitted.files[0].parent
    assert [path.name for path in fitted.files] == ["probe.safetensors", "probe.json", "probe.html"]
    assert sorted(path.name for path in home.iterdir()) == sorted(path.name for path in fitted.files)
    plain = json.loads(fitted.files[1].read_text())
    assert plain["weights"] == fitted.probe.embedding.weights_d.tolist()
    page = fitted.files[2].read_text("utf-8")
    assert "untrained twins" in page and "sentinel-2-l2a" in page
    assert "untrained twins" in fitted.table
    json.dumps(fitted.to_dict(), allow_nan=False)


def test_a_dry_run_counts_what_the_fit_takes(run: Path, fitted: Fitted) -> None:
    facts = plan_fit([run], FitJob(block_m=1_600, folds=3))
    assert (facts["chips"], facts["usable"], facts["twins"], facts["model"]) == (400, 399, 1, "nano")
    assert facts["blocks"] == fitted.scores.table().n_places
    assert len(facts["folds"]) == 3 and sum(fold["test"] for fold in facts["folds"]) == 399
    assert all(fold["train"] + fold["test"] < 399 for fold in facts["folds"])  # the buffer takes some


def test_runs_of_several_places_are_fitted_together(run: Path, tmp_path: Path) -> None:
    far = make_run(tmp_path / "far", make_table(west_col=2_100, seed=1))
    facts = plan_fit([run, far], FitJob(block_m=1_600, folds=3))
    assert facts["usable"] == 799 and facts["blocks"] > plan_fit([run], FitJob(block_m=1_600, folds=3))["blocks"]


@pytest.mark.parametrize("taken", ["mine.safetensors", "mine.json", "mine.html"])
def test_no_file_is_replaced_without_being_asked(run: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    with pytest.raises(GeoelleError, match=f"writing refused for .*{taken}"):
        fit_runs([run], FitJob(block_m=1_600, folds=3), out=tmp_path / "mine.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [taken] and (tmp_path / taken).read_text() == "precious"


@pytest.mark.parametrize("name", ["probe", "probe.json", "probe.html", "probe.bin"])
def test_a_probe_is_called_safetensors(run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ProbeError, match=rf"cannot be called {name}; give it a name that ends in .safetensors"):
        fit_runs([run], FitJob(block_m=1_600, folds=3), out=tmp_path / name)
    assert not list(tmp_path.iterdir())


def without_loss(table: Embeddings) -> Embeddings:
    return replace(table, loss_n=None, loss_sd_n=None, loss_rel_n2=None)


def with_nothing_valid(table: Embeddings) -> Embeddings:
    return replace(table, vectors_nd=np.full_like(table.vectors_nd, np.nan))


def with_losses_of_zero(table: Embeddings) -> Embeddings:
    return replace(table, loss_n=np.zeros(len(table)))


def of_another_space(table: Embeddings) -> Embeddings:
    return replace(table, header=replace(table.header, space={**SPACE, "weights_sha256": "1"}))


@pytest.mark.parametrize(
    ("make", "kind", "told"),
    [
        (without_loss, ProbeError, "have no loss"),
        (with_nothing_valid, HoldoutError, "too few blocks"),
        (with_losses_of_zero, ProbeError, "log-loss fails for 400 of 400"),
    ],
)
def test_what_cannot_be_fitted(tmp_path: Path, make: Callable, kind: type[Exception], told: str) -> None:
    broken = make_run(tmp_path / "run", make(make_table()))
    with pytest.raises(kind, match=told) as caught:
        fit_runs([broken], FitJob(block_m=1_600, folds=3), out=tmp_path / "p.safetensors")
    assert "\n" not in str(caught.value) and not (tmp_path / "p.safetensors").exists()


def test_runs_of_two_spaces_are_not_mixed(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", of_another_space(make_table()))
    with pytest.raises(SpaceMismatch, match=r"two spaces \(weights_sha256"):
        plan_fit([run, other], FitJob(block_m=1_600, folds=3))


def test_too_few_blocks_and_missing_or_unfinished_runs(run: Path, tmp_path: Path) -> None:
    with pytest.raises(HoldoutError, match="too few blocks of 100000 m to hold out"):
        plan_fit([run], FitJob(block_m=100_000, folds=3))
    with pytest.raises(FormatError, match=r"no embeddings at .*nowhere"):
        plan_fit([tmp_path / "nowhere"], FitJob(block_m=1_600, folds=3))
    half = make_run(tmp_path / "half", make_table(), finished=False)
    with pytest.raises(FormatError, match="half is not finished; give its command again first"):
        plan_fit([run, half], FitJob(block_m=1_600, folds=3))


@pytest.mark.parametrize(
    ("text", "metres"), [("10km", 10_000), ("2500 m", 2_500), (" 0.5km ", 500), ("1.5 km", 1_500), ("160m", 160)]
)
def test_blocks_are_given_with_their_unit(text: str, metres: float) -> None:
    assert block_metres(text) == metres


@pytest.mark.parametrize("text", ["10", "km", "-1km", "10 miles", "1e3m", "", "10kmm"])
def test_a_length_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ProbeError, match="is not a length; give 10km or 2500m"):
        block_metres(text)


# --- score


def expected(probe: Path, vectors: np.ndarray) -> np.ndarray:
    linear = Probe.load(probe).embedding
    return np.exp(vectors.astype(np.float64) @ linear.weights_d + linear.intercept)


def test_a_run_is_scored_row_by_row(run: Path, probe: Path, tmp_path: Path) -> None:
    summary = score_file(run, probe, tmp_path / "s.parquet")
    table = Embeddings.read(run)
    scored = geopandas.read_parquet(tmp_path / "s.parquet")
    assert scored["address"].tolist() == table.addresses.strings()
    np.testing.assert_allclose(scored["difficulty"], expected(probe, table.vectors_nd), rtol=1e-5)
    np.testing.assert_allclose(shapely.get_coordinates(scored.geometry), table.addresses.lonlat_n2)
    assert scored["difficulty"].isna().sum() == 1 and scored.crs.equals("EPSG:4326", ignore_axis_order=True)
    low, high = np.nanpercentile(scored["difficulty"], (5, 95))
    assert summary["rows"] == 400 and summary["valid"] == 399 and summary["space_checked"] is True
    assert (summary["p5"], summary["p95"]) == pytest.approx((low, high), rel=1e-5)


VECTORS = np.random.default_rng(9).normal(size=(50, DIM)).astype(np.float32)
LON, LAT = np.linspace(4, 5, 50), np.linspace(50, 51, 50)


def by_pandas(path: Path) -> None:
    pd.DataFrame({"id": range(50), "embedding": list(VECTORS), "lon": LON, "lat": LAT}).to_parquet(path)


def by_geopandas(path: Path) -> None:
    places = geopandas.points_from_xy(LON, LAT, crs=4326).to_crs(32631)
    geopandas.GeoDataFrame({"vector": list(VECTORS)}, geometry=places).to_parquet(path)


def by_zarr3(path: Path) -> None:
    group = zarr.open_group(path, mode="w")
    for name, values in {"embedding": VECTORS, "lon": LON, "lat": LAT}.items():
        group.create_array(name, data=values)


def by_zarr2(path: Path) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, values in {"embedding": VECTORS, "lon": LON, "lat": LAT}.items():
        group.create_array(name, data=values)


@pytest.mark.parametrize("make", [by_pandas, by_geopandas, by_zarr3, by_zarr2])
def test_tables_of_others_are_scored_with_their_places(make: Callable, probe: Path, tmp_path: Path) -> None:
    source = tmp_path / ("v.zarr" if "zarr" in make.__name__ else "v.parquet")
    make(source)
    facts = plan_score(source, probe)
    assert (facts["dim"], facts["space_checked"], facts["has_places"]) == (DIM, False, True)
    summary = score_file(source, probe, tmp_path / "s.parquet")
    assert summary["rows"] == summary["valid"] == 50 and summary["space_checked"] is False
    scored = geopandas.read_parquet(tmp_path / "s.parquet")
    np.testing.assert_allclose(scored["difficulty"], expected(probe, VECTORS), rtol=1e-5)
    np.testing.assert_allclose(shapely.get_coordinates(scored.geometry), np.stack([LON, LAT], axis=1), atol=1e-7)


def test_without_places_the_table_is_plain_parquet(probe: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": list(VECTORS)}), tmp_path / "v.parquet")
    score_file(tmp_path / "v.parquet", probe, tmp_path / "s.parquet")
    assert pq.read_schema(tmp_path / "s.parquet").names == ["difficulty"]
    assert not plan_score(tmp_path / "v.parquet", probe)["has_places"]


def test_vectors_without_a_number_are_null_and_the_summary_is_json(probe: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": list(VECTORS * np.nan)}), tmp_path / "v.parquet")
    summary = score_file(tmp_path / "v.parquet", probe, tmp_path / "s.parquet")
    assert json.loads(json.dumps(summary, allow_nan=False)) == {
        "out": str(tmp_path / "s.parquet"), "rows": 50, "valid": 0, "space_checked": False, "p5": None, "p95": None,
    }  # fmt: skip
    assert pq.read_table(tmp_path / "s.parquet")["difficulty"].null_count == 50


def test_a_column_is_chosen_by_name(probe: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(VECTORS), "b": list(VECTORS * 2)}), tmp_path / "v.parquet")
    with pytest.raises(FormatError, match="does not say which column"):
        score_file(tmp_path / "v.parquet", probe, tmp_path / "s.parquet")
    score_file(tmp_path / "v.parquet", probe, tmp_path / "s.parquet", column="b")
    scored = pq.read_table(tmp_path / "s.parquet")["difficulty"].to_numpy()
    np.testing.assert_allclose(scored, expected(probe, VECTORS * 2), rtol=1e-5)


def test_every_file_of_a_table_must_be_of_the_probes_space(probe: Path, tmp_path: Path) -> None:
    mixed = make_run(tmp_path / "mixed", make_table(), of_another_space(make_table(west_col=3_000)))
    for ask in (lambda: score_file(mixed, probe, tmp_path / "s.parquet"), lambda: plan_score(mixed, probe)):
        with pytest.raises(SpaceMismatch, match="weights_sha256"):
            ask()
    renamed = shutil.copy(mixed / "embeddings" / "part-1.parquet", tmp_path / "part.geoparquet")
    with pytest.raises(SpaceMismatch, match="weights_sha256"):
        score_file(Path(renamed), probe, tmp_path / "s.parquet")
    assert not (tmp_path / "s.parquet").exists()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2_000] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut": (cut_short, "cannot be read as Parquet"),
    "flipped": (flip_a_bit, "cannot be read as Parquet"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as Parquet"),
    "text": (lambda path: path.write_text("dear"), "cannot be read as Parquet"),
    "gone": (Path.unlink, "no embeddings at"),
    "no rows": (lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path), "holds no vectors"),
    "other length": (lambda path: pq.write_table(pa.table({"v": [[1.0, 2.0]]}), path), f"takes {DIM} inputs"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_table_leaves_nothing_behind(probe: Path, tmp_path: Path, name: str) -> None:
    make_table().write(tmp_path / "v.parquet")
    damage, told = DAMAGE[name]
    damage(tmp_path / "v.parquet")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(GeoelleError, match=told) as caught:
        score_file(tmp_path / "v.parquet", probe, tmp_path / "s.parquet")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_scores_do_not_replace_what_is_there(run: Path, probe: Path, tmp_path: Path) -> None:
    by_pandas(tmp_path / "v.parquet")
    with pytest.raises(GeoelleError, match="writing refused"):
        score_file(run, probe, tmp_path / "v.parquet")
    with pytest.raises(FormatError, match="cannot take the place of the vectors"):
        score_file(tmp_path / "v.parquet", probe, tmp_path / "v.parquet", overwrite=True)
    assert len(pd.read_parquet(tmp_path / "v.parquet")) == 50
    assert score_file(run, probe, tmp_path / "v.parquet", overwrite=True)["rows"] == 400
    half = make_run(tmp_path / "half", make_table(), finished=False)
    with pytest.raises(FormatError, match="half is not finished"):
        score_file(half, probe, tmp_path / "s.parquet")


# --- what a fit holds out


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three places, 35 km from one another, each with a day and a scene of its own."""
    home, runs = tmp_path_factory.mktemp("places"), []
    for number in range(3):
        table = make_table(west_col=1_880 + 110 * number, seed=number)[::3]
        day = np.full(len(table), f"2024-06-0{number + 1}", "datetime64[s]")
        table = replace(table, times_n=day, items_n=[f"scene-{number}"] * len(table))
        runs.append(make_run(home / f"place-{number}", table))
    return runs


@pytest.mark.parametrize("kind", ["place", "scene", "date"])
def test_a_plan_holds_out_every_label_in_turn(three_runs: list[Path], kind: str) -> None:
    facts = plan_fit(three_runs, FitJob(block_m=1_600, holdout=Asked(kind=kind)))
    assert facts["folds"] == [{"train": 268, "test": 134}] * 3 and facts["holdout"] == f"every {kind} in turn, 3"
    with pytest.raises(HoldoutError, match=f"too few {kind}s to hold out"):
        plan_fit(three_runs[:1] * 3, FitJob(block_m=1_600, holdout=Asked(kind=kind)))


def test_runs_of_one_sensor_have_no_source_to_hold_out(three_runs: list[Path]) -> None:
    with pytest.raises(HoldoutError, match=r"too few sources to hold out \(1, 3 needed\)"):
        plan_fit(three_runs, FitJob(block_m=1_600, holdout=Asked(kind="source")))


def test_every_sensor_in_turn_is_a_source(three_runs: list[Path], tmp_path: Path) -> None:
    runs = []
    for number, run in enumerate(three_runs):
        table = Embeddings.read(run)
        table = replace(table, header=replace(table.header, sensor=f"sensor-{number}"))
        runs.append(make_run(tmp_path / f"run-{number}", table))
    facts = plan_fit(runs, FitJob(block_m=1_600, holdout=Asked(kind="source")))
    assert facts["holdout"] == "every source in turn, 3" and len(facts["folds"]) == 3


def test_places_in_turn_are_fitted_and_told(three_runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    fitted = fit_runs(three_runs, FitJob(block_m=1_600, holdout=Asked(kind="place")), out=out)
    assert fitted.scores.table().n_places == 3 and fitted.scores.table().rows[0].metrics.r.value > 0.9
    assert fitted.probe.folds["holdout"] == "place" and fitted.probe.folds["n"] == 3
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "every place in turn, 3" in page and "folds of blocks" not in page and "Distances" not in page


def test_an_area_to_be_mapped_decides_the_folds(three_runs: list[Path], tmp_path: Path) -> None:
    out, area = tmp_path / "p.safetensors", "2.9,44,4.3,46"
    holdout = Asked(domain=area)
    fitted = fit_runs(three_runs, FitJob(block_m=1_600, folds=3, holdout=holdout), out=out)
    folds = fitted.probe.folds
    assert folds["for"] == area and folds["holdout"] == "knndm" and folds["w_m"] > 0 and "KNNDM(" in folds["kind"]
    json.dumps(dict(folds), allow_nan=False)
    assert "kNNDM folds are" in fitted.scores.notes[0]
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "Distances" in page and "Folds" in page and "kNNDM folds are" in page
    planned = plan_fit(three_runs, FitJob(block_m=1_600, folds=3, holdout=holdout))
    assert planned["notes"] == list(fitted.scores.notes[:2])


def test_blocks_measure_their_buffer_and_say_so(fitted: Fitted) -> None:
    assert any(note.startswith("buffer of 0.453 km: the residuals are not alike") for note in fitted.scores.notes)
    assert fitted.probe.folds["buffer_m"] == pytest.approx(452.5, abs=0.1) and fitted.probe.folds["holdout"] == "block"
    assert "Chips by the fold that tests them" in fitted.files[2].read_text("utf-8")


def test_a_buffer_is_auto_or_a_length() -> None:
    assert buffer_metres("auto") is None and buffer_metres("2km") == 2_000
    with pytest.raises(ProbeError, match="buffer 'wide' is not a length"):
        buffer_metres("wide")
