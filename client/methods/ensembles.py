"""Means of several models' risks, and averages of the target's own models of several seeds, as controls."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.methods.headed import NO_HEAD, fit_baseline, headed, score, scores
from fedsteph.client.methods.task import Method, Task, Trained, learnable_parameters, local_alone
from fedsteph.client.training.cox import fitted_baseline
from fedsteph.client.training.local import mean_model
from fedsteph.common.host.progress import Progress
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.survival import bin_of


class RiskEnsemble(nn.Module):
    """Hazards ``sigmoid(b_j + s)``, where ``s`` is a weighted sum of the members' standardised scores.

    Every member makes its own pass over a bag. Standardised: by mean and standard deviation over the cohort. The sum is
    on the scale of the first member's scores, and the baseline ``b`` is fitted to the cohort's outcomes.
    """

    def __init__(self, members: Sequence[BaseModel], weights: Sequence[float], cohort: Cohort, device: torch.device):
        super().__init__()
        own = [copy.deepcopy(member).requires_grad_(False) for member in members]
        n_bins = own[0].architecture.n_bins
        known = scores(own, cohort, device)
        mean, sd = moments(known)
        share = torch.tensor(weights, dtype=torch.float64)[:, None] * sd[0] / sd
        baseline = fitted_baseline(
            (share * (known - mean)).sum(dim=0), bin_of(cohort.times, n_bins), cohort.events, n_bins
        )
        self.members = nn.ModuleList(own)
        self.mean: Tensor
        self.share: Tensor
        self.register_buffer("mean", mean[:, 0].float())
        self.register_buffer("share", share[:, 0].float())
        self.head = nn.Linear(1, n_bins).requires_grad_(False)
        nn.init.ones_(self.head.weight)
        self.head.bias.copy_(baseline.float())

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hazards of bags: ``(n_bags, n_instances, d) -> (n_bags, n_bins)``."""
        found = torch.stack(
            [score(member, bags, mask) for member in self.members if isinstance(member, BaseModel)], dim=1
        )
        together = ((found - self.mean) * self.share).sum(dim=1, keepdim=True)
        return torch.sigmoid(self.head(together))


def moments(known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over patients, ``(n_models, n_patients) -> (n_models, 1)``; of a constant, 1."""
    sd = known.std(dim=1, correction=0, keepdim=True)
    return known.mean(dim=1, keepdim=True), torch.where(sd > 0, sd, 1.0)


def received(task: Task) -> list[BaseModel]:
    """The sources' models, ``M0 + tau_k`` with their own heads, but for the baseline, which is none of theirs."""
    return [vector.merged_model(task.m0, torch.zeros(task.m0.architecture.n_bins)) for vector in headed(task)]


def risk_ensemble(task: Task, progress: Progress) -> Trained:
    """The target's standardised risk plus half the mean of the sources'."""
    if not (models := received(task)):
        return local_alone(task, NO_HEAD)
    return _together(task, [task.local, *models], [1.0] + [0.5 / len(models)] * len(models))


def risk_mean(task: Task, progress: Progress) -> Trained:
    """The mean of the target's and the sources' standardised risks."""
    if not (models := received(task)):
        return local_alone(task, NO_HEAD)
    return _together(task, [task.local, *models], [1.0 / (1 + len(models))] * (1 + len(models)))


def _together(task: Task, models: Sequence[BaseModel], weights: Sequence[float]) -> Trained:
    model = RiskEnsemble(models, weights, task.train, task.device)
    return Trained(model, task.m0.architecture.n_bins)  # the baseline


def local_ensemble(task: Task, progress: Progress) -> Trained:
    """The mean of the standardised risks of ``final.members`` local models of one M0 and other seeds."""
    members = task.workspace.train_members(task.fold, progress)
    model = RiskEnsemble(members, [1.0 / len(members)] * len(members), task.train, task.device)
    return Trained(model, sum(learnable_parameters(member) for member in members))


def local_average(task: Task, progress: Progress) -> Trained:
    """The average of the weights of the same local models, heads too; under Cox's loss its baseline is fitted again."""
    model = mean_model(task.workspace.train_members(task.fold, progress))
    if task.recipe.training.loss == "cox":
        fit_baseline(model, task.train, task.device)
    return Trained(model.cpu(), learnable_parameters(model))


METHODS: dict[str, Method] = {
    "risk_ensemble": risk_ensemble,
    "risk_mean": risk_mean,
    "local_ensemble": local_ensemble,
    "local_average": local_average,
}
