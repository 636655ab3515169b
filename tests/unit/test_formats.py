"""docs/formats.md is normative: its tables are read here and compared with fresh files, both ways."""

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
import zarr
from click.testing import CliRunner

import scenes
from geoelle import clear_ground, guards
from geoelle.alerts import alerts_of
from geoelle.applicability import Reach
from geoelle.area import Address, Addresses, Area, Lattice
from geoelle.catalog import catalogs_path, load_endpoint, load_sensor
from geoelle.change_blocks import BlockCheck
from geoelle.change_states import STATUSES
from geoelle.cli import cli
from geoelle.complexity import feature_names
from geoelle.dated import Dated, compare_runs
from geoelle.delta import STATES
from geoelle.delta_product import claim, write_delta
from geoelle.embed import space_of
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import CatalogError
from geoelle.extremes import Asked
from geoelle.holdout import SpatialKFold
from geoelle.intervals import Spread
from geoelle.item import ItemFacts, write_item
from geoelle.models.masks import hidden_count, hidden_patches, permutations, seeds_of
from geoelle.patches import DRAWN, WINDOW_PX
from geoelle.plan import PART_PX, Job, Plan, make_plan
from geoelle.probe import Affine, Probe, fit_probe
from geoelle.products import run_map
from geoelle.rank import choose_chips, rank_run
from geoelle.raster import paint, write_cog, write_zarr
from geoelle.scoring import score_file
from geoelle.seasonal import YEAR_DAYS
from geoelle.series import Observed, judge
from geoelle.trust import fit_trust
from seasons import FIRST_DAY, simulate

FORMATS = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
TABLES = {match[1]: match[2] for match in re.finditer(r"<!-- table: ([\w-]+) -->\n((?:\|.*\n)+)", FORMATS)}
KINDS = {
    "text": lambda v: isinstance(v, str),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "object": lambda v: isinstance(v, dict),
}


def table(name: str) -> list[dict[str, str]]:
    """Return the rows of a marked table by column, without backticks; the first column comes as `name` too."""
    head, _, *body = (re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in TABLES[name].splitlines())
    columns = [cell.strip() for cell in head]
    rows = [[cell.strip().strip("`").replace(r"\|", "|") for cell in line] for line in body]
    return [{"name": row[0], **dict(zip(columns, row, strict=True))} for row in rows]


def fits(value: object, kind: str) -> bool:
    if " or " in kind:
        return any(fits(value, part) for part in kind.split(" or "))
    if kind.startswith("list of "):
        return isinstance(value, list) and all(fits(part, kind.removeprefix("list of ")) for part in value)
    return KINDS[kind](value)


def assert_keys(found: Mapping[str, object], name: str, *, has: Iterable[str] = ()) -> None:
    """Compare an object with a table: the keys of `always` and of the conditions it has, and every type."""
    rows = [row for row in table(name) if row["when"] in {"always", *has}]
    assert set(found) == {row["name"] for row in rows}, name
    for row in rows:
        assert fits(found[row["name"]], row["type"]), f"{name}: {row['name']} is {found[row['name']]!r}"


