"""A step that is cut into stacks against the same step in one graph: gradients, loss, dropout and memory."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch
from client_builders import CPU, SMALL, Held, make_cohort, state_of
from each_case import each

from fedsteph.client.training.batch import Batch, batches
from fedsteph.client.training.cox import cox_loss, log_odds
from fedsteph.client.training.objective import Forward, Outputs, backward
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.model.survival import nll

COHORT = make_cohort([3, 7, 1, 5, 2, 9, 4, 6, 3, 8], seed=2)
COHORT.bags = {key: bag.double() for key, bag in COHORT.bags.items()}
CUTS = {
    "one by one": [[i] for i in range(10)],
    "three stacks": [[0, 3, 5], [1, 2, 9, 8], [4, 6, 7]],
    "uneven": [[9], [0, 1, 2, 3, 4, 5, 6, 7, 8]],
    "whole": [list(range(10))],
}


def model_of(dropout: float = 0.0) -> BaseModel:
    return untrained_model(SMALL, seed=4, dropout=dropout).double().train()


def stacks_of(cut: Sequence[Sequence[int]]):
    """What the training gives: the stacks anew whenever they are asked for."""
    return lambda: ((group, batch) for part in cut for group, batch in batches(COHORT, part, SMALL.n_bins, CPU))


def gradients(model: BaseModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def plain(model: BaseModel) -> Forward:
    return lambda batch: Outputs(model(batch.bags, batch.mask))


def penalised(model: BaseModel) -> Forward:
    """A penalty that differs from bag to bag and depends on the parameters."""

    def forward(batch: Batch) -> Outputs:
        hazards = model(batch.bags, batch.mask)
        return Outputs(hazards, 0.3 * (1 + batch.times / 365) * hazards.square().sum(dim=1))

    return forward


def in_one_graph(forward: Forward, stacks, n: int, config: TrainingConfig, beside=lambda: 0.0) -> torch.Tensor:
    """The step's mean loss, with every stack's graph alive until the one backward pass."""
    made = [(forward(batch), batch) for _, batch in stacks()]
    t, e = (torch.cat([getattr(batch, key) for _, batch in made]) for key in ("times", "events"))
    bins, hazards = torch.cat([batch.bins for _, batch in made]), torch.cat([out.hazards for out, _ in made])
    penalty = sum(out.penalty.sum() for out, _ in made if out.penalty is not None) / n
    if config.loss == "cox":
        loss = cox_loss(log_odds(hazards), t, e) + penalty
    else:
        loss = nll(hazards, bins, e, config.alpha).mean() + penalty
    loss = loss + beside()
    loss.backward()
    return loss.detach()


def require_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance, msg=name)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


@each("with_penalty", [False, True])
@each("dropout", [0.0, 0.5])
@each("loss", ["nll", "cox"])
@each("cut", CUTS.values())
def test_stacks_equal_one_graph(cut, loss, dropout, with_penalty):
    """With dropout the masks are equal too: both draw them from the same seed, stack after stack.

    Cox's loss computes in float32 inside, hence the tolerance; the NLL agrees to the last digits.
    """
    config, make = TrainingConfig(loss=loss, alpha=0.3), penalised if with_penalty else plain
    found, expected = model_of(dropout), model_of(dropout)
    torch.manual_seed(11)
    value = backward(make(found), stacks_of(cut), 10, config)
    torch.manual_seed(11)
    reference = in_one_graph(make(expected), stacks_of(cut), 10, config)
    assert not value.requires_grad
    torch.testing.assert_close(value, reference, rtol=0, atol=1e-6, check_dtype=False)
    require_same(gradients(found), gradients(expected), 1e-6 if loss == "cox" else 1e-14)


@each("loss", ["nll", "cox"])
@each("cut", CUTS.values())
def test_a_loss_on_the_whole_step_comes_beside_the_others(cut, loss):
    """It sees every bag's score with its patient, once, and stacks of dropout's own masks change nothing."""
    wanted = {patient.id: 0.1 * i for i, patient in enumerate(COHORT.patients)}

    def beside(score: torch.Tensor, ids: Sequence[str]) -> torch.Tensor:
        assert sorted(ids) == sorted(wanted)
        apart = score - torch.tensor([wanted[key] for key in ids], dtype=score.dtype)
        return apart.square().sum().sqrt()  # no sum over bags

    config, found, expected = TrainingConfig(loss=loss), model_of(0.5), model_of(0.5)
    torch.manual_seed(11)
    value = backward(penalised(found), stacks_of(cut), 10, config, beside)
    torch.manual_seed(11)
    made: list[tuple[torch.Tensor, Sequence[str]]] = []

    def watched(batch: Batch) -> Outputs:
        out = penalised(expected)(batch)
        made.append((log_odds(out.hazards), batch.ids))
        return out

    reference = in_one_graph(watched, stacks_of(cut), 10, config, lambda: beside(*joined(made)))
    torch.testing.assert_close(value, reference, rtol=0, atol=1e-6, check_dtype=False)
    require_same(gradients(found), gradients(expected), 1e-6)


def joined(made: Sequence[tuple[torch.Tensor, Sequence[str]]]) -> tuple[torch.Tensor, list[str]]:
    return torch.cat([score for score, _ in made]), [key for _, ids in made for key in ids]


@each("loss", ["nll", "cox"])
def test_the_cut_does_not_matter(loss):
    config, found = TrainingConfig(loss=loss), []
    for cut in CUTS.values():
        model = model_of()
        backward(penalised(model), stacks_of(cut), 10, config)
        found.append(gradients(model))
    for other in found[1:]:
        require_same(other, found[0], 1e-6 if loss == "cox" else 1e-12)


@each("loss", ["nll", "cox"])
def test_dropout_masks_differ_between_stacks_and_between_steps(loss):
    """Two bags alike in two stacks have masks of their own, and the random state goes on after the step."""
    torch.manual_seed(5)
    hazards: list[torch.Tensor] = []
    model = model_of(0.5)

    def forward(batch: Batch) -> Outputs:
        out = model(batch.bags, batch.mask)
        hazards.append(out.detach())
        return Outputs(out)

    one = next(batches(COHORT, [5], SMALL.n_bins, CPU))
    for _ in range(2):
        backward(forward, lambda: iter([one, one]), 2, TrainingConfig(loss=loss))
    passes = 2 if loss == "cox" else 1
    steps = [hazards[: 2 * passes], hazards[2 * passes :]]
    assert len(hazards) == 4 * passes
    for step in steps:
        assert not torch.equal(step[0], step[1])
        if loss == "cox":
            assert torch.equal(step[0], step[2]) and torch.equal(step[1], step[3])
    assert not any(torch.equal(a, b) for a in steps[0] for b in steps[1])


@each("loss", ["nll", "cox"])
def test_the_random_state_ends_where_one_pass_ends(loss):
    torch.manual_seed(5)
    for _, batch in stacks_of(CUTS["three stacks"])():
        model_of(0.5)(batch.bags, batch.mask)
    expected = torch.get_rng_state()
    torch.manual_seed(5)
    backward(plain(model_of(0.5)), stacks_of(CUTS["three stacks"]), 10, TrainingConfig(loss=loss))
    assert torch.equal(torch.get_rng_state(), expected)


@each("loss", ["nll", "cox"])
def test_a_penalty_is_counted_once_and_averaged_over_the_step_s_bags(loss):
    """A penalty of one parameter alone, ``c_i`` times it in bag i: its gradient is the mean of the c."""
    model, extra = model_of(), torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(batch: Batch) -> Outputs:
        return Outputs(model(batch.bags, batch.mask), batch.times * extra)

    for cut in CUTS.values():
        extra.grad = None
        config = TrainingConfig(loss=loss)
        whole = backward(forward, stacks_of(cut), 10, config)
        without = backward(plain(model), stacks_of(cut), 10, config)
        mean = float(COHORT.times.mean())
        assert float(extra.grad) == pytest.approx(mean, rel=1e-12)
        assert float(whole - without) == pytest.approx(2 * mean, rel=1e-6)


def test_gradients_are_added_to_what_is_there():
    model = model_of()
    for expected in (1, 2):
        backward(plain(model), stacks_of(CUTS["three stacks"]), 10, TrainingConfig(loss="cox"))
        if expected == 1:
            once = gradients(model)
    require_same(gradients(model), {name: 2 * gradient for name, gradient in once.items()}, 1e-12)


@each("with_penalty", [False, True])
def test_a_step_without_event_teaches_cox_nothing_but_the_penalty(with_penalty):
    censored = make_cohort([3, 5, 2, 8], events=[0, 0, 0, 0])
    model, before = untrained_model(SMALL, seed=4, dropout=0.0), untrained_model(SMALL, seed=4, dropout=0.0)

    def stacks():
        return batches(censored, [0, 1, 2, 3], SMALL.n_bins, CPU)

    def forward(batch: Batch) -> Outputs:
        hazards = model(batch.bags, batch.mask)
        penalty = model.head.bias.square().sum().expand(len(hazards))
        return Outputs(hazards, penalty if with_penalty else None)

    value = backward(forward, stacks, 4, TrainingConfig(loss="cox"))
    expected = float(before.head.bias.detach().square().sum()) if with_penalty else 0.0
    assert float(value) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    for name, gradient in gradients(model).items():
        wanted = 2 * before.head.bias if with_penalty and name == "head.bias" else torch.zeros_like(gradient)
        torch.testing.assert_close(gradient, wanted.detach(), rtol=1e-6, atol=1e-9)
    assert state_of(model).keys() == state_of(before).keys()


@each("with_penalty", [False, True])
@each("loss", ["nll", "cox"])
def test_no_two_stacks_graphs_are_alive_at_once(loss, with_penalty):
    """At the beginning of every forward pass nothing is left of what an earlier one saved."""
    model, live, at_start, saved = model_of(0.5), [0], [], [0]
    inner = penalised(model) if with_penalty else plain(model)

    def let_go() -> None:
        live[0] -= 1

    def pack(tensor: torch.Tensor) -> Held:
        held = Held(tensor)
        live[0] += 1
        saved[0] += 1
        weakref.finalize(held, let_go)
        return held

    def forward(batch: Batch) -> Outputs:
        at_start.append(live[0])
        return inner(batch)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        backward(forward, stacks_of(CUTS["three stacks"]), 10, TrainingConfig(loss=loss))
    assert live == [0] and saved[0] > 10
    n_stacks = len(list(stacks_of(CUTS["three stacks"])()))
    assert n_stacks >= 3
    if loss == "nll":
        assert at_start == [0] * n_stacks
    else:
        # The first pass keeps no graph; in the second only the loss of the scores could be left, and it is not.
        assert at_start == [0] * (2 * n_stacks)
