"""``fedsteph status`` and ``health`` at a coordinator: real folders, a played SuperLink and flwr."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from keys_and_rosters import roster_of
from loopback import Tls, free_port, make_tls, reissue, web
from prometheus_client.parser import text_string_to_metric_families

from fedsteph.commands.federation import health as health_command
from fedsteph.commands.federation import status as status_command
from fedsteph.common.config.run_config import load_config
from fedsteph.common.deployment import flower_programs, health_endpoint
from fedsteph.common.deployment.health_list import METRICS, REASONS
from fedsteph.common.host import checked_file
from fedsteph.common.model.initial_model import pin_m0
from fedsteph.common.trust.roster import write_roster
from fedsteph.common.wire import protocol
from fedsteph.server.coordinator_page import run_page
from fedsteph.server.deployment.deployed_run import prepare
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.server.manifest import read_manifest, write_flower_run
from fedsteph.server.outcome import Failure, Outcome
from fedsteph.server.run_status import StatusFile

CONFIG = (
    "federation: {name: fed, sites: [kirp, kirc, kich], targets: [kirp]}\nmodel: {width: 6, embed: 8, attention: 6}\n"
)
NOW = datetime.now(UTC)
NODES = {"kirp": 11, "kirc": 22, "kich": 33}


def flower_time(ago: float) -> str:
    """As 'flwr supernode list' writes it."""
    return f"{NOW - timedelta(seconds=ago):%Y-%m-%d %H:%M:%SZ}"


@dataclass
class Coordinator:
    """A coordinator's folder."""

    folder: Path
    tls: Tls
    answers: Path  # what the played flwr answers: ls.json, supernode.json

    @property
    def file(self) -> ServerFile:
        return ServerFile.open(self.folder)

    def nodes(self, *online: str, offline: dict[str, float] | None = None) -> None:
        """These sites' nodes are connected; those have left so many seconds ago."""
        found = [{"node-id": str(NODES[name]), "status": "online", "online-at": flower_time(900)} for name in online]
        for name, ago in (offline or {}).items():
            times = {"online-at": flower_time(9000), "offline-at": flower_time(ago)}
            found.append({"node-id": str(NODES[name]), "status": "offline", **times})
        (self.answers / "supernode.json").write_text(json.dumps({"success": True, "nodes": found}))

    def runs(self, **statuses: str) -> None:
        """What Flower says of runs, by id with an r before it."""
        found = [{"run-id": name[1:], "status": status} for name, status in statuses.items()]
        (self.answers / "ls.json").write_text(json.dumps({"success": True, "runs": found}))

    def run(self, name: str, flower: str, outcome: Outcome | None = None) -> Path:
        """A run folder as 'fedsteph run' and the ServerApp leave it."""
        made = prepare(self.file, pin_m0(load_config(self.file.config)))
        assert read_manifest(made.path)["run"] == made.path.name
        path = made.path.rename(made.path.with_name(name))
        write_flower_run(path, flower)
        if outcome is not None:
            checked_file.write_json(path / "server" / "outcome.json", outcome.to_dict())
        return path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("status") / "tls")


