"""The file of a final model: what comes back predicts as what was saved, and anything else is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from client_builders import CPU, make_cohort, make_recipe, make_vectors
from damage import flipped
from safetensors import safe_open
from sites import make_site

import fedsteph
from fedsteph.client.models.context.cohort_survival import CohortSurvival
from fedsteph.client.models.context.quality import Quality
from fedsteph.client.models.enhanced_file import train_enhanced
from fedsteph.client.models.final_file import copy_final, save_final
from fedsteph.client.models.heatmap import heatmap
from fedsteph.client.models.local_file import train_file
from fedsteph.client.models.members import load_members
from fedsteph.client.models.model_file import load_model, percentiles_of
from fedsteph.client.models.slide_features import of_means
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.report.patients_page import patients_page
from fedsteph.client.site.prediction import predict_file
from fedsteph.client.training.batch import risks
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.errors import FedstephError, ModelFileError
from fedsteph.common.report.page import html

COHORT = make_cohort([3] * 12)
COHORT_SURVIVAL = CohortSurvival.of(np.tile(np.linspace(0.9, 0.1, 32), (30, 1)), np.arange(30.0))
QUALITY = Quality(0.6, (0.5, 0.7), 5, -0.1, ("near chance", "Uno's C unknown"))
BAG = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A site, two members of each kind, and the final models of both."""
    folder = tmp_path_factory.mktemp("final")
    site = make_site(folder / "site", patients=8)
    means = [h5py.File(path)["features"][:].mean(axis=0, dtype=float) for path in sorted((site / "features").iterdir())]
    recipe = make_recipe("training.epochs=1", "steph.normalise=true")
    vectors = {name: 0.5 * vector for name, vector in make_vectors(recipe, 3).items()}
    for m in range(2):
        local = train_file(folder / f"local_{m}.safetensors", COHORT, recipe, label=f"member {m}", device=CPU)
        run = TrainingRun(CPU)
        path = folder / f"steph_{m}.safetensors"
        train_enhanced(path, COHORT, local, vectors, recipe, gamma=0.0, label=f"member {m}", run=run)
    for kind in ("local", "steph"):
        models = [load_model(folder / f"{kind}_{m}.safetensors") for m in range(2)]
        mean = np.mean([risks(one.model, COHORT, CPU) for one in models], axis=0)
        told = {"reference": percentiles_of(mean), "slides": of_means(np.array(means)), "followed_years": 4}
        told["cohort"] = COHORT_SURVIVAL
        told["trained_on"] = TrainedOn.of(COHORT, models[0].model)
        save_final(folder / f"final-{kind}.safetensors", models, vectors if kind == "steph" else {}, **told)
    return folder


@pytest.mark.parametrize("kind", ["local", "steph"])
def test_members_come_back_bit_for_bit_with_what_is_told_of_their_patients(world, kind):
    found = load_members(world / f"final-{kind}.safetensors")
    assert len(found.models) == 2 and found.reference.shape == (101,) and found.slides.mean.shape == (6,)
    for m, one in enumerate(found.models):
        alone = load_model(world / f"{kind}_{m}.safetensors")
        assert torch.equal(one.model(BAG), alone.model(BAG)) and not one.model.training
        assert (one.architecture, one.sources, one.m0) == (alone.architecture, alone.sources, alone.m0)
        assert (one.extraction, one.followed_years, one.reference) == (alone.extraction, 4, None)
        if kind == "steph":
            assert torch.equal(one.local.model(BAG), alone.local.model(BAG))
            assert torch.equal(one.model.mixture.stack, alone.model.mixture.stack)


def test_the_deployed_copy_says_how_good_it_is_and_is_the_same_model(world, tmp_path):
    made, path = world / "final-steph.safetensors", tmp_path / "model.safetensors"
    copy_final(made, path, QUALITY)
    before, after = load_members(made), load_members(path)
    assert (before.quality, after.quality) == (None, QUALITY)
    np.testing.assert_array_equal(after.cohort.means, COHORT_SURVIVAL.means)
    assert torch.equal(after.models[1].model(BAG), before.models[1].model(BAG))
    assert after.models[0].trained_on.salting == before.models[0].trained_on.salting
    again = tmp_path / "again.safetensors"
    copy_final(path, again, QUALITY)
    assert again.read_bytes() == path.read_bytes()


