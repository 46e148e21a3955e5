"""Answers a run's messages as an honest source does, with a random vector in the place of a trained one.

The messages, the signatures and the envelopes are real. Only the work on data is left out: with the ClientApp's own
handlers, each message would read the whole roster, and 1,000 sources on one machine would take an hour of that alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from flwr.app import Message

from fedsteph.client.sharing.outgoing import context_of
from fedsteph.client.sharing.statement import Statement, vector_content
from fedsteph.common.errors import ProtocolError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.keys import Identity, PublicKeys
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.envelope import seal
from fedsteph.simulations.relay.sealing import random_vector

_NO_LINE = "0" * 64  # the last hash of an empty audit log
_KEPT_DAYS = 365  # a policy's default: the target keeps every vector
_STATEMENT = Statement(None, None, None, None, None)


class ScriptedSource:
    """One source: its name, its keys, and how often it has sealed a vector (``n_sealed``)."""

    def __init__(self, name: str, identity: Identity, seed: int, width: int, targets: Mapping[str, PublicKeys]) -> None:
        """``seed``: of its vector; ``width``: of its features; ``targets``: the keys of those that it may seal to."""
        self.name = name
        self.n_sealed = 0
        self._identity = identity
        self._seed = seed
        self._width = width
        self._targets = targets

    def answer(self, message: Message) -> Message:
        """The reply to a message. Raises ProtocolError if it is none that a source of this run gets."""
        content, action = protocol.parcel(message.content, "request"), message.metadata.message_type
        envelopes: dict[str, bytes] = {}
        reply: Any
        if action == protocol.HELLO:
            request = protocol.read(content, messages.Hello, "request")
            reply = self._hello(request, message.metadata.dst_node_id)
        elif action == protocol.LOCAL:
            reply = messages.TrainLocalReply("30-39", "10-19")
        elif action == protocol.SHARE:
            reply = messages.ShareReply()
            envelopes = self._envelopes(protocol.read(content, messages.Share, "request"))
        else:
            raise ProtocolError(f"{action} is for no source of this run", where="request")
        return Message(protocol.pack(reply, envelopes), reply_to=message)

    def _hello(self, request: messages.Hello, node: int) -> messages.HelloReply:
        software = version("fedsteph")
        reply = messages.HelloReply(self.name, software, None, None, None, self._width, _NO_LINE, "0" * 128)
        signature = self._identity.signer.sign(reply.signed_bytes(request.id, node))
        return replace(reply, signature=signature.hex())

    def _envelopes(self, request: messages.Share) -> dict[str, bytes]:
        model = request.recipe.model
        vector = random_vector(Architecture.of(model), str(model.m0_sha256), self._seed)
        plain = vector_content(_STATEMENT, write_vector(vector, request.recipe.sharing))
        sealed = {}
        for name in request.recipients:
            context = context_of(request.recipe, request.id.federation, request.id.run, self.name, name)
            number = time.time_ns() // 1_000_000
            sealed[name] = seal(plain, context, number, self._identity, self._targets[name], _KEPT_DAYS)
            self.n_sealed += 1
        return sealed