@pytest.fixture
def coordinator(tmp_path: Path, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    """Three sites, a SuperLink that answers, no run yet; one site's node is known from its registration."""
    folder, answers = tmp_path / "server", tmp_path / "flwr-answers"
    (folder / "nodes").mkdir(parents=True)
    answers.mkdir()
    (folder / "nodes" / "kich.id").write_text("33\n")
    (folder / "config.yaml").write_text(CONFIG)
    write_roster(folder / "roster.yaml", roster_of("kirp", "kirc", "kich"))
    flwr = answers / "flwr"
    flwr.write_text(f'#!/bin/sh\necho "$1" >> {answers}/calls\ncat "{answers}/$1.json"\n')
    flwr.chmod(0o755)
    monkeypatch.setattr(flower_programs, "program", lambda name: str(flwr))
    with web(tls) as address:
        health = "health: {port: 0}"
        keys = f"ca: {tls.ca}\ncertificate: {tls.certificate}\nkey: {tls.key}"
        (folder / "server.yaml").write_text(f"superlink: {address}\naddress: {address}\n{keys}\n{health}\n")
        found = Coordinator(folder, tls, answers)
        found.nodes()
        yield found


def looked(cli: Callable[..., Any], folder: Path) -> tuple[int, dict[str, Any]]:
    code, out, _ = cli("status", folder, "--json")
    found = json.loads(out)
    assert found["ok"] == (code == 0) == (not found["problems"])
    return code, found


def test_before_the_first_run(cli: Callable[..., Any], coordinator: Coordinator) -> None:
    coordinator.nodes("kich")
    code, found = looked(cli, coordinator.folder)
    assert code == 0 and found["superlink"] is None and found["current"] is None and found["runs"] == []
    assert found["roster"] == roster_of("kirp", "kirc", "kich").digest and found["revoked"] == []
    assert found["certificate_days"] == {"server": 396, "ca": 3649} and found["disk_free"] > 0
    by_site = {site["site"]: site for site in found["sites"]}
    assert {name: site["connected"] for name, site in by_site.items()} == {"kirp": None, "kirc": None, "kich": True}
    assert by_site["kich"]["node"] == "33" and by_site["kich"]["software"] is None
    assert (coordinator.answers / "calls").read_text() == "supernode\n", "Flower's runs are asked for only if needed"


def test_a_run_under_way(cli: Callable[..., Any], coordinator: Coordinator) -> None:
    """Its two names, phase, each site's progress; a site that has left, or has failed, is what is not well."""
    coordinator.run("20260101-120000-aaaa", "7", Outcome(error="the quorum is lost"))
    failure = Failure("kirc", protocol.LOCAL, "the training at the site diverged")
    coordinator.run("20260102-120000-bbbb", "8", Outcome(failures=[failure]))
    coordinator.run("20260103-120000-cccc", "9")
    run = coordinator.run("20260104-120000-dddd", "10")
    coordinator.runs(r9="finished:stopped", r10="running")
    status = StatusFile(run / "server")
    status.begin(protocol.HELLO, 300)
    for name in ("kirp", "kirc"):
        status.joined(name, NODES[name], "0.1.0")
    status.begin(protocol.LOCAL, 3600, ["kirp", "kirc"])
    status.answered("kirp", "answered")
    status.save(at_once=True)
    coordinator.nodes("kirp", "kirc", "kich")
    code, found = looked(cli, coordinator.folder)
    assert code == 0
    current = found["current"]
    assert (current["run"], current["flower"], current["phase"]) == ("20260104-120000-dddd", "10", protocol.LOCAL)
    assert current["awaited"] == ["kich"] and {site["software"] for site in found["sites"]} == {"0.1.0", None}
    told = {name: (site["said"], site["answered"] is None) for name, site in current["sites"].items()}
    assert told == {"kirp": ("answered", False), "kirc": ("asked", True)}
    ended = [(one["run"][-4:], one["flower"], one["outcome"], one["told"]) for one in found["runs"]]
    assert ended == [
        ("cccc", "9", "stopped", None),
        ("bbbb", "8", "partly", str(failure)),
        ("aaaa", "7", "failed", "the quorum is lost"),
    ]
    text = cli("status", coordinator.folder)[1]
    assert "20260104-120000-dddd; in Flower's own lists and logs: 10" in text and "all is well" in text
    assert "1 of 2 answered" in text and "has not joined" in text

    coordinator.nodes("kirp", "kich", offline={"kirc": 1200})
    code, found = looked(cli, coordinator.folder)
    assert code == 2 and [one["text"] for one in found["problems"]] == ["kirc is not connected"]
    unseen = next(site for site in found["sites"] if site["site"] == "kirc")["last_seen"]
    assert abs((NOW - datetime.fromisoformat(unseen)).total_seconds() - 1200) < 2

    coordinator.nodes(*NODES)
    status.answered("kirc", "the training at the site diverged")
    status.save(at_once=True)
    code, found = looked(cli, coordinator.folder)
    assert (
        code == 2
        and found["problems"][0]["text"] == f"kirc failed in {protocol.LOCAL}: the training at the site diverged"
    )


def test_a_deadline_that_is_near(cli: Callable[..., Any], coordinator: Coordinator) -> None:
    """Less than a tenth of the phase's time is left; unless everybody has answered."""
    run = coordinator.run("20260104-120000-dddd", "10")
    coordinator.runs(r10="running")
    coordinator.nodes(*NODES)
    status = StatusFile(run / "server")
    status.begin(protocol.HELLO, 300)
    for name, node in NODES.items():
        status.joined(name, node, "0.1.0")
    path = run / "server" / "status.json"
    for ago, answered, kinds in ((80, False, []), (91, False, ["deadline"]), (91, True, [])):
        status.begin(protocol.SHARE, 100, NODES)
        for name in NODES if answered else ():
            status.answered(name, "answered")
        status.save(at_once=True)
        content = checked_file.read_json(path)
        for key, seconds in (("since", -ago), ("until", 100 - ago)):
            content[key] = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        checked_file.write_json(path, content)
        assert [one["kind"] for one in looked(cli, coordinator.folder)[1]["problems"]] == kinds


def test_what_is_not_well_at_the_server_itself(
    cli: Callable[..., Any], coordinator: Coordinator, tmp_path: Path
) -> None:
    """No SuperLink, a flwr that fails, an expired certificate; damaged files of runs are rows and no tracebacks."""
    run = coordinator.run("20260104-120000-dddd", "10", Outcome())
    (run / "manifest.json").write_text("{")
    (run / "server" / "status.json").write_text("{")
    (coordinator.answers / "supernode.json").write_text('{"success": false, "error-message": "no such connection"}')
    code, found = looked(cli, coordinator.folder)
    assert code == 2 and found["runs"][0]["outcome"] == "damaged" and "no such connection" in found["superlink"]
    tls = make_tls(tmp_path / "expired")
    reissue(tls, valid=timedelta(days=-3))
    text = f"superlink: 127.0.0.1:{free_port()}\naddress: 127.0.0.1:1\nca: {tls.ca}\ncertificate: {tls.certificate}\n"
    (coordinator.folder / "server.yaml").write_text(text)
    code, found = looked(cli, coordinator.folder)
    assert [one["kind"] for one in found["problems"]] == ["superlink", "certificate"]
    assert "nothing answers there" in found["superlink"] and {s["connected"] for s in found["sites"]} == {None}


def test_wrong_input(refused: Callable[..., str], coordinator: Coordinator, tmp_path: Path) -> None:
    assert "holds neither server.yaml nor site.yaml" in refused("status", tmp_path)
    assert "there is no such folder or file" in refused("status", tmp_path / "nowhere")
    (coordinator.folder / "site.yaml").write_text("")
    assert "holds both" in refused("status", coordinator.folder)
    (coordinator.folder / "roster.yaml").unlink()
    assert "roster.yaml: there is no such file" in refused("status", coordinator.folder / "server.yaml")
    (coordinator.folder / "server.yaml").write_text("superlink: 127.0.0.1:1\naddress: 127.0.0.1:1\n")
    assert "has no health section" in refused("health", coordinator.folder / "server.yaml")


def test_it_is_watched_until_it_is_stopped(
    cli: Callable[..., Any], coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def stop(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status_command, "time", SimpleNamespace(sleep=stop))
    code, out, _ = cli("status", coordinator.folder, "--json", "--watch", "7")
    assert (
        code == 130 and waited == [7.0, 7.0] and [json.loads(line)["ok"] for line in out.splitlines()] == [True, True]
    )


def test_the_page_has_both_names_of_the_run(coordinator: Coordinator) -> None:
    run = coordinator.run("20260104-120000-dddd", "1234567890", Outcome())
    page = run_page(run, Outcome())
    manifest = read_manifest(run)
    assert page.title == f"Run {manifest['run']} of fed"
    assert f"{manifest['run']}; in Flower's own lists and logs: 1234567890" in str(page.sections)


def test_health_tells_the_list_and_nothing_else(
    cli: Callable[..., Any], coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over real HTTP, of the process that the unit starts; asked between two looks."""
    coordinator.run("20260103-120000-cccc", "9", Outcome())
    run = coordinator.run("20260104-120000-dddd", "10")
    coordinator.runs(r10="running")
    status = StatusFile(run / "server")
    status.begin(protocol.HELLO, 300)
    for name, node in NODES.items():
        status.joined(name, node, "0.1.0")
    status.save(at_once=True)
    coordinator.nodes("kirp", "kirc", offline={"kich": 1200})
    found: list[str] = []

    def asked(seconds: float) -> None:
        assert seconds == 60.0
        url = endpoints[0].url
        found.append(urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode())
        with pytest.raises(urllib.error.HTTPError) as well:
            urllib.request.urlopen(f"{url}/healthz", timeout=10)
        found.append(well.value.read().decode())
        if len(found) == 4:
            raise KeyboardInterrupt
        (coordinator.folder / "roster.yaml").write_text("damaged: [\n")

    endpoints: list[Any] = []
    made = health_endpoint.HealthEndpoint

    def noted(settings: Any) -> Any:
        endpoints.append(made(settings))
        return endpoints[0]

    monkeypatch.setattr(health_endpoint, "HealthEndpoint", noted)
    monkeypatch.setattr(health_command, "time", SimpleNamespace(sleep=asked))
    assert cli("health", coordinator.folder)[0] == 130
    assert found[1] == f"{REASONS['site']}\n" and found[3] == f"{REASONS['status']}\n"
    told = {family.name: family for family in text_string_to_metric_families(found[0])}
    assert told.keys() <= METRICS.keys() and told.keys() == {
        name for name in METRICS if "ledger" not in name and "kept" not in name and "reachable" not in name
    }
    values = {name: {tuple(s.labels.values()): s.value for s in family.samples} for name, family in told.items()}
    assert values["fedsteph_up"] == {(): 0.0} and values["fedsteph_sites_connected"] == {(): 2.0}
    assert values["fedsteph_site_connected"] == {("kirp",): 1.0, ("kirc",): 1.0, ("kich",): 0.0}
    seen = values["fedsteph_site_seen_seconds"]
    assert seen[("kirp",)] < 600 and 1190 < seen[("kich",)] < 3000
    assert values["fedsteph_run_phase"] == {(protocol.HELLO,): 1.0}
    assert values["fedsteph_last_run_outcome"] == {("done",): 1.0}
    assert values["fedsteph_certificate_days"] == {("server",): 396.0, ("ca",): 3649.0}
    for name, family in told.items():
        assert family.documentation == METRICS[name].help and family.type == "gauge"
    assert [line for line in found[2].splitlines() if not line.startswith("#")] == ["fedsteph_up 0.0"]