def test_the_training_patients_survival_is_means_of_many_or_nothing():
    rng = np.random.default_rng(0)
    survival = np.sort(rng.uniform(size=(31, 5)))[:, ::-1]
    risks = -survival.sum(axis=1)
    found, order = CohortSurvival.of(survival, risks), np.argsort(risks)
    np.testing.assert_allclose(found.everyone, survival.mean(axis=0))
    for third, part in zip(found.thirds, (order[:11], order[11:21], order[21:]), strict=True):
        np.testing.assert_allclose(third, survival[part].mean(axis=0))
    assert CohortSurvival.of(survival[:29], risks[:29]) is None


def test_one_model_alone_is_not_what_such_a_file_is(world):
    with pytest.raises(ModelFileError, match="final model of 2") as caught:
        fedsteph.load_model(world / "final-local.safetensors")
    assert "predict" in caught.value.remedy


@pytest.mark.parametrize("kind", ["local", "steph"])
def test_a_prediction_is_the_mean_of_the_members(world, kind, tmp_path):
    site = world / "site"
    table = fedsteph.predict(world / f"final-{kind}.safetensors", site=site)
    one = [fedsteph.predict(world / f"{kind}_{m}.safetensors", site=site) for m in range(2)]
    years = [name for name in table if name.startswith("survival_")]
    assert years == [f"survival_{year}y" for year in range(1, 5)]
    shared = ["risk", *years] + (["risk_local", *(f"w_s00{k}" for k in range(3))] if kind == "steph" else [])
    for name in shared:
        np.testing.assert_allclose(table[name], (one[0][name] + one[1][name]) / 2, rtol=0, atol=1e-6)
    low, high = np.sort([each["risk"] for each in one], axis=0)
    assert ((low <= table["risk_low"]) & (table["risk_high"] <= high)).all()
    models = [load_model(world / f"{kind}_{m}.safetensors").model for m in range(2)]
    training = np.mean([risks(model, COHORT, CPU) for model in models], axis=0)
    below = [(training < risk).mean() for risk in table["risk"]]
    np.testing.assert_allclose(table["percentile"] / 100, below, atol=1 / len(COHORT) + 1e-9)


def test_unlike_slides_are_told_of_once_with_numbers_and_the_training_slides_are_not(world, tmp_path):
    model, words = world / "final-local.safetensors", (None, tmp_path / "out.csv")
    found = predict_file(model, world / "site/features", *words)
    assert found.warnings == () and pd.read_csv(words[1])["unlike"].max() == pytest.approx(1)
    other = make_site(tmp_path / "other", patients=5) / "features"  # the first has two slides
    for name in ("P000-DX2", "P003-DX1"):
        with h5py.File(other / f"{name}.h5", "r+") as file:
            file["features"][...] += 40
    found = predict_file(model, None, None, words[1], site=other.parent)
    [told] = found.warnings
    assert told.what.startswith("the features of 2 of 6 slides are unlike") and "P000-DX2 " in told.what
    unlike = pd.read_csv(words[1]).set_index("patient_id")["unlike"]
    assert (unlike > 1.5).tolist() == [True, False, False, True, False]
    told_on_page = html(patients_page(found.views, "final"))
    assert told_on_page.count("are unlike the training slides") == 2 and "Slide P000-DX2: its features" in told_on_page
    assert heatmap(model, other / "P003-DX1.h5", patch=1.0, size=(9, 9)).unlike == pytest.approx(unlike["P003"])
    assert "unlike" not in fedsteph.predict(world / "local_0.safetensors", other)


def test_the_attention_is_the_mean_of_the_members(world):
    slide = world / "site/features/P001-DX1.h5"
    for kind, maps in (("local", {"local"}), ("steph", {"local", "enhanced"})):
        one = [heatmap(world / f"{kind}_{m}.safetensors", slide, patch=1.0).attention for m in range(2)]
        found = heatmap(world / f"final-{kind}.safetensors", slide, patch=1.0).attention
        assert found.keys() == maps
        for name, values in found.items():
            np.testing.assert_allclose(values, (one[0][name] + one[1][name]) / 2, atol=1e-7)


