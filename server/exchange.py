"""One round of messages: push to named nodes, pull until all have answered or the deadline is over."""

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
# What Flower's own error codes mean for someone who runs a federation (flwr.common.constant.ErrorCode).
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
    """What came back in one phase: parcels and failures by node, seconds, bytes both ways."""

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

    Replies are matched by the id of the message they answer: an error that the SuperLink makes on a node's
    behalf does not carry the node's id.

    Args:
        deadline: seconds to wait; who has not answered by then has failed, by name.
        on_answer: told which node has answered, or failed and why.
    """
    found = Round()
    started = time.monotonic()
    waiting: dict[str, int] = {}
    for node, records in requests.items():
        found.bytes_sent += protocol.parcel(records, action).n_bytes
        message = Message(records, dst_node_id=node, message_type=action, ttl=deadline)
        for message_id in grid.push_messages([message]):
            waiting[message_id] = node
    for node in requests.keys() - set(waiting.values()):
        found.failures[node] = "the message could not be sent to it"
    while waiting:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            reply_to = reply.metadata.reply_to_message_id
            if reply_to in waiting:
                node = waiting.pop(reply_to)
                _take(reply, node, found)
                on_answer(node, found.failures.get(node, "answered"))
        if waiting and time.monotonic() - started > deadline:
            found.failures |= {node: f"no answer within {deadline:g} s" for node in waiting.values()}
            break
        if waiting and not replies:
            time.sleep(_POLL_SECONDS)
    found.seconds = time.monotonic() - started
    return found


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
    # The error's own text comes from the node's exception, patient file names included: it stays unread.
    return _FLOWER_ERRORS.get(error.code, f"Flower error {error.code}")
