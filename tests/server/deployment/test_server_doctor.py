"""``fedsteph doctor server``: a coordinator that is ready passes; every fault, made for real, is found and named."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.x509 import DNSName, IPAddress
from keys_and_rosters import roster_of
from loopback import LOOPBACK_NAMES, Tls, free_port, make_tls, reissue, web

from fedsteph.common.trust.audit_log import FILE, AuditLog, Event
from fedsteph.common.trust.roster import write_roster
from fedsteph.server.deployment.provision import Plan, provision

SECRETS = ["secret server.key", "secret superexec.secret"]
ENDING = ["loopback", "configuration", "audit"]


@pytest.fixture
def folder(tmp_path, quick_start) -> Path:
    """A coordinator's provisioned folder, with its roster; nobody listens at the ports of proxy and SuperLink."""
    plan = Plan("kidney", f"127.0.0.1:{free_port()}", f"localhost:{free_port()}", ("kirp", "kirc"), ("kirp",), 6)
    provision(tmp_path / "trial", plan)
    server = tmp_path / "trial" / "server"
    write_roster(server / "roster.yaml", roster_of("kirp", "kirc", federation="kidney"))
    AuditLog(server / "audit").append(Event("run.start"))
    AuditLog(server / "audit").append(Event("run.end"))
    return server


def tls_of(folder: Path) -> Tls:
    ca_key = folder.parent / "ca" / "ca.key"
    return Tls(folder / "ca.crt", ca_key, folder / "server.crt", folder / "server.key")


def rewrite(folder: Path, **values: str) -> None:
    """Put other values into server.yaml."""
    lines = (folder / "server.yaml").read_text().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in values]
    (folder / "server.yaml").write_text("\n".join([*kept, *(f"{k}: {v}" for k, v in values.items())]) + "\n")


@pytest.fixture
def examine(doctor):
    """Runs the command; gives its exit code and the checks by name."""
    return lambda folder, *words: doctor("server", folder, *words)


def test_before_the_start(folder, examine):
    code, checks = examine(folder, "--before-start")
    assert code == 0
    expected = ["fedsteph", "packages", *SECRETS, "certificate", "CA certificate", "port", *ENDING]
    assert list(checks) == [*expected, "memory", "disk of runs"]
    assert {checks[name].verdict for name in expected} == {"PASS"}
    assert not [checks[name].remedy for name in expected if checks[name].remedy]
    assert checks["certificate"].found == "SANs localhost, 127.0.0.1; 396 days left"
    assert checks["audit"].found == "2 lines hold together"


def test_when_both_run(folder, examine):
    tls = tls_of(folder)
    with web(tls) as superlink, web(tls) as proxy:
        rewrite(folder, superlink=superlink, address=proxy)
        code, checks = examine(folder)
    assert code == 0 and {checks[name].verdict for name in ("superlink", "proxy", "start of an app")} == {"PASS"}
    assert superlink in checks["superlink"].found and proxy in checks["proxy"].found and "port" not in checks


def test_a_trial_without_a_proxy(folder, examine):
    with web(tls_of(folder)) as superlink:
        rewrite(folder, superlink=superlink, address=superlink)
        code, checks = examine(folder)
    assert code == 0 and "proxy" not in checks


def test_the_same_again_says_the_same(folder, examine):
    """A look at the port, too, does not take it."""

    def stable():
        checks = examine(folder, "--before-start")[1].values()
        return [check for check in checks if check.name not in ("memory", "disk of runs")]

    assert stable() == stable()


def test_the_table_names_the_fault(cli, folder):
    (folder / "server.key").chmod(0o644)
    code, out, err = cli("doctor", "server", folder / "server.yaml", "--before-start")
    assert (code, "FAIL" in out) == (1, True) and err.startswith("1 of ")


def reissued(folder: Path, days: int, *names: str) -> None:
    found = [DNSName(name) if name[0].isalpha() else IPAddress(ip_address(name)) for name in names]
    reissue(tls_of(folder), valid=timedelta(days=days), names=found)


def other_authority(folder: Path) -> None:
    (folder / "ca.crt").write_bytes(make_tls(folder.parent / "other").ca.read_bytes())


def other_key(folder: Path) -> None:
    """The SuperLink would not start with it."""
    (folder / "server.key").write_bytes(make_tls(folder.parent / "other").key.read_bytes())


