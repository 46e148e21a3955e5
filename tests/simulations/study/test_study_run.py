"""Whole studies: the same numbers from any number of workers, after any kill, and from the federation itself."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from endings import has_ended
from foreign import imported, plant
from sksurv.metrics import concordance_index_censored
from studies import (
    RECIPE,
    ROOT,
    STUDY,
    hazards_of,
    in_this_process,
    kept_hazards,
    make_sites,
    patients_of,
    prepared,
    run_here,
    unpriced,
    write_study,
)

from fedsteph.__main__ import main
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.config.run_config import load_config
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.survival import risk_score
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.run.run_folder import prepare
from fedsteph.simulations.run.simulate import run as run_federation
from fedsteph.simulations.study import study_crew, work
from fedsteph.simulations.study.work import Worker

N_COMBINATIONS = 2 * len(STUDY["seeds"]) * len(STUDY["targets"])  # 2 folds


def small(path: Path, **changes) -> Path:
    """A study of one target."""
    return write_study(path, **{"targets": ["alpha"], "against": None, "variants": None} | changes)


def row_of(cell: dict) -> tuple:
    return cell["row"], cell["target"], cell["seed"], cell["fold"]


def by_place(results: dict) -> dict[tuple, dict]:
    return {row_of(cell): cell for cell in unpriced(results)["cells"]}


def test_a_whole_study_has_every_row_and_every_cell(whole):
    assert whole.results["schema"] == "fedsteph/benchmark/v1"
    assert whole.results["failures"] == []
    names = [*STUDY["methods"], *STUDY["variants"]]
    assert list(whole.results["rows"]) == list(whole.results["overall"]) == names
    assert all(about["complete"] for about in whole.results["rows"].values())
    places = Counter(row_of(cell) for cell in whole.results["cells"])
    assert set(places.values()) == {1} and len(places) == len(names) * N_COMBINATIONS
    sizes = {name: (about["n_patients"], about["n_events"]) for name, about in whole.results["targets"].items()}
    assert sizes == {"alpha": (24, 12), "beta": (26, 13)}
    assert (whole.out / "failures.log").read_text() == ""
    assert {"torch", "flwr", "numpy", "python", "fedsteph"} == {*whole.results["versions"]}


def test_rows_are_different_models(whole):
    """Rows that should differ do, so that the comparisons of these tests mean something."""
    risks = {name: [] for name in whole.results["rows"]}
    plan = prepared(whole.study, whole.sites, whole.out)
    worker = Worker(plan.worker.ground)
    for cell in plan.plan.cells:
        if cell.unit.method != "deployed":
            risks[cell.row].append(hazards_of(cell, worker).tobytes())
    del risks["deployed"]
    assert len({tuple(values) for values in risks.values()}) == len(risks)
    for row, values in risks.items():
        assert len({*values}) == N_COMBINATIONS, row


def test_scores_are_scikit_survival_s_on_the_kept_hazards(whole):
    plan = prepared(whole.study, whole.sites, whole.out)
    worker, scores = Worker(plan.worker.ground), {row_of(cell): cell["c_index"] for cell in whole.results["cells"]}
    for cell in plan.plan.cells:
        if cell.unit.method != "deployed":
            hazards, test = hazards_of(cell, worker), patients_of(whole.sites / cell.target, cell.fold)
            assert hazards.shape == (len(test), 8) and ((hazards > 0) & (hazards < 1)).all()
            risk = -np.cumprod(1 - hazards, axis=1).sum(axis=1)
            expected = concordance_index_censored(test["e"] == 1, test["t"], risk)[0]
            assert scores[cell.row, cell.target, cell.seed, cell.fold] == pytest.approx(expected, abs=1e-12)


def test_a_deployed_row_shows_what_inner_validation_chose(whole):
    """Of the panel, which has no row of its own here, what its unit kept."""
    plan, scores, shown = prepared(whole.study, whole.sites, whole.out), by_place(whole.results), Counter()
    worker = Worker(plan.worker.ground)
    units = {(one.row, one.target, one.seed, one.fold): one.unit for one in plan.plan.cells}
    for (row, *place), cell in scores.items():
        if row == "deployed":
            assert cell["shown"] in ("panel", "local")
            panel = worker.read(replace(units[row, *place], method="panel"))
            chosen = panel if cell["shown"] == "panel" else scores["local", *place]
            for key in ("c_index", "metrics"):
                assert cell[key] == chosen[key]
            shown[cell["shown"]] += 1
        else:
            assert cell["shown"] == whole.results["rows"][row]["method"]
    assert sum(shown.values()) == N_COMBINATIONS


def test_costs_stand_beside_every_row(whole):
    for row, about in whole.results["overall"].items():
        costs, method = about["costs"], whole.results["rows"][row]["method"]
        assert (costs["learnable"] == 0) == (method in ("half_average", "task_arithmetic")), row
        assert costs["gigaflops"] > 0 and costs["seconds"] > 0 and costs["peak_bytes"] > 2**20, row
    sent = {row: about["costs"]["network_bytes"] for row, about in whole.results["overall"].items()}
    assert (sent["local"], sent["pooled"]) == (0, None)
    assert sent["steph"] == sent["half_average"] == 2 * sent["1 source"] > 0
    # 3 sites, 2 rounds: up twice and down once, and once down to the target; 169 numbers of 4 bytes.
    n_numbers = (6 * 8 + 8) + 2 * (8 * 6 + 6) + (6 + 1)
    assert sent["fedavg"] == (3 * 3 + 1) * 4 * n_numbers


def require_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Bit by bit."""
    assert found.keys() == expected.keys() and len(found) > 0
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].tobytes() == values.tobytes(), name


