"""The run directory: claimed once, gone on with, never mixed, and whole or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geoelle import run as module
from geoelle.area import Area
from geoelle.embed import embed_chips
from geoelle.embeddings import Embeddings
from geoelle.errors import FormatError, GeoelleError, ReadError
from geoelle.plan import Job, Plan, make_plan
from geoelle.read import cut, read_window
from geoelle.run import finish, load_manifest, run_embed
from ground import save_catalog, three_places

PARTS = ["part-32631_r-488_c58", "part-32631_r-488_c59", "part-32631_r-488_c60"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    home = tmp_path_factory.mktemp("places")
    items, squares = three_places(home)
    area = Area.parse(polygon=squares, dates="2024")
    return make_plan(Job(area=area, catalog=str(save_catalog(home / "items.json", items))))


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the plan; copy it before you change it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(run_embed(plan, out), plan, [], {})
    return out


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the window of every read as its western edge in parts."""
    seen: list[str] = []

    def read(looks: object, box: object, *rest: object, **more: object) -> object:
        seen.append(f"c{int(box.boundingbox.left // 10_240)}")
        return read_window(looks, box, *rest, **more)

    monkeypatch.setattr(module, "read_window", read)
    return seen


def unfinish(out: Path, *lost: int) -> None:
    (out / "run.json").unlink()
    for number in lost:
        (out / "embeddings" / f"{PARTS[number]}.parquet").unlink()


