"""What the doctor is made of: a check, a verdict for what it raises, a report for people and one for programs."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
from each_case import each

from fedsteph.commands.federation.doctor import show_checks
from fedsteph.common.deployment import checks
from fedsteph.common.deployment.checks import (
    Check,
    app_start,
    check,
    disk,
    memory,
    secret_files,
    start_verdict,
    versions,
)
from fedsteph.common.errors import DeploymentError


def raising(error):
    def look():
        raise error

    return look


def test_what_was_found_passes():
    assert check("audit", lambda: "3 lines") == Check("audit", "PASS", "3 lines", None)


@each(
    ("error", "found", "remedy"),
    [
        (DeploymentError("is busy", where="a:1", remedy="Wait"), "a:1: is busy", "Wait"),
        (DeploymentError("is busy", remedy="Wait"), "is busy", "Wait"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied", "Check the path and its permissions"),
    ],
)
def test_what_is_wrong_fails_with_its_remedy(error, found, remedy):
    assert check("server", raising(error)) == Check("server", "FAIL", found, remedy)


def test_a_bug_of_a_check_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        check("server", raising(ZeroDivisionError()))


def test_the_start_of_an_app_is_measured_in_a_process_of_its_own():
    """The coordinator's, whole: it has room in Flower's window on any machine that runs these tests."""
    found = app_start("flwr.superlink.cli, fedsteph.server.app")
    assert found.verdict in ("PASS", "WARN") and found.found.endswith("of the 30 s that Flower gives it")
    found = app_start("no_such_module")
    assert found.verdict == "FAIL" and "No module named 'no_such_module'" in found.found and found.remedy


@each(("seconds", "verdict"), [(0.1, "PASS"), (10, "PASS"), (10.1, "WARN"), (30, "WARN"), (30.1, "FAIL")])
def test_a_start_is_held_against_flowers_window(seconds, verdict):
    found = start_verdict(seconds)
    assert found.verdict == verdict and (found.remedy is None) == (verdict == "PASS")


def test_an_app_that_does_not_come_up_fails(monkeypatch):
    monkeypatch.setattr(checks, "START_SECONDS", 0.01)
    assert app_start("time; time.sleep(600)").verdict == "FAIL"
    monkeypatch.setattr(checks.sys, "executable", "/no/such/python")
    found = app_start("time")
    assert (found.verdict, found.found) == ("FAIL", "/no/such/python: No such file or directory")


def test_this_installation_fits_itself():
    assert [(found.name, found.verdict) for found in versions()] == [("fedsteph", "PASS"), ("packages", "PASS")]


@pytest.mark.parametrize(
    ("found", "told"), [("1.30.0", "1.30.0, not >=1.41"), ("9.0", "9.0, not >=1.41"), (None, "missing, not >=1.41")]
)
def test_a_package_out_of_its_range(monkeypatch, found, told):
    def version(name):
        if name == "flwr" and found is None:
            raise PackageNotFoundError(name)
        return found if name == "flwr" else "1.0"

    monkeypatch.setattr(checks, "version", version)
    lines = ["flwr[simulation]>=1.41,<1.43", "numpy>=1,<2", 'pytest>=8; extra == "test"', 'x>1; python_version < "3"']
    monkeypatch.setattr(checks, "requires", lambda name: lines)
    told_of = versions()
    assert [(c.name, c.verdict) for c in told_of] == [("fedsteph", "PASS"), ("flwr", "FAIL")]
    assert told_of[1].found.startswith("missing" if found is None else found)
    assert told_of[1].found.split(", not ")[1] in (">=1.41,<1.43", "<1.43,>=1.41")
    assert str(told_of[1].remedy).startswith("pip install 'flwr") and told.split(",")[0] in told_of[1].found


@pytest.mark.parametrize(("mode", "verdict"), [(0o600, "PASS"), (0o400, "PASS"), (0o640, "FAIL"), (0o604, "FAIL")])
def test_a_secret_is_its_owners_alone(tmp_path, mode, verdict):
    path = tmp_path / "server.key"
    path.write_text("")
    path.chmod(mode)
    [found] = secret_files([path])
    assert (found.name, found.verdict) == ("secret server.key", verdict)
    assert verdict == "PASS" or f"chmod 600 {path}" in str(found.remedy)


def test_every_secret_is_looked_at(tmp_path):
    (tmp_path / "b").mkdir()
    found = secret_files([tmp_path / "a", tmp_path / "b"])
    assert [(c.name, c.verdict) for c in found] == [("secret a", "FAIL"), ("secret b", "FAIL")]
    assert "is not a file" in found[1].found and all(c.remedy for c in found)


@pytest.mark.parametrize(("free", "verdict"), [(8e9, "PASS"), (4e9, "PASS"), (3.9e9, "WARN"), (0, "WARN")])
def test_memory(monkeypatch, free, verdict):
    monkeypatch.setattr(checks.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    found = memory(4.0)
    assert (found.verdict, found.found) == (verdict, f"{free / 1e9:.1f} GB free")
    assert (found.remedy is None) == (verdict == "PASS")


@pytest.mark.parametrize(("free", "verdict"), [(9e9, "PASS"), (4e9, "WARN"), (2e8, "WARN"), (1e8, "FAIL")])
def test_disk(monkeypatch, tmp_path, free, verdict):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=free))
    found = disk(tmp_path / "not" / "yet" / "runs", 5.0)
    assert (found.name, found.verdict) == ("disk of runs", verdict) and asked == [tmp_path]
    assert (found.remedy is None) == (verdict == "PASS")


GOOD = Check("audit", "PASS", "3 lines")
SO_SO = Check("server", "WARN", "not checked", "Name server")
BAD = Check("membership", "FAIL", "'[kirp]': no [bold]entry[/]", "Add [it]")


@pytest.mark.parametrize(
    ("checks", "code"), [([], 0), ([GOOD], 0), ([GOOD, SO_SO], 0), ([GOOD, BAD], 1), ([BAD, SO_SO, BAD], 1)]
)
def test_only_a_failure_fails(capsys, checks, code):
    assert show_checks("site kirp", checks, as_json=True) == code
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["ok"] == (code == 0) and [Check(**one) for one in found["checks"]] == checks
    failed = sum(one.verdict == "FAIL" for one in checks)
    assert printed.err == (f"{failed} of {len(checks)} checks failed\n" if code else "")


def test_the_table_shows_every_word_as_it_is(capsys):
    assert show_checks("site kirp", [GOOD, SO_SO, BAD], as_json=False) == 1
    out = capsys.readouterr().out
    for word in ("site kirp", "PASS", "WARN", "FAIL", "'[kirp]':", "[bold]entry[/]", "[it]", "Name server"):
        assert word in out
