"""Flower's ``flwr`` command, played by a script: its answer counts, not its exit code, and it may be away a while."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedsteph.common.deployment import flower_programs
from fedsteph.common.deployment.flower_programs import Flower, connection, environment
from fedsteph.common.errors import EXIT_FEDERATION, EngineError


class Flwr:
    """A stand-in that gives one answer after another, the last of them for ever, and notes what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "flwr"
        folder.mkdir()
        self.program.write_text(
            '#!/bin/sh\ncd "$(dirname "$0")"\necho "$@" >> calls\nenv > environment\n'
            'n=$(wc -l < calls)\nwhile [ ! -e answer.$((n)) ]; do n=$((n - 1)); done\n. "./answer.$((n))"\n'
        )
        self.program.chmod(0o755)

    def answers(self, *scripts: str) -> None:
        """Shell lines that print each answer."""
        for number, script in enumerate(scripts, start=1):
            (self.folder / f"answer.{number}").write_text(script)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


def says(answer: object, code: int = 0) -> str:
    return f"cat <<'END'\n{answer if isinstance(answer, str) else json.dumps(answer)}\nEND\nexit {code}\n"


def status(text: str) -> str:
    return says({"success": True, "runs": [{"run-id": "7", "status": text}]})


AWAY = says({"success": False, "error-message": "connection refused"})


@pytest.fixture
def flwr(tmp_path, monkeypatch) -> Flwr:
    made = Flwr(tmp_path / "bin")
    monkeypatch.setattr(flower_programs, "program", lambda name: str(made.program) if name == "flwr" else name)
    monkeypatch.setattr(flower_programs, "_POLL_SECONDS", 0)
    return made


@pytest.fixture
def superlink(tmp_path) -> Flower:
    return Flower(tmp_path / "home", tmp_path / "superlink.log")


def test_a_run_is_started_with_what_it_needs(flwr, superlink, tmp_path):
    flwr.answers(says({"success": True, "run-id": 4711}))
    assert superlink.start(tmp_path / "app", tmp_path / "run.toml") == "4711"
    assert superlink.start(tmp_path / "app", tmp_path / "run.toml", "num-supernodes=3") == "4711"
    plain = f"run {tmp_path}/app fedsteph --run-config {tmp_path}/run.toml"
    assert flwr.calls == [f"{plain} --format json", f"{plain} --federation-config num-supernodes=3 --format json"]


def test_words_around_the_answer_do_not_matter(flwr, superlink):
    flwr.answers(says('Loading project...\n{\n  "success": true, "runs": [{"status": "running"}]\n}\nBye'))
    assert superlink.status("7") == "running" and flwr.calls == ["ls fedsteph --run-id 7 --format json"]


def test_flower_runs_quietly_in_its_own_home(flwr, superlink):
    flwr.answers(says({"success": True}))
    superlink.stop("7")
    assert flwr.calls == ["stop 7 fedsteph --format json"]
    found = (flwr.folder / "environment").read_text().splitlines()
    for setting in ("FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1", f"FLWR_HOME={superlink.home}"):
        assert setting in found


@pytest.mark.parametrize("code", [0, 1])
def test_an_answer_without_success_is_an_error_whatever_the_exit_code(flwr, superlink, code):
    flwr.answers(says({"success": False, "error-message": "Run 7 not found"}, code))
    for ask in (superlink.status, superlink.stop, lambda run: superlink.start(Path(run), Path(run))):
        with pytest.raises(EngineError, match="failed: Run 7 not found") as caught:
            ask("7")
        assert (caught.value.where, caught.value.exit_code) == (str(superlink.log), EXIT_FEDERATION)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (says("Traceback: something broke"), "something broke"),
        (says("{not json}"), "{not json}"),
        (says("} {"), "} {"),
        (says("[]"), r"\[\]"),
        (says("{}"), "{}"),
        (says({"success": "", "error-message": "odd"}), "odd"),
        ("echo 'permission denied' >&2; exit 3", "permission denied"),
        ("exit 0", "'flwr ls' failed"),
    ],
)
def test_junk_is_an_error(flwr, superlink, script, told):
    flwr.answers(script)
    with pytest.raises(EngineError, match=told):
        superlink.status("7")


@pytest.mark.parametrize("answer", [{"success": True}, {"success": True, "runs": []}])
def test_a_success_that_says_nothing_is_an_error(flwr, superlink, tmp_path, answer):
    flwr.answers(says(answer))
    with pytest.raises(EngineError):
        superlink.status("7")
    with pytest.raises(EngineError):
        superlink.start(tmp_path, tmp_path)


def test_a_long_answer_is_cut(flwr, superlink):
    flwr.answers("head -c 9000 /dev/zero | tr '\\0' x; echo ' the end'")
    with pytest.raises(EngineError, match="the end") as caught:
        superlink.status("7")
    assert len(str(caught.value)) < 1000


def test_no_answer_in_time_is_an_error(flwr, superlink, monkeypatch):
    monkeypatch.setattr(flower_programs, "_CALL_SECONDS", 0.2)
    flwr.answers("exec tail -f /dev/null")
    with pytest.raises(EngineError, match=r"'flwr ls' had not answered in 0\.2 s"):
        superlink.status("7")


@pytest.mark.parametrize("end", ["finished:completed", "finished:failed", "finished:stopped"])
def test_the_true_status_of_the_end(flwr, superlink, end):
    flwr.answers(*map(status, ("pending", "starting", "running", "running", end)))
    assert superlink.wait("7", lambda: True, patience=1e6) == end and len(flwr.calls) == 5


def test_a_superlink_that_comes_back_is_waited_for(flwr, superlink):
    flwr.answers(status("running"), AWAY, "exit 1", says("junk"), status("running"), AWAY, status("finished:completed"))
    assert superlink.wait("7", lambda: True, patience=1e6) == "finished:completed" and len(flwr.calls) == 7


