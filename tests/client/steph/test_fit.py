"""Training STEPH: what moves and what does not, determinism, and the collapse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from client_builders import (
    CPU,
    ON_CPU,
    MemoryCohort,
    equal,
    m0_of,
    make_cohort,
    make_recipe,
    make_vectors,
    plain_c,
    state_of,
)
from each_case import each

from fedsteph.client.steph.fit import collapsed, fit_steph
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import batches, risks
from fedsteph.client.training.local import train_local
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.model.survival import empirical_hazard
from fedsteph.common.vector.task_vector import TaskVector


def parts_for(recipe, n_sources: int = 3, scale: float = 0.3) -> tuple[BaseModel, list[TaskVector]]:
    """A local model under a head of its own, and source vectors."""
    target, *sources = make_vectors(recipe, n_sources + 1, scale).values()
    head = untrained_model(Architecture.of(recipe.model), 9).head_state()
    return target.applied_to(m0_of(recipe), head), sources


def mixture_for(recipe, n_sources: int = 3) -> Mixture:
    local, sources = parts_for(recipe, n_sources)
    return Mixture.of(m0_of(recipe), TaskVector.between(local, m0_of(recipe)), sources)


def fitted(recipe, cohort: MemoryCohort, parts: tuple[BaseModel, list[TaskVector]] | None = None, **options) -> Steph:
    options = {"gamma": 0.0, "label": "x", "run": ON_CPU, **options}
    local, sources = parts or parts_for(recipe)
    return fit_steph(cohort, local, sources, recipe, **options)


def test_m0_and_the_vectors_are_constants():
    recipe, cohort = make_recipe(), make_cohort([3] * 8)
    local, sources = parts_for(recipe)
    own, start, before = state_of(local), state_of(m0_of(recipe)), [state_of(m) for m in (local, m0_of(recipe))]
    names = list(sources[0].tensors)
    model = fitted(recipe, cohort, (local, sources))
    rows = [{name: own[name] - start[name] for name in names}, *(vector.tensors for vector in sources)]
    flat = [torch.cat([row[name].flatten() for name in names]) for row in (start, *rows)]
    assert torch.equal(model.mixture.theta_0, flat[0])
    assert torch.equal(model.mixture.stack, torch.stack(flat[1:])), "the target's vector, and then the sources'"
    assert equal(state_of(local), before[0]) and equal(state_of(m0_of(recipe)), before[1])
    assert not any(name.startswith("mixture") for name, _ in model.named_parameters()) and not model.training


def test_every_learnable_tensor_is_trained():
    """Within a few steps of a rate that is not 0, in the hypernetworks as in the head."""
    recipe = make_recipe("training.epochs=3", "training.lr=0.01", "steph.output=softplus")
    cohort, parts = make_cohort([3] * 20), parts_for(recipe)
    one_step = make_recipe("training.epochs=1", "training.batch_bags=20", "steph.output=softplus")
    start, end = state_of(fitted(one_step, cohort, parts)), state_of(fitted(recipe, cohort, parts))
    assert [name for name in start if torch.equal(start[name], end[name])] == []


@each("mode", ["default", "empirical"])
def test_the_head_is_fresh(mode):
    recipe = make_recipe("training.epochs=1", f"model.head_bias={mode}")
    cohort = make_cohort([3] * 8)
    head, local = fitted(recipe, cohort).head, parts_for(recipe)[0]
    assert not torch.equal(head.weight, local.head.weight)
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


@each("mode", ["default", "empirical"])
@each("loss", ["nll", "cox"])
def test_under_start_local_the_head_begins_where_the_local_model_s_is(mode, loss):
    """One epoch of one step has learning rate 0, so what comes out is what it started from."""
    settings = ("training.epochs=1", f"model.head_bias={mode}", f"training.loss={loss}", "steph.start=local")
    recipe, cohort = make_recipe(*settings), make_cohort([3] * 8)
    local, sources = parts_for(recipe)
    model = fitted(recipe, cohort, (local, sources))
    assert torch.equal(model.head.weight, local.head.weight)
    if loss == "nll":  # under Cox's, the baseline is settled afterwards
        assert torch.equal(model.head.bias, local.head.bias)


def test_the_first_merge_of_start_local_gives_the_local_model_s_hazards():
    """lam = 1 and weights that sum to 1: theta_0 + tau_t is the target's own encoder, under its own head."""
    recipe = make_recipe(
        "training.epochs=1",
        "steph.start=local",
        "steph.variant=fix",
        "steph.fixed_lam=1",
        "steph.weights=param",
        "steph.K=2",
    )
    cohort, (local, sources) = make_cohort([3] * 8), parts_for(recipe)
    found = risks(fitted(recipe, cohort, (local, sources)), cohort, CPU)
    assert found == pytest.approx(risks(local, cohort, CPU), abs=1e-5)
    assert found != pytest.approx(risks(m0_of(recipe), cohort, CPU), abs=1e-2)


