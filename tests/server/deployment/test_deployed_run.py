"""``fedsteph run`` before, at and after Flower: what is refused, what an end means, and what is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from keys_and_rosters import roster_of
from loopback import free_port, make_tls, web

from fedsteph.common.config.run_config import load_config
from fedsteph.common.deployment.flower_programs import PATIENCE_SECONDS
from fedsteph.common.errors import (
    ConfigError,
    DeploymentError,
    EngineError,
    QuorumError,
    RosterError,
    RunFolderError,
    SiteError,
)
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.model.initial_model import pin_m0
from fedsteph.common.trust.roster import read_roster, write_roster
from fedsteph.server.deployment import deployed_run
from fedsteph.server.deployment.deployed_run import Deployed, prepare, require_no_failure, run
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.server.manifest import read_flower_run, write_flower_run

SMALL = ["model.width=6", "model.embed=8", "model.attention=6"]
CONFIG = "federation: {name: fed, sites: [kirp, kirc], targets: [kirp]}\n"


def configuration(*settings):
    return pin_m0(load_config(None, [*SMALL, *settings]))


GOOD = ("federation.name=fed", "federation.sites=[kirp,kirc]", "federation.targets=[kirp]")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return make_tls(tmp_path_factory.mktemp("deployment") / "tls")


@pytest.fixture
def server(tmp_path, tls):
    """A coordinator's folder; nothing listens at its SuperLink's port."""
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "config.yaml").write_text(CONFIG + "model: {width: 6, embed: 8, attention: 6}\n")
    write_roster(tmp_path / "roster.yaml", roster_of("kirp", "kirc"))
    (tmp_path / "server.yaml").write_text(f"superlink: {address}\naddress: {address}\nca: {tls.ca}\n")
    return ServerFile.open(tmp_path)


def test_a_run_folder_is_prepared(server, tls):
    with web(tls) as address:
        made = prepare(replace(server, superlink=address), configuration(*GOOD))
    assert made.path.parent == server.runs and re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", made.path.name)
    assert sorted(path.name for path in made.path.iterdir()) == ["config.yaml", "manifest.json", "roster.yaml"]
    assert load_config(made.path / "config.yaml") == made.config == configuration(*GOOD)
    assert read_roster(made.path / "roster.yaml").digest == read_roster(server.roster).digest
    manifest = read_json(made.path / "manifest.json")
    assert manifest["run"] == made.path.name, "one name in folders, pages and audit logs"
    assert manifest["digests"]["roster"] == made.roster.digest and manifest["audit"] == str(server.audit)
    assert [path.name for path in server.runs.iterdir()] == [made.path.name]


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        (["federation.name=fed"], ConfigError, "names no sites or no targets"),
        ([*GOOD[:2]], ConfigError, "names no sites or no targets"),
        ([*GOOD, "federation.name=lung"], RosterError, "is of the federation fed, not lung"),
        ([*GOOD, "federation.sites=[kirp,kich,luad]"], RosterError, "lacks kich, luad"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(server, settings, error, told):
    with pytest.raises(error, match=told) as caught:
        prepare(server, configuration(*settings))
    assert caught.value.where == str(server.roster if error is RosterError else server.config)
    assert not server.runs.exists()


@pytest.mark.parametrize("open_key", ["width", "m0_sha256"])
def test_a_width_left_open_is_refused(server, open_key):
    config = configuration(*GOOD)
    config = replace(config, model=replace(config.model, **{open_key: None}))
    with pytest.raises(ConfigError, match=r"leaves model\.width open"):
        prepare(server, config)


def test_something_else_answers(server, tls, tmp_path):
    with web(make_tls(tmp_path / "other")) as address, pytest.raises(DeploymentError, match="does not hold against"):
        prepare(replace(server, superlink=address), configuration(*GOOD))
    assert not server.runs.exists()


@pytest.mark.parametrize("missing", ["config.yaml", "roster.yaml"])
def test_the_command_needs_configuration_and_roster(refused, server, tmp_path, missing):
    (tmp_path / missing).unlink()
    assert refused("run", tmp_path).startswith(f"{tmp_path / missing}: there is no such file")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "nothing answers there"),
        (("--set", "federation.targets=[kich]"), "not among them: kich"),
        (("--set", "federation.sites=[kirp,kich]"), "lacks kich"),
        (("--set", "model.width=null"), "model.width: must be given"),
        (("--set", "federation.quorum=1"), "quorum must be at least 2"),
    ],
)
def test_the_command_ends_with_1_for_a_users_fault(refused, server, tmp_path, words, told):
    assert told in refused("run", tmp_path, *words) and not (tmp_path / "runs").exists()


class FakeFlower:
    """Stands for the ``flwr`` command: writes the ServerApp's outcome, and ends the run with a status."""

    def __init__(self, outcome, status):
        self.outcome, self.status, self.calls, self.silences = outcome, status, [], ()

    def __call__(self, home, log):
        self.calls.append(("made", home))
        return self

    def start(self, app, run_config):
        self.app, self.run_config = app, run_config
        self.calls.append(("start",))
        return "7"

    def wait(self, run_id, is_over, patience, on_silence, on_slow_start):
        assert (run_id, patience, is_over()) == ("7", PATIENCE_SECONDS, False)
        for seconds in self.silences:
            on_silence(seconds)
            on_slow_start(seconds)
        if self.outcome is not None:
            path = self.run_config.parent / "server" / "outcome.json"
            path.parent.mkdir()
            path.write_text(json.dumps(self.outcome))
            assert is_over()
        if isinstance(self.status, BaseException):
            raise self.status
        return self.status

    def stop(self, run_id):
        self.calls.append(("stop", run_id))


