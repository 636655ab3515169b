"""The page of the demo: every product with its picture, what was published, and no hole where something is missing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from geoelle.area import Addresses, Lattice
from geoelle.bootstrap import Interval
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import GeoelleError, ProbeError
from geoelle.pairs import PairColumns, read_pairs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PNG = (DOCS / "img" / "checkpoints.png").read_bytes()


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import demo_page

    return demo_page


@pytest.fixture
def out(page, tmp_path: Path) -> Path:
    """A demo without its numbers: a page and a picture a product, and the scores of both fits."""
    for product in page.PRODUCTS:
        folder = tmp_path / "out" / product.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / product.page).write_text(f"<title>{product.folder}</title>")
        (folder / product.picture).write_bytes(PNG)
    for name in ("fit", "pairs"):
        scores = {
            "holdout": f"blocks of {name}",
            "tables": [{"sentence": f"log-loss: ELLE of {name} loses to <trees>"}],
        }
        (tmp_path / "out" / name / "diagnostics.json").write_text(json.dumps({"scores": scores}))
    return tmp_path / "out"


def bench_and_rows(page) -> tuple[SimpleNamespace, list]:
    at = {name: 0.55 + 0.05 * i for i, name in enumerate(page.flags.SCORES)}
    auroc = {name: Interval(value=v, low=v - 0.1, high=v + 0.1) for name, v in at.items()}
    rows = [page.flags.Row(fault=f, strength="1 px", auroc=auroc, change=auroc) for f in ("none", "stripes", "noise")]
    return SimpleNamespace(lent=[0] * 7, clean=[0] * 8, archive_nd=np.zeros((9, 2))), rows


def rendered(page, out: Path, docs: Path = DOCS) -> str:
    bench, rows = bench_and_rows(page)
    return page.render(out, docs, rows, bench)


def test_every_product_has_its_picture_its_sentence_and_a_link_that_leads_there(page, out: Path):
    text = rendered(page, out)
    for product in page.PRODUCTS:
        assert product.title in text and page.jinja2.filters.escape(product.sentence) in text
    links = re.findall(r'href="([^"#]+)"', text)
    assert len(links) >= len(page.PRODUCTS) + 5
    assert [link for link in links if not (out / link).exists()] == []  # those into docs/ too
    assert text.count("data:image/png;base64,") == len(page.PRODUCTS) + 3
    assert "Held out: blocks of pairs." in text and "Log-loss: ELLE of fit loses to &lt;trees&gt;" in text
    assert "http" not in re.sub(r'"data:[^"]*"', "", text)  # nothing is fetched


def test_what_does_not_hold_comes_first_and_is_what_the_files_say(page, out: Path):
    text = rendered(page, out)
    first, rest = text.split('<h2 class="part"', 1)
    assert first.count("loses to pixel") + first.count("ties with") >= 1 and "What does not hold" in first
    told = json.loads((DOCS / "downstream.json").read_text())["results"]
    assert f"useful for {sum(task['useful'] for task in told)} of {len(told)} pairs" in first
    assert "difficulty is the best score for 0 of 2 faults" in first
    for script in ("evaluate.py", "downstream.py", "evaluate_flags.py", "train_nano.py", "plot_training.py"):
        assert f"scripts/{script}" in rest
    nano = json.loads((DOCS / "evaluation.json").read_text())["nano"]["scores"]["tables"][0]
    r = nano["rows"][0]["metrics"]["r"]
    assert f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" in rest
    assert "<td>blank</td><td>100% of it</td>" in rest and "**" not in rest
    assert "800 steps" in rest and "not that of the weights that ship" in rest


def test_a_folder_that_the_demo_grew_since_is_shown(page, out: Path):
    (out / "atlas").mkdir()
    (out / "atlas" / "report.html").write_text("<html><title>Harder &amp; harder</title></html>")
    with pytest.raises(GeoelleError, match="atlas cannot be shown"):
        page.products_of(out)
    for name in ("a.png", "atlas.png"):
        (out / "atlas" / name).write_bytes(PNG)
    *known, grown = page.products_of(out)
    assert len(known) == len(page.PRODUCTS)
    assert (grown.title, grown.links) == ("Harder & harder", (("Open its report", "atlas/report.html"),))


@pytest.mark.parametrize("lost", ["fit/scores.png", "delta/report.html", "rank/gallery.html", "difficulty.png"])
def test_a_product_that_is_missing_is_no_hole(page, out: Path, lost: str):
    (out / lost).unlink()
    with pytest.raises(GeoelleError, match=rf"{lost} \(no such file\); run make demo"):
        rendered(page, out)


@pytest.mark.parametrize(
    "lost", ["evaluation.json", "evaluation.md", "downstream.json", "img/checkpoints.png", "nano-checkpoints.jsonl"]
)
def test_a_published_file_that_is_missing_or_of_another_kind_is_no_hole(page, out: Path, tmp_path: Path, lost: str):
    docs = tmp_path / "docs"
    (docs / "img").mkdir(parents=True)
    names = (
        "evaluation.json",
        "evaluation.md",
        "downstream.json",
        "nano-checkpoints.jsonl",
        "img/checkpoints.png",
        "img/downstream.png",
        "img/delta-power.png",
        "improve.json",
    )
    for name in names:
        shutil.copy(DOCS / name, docs / name)
    rendered(page, out, docs)
    (docs / lost).unlink()
    with pytest.raises(GeoelleError, match=r"no such file\); run scripts/"):
        rendered(page, out, docs)
    if lost == "evaluation.md":
        (docs / lost).write_text("# E\n\n## Data-quality flags\n\nno table\n\n## The demo scene\n\n| a | b |\n")
        with pytest.raises(GeoelleError, match="no table under '## Data-quality flags'"):
            rendered(page, out, docs)
    if lost == "evaluation.json":
        (docs / lost).write_text("{")
        with pytest.raises(GeoelleError, match=r"evaluation\.json .*; run scripts/evaluate\.py"):
            rendered(page, out, docs)
        (docs / lost).write_text('{"nano": {"title": "nano"}}')
        with pytest.raises(GeoelleError, match="published numbers"):
            rendered(page, out, docs)


def test_faulty_chips_are_thinned_evenly(page):
    rows = np.arange(100, 1_000)
    assert page.flags._thinned(rows, None) is rows
    kept = page.flags._thinned(rows, 160)
    assert len(kept) == 160 and kept[0] == 100 and kept[-1] == 999 and np.ptp(np.diff(kept)) <= 1
    assert page.flags._thinned(rows[:5], 160).tolist() == rows[:5].tolist()


def test_pairs_are_plain_arrays_of_the_valid_chips(page, tmp_path: Path):
    from demo_pairs import FEATURES, pairs_of

    n, rng = 12, np.random.default_rng(0)
    space = dict.fromkeys(("model", "weights_sha256", "pooling", "target", "masking"), "x")
    valid = np.arange(n) != 3
    vectors = np.where(valid[:, None], rng.normal(size=(n, 4)), np.nan).astype(np.float32)
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=32)
    given = {
        "addresses": Addresses(lattice=lattice, rows=[-9] * n, cols=range(n)),
        "vectors_nd": vectors, "features_nf": vectors[:, :3], "valid_n": valid, "valid_fraction_n": valid.astype(float),
        "times_n": np.full(n, "2024-06-01", "datetime64[s]"), "items_n": ["a"] * n,
        "header": Header(space=space, sensor="s", bands=("red",), feature_names=FEATURES[::-1]),
    }  # fmt: skip
    with pytest.raises(ProbeError, match="embed it with geoelle embed --loss"):
        pairs_of(Embeddings(**given))
    loss = np.where(valid, 0.5 + np.arange(n), np.nan).astype(np.float32)
    table = Embeddings(**given, loss_n=loss, loss_sd_n=loss * 0.1)
    np.savez(tmp_path / "pairs.npz", **pairs_of(table))
    columns = PairColumns(lonlat=("lon", "lat"), features=FEATURES)
    pairs = read_pairs(tmp_path / "pairs.npz", columns, block_m=2_000)
    np.testing.assert_array_equal(pairs.vectors_nd, vectors[valid])
    np.testing.assert_array_equal(pairs.loss_n, loss[valid])
    np.testing.assert_allclose(pairs.lonlat_n2, table.addresses.lonlat_n2[valid])
    np.testing.assert_array_equal(pairs.features_nf, vectors[valid][:, 2::-1])
    assert pairs.notes == ()
