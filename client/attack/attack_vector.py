"""Privacy audit: a site attacks its own vector as a recipient could, before sharing it; the result stays at the site.

On the vector, members are the patients of fold 0's training part, and non-members those of its test part. They are few,
so the training procedure is attacked too, on half of the patients: each reference model, with the others as references.
The attack with the highest AUC on the procedure counts as the strongest one for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedsteph.client.attack.coins import require_references
from fedsteph.client.attack.gradients import PrivateTraining
from fedsteph.client.attack.likelihood import each_by_the_others, log_ratio
from fedsteph.client.attack.one_run import CONFIDENCE, epsilon_bound
from fedsteph.client.attack.references import reference_vectors
from fedsteph.client.attack.roc import separation
from fedsteph.client.attack.signals import HEAD_SIGNALS, SIGNALS, signals
from fedsteph.client.data.bags import Cohort
from fedsteph.client.privacy.accounting import epsilon
from fedsteph.client.privacy.dp_settings import Guarantee
from fedsteph.client.sharing.attack_result import FORMAT, content_digest, write_result
from fedsteph.client.sharing.outgoing import as_received
from fedsteph.client.sharing.shared_model import audited_model, guarantee, shared_model, train_shared
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.loop import derive_seed
from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.errors import ConfigError, TooSmallError
from fedsteph.common.host.lock import exclusive
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector

MIN_PATIENTS = 40
MIN_EVENTS = 10
_DELTA = 1e-5  # for comparing bound and guarantee; at n^-1.1, one run with n coins gives no bound
_FOR_THE_BOUND = "decomposition"  # fixed in advance: a choice by success would need a correction
_FOR_A_HEAD = "decomposition with head"


def attack_vector(
    workspace: Workspace,
    *,
    n_references: int = 16,
    promised: Guarantee | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Attack the vector that this site would share, store the result, and return it, ready for JSON.

    Where a vector with a head could leave, it is attacked too: its result, stored by itself, is ``with_head``, which is
    None otherwise. A head that is trained by DP-SGD is M0's, so none leaves.

    Of a vector that is trained on all patients, none is left to compare with: a model of fold 0's training part, made
    in the same way, stands for it (``stand_in``).

    Args:
        n_references: number of reference models, even and at least 16.
        promised: privacy guarantee of the shared and the reference models; None: the one that the training reports.
        progress: in trainings; the attack itself counts as one.

    Raises:
        ConfigError: ``n_references`` is odd or below 16.
        TooSmallError: fewer than 40 patients, 10 events or 2 patients on a side.
    """
    recipe = workspace.recipe
    heads = recipe.sharing.head != "never" and workspace.site.file.dp_sgd is None
    references, inside = train_references(workspace, n_references, progress)
    own, leaves = (
        TaskVector.between(model(workspace), pinned_model(recipe.model), head=True)
        for model in (audited_model, shared_model)
    )
    promised = promised or guarantee(workspace)
    vectors = [one if heads else one.without_head() for one in (own, *references)]
    scores = _scores(workspace, vectors, promised, part(progress, n_references + 1, n_references + 2))
    attacks = _attacks(workspace, {name: scores[name] for name in SIGNALS}, inside)
    bound = _epsilon(each_by_the_others(scores[_FOR_THE_BOUND][1:], inside), inside, promised)
    result = _result(workspace, leaves.without_head(), attacks, bound, n_references)
    with_head = None
    if heads:
        attacks = attacks + _attacks(workspace, {name: scores[name] for name in HEAD_SIGNALS}, inside)
        bound = _epsilon(each_by_the_others(scores[_FOR_A_HEAD][1:], inside), inside, promised)
        with_head = _result(workspace, leaves, attacks, bound, n_references)
        write_result(workspace.site.state, with_head)
    result["with_head"] = with_head
    write_result(workspace.site.state, result)
    return result


def _result(
    workspace: Workspace, vector: TaskVector, attacks: list[dict[str, Any]], bound: dict[str, Any], n_references: int
) -> dict[str, Any]:
    recipe, split = workspace.recipe, workspace.splits[0]
    return {
        "format": FORMAT,
        "site": workspace.site.name,
        "content_sha256": content_digest(write_vector(vector, recipe.sharing)),
        "recipe_sha256": digest(recipe),
        "sharing": to_dict(recipe.sharing),
        "n_references": n_references,
        "stand_in": recipe.sharing.trained_on == "all",
        "n_members": len(split.train),
        "n_others": len(split.test),
        "attacks": attacks,
        "strongest": _strongest(attacks),
        "epsilon": bound,
    }


