"""Where a head starts, what Cox's training leaves it with, and a Cox training that goes on after being stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import (
    CPU,
    ON_CPU,
    MemoryCohort,
    Spy,
    StoppedError,
    equal,
    m0_of,
    make_cohort,
    make_recipe,
    plain_c,
    state_of,
)
from each_case import each

import fedsteph.client.training.checkpoint
import fedsteph.client.training.loop
import fedsteph.client.training.survival_fit
from fedsteph.client.training.batch import predict_hazards, risks
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.survival_fit import fit_survival, for_steph, start_head
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.survival import bin_of, empirical_hazard

SIZES = [3, 7, 1, 5, 2, 9, 4, 6, 3, 8, 2, 5]  # 3 steps of 4 in an epoch
COHORT = make_cohort(SIZES, seed=3)
TEN = 10.0  # pseudo patients per bin


def recipe_of(*settings: str) -> Recipe:
    return make_recipe("model.n_bins=6", "training.epochs=4", "training.lr=0.01", "training.batch_bags=4", *settings)


def train(recipe: Recipe, cohort: MemoryCohort = COHORT, model: BaseModel | None = None, on_forward=None, **options):
    model = model or m0_of(recipe)

    def forward(batch):
        if on_forward:
            on_forward()
        return Outputs(model(batch.bags, batch.mask))

    fit_survival(model, forward, cohort, recipe, **{"seed": 5, "run": ON_CPU, **options})
    return model


@each("loss", ["nll", "cox"])
@each("bias", ["default", "empirical"])
def test_where_a_head_starts(bias, loss):
    recipe = recipe_of(f"model.head_bias={bias}", f"training.loss={loss}")
    model = m0_of(recipe)
    before = state_of(model)
    start_head(model.head, recipe, COHORT)
    after = state_of(model)
    assert equal(*({n: t for n, t in s.items() if not n.startswith("head")} for s in (before, after)))
    if loss == "nll":
        assert torch.equal(after["head.weight"], before["head.weight"])
    else:
        mean = before["head.weight"].mean(dim=0)
        assert all(torch.equal(row, after["head.weight"][0]) for row in after["head.weight"])
        torch.testing.assert_close(after["head.weight"][0], mean)
    if bias == "default":
        assert torch.equal(after["head.bias"], before["head.bias"])
    else:
        hazard = empirical_hazard(bin_of(COHORT.times, 6), COHORT.events, 6)
        np.testing.assert_allclose(torch.sigmoid(after["head.bias"]).numpy(), hazard, rtol=1e-5)
        assert not torch.equal(after["head.bias"], before["head.bias"])


def test_the_training_part_s_own_outcomes_decide_the_empirical_start():
    """Events in bins 0, 0, 1 of five patients, censored in 0 and 2: hazards by hand."""
    cohort = make_cohort([2] * 5, events=[1, 1, 1, 0, 0])
    t = [10.0, 20.0, 400.0, 30.0, 800.0]
    patients = [replace(patient, t=days) for patient, days in zip(cohort.patients, t, strict=True)]
    cohort = MemoryCohort(patients, cohort.bags)
    model = m0_of(recipe_of())
    start_head(model.head, recipe_of("model.head_bias=empirical"), cohort)
    at_risk, deaths, mean = np.array([5, 2, 1, 0, 0, 0]), np.array([2, 1, 0, 0, 0, 0]), 3 / 8
    expected = (deaths + TEN * mean) / (at_risk + TEN)
    np.testing.assert_allclose(torch.sigmoid(model.head.bias.detach()).numpy(), expected, rtol=1e-5)


@each("loss", ["nll", "cox"])
def test_a_head_that_is_not_fresh_stays_where_it_is(loss):
    """The learning rate is so small that nothing else moves it; Cox's baseline alone is fitted anew."""
    recipe = recipe_of(f"training.loss={loss}", "training.lr=1e-12", "model.head_bias=empirical")
    for fresh in (False, True):
        model = m0_of(recipe)
        before = state_of(model)
        after = state_of(train(recipe, model=model, fresh_head=fresh))
        moved = {n for n in before if not torch.allclose(after[n], before[n], rtol=0, atol=1e-9)}
        expected = {"head.bias"} if loss == "cox" or fresh else set()
        assert moved == (expected | {"head.weight"} if loss == "cox" and fresh else expected)


def test_an_encoder_without_a_head_is_refused():
    recipe = recipe_of()
    with pytest.raises(AttributeError, match="head"):
        fit_survival(torch.nn.Linear(2, 2), lambda batch: None, COHORT, recipe, seed=0, run=ON_CPU)


def rows_apart(model: BaseModel) -> float:
    weight = model.head.weight.detach()
    return float((weight - weight[0]).abs().max())


@each("bias", ["default", "empirical"])
@each("dropout", [0.0, 0.5])
def test_after_a_cox_fit_there_is_still_one_log_risk(bias, dropout):
    """All bins' weights are alike, up to what rounding in every bin's own logit can do to a step."""
    recipe = recipe_of("training.loss=cox", f"model.head_bias={bias}", f"model.dropout={dropout}", "training.epochs=20")
    model = train(recipe)
    moved = (model.head.weight.detach() - m0_of(recipe).head.weight.detach().mean(dim=0)).abs().max()
    assert float(moved) > 0.05 and rows_apart(model) < 1e-4


