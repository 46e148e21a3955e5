"""``evaluate`` and ``trust`` as commands: what they print, and their exit codes."""

from __future__ import annotations

import json

from evaluated import write_model
from sites import make_site
from target_results import UNSURE, make_result

from fedsteph.common.host.checked_file import write_json
from fedsteph.simulations.run.run_results import RunResults


def test_trust_of_a_run_a_state_folder_a_site_and_a_model(cli, tmp_path):
    state = make_site(tmp_path / "kirp", patients=2) / "fedsteph-state"
    write_json(state / "result.json", make_result().to_dict())
    model = state / "deployed/fold_0.safetensors"
    model.parent.mkdir()
    write_model(model, 0)
    for path, name in ((tmp_path / "kirp", "kirp"), (state, "fedsteph-state"), (model, "fedsteph-state")):
        code, out, _ = cli("trust", path)
        assert code == 0 and out.startswith(f"At {name}, the enhanced model is better than the local one")
    both = {"kirp": make_result(), "kirc": make_result(UNSURE, n_events=9)}
    write_json(tmp_path / "run/results.json", RunResults(both, [], 0, {}).to_dict())
    code, out, _ = cli("trust", tmp_path / "run", "--json")
    told = json.loads(out)
    assert code == 2 and told["kirp"] == {**both["kirp"].to_dict()["trust"], "flags": []}
    assert [flag["name"] for flag in told["kirc"]["flags"]] == ["too few events", "screening on a small target"]
    assert cli("trust", tmp_path / "run")[1].count("red flag: ") == 2


def test_trust_of_what_has_no_result(refused, tmp_path):
    site = make_site(tmp_path / "kirp", patients=2)
    write_model(tmp_path / "m.safetensors", 0)
    for path in (tmp_path, site, tmp_path / "m.safetensors", tmp_path / "absent"):
        assert "holds no result of a merge. Give a run's folder" in refused("trust", path)
    write_json(tmp_path / "results.json", {"schema": "fedsteph/study/v1"})
    assert "is not the result of a simulated run" in refused("trust", tmp_path)


def test_evaluate_prints_tables_or_json_and_refuses_training_patients(cli, refused, tmp_path):
    site = make_site(tmp_path / "kirp", patients=20)
    models = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, model in enumerate(models):
        write_model(model, seed, ["P003"])
    words = "evaluate", *models, "--site", site, "--out", tmp_path / "out"
    assert "1 of 20 patients were in the model's training, the first is 'P003'" in refused(*words)
    assert not (tmp_path / "out").exists()
    code, out, err = cli(*words, "--held-out-only")
    assert (code, err) == (0, "") and "Uno's C" in out and "Differences to a" in out and "19 remain" in out
    assert f"written: {tmp_path}/out/index.html" in out
    code, out, _ = cli(*words, "--held-out-only", "--json")
    told = json.loads(out)
    assert code == 0 and (told["n_patients"], list(told["models"])) == (19, ["a", "b"]) and len(told["files"]) == 4
