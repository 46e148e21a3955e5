"""Each ablation changes one thing of STEPH; everything else, the choice of gamma included, is STEPH's."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from client_builders import CPU, ON_CPU, Spy, equal, state_of
from method_builders import all_bags, encoder_of, ids, make_task, numbers, own_of, plain_hazards, plus, row_of

import fedsteph.client.evaluation.select
import fedsteph.client.methods.ablations
from fedsteph.client.evaluation.select import select
from fedsteph.client.methods.ablations import METHODS, STEPH, ablation
from fedsteph.client.steph.fit import fit_steph
from fedsteph.client.steph.mixture import Mixture
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.host.progress import silent
from fedsteph.common.vector.task_vector import TaskVector

# Softplus keeps every w alive, so that each bag really mixes.
QUICK = (
    "training.lr=0.02",
    "training.epochs=2",
    "model.n_bins=4",
    "steph.output=softplus",
    "steph.K=2",
    "steph.gamma_grid=[0.05]",
)
N = 4


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path, *QUICK, n_sources=N)


def routings(model, task):
    with torch.no_grad():
        return [model.route(batch.bags, batch.mask) for batch in all_bags(task.train, 4)]


def hazards(model, task) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(batch.bags, batch.mask) for batch in all_bags(task.train, 4)])


def with_row(model, i: int, row: torch.Tensor):
    stack = model.mixture.stack.clone()
    stack[i] = row
    model.mixture = Mixture(model.mixture.architecture, model.mixture.theta_0, stack)
    return model


def test_there_is_an_ablation_for_each_name():
    expected = {"steph_lam0", "steph_lam0_all", "steph_lam1", "steph_param_lam", "steph_dense", "steph_param_w"}
    assert METHODS.keys() == expected


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("steph_lam0", {"variant": "fix", "fixed_lam": 0.0}),
        ("steph_lam0_all", {"variant": "fix", "fixed_lam": 0.0}),
        ("steph_lam1", {"variant": "fix", "fixed_lam": 1.0}),
        ("steph_param_lam", {"variant": "param"}),
        ("steph_dense", {"K": None}),
        ("steph_param_w", {"weights": "param"}),
    ],
)
def test_nothing_else_of_the_recipe_is_changed(task, name, changed, monkeypatch):
    spy = Spy(monkeypatch, fedsteph.client.methods.ablations, "fit_steph")
    METHODS[name](task, silent)
    recipe = spy.calls[0].args[3]
    before, after = asdict(task.recipe.steph), asdict(recipe.steph)
    assert {key: value for key, value in after.items() if value != before[key]} == changed
    assert replace(recipe, steph=task.recipe.steph) == task.recipe and ids(spy.calls[0].args[0]) == ids(task.train)


def test_unchanged_it_is_steph(task):
    trained = STEPH(task, silent)
    selection = select(task.inner, task.sources, task.recipe, device=CPU, folder=task.folder / "again")
    model = fit_steph(
        task.train, task.local, task.sources, task.recipe, gamma=selection.gamma, label="fold 0", run=ON_CPU
    )
    assert equal(state_of(trained.model), state_of(model))
    for routing in routings(model, task):
        assert routing.kept.shape[1] == 2


@pytest.mark.parametrize(("name", "lam"), [("steph_lam0", 0.0), ("steph_lam0_all", 0.0), ("steph_lam1", 1.0)])
def test_a_fixed_lam_is_that_of_every_bag_and_source(task, name, lam):
    model = METHODS[name](task, silent).model
    for routing in routings(model, task):
        assert (routing.lam == lam).all() and routing.kept.shape[1] == 2


def test_without_the_target_s_vector_it_has_no_part_in_the_model(task):
    """lam = 0: hazards do not depend on tau_t, and each source's vector counts."""
    model = METHODS["steph_lam0"](task, silent).model
    before, kept = hazards(model, task), {int(k) for routing in routings(model, task) for k in routing.kept.flatten()}
    assert torch.equal(hazards(with_row(model, 0, torch.full_like(model.mixture.stack[0], 9.0)), task), before)
    k = min(kept)
    assert not torch.equal(hazards(with_row(model, 1 + k, torch.zeros_like(model.mixture.stack[0])), task), before)


def test_with_the_target_s_vector_alone_no_source_has_a_part_in_the_model(task):
    model = METHODS["steph_lam1"](task, silent).model
    before = hazards(model, task)
    for k in range(N):
        with_row(model, 1 + k, torch.full_like(model.mixture.stack[0], 9.0))
    assert torch.equal(hazards(model, task), before)
    assert not torch.equal(hazards(with_row(model, 0, torch.zeros_like(model.mixture.stack[0])), task), before)


