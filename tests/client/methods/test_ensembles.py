"""Mean risks and mean weights of several models, worked out model by model."""

from __future__ import annotations

import numpy as np
import pytest
from method_builders import (
    encoder_of,
    fitted_hazards,
    make_task,
    numbers,
    plain_direction,
    plain_scores,
    plus,
    with_heads,
)

from fedsteph.client.methods.ensembles import METHODS
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.host.progress import silent
from fedsteph.simulations.study.costs import gigaflops

SETTINGS = ("training.lr=0.03", "training.epochs=3", "training.loss=cox", "final.members=3")


@pytest.fixture
def task(tmp_path):
    return with_heads(make_task(tmp_path, *SETTINGS, n_sources=3, scale=0.3, patients=50, event_share=0.8))


def standardised(task, models, cohort) -> tuple[np.ndarray, float]:
    """Each model's scores by the training patients' mean and sd, ``(n_models, n_patients)``; the first model's sd."""
    rows, scales = [], []
    for theta, direction in models:
        known = plain_scores(theta, direction, task.train)
        rows.append((plain_scores(theta, direction, cohort) - known.mean()) / known.std())
        scales.append(known.std())
    return np.array(rows), scales[0]


def require_hazards(task, trained, models, weights) -> None:
    test, n_bins = task.workspace.test_part(task.fold), task.m0.architecture.n_bins
    found = predict_hazards(trained.model, test, task.device)
    (rows, scale), (known, _) = (standardised(task, models, cohort) for cohort in (test, task.train))
    expected = fitted_hazards(scale * weights @ rows, scale * weights @ known, task.train, n_bins)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.std() > 1e-3


def test_risks_of_the_target_and_of_the_sources_with_heads(task):
    start = plain_direction(task.m0)
    models = [(numbers(task.local.encoder_state()), plain_direction(task.local))]
    for source in task.sources[:2]:
        theta = plus(encoder_of(task), [1], [numbers(source.tensors)])
        models.append((theta, start + source.head.double().numpy()))
    for name, weights in {"risk_ensemble": [1, 1 / 4, 1 / 4], "risk_mean": [1 / 3] * 3}.items():
        trained = METHODS[name](task, silent)
        require_hazards(task, trained, models, np.array(weights))
        assert trained.learnable == task.m0.architecture.n_bins
        # All three passes are counted; the head is next to nothing.
        ratio = gigaflops(trained.model, 6, 1000) / gigaflops(task.local, 6, 1000)
        assert ratio == pytest.approx(3, rel=0.01)


def test_local_models_of_other_seeds(task):
    members = task.workspace.train_members(task.fold)
    assert [len(members), *(numbers(members[0].state_dict()).keys())] == [3, *numbers(task.local.state_dict())]
    states = [numbers(member.state_dict()) for member in members]
    own = numbers(task.local.state_dict())
    assert all(np.array_equal(states[0][name], own[name]) for name in own)
    assert not any(np.array_equal(states[1]["embed.weight"], states[k]["embed.weight"]) for k in (0, 2))
    models = [(numbers(member.encoder_state()), plain_direction(member)) for member in members]
    ensemble = METHODS["local_ensemble"](task, silent)
    require_hazards(task, ensemble, models, np.full(3, 1 / 3))
    average = METHODS["local_average"](task, silent)
    for name, tensor in numbers(average.model.state_dict()).items():
        if name != "head.bias":  # fitted again
            np.testing.assert_allclose(tensor, np.mean([state[name] for state in states], axis=0), atol=1e-6)
    test, n_bins = task.workspace.test_part(task.fold), task.m0.architecture.n_bins
    theta, direction = numbers(average.model.encoder_state()), plain_direction(average.model)
    score, known = (plain_scores(theta, direction, cohort) for cohort in (test, task.train))
    found = predict_hazards(average.model, test, task.device)
    np.testing.assert_allclose(found, fitted_hazards(score, known, task.train, n_bins), atol=2e-5)
    assert ensemble.learnable == 3 * average.learnable


def test_without_any_head_or_other_seed_it_is_the_local_model(tmp_path):
    task = make_task(tmp_path, *SETTINGS[:3], "final.members=0", n_sources=2, patients=50, event_share=0.8)
    for name in ("risk_ensemble", "risk_mean"):
        assert METHODS[name](task, silent).model is task.local
    alone = METHODS["local_average"](task, silent).model
    assert np.array_equal(numbers(alone.state_dict())["head.weight"], numbers(task.local.state_dict())["head.weight"])
