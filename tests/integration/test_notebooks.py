"""Every notebook runs from top to bottom in the interpreter of the tests, offline, and is kept without its outputs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from rio_cogeo.cogeo import cog_validate

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
WRITES = {"01_map_a_coast": {"coast.tif", "coast-probe.safetensors"}, "02_what_changed": {"forest"}}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a kernel that is this interpreter, whatever `python3` is to jupyter here."""
    folder = tmp_path / "jupyter" / "kernels" / "this-python"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "this", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return folder.name


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(WRITES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear all outputs, then commit"
    assert not any(re.search(r"(?<![\w.])/(home|root|tmp|Users)/", cell.source) for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, kernel: str) -> None:
    notebook, folder = nbformat.read(path, as_version=4), tmp_path / "here"
    folder.mkdir()
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=250, kernel_name=kernel, resources=place).execute()
    said = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in said if output.output_type == "stream" and output.name == "stderr"] == []
    assert sum("image/png" in output.get("data", {}) for output in said) >= 3
    assert {file.name for file in folder.iterdir()} == WRITES[path.stem]
    for file in folder.glob("*.tif"):
        assert cog_validate(file, strict=True) == (True, [], [])