def struck(words: list[object], strike: Callable[[BaseProcess], None], capfd) -> tuple[int, str]:
    """``fedsteph`` in this process, its workers in theirs; after three units something happens to them.

    Gives the exit code and the last line, after looking that no worker is left.
    """
    done, workers = [], []

    class Struck(study_crew.Crew):
        def run_stage(self, units, on_done):
            def then(unit):
                on_done(unit)
                done.append(unit)
                if len(done) == 3:
                    workers.extend(multiprocessing.active_children())
                    strike(workers[0])

            return super().run_stage(units, then)

    handlers = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("fedsteph.simulations.study.run_study.Crew", Struck)
        patch.setattr(sys, "argv", ["fedsteph", *map(str, words)])
        main()
    for sign, handler in handlers.items():
        signal.signal(sign, handler)
    assert len(workers) == 1 and has_ended(workers[0].pid)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return ended.value.code, said.strip().splitlines()[-1]


def kill_among_the_cells(words: list[object], out: Path) -> str:
    """``fedsteph`` as a process beside files that have the names of its folders, killed after the first cell.

    Gives what it and its two workers said, after looking that they have ended too.
    """
    folder = plant(out.with_name("foreign"))
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", "from fedsteph.__main__ import main; main()", *map(str, words)]
    with out.with_name("log").open("w+") as log:
        with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=log) as process:
            try:
                deadline = time.monotonic() + 240
                while not list(out.glob("cells/*/*.npz")):
                    assert process.poll() is None, "the study ended before it could be stopped"
                    assert time.monotonic() < deadline, "the study does not get on"
                    time.sleep(0.02)
                children = psutil.Process(process.pid).children(recursive=True)
                assert process.poll() is None
            finally:
                process.kill()
            assert process.wait(60) == -signal.SIGKILL
        assert len(children) > 2, "two workers, and what Python tracks their resources with"
        for child in children:
            assert has_ended(child.pid), child
        assert imported(folder) == []
        log.seek(0)
        return log.read()


