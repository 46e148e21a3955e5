"""The site's own model: where its head starts, and that it learns."""

from __future__ import annotations

import math

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

from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.training.batch import risks
from fedsteph.client.training.local import train_local
from fedsteph.client.training.survival_fit import start_head
from fedsteph.common.errors import ConfigError, TooSmallError


def cohort_of(labels: list[tuple[float, int]]) -> MemoryCohort:
    patients = [Patient(f"P{i}", t, e, (f"S{i}",)) for i, (t, e) in enumerate(labels)]
    return MemoryCohort(patients, {patient.id: torch.ones(1, 6) for patient in patients})


def plain_logits(labels: list[tuple[float, int]], n_bins: int) -> list[float]:
    """Events over patients at risk, with ten pseudo patients of the mean hazard in every bin."""
    years = [min(int(t // 365), n_bins - 1) for t, _ in labels]
    at_risk = [sum(year >= j for year in years) for j in range(n_bins)]
    deaths = [sum(year == j and e == 1 for year, (_, e) in zip(years, labels, strict=True)) for j in range(n_bins)]
    mean = max(sum(deaths), 0.5) / sum(at_risk)
    hazards = [(d + 10 * mean) / (n + 10) for d, n in zip(deaths, at_risk, strict=True)]
    hazards = [min(max(h, 1e-6), 1 - 1e-6) for h in hazards]
    return [math.log(h / (1 - h)) for h in hazards]


@each("labels", [[(10, 1), (364.9, 0), (365, 1), (800, 1), (5000, 1), (5000, 0)], [(400, 0), (900, 0)], [(0, 1)]])
def test_the_head_starts_at_the_cohorts_hazard(labels):
    head = torch.nn.Linear(5, 4)
    weight = head.weight.detach().clone()
    start_head(head, make_recipe("model.head_bias=empirical", "model.n_bins=4"), cohort_of(labels))
    assert head.bias.tolist() == pytest.approx(plain_logits(labels, 4), abs=1e-6) and torch.equal(head.weight, weight)


@each("mode", ["default", "empirical"])
def test_training_starts_from_m0(mode):
    """One epoch of one step has learning rate 0, so what comes out is what it started from."""
    recipe = make_recipe("training.epochs=1", f"model.head_bias={mode}")
    cohort = make_cohort([3] * 8)
    start, trained = state_of(m0_of(recipe)), state_of(train_local(cohort, recipe, label="x", run=ON_CPU))
    if mode == "empirical":
        labels = [(patient.t, patient.e) for patient in cohort.patients]
        bias = trained.pop("head.bias")
        assert bias.tolist() == pytest.approx(plain_logits(labels, len(bias)), abs=1e-5)
        del start["head.bias"]
    assert equal(trained, start)


def test_training_starts_from_m0_plus_a_vector_where_one_is_given():
    recipe = make_recipe("training.epochs=1", "model.head_bias=default")
    (vector,), m0 = make_vectors(recipe, 1).values(), state_of(m0_of(recipe))
    trained = state_of(train_local(make_cohort([3] * 8), recipe, label="x", run=ON_CPU, start=vector))
    expected = {name: tensor + vector.tensors.get(name, 0.0) for name, tensor in m0.items()}
    assert equal(trained, expected)


def test_it_learns_a_signal():
    cohort = make_cohort([5] * 40, events=[1] * 30 + [0] * 10)
    recipe = make_recipe("training.epochs=30", "training.lr=0.01")
    model = train_local(cohort, recipe, label="x", run=ON_CPU)
    risk = risks(model, cohort, CPU)
    assert plain_c(cohort.times, cohort.events, risk) > 0.75
    untrained = risks(m0_of(recipe), cohort, CPU)
    assert plain_c(cohort.times, cohort.events, untrained) < 0.75


def test_every_training_part_has_a_seed_of_its_own():
    cohort, recipe = make_cohort([3] * 8), make_recipe()
    one, same, other = (state_of(train_local(cohort, recipe, label=n, run=ON_CPU)) for n in ("a", "a", "b"))
    assert equal(one, same) and not equal(one, other)


def test_another_m0_than_the_pinned_one_is_refused():
    recipe = make_recipe()
    object.__setattr__(recipe.model, "m0_seed", 43)
    with pytest.raises(ConfigError, match="digest"):
        train_local(make_cohort([3] * 8), recipe, label="x", run=ON_CPU)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("mode", ["default", "empirical"])
def test_nobody_to_train_on(mode):
    with pytest.raises(TooSmallError):
        train_local(make_cohort([3]).subset([]), make_recipe(f"model.head_bias={mode}"), label="x", run=ON_CPU)
