"""What a target does with the vectors it received: merge fold by fold, keep the models, write the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsteph.client.methods.task import Task, vectors_digest
from fedsteph.client.sharing.spending import spent
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target import evidence
from fedsteph.client.target.fold import FoldResult, enhance_fold, steps
from fedsteph.client.target.model_card import write_card
from fedsteph.client.target.results import DEPLOYED, target_result
from fedsteph.common.config.recipe import to_dict
from fedsteph.common.host import atomic
from fedsteph.common.vector.task_vector import TaskVector

RESULT_FILE = "result.json"
RECIPE_FILE = "recipe.json"  # what the result was made by, for those who look closer later

_log = logging.getLogger(__name__)


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
        the target's result (:func:`fedsteph.client.target.results.target_result`), which is also kept on its disk,
        beside what its page is drawn from (:mod:`fedsteph.client.target.evidence`).
    """
    folder = workspace.folder / f"merge-{vectors_digest([vectors, *globals_by_fold])[:12]}"
    together = list(globals_by_fold) or [{} for _ in workspace.splits]
    tasks = [
        Task(workspace, fold, vectors, folder / f"fold_{fold}", together[fold]) for fold in range(len(workspace.splits))
    ]
    n_folds, per_fold = len(tasks), steps(tasks[0])
    mode = (workspace.site.policy or Policy()).screening
    folds = []
    for fold, task in enumerate(tasks):

        def on_step(done: float, fold: int = fold) -> None:
            report(fold * per_fold + done, n_folds * per_fold)

        report(fold * per_fold, n_folds * per_fold)
        folds.append(enhance_fold(task, on_step, mode))
        _log_suspicions(fold, folds[-1])
    report(n_folds * per_fold, n_folds * per_fold)
    state = workspace.site.state
    result = target_result(workspace, folds, list(vectors), mode) | {
        "privacy_spent": str(spent(workspace)),
        "enhanced": [None if fold.enhanced is None else str(fold.enhanced.relative_to(state)) for fold in folds],
    }
    for k in range(n_folds):
        write_card(workspace.local_path(k), workspace, result, "local", k)
        if (enhanced := folds[k].enhanced) is not None:
            write_card(enhanced, workspace, result, "steph", k)
        chosen = folds[k].model
        for made in (chosen, chosen.with_suffix(".md")):
            atomic.write_bytes(state / DEPLOYED / f"fold_{k}{made.suffix}", made.read_bytes())
    evidence.write_evidence(state / evidence.FILE, evidence.evidence_of(folds, list(vectors)))
    atomic.write_json(state / RECIPE_FILE, to_dict(workspace.recipe))
    atomic.write_json(state / RESULT_FILE, result)
    return result


def _log_suspicions(fold: int, found: FoldResult) -> None:
    for name, verdict in found.verdicts.items():
        if verdict.suspicious:
            done = "left out" if verdict.weight == 0 else f"merged with weight {verdict.weight:.3g}"
            _log.warning("fold %d: the vector of %s is suspicious, %s: %s", fold, name, done, verdict.reason)
