"""``fedsteph status`` and ``health`` at a site: its files are real, and so are the processes that it looks for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from keys_and_rosters import roster_of, write_membership
from loopback import free_port, make_tls, web
from prometheus_client.parser import text_string_to_metric_families

from fedsteph.client.deployment.node_processes import node_processes
from fedsteph.client.privacy.accounting import Mechanism
from fedsteph.client.privacy.ledger import Entry, Ledger
from fedsteph.client.sharing.kept_record import KeptVector, write_kept
from fedsteph.client.sharing.statement import Statement
from fedsteph.client.site.site import Site
from fedsteph.commands.federation import health as health_command
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.deployment import health_endpoint
from fedsteph.common.deployment.health_list import METRICS
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.wire.envelope import UNLIMITED

PORT = 31_094


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A site without data of patients, whose server answers; nothing runs yet."""
    folder, tls = tmp_path / "kirp", make_tls(tmp_path / "tls")
    folder.mkdir()
    file = write_membership(folder, "kirp", roster_of("kirp", "kirc"))
    with web(tls) as address:
        federation = {key: getattr(file, key) for key in ("roster", "roster_sha256", "sign_key", "seal_key")}
        federation |= {"audit": "audit", "server": address, "ca": str(tls.ca)}
        policy = {"targets": ["kirc"], "recipes": "any"}
        content = {"name": "kirp", "federation": federation, "policy": policy, "health": {"port": 0}}
        (folder / "site.yaml").write_text(yaml.safe_dump(content))
        yield folder


@contextmanager
def running(*commands: list[str]) -> Iterator[None]:
    """Processes with these command lines, which wait for the end of the test."""
    waiting = [sys.executable, "-ISc", "import sys; sys.stdin.read()"]
    begun = [subprocess.Popen([*waiting, *words], stdin=subprocess.PIPE) for words in commands]
    try:
        yield
    finally:
        for process in begun:
            process.communicate()


def supernode(folder: Path, port: int = PORT) -> list[str]:
    """As start-supernode.sh starts it."""
    config = f'site-config="{folder}/site.yaml"'
    return ["/venv/bin/flower-supernode", "--node-config", config, "--host", "127.0.0.1", "--port", str(port)]


def superexec(port: int = PORT) -> list[str]:
    return ["/venv/bin/flower-superexec", "--runtime-api-address", f"127.0.0.1:{port}", "--insecure"]


def looked(cli: Callable[..., Any], folder: Path) -> tuple[int, dict[str, Any]]:
    code, out, _ = cli("status", folder, "--json")
    found = json.loads(out)
    assert found["ok"] == (code == 0) == (not found["problems"])
    return code, found


def vector(sender: str, days: int, age: int = 10) -> KeptVector:
    sealed = datetime.now(UTC) - timedelta(days=age)
    return KeptVector(
        sender,
        "0" * 64,
        datetime.now(UTC).isoformat(),
        "run-1",
        int(sealed.timestamp() * 1000),
        days,
        "0" * 64,
        "0" * 64,
        "0" * 64,
        SharingConfig(),
        Statement(None, None, None, None, None),
        1.0,
        False,
        None,
    )


def work(folder: Path) -> Site:
    """A run that was refused, a spending, and three kept vectors, of which one is damaged."""
    opened = Site.open(folder)
    opened.audit.append(Event("hello", "allowed", "20260104-120000-dddd"))
    opened.audit.append(Event("share", "refused", "20260104-120000-dddd", "kirc", reason="TargetPolicyError"))
    opened.audit.append(Event("audit.looked"))
    Ledger(opened.audit).spend(Entry.now("20260104-120000-dddd", "a" * 64, Mechanism(5.0, 0.1, 10), 1e-3), None)
    kept = opened.state / "vectors"
    for record in (vector("kirc", 365), vector("kich", UNLIMITED), vector("luad", 30)):
        write_kept(kept, record, b"of this vector nothing is read")
    (kept / vector("luad", 30).file_name).write_bytes(b"damaged")
    return opened


