"""What the slide adds to clinical values: rows by hand, a whole merge with its file and predictions, and what stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from client_builders import make_recipe, make_vectors, plain_c
from sites import CLINICAL, add_clinical, make_site

import fedsteph
from fedsteph.client.clinical.clinical_result import ClinicalResult
from fedsteph.client.clinical.encoding import Encoding
from fedsteph.client.clinical.ridge_cox import RidgeCox
from fedsteph.client.evaluation.decision import Decision, Selection
from fedsteph.client.evaluation.external import evaluate
from fedsteph.client.report.clinical.clinical_section import clinical_section
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.enhance import RESULT_FILE, enhance_target
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.results import public_view
from fedsteph.client.target.slide_added import slide_added
from fedsteph.client.target.target_result import FINAL, TargetResult
from fedsteph.common.config.digest import to_dict
from fedsteph.common.errors import DataError, ModelFileError
from fedsteph.common.report.page import Picture


def clinical_workspace(folder: Path, patients: int = 48, **site: object) -> Workspace:
    made = make_site(folder / "site", patients=patients, **site)
    add_clinical(made)
    return Workspace.open(Site.open(made, device="cpu"), make_recipe("training.epochs=1", "steph.gamma=0.0"))


def by_hand(workspace: Workspace, k: int, choice: str) -> FoldResult:
    """A fold whose slides' risks tell of the time under the panel, and of nothing under the local model."""
    rng, train, test = np.random.default_rng(k), workspace.train_part(k), workspace.test_part(k)
    of_train = {"local": rng.normal(size=len(train)), "panel": rng.normal(-np.log(train.times / 500), 0.5)}
    of_test = {"local": rng.normal(size=len(test)), "panel": rng.normal(-np.log(test.times / 500), 0.5)}
    reference = {"local": np.linspace(-1, 1, 101), "panel": np.linspace(-3, 3, 101)}
    for found in (of_train, of_test, reference):
        found["deployed"] = found[choice]
    return FoldResult(
        selection=Selection(0.0, "", None, None, 0),
        collapsed=False,
        decision=Decision(choice, "", None),
        model=Path(),
        sources={},
        times=test.times,
        events=test.events,
        risk=of_test,
        uno_weight=np.ones(len(test)),
        metrics={},
        learnable={},
        ids=tuple(patient.id for patient in test.patients),
        reference=reference,
        cross_fitted=of_train,
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Workspace, list[FoldResult], ClinicalResult]:
    workspace = clinical_workspace(tmp_path_factory.mktemp("drawn"), patients=80, event_share=0.8)
    folds = [by_hand(workspace, 0, "panel"), by_hand(workspace, 1, "local")]
    return workspace, folds, slide_added(workspace, folds)


def test_rows_are_those_of_cox_models_that_have_not_seen_the_test_patients(drawn):
    workspace, folds, found = drawn
    for k, fold in enumerate(folds):
        train = workspace.train_part(k)
        values = [workspace.cohort.clinical.of(ids) for ids in ([one.id for one in train.patients], fold.ids)]
        numbers, asked = (Encoding.of(values[0]).numbers(one) for one in values)
        alone = RidgeCox.fit(numbers, train.times, train.events).risk(asked)
        assert found.clinical.c_index[k] == plain_c(fold.times, fold.events, alone)
        for method in ("panel", "deployed")[k:]:
            percentiles = fold.reference[method]
            slide = (fold.risk[method] - percentiles.mean()) / percentiles.std()
            cox = RidgeCox.fit(np.column_stack([numbers, fold.cross_fitted[method]]), train.times, train.events)
            both = cox.risk(np.column_stack([asked, slide]))
            assert found.both[method].c_index[k] == plain_c(fold.times, fold.events, both)
    gap = found.added["panel"]
    assert gap.mean == pytest.approx(found.both["panel"].mean - found.clinical.mean)
    assert gap.interval_95[0] > 0 and gap.folds_won == 2 and gap.likelihood_ratio.p < 0.001
    assert found.added["local"].likelihood_ratio.p > 0.01
    assert found.sentence("panel", found.both).startswith("The slide adds to age, sex, stage: C-index +0.")
    assert found.columns["stage"].missing == 0.25 and found.columns["age"].missing == 0.0


def test_decision_curves_and_the_section_show_all_rows(drawn):
    _, _, found = drawn
    curve = found.curves[0]
    assert curve.year == 3 and curve.net_benefit.keys() == {"all", "none", "clinical", "both"}
    assert sum(curve.net_benefit["both"]) > sum(curve.net_benefit["all"])
    section = clinical_section("site", found, found.both, "who")
    rows = [row[0] for row in section.blocks[1].rows]
    assert rows[:3] == ["clinical", "slide: local", "both: local"] and len(rows) == 7
    (picture,) = [block for block in section.blocks if isinstance(block, Picture)]
    assert picture.figure is not None and len(picture.figure.axes) == len(found.curves)


