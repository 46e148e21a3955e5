"""docs/tutorial.ipynb runs from its first cell to its last, and shows the kinds of things that it was saved with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def shown(notebook: nbformat.NotebookNode) -> list[list[Any]]:
    """The kinds of every code cell's outputs."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[sorted(output.get("data", {output.output_type: None})) for output in cell.outputs] for cell in cells]


def test_it_runs_and_shows_what_it_was_saved_with(tmp_path) -> None:
    saved, again = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    NotebookClient(again, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shown(again) == shown(saved) and sum(map(bool, shown(saved))) >= 6
    assert not [cell for cell in saved.cells if "/tmp" in str(cell)]
