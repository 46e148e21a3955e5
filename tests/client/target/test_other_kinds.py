"""Base models other than ABMIL, and one that is added as docs/models.md says, from training to prediction."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import toy_kind
from client_builders import CPU, make_cohort, make_recipe, make_vectors, make_workspace
from each_case import each
from method_builders import with_vectors
from toy_kind import TOY

import fedsteph
from fedsteph.client.attack.gradients import pulls
from fedsteph.client.methods.registry import REGISTRY
from fedsteph.client.methods.task import Task
from fedsteph.client.models.heatmap import heatmap
from fedsteph.client.models.model_file import load_model
from fedsteph.client.privacy.dp_sgd import patient_gradients
from fedsteph.client.privacy.trained_part import TrainedPart
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.enhance import enhance_alone
from fedsteph.client.training.batch import batches, predict_hazards, risks
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.encoders.base_kinds import KINDS
from fedsteph.common.errors import ConfigError, VectorMismatchError
from fedsteph.common.host.progress import silent
from fedsteph.common.model.encode import encode
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.survival import nll
from fedsteph.common.vector.vector_file import WHOLE, read_vector, write_vector

SIZES = ("model.attention=8", "training.min_steps=0", "evaluation.folds=1", "training.epochs=1")


@pytest.fixture(autouse=True)
def with_toy(monkeypatch) -> None:
    monkeypatch.setitem(KINDS, TOY.name, TOY)


def workspace_of(kind: str, folder) -> Workspace:
    made = make_workspace(folder, f"model.kind={kind}", *SIZES, patients=16, folds=1, seed=3)
    for i, path in enumerate(sorted((folder / "site" / "features").iterdir())):
        with h5py.File(path, "r+") as file:
            file["coords"][:] = np.random.default_rng(i).integers(0, 5000, file["coords"].shape)
    return Workspace.open(made.site, made.recipe)


@each("kind", ["toy", "transmil", "patchgcn"])
def test_a_site_trains_merges_predicts_and_draws(kind: str, tmp_path) -> None:
    workspace = workspace_of(kind, tmp_path / kind)
    vectors = make_vectors(workspace.recipe, 2)
    result = enhance_alone(workspace, vectors)
    assert {"local", "steph", "panel", "deployed"} <= result.methods.keys()
    site, state = tmp_path / kind / "site", workspace.site.state
    final = state / "deployed" / "model.safetensors"
    found = fedsteph.predict(final, site / "features", site / "labels.csv").set_index("patient_id")
    assert np.isfinite(found["risk"]).all() and found["risk"].nunique() > 10
    fold = load_model(state / "deployed" / "fold_0.safetensors")
    test = workspace.test_part(0)
    table = fedsteph.predict(state / "deployed" / "fold_0.safetensors", site / "features", site / "labels.csv")
    told = dict(zip(table["patient_id"], table["risk"], strict=True))
    for patient, risk in zip(test.patients, risks(fold.model, test, CPU), strict=True):
        assert told[patient.id] == pytest.approx(risk, abs=1e-5)
    slide = min((site / "features").iterdir())
    if kind == "transmil":
        with pytest.raises(ConfigError, match="TransMIL does not say how much"):
            heatmap(final, slide, patch=256)
    else:
        drawn = heatmap(final, slide, patch=256)
        assert all(0 < values.sum() <= 1 + 1e-6 for values in drawn.attention.values())


def test_every_method_works_with_another_kind(tmp_path) -> None:
    """Of those that one site can run: ROUPKT, Surgery, the merging rules, the ensembles and STEPH's variants."""
    workspace = workspace_of("dsmil", tmp_path)
    workspace.train_every_fold()
    workspace.train_members(0)
    task = with_vectors(Task(workspace, 0, {}, tmp_path / "task"), list(make_vectors(workspace.recipe, 2).values()))
    for name, method in REGISTRY.items():
        if METHODS[name].needs in ("nothing", "vectors") and not name.startswith("head_") and name != "sources_alone":
            trained = method(task, silent)
            hazards = predict_hazards(trained.model, workspace.test_part(0), CPU)
            assert np.isfinite(hazards).all() and hazards.std() > 0, name


@each("kind", ["toy", "dsmil", "transmil", "r2t"])
def test_patients_gradients_are_those_of_each_alone(kind: str) -> None:
    recipe = make_recipe(f"model.kind={kind}", *SIZES)
    m0, cohort = pinned_model(recipe.model).eval(), make_cohort([5] * 4)
    part = TrainedPart(m0, "encoder")
    ((_, batch),) = batches(cohort, range(4), recipe.model.n_bins, CPU)
    found = patient_gradients(part, torch.zeros(part.size + 1), batch)[:, :-1]
    for i in range(4):
        z, _ = encode(m0.architecture, m0.encoder_state(), batch.bags[i : i + 1])
        hazards = torch.sigmoid(z @ part.readout - 2.2).expand(1, recipe.model.n_bins)
        loss = nll(hazards, batch.bins[i : i + 1], batch.events[i : i + 1], alpha=0.0).sum()
        alone = torch.autograd.grad(loss, list(m0.encoder_state().values()))
        torch.testing.assert_close(found[i], torch.cat([g.reshape(-1) for g in alone]), rtol=1e-4, atol=1e-6)
    if KINDS[kind].direction is None:
        with pytest.raises(ConfigError, match="direction is no part of"):
            _ = TrainedPart(m0, "direction").size
    else:
        assert TrainedPart(m0, "direction").size == 6
    vectors = list(make_vectors(recipe, 1).values())
    gram = pulls(cohort, recipe, vectors, CPU)[0].gram  # of the membership attack
    assert bool(torch.isfinite(gram).all()) and float(gram.diagonal().min()) > 0


def test_vectors_of_two_kinds_never_mix() -> None:
    abmil, dsmil = (make_recipe(*kind, *SIZES) for kind in ((), ("model.kind=dsmil",)))
    (vector,) = make_vectors(dsmil, 1).values()
    ours = pinned_model(abmil.model)
    facts = {"m0_sha256": str(abmil.model.m0_sha256), "sharing": WHOLE, "max_norm": 1e3, "where": "here"}
    with pytest.raises(VectorMismatchError, match="is of kind dsmil, and this federation's model is of kind abmil"):
        read_vector(write_vector(vector), architecture=ours.architecture, **facts)
    with pytest.raises(VectorMismatchError, match="architectures differ"):
        vector.require_same_origin(next(iter(make_vectors(abmil, 1).values())))
    embed = SharingConfig(layers="embed")
    shared = read_vector(
        write_vector(vector, embed),
        architecture=vector.architecture,
        **{**facts, "m0_sha256": vector.m0_sha256, "sharing": embed},
    )
    assert {name for name, tensor in shared.tensors.items() if tensor.any()} == {
        "encoder.model.feat_ext.0.weight",
        "encoder.model.feat_ext.0.bias",
    }


def test_the_added_kind_is_the_one_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text()
    for part in (inspect.getsource(toy_kind.ToyEncoder), inspect.getsource(toy_kind._shapes)):
        assert part in page
    assert len(inspect.getsource(toy_kind).splitlines()) < 60


def test_a_bag_above_the_limit_is_drawn_from() -> None:
    recipe = make_recipe("model.kind=ilra", "model.max_instances=7", *SIZES)
    assert pinned_model(recipe.model).architecture.most_instances == 7
    assert replace(recipe.model, max_instances=None) != recipe.model
