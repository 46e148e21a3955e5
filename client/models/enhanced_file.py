"""Files of enhanced models: trains STEPH and saves it with its percentiles and the local model that it started from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedsteph.client.data.bags import Cohort
from fedsteph.client.models.model_file import Local, followed_years, reference_risks, save_steph
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.steph.dynamics import Dynamics
from fedsteph.client.steph.fit import fit_steph
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector

DYNAMICS_FILE = "dynamics.json"  # beside an enhanced model: w and lam by epoch of its training


def train_enhanced(
    path: Path,
    cohort: Cohort,
    local: BaseModel,
    vectors: Mapping[str, TaskVector],
    recipe: Recipe,
    *,
    gamma: float,
    label: str,
    run: TrainingRun,
) -> None:
    """Train STEPH on all of ``cohort`` and save it.

    Args:
        local: the target's own model of the same training part.
        vectors: source -> received vector.
        gamma: weight of the aggregation loss.
        label: name of the training part, from which the seed is derived.

    Raises:
        FedstephError: as :func:`fedsteph.client.steph.fit.fit_steph`.
    """
    names = list(vectors)
    fitted = fit_steph(
        cohort,
        local,
        list(vectors.values()),
        recipe,
        gamma=gamma,
        label=label,
        run=run,
        dynamics=Dynamics(path.with_name(DYNAMICS_FILE), names),
    )
    save_steph(
        path,
        fitted,
        names,
        m0_sha256=str(recipe.model.m0_sha256),
        extraction=cohort.extraction,
        reference=reference_risks(fitted, cohort, run.device),
        local=Local(local, reference_risks(local, cohort, run.device)),
        followed_years=followed_years(cohort, recipe.model.n_bins),
        trained_on=TrainedOn.of(cohort, fitted),
    )
