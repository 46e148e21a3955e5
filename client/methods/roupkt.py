"""ROUPKT (arXiv 2508.13482): a router over experts, each fed by the slide vector of one frozen model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsteph.client.methods.task import Task, Trained, learnable_parameters
from fedsteph.client.training.batch import Batch, recalled
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.survival_fit import fit_survival
from fedsteph.common.host.progress import Progress
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.encode import encode
from fedsteph.common.model.seeded import seeded

TOP = 5
BALANCE = 0.01
Z_LOSS = 0.01


class Roupkt(nn.Module):
    """``p = softmax(route(router(X)))``; ``z = sum over the top 5 of p_k ReLU(W_k z_k + b_k)``, not renormalised.

    ``z_k`` is the slide vector of frozen model k; the target's own model is the first. There are 4,618,913 learnable
    parameters with 13 models of width 1536, embed 512, attention 384 and 32 bins.
    """

    def __init__(self, frozen: list[BaseModel], router: BaseModel) -> None:
        super().__init__()
        self._architecture = architecture = router.architecture
        n = len(frozen)
        embed = architecture.embed
        self.router = nn.ParameterDict(
            {name.replace(".", "/"): tensor.detach().clone() for name, tensor in router.encoder_state().items()}
        )
        self.route = nn.Linear(embed, n, bias=False)
        self.experts = nn.ModuleList(nn.Linear(embed, embed) for _ in range(n))
        self.head = nn.Linear(embed, architecture.n_bins)
        self.dropout = router.dropout
        self._frozen = [{name: w.detach() for name, w in model.encoder_state().items()} for model in frozen]
        self._known: dict[str, Tensor] = {}  # slide vectors of training bags, computed once: frozen models

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hazards of bags: ``(n_bags, n_instances, d) -> (n_bags, n_bins)``."""
        return self._mix(self.represent(bags, mask), torch.softmax(self._logits(bags, mask), dim=1))

    def outputs(self, batch: Batch) -> Outputs:
        """Hazards, and the router's weighted penalties: load balance over the batch, and ``logsumexp(logits)^2``."""
        logits = self._logits(batch.bags, batch.mask)
        p = torch.softmax(logits, dim=1)
        first = functional.one_hot(p.argmax(dim=1), p.shape[1]).to(p.dtype)
        penalty = BALANCE * (p * first).sum(dim=1) + Z_LOSS * logits.logsumexp(dim=1).square()
        vectors = recalled(self._known, batch, lambda new: self.represent(new.bags, new.mask))
        return Outputs(self._mix(vectors, p), penalty)

    @torch.no_grad()
    def represent(self, bags: Tensor, mask: Tensor | None) -> Tensor:
        """The frozen models' slide vectors, ``(n_bags, n_models, embed)``."""
        vectors = []
        for frozen in self._frozen:
            state = {name: tensor.to(bags.device) for name, tensor in frozen.items()}
            vectors.append(encode(self._architecture, state, bags, mask)[0])
        return torch.stack(vectors, dim=1)

    def _logits(self, bags: Tensor, mask: Tensor | None) -> Tensor:
        state = {name.replace("/", "."): tensor for name, tensor in self.router.items()}
        z, _ = encode(self._architecture, state, bags, mask, self.dropout if self.training else 0.0)
        logits: Tensor = self.route(z)
        return logits

    def _mix(self, vectors: Tensor, p: Tensor) -> Tensor:
        top = torch.topk(p, min(TOP, p.shape[1]), dim=1)
        gate = torch.zeros_like(p).scatter(1, top.indices, top.values)
        # (n_bags, n_models, embed)
        experts = torch.stack([functional.relu(expert(vectors[:, k])) for k, expert in enumerate(self.experts)], dim=1)
        return torch.sigmoid(self.head((gate.unsqueeze(-1) * experts).sum(dim=1)))


def roupkt(task: Task, progress: Progress) -> Trained:
    """Train router, experts and head; the target's and the sources' encoders stay frozen."""
    recipe, seed = task.recipe, task.seed("roupkt")
    frozen = [v.applied_to(task.m0, task.m0.head_state()).eval() for v in (task.own, *task.sources)]
    with seeded(seed):
        model = Roupkt(frozen, BaseModel(task.m0.architecture, recipe.model.dropout)).to(task.device)
    fit_survival(model, model.outputs, task.train, recipe, seed=seed, run=task.run("roupkt", progress))
    return Trained(model, learnable_parameters(model))
