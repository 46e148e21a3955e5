"""Scripted sites: a ClientApp that answers a server as honest sites do, or as a test says."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp
from keys_and_rosters import identity_of, roster_of

from fedsteph.common.model.architecture import Architecture
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.messages import Score

SITES = ("a", "b", "c", "d")
ROSTER = roster_of(*SITES, "guest", federation="fedsteph")
AUDIT_HEADS = {name: hashlib.sha256(name.encode()).hexdigest() for name in (*SITES, "guest")}
SCORES = (Score("local", 0.6), Score("model_average", None), Score("steph", None), Score("deployed", 0.6))
TINY = Architecture(width=2, embed=2, attention=1, n_bins=2)
WEIGHTS = {"a": 10, "b": 30, "c": 40, "d": 120}  # patients, as the sites tell them in rounds


def reply_to(message, reply, envelopes=None):
    return Message(protocol.pack(reply, envelopes), reply_to=message)


FEATURES = {"encoder": "uni2-h", "magnification": 20.0, "patch_size": None, "width": 6}


def hello_of(message, name="b", *, signer=None, node=None, run=None, **features):
    """What ``name`` answers to a hello; signed by another's key, or for another node or run, it is a forgery."""
    request = protocol.read(protocol.parcel(message.content, "test"), messages.Hello, "test")
    node = message.metadata.dst_node_id if node is None else node
    head = AUDIT_HEADS.get(name, "0" * 64)
    reply = messages.HelloReply(name, "1", **FEATURES | features, audit=head, signature="0" * 128)
    signed = reply.signed_bytes(replace(request.id, **(run or {})), node)
    return replace(reply, signature=identity_of(signer or name).signer.sign(signed).hex())


class Sites:
    """Scripted sites: honest by default; ``faults[(site, action)]`` answers instead."""

    def __init__(self, faults=None):
        self.faults = faults or {}
        self.seen = []
        self.app = ClientApp()
        self.app.query("hello")(self.answer)
        for action in ("local", "average", "share", "deliver", "merge"):
            self.app.train(action)(self.answer)

    def answer(self, message, context):
        name = SITES[context.node_config["partition-id"]]
        action = message.metadata.message_type
        parcel = protocol.parcel(message.content, "test")
        self.seen.append((name, action, parcel))
        if (fault := self.faults.get((name, action))) is not None:
            return fault(message)
        if action == protocol.HELLO:
            return reply_to(message, hello_of(message, name))
        if action == protocol.LOCAL:
            return reply_to(message, messages.TrainLocalReply("20-29", "10-19"))
        if action == protocol.AVERAGE:
            request = protocol.read(parcel, messages.Average, "test")
            reply = messages.AverageReply(WEIGHTS[name])
            return reply_to(message, reply, None if request.is_last else updates_of(name, request.round))
        if action == protocol.SHARE:
            request = protocol.read(parcel, messages.Share, "test")
            letters = {to: f"{name} to {to}".encode() for to in request.recipients}
            return reply_to(message, messages.ShareReply(), letters)
        if action == protocol.DELIVER:
            return reply_to(message, messages.DeliverReply())
        return reply_to(message, messages.MergeReply("20-29", "10-19", (), SCORES))

    def asked_to_average(self):
        """Who was asked in which round, and what encoders came with it."""
        found = {}
        for name, action, parcel in self.seen:
            if action == protocol.AVERAGE:
                request = protocol.read(parcel, messages.Average, "test")
                found.setdefault((request.method, request.round), {})[name] = dict(parcel.envelopes)
        return found


def update_of(name, round_, fold):
    """One number for a whole encoder, so that an average can be done by hand."""
    return (SITES.index(name) + 10 * round_ + 100 * fold) / 100


def updates_of(name, round_):
    return {str(fold): vector_of(update_of(name, round_, fold)) for fold in range(2)}


def vector_of(value):
    tensors = {tensor: torch.full(shape, value) for tensor, shape in TINY.encoder_shapes.items()}
    return write_vector(TaskVector(TINY, "0" * 64, tensors))