def test_unmixed_the_target_s_vector_is_the_first_of_those_that_are_weighted(task):
    model = METHODS["steph_lam0_all"](task, silent).model
    weighted = model.mixture.stack[1:].numpy()
    assert len(weighted) == N + 1
    own = np.concatenate([tensor.ravel() for tensor in own_of(task).values()])
    np.testing.assert_allclose(weighted[0], own, atol=1e-7)
    for found, source in zip(weighted[1:], task.sources, strict=True):
        assert found.tolist() == row_of(source).tolist()
    # theta_0 + sum of the two largest w_k tau_k, tau_t being one of the candidates.
    vectors = [own_of(task), *(numbers(source.tensors) for source in task.sources)]
    for batch in all_bags(task.train, 4):
        with torch.no_grad():
            w = model.route(batch.bags, batch.mask).w.double().numpy()
            found = model(batch.bags, batch.mask).numpy()
        for b, key in enumerate(batch.ids):
            largest = sorted(range(N + 1), key=lambda k: -w[b, k])[:2]
            theta = plus(encoder_of(task), [w[b, k] for k in largest], [vectors[k] for k in largest])
            i = [patient.id for patient in task.train.patients].index(key)
            np.testing.assert_allclose(found[b], plain_hazards(theta, model.head, task.train.bag(i).numpy()), atol=1e-5)


def test_inside_inner_validation_the_target_s_vector_is_the_inner_model_s(task, monkeypatch):
    """The vector of the whole training part has seen the patients that judge."""
    spy = Spy(monkeypatch, fedsteph.client.evaluation.select, "fit_steph")
    METHODS["steph_lam0_all"](task, silent)
    assert len(spy.calls) == len(task.inner) * len(task.recipe.steph.gamma_grid)
    for n, call in enumerate(spy.calls):
        part = task.inner[n // len(task.recipe.steph.gamma_grid)]
        assert ids(call.args[0]) == ids(part.train)
        weighted = call.args[2]
        expected = TaskVector.between(part.local, task.m0)
        assert torch.equal(weighted[0].flat(), expected.flat())


def test_without_sparsity_all_mixtures_are_kept(task):
    for routing in routings(METHODS["steph_dense"](task, silent).model, task):
        assert sorted(routing.kept[0].tolist()) == list(range(N))


def test_trainable_lam_is_one_per_source_the_same_for_all_bags_and_from_1(task):
    model = METHODS["steph_param_lam"](task, silent).model
    found = torch.cat([routing.lam for routing in routings(model, task)])
    assert (found == found[0]).all() and len(set(found[0].tolist())) == N and (found != 1.0).any()
    r = model.hypernetwork.r
    assert r.requires_grad
    torch.testing.assert_close(found[0], 1 / (1 + r.detach()))
    assert float((found[0] - 1).abs().max()) < 0.3  # a few steps away from 1


def test_trainable_w_is_one_per_source_the_same_for_all_bags_and_from_1_over_s(task):
    model = METHODS["steph_param_w"](task, silent).model
    found = torch.cat([routing.w for routing in routings(model, task)]).detach()
    assert (found == found[0]).all() and (found[0] != 1 / N).any() and float((found[0] - 1 / N).abs().max()) < 0.3
    assert model.hypernetwork.w.requires_grad
    lam = torch.cat([routing.lam for routing in routings(model, task)])
    assert len({tuple(row) for row in lam.tolist()}) > 1  # lam is still a hypernetwork's


@pytest.mark.parametrize("name", ["steph_lam1", "steph_dense"])
def test_the_notes_say_which_gamma_it_was_trained_with_and_whether_it_collapsed(task, name, monkeypatch):
    selections = Spy(monkeypatch, fedsteph.client.methods.ablations, "select")
    fits = Spy(monkeypatch, fedsteph.client.methods.ablations, "fit_steph")
    trained = METHODS[name](task, silent)
    selection = selections.calls[0].result
    assert trained.notes["gamma"] == selection.gamma == fits.calls[0].kwargs["gamma"]
    assert trained.notes["collapsed"] is False
    assert trained.learnable == sum(p.numel() for p in trained.model.parameters())


def test_gamma_is_chosen_for_the_ablation_and_not_for_steph(task, monkeypatch):
    """Each has scores of its own on disk, of trainings under its own recipe."""
    spy = Spy(monkeypatch, fedsteph.client.evaluation.select, "fit_steph")
    METHODS["steph_lam1"](task, silent)
    METHODS["steph_dense"](task, silent)
    assert len(spy.calls) == 2 * len(task.inner) * len(task.recipe.steph.gamma_grid)
    half = len(spy.calls) // 2
    assert {call.args[3].steph.variant for call in spy.calls[:half]} == {"fix"}
    assert {call.args[3].steph.K for call in spy.calls[half:]} == {None}
    scores = [read_json(task.folder / f"{name}.inner" / "0_0.05.json") for name in ("steph_lam1", "steph_dense")]
    assert scores[0] != scores[1]


def test_a_collapse_is_noticed(tmp_path):
    settings = ("training.epochs=1", "steph.epochs=12", "training.lr=0.05", "steph.gamma=100", "model.n_bins=4")
    notes = ablation("x", K=1)(make_task(tmp_path, *settings), silent).notes
    assert (notes["collapsed"], notes["gamma"]) == (True, 100.0)


def test_a_training_part_too_small_to_be_divided_takes_the_smallest_gamma(tmp_path):
    task = make_task(tmp_path, *QUICK, "steph.gamma_grid=[0.05,0.01]", patients=3)
    assert METHODS["steph_param_w"](task, silent).notes["gamma"] == 0.01
