"""The pages that people look at: made by themselves, made again, from the numbers that the run found."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from reports import ALPHA, BETA, coarse_landscapes, svg_texts, visible
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator

from fedsteph.client.models.model_file import load_base
from fedsteph.client.report.risk_groups import risk_groups
from fedsteph.client.report.site_page import site_page
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.evidence import FILE, read_evidence, write_evidence
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.config.run_config import load_config
from fedsteph.common.host.checked_file import read_json, write_json
from fedsteph.common.model.survival import risk_score
from fedsteph.common.report.page import Picture, html
from fedsteph.simulations.run.run_page import simulated_sites

PICTURES = ["ranking", "c-index", "risk-groups.local", "risk-groups.panel", "calibration", "sources", "subgroups"]
OF_FOLD_0 = ["dynamics", "sar", "landscape"]


def page_of(folder: Path) -> str:
    return (folder / "index.html").read_text()


@pytest.fixture
def alone(reported, tmp_path):
    """alpha's state in a folder of its own, which a test may change; gives its site and its files."""
    sites = simulated_sites(reported.run, load_config(reported.run / "config.yaml"))
    site = sites["alpha"]
    shutil.copytree(site.state, tmp_path / "state")
    object.__setattr__(site, "state", tmp_path / "state")
    with coarse_landscapes():
        yield site


