"""One fold of a target: every method against a plain reference, and which of them is deployed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from client_builders import Spy, equal, m0_of, make_vectors, state_of, trained, trained_workspace

import fedsteph.client.target.fold
import fedsteph.client.target.judgement
import fedsteph.client.training.survival_fit
from fedsteph.client.evaluation.decision import ENOUGH_PAIRS, Selection
from fedsteph.client.evaluation.inner_folds import inner_folds
from fedsteph.client.evaluation.metrics import METRICS, further_metrics
from fedsteph.client.methods.task import Task
from fedsteph.client.models.model_file import load_model
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.steph.fit import COLLAPSED_BELOW
from fedsteph.client.target.fold import enhance_fold, steps
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.common.host.progress import silent
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector

METHODS = ("local", "model_average", "steph", "panel", "deployed")  # of the default recipe


def task_of(workspace: Workspace, vectors, fold: int = 0) -> Task:
    return Task(workspace, fold, vectors, workspace.folder / "merge" / f"fold_{fold}")


def enhanced(workspace: Workspace, vectors, fold: int = 0, progress=silent) -> FoldResult:
    return enhance_fold(task_of(workspace, vectors, fold), progress)


def plain_risk(hazards: torch.Tensor) -> float:
    alive, total = 1.0, 0.0
    for hazard in hazards.tolist():
        alive *= 1 - hazard
        total += alive
    return -total


def plain_average(workspace: Workspace, vectors: dict[str, TaskVector]) -> BaseModel:
    """M0 plus the mean of every vector, the target's own among them, under the target's head."""
    m0, average = m0_of(workspace.recipe), workspace.local_model(0)
    own, start = state_of(average), state_of(m0)
    with torch.no_grad():
        for name, parameter in average.named_parameters():
            if not name.startswith("head"):
                taus = [own[name] - start[name], *(vector.tensors[name] for vector in vectors.values())]
                parameter.copy_(start[name] + torch.stack(taus).mean(dim=0))
    return average.eval()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Workspace, dict[str, TaskVector], FoldResult]:
    workspace = trained_workspace(
        tmp_path_factory.mktemp("fold"), "training.lr=0.02", "training.epochs=4", "training.seed=2", "steph.K=2"
    )
    vectors = make_vectors(workspace.recipe, 4)
    return workspace, vectors, enhanced(workspace, vectors)


def test_every_methods_risks_equal_a_plain_reference(done):
    workspace, vectors, result = done
    test = workspace.test_part(0)
    assert result.times.tolist() == test.times.tolist() and result.events.tolist() == test.events.tolist()
    models = {
        "local": load_model(workspace.fold_folder(0) / "local.safetensors").model,
        "model_average": plain_average(workspace, vectors),
        "steph": load_model(workspace.folder / "merge/fold_0/steph.safetensors").model,
        "panel": load_model(workspace.folder / "merge/fold_0/panel.safetensors").model,
    }
    for method, model in models.items():
        expected = [plain_risk(model(test.bag(i).unsqueeze(0))[0]) for i in range(len(test))]
        np.testing.assert_allclose(result.risk[method], expected, rtol=0, atol=2e-5)
    assert len({risk.tobytes() for name, risk in result.risk.items() if name != "deployed"}) == 4
    assert tuple(result.risk) == METHODS


def test_the_slides_risk_of_a_training_patient_is_by_an_inner_model_that_has_not_seen_them(done):
    workspace, _, result = done
    train = workspace.train_part(0)
    for fold in inner_folds(workspace, 0):
        own = [plain_risk(fold.local(fold.train.bag(i).unsqueeze(0))[0]) for i in range(len(fold.train))]
        own = np.percentile(own, range(101))
        for i, patient in enumerate(fold.validation.patients):
            risk = plain_risk(fold.local(fold.validation.bag(i).unsqueeze(0))[0])
            place = [one.id for one in train.patients].index(patient.id)
            expected = (risk - own.mean()) / own.std()
            assert result.cross_fitted["local"][place] == pytest.approx(expected, abs=1e-3)
    assert {name: len(found) for name, found in result.cross_fitted.items()} == dict.fromkeys(
        ("local", "steph", "panel", "deployed"), len(train)
    )
    np.testing.assert_array_equal(result.cross_fitted["deployed"], result.cross_fitted[result.decision.method])
    assert not np.array_equal(result.cross_fitted["local"], result.cross_fitted["steph"])


def test_what_else_is_measured_of_every_method_and_how_many_parameters_it_learned(done):
    workspace, vectors, result = done
    test, train = workspace.test_part(0), workspace.train_part(0)
    models = {
        "local": load_model(workspace.fold_folder(0) / "local.safetensors").model,
        "model_average": plain_average(workspace, vectors),
        "steph": load_model(workspace.folder / "merge/fold_0/steph.safetensors").model,
        "panel": load_model(workspace.folder / "merge/fold_0/panel.safetensors").model,
    }
    for method, model in models.items():
        hazards = np.stack([model(test.bag(i).unsqueeze(0))[0].double().detach().numpy() for i in range(len(test))])
        expected = further_metrics(hazards, test, train)
        for name in METRICS:
            value = getattr(expected, name)
            assert getattr(result.metrics[method], name) == (value if value is None else pytest.approx(value, abs=1e-3))
    local, steph = (sum(p.numel() for p in models[name].parameters()) for name in ("local", "steph"))
    learnable = {"local": local, "model_average": 0, "steph": steph, "panel": steph + 2}  # and two groups' weights
    assert result.learnable == {**learnable, "deployed": learnable[result.decision.method]}
    assert result.metrics["deployed"] == result.metrics[result.decision.method]
    assert result.metrics.keys() == result.learnable.keys() == result.risk.keys()


def test_the_vectors_lie_in_the_enhanced_model_target_first(done):
    workspace, vectors, _ = done
    loaded = load_model(workspace.folder / "merge/fold_0/steph.safetensors")
    own, start = state_of(workspace.local_model(0)), state_of(m0_of(workspace.recipe))
    names = list(next(iter(vectors.values())).tensors)
    target = torch.cat([(own[name] - start[name]).flatten() for name in names])
    rows = [target, *(torch.cat([v.tensors[name].flatten() for name in names]) for v in vectors.values())]
    assert torch.equal(loaded.model.mixture.stack, torch.stack(rows)) and loaded.sources == tuple(vectors)


def test_how_the_sources_were_used(done):
    workspace, vectors, result = done
    model, test = load_model(workspace.folder / "merge/fold_0/steph.safetensors").model, workspace.test_part(0)
    used = {name: [] for name in vectors}
    for i in range(len(test)):
        routing = model.route(test.bag(i).unsqueeze(0))
        w, lam = routing.w[0].tolist(), routing.lam[0].tolist()
        for k in sorted(range(4), key=lambda k: -w[k])[:2]:
            if w[k] > 0:
                used[list(vectors)[k]].append((w[k], lam[k]))
    assert list(result.sources) == list(vectors)
    assert sum(bool(uses) for uses in used.values()) > 1, "the example uses too few sources"
    for name, uses in used.items():
        share, w, lam = len(uses) / len(test), *(np.mean(uses, axis=0) if uses else (0.0, 0.0))
        found = result.sources[name]
        assert (found.kept, found.w, found.lam) == pytest.approx((share, w, lam), abs=2e-6)


def test_predictions_lie_at_the_site(done):
    workspace, _, result = done
    table = pd.read_csv(workspace.folder / "merge/fold_0/predictions.csv")
    assert list(table.columns) == ["patient_id", "t_days", "e", *(f"risk_{method}" for method in METHODS)]
    assert tuple(table["patient_id"]) == workspace.splits[0].test
    assert table["t_days"].tolist() == pytest.approx(result.times.tolist())
    assert table["e"].tolist() == result.events.tolist()
    for method in METHODS:
        np.testing.assert_allclose(table[f"risk_{method}"], result.risk[method])


def test_test_patients_train_nothing(monkeypatch, tmp_path):
    workspace = trained_workspace(tmp_path, "training.epochs=1")
    fits = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    chosen = Spy(monkeypatch, fedsteph.client.target.fold, "select")
    enhanced(workspace, make_vectors(workspace.recipe, 2))
    test = {*workspace.splits[0].test}
    inner = chosen.calls[0].args[0]
    cohorts = [call.args[2] for call in fits.calls] + [part for one in inner for part in (one.train, one.validation)]
    assert len(cohorts) == 2 + (2 * 2 + 1) + 2 * 2
    for cohort in cohorts:
        assert cohort.patients and not test & {patient.id for patient in cohort.patients}


def test_found_work_is_not_done_again(monkeypatch, done):
    workspace, vectors, result = done
    fits = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    again = enhanced(workspace, vectors)
    assert fits.calls == [] and again.learnable == result.learnable
    assert (again.selection, again.decision.reason, again.sources) == (
        result.selection,
        result.decision.reason,
        result.sources,
    )
    assert all(np.array_equal(again.risk[method], result.risk[method]) for method in METHODS)


def test_a_stopped_fold_goes_on_to_the_same_models(monkeypatch, done, tmp_path):
    workspace, vectors, result = done
    other = replace(workspace, folder=tmp_path / "other", base_folder=tmp_path / "base")
    other.train_local(0)
    n_steps = steps(task_of(other, vectors))

    class StoppedError(Exception):
        pass

    def stop(done: float, total: float) -> None:
        if done > n_steps - 1.6:  # in the middle of STEPH's own training
            raise StoppedError

    with pytest.raises(StoppedError):
        enhanced(other, vectors, progress=stop)
    fits = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    again = enhanced(other, vectors)
    assert trained(fits) == [0, 1] and np.array_equal(again.risk["steph"], result.risk["steph"])
    models = [load_model(w.folder / "merge/fold_0/steph.safetensors").model.state_dict() for w in (workspace, other)]
    assert equal(*models)


def test_progress_never_goes_back_and_ends_at_the_number_of_trainings(tmp_path):
    workspace, seen = trained_workspace(tmp_path), []
    vectors = make_vectors(workspace.recipe, 2)
    enhanced(workspace, vectors, progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    n = 2 + 2 * 2 + 1 + 1
    assert seen[-1] == (n, steps(task_of(workspace, vectors))) == (n, n)


def test_the_comparators_are_those_of_the_recipe_in_its_order(tmp_path):
    """One that needs rounds that were not run is left out."""
    workspace = trained_workspace(
        tmp_path, "training.epochs=1", "steph.gamma=0.0", "comparators.methods=[half_average, fedavg, model_average]"
    )
    vectors = make_vectors(workspace.recipe, 2)
    result = enhanced(workspace, vectors)
    assert list(result.risk) == ["local", "half_average", "model_average", "steph", "panel", "deployed"]
    assert steps(task_of(workspace, vectors)) == 2 + 2 + 1 + 2


@pytest.mark.parametrize("n_sources", [1, 40])
def test_any_number_of_sources(tmp_path, n_sources):
    workspace = trained_workspace(tmp_path, "training.epochs=1", "steph.gamma=0.0", patients=16)
    result = enhanced(workspace, make_vectors(workspace.recipe, n_sources))
    assert len(result.sources) == n_sources and all(np.isfinite(risk).all() for risk in result.risk.values())
    assert sum(use.kept for use in result.sources.values()) <= min(5, n_sources) + 1e-3


def selection(gain: float | None, n_pairs: int = ENOUGH_PAIRS) -> Selection:
    """The gain's standard error is 2 nats."""
    above = (0.55, 0.75)
    return Selection(0.0, "told so", 0.65, 0.6, n_pairs, above, above, {}, {}, 0.7, above, gain, 2.0)


