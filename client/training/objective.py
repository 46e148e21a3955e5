"""Computes the loss and gradient of one training step: the survival loss, plus the model's own penalty per bag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsteph.client.training.batch import Batch
from fedsteph.client.training.cox import cox_loss, log_odds
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.model.seeded import draw_states, set_draw_states
from fedsteph.common.model.survival import nll


@dataclass(frozen=True)
class Outputs:
    """A model's outputs in training: hazards ``(n_bags, n_bins)`` and its own penalty ``(n_bags,)``."""

    hazards: Tensor
    penalty: Tensor | None = None


Forward = Callable[[Batch], Outputs]


Stacks = Callable[[], Iterable[tuple[Sequence[int], Batch]]]  # each call is one pass over a step's stacks


def passes(config: TrainingConfig) -> int:
    """Number of passes that :func:`backward` makes over a step's stacks."""
    return 2 if config.loss == "cox" else 1


def backward(forward: Forward, stacks: Stacks, n: int, config: TrainingConfig) -> Tensor:
    """Add the gradient of one step's mean loss to the parameters, stack by stack; return the loss, detached.

    The NLL is a sum over bags. Cox's loss is not, so it makes two passes: the first computes the scores of all bags and
    the gradient of the loss with respect to them; the second backpropagates it under the same dropout.

    Args:
        stacks: the stacks of one step, of ``n`` bags in total.
    """
    if config.loss == "cox":
        return _cox_backward(forward, stacks, n)
    shares = []
    for _, batch in stacks():
        outputs = forward(batch)
        share = _sum(nll(outputs.hazards, batch.bins, batch.events, config.alpha), outputs.penalty) / n
        torch.autograd.backward(share)
        shares.append(share.detach())
    return torch.stack(shares).sum()


def _cox_backward(forward: Forward, stacks: Stacks, n: int) -> Tensor:
    states, scores, penalties, times, events = [], [], [], [], []
    with torch.no_grad():
        for _, batch in stacks():
            states.append(draw_states(batch.bags.device))
            outputs = forward(batch)
            scores.append(log_odds(outputs.hazards))
            penalties.append(_sum(torch.zeros_like(scores[-1]), outputs.penalty) / n)
            times.append(batch.times)
            events.append(batch.events)
    # On the CPU, because the shapes in Cox's loss depend on the data, and each would wait for the GPU. This copy is the
    # only wait of a step; the results go back to the GPU without one.
    joined = torch.cat(scores).cpu().requires_grad_()
    device, loss = scores[0].device, cox_loss(joined, torch.cat(times), torch.cat(events).cpu())
    gradient_of_all = torch.autograd.grad(loss, joined)[0].to(device, non_blocking=True)
    gradients = torch.split(gradient_of_all, [len(score) for score in scores])
    for (_, batch), state, gradient in zip(stacks(), states, gradients, strict=True):
        set_draw_states(state, batch.bags.device)
        outputs = forward(batch)
        carried = (log_odds(outputs.hazards) * gradient).sum()
        torch.autograd.backward(carried if outputs.penalty is None else carried + outputs.penalty.sum() / n)
    return loss.detach().to(device, non_blocking=True) + torch.stack(penalties).sum()


def _sum(losses: Tensor, penalty: Tensor | None) -> Tensor:
    return losses.sum() if penalty is None else (losses + penalty).sum()