def test_a_simulation_writes_its_page_by_itself_and_every_figure_as_svg_and_png(reported):
    folder = reported.run / "report"
    names = {f"{site}.{name}" for site in ("alpha", "beta") for name in PICTURES}
    names |= {f"{site}.fold-0.{name}" for site in ("alpha", "beta") for name in OF_FOLD_0} | {"source-target"}
    found = {path.name for path in (folder / "figures").iterdir()}
    deployed = {f"{site}.risk-groups.deployed" for site in ("alpha", "beta")}  # where folds differ in their choice
    assert {f"{name}.{kind}" for name in names for kind in ("svg", "png")} <= found
    assert {Path(name).stem for name in found} - names <= deployed
    for path in (folder / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 200
    assert page_of(folder).count('<img src="data:image/svg+xml') == len(found) // 2


def test_the_page_says_the_result_plainly(reported):
    told = visible(page_of(reported.run / "report"))
    gaps = [reported.results["targets"][name]["panel_minus_local"]["mean"] for name in ("alpha", "beta")]
    mean = sum(gaps) / 2
    word = "as good as" if abs(mean) < 5e-4 else "better than" if mean > 0 else "worse than"
    assert f"The enhanced model (the panel) is {word} the local model" in told
    if abs(mean) >= 5e-4:
        assert f"by {abs(mean):.3f} of C-index in the mean over 2 targets" in told
    assert f"better on {sum(gap > 0 for gap in gaps)} of them" in told
    for name in ("alpha", "beta"):
        trust = reported.results["targets"][name]["trust"]
        sentence, _, number = trust["sentence"].partition(": ")
        said = (
            f"At {name}, t{sentence[1:]}.",
            number.partition(", Uno")[0],
            *(flag["sentence"] for flag in trust["flags"]),
        )
        for text in said:
            assert text in told


def test_every_score_of_the_results_stands_on_the_page(reported):
    page = visible(page_of(reported.run / "report"))
    for name, patients in (("alpha", ALPHA), ("beta", BETA)):
        result = reported.results["targets"][name]
        assert f"{patients} patients, {result['n_events']} events" in page
        for row in result["methods"].values():
            for value, (low, high) in zip(row["c_index"], row["fold_intervals_95"], strict=True):
                assert f"{value:.3f} ({low:.3f}-{high:.3f})" in page


def test_every_picture_names_its_data_its_n_and_its_seed(reported):
    for text in (picture_texts(path) for path in (reported.run / "report" / "figures").glob("*.svg")):
        words = " ".join(text)
        assert re.search(r"\bseed 0\b", words), words[:200]
        assert re.search(r"\bn = \d+|targets, test patients|sources", words), words[:200]


def picture_texts(path: Path) -> list[str]:
    return re.findall(r"<!--(.*?)-->", path.read_text(), re.DOTALL)


def test_what_was_shared_has_every_envelope_with_its_bytes_and_digest(reported):
    page = visible(page_of(reported.run / "report"))
    lines = [json.loads(line) for line in (reported.run / "server" / "audit" / "audit.jsonl").read_text().splitlines()]
    relayed = [line["event"] for line in lines if line["event"]["event"] == "envelope.relay"]
    assert len(relayed) == 4
    for event in relayed:
        assert event["artefact"] in page and f"{event['size']:,}" in page and event["peer"] in page
    assert "send vector to" in page and "take vector of" in page


def test_configuration_versions_seeds_and_digests_are_on_the_page(reported):
    page = visible(page_of(reported.run / "report"))
    manifest = read_json(reported.run / "manifest.json")
    for kind in ("versions", "digests", "seeds"):
        for value in manifest[kind].values():
            assert str(value) in page
    assert "bootstrap: 50" in page and "Limits" in page


def test_risk_groups_are_cut_at_the_training_patients_median_and_nobody_else_s(reported):
    """By another way: the models from their files, predictions of both parts, and a second library's curves."""
    site = simulated_sites(reported.run, load_config(reported.run / "config.yaml"))["alpha"]
    recipe = TargetFiles.open(site.state).recipe
    workspace = Workspace.open(site, recipe)
    rows = []
    for fold in range(2):
        model = load_base(workspace.local_path(fold))

        def risk(part, model=model):
            hazards = torch.from_numpy(predict_hazards(model, part, torch.device("cpu")))
            return risk_score(hazards).numpy()

        test = workspace.test_part(fold)
        above = risk(test) > np.median(risk(workspace.train_part(fold)))
        rows += [(p.id, p.t, p.e, high) for p, high in zip(test.patients, above, strict=True)]
    table = pd.DataFrame(rows, columns=["id", "t", "e", "high"])
    assert len(table) == table["id"].nunique() == ALPHA
    texts = " ".join(svg_texts(page_of(reported.run / "report")))
    for high, name in ((False, "lower risk"), (True, "higher risk")):
        part = table[table["high"] == high]
        assert f"{name} (n = {len(part)}, {part['e'].sum()} events)" in texts
    evidence = read_evidence(site.state / FILE).once
    found = risk_groups(evidence.times, evidence.events, evidence.high_risk("local"))
    outcomes = np.array(list(zip(table["e"] == 1, table["t"], strict=True)), dtype=[("e", bool), ("t", float)])
    assert found.p == pytest.approx(compare_survival(outcomes, table["high"].to_numpy())[1], rel=1e-6)
    for group, high in zip(found.groups, (False, True), strict=True):
        part = table[table["high"] == high]
        times, curve = kaplan_meier_estimator(part["e"] == 1, part["t"])
        assert group.survival[1:] == pytest.approx(curve)
        assert group.years[1:] * 365 == pytest.approx(times)


def test_one_target_s_own_page_out_of_a_run_and_json_that_names_its_files(reported):
    folder = reported.page("beta", "--target", "beta")
    found = json.loads((folder / "told.json").read_text())
    assert found["page"] == str(folder / "index.html")
    assert sorted(map(Path, found["figures"])) == sorted((folder / "figures").iterdir())
    page = visible(page_of(folder))
    assert "At beta, the enhanced model" in page and "At alpha" not in page
    assert f"Cohort: {BETA} patients" in page
    for path in found["figures"]:  # drawn again, to the last byte
        assert Path(path).read_bytes() == (reported.run / "report" / "figures" / Path(path).name).read_bytes()


def test_tensorboard_has_what_the_notes_of_the_training_have(reported):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = reported.run / "tensorboard" / "alpha"
    assert {f"local-fold-{fold}" for fold in range(2)} < {path.name for path in folder.iterdir()}
    read = event_accumulator.EventAccumulator(str(folder / "STEPH-fold-1"))
    read.Reload()
    notes = TargetFiles.open(reported.state("alpha")).dynamics(1)
    epochs = [one["epoch"] for one in notes["epochs"]]
    assert [point.step for point in read.Scalars("loss")] == epochs == [1, 2, 3]
    for i, source in enumerate(notes["sources"]):
        told = [point.value for point in read.Scalars(f"w/{source}")]
        assert told == pytest.approx([one["w"][i][2] for one in notes["epochs"]])
    assert not (reported.run / "tensorboard" / "server").exists()


# ---------------------------------------------------------------- small, empty and damaged


def pictures_of(site) -> dict[str, Picture]:
    page = site_page(site)
    assert "At alpha, the enhanced model" in html(page) or page.answer.sentence.startswith("This target")
    return {picture.name: picture for picture in page.pictures}


def changed(site, **arrays) -> dict[str, Picture]:
    """alpha's page, had its test patients been others."""
    path = site.state / FILE
    write_evidence(path, replace(read_evidence(path), **arrays))
    return pictures_of(site)


def test_patients_without_events_or_others_than_in_the_run_give_sentences_and_no_broken_figure(alone):
    """And a model that an earlier version trained."""
    for path in alone.state.rglob("dynamics.json"):
        path.unlink()
    evidence = read_evidence(alone.state / FILE)
    found = changed(alone, events=np.zeros(len(evidence), dtype=np.int64), ids=np.char.add(evidence.ids, "x"))
    for name in ("risk-groups.local", "risk-groups.panel", "calibration"):
        assert found[f"alpha.{name}"].figure is None
    assert "all are censored" in found["alpha.risk-groups.local"].instead
    assert "an earlier version trained it" in found["alpha.fold-0.dynamics"].instead
    assert "the labels or the splits have changed since the run" in found["alpha.fold-0.landscape"].instead


def test_a_patient_alone_of_a_target_whose_every_source_was_refused_has_a_page(alone):
    path = alone.state / "result.json"
    result = read_json(path)
    result["methods"]["steph"]["sources"] = [{}, {}]
    write_json(path, result | {"enhanced": [None, None]})
    evidence = read_evidence(alone.state / FILE)
    part = {key: getattr(evidence, key)[:1] for key in ("ids", "fold", "times", "events")}
    nothing = np.full_like(evidence.w[:1], np.nan)
    found = changed(
        alone, **part, w=nothing, lam=nothing, hazards={name: values[:1] for name, values in evidence.hazards.items()}
    )
    for name in ("risk-groups.local", "calibration"):
        assert found[f"alpha.{name}"].figure is None and found[f"alpha.{name}"].instead.endswith(".")
    assert found["alpha.sources"].instead.startswith("No source was merged")
    assert "refused in every fold" in found["alpha.dynamics"].instead


def test_a_target_too_small_for_any_c_index_says_so_first(alone):
    path = alone.state / "result.json"
    result = read_json(path)
    sentence = "This target is too small to evaluate: no test fold has a comparable pair of patients."
    nothing = {"c_index": [None, None], "fold_intervals_95": [None, None], "mean": None, "interval_95": None}
    for row in result["methods"].values():
        row.update(nothing)
    for key in ("steph_minus_local", "panel_minus_local", "deployed_minus_local"):
        result[key] |= {"mean": None, "interval_95": None}
    write_json(path, result | {"too_small": sentence})
    page = site_page(alone)
    assert (page.answer.state, page.answer.sentence) == ("not shown", sentence)
    assert next(page.pictures).instead.startswith("No test fold has a comparable pair")


def test_a_collapse_is_shown_where_it_happened(alone):
    path = next(alone.state.rglob("fold_0/**/dynamics.json"))
    notes = read_json(path)
    for one in notes["epochs"][1:]:
        one["largest_w"] = 0.0
    write_json(path, notes)
    result = read_json(alone.state / "result.json")
    result["methods"]["steph"]["collapsed"] = [True, True]
    write_json(alone.state / "result.json", result)
    page = site_page(alone)
    told = visible(html(page))
    said = "In fold 0 STEPH collapsed, all kept weights are near 0: they stay there from epoch 2 of training on."
    assert said in told
    assert "In fold 1 STEPH collapsed, all kept weights are near 0." in told  # by the whole model, if not by its notes
    assert {"alpha.fold-0.dynamics", "alpha.fold-1.dynamics"} <= {picture.name for picture in page.pictures}


# ---------------------------------------------------------------- what cannot be reported on


def test_what_is_no_run_no_target_and_no_result(refused, reported, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        assert "is no run, no benchmark and no site" in refused("report", folder)
    said = refused("report", reported.run, "--target", "gamma")
    assert "'gamma' is no target" in said and "alpha, beta" in said
    assert "'nobody' is no target" in refused("analyze", "sar", reported.run, "--target", "nobody")
    assert "holds no result" in refused("report", reported.sites / "gamma")
    assert "holds no result" in refused("analyze", "dynamics", reported.sites / "gamma")
    assert "is for a simulated run" in refused("report", reported.sites / "gamma", "--target", "alpha")
    assert "there is no fold 7" in refused("analyze", "dynamics", reported.run, "--fold", 7)


def test_a_run_without_results(refused, reported, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reported.run, run, ignore=shutil.ignore_patterns("results.json", "outcome.json", "sites"))
    assert "has no results yet" in refused("report", run)
    assert "has no results yet" in refused("report", run, "--shared")


@pytest.mark.parametrize("name", ["result.json", "evidence.npz", "recipe.json"])
def test_work_of_an_earlier_version_is_told_how_to_mend_it(alone, name):
    if name == "result.json":
        result = read_json(alone.state / name)
        del result["enhanced"]
        write_json(alone.state / name, result)
    else:
        (alone.state / name).unlink()
    with pytest.raises(Exception, match="earlier version") as failed:
        site_page(alone)
    assert "Run the same command again" in str(failed.value)


# ---------------------------------------------------------------- a closer look


@pytest.mark.parametrize("what", ["sar", "landscape", "dynamics"])
def test_each_analysis_is_a_command_with_pictures_and_numbers(reported, tmp_path, cli, what):
    words = ["--grid", 4] if what == "landscape" else []
    code, out, _ = cli(
        "analyze", what, reported.run, "--target", "beta", "--fold", 1, "--out", tmp_path, *words, "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert [Path(path).name for path in found["files"]] == [
        f"beta.fold-1.{what}.{kind}" for kind in ("svg", "png", "csv")
    ]
    table = pd.read_csv(tmp_path / f"beta.fold-1.{what}.csv", dtype=str, keep_default_na=False)
    assert table.to_dict("records") == found["rows"]
    if what == "landscape":
        assert len(table) == 16
    if what == "sar":
        at_1 = table[table["lam"] == "1"]
        assert (at_1["SAR"].astype(float) > 0.97).all()  # the target's own directions hold 95% of its energy
        assert "95% of the mixture's energy" in found["note"]
    assert "beta, fold 1, seed 0" in " ".join(picture_texts(tmp_path / f"beta.fold-1.{what}.svg"))


def test_by_default_an_analysis_lies_with_its_target(reported, cli):
    code, out, _ = cli("analyze", "dynamics", reported.run)
    assert code == 0
    assert (reported.state("alpha") / "analysis" / "alpha.fold-0.dynamics.svg").is_file()
    assert "alpha.fold-0.dynamics.csv" in out
