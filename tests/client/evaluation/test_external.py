"""External validation: who is judged and who is refused, which years, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from client_builders import plain_c
from evaluated import M0, SIZES, write_model
from sites import make_site

from fedsteph.client.evaluation.external import Evaluation, evaluate
from fedsteph.client.models.model_file import Local, save_steph
from fedsteph.client.report.evaluation_files import outputs
from fedsteph.client.report.evaluation_page import evaluation_page
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.errors import DataError
from fedsteph.common.model.initial_model import untrained_model

N = 40


@dataclass(frozen=True)
class World:
    folder: Path
    table: pd.DataFrame

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def site(self) -> Path:
        return self.folder / "site"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("external")
    make_site(folder / "site", patients=N, event_share=0.6)
    (folder / "site/site.yaml").write_text("name: kirp\n")
    write_model(folder / "one.safetensors", 1, ["X1", "X2"])
    write_model(folder / "two.safetensors", 2, ["X1"], years=3)
    write_model(folder / "own.safetensors", 3, ["P001", "p004", "X9"], match=("case",))
    return World(folder, pd.read_csv(folder / "site/labels.csv").groupby("patient_id").first())


@pytest.fixture(scope="module")
def found(world) -> Evaluation:
    return evaluate([world / "one.safetensors", world / "two.safetensors"], site=world.site)


def test_two_models_are_measured_on_the_same_patients(world, found):
    assert [p.id for p in found.patients] == list(world.table.index) and list(found.scores) == ["one", "two"]
    for name, views in found.views.items():
        risk = np.array([view.risk for view in views])
        c = plain_c(found.times, found.events, risk)
        assert found.scores[name].metrics["c_index"].value == pytest.approx(c)
    one, two = (found.scores[name].metrics["auc_3y"].value for name in ("one", "two"))
    assert found.scores["two"].minus_first["auc_3y"].value == pytest.approx(two - one)


def test_years_that_nobody_was_followed_for_are_left_out_and_said(world, found):
    assert found.years == (1, 3)
    assert found.left_out == ("Not judged at 5 years: the training patients of a model were not followed so long.",)
    table = pd.read_csv(world.site / "labels.csv").assign(t=lambda rows: rows["t"].clip(upper=1000))
    table.to_csv(world / "short.csv", index=False)
    short = evaluate([world / "one.safetensors"], labels=world / "short.csv", site=world.site)
    assert short.years == (1,) and short.left_out[0].startswith("Not judged at 3 years: no patient is followed so")


def test_patients_of_the_training_are_refused_or_left_out(world):
    words = [world / "one.safetensors", world / "own.safetensors"]
    with pytest.raises(DataError, match="own: 2 of 40 patients were in the model's training, the first is 'P001'"):
        evaluate(words, site=world.site)
    rest = evaluate(words, site=world.site, held_out_only=True)
    assert {p.id for p in rest.patients} == {*world.table.index} - {"P001", "P004"}
    assert rest.left_out[-1] == "2 of 40 patients were in training and are left out; 38 remain."
    folder = world / "deployed"
    folder.mkdir()
    for fold in range(2):
        write_model(folder / f"fold_{fold}.safetensors", fold, [*world.table.index[fold::2]])
    with pytest.raises(DataError, match="nobody is left; fold models together have seen"):
        evaluate([folder], site=world.site, held_out_only=True)


def test_what_is_not_known_of_a_model_is_a_warning(world):
    write_model(world / "old.safetensors", 1, years=None)
    old = evaluate([world / "old.safetensors"], site=world.site)
    assert [told.what.split(":")[0] for told in old.warnings[:1]] == ["nothing is known of its training patients"]
    assert "does not state how long its training patients were followed" in old.warnings[1].what
    theta_0 = torch.cat([p.detach().flatten() for p in untrained_model(SIZES, 0).encoder_state().values()])
    steph = Steph(Mixture(SIZES, theta_0, torch.randn(2, len(theta_0))), StephConfig(K=1)).eval()
    local = Local(untrained_model(SIZES, 1))
    save_steph(world / "merged.safetensors", steph, ["kirp"], m0_sha256=M0, local=local, followed_years=3)
    merged = evaluate([world / "merged.safetensors"], site=world.site)
    assert any("it merges a vector of kirp" in told.what for told in merged.warnings)
    page = evaluation_page(merged)
    assert any("merges vectors of kirp" in text for text in page.sections[-1].blocks[0].sentences)
    assert "there is no cut-off" in next(page.pictures).instead  # its file has no percentiles


def test_what_cannot_be_judged_is_refused(world, tmp_path):
    model = world / "one.safetensors"
    table = pd.read_csv(world.site / "labels.csv")
    table.assign(e=0).to_csv(tmp_path / "censored.csv", index=False)
    table.drop(columns="e").to_csv(tmp_path / "unknown.csv", index=False)
    taken = {"site": world.site, "outputs": outputs(world.site / "features")}
    for words, more, said in (
        ([model], {"features": world.site / "features"}, "nothing can be judged: no table of outcomes"),
        ([model], {"site": world.site, "labels": tmp_path / "unknown.csv"}, "has no column 'e'"),
        ([model], {"site": world.site, "labels": tmp_path / "censored.csv"}, "none of 40 patients has an event"),
        ([model, model], {"site": world.site}, "given twice"),
        ([model], taken, "would overwrite what is read"),
    ):
        with pytest.raises(DataError, match=said):
            evaluate(words, **more)
