"""The pages match the code: generated ones are fresh, links resolve, words and defaults are those that are defined."""

import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import click
import pytest

from geoelle.area import Area
from geoelle.catalog import CLOUD_MAX, LOOKS
from geoelle.cli import cli
from geoelle.models import MODELS, model_card
from geoelle.plan import ASK_BYTES, Job

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for folder in (ROOT, ROOT / "catalogs", ROOT / "docs") for p in folder.glob("*.md")) + sorted(
    (ROOT / "docs" / "decisions").glob("*.md")
)
COMMANDS = list(cli.commands.items())
WORDS = (
    "Area Lattice Address Cell Offset Zone Block Place",
    "Item Asset Sensor Endpoint Look Frame GSD Window Nodata Valid",
    "Card Chip Tile Patch Token Embedding Space Pooling Masking Twin",
    "Loss Proxy Probe Difficulty Dense Complexity Excess Residual Surprise Percentile",
    "Delta History Shift State Status Alert Series Season Departure Drift Recovery Reading Cluster Route",
    "Fold Holdout Buffer kNNDM Nulls Interval Spread Coverage Smearing Dissimilarity Reach Applicable Density",
    "Job Plan Part Run Fingerprint Manifest",
)
PROXY_AS_LOSS = re.compile(
    r"\b(prox(y|ies)|(token|patch|feature|embedding)[ -]variance|distillation|consistency|augmentation)"
    r"([ -]based)?[ -]loss(es)?\b|\bloss[ -]prox(y|ies)\b|\bproxy (for|of) (the |a )?loss\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the fragments of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.M)
    bare = (re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head).lower()) for head in heads)
    return {head.replace(" ", "-") for head in bare}


# --- generated pages


def test_generated_pages_are_fresh(make_docs: ModuleType, capsys: pytest.CaptureFixture[str]):
    assert make_docs.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_named(make_docs: ModuleType, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(make_docs, "DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    assert make_docs.main([]) == 0
    assert make_docs.main(["--check"]) == 0
    (tmp_path / "docs" / "cli.md").write_text("old")
    assert make_docs.main(["--check"]) == 1
    assert (tmp_path / "docs" / "cli.md").read_text() == "old"
    said = capsys.readouterr().err
    assert "docs/cli.md" in said and "models.md" not in said


def test_the_cli_page_has_every_command_in_order(make_docs: ModuleType):
    page = make_docs.cli_page()
    assert re.findall(r"^## geoelle (\w+)$", page, re.M) == [name for name, _ in COMMANDS]
    for _, command in COMMANDS:
        for option in (p for p in command.params if isinstance(p, click.Option)):
            assert option.opts[-1] in page


def test_the_models_page_calls_a_proxy_by_its_name(make_docs: ModuleType):
    card = model_card("nano")
    other = replace(card, name="other", target="token-variance", objective="variance of patch tokens")
    page = make_docs.models_page([card, other])
    of_nano, of_other = page.split("## other")
    assert "true loss: " in of_nano
    assert "| target | proxy, token-variance: variance of patch tokens |" in of_other
    assert "true loss" not in of_other
    assert set(re.findall(r"^## ([\w.-]+)$", make_docs.pages()[ROOT / "docs" / "models.md"], re.M)) == set(MODELS)


# --- help and defaults


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_shows_an_example(name: str, command: click.Command):
    lines = inspect.cleandoc(command.help or "").splitlines()
    examples = [line.split() for line in lines if line.startswith("  geoelle ")]
    assert examples and any(line.startswith("Example") for line in lines)
    for program, verb, *words in examples:
        assert (program, verb) == ("geoelle", name)
        command.make_context(name, words)  # parses: no such option ever was documented


def test_the_group_shows_an_example():
    assert "Example" in cli.help


def test_every_option_is_explained_or_plain():
    unexplained = {
        f"{name} {option.opts[-1]}"
        for name, command in COMMANDS
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    }
    assert unexplained <= {
        "embed --precision", "map --precision", "delta --precision", "series --precision",
        "fit --folds", "fit --out", "fit --overwrite", "score --overwrite",
        "score --probe",
    }  # fmt: skip


def test_defaults_of_options_are_the_constants():
    job = Job(area=Area.parse(bbox="4,52,5,53", dates="2024"))
    assert (job.cloud_max, job.looks) == (CLOUD_MAX, LOOKS)
    for name, more in (("search", []), ("embed", ["-o", "out"]), ("map", ["-o", "out"])):
        given = cli.commands[name].make_context(name, ["--dates", "2024", *more]).params
        assert (given["cloud_max"], given["looks"]) == (CLOUD_MAX, LOOKS)
        shared = {field.name for field in fields(Job)} & set(given) - {"twins"}  # that of twins depends on --loss
        assert {key: given[key] for key in shared} == {key: getattr(job, key) for key in shared}
    assert f"more than {ASK_BYTES / 1e9:g} GB" in {p.name: p for p in cli.commands["map"].params}["yes"].help


# --- links


def links() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if not re.match(r"[a-z]+:", target):
                yield page.relative_to(ROOT).as_posix(), target


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_relative_links_resolve(page: str):
    broken = []
    for target in (target for name, target in links() if name == page):
        path, _, fragment = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        if not there.exists() or (fragment and there.suffix == ".md" and fragment not in anchors(there)):
            broken.append(target)
    assert broken == []


# --- words


def test_the_glossary_has_every_word_once():
    page = prose(ROOT / "docs" / "glossary.md")
    assert re.findall(r"^### (.+)$", page, re.M) == " ".join(WORDS).split()
    for text in re.split(r"^### .+$", page, flags=re.M)[1:]:
        assert re.sub(r"^## .*", "", text, flags=re.M).strip()


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_no_page_calls_a_proxy_loss(page: str):
    assert [match[0] for match in PROXY_AS_LOSS.finditer((ROOT / page).read_text("utf-8"))] == []


@pytest.mark.parametrize("text", ["the proxy loss", "token-variance loss", "a loss proxy", "distillation losses"])
def test_that_check_would_see_one(text: str):
    assert PROXY_AS_LOSS.search(text)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_decisions_are_short_and_complete(page: Path):
    text = page.read_text("utf-8")
    assert len(text.splitlines()) <= 40
    assert text.startswith(f"# {int(page.stem[:4])}. ")
    assert re.findall(r"^## (.+)$", text, re.M) == ["Context", "Decision", "Consequence"]