@pytest.mark.parametrize(
    ("gain", "n_pairs", "collapsed", "choice", "reason"),
    [
        (1.0, 50, False, "panel", "the panel gains +1.0 nats of log partial likelihood in inner cross-validation"),
        (-6.0, 50, False, "panel", "at least -3 standard errors asked for"),
        (-6.1, 50, False, "local", "the panel gains only -6.1 nats"),
        (9.0, 50, True, "local", "collapsed"),
        (9.0, 49, False, "panel", "over 49 comparable pairs"),
        (None, 0, False, "local", "too small to validate: fewer than 2 events"),
        (None, 0, True, "local", "collapsed"),
    ],
)
def test_what_is_deployed(monkeypatch, done, gain, n_pairs, collapsed, choice, reason):
    workspace, vectors, _ = done
    monkeypatch.setattr(fedsteph.client.target.fold, "select", lambda *args, **options: selection(gain, n_pairs))
    monkeypatch.setattr(fedsteph.client.target.judgement, "collapsed", lambda *args: collapsed)
    result = enhanced(workspace, vectors)
    assert result.decision.method == choice and reason in result.decision.reason and result.collapsed is collapsed
    assert np.array_equal(result.risk["deployed"], result.risk[choice])
    assert len({result.risk[name].tobytes() for name in ("local", "steph", "panel")}) == 3
    expected = {"local": workspace.fold_folder(0) / "local.safetensors"}
    assert result.model == expected.get(choice, workspace.folder / "merge/fold_0/panel.safetensors")


