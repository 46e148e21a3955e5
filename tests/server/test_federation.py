"""The coordinator against sites that misbehave; every message passes through Flower's own serialisation."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from common import messages, protocol
from common.config import Config, Deadlines, FederationConfig, ModelConfig
from common.errors import QuorumError
from server.federation import Federation
from simulations.in_process import InProcessGrid

SITES = ("a", "b", "c", "d")
SECRET = "PATIENT-0042"


def reply_to(message, name, reply, envelopes=None):
    return Message(protocol.pack(reply, envelopes), reply_to=message)


class Sites:
    """Scripted sites: honest by default; ``faults[(site, action)]`` answers instead."""

    def __init__(self, faults=None):
        self.faults = faults or {}
        self.seen = []
        self.app = ClientApp()
        for action in ("hello",):
            self.app.query(action)(self.answer)
        for action in ("local", "share", "merge"):
            self.app.train(action)(self.answer)

    def answer(self, message, context):
        name = SITES[context.node_config["partition-id"]]
        action = message.metadata.message_type
        parcel = protocol.parcel(message.content, "test")
        self.seen.append((name, action, parcel))
        if (fault := self.faults.get((name, action))) is not None:
            return fault(message)
        if action == protocol.HELLO:
            return reply_to(message, name, messages.HelloReply(name, "1", "uni2-h", 6))
        if action == protocol.LOCAL:
            return reply_to(message, name, messages.TrainLocalReply("20-29", "10-19"))
        if action == protocol.SHARE:
            request = protocol.read(parcel, messages.Share, "test")
            letters = {to: f"{name} to {to}".encode() for to in request.recipients}
            return reply_to(message, name, messages.ShareReply(), letters)
        return reply_to(message, name, messages.MergeReply("20-29", "10-19", (), 0.6, 0.6, 0.61, 0.61))


class SilentGrid(InProcessGrid):
    """Nodes in ``silent`` take their messages and never answer."""

    silent: tuple[int, ...] = ()

    def push_messages(self, messages):
        [message] = messages
        ids = list(super().push_messages([message]))
        if message.metadata.dst_node_id in self.silent:
            del self._waiting[ids[0]]
        return ids


def federation(sites, *, targets=("a",), quorum=2, grid=InProcessGrid, deadline=30.0, expected=SITES):
    config = Config(
        model=ModelConfig(width=6, encoder="uni2-h", m0_sha256="0" * 64),
        federation=FederationConfig(
            sites=expected,
            targets=targets,
            quorum=quorum,
            deadlines=Deadlines(deadline, deadline, deadline, deadline),
        ),
    )
    return Federation(grid(sites.app, len(SITES), {}), config, "run-1")


def failures(run):
    return [(failure.site, failure.phase, failure.reason) for failure in run.outcome.failures]


def test_an_honest_run_routes_every_envelope_to_its_target_and_only_there():
    sites = Sites()
    run = federation(sites, targets=("a", "c"))
    outcome = run.run()
    assert failures(run) == []
    assert set(outcome.targets) == {"a", "c"}
    merges = {name: dict(parcel.envelopes) for name, action, parcel in sites.seen if action == protocol.MERGE}
    assert merges == {
        "a": {name: f"{name} to a".encode() for name in "bcd"},
        "c": {name: f"{name} to c".encode() for name in "abd"},
    }
    every = {name: action for name, action, parcel in sites.seen if parcel.body.find('"every_fold":true') > 0}
    assert set(every) == {"a", "c"}
    sent = sum(parcel.n_bytes for _, _, parcel in sites.seen)
    assert outcome.bytes > sent > 0
    assert set(outcome.seconds) == {protocol.HELLO, protocol.LOCAL, protocol.SHARE, protocol.MERGE}


def raising(message):
    raise RuntimeError(f"{SECRET} is in /data/{SECRET}.h5")


def refusing(message):
    return reply_to(message, "b", messages.Refusal("DataError", "the site's data did not pass its check"))


def empty(message):
    return Message(RecordDict(), reply_to=message)


def old_version(message):
    body = {"version": 0, "body": "{}"}
    return Message(RecordDict({"fedsteph": ConfigRecord(body)}), reply_to=message)


def wrong_reply(message):
    return reply_to(message, "b", messages.ShareReply(), {"a": b"x"})


def not_json(message):
    body = {"version": protocol.VERSION, "body": "\x00garbage"}
    return Message(RecordDict({"fedsteph": ConfigRecord(body)}), reply_to=message)


def foreign_record(message):
    records = protocol.pack(messages.TrainLocalReply("20-29", "below 10"))
    records["weights"] = ArrayRecord()
    return Message(records, reply_to=message)


def long_text(message):
    body = '{"Refusal": {"kind": "x", "reason": "' + "y" * 1000 + '"}}'
    return Message(
        RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION, "body": body})}), reply_to=message
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (raising, "its app raised an exception"),
        (refusing, "data did not pass its check"),
        (empty, "not a fedsteph message"),
        (old_version, "protocol version 0"),
        (wrong_reply, "expected a TrainLocalReply"),
        (not_json, "not a TrainLocalReply"),
        (foreign_record, "not a fedsteph message"),
        (long_text, "not a TrainLocalReply"),
    ],
)
def test_a_failing_source_is_named_with_its_reason_and_the_run_goes_on(fault, said):
    sites = Sites({("b", protocol.LOCAL): fault})
    run = federation(sites)
    outcome = run.run()
    [(site, phase, reason)] = failures(run)
    assert (site, phase) == ("b", protocol.LOCAL)
    assert said in reason
    assert SECRET not in repr(outcome) and len(reason) < 300
    assert set(outcome.targets) == {"a"}
    assert ("b", protocol.SHARE) not in {(name, action) for name, action, _ in sites.seen}
    [merge] = [parcel for _, action, parcel in sites.seen if action == protocol.MERGE]
    assert set(merge.envelopes) == {"c", "d"}


def test_a_site_that_never_answers_is_named_after_the_deadline():
    class Grid(SilentGrid):
        silent = (3,)

    sites = Sites()
    run = federation(sites, grid=Grid, deadline=0.5)
    run.run()
    named = [(site, phase) for site, phase, _ in failures(run)]
    assert ("node 3", protocol.HELLO) in named and ("c", protocol.HELLO) in named
    assert any("no answer within" in reason for _, _, reason in failures(run))
    assert set(run.outcome.targets) == {"a"}


@pytest.mark.parametrize(
    ("faults", "quorum", "said"),
    [
        ({("b", protocol.LOCAL): refusing, ("c", protocol.LOCAL): refusing}, 3, "2 of 3 sites needed"),
        ({("a", protocol.LOCAL): refusing}, 2, "no target is left"),
        ({("a", protocol.MERGE): raising}, 2, "no target has a result"),
        ({(name, protocol.SHARE): refusing for name in "bcd"}, 2, "1 of 2 sites needed"),
    ],
)
def test_a_lost_quorum_ends_the_run_and_names_everybody(faults, quorum, said):
    run = federation(Sites(faults), quorum=quorum)
    with pytest.raises(QuorumError, match=said) as caught:
        run.run()
    for site, _ in faults:
        assert f"{site} failed in" in str(caught.value)


def test_another_target_goes_on_when_one_fails():
    run = federation(Sites({("a", protocol.MERGE): raising}), targets=("a", "c"))
    outcome = run.run()
    assert set(outcome.targets) == {"c"}
    assert failures(run)[0][:2] == ("a", protocol.MERGE)


def test_a_finished_target_is_kept_when_the_rest_falls_below_the_quorum():
    sites = Sites({("c", protocol.MERGE): raising})
    run = federation(sites, targets=("a", "c"), quorum=4)
    assert set(run.run().targets) == {"a"}
    assert failures(run)[0][:2] == ("c", protocol.MERGE)


def hello_as(name="b", width=6, encoder="uni2-h"):
    return lambda message: reply_to(message, name, messages.HelloReply(name, "1", encoder, width))


@pytest.mark.parametrize(
    ("fault", "site", "said"),
    [
        (
            hello_as(width=1024, encoder="uni_v1"),
            "b",
            "its features are of uni_v1 (1024 wide), the federation's of uni2-h (6 wide)",
        ),
        (hello_as(encoder="virchow2"), "b", "its features are of virchow2 (6 wide)"),
        (hello_as(name="stranger"), "stranger", "not among federation.sites"),
        (hello_as(name="a"), "node 2", "it says that it is a, as another does"),
    ],
)
def test_hello_refuses_a_mismatch_by_name(fault, site, said):
    run = federation(Sites({("b", protocol.HELLO): fault}))
    run.run()
    assert any(name == site and said in reason for name, _, reason in failures(run))
    assert any(name == "b" for name, _, _ in failures(run))


def test_envelopes_for_strangers_go_nowhere():
    def chatty(message):
        return reply_to(message, "b", messages.ShareReply(), {"a": b"mine", "d": b"not asked for", "../x": b"?"})

    sites = Sites({("b", protocol.SHARE): chatty})
    federation(sites).run()
    merges = [(name, dict(parcel.envelopes)) for name, action, parcel in sites.seen if action == protocol.MERGE]
    assert [name for name, _ in merges] == ["a"]
    assert merges[0][1]["b"] == b"mine"


def test_vectors_that_the_target_refused_are_reported():
    def merged(message):
        return reply_to(message, "a", messages.MergeReply("20-29", "10-19", ("c",), 0.6, None, None, 0.6))

    run = federation(Sites({("a", protocol.MERGE): merged}))
    run.run()
    assert failures(run) == [("c", protocol.MERGE, "its vector was refused by a")]