def test_a_site_that_works(cli: Callable[..., Any], site: Path) -> None:
    work(site)
    with running(supernode(site), superexec()):
        code, found = looked(cli, site)
        assert code == 0, found["problems"]
        text = cli("status", site / "site.yaml")[1]
    connection = found["connection"]
    assert (connection["supernode"], connection["superexec"], connection["reachable"]) == (True, True, True)
    assert connection["certificate_days"] == {"server": 396, "ca": 3649}
    assert found["last_run"]["run"] == "20260104-120000-dddd" and found["last_run"]["event"] == "privacy.spend"
    assert found["last_decision"]["event"] == "privacy.spend" and found["disk_free"] > 0
    assert found["ledger"].startswith("epsilon ") and found["epsilon"] > 0
    end = datetime.now(UTC) + timedelta(days=355)
    assert (found["kept"]["count"], found["kept"]["damaged"]) == (2, 1)
    assert abs(datetime.fromisoformat(found["kept"]["oldest_expiry"]) - end) < timedelta(minutes=5)
    assert [one["name"] for one in found["warnings"]] == ["reviewed app"], "flwr_home is not named"
    for words in ("SuperNode   runs; SuperExec: runs", "2 vectors of other sites", "all is well", "damaged: 1"):
        assert words in text


def test_whose_processes_they_are(site: Path, tmp_path: Path) -> None:
    opened = Site.open(site)
    with running(supernode(tmp_path / "kirc"), superexec(), ["vi", "flower-supernode.log"]):
        assert node_processes(opened) == (False, None)
        with running(supernode(site, PORT + 1)):
            assert node_processes(opened) == (True, False), "the SuperExec is another site's"
            with running(superexec(PORT + 1)):
                assert node_processes(opened) == (True, True)


def test_what_is_not_well(cli: Callable[..., Any], site: Path, tmp_path: Path) -> None:
    """No process, no server, an edited audit log, a key that others can read: each is named, and nothing is changed."""
    opened = work(site)
    content = yaml.safe_load((site / "site.yaml").read_text())
    content["federation"]["server"] = f"127.0.0.1:{free_port()}"
    content["policy"]["recipes"] = []
    (site / "site.yaml").write_text(yaml.safe_dump(content))
    log = opened.audit.folder / "audit.jsonl"
    log.write_text(log.read_text().replace("refused", "allowed"))
    (site / content["federation"]["sign_key"]).chmod(0o644)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    code, found = looked(cli, site)
    assert code == 2 and [one["kind"] for one in found["problems"]] == ["node", "server", "doctor"]
    failed = {one["name"] for one in found["warnings"] if one["verdict"] == "FAIL"}
    assert failed == {"membership", "secret kirp.sign.key", "audit", "privacy"}
    assert found["connection"]["superexec"] is None and "nothing answers" in found["connection"]["told"]
    assert found["epsilon"] is None and "audit" in found["ledger"]
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    assert {one["name"] for one in found["warnings"] if one["verdict"] == "WARN"} == {"policy", "reviewed app"}


def test_a_site_of_no_federation(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("name: kirp\n")
    assert "takes part in no federation" in refused("status", tmp_path)
    (tmp_path / "site.yaml").write_text("name: kirp\nhealth: {address: 0.0.0.0}\n")
    assert "set expose to true" in refused("status", tmp_path)


def test_health_tells_no_exact_number_of_the_ledger(
    cli: Callable[..., Any], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(site)
    endpoints: list[Any] = []
    found: list[str] = []
    made = health_endpoint.HealthEndpoint

    def noted(settings: Any) -> Any:
        endpoints.append(made(settings))
        return endpoints[-1]

    def asked(seconds: float) -> None:
        url = endpoints[-1].url
        assert urllib.request.urlopen(f"{url}/healthz", timeout=10).read() == b"ok\n"
        found.append(urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode())
        raise KeyboardInterrupt

    monkeypatch.setattr(health_endpoint, "HealthEndpoint", noted)
    monkeypatch.setattr(health_command, "time", SimpleNamespace(sleep=asked))
    with running(supernode(site), superexec()):
        assert cli("health", site)[0] == 130
        exact = looked(cli, site)[1]["epsilon"]
    told = {family.name: family for family in text_string_to_metric_families(found[0])}
    here = ("up", "looked_seconds", "server_reachable", "certificate_days", "disk_free_bytes", "kept_vectors")
    assert told.keys() == {f"fedsteph_{name}" for name in (*here, "ledger_epsilon_at_most")} <= METRICS.keys()
    [epsilon] = [sample.value for sample in told["fedsteph_ledger_epsilon_at_most"].samples]
    assert exact <= epsilon and epsilon in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0) and epsilon != exact
    assert not re.search(r"kirp|kirc|luad|patient", "".join(line for line in found[0].splitlines() if line[0] != "#"))
