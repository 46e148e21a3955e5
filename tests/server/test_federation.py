"""The coordinator against sites that misbehave; every message passes through Flower's own serialisation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from each_case import each
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from keys_and_rosters import roster_of
from scripted_sites import (
    AUDIT_HEADS,
    FEATURES,
    ROSTER,
    SCORES,
    SITES,
    WEIGHTS,
    Sites,
    hello_of,
    reply_to,
    update_of,
    updates_of,
    vector_of,
)

from fedsteph.common.config.recipe import ComparatorConfig, ModelConfig
from fedsteph.common.config.run_config import Config, Deadlines, FederationConfig
from fedsteph.common.errors import EngineError, FedstephError, QuorumError, RunFolderError
from fedsteph.common.trust.audit_log import AuditLog, Event, read_lines, verify
from fedsteph.common.trust.signed_roster import sign
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.messages import Refusal
from fedsteph.server.federation import Federation
from fedsteph.server.mail_room import MailRoom
from fedsteph.server.run_status import RunStatus, StatusFile
from fedsteph.simulations.run.in_process import InProcessGrid

SECRET = "PATIENT-0042"


def value_of(content):
    """The one number of an encoder."""
    [value] = {number for tensor in safetensors.torch.load(content).values() for number in tensor.flatten().tolist()}
    return value


class SilentGrid(InProcessGrid):
    """Nodes in ``silent`` take their messages and never answer."""

    silent: tuple[int, ...] = ()

    def push_messages(self, messages):
        ids = list(super().push_messages(messages))
        for message, number in zip(messages, ids, strict=True):
            if message.metadata.dst_node_id in self.silent:
                del self._waiting[number]
        return ids


@pytest.fixture
def federation(tmp_path):
    """Makes a run over scripted sites, with its audit log in ``tmp_path``."""

    def make(
        sites, *, targets=("a",), quorum=2, grid=InProcessGrid, deadline=30.0, methods=(), nodes=0.01, away=0.0, **more
    ):
        config = Config(
            comparators=ComparatorConfig(methods=methods, rounds=2),
            model=ModelConfig(**FEATURES | {"patch_size": 256.0}, m0_sha256="0" * 64),
            federation=FederationConfig(
                sites=SITES, targets=targets, quorum=quorum, deadlines=Deadlines(nodes, *[deadline] * 4, away)
            ),
        )
        audit = AuditLog(tmp_path / "audit")
        mail = MailRoom(tmp_path / "mail")
        return Federation(grid(sites.app, len(SITES), {}), config, "run-1", ROSTER, audit, mail=mail, **more)

    return make


def failures(run):
    return [(failure.site, failure.phase, failure.reason) for failure in run.outcome.failures]


def test_an_honest_run_routes_every_envelope_to_its_target_and_only_there(federation):
    sites = Sites()
    run = federation(sites, targets=("a", "c"))
    outcome = run.run()
    assert failures(run) == [] and set(outcome.targets) == {"a", "c"}
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
    return reply_to(message, messages.Refusal("DataError", "the site's data did not pass its check"))


def empty(message):
    return Message(RecordDict(), reply_to=message)


def with_body(body, version=protocol.VERSION):
    records = RecordDict({"fedsteph": ConfigRecord({"version": version, "body": body})})
    return lambda message: Message(records, reply_to=message)


def wrong_reply(message):
    return reply_to(message, messages.ShareReply(), {"a": b"x"})


not_json = with_body("\x00garbage")


def foreign_record(message):
    records = protocol.pack(messages.TrainLocalReply("20-29", "below 10"))
    records["weights"] = ArrayRecord()
    return Message(records, reply_to=message)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (raising, "its app raised an exception"),
        (refusing, "data did not pass its check"),
        (empty, "not a fedsteph message"),
        (with_body("{}", version=0), "protocol version 0"),
        (wrong_reply, "expected a TrainLocalReply"),
        (not_json, "not a TrainLocalReply"),
        (foreign_record, "not a fedsteph message"),
        (with_body('{"Refusal": {"kind": "x", "reason": "' + "y" * 1000 + '"}}'), "not a TrainLocalReply"),
    ],
)
def test_a_failing_source_is_named_with_its_reason_and_the_run_goes_on(federation, fault, said):
    sites = Sites({("b", protocol.LOCAL): fault})
    run = federation(sites)
    outcome = run.run()
    [(site, phase, reason)] = failures(run)
    assert (site, phase) == ("b", protocol.LOCAL) and said in reason
    assert SECRET not in repr(outcome) and len(reason) < 300 and set(outcome.targets) == {"a"}
    assert ("b", protocol.SHARE) not in {(name, action) for name, action, _ in sites.seen}
    [merge] = [parcel for _, action, parcel in sites.seen if action == protocol.MERGE]
    assert set(merge.envelopes) == {"c", "d"}


def test_a_site_that_never_answers_is_named_after_the_deadline(federation):
    class Grid(SilentGrid):
        silent = (3,)

    sites = Sites()
    run = federation(sites, grid=Grid, deadline=0.5)
    run.run()
    named = [(site, phase) for site, phase, _ in failures(run)]
    assert ("node 3", protocol.HELLO) in named and ("c", protocol.HELLO) in named
    assert any("no answer within" in reason for _, _, reason in failures(run)) and set(run.outcome.targets) == {"a"}


def test_the_signed_roster_goes_to_all_and_a_site_with_another_history_is_named(federation):
    before, key = roster_of("a", federation="fedsteph"), Ed25519PrivateKey.generate()
    signed = sign(ROSTER, (before.digest,), key, Path("roster.yaml"))
    forked = lambda message: reply_to(message, hello_of(message, "b", roster_chain="0" * 64))  # noqa: E731
    same = lambda message: reply_to(message, hello_of(message, "c", roster_chain=signed.chain_digest))  # noqa: E731
    sites = Sites({("b", protocol.HELLO): forked, ("c", protocol.HELLO): same})
    run = federation(sites, signed=signed)
    run.run()
    asked = [
        protocol.read(parcel, messages.Hello, "test") for _, action, parcel in sites.seen if action == "query.hello"
    ]
    assert {request.roster for request in asked} == {signed}
    reason = f"it has accepted other rosters (chain {'0' * 64}) than this federation's"
    assert failures(run) == [("b", protocol.HELLO, reason)]


class ComingGrid(InProcessGrid):
    """Node 4 is there when ``comes`` says so, which is asked at each look; notes each message's deadline."""

    comes: Iterator[bool]

    def __init__(self, *words):
        super().__init__(*words)
        self.deadlines = set()

    def get_node_ids(self):
        return self._nodes if next(self.comes) else self._nodes[:-1]

    def push_messages(self, messages):
        self.deadlines |= {message.metadata.ttl for message in messages}
        return super().push_messages(messages)