@each("seed", [3, 4])
def test_after_a_cox_fit_the_biases_are_the_fitted_baseline(seed):
    """Every bin's expected events are the observed ones, the ten pseudo patients of the mean log-risk included."""
    cohort, recipe = make_cohort(SIZES * 2, seed=seed), recipe_of("training.loss=cox")
    model = train(recipe, cohort)
    hazards = predict_hazards(model, cohort, CPU)
    bins, e = bin_of(cohort.times, 6), cohort.events
    at_risk = bins[:, None] >= np.arange(6)
    mean = e.sum() / at_risk.sum()
    log_odds = np.log(hazards / (1 - hazards))
    pseudo = 1 / (1 + np.exp(-log_odds.mean(axis=0)))
    observed = np.bincount(bins[e > 0], minlength=6) + TEN * mean
    np.testing.assert_allclose((at_risk * hazards).sum(axis=0) + TEN * pseudo, observed, atol=1e-3)
    assert len({*np.round(observed, 6)}) > 1


def test_under_the_nll_no_baseline_is_fitted(monkeypatch):
    spy = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fitted_baseline")
    train(recipe_of())
    assert spy.calls == []
    train(recipe_of("training.loss=cox"))
    assert len(spy.calls) == 1


def test_a_cox_training_learns_the_order_of_risks():
    """The first feature is the risk; who dies early comes to have the higher one."""
    cohort = make_cohort([6] * 40, seed=1, years=30)
    recipe = recipe_of("training.loss=cox", "training.epochs=15", "training.batch_bags=20", "model.dropout=0.0")
    before, after = (risks(model, cohort, CPU) for model in (m0_of(recipe), train(recipe, cohort)))
    assert plain_c(cohort.times, cohort.events, before) < 0.6 and plain_c(cohort.times, cohort.events, after) > 0.65


@each("events", [[0] * 12, [1] + [0] * 11])
def test_a_cohort_with_next_to_no_events_has_finite_hazards(events):
    cohort = make_cohort(SIZES, seed=3, events=events)
    model = train(recipe_of("training.loss=cox"), cohort)
    hazards = predict_hazards(model, cohort, CPU)
    assert np.isfinite(hazards).all() and hazards.min() > 0 and hazards.max() < 0.5 and not model.training


def counted(stop_at: int | None = None):
    calls = [0]

    def on_forward() -> None:
        calls[0] += 1
        if calls[0] == stop_at:
            raise StoppedError

    return calls, on_forward


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every epoch."""
    monkeypatch.setattr(fedsteph.client.training.checkpoint, "EVERY_SECONDS", 0)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6, 0.99])
def test_a_stopped_cox_training_goes_on_to_the_same_weights(tmp_path, often, share):
    """Stopped in either of the two passes of a step, with dropout; the head starts anew before it resumes."""
    recipe, path = recipe_of("training.loss=cox", "model.dropout=0.5"), tmp_path / "x.checkpoint"
    calls, on_forward = counted()
    whole = train(recipe, on_forward=on_forward)
    stopped = int(share * calls[0]) + 1
    with pytest.raises(StoppedError):
        train(recipe, run=TrainingRun(CPU, path), on_forward=counted(stopped)[1])
    assert path.exists() == (share > 0.25)
    left, on_forward = counted()
    resumed = train(recipe, run=TrainingRun(CPU, path), on_forward=on_forward)
    assert equal(state_of(resumed), state_of(whole)) and (left[0] < calls[0]) == (share > 0.25) and not path.exists()


def test_a_checkpoint_of_the_nll_is_not_resumed_under_cox(tmp_path, often):
    path, nll_recipe, cox_recipe = tmp_path / "x", recipe_of(), recipe_of("training.loss=cox")
    with pytest.raises(StoppedError):
        train(nll_recipe, run=TrainingRun(CPU, path), on_forward=counted(14)[1])
    assert path.exists() and equal(state_of(train(cox_recipe, run=TrainingRun(CPU, path))), state_of(train(cox_recipe)))


def test_steph_trains_as_the_base_models_where_nothing_else_is_said():
    recipe = recipe_of("training.warmup_epochs=2")
    assert for_steph(recipe) == recipe


@each(
    ("settings", "epochs", "lr", "warmup"),
    [
        (["steph.epochs=9"], 9, 0.01, 1.0),
        (["steph.epochs_factor=0.6"], 2, 0.01, 1.0),
        (["steph.epochs_factor=0.01"], 1, 0.01, 1.0),
        (["steph.lr=0.5"], 4, 0.5, 1.0),
        (["steph.epochs=3", "steph.lr=0.2"], 3, 0.2, 1.0),
        (["steph.epochs=2", "training.warmup_epochs=4"], 2, 0.01, 2.0),
        (["steph.epochs=1", "training.warmup_epochs=0.5"], 1, 0.01, 0.5),
    ],
)
def test_steph_has_epochs_and_learning_rate_of_its_own(settings, epochs, lr, warmup):
    recipe = recipe_of("training.loss=cox", "training.weight_decay=0.2", *settings)
    found = for_steph(recipe).training
    assert (found.epochs, found.lr, found.warmup_epochs) == (epochs, lr, warmup)
    training = recipe.training
    assert found == replace(training, epochs=epochs, lr=lr, warmup_epochs=warmup)