def _scores(
    workspace: Workspace, vectors: Sequence[TaskVector], promised: Guarantee | None, progress: Progress
) -> dict[str, np.ndarray]:
    """The signals of all candidates, ``(n_vectors, n_patients)`` each, from the vectors as a recipient reads them."""
    recipe, settings = workspace.recipe, workspace.site.file.dp_sgd
    private = None if settings is None or promised is None else PrivateTraining(settings, promised.mechanism)
    received = [as_received(vector, recipe.sharing) for vector in vectors]
    return signals(_candidates(workspace), recipe, received, workspace.device, private, progress)


def _attacks(workspace: Workspace, scores: Mapping[str, np.ndarray], inside: np.ndarray) -> list[dict[str, Any]]:
    """AUC and TPR at 1% FPR of every signal and attack, on the ``vector`` and on the ``procedure``."""
    attacks = []
    for signal, score in scores.items():
        attacks.append(_attack(workspace, signal, "threshold", score[0], score[1:], inside))
        on_vector, on_procedure = log_ratio(score[0], score[1:], inside), each_by_the_others(score[1:], inside)
        attacks.append(_attack(workspace, signal, "reference models", on_vector, on_procedure, inside))
    return attacks


def _strongest(attacks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The attack with the highest AUC on the procedure; ``auc`` is the larger of its two, both point estimates."""
    found = max(attacks, key=lambda attack: attack["procedure"]["auc"])
    auc = max(found["vector"]["auc"], found["procedure"]["auc"])
    return {"signal": found["signal"], "attack": found["attack"], "auc": auc}


def _epsilon(ratios: np.ndarray, inside: np.ndarray, promised: Guarantee | None) -> dict[str, Any]:
    """The lower bound, and whether it contradicts the guarantee, both at a delta of at most 1e-5."""
    delta = _DELTA if promised is None else min(_DELTA, promised.delta)
    reported = None if promised is None else epsilon([promised.mechanism], delta)
    bound = epsilon_bound(ratios, inside, delta)
    return {
        "lower_bound": bound,
        "confidence": CONFIDENCE,
        "delta": delta,
        "reported": reported,
        "contradicted": reported is not None and bound > reported,
    }


def train_references(
    workspace: Workspace, n_references: int, progress: Progress = silent
) -> tuple[list[TaskVector], np.ndarray]:
    """Train the shared model and the reference models that are not stored yet: the slow part of an audit.

    Recipes that differ only in ``sharing`` use the same models. Returns the references' whole vectors and their
    members, ``(n_references, n_patients)`` bool. Errors as :func:`attack_vector`.
    """
    try:
        require_references(n_references)
    except ValueError as error:
        raise ConfigError(str(error), where="--references", remedy="Leave it at 16, or give more") from error
    cohort, total = _candidates(workspace), n_references + 2
    with exclusive(workspace.site.state, wait=True):  # a message of the server must not train it at the same time
        shared = train_shared(workspace, part(progress, 0, total))
    return reference_vectors(workspace, shared, cohort, n_references, part(progress, 1, total, n_references))


def _candidates(workspace: Workspace) -> Cohort:
    """The patients whose membership the attack guesses, members first."""
    split = workspace.splits[0]
    cohort = workspace.cohort.subset((*split.train, *split.test))
    events = int(cohort.events.sum())
    if len(cohort) < MIN_PATIENTS or events < MIN_EVENTS or min(len(split.train), len(split.test)) < 2:
        raise TooSmallError(
            f"there are {len(cohort)} patients with {events} events in fold 0; an audit needs at least {MIN_PATIENTS} "
            f"with {MIN_EVENTS}, and 2 on each side of the fold",
            where=workspace.site.folder,
            remedy="Of so few, no attack can be measured; take their vector for one that gives them away",
        )
    return cohort


def _attack(
    workspace: Workspace, signal: str, kind: str, on_vector: np.ndarray, on_procedure: np.ndarray, inside: np.ndarray
) -> dict[str, Any]:
    evaluation, members = workspace.recipe.evaluation, np.arange(len(on_vector)) < len(workspace.splits[0].train)
    seed, resamples = derive_seed(evaluation.split_seed, "privacy audit", signal, kind), evaluation.bootstrap
    return {
        "signal": signal,
        "attack": kind,
        "vector": asdict(separation(on_vector[None], members[None], resamples=resamples, seed=seed)),
        "procedure": asdict(separation(on_procedure, inside, resamples=resamples, seed=seed)),
    }