def test_a_site_that_never_comes_stops_nobody_and_is_named_while_it_is_waited_for(federation):
    """The others are asked at once, with all of their own deadline; the run is not longer than the wait for nodes."""

    class Grid(ComingGrid):
        comes = repeat(False)

    said = []
    run = federation(Sites(), grid=Grid, deadline=1e4, report=lambda *words: said.append(words))
    assert set(run.run().targets) == {"a"}
    assert failures(run) == [("d", protocol.HELLO, "no node said that it is this site")] and run.grid.deadlines == {1e4}
    told = [text for phase, _, _, text in (words for words in said if len(words) == 4) if phase == protocol.HELLO]
    assert told[0].startswith("waiting for") and told[-1] == "waiting for d"


def test_a_site_that_comes_later_joins(federation):
    class Grid(ComingGrid):
        comes = chain(repeat(False, 2), repeat(True))

    run = federation(Sites(), grid=Grid, nodes=1e4)
    assert set(run.run().sites) == set(SITES) and failures(run) == []


def test_a_site_that_loses_its_connection_and_comes_back_joins(federation):
    """Flower answers for it once; that it failed then is nobody's concern."""

    class Grid(ComingGrid):
        comes = chain(repeat(True, 4), repeat(False, 2), repeat(True))

        def _answer(self, request):
            if request.metadata.dst_node_id == 4 and not self.lost:
                self.lost.append(4)
                return Message(Error(5, "not there"), reply_to=request)
            return super()._answer(request)

        lost: ClassVar[list[int]] = []

    run = federation(Sites(), grid=Grid, nodes=1e4)
    assert set(run.run().sites) == set(SITES) and failures(run) == [] and Grid.lost == [4]


