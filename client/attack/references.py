"""Reference models: trained like the shared model on known halves of the patients, each once, and saved."""

from __future__ import annotations

from functools import partial

import numpy as np

from fedsteph.client.attack.coins import halves
from fedsteph.client.data.bags import Cohort
from fedsteph.client.models.model_file import load_base, save_base
from fedsteph.client.sharing.shared_model import train_shareable
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.digest import digest
from fedsteph.common.host.checked_file import kept
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest, pinned_model
from fedsteph.common.vector.task_vector import TaskVector


def reference_vectors(
    workspace: Workspace,
    shared: BaseModel,
    cohort: Cohort,
    n_references: int,
    progress: Progress = silent,
) -> tuple[list[TaskVector], np.ndarray]:
    """Vectors of reference models with their heads, not reduced for sharing, and who is a member of which.

    The models are saved beside the site's models, in a folder named by a digest of the shared model and of the
    candidates' IDs. A shared model that is trained in another way, for example with noise, gets other references.

    Args:
        shared: the model that they are references for.
        cohort: the candidates.
        progress: in models.

    Returns:
        the vectors, and membership ``(n_references, n_patients)`` bool; errors as :func:`halves`.
    """
    recipe = workspace.recipe
    inside = halves(cohort.events, n_references, recipe.training.seed)
    key = digest([model_digest(shared), [patient.id for patient in cohort.patients]])
    folder = workspace.base_folder / f"references-{key[:12]}"
    m0, vectors = pinned_model(recipe.model), []
    load = partial(load_base, dropout=recipe.model.dropout)
    for k, members in enumerate(inside):
        path = folder / f"reference_{k}.safetensors"
        model = kept(path, load)
        if model is None:
            half = cohort.subset([cohort.patients[i].id for i in np.flatnonzero(members).tolist()])
            run = TrainingRun(workspace.device, path.with_suffix(".checkpoint"), part(progress, k, n_references))
            trained = train_shareable(workspace, half, label=f"reference {k}", run=run)
            save_base(path, trained, m0_sha256=str(recipe.model.m0_sha256), extraction=workspace.cohort.extraction)
            model = load(path)
        vectors.append(TaskVector.between(model, m0, head=True))
        progress(k + 1, n_references)
    return vectors, inside
