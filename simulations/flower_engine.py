"""The real engine: a SuperLink of our own on loopback, Ray behind it, and the run's true status.

A plain ``flwr run`` starts a SuperLink that stays, freezes its folder and environment, and reports success
whatever happened. Here it runs from an empty folder with a home of its own, sized to this machine, and is
stopped with all it started; the run's status is read, not the exit code of ``flwr run``.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from client.device import resolve_device
from client.site import SIMULATED_SITES
from common import atomic
from common.errors import ConfigError, EngineError
from server.app import OUTCOME_FILE
from simulations.flower_app import assemble

_START_SECONDS = 90.0
_POLL_SECONDS = 0.5
_ASK_SECONDS = 15.0  # asking Flower starts a process of its own
_CONNECTION = "fedsteph"


def run_with_flower(run_folder: Path) -> None:
    """Run a prepared run folder's federation on Flower's simulation engine.

    Raises:
        ConfigError: the device cannot be had under this engine.
        EngineError: Flower did not start, or the run did not end well; Flower's log is named.
    """
    home = run_folder / "flower"
    app = assemble(home / "fedsteph")
    sites = json.loads((run_folder / SIMULATED_SITES).read_text())
    resources = _resources(len(sites), sites[0]["device"])
    with _superlink(home) as environment:
        atomic.write_text(home / "run.toml", f"run-folder = {json.dumps(str(run_folder.resolve()))}\n")
        started = _flwr(
            ["run", str(app), _CONNECTION, "--run-config", str(home / "run.toml")],
            ["--federation-config", resources],
            environment=environment,
            home=home,
        )
        run_id = str(started.get("run-id"))
        status = _wait_for_end(run_id, run_folder / "server" / OUTCOME_FILE, environment, home)
    if status != "finished:completed":
        raise EngineError(f"Flower ended the run as {status}", where=home / "superlink.log", remedy="See that log")


def _wait_for_end(run_id: str, outcome: Path, environment: dict[str, str], home: Path) -> str:
    """The run's final status; the server writes its outcome last, so Flower is seldom asked before that."""
    asked = -_ASK_SECONDS
    while True:
        time.sleep(_POLL_SECONDS)
        if not outcome.exists() and time.monotonic() - asked < _ASK_SECONDS:
            continue
        asked = time.monotonic()
        run = _flwr(["ls", _CONNECTION, "--run-id", run_id], environment=environment, home=home)
        status = str(run["runs"][0]["status"])
        if status.startswith("finished"):
            return status


def _resources(n_sites: int, device: str) -> str:
    # One core per simulated site: as many sites train at a time as there are cores, none of them starved.
    cores = os.cpu_count() or 1
    gpus = 0.0
    if resolve_device(device).type == "cuda":
        if device not in ("auto", "cuda:0"):
            raise ConfigError(
                f"Flower's engine deals out GPUs itself, so {device} cannot be asked for",
                where="device",
                remedy="Use auto with CUDA_VISIBLE_DEVICES, or --engine in-process",
            )
        gpus = min(1.0, torch.cuda.device_count() / min(n_sites, cores))
    return (
        f"num-supernodes={n_sites} client-resources-num-cpus=1 client-resources-num-gpus={gpus} "
        f'init-args-num-cpus={cores} init-args-log-to-driver=false backend="ray"'
    )


@contextmanager
def _superlink(home: Path) -> Iterator[dict[str, str]]:
    """A SuperLink on a free loopback port, up when the block starts and gone when it ends."""
    empty = home / "empty"  # a SuperLink puts its folder first on the path: nothing may lie there
    empty.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    environment = {
        **os.environ,
        "FLWR_HOME": str((home / "home").resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "NO_COLOR": "1",
    }
    atomic.write_text(
        home / "home" / "config.toml",
        f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n',
    )
    command = [sys.executable, "-m", "simulations.leash"]
    command += [_program("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = home / "superlink.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=empty,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through the leash, and only once
        )
        try:
            _wait_until_up(process, port, log)
            yield environment
        finally:
            assert process.stdin is not None
            process.stdin.close()  # lets go of the leash
            process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise EngineError(
                f"the SuperLink ended at once with code {process.returncode}",
                where=log,
                remedy="See that log",
            )
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise EngineError(f"the SuperLink was not up within {_START_SECONDS:g} s", where=log)


def _flwr(*arguments: list[str], environment: dict[str, str], home: Path) -> dict[str, Any]:
    """Call the ``flwr`` command and read the JSON object in its output."""
    command = [word for words in arguments for word in words]
    done = subprocess.run(
        [_program("flwr"), *command, "--format", "json"],
        env=environment,
        cwd=home / "empty",
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"\{.*\}", done.stdout, flags=re.DOTALL)
    answer: dict[str, Any] = json.loads(found.group()) if found else {}
    if done.returncode != 0 or not answer.get("success"):
        reason = answer.get("error-message") or (done.stderr or done.stdout).strip()[-500:]
        raise EngineError(f"'flwr {command[0]}' failed: {reason}", where=home / "superlink.log")
    return answer


def _program(name: str) -> str:
    # The program of this very environment, whether or not it is activated.
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