class LosingGrid(InProcessGrid):
    """Site b loses its connection at every request of its own model, and is away for so many looks."""

    away = 3

    def __init__(self, *words):
        super().__init__(*words)
        self.looks, self.asked = None, 0

    def get_node_ids(self):
        nodes = super().get_node_ids()
        if self.looks is None:
            return nodes
        self.looks += 1
        return nodes if self.looks > self.away else [node for node in nodes if node != 2]

    def _answer(self, request):
        if request.metadata.dst_node_id == 2 and request.metadata.message_type == protocol.LOCAL:
            self.asked += 1
            if self.looks is None:
                self.looks = 0
                return Message(Error(5, "not there"), reply_to=request)
        return super()._answer(request)


def test_a_site_that_loses_its_connection_within_a_phase_is_asked_again(federation, tmp_path):
    run = federation(Sites(), grid=LosingGrid, away=60.0)
    assert set(run.run().sites) == set(SITES) and failures(run) == [] and run.grid.asked == 2
    told = [event for event in audited(tmp_path) if event.event == "train.local.connection"]
    assert [(event.peer, event.reason) for event in told] == [
        ("b", "lost its connection; it will be asked again when it is back"),
        ("b", "is back, and was asked again"),
    ]


@each("away", [0.0, 0.05])
def test_a_site_that_does_not_come_back_has_failed(federation, away):
    class Grid(LosingGrid):
        away = 10**9

    run = federation(Sites(), grid=Grid, away=away)
    run.run()
    [(site, phase, reason)] = failures(run)
    assert (site, phase) == ("b", protocol.LOCAL) and run.grid.asked == 1
    said = "it was not connected any more, and not back within 0.05 s" if away else "it is not connected any more"
    assert reason == said


@each("phase", [protocol.LOCAL, protocol.SHARE, protocol.MERGE])
def test_a_drained_run_ends_before_its_next_phase(federation, phase):
    """And nobody is asked for anything of it."""
    order, sites = [protocol.LOCAL, protocol.SHARE, protocol.MERGE], Sites()
    before = order[: order.index(phase)]
    run = federation(sites)
    run.drained = lambda: {action for _, action, _ in sites.seen} >= {protocol.HELLO, *before}
    with pytest.raises(EngineError, match=f"the run was drained before {phase}"):
        run.run()
    assert {action for _, action, _ in sites.seen} == {protocol.HELLO, *before}


@each("refused", ["", None])
def test_messages_that_flower_refuses_to_store_are_missed_at_once(federation, refused):
    """Each of them, and not only when the deadline has passed: Flower returns the same text in the place of an id."""

    class Grid(InProcessGrid):
        def push_messages(self, messages):
            stored = super().push_messages(messages)
            local = messages[0].metadata.message_type == protocol.LOCAL
            unstored = [local and message.metadata.dst_node_id in (2, 3) for message in messages]
            return [refused if lost else number for lost, number in zip(unstored, stored, strict=True)]

    run = federation(Sites(), grid=Grid, deadline=1e4)
    assert set(run.run().targets) == {"a"}
    assert failures(run) == [(site, protocol.LOCAL, "the message could not be sent to it") for site in "bc"]


@pytest.mark.parametrize(
    ("faults", "quorum", "said"),
    [
        ({("b", protocol.LOCAL): refusing, ("c", protocol.LOCAL): refusing}, 3, "2 of 3 sites needed"),
        ({("a", protocol.LOCAL): refusing}, 2, "no target is left"),
        ({("a", protocol.MERGE): raising}, 2, "no target has a result"),
        ({(name, protocol.SHARE): refusing for name in "bcd"}, 2, "1 of 2 sites needed"),
    ],
)
def test_a_lost_quorum_ends_the_run_and_names_everybody(federation, faults, quorum, said):
    run = federation(Sites(faults), quorum=quorum)
    with pytest.raises(QuorumError, match=said) as caught:
        run.run()
    for site, _ in faults:
        assert f"{site} failed in" in str(caught.value)


