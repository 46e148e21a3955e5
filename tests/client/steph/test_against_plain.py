"""A whole step, as training takes it, against STEPH and ABMIL written down without a thought for speed."""

from __future__ import annotations

import pytest
import torch
from client_builders import CPU, SMALL, MemoryCohort, make_cohort
from plain_steph import PlainAbmil, PlainSteph, step_loss
from torch import Tensor, nn

from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import Batch, batches
from fedsteph.client.training.objective import Outputs, backward
from fedsteph.common.config.recipe import StephConfig, TrainingConfig
from fedsteph.common.model import pooling
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.model.survival import bin_of

REAL = Architecture(width=1536, embed=512, attention=384, n_bins=32)
SIZES = [1, 1, 2, 3, 3, 5, 8, 13, 21, 32, 33, 40, 64, 90, 130, 200]
GAMMA = BETA = 0.05  # as in the plain one


def encoder_of(seed: int, architecture: Architecture) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in untrained_model(architecture, seed).encoder_state().items()}


def double(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def paired(architecture: Architecture, n_sources: int, K: int = 5) -> tuple[Steph, PlainSteph, dict[str, str]]:
    """One model twice, the plain one in float64, and the plain names of the parameters.

    Every w is well above 0: which of several zeros are kept is a choice in which the two are free to differ.
    """
    theta_0 = encoder_of(0, architecture)
    target, *sources = (encoder_of(1 + k, architecture) for k in range(1 + n_sources))
    torch.manual_seed(7)
    mixture = Mixture(architecture, flat(theta_0), [flat(row) for row in (target, *sources)])
    steph = Steph(mixture, StephConfig(K=K, beta=BETA, balance=True), dropout=0.0)
    with torch.no_grad():
        steph.hypernetwork.head_agg[3].bias.add_(0.5).add_(torch.linspace(-0.2, 0.2, n_sources))
    plain = PlainSteph(
        double(theta_0),
        double(target),
        [double(source) for source in sources],
        n_bins=architecture.n_bins,
        K=K,
        dropout=0.0,
    ).double()
    names = {name: name.removeprefix("hypernetwork.").replace("encoder.embed", "encoder") for name in _named(steph)}
    plain.load_state_dict({names[name]: p.double() for name, p in _named(steph).items()})
    return steph, plain, names


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def step(model: nn.Module, cohort: MemoryCohort) -> tuple[Tensor, Tensor, int]:
    """Loss and hazards of one step over a whole cohort, whose gradient is left in the parameters, and its stacks."""
    hazards, order = [], []

    def forward(batch: Batch) -> Outputs:
        outputs = model.outputs(batch, GAMMA) if isinstance(model, Steph) else Outputs(model(batch.bags, batch.mask))
        hazards.append(outputs.hazards.detach())
        return outputs

    def stacks():
        for group, batch in batches(cohort, range(len(cohort)), model.head.out_features, CPU):
            order.extend(group)
            yield group, batch

    loss = backward(forward, stacks, len(cohort), TrainingConfig(alpha=0.5))
    return loss, torch.cat(hazards)[torch.tensor(order).argsort()], len(hazards)


def plain_step(model: nn.Module, cohort: MemoryCohort) -> tuple[Tensor, Tensor]:
    bags = [cohort.bag(i).double() for i in range(len(cohort))]
    bins = bin_of(cohort.times, model.head.out_features).tolist()
    loss = step_loss(model, bags, bins, cohort.events.tolist())
    loss.backward()
    with torch.no_grad():
        made = [model(bag) for bag in bags]
    return loss.detach(), torch.stack([out[0] if isinstance(out, tuple) else out for out in made])


def require_same(
    model: nn.Module, plain: nn.Module, names: dict[str, str], cohort: MemoryCohort, tolerance: float = 1e-5
) -> int:
    """Loss, hazards and every gradient, each to ``tolerance`` of its largest entry; gives the number of stacks."""
    loss, hazards, n_stacks = step(model, cohort)
    expected, expected_hazards = plain_step(plain, cohort)
    assert float(loss) == pytest.approx(float(expected), rel=tolerance)
    torch.testing.assert_close(hazards.double(), expected_hazards, rtol=0, atol=tolerance)
    theirs = {name: p.grad for name, p in _named(plain).items()}
    assert sorted(theirs) == sorted(names[name] for name in _named(model))
    whole = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, p in _named(model).items():
        gradient = theirs[names[name]]
        largest = float(gradient.abs().max())
        shift = name == "attention_c.bias"  # moves all scores alike: 0 but for rounding
        assert shift or largest > 1e-6 * whole, name
        difference = float((p.grad.double() - gradient).abs().max())
        assert difference <= tolerance * (whole if shift else max(largest, 1e-2 * whole)), name
    return n_stacks


@pytest.mark.parametrize("above", [0, 10**9], ids=["recomputed", "kept"])
@pytest.mark.parametrize(("n_sources", "K"), [(12, 5), (3, 5), (1, 1)])
def test_a_step_of_steph(monkeypatch, n_sources, K, above):
    """Stacks that are padded, stacks that are not, and bags alone that are cut into pieces."""
    monkeypatch.setitem(pooling._PIECE, "cpu", 48)
    monkeypatch.setitem(pooling._RECOMPUTE_ABOVE, "cpu", above)
    steph, plain, names = paired(SMALL, n_sources, K)
    assert 4 < require_same(steph, plain, names, make_cohort(SIZES)) < len(SIZES)


def test_a_step_of_steph_of_bags_that_are_all_alone(monkeypatch):
    monkeypatch.setattr("fedsteph.client.training.batch._INSTANCES_PER_PASS", 1)
    monkeypatch.setitem(pooling._PIECE, "cpu", 48)
    steph, plain, names = paired(SMALL, 12)
    assert require_same(steph, plain, names, make_cohort(SIZES)) == len(SIZES)


def abmil_pair(architecture: Architecture) -> tuple[BaseModel, PlainAbmil, dict[str, str]]:
    model = untrained_model(architecture, 3, dropout=0.0).train()
    sizes = (architecture.width, architecture.embed, architecture.attention, architecture.n_bins)
    plain = PlainAbmil(*sizes, dropout=0.0).double()
    plain.load_state_dict({name: p.double() for name, p in _named(model).items()})
    return model, plain, {name: name for name in _named(model)}


@pytest.mark.parametrize("above", [0, 10**9], ids=["recomputed", "kept"])
def test_a_step_of_abmil(monkeypatch, above):
    monkeypatch.setitem(pooling._PIECE, "cpu", 48)
    monkeypatch.setitem(pooling._RECOMPUTE_ABOVE, "cpu", above)
    assert 4 < require_same(*abmil_pair(SMALL), make_cohort(SIZES)) < len(SIZES)


def test_a_step_at_the_published_sizes():
    """A stack of two bags and a bag that is cut into two pieces."""
    cohort = make_cohort([1100, 21, 20], width=REAL.width, years=30, events=[1, 0, 1])
    steph, plain, names = paired(REAL, 6)
    assert require_same(steph, plain, names, cohort) == 2 and require_same(*abmil_pair(REAL), cohort) == 2


def test_a_bag_of_a_quarter_of_a_million_trains_as_in_one_piece():
    """Under the pieces and the recomputation that users have."""
    narrow, sizes = Architecture(width=4, embed=4, attention=3, n_bins=4), [250_000, 3]
    assert sizes[0] > 2 * pooling._RECOMPUTE_ABOVE["cpu"] > 15 * pooling._PIECE["cpu"]
    cohort = make_cohort(sizes, width=narrow.width, events=[1, 0])
    require_same(*paired(narrow, 4, K=2), cohort, tolerance=1e-4)
    require_same(*abmil_pair(narrow), cohort, tolerance=1e-4)
