"""The bounds of merging in a world of kinds, in a whole run of few patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from reports import fedsteph
from sites import TINY

from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.run_config import load_config
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.model.concordance import c_index
from fedsteph.simulations.run.merging_bounds import Fold, routed
from fedsteph.simulations.run.run_page import simulated_sites
from fedsteph.simulations.worlds.all_worlds import WORLDS

SETTINGS = [word for setting in (*TINY, "federation.targets=[target]") for word in ("--set", setting)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the world ``kinds`` with few patients."""
    out = tmp_path_factory.mktemp("kinds") / "run"
    kinds = WORLDS["kinds"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORLDS, "kinds", replace(kinds, sites=tuple(replace(s, n_patients=30) for s in kinds.sites)))
        words = ("--world", "kinds", "--out", out, "--engine", "in-process", "--no-report")
        assert fedsteph("simulate", *words, *SETTINGS) == 0
    return out


def rows(run):
    return read_json(run / "results.json")["targets"]["target"]["methods"]


def test_the_table_has_static_merges_trainable_w_steph_and_the_bounds(run):
    assert {"local", "steph", "steph_param_w", "best_static_merge", "oracle_routing", "oracle"} <= set(rows(run))
    summary = (run / "summary.md").read_text()
    assert all(f"| {title} |" in summary for title in ("STEPH, trainable w", "best static merge", "oracle routing"))


def test_no_static_merge_that_the_search_begins_with_is_better_than_the_best(run):
    found = rows(run)
    c = {name: np.mean(row["c_index"]) for name, row in found.items()}
    assert c["best_static_merge"] >= c["local"] and c["best_static_merge"] >= c["model_average"]


def test_oracle_routing_merges_the_sources_of_each_patient_s_kind(run):
    config = load_config(run / "config.yaml")
    site = simulated_sites(run, config)["target"]
    workspace = Workspace.open(site, config.recipe)
    files, test = TargetFiles.open(site.state), workspace.test_part(0)
    kind = pd.read_csv(site.folder / "true_risk.csv").set_index("patient_id")["kind"]
    kinds = [kind[one.id] for one in test.patients]
    fold = Fold.of(files, 0, test)
    kind_of = {name: name.partition("-")[0] for name in fold.sources}
    risk = routed(fold, kinds, kind_of, config.steph)
    loaded, _ = files.enhanced(0)
    for i, own in enumerate(kinds):
        m, lam = config.steph.start_mass, config.steph.start_lam
        right = [k for k, name in enumerate(fold.sources) if kind_of[name] == own]
        merged = loaded.local.model
        theta = fold.mixture.theta_0 + m * lam * fold.mixture.stack[0]
        for k in right:
            theta = theta + m * (1 - lam) / len(right) * fold.mixture.stack[1 + k]
        start = 0
        state = dict(merged.state_dict())
        for name, tensor in merged.encoder_state().items():
            state[name] = theta[start : start + tensor.numel()].reshape(tensor.shape)
            start += tensor.numel()
        plain = type(merged)(merged.architecture)
        plain.load_state_dict(state)
        hazards = plain.eval()(test.bag(i).unsqueeze(0))[0].double()
        assert risk[i] == pytest.approx(-float((1 - hazards).cumprod(0).sum()), abs=1e-5)
    told = rows(run)["oracle_routing"]["c_index"][0]
    assert told == pytest.approx(c_index(risk, test.times, test.events))
