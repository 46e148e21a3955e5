"""Merges task vectors at a target, fold by fold and for the final model; writes models, their cards and the result."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsteph.client.methods.task import Task, work_on
from fedsteph.client.models.final_file import copy_final
from fedsteph.client.models.model_file import load_model
from fedsteph.client.sharing.kept_vectors import note_verdicts
from fedsteph.client.site.policy import Mode, Policy
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target import evidence
from fedsteph.client.target.enhanced_model import PANEL_FILE
from fedsteph.client.target.final.final_card import quality_of, write_final_card
from fedsteph.client.target.final.final_clinical import write_final_clinical
from fedsteph.client.target.final.final_model import MadeFinal, final_steps, make_final
from fedsteph.client.target.fold import enhance_fold, steps
from fedsteph.client.target.fold_crew import enhance_side_by_side, n_workers, train_side_by_side
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.model_card import write_card
from fedsteph.client.target.results import target_result
from fedsteph.client.target.slide_added import slide_added
from fedsteph.client.target.target_result import DEPLOYED, FINAL, TargetResult
from fedsteph.client.target.train_alone import local_recipe
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.run_config import SITE_NAME, Config, load_config
from fedsteph.common.errors import VectorFileError, VectorMismatchError
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.vector.task_vector import TaskVector

RESULT_FILE = "result.json"
RECIPE_FILE = "recipe.json"  # the recipe behind the result, for later analysis

_log = logging.getLogger(__name__)


def enhance(
    site: Site,
    vectors: Mapping[str, TaskVector],
    config: Config | None = None,
    report: Progress = silent,
    kin: Collection[str] = (),
) -> dict[str, Any]:
    """Merge in-memory task vectors with the site's own, without any network: one model per fold, then the final one.

    The folds measure what to expect, and choose how the final model is made, which is trained on all patients.
    Earlier work in the site's state folder is reused: M0, the site's own models, the choice of gamma, and enhanced
    models of the same vectors.

    Args:
        vectors: source -> vector. Names follow the rules for site names; all vectors start from the M0 of ``config``.
        config: the federation's configuration (:func:`fedsteph.load_config`); None: the preset ``robust``.
        report: called with the number of trainings done and in total.
        kin: names of the sources whose patients have the same cancer as this site's.

    Returns:
        the content of ``result.json`` in the site's state folder: per method the C-index per fold, its mean and 95%
        interval; the use of every source; as ``models`` the folder with the deployed model of each fold; and as
        ``final`` the final model: ``path`` below the state folder, ``members``, ``choice``, ``reason`` and ``gamma``.

    Raises:
        VectorMismatchError: a vector has another architecture or another M0.
        VectorError: there is no vector, a name is not that of another site, or a norm is not finite or above the limit.
        DataError: the site's data cannot be used.
        ConfigError, DeviceError: the configuration or the device does not fit this site or machine.
        StorageError: the site's state folder cannot be written.
    """
    site.require_state()
    workspace = Workspace.open(site, local_recipe(site, config or load_config()))
    return enhance_alone(workspace, vectors, report, kin=kin).to_dict()


def enhance_alone(
    workspace: Workspace,
    vectors: Mapping[str, TaskVector],
    progress: Progress = silent,
    kept: Collection[str] = (),
    kin: Collection[str] = (),
) -> TargetResult:
    """Merge vectors that no run delivered, after the checks that :func:`enhance` names; arguments and errors as there.

    Args:
        kept: those of the sources whose vectors the site kept, for the result to say so.
    """
    if not vectors:
        raise VectorFileError("there is none to merge", where="vectors", remedy="Give at least one source's")
    for name, vector in vectors.items():
        _require_usable(workspace, name, vector)
    train_side_by_side(workspace)
    workspace.train_every_fold()
    return enhance_target(workspace, vectors, progress, kept=kept, kin=kin)


def _require_usable(workspace: Workspace, name: str, vector: TaskVector) -> None:
    model, where = workspace.recipe.model, f"vector of {name}"
    if SITE_NAME.fullmatch(name) is None or name == workspace.site.name:
        remedy = "Name it after its source: lower-case letters, digits, - and _, at most 32"
        raise VectorFileError("is named after no other site", where=where, remedy=remedy)
    if (vector.architecture, vector.m0_sha256) != (Architecture.of(model), model.m0_sha256):
        meaning = "another architecture" if vector.architecture != Architecture.of(model) else "another M0"
        raise VectorMismatchError(f"is of {meaning} than this configuration's", where=where, remedy="Give its own")
    if not vector.norm <= workspace.site.file.max_vector_norm:
        what = f"its norm {vector.norm:.4g} is no number, or above {workspace.site.file.max_vector_norm:.4g}"
        raise VectorFileError(what, where=where, remedy="If you trust it, raise max_vector_norm in site.yaml")


def enhance_target(
    workspace: Workspace,
    vectors: Mapping[str, TaskVector],
    progress: Progress = silent,
    globals_by_fold: Sequence[Mapping[str, TaskVector]] = (),
    kept: Collection[str] = (),
    kin: Collection[str] = (),
) -> TargetResult:
    """Make one enhanced model per fold and the final model of all patients, and write and return the result.

    The site's own vector is not rounded to the recipe's dtype. It does not travel, so rounding would save nothing, and
    M0 + tau_t must equal the local model, with which all methods are compared and which lam = 1 gives back.

    Args:
        workspace: with the site's own model of every fold.
        vectors: source -> received task vector.
        progress: in trainings.
        globals_by_fold: per fold, method -> encoder trained together with the other sites, as a vector from M0.
        kept: those of the sources whose vectors came in an earlier run or as a file.
        kin: those of the sources whose patients have the same cancer as this site's.
    """
    vectors, same = dict(sorted(vectors.items())), frozenset(kin) & set(vectors)
    folder = workspace.folder / f"merge-{work_on(vectors, same, globals_by_fold)}"
    tasks = _tasks(workspace, vectors, folder, globals_by_fold, same)
    n_folds, last = steps(tasks[0]) * len(tasks), final_steps(workspace.recipe)
    if (workers := n_workers(workspace, n_folds + last)) > 1:
        folds = enhance_side_by_side(workspace, tasks, folder, workers, _screening(workspace), progress)
        progress = silent  # of what is left, which takes little
    else:
        folds = _enhanced_folds(tasks, part(progress, 0, n_folds + last, n_folds))
    for k, fold in enumerate(folds):
        _log_suspicions(k, fold)
    final = make_final(workspace, folds, vectors, folder, part(progress, n_folds, n_folds + last, last), same)
    state, told = workspace.site.state, None if final is None else final.told
    result = target_result(workspace, folds, list(vectors), _screening(workspace), told)
    result = replace(result, kept=tuple(sorted(kept)), clinical=slide_added(workspace, folds))
    for k, fold in enumerate(folds):
        _deploy(workspace, result, k, fold)
    _deploy_final(workspace, result, final)
    write_final_clinical(state, workspace.cohort.clinical, folds, result)
    evidence.write_evidence(state / evidence.FILE, evidence.evidence_of(folds, list(vectors)))
    checked_file.write_json(state / RECIPE_FILE, to_dict(workspace.recipe, whole=True))
    checked_file.write_json(state / RESULT_FILE, result.to_dict())
    note_verdicts(workspace.site, workspace.recipe, result.screening.in_words())
    return result


def _tasks(
    workspace: Workspace,
    vectors: Mapping[str, TaskVector],
    folder: Path,
    globals_by_fold: Sequence[Mapping[str, TaskVector]],
    kin: frozenset[str],
) -> list[Task]:
    together = list(globals_by_fold) or [{} for _ in workspace.splits]
    return [Task(workspace, k, vectors, folder / _name(workspace, k), kin, each) for k, each in enumerate(together)]


def _enhanced_folds(tasks: Sequence[Task], progress: Progress) -> list[FoldResult]:
    n, total = steps(tasks[0]), steps(tasks[0]) * len(tasks)
    folds = []
    for k, task in enumerate(tasks):
        progress(k * n, total)
        folds.append(enhance_fold(task, part(progress, k * n, total, n), _screening(task.workspace)))
    progress(total, total)
    return folds


def _name(workspace: Workspace, fold: int) -> str:
    """Name of a fold's folder: what was merged with an imported model is no merge with another one."""
    imported = workspace.imported(fold)
    return f"fold_{fold}" if imported is None else f"fold_{fold}-{imported[:12]}"


