"""The final model: against plain calls of the trainings, chosen without test patients, resumed, and its card."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from client_builders import CPU, ON_CPU, Spy, make_vectors, make_workspace, trained, trained_workspace
from sites import make_site

import fedsteph
import fedsteph.client.training.survival_fit
from fedsteph.client.evaluation.decision import Selection
from fedsteph.client.models.members import load_members
from fedsteph.client.panel.fit_panel import PanelMembers, set_panel
from fedsteph.client.screening.verdict import Figures, Verdict
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.steph.fit import fit_steph
from fedsteph.client.target.enhance import RESULT_FILE, enhance_target
from fedsteph.client.target.final import final_choice as choosing
from fedsteph.client.target.final.final_choice import final_choice
from fedsteph.client.target.target_result import TargetResult
from fedsteph.client.target.train_alone import train_site
from fedsteph.client.training.batch import predict_hazards, risks
from fedsteph.client.training.local import train_local
from fedsteph.common.config.recipe import FinalConfig
from fedsteph.common.config.run_config import Config

TWO = ("final.members=2", "training.epochs=1")
WEIGHTS = {"steph": 0.3, "local": 0.1}
OF_PANEL = {"panel": 0.7, "panel_interval": (0.65, 0.75), "gain": 3.0, "gain_error": 2.0, "weights": WEIGHTS}
GOOD = Selection(0.0, "told so", 0.6, None, 100, (0.55, 0.65), **OF_PANEL)


def panel_wins(monkeypatch) -> None:
    monkeypatch.setattr(choosing, "over_folds", lambda selections, recipe: GOOD)


def with_members(workspace: Workspace, n: int) -> Workspace:
    return Workspace.open(workspace.site, replace(workspace.recipe, final=FinalConfig(n)))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A target whose final model is an enhanced one of two members, and another whose is local."""
    made = {}
    for kind in ("panel", "local"):
        workspace = trained_workspace(tmp_path_factory.mktemp(kind), *TWO, patients=20)
        with pytest.MonkeyPatch.context() as patch:
            chosen = GOOD if kind == "panel" else replace(GOOD, gain=-99.0)
            patch.setattr(choosing, "over_folds", lambda selections, recipe, found=chosen: found)
            patch.setattr("fedsteph.client.models.context.cohort_survival.FEWEST", 6)  # of 20 patients
            made[kind] = workspace, enhance_target(workspace, make_vectors(workspace.recipe, 2))
    return made


@pytest.mark.parametrize("kind", ["panel", "local"])
def test_each_member_is_the_training_of_all_patients_and_the_file_has_their_mean_risks(done, kind):
    workspace, result = done[kind]
    recipe, cohort, vectors = workspace.recipe, workspace.cohort, make_vectors(workspace.recipe, 2)
    plain, survival = [], []
    for m, label in enumerate(("all patients", "all patients, member 1")):
        model = train_local(cohort, recipe, label=label, run=ON_CPU)
        if kind == "panel":
            name, sources = f"all patients, member {m}", list(vectors.values())
            members = PanelMembers.of(model, vectors, frozenset(), cohort, recipe, CPU)
            model = fit_steph(cohort, model, sources, recipe, gamma=0.0, label=name, run=ON_CPU)
            set_panel(model, members, WEIGHTS, cohort, CPU)
        plain.append(risks(model, cohort, CPU))
        survival.append(np.cumprod(1 - predict_hazards(model, cohort, CPU), axis=1))
    path = workspace.site.state / result.final.path
    assert (result.final.choice, result.final.members) == (kind, 2)
    for one, expected in zip(load_members(path).models, plain, strict=True):
        np.testing.assert_allclose(risks(one.model, cohort, CPU), expected, rtol=0, atol=1e-6)
    mean = np.mean(plain, axis=0)
    np.testing.assert_allclose(load_members(path).reference, np.percentile(mean, range(101)), rtol=0, atol=1e-6)
    drawn, order = load_members(path).cohort, np.argsort(mean)
    np.testing.assert_allclose(drawn.everyone, np.mean(survival, axis=(0, 1)), atol=1e-6)
    for third, ids in zip(drawn.thirds, (order[:7], order[7:14], order[14:]), strict=True):
        np.testing.assert_allclose(third, np.mean(survival, axis=0)[ids].mean(axis=0), atol=1e-6)
    table = fedsteph.predict(path, site=workspace.site.folder).set_index("patient_id")
    ids = [patient.id for patient in cohort.patients]
    np.testing.assert_allclose(table.loc[ids, "risk"], mean, rtol=0, atol=1e-6)
    assert table["unlike"].max() == pytest.approx(1) and not np.allclose(*plain)


