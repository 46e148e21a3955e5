"""Local training without a federation: a site's own model, cross-validated, then trained on all patients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsteph.client.data.bags import open_cohort
from fedsteph.client.models.local_file import train_file
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.model_card import write_card
from fedsteph.client.target.results import method_row
from fedsteph.client.training.batch import risks
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.abmil import m0_digest
from fedsteph.common.model.concordance import pairs


def train_site(site: Site, config: Config | None = None, report: Progress = silent) -> dict[str, Any]:
    """Train one model per fold, score it on the fold's test part, then train a last model on all patients.

    Models that are already in the site's state folder are not trained again.

    Args:
        config: what to train (:func:`fedsteph.load_config`); None: the preset ``robust``.
        report: called with the number of trainings done and in total.

    Returns:
        ``c_index`` per fold (None without a comparable pair), ``mean``, ``interval_95``, the path of the ``model``
        trained on all patients, and as ``storage`` one sentence on how features are stored.

    Raises:
        DataError: the site's data cannot be used.
        ConfigError, DeviceError: the configuration or the device does not fit this site or machine.
    """
    workspace = Workspace.open(site, local_recipe(site, config or load_config()))
    recipe, n_folds = workspace.recipe, len(workspace.splits)
    tested = []
    for fold in range(n_folds):
        model = workspace.train_local(fold, part(report, fold, n_folds + 1))
        test = workspace.test_part(fold)
        risk = risks(model, test, workspace.device)
        tested.append(pairs(risk, test.times, test.events))
    path = workspace.folder / "model.safetensors"
    last, device = part(report, n_folds, n_folds + 1), workspace.device
    train_file(path, workspace.cohort, recipe, label="all patients", device=device, progress=last)
    write_card(path, workspace, None, "local", None)
    return {
        "site": site.name,
        "n_patients": len(workspace.cohort),
        "n_events": int(workspace.cohort.events.sum()),
        **to_dict(method_row(tested, recipe.evaluation)),
        "model": str(path),
        "storage": workspace.cohort.storage,
    }


def local_recipe(site: Site, config: Config) -> Recipe:
    """Complete a recipe for one site: set its feature width and M0's digest if the configuration lacks them."""
    model = config.model
    if model.width is None:
        model = replace(model, width=open_cohort(site.folder, site.file.data).width)
    if model.m0_sha256 is None:
        model = replace(model, m0_sha256=m0_digest(model))
    return replace(config.recipe, model=model)
