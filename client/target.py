"""What a target does with the vectors it received: merge fold by fold, keep the models, write the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from client.fold import enhance_fold, steps
from client.model_card import write_card
from client.results import DEPLOYED, target_result
from client.workspace import Workspace
from common import atomic
from common.task_vector import TaskVector

RESULT_FILE = "result.json"


def enhance_target(
    workspace: Workspace, vectors: Mapping[str, TaskVector], report: Callable[[float, float], None]
) -> dict[str, Any]:
    """Make an enhanced model per fold out of the site's own and the received vectors.

    Args:
        vectors: received task vectors by source.
        report: told how many trainings are done, and of how many.

    Returns:
        the target's result (:func:`client.results.target_result`), which is also kept on its disk.
    """
    folder = workspace.folder / f"merge-{_digest(vectors)[:12]}"
    n_folds, per_fold = len(workspace.splits), steps(workspace)
    folds = []
    for fold in range(n_folds):

        def on_step(done: float, fold: int = fold) -> None:
            report(fold * per_fold + done, n_folds * per_fold)

        report(fold * per_fold, n_folds * per_fold)
        folds.append(enhance_fold(workspace, fold, vectors, folder / f"fold_{fold}", on_step))
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


def _digest(vectors: Mapping[str, TaskVector]) -> str:
    hasher = hashlib.sha256()
    for name, vector in vectors.items():
        hasher.update(name.encode() + b"\n" + vector.flat().numpy().tobytes())
    return hasher.hexdigest()
