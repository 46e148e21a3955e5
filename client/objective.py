"""What one training step minimises: the survival loss over its bags, and a model's own penalty on each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.batch import Batch
from common.config import TrainingConfig
from common.cox import cox_loss, log_odds
from common.survival import nll


@dataclass(frozen=True)
class Outputs:
    """What a model in training says of some bags: hazards ``(n_bags, n_bins)`` and its own penalty ``(n_bags,)``."""

    hazards: Tensor
    penalty: Tensor | None = None


Forward = Callable[[Batch], Outputs]


Stacks = Callable[[], Iterable[tuple[Sequence[int], Batch]]]  # a step's bags, as often as they are asked for


def backward(forward: Forward, stacks: Stacks, n: int, config: TrainingConfig) -> Tensor:
    """Add the gradient of one step's mean loss to the parameters, stack by stack, and return the loss, detached.

    The NLL is a sum over bags. Cox's loss is not, so its stacks run twice: once for the scores, whose gradient
    all bags decide together, and once more under the same dropout to carry that gradient back.

    Args:
        stacks: of a step of ``n`` bags.
    """
    if config.loss == "cox":
        return _cox_backward(forward, stacks, n)
    total = torch.zeros(())
    for _, batch in stacks():
        outputs = forward(batch)
        share = _sum(nll(outputs.hazards, batch.bins, batch.events, config.alpha), outputs.penalty) / n
        torch.autograd.backward(share)
        total = total.to(share.device) + share.detach()
    return total


def _cox_backward(forward: Forward, stacks: Stacks, n: int) -> Tensor:
    states, scores, penalties, times, events = [], [], [], [], []
    with torch.no_grad():
        for _, batch in stacks():
            states.append(_rng_state(batch.bags.device))
            outputs = forward(batch)
            scores.append(log_odds(outputs.hazards))
            penalties.append(_sum(torch.zeros_like(scores[-1]), outputs.penalty) / n)
            times.append(batch.times)
            events.append(batch.events)
    joined = torch.cat(scores).requires_grad_()
    loss = cox_loss(joined, torch.cat(times), torch.cat(events))
    gradients = torch.split(torch.autograd.grad(loss, joined)[0], [len(score) for score in scores])
    for (_, batch), state, gradient in zip(stacks(), states, gradients, strict=True):
        _set_rng_state(state, batch.bags.device)
        outputs = forward(batch)
        carried = (log_odds(outputs.hazards) * gradient).sum()
        torch.autograd.backward(carried if outputs.penalty is None else carried + outputs.penalty.sum() / n)
    return loss.detach() + torch.stack(penalties).sum()


def _sum(losses: Tensor, penalty: Tensor | None) -> Tensor:
    return losses.sum() if penalty is None else (losses + penalty).sum()


def _rng_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_rng_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
