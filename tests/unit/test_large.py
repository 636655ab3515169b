"""Runs with more chips than are scored: a probe of all of them, scores of whole blocks, memory of one part."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geoelle import fitting, large
from geoelle.area import Addresses, Lattice
from geoelle.complexity import feature_names
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import FormatError, HoldoutError, ProbeError, SpaceMismatch
from geoelle.fitting import FitJob, Fitted, fit_runs, plan_fit
from geoelle.held import Asked, Held, Stand, holdout_for, with_measured_buffer
from geoelle.holdout import PlaceKFold, SpatialKFold, blocks_of
from geoelle.probe import Probe
from geoelle.ridge import RidgeProbeCV
from geoelle.sample import Sample

SIDE, DIM, MOST = 24, 6, 300
BANDS = ("red", "nir")
NAMES = feature_names(BANDS)
SPACE = {
    "model": "nano", "weights_sha256": "0" * 64, "bands": " ".join(BANDS), "pooling": "mean", "target": "loss:pixel",
    "masking": "some",
}  # fmt: skip
WEIGHTS = np.random.default_rng(5).normal(size=DIM) / 4
HOLES = {"vectors_nd": 3, "loss_n": 100, "features_nf": 200, "twin0": 401}
JOB = FitJob(block_m=1_600, folds=3, holdout=Asked(buffer_m=500))


def make_table(seed: int = 0, epsg: int = 32631, stride_px: int = 32, sensor: str = "sentinel-2-l2a") -> Embeddings:
    """Return 576 chips whose log-loss is linear in the vector; of four rows, each has a NaN in another column."""
    rng = np.random.default_rng(seed)
    lattice = Lattice(epsg=epsg, gsd_m=10, size_px=32, stride_px=stride_px)
    rows, cols = (v.ravel() for v in np.mgrid[-15_625 : SIDE - 15_625, 1_880 : 1_880 + SIDE])
    count = SIDE * SIDE
    vectors, features = rng.normal(size=(count, DIM)), rng.normal(size=(count, len(NAMES)))
    twin, loss = rng.normal(size=(count, DIM)), np.exp(vectors @ WEIGHTS - 2 + 0.3 * rng.normal(size=count))
    halves = np.stack([loss * 1.02, loss * 0.98], axis=1)
    for name, array in {"vectors_nd": vectors, "loss_n": loss, "features_nf": features, "twin0": twin}.items():
        array[HOLES[name]] = np.nan
    return Embeddings(
        addresses=Addresses(lattice=lattice, rows=rows, cols=cols), vectors_nd=vectors.astype(np.float32),
        valid_n=np.ones(count, bool), valid_fraction_n=np.ones(count),
        times_n=np.full(count, "2024-06-01", "datetime64[s]"), items_n=["a", "b"] * (count // 2),
        header=Header(space=SPACE, sensor=sensor, bands=BANDS, feature_names=NAMES), loss_n=loss,
        loss_sd_n=loss / 10, loss_rel_n2=halves, features_nf=features.astype(np.float32),
        twins={"twin0": twin.astype(np.float32)},
    )  # fmt: skip


def make_run(path: Path, *tables: Embeddings, parts: int = 5, folder: str = "embeddings") -> Path:
    """Write tables part by part, those of two lattices in turn."""
    (path / folder).mkdir(parents=True)
    for number in range(parts):
        for which, table in enumerate(tables):
            rows = np.array_split(np.arange(len(table)), parts)[number]
            table[rows].write(path / folder / f"part-{number}-{which}.parquet")
    (path / "plan.json").write_text("{}")
    (path / "run.json").write_text("{}")
    return path


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "MOST_CHIPS", MOST)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of two lattices."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", make_table(), make_table(1, epsg=32632))


@pytest.fixture(scope="module")
def fitted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(large, "MOST_CHIPS", MOST)
        return fit_runs([run], JOB, out=tmp_path_factory.mktemp("fit") / "probe.safetensors")


def whole(*runs: Path) -> Sample:
    sample = Sample.of([table for each in runs for table in Embeddings.read_each(each)])
    return sample.at(sample.usable_n)


def assert_fitted_on(probe: Probe, sample: Sample, cv: SpatialKFold) -> None:
    for part, inputs in ((probe.embedding, sample.vectors_nd), (probe.pixels, sample.features_nf)):
        wanted = RidgeProbeCV(cv=cv).fit(inputs, np.log(sample.loss_n), sample.lonlat_n2)
        assert part.alpha == wanted.alpha_
        np.testing.assert_allclose(part.weights_d, wanted.coef_, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(part.intercept, wanted.intercept_, rtol=1e-8)
        np.testing.assert_allclose(part.mean_d, wanted.mean_, rtol=1e-8, atol=1e-12)


def test_the_probe_is_that_of_all_chips_in_memory(run: Path, fitted: Fitted) -> None:
    sample = whole(run)
    assert fitted.probe.data["chips"] == len(sample.loss_n) == 2 * (SIDE * SIDE - len(HOLES))
    assert_fitted_on(Probe.load(fitted.files[0]), sample, SpatialKFold(3, block_m=1_600, buffer_m=500))
    assert fitted.probe.feature_names == NAMES and fitted.probe.space == SPACE


def test_scores_are_of_whole_blocks_and_say_so(run: Path, fitted: Fitted) -> None:
    found = large.large_runs({"run": run}, 1_600)
    block_n, drawn = blocks_of(found.stand(0).lonlat_n2, 1_600), int(found.drawn_n.sum())
    assert MOST - np.bincount(block_n).max() < drawn <= MOST
    assert not set(block_n[found.drawn_n]) & set(block_n[~found.drawn_n])
    note = (
        f"scores, nulls and intervals are of {drawn} of 1,144 chips, whole blocks drawn by lot; the probe is fitted on "
        "all"
    )
    assert note in fitted.scores.notes and note in fitted.files[2].read_text("utf-8")
    table = fitted.scores.table()
    assert table.n_chips == drawn and table.n_places == len(set(block_n[found.drawn_n]))
    assert len(fitted.trust.residual_n) == drawn and fitted.trust.probe.spread is not None


def test_what_is_drawn_stands_where_it_is_said_to(run: Path) -> None:
    found = large.large_runs({"run": run}, 1_600)
    sample, ground, drawn = whole(run), found.stand(500), Sample.of([table for _, table in found.drawn()])
    np.testing.assert_array_equal(found.loss_n, sample.loss_n)  # the order of read_each
    for have, want in ((ground.lonlat_n2, sample.lonlat_n2), (ground.times_n, sample.times_n)):
        np.testing.assert_array_equal(have, want)
    assert ground.scene_n[:4].tolist() == ["a", "b", "a", "a"]  # row 3 has a NaN
    assert set(ground.place_n) == {"run"} and set(ground.source_n) == {"sentinel-2-l2a"}
    np.testing.assert_array_equal(drawn.vectors_nd, sample.vectors_nd[found.drawn_n])
    for name, column in (("vector", sample.vectors_nd), ("features", sample.features_nf)):
        batches = list(found.batches(name, sample.loss_n)())
        assert len(batches) == 10  # a part each
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), column)
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), sample.loss_n)


def test_the_draw_does_not_depend_on_the_order_of_runs(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", make_table(2, epsg=32633))
    drawn = []
    for sources in ({"a": run, "b": other}, {"b": other, "a": run}):
        found = large.large_runs(sources, 1_600)
        drawn.append({tuple(place) for place in found.stand(0).lonlat_n2[found.drawn_n].round(9)})
    assert drawn[0] == drawn[1] and len(drawn[0]) > MOST / 2


def test_runs_of_several_lattices_and_columns(run: Path, tmp_path: Path) -> None:
    """A twin that one run lacks is no twin, and its NaN drops no row: as for runs that fit in memory."""
    other = make_run(tmp_path / "other", replace(make_table(2, epsg=32633), twins={}))
    found, sample = large.large_runs({"run": run, "other": other}, 1_600), whole(run, other)
    assert len(found.drawn_n) == len(sample.loss_n) == 3 * (SIDE * SIDE - 3) and found.rows == 3 * SIDE * SIDE
    held = holdout_for(JOB.holdout, found.stand(500), block_m=1_600, folds=3)
    probe = large.fit_large(found, held, space=SPACE, scale="log")
    assert_fitted_on(probe, sample, SpatialKFold(3, block_m=1_600, buffer_m=500))


def test_whole_places_are_held_out_of_all_chips(run: Path, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), make_table(seed, epsg=32630 + seed)) for seed in range(1, 4)]
    fitted = fit_runs(runs, replace(JOB, holdout=Asked(kind="place")), out=tmp_path / "p.safetensors")
    sample, place_n = whole(*runs), np.repeat(["a", "b", "c"], SIDE * SIDE - len(HOLES))
    wanted = RidgeProbeCV(cv=PlaceKFold(3)).fit(sample.vectors_nd, np.log(sample.loss_n), place_n)
    np.testing.assert_allclose(fitted.probe.embedding.weights_d, wanted.coef_, rtol=1e-8)
    assert fitted.scores.table().n_places == 3


def test_a_plan_counts_all_chips(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = plan_fit([run], JOB)
    (note,) = facts.pop("notes")
    assert "of 1,144 chips" in note
    monkeypatch.setattr(large, "MOST_CHIPS", 40_000)
    in_memory = plan_fit([run], JOB)
    assert in_memory.pop("notes") == [] and facts == in_memory
    assert facts["chips"] == 2 * SIDE * SIDE and facts["usable"] == 1_144 and facts["twins"] == 1


@pytest.mark.parametrize("most", [1_144, 1_152])
def test_runs_that_are_small_enough_are_read_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """1,144 of 1,152 rows are usable: neither is more than may be scored."""
    monkeypatch.setattr(large, "MOST_CHIPS", most)
    assert large.large_runs({"run": run}, 1_600) is None
    monkeypatch.setattr(large, "MOST_CHIPS", 1_143)
    assert large.large_runs({"run": run}, 1_600) is not None


def test_patches_are_drawn_and_fitted_alike(run: Path, tmp_path: Path) -> None:
    tables = Embeddings.read_each(run)
    within = np.zeros((SIDE * SIDE, 2), np.int16)
    tables = [replace(table, within_n2=within) for table in tables]
    dense = make_run(tmp_path / "dense", *tables, folder="patches")
    job = replace(JOB, dense=True, holdout=Asked())
    fitted = fit_runs([dense], job, out=tmp_path / "p.safetensors")
    assert any(note.startswith("buffer of 0.849 km") for note in fitted.scores.notes)
    assert fitted.probe.data["patches"] == 1_144 and "chips" not in fitted.probe.data
    assert any("of 1,144 patches, whole blocks" in note for note in fitted.scores.notes)
    np.testing.assert_allclose(fitted.probe.embedding.weights_d, WEIGHTS, atol=0.1)


def test_the_measured_buffer_leaves_enough_of_all_the_ground() -> None:
    """A sample with gaps has room for a buffer that the ground it was drawn from has not."""
    x, y = (v.ravel() for v in np.mgrid[0:24, 0:24] * 0.003)
    lonlat = np.stack([x, y], axis=1)
    drawn = large._drawn_n(blocks_of(lonlat, 1_600))

    def stand(rows: np.ndarray) -> Stand:
        label = np.full(int(rows.sum()), "a")
        time = np.full(len(label), "2024-06-01", "datetime64[s]")
        return Stand(lonlat_n2=lonlat[rows], place_n=label, source_n=label, scene_n=label, times_n=time, chip_m=100)

    sample, ground = stand(drawn), stand(np.ones(len(x), bool))
    held = holdout_for(Asked(), sample, block_m=1_600, folds=3)
    smooth = np.sin(sample.lonlat_n2 @ [250, 0]) + np.cos(sample.lonlat_n2 @ [0, 250])
    alone, both = (with_measured_buffer(held, sample, smooth, each) for each in (None, ground))
    assert held.buffer_m < both.buffer_m < alone.buffer_m
    for train, test in SpatialKFold(3, block_m=1_600, buffer_m=both.buffer_m).split(lonlat, groups=lonlat):
        assert 2 * len(train) >= len(lonlat) - len(test)


def test_the_probe_is_held_out_with_the_measured_buffer(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Caught(Exception):
        pass

    def caught(found: large.Large, held: Held, **_: object) -> Probe:
        raise Caught(held.cv.buffer_m, len(held.groups))

    monkeypatch.setattr(fitting, "fit_large", caught)
    job = replace(JOB, holdout=Asked())
    rows = fitting._prepared([run], job)
    with pytest.raises(Caught) as found:
        fitting._fitted(rows, replace(fitting._held(job, rows), buffer_m=731.0), job)
    assert found.value.args == (731.0, 1_144)


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (lambda t: replace(t, loss_n=None, loss_sd_n=None, loss_rel_n2=None), ProbeError, "have no loss"),
        (lambda t: replace(t, loss_n=t.loss_n * 0), ProbeError, "log-loss fails for"),
        (lambda t: replace(t, header=replace(t.header, sensor="landsat")), SpaceMismatch, "differ in sensor"),
        (
            lambda t: replace(t, header=replace(t.header, space={**SPACE, "weights_sha256": "1"})),
            SpaceMismatch,
            r"two spaces \(weights_sha256",
        ),
    ],
)
def test_what_cannot_be_fitted(tmp_path: Path, change: Callable, kind: type[Exception], told: str) -> None:
    broken = make_run(tmp_path / "run", make_table(), change(make_table(1, epsg=32632)))
    with pytest.raises(kind, match=told) as caught:
        fit_runs([broken], JOB, out=tmp_path / "p.safetensors")
    assert "\n" not in str(caught.value) and not (tmp_path / "p.safetensors").exists()


def test_blocks_too_large_to_draw_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(HoldoutError, match=r"too few blocks of 6000 m to hold out .*use smaller blocks"):
        fit_runs([run], FitJob(block_m=6_000, folds=3), out=tmp_path / "p.safetensors")


def test_files_that_change_during_a_fit_are_refused(run: Path, tmp_path: Path) -> None:
    own = make_run(tmp_path / "own", make_table())
    found = large.large_runs({"own": own}, 1_600)
    held = holdout_for(JOB.holdout, found.stand(100), block_m=1_600, folds=3)
    part = own / "embeddings" / "part-3-0.parquet"
    table = Embeddings.read(part)
    table[1:].write(part)
    with pytest.raises(FormatError, match=r"part-3-0.parquet changed .*leave runs alone and fit again"):
        large.fit_large(found, held, space=SPACE, scale="log")
    pq.write_table(pq.read_table(part).drop_columns(["vector"]), part)
    with pytest.raises(FormatError, match=r"part-3-0.parquet cannot be read"):
        large.fit_large(found, held, space=SPACE, scale="log")


def test_memory_does_not_grow_with_the_parts(tmp_path: Path) -> None:
    """Beside a part, a few dozen numbers a chip are held: its ground and folds, not its vector."""
    dim, a_row = 400, 400

    def wide(number: int) -> Embeddings:
        table, rng = make_table(number, epsg=32601 + number), np.random.default_rng(number)
        return replace(table, vectors_nd=rng.normal(size=(len(table), dim)).astype(np.float32), twins={})

    def peak(parts: int) -> int:
        path = make_run(tmp_path / str(parts), *(wide(number) for number in range(parts)), parts=1)
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        default = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            found = large.large_runs({"run": path}, 1_600)
            held = holdout_for(JOB.holdout, found.stand(100), block_m=1_600, folds=3)
            large.fit_large(found, held, space=SPACE, scale="log")
            return tracemalloc.get_traced_memory()[1] + pool.max_memory()
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(default)

    few, many = peak(3), peak(12)
    more = 9 * SIDE * SIDE
    assert many - few < more * a_row < more * dim * 4 / 2
