"""Local training without a federation: cross-validated, then on everybody."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from client_builders import Spy, plain_c
from sites import TINY, make_site

import fedsteph.client.target.train_alone
import fedsteph.client.training.survival_fit
from fedsteph.client.models.model_file import load_base, load_model
from fedsteph.client.site.site import Site
from fedsteph.client.target.train_alone import local_recipe, train_models, train_site
from fedsteph.client.training.batch import risks
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.model.survival import risk_score


def site_of(folder: Path, **options) -> Site:
    return Site.open(make_site(folder / "site", **{"patients": 16, **options}), device="cpu")


def config(*settings: str) -> Config:
    return load_config(None, [*TINY, *settings])


def test_every_fold_is_scored_on_its_test_part(tmp_path):
    site = site_of(tmp_path)
    result = train_site(site, config())
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["site"], result["n_patients"], result["n_events"]) == ("site", 16, 8)
    workspace = fedsteph.client.target.train_alone.Workspace.open(site, local_recipe(site, config()))
    for fold in range(2):
        model, test = load_base(workspace.fold_folder(fold) / "local.safetensors"), workspace.test_part(fold)
        risk = [float(risk_score(model(test.bag(i).unsqueeze(0)))[0]) for i in range(len(test))]
        assert result["c_index"][fold] == pytest.approx(plain_c(test.times, test.events, risk))
    assert result["mean"] == pytest.approx(sum(result["c_index"]) / 2)
    assert result["interval_95"][0] <= result["interval_95"][1]


def test_the_last_model_is_trained_on_everybody(monkeypatch, tmp_path):
    spy = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    site = site_of(tmp_path)
    result = train_site(site, config())
    call = spy.calls[-1]
    assert len(call.args[0]) == 16
    loaded = load_model(Path(result["model"])).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in call.result.state_dict().items())
    card = Path(result["model"]).with_suffix(".md").read_text()
    assert "| training data | all patients |" in card and "C-index on" not in card
    assert Path(result["model"]) == site.state / "model.safetensors"


def test_the_newest_model_lies_where_the_one_before_lay(tmp_path):
    site, states = site_of(tmp_path), []
    for epochs in (1, 2, 1):
        model = Path(train_site(site, config(f"training.epochs={epochs}"))["model"])
        assert f"epochs: {epochs}\n" in model.with_suffix(".md").read_text()
        states.append(model_digest(load_model(model).model))
    assert model == site.state / "model.safetensors" and states[0] == states[2] != states[1]


def test_the_evidence_of_a_page_is_that_of_the_folds_models(tmp_path):
    site = site_of(tmp_path)
    found = train_models(site, config())
    workspace = fedsteph.client.target.train_alone.Workspace.open(site, found.recipe)
    for fold in range(2):
        model, test, train = workspace.train_local(fold), workspace.test_part(fold), workspace.train_part(fold)
        here = found.evidence.fold == fold
        assert found.evidence.ids[here].tolist() == [patient.id for patient in test.patients]
        assert found.evidence.risk("local")[here] == pytest.approx(risks(model, test, workspace.device))
        assert found.evidence.cut_off["local"][fold] == pytest.approx(np.median(risks(model, train, workspace.device)))


def test_a_second_run_trains_nothing_and_says_the_same(monkeypatch, tmp_path):
    site, seen = site_of(tmp_path), []
    first = train_site(site, config(), lambda *step: seen.append(step))
    assert seen == sorted(seen) and seen[-1] == (3, 3)
    spy = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    assert train_site(site, config()) == first and spy.calls == []


def test_a_site_without_an_event_is_trained_and_not_judged(tmp_path):
    result = train_site(site_of(tmp_path, event_share=0.0), config())
    assert (result["c_index"], result["mean"], result["interval_95"]) == ([None, None], None, None)
    assert Path(result["model"]).is_file()


def test_what_the_configuration_leaves_open_is_the_sites_own(tmp_path):
    site = site_of(tmp_path, width=9)
    recipe = local_recipe(site, config())
    assert recipe.model.width == 9
    assert recipe.model.m0_sha256 == model_digest(untrained_model(Architecture(9, 8, 6, 32), 42))


def test_a_pinned_m0_that_this_machine_does_not_make_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="digest"):
        train_site(site_of(tmp_path), config(f"model.m0_sha256={'a' * 64}"))