def canonical(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


# --- conventions, address, masks


def test_an_address_is_spelled_as_documented():
    address = Address(epsg=32631, gsd_m=10, size_px=256, stride_px=256, row=-2004, col=137)
    rows = table("address")
    assert [row["name"] for row in rows] == [field.name for field in fields(Address)]
    assert re.fullmatch("/".join(row["pattern"] for row in rows), str(address))
    assert str(address) in FORMATS
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
    box, cell = lattice.geobox(-7, 5), lattice.cell_geobox(-7, 5)
    step, side = 16 * 10, 32 * 10
    assert box.boundingbox.bbox == (5 * step, 7 * step - side, 5 * step + side, 7 * step)
    margin = (side - step) / 2
    assert (cell.affine.c, cell.affine.f, cell.affine.a) == (5 * step + margin, 7 * step - margin, step)


def test_masks_follow_from_the_page_alone():
    mask64 = 2**64 - 1

    def splitmix64(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask64
        return z ^ z >> 31

    for row in table("masks"):
        stream, patches = int(row["stream"]), int(row["patches"])
        seed = int.from_bytes(hashlib.sha256(f"{stream}|{row['address']}".encode()).digest()[:8], "little")
        numbers = [splitmix64((seed + (i + 1) * 0x9E3779B97F4A7C15) & mask64) for i in range(patches)]
        order = sorted(range(patches), key=numbers.__getitem__)
        assert order[:5] == [int(v) for v in row["first five of the permutation"].split()]
        made = permutations(seeds_of([row["address"]], stream), patches)
        assert made[0].tolist() == order
        hidden = patches - int(patches * 0.25)
        assert hidden == hidden_count(patches, 0.75)
        start = 3 * patches // 4
        chosen = {order[(start + i) % patches] for i in range(hidden)}
        assert set(np.flatnonzero(hidden_patches(made, hidden, 3, 4)[0])) == chosen


# --- a run


@dataclass
class Made:
    """A finished map of two items, one of which cannot be read."""

    out: Path
    plan: Plan
    probe: Probe

    def json(self, name: str) -> dict:
        return json.loads((self.out / name).read_text("utf-8"))


def made_probe(plan: Plan) -> Probe:
    """Return a probe of the plan's space with small weights."""
    rng, names = np.random.default_rng(0), feature_names(plan.bands)

    def affine(count: int) -> Affine:
        return Affine(
            weights_d=rng.normal(size=count) / 100,
            intercept=-3.0,
            mean_d=np.zeros(count),
            scale_d=np.ones(count),
            alpha=1.0,
        )

    dim = plan.model.card.dim
    embedding = affine(dim)
    reach = Reach(
        points_md=rng.normal(size=(7, dim)).astype(np.float32), counts_m=np.arange(1, 8),
        weights_d=np.abs(embedding.weights_d), mean_distance=0.5, threshold=1.0,
    )  # fmt: skip
    return Probe(
        embedding=embedding,
        pixels=affine(len(names)),
        feature_names=names,
        twin=affine(dim),
        spread=Spread(log_spread=affine(dim), low=-4.0, high=-1.0, alpha=0.1, threshold=1.5),
        smearing=1.25,
        reach=reach,
        space=space_of(plan.model, plan.bands),
        data={"unit": "mse"},
        licence="CC0-1.0",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("formats")
    near = scenes.make_item(home, "S2B_31TFJ_20240601_0_L2A")
    far = scenes.make_item(home, "S2B_31TFJ_20240601_1_L2A", west=scenes.WEST + scenes.SIDE_M)
    Path(far.assets["red"].href).unlink()
    catalog = home / "items.json"
    catalog.write_text(json.dumps(pystac.ItemCollection([near, far]).to_dict()))
    west, north = scenes.WEST, scenes.NORTH
    ground = shapely.box(west + 500, north - 1400, west + 2300, north - 500)
    area = Area.parse(polygon=scenes.to_lonlat(ground, scenes.EPSG), dates="2024-06")
    job = Job(area=area, catalog=str(catalog), sensor="sentinel-2-l2a", errors="skip", loss=True, twins=1)
    plan = make_plan(job, cells_for_map=True)
    probe = made_probe(plan)
    run_map(plan, probe, home / "run")
    return Made(out=home / "run", plan=plan, probe=probe)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished dense map of one item, in a few hundred cells."""
    home = tmp_path_factory.mktemp("dense")
    catalog = home / "items.json"
    item = scenes.make_item(home, "S2B_31TFJ_20240601_0_L2A")
    catalog.write_text(json.dumps(pystac.ItemCollection([item]).to_dict()))
    ground = shapely.box(scenes.WEST + 500, scenes.NORTH - 1100, scenes.WEST + 1000, scenes.NORTH - 500)
    area = Area.parse(polygon=scenes.to_lonlat(ground, scenes.EPSG), dates="2024-06")
    plan = make_plan(Job(area=area, catalog=str(catalog), sensor="sentinel-2-l2a", dense=True), cells_for_map=True)
    probe = replace(made_probe(plan), space=space_of(plan.model, plan.bands, dense=True))
    run_map(plan, probe, home / "run")
    return Made(out=home / "run", plan=plan, probe=probe)


DENSE = {"embed --dense", "map --dense"}


def test_a_run_has_the_files_documented(made: Made):
    assert {row["when"] for row in table("run-files")} == {"always", "map", "an asset of the part was skipped", *DENSE}
    rows = [row for row in table("run-files") if row["when"] not in DENSE]
    names = {"NAME": "difficulty", "REPORT": "report", "ITEM": "item", "ZONE": str(scenes.EPSG)}
    patterns = [re.escape(row["path"]).replace("ROW", r"-?\d+").replace("COL", r"-?\d+") for row in rows]
    for name, text in names.items():
        patterns = [pattern.replace(name, text) for pattern in patterns]
    files = [p for p in made.out.rglob("*") if ".zarr" not in str(p) and p.is_file()] + [made.out / "difficulty.zarr"]
    found = {path.relative_to(made.out).as_posix() for path in files}
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in found), pattern
    for name in found:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name
    assert f"super-blocks of {PART_PX} px" in TABLES["run-files"]


def test_the_plan(made: Made):
    plan = made.json("plan.json")
    assert_keys(plan, "plan")
    for look in plan["looks"]:
        assert_keys(look, "plan-look")
    assert_keys({**plan["looks"][0], "cloud": None}, "plan-look")


def test_items_are_a_catalogue_again(made: Made):
    text = (made.out / "items.json").read_text("utf-8")
    collection = json.loads(text)
    assert collection["type"] == "FeatureCollection"
    assert [feature["id"] for feature in collection["features"]] == made.json("plan.json")["items"]
    assert all(feature["links"] == [] for feature in collection["features"])
    again = make_plan(replace(made.plan.job, catalog=str(made.out / "items.json")))
    assert [item.id for look in again.looks for item in look.items] == made.json("plan.json")["items"]


def test_skipped_assets(made: Made):
    (path,) = made.out.glob("embeddings/*.skipped.json")
    rows = json.loads(path.read_text("utf-8"))
    assert [(row["item"], row["asset"]) for row in rows] == [("S2B_31TFJ_20240601_1_L2A", "red")]
    for row in rows:
        assert_keys(row, "skipped")


def test_the_manifest(made: Made):
    manifest, plan = made.json("run.json"), made.json("plan.json")
    assert_keys(manifest, "run", has={"map"})
    assert {row["name"]: row["meaning"].strip("`") for row in table("run")}["format"] == manifest["format"]
    assert manifest["version"] == 1
    assert_keys(manifest["job"], "run-job")
    assert_keys(manifest["counts"], "run-counts")
    assert manifest["plan"] == plan
    assert manifest["skipped"] == json.loads(next(made.out.glob("embeddings/*.skipped.json")).read_text("utf-8"))
    files = {path.relative_to(made.out).as_posix() for path in made.out.rglob("*") if path.is_file()}
    reports = {name for name in files if name.endswith(".skipped.json")}
    assert set(manifest["sha256"]) == files - {"plan.json", "run.json"} - reports
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((made.out / name).read_bytes()).hexdigest() == digest
    assert set(manifest["probe"]) == {"digest", "space", "scores", "trust"}
    assert set(manifest["statistics"]) == {f"difficulty:{row['description']}" for row in table("cog-bands")}
    for row in manifest["statistics"].values():
        assert set(row) == {"minimum", "maximum", "mean", "stddev", "valid_percent"}


def test_a_dense_map(dense: Made):
    (row,) = (row for row in table("run-files") if row["when"] == "map --dense")
    (path,) = (p for p in dense.out.rglob("*.parquet") if p.parent.name != "embeddings")
    pattern = row["path"].replace("ZONE", str(scenes.EPSG)).replace("ROW", r"-?\d+").replace("COL", r"-?\d+")
    assert re.fullmatch(pattern, path.relative_to(dense.out).as_posix())
    manifest = dense.json("run.json")
    assert_keys(manifest, "run", has={"map", "map --dense"})
    assert_keys(manifest["job"], "run-job")
    assert_keys(dense.json("plan.json"), "plan")
    assert path.relative_to(dense.out).as_posix() in manifest["sha256"]
    assert {tuple(found) for found in manifest["chip_map"].values()} <= {("r", "chips")}
    rows = [*(row for row in table("cog-bands") if row["when"] == "always"), *table("cog-dense-bands")]
    unit = {"U": "mse"}
    with rasterio.open(dense.out / "difficulty.tif") as file:
        assert file.descriptions == tuple(row["description"] for row in rows)
        assert file.units == tuple(unit.get(row["unit"], row["unit"]) for row in rows)
        assert [row["name"] for row in rows] == [str(i + 1) for i in range(file.count)]
    always = [row for row in table("dense-columns") if row["when"] == "always"]
    assert arrow_types(path) == {row["name"]: re.sub(r"\[[kc]\]", "[d]", row["type"]) for row in always}
    text = pq.read_schema(path).metadata[b"geoelle-dense"]
    assert_keys(json.loads(text), "dense-header")
    assert text == canonical(json.loads(text)) and json.loads(text)["probe"] == dense.probe.digest


# --- embeddings


def made_embeddings(*, full: bool) -> Embeddings:
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
    count, rng = 6, np.random.default_rng(0)
    space = dict.fromkeys(("model", "weights_sha256", "bands", "pooling", "target", "masking"), "x")
    extra = {
        "loss_n": rng.random(count), "loss_sd_n": rng.random(count), "loss_rel_n2": rng.random((count, 2)),
        "features_nf": rng.random((count, 2)).astype(np.float32), "twins": {"twin0": np.ones((count, 5), np.float32)},
    }  # fmt: skip
    return Embeddings(
        addresses=Addresses(lattice=lattice, rows=np.arange(count) - 31_250, cols=np.full(count, 3_125)),
        vectors_nd=rng.normal(size=(count, 5)).astype(np.float32),
        valid_n=np.arange(count) > 0,
        valid_fraction_n=np.linspace(0.5, 1, count),
        times_n=np.full(count, "NaT", "datetime64[s]"),
        items_n=["a;b"] * count,
        header=Header(space=space, sensor="s", bands=("red",), feature_names=("p", "q") if full else ()),
        **(extra if full else {}),
    )


def arrow_types(path: Path) -> dict[str, str]:
    """Return the type of every column, lengths of lists as their letter."""
    kinds = {field.name: str(field.type).replace("element: ", "") for field in pq.read_schema(path)}
    return {name: re.sub(r"\[\d+\]$", "[f]" if name == "features" else "[d]", kind) for name, kind in kinds.items()}


@pytest.mark.parametrize("full", [True, False])
def test_embeddings(tmp_path: Path, full: bool):
    path = made_embeddings(full=full).write(tmp_path / "part.parquet")
    rows = table("embeddings-columns")
    wanted = {r["name"]: r["type"] for r in rows if r["when"] == "always" or (full and r["when"] != "of patches")}
    assert arrow_types(path) == wanted
    assert list(arrow_types(path)) == [row["name"] for row in rows if row["name"] in wanted]
    metadata = pq.read_metadata(path)
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}
    text = pq.read_schema(path).metadata[b"geoelle"]
    header = json.loads(text)
    assert text == canonical(header)
    assert_keys(header, "embeddings-header")
    assert set(header["lattice"]) == {field.name for field in fields(Lattice)}


def test_patches(tmp_path: Path):
    some = replace(made_embeddings(full=True), within_n2=np.ones((6, 2), int))
    wanted = [(row["name"], row["type"]) for row in table("embeddings-columns")]
    assert list(arrow_types(some.write(tmp_path / "part.parquet")).items()) == wanted
    text = FORMATS[FORMATS.index("### Patches") : FORMATS.index("### Scores of patches")]
    assert f"first {DRAWN} of the permutation" in text and f"at least {WINDOW_PX} px" in text


def test_row_groups_are_as_large_as_documented(tmp_path: Path):
    many = made_embeddings(full=False)[np.zeros(8_193, int)]
    metadata = pq.read_metadata(many.write(tmp_path / "part.parquet"))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [8_192, 1]


def test_embeddings_of_a_run(made: Made):
    (path,) = made.out.glob("embeddings/*.parquet")
    wanted = {row["name"]: row["type"] for row in table("embeddings-columns") if row["when"] != "of patches"}
    assert arrow_types(path) == wanted
    found = Embeddings.read(path)
    assert_keys(dict(found.header.space), "space")
    assert found.header.space_id == hashlib.sha256(canonical(dict(found.header.space))).hexdigest()[:12]
    rows = pq.read_table(path).to_pydict()
    assert [valid for valid in rows["valid"]] == [share >= 0.9 for share in rows["valid_fraction"]]
    assert {loss is None for loss, valid in zip(rows["loss"], rows["valid"], strict=True) if not valid} == {True}
    halves = np.array([rows["loss_a"], rows["loss_b"]], float)
    np.testing.assert_allclose(np.array(rows["loss"], float), halves.mean(axis=0), rtol=1e-6)
    chip = Address.parse(rows["address"][0])
    outline = shapely.from_wkb(rows["geometry"][0])
    assert shapely.hausdorff_distance(outline, chip.footprint) < 1e-9
    places = found.addresses
    assert np.all(np.diff(places.rows) >= 0)
    assert np.all((np.diff(places.cols) > 0) | (np.diff(places.rows) > 0))


# --- probe and scores


def plain_probe(made: Made, *, full: bool) -> Probe:
    bare = {"pixels": None, "feature_names": (), "twin": None, "spread": None, "smearing": None, "reach": None}
    return made.probe if full else replace(made.probe, **bare)


@pytest.mark.parametrize("full", [True, False])
def test_a_probe_is_read_without_geoelle(made: Made, tmp_path: Path, full: bool):
    probe = plain_probe(made, full=full)
    content = probe.save(tmp_path / "probe.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    text = header.pop("__metadata__")
    assert list(text) == ["geoelle"]
    words = json.loads(text["geoelle"])
    assert text["geoelle"].encode() == canonical(words)
    assert_keys(words, "probe-words")
    rows = [row for row in table("probe-tensors") if full or row["when"] == "always"]
    letters = {"d": len(probe.embedding.weights_d), "f": len(probe.feature_names), "1": 1, "m": 7}
    kinds = {"float64": "F64", "float32": "F32", "int64": "I64"}
    wanted = {}
    for row in rows:
        kind, shape = row["type"].split()
        wanted[row["name"]] = (kinds[kind], [letters[letter] for letter in shape.strip("()").split(",") if letter])
    assert {name: (part["dtype"], part["shape"]) for name, part in header.items()} == wanted
    digest = hashlib.sha256(canonical({key: value for key, value in words.items() if key != "digest"}))
    for name in sorted(header):
        first, last = header[name]["data_offsets"]
        kind = next(long for long, short in kinds.items() if short == header[name]["dtype"])
        digest.update(f"\n{name} {kind} {tuple(header[name]['shape'])}\n".encode() + data[first:last])
    assert digest.hexdigest() == words["digest"]
    constants = {row["name"]: row["meaning"].strip("`") for row in table("probe-words")}
    assert (words["format"], str(words["version"])) == (constants["format"], constants["version"])
    first, last = header["weights"]["data_offsets"]
    vector = np.linspace(-1, 1, len(probe.embedding.weights_d), dtype=np.float32)
    start = header["intercept"]["data_offsets"][0]
    by_hand = np.frombuffer(data[first:last], "<f8") @ vector + struct.unpack_from("<d", data, start)[0]
    np.testing.assert_allclose(probe.score(vector), np.exp(by_hand), rtol=1e-6)
    if not full:
        assert words["spread"] is words["smearing"] is words["reach"] is None
        return
    assert_keys(words["spread"], "probe-spread")
    assert_keys(words["reach"], "probe-reach")

    def tensor(name: str, kind: str) -> np.ndarray:
        first, last = header[name]["data_offsets"]
        return np.frombuffer(data[first:last], kind).reshape(header[name]["shape"])

    spread, reach = words["spread"], words["reach"]
    s = tensor("spread.weights", "<f8") @ vector + tensor("spread.intercept", "<f8")[0]
    h = spread["threshold"] * np.exp(min(max(s, spread["low"]), spread["high"]))
    np.testing.assert_allclose(probe.interval(vector), np.exp([by_hand - h, by_hand + h]), rtol=1e-6)
    np.testing.assert_allclose(probe.expected(vector), np.exp(by_hand) * words["smearing"], rtol=1e-6)
    away = np.abs(tensor("weights", "<f8")) * (vector - tensor("reach.points", "<f4"))
    di = np.sqrt(np.square(away).sum(1)).min() / reach["mean_distance"]
    np.testing.assert_allclose(probe.reach.dissimilarity(vector), di, rtol=1e-6)


def test_what_was_measured_of_a_probe():
    rng = np.random.default_rng(0)
    vectors, lonlat = rng.normal(size=(300, 4)), rng.uniform(0, 0.5, (300, 2))
    loss = np.exp(vectors[:, 0] / 4 + 0.1 * rng.normal(size=300))
    cv = SpatialKFold(3, block_m=10_000)
    probe = fit_probe(vectors, loss, groups=lonlat, space={}, cv=cv)
    halves = loss[:, None] * (1 + 0.02 * rng.normal(size=(300, 2)))
    for level, halves_n2 in ((0.9, halves), (0.99, None)):
        trust = fit_trust(probe, vectors, loss, cv=cv, groups=lonlat, level=level, halves_n2=halves_n2)
        assert_keys(trust.probe.trust, "probe-trust")
        assert canonical(trust.probe.trust)
    assert trust.probe.trust["notes"]


def test_a_probe_as_plain_json(made: Made, tmp_path: Path):
    words = json.loads(made.probe.to_json(tmp_path / "probe.json").read_text("utf-8"))
    assert_keys(words, "probe-json")
    constants = {row["name"]: row["meaning"].strip("`") for row in table("probe-json")}
    assert (words["format"], str(words["version"])) == (constants["format"], constants["version"])


@pytest.mark.parametrize("full", [True, False])
def test_a_score_table(made: Made, tmp_path: Path, full: bool):
    probe = made.probe.save(tmp_path / "probe.safetensors")
    source = next(made.out.glob("embeddings/*.parquet"))
    if not full:
        vectors = pq.read_table(source, columns=["vector"]).replace_schema_metadata(None)
        pq.write_table(pa.table({"vector": vectors["vector"]}), source := tmp_path / "foreign.parquet")
    score_file(source, probe, tmp_path / "scored.parquet")
    rows = [row for row in table("score-columns") if full or row["when"] == "always"]
    assert arrow_types(tmp_path / "scored.parquet") == {row["name"]: row["type"] for row in rows}
    assert (b"geo" in (pq.read_schema(tmp_path / "scored.parquet").metadata or {})) == full


# --- ranking


@pytest.mark.parametrize("full", [True, False])
def test_a_ranking(made: Made, tmp_path: Path, full: bool):
    probe = made.probe if full else replace(made.probe, pixels=None, feature_names=())
    asked = Asked(top=3, above=50 if full else None)
    ranking = choose_chips(made.out, probe.save(tmp_path / "probe.safetensors"), asked)
    rank_run(made.out, ranking, out := tmp_path / "ranked")
    has = {"always", "with loss", *(("with features", "route") if full else ())}
    sheets = {f"{name}.png" for name in ranking.to_dict()["lists"]}
    files = {row["name"]: row["holds"] for row in table("rank-files") if row["when"] in has}
    assert {path.name for path in out.iterdir()} == files.keys() - {"LIST.png"} | sheets
    found = {name: kind.replace("large_", "") for name, kind in arrow_types(out / "ranked.parquet").items()}
    rows = {row["name"]: row["type"] for row in table("rank-columns") if row["when"] in has}
    assert found == rows and list(found) == list(rows)
    if full:
        columns = re.findall(r"`(\w+)`", files["clusters.parquet"])
        assert list(arrow_types(out / "clusters.parquet")) == [*columns, "geometry"]


# --- change


def year_of(made: Made, year: int, home: Path) -> Dated:
    """Copy a run as if it were of another year: other items, times, and a little noise."""
    out = Path(shutil.copytree(made.out, home / str(year)))
    for path in (out / "run.json", out / "items.json"):
        path.write_text(path.read_text("utf-8").replace("2024", str(year)))
    for path in out.glob("embeddings/*.parquet"):
        chips, rng = Embeddings.read(path), np.random.default_rng(year)
        noise_nd = 0.1 * rng.normal(size=chips.vectors_nd.shape).astype(np.float32)
        times_n = chips.times_n + np.timedelta64(365 * (year - 2024), "D")
        replace(chips, vectors_nd=chips.vectors_nd + noise_nd, times_n=times_n).write(path)
    return Dated.read(out, f"of {year}")


@pytest.mark.parametrize(("years", "later"), [(0, 0), (4, 0), (4, 1)])
def test_a_change(made: Made, tmp_path: Path, years: int, later: int):
    probe = made.probe.save(tmp_path / "probe.safetensors")
    dates = [year_of(made, year, tmp_path) for year in (2023, 2024, *range(2022, 2022 - years, -1))]
    further = [year_of(made, year, tmp_path) for year in range(2025, 2025 + later)]
    found = compare_runs(dates[0], dates[1], dates[2:], later=further, probe=probe)
    claim(out := tmp_path / "change", found.fingerprint)
    write_delta(found, out)
    has = {"always", "with features", *(["with a history"] * bool(years)), *(["with later dates"] * later)}
    assert {p.name for p in out.iterdir()} == {row["name"] for row in table("delta-files") if row["when"] in has}
    with rasterio.open(out / "delta.tif") as file:
        assert list(file.descriptions) == [row["name"] for row in table("delta-bands") if row["when"] in has]
        tags = {name for name in file.tags() if name.startswith("GEOELLE_")}
    assert tags == {row["name"] for row in table("delta-tags") if later or "later dates" not in row["meaning"]}
    assert_classes(out, ["flagged"] * bool(years) + ["state"] + ["status"] * later, tags)
    manifest = json.loads((out / "run.json").read_text("utf-8"))
    rows = {row["name"]: row["type"] for row in table("delta-run")}
    assert manifest.keys() == rows.keys() and all(fits(manifest[name], kind) for name, kind in rows.items())
    assert_checks(manifest["checks"])
    assert (manifest["alerts"] is None) == (not years)
    assert [row["state"] for row in table("delta-states")] == list(STATES)
    assert [row["status"] for row in table("delta-status")] == list(STATUSES)
    zone = manifest["zones"]["delta"]
    assert set(zone["status"] or {}) == set(STATUSES if later else ()) and len(zone["later"]) == later
    if years:
        rows = {row["name"]: row["type"] for row in table("delta-blocks")}
        blocks = asdict(BLOCKS) | {"false_share": BLOCKS.false_share}
        assert blocks.keys() == rows.keys() and all(fits(blocks[name], kind) for name, kind in rows.items())
    assert {row["name"]: row["type"] for row in table("alert-columns")} == alert_types(tmp_path, made)


def assert_checks(by_pair: Mapping[str, list[dict[str, str]]]) -> None:
    rows = table("delta-checks")
    for checks in by_pair.values():
        assert [check["what"] for check in checks] == [row["name"] for row in rows]
        assert {check["verdict"] for check in checks} <= {"same", "not recorded", "warn"}
    limits = {row["name"]: [float(n) for n in re.findall(r"(\d+)[°%]", row["else"])] for row in rows}
    assert limits["sun elevation"] == [guards.SUN_WARN_DEG, guards.SUN_REFUSE_DEG]
    assert limits["view angle"] == [guards.VIEW_WARN_DEG] and clear_ground.DATES_WARN == 2
    assert limits["clear ground"] == [100 * clear_ground.CLEAR_WARN]
    assert limits["valid pixels"] == [100 * clear_ground.VALID_WARN]


BLOCKS = BlockCheck(flagged=9, largest=4, p_flagged=0.005, p_largest=0.01, expected=0.5, most=2.0, blocks=16,
                    block_m=1600.0, range_m=1500.0, arrangements=10)  # fmt: skip


def assert_classes(out: Path, names: list[str], tags: set[str]) -> None:
    for name in names:
        rows = [row for row in table("delta-classes") if row["name"] == name]
        with rasterio.open(out / f"delta_{name}.tif") as file:
            assert file.profile["dtype"] == "uint8" and file.nodata == 255 and file.count == 1
            assert file.tags()["GEOELLE_CLASSES"] == ", ".join(f"{row['code']} {row['class']}" for row in rows)
            assert {key for key in file.tags() if key.startswith("GEOELLE_")} == tags | {"GEOELLE_CLASSES"}
            colours = {row["code"]: "#{:02x}{:02x}{:02x}".format(*file.colormap(1)[int(row["code"])]) for row in rows}
        style = ElementTree.parse(out / f"delta_{name}.qml").getroot().iter("paletteEntry")
        told = [(entry.get("value"), entry.get("label"), entry.get("color")) for entry in style]
        assert told == [(row["code"], row["class"], row["colour"]) for row in rows]
        assert colours == {row["code"]: row["colour"] for row in rows}
        asset = json.loads((out / "item.json").read_text("utf-8"))["assets"][name]
        assert [c["title"] for c in asset["classification:classes"]] == [row["class"] for row in rows]


def alert_types(home: Path, made: Made) -> dict[str, str]:
    """Return the columns of alerts of a change that has a flag."""
    cells = made.plan.cells[0][1]
    found = SimpleNamespace(
        addresses=cells, q_n=np.full(len(cells), 0.01), flag_n=np.ones(len(cells)), sign_n=np.ones(len(cells)),
        delta_n=np.ones(len(cells)), days_n2=np.full((len(cells), 2), 19_000.0), followed=None, shift=0.5,
    )  # fmt: skip
    alerts_of(found, items_before=["a"], items_after=["b"]).to_parquet(home / "alerts.parquet")
    return {name: kind.replace("large_", "") for name, kind in arrow_types(home / "alerts.parquet").items()}


# --- series


def test_a_series(tmp_path: Path):
    words = ("series", "--at", "22.152,45.205", "--dates", "2018-05/2018-06", "--catalog", "demo", "-o")
    result = CliRunner().invoke(cli, [*words, str(out := tmp_path / "series")])
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {row["name"] for row in table("series-files")}
    assert all(re.fullmatch(r"\d{8}T\d{6}-\d+\.parquet", p.name) for p in (out / "dates").iterdir())
    columns = {name: kind.replace("large_", "") for name, kind in arrow_types(out / "series.parquet").items()}
    assert list(columns.items()) == [(row["name"], row["type"]) for row in table("series-columns")]
    told, manifest = (json.loads((out / name).read_text("utf-8")) for name in ("series.json", "run.json"))
    for found, names in ((told, ["series"]), (manifest, ["series", "series-run"])):
        rows = {row["name"]: row["type"] for name in names for row in table(name)}
        assert found.keys() == rows.keys() and all(fits(found[key], kind) for key, kind in rows.items())
    hashed = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {"plan.json", "run.json"}
    assert manifest["sha256"].keys() == hashed and json.loads((out / "plan.json").read_text()).keys() == {
        "format", "version", "fingerprint",
    }  # fmt: skip


@pytest.mark.parametrize("event", [None, FIRST_DAY + 4 * YEAR_DAYS])
def test_a_place_of_a_series(event: float | None):
    days_n, values_n = simulate(0, dates=24)
    changed = values_n - (0 if event is None else np.where(days_n >= event, 1.0, 0.0))
    place = judge(Observed.of_values("here", days_n, changed, complexity_n=values_n), event).to_dict()
    rows = {row["name"]: row for row in table("series-place")}
    assert place.keys() == rows.keys() and all(fits(place[key], row["type"]) for key, row in rows.items())
    assert (place["recovery"] is None) == (event is None)
    for key in ("counts", "season", "drift", "recovery"):
        named = set(re.findall(r"`(\w+)`", rows[key]["meaning"])) - {"share"}
        assert place[key] is None or place[key].keys() == named, key


# --- rasters


def test_a_cog(made: Made):
    with rasterio.open(made.out / "difficulty.tif") as file:
        said = {**file.tags(), **file.tags(ns="IMAGE_STRUCTURE"), **{k: str(v) for k, v in file.profile.items()}}
        for row in table("cog-profile"):
            assert said[row["name"]] == row["value"], row["name"]
        bands = [(str(i), *pair) for i, pair in enumerate(zip(file.descriptions, file.units, strict=True), 1)]
        rows, unit = table("cog-bands"), made.probe.data["unit"]
        assert {row["when"] for row in rows} == {"always", "with intervals", "with a reach"}
        assert bands == [(row["name"], row["description"], row["unit"].replace("U", unit)) for row in rows]
        assert set(file.tags()) == {row["name"] for row in table("cog-tags")} | {"AREA_OR_POINT"}
        for i in range(1, file.count + 1):
            assert set(file.tags(i)) == {row["name"] for row in table("cog-statistics")}
        assert file.tags()["GEOELLE_SPACE"] == " | ".join(f"{k}={v}" for k, v in sorted(made.probe.space.items()))
        difficulty, complexity, excess, days, lower, upper, applicable, dissimilarity, density = file.read()
    finite = np.isfinite(difficulty)
    assert finite.any() and not finite.all()
    np.testing.assert_allclose(excess[finite], np.log(difficulty / complexity)[finite], rtol=1e-4, atol=1e-5)
    assert np.datetime64("1970-01-01") + int(np.nanmax(days)) == np.datetime64("2024-06-01")
    assert (lower[finite] < difficulty[finite]).all() and (difficulty[finite] < upper[finite]).all()
    assert (applicable[finite] == (dissimilarity[finite] <= np.float32(made.probe.reach.threshold))).all()
    assert np.isnan(applicable[~finite]).all() and np.isnan(dissimilarity[~finite]).all()
    assert ((density > 0) == (applicable == 1)).all() and np.isnan(density[~finite]).all()


def large(values: float | None = None) -> tuple:
    """Return a raster of two blocks and a bit, of one band, and its texts."""
    rows, cols = np.divmod(np.arange(600 * 530), 530)
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
    layer = np.full(len(rows), values) if values is not None else np.arange(len(rows), dtype=float)
    raster = paint(Addresses(lattice=lattice, rows=rows - 31_250, cols=cols + 3_125), {"difficulty": layer})
    return raster, {"descriptions": ("difficulty",), "units": ("ln",), "tags": {"GEOELLE_READING": "high"}}


def test_a_cog_without_finite_cells(tmp_path: Path):
    raster, texts = large(np.nan)
    with rasterio.open(write_cog(raster, tmp_path / "empty.tif", **texts)) as file:
        assert set(file.tags(1)) == {row["name"] for row in table("cog-statistics") if row["when"] == "always"}
        assert file.overviews(1) == [2]


def test_a_qgis_style(made: Made):
    root = ElementTree.parse(made.out / "difficulty.qml").getroot()
    with rasterio.open(made.out / "difficulty.tif") as file:
        low, high = np.nanpercentile(file.read(1).astype(float), [2, 98])
    said = {"the 2nd percentile of the finite cells": low, "the 98th percentile": high}
    said |= {"as classificationMin": low, "as classificationMax": high}
    for row in table("qml"):
        node = root if row["name"] == root.tag else root.find(row["name"].removeprefix(f"{root.tag}/"))
        assert node is not None, row["name"]
        found = node.get(row["attribute"]) if row["attribute"] else node.text
        value = row["value"].replace("`", "")
        if value in said:
            assert float(found) == pytest.approx(said[value], rel=1e-6)
        else:
            assert found == value, row
    items = root.findall("pipe/rasterrenderer/rastershader/colorrampshader/item")
    assert [float(items[0].get("value")), float(items[-1].get("value"))] == pytest.approx([low, high])


def test_a_zarr(made: Made):
    store = made.out / "difficulty.zarr"
    root = json.loads((store / "zarr.json").read_text("utf-8"))
    assert root["zarr_format"] == 3 and root["consolidated_metadata"]
    tags = {row["name"] for row in table("cog-tags")}
    assert tags <= set(root["attributes"])
    assert_keys({k: v for k, v in root["attributes"].items() if k not in tags}, "zarr-root")
    for convention in root["attributes"]["zarr_conventions"]:
        assert set(convention) == {"name", "uuid", "schema_url", "spec_url"}
    level = json.loads((store / "0" / "zarr.json").read_text("utf-8"))
    assert level["consolidated_metadata"]
    rows = table("zarr-arrays")
    arrays = dict(zarr.open_group(store / "0", mode="r").arrays())
    found = {name: (str(array.dtype), array.metadata.dimension_names) for name, array in arrays.items()}
    assert found == {row["name"]: (row["type"], tuple(row["dimensions"].split()) or None) for row in rows}
    for row in table("cog-bands"):
        array = json.loads((store / "0" / row["description"] / "zarr.json").read_text("utf-8"))
        assert_keys(array["attributes"], "zarr-band")
        assert [codec["name"] for codec in array["codecs"]] == ["bytes", "zstd"]
        assert max(array["chunk_grid"]["configuration"]["chunk_shape"]) <= 512


def test_the_levels_of_a_zarr(tmp_path: Path):
    raster, texts = large()
    store = write_zarr(raster, tmp_path / "large.zarr", **texts)
    root = json.loads((store / "zarr.json").read_text("utf-8"))["attributes"]
    assert set(root["multiscales"]) == {"layout", "resampling_method"}
    assert root["multiscales"]["resampling_method"] == "average"
    first, second = root["multiscales"]["layout"]
    assert_keys(first, "zarr-level")
    assert_keys(second, "zarr-level", has={"all but the first"})
    assert second["spatial:shape"] == [300, 265]
    for level in ("0", "1"):
        assert zarr.open_group(store / level, mode="r")["difficulty"].chunks[0] == min(512, 600 >> int(level))


# --- STAC item


def test_a_stac_item(made: Made):
    item = made.json("item.json")
    assert item["stac_version"] == "1.1.0"
    named = {re.search(r"/(\w+)/v(\d\.\d)", url).groups() for url in item["stac_extensions"]}
    assert named == {("projection", "2.0"), ("raster", "2.0"), ("file", "2.1")}
    assert_keys(item["properties"], "item-properties", has={"map"})
    names = {"NAME": "difficulty", "REPORT": "report"}
    rows = {row["name"]: row for row in table("item-assets")}
    assert set(item["assets"]) == set(rows)
    for key, asset in item["assets"].items():
        stem, suffix = rows[key]["file"].split(".")
        assert asset["href"] == f"./{names[stem]}.{suffix}"
        assert (asset["type"], asset["roles"]) == (rows[key]["type"], rows[key]["roles"].split())
        whole, raster = key != "zarr", key in ("difficulty", "zarr")
        assert_keys(asset, "item-asset-fields", has={*(["a file"] * whole), *(["a raster"] * raster)})
    for band in item["assets"]["difficulty"]["bands"]:
        assert {"name", "description", "statistics"} <= set(band) <= {"name", "description", "unit", "statistics"}


def test_a_period_is_stated_by_its_ends(tmp_path: Path):
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
    facts = ItemFacts(id="x", start=start, end=end, descriptions=("d",), units=("",))
    path = write_item(tmp_path / "period.json", facts, large()[0], files=[], sources=[])
    properties = json.loads(path.read_text("utf-8"))["properties"]
    assert_keys(properties, "item-properties", has={"a period"})
    assert properties["datetime"] is None


# --- sensors and endpoints


@pytest.mark.parametrize("path", sorted((catalogs_path() / "sensors").glob("*.json")), ids=lambda p: p.stem)
def test_sensors(path: Path, tmp_path: Path):
    sensor = json.loads(path.read_text("utf-8"))
    assert_keys(sensor, "sensor")
    assert sensor["name"] == path.stem
    if sensor["mask"]:
        assert_keys(sensor["mask"], "sensor-mask")
    for band in sensor["bands"]:
        assert_keys(band, "sensor-band")
    assert_all_needed(sensor, tmp_path, load_sensor)


@pytest.mark.parametrize("path", sorted((catalogs_path() / "endpoints").glob("*.json")), ids=lambda p: p.stem)
def test_endpoints(path: Path, tmp_path: Path):
    endpoint = json.loads(path.read_text("utf-8"))
    assert_keys(endpoint, "endpoint")
    assert endpoint["name"] == path.stem
    for offered in endpoint["sensors"].values():
        assert_keys(offered, "endpoint-sensor", has={"the sensor's differs"} if "auth" in offered else ())
    assert_all_needed(endpoint, tmp_path, load_endpoint)


def assert_all_needed(document: dict, directory: Path, load) -> None:
    """Leave out one key after the other: each `always` is needed to load the file."""
    for key in document:
        path = directory / "lacking.json"
        path.write_text(json.dumps({k: v for k, v in document.items() if k != key}))
        with pytest.raises(CatalogError, match=key):
            load(path)


def test_every_table_of_the_page_is_tested():
    source = Path(__file__).read_text("utf-8")
    assert [name for name in TABLES if f'"{name}"' not in source] == []
    assert len(TABLES) == FORMATS.count("<!-- table:")