def _screening(workspace: Workspace) -> Mode:
    return (workspace.site.file.policy or Policy()).screening


def _deploy(workspace: Workspace, result: TargetResult, k: int, fold: FoldResult) -> None:
    """Write the cards of a fold's models, and copy the chosen one and its card to the deployed models."""
    write_card(workspace.local_path(k), workspace, result, "local", k)
    if fold.enhanced is not None:
        write_card(fold.enhanced, workspace, result, "steph", k)
        write_card(fold.enhanced.with_name(PANEL_FILE), workspace, result, "panel", k)
    load_model(fold.model)  # checked again, because a copy would carry damage on
    for made in (fold.model, fold.model.with_suffix(".md")):
        atomic.write_bytes(workspace.site.state / DEPLOYED / f"fold_{k}{made.suffix}", made.read_bytes())


def _deploy_final(workspace: Workspace, result: TargetResult, final: MadeFinal | None) -> None:
    """Copy the final model to the deployed ones, with its card; remove that of an earlier merge where none is made."""
    path = workspace.site.state / FINAL
    if final is None:
        for made in (path, path.with_suffix(".md")):
            made.unlink(missing_ok=True)
        return
    copy_final(final.path, path, quality_of(result))
    write_final_card(path, workspace, result, final.told)


def _log_suspicions(fold: int, found: FoldResult) -> None:
    for name, verdict in found.verdicts.items():
        if verdict.suspicious:
            done = "left out" if verdict.weight == 0 else f"merged with weight {verdict.weight:.3g}"
            _log.warning("fold %d: the vector of %s is suspicious, %s: %s", fold, name, done, verdict.reason)
