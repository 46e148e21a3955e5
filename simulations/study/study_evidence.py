"""Writes the data of a study page's curves: each target's test patients, as predicted by the first seed's models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedsteph.client.data.bags import Cohort
from fedsteph.client.target.evidence import Evidence, write_evidence
from fedsteph.simulations.study.gather import Prepared, shown_unit
from fedsteph.simulations.study.plan import Unit

FOLDER = "evidence"
_METHODS = ("local", "steph", "panel", "deployed")  # for each method the study's first row is used


def write_study_evidence(prepared: Prepared, out: Path) -> None:
    """Write a file with the complete rows of each target whose local row is complete; it holds patients' outcomes."""
    for target in prepared.targets:
        found = _evidence(prepared, target)
        path = out / FOLDER / f"{target}.npz"
        if found is None:
            path.unlink(missing_ok=True)  # a file of other seeds, or of rows that were removed
        else:
            write_evidence(path, found)


def _evidence(prepared: Prepared, target: str) -> Evidence | None:
    rows, units = _complete(prepared, target)
    if "local" not in rows:
        return None
    workspace = prepared.worker.workspace(target, units["local"].recipe)
    tests = [workspace.test_part(fold) for fold in range(len(rows["local"]))]
    sources = units["steph"].sources if "steph" in rows else ()
    nothing = {key: np.full((sum(map(len, tests)), 0), np.nan) for key in ("w", "lam")}
    return Evidence(
        **_patients(tests),
        hazards={row: _joined(cells, "hazards") for row, cells in rows.items()},
        cut_off={row: np.array([float(cell["cut_off"]) for cell in cells]) for row, cells in rows.items()},
        sources=tuple(sources),
        **({key: _joined(rows["steph"], key) for key in nothing} if sources else nothing),
    )


def _complete(prepared: Prepared, target: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Unit]]:
    """By method, the arrays of all folds' cells, without methods that lack one, and the unit of a cell."""
    worker, seed = prepared.worker, prepared.study.file.seeds[0]
    by_row: dict[str, list[dict[str, Any]]] = {}
    units: dict[str, Unit] = {}
    first = {row.method: row.name for row in reversed(prepared.study.rows) if row.method in _METHODS}
    for cell in prepared.plan.cells:
        method = cell.unit.method
        if (cell.row, cell.target, cell.seed) == (first.get(method), target, seed):
            units[method] = cell.unit
            unit = shown_unit(worker, cell.unit)
            by_row.setdefault(method, []).append({} if unit is None else worker.arrays(unit))
    # Cells of an earlier version and failed cells have no cut-off.
    return {row: cells for row, cells in by_row.items() if all("cut_off" in arrays for arrays in cells)}, units


def _patients(tests: Sequence[Cohort]) -> dict[str, Any]:
    return {
        "ids": np.array([patient.id for test in tests for patient in test.patients], dtype=np.str_),
        "fold": np.repeat(np.arange(len(tests)), [len(test) for test in tests]),
        "times": np.concatenate([test.times for test in tests]),
        "events": np.concatenate([test.events for test in tests]),
    }


def _joined(cells: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.concatenate([cell[key] for cell in cells])
