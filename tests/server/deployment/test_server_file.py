"""``server.yaml``: paths lie beside it, defaults are those of a provisioned folder, and faults are named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from fedsteph.common.errors import ConfigError
from fedsteph.server.deployment.server_file import ServerFile

LEAST = "superlink: 127.0.0.1:9091\naddress: fl.example.org:9092\n"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "server" / "server.yaml"
    path.parent.mkdir()
    path.write_text(LEAST)
    return path


def test_the_least_that_it_must_say(file):
    server = ServerFile.open(file)
    assert (server.superlink, server.address) == ("127.0.0.1:9091", "fl.example.org:9092")
    paths = {field.name: getattr(server, field.name) for field in fields(server)}
    names = {key: path.relative_to(file.parent).as_posix() for key, path in paths.items() if isinstance(path, Path)}
    assert names == {
        "ca": "ca.crt",
        "certificate": "server.crt",
        "key": "server.key",
        "superexec_secret": "superexec.secret",
        "database": "superlink.db",
        "flwr_home": "flwr",
        "config": "config.yaml",
        "roster": "roster.yaml",
        "audit": "audit",
        "runs": "runs",
        "logs": "logs",
    }


def test_the_folder_will_do(file):
    assert ServerFile.open(file.parent) == ServerFile.open(file)


def test_another_name_of_the_file_will_do(file):
    other = file.with_name("trial.yaml")
    other.write_text(LEAST + "runs: trial\n")
    assert ServerFile.open(other).runs == file.parent / "trial"


def test_paths_are_relative_to_the_file_and_not_to_where_the_command_runs(file, tmp_path, monkeypatch):
    before = ServerFile.open(file)
    monkeypatch.chdir(tmp_path)
    assert ServerFile.open(Path("server")) == before and ServerFile.open(Path("server/server.yaml")) == before


def test_absolute_paths_stay(file, tmp_path):
    file.write_text(f"{LEAST}runs: {tmp_path / 'elsewhere'}\nca: ../ca/ca.crt\n")
    server = ServerFile.open(file)
    assert server.runs == tmp_path / "elsewhere" and server.ca.resolve() == tmp_path / "ca" / "ca.crt"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the key 'superlink' is missing"),
        ("superlink: 127.0.0.1:9091\n", "the key 'address' is missing"),
        (LEAST + "superlinc: x\n", "unknown key 'superlinc'"),
        (LEAST + "address: x:1\n", "given twice"),
        (LEAST + "ca: 3\n", "'ca' must be a path, not 3"),
        (LEAST + "ca: ''\n", "'ca' must be a path"),
        (LEAST + "runs: null\n", "'runs' must be a path"),
        ("superlink: 9091\naddress: x:1\n", "'superlink' must be text, not 9091"),
        ("- a\n- b\n", "must be a mapping"),
        ("superlink: [::1]:9091\n", "is not valid YAML"),
    ],
)
def test_a_fault_is_named_with_its_file(file, text, told):
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ServerFile.open(file)
    assert caught.value.where == str(file) and told in caught.value.what and caught.value.remedy


@pytest.mark.parametrize("given", ["absent", "absent/server.yaml", "."])
def test_a_file_that_is_not_there(tmp_path, given):
    with pytest.raises(ConfigError, match="cannot be read"):
        ServerFile.open(tmp_path / given)


def test_ready_is_with_a_configuration_and_a_roster(file):
    server = ServerFile.open(file)
    for path, told in ((server.config, "federation's configuration"), (server.roster, "fedsteph roster add")):
        with pytest.raises(ConfigError, match="there is no such file") as caught:
            server.require_ready()
        assert caught.value.where == str(path) and told in str(caught.value.remedy)
        path.write_text("")
    server.require_ready()
