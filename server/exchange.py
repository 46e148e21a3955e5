"""Sends messages to nodes and collects their answers, each within a deadline of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsteph.common.errors import FedstephError
from fedsteph.common.wire import protocol
from fedsteph.common.wire.letters import IN_THE_AIR, in_groups
from fedsteph.common.wire.protocol import Parcel

_POLL_SECONDS = 0.2
_PATIENCE = 4.0  # a wait takes at least so many times as long as the look before it
_MOST_AT_ONCE = 100  # messages in one request to Flower
_GONE = 5  # flwr.common.constant.ErrorCode.NODE_UNAVAILABLE
# Flower's error codes (flwr.common.constant.ErrorCode), in words for a coordinator.
_FLOWER_ERRORS = {
    1: "its app could not be loaded: a site runs the version that it has reviewed, and no other; this server's is "
    f"fedsteph {version('fedsteph')}, whose code 'fedsteph app digest' tells",
    2: "its app raised an exception",
    3: "it had not answered when the message expired",
    4: "its answer had expired",
    _GONE: "it is not connected any more",
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


class Exchange:
    """Messages of one kind on their way to nodes, and what has come back so far (``found``).

    Each waits ``deadline`` seconds for its answer, or its node has failed; ``on_answer`` is told "answered" or the
    reason. A node that loses its connection is waited for, ``away`` seconds at most and within its deadline, and asked
    again when it is back; ``on_change`` is told of both.
    """

    def __init__(
        self,
        grid: Grid,
        action: str,
        deadline: float,
        on_answer: Callable[[int, str], None] = lambda node, what: None,
        *,
        away: float = 0.0,
        on_change: Callable[[int, str], None] = lambda node, what: None,
    ) -> None:
        self.found = Round()
        self._grid = grid
        self._action = action
        self._deadline = deadline
        self._on_answer = on_answer
        self._away = away
        self._on_change = on_change
        self._started = time.monotonic()
        self._waiting: dict[str, tuple[int, float]] = {}  # by message id: the node, and when its time is over
        self._asked: dict[int, tuple[RecordDict, float]] = {}  # what each node was asked, and when its time is over
        self._gone: dict[int, float] = {}  # nodes without a connection, and until when each is waited for

    @property
    def awaited(self) -> set[int]:
        """The nodes that have not answered yet."""
        return {node for node, _ in self._waiting.values()} | self._gone.keys()

    def send(self, requests: Mapping[int, RecordDict]) -> None:
        """Send one request per node; a node that Flower takes no message for has failed at once."""
        sizes = {node: protocol.parcel(records, self._action).n_bytes for node, records in requests.items()}
        # Together, because Flower sends what several messages have in common once, and each takes fewer requests.
        for nodes in in_groups(requests, lambda node: max(sizes[node], IN_THE_AIR // _MOST_AT_ONCE)):
            until = time.monotonic() + self._deadline
            self._asked |= {node: (requests[node], until) for node in nodes}
            self._push(nodes, self._deadline)

    def _push(self, nodes: Sequence[int], ttl: float) -> None:
        messages = []
        for node in nodes:
            records, _ = self._asked[node]
            self.found.bytes_sent += protocol.parcel(records, self._action).n_bytes
            messages.append(Message(records, dst_node_id=node, message_type=self._action, ttl=ttl))
        # Flower returns "" (before 1.42: None) for a message that it refuses to store, and nothing for too many bytes.
        sent = list(self._grid.push_messages(messages)) or [""] * len(nodes)
        for node, number in zip(nodes, sent, strict=True):
            if number:
                self._waiting[number] = node, self._asked[node][1]
            else:
                self.found.failures[node] = "the message could not be sent to it"

    def collect(self) -> bool:
        """Take the answers that have come; whether there was one."""
        replies = list(self._grid.pull_messages(list(self._waiting))) if self._waiting else []
        for reply in replies:
            # By message id: an error that the SuperLink makes on a node's behalf does not carry the node's id.
            node, until = self._waiting.pop(str(reply.metadata.reply_to_message_id), (None, 0.0))
            if node is None:
                continue
            if reply.has_error() and reply.error.code == _GONE and self._away:
                self._gone[node] = min(until, time.monotonic() + self._away)
                self._on_change(node, "lost its connection; it will be asked again when it is back")
                continue
            self._take(reply, node)
            self._on_answer(node, self.found.failures.get(node, "answered"))
        self._ask_who_is_back()
        now = time.monotonic()
        for number, (node, until) in list(self._waiting.items()):
            if now > until:
                del self._waiting[number]
                self.found.failures[node] = f"no answer within {self._deadline:g} s"
        self.found.seconds = now - self._started
        return bool(replies)

    def _ask_who_is_back(self) -> None:
        online = set(self._grid.get_node_ids()) if self._gone else set()
        for node, until in list(self._gone.items()):
            if node in online:
                del self._gone[node]
                self._push([node], self._asked[node][1] - time.monotonic())
                self._on_change(node, "is back, and was asked again")
            elif time.monotonic() > until:
                del self._gone[node]
                self.found.failures[node] = f"it was not connected any more, and not back within {self._away:g} s"
                self._on_answer(node, self.found.failures[node])

    def _take(self, reply: Message, node: int) -> None:
        if reply.has_error():
            # The error's own text is that of the node's exception, which may name patients' files: it is not read.
            code = reply.error.code
            self.found.failures[node] = _FLOWER_ERRORS.get(code, f"Flower error {code}")
            return
        try:
            answer = protocol.parcel(reply.content, "its answer")
        except FedstephError as error:
            self.found.failures[node] = error.sentence
            return
        self.found.bytes_received += answer.n_bytes
        self.found.answers[node] = answer


def exchange(
    grid: Grid,
    action: str,
    requests: Mapping[int, RecordDict],
    deadline: float,
    on_answer: Callable[[int, str], None] = lambda node, what: None,
    *,
    away: float = 0.0,
    on_change: Callable[[int, str], None] = lambda node, what: None,
    on_look: Callable[[], None] = lambda: None,
) -> Round:
    """Send one request per node and wait until each has answered or failed; arguments as :class:`Exchange`.

    ``on_look`` is called after each look for answers.
    """
    talk = Exchange(grid, action, deadline, on_answer, away=away, on_change=on_change)
    talk.send(requests)
    while talk.awaited:
        began = time.monotonic()
        heard = talk.collect()
        on_look()
        if not heard and talk.awaited:
            wait_after(began)
    return talk.found


def wait_after(began: float) -> None:
    """Wait after a look that began then and heard nothing: longer after one that cost the SuperLink much."""
    time.sleep(max(_POLL_SECONDS, _PATIENCE * (time.monotonic() - began)))
