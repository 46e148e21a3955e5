"""The regularisers and the whole loss, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from client_builders import SMALL, make_cohort
from each_case import each

from fedsteph.client.steph.losses import aggregation_loss, mixing_loss
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import batches
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import StephConfig, TrainingConfig
from fedsteph.common.model.initial_model import untrained_model


@each(
    ("w", "kept", "balance", "expected"),
    [
        ([0.0, 0.0, 0.0], [0, 1], False, math.log(3) ** 2),
        ([0.0, 0.0, 0.0], [0, 1], True, math.log(3) ** 2),
        ([math.log(2), math.log(3), 0.0], [1, 0], False, math.log(6) ** 2),
        ([math.log(2), math.log(3), 0.0], [1, 0], True, math.log(6) ** 2 + (math.log(3) + math.log(2)) / 2),
        ([2.0], [0], True, 4.0 + 2.0),
        ([200.0, 0.0], [0], False, 40_000.0),
    ],
)
def test_aggregation_loss(w, kept, balance, expected):
    found = aggregation_loss(torch.tensor([w, w]), torch.tensor([kept, kept]), balance)
    assert found.tolist() == pytest.approx([expected, expected], rel=1e-6)


@each(
    ("lam", "kept", "expected"),
    [
        ([0.5, 1.0, 0.25], [0, 2], (0.25 + 0.0625) / 2),
        ([0.5, 1.0, 0.25], [1], 1.0),
        ([0.0, 0.3, 0.4], [0, 1, 2], 0.25 / 3),
    ],
)
def test_mixing_loss(lam, kept, expected):
    assert mixing_loss(torch.tensor([lam]), torch.tensor([kept])).tolist() == pytest.approx([expected])


def test_aggregation_reaches_all_weights_and_mixing_the_kept_ones():
    w = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    lam = torch.tensor([[0.5, 0.5, 0.5]], requires_grad=True)
    kept = torch.tensor([[1]])
    (aggregation_loss(w, kept, True) + mixing_loss(lam, kept)).sum().backward()
    norm = sum(math.exp(x) for x in (1.0, 2.0, 0.5))
    expected = [2 * math.log(norm) * math.exp(x) / norm for x in (1.0, 2.0, 0.5)]
    expected[1] += 1.0
    assert w.grad[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert lam.grad[0].tolist() == pytest.approx([0.0, 1.0, 0.0])


@each("balance", [False, True])
def test_the_loss_is_the_weighted_sum_of_its_parts(balance):
    torch.manual_seed(0)
    m0 = untrained_model(SMALL, 0)
    rows = 0.1 * torch.randn(5, sum(p.numel() for p in m0.encoder_state().values()))
    theta_0 = torch.cat([p.detach().flatten() for p in m0.encoder_state().values()])
    model = Steph(Mixture(SMALL, theta_0, rows), StephConfig(K=2, beta=0.3, balance=balance), dropout=0.0)
    cohort = make_cohort([3, 4, 4])
    ((_, batch),) = batches(cohort, range(3), SMALL.n_bins, torch.device("cpu"))
    found = model.outputs(batch, gamma=0.7)
    hazards, routing = model(batch.bags, batch.mask), model.route(batch.bags, batch.mask)
    assert torch.equal(found.hazards, hazards)
    losses = []
    for b in range(3):
        year, h = int(batch.bins[b]), hazards[b].tolist()
        alive = sum(math.log(1 - x) for x in h[:year])
        loss = -(alive + math.log(h[year])) if batch.events[b] else -0.5 * (alive + math.log(1 - h[year]))
        w, lam = routing.w[b].tolist(), routing.lam[b].tolist()
        kept = sorted(range(4), key=lambda k: -w[k])[:2]
        l_agg = math.log(sum(math.exp(x) for x in w)) ** 2 + (sum(w[k] for k in kept) / 2 if balance else 0.0)
        l_mix = sum(lam[k] ** 2 for k in kept) / 2
        assert found.penalty[b].item() == pytest.approx(0.7 * l_agg + 0.3 * l_mix, rel=1e-5)
        losses.append(loss + 0.7 * l_agg + 0.3 * l_mix)
    whole = backward(
        lambda batch: model.outputs(batch, 0.7), lambda: [([0, 1, 2], batch)], 3, TrainingConfig(alpha=0.5)
    )
    assert float(whole) == pytest.approx(sum(losses) / 3, rel=1e-5)