def test_a_study_stopped_in_every_way_goes_on_to_the_results_of_an_uninterrupted_one(whole, tmp_path, capfd):
    """SIGTERM, and a worker killed; then the main process, among the cells. Two workers, one, and none agree."""
    out = tmp_path / "out"
    words = ["benchmark", whole.study, "--sites", whole.sites, "--out", out, "--no-report", "--workers"]
    code, last = struck([*words, 1], lambda worker: os.kill(os.getpid(), signal.SIGTERM), capfd)
    assert code == 130 and "the same command goes on" in last
    code, last = struck([*words, 1], lambda worker: worker.kill(), capfd)
    assert code == 2 and "worker process was killed" in last
    said = kill_among_the_cells([*words, 2], out)
    assert "trainings by 2 processes" in said
    assert "Traceback" not in said and "aggregate_train" not in said, "Flower talks, once a round and worker"
    done = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.json")}  # whole ones: each was renamed
    assert not (out / "results.json").exists()
    assert 0 < len(list(out.glob("cells/*/*.npz"))) < len(kept_hazards(whole.out))
    with in_this_process() as units:
        assert unpriced(run_here(whole.study, whole.sites, out)) == unpriced(whole.results)
        assert len(units) > 0
        require_equal(kept_hazards(out), kept_hazards(whole.out))
        assert {path: path.stat().st_mtime_ns for path in done} == done, "what was done is not done again"
        units.clear()
        assert unpriced(run_here(whole.study, whole.sites, out)) == unpriced(whole.results)
    assert units == [], "a finished study is done at once"