def test_the_result_and_the_card_say_what_it_is_and_that_it_is_untested(done):
    for kind, (workspace, result) in done.items():
        state = workspace.site.state
        assert TargetResult.read(state / RESULT_FILE) == result and result.final.path == "deployed/model.safetensors"
        card = (state / result.final.path).with_suffix(".md").read_text()
        assert "This very model has no test set" in card and "| test set of this very model | none |" in card
        low, high = result.deployed.interval_95
        assert f"{result.deployed.mean:.3f} (95% interval {low:.3f} to {high:.3f})" in card
        quality = load_members(state / result.final.path).quality
        flags = tuple(flag.name for flag in result.trust.flags)
        assert (quality.c_index, quality.interval_95, quality.flags) == (result.deployed.mean, (low, high), flags)
        assert quality.calibration_gap_3y == result.deployed.further["calibration_gap_3y"] and quality.folds == 2
        assert f"| red flags | {', '.join(flags)} |" in card
        assert "| members | 2," in card and f"| local or enhanced | {kind}: {result.final.reason} |" in card
        assert ("s000" in card.split("## Recipe")[0]) == (kind == "panel")
        assert not re.search(r"P\d{3}|DX\d", card) and str(workspace.site.folder) not in card
    enhanced, local = done["panel"][1].final, done["local"][1].final
    assert enhanced.gamma == 0.0 and enhanced.w.keys() == {"s000", "s001"} and enhanced.useful
    assert (local.gamma, local.w, local.weights) == (None, {}, {"s000": 1.0, "s001": 1.0})


def test_nothing_is_trained_twice_and_more_members_are_added_to_those_there(monkeypatch, done):
    workspace, result = done["panel"]
    panel_wins(monkeypatch)
    fits, vectors = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit"), make_vectors(workspace.recipe, 2)
    assert enhance_target(with_members(workspace, 2), vectors) == result and trained(fits) == [0, 0]
    three = enhance_target(with_members(workspace, 3), vectors)
    assert three.final.members == 3 and trained(fits) == [1, 1]
    member = next(workspace.folder.glob("merge-*/final-*/member_1/steph.safetensors"))
    member.unlink()
    path = workspace.site.state / result.final.path
    assert enhance_target(with_members(workspace, 2), vectors) == result and trained(fits) == [0, 1]
    train_site(workspace.site, Config(**vars(workspace.recipe)))
    assert trained(fits) == [0, 0]  # train's model of all patients is the first member's own
    assert enhance_target(with_members(workspace, 0), vectors).final is None and not path.exists()
    assert trained(fits) == [0, 0] and not path.with_suffix(".md").exists()
    assert enhance_target(with_members(workspace, 2), vectors) == result and path.exists()


def test_a_member_that_collapsed_leaves_the_local_model(monkeypatch, tmp_path):
    panel_wins(monkeypatch)
    monkeypatch.setattr("fedsteph.client.target.final.final_model.collapsed", lambda *_: True)
    workspace = trained_workspace(tmp_path, "final.members=1", "training.epochs=1", patients=12)
    final = enhance_target(workspace, make_vectors(workspace.recipe, 1)).final
    assert final.choice == "local" and "collapsed" in final.reason
    assert load_members(workspace.site.state / final.path).models[0].sources == ()


def test_outcomes_of_test_patients_do_not_choose(tmp_path):
    """With one fold, its test patients are in no training part and in no inner fold."""
    chosen = []
    for name in ("plain", "permuted"):
        folder = make_site(tmp_path / name, patients=60, folds=1)
        table, split = pd.read_csv(folder / "labels.csv"), pd.read_csv(folder / "splits_0.csv")
        if name == "permuted":
            patients = table.groupby("patient_id")[["t", "e"]].first()
            test = split["test"].dropna().tolist()
            patients.loc[test] = patients.loc[test[::-1]].to_numpy()
            table[["t", "e"]] = patients.loc[table["patient_id"]].to_numpy()
            table["e"] = table["e"].astype(int)
            table.to_csv(folder / "labels.csv", index=False)
        recipe = make_workspace(tmp_path / "other", "evaluation.folds=1", "training.epochs=1").recipe
        workspace = Workspace.open(Site.open(folder, state=tmp_path / f"{name}-state", device="cpu"), recipe)
        workspace.train_every_fold()
        result = enhance_target(workspace, make_vectors(recipe, 2))
        chosen.append((result.final, result.deployed.c_index))
    assert chosen[0][0].choice == chosen[1][0].choice and chosen[0][0].reason == chosen[1][0].reason
    assert chosen[0][0].weights == chosen[1][0].weights and chosen[0][1] != chosen[1][1]
    assert "nats of log partial likelihood" in chosen[0][0].reason


def test_the_screening_of_most_folds_decides_on_a_source(done):
    vectors = make_vectors(done["local"][0].recipe, 3)

    def fold(*weights: float):
        figures = Figures(1.0, 1.0, 0.0)
        verdicts = {f"s00{k}": Verdict(w != 1, w, "told so", figures) for k, w in enumerate(weights)}
        return type("Fold", (), {"verdicts": verdicts, "selection": GOOD})

    recipe = done["local"][0].recipe
    found = final_choice([fold(1, 0.25, 0), fold(1, 0.2, 0), fold(0, 1, 1)], vectors, recipe)
    assert found.weights == {"s000": 1, "s001": 0.25, "s002": 0} and [*found.vectors] == ["s000", "s001"]
    assert torch.equal(found.vectors["s001"].flat(), 0.25 * vectors["s001"].flat())
    assert found.vectors["s000"] is vectors["s000"] and found.decision(-1.0).method == "panel"
    even = final_choice([fold(0, 0, 0), fold(1, 1, 1)], vectors, recipe)
    decided = even.decision(-1.0)
    assert not even.vectors and decided.method == "local" and "left out every source" in decided.reason
