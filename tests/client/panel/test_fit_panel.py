"""The panel of an enhanced model: its hazards against a plain sum of the members' scores, and its file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import CPU, ON_CPU, m0_of, make_cohort, make_recipe, make_vectors

from fedsteph.client.models.model_file import load_model, save_steph
from fedsteph.client.panel.fit_panel import PanelMembers, set_panel
from fedsteph.client.panel.held_out import SourceGroups
from fedsteph.client.steph.fit import fit_steph
from fedsteph.client.training.batch import predict_hazards
from fedsteph.client.training.local import train_local
from fedsteph.common.vector.task_vector import TaskVector

WEIGHTS = {"steph": 0.3, "local": 0.2, "same_cancer": 0.5, "other_cancers": 0.1}


@pytest.fixture(scope="module")
def made():
    recipe = make_recipe("training.epochs=2", "training.min_steps=0", "training.loss=cox", "steph.start=local")
    cohort = make_cohort([3, 5, 4] * 6)
    local = train_local(cohort, recipe, label="x", run=ON_CPU)
    vectors = make_vectors(recipe, 4, 0.2)
    heads = {name: torch.randn(v.architecture.embed) for name, v in list(vectors.items())[:3]}  # the last has none
    vectors = {name: replace(vector, head=heads.get(name)) for name, vector in vectors.items()}
    mixed = [vector if name == "s000" else vector.without_head() for name, vector in vectors.items()]
    steph = fit_steph(cohort, local, mixed, recipe, gamma=0.0, label="x", run=ON_CPU)
    members = PanelMembers.of(local, vectors, frozenset({"s000"}), cohort, recipe, CPU)
    return recipe, cohort, local, vectors, steph, members


def plain_scores(recipe, cohort, vector: TaskVector) -> np.ndarray:
    model = vector.merged_model(m0_of(recipe), torch.zeros(recipe.model.n_bins)).eval()
    with torch.no_grad():
        return np.array([float(torch.logit(model(cohort.bag(i)[None]).double()).mean()) for i in range(len(cohort))])


def unit(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_the_risk_is_the_weighted_sum_of_standardised_scores(made):
    recipe, cohort, local, vectors, steph, members = made
    alone = torch.logit(torch.from_numpy(predict_hazards(steph, cohort, CPU))).mean(dim=1).numpy()
    own = plain_scores(recipe, cohort, TaskVector.between(local, m0_of(recipe), head=True))
    received = {name: unit(plain_scores(recipe, cohort, vector)) for name, vector in vectors.items() if vector.has_head}
    others = unit((received["s001"] + received["s002"]) / 2)
    expected = 0.3 * unit(alone) + 0.2 * unit(own) + 0.5 * received["s000"] + 0.1 * others
    set_panel(steph, members, WEIGHTS, cohort, CPU)
    found = torch.logit(torch.from_numpy(predict_hazards(steph, cohort, CPU)))
    assert np.allclose(unit(found.mean(dim=1).numpy()), unit(expected), atol=1e-4)
    assert np.allclose((found - found[0]).numpy(), (expected - expected[0])[:, None], atol=1e-3), "in every bin"


def test_its_file_gives_the_same_hazards(made, tmp_path):
    recipe, cohort, _, vectors, steph, members = made
    set_panel(steph, members, WEIGHTS, cohort, CPU)
    before = predict_hazards(steph, cohort, CPU)
    save_steph(tmp_path / "panel.safetensors", steph, list(vectors), m0_sha256=str(recipe.model.m0_sha256))
    assert np.array_equal(predict_hazards(load_model(tmp_path / "panel.safetensors").model, cohort, CPU), before)


def test_a_group_is_of_the_sources_that_can_predict(made):
    _, cohort, *_, members = made
    assert members.received.members == {"same_cancer": (0,), "other_cancers": (1, 2)}
    scores = np.random.default_rng(0).normal(size=(len(cohort), 2))
    alone = SourceGroups.of(scores, cohort, [False, False], [True, False])
    assert alone.groups == ("steph", "local")
    part = members.received.part([0.5] * 4, [0.25] * 4, cohort.subset([p.id for p in cohort.patients[:4]]))
    assert part.scores.shape == (4, 4) and np.array_equal(part.scores[:, :2], [[0.5, 0.25]] * 4)


def test_a_backdoor_in_a_received_model_moves_no_risk_beyond_its_range(made):
    recipe, _, local, vectors, steph, _ = made
    bad = replace(vectors["s001"], head=vectors["s001"].head * 1e4, tensors=dict(vectors["s001"].tensors))
    bad.tensors["embed.weight"] = bad.tensors["embed.weight"].clone()
    bad.tensors["embed.weight"][:, 5] = 1e4  # reacts to a feature that no patient of the target shows
    quiet = make_cohort([3, 5, 4] * 6)
    for bag in quiet.bags.values():
        bag[:, 5] = 0.0
    members = PanelMembers.of(local, vectors | {"s001": bad}, frozenset({"s000"}), quiet, recipe, CPU)
    steph.panel = None
    set_panel(steph, members, WEIGHTS, quiet, CPU)
    before = torch.logit(torch.from_numpy(predict_hazards(steph, quiet, CPU))).mean(dim=1)
    quiet.bags["P000"][:, 5] = 10.0
    scores = members.received.scores[:, 1] * members.received.factors[1] * WEIGHTS["other_cancers"]
    own = quiet.subset(["P000"])
    moved = float(torch.logit(torch.from_numpy(predict_hazards(steph, own, CPU))).mean() - before[0])
    steph.panel.weight[3] = 0.0  # what the change of the bag does to the other members is not this test's
    quiet.bags["P000"][:, 5] = 0.0
    rest = float(torch.logit(torch.from_numpy(predict_hazards(steph, own, CPU))).mean())
    quiet.bags["P000"][:, 5] = 10.0
    rest = float(torch.logit(torch.from_numpy(predict_hazards(steph, own, CPU))).mean()) - rest
    assert abs(moved - rest) <= np.ptp(scores) * 1.001
