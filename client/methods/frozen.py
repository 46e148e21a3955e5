"""A new head trained on a frozen encoder: the local model's, or the best source's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.methods.task import Task, Trained, learnable_parameters
from fedsteph.client.training.batch import Batch, batches, risks
from fedsteph.client.training.loop import derive_seed
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.survival_fit import fit_survival
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.encode import encode
from fedsteph.common.model.seeded import seeded


class HeadOnly(nn.Module):
    """Hazards from slide vectors passed as bags of one instance: ``(n_bags, 1, embed) -> (n_bags, n_bins)``."""

    def __init__(self, embed: int, n_bins: int) -> None:
        super().__init__()
        self.head = nn.Linear(embed, n_bins)

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.sigmoid(self.head(bags[:, 0]))


def tuned_head(task: Task, progress: Progress) -> Trained:
    """A new head on the target's own frozen encoder."""
    return _under_fresh_head(task, task.local, "tuned_head", progress)


def best_source(task: Task, progress: Progress) -> Trained:
    """A new head on one source's frozen encoder: the source with the highest C-index in inner validation."""
    encoders = [source.applied_to(task.m0, task.m0.head_state()).eval() for source in task.sources]
    concordant = [0.0] * len(encoders)
    for k, encoder in enumerate(encoders):
        for part in task.inner:
            train, validation = (pooled(encoder, cohort, task.device) for cohort in (part.train, part.validation))
            head = _fit_head(task, train, f"best_source {k} {part.label}", silent)
            risk = risks(head, validation, task.device)
            concordant[k] += pairs(risk, validation.times, validation.events).concordant
        progress(k + 1, len(encoders) + 1)
    best = max(range(len(encoders)), key=lambda k: (concordant[k], -k))
    trained = _under_fresh_head(task, encoders[best], "best_source", silent)
    progress(len(encoders) + 1, len(encoders) + 1)
    return trained


@torch.no_grad()
def pooled(encoder: BaseModel, cohort: Cohort, device: torch.device) -> Cohort:
    """The cohort with one instance per patient: the slide vector ``(1, embed)`` of the bag under a frozen encoder."""
    encoder.to(device).eval()
    vectors = torch.empty(len(cohort), 1, encoder.architecture.embed)
    for group, batch in batches(cohort, range(len(cohort)), encoder.architecture.n_bins, device):
        vectors[group, 0] = encode(encoder.architecture, encoder.encoder_state(), batch.bags, batch.mask)[0].cpu()
    return Cohort.of_bags(cohort.patients, [*vectors])


def _under_fresh_head(task: Task, encoder: BaseModel, method: str, progress: Progress) -> Trained:
    head = _fit_head(task, pooled(encoder, task.train, task.device), method, progress)
    model = BaseModel(encoder.architecture, encoder.dropout)
    model.load_state_dict({**encoder.cpu().encoder_state(), **head.cpu().state_dict()})
    return Trained(model.eval(), learnable_parameters(head))


def _fit_head(task: Task, cohort: Cohort, label: str, progress: Progress) -> HeadOnly:
    seed = derive_seed(task.seed("head"), label)
    with seeded(seed):
        head = HeadOnly(cohort.width, task.recipe.model.n_bins)

    def forward(batch: Batch) -> Outputs:
        return Outputs(head(batch.bags))

    fit_survival(head, forward, cohort, task.recipe, seed=seed, run=TrainingRun(task.device, progress=progress))
    return head