@pytest.mark.parametrize(("failing", "finished", "quorum"), [("a", "c", 2), ("c", "a", 4)])
def test_a_finished_target_is_kept_when_another_fails(federation, failing, finished, quorum):
    """Also when the rest falls below the quorum."""
    run = federation(Sites({(failing, protocol.MERGE): raising}), targets=("a", "c"), quorum=quorum)
    assert set(run.run().targets) == {finished} and failures(run)[0][:2] == (failing, protocol.MERGE)


def hello_as(**changes):
    return lambda message: reply_to(message, hello_of(message, **changes))


@pytest.mark.parametrize(
    ("fault", "site", "said"),
    [
        (hello_as(width=1024, encoder="uni_v1"), "b", "its features are of uni_v1 at 20x (1024 wide)"),
        (hello_as(encoder="virchow2"), "b", "the federation's of uni2-h at 20x, patches of 256 pixels (6 wide)"),
        (hello_as(magnification=10.0), "b", "its features are of uni2-h at 10x (6 wide)"),
        (hello_as(cancer="brca"), "b", "it says that its cancer is brca, and the roster has test"),
        (hello_as(patch_size=512.0), "b", "its features are of uni2-h at 20x, patches of 512 pixels (6 wide)"),
        (hello_as(name="guest"), "guest", "not among federation.sites"),
        (hello_as(name="a"), "node 2", "it says that it is a, as another does"),
    ],
)
def test_hello_refuses_a_mismatch_by_name(federation, fault, site, said):
    run = federation(Sites({("b", protocol.HELLO): fault}))
    run.run()
    assert any(name == site and said in reason for name, _, reason in failures(run))
    assert any(name == "b" for name, _, _ in failures(run))


def test_envelopes_for_strangers_go_nowhere(federation):
    def chatty(message):
        return reply_to(message, messages.ShareReply(), {"a": b"mine", "d": b"not asked for", "../x": b"?"})

    sites = Sites({("b", protocol.SHARE): chatty})
    federation(sites).run()
    merges = [(name, dict(parcel.envelopes)) for name, action, parcel in sites.seen if action == protocol.MERGE]
    assert [name for name, _ in merges] == ["a"] and merges[0][1]["b"] == b"mine"


