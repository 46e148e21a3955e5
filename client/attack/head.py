"""Each patient's loss under a received vector: with its own risk direction, or with the head that fits best."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import batches
from fedsteph.client.training.cox import fitted_baseline
from fedsteph.client.training.optimizer import LBFGS
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.encode import encode
from fedsteph.common.model.survival import bin_of, empirical_hazard, nll

_RIDGE = 1.0  # on weights of standardised z; with less, the head also overfits non-members
_BASELINE_RIDGE = 1e-2  # on the biases' distance from the empirical ones; keeps bins without events finite
_STEPS = 200
_SETTLED = 1e-6  # stop at this change of the objective; patients' losses differ by far more


@torch.no_grad()
def slide_vectors(model: BaseModel, cohort: Cohort, device: torch.device) -> Tensor:
    """Slide vector ``z`` of every patient under a model's encoder, ``(n_patients, embed)`` float64 on the CPU."""
    model = model.to(device).eval()
    found = torch.empty(len(cohort), model.architecture.embed, dtype=torch.float64)
    for group, batch in batches(cohort, range(len(cohort)), model.architecture.n_bins, device):
        z, _ = encode(model.architecture, model.encoder_state(), batch.bags, batch.mask)
        found[group] = z.cpu().double()
    return found


def losses(z: Tensor, cohort: Cohort, n_bins: int, alpha: float) -> Tensor:
    """Each patient's NLL in nats under the head that fits all of them best, ``(n_patients,)`` float64.

    The head is ``logit(h_ij) = w z_i + b_j`` with a ridge on w, fitted by L-BFGS on members and non-members together,
    because the recipient does not know who is a member. Slide vectors are ``z (n_patients, embed)``; in the NLL, a
    censored patient weighs 1 - alpha.
    """
    bins, events = bin_of(cohort.times, n_bins), torch.tensor(cohort.events)
    spread = z.std(dim=0)
    x = (z - z.mean(dim=0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    start = torch.logit(torch.from_numpy(empirical_hazard(bins, cohort.events, n_bins)))
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    b = start.clone().requires_grad_()
    y = torch.from_numpy(bins)

    def loss() -> Tensor:
        return nll(torch.sigmoid((x @ w)[:, None] + b), y, events, alpha)

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = loss().mean() + _RIDGE * w.square().sum() / 2 + _BASELINE_RIDGE * (b - start).square().sum() / 2
        torch.autograd.backward(total)
        return total

    optimizer = LBFGS([w, b], max_iter=_STEPS, tolerance_change=_SETTLED, line_search_fn="strong_wolfe")
    optimizer.step(objective)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return loss()


def own_losses(z: Tensor, direction: Tensor, cohort: Cohort, n_bins: int, alpha: float) -> Tensor:
    """As :func:`losses`, under a received risk direction ``(embed,)``: only the baseline hazards are fitted."""
    bins, score = bin_of(cohort.times, n_bins), z @ direction.double()
    hazards = torch.sigmoid(score[:, None] + fitted_baseline(score, bins, cohort.events, n_bins))
    return nll(hazards, torch.from_numpy(bins), torch.tensor(cohort.events), alpha)
