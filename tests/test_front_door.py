"""The front door: what docs/api.md shows runs as it stands, and merging in memory is what a federation does."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from keys_and_rosters import roster_of, write_membership
from reports import coarse_landscapes
from sites import TINY, make_site

import fedsteph
from fedsteph.common.config.digest import to_dict

DOCS = Path(__file__).resolve().parents[1] / "docs"
SITES = ("blca", "kirp", "luad")
SETTINGS = [*TINY, "model.width=6", "comparators.methods=[half_average]"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> Path:
    """Three sites, whose own models are trained on the way; not to be changed."""
    folder = tmp_path_factory.mktemp("front") / "sites"
    for seed, name in enumerate(SITES):
        make_site(folder / name, seed=seed, patients=20)
    return folder


@pytest.fixture(scope="module")
def config():
    return fedsteph.load_config(None, SETTINGS)


@pytest.fixture(scope="module")
def run(sites, config, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    results = fedsteph.simulate(out, str(sites), config, engine="in-process")
    assert results == fedsteph.read_results(out) and results["failures"] == []
    return out


@pytest.fixture(scope="module")
def m0(config):
    return fedsteph.initial_model(config.model)


@pytest.fixture(scope="module")
def vectors(run, m0):
    """What the run's sources shared: the vectors of their models of fold 0."""
    found = {}
    for name in ("kirp", "luad"):
        (path,) = (run / "sites" / name).glob("base-*/fold_0/local.safetensors")
        found[name] = fedsteph.TaskVector.between(fedsteph.load_model(path).model, m0)
    return found


def test_the_names_are_documented_and_exist() -> None:
    for name in fedsteph.__all__:
        found = getattr(fedsteph, name)
        assert found.__module__.startswith("fedsteph.") and inspect.getdoc(found)
        assert f"``{name}``" in str(fedsteph.__doc__) and f"`{name}`" in (DOCS / "api.md").read_text()
    assert set(fedsteph.__all__) <= set(dir(fedsteph))
    with pytest.raises(AttributeError, match="no attribute 'helpers'"):
        fedsteph.helpers  # noqa: B018


def test_the_session_of_the_docs_runs_as_it_stands(sites, tmp_path) -> None:
    shutil.copytree(sites, tmp_path / "sites")
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "api.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    (tmp_path / "session.py").write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, "session.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in (r"own model: C-index 0\.\d{3} over 2 folds", r"luad: norm \d", r"steph: 0\.\d{3} \(", "survival_5y"):
        assert re.search(said, done.stdout), done.stdout
    assert done.stdout.splitlines()[-1].startswith("run/results.json")


