"""Every notebook runs from top to bottom, as committed, without a network and without stored outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["01_map_a_coast.ipynb"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear all outputs before committing"
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    said = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "r of the logarithms: 0.9" in said
