"""Membership signals that a recipient can compute from a vector; each is higher for a more likely member."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedsteph.client.attack.gradients import PrivateTraining, pulls
from fedsteph.client.attack.head import losses, slide_vectors
from fedsteph.client.attack.likelihood import standardised
from fedsteph.client.data.bags import Cohort
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import TrainingError
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.abmil import pinned_model
from fedsteph.common.vector.task_vector import TaskVector

SIGNALS = {
    "loss": "loss under the best head that can be fitted on M0 + vector",
    "alignment": "product of the vector with the patient's gradient at M0",
    "decomposition": "weight of the patient's gradient when the vector is written as a sum of all patients' gradients",
}


def signals(
    cohort: Cohort,
    recipe: Recipe,
    vectors: Sequence[TaskVector],
    device: torch.device,
    private: PrivateTraining | None = None,
    progress: Progress = silent,
) -> dict[str, np.ndarray]:
    """Scores of every patient under every vector, standardised per vector.

    Args:
        vectors: as their recipient reads them.
        private: how they were trained, if by DP-SGD.
        progress: in vectors, and one for their products with the gradients.

    Returns:
        name in :data:`SIGNALS` -> ``(n_vectors, n_patients)`` float64.

    Raises:
        TrainingError: a score is not finite.
    """
    m0 = pinned_model(recipe.model)
    loss = []
    for done, vector in enumerate(vectors):
        model = vector.applied_to(m0, m0.head_state())
        z = slide_vectors(model, cohort, device)
        loss.append(-losses(z, cohort, recipe.model.n_bins, recipe.training.alpha).numpy())
        progress(done + 1, len(vectors) + 1)
    found = pulls(cohort, recipe, vectors, device, private)
    progress(len(vectors) + 1, len(vectors) + 1)
    scores = {
        "loss": np.stack(loss),
        "alignment": found.products.numpy(),
        "decomposition": found.weights(private.ridge if private else 0.0).numpy(),
    }
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise TrainingError(f"the attack by {name} met numbers that are not finite", where="privacy audit")
    return {name: standardised(score) for name, score in scores.items()}
