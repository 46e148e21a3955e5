"""Writes the data of a study page's curves: each target's test patients, as predicted by the first seed's models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedsteph.client.target.evidence import Evidence, write_evidence
from fedsteph.simulations.study.gather import Prepared, shown_unit
from fedsteph.simulations.study.plan import Unit

FOLDER = "evidence"
_METHODS = ("local", "steph", "deployed")  # for each method the study's first row is used


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
    worker, seed = prepared.worker, prepared.study.file.seeds[0]
    by_row: dict[str, list[dict[str, Any]]] = {}
    units: dict[str, Unit] = {}
    first = {row.method: row.name for row in reversed(prepared.study.rows)}
    for cell in prepared.plan.cells:
        method = cell.unit.method
        if method not in _METHODS or (cell.row, cell.target, cell.seed) != (first[method], target, seed):
            continue
        units[method] = cell.unit
        unit = shown_unit(worker, cell.unit)
        arrays = {} if unit is None else worker.arrays(unit)
        by_row.setdefault(method, []).append(arrays)
    # Cells of an earlier version and failed cells have no cut-off.
    rows = {row: cells for row, cells in by_row.items() if all("cut_off" in arrays for arrays in cells)}
    if "local" not in rows:
        return None
    tests = [worker.workspace(target, units["local"].recipe).test_part(fold) for fold in range(len(rows["local"]))]
    n, sources = sum(len(test) for test in tests), () if "steph" not in rows else units["steph"].sources
    merged = {
        key: np.full((n, 0), np.nan) if not sources else np.concatenate([cell[key] for cell in rows["steph"]])
        for key in ("w", "lam")
    }
    return Evidence(
        ids=np.array([patient.id for test in tests for patient in test.patients], dtype=np.str_),
        fold=np.repeat(np.arange(len(tests)), [len(test) for test in tests]),
        times=np.concatenate([test.times for test in tests]),
        events=np.concatenate([test.events for test in tests]),
        hazards={row: np.concatenate([cell["hazards"] for cell in cells]) for row, cells in rows.items()},
        cut_off={row: np.array([float(cell["cut_off"]) for cell in cells]) for row, cells in rows.items()},
        sources=tuple(sources),
        **merged,
    )
