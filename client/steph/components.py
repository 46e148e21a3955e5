"""Computes where a bag lies among the training patients': what a free choice among sources sees of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_COMPONENTS = 4


class Components(nn.Module):
    """Leading principal components of the bag's mean instance: ``(n_bags, n_instances, d) -> (n_bags, 4)``.

    Features are standardised before; each component has mean 0 and variance 1 over the training patients. All are 0
    until they are fitted, and those beyond the rank of the training patients' mean instances stay 0. So few because a
    site of a few hundred patients would be learnt by heart from all d features.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("directions", torch.zeros(width, N_COMPONENTS))

    @torch.no_grad()
    def fit(self, means: Tensor) -> None:
        """Take them from the training patients' :func:`mean_instance`, ``(n_patients, d)``."""
        means = means.double()
        centre, spread = means.mean(dim=0), means.std(dim=0, correction=0)
        weight = torch.where(spread > 0, 1.0 / spread, 0.0)
        _, s, axes = torch.linalg.svd((means - centre) * weight, full_matrices=False)
        kept = min(N_COMPONENTS, int((s > 1e-6 * s[0]).sum()))
        scale = len(means) ** 0.5 / s[:kept]
        self.mean.copy_(centre)
        self.directions.zero_()
        self.directions[:, :kept] = weight.unsqueeze(1) * axes[:kept].t() * scale

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.of_means(mean_instance(bags, mask))

    def of_means(self, means: Tensor) -> Tensor:
        """The components of mean instances: ``(n_bags, d) -> (n_bags, 4)``."""
        return (means - self.mean) @ self.directions


def mean_instance(bags: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean over the real instances: ``(n_bags, n_instances, d) -> (n_bags, d)``."""
    if mask is None:
        return bags.mean(dim=1)
    weight = mask.to(bags.dtype) / mask.sum(dim=1, keepdim=True)
    return torch.bmm(weight.unsqueeze(1), bags).squeeze(1)
