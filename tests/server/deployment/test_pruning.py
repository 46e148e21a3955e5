"""What goes from a coordinator's folder, what is still needed, and what may be done to a SuperLink's database."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from loopback import free_port

from fedsteph.common.errors import ConfigError, DeploymentError
from fedsteph.common.host.checked_file import write_json
from fedsteph.common.host.pruned import read_age
from fedsteph.server.deployment.pruning import prune_server
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.server.deployment.superlink_database import compact

AGE = timedelta(days=90)


@pytest.fixture
def server(tmp_path) -> ServerFile:
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "server.yaml").write_text(f"superlink: {address}\naddress: {address}\n")
    return ServerFile.open(tmp_path)


def run_folder(server: ServerFile, name: str, config: str, *ends: str, days: float = 100) -> Path:
    """A run whose last change was so many days ago; ``ends``: the files that say that it has ended."""
    path = server.runs / name
    digests = {"config": config}
    path.mkdir(parents=True)
    write_json(path / "manifest.json", {"run": name, "audit": "", "versions": {}, "seeds": {}, "digests": digests})
    (path / "config.yaml").write_text("federation: {deadlines: {local: 864000}}\n")  # ten days
    for end in ends:
        (path / end).parent.mkdir(exist_ok=True)
        (path / end).write_text("{}")
    old(path, days)
    return path


def old(path: Path, days: float = 100) -> None:
    then = time.time() - days * 86400
    for one in (*path.rglob("*"), path):
        os.utime(one, (then, then))


def test_old_runs_go_but_for_those_that_are_needed(server):
    results, outcome = "results.json", "server/outcome.json"
    goes = [run_folder(server, f"2026010{day}", "a", outcome, results) for day in (1, 2)]
    stays = {run_folder(server, "20260103", "a", outcome, results): "the last of its configuration"}
    goes.append(run_folder(server, "20260104", "a", outcome))  # it failed, after the last one with results
    stays[run_folder(server, "20260105", "b", outcome)] = "the last of its configuration"
    goes.append(run_folder(server, "20260106", "a"))  # it was cut off: nothing has changed for longer than a phase
    unread = run_folder(server, "20260107", "a")
    (unread / "manifest.json").write_text("{")
    stays[unread] = "its manifest cannot be read"
    torn = run_folder(server, "20260108", "a")
    (torn / "config.yaml").write_text("no: key\n")
    old(torn)
    stays[torn] = "its configuration cannot be read"
    young = run_folder(server, "20260109", "a", outcome, days=80)
    (server.runs / "notes").mkdir()
    (server.runs / ".x.part").mkdir()
    server.logs.mkdir()
    logs = [
        server.logs / name for name in ("superlink.log", "superlink.log.2026-01-01_00", "superlink.log.2026-01-02_00")
    ]
    for path in logs:
        path.write_text("x" * 10)
    old(server.runs / ".x.part"), old(logs[0]), old(logs[1])

    told = prune_server(server, AGE, dry_run=True)
    assert {one.path for one in told.gone} == {*goes, server.runs / ".x.part", logs[1]} and told.kept == stays
    assert all(path.exists() for path in goes)
    found = prune_server(server, AGE)
    assert found == told and found.freed == sum(one.size for one in found.gone) > 10
    assert {*server.runs.iterdir()} == {*stays, young, server.runs / "notes"}
    assert {*server.logs.iterdir()} == {logs[0], logs[2]}


def test_a_run_under_way_stays_as_long_as_its_longest_phase_may_last(server):
    path = run_folder(server, "20260101", "a", days=9)
    assert prune_server(server, timedelta(days=1)).kept == {path: "it may still run"}
    old(path, 11)
    assert [one.path for one in prune_server(server, timedelta(days=1)).gone] == [path]


@pytest.fixture
def database(server) -> Path:
    """One like Flower's: with a log of its own, and pages that are free since messages were delivered."""
    with closing(sqlite3.connect(server.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE objects (content BLOB)")
        connection.execute("CREATE TABLE run (name TEXT)")
        connection.executemany("INSERT INTO objects VALUES (?)", [(b"x" * 100_000,)] * 20)
        connection.execute("INSERT INTO run VALUES ('one')")
        connection.execute("DELETE FROM objects")
        connection.commit()
    return server.database


def test_the_database_of_a_stopped_superlink_is_compacted_and_keeps_its_rows(server, database):
    before = database.stat().st_size
    would = compact(database, server.superlink, dry_run=True)
    assert database.stat().st_size == before > would > 1_900_000
    [one] = prune_server(server, AGE).gone
    assert one.size > 1_900_000 and database.stat().st_size < 100_000
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM run").fetchall() == [("one",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_database_of_a_running_superlink_is_left_alone(server, database):
    before = database.read_bytes()
    port = int(server.superlink.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), pytest.raises(DeploymentError, match="the SuperLink runs"):
        compact(database, server.superlink, dry_run=False)
    with closing(sqlite3.connect(database)) as other:  # at another address, and idle
        other.execute("SELECT * FROM run").fetchall()
        found = prune_server(server, AGE)
    assert "another program has it open" in found.kept[database] and found.gone == []
    assert database.read_bytes() == before
    database.write_bytes(b"no database at all" * 100)
    assert "is no database" in prune_server(server, AGE).kept[database]


def test_an_age_is_days_or_weeks():
    assert (read_age("90d"), read_age("2w")) == (timedelta(days=90), timedelta(days=14))
    for text in ("", "0d", "90", "d", "-1d", "1.5d", "90 d", "1y", "999999d"):
        with pytest.raises(ConfigError, match="is no age"):
            read_age(text)
