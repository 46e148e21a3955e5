"""A crowd's source speaks the protocol, and its node speaks to a SuperLink, whose place a dictionary takes here."""

from __future__ import annotations

import pytest
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from keys_and_rosters import identity_of

from fedsteph.client.sharing.outgoing import context_of
from fedsteph.client.sharing.statement import read_content
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.vector.shared_part import WHOLE, shared_bytes
from fedsteph.common.vector.vector_file import read_vector
from fedsteph.common.wire import letters, messages, protocol
from fedsteph.common.wire.envelope import open_sealed
from fedsteph.simulations.relay.crowd_config import configuration
from fedsteph.simulations.relay.crowd_node import CrowdNode, Pace
from fedsteph.simulations.relay.crowd_source import ScriptedSource
from fedsteph.simulations.run.in_process import identify

NODE, RUN = 7, messages.RunId("crowd", "1", "0" * 64)
CONFIG = configuration(1000)  # vectors of 168 kB


class SuperLink:
    """Holds one message for one node, and takes the reply."""

    def __init__(self, action, request):
        identify()
        message = Message(protocol.pack(request), dst_node_id=NODE, message_type=action)
        number = message.metadata.__dict__["_message_id"] = message.object_id
        self.waiting = [(message, get_object_tree(message))]
        self.objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        self.confirmed, self.apps, self.number = [], [], number

    @property
    def connection(self):
        run = type("Run", (), {"fab_hash": "app"})
        return (
            NODE,
            lambda: self.waiting.pop() if self.waiting else None,
            self.take,
            lambda run_id: run,
            lambda app, run_id: self.apps.append(app),
            lambda run_id, name: self.objects[name],
            lambda run_id, session, name, content: self.objects.__setitem__(name, content),
            lambda run_id, name: self.confirmed.append(name),
        )

    def take(self, message, tree, seconds):
        self.reply = message.object_id
        return {part.object_id for part in iterate_object_tree(tree)}, "session"

    def answer(self):
        return protocol.parcel(inflate_object_from_contents(self.reply, self.objects).content, "test")


def asked(action, request):
    width = CONFIG.model.width
    source = ScriptedSource("source-00001", identity_of("b"), 0, width, {"target": identity_of("a").public})
    link, pace = SuperLink(action, request), Pace(measured=True)
    node = CrowdNode(source.answer, link.connection, pace)
    assert node.ask() and not node.ask()
    assert link.confirmed == [link.number] and link.apps == ["app"] and len(pace.waits) == 2
    return link.answer(), source


def test_a_source_signs_its_hello_as_its_node():
    found, _ = asked(protocol.HELLO, messages.Hello(RUN))
    reply = protocol.read(found, messages.HelloReply, "test")
    identity_of("b").public.verifier.verify(bytes.fromhex(reply.signature), reply.signed_bytes(RUN, NODE))
    assert (reply.site, reply.width) == ("source-00001", CONFIG.model.width)


def test_a_source_seals_a_vector_that_the_target_reads():
    found, source = asked(protocol.SHARE, messages.Share(RUN, CONFIG.recipe, ("target",)))
    protocol.read(found, messages.ShareReply, "test")
    expected = context_of(CONFIG.recipe, RUN.federation, RUN.run, source.name, "target")
    opened = open_sealed(found.envelopes["target"], expected, identity_of("a"), identity_of("b").public)
    content, architecture = read_content(opened.plain, "test")[1], Architecture.of(CONFIG.model)
    m0 = CONFIG.model.m0_sha256
    read_vector(content, architecture=architecture, m0_sha256=m0, sharing=WHOLE, max_norm=250.0, where="test")
    assert source.n_sealed == 1


@pytest.mark.parametrize("sources", [5, 200, 1000])
def test_all_envelopes_together_are_more_than_may_travel_at_once(sources):
    config = configuration(sources)
    assert len(config.federation.sites) == 1 + sources
    assert letters.IN_THE_AIR < sources * shared_bytes(config.model, config.sharing) < 2 * letters.IN_THE_AIR
