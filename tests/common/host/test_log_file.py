"""A log file: what a line holds, when a new file begins, and what two writers do to each other."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from fedsteph.common.host import log_file
from fedsteph.common.host.log_file import LogFile


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    found = logging.Logger("test")
    yield found
    for handler in found.handlers:
        handler.close()


def test_a_line_of_json_holds_its_five_fields_and_no_other(log, tmp_path):
    log.addHandler(LogFile(tmp_path / "x.log", "json"))
    log.info("trained %s\nwell", "P001", extra={"run": "run1", "patient": "P002", "path": "/data"})
    log.warning("no run", extra={"run": 3, "token": "secret"})
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    lines = [json.loads(line) for line in (tmp_path / "x.log").read_text().splitlines()]
    assert [list(line) for line in lines] == [["time", "level", "module", "message", "run"]] * 3
    assert [(line["level"], line["run"]) for line in lines] == [("INFO", "run1"), ("WARNING", None), ("ERROR", None)]
    assert lines[0]["message"] == "trained P001\nwell" and lines[0]["module"] == "test_log_file"
    assert lines[0]["time"].endswith("+00:00") and lines[2]["message"].endswith("ValueError: why")
    text = (tmp_path / "x.log").read_text()
    assert "P002" not in text and "secret" not in text and "/data" not in text


def test_text_holds_no_extras_either(log, tmp_path):
    log.addHandler(LogFile(tmp_path / "x.log", "text"))
    log.info("trained", extra={"patient": "P002"})
    assert (tmp_path / "x.log").read_text().split(" ", 2)[2] == "INFO trained\n"


def test_a_new_file_begins_at_a_size_and_in_a_new_week_and_two_writers_lose_nothing(log, tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "MOST_BYTES", 200)
    monkeypatch.setattr(log_file, "KEPT", 3)
    path, other = tmp_path / "x.log", logging.Logger("other")
    log.addHandler(LogFile(path, "text"))
    other.addHandler(LogFile(path, "text"))
    for number in range(4):
        log.info("%d a", number)
        other.info("%d b", number)  # 33 bytes a line: six in a file
    other.handlers[0].close()
    files = [tmp_path / name for name in ("x.log.1", "x.log")]
    assert [file.read_text().count("\n") for file in files] == [6, 2]
    words = [line.rpartition("INFO ")[2] for file in files for line in file.read_text().splitlines()]
    assert words == [f"{number} {letter}" for number in range(4) for letter in "ab"]
    then = time.time() - 8 * 86400
    os.utime(path, (then, then))
    log.info("a new week")
    assert path.read_text().endswith("a new week\n") and path.read_text().count("\n") == 1
    for _ in range(30):
        log.info("more")
    assert sorted(file.name for file in tmp_path.glob("x.log*")) == ["x.log", "x.log.1", "x.log.2", "x.log.3"]


def test_a_record_that_cannot_begin_a_new_file_stays_in_the_old_one(log, tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "MOST_BYTES", 50)
    handler = LogFile(tmp_path / "x.log", "text")
    log.addHandler(handler)

    def fail(source: str, target: str) -> None:
        raise PermissionError(13, "another process has it open")

    handler.rotate = fail
    for number in range(3):
        log.info("%d", number)
    assert (tmp_path / "x.log").read_text().count("\n") == 3
