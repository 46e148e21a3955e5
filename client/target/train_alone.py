"""Local training without a federation: a site's own model, cross-validated, then trained on all patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsteph.client.data.bags import open_cohort
from fedsteph.client.models.model_file import load_model, reference_risks
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.evidence import Evidence
from fedsteph.client.target.fold_crew import train_side_by_side
from fedsteph.client.target.model_card import write_card
from fedsteph.client.target.results import method_row
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.host import atomic
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.initial_model import m0_digest
from fedsteph.common.model.method_scores import MethodScores
from fedsteph.common.model.survival import risk_score

MODEL = "model.safetensors"  # in a site's state folder: the newest model of all patients, with its card beside it


@dataclass(frozen=True)
class OwnModels:
    """A site's own models: one per fold, scored on the fold's test patients, and one trained on all patients."""

    site: Site
    recipe: Recipe
    n_patients: int
    n_events: int
    scores: MethodScores  # of the models of the folds
    evidence: Evidence  # under the method ``local``, without sources
    model: Path  # trained on all patients
    storage: str

    def to_dict(self) -> dict[str, Any]:
        """What :func:`train_site` returns."""
        return {
            "site": self.site.name,
            "n_patients": self.n_patients,
            "n_events": self.n_events,
            **to_dict(self.scores),
            "model": str(self.model),
            "storage": self.storage,
        }


def train_site(site: Site, config: Config | None = None, report: Progress = silent) -> dict[str, Any]:
    """Train one model per fold, score it on the fold's test part, then train a last model on all patients.

    Models that are already in the site's state folder are not trained again.

    Args:
        config: what to train (:func:`fedsteph.load_config`); None: the preset ``robust``.
        report: called with the number of trainings done and in total.

    Returns:
        ``c_index`` per fold (None without a comparable pair), ``mean``, ``interval_95``, the path of the ``model``
        trained on all patients (``model.safetensors`` in the site's state folder, which the next training replaces),
        and as ``storage`` one sentence on how features are stored.

    Raises:
        DataError: the site's data cannot be used.
        ConfigError, DeviceError: the configuration or the device does not fit this site or machine.
        StorageError: the site's state folder cannot be written.
    """
    return train_models(site, config, report).to_dict()


def train_models(site: Site, config: Config | None = None, report: Progress = silent) -> OwnModels:
    """As :func:`train_site`, with what a page of the models needs."""
    site.require_state()
    workspace = Workspace.open(site, local_recipe(site, config or load_config()))
    train_side_by_side(workspace, report)
    recipe, cohort, n = workspace.recipe, workspace.cohort, len(workspace.splits)
    evidence = _tested(workspace, report)
    risk = risk_score(torch.from_numpy(evidence.hazards["local"])).numpy()
    folds = [evidence.fold == fold for fold in range(n)]
    tested = [pairs(risk[fold], evidence.times[fold], evidence.events[fold]) for fold in folds]
    return OwnModels(
        site=site,
        recipe=recipe,
        n_patients=len(cohort),
        n_events=int(cohort.events.sum()),
        scores=method_row(tested, recipe.evaluation),
        evidence=evidence,
        model=_of_everybody(workspace, part(report, n, n + 1)),
        storage=cohort.storage,
    )


def local_recipe(site: Site, config: Config) -> Recipe:
    """Complete a recipe for one site: set its width, its file of M0 and M0's digest where not set."""
    model = config.model
    if model.width is None:
        model = replace(model, width=open_cohort(site.folder, site.file.data).width)
    model = replace(model, m0=model.m0 or site.m0)
    if model.m0_sha256 is None:
        model = replace(model, m0_sha256=m0_digest(model))
    return replace(config.recipe, model=model)


def _tested(workspace: Workspace, progress: Progress) -> Evidence:
    """Train the model of every fold, and predict the fold's test patients with it; progress is in trainings."""
    n, device = len(workspace.splits), workspace.device
    tests = [workspace.test_part(fold) for fold in range(n)]
    hazards, cut_off = [], []
    for fold, test in enumerate(tests):
        model = workspace.train_local(fold, part(progress, fold, n + 1))
        reference = load_model(workspace.local_path(fold)).reference
        if reference is None:  # in a file of an earlier version
            reference = reference_risks(model, workspace.train_part(fold), device)
        hazards.append(predict_hazards(model, test, device))
        cut_off.append(reference[len(reference) // 2])
    ids = [patient.id for test in tests for patient in test.patients]
    return Evidence(
        ids=np.array(ids, dtype=np.str_),
        fold=np.repeat(np.arange(n), [len(test) for test in tests]),
        times=np.concatenate([test.times for test in tests]),
        events=np.concatenate([test.events for test in tests]),
        hazards={"local": np.concatenate(hazards)},
        cut_off={"local": np.array(cut_off)},
        sources=(),
        w=np.empty((len(ids), 0)),
        lam=np.empty((len(ids), 0)),
    )


def _of_everybody(workspace: Workspace, progress: Progress) -> Path:
    """Train the model of all patients, write its card, and copy both to where the newest model always lies."""
    path, newest = workspace.whole_path(), workspace.site.state / MODEL
    workspace.train_on_all(progress=progress)
    write_card(path, workspace, None, "local", None)
    for suffix in (path.suffix, ".md"):
        atomic.write_bytes(newest.with_suffix(suffix), path.with_suffix(suffix).read_bytes())
    return newest