def tree(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


# --- a run


def test_each_part_is_embedded_as_it_would_be_alone(plan: Plan, whole: Path) -> None:
    assert sorted(p.stem for p in whole.glob("embeddings/*")) == PARTS
    part = plan.parts[1]
    box = part.addresses.lattice.union_geobox(part.addresses.rows, part.addresses.cols)
    window = read_window(plan.looks, box, plan.found.sensor, plan.bands)
    alone = embed_chips(cut(window, part.addresses), plan.model)
    kept = Embeddings.read(whole / "embeddings" / f"{PARTS[1]}.parquet")
    assert kept.addresses.strings() == alone.addresses.strings()
    assert kept.header.space == alone.header.space and kept.header.sensor == "sentinel-2-l2a"
    np.testing.assert_array_equal(kept.vectors_nd, alone.vectors_nd)
    assert set(kept.items_n) == {"S2B_31TFK_20240601_0_L2A"}


def test_batches_of_a_window_are_of_no_account(plan: Plan, whole: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "chips_at_once", lambda size_px, bands: 7)
    run_embed(plan, tmp_path / "run")
    for name in PARTS:
        one, other = (Embeddings.read(out / "embeddings" / f"{name}.parquet") for out in (whole, tmp_path / "run"))
        assert one.addresses.strings() == other.addresses.strings()
        np.testing.assert_allclose(other.vectors_nd, one.vectors_nd, rtol=1e-4, atol=1e-5)


def test_the_manifest_counts_and_hashes_what_is_there(plan: Plan, whole: Path) -> None:
    manifest = load_manifest(whole)
    assert manifest["counts"] == {"planned": plan.chips, "read": plan.chips, "empty": 0, "skipped": 0}
    names = {"items.json", *(f"embeddings/{name}.parquet" for name in PARTS)}
    assert manifest["sha256"].keys() == names
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((whole / name).read_bytes()).hexdigest() == digest
    assert manifest["plan"]["fingerprint"] == plan.fingerprint
    assert manifest["plan"] == json.loads((whole / "plan.json").read_text())
    assert manifest["job"] == json.loads(json.dumps(plan.job.to_dict()))


def test_equal_runs_have_equal_bytes(plan: Plan, whole: Path, tmp_path: Path) -> None:
    finish(run_embed(plan, tmp_path / "run"), plan, [], {})
    assert tree(tmp_path / "run") == tree(whole)


def test_progress_counts_chips(plan: Plan, done: Path) -> None:
    unfinish(done, 1, 2)
    told: list[tuple[int, int, str]] = []
    run_embed(plan, done, progress=lambda *each: told.append(each))
    assert [name for _, _, name in told] == [name.removeprefix("part-") for name in PARTS[1:]]
    assert [total for _, total, _ in told] == [plan.chips] * 2
    sizes = [len(part.addresses) for part in plan.parts]
    assert [count for count, _, _ in told] == [sum(sizes[:2]), sum(sizes)]


def test_outputs_inside_a_directory_are_hashed_one_by_one(plan: Plan, done: Path) -> None:
    store = done / "difficulty.zarr" / "0"
    store.mkdir(parents=True)
    (store / "c").write_bytes(b"chunk")
    unfinish(done)
    finish(run_embed(plan, done), plan, [done / "difficulty.zarr"], {"more": 1})
    manifest = load_manifest(done)
    assert manifest["sha256"]["difficulty.zarr/0/c"] == hashlib.sha256(b"chunk").hexdigest()
    assert manifest["more"] == 1


# --- going on


@pytest.mark.parametrize(("lost", "read"), [((), []), ((0,), ["c58"]), ((0, 2), ["c58", "c60"])])
def test_only_missing_parts_are_read(plan: Plan, done: Path, whole: Path, reads: list[str], lost, read) -> None:
    unfinish(done, *lost)
    finish(run_embed(plan, done), plan, [], {})
    assert reads == read
    assert tree(done) == tree(whole)


def test_a_damaged_part_is_read_again(plan: Plan, done: Path, whole: Path, reads: list[str]) -> None:
    unfinish(done)
    part = done / "embeddings" / f"{PARTS[1]}.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    (done / "embeddings" / f"{PARTS[2]}.parquet").write_bytes(b"")
    finish(run_embed(plan, done), plan, [], {})
    assert reads == ["c59", "c60"]
    assert tree(done) == tree(whole)


def test_what_a_killed_process_left_half_done_is_removed(plan: Plan, done: Path, whole: Path) -> None:
    unfinish(done, 2)
    (done / "embeddings" / f".{PARTS[2]}.parquet.0123456789ab.tmp").write_bytes(b"half")
    (done / ".difficulty.zarr.0123456789ab.tmp").mkdir()
    (done / ".difficulty.zarr.0123456789ab.tmp" / "zarr.json").write_text("{}")
    finish(run_embed(plan, done), plan, [], {})
    assert tree(done) == tree(whole)


@pytest.mark.parametrize("left", [[], ["embeddings"], ["embeddings", "items.json"]])
def test_a_run_killed_while_it_began_goes_on(plan: Plan, tmp_path: Path, whole: Path, left: list[str]) -> None:
    """plan.json comes first, so whatever else is there it is ours."""
    out = tmp_path / "run"
    out.mkdir()
    (out / ".plan.json.0123456789ab.tmp").write_text("{")
    if left:
        shutil.copy(whole / "plan.json", out)
        (out / "embeddings").mkdir()
    if "items.json" in left:
        (out / "items.json").write_text("of an older run")
    finish(run_embed(plan, out), plan, [], {})
    assert tree(out) == tree(whole)


def test_a_failure_leaves_the_parts_before_it(plan: Plan, tmp_path: Path, monkeypatch) -> None:
    def fail(looks: object, box: object, *rest: object, **more: object) -> object:
        if box.boundingbox.left > 10_240 * 60:
            raise ReadError("reading failed", item="x", asset="red", href="h")
        return read_window(looks, box, *rest, **more)

    monkeypatch.setattr(module, "read_window", fail)
    with pytest.raises(ReadError, match="reading failed"):
        run_embed(plan, tmp_path / "run")
    assert sorted(p.stem for p in (tmp_path / "run").glob("embeddings/*")) == PARTS[:2]
    assert not (tmp_path / "run" / "run.json").exists()
    with pytest.raises(FormatError, match="no finished run; run the same command again"):
        load_manifest(tmp_path / "run")


# --- what cannot be read


@pytest.fixture
def gap(plan: Plan, tmp_path: Path) -> Callable[[], None]:
    """Take the red file of the second scene away; call the answer to bring it back."""
    path = Path(next(i for i in plan.found.items if "TFK" in i.id).assets["red"].href)
    aside = path.rename(tmp_path / "red.tif")
    yield lambda: shutil.copy(aside, path)
    shutil.copy(aside, path)


def skipping(plan: Plan) -> Plan:
    return replace(plan, job=replace(plan.job, errors="skip"))


def test_a_skipped_asset_is_nan_counted_and_named(plan: Plan, tmp_path: Path, gap) -> None:
    with pytest.raises(ReadError, match="asset red of item S2B_31TFK_20240601_0_L2A"):
        run_embed(plan, tmp_path / "raise")
    outcome = run_embed(skipping(plan), tmp_path / "run")
    third = len(plan.parts[1].addresses)
    assert outcome.counts == {"planned": plan.chips, "read": plan.chips - third, "empty": third, "skipped": 1}
    (row,) = outcome.skipped
    assert (row["item"], row["asset"]) == ("S2B_31TFK_20240601_0_L2A", "red") and "No such file" in row["cause"]
    middle = Embeddings.read(outcome.parts[1])
    assert np.isnan(middle.vectors_nd).all() and not middle.valid_n.any() and set(middle.items_n) == {""}
    assert np.isfinite(Embeddings.read(outcome.parts[0]).vectors_nd).all()
    assert outcome.parts[1].with_suffix(".skipped.json").is_file()


@pytest.mark.parametrize("finished", [True, False])
def test_overwriting_tries_what_was_skipped_again_and_nothing_else(
    plan: Plan, tmp_path: Path, gap, reads: list[str], finished: bool
) -> None:
    job, out = skipping(plan), tmp_path / "run"
    outcome = run_embed(job, out)
    if finished:
        finish(outcome, job, [], {})
    gap()
    reads.clear()
    outcome = run_embed(job, out, overwrite=True)
    assert reads == ["c59"]
    assert outcome.counts["read"] == plan.chips and outcome.skipped == ()
    assert not list(out.glob("embeddings/*.skipped.json"))


def test_an_asset_skipped_in_two_parts_counts_once(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = run_embed(plan, out)
    for place, part in enumerate(outcome.parts[:2]):
        row = {"item": "a", "asset": "red", "href": "", "cause": f"block {place} does not decode"}
        part.with_suffix(".skipped.json").write_text(json.dumps([row]))
    outcome = run_embed(plan, out)
    assert outcome.counts["skipped"] == 1 and len(outcome.skipped) == 2


def test_a_skip_noted_by_a_process_that_died_is_forgotten(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (first, *_) = run_embed(plan, out).parts
    first.unlink()
    first.with_suffix(".skipped.json").write_text(json.dumps([{"item": "a", "asset": "b", "href": "", "cause": ""}]))
    assert run_embed(plan, out).counts["skipped"] == 0


# --- whose directory


def test_a_finished_run_is_not_touched_without_overwrite(plan: Plan, done: Path) -> None:
    before = tree(done)
    with pytest.raises(GeoelleError, match=r"holds a finished run; use another -o, or --overwrite"):
        run_embed(plan, done)
    assert tree(done) == before


def test_overwriting_ones_own_run_keeps_its_parts(plan: Plan, done: Path, reads: list[str]) -> None:
    (done / "difficulty.tif").write_bytes(b"of the same plan")
    run_embed(plan, done, overwrite=True)
    assert reads == [] and not (done / "run.json").exists()
    assert (done / "difficulty.tif").is_file()


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_another_command_is_refused_and_replaced_whole(plan: Plan, done: Path, finished: bool, reads) -> None:
    if not finished:
        unfinish(done, 0)
    products = ["difficulty.tif", "difficulty_32632.tif", "difficulty.tif.aux.xml", "report.html", "item.json"]
    for name in (*products, "notes.txt", "difficulty_notes.txt"):
        (done / name).write_text("old")
    (done / "difficulty.zarr").mkdir()
    before = tree(done)
    other = skipping(plan)
    with pytest.raises(GeoelleError, match="finished run" if finished else "an unfinished run of another command"):
        run_embed(other, done)
    assert tree(done) == before and reads == []
    run_embed(other, done, overwrite=True)
    assert len(reads) == 3
    names = {p.name for p in done.iterdir()}
    assert names == {"plan.json", "items.json", "embeddings", "notes.txt", "difficulty_notes.txt"}
    assert json.loads((done / "plan.json").read_text())["fingerprint"] == other.fingerprint


FOREIGN = {
    "a file": {"letter.txt": "dear"},
    "a hidden file": {".git/HEAD": "ref"},
    "another plan.json": {"plan.json": '{"tasks": []}', "embeddings/part-1.parquet": "mine"},
    "a plan.json that is no object": {"plan.json": "[]"},
    "a plan.json cut short": {"plan.json": '{"finger'},
    "a plan.json that is no text": {"plan.json": b"\xff\xfe\x00"},
}


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_directory_of_others_is_left_alone(plan: Plan, tmp_path: Path, name: str, overwrite: bool) -> None:
    for path, content in FOREIGN[name].items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = tree(tmp_path)
    with pytest.raises(GeoelleError, match=r"holds other files and no plan.json of a run; name a new directory"):
        run_embed(plan, tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_an_empty_directory_will_do_and_a_file_will_not(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run_embed(plan, tmp_path / "empty").counts["read"] == plan.chips
    (tmp_path / "file").write_text("x")
    with pytest.raises(GeoelleError, match="file is a file; name a directory"):
        run_embed(plan, tmp_path / "file")
    with pytest.raises(GeoelleError, match=r"cannot be made \(Not a directory\); name a writable place"):
        run_embed(plan, tmp_path / "file" / "run")


@pytest.mark.parametrize("clear", ["the manifest", "a part", "everything"])
def test_replacing_goes_on_after_a_crash_while_clearing(plan: Plan, done: Path, clear: str) -> None:
    """Whatever was removed before the crash, the directory is still known as a run."""
    (done / "run.json").unlink()
    if clear != "the manifest":
        (done / "embeddings" / f"{PARTS[0]}.parquet").unlink()
    if clear == "everything":
        shutil.rmtree(done / "embeddings")
        (done / "items.json").unlink()
    other = skipping(plan)
    assert run_embed(other, done, overwrite=True).counts["read"] == plan.chips


# --- the manifest


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON .*; run the command again with --overwrite"),
        ("[]", "is not a geoelle manifest"),
        ('{"format": "other"}', "is not a geoelle manifest"),
        ('{"format": "geoelle-run", "version": 1}', "is not a whole manifest of version 1"),
        ('{"format": "geoelle-run", "version": 2, "job": 1, "plan": 1, "counts": 1, "sha256": 1}', "version 1"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(FormatError, match=told):
        load_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no run.json, so it is no finished run; name a run directory"):
        load_manifest(tmp_path)
