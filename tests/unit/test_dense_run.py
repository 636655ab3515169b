"""Dense runs over files: from pixels to a map of patches and to a probe of them, resumed, refused, and joined."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

import scenes
from geoelle import run as module
from geoelle.area import Address, Addresses, Area, Lattice
from geoelle.complexity import feature_names
from geoelle.dense import DENSE_BANDS, PatchScores
from geoelle.describe import describe
from geoelle.embed import PATCH_POOLING, space_of
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import FormatError, ProbeError, ReadError, SpaceMismatch
from geoelle.fitting import FitJob, fit_runs, plan_fit
from geoelle.patches import DRAWN, keys_of
from geoelle.plan import Job, Plan, make_plan
from geoelle.probe import Affine, Probe
from geoelle.products import Product, probe_for, run_map, shipped_probe
from geoelle.run import finish, load_manifest, run_embed
from ground import make_scene, save_catalog

WEST, NORTH = 10_240 * 59 - 1_000, 10_240 * 488 + 900
"""Four parts meet inside the scene."""


def affine(count: int, seed: int) -> Affine:
    weights = np.random.default_rng(seed).normal(size=count) / 50
    return Affine(weights_d=weights, intercept=-3.0, mean_d=np.zeros(count), scale_d=np.ones(count), alpha=1.0)


def probe_of(plan: Plan, *, dense: bool = True, seed: int = 0) -> Probe:
    names = feature_names(plan.bands)
    return Probe(
        embedding=affine(plan.model.card.dim, seed), pixels=affine(len(names), seed + 1), feature_names=names,
        space=space_of(plan.model, plan.bands, dense=dense), data={"unit": "ells"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("scene")
    return str(
        save_catalog(home / "items.json", [make_scene(home, "S2B_31TFJ_20240601_0_L2A", west=WEST, north=NORTH)])
    )


def plan_of(catalog: str, east: tuple[int, int], south: tuple[int, int], **options: object) -> Plan:
    """Return a plan of the metres between these from the corner of the scene."""
    ground = shapely.box(WEST + east[0], NORTH - south[1], WEST + east[1], NORTH - south[0])
    area = Area.parse(polygon=scenes.to_lonlat(ground, 32631), dates="2024")
    job = Job(area=area, catalog=catalog, **{"dense": True, **options})
    return make_plan(job, cells_for_map=not job.loss)


@pytest.fixture(scope="module")
def plan(catalog: str) -> Plan:
    return plan_of(catalog, (730, 1_370), (610, 1_250))


@pytest.fixture(scope="module")
def product(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Product:
    return run_map(plan, probe_of(plan), tmp_path_factory.mktemp("map") / "run")


def dense_files(out: Path) -> list[Path]:
    return sorted(out.glob("dense/*.parquet"))


def bands_of(out: Path) -> tuple[dict[str, np.ndarray], rasterio.DatasetReader]:
    with rasterio.open(out / "difficulty.tif") as file:
        return dict(zip(file.descriptions, file.read(), strict=True)), file


# --- the map


def test_a_dense_map_has_the_numbers_of_the_tokens_at_the_patches(plan: Plan, product: Product) -> None:
    bands, file = bands_of(product.out)
    assert tuple(bands) == DENSE_BANDS and file.res == (40, 40)
    assert len(plan.parts) == len(dense_files(product.out)) == 4, "patches are seen by chips of several parts"
    scores = PatchScores.read(dense_files(product.out))
    (_, cells), count = plan.cells[0], 0
    linear = scores.at(cells).mean_n
    for address, value in zip(cells, np.exp(linear), strict=True):
        row, col = file.index(*address.geobox.extent.centroid.coords[0])
        assert bands["difficulty"][row, col] == np.float32(value)
        count += 1
    assert count == np.isfinite(bands["difficulty"]).sum() == plan.to_dict()["cells"]
    assert (bands["offsets"][np.isfinite(bands["offsets"])] == 4).all() and np.nanmin(bands["shift_sd"]) > 0
    assert (bands["date"][np.isfinite(bands["date"])] == np.float32(19_875 + (10 * 60 + 50) / 1440)).all()


def test_a_dense_map_says_what_it_is(plan: Plan, product: Product) -> None:
    with rasterio.open(product.out / "difficulty.tif") as file:
        assert file.units == ("ells", "ells", "ln", "days since 1970-01-01", "ln", "1")
        assert PATCH_POOLING in file.tags()["GEOELLE_SPACE"]
    page = (product.out / "report.html").read_text("utf-8")
    assert "no uncertainty of the difficulty" in page and "160 m apart" in page and "40 m" in page
    manifest = load_manifest(product.out)
    assert set(manifest["statistics"]) == {f"difficulty:{band}" for band in DENSE_BANDS}
    (agreed,) = manifest["chip_map"].values()
    assert agreed["chips"] > 3 and -1 <= agreed["r"] <= 1 and f"r = {agreed['r']:.3f}" in product.lines[0]
    facts = describe(product.out)
    assert facts["cells"] == plan.to_dict()["cells"] and "dense/part-32631_r-489_c58.parquet" in facts["files"]
    facts = describe(dense_files(product.out)[0])
    assert facts["kind"] == "scores of patches" and facts["offsets"] == 4


def test_a_place_has_one_value_in_maps_of_neighbouring_areas(
    plan: Plan, product: Product, catalog: str, tmp_path
) -> None:
    other = plan_of(catalog, (1_010, 1_530), (370, 870))
    run_map(other, probe_of(other), tmp_path / "run")
    one, two = (PatchScores.read(dense_files(out)) for out in (product.out, tmp_path / "run"))
    mine, its = plan.cells[0][1], other.cells[0][1]
    both = mine[np.isin(keys_of(mine), keys_of(its))]
    assert len(both) > 30
    for name in ("by_offset_nk", "complexity_n"):
        np.testing.assert_allclose(getattr(one.at(both), name), getattr(two.at(both), name), rtol=1e-5)
    assert one.at(both).shift_sd_n.max() > 1e-3, "equal although the offsets differ"


def test_an_area_without_imagery_makes_no_map(catalog: str, tmp_path: Path) -> None:
    # Chips of the border are valid, but no patch of the area has one around it.
    plan = plan_of(catalog, (1_740, 1_900), (300, 1_500))
    with pytest.raises(ReadError, match="no map can be made"):
        run_map(plan, probe_of(plan), tmp_path / "run")


# --- resuming


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []
    read = module.read_window
    monkeypatch.setattr(module, "read_window", lambda *a, **k: (seen.append(a[1]), read(*a, **k))[1])
    return seen


@pytest.mark.parametrize("loss", ["gone", "cut short", "chips gone"])
def test_a_killed_map_goes_on_with_the_parts_that_are_missing(plan, product, tmp_path: Path, reads, loss: str) -> None:
    out = Path(shutil.copytree(product.out, tmp_path / "run"))
    (out / "run.json").unlink()
    (out / "dense" / ".part-32631_r-488_c59.parquet.0123456789ab.tmp").write_bytes(b"half")
    file = dense_files(out)[2]
    if loss == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        (file if loss == "gone" else out / "embeddings" / file.name).unlink()
    run_map(plan, probe_of(plan), out)
    assert len(reads) == 1 and not list(out.rglob("*.tmp"))
    for path in dense_files(product.out):
        assert (out / "dense" / path.name).read_bytes() == path.read_bytes()
    assert (out / "difficulty.tif").read_bytes() == (product.out / "difficulty.tif").read_bytes()


def test_scores_of_another_probe_are_not_taken(plan: Plan, product: Product, tmp_path: Path, reads) -> None:
    out = Path(shutil.copytree(product.out, tmp_path / "run"))
    run_map(plan, probe_of(plan), out, overwrite=True)
    assert not reads
    other = probe_of(plan, seed=5)
    run_map(plan, other, out, overwrite=True)
    assert len(reads) == 4 and {PatchScores.read(p).probe for p in dense_files(out)} == {other.digest}
    old, new = (bands_of(o)[0]["difficulty"] for o in (product.out, out))
    assert not np.allclose(old, new, equal_nan=True)


# --- probes of the other kind


def test_a_probe_of_chips_is_refused_for_a_dense_map_and_the_reverse(plan: Plan, catalog: str, tmp_path: Path) -> None:
    chips = plan_of(catalog, (0, 1_000), (0, 1_000), dense=False)
    of_chips = probe_of(plan, dense=False).save(tmp_path / "chips.safetensors")
    of_patches = probe_of(plan).save(tmp_path / "patches.safetensors")
    with pytest.raises(SpaceMismatch, match=r"chips.safetensors is of chips, .* geoelle fit --dense"):
        probe_for(plan, of_chips)
    with pytest.raises(SpaceMismatch, match=r"patches.safetensors is of patches, .*; add --dense"):
        probe_for(chips, of_patches)
    assert probe_for(plan, of_patches).digest == probe_of(plan).digest
    with pytest.raises(ProbeError, match=r"no dense probe ships for nano .*; fit one \(geoelle embed --loss --dense"):
        shipped_probe(plan.model, plan.bands[1:], dense=True)
    assert probe_for(plan, None).space["bands"] == " ".join(plan.bands)
    ten = shipped_probe(plan.model, plan.model.card.bands, dense=True)
    assert ten.space["pooling"] == PATCH_POOLING and len(ten.embedding.weights_d) == plan.model.card.dim


# --- patches to fit on


def test_embed_keeps_a_few_patches_of_each_chip(catalog: str, tmp_path: Path, reads) -> None:
    plan = plan_of(catalog, (700, 1_100), (600, 900), loss=True, twins=1)
    outcome = run_embed(plan, tmp_path / "run")
    finish(outcome, plan, [], {})
    before = len(reads)
    chips, patches = (
        Embeddings.read(sorted((tmp_path / "run" / f).glob("*.parquet"))) for f in ("embeddings", "patches")
    )
    assert len(patches) == DRAWN * len(chips) == DRAWN * plan.chips and patches.header.space["pooling"] == PATCH_POOLING
    assert np.isfinite(patches.loss_n).all() and set(patches.twins) == {"twin0"}
    assert {name for name in load_manifest(tmp_path / "run")["sha256"] if name.startswith("patches/")} == {
        f"patches/{path.name}" for path in outcome.parts
    }
    lost = sorted((tmp_path / "run" / "patches").glob("*.parquet"))[0]
    content = lost.read_bytes()
    lost.unlink()
    run_embed(plan, tmp_path / "run", overwrite=True)
    assert len(reads) == before + 1 and lost.read_bytes() == content


def patch_run(home: Path, *, dense: bool = True) -> Path:
    """Return a finished run whose patches, 40 m of chips of 320 m, have a log-loss linear in the vector."""
    rng, side, dim = np.random.default_rng(0), 18, 6
    names = feature_names(("red", "nir"))
    grid = Lattice(epsg=32631, gsd_m=10, size_px=4, stride_px=4)
    rows, cols = (v.ravel() for v in np.mgrid[-125_000 : -125_000 + 12 * side : 12, 15_000 : 15_000 + 12 * side : 12])
    vectors = rng.normal(size=(side**2, dim)).astype(np.float32)
    space = {"model": "nano", "weights_sha256": "0", "pooling": PATCH_POOLING, "target": "loss:pixel", "masking": "m"}
    table = Embeddings(
        addresses=Addresses(lattice=grid, rows=rows, cols=cols), vectors_nd=vectors, valid_n=np.ones(side**2, bool),
        valid_fraction_n=np.ones(side**2), times_n=np.full(side**2, "2024-06-01", "datetime64[s]"),
        items_n=["a"] * side**2, loss_n=np.exp(vectors @ rng.normal(size=dim) / 4 + 0.1 * rng.normal(size=side**2)),
        features_nf=rng.normal(size=(side**2, len(names))).astype(np.float32),
        within_n2=rng.integers(0, 8, (side**2, 2)),
        header=Header(space=space, sensor="s", bands=("red", "nir"), feature_names=names),
    )  # fmt: skip
    for name in ("embeddings", *(("patches",) if dense else ())):
        (home / name).mkdir(parents=True)
        table.write(home / name / "part-0.parquet")
    for name in ("plan.json", "run.json"):
        (home / name).write_text("{}")
    return home


def test_a_dense_fit_is_of_patches_whose_chips_share_no_pixel(tmp_path: Path) -> None:
    run = patch_run(tmp_path / "run")
    fitted = fit_runs([run], FitJob(block_m=2_400, folds=3, dense=True), out=tmp_path / "probe.safetensors")
    assert fitted.probe.space["pooling"] == PATCH_POOLING and fitted.probe.data["patches"] == 324
    assert fitted.scores.table().row("ELLE").metrics.r.value > 0.9
    assert any("rows are patches" in note for note in fitted.scores.notes)
    assert "rows are patches" in (tmp_path / "probe.html").read_text()
    # Opposite corners of two chips of 32 px that touch: 60 px along each axis between the middles of the patches.
    assert f"buffer_m={600 * 2**0.5}" in fitted.probe.folds["kind"]
    facts = plan_fit([run], FitJob(block_m=2_400, folds=3, dense=True))
    assert facts["patches"] == 324 and all(f["train"] + f["test"] < 324 for f in facts["folds"])


def test_a_run_without_patches_is_refused_by_a_dense_fit(tmp_path: Path) -> None:
    run = patch_run(tmp_path / "run", dense=False)
    with pytest.raises(FormatError, match=r"run has no patches to fit on; .* --loss --dense"):
        plan_fit([run], FitJob(block_m=2_400, folds=3, dense=True))


def test_two_dense_runs_join_on_the_address_of_the_patch(product: Product) -> None:
    scores = PatchScores.read(dense_files(product.out))
    some = [Address.parse(str(address)) for address in (scores.addresses[3], scores.addresses[40])]
    again = Addresses(lattice=some[0].lattice, rows=[a.row for a in some], cols=[a.col for a in some])
    np.testing.assert_array_equal(scores.at(again).by_offset_nk, scores.by_offset_nk[[3, 40]])
    assert json.loads(json.dumps(dict(scores.space)))["pooling"] == PATCH_POOLING
    assert replace(scores, probe="x").probe == "x"
