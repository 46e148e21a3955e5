"""Merges of vectors with heads against plain sums, under a baseline fitted apart."""

from __future__ import annotations

import numpy as np
import pytest
from method_builders import fitted_hazards, make_task, merged_scores, plain_pairs, with_heads

from fedsteph.client.methods.headed import METHODS
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.host.progress import silent

SETTINGS = ("training.lr=0.03", "training.epochs=3", "comparators.coefficients=[0.6,0.1,1.0]")
# Of the target's own vector, the two sources with a head, and the one without.
WEIGHTS = {
    "head_sum": [1, 1, 1, 0],
    "head_mean": [1 / 3, 1 / 3, 1 / 3, 0],
    "sources_alone": [0, 1 / 2, 1 / 2, 0],
}


@pytest.fixture
def task(tmp_path):
    return with_heads(make_task(tmp_path, *SETTINGS, n_sources=3, scale=0.3, patients=50, event_share=0.8))


def require_hazards(task, trained, weights) -> None:
    test, n_bins = task.workspace.test_part(task.fold), task.m0.architecture.n_bins
    known, found = merged_scores(task, weights, task.train), predict_hazards(trained.model, test, task.device)
    expected = fitted_hazards(merged_scores(task, weights, test), known, task.train, n_bins)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert trained.learnable == n_bins and found.std() > 1e-3


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_merge_is_a_plain_sum_of_vectors_and_heads(task, name):
    require_hazards(task, METHODS[name](task, silent), WEIGHTS[name])


def test_arithmetic_takes_the_coefficient_of_brute_force(task):
    grid, concordant = [0.1, 0.6, 1.0], []
    for c in grid:
        total = 0.0
        for part in task.inner:
            inner = type(task)(task.workspace, task.fold, task.vectors, task.folder)
            inner.__dict__["local"] = part.local
            risk = merged_scores(inner, [c, c, c, 0], part.validation)
            total += plain_pairs(part.validation.times, part.validation.events, risk)[0]
        concordant.append(total)
    assert len(set(concordant)) > 1
    best = grid[int(np.argmax(concordant))]
    trained = METHODS["head_arithmetic"](task, silent)
    assert trained.notes == {"coefficient": best}
    require_hazards(task, trained, [best, best, best, 0])


def test_without_any_head_it_is_the_local_model(tmp_path):
    task = make_task(tmp_path, *SETTINGS, n_sources=2, patients=50, event_share=0.8)
    for method in METHODS.values():
        trained = method(task, silent)
        assert trained.model is task.local and trained.notes == {"local_because": "no source's vector has a head"}
