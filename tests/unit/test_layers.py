"""A module imports only from strictly lower layers; the table here is the one in docs/architecture.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "geoelle"
LAYERS = (
    "errors",
    "access bootstrap change change_states complexity files geoparquet holdout lattice moments resample scene "
    "seasonal vectors models.masks models.networks models.weights",
    "applicability area assets claims detection drift guards knndm looks patches raster ridge scores style "
    "variogram models.clay_net models.dofa_net models.galileo_net models.olmoearth_net models.presto_net "
    "models.prithvi_net models.scalemae_net",
    "baselines batches change_blocks chips class_raster density domain embeddings figures intervals item places "
    "probe_file route stac",
    "catalog diagnostics fold_figures geodataset harmonise held probe quicklook sample training_figures models.base",
    "dense diagnostic_figures encode large measures pairs read report scoring shipped trial trust models.clay "
    "models.dino models.dofa models.fgmae models.galileo models.nano models.olmoearth models.presto models.prithvi "
    "models.remoteclip models.satclip models.satmae models.scalemae models.vitmae",
    "bands delta diagnostic_report embed extremes models nulls thumbnails",
    "alerts change_baselines clear_ground delta_bands dense_parts fit_page gallery hub plan series_dates",
    "alert_pictures array_grid change_scores fitting run series series_plan",
    "console dated delta_plan describe pair_fit products rank series_figure series_run",
    "delta_product options series_product",
    "delta_commands probe_commands series_commands",
    "__init__ accessor cli",
)
LAYER = {module: layer for layer, modules in enumerate(LAYERS) for module in modules.split()}


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Yield the modules a file imports anywhere in it, those it names in a text for importlib included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively, line {node.lineno}"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant):
            names = [str(node.value)]
        yield from (found for name in names if (found := name.removeprefix("geoelle.")) != name and found in LAYER)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_of)
def test_a_module_imports_only_from_lower_layers(path: Path):
    module = module_of(path)
    assert module in LAYER, f"{module} has no layer; add it here and to docs/architecture.md"
    assert [name for name in imported(path) if name != module and LAYER[name] >= LAYER[module]] == []


def test_the_architecture_page_has_the_same_table():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert {name: int(layer) for layer, name in re.findall(r"^\| (\d+) \| `([\w.]+)` \| ", page, re.M)} == LAYER
    assert set(LAYER) == {module_of(path) for path in PACKAGE.rglob("*.py")}
