"""Optimizers without torch's compiler: the same steps and states as torch's own, and no compiler is loaded."""

from __future__ import annotations

import sys

import pytest
import torch

from fedsteph.client.training.optimizer import LBFGS, AdamW, uncompiled


def stepped(kind: type[torch.optim.Optimizer], **options) -> tuple[list[float], dict]:
    w = torch.tensor([3.0, -2.0, 0.5], requires_grad=True)
    optimizer = kind([w], lr=0.1, **options)

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = (w.square() * torch.tensor([1.0, 5.0, 0.2])).sum() + w.sin().sum()
        loss.backward()
        return loss

    for _ in range(5):
        objective()
        optimizer.step(objective)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    optimizer.step(objective)
    assert not w.grad_fn  # a step is no part of a graph
    return w.tolist(), {key: str(value) for key, value in state["state"][0].items()}


@pytest.mark.parametrize(("ours", "torchs"), [(AdamW, torch.optim.AdamW), (LBFGS, torch.optim.LBFGS)])
def test_steps_and_states_are_torch_s_bit_for_bit(ours, torchs, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import fails
    found = stepped(ours)
    monkeypatch.undo()
    assert found == stepped(torchs)


def test_one_that_torch_does_not_wrap_is_taken_as_it_is():
    class Halving(torch.optim.Optimizer):
        def __init__(self, params, lr: float) -> None:
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.5)

    w = torch.ones(2, requires_grad=True)
    uncompiled(Halving)([w], lr=1.0).step()
    assert w.tolist() == [0.5, 0.5]
