"""Attacks each site's shared vector in a study as the site itself would, once per DP-SGD setting and sharing."""

from __future__ import annotations

from typing import Any, Literal

from fedsteph.client.attack.attack_vector import attack_vector, train_references
from fedsteph.client.sharing.shared_model import guarantee
from fedsteph.client.site.workspace import Workspace


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
