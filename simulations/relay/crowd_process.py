"""A process with many sources of a crowd: registers and connects them, and answers for them until it is told to end."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.cli import app as flower_commands
from flwr.supernode.fleet_http_connection import http_request_response

from fedsteph.common.deployment.flower_programs import CONNECTION, QUIET
from fedsteph.common.errors import EngineError
from fedsteph.common.trust.keys import Identity, PublicKeys
from fedsteph.server.deployment.certificates import make_node_key
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.simulations.relay.crowd_node import CrowdNode, Pace
from fedsteph.simulations.relay.crowd_source import ScriptedSource


@dataclass(frozen=True)
class Part:
    """What one process needs: its sources, whom they seal to, and where the server is."""

    names: tuple[str, ...]
    identities: tuple[Identity, ...]
    target: str
    target_keys: PublicKeys
    width: int
    seed: int  # of the first source's vector; the next one's is one more
    server: ServerFile
    keys: Path  # folder of its node keys


class Crowd:
    """The processes of a crowd, which end with the ``with`` block or this process."""

    def __init__(self, parts: Sequence[Part]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for part in parts:
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(part, there), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def ask(self, *words: Any) -> list[Any]:
        """Say something to every process, and wait for all their answers. Raises EngineError if one has ended."""
        try:
            for pipe in self._pipes:
                pipe.send(words)
            return [pipe.recv() for pipe in self._pipes]
        except (EOFError, OSError) as error:
            raise EngineError("a process of the crowd has ended", where="crowd") from error


def serve(part: Part, pipe: Connection) -> None:
    """Answer for a part's sources until the pipe closes; it asks to ``connect``, to ``measure``, or for ``sealed``."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    os.environ |= QUIET | {"FLWR_HOME": str(part.server.flwr_home)}
    sources = [
        ScriptedSource(name, identity, part.seed + index, part.width, {part.target: part.target_keys})
        for index, (name, identity) in enumerate(zip(part.names, part.identities, strict=True))
    ]
    pace, over = Pace(), Event()
    with ExitStack() as stack:
        while True:
            try:
                word, *rest = pipe.recv()
            except EOFError:
                return
            if word == "connect":
                pipe.send(_connect(part, sources, pace, over, stack))
            elif word == "measure":
                pipe.send(_measure(pace, *rest))
            else:
                pipe.send({source.name: source.n_sealed for source in sources})


def _connect(part: Part, sources: Sequence[ScriptedSource], pace: Pace, over: Event, stack: ExitStack) -> list[float]:
    """Seconds of registering and of connecting all sources."""
    keys, began = [], time.monotonic()
    for source in sources:
        secret, public = part.keys / source.name, part.keys / f"{source.name}.pub"
        make_node_key(secret, public)
        _register(source.name, public)
        keys.append(load_ssh_private_key(secret.read_bytes(), password=None))
    registered = time.monotonic()
    ca = part.server.ca.read_bytes()
    threads = []
    for source, key in zip(sources, keys, strict=True):
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pair = (key, key.public_key())
        connection = stack.enter_context(http_request_response(part.server.superlink, False, ca, pair))
        node = CrowdNode(source.answer, connection, pace)
        threads.append(Thread(target=node.serve, args=(over,)))
        threads[-1].start()
    stack.callback(_end, over, threads)  # called before the connections are closed
    return [registered - began, time.monotonic() - registered]


def _end(over: Event, threads: Sequence[Thread]) -> None:
    over.set()
    for thread in threads:
        thread.join()


def _register(name: str, public: Path) -> None:
    """As register-sites.sh does, but without a process per site."""
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["supernode", "register", str(public), CONNECTION, "--name", name]
        flower_commands.app(words, standalone_mode=False)


def _measure(pace: Pace, warm_seconds: float, seconds: float) -> list[float]:
    """How long each question took, in seconds, while all nodes asked as often as in a run."""
    pace.measured = True
    time.sleep(warm_seconds)
    pace.waits.clear()
    time.sleep(seconds)
    found, pace.measured = list(pace.waits), False
    return found