FORGERIES = {
    "signed by a stranger": hello_as(signer="mallory"),
    "signed by another site": hello_as(signer="c"),
    "another site's name": hello_as(name="c", signer="b"),
    "a name that is not in the roster": hello_as(name="mallory"),
    "another node's answer": hello_as(node=3),
    "an answer of another run": hello_as(run={"run": "run-0"}),
    "an answer to another federation": hello_as(run={"federation": "other"}),
    "an answer under another roster": hello_as(run={"roster_sha256": "0" * 64}),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_hello_that_the_roster_s_owner_of_the_name_did_not_sign_is_kept_out(federation, forgery):
    sites = Sites({("b", protocol.HELLO): forgery})
    run = federation(sites)
    outcome = run.run()
    assert "b" not in outcome.sites and set(outcome.sites) == {"a", "c", "d"}
    assert any(site == "node 2" and "does not sign as the roster's" in reason for site, _, reason in failures(run))
    assert {name for name, action, _ in sites.seen if action != protocol.HELLO} == {"a", "c", "d"}


ANOTHER = {"encoder": None, "magnification": None, "patch_size": 256.0, "width": 7}


@pytest.mark.parametrize(
    ("field", "value"),
    [("software", "2"), *ANOTHER.items(), ("audit", "0" * 64), ("signature", "0" * 128)],
)
def test_no_field_of_a_hello_can_be_changed_on_its_way(federation, field, value):
    def changed(message):
        return reply_to(message, replace(hello_of(message), **{field: value}))

    run = federation(Sites({("b", protocol.HELLO): changed}))
    assert "b" not in run.run().sites
    assert any("does not sign as the roster's b does" in reason for _, _, reason in failures(run))


def test_a_stranger_who_is_first_to_claim_a_name_does_not_keep_its_owner_out(federation):
    """Node 1 claims to be b before the true b, node 2, answers."""
    run = federation(Sites({("a", protocol.HELLO): hello_as(name="b", signer="mallory")}), targets=("b",))
    outcome = run.run()
    assert set(outcome.sites) == {"b", "c", "d"} and set(outcome.targets) == {"b"}
    assert ("node 1", protocol.HELLO) in [(site, phase) for site, phase, _ in failures(run)]


def test_the_true_answer_of_one_node_replayed_by_another_does_not_let_that_one_in(federation):
    """The relayed answer is b's own, signed by b, word for word; node 4 passes it off as its own."""
    taken = []

    def recorded(message):
        taken.append(reply_to(message, hello_of(message)))
        return taken[0]

    def replayed(message):
        return Message(taken[0].content, reply_to=message)

    run = federation(Sites({("b", protocol.HELLO): recorded, ("d", protocol.HELLO): replayed}))
    assert set(run.run().sites) == {"a", "b", "c"}
    run = federation(Sites({("b", protocol.HELLO): refusing, ("d", protocol.HELLO): replayed}))
    assert set(run.run().sites) == {"a", "c"}
    assert any("does not sign as the roster's b does" in reason for _, _, reason in failures(run))


def refused_by(kind, site):
    error = next(one for one in all_errors() if one.__name__ == kind)
    return Refusal(kind, error.public_reason, site)


def all_errors(root=FedstephError):
    return [root, *(kind for child in root.__subclasses__() for kind in all_errors(child))]


def test_vectors_that_the_target_refused_are_reported_with_the_reason(federation):
    def merged(message):
        refused = (refused_by("ForgedEnvelopeError", "c"), refused_by("ReplayedEnvelopeError", "d"))
        return reply_to(message, messages.MergeReply("20-29", "10-19", refused, SCORES))

    run = federation(Sites({("a", protocol.MERGE): merged}))
    run.run()
    assert failures(run) == [
        ("c", protocol.MERGE, "refused by a: the envelope's signature is not its sender's (ForgedEnvelopeError)"),
        ("d", protocol.MERGE, "refused by a: the envelope was used before (ReplayedEnvelopeError)"),
    ]


def test_a_target_can_complain_of_nobody_who_did_not_write_to_it(federation):
    def merged(message):
        refused = tuple(refused_by("ForgedEnvelopeError", name) for name in ("a", "nobody"))
        return reply_to(message, messages.MergeReply("20-29", "10-19", refused, SCORES))

    run = federation(Sites({("a", protocol.MERGE): merged}))
    run.run()
    assert failures(run) == []


def test_vectors_that_a_source_kept_are_reported_with_the_reason_and_the_others_arrive(federation):
    def kept(message):
        refused = (refused_by("TargetPolicyError", "c"),)
        return reply_to(message, messages.ShareReply(refused), {"a": b"b to a"})

    sites = Sites({("b", protocol.SHARE): kept})
    run = federation(sites, targets=("a", "c"))
    run.run()
    said = "kept its vector from c: the site's policy does not let its vector go to this target (TargetPolicyError)"
    assert failures(run) == [("b", protocol.SHARE, said)]
    merges = {name: set(parcel.envelopes) for name, action, parcel in sites.seen if action == protocol.MERGE}
    assert merges == {"a": {"b", "c", "d"}, "c": {"a", "d"}}


# ---------------------------------------------------------------- rounds of FedAvg and FedProx


def weighted_mean(names, round_, fold):
    return sum(WEIGHTS[n] * update_of(n, round_, fold) for n in names) / sum(WEIGHTS[n] for n in names)


@pytest.mark.parametrize("methods", [("fedavg",), ("fedprox",), ("ties", "fedprox", "fedavg")])
def test_rounds_run_from_m0_and_their_weighted_means_come_back_to_the_targets(federation, methods):
    sites = Sites()
    run = federation(sites, targets=("a", "c"), methods=methods)
    outcome = run.run()
    assert failures(run) == []
    found = sites.asked_to_average()
    assert list(found) == [(method, round_) for method in methods if method != "ties" for round_ in (0, 1, 2)]
    for (_, round_), asked in found.items():
        assert set(asked) == ({"a", "c"} if round_ == 2 else set(SITES))
        for encoders in asked.values():
            assert set(encoders) == ({"0", "1"} if round_ else set())
            for fold, content in encoders.items():
                assert value_of(content) == pytest.approx(weighted_mean(SITES, round_ - 1, int(fold)), rel=1e-6)
    assert set(outcome.targets) == {"a", "c"}
    phases = [action for _, action, _ in sites.seen]
    assert phases.index(protocol.LOCAL) < phases.index(protocol.AVERAGE) < phases.index(protocol.SHARE)
    assert outcome.seconds.keys() == {protocol.HELLO, protocol.LOCAL, protocol.AVERAGE, protocol.SHARE, protocol.MERGE}


def test_without_such_a_comparator_nobody_is_asked_for_an_update(federation):
    sites = Sites()
    federation(sites, methods=("ties", "model_average", "steph_dense")).run()
    assert sites.asked_to_average() == {}


def in_round(round_, fault):
    """Does ``fault`` in one round, and is honest in the others."""

    def answer(message):
        request = protocol.read(protocol.parcel(message.content, "test"), messages.Average, "test")
        if request.round == round_:
            return fault(message)
        return reply_to(message, messages.AverageReply(WEIGHTS["b"]), updates_of("b", request.round))

    return answer


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (raising, "its app raised an exception"),
        (lambda message: reply_to(message, refused_by("UnsealedPolicyError", "b")), "unsealed (UnsealedPolicyError)"),
        (wrong_reply, "expected a AverageReply"),
        (not_json, "not a AverageReply"),
    ],
)
@pytest.mark.parametrize("round_", [0, 1])
def test_who_fails_in_a_round_takes_no_further_part_in_it_and_stays_in_the_run(federation, fault, said, round_):
    sites = Sites({("b", protocol.AVERAGE): in_round(round_, fault)})
    run = federation(sites, targets=("a", "b"), quorum=4, methods=("fedavg", "fedprox"))
    outcome = run.run()
    assert [(site, phase) for site, phase, _ in failures(run)] == [("b", protocol.AVERAGE)] * 2
    for method, (_, _, reason) in zip(("fedavg", "fedprox"), failures(run), strict=True):
        assert reason.startswith(f"{method}, round {round_}: ") and said in reason and SECRET not in reason
    found = sites.asked_to_average()
    for method in ("fedavg", "fedprox"):
        assert set(found[method, 2]) == {"a"} and set(found[method, 1]) == ({*SITES} if round_ else {"a", "c", "d"})
        for fold, content in found[method, 2]["a"].items():
            assert value_of(content) == pytest.approx(weighted_mean("acd", 1, int(fold)), rel=1e-6)
    assert set(outcome.targets) == {"a", "b"}


