"""The Flower engine: runs a federation on Flower's simulation runtime (Ray), with its own SuperLink on loopback.

A plain ``flwr run`` starts a SuperLink that keeps running with its first folder and environment, and exits with 0 even
if the run failed. Here the SuperLink runs in an empty folder with its own ``FLWR_HOME``, uses this machine's cores and
GPUs, and is stopped with all its child processes. The status of the run is read instead of the exit code.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from fedsteph.client.site.site_of_node import read_sites
from fedsteph.client.training.device import resolve_device
from fedsteph.common.deployment.flower_app import assemble
from fedsteph.common.deployment.flower_programs import COMPLETED, CONFIG, Flower, connection, environment, program
from fedsteph.common.errors import ConfigError, EngineError
from fedsteph.common.host import atomic
from fedsteph.server.outcome import OUTCOME_FILE, Outcome
from fedsteph.simulations.run.leash import Leashed

_START_SECONDS = 90.0
_ASK_SECONDS = 30.0  # between two questions how the run is: the cores have other work


def run_with_flower(run_folder: Path) -> None:
    """Run a prepared federation on Flower's engine. ConfigError: not on this device; EngineError: Flower failed."""
    with started(run_folder) as run:
        run()


@contextmanager
def started(run_folder: Path) -> Iterator[Callable[[], None]]:
    """Start Flower's engine, for a run folder that may be prepared while it starts; gives what runs the federation.

    Errors of the running are those of :func:`run_with_flower`.
    """
    home = run_folder / "flower"
    with _superlink(home) as (superlink, wait_until_up):

        def run() -> None:
            app, sites = assemble(home / "fedsteph"), read_sites(run_folder)
            resources = _resources(len(sites), sites[0]["device"])
            wait_until_up()
            flower = Flower(home / "home", home / "superlink.log")
            run_config = home / "run.toml"
            atomic.write_text(run_config, f"run-folder = {json.dumps(str(run_folder.resolve()))}\n")
            run_id = flower.start(app, run_config, resources)
            is_over = (run_folder / "server" / OUTCOME_FILE).exists

            def is_done() -> bool:
                superlink.require_alive()
                return is_over() and (found := Outcome.read(run_folder)).error is None and bool(found.targets)

            status = flower.wait(run_id, is_over, patience=0, is_done=is_done, every=_ASK_SECONDS)
            if status != COMPLETED:
                what = f"Flower ended the run as {status} ({flower.details(run_id) or 'no reason given'})"
                raise EngineError(what, where=home / "superlink.log", remedy="See that log")
            superlink.ask_to_end()

        yield run


def _resources(n_sites: int, device: str) -> str:
    # One core per simulated site, so that no more sites train at a time than there are cores.
    cores = os.cpu_count() or 1
    gpus = 0.0
    if resolve_device(device).type == "cuda":
        if device not in ("auto", "cuda:0"):
            what = f"Flower's engine deals out GPUs itself, so {device} cannot be asked for"
            raise ConfigError(what, where="device", remedy="Use auto with CUDA_VISIBLE_DEVICES, or --engine in-process")
        gpus = min(1.0, torch.cuda.device_count() / min(n_sites, cores))
    return (
        f"num-supernodes={n_sites} client-resources-num-cpus=1 client-resources-num-gpus={gpus} "
        f'init-args-num-cpus={cores} init-args-log-to-driver=false backend="ray"'
    )


@contextmanager
def _superlink(home: Path) -> Iterator[tuple[Leashed, Callable[[], None]]]:
    """A SuperLink on a free loopback port, started before the block and stopped after it, and what waits for it."""
    empty = home / "empty"  # must be empty: a SuperLink puts its working directory first on sys.path
    empty.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    ray = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    atomic.write_text(home / "home" / CONFIG, connection(f"127.0.0.1:{port}", None))
    command = [program("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = home / "superlink.log"
    with Leashed(command, log, environment(home / "home") | ray, empty) as superlink:
        yield superlink, partial(_wait_until_up, superlink, port, log)


def _wait_until_up(superlink: Leashed, port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if (code := superlink.code) is not None:
            raise EngineError(f"the SuperLink ended at once with code {code}", where=log, remedy="See that log")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise EngineError(f"the SuperLink was not up within {_START_SECONDS:g} s", where=log)


def free_ports(n: int) -> list[int]:
    """``n`` different free TCP ports of 127.0.0.1."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
