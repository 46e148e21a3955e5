"""A whole run with the server under observation: what it receives, keeps and prints holds nothing of a vector.

Everything is compared byte by byte. Any 64 bytes in a row of a plaintext contain one of its 32-byte blocks that begin
at a multiple of 32; so a recording in which no 32 bytes in a row are such a block holds no such 64 bytes either.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from sites import TINY, make_site

from client.site import site_of_node
from client.workspace import Workspace
from common import protocol
from common.abmil import pinned_model
from common.config import load_config
from common.task_vector import TaskVector
from common.vector_file import write_vector
from simulations import in_process
from simulations.run_folder import RunFolder, prepare

BLOCK = 32
# Numbers of patients and events that no setting, band or folder name contains by itself.
SIZES = {"alpha": (37, 0.6), "beta": (38, 0.55), "gamma": (39, 0.7)}


@dataclass
class Observation:
    """Everything that passed the server: the bytes of its messages, its files, and what it printed or logged."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    printed: str = ""

    def take(self, message: Message) -> None:
        """One message, as Flower serialises it."""
        self.messages.append((message.metadata.message_type, message_to_proto(message).SerializeToString()))
        self.bodies.append(protocol.parcel(message.content, "observed").body)

    @property
    def everything(self) -> bytes:
        """All of it, one after the other, apart."""
        parts = [content for _, content in self.messages] + [*self.files.values(), self.printed.encode()]
        return b"\0\0\0\0".join(parts)

    @property
    def texts(self) -> Iterator[str]:
        """What a person at the server can read."""
        yield from self.bodies
        yield from (content.decode() for content in self.files.values())
        yield self.printed


class ObservedGrid(in_process.InProcessGrid):
    """Shows every message that the server pushes or pulls to an observation first."""

    seen: Observation

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = list(messages)
        for message in pushed:
            self.seen.take(message)
        return super().push_messages(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        pulled = list(super().pull_messages(message_ids))
        for message in pulled:
            self.seen.take(message)
        return pulled


@dataclass
class Watched:
    """A finished run, what its server saw, and what it must not have seen."""

    folder: RunFolder
    sites: Path
    seen: Observation
    vectors: dict[str, bytes]
    models: dict[str, bytes]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Watched]:
    tmp = tmp_path_factory.mktemp("watched")
    sites = tmp / "hospitals"
    for i, (name, (patients, share)) in enumerate(SIZES.items()):
        make_site(sites / name, seed=i, patients=patients, event_share=share)
    config = load_config(None, [*TINY, "federation.targets=[alpha,beta]"])
    folder, _ = prepare(tmp / "run", config, [sites / name for name in SIZES])
    seen = Observation()
    with pytest.MonkeyPatch.context() as patch, logged() as log:
        patch.setattr(ObservedGrid, "seen", seen, raising=False)
        patch.setattr(in_process, "InProcessGrid", ObservedGrid)
        in_process.run_in_process(folder.path)
        seen.printed += log.text
    for path in [*(folder.path / "server").rglob("*"), *folder.path.glob("*.yaml"), folder.path / "manifest.json"]:
        if path.is_file():
            seen.files[str(path.relative_to(folder.path))] = path.read_bytes()
    models = {str(p.relative_to(folder.path)): p.read_bytes() for p in folder.path.glob("sites/**/*.safetensors")}
    yield Watched(folder, sites, seen, dict(rebuilt_vectors(folder)), models)


class logged:  # noqa: N801 (used as a context manager only)
    """Everything that any logger but a site's own is told, at the lowest level."""

    def __enter__(self) -> logged:
        self._lines: list[str] = []
        self._handler = logging.Handler(logging.DEBUG)
        self._handler.emit = lambda record: self._lines.append(record.getMessage())  # type: ignore[method-assign]
        self._level = logging.getLogger().level
        logging.getLogger().addHandler(self._handler)
        logging.getLogger().setLevel(logging.DEBUG)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger().setLevel(self._level)

    @property
    def text(self) -> str:
        return "\n".join(self._lines)