UNUSABLE = {
    "junk": {"0": b"junk", "1": b"junk"},
    "NaN": dict.fromkeys("01", vector_of(float("nan"))),
    "a fold less": {"0": vector_of(1.0)},
    "a fold more": dict.fromkeys("012", vector_of(1.0)),
    "nothing": None,
}


@pytest.mark.parametrize("update", UNUSABLE.values(), ids=UNUSABLE)
def test_an_update_that_cannot_be_averaged_costs_its_site_the_baseline_and_nobody_else(federation, tmp_path, update):
    def fault(message):
        return reply_to(message, messages.AverageReply(10), update)

    for name in ("a", "b"):  # the first site as any other: what most send decides what is right
        sites = Sites({(name, protocol.AVERAGE): fault})
        run = federation(sites, targets=("c",), methods=("fedavg",))
        assert set(run.run().targets) == {"c"}
        assert [(site, phase) for site, phase, _ in failures(run)] == [(name, protocol.AVERAGE)]
        found = sites.asked_to_average()
        assert [round_ for _, round_ in found] == [0, 1, 2] and set(found["fedavg", 1]) == {*SITES} - {name}
        assert [event.decision for event in audited(tmp_path) if event.event == "fedavg.end"][-1] == "allowed"


def test_rounds_that_everybody_refuses_end_the_baseline_and_not_the_run(federation, tmp_path):
    def unsealed(message):
        return reply_to(message, refused_by("UnsealedPolicyError", None))

    sites = Sites(dict.fromkeys([(name, protocol.AVERAGE) for name in SITES], unsealed))
    run = federation(sites, quorum=4, methods=("fedavg",))
    assert set(run.run().targets) == {"a"}
    assert [(site, phase) for site, phase, _ in failures(run)] == [(name, protocol.AVERAGE) for name in SITES]
    [ended] = [event for event in audited(tmp_path) if event.event == "fedavg.end"]
    assert (ended.decision, "not two updates to average" in ended.reason) == ("failed", True)


