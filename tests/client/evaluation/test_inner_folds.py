"""Inner folds: who trains, who judges, what is kept on disk, and when there are none."""

from __future__ import annotations

import pytest
from client_builders import ON_CPU, Spy, equal, make_workspace, state_of
from method_builders import ids

import fedsteph.client.evaluation.inner_folds
from fedsteph.client.evaluation.inner_folds import inner_folds
from fedsteph.client.training.local import train_local
from fedsteph.common.errors import SplitError


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path, "steph.inner_folds=3", "training.lr=0.02")


@pytest.mark.parametrize("fold", [0, 1])
def test_no_test_patient_and_nobody_who_judges_has_been_seen(workspace, fold, monkeypatch):
    spy = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    parts = inner_folds(workspace, fold)
    train, test = ids(workspace.train_part(fold)), ids(workspace.test_part(fold))
    assert len(parts) == len(spy.calls) == 3
    for part, call in zip(parts, spy.calls, strict=True):
        assert ids(call.args[0]) == ids(part.train) and not ids(part.train) & ids(part.validation)
        assert ids(part.train) | ids(part.validation) == train and not (ids(part.train) | ids(part.validation)) & test
    judged = [key for part in parts for key in ids(part.validation)]
    assert sorted(judged) == sorted(train)


def test_no_bag_of_another_patient_is_even_read(workspace, monkeypatch):
    read, real = set(), type(workspace.cohort).bag

    def bag(self, i):
        read.add(self.patients[i].id)
        return real(self, i)

    monkeypatch.setattr(type(workspace.cohort), "bag", bag)
    inner_folds(workspace, 0)
    assert read and read <= ids(workspace.train_part(0))


def test_each_model_is_the_local_training_of_its_part(workspace):
    for part in inner_folds(workspace, 0):
        model = train_local(part.train, workspace.recipe, label=part.label, run=ON_CPU)
        assert equal(state_of(part.local), state_of(model)) and part.local.dropout == workspace.recipe.model.dropout


def test_the_folds_models_differ(workspace):
    parts = [part for fold in (0, 1) for part in inner_folds(workspace, fold)]
    assert len({part.label for part in parts}) == 6
    assert len({part.local.head.weight.detach().numpy().tobytes() for part in parts}) == 6


def test_a_second_call_trains_nothing(workspace, monkeypatch):
    first = inner_folds(workspace, 0)
    spy = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    second = inner_folds(workspace, 0)
    assert spy.calls == []
    for one, other in zip(first, second, strict=True):
        assert one.label == other.label
        assert (one.train.patients, one.validation.patients) == (other.train.patients, other.validation.patients)
        assert equal(state_of(one.local), state_of(other.local))


def test_an_interrupted_division_trains_the_rest_alone(workspace, monkeypatch):
    def stop(done, total):
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inner_folds(workspace, 0, stop)
    spy = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    assert len(inner_folds(workspace, 0)) == 3 and len(spy.calls) == 1


def test_another_number_of_folds_has_models_of_its_own(tmp_path, monkeypatch):
    inner_folds(make_workspace(tmp_path, "steph.inner_folds=3"), 0)
    spy = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    parts = inner_folds(make_workspace(tmp_path, "steph.inner_folds=2"), 0)
    assert len(parts) == len(spy.calls) == 2
    assert len(inner_folds(make_workspace(tmp_path, "steph.inner_folds=3"), 0)) == 3 and len(spy.calls) == 2


def test_recipes_that_differ_in_the_merge_alone_share_them(tmp_path, monkeypatch):
    inner_folds(make_workspace(tmp_path, "steph.K=1"), 0)
    spy = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    inner_folds(make_workspace(tmp_path, "steph.K=2", "comparators.density=0.5"), 0)
    assert spy.calls == []
    inner_folds(make_workspace(tmp_path, "training.seed=1"), 0)
    assert len(spy.calls) == 2


@pytest.mark.parametrize(("patients", "n_inner", "found"), [(6, 3, 3), (5, 3, 0), (4, 3, 0), (4, 2, 2), (3, 2, 0)])
def test_a_training_part_with_fewer_patients_than_folds_has_none(tmp_path, patients, n_inner, found):
    workspace = make_workspace(tmp_path, f"steph.inner_folds={n_inner}", patients=patients)
    assert len(workspace.train_part(0)) == patients // 2 and len(inner_folds(workspace, 0)) == found
    assert len([*workspace.fold_folder(0).glob("inner_*")]) == found


def test_progress_is_told_of_each_fold_s_training(workspace):
    told = []
    inner_folds(workspace, 0, lambda *done: told.append(done))
    assert told == [(k / 2, 3) for k in range(1, 7)]


def test_a_split_error_of_anything_else_is_not_swallowed(workspace, monkeypatch):
    """Only a part that cannot be divided has no inner folds."""

    def broken(*args, **kwargs):
        raise SplitError("something else")

    monkeypatch.setattr(fedsteph.client.models.local_file, "train_local", broken)
    with pytest.raises(SplitError, match="something else"):
        inner_folds(workspace, 0)
