"""The model behind the vector that a site shares: its own, the mean of several of its own, or one trained by DP-SGD.

A site never deploys its DP-SGD model: a deployed model does not leave, so noise would cost and protect nobody.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

from fedsteph.client.data.bags import Cohort
from fedsteph.client.models.local_file import require_trained
from fedsteph.client.models.model_file import load_base, save_base
from fedsteph.client.privacy.dp_settings import DpSgd, Guarantee
from fedsteph.client.privacy.dp_sgd import train_private
from fedsteph.client.privacy.trained_part import TrainedPart
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.local import mean_model, train_local
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.digest import digest
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ModelFileError, PolicyError
from fedsteph.common.host import checked_file
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model

GUARANTEE_FILE = "guarantee.json"
_DELETE = "Restore it from a backup, or delete its folder: training starts again, and costs privacy again"


def train_shared(workspace: Workspace, progress: Progress = silent) -> BaseModel:
    """Train the model whose vector is shared, unless it was trained before, and return it.

    Raises:
        ConfigError: DP-SGD would train layers that the federation does not share.
        PolicyError: it was imported.
    """
    if workspace.site.file.dp_sgd is None:
        _require_trained_here(workspace)
        return _mean_of_own(workspace, progress)
    _require_shared(workspace)
    path = _shared_path(workspace)
    if not path.exists():
        on_all = workspace.recipe.sharing.trained_on == "all"
        cohort = workspace.cohort if on_all else workspace.train_part(0)
        found = _settings(workspace).guarantee(len(cohort))
        model = _private(workspace, cohort, found, TrainingRun(workspace.device, path.with_suffix(".npz"), progress))
        checked_file.write_json(path.with_name(GUARANTEE_FILE), asdict(found))  # first: no model without its guarantee
        save_base(path, model, m0_sha256=str(workspace.recipe.model.m0_sha256), extraction=cohort.extraction)
    return shared_model(workspace)


def shared_model(workspace: Workspace) -> BaseModel:
    """The model whose vector is shared, as :func:`train_shared` left it, with its errors.

    Raises:
        ModelFileError: it was not trained yet, or its file is damaged.
    """
    if workspace.site.file.dp_sgd is None:
        _require_trained_here(workspace)
        require_trained(_last_path(workspace))
        return _mean_of_own(workspace)
    _require_shared(workspace)
    return _load(workspace)


def audited_model(workspace: Workspace) -> BaseModel:
    """The model whose vector an audit attacks: the shared one, if patients are left to compare its patients with.

    Where it is trained on all of them, one trained in the same way on fold 0's training part stands for it.
    """
    if workspace.recipe.sharing.trained_on == "fold_0":
        return shared_model(workspace)
    return train_shareable(workspace, workspace.train_part(0), label="audited", run=TrainingRun(workspace.device))


def _mean_of_own(workspace: Workspace, progress: Progress = silent) -> BaseModel:
    """The mean of the weights of the site's own models that are shared, each trained unless it was before."""
    sharing = workspace.recipe.sharing
    train = workspace.train_on_all if sharing.trained_on == "all" else partial(workspace.train_member, 0)
    return mean_model([train(m, part(progress, m, sharing.members)) for m in range(sharing.members)])


def _last_path(workspace: Workspace) -> Path:
    last = workspace.recipe.sharing.members - 1
    on_all = workspace.recipe.sharing.trained_on == "all"
    return workspace.whole_path(last) if on_all else workspace.member_path(0, last)


def guarantee(workspace: Workspace) -> Guarantee | None:
    """The privacy guarantee of the shared model's training, with its errors; None without differential privacy."""
    if workspace.site.file.dp_sgd is None:
        return None
    path = _shared_path(workspace).with_name(GUARANTEE_FILE)
    if not path.exists():
        shared_model(workspace)
    try:
        return build(Guarantee, checked_file.read_json(path, remedy=_DELETE), path)
    except ConfigError as error:
        raise ModelFileError("is damaged", where=path, remedy=_DELETE) from error


def train_shareable(workspace: Workspace, cohort: Cohort, *, label: str, run: TrainingRun) -> BaseModel:
    """Train a model on ``cohort`` in the way of the shared model; each label gives another seed.

    DP-SGD uses the shared model's noise and sampling rate, and so gives its epsilon, whatever the size of ``cohort``.
    """
    if workspace.site.file.dp_sgd is None:
        labels = [label, *(f"{label}, member {m}" for m in range(1, workspace.recipe.sharing.members))]
        return mean_model([train_local(cohort, workspace.recipe, label=one, run=run) for one in labels])
    found = guarantee(workspace)
    assert found is not None
    return _private(workspace, cohort, found, run)


def _private(workspace: Workspace, cohort: Cohort, found: Guarantee, run: TrainingRun) -> BaseModel:
    settings, m0 = _settings(workspace), pinned_model(workspace.recipe.model)
    part = TrainedPart(m0, settings.trains)
    trained = train_private(part, cohort, settings, found.mechanism, run=run)
    vector = part.vector(trained.offset, str(workspace.recipe.model.m0_sha256))
    if settings.norm is not None and vector.norm > 0:
        vector = vector * (settings.norm / vector.norm)
    n_bins = m0.architecture.n_bins
    bias = m0.head.bias.detach().new_full((n_bins,), trained.level)
    return vector.applied_to(m0, {"head.weight": part.readout.expand(n_bins, -1).contiguous(), "head.bias": bias})


def kept_model(workspace: Workspace) -> BaseModel | None:
    """The model whose vector other sites may hold; None if the site uses DP-SGD and has not trained it yet."""
    if workspace.site.file.dp_sgd is None:
        return _mean_of_own(workspace)
    return _load(workspace) if _shared_path(workspace).exists() else None


def _load(workspace: Workspace) -> BaseModel:
    path = _shared_path(workspace)
    require_trained(path)
    try:
        return load_base(path, dropout=workspace.recipe.model.dropout)
    except ModelFileError as error:  # not made again unasked: its noise would be new, and its privacy cost too
        raise ModelFileError(error.what, where=path, remedy=_DELETE) from error


def _require_trained_here(workspace: Workspace) -> None:
    # The ledger and the attack count on a training on fold 0's patients alone, from M0, by the recipe.
    if workspace.imported(0) is not None:
        what = "was imported: what it was trained on is not known here, so its vector is not shared"
        remedy = "Delete it to share a model that is trained here, or set privacy to dp-sgd"
        raise PolicyError(what, where=workspace.imported_path(0), remedy=remedy)


def _require_shared(workspace: Workspace) -> None:
    trained, shared = _settings(workspace).trains, workspace.recipe.sharing.layers
    if workspace.recipe.sharing.members > 1:
        what = "the mean of several models was asked for, and this site trains one, with differential privacy"
        raise ConfigError(what, where="sharing.members", remedy="Set it to 1: every further model would cost privacy")
    if "encoder" not in (trained, shared) and (trained == "attention") != (shared == "attention"):
        raise ConfigError(
            f"trains {trained}, and the federation's sharing.layers is {shared}: nothing of it would leave",
            where="dp_sgd.trains",
            remedy="Set it to the layers that are shared",
        )


def _shared_path(workspace: Workspace) -> Path:
    on_all = "-all" if workspace.recipe.sharing.trained_on == "all" else ""
    return workspace.base_folder / f"private-{digest(_settings(workspace))[:12]}{on_all}" / "shared.safetensors"


def _settings(workspace: Workspace) -> DpSgd:
    settings = workspace.site.file.dp_sgd
    assert settings is not None  # callers check that the site uses DP-SGD
    return settings