@pytest.fixture
def every_20_s(monkeypatch):
    """Each question for a run's status comes 20 s after the one before, on a clock of its own."""
    now = [0.0]

    def asked(self, run_id):
        now[0] += 20
        return self._call([run_id])["runs"][0]["status"]

    monkeypatch.setattr(flower_programs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Flower, "status", asked)


def test_every_silence_is_told_with_its_length(flwr, superlink, every_20_s):
    """Counted from the last answer; nothing is told while it answers, or once it is given up."""
    told = []
    flwr.answers(AWAY, AWAY, status("running"), AWAY, status("running"), status("finished:completed"))
    assert superlink.wait("7", lambda: True, 1e6, told.append) == "finished:completed" and told == [20, 40, 20]
    told.clear()
    (flwr.folder / "calls").unlink()
    flwr.answers(status("running"), AWAY, AWAY, AWAY, AWAY)
    with pytest.raises(EngineError):
        superlink.wait("7", lambda: True, 60, told.append)
    assert told == [20, 40, 60]


def test_a_superlink_that_stays_away_is_given_up(flwr, superlink):
    flwr.answers(status("running"), status("running"), AWAY)
    with pytest.raises(EngineError, match="connection refused"):
        superlink.wait("7", lambda: True, patience=0)
    assert len(flwr.calls) == 3


def test_patience_is_counted_from_the_last_answer(flwr, superlink, every_20_s):
    """Away 40 s, back, away 40 s, back: never 60 s in one piece; then for good."""
    flwr.answers(AWAY, AWAY, status("running"), AWAY, AWAY, status("running"), AWAY)
    with pytest.raises(EngineError):
        superlink.wait("7", lambda: True, patience=60)
    assert len(flwr.calls) == 6 + 4


def test_flower_is_seldom_asked_before_there_is_an_outcome(flwr, superlink):
    flwr.answers(status("running"), status("finished:completed"))
    polls = iter(range(1000))
    ended = superlink.wait("7", lambda: next(polls) > 50, patience=1e6, every=1e6)
    assert ended == "finished:completed" and len(flwr.calls) == 2 and next(polls) > 50


def test_a_run_that_has_succeeded_is_not_waited_for(flwr, superlink):
    flwr.answers(status("running"))
    polls = iter(range(1000))
    assert superlink.wait("7", lambda: False, patience=1e6, is_done=lambda: next(polls) > 50) == "finished:completed"
    assert len(flwr.calls) == 1


def test_a_run_that_nobody_takes_is_stopped(flwr, superlink, monkeypatch):
    monkeypatch.setattr(flower_programs, "_TAKEN_SECONDS", -1.0)
    flwr.answers(status("pending"))
    with pytest.raises(EngineError, match="no SuperExec took the run") as caught:
        superlink.wait("7", lambda: True, patience=1e6)
    assert "its secret is not the SuperLink's" in str(caught.value.remedy)
    assert flwr.calls[-1] == "stop 7 fedsteph --format json"


def test_a_superexec_has_its_time_to_take_a_run(flwr, superlink, monkeypatch, every_20_s):
    """Asked every 20 s, and away in between: pending at 80 s is waited for, at 100 s no more."""
    monkeypatch.setattr(flower_programs, "_TAKEN_SECONDS", 90.0)
    flwr.answers(status("pending"), AWAY, *3 * [status("pending")], says({"success": True}))
    with pytest.raises(EngineError, match="no SuperExec took the run within 90 s"):
        superlink.wait("7", lambda: True, patience=1e6)
    assert flwr.calls == [*5 * ["7 --format json"], "stop 7 fedsteph --format json"]


def test_a_run_that_was_taken_is_not(flwr, superlink, monkeypatch):
    monkeypatch.setattr(flower_programs, "_TAKEN_SECONDS", -1.0)
    flwr.answers(status("starting"), status("running"), status("finished:completed"))
    assert superlink.wait("7", lambda: True, patience=1e6) == "finished:completed"


def test_a_process_that_misses_flowers_window_is_named_and_in_the_end_given_up(flwr, superlink, every_20_s):
    """Flower drops the task after 30 s and has another process started; nobody else says so."""
    told = []
    slow = map(status, ("starting", "pending", "starting", "running", "finished:completed"))
    flwr.answers(status("pending"), *slow)
    assert superlink.wait("7", lambda: True, 100, on_slow_start=told.append) == "finished:completed" and told == [40]
    (flwr.folder / "calls").unlink()
    flwr.answers(status("starting"), *4 * [status("pending")], status("starting"), says({"success": True}))
    with pytest.raises(EngineError, match="not up within Flower's 30 s, again and again") as caught:
        superlink.wait("7", lambda: True, 90)
    assert "doctor server" in str(caught.value.remedy) and flwr.calls[-1] == "stop 7 fedsteph --format json"


def test_the_environment_has_this_installations_programs_first(tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_HOME", "/elsewhere")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.chdir(tmp_path)
    found = environment(Path("home"))
    assert found["FLWR_HOME"] == str(tmp_path / "home") and found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["PATH"].split(os.pathsep)[0] == str(Path(flower_programs.program("flwr")).parent)


@pytest.mark.parametrize("ca", [None, 'a "quoted" ca.crt'])
def test_the_connection_is_toml(tmp_path, ca):
    tomllib = pytest.importorskip("tomllib")
    path = None if ca is None else tmp_path / ca
    found = tomllib.loads(connection("[::1]:9091", path))["superlink"]
    secure = {"insecure": True} if path is None else {"root-certificates": str(path)}
    assert found == {"default": "fedsteph", "fedsteph": {"address": "[::1]:9091", **secure}}