def test_merging_in_memory_and_of_files_is_what_the_federation_does(
    sites, config, run, vectors, cli, refused, tmp_path
) -> None:
    """To the last bit: the same models, by the same vectors, from another state folder."""
    site = fedsteph.Site.open(sites / "blca", state=tmp_path / "state", device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a simulated site has
    files = [fedsteph.save_vector(tmp_path / f"{name}.safetensors", vector) for name, vector in vectors.items()]
    words = ["enhance", sites / "blca", *(w for s in SETTINGS for w in ("--set", s)), "--vectors", files[0]]
    again = [f"luad={files[1]}", "--out", tmp_path / "from-files", "--json", "--no-report"]
    try:
        found = fedsteph.enhance(site, vectors, config)
        code, told, _ = cli(*words, "--vectors", *again)
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    from_files = json.loads(told)
    assert from_files | {"models": ""} == json.loads(json.dumps(found | {"models": ""}))
    assert "'kirp' is given twice" in refused(*words, "--vectors", f"kirp={files[1]}", *again[1:])
    told = fedsteph.read_results(run)["targets"]["blca"]
    for method in ("local", "half_average", "steph", "deployed"):
        assert found["methods"][method]["c_index"] == told["methods"][method]["c_index"]
    assert fedsteph.read_results(tmp_path / "state") == json.loads(json.dumps(found))


def test_the_way_by_mail_of_the_docs_runs_and_gives_the_federations_numbers(
    sites, config, run, cli, tmp_path, monkeypatch
) -> None:
    """Three site folders exchange files; what the target makes of them is what the run made, to the last bit."""
    shutil.copytree(sites, tmp_path / "sites")
    roster = roster_of(*SITES, federation=config.federation.name)
    for name in SITES:
        folder = tmp_path / "sites" / name
        shutil.rmtree(folder / "fedsteph-state", ignore_errors=True)
        keys = {
            key: value for key, value in asdict(write_membership(folder, name, roster)).items() if value is not None
        }
        policy = {"targets": ["blca"], "min_patients": 1, "min_events": 1, "min_pairs": 1, "recipes": "any"}
        (folder / "site.yaml").write_text(json.dumps({"federation": keys, "policy": policy, "threads": 1}))
    (tmp_path / "federation.yaml").write_text(json.dumps(to_dict(config)))
    make_site(tmp_path / "new", seed=9, patients=12)
    for path in sorted((tmp_path / "new" / "features").iterdir()):
        path.rename(path.with_name(f"N{path.name}"))
    labels = (tmp_path / "new" / "labels.csv").read_text()
    (tmp_path / "new" / "labels.csv").write_text(re.sub(r"\bP(?=\d{3})", "NP", labels))
    monkeypatch.chdir(tmp_path)
    section = (DOCS / "enhance.md").read_text().partition("## By mail: the whole way")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    assert len(lines) == 9
    for line in lines:
        program, *words = shlex.split(line)
        with coarse_landscapes():
            code, _, err = cli(*words)
        assert program == "fedsteph" and code in ((0, 2) if words[0] == "trust" else (0,)), (line, err)
    told = fedsteph.read_results(run)["targets"]["blca"]
    found = fedsteph.read_results(tmp_path / "sites/blca/fedsteph-state")
    assert found["kept"] == ["kirp", "luad"]
    for method in ("local", "half_average", "steph", "deployed"):
        assert found["methods"][method]["c_index"] == told["methods"][method]["c_index"]
    assert found["final"] == told["final"]
    listed = cli("vectors", "list", "sites/blca", "--json")[1]
    assert listed.count('"verdict": "') == 2, "what screening said is written to what is kept"
    words = ["enhance", "sites/blca", "--config", "federation.yaml", "--out", "elsewhere", "--no-report", "--json"]
    assert json.loads(cli(*words)[1])["kept"] == ["kirp", "luad"], "kept vectors are the site's, wherever it writes"
    assert (tmp_path / "evaluation/index.html").is_file() and (tmp_path / "risk.csv").read_text().count("\nNP") > 12


def test_a_vector_s_file_gives_the_vector_back(vectors, m0, config, tmp_path) -> None:
    path = fedsteph.save_vector(tmp_path / "kirp.safetensors", vectors["kirp"])
    again = fedsteph.load_vector(path, m0)
    assert torch.equal(again.flat(), vectors["kirp"].flat())
    with pytest.raises(fedsteph.FedstephError, match=r"norm .* is above the cap"):
        fedsteph.load_vector(path, m0, max_norm=again.norm / 2)
    other = fedsteph.initial_model(fedsteph.load_config(None, [*TINY, "model.width=6", "model.m0_seed=1"]).model)
    with pytest.raises(fedsteph.FedstephError, match="another M0"):
        fedsteph.load_vector(path, other)
    with pytest.raises(fedsteph.FedstephError, match="cannot be read"):
        fedsteph.load_vector(tmp_path / "absent", m0)


def test_what_may_not_be_merged_is_refused_before_anything_is_trained(sites, config, vectors, tmp_path) -> None:
    site, good = fedsteph.Site.open(sites / "blca", state=tmp_path / "state"), vectors["kirp"]
    other = fedsteph.initial_model(fedsteph.load_config(None, [*TINY, "model.width=6", "model.m0_seed=1"]).model)
    stray = fedsteph.TaskVector.between(other, other)
    wide = fedsteph.initial_model(fedsteph.load_config(None, [*TINY, "model.width=7"]).model)
    for given, said in (
        ({}, "there is none to merge"),
        ({"blca": good}, "after no other site"),
        ({"../kirp": good}, "after no other site"),
        ({"kirp": stray}, "another M0"),
        ({"kirp": fedsteph.TaskVector.between(wide, wide)}, "another architecture"),
        ({"kirp": float("nan") * good}, "norm nan is no number"),
        ({"kirp": good, "luad": 1e6 * good}, r"norm .* above 250"),
    ):
        with pytest.raises(fedsteph.FedstephError, match=said):
            fedsteph.enhance(site, given, config)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_prediction_is_the_command_s(run, sites, tmp_path, cli) -> None:
    model = run / "sites" / "blca" / "deployed" / "fold_0.safetensors"
    table = fedsteph.predict(str(model), str(sites / "blca" / "features"), sites / "blca" / "labels.csv")
    assert len(table) == 20 and table["survival_1y"].between(0, 1).all()
    words = ["predict", model, "--features", sites / "blca" / "features", "--labels", sites / "blca" / "labels.csv"]
    assert cli(*words, "--out", tmp_path / "risk.csv")[0] == 0
    assert (tmp_path / "risk.csv").read_text() == table.to_csv(index=False, float_format="%.9g")


def test_what_holds_no_results_is_told(tmp_path) -> None:
    with pytest.raises(fedsteph.FedstephError, match="holds no results"):
        fedsteph.read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(fedsteph.FedstephError, match="is damaged"):
        fedsteph.read_results(tmp_path)
