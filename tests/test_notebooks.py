"""The notebooks run from their first cell to their last, and show the kinds of things that they were saved with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[1] / "docs"


def shown(notebook: nbformat.NotebookNode) -> list[list[Any]]:
    """The kinds of every code cell's outputs."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[sorted(output.get("data", {output.output_type: None})) for output in cell.outputs] for cell in cells]


@pytest.mark.parametrize("name", ["tutorial", "take_home"])
def test_it_runs_and_shows_what_it_was_saved_with(name, tmp_path) -> None:
    saved, again = (nbformat.read(DOCS / f"{name}.ipynb", as_version=4) for _ in range(2))
    NotebookClient(again, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shown(again) == shown(saved) and sum(map(bool, shown(saved))) >= 5
    assert not [cell for cell in saved.cells if "/tmp" in str(cell)]
