"""Weighted sums of vectors with a new head: AdaMerging, TIES, Iso-C and Surgery, each with two kinds of weights.

``theta = theta_0 + sum_k w_k tau'_k`` over all S sources, without top-K. ``tau'_k`` is computed from ``tau_t`` and
``tau_k`` by a rule of :mod:`fedsteph.client.methods.rules`. ``w`` is one trainable number per source, starting at 1/S,
or predicted per bag by a hypernetwork. Loss: the recipe's, plus ``gamma logsumexp(w)^2``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from fedsteph.client.methods.rules import Rule, iso_c, plain, ties
from fedsteph.client.methods.surgery import Surgery
from fedsteph.client.methods.task import Method, Task, Trained, learnable_parameters
from fedsteph.client.steph.hypernetwork import Hypernetwork
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.training.batch import Batch
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.survival_fit import fit_survival
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.host.progress import Progress
from fedsteph.common.model.encode import encode
from fedsteph.common.model.seeded import seeded


class Merged(nn.Module):
    """An encoder that is a weighted sum of vectors, an optional Surgery adapter behind it, and a head."""

    def __init__(self, mixture: Mixture, dropout: float, *, hyper: bool, surgery: Surgery | None) -> None:
        super().__init__()
        architecture, n = mixture.architecture, len(mixture.stack)
        self.mixture = mixture
        self.dropout = dropout
        self.hyper = hyper
        if hyper:
            self.hypernetwork = Hypernetwork(architecture, n, StephConfig(variant="fix"), dropout)  # w alone
        else:
            self.w = nn.Parameter(torch.full((n,), 1.0 / n))
        self.surgery = surgery
        self.head = nn.Linear(architecture.embed, architecture.n_bins)

    def weights(self, bags: Tensor, mask: Tensor | None) -> Tensor:
        """``w``: ``(n_bags, n_sources)``, or ``(1, n_sources)`` if it is the same for all bags."""
        if self.hyper:
            w: Tensor = self.hypernetwork(bags, mask)[0]
            return w
        return self.w.unsqueeze(0)

    def represent(self, bags: Tensor, mask: Tensor | None, w: Tensor) -> Tensor:
        """Slide vectors of the merged encoder, before Surgery: ``(n_bags, embed)``."""
        theta = self.mixture.merge(w)
        if len(w) == 1:
            theta = {name: tensor[0] for name, tensor in theta.items()}
        return encode(self.mixture.architecture, theta, bags, mask, self.dropout if self.training else 0.0)[0]

    def hazards(self, z: Tensor) -> Tensor:
        """Hazards of slide vectors: ``(n_bags, embed) -> (n_bags, n_bins)``."""
        return torch.sigmoid(self.head(z if self.surgery is None else self.surgery(z)))

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hazards of bags: ``(n_bags, n_instances, d) -> (n_bags, n_bins)``."""
        return self.hazards(self.represent(bags, mask, self.weights(bags, mask)))

    def outputs(self, batch: Batch, gamma: float) -> Outputs:
        """Hazards, and as penalty the z-loss plus Surgery's distance from the target's own slide vectors."""
        w = self.weights(batch.bags, batch.mask)
        z = self.represent(batch.bags, batch.mask, w)
        penalty = gamma * w.logsumexp(dim=1).square().expand(len(z))
        if self.surgery is not None:
            penalty = penalty + self.surgery.distance(z, batch)
        return Outputs(self.hazards(z), penalty)


def merging(name: str, rule: Rule, *, hyper: bool, surgery: bool = False) -> Method:
    """The method that merges by ``rule``; ``hyper``: ``w`` is predicted per bag, not one learned number per source."""

    def method(task: Task, progress: Progress) -> Trained:
        config, recipe, seed = task.recipe.comparators, task.recipe, task.seed(name)
        of_pair = partial(ties, density=config.density) if rule is ties else rule
        whole = Mixture.of(task.m0, task.own, [of_pair(task.own, source) for source in task.sources]).to(task.device)
        # Without the target's row: its contribution is already in each rule's result.
        mixture = Mixture(whole.architecture, whole.theta_0, whole.stack[1:])
        with seeded(seed):
            adapter = Surgery(task.local, config.surgery_rank) if surgery else None
            model = Merged(mixture, recipe.model.dropout, hyper=hyper, surgery=adapter).to(task.device)

        def forward(batch: Batch) -> Outputs:
            return model.outputs(batch, config.gamma)

        fit_survival(model, forward, task.train, recipe, seed=seed, run=task.run(name, progress))
        return Trained(model, learnable_parameters(model))

    return method


METHODS: dict[str, Method] = {
    name + suffix: merging(name + suffix, rule, hyper=hyper, surgery=name == "surgery")
    for name, rule in {"adamerging": plain, "ties": ties, "surgery": plain, "iso_c": iso_c}.items()
    for suffix, hyper in {"": False, "_hyper": True}.items()
}