def outcome(**changes):
    told = {"local": 0.6, "model_average": None, "steph": 0.62, "deployed": 0.62}
    scores = [{"method": method, "c_index": value} for method, value in told.items()]
    target = {"patients": "20-29", "events": None, "refused": [], "scores": scores, "kept": []}
    return {
        "sites": {"kirp": {}, "kirc": {}},
        "targets": {"kirp": target},
        "failures": [],
        "seconds": {"query.hello": 1.0},
        "bytes": 4711,
        "error": None,
        **changes,
    }


@pytest.fixture
def follow(server, tmp_path, monkeypatch):
    """Runs a prepared run with a Flower that ends like this; gives what comes back and what Flower was asked."""
    deployed = Deployed(tmp_path / "runs" / "20260131-120000", configuration(*GOOD), read_roster(server.roster))
    deployed.path.mkdir(parents=True)

    def start(found, status="finished:completed"):
        flower = FakeFlower(found, status)
        monkeypatch.setattr(deployed_run, "Flower", flower)
        return deployed, flower, lambda: run(server, deployed)

    return start


def test_a_completed_run(follow, server, capsys):
    deployed, flower, go = follow(outcome())
    go()
    assert "run 20260131-120000; in Flower's own lists and logs: 7" in capsys.readouterr().err
    assert read_flower_run(deployed.path) == "7"
    results = read_json(deployed.path / "results.json")
    assert (results["schema"], results["run"]) == ("fedsteph/deployment-results/v1", "20260131-120000")
    assert results["roster"] == deployed.roster.digest
    assert (results["targets"], results["bytes"]) == (outcome()["targets"], 4711)
    assert flower.calls == [("made", server.flwr_home), ("start",)] and (flower.app / "client" / "app.py").is_file()
    assert flower.run_config.read_text() == f'run-folder = "{deployed.path}"\n'


