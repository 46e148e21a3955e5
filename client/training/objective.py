"""Computes the loss and gradient of one training step: the survival loss, plus penalties per bag or per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
# A loss on a whole step, from its scores (n_bags,) on the CPU and the IDs of its patients, in the same order.
StepLoss = Callable[[Tensor, Sequence[str]], Tensor]


def passes(config: TrainingConfig, beside: StepLoss | None = None, *, keep: bool = False) -> int:
    """Number of passes that :func:`backward` makes over a step's stacks."""
    return 2 if is_joint(config, beside) and not keep else 1


def is_joint(config: TrainingConfig, beside: StepLoss | None) -> bool:
    """Whether the loss of a step is no sum over its bags."""
    return config.loss == "cox" or beside is not None


def backward(
    forward: Forward,
    stacks: Stacks,
    n: int,
    config: TrainingConfig,
    beside: StepLoss | None = None,
    *,
    keep: bool = False,
) -> Tensor:
    """Add the gradient of one step's mean loss to the parameters, stack by stack; return the loss, detached.

    The NLL is a sum over bags. Cox's loss and ``beside`` are not, so they take two passes: the first computes the
    scores of all bags and the gradient of the loss with respect to them; the second backpropagates it under the same
    dropout.

    Args:
        stacks: the stacks of one step, of ``n`` bags in total.
        beside: a further loss on the whole step, added to the others.
        keep: keep every stack's graph, so that one pass does; the memory is that of the whole step.
    """
    if is_joint(config, beside):
        return _in_two_passes(forward, stacks, n, config, beside, keep)
    shares = []
    for _, batch in stacks():
        share = _separable(forward(batch), batch, config) / n
        torch.autograd.backward(share)
        shares.append(share.detach())
    return torch.stack(shares).sum()


def _in_two_passes(
    forward: Forward, stacks: Stacks, n: int, config: TrainingConfig, beside: StepLoss | None, keep: bool
) -> Tensor:
    states, scores, shares, labels, kept = [], [], [], [], list[tuple[Tensor, Tensor]]()
    with torch.set_grad_enabled(keep):
        for _, batch in stacks():
            states.append(draw_states(batch.bags.device))
            outputs = forward(batch)
            score, share = log_odds(outputs.hazards), _separable(outputs, batch, config) / n
            scores.append(score.detach())
            shares.append(share.detach())
            labels.append((batch.times, batch.events, batch.ids))
            if keep:
                kept.append((score, share))
    # On the CPU, because the shapes in Cox's loss depend on the data, and each would wait for the GPU. This copy is the
    # only wait of a step; the results go back to the GPU without one.
    joined = torch.cat(scores).cpu().requires_grad_()
    device, loss = scores[0].device, _joint(joined, labels, config, beside)
    gradient_of_all = torch.autograd.grad(loss, joined)[0].to(device, non_blocking=True)
    gradients = torch.split(gradient_of_all, [len(score) for score in scores])
    if keep:
        for (score, share), gradient in zip(kept, gradients, strict=True):
            torch.autograd.backward((score * gradient).sum() + share)
    else:
        for (_, batch), state, gradient in zip(stacks(), states, gradients, strict=True):
            set_draw_states(state, batch.bags.device)
            outputs = forward(batch)
            carried = (log_odds(outputs.hazards) * gradient).sum()
            torch.autograd.backward(carried + _separable(outputs, batch, config) / n)
    return loss.detach().to(device, non_blocking=True) + torch.stack(shares).sum()


def _joint(
    scores: Tensor,
    labels: Sequence[tuple[Tensor, Tensor, tuple[str, ...]]],
    config: TrainingConfig,
    beside: StepLoss | None,
) -> Tensor:
    """The losses that are no sums over bags, from the scores and each stack's times, events and IDs."""
    times, events, ids = zip(*labels, strict=True)
    loss = torch.zeros((), dtype=scores.dtype)
    if config.loss == "cox":
        loss = cox_loss(scores, torch.cat(times), torch.cat(events).cpu())
    return loss if beside is None else loss + beside(scores, [key for part in ids for key in part])


def _separable(outputs: Outputs, batch: Batch, config: TrainingConfig) -> Tensor:
    """The sum of the bags' own losses."""
    losses = torch.zeros_like(batch.events, dtype=outputs.hazards.dtype)
    if config.loss == "nll":
        losses = nll(outputs.hazards, batch.bins, batch.events, config.alpha)
    return losses.sum() if outputs.penalty is None else (losses + outputs.penalty).sum()


def proximal(theta: Mapping[str, Tensor], anchor: dict[str, Tensor], mu: float) -> Tensor:
    """``mu / 2 |theta - anchor|^2`` (Li et al., MLSys 2020); ``anchor`` is moved to the device of ``theta``."""
    if mu == 0:
        return torch.zeros((), device=next(iter(theta.values())).device)
    for name, tensor in theta.items():
        anchor[name] = anchor[name].to(tensor.device)
    return 0.5 * mu * torch.stack([(tensor - anchor[name]).square().sum() for name, tensor in theta.items()]).sum()
