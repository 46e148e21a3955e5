"""The attack benchmark: one real run on tiny sites, found done the second time, and its table by hand."""

from __future__ import annotations

import csv
import json

import pytest
from sites import TINY, make_site

from fedsteph.client.steph import fit
from fedsteph.common.host.checked_file import read_json
from fedsteph.simulations.attacks import poison
from fedsteph.simulations.attacks.trial import Ground


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poison")
    for seed, name in enumerate(("alpha", "beta", "gamma")):
        make_site(folder / name, patients=20 + 4 * seed, seed=seed)
    return folder


def cell(attack: str, malicious: list[str], target: str, local: float, deployed: float, caught=(), false=()):
    modes = ("report", "down-weight", "refuse")
    return {
        "target": target,
        "fold": 0,
        "attack": attack,
        "malicious": malicious,
        "sources": 4,
        "local": local,
        "steph": dict.fromkeys(modes, 0.5),
        "deployed": {"report": 0.5, "down-weight": deployed, "refuse": deployed},
        "caught": list(caught),
        "false_alarms": list(false),
    }


def test_the_table_by_hand():
    cells = [
        cell("none", [], "a", 0.6, 0.62, false=["s"]),
        cell("noise", ["s", "t"], "a", 0.6, 0.62, caught=["s", "t"]),
        cell("noise", ["s", "t"], "b", 0.7, 0.68, caught=["t"], false=["u"]),
    ]
    honest, noise = poison.summary(cells)
    assert (honest["caught"], honest["false_alarms"]) == (None, 0.25)
    assert noise["local"] == pytest.approx(0.65)
    assert noise["deployed_refuse"] == pytest.approx(0.65)
    assert noise["worst_refuse"] == pytest.approx(-0.02), "the mean of two targets hides what one of them loses"
    assert noise["worst_report"] == pytest.approx(-0.2)
    assert (noise["caught"], noise["false_alarms"]) == (0.75, 0.25)
    lines = poison.markdown([honest, noise]).splitlines()
    assert lines[2].startswith("| honest federation | 0 | 0.600 | 0.500 |")
    assert "| 75% | 25.0% |" in lines[3]


def test_the_larger_groups_of_malicious_sources_hold_the_smaller_ones(sites, tmp_path):
    workspaces = poison.workspaces_of(sites, tmp_path / "out", [*TINY, "training.epochs=1"])
    ground = Ground("alpha", workspaces, wanted=3)
    assert set(ground.sources) == {"beta", "gamma-a", "gamma-b"}, "the largest of the others is two hospitals"
    halves = [{p.id for p in ground.sources[name].train.patients} for name in ("gamma-a", "gamma-b")]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == {p.id for p in workspaces["gamma"].train_part(0).patients}
    groups = [ground.malicious(n) for n in (1, 2, 3)]
    assert groups[0] == groups[1][:1] == groups[2][:1]
    assert set(groups[2]) == set(ground.sources)


def test_a_run_and_the_same_run_again(sites, tmp_path, monkeypatch, cli, refused):
    command = ["measure", "poison", "--sites", sites, "--out", tmp_path / "out"]
    for setting in (*TINY, "training.epochs=1", "steph.gamma=0.0"):
        command += ["--set", setting]
    attacks = ["--attacks", "times_10", "--attacks", "backdoor", "--counts", 1, "--folds", 1, "--sources", 3]

    def run():
        code, out, _ = cli(*command, "--targets", "alpha", *attacks, "--json")
        assert code == 0
        return json.loads(out)

    found = run()
    assert [row["attack"] for row in found["rows"]] == ["none", "times_10", "backdoor"]
    assert [row["false_alarms"] for row in found["rows"]] == [0, 0, 0]
    assert read_json(tmp_path / "out" / "poison.json") == found
    lines = list(csv.DictReader((tmp_path / "out" / "poison.csv").open()))
    assert [line["attack"] for line in lines] == ["none", "times_10", "backdoor"]
    monkeypatch.setattr(fit, "fit_survival", lambda *args, **options: pytest.fail("trained again"))
    assert run() == found
    assert "not known" in refused(*command, "--targets", "delta")