@pytest.mark.parametrize("status", ["finished:failed", "finished:completed"])
def test_a_lost_quorum_is_told_in_the_servers_words(follow, status):
    deployed, _, go = follow(outcome(error="1 of 2 sites is left: kirc failed in train.local: diverged"), status)
    with pytest.raises(QuorumError, match=r"kirc failed in train\.local: diverged") as caught:
        go()
    assert str(deployed.outcome) in str(caught.value.remedy) and not (deployed.path / "results.json").exists()


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (None, "finished:failed"),
        (None, "finished:stopped"),
        (None, "finished:completed"),
        (outcome(), "finished:failed"),
        (outcome(), "finished:stopped"),
    ],
)
def test_an_end_without_an_outcome_or_by_flower_is_an_error(follow, found, status):
    deployed, _, go = follow(found, status)
    with pytest.raises(EngineError, match=f"Flower ended the run as {status}") as caught:
        go()
    assert caught.value.where == str(deployed.path) and "flwr log 7" in str(caught.value.remedy)
    assert not (deployed.path / "results.json").exists()


def test_an_interrupted_run_is_stopped(follow):
    deployed, flower, go = follow(None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        go()
    assert flower.calls[-1] == ("stop", "7") and not (deployed.path / "results.json").exists()


def test_an_interruption_stays_one_though_the_superlink_is_away(follow, monkeypatch):
    _, flower, go = follow(None, KeyboardInterrupt())

    def stop(run_id):
        raise EngineError("connection refused")

    monkeypatch.setattr(flower, "stop", stop)
    with pytest.raises(KeyboardInterrupt):
        go()


def test_a_superlink_that_stays_away_ends_the_command(follow):
    _, flower, go = follow(None, EngineError("connection refused"))
    with pytest.raises(EngineError, match="connection refused"):
        go()
    assert ("stop", "7") not in flower.calls


def test_a_superlink_that_is_silent_is_told(follow, capsys):
    """And what becomes of the run; a moment's silence is told as well as a long one."""
    _, flower, go = follow(outcome())
    flower.silences = (15.2, 120.0)
    go()
    said = " ".join(capsys.readouterr().err.split())
    for seconds in (15, 120):
        told = f"the SuperLink has not answered for {seconds} s; back within {PATIENCE_SECONDS:.0f} s, the run goes on"
        assert said.count(told) == 1
        assert said.count(f"the ServerApp is not up {seconds} s after its SuperExec took the run; Flower gives") == 1


def test_an_outcome_counts_though_flower_does_not_answer(follow):
    """The ServerApp wrote it; without one, or with one that was not finished, Flower's silence is what there is."""
    silence = EngineError("'flwr ls' had not answered in 120 s")
    deployed, _, go = follow(outcome(), silence)
    go()
    assert json.loads((deployed.path / "results.json").read_text())["targets"] == outcome()["targets"]


@pytest.mark.parametrize(
    ("found", "error", "told"),
    [
        (outcome(error="too few sites"), QuorumError, "too few sites"),
        (outcome(targets={}), EngineError, "Flower ended the run as unknown"),
        (None, EngineError, "'flwr ls' had not answered in 120 s"),
    ],
)
def test_a_failed_or_unfinished_outcome_is_told_though_flower_does_not_answer(follow, found, error, told):
    _, _, go = follow(found, EngineError("'flwr ls' had not answered in 120 s"))
    with pytest.raises(error, match=told):
        go()


def test_failures_of_sites_are_raised_and_named(follow):
    failures = [
        {"site": "kirc", "phase": "train.local", "reason": "the training at the site diverged"},
        {"site": "kich", "phase": "query.hello", "reason": "never answered"},
    ]
    deployed, _, go = follow(outcome(failures=failures))
    results = go()
    assert (deployed.path / "results.json").is_file()
    with pytest.raises(SiteError) as caught:
        require_no_failure(deployed, results)
    assert caught.value.what == (
        "kirc failed in train.local: the training at the site diverged; kich failed in query.hello: never answered"
    )
    assert str(deployed.path / "results.json") in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("found", "status", "code", "told"),
    [
        (outcome(), "finished:completed", 0, ""),
        (outcome(error="too few sites"), "finished:failed", 2, "error: too few sites"),
        (None, "finished:failed", 2, "Flower ended the run as finished:failed"),
        (outcome(failures=[dict(site="kirc", phase="p", reason="r")]), "finished:completed", 2, "kirc failed in p"),
        (None, KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_the_exit_code_of_the_command(cli, server, tls, tmp_path, monkeypatch, found, status, code, told):
    monkeypatch.setattr(deployed_run, "Flower", FakeFlower(found, status))
    with web(tls) as address:
        file = tmp_path / "server.yaml"
        file.write_text(file.read_text().replace(server.superlink, address))
        got, out, err = cli("run", tmp_path, "--json")
    assert got == code and told in err.strip().splitlines()[-1]
    if found is not None and found["error"] is None:
        [folder] = (tmp_path / "runs").iterdir()
        assert json.loads(out) == read_json(folder / "results.json")
    else:
        assert out == ""


def test_the_table_of_the_command(cli, server, tls, tmp_path, monkeypatch):
    monkeypatch.setattr(deployed_run, "Flower", FakeFlower(outcome(), "finished:completed"))
    with web(tls) as address:
        file = tmp_path / "server.yaml"
        file.write_text(file.read_text().replace(server.superlink, address))
        code, out, err = cli("run", tmp_path)
    assert code == 0
    for word in ("kirp", "0.60", "0.62", "-", "20-29"):
        assert word in out
    assert "sites: kirp, kirc; targets: kirp" in err and "results.json" in err


def test_the_present_run_is_drained_and_no_other(server):
    """A run that has ended is not; without a present one, it is said."""
    ended, present = server.runs / "20260101-000000-aaaa", server.runs / "20260102-000000-bbbb"
    (ended / "server").mkdir(parents=True)
    (ended / "server" / "outcome.json").write_text("{}")
    (ended / "manifest.json").write_text("{}")
    with pytest.raises(EngineError, match="there is no run to drain"):
        deployed_run.drain(server)
    present.mkdir()
    (present / "manifest.json").write_text("{}")
    assert deployed_run.drain(server) == present
    assert (present / "drain").exists() and not (ended / "drain").exists()


@pytest.fixture
def resumed(server, tls, monkeypatch):
    """Resumes, with a Flower that says this of the run with the id 7."""

    def resume(status="finished:failed", *settings):
        flower = FakeFlower(None, "")
        flower.statuses = lambda: {"7": status}
        monkeypatch.setattr(deployed_run, "Flower", flower)
        with web(tls) as address:
            return deployed_run.resume(replace(server, superlink=address), configuration(*GOOD, *settings))

    return resume


@pytest.fixture
def made(server, tls):
    with web(tls) as address:
        found = prepare(replace(server, superlink=address), configuration(*GOOD))
    write_flower_run(found.path, "7")
    return found


def test_the_newest_run_is_resumed_under_its_name(resumed, made):
    """Drained, failed or killed: what tells of its end is gone, and its mail is still there."""
    mail = made.path / "server" / "mail" / "kirp" / f"kirc.{'a' * 64}"
    for path in (mail, made.outcome, made.path / "drain"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert resumed() == made
    assert not made.outcome.exists() and not (made.path / "drain").exists() and mail.exists()


@pytest.mark.parametrize(
    ("status", "settings", "error", "told"),
    [
        ("running", (), EngineError, "the run is still under way"),
        ("finished:failed", ("training.epochs=3",), RunFolderError, "is of another config than the present"),
    ],
)
def test_a_run_under_way_or_of_another_configuration_is_not_resumed(resumed, made, status, settings, error, told):
    with pytest.raises(error, match=told):
        resumed(status, *settings)


def test_a_run_of_another_roster_is_not_resumed(resumed, made, server):
    write_roster(server.roster, roster_of("kirp", "kirc", "kich"))
    with pytest.raises(RunFolderError, match="is of another roster than the present"):
        resumed()


def test_without_a_run_that_has_not_ended_well_there_is_nothing_to_resume(resumed, made):
    (made.path / "results.json").write_text("{}")
    with pytest.raises(EngineError, match="there is no run to resume"):
        resumed()