# ---------------------------------------------------------------- a refusal in a hostile site's own words


HOSTILE = "patient data leaked; b failed in query.hello"
UNKNOWN = "it refused for a reason that this version does not know"
KINDS = [
    ("DataError", "the site's data did not pass its check (DataError)"),
    ("ForgedEnvelopeError", "the envelope's signature is not its sender's (ForgedEnvelopeError)"),
    ("StorageError", "the site could not read or write its disk, and its log has the details (StorageError)"),
    ("InternalError", "an unforeseen error happened at the site; its log has the details (InternalError)"),
    (HOSTILE, UNKNOWN),
    ("dataerror", UNKNOWN),
    ("", UNKNOWN),
    ("__class__", UNKNOWN),
]


def told_everywhere(run, folder, error=None):
    """All that a person at the server can read of a run."""
    held = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return held.decode() + repr(asdict(run.outcome)) + repr(run.outcome.failures) + str(error)


@pytest.mark.parametrize("action", [protocol.HELLO, protocol.LOCAL, protocol.SHARE, protocol.MERGE])
@pytest.mark.parametrize(("kind", "phrase"), KINDS)
def test_of_a_refusal_the_server_says_its_own_phrase_alone(federation, tmp_path, action, kind, phrase):
    def hostile(message):
        return reply_to(message, Refusal(kind, HOSTILE, "d"))

    run = federation(Sites({("d", action): hostile}), targets=("a", "d"))
    run.run()
    assert [reason for site, phase, reason in failures(run) if (site, phase) == ("d", action)] == [phrase]
    assert "leaked" not in told_everywhere(run, tmp_path) and "b" not in {site for site, _, _ in failures(run)}
    targets, quorum = (("d",), 2) if action == protocol.MERGE else (("a", "d"), 4)
    run = federation(Sites({("d", action): hostile}), targets=targets, quorum=quorum)
    with pytest.raises(QuorumError) as caught:
        run.run()
    assert f"d failed in {action}: {phrase}" in str(caught.value)
    assert "leaked" not in told_everywhere(run, tmp_path, caught.value)


@pytest.mark.parametrize(("kind", "phrase"), KINDS)
def test_of_a_vector_that_was_refused_or_kept_too(federation, tmp_path, kind, phrase):
    def kept(message):
        return reply_to(message, messages.ShareReply((Refusal(kind, HOSTILE, "c"),)), {"a": b"b to a"})

    def refused(message):
        return reply_to(message, messages.MergeReply("20-29", None, (Refusal(kind, HOSTILE, "d"),), SCORES))

    run = federation(Sites({("b", protocol.SHARE): kept, ("a", protocol.MERGE): refused}), targets=("a", "c"))
    outcome = run.run()
    assert failures(run) == [
        ("b", protocol.SHARE, f"kept its vector from c: {phrase}"),
        ("d", protocol.MERGE, f"refused by a: {phrase}"),
    ]
    assert set(outcome.targets) == {"a", "c"}
    assert "leaked" not in "".join(reason for _, _, reason in failures(run)) + repr(audited(tmp_path))


