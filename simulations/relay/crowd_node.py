"""Keeps one source of a crowd connected to the SuperLink, as Flower's SuperNode does, in a thread instead of a process.

It has its own key, node id, TLS connection and heartbeat, by Flower's own code. It asks for messages as often as
:mod:`fedsteph.client.deployment.prompt_node`, and fetches the app once per run, though it does not start it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects, push_objects

from fedsteph.client.deployment.prompt_node import PROMPT_SECONDS, PromptClock

_IDLE_SECONDS, _LOCAL_SECONDS = 3.0, 0.5  # that Flower's SuperNode waits for a message, and for an answer

_log = logging.getLogger(__name__)


@dataclass
class Pace:
    """How often all nodes of a process ask; while ``measured``, as in a run, and their waits are kept."""

    measured: bool = False
    waits: list[float] = field(default_factory=list)  # seconds that each question took


class CrowdNode:
    """One connected source. ``connection``: what Flower's ``http_request_response`` gives."""

    def __init__(self, answer: Callable[[Message], Message], connection: tuple[Any, ...], pace: Pace) -> None:
        _, self._receive, self._send, self._run, self._app, self._pull, self._push, self._confirm = connection
        self._answer = answer
        self._pace = pace
        self._runs: set[int] = set()
        self._clock = PromptClock()

    def serve(self, over: Event) -> None:
        """Ask and answer until ``over``; a fault is logged, and the node goes on."""
        wait = random.uniform(0, _IDLE_SECONDS)
        while not over.wait(PROMPT_SECONDS if self._pace.measured else wait):
            self._clock.go_on()
            try:
                while self.ask():
                    self._clock.wait(_LOCAL_SECONDS)
            except Exception:  # noqa: BLE001 (Flower's SuperNode goes on as well, whatever happens to a message)
                _log.exception("a message was lost")
            wait = self._clock.wait(_IDLE_SECONDS)

    def ask(self) -> bool:
        """Ask for a message, and answer it; whether there was one."""
        began = time.perf_counter()
        received = self._receive()
        if self._pace.measured:
            self._pace.waits.append(time.perf_counter() - began)
        if received is None:
            return False
        message, tree = received
        number, run = message.metadata.message_id, message.metadata.run_id
        if run not in self._runs:
            self._app(self._run(run).fab_hash, run)
            self._runs.add(run)
        parts = [part.object_id for part in iterate_object_tree(tree)]
        contents = pull_objects(parts, partial(self._pull, run))
        self._confirm(run, number)
        whole = inflate_object_from_contents(number, contents)
        assert isinstance(whole, Message)
        self._reply(run, _numbered(whole, number))
        return True

    def _reply(self, run: int, request: Message) -> None:
        began = time.monotonic()
        answer = self._answer(request)
        _numbered(answer, answer.object_id)
        wanted, session = self._send(answer, get_object_tree(answer), time.monotonic() - began)
        push_objects(get_all_nested_objects(answer), partial(self._push, run, session), object_ids_to_push=wanted)


def _numbered(message: Message, number: str) -> Message:
    """The message with its id, which Flower sets in this way too."""
    message.metadata.__dict__["_message_id"] = number
    return message
