"""Trains a target's comparators on one fold, each once, and saves the test patients' hazards at the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsteph.client.methods.registry import REGISTRY
from fedsteph.client.methods.task import Task
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.host import checked_file
from fedsteph.common.host.progress import Progress, part, silent


@dataclass(frozen=True)
class Compared:
    """One comparator: hazards ``(n_test_patients, n_bins)``, and how many parameters it learned at the target."""

    hazards: np.ndarray
    learnable: int


def comparators_of(task: Task) -> tuple[str, ...]:
    """The recipe's comparators, without those whose rounds with the other sites did not take place."""
    asked = task.recipe.comparators.methods
    return tuple(name for name in asked if METHODS[name].needs != "rounds" or name in task.globals)


def compare(task: Task, progress: Progress = silent, names: Sequence[str] | None = None) -> dict[str, Compared]:
    """Train and apply comparators on one fold, by default :func:`comparators_of`, or load their saved results.

    Progress is in comparators.
    """
    found: dict[str, Compared] = {}
    names = comparators_of(task) if names is None else names
    for i, name in enumerate(names):
        path = task.folder / f"{name}.npz"
        kept = checked_file.kept(path, _kept)
        if kept is None:
            trained = REGISTRY[name](task, part(progress, i, len(names)))
            test = task.workspace.test_part(task.fold)
            hazards = predict_hazards(trained.model, test, task.device)
            checked_file.write_arrays(path, hazards=hazards, learnable=trained.learnable)
            kept = Compared(hazards, trained.learnable)
        found[name] = kept
        progress(i + 1, len(names))
    return found


def _kept(path: Path) -> Compared:
    arrays = checked_file.read_arrays(path)
    return Compared(arrays["hazards"], int(arrays["learnable"]))
