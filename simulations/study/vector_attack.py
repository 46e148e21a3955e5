"""Attacks each site's shared vector in a study as the site itself would, once per DP-SGD setting and sharing."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Literal

from fedsteph.client.attack.attack_vector import attack_vector, train_references
from fedsteph.client.sharing.shared_model import guarantee
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.model.resampling import interval_of_mean
from fedsteph.simulations.study.study_results import AttackedRow


def attack(workspace: Workspace, kind: Literal["references", "attack"], n_references: int) -> dict[str, Any]:
    """Train the reference models, or attack a site's vector with them, as a study's notes.

    Returns nothing, or ``attack``: AUC and TPR of each attack on the training procedure (each reference model is
    attacked with the others), the lower bound on epsilon, and the epsilon that the training reports.
    """
    if kind == "references":
        train_references(workspace, n_references)
        return {}
    found, promised = attack_vector(workspace, n_references=n_references), guarantee(workspace)
    return {
        "attack": {
            "procedure": {f"{one['signal']}, {one['attack']}": one["procedure"] for one in found["attacks"]},
            "epsilon_at_least": found["epsilon"]["lower_bound"],
            "epsilon": None if promised is None else promised.epsilon,
        }
    }


def strongest(done: list[dict[str, Any]], vector_bytes: int) -> AttackedRow:
    """The attack that is best over all sites. Choosing the best one per site would bias the result upwards."""
    name = max(done[0]["procedure"], key=lambda name: fmean(one["procedure"][name]["auc"] for one in done))
    best = [one["procedure"][name] for one in done]
    intervals = [one["auc_interval_95"] for one in best if one["auc_interval_95"] is not None]
    reported = [one["epsilon"] for one in done if one["epsilon"] is not None]
    return {
        "attack": name,
        "auc": fmean(one["auc"] for one in best),
        "auc_interval_95": None if (mean := interval_of_mean(intervals)) is None else list(mean),
        "auc_largest": max(one["auc"] for one in best),
        "sites": len(best),
        "sites_above_chance": sum(low > 0.5 for low, _ in intervals),
        "tpr": fmean(one["tpr"] for one in best),
        "epsilon": max(reported, default=None),
        "epsilon_at_least": max(one["epsilon_at_least"] for one in done),
        "vector_bytes": vector_bytes,
    }
