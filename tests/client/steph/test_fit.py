"""Training STEPH: what moves and what does not, determinism, and the collapse."""

from __future__ import annotations

import pytest
import torch
from client_builders import (
    CPU,
    MemoryCohort,
    equal,
    m0_of,
    make_cohort,
    make_recipe,
    make_vectors,
    plain_c,
    state_of,
)

from client.batch import batches, risks
from client.local import train_local
from client.steph.fit import collapsed, fit_steph
from client.steph.mixture import Mixture
from client.steph.model import Steph
from common.survival import empirical_hazard
from common.task_vector import TaskVector


def mixture_for(recipe, n_sources: int = 3, scale: float = 0.3) -> Mixture:
    target, *sources = make_vectors(recipe, n_sources + 1, scale).values()
    return Mixture.of(m0_of(recipe), target, sources)


def fitted(recipe, cohort: MemoryCohort, mixture: Mixture | None = None, **options) -> Steph:
    options = {"gamma": 0.0, "label": "x", "device": CPU, **options}
    return fit_steph(cohort, mixture or mixture_for(recipe), recipe, **options)


def test_m0_and_the_vectors_are_constants():
    recipe, cohort = make_recipe(), make_cohort([3] * 8)
    mixture = mixture_for(recipe)
    before = mixture.theta_0.clone(), mixture.stack.clone()
    model = fitted(recipe, cohort, mixture)
    assert torch.equal(model.mixture.theta_0, before[0])
    assert torch.equal(model.mixture.stack, before[1])
    assert not any(name.startswith("mixture") for name, _ in model.named_parameters())
    assert not model.training


def test_every_learnable_tensor_is_trained():
    """Within a few steps of a rate that is not 0, in the hypernetworks as in the head."""
    recipe = make_recipe("training.epochs=3", "training.lr=0.01", "steph.output=softplus")
    cohort, mixture = make_cohort([3] * 20), mixture_for(recipe)
    one_step = make_recipe("training.epochs=1", "training.batch_bags=20", "steph.output=softplus")
    start, end = state_of(fitted(one_step, cohort, mixture)), state_of(fitted(recipe, cohort, mixture))
    assert [name for name in start if torch.equal(start[name], end[name])] == []


@pytest.mark.parametrize("mode", ["default", "empirical"])
def test_the_head_is_fresh(mode):
    recipe = make_recipe("training.epochs=1", f"model.head_bias={mode}")
    cohort = make_cohort([3] * 8)
    head = fitted(recipe, cohort).head
    bound = head.in_features**-0.5  # of PyTorch's default initialisation, weight and bias alike
    assert 0 < float(head.weight.detach().abs().max()) <= bound
    assert not torch.equal(head.weight, m0_of(recipe).head.weight)
    if mode == "default":
        assert float(head.bias.detach().abs().max()) <= bound
    else:
        bins = [min(int(t // 365), head.out_features - 1) for t in cohort.times]
        hazard = empirical_hazard(torch.tensor(bins).numpy(), cohort.events, head.out_features)
        torch.testing.assert_close(
            torch.sigmoid(head.bias).detach().double(), torch.from_numpy(hazard), atol=1e-6, rtol=0
        )


def test_a_fit_is_a_function_of_its_label():
    recipe, cohort = make_recipe("training.lr=0.01"), make_cohort([3] * 20)
    torch.manual_seed(1)
    first = state_of(fitted(recipe, cohort))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = state_of(fitted(recipe, cohort))
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(first, second)
    assert not equal(first, state_of(fitted(recipe, cohort, label="y")))


def test_gamma_reaches_the_loss():
    recipe, cohort = make_recipe("training.lr=0.01"), make_cohort([3] * 20)
    assert not equal(state_of(fitted(recipe, cohort)), state_of(fitted(recipe, cohort, gamma=0.5)))


def test_it_learns_a_signal():
    cohort = make_cohort([5] * 40, events=[1] * 30 + [0] * 10)
    recipe = make_recipe("training.epochs=60", "training.lr=0.02")
    m0 = m0_of(recipe)
    target = TaskVector.between(train_local(cohort, recipe, label="local", device=CPU), m0)
    model = fitted(recipe, cohort, Mixture.of(m0, target, list(make_vectors(recipe, 3).values())))
    risk = risks(model, cohort, recipe.model.n_bins, CPU)
    assert plain_c(cohort.times, cohort.events, risk) > 0.75
    assert not collapsed(model, cohort, CPU)


def with_constant_w(model: Steph, values: list[float]) -> Steph:
    last = model.hypernetwork.head_agg[3]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(values))
    return model


@pytest.mark.parametrize(
    ("w", "expected"),
    [
        ([-5.0, -5.0, -5.0], True),
        ([0.0009, 0.0009, -1.0], True),
        ([0.0011, -1.0, -1.0], False),
        ([-1.0, -1.0, 0.5], False),
    ],
)
def test_collapse_by_hand(w, expected):
    recipe, cohort = make_recipe(), make_cohort([3, 5, 9, 1])
    model = with_constant_w(Steph(mixture_for(recipe), recipe.steph, 0.25), w)
    assert collapsed(model, cohort, CPU) is expected


def test_collapse_is_judged_on_the_average_over_bags():
    """With w = ReLU(mean of a feature): two bags at 0 and one at 0.0027 are 0.0009 on average."""
    recipe = make_recipe()
    cohort = make_cohort([1, 1, 1])
    model = with_constant_w(Steph(mixture_for(recipe), recipe.steph, 0.0), [0.0, 0.0, 0.0])
    seen = torch.cat([model.hypernetwork.encoder(batch.bags) for _, batch in batches(cohort, range(3), 4, CPU)])
    first, last = model.hypernetwork.head_agg[0], model.hypernetwork.head_agg[3]
    with torch.no_grad():
        first.weight.zero_()
        first.weight[0] = seen[0]
        first.bias.fill_(0.0)
        last.weight[0, 0] = 1.0
    w = torch.cat([model.route(batch.bags).w[:, 0] for _, batch in batches(cohort, range(3), 4, CPU)])
    for average, expected in [(0.0009, True), (0.0011, False)]:
        with torch.no_grad():
            last.weight[0, 0] = average / w.mean()
        assert collapsed(model, cohort, CPU) is expected


def test_a_strong_aggregation_loss_collapses_it():
    recipe = make_recipe("training.epochs=30", "training.lr=0.05")
    cohort = make_cohort([3] * 20)
    assert collapsed(fitted(recipe, cohort, gamma=100.0), cohort, CPU)
    assert not collapsed(fitted(recipe, cohort, gamma=0.0), cohort, CPU)


def test_dropout_is_active_in_the_merged_model_while_training():
    """With the routing held fixed, only the merged encoder's own dropout can change the hazards."""
    recipe = make_recipe("model.dropout=0.5")
    m0 = m0_of(recipe)
    vectors = list(make_vectors(recipe, 2).values())
    model = Steph(Mixture.of(m0, vectors[0], vectors[1:]), recipe.steph, dropout=0.5)
    bag = torch.randn(1, 5, m0.architecture.width)
    routing = model.eval().route(bag)
    assert torch.equal(model.hazards(bag, None, routing), model.hazards(bag, None, routing))
    model.train()
    assert not torch.equal(model.hazards(bag, None, routing), model.hazards(bag, None, routing))