def test_where_nothing_can_be_measured_a_sentence_says_why(drawn):
    workspace, folds, _ = drawn
    found = slide_added(workspace, [replace(fold, cross_fitted={}) for fold in folds])
    assert found.clinical is not None and found.both == {} and "too few patients for inner folds" in found.untold
    unlabelled = [replace(one, e=0) for one in workspace.cohort.patients]
    nobody = replace(workspace, cohort=replace(workspace.cohort, patients=unlabelled))
    found = slide_added(nobody, folds)
    assert found.clinical is None and "no training patient has an event" in found.sentence("panel", {})
    assert slide_added(replace(workspace, cohort=replace(workspace.cohort, clinical=None)), folds) is None


@pytest.fixture(scope="module")
def merged(tmp_path_factory) -> tuple[Workspace, TargetResult]:
    workspace = clinical_workspace(tmp_path_factory.mktemp("merged"))
    workspace.train_every_fold()
    return workspace, enhance_target(workspace, make_vectors(workspace.recipe, 1))


def test_the_result_keeps_it_and_nothing_of_it_is_public(merged):
    workspace, result = merged
    assert result.clinical.both.keys() == {"local", "steph", "panel", "deployed"}
    assert TargetResult.read(workspace.site.state / RESULT_FILE) == result
    for untold in (None, result.clinical):
        reply = public_view(replace(result, clinical=untold), {}, Policy())
        assert reply == public_view(result, {}, Policy()) and "clinical" not in json.dumps(to_dict(reply))
    text = (workspace.site.state / FINAL).with_name("clinical.json").read_text()
    card = (workspace.site.state / FINAL).with_suffix(".md").read_text()
    told = f"C-index by cross-validation {result.clinical.both[result.final.choice].mean:.3f}, with age, sex, stage |"
    assert told in card and "P0" not in text and str(workspace.site.folder) not in text


def test_a_new_patient_is_predicted_alone_and_gaps_are_told(merged, tmp_path, caplog):
    workspace, _ = merged
    model, site = workspace.site.state / FINAL, workspace.site.folder
    everybody = fedsteph.predict(model, site=site).set_index("patient_id")
    assert "'stage' is missing for 12 of 48 patients: the training patients' median is taken" in caplog.text
    table = pd.read_csv(site / "labels.csv", dtype=str).set_index("patient_id", drop=False).loc[["P001"]]
    table.to_csv(tmp_path / "one.csv", index=False)
    one = fedsteph.predict(model, site / "features", tmp_path / "one.csv", clinical=tmp_path / "one.csv").iloc[0]
    for name in ("risk_clinical", "risk_both", "survival_both_1y"):
        assert one[name] == pytest.approx(everybody.loc["P001", name], abs=1e-6)
    assert everybody["risk_both"].std() > 0 and everybody["survival_both_1y"].between(0, 1).all()
    table.assign(sex="OTHER", stage="").to_csv(tmp_path / "two.csv", index=False)
    fedsteph.predict(model, site / "features", tmp_path / "one.csv", clinical=tmp_path / "two.csv")
    assert "'sex' is a category that no training patient had for 1 of 1 patients: the most frequent" in caplog.text
    table.assign(patient_id="Z").to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(DataError, match="has none of the 48 patients in its column 'patient_id'"):
        fedsteph.predict(model, site=site, clinical=tmp_path / "none.csv")


def test_values_go_with_their_own_model_alone(merged, tmp_path, caplog):
    workspace, _ = merged
    model, site = workspace.site.state / FINAL, workspace.site.folder
    with pytest.raises(ModelFileError, match=r"there is no clinical.json beside its file"):
        fedsteph.predict(model.with_name("fold_0.safetensors").parent, site=site, clinical=site / "labels.csv")
    for name in ("model.safetensors", "clinical.json"):
        shutil.copy(model.with_name(name), tmp_path)
    shutil.copy(model.with_name("fold_0.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"clinical.json: was not made with model.safetensors"):
        fedsteph.predict(tmp_path / "model.safetensors", site=site)
    (site / "site.yaml").write_text(CLINICAL.replace("[I, II, III]", "[III, II, I]"))
    table = fedsteph.predict(model, site=site)
    (site / "site.yaml").write_text(CLINICAL)
    assert "risk_both" not in table and "is [I, II, III] to the model and [III, II, I] in the site file" in caplog.text


def test_an_external_site_with_the_same_columns_has_the_rows_too(merged, tmp_path):
    workspace, _ = merged
    other = make_site(tmp_path / "other", patients=20, seed=9)
    add_clinical(other, seed=9)
    table = pd.read_csv(other / "labels.csv", dtype=str)
    table.assign(patient_id="Q" + table["patient_id"]).to_csv(other / "labels.csv", index=False)
    for path in other.glob("splits_*"):
        path.unlink()
    found = evaluate([workspace.site.state / FINAL], site=other)
    assert list(found.scores) == ["model", "model (clinical)", "model (both)"]
    assert found.scores["model (both)"].metrics["c_index"].value is not None


def test_a_merge_without_clinical_columns_leaves_no_old_clinical_model(merged):
    workspace, result = merged
    path = (workspace.site.state / FINAL).with_name("clinical.json")
    plain = replace(workspace, cohort=replace(workspace.cohort, clinical=None))
    again = enhance_target(plain, make_vectors(workspace.recipe, 1))
    assert again == replace(result, clinical=None, cohort=again.cohort) and not path.exists()
    assert "stage" in result.cohort and "stage" not in again.cohort