def test_a_row_that_is_added_later_is_all_that_is_trained(whole, tmp_path, units_done):
    out = shutil.copytree(whole.out, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*")}
    more = STUDY["variants"] | {"sharp": {"method": "ties", "recipe": {"comparators": {"density": 0.5}}}}
    study = write_study(tmp_path / "study.yaml", variants=more)
    results = run_here(study, whole.sites, out)
    assert Counter((u.kind, u.method) for u in units_done) == {("cell", "ties"): N_COMBINATIONS}
    after = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*")}
    assert before.items() < after.items() and len(after) == len(before) + 2 * N_COMBINATIONS
    old, new = by_place(whole.results), by_place(results)
    assert {place: new[place] for place in old} == old
    assert {place[0] for place in new.keys() - old.keys()} == {"sharp"}
    # The other rows' intervals do not depend on what they stand beside.
    for row, about in whole.results["overall"].items():
        assert results["overall"][row]["interval_95"] == about["interval_95"]
        assert results["overall"][row]["against"] == about["against"]


def test_a_row_that_shares_in_half_the_bytes_merges_rounded_vectors_of_the_same_base_models(
    study_sites, tmp_path, units_done
):
    """Otherwise a study would say what no federation under this recipe gives."""
    study = small(
        tmp_path / "study.yaml",
        methods=["local", "half_average"],
        variants={"half bytes": {"method": "half_average", "recipe": {"sharing": {"dtype": "bfloat16"}}}},
    )
    results = run_here(study, study_sites, tmp_path / "out")
    assert Counter(u.kind for u in units_done) == {"base": 4, "cell": 6}  # alpha's two folds, fold 0 of the others
    costs = {row: results["overall"][row]["costs"]["network_bytes"] for row in ("half_average", "half bytes")}
    recipe = next(u.recipe for u in units_done if u.method == "half_average" and u.recipe.sharing.dtype == "bfloat16")
    n_numbers = sum(math.prod(shape) for shape in Architecture.of(recipe.model).encoder_shapes.values())
    assert costs["half_average"] - costs["half bytes"] == 2 * 2 * 2 * n_numbers
    plan = prepared(study, study_sites, tmp_path / "out")
    worker = Worker(plan.worker.ground)
    for cell in plan.plan.cells:
        if cell.row != "half bytes":
            continue
        m0, unit = pinned_model(cell.unit.recipe.model), cell.unit
        own = TaskVector.between(worker.workspace("alpha", unit.recipe).local_model(unit.fold), m0)
        sent = [
            TaskVector.between(worker.workspace(name, unit.recipe).local_model(0), m0).flat().bfloat16().float()
            for name in ("beta", "gamma")
        ]
        merged = TaskVector.of_flat(0.5 * own.flat() + 0.25 * (sent[0] + sent[1]), own)
        workspace = worker.workspace("alpha", unit.recipe)
        model = merged.applied_to(m0, workspace.local_model(unit.fold).head_state())
        hazards = predict_hazards(model, workspace.test_part(unit.fold), torch.device("cpu"))
        np.testing.assert_allclose(hazards_of(cell, worker), hazards, atol=1e-6)


def test_a_seed_that_is_added_later_leaves_the_first_one_s_cells_alone(whole, tmp_path, units_done):
    out = shutil.copytree(whole.out, tmp_path / "out")
    results = run_here(small(tmp_path / "b.yaml", methods=["local", "half_average"], seeds=[0, 5]), whole.sites, out)
    assert {u.recipe.training.seed for u in units_done} == {5}
    assert {cell["seed"] for cell in results["cells"]} == {0, 5}


def test_changed_labels_never_meet_old_results(tmp_path, units_done):
    """Of a source, and of the target: other results, inner choices included, and those of a new folder."""
    sites = make_sites(tmp_path / "sites", alpha=60)  # so many that an inner C tells other vectors apart
    recipe = RECIPE | {
        "training": RECIPE["training"] | {"epochs": 4, "lr": 0.05},
        "steph": RECIPE["steph"] | {"output": "softplus"},
        "comparators": {"rounds": 1},
        "evaluation": {"folds": 1},
    }
    study = small(tmp_path / "study.yaml", methods=["local", "steph", "deployed", "fedavg"], recipe=recipe)
    found = run_here(study, sites, tmp_path / "old")
    for site in ("beta", "alpha"):
        before, chosen = by_place(found), choices(tmp_path / "old")
        table = pd.read_csv(sites / site / "labels.csv")
        table["t"] = table.groupby("patient_id")["t"].transform("first").max() + 1 - table["t"]
        table.to_csv(sites / site / "labels.csv", index=False)
        found = run_here(study, sites, tmp_path / "old")
        assert choices(tmp_path / "old") - chosen, "the change does not reach the inner validation"
        for place, cell in by_place(found).items():
            if site == "alpha" or place[0] not in ("local", "deployed"):
                assert cell["metrics"] != before[place]["metrics"], place
    assert unpriced(run_here(study, sites, tmp_path / "new")) == unpriced(found)
    old, new = kept_hazards(tmp_path / "old"), kept_hazards(tmp_path / "new")
    require_equal({name: old[name] for name in new}, new)
    assert choices(tmp_path / "new") <= choices(tmp_path / "old")


def choices(out: Path) -> set[str]:
    """What inner validation found."""
    found = [json.loads(path.read_text()) for path in out.glob("cells/*/*.json")]
    return {json.dumps(one["selection"]) for one in found if "selection" in one}


def test_what_cannot_be_trained_is_listed_and_tried_again_and_everything_else_is_there(tmp_path, cli, units_done):
    """A NaN in a test patient of gamma's first fold: only who trains on gamma's second fold meets it."""
    sites = make_sites(tmp_path / "sites")
    with h5py.File(sites / "gamma" / "features" / "P006-DX1.h5", "r+") as file:
        file["features"][0, 0] = np.nan
    out, methods = tmp_path / "out", ["local", "half_average", "fedavg", "pooled"]
    study = small(tmp_path / "study.yaml", methods=methods, against=["local", "fedavg"])
    code, shown, _ = cli("benchmark", study, "--sites", sites, "--out", out, "--no-report")
    assert code == 2
    results = read_json(out / "results.json")
    assert [row for row, about in results["rows"].items() if not about["complete"]] == ["fedavg", "pooled"]
    compared = {row: list(about["against"]) for row, about in results["overall"].items()}
    assert compared == {"local": [], "half_average": ["local"]}
    done = {row_of(cell)[0::3] for cell in results["cells"]}
    assert done == {(row, k) for row in methods for k in (0, 1)} - {("fedavg", 1), ("pooled", 1)}
    failed = {(one["what"], one["fold"], one["seed"]) for one in results["failures"]}
    assert failed == {(f"{who}: {row}", 1, 0) for who in ("all sites", "alpha") for row in ("fedavg", "pooled")}
    reasons = [one["reason"] for one in results["failures"] if one["what"].startswith("all sites")]
    assert len(reasons) == 2 and all("P006-DX1.h5" in reason for reason in reasons)
    for text in (shown, (out / "results.md").read_text()):
        assert "FAILED: all sites: pooled, seed 0, fold 1: " in text
        assert "pooled, fine-tuned is left out" in text
    assert (out / "failures.log").read_text() == ""  # for bugs
    assert {*pd.read_csv(out / "results.csv")["row"]} == {"local", "half_average"}
    units_done.clear()
    assert len(run_here(study, sites, out)["failures"]) == 4
    again = Counter((u.kind, u.method, u.fold) for u in units_done)
    assert again == Counter((kind, row, 1) for kind in ("together", "cell") for row in ("fedavg", "pooled"))
    with h5py.File(sites / "gamma" / "features" / "P006-DX1.h5", "r+") as file:
        file["features"][0, 0] = 0.0
    results = run_here(study, sites, out)
    assert results["failures"] == [] and list(results["overall"]) == methods


def test_a_bug_in_a_method_costs_its_row_and_leaves_its_traceback(study_sites, tmp_path, units_done, cli):
    """And a study whose every row fails still says why."""

    def broken(task, progress):
        raise ZeroDivisionError("by a test")

    out = tmp_path / "out"
    for bad, methods, rows in (("local", ["local"], []), ("half_average", ["local", "half_average"], ["local"])):
        study = small(tmp_path / "study.yaml", methods=methods)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(work._METHODS, bad, broken)
            code, _, _ = cli("benchmark", study, "--sites", study_sites, "--out", out, "--no-report")
        results = read_json(out / "results.json")
        assert code == 2 and list(results["overall"]) == rows
        assert {cell["row"] for cell in results["cells"]} == {*rows}
        assert [one["reason"] for one in results["failures"]] == ["a bug: ZeroDivisionError: by a test"] * 2
        assert f"FAILED: alpha: {bad}" in (out / "results.md").read_text().replace("half average", "half_average")
        log = (out / "failures.log").read_text()
        assert log.count("Traceback") == 2 and "in broken" in log


def test_a_target_too_small_for_inner_folds_deploys_its_local_model(tmp_path, units_done):
    sites = make_sites(tmp_path / "sites")
    for k, (train, test) in enumerate([(["P001"], ["P002", "P013"]), (["P002"], ["P001", "P014"])]):
        parts = {"train": pd.Series(train), "test": pd.Series(test)}
        pd.DataFrame(parts).to_csv(sites / "alpha" / f"splits_{k}.csv")
    methods = ["local", "task_arithmetic", "steph", "deployed"]
    results = run_here(small(tmp_path / "study.yaml", methods=methods), sites, tmp_path / "out")
    assert results["failures"] == []
    assert {cell["shown"] for cell in results["cells"] if cell["row"] == "deployed"} == {"local"}
    assert all(about["complete"] for about in results["rows"].values())


def test_of_several_seeds_the_mean_risk_is_scored_too(study_sites, tmp_path, units_done):
    study, out = small(tmp_path / "study.yaml", methods=["local", "half_average"], seeds=[0, 1, 2]), tmp_path / "out"
    results = run_here(study, study_sites, out)
    plan, expected = prepared(study, study_sites, out), {}
    for row in ("local", "half_average"):
        of_folds = []
        for fold in (0, 1):
            test, total = patients_of(study_sites / "alpha", fold), 0.0
            for cell in plan.plan.cells:
                if (cell.row, cell.fold) == (row, fold):
                    risk = -np.cumprod(1 - hazards_of(cell, plan.worker), axis=1).sum(axis=1)
                    total = total + (risk - risk.mean()) / risk.std()
            of_folds.append(concordance_index_censored(test["e"] == 1, test["t"], total)[0])
        expected[row] = np.mean(of_folds)
    table, text = pd.read_csv(out / "results.csv").set_index(["row", "target"]), (out / "results.md").read_text()
    for row, mean in expected.items():
        joined = results["targets"]["alpha"]["rows"][row]["together"]
        assert joined["mean"] == pytest.approx(mean, abs=1e-12) == results["overall"][row]["together"]["mean"]
        assert table.loc[(row, "alpha"), "together"] == table.loc[(row, "mean"), "together"] == pytest.approx(mean)
        assert joined["mean"] != results["targets"]["alpha"]["rows"][row]["mean"]
    gap = results["overall"]["half_average"]["against"]["local"]["together"]
    assert gap["difference"] == pytest.approx(expected["half_average"] - expected["local"], abs=1e-12)
    found = table.loc[("half_average", "mean"), ["together_difference", "together_low", "together_high"]]
    assert [*found] == pytest.approx([gap["difference"], *gap["interval_95"]])
    low, high = gap["interval_95"]
    assert text.count("| together |") == 2 and f"| {gap['difference']:+.3f} ({low:+.3f} to {high:+.3f}) |" in text


def stood_in(results: dict) -> set[tuple[str, str]]:
    """Rows and targets where the local model stands in."""
    return {(cell["row"], cell["target"]) for cell in results["cells"] if "local_because" in cell["notes"]}


def test_a_row_takes_sources_of_one_cancer_and_is_local_where_there_is_none(study_sites, tmp_path, units_done):
    """alpha's and beta's tables name one project; gamma's site file states another cancer."""
    sites, out = tmp_path / "sites", tmp_path / "out"
    shutil.copytree(study_sites, sites)
    for table in sites.glob("*/labels.csv"):
        table.write_text(re.sub(r"TEST \d", "TEST", table.read_text()))
    (sites / "gamma" / "site.yaml").write_text("cancer: brca\n")
    variants = {
        "same": {"method": "half_average", "among": "same_cancer"},
        "others": {"method": "half_average", "among": "other_cancers"},
    }
    names = ["alpha", "gamma"]
    study = small(tmp_path / "study.yaml", targets=names, methods=["local", "half_average"], variants=variants)
    results = run_here(study, sites, out)
    briers = {(c["target"], c["row"]): c["metrics"]["brier"] for c in results["cells"] if c["fold"] == 0}
    assert briers["gamma", "same"] == briers["gamma", "local"]
    assert briers["gamma", "others"] == briers["gamma", "half_average"]
    assert len({briers["alpha", row] for row in ("local", "same", "others", "half_average")}) == 4
    assert stood_in(results) == {("same", "gamma")}
    assert "- same is the local model on gamma: no source is left." in (out / "results.md").read_text()
    sent = {row: about["costs"]["network_bytes"] for row, about in results["overall"].items()}
    assert sent["half_average"] == 2 * sent["same"] == sent["others"]  # gamma's others are two
    units_done.clear()
    (sites / "gamma" / "site.yaml").write_text("cancer: test\n")
    assert stood_in(run_here(study, sites, out)) == {("others", "alpha"), ("others", "gamma")}
    assert {(u.kind, u.site) for u in units_done} == {("cell", "alpha"), ("cell", "gamma")}  # made anew: heads travel


def test_scores_are_the_federation_s_own(whole, tmp_path):
    """The same recipe at the same seed through messages, envelopes and rounds: the same models."""
    compared = ("half_average", "task_arithmetic", "fedavg")
    settings = ["preset=null", "federation.targets=[alpha]", f"comparators.methods=[{','.join(compared)}]"]
    for section in ("model", "training", "steph", "comparators", "evaluation"):
        settings += [f"{section}.{key}={json.dumps(value)}" for key, value in RECIPE[section].items()]
    folders = [whole.sites / name for name in ("alpha", "beta", "gamma")]
    folder, _ = prepare(tmp_path / "run", load_config(None, settings), folders)
    with contextlib.redirect_stderr(None):
        federation = run_federation(folder, "in-process").to_dict()["targets"]["alpha"]["methods"]
    plan = prepared(whole.study, whole.sites, whole.out)
    worker = Worker(plan.worker.ground)
    studied = by_place(whole.results)
    for cell in plan.plan.cells:
        if (cell.target, cell.seed) == ("alpha", 0) and cell.row in federation:
            score = studied[cell.row, "alpha", 0, cell.fold]
            where = f"{cell.row}, fold {cell.fold}"
            assert score["c_index"] == pytest.approx(federation[cell.row]["c_index"][cell.fold], abs=1e-6), where
            if cell.row == "deployed":
                assert score["shown"] == federation["deployed"]["choice"][cell.fold]
                continue
            if cell.row == "steph":
                assert score["notes"]["gamma"] == federation["steph"]["gamma"][cell.fold]
            (kept,) = tmp_path.glob(f"run/sites/alpha/*/merge-*/fold_{cell.fold}/predictions.csv")
            risk = risk_score(torch.from_numpy(hazards_of(cell, worker))).numpy()
            np.testing.assert_allclose(pd.read_csv(kept)[f"risk_{cell.row}"], risk, atol=1e-6, err_msg=where)
            assert score["learnable"] == federation[cell.row]["learnable"]
    assert {*federation} == {"local", "steph", "panel", "deployed", *compared}
