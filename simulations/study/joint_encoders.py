"""Trains encoders on all sites on one machine: FedAvg and FedProx as in a federation, and one model on pooled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedsteph.client.data.bags import BagCache, Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.sharing.averaging_rounds import train_round
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.local import train_local
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.host import atomic
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.tensor_file import stamped
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.server.aggregation import Update, run_rounds
from fedsteph.simulations.run.in_process import identify


def train_together(method: str, fold: int, workspaces: Sequence[Workspace], path: Path) -> None:
    """Train ``fedavg``, ``fedprox`` or ``pooled`` on all sites' training parts of a fold, into a vector file."""
    if method == "pooled":
        atomic.write_bytes(path, stamped(write_vector(_pooled(fold, workspaces, path.with_suffix(".checkpoint")))))
        return
    identify()
    recipe = workspaces[0].recipe

    def ask(round_: int, encoders: Mapping[str, bytes]) -> dict[int, Update]:
        updates = {}
        for node, workspace in enumerate(workspaces):
            folder = workspace.folder / "rounds" / path.stem
            content = train_round(workspace, folder, method, round_, encoders, float("inf"), folds=(fold,))
            updates[node] = Update(content, Policy().weight(len(workspace.cohort)))
        return updates

    atomic.write_bytes(path, stamped(run_rounds(method, recipe.comparators, ask)[str(fold)]))


def _pooled(fold: int, workspaces: Sequence[Workspace], checkpoint: Path) -> TaskVector:
    """One model on the pooled patients of all sites, as an upper bound; in practice patient data may not be pooled."""
    patients: list[Patient] = []
    files: dict[str, Path] = {}
    for workspace in workspaces:
        train, name = workspace.train_part(fold), workspace.site.name
        for patient in train.patients:
            slides = tuple(f"{name}/{slide}" for slide in patient.slides)
            files |= dict(zip(slides, train.paths(patient), strict=True))
            patients.append(Patient(f"{name}/{patient.id}", patient.t, patient.e, slides))
    first = workspaces[0]
    cache = BagCache(first.site.file.data.cache_gib * 2**30)
    cohort = Cohort(patients, files, first.cohort.width, cache).under(first.cohort.rule)
    run = TrainingRun(first.device, checkpoint)
    model = train_local(cohort, first.recipe, label=f"pooled fold {fold}", run=run)
    return TaskVector.between(model, pinned_model(first.recipe.model))