def test_a_slide_is_found_by_its_name_in_the_site_with_the_patients_other_slides(world, tmp_path, cli):
    features, model = world / "site/features", world / "final-local.safetensors"
    words = ["heatmap", model, "P000-DX2", "--site", world / "site", "--patch-size", "1", "--out", tmp_path / "map"]
    code, out, _ = cli(*words, "--top", "1", "--json")
    plain = heatmap(model, features / "P000-DX2.h5", [features / "P000-DX1.h5"], patch=1.0)
    assert code == 0 and json.loads(out)["top"][0]["attention"] == pytest.approx(plain.attention["local"].max())
    words[2] = "P777"
    code, _, err = cli(*words)
    assert code == 1 and "has no slide 'P777'" in err


def test_a_folder_of_fold_models_leaves_the_final_one_beside_them_out(world, tmp_path):
    names = {"fold_0": "local_0", "fold_1": "local_1", "model": "final-local"}
    for name, of in names.items():
        (tmp_path / f"{name}.safetensors").write_bytes((world / f"{of}.safetensors").read_bytes())
    found = load_members(tmp_path)
    assert len(found.models) == 2 and found.slides is None and all(one.reference is not None for one in found.models)


DESCENDING = torch.arange(101.0, dtype=torch.float64).flip(0)
FAULTS = {
    "more members": lambda tensors, told: told.update(members=3),
    "fewer members": lambda tensors, told: told.update(members=1),
    "no members": lambda tensors, told: told.update(members=0),
    "too many members": lambda tensors, told: told.update(members=21),
    "members as text": lambda tensors, told: told.update(members="2"),
    "not a final one": lambda tensors, told: told.pop("members"),
    "fewer sources": lambda tensors, told: told.update(sources=["s000"]),
    "a member less": lambda tensors, told: tensors.pop("member_1.local.head.bias"),
    "no sources": lambda tensors, told: tensors.pop("sources"),
    "half of the slides": lambda tensors, told: tensors.pop("slides.spread"),
    "no mean of the slides": lambda tensors, told: tensors.pop("slides.mean"),
    "slides of other width": lambda tensors, told: tensors.update({"slides.mean": torch.zeros(7).double()}),
    "no spread": lambda tensors, told: tensors["slides.spread"].zero_(),
    "distances that descend": lambda tensors, told: tensors.update(
        {"slides.distances": torch.arange(101.0).flip(0).double()}
    ),
    "percentiles that descend": lambda tensors, told: tensors.update(reference=torch.arange(101.0).flip(0).double()),
    "survival that rises": lambda tensors, told: tensors["cohort_survival"][0].copy_(torch.arange(32.0) / 32),
    "survival above 1": lambda tensors, told: tensors["cohort_survival"].add_(1),
    "survival of other years": lambda tensors, told: tensors.update(cohort_survival=torch.zeros(4, 33).double()),
    "a C-index above 1": lambda tensors, told: told.update(quality=asdict(QUALITY) | {"c_index": 2.0}),
    "red flags with words of their own": lambda tensors, told: told.update(
        quality=asdict(QUALITY) | {"flags": ["<b>"]}
    ),
    "a quality with a key more": lambda tensors, told: told.update(quality=asdict(QUALITY) | {"patients": 7}),
    "not finite": lambda tensors, told: tensors["sources"].fill_(float("nan")),
}


def test_a_file_that_is_not_its_description_is_refused(world, tmp_path):
    path = tmp_path / "m.safetensors"
    with safe_open(world / "final-steph.safetensors", framework="pt") as file:
        metadata, kept = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, change in FAULTS.items():
        tensors, told = {key: value.clone() for key, value in kept.items()}, json.loads(metadata["description"])
        change(tensors, told)
        safetensors.torch.save_file(tensors, path, {"format": metadata["format"], "description": json.dumps(told)})
        with pytest.raises(ModelFileError) as caught:
            load_members(path)
        assert caught.value.where == str(path), name


def test_a_flipped_bit_is_never_used(world, tmp_path):
    content = (world / "final-local.safetensors").read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), 60).tolist():
        (tmp_path / "m.safetensors").write_bytes(flipped(content, bit))
        with pytest.raises(FedstephError):
            load_members(tmp_path / "m.safetensors")
