"""Starts, follows and stops Flower runs with the ``flwr`` command and its JSON output.

``flwr`` exits with 0 even if a run failed or its answer says ``"success": false``; so the JSON answer is checked, not
the exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from fedsteph.common.errors import EngineError

CONNECTION = "fedsteph"
CONFIG = "config.toml"
# No telemetry, no downloads, and no installation of packages by an app.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "NO_COLOR": "1",
}
COMPLETED = "finished:completed"
_POLL_SECONDS = 0.5
_TAKEN_SECONDS = 90.0  # normally a SuperExec takes a pending run within seconds
START_SECONDS = 30.0  # how long Flower waits for the process of a task that was taken; then it starts another
_ASK_SECONDS = 15.0  # between two queries, because each query starts a process that takes a second of CPU
PATIENCE_SECONDS = 300.0  # how long the SuperLink may be unreachable; if it is back by then, the run continues
_CALL_SECONDS = 120.0


def program(name: str) -> str:
    """Path of a program in this Python environment, which need not be activated."""
    return str(Path(sys.executable).parent / name)


def environment(home: Path) -> dict[str, str]:
    """The environment variables of every Flower process that fedsteph starts. ``home``: its ``FLWR_HOME``."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **QUIET, "FLWR_HOME": str(home.resolve()), "PATH": path}


def call_flwr(words: Sequence[str], folder: Path, home: Path, timeout: float | None = None) -> CompletedProcess[str]:
    """Run ``flwr WORDS`` in ``folder`` with ``home`` as its ``FLWR_HOME``, for so many seconds at most."""
    return subprocess.run(
        [program("flwr"), *words],
        env=environment(home),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def connection(address: str, ca: Path | None) -> str:
    """The ``config.toml`` of a ``FLWR_HOME`` for one SuperLink; ``ca`` None means no TLS, for loopback only."""
    secure = "insecure = true" if ca is None else f"root-certificates = {json.dumps(str(ca.resolve()))}"
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f"address = {json.dumps(address)}\n{secure}\n"
    )


@dataclass
class _Start:
    """How far a run has come that does not run yet."""

    begun: float
    patience: float
    taken: float | None = None  # when a SuperExec was first seen to have it

    def seconds_late(self, status: str, now: float) -> float:
        """Seconds since the run was taken, if Flower gave up waiting for its process at least once; else 0."""
        if status not in ("pending", "starting"):
            return 0.0
        if status == "starting" and self.taken is None:
            self.taken = now
        if self.taken is None:
            if now - self.begun > _TAKEN_SECONDS:
                remedy = "Start the SuperExec; it ends at once, with code 0, when its secret is not the SuperLink's"
                raise EngineError(f"no SuperExec took the run within {_TAKEN_SECONDS:g} s", remedy=remedy)
            return 0.0
        late = now - self.taken
        if late > self.patience:
            what = f"the ServerApp's process was not up within Flower's {START_SECONDS:g} s, again and again"
            remedy = "This machine is too slow or too loaded: 'fedsteph doctor server' measures a start"
            raise EngineError(what, remedy=remedy)
        return late if late > START_SECONDS else 0.0


@dataclass(frozen=True)
class Flower:
    """A SuperLink, controlled through ``flwr`` with the ``FLWR_HOME`` of a :func:`connection`; errors name ``log``."""

    home: Path
    log: Path

    def start(self, app: Path, run_config: Path, federation_config: str | None = None) -> str:
        """Start a run of the app in folder ``app``; returns its id. Raises EngineError if Flower refused the run."""
        words = ["run", str(app), CONNECTION, "--run-config", str(run_config)]
        if federation_config is not None:
            words += ["--federation-config", federation_config]
        answer = self._call(words)
        if "run-id" not in answer:
            raise EngineError("'flwr run' named no run", where=self.log)
        return str(answer["run-id"])

    def wait(
        self,
        run_id: str,
        is_over: Callable[[], bool],
        patience: float,
        on_silence: Callable[[float], None] = lambda seconds: None,
        on_slow_start: Callable[[float], None] = lambda seconds: None,
        is_done: Callable[[], bool] = lambda: False,
        every: float = _ASK_SECONDS,
    ) -> str:
        """Wait for a run's end; returns its final status, such as ``finished:completed``.

        Raises EngineError if the SuperLink was unreachable for too long, no SuperExec took the run, or its process did
        not start in ``patience`` seconds.

        Args:
            is_over: whether the server has written its outcome; until then Flower is queried only now and then.
            patience: seconds for which the SuperLink may be unreachable.
            on_silence: called with the seconds for which it has been unreachable.
            on_slow_start: called with the seconds since a SuperExec took the run, if its process is still not there.
            is_done: whether the run has succeeded, so that Flower need not be waited for.
            every: seconds between two queries.
        """
        answered = time.monotonic()
        start = _Start(answered, patience)
        asked = -every
        while True:
            time.sleep(_POLL_SECONDS)
            if is_done():
                return COMPLETED
            if not is_over() and time.monotonic() - asked < every:
                continue
            asked = time.monotonic()
            try:
                status = self.status(run_id)
            except EngineError:
                if time.monotonic() - answered > patience:
                    raise
                on_silence(time.monotonic() - answered)
                continue
            answered = time.monotonic()
            if status.startswith("finished"):
                return status
            try:
                if late := start.seconds_late(status, answered):
                    on_slow_start(late)
            except EngineError as error:
                with contextlib.suppress(EngineError):
                    self.stop(run_id)
                raise EngineError(error.what, where=self.log, remedy=error.remedy) from error

    def status(self, run_id: str) -> str:
        """A run's current status; :class:`EngineError` if Flower does not know the run."""
        return str(self._listed(run_id)["status"])

    def details(self, run_id: str) -> str:
        """Flower's explanation of a run's status; empty if there is none."""
        return str(self._listed(run_id).get("status-details") or "")

    def _listed(self, run_id: str) -> dict[str, Any]:
        runs = self._call(["ls", CONNECTION, "--run-id", run_id]).get("runs")
        if not isinstance(runs, list) or not runs or "status" not in runs[0]:
            raise EngineError(f"'flwr ls' does not know the run {run_id}", where=self.log)
        return dict(runs[0])

    def statuses(self) -> dict[str, str]:
        """The status of every run that Flower knows, by its id."""
        return {str(run["run-id"]): str(run["status"]) for run in self._call(["ls", CONNECTION])["runs"]}

    def nodes(self) -> list[dict[str, Any]]:
        """Every registered node: ``node-id``, ``status``, when it came (``online-at``) and left (``offline-at``)."""
        return [dict(node) for node in self._call(["supernode", "list", CONNECTION])["nodes"]]

    def stop(self, run_id: str) -> None:
        """Stop a run."""
        self._call(["stop", run_id, CONNECTION])

    def _call(self, words: list[str]) -> dict[str, Any]:
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            done = call_flwr([*words, "--format", "json"], self.home, self.home, _CALL_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"'flwr {words[0]}' had not answered in {_CALL_SECONDS:g} s", where=self.log) from error
        found = re.search(r"\{.*\}", done.stdout, flags=re.DOTALL)
        try:
            answer: dict[str, Any] = json.loads(found.group()) if found else {}
        except ValueError:
            answer = {}
        if not answer.get("success"):
            reason = answer.get("error-message") or (done.stderr or done.stdout).strip()[-500:]
            raise EngineError(f"'flwr {words[0]}' failed: {reason}", where=self.log)
        return answer
