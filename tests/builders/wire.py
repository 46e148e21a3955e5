"""What passes between the server and its sites, as the bytes that Flower sends, and every single value in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from google.protobuf.message import Message as AnyProto

from fedsteph.common.wire.protocol import parcel
from fedsteph.simulations.run import in_process
from fedsteph.simulations.run.in_process import InProcessGrid

BODY = "content.fedsteph.config_record.body.value.string"
ENTRIES = "content.envelopes.array_record."


@dataclass(frozen=True)
class Passed:
    """One message on its way to a site, or a site's answer."""

    site: str
    to_server: bool
    raw: bytes

    @property
    def proto(self) -> MessageProto:
        """The message as Flower's own type."""
        return MessageProto.FromString(self.raw)

    @property
    def body(self) -> str:
        """The JSON text of what it says."""
        return next((str(value) for path, value in _of_proto(self.proto, "") if path == BODY), "{}")

    @property
    def kind(self) -> str:
        """Which of the protocol's messages it is."""
        return next(iter(json.loads(self.body)), "")

    @property
    def envelopes(self) -> Mapping[str, bytes]:
        """Its envelopes or updates, by name."""
        return dict(parcel(message_from_proto(self.proto).content, "test").envelopes)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every value that it carries, with its path; an entry of a list is ``[]``, an envelope's name ``{}``."""
        for path, value in _of_proto(self.proto, ""):
            yield path, value
            if path == BODY:
                yield from leaves_of(json.loads(value))

    def saying(self, body: str) -> Passed:
        """The same message with another body."""
        proto = self.proto
        header = next(item for item in proto.content.items if item.key == "fedsteph")
        for item in header.config_record.items:
            if item.key == "body":
                item.value.string = body
        return Passed(self.site, self.to_server, proto.SerializeToString())


def leaves_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in parsed JSON, with its path."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves_of(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for below in value:
            yield from leaves_of(below, f"{path}[]")
    else:
        yield path, value


def _of_proto(proto: AnyProto, path: str) -> Iterator[tuple[str, Any]]:
    for field, value in proto.ListFields():
        below = f"{path}.{field.name}" if path else field.name
        if field.name == "items":  # Flower's way to write a mapping; only that of envelopes has names of its own
            for item in value:
                name = "{}" if path.endswith("array_record") else item.key
                if name == "{}":
                    yield f"{path}.{{}}", item.key
                item.ClearField("key")
                yield from _of_proto(item, f"{path}.{name}")
        elif isinstance(value, AnyProto):
            yield from _of_proto(value, below)
        elif isinstance(value, str | bytes | int | float):
            yield below, value
        else:
            yield from ((f"{below}[]", one) for one in value)


class RecordingGrid(InProcessGrid):
    """Keeps the bytes of every message that the server pushes or pulls."""

    names: ClassVar[tuple[str, ...]]  # of the sites, in the order of their nodes
    passed: ClassVar[list[Passed]]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = list(messages)
        ids = list(super().push_messages(pushed))
        for message, message_id in zip(pushed, ids, strict=True):
            site = self.names[message.metadata.dst_node_id - 1]
            self.passed.append(Passed(site, False, self._waiting[message_id]))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        pulled = list(super().pull_messages(message_ids))
        for message in pulled:
            site = self.names[message.metadata.src_node_id - 1]
            self.passed.append(Passed(site, True, message_to_proto(message).SerializeToString()))
        return pulled


@contextmanager
def recorded(names: Iterable[str]) -> Iterator[list[Passed]]:
    """What runs in this process send inside the block, between the server and sites of these names."""
    passed: list[Passed] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordingGrid, "names", tuple(names), raising=False)
        patch.setattr(RecordingGrid, "passed", passed, raising=False)
        patch.setattr(in_process, "InProcessGrid", RecordingGrid)
        yield passed
