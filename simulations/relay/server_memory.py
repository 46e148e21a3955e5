"""Measures the ServerApp's memory while it relays: ``python -m fedsteph.simulations.relay.server_memory``.

Every site is a source and a target, as in the largest federation of its size. The ServerApp's own code collects and
delivers random bytes, as many as envelopes have, through a grid in the same process. Like Flower's it serialises every
message; it gives all answers that are there at one pull, which is the worst case, and keeps nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.trust.audit_log import AuditLog
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import Entry, Roster
from fedsteph.common.vector.shared_part import shared_bytes
from fedsteph.common.wire import messages, protocol
from fedsteph.server.mail_room import MailRoom
from fedsteph.server.relay import collect, deliver, mail_of_targets
from fedsteph.server.session import Session
from fedsteph.simulations.memory import memory_of
from fedsteph.simulations.run.in_process import InProcessGrid

_ADDED = 4096  # bytes of an envelope besides the vector's values, about
_DEADLINE_SECONDS = 3600.0


class _Grid(InProcessGrid):
    """Answers every share with random envelopes, and every delivery."""

    def __init__(self, n_sites: int, envelope: int) -> None:
        super().__init__(ClientApp(), n_sites, {})
        self._envelope = envelope
        self._pushed: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            [number] = super().push_messages([message])
            request = message_from_proto(MessageProto.FromString(self._waiting.pop(number)))
            self._pushed[number] = self._reply(request)
            yield number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        there = [self._pushed.pop(number) for number in list(message_ids) if number in self._pushed]
        return [self._filled(reply) for reply in there]

    def _reply(self, request: Message) -> Message:
        """Without envelopes, which a real grid holds in another process; a share's recipients stand in their place."""
        if request.metadata.message_type == protocol.DELIVER:
            return Message(protocol.pack(messages.DeliverReply()), reply_to=request)
        content = protocol.parcel(request.content, "request")
        names = protocol.read(content, messages.Share, "request").recipients
        return Message(protocol.pack(messages.ShareReply(), dict.fromkeys(names, b"")), reply_to=request)

    def _filled(self, reply: Message) -> Message:
        names = protocol.parcel(reply.content, "reply").envelopes
        if names:
            reply.content = protocol.pack(messages.ShareReply(), {name: os.urandom(self._envelope) for name in names})
        return message_from_proto(MessageProto.FromString(message_to_proto(reply).SerializeToString()))


def configuration(n_sites: int) -> Config:
    """A federation of ABMIL on features 1,536 wide, in which every site is a target."""
    names = ",".join(f"s{index:04}" for index in range(n_sites))
    return load_config(None, ["model.width=1536", f"federation.sites=[{names}]", f"federation.targets=[{names}]"])


def measure(n_sites: int) -> dict[str, Any]:
    """Relay all envelopes of a federation in this process. JSON-ready; memory and envelopes in bytes."""
    config, keys = configuration(n_sites), Identity.generate().public
    envelope = shared_bytes(config.model, config.sharing) + _ADDED
    entries = (Entry.of(name, keys, cancer=None, contact="bench") for name in config.federation.sites[:1])
    grid = _Grid(n_sites, envelope)
    before, began = memory_of("VmHWM"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedsteph-bench-") as folder:
        audit, mail = AuditLog(Path(folder) / "audit"), MailRoom(Path(folder) / "mail")
        session = Session(grid, config, "bench", Roster(config.federation.name, (*entries,)), audit, mail=mail)
        session.names = {index + 1: name for index, name in enumerate(config.federation.sites)}
        collect(session, mail, _DEADLINE_SECONDS)
        letters = mail_of_targets(session, mail)
        deliver(session, mail, letters, _DEADLINE_SECONDS)
        n_letters = sum(map(len, letters.values()))
    seconds, peak = round(time.monotonic() - began, 1), memory_of("VmHWM")
    return {
        "sites": n_sites,
        "envelopes": n_letters,
        "envelope": envelope,
        "before": before,
        "peak": peak,
        "s": seconds,
    }


def main() -> None:
    """Measure federations of the sizes that are given, each in a process of its own."""
    sizes = [int(word) for word in sys.argv[1:]] or [5, 20, 50]
    if len(sizes) == 1:
        print(json.dumps(measure(sizes[0])))
        return
    for size in sizes:
        subprocess.run([sys.executable, "-m", "fedsteph.simulations.relay.server_memory", str(size)], check=True)


if __name__ == "__main__":
    main()
