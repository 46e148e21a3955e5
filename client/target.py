"""What a target does with the vectors it received: merge fold by fold, keep the models, write the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from client.fold import enhance_fold, steps
from client.methods.task import Task
from client.model_card import write_card
from client.results import DEPLOYED, target_result
from client.workspace import Workspace
from common import atomic
from common.task_vector import TaskVector

RESULT_FILE = "result.json"


def enhance_target(
    workspace: Workspace,
    vectors: Mapping[str, TaskVector],
    report: Callable[[float, float], None],
    globals_by_fold: Sequence[Mapping[str, TaskVector]] = (),
) -> dict[str, Any]:
    """Make an enhanced model per fold out of the site's own and the received vectors.

    The site's own vector is never rounded to the recipe's dtype: it does not travel, so nothing would be saved, and
    M0 + tau_t must stay the local model that every other method is compared with, and that lam = 1 gives back.

    Args:
        vectors: received task vectors by source.
        report: told how many trainings are done, and of how many.
        globals_by_fold: per fold, encoders trained together with the other sites, by method.

    Returns:
        the target's result (:func:`client.results.target_result`), which is also kept on its disk.
    """
    folder = workspace.folder / f"merge-{vectors_digest([vectors, *globals_by_fold])[:12]}"
    together = list(globals_by_fold) or [{} for _ in workspace.splits]
    tasks = [
        Task(workspace, fold, vectors, folder / f"fold_{fold}", together[fold]) for fold in range(len(workspace.splits))
    ]
    n_folds, per_fold = len(tasks), steps(tasks[0])
    folds = []
    for fold, task in enumerate(tasks):

        def on_step(done: float, fold: int = fold) -> None:
            report(fold * per_fold + done, n_folds * per_fold)

        report(fold * per_fold, n_folds * per_fold)
        folds.append(enhance_fold(task, on_step))
    report(n_folds * per_fold, n_folds * per_fold)
    result = target_result(workspace, folds, list(vectors))
    for k in range(n_folds):
        write_card(workspace.fold_folder(k) / "local.safetensors", workspace, result, "local", k)
        write_card(folder / f"fold_{k}" / "steph.safetensors", workspace, result, "steph", k)
        chosen = folds[k].model
        for made in (chosen, chosen.with_suffix(".md")):
            atomic.write_bytes(workspace.site.state / DEPLOYED / f"fold_{k}{made.suffix}", made.read_bytes())
    atomic.write_json(workspace.site.state / RESULT_FILE, result)
    return result


def vectors_digest(parts: Sequence[Mapping[str, TaskVector]]) -> str:
    """SHA-256 of vectors and of whose they are: work on other vectors is other work."""
    hasher = hashlib.sha256()
    for part in parts:
        for name, vector in part.items():
            hasher.update(name.encode() + b"\n" + vector.flat().numpy().tobytes())
    return hasher.hexdigest()
