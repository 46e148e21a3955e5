"""Every comparator, the local model and STEPH on two real cohorts, through the real server and clients."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from fedsteph.common.config.method_names import COMPARATORS
from fedsteph.common.config.run_config import load_config
from fedsteph.common.host.checked_file import read_json
from fedsteph.simulations.run.run_folder import prepare
from fedsteph.simulations.run.simulate import run

EXPORT = Path(__file__).resolve().parents[4] / "shared" / "data" / "export.py"


@pytest.mark.cohorts
@pytest.mark.skipif(not EXPORT.is_file(), reason="the real cohorts are not beside this checkout")
def test_every_comparator_on_real_cohorts(tmp_path):
    """KIRP's vector at SKCM: 64-wide bags, one fold, two inner ones, two rounds of averaging."""
    words = ["--cohorts", "skcm,kirp", "--width", "64", "--out", tmp_path / "sites"]
    subprocess.run([sys.executable, EXPORT, *words], check=True, capture_output=True)
    settings = [
        "model.embed=16",
        "model.attention=12",
        "training.epochs=1",
        "training.min_steps=12",
        "training.lr=0.01",
        "steph.inner_folds=2",
        "steph.gamma=0",
        "steph.epochs=1",
        "evaluation.folds=1",
        "evaluation.bootstrap=20",
        "final.members=1",
        "comparators.rounds=2",
        f"comparators.methods=[{','.join(COMPARATORS)}]",
        "federation.targets=[skcm]",
    ]
    config = load_config(None, settings)
    folder, _ = prepare(tmp_path / "run", config, [tmp_path / "sites" / name for name in ("skcm", "kirp")])
    run(folder, "in-process")
    results = read_json(tmp_path / "run" / "results.json")
    assert results["failures"] == []
    target = results["targets"]["skcm"]
    assert (target["n_patients"], target["n_events"], target["sources"]) == (226, 74, ["kirp"])
    methods = target["methods"]
    assert methods.keys() == {"local", "steph", "panel", "deployed", *COMPARATORS}
    for name, method in methods.items():
        (c_index,) = method["c_index"]
        assert math.isfinite(c_index) and 0 < c_index < 1, name
    # Different models, not one under many names: among so many test pairs few agree to the last digit.
    distinct = {method["c_index"][0] for name, method in methods.items() if name != "deployed"}
    assert len(distinct) > len(COMPARATORS) / 2
    assert methods["deployed"]["c_index"] == methods[methods["deployed"]["choice"][0]]["c_index"]
