"""All comparators of a fold: trained once, on training patients alone, and applied to the test patients alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import CPU, Spy, StoppedError, make_vectors
from method_builders import encoder_of, ids, make_task, numbers, own_of, plain_hazards, plus

import fedsteph.client.target.comparators
import fedsteph.client.training.loop
import fedsteph.client.training.survival_fit
from fedsteph.client.data.bags import Cohort
from fedsteph.client.methods.registry import REGISTRY
from fedsteph.client.target.comparators import comparators_of, compare
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.config.method_names import COMPARATORS, METHODS
from fedsteph.common.host.progress import silent

QUICK = ("training.lr=0.02", "training.epochs=2", "model.n_bins=4")
TOGETHER = ("fedavg", "fedprox")


def comparing(folder, names, *settings, **site):
    task = make_task(folder, *QUICK, f"comparators.methods=[{','.join(names)}]", *settings, **site)
    common = make_vectors(task.recipe, len(TOGETHER), scale=0.2)
    task.globals.update(zip(TOGETHER, common.values(), strict=True))
    return task


def test_every_comparator_has_a_method_and_only_the_pool_and_the_panel_are_more():
    """Every target has the panel's row; a study trains it by its name."""
    assert {*REGISTRY} == {*COMPARATORS, "pooled", "panel"}


def test_hazards_are_the_model_s_for_each_test_patient(tmp_path):
    task = comparing(tmp_path, ["half_average", "adamerging"])
    found = compare(task)
    assert list(found) == ["half_average", "adamerging"]
    test = task.workspace.test_part(task.fold)
    n = len(task.sources)
    vectors = [own_of(task), *(numbers(source.tensors) for source in task.sources)]
    theta = plus(encoder_of(task), [0.5] + [0.5 / n] * n, vectors)
    expected = [plain_hazards(theta, task.local.head, test.bag(i).numpy()) for i in range(len(test))]
    np.testing.assert_allclose(found["half_average"].hazards, expected, atol=1e-6)
    assert found["half_average"].learnable == 0
    trained = REGISTRY["adamerging"](task, silent)
    assert np.array_equal(found["adamerging"].hazards, predict_hazards(trained.model, test, CPU))
    assert found["adamerging"].learnable == trained.learnable == 3 + 8 * 4 + 4


def test_a_second_call_trains_nothing_and_finds_the_same(tmp_path, monkeypatch):
    names = ["model_average", "adamerging", "tuned_head"]
    first = compare(comparing(tmp_path, names))

    def trained(task, progress):
        raise AssertionError("a comparator whose hazards are kept was trained again")

    for name in names:
        monkeypatch.setitem(REGISTRY, name, trained)
    again = compare(comparing(tmp_path, names))
    assert list(again) == names
    for name in names:
        assert np.array_equal(first[name].hazards, again[name].hazards)
        assert first[name].learnable == again[name].learnable


def test_each_fold_has_hazards_of_its_own(tmp_path):
    first, second = (compare(comparing(tmp_path, ["adamerging"], fold=fold)) for fold in (0, 1))
    assert not np.array_equal(first["adamerging"].hazards, second["adamerging"].hazards)


def test_a_comparator_whose_rounds_are_missing_is_left_out(tmp_path, monkeypatch):
    """And one that has them is not; the order is the recipe's."""
    task = comparing(tmp_path, ["fedprox", "half_average", "fedavg", "model_average"])
    assert comparators_of(task) == ("fedprox", "half_average", "fedavg", "model_average")
    del task.globals["fedprox"]
    assert comparators_of(task) == ("half_average", "fedavg", "model_average")
    assert list(compare(task)) == ["half_average", "fedavg", "model_average"]
    del task.globals["fedavg"]
    assert comparators_of(task) == ("half_average", "model_average")


def test_without_comparators_there_is_nothing_to_do(tmp_path):
    task = comparing(tmp_path, [])
    assert compare(task) == {}


