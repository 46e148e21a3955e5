"""Training towards the sources' risks and towards the merge: at weight 0 neither pulls, and the more, the closer."""

from __future__ import annotations

import numpy as np
import torch
from client_builders import ON_CPU
from method_builders import make_task, numbers, with_heads

from fedsteph.client.methods.ensembles import received
from fedsteph.client.methods.headed import METHODS as MERGES
from fedsteph.client.methods.headed import scores
from fedsteph.client.methods.pulled import distilled, shrunk, unlikeness
from fedsteph.client.training.local import train_local
from fedsteph.common.host.progress import silent

SETTINGS = ("training.lr=0.02", "training.epochs=6")


def task_of(folder, *settings, heads=True):
    task = make_task(folder, *SETTINGS, *settings, n_sources=2, scale=0.3, patients=40, event_share=0.8)
    return with_heads(task) if heads else task


def test_unlikeness_is_one_minus_the_correlation():
    a, b = torch.tensor([1.0, 4.0, 2.0, 7.0], requires_grad=True), torch.tensor([0.5, 3.0, -2.0, 1.0])
    expected = 1 - np.corrcoef(a.detach().numpy(), b.numpy())[0, 1]
    assert abs(unlikeness(a, b).item() - expected) < 1e-6
    for x, y in ((a, torch.ones(4)), (a[:1], b[:1]), (0 * a, b)):
        apart = unlikeness(x, y)
        apart.backward()
        assert apart.item() == 0 and bool(torch.isfinite(a.grad).all())


def test_distilled_scores_come_close_to_the_sources_and_without_weight_are_the_local_ones(tmp_path):
    for loss in ("nll", "cox"):
        found = {}
        for eta in (0.0, 1.0):
            task = task_of(tmp_path / f"{loss}{eta}", f"comparators.distillation={eta}", f"training.loss={loss}")
            trained = distilled(task, silent)
            (teacher,) = scores(received(task), task.train, task.device)
            (own,) = scores([trained.model], task.train, task.device)
            found[eta] = np.corrcoef(own, teacher)[0, 1]
            if eta == 0:
                label = f"distilled fold {task.fold}"
                plain = train_local(task.train, task.recipe, label=label, run=ON_CPU)
                for name, tensor in numbers(plain.state_dict()).items():
                    np.testing.assert_allclose(numbers(trained.model.state_dict())[name], tensor, atol=1e-5)
        assert max(found[0.0] + 0.3, 0.6) < found[1.0], (loss, found)


def test_shrunk_stays_the_nearer_to_the_sum_the_larger_mu(tmp_path):
    apart = []
    for mu in (0.0, 1.0, 100.0):
        task = task_of(tmp_path / str(mu), f"comparators.shrinkage={mu}", "training.loss=cox")
        merge, trained = MERGES["head_sum"](task, silent), shrunk(task, silent)
        ends = (numbers(model.encoder_state()) for model in (trained.model, merge.model))
        apart.append(sum(np.square(a - b).sum() for a, b in zip(*(end.values() for end in ends), strict=True)))
    assert apart[0] > 1.5 * apart[1] > 3 * apart[2] > 0, apart


def test_without_any_head_it_is_the_local_model(tmp_path):
    task = task_of(tmp_path, heads=False)
    assert distilled(task, silent).model is task.local and shrunk(task, silent).model is task.local
