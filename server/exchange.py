"""Sends one message to each of several nodes, and waits until all have answered or the deadline has passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedsteph.common.errors import FedstephError
from fedsteph.common.wire import protocol
from fedsteph.common.wire.protocol import Parcel

_POLL_SECONDS = 0.2
# Flower's error codes (flwr.common.constant.ErrorCode), in words for a coordinator.
_FLOWER_ERRORS = {
    1: "its app could not be loaded: a site runs the version that it has reviewed, and no other",
    2: "its app raised an exception",
    3: "it had not answered when the message expired",
    4: "its answer had expired",
    5: "it is not connected any more",
    7: "its app bundle is not valid",
    8: "its app crashed",
}


@dataclass
class Round:
    """The result of one exchange: answers and reasons of failures by node, seconds, bytes in both directions."""

    answers: dict[int, Parcel] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0


def exchange(
    grid: Grid,
    action: str,
    requests: Mapping[int, RecordDict],
    deadline: float,
    on_answer: Callable[[int, str], None] = lambda node, what: None,
) -> Round:
    """Send one request per node and collect the answers.

    Args:
        deadline: seconds to wait; a node that has not answered by then has failed.
        on_answer: called with the node, and "answered" or the reason why it failed.
    """
    found = Round()
    started = time.monotonic()
    waiting = _push(grid, action, requests, deadline, found)
    while waiting:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            # By message id: an error that the SuperLink makes on a node's behalf does not carry the node's id.
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is not None:
                _take(reply, node, found)
                on_answer(node, found.failures.get(node, "answered"))
        if waiting and time.monotonic() - started > deadline:
            found.failures |= {node: f"no answer within {deadline:g} s" for node in waiting.values()}
            break
        if waiting and not replies:
            time.sleep(_POLL_SECONDS)
    found.seconds = time.monotonic() - started
    return found


def _push(grid: Grid, action: str, requests: Mapping[int, RecordDict], deadline: float, found: Round) -> dict[str, int]:
    """Send the requests; returns the nodes whose answers are awaited, by message id."""
    waiting: dict[str, int] = {}
    for node, records in requests.items():
        found.bytes_sent += protocol.parcel(records, action).n_bytes
        message = Message(records, dst_node_id=node, message_type=action, ttl=deadline)
        waiting |= dict.fromkeys(grid.push_messages([message]), node)
    for node in requests.keys() - set(waiting.values()):
        found.failures[node] = "the message could not be sent to it"
    return waiting


def _take(reply: Message, node: int, found: Round) -> None:
    if reply.has_error():
        found.failures[node] = _spoken(reply.error)
        return
    try:
        answer = protocol.parcel(reply.content, "its answer")
    except FedstephError as error:
        found.failures[node] = error.sentence
        return
    found.bytes_received += answer.n_bytes
    found.answers[node] = answer


def _spoken(error: Error) -> str:
    # The error's own text is that of the node's exception, which may name patients' files: it is not read.
    return _FLOWER_ERRORS.get(error.code, f"Flower error {error.code}")