def replaced(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def mode(name: str, bits: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).chmod(bits)


def missing(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def holding(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def roster(federation: str, *sites: str) -> Callable[[Path], object]:
    return lambda folder: write_roster(folder / "roster.yaml", roster_of(*sites, federation=federation))


def superlink_on(host: str) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder, superlink=f"{host}:{free_port()}")


NO_PEM = "cannot be read: it, its key and its CA must be in PEM form"
FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "server key readable by others": (mode("server.key", 0o644), SECRETS[0], "mode 0644"),
    "server key missing": (missing("server.key"), SECRETS[0], "cannot be read"),
    "superexec secret readable by the group": (mode("superexec.secret", 0o640), SECRETS[1], "mode 0640"),
    "certificate missing": (missing("server.crt"), "certificate", "No such file"),
    "certificate that is none": (holding("server.crt", "junk"), "certificate", NO_PEM),
    "key that is none": (holding("server.key", "junk"), "certificate", NO_PEM),
    "CA that is none": (holding("ca.crt", "junk"), "certificate", NO_PEM),
    "key of another certificate": (other_key, "certificate", "does not belong to server.key"),
    "certificate of another CA": (other_authority, "certificate", "was not signed by the CA"),
    "certificate expired": (lambda f: reissued(f, -3, *LOOPBACK_NAMES), "certificate", "expired"),
    "no SAN for the SuperLink": (lambda f: reissued(f, 90, "127.0.0.1"), "certificate", "has no SAN localhost"),
    "no SAN for the proxy": (lambda f: reissued(f, 90, "localhost"), "certificate", "has no SAN 127.0.0.1"),
    "no SAN at all": (lambda f: reissued(f, 90), "certificate", "it has: none"),
    "a SuperLink on the network": (superlink_on("0.0.0.0"), "loopback", "would listen on the network"),
    "a SuperLink on some address": (superlink_on("10.1.2.3"), "loopback", "asks nobody for a password"),
    "an address that is none": (lambda f: rewrite(f, address="fl.example.org"), "certificate", "is not an address"),
    "no configuration": (missing("config.yaml"), "configuration", "there is no such file"),
    "no roster": (missing("roster.yaml"), "configuration", "there is no such file"),
    "a configuration with a fault": (holding("config.yaml", "federaton: {}\n"), "configuration", "'federaton'"),
    "a roster that was edited": (replaced("roster.yaml", "site: kirp", "site: kich"), "configuration", "lacks kirp"),
    "another federation's roster": (roster("lung", "kirp", "kirc"), "configuration", "federation lung, not kidney"),
    "a roster that lacks a site": (roster("kidney", "kirp"), "configuration", "lacks kirc"),
    "an edited audit line": (replaced(f"audit/{FILE}", "run.start", "run.begin"), "audit", "was edited"),
    "an emptied audit log": (holding(f"audit/{FILE}", ""), "audit", "dropped or changed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(folder, examine, fault):
    make, name, told = FAULTS[fault]
    make(folder)
    code, checks = examine(folder, "--before-start")
    assert (code, checks[name].verdict) == (1, "FAIL") and told in checks[name].found and checks[name].remedy


def test_a_certificate_that_ends_soon_is_a_warning(folder, examine):
    """And one that has ended, since when; the CA's counts as well."""
    for days, verdict in ((29, "WARN"), (31, "PASS")):
        reissued(folder, days, *LOOPBACK_NAMES)
        code, checks = examine(folder, "--before-start")
        found = checks["certificate"]
        assert (code, found.verdict, "provision-renew" in str(found.remedy)) == (0, verdict, verdict == "WARN")
    reissue(tls_of(folder), valid=timedelta(days=-3, hours=-1))
    assert "expired 3 days ago" in examine(folder, "--before-start")[1]["certificate"].found
    for days, verdict in ((29, "WARN"), (-2, "FAIL")):
        reissue(replace(tls_of(folder), certificate=folder / "ca.crt"), valid=timedelta(days=days, minutes=-5))
        found = examine(folder, "--before-start")[1]["CA certificate"]
        assert found.verdict == verdict and "all sites" in str(found.remedy)


def test_a_busy_port(folder, examine):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rewrite(folder, superlink=f"127.0.0.1:{listener.getsockname()[1]}")
        code, checks = examine(folder, "--before-start")
    assert (code, checks["port"].verdict) == (1, "FAIL") and "Address already in use" in checks["port"].found
    assert "ss -ltnp" in str(checks["port"].remedy)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_a_free_port_of_ipv6(folder, examine):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback")
    rewrite(folder, superlink=f"'[::1]:{free_port()}'")
    assert examine(folder, "--before-start")[1]["port"].verdict == "PASS"


def test_a_superlink_that_does_not_run(folder, examine):
    code, checks = examine(folder)
    assert code == 1
    for name in ("superlink", "proxy"):
        assert checks[name].verdict == "FAIL" and "nothing answers there" in checks[name].found and checks[name].remedy


def test_a_proxy_without_its_superlink_and_one_that_lets_too_little_through(folder, examine):
    tls = tls_of(folder)
    with web(tls) as superlink, web(tls, 502) as away, web(tls, 404) as closed:
        rewrite(folder, superlink=superlink, address=away)
        code, checks = examine(folder)
        rewrite(folder, address=closed)
        assert "lets /v1/fleet/ through" in str(examine(folder)[1]["proxy"].remedy)
    assert (code, checks["superlink"].verdict, checks["proxy"].verdict) == (1, "PASS", "FAIL")
    assert "HTTP 502" in checks["proxy"].found


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_server_file_that_is_not_there(refused, tmp_path, name):
    assert "cannot be read" in refused("doctor", "server", tmp_path / name)