def test_no_test_patient_has_a_part_in_any_training(tmp_path, monkeypatch):
    """Their bags are read by the prediction alone, their labels by nothing: in all comparators, choices included."""
    task = comparing(tmp_path, COMPARATORS, "training.epochs=1", "steph.gamma=0", patients=12)
    head = torch.full((task.m0.architecture.embed,), 0.1)
    task = replace(task, vectors={name: replace(vector, head=head) for name, vector in task.vectors.items()})
    train, test = ids(task.workspace.train_part(0)), ids(task.workspace.test_part(0))
    fits = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    predictions = Spy(monkeypatch, fedsteph.client.target.comparators, "predict_hazards")
    read, real = {}, Cohort.bag
    training = []

    def bag(self, i):
        if training:
            read.setdefault(training[-1], set()).add(self.patients[i].id)
        return real(self, i)

    def watched(name, method):
        def watching(task, progress):
            training.append(name)
            try:
                return method(task, progress)
            finally:
                training.pop()

        return watching

    monkeypatch.setattr(Cohort, "bag", bag)
    for name in COMPARATORS:
        monkeypatch.setitem(REGISTRY, name, watched(name, REGISTRY[name]))
    found = compare(task)
    assert list(found) == list(COMPARATORS) and all(value <= train for value in read.values())
    untrained = {"model_average", "half_average", "start_average"}
    assert read.keys() >= {*COMPARATORS} - untrained - {"task_arithmetic", "local_average"}
    merged = {"head_sum", "head_mean", "sources_alone", "risk_ensemble", "risk_mean"}  # but for a baseline
    assert len(fits.calls) > len(COMPARATORS) - len(untrained | merged)
    for call in fits.calls:
        assert ids(call.args[2]) <= train and not ids(call.args[2]) & test
    assert [ids(call.args[1]) for call in predictions.calls] == [test] * len(COMPARATORS)
    for name, compared in found.items():
        assert compared.hazards.shape == (len(test), 4), name
        assert ((compared.hazards > 0) & (compared.hazards < 1)).all(), name


INTERRUPTED = ["adamerging", "surgery_hyper", "roupkt", "steph_dense", "fedavg"]


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_comparator_goes_on_from_its_last_epoch(tmp_path, monkeypatch, name):
    settings = ("training.epochs=4", "steph.gamma=0", "training.batch_bags=4")
    names = ["half_average", name]
    whole = compare(comparing(tmp_path / "whole", names, *settings))
    monkeypatch.setattr(fedsteph.client.training.checkpoint, "EVERY_SECONDS", 0)

    def stop(done: float, total: float) -> None:
        if done >= 1.75:  # the second comparator's third epoch of four
            raise StoppedError

    with pytest.raises(StoppedError):
        compare(comparing(tmp_path / "cut", names, *settings), stop)
    task = comparing(tmp_path / "cut", names, *settings)
    assert task.run(name, silent).checkpoint.exists() and not (task.folder / f"{name}.npz").exists()
    fits, steps = (
        Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit"),
        Spy(monkeypatch, fedsteph.client.training.loop, "backward"),
    )
    found = compare(task)
    assert len(fits.calls) == 1  # neither the first comparator nor an inner training again
    assert len(steps.calls) == 3  # the last epoch's three steps of 12 patients
    assert not task.run(name, silent).checkpoint.exists()
    for one in names:
        assert np.array_equal(found[one].hazards, whole[one].hazards)


def progress_of(folder, names):
    seen = []
    compare(comparing(folder, names, "steph.gamma=0"), lambda done, total: seen.append(done))
    return seen


def test_progress_ends_at_the_number_of_comparators(tmp_path):
    names = ["model_average", "task_arithmetic", "adamerging", "roupkt", "steph_lam1", "fedavg"]
    seen = progress_of(tmp_path, names)
    assert seen == sorted(seen) and seen[-1] == len(names) and {1.0, 2.0, 3.0, 4.0, 5.0} <= {*seen}
    assert any(2 < done < 3 for done in seen)
    again = progress_of(tmp_path, names)
    assert again == [1, 2, 3, 4, 5, 6]


def test_the_best_source_s_progress_never_goes_back(tmp_path):
    seen = progress_of(tmp_path, ["best_source"])
    assert seen == sorted(seen) and seen[-1] == 1


def test_every_comparator_s_name_says_what_it_needs():
    assert {name for name in COMPARATORS if METHODS[name].needs == "rounds"} == {*TOGETHER}


OTHER_RECIPES = {
    "cox": ["training.loss=cox"],
    "paper's head and batches": ["model.head_bias=default", "training.drop_last=true", "training.batch_bags=5"],
    "from the local model": ["steph.start=local", "steph.normalise=true", "steph.epochs=1", "steph.lr=0.01"],
}


@pytest.mark.parametrize("settings", OTHER_RECIPES.values(), ids=OTHER_RECIPES.keys())
def test_every_comparator_trains_under_other_recipes_too(tmp_path, settings):
    task = comparing(tmp_path, COMPARATORS, "training.epochs=1", "steph.gamma=0", *settings, patients=12)
    found = compare(task)
    assert list(found) == list(COMPARATORS)
    for name, compared in found.items():
        assert compared.hazards.shape == (6, 4), name
        assert ((compared.hazards > 0) & (compared.hazards < 1)).all(), name
