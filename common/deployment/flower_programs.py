"""Flower's own ``flwr`` command, asked for JSON: start a run, follow it to its true status, stop it.

``flwr`` exits with 0 when a run failed, and even when it says ``"success": false``; so its answer is read instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsteph.common.errors import EngineError

CONNECTION = "fedsteph"
CONFIG = "config.toml"
# Nothing is reported to anyone, nothing is downloaded, and no app brings its own packages.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "NO_COLOR": "1",
}
_POLL_SECONDS = 0.5
_TAKEN_SECONDS = 90.0  # a SuperExec takes a run within seconds
_ASK_SECONDS = 15.0  # asking Flower starts a process of its own
PATIENCE_SECONDS = 300.0  # a SuperLink that is back by then goes on with the run
_CALL_SECONDS = 120.0


def program(name: str) -> str:
    """The program of this very environment, whether or not it is activated."""
    return str(Path(sys.executable).parent / name)


def environment(home: Path) -> dict[str, str]:
    """What every Flower process of ours runs with.

    Args:
        home: its ``FLWR_HOME``.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **QUIET, "FLWR_HOME": str(home.resolve()), "PATH": path}


def connection(address: str, ca: Path | None) -> str:
    """The ``config.toml`` of a ``FLWR_HOME`` for one SuperLink; without a CA, on loopback, without TLS."""
    secure = "insecure = true" if ca is None else f"root-certificates = {json.dumps(str(ca.resolve()))}"
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f"address = {json.dumps(address)}\n{secure}\n"
    )


@dataclass(frozen=True)
class Flower:
    """One SuperLink, as the ``flwr`` command sees it.

    ``home`` is a ``FLWR_HOME`` with :func:`connection` in its config, ``log`` where a failure is looked up.
    """

    home: Path
    log: Path

    def start(self, app: Path, run_config: Path, federation_config: str | None = None) -> str:
        """Start a run of the app in a folder; its id.

        Raises:
            EngineError: Flower refused.
        """
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
    ) -> str:
        """Wait for a run's end; its final status, as ``finished:completed``.

        Args:
            is_over: whether the server has written its outcome; Flower is seldom asked before that.
            patience: seconds for which the SuperLink may be out of reach.
            on_silence: told for how many seconds it has been.

        Raises:
            EngineError: the SuperLink could not be asked for too long, or no SuperExec took the run.
        """
        started = answered = time.monotonic()
        asked = -_ASK_SECONDS
        while True:
            time.sleep(_POLL_SECONDS)
            if not is_over() and time.monotonic() - asked < _ASK_SECONDS:
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
            if status == "pending" and answered - started > _TAKEN_SECONDS:
                with contextlib.suppress(EngineError):
                    self.stop(run_id)
                raise EngineError(
                    f"no SuperExec took the run within {_TAKEN_SECONDS:g} s",
                    where=self.log,
                    remedy="Start the SuperExec; it ends at once, with code 0, when its secret is not the SuperLink's",
                )

    def status(self, run_id: str) -> str:
        """A run's present status."""
        return str(self._listed(run_id)["status"])

    def details(self, run_id: str) -> str:
        """Why a run has the status that it has, in Flower's words; empty where it says nothing."""
        return str(self._listed(run_id).get("status-details") or "")

    def _listed(self, run_id: str) -> dict[str, Any]:
        runs = self._call(["ls", CONNECTION, "--run-id", run_id]).get("runs")
        if not isinstance(runs, list) or not runs or "status" not in runs[0]:
            raise EngineError(f"'flwr ls' does not know the run {run_id}", where=self.log)
        return dict(runs[0])

    def stop(self, run_id: str) -> None:
        """End a run."""
        self._call(["stop", run_id, CONNECTION])

    def _call(self, words: list[str]) -> dict[str, Any]:
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(
                [program("flwr"), *words, "--format", "json"],
                env=environment(self.home),
                cwd=self.home,
                capture_output=True,
                text=True,
                check=False,
                timeout=_CALL_SECONDS,
                stdin=subprocess.DEVNULL,
            )
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
