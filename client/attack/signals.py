"""Membership signals that a recipient can compute from a vector; each is higher for a more likely member."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedsteph.client.attack.gradients import PrivateTraining, Pulls, pulls
from fedsteph.client.attack.head import losses, own_losses, slide_vectors
from fedsteph.client.attack.likelihood import standardised
from fedsteph.client.data.bags import Cohort
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import TrainingError
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector

SIGNALS = {
    "loss": "loss under the best head that can be fitted on M0 + vector",
    "alignment": "product of the vector with the patient's gradient at M0",
    "decomposition": "weight of the patient's gradient when the vector is written as a sum of all patients' gradients",
}
HEAD_SIGNALS = {  # of a vector with a head; its recipient can compute those above, too
    "head loss": "loss under the vector's own head",
    "alignment with head": "product of vector and head with the patient's gradient at M0",
    "decomposition with head": "weight of the patient's gradient when vector and head are written as such a sum",
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
        vectors: as their recipient reads them; all of them with a head, or none.
        private: how they were trained, if by DP-SGD.
        progress: in vectors, and one for their products with the gradients.

    Returns:
        name in :data:`SIGNALS`, and in :data:`HEAD_SIGNALS` if the vectors have heads -> ``(n_vectors, n_patients)``
        float64.

    Raises:
        TrainingError: a score is not finite.
    """
    m0, of = pinned_model(recipe.model), (cohort, recipe.model.n_bins, recipe.training.alpha)
    loss, own = [], []
    for done, vector in enumerate(vectors):
        z = slide_vectors(vector.applied_to(m0, m0.head_state()), cohort, device)
        loss.append(-losses(z, *of).numpy())
        if vector.head is not None:
            own.append(-own_losses(z, m0.risk_direction() + vector.head, *of).numpy())
        progress(done + 1, len(vectors) + 1)
    found, heads = pulls(cohort, recipe, vectors, device, private)
    progress(len(vectors) + 1, len(vectors) + 1)
    ridge = private.ridge if private else 0.0
    scores = {"loss": np.stack(loss), **_of_gradients("", found, ridge)}
    if heads is not None:
        scores |= {"head loss": np.stack(own), **_of_gradients(" with head", found + heads, ridge)}
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise TrainingError(f"the attack by {name} met numbers that are not finite", where="privacy audit")
    return {name: standardised(score) for name, score in scores.items()}


def _of_gradients(ending: str, found: Pulls, ridge: float) -> dict[str, np.ndarray]:
    weights = found.weights(ridge).numpy()
    return {f"alignment{ending}": found.products.numpy(), f"decomposition{ending}": weights}