# ---------------------------------------------------------------- the server's audit log


def audited(folder):
    verify(folder / "audit")
    return [line.event for line in read_lines(folder / "audit")]


def test_the_audit_log_holds_who_joined_and_who_sent_what_to_whom(federation, tmp_path):
    sites = Sites()
    federation(sites, targets=("a", "c")).run()
    found = audited(tmp_path)
    assert (found[0], found[-1]) == (Event("run.start", run="run-1"), Event("run.end", "allowed", "run-1"))
    joined = [event for event in found if event.event == "site.join"]
    assert joined == [Event("site.join", "allowed", "run-1", name, AUDIT_HEADS[name]) for name in SITES]
    relayed = set()
    for sender, to in [(sender, to) for to in ("a", "c") for sender in SITES if sender != to]:
        content = f"{sender} to {to}".encode()
        sha256 = hashlib.sha256(content).hexdigest()
        relayed.add(Event("envelope.relay", "allowed", "run-1", f"{sender} -> {to}", sha256, len(content)))
    assert {event for event in found if event.event == "envelope.relay"} == relayed


def test_a_failure_is_audited_with_its_reason_and_no_more_than_the_server_may_know(federation, tmp_path):
    with pytest.raises(QuorumError):
        federation(Sites({("b", protocol.LOCAL): raising, ("c", protocol.LOCAL): refusing}), quorum=3).run()
    found = audited(tmp_path)
    assert Event("train.local.fail", "failed", "run-1", "b", reason="its app raised an exception") in found
    assert [event.peer for event in found if event.event == "train.local.fail"] == ["b", "c"]
    assert (found[-1].event, found[-1].decision, found[-1].reason) == ("run.end", "failed", "2 of 3 sites needed")


def test_neither_outcome_nor_audit_log_holds_any_byte_of_a_vector(federation, tmp_path):
    vector = hashlib.shake_256(b"vector").hexdigest(2048).encode()

    def shared(message):
        return reply_to(message, messages.ShareReply(), {"a": vector})

    run = federation(Sites({(name, protocol.SHARE): shared for name in "bcd"}))
    run.run()
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert hashlib.sha256(vector).hexdigest().encode() in held
    for kept in (held.decode(), repr(asdict(run.outcome)), repr(vars(run))):
        assert vector[:16].decode() not in kept


def test_the_status_tells_of_each_site_what_it_was_asked_and_whether_it_answered(federation, tmp_path):
    """Read while the run goes on, by another process as it were; a site that fails stays in it with the reason."""
    seen = {}

    def look(message):
        status = RunStatus.read(tmp_path)
        seen[status.phase] = {name: site.said for name, site in status.sites.items()}
        assert all((site.answered is None) == (site.said == "asked") for site in status.sites.values())
        assert status.since <= status.until

    def looking(answer):
        return lambda message: (look(message), answer(message))[1]

    sites = Sites(
        {
            ("b", protocol.LOCAL): looking(refusing),
            ("a", protocol.MERGE): looking(
                lambda message: reply_to(message, messages.MergeReply(None, None, (), SCORES))
            ),
        }
    )
    run = federation(sites, status=StatusFile(tmp_path / "server"))
    assert RunStatus.read(tmp_path) is None
    run.run()
    [(site, phase, reason)] = failures(run)
    assert seen[protocol.LOCAL]["b"] == "asked" and seen[protocol.LOCAL].keys() == {*SITES}
    assert seen[protocol.MERGE] == {"a": "asked", "b": reason, "c": "answered", "d": "answered"}
    last = RunStatus.read(tmp_path)
    assert (site, phase, last.sites["b"].phase, last.sites["b"].has_failed) == ("b", protocol.LOCAL, phase, True)
    assert last.sites["a"].said == "answered" and {one.software for one in last.sites.values()} == {"1"}
    nodes = {name: int(one.node) for name, one in last.sites.items()}
    assert {run.names[nodes[name]] for name in "acd"} == {*"acd"}
    (tmp_path / "server" / "status.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        RunStatus.read(tmp_path)
