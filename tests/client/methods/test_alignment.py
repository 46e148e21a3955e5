"""The subspace alignment ratio: known answers, a second way to compute it, and the vector that a merge stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from each_case import each
from method_builders import by_projection, make_task, row_of

from fedsteph.client.methods.ablations import STEPH
from fedsteph.client.methods.alignment import mean_alignment, merged_vector, subspace_alignment
from fedsteph.client.methods.averaging import half_average
from fedsteph.client.methods.merged import METHODS
from fedsteph.client.methods.roupkt import roupkt
from fedsteph.common.host.progress import silent
from fedsteph.common.vector.task_vector import mean

ORACLE = Path(__file__).parents[2] / "oracles" / "sar.safetensors"


@each(("name", "expected"), [("a", 0.98254106), ("b", 0.97611067), ("c", 1.0)])
def test_known_answers(name, expected):
    matrices = safetensors.torch.load_file(ORACLE)
    found = subspace_alignment(matrices[f"{name}/tau_merged"], matrices[f"{name}/tau_target"])
    assert found == pytest.approx(expected, abs=1e-6)


@each("energy", [0.3, 0.5, 0.95, 0.999])
@each("shape", [(5, 9), (9, 5), (6, 6)])
def test_it_is_the_length_of_a_projection(shape, energy):
    rng = np.random.default_rng(sum(shape))
    merged, target = rng.normal(size=shape), rng.normal(size=shape)
    found = subspace_alignment(torch.from_numpy(merged), torch.from_numpy(target), energy)
    assert found == pytest.approx(by_projection(merged, target, energy)[0], abs=1e-9)


def test_a_matrix_is_aligned_with_itself_and_not_with_what_is_orthogonal():
    one, other = torch.zeros(4, 3), torch.zeros(4, 3)
    one[0, 0], other[1, 1] = 2.0, 3.0
    assert subspace_alignment(one, one) == pytest.approx(1.0) and subspace_alignment(one, other) == 0.0
    assert subspace_alignment(torch.zeros(4, 3), one) == subspace_alignment(one, torch.zeros(4, 3)) == 0.0


def test_the_mean_is_over_the_matrices_that_have_rows_to_share(tmp_path):
    task = make_task(tmp_path, n_sources=2)
    merged = mean([task.own, *task.sources])
    names = ["embed.weight", "attention_V.weight", "attention_U.weight"]
    each = [
        by_projection(merged.tensors[n].double().numpy(), task.own.tensors[n].double().numpy(), 0.95)[0] for n in names
    ]
    assert mean_alignment(merged, task.own) == pytest.approx(np.mean(each), abs=1e-6)


def test_the_vector_of_an_average_is_the_average(tmp_path):
    task = make_task(tmp_path, n_sources=3)
    found = merged_vector(task, half_average(task, silent).model, task.train)
    expected = 0.5 * row_of(task.own) + 0.5 * np.mean([row_of(source) for source in task.sources], axis=0)
    np.testing.assert_allclose(row_of(found), expected, atol=1e-6)


def test_the_vector_of_a_merge_per_slide_is_the_mean_over_slides(tmp_path):
    task = make_task(tmp_path, "steph.K=2", "training.epochs=1", n_sources=3)
    model = STEPH(task, silent).model.eval()
    rows = []
    for i in range(len(task.train)):
        with torch.no_grad():
            routing = model.route(task.train.bag(i).unsqueeze(0))
        row = np.zeros(model.mixture.stack.shape[1])
        for k in routing.kept[0].tolist():
            w, lam = float(routing.w[0, k]), float(routing.lam[0, k])
            row += w * (lam * row_of(task.own) + (1 - lam) * row_of(task.sources[k]))
        rows.append(row)
    np.testing.assert_allclose(row_of(merged_vector(task, model, task.train)), np.mean(rows, axis=0), atol=1e-5)


@pytest.mark.parametrize("name", ["ties", "ties_hyper"])
def test_the_vector_of_a_weighted_sum(tmp_path, name):
    task = make_task(tmp_path, "training.epochs=1", n_sources=3)
    model = METHODS[name](task, silent).model.eval()
    with torch.no_grad():
        w = np.mean(
            [model.weights(task.train.bag(i).unsqueeze(0), None)[0].numpy() for i in range(len(task.train))], axis=0
        )
    found = row_of(merged_vector(task, model, task.train))
    np.testing.assert_allclose(found, w @ model.mixture.stack.numpy(), atol=1e-5)


def test_a_router_over_experts_has_no_such_vector(tmp_path):
    task = make_task(tmp_path, "training.epochs=1", n_sources=2)
    assert merged_vector(task, roupkt(task, silent).model, task.train) is None