def test_a_rate_and_a_number_of_epochs_of_its_own():
    """As under a training that has them for everything; the local models' own are left alone."""
    cohort = make_cohort([3] * 20)
    own = make_recipe("training.epochs=2", "training.lr=0.5", "steph.epochs=4", "steph.lr=0.01")
    same = make_recipe("training.epochs=4", "training.lr=0.01")
    other = make_recipe("training.epochs=2", "training.lr=0.5")
    seen = []
    found = state_of(fitted(own, cohort, run=TrainingRun(CPU, progress=lambda *done: seen.append(done))))
    assert seen == [(k, 4) for k in (1, 2, 3, 4)] and equal(found, state_of(fitted(same, cohort)))
    assert not equal(found, state_of(fitted(other, cohort)))


def test_normalised_vectors_are_what_is_merged():
    recipe, cohort = make_recipe("steph.normalise=true", "training.epochs=1"), make_cohort([3] * 8)
    local, sources = parts_for(recipe)
    stack = fitted(recipe, cohort, (local, [7.0 * vector for vector in sources])).mixture.stack
    lengths = stack.double().square().sum(dim=1).sqrt()
    assert lengths.tolist() == pytest.approx([float(lengths[0])] * 4, rel=1e-5)


def test_a_fit_is_a_function_of_its_label():
    recipe, cohort = make_recipe("training.lr=0.01"), make_cohort([3] * 20)
    parts = parts_for(recipe)
    torch.manual_seed(1)
    first = state_of(fitted(recipe, cohort, parts))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = state_of(fitted(recipe, cohort, parts))
    assert torch.equal(torch.get_rng_state(), state) and equal(first, second)
    assert not equal(first, state_of(fitted(recipe, cohort, label="y")))


def test_gamma_reaches_the_loss():
    recipe, cohort = make_recipe("training.lr=0.01"), make_cohort([3] * 20)
    assert not equal(state_of(fitted(recipe, cohort)), state_of(fitted(recipe, cohort, gamma=0.5)))


def test_it_learns_a_signal():
    cohort = make_cohort([5] * 40, events=[1] * 30 + [0] * 10)
    recipe = make_recipe("training.epochs=30", "training.lr=0.04")
    local = train_local(cohort, recipe, label="local", run=ON_CPU)
    model = fitted(recipe, cohort, (local, list(make_vectors(recipe, 3).values())))
    risk = risks(model, cohort, CPU)
    assert plain_c(cohort.times, cohort.events, risk) > 0.75 and not collapsed(model, cohort, CPU)


def with_constant_w(model: Steph, values: list[float]) -> Steph:
    last = model.hypernetwork.head_agg[3]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(values))
    return model


@each(
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


def test_with_heads_it_starts_at_the_sum_of_the_vectors():
    recipe, cohort = make_recipe("steph.start=local", "steph.spread=0", "training.lr=1e-9"), make_cohort([3] * 8)
    local, sources = parts_for(recipe)
    heads = [torch.randn(len(local.risk_direction())), None, torch.randn(len(local.risk_direction()))]
    sources = [replace(source, head=head) for source, head in zip(sources, heads, strict=True)]
    model = fitted(recipe, cohort, (local, sources))
    assert model.mixture.headed == [True, False, True]
    whole = TaskVector.between(local, m0_of(recipe), head=True) + sources[0] + sources[2]
    merged = whole.merged_model(m0_of(recipe), local.head.bias.detach()).eval()
    found, expected = (torch.from_numpy(risks(one, cohort, CPU)) for one in (model, merged))
    assert float(torch.corrcoef(torch.stack([found, expected]))[0, 1]) > 0.9999, (
        "the source without a head hardly counts"
    )


def test_a_small_site_makes_its_least_number_of_steps():
    cohort, seen = make_cohort([3] * 8), []
    recipe = make_recipe("training.epochs=2", "training.batch_bags=4", "training.min_steps=9", "steph.epochs_factor=1")
    run = replace(ON_CPU, progress=lambda done, total: seen.append((done, total)))
    train_local(cohort, recipe, label="x", run=run)
    assert seen[-1] == (5, 5), "5 epochs of 2 steps are the first to have 9"