def test_received_models_with_heads_predict_in_the_panel_and_those_of_the_target_s_cancer_are_merged_too(tmp_path):
    workspace = trained_workspace(tmp_path, "training.epochs=1", "steph.gamma=0.0", "steph.start=local", patients=16)
    vectors = make_vectors(workspace.recipe, 3)
    heads = {name: torch.full((8,), 0.1 * k) for k, name in enumerate(("s000", "s001"), 1)}  # the last has none
    vectors = {name: replace(vector, head=heads.get(name)) for name, vector in vectors.items()}
    task = replace(task_of(workspace, vectors), kin=frozenset({"s001", "s002"}))
    result = enhance_fold(task)
    assert result.selection.weights.keys() == {"steph", "local", "same_cancer", "other_cancers"}
    model = load_model(task.folder / "panel.safetensors").model
    assert model.mixture.headed == [False, True, False]
    assert model.panel.weight.bool().tolist() == [True, True, True, True, False]
    start = m0_of(workspace.recipe).risk_direction()
    assert torch.allclose(model.panel.directions[1:3], torch.stack([start + head for head in heads.values()]))


def test_a_collapsed_model_is_reported_and_not_deployed(tmp_path):
    """A real one: gamma = 100 drives every w to 0."""
    settings = ("training.epochs=1", "steph.epochs=12", "training.lr=0.05", "steph.gamma=100.0")
    workspace = trained_workspace(tmp_path, *settings)
    result = enhanced(workspace, make_vectors(workspace.recipe, 2))
    assert result.collapsed
    assert (result.decision.method, result.model) == ("local", workspace.fold_folder(0) / "local.safetensors")
    assert max(use.w for use in result.sources.values()) < COLLAPSED_BELOW


def test_verdicts_are_kept_until_they_are_damaged_or_the_target_has_another_vector_of_its_own(tmp_path, monkeypatch):
    workspace = trained_workspace(tmp_path, "training.epochs=1", "evaluation.folds=2")
    vectors = make_vectors(workspace.recipe, 2)
    spy = Spy(monkeypatch, fedsteph.client.target.fold, "screen")
    first = enhanced(workspace, vectors).verdicts
    assert enhanced(workspace, vectors).verdicts == first and len(spy.calls) == 1
    [path] = task_of(workspace, vectors).folder.glob("screening-*.json")
    path.write_bytes(path.read_bytes().replace(b"false", b"true", 1))
    assert enhanced(workspace, vectors).verdicts == first and len(spy.calls) == 2
    shared = workspace.train_on_all()
    monkeypatch.setattr(fedsteph.client.target.fold, "kept_model", lambda workspace: shared)
    enhanced(workspace, vectors)
    assert len(spy.calls) == 3 and len(spy.calls[-1].args[2]) == 2
