"""The ClientApp through Flower's own messages: its answers, and refusals that tell the server nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import resource
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import pytest
import safetensors.torch
from client_builders import Spy, kept_site, make_recipe, make_vectors, trained, with_statement
from cryptography.exceptions import InvalidSignature
from each_case import each
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.task_identity import TaskIdentity
from keys_and_rosters import identity_of, roster_of, write_membership, write_run_folder

import fedsteph.client.app
import fedsteph.client.site.inbox
import fedsteph.client.training.survival_fit
from fedsteph.client.app import app
from fedsteph.client.sharing.kept_record import read_kept
from fedsteph.client.sharing.statement import read_content
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.common import errors
from fedsteph.common.config.digest import digest
from fedsteph.common.errors import FedstephError
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust import audit_log
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.envelope import Context as Bound
from fedsteph.common.wire.envelope import open_sealed, seal
from fedsteph.common.wire.letters import Letter, most_bytes
from fedsteph.common.wire.messages import Average, Deliver, Hello, Merge, Refusal, RunId, Score, Share, TrainLocal
from fedsteph.common.wire.protocol import AVERAGE, DELIVER, HELLO, LOCAL, MERGE, SHARE, Parcel

ROSTER = roster_of("a", "b", "c")  # a and b are whole sites; the tests speak for c
RUN = RunId("fed", "run1", ROSTER.digest)
RECIPE = make_recipe("comparators.methods=[model_average,fedavg]", "training.epochs=1", "steph.gamma=0.0")
VECTOR = write_vector(make_vectors(RECIPE, 1)["s000"])
SEQUENCE = count(1)  # of c's envelopes
METHODS = ("local", "model_average", "steph", "panel", "deployed")  # of the default recipe
HEADLESS = "without its head: sharing.head is same_cancer, and the two sites do not both state one cancer"
UNFORESEEN_REASONS = {
    "InternalError": "an unforeseen error happened at the site; its log has the details",
    "StorageError": "the site could not read or write its disk, and its log has the details",
}


class Federation:
    """A run folder with the sites a and b, and a way to send them messages."""

    def __init__(self, folder: Path, patients: int = 12, folds: int = 2) -> None:
        self.folder = folder
        for k, name in enumerate(("a", "b")):
            shutil.copytree(kept_site(patients=patients, folds=folds, seed=k), folder / "data" / name)
        self.run = write_run_folder(folder / "run", {name: folder / "data" / name for name in "abc"}, ROSTER)

    def state(self, name: str) -> Path:
        return self.run / "sites" / name

    def log(self, name: str = "a") -> str:
        path = self.state(name) / "site.log"
        return path.read_text() if path.exists() else ""

    def set_policy(self, text: str, name: str = "a") -> None:
        (self.folder / "data" / name / "site.yaml").write_text(f"policy: {text}\n")

    def audited(self, name: str = "a") -> list[Event]:
        """The site's audit log, whole and in order."""
        audit_log.verify(self.state(name) / "audit")
        return [line.event for line in audit_log.read_lines(self.state(name) / "audit")]

    def send(self, action: str, request: Any, envelopes=None, *, node: int = 0, **config: Any) -> Parcel:
        """Through the bytes that Flower would send, there and back."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        if isinstance(request, Merge) and not request.letters:
            request = replace(request, letters=letters_of(envelopes or {}))
        records = request if isinstance(request, RecordDict) else protocol.pack(request, envelopes)
        message = Message(records, dst_node_id=node + 1, message_type=action)
        message.metadata.__dict__["_message_id"] = "m1"
        context = Context(
            run_id=1,
            node_id=node + 1,
            node_config=config.get("node_config", {"partition-id": node}),
            state=RecordDict(),
            run_config=config.get("run_config", {"run-folder": str(self.run)}),
        )
        arrived = message_from_proto(MessageProto.FromString(message_to_proto(message).SerializeToString()))
        reply = message_to_proto(app(arrived, context)).SerializeToString()
        answered = message_from_proto(MessageProto.FromString(reply))
        assert not answered.has_error() and answered.metadata.reply_to_message_id == "m1"
        return protocol.parcel(answered.content, "reply")

    def ask(self, action: str, request: Any, answer: type, envelopes=None, **options: Any) -> Any:
        return protocol.read(self.send(action, request, envelopes, **options), answer, "reply")

    def envelopes_for_a(self) -> dict[str, bytes]:
        sent = self.send(SHARE, Share(RUN, RECIPE, ("a",)), node=1)
        return {"b": sent.envelopes["a"]}


def letters_of(envelopes: Mapping[str, bytes]) -> tuple[Letter, ...]:
    return tuple(Letter(name, hashlib.sha256(content).hexdigest()) for name, content in envelopes.items())


def refusal(parcel: Parcel, site: str | None = "a") -> str:
    """The class of a refusal, which holds that, its fixed phrase, the site's name, and nothing else."""
    body = json.loads(parcel.body)
    assert list(body) == ["Refusal"] and not parcel.envelopes
    kind = body["Refusal"]["kind"]
    reason = UNFORESEEN_REASONS.get(kind) or getattr(errors, kind).public_reason
    assert body["Refusal"] == {"kind": kind, "reason": reason, "site": site}
    assert not re.search(r"[0-9/]", reason.replace("M0", ""))
    return kind


@pytest.fixture
def federation(tmp_path) -> Federation:
    return Federation(tmp_path)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Federation:
    """For messages that change nothing at a site but its log."""
    return Federation(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def spies(monkeypatch) -> Spy:
    """On every training, local models' and STEPH's."""
    return Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")


# ---------------------------------------------------------------- answers


@each(("node", "name"), [(0, "a"), (1, "b")])
def test_hello(healthy, node, name):
    reply = healthy.ask(HELLO, Hello(RUN), messages.HelloReply, node=node)
    features = ("test-encoder", 20.0, 256.0, 6)
    expected = messages.HelloReply(name, version("fedsteph"), *features, reply.audit, reply.signature)
    assert reply == expected
    signature = bytes.fromhex(reply.signature)
    verifier = identity_of(name).public.verifier
    verifier.verify(signature, reply.signed_bytes(RUN, node + 1))
    for run, at in ((RUN, node + 2), (replace(RUN, run="run2"), node + 1), (replace(RUN, federation="x"), node + 1)):
        with pytest.raises(InvalidSignature):
            verifier.verify(signature, reply.signed_bytes(run, at))


def test_hello_tells_where_the_audit_log_stands(federation):
    for expected in range(3):
        told = federation.ask(HELLO, Hello(RUN), messages.HelloReply).audit
        assert len(federation.audited()) == expected + 1  # and now the answer itself
        audit_log.verify(federation.state("a") / "audit", told)


def real_node(world: Federation, **sections: str) -> dict[str, Any]:
    """b as a hospital runs it, with a site file of its own."""
    folder = world.folder / "data/b"
    file = write_membership(folder, "b", ROSTER)
    lines = {
        "name": "b",
        "state": "kept",
        "threads": "1",
        "federation": json.dumps({key: value for key, value in asdict(file).items() if value is not None}),
        "policy": "{targets: [a], min_patients: 1, min_events: 1, recipes: any}",
    }
    (folder / "site.yaml").write_text("".join(f"{key}: {value}\n" for key, value in (lines | sections).items()))
    return {"site-config": str(folder / "site.yaml"), "partition-id": 0}


def test_a_real_node_serves_the_site_of_its_own_config_whatever_the_run_config_says(federation):
    """The coordinator's run folder offers a lax policy and other keys; the hospital's own file holds."""
    config = {"node_config": real_node(federation)}
    assert federation.ask(HELLO, Hello(RUN), messages.HelloReply, **config).site == "b"
    federation.ask(LOCAL, TrainLocal(RUN, RECIPE, False), messages.TrainLocalReply, **config)
    assert len(list((federation.folder / "data/b/kept").rglob("local.safetensors"))) == 1
    kept = federation.ask(SHARE, Share(RUN, RECIPE, ("c",)), messages.ShareReply, **config).refused
    assert [(refused.site, refused.kind) for refused in kept] == [("c", "TargetPolicyError")]
    assert len(list(audit_log.read_lines(federation.folder / "data/b/fedsteph-audit"))) >= 3
    assert not (federation.state("a") / "audit").exists() and not (federation.state("b") / "audit").exists()


@pytest.mark.parametrize("lacking", ["federation", "policy"])
def test_a_real_node_without_a_section_takes_no_part(federation, lacking):
    config = {"node_config": real_node(federation, **{lacking: "null"})}
    for action, request in requests():
        assert refusal(federation.send(action, request, **config), "b") == "MembershipError"


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (replace(RUN, federation="other"), "MembershipError"),
        (replace(RUN, roster_sha256=roster_of("a", "b").digest), "RosterError"),
    ],
)
def test_a_run_of_another_federation_or_roster_is_refused_in_every_phase(healthy, spies, run, kind):
    for action, request in requests():
        assert refusal(healthy.send(action, replace(request, id=run), {"b": b"x"} if action == MERGE else None)) == kind
    assert trained(spies) == [0, 0]


def test_a_run_beyond_the_days_limit_is_refused_by_its_kind_and_the_one_before_goes_on(federation, spies):
    federation.set_policy("{recipes: any, targets: [b], max_runs_per_day: 1}")
    federation.ask(HELLO, Hello(RUN), messages.HelloReply)
    for action, request in requests():
        later = replace(request, id=replace(RUN, run="run2"))
        assert refusal(federation.send(action, later)) == "DailyPolicyError"
    assert trained(spies) == [0, 0]
    federation.ask(HELLO, Hello(RUN), messages.HelloReply)


@pytest.mark.parametrize(("every_fold", "models"), [(True, 2), (False, 1)])
def test_local_training_is_kept_at_the_site_and_done_once(federation, spies, every_fold, models):
    request = TrainLocal(RUN, RECIPE, every_fold)
    for expected in (models, 0):
        sent = federation.send(LOCAL, request)
        reply = protocol.read(sent, messages.TrainLocalReply, "reply")
        assert (reply, sent.envelopes) == (messages.TrainLocalReply("10-19", "below 10"), {})
        assert trained(spies) == [expected, 0]
    assert len(list(federation.state("a").rglob("local.safetensors"))) == models
    assert [path.name for path in federation.state("b").iterdir()] == ["keys"]


def bound(**changes: str) -> Bound:
    """What c's envelope to a must be bound to."""
    model = RECIPE.model
    architecture = Architecture.of(model).digest
    whole = Bound("fed", "run1", "c", "a", str(model.m0_sha256), architecture, digest(RECIPE))
    return replace(whole, **changes)


def of_c(
    *, content: bytes = VECTOR, sequence: int = 1, signed_by: str = "c", sealed_to: str = "a", **changes: str
) -> bytes:
    return seal(
        with_statement(content), bound(**changes), sequence, identity_of(signed_by), identity_of(sealed_to).public
    )


def opened(sent: Parcel) -> dict[str, dict[str, list]]:
    """The tensors that each recipient gets; safetensors writes its metadata in any order."""
    plain = {
        to: open_sealed(content, bound(sender="a", recipient=to), identity_of(to), identity_of("a").public).plain
        for to, content in sent.envelopes.items()
    }
    files = {to: read_content(content, to)[1] for to, content in plain.items()}
    return {to: {n: t.tolist() for n, t in safetensors.torch.load(file).items()} for to, file in files.items()}


def test_one_envelope_per_recipient(federation, spies):
    first = federation.send(SHARE, Share(RUN, RECIPE, ("b", "c")))
    assert protocol.read(first, messages.ShareReply, "reply") == messages.ShareReply()
    assert sorted(first.envelopes) == ["b", "c"] and trained(spies) == [1, 0]
    again = federation.send(SHARE, Share(RUN, RECIPE, ("b", "c")))
    assert trained(spies) == [0, 0] and opened(again) == opened(first)
    assert not {*again.envelopes.values()} & {*first.envelopes.values()}


def test_merge_and_merge_sent_again(federation, spies):
    envelopes = {**federation.envelopes_for_a(), "c": b"junk"}
    trained(spies)
    reply = federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, envelopes)
    # Two folds with their inner folds, and the final model, of one member: its own model and the enhanced one.
    assert trained(spies) == [2 + 2 * 2 + 1, 2 * (2 + 1) + 1]
    assert (reply.patients, reply.events) == ("10-19", "below 10")
    assert reply.refused == (Refusal("MalformedEnvelopeError", "the envelope was malformed", "c"),)
    result = read_json(federation.state("a") / "result.json")
    assert result["sources"] == ["b"]
    assert reply.scores == tuple(Score(method, round(result["methods"][method]["mean"], 2)) for method in METHODS)
    assert "refused the vector of c: envelope of c: is no envelope of this version" in federation.log()
    assert federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, envelopes) == reply
    assert trained(spies) == [0, 0]


def test_a_merge_keeps_what_its_sender_allows_and_what_screening_said_of_it(federation):
    kept = federation.state("a") / "vectors"
    federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, federation.envelopes_for_a())
    assert not kept.exists()  # a simulated site's vectors are for their run only
    federation.set_policy("{targets: [a], min_patients: 1, min_events: 1, recipes: any, vectors_kept_days: 7}", "b")
    federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, federation.envelopes_for_a())
    (path,) = kept.glob("b-*.vector")
    record, _ = read_kept(path)
    assert (record.run, record.kept_days, record.statement.encoder) == ("run1", 7, "test-encoder")
    assert record.verdict is not None and re.match("suspicious in [012] of 2 folds", record.verdict)
    events = [event.event for event in federation.audited()]
    assert events == ["vector.open", MERGE, "vector.open", "vector.keep", MERGE]
    path.write_bytes(path.read_bytes()[:-1])
    federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, federation.envelopes_for_a())
    assert "is damaged" in federation.log() and read_kept(path)[0].sequence > record.sequence


def test_a_late_source_is_merged_with_what_the_target_kept_if_both_sides_want_it(federation):
    federation.set_policy("{targets: [a], min_patients: 1, min_events: 1, recipes: any, vectors_kept_days: 7}", "b")
    federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, federation.envelopes_for_a())

    def merged(run: str, reuse: bool, **envelopes: bytes) -> tuple[tuple[str, ...], list[str]]:
        request = Merge(replace(RUN, run=run), RECIPE, 250.0, reuse)
        letters = {"c": of_c(run=run, sequence=int(run[3:])), **envelopes}
        kept = federation.ask(MERGE, request, messages.MergeReply, letters).kept
        result = read_json(federation.state("a") / "result.json")
        assert result["kept"] == list(kept)
        return kept, result["sources"]

    assert merged("run2", True) == ((), ["c"]), "the site has not agreed"
    (federation.folder / "data/a/site.yaml").write_text("reuse_vectors: true\n")
    assert merged("run3", False) == ((), ["c"])
    assert merged("run4", True) == (("b",), ["b", "c"])
    assert merged("run5", True, b=b"junk") == ((), ["c"]), "an older vector stands in for one that was refused"


def test_a_round_is_answered_with_an_update_per_fold_and_a_banded_weight(federation, spies):
    """Asked for again, it is found done; the server's first update begins at M0."""
    request = Average(RUN, RECIPE, "fedavg", 0, 250.0)
    sent = federation.send(AVERAGE, request)
    assert protocol.read(sent, messages.AverageReply, "reply") == messages.AverageReply(10)
    assert sorted(sent.envelopes) == ["0", "1"] and trained(spies) == [2, 0]
    again = federation.send(AVERAGE, request)
    assert trained(spies) == [0, 0]
    found, first = ([safetensors.torch.load(p.envelopes[k]) for k in ("0", "1")] for p in (again, sent))
    for update, before in zip(found, first, strict=True):
        assert {name: tensor.shape for name, tensor in update.items()} == Architecture.of(RECIPE.model).encoder_shapes
        assert all(update[name].tolist() == before[name].tolist() for name in before)
    assert first[0]["embed.weight"].tolist() != first[1]["embed.weight"].tolist()
    audited = federation.audited()
    sent = ["update.send", "update.send", AVERAGE]
    assert [event.event for event in audited] == ["privacy.spend", *sent, *sent]  # spent once, before the first leaves
    assert {event.decision for event in audited} == {"allowed"}
    for event, fold in zip(audited[4:], "01", strict=False):  # what left unsealed is known for good
        assert (event.artefact, event.size) == (
            hashlib.sha256(again.envelopes[fold]).hexdigest(),
            len(again.envelopes[fold]),
        )


@each(
    ("round_", "folds", "content", "kind"),
    [
        (1, "", VECTOR, "ProtocolError"),
        (1, "0", VECTOR, "ProtocolError"),
        (1, "012", VECTOR, "ProtocolError"),
        (0, "01", VECTOR, "ProtocolError"),
        (1, "01", VECTOR, "ProtocolError"),  # round 0 was never asked for
        (1, "01", b"junk", "VectorFileError"),
        (1, "01", VECTOR[:-1], "VectorFileError"),
        (1, "01", write_vector(next(iter(make_vectors(RECIPE, 1, scale=1e3).values()))), "VectorFileError"),
        (1, "01", write_vector(make_vectors(make_recipe("model.m0_seed=7"), 1)["s000"]), "VectorMismatchError"),
        (RECIPE.comparators.rounds, "0", VECTOR, "ProtocolError"),
        (RECIPE.comparators.rounds, "01", b"junk", "VectorFileError"),
    ],
)
def test_a_global_encoder_is_screened_as_any_vector(federation, spies, round_, folds, content, kind):
    """It comes from the server, which the site does not trust."""
    request = Average(RUN, RECIPE, "fedavg", round_, 250.0)
    assert refusal(federation.send(AVERAGE, request, dict.fromkeys(folds, content))) == kind
    assert trained(spies) == [0, 0] and not list(federation.state("a").rglob("global.safetensors"))
    assert federation.audited()[-1] == Event(AVERAGE, "refused", "run1", reason=kind)


def test_progress_lies_at_the_site(federation):
    federation.send(LOCAL, TrainLocal(RUN, RECIPE, True))
    federation.send(MERGE, Merge(RUN, RECIPE, 250.0), {"c": of_c()})
    lines = [json.loads(line) for line in (federation.state("a") / "progress.jsonl").read_text().splitlines()]
    for phase in (LOCAL, MERGE):
        done = [line["done"] / line["total"] for line in lines if line["phase"] == phase]
        assert done == sorted(done) and done[-1] == 1
    assert {line["party"] for line in lines} == {"a"}


# ---------------------------------------------------------------- refusals


def requests() -> list[tuple[str, Any]]:
    return [
        (HELLO, Hello(RUN)),
        (LOCAL, TrainLocal(RUN, RECIPE, True)),
        (AVERAGE, Average(RUN, RECIPE, "fedavg", 0, 250.0)),
        (SHARE, Share(RUN, RECIPE, ("b",))),
        (MERGE, Merge(RUN, RECIPE, 250.0)),
    ]


@each(("action", "request_"), requests())
def test_a_node_without_a_site_refuses(healthy, action, request_):
    for config in ({"node_config": {}}, {"run_config": {}}, {"run_config": {"run-folder": "relative"}}):
        assert refusal(healthy.send(action, request_, **config), None) == "ConfigError"


def spoil_a_value(site: Path) -> None:
    for path in site.glob("features/*.h5"):
        with h5py.File(path, "r+") as file:
            file["features"][0, 0] = float("nan")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


SECRETS = ("P001", "P00", "DX", ".h5", ".csv", "features", "data")
FAULTS = {
    "a file cut": (lambda s: cut(s / "features/P001-DX1.h5"), "DataError", HELLO),
    "a file lost": (lambda s: (s / "features/P001-DX1.h5").unlink(), "DataError", HELLO),
    "a label spoiled": (lambda s: add(s / "labels.csv", "P001,P001-DX9,TEST,12,1\n"), "DataError", HELLO),
    "a value spoiled": (spoil_a_value, "DataError", LOCAL),
    "a patient leaked": (
        lambda s: (s / "splits_0.csv").write_text("train,test\nP001,P001\nP002,P003\n"),
        "DataError",
        LOCAL,
    ),
    "everything lost": (shutil.rmtree, "ConfigError", HELLO),
    "the plan broken": (lambda s: (s.parents[1] / "run/sites.json").write_text("["), "RunFolderError", HELLO),
}


@pytest.mark.parametrize(("fault", "kind", "first"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_the_data_stays_at_the_site(federation, fault, kind, first):
    fault(federation.folder / "data/a")
    actions = [action for action, _ in requests()]
    for action, request in requests()[actions.index(first) :]:
        envelopes = {"b": b"junk"} if action == MERGE else None
        reply = federation.send(action, request, envelopes)
        if action != MERGE or fault is not spoil_a_value:
            assert refusal(reply, None if kind in ("ConfigError", "RunFolderError") else "a") == kind
        told = reply.body.replace("the site's data did not pass its check", "")
        assert not [secret for secret in (*SECRETS, str(federation.folder)) if secret in told]
    if kind == "DataError":
        assert Event(first, "refused", "run1", reason=kind) in federation.audited()
        lines = (federation.state("a") / "audit" / audit_log.FILE).read_text()
        assert not [secret for secret in (*SECRETS, str(federation.folder)) if secret in lines]
        log = federation.log()
        assert "P001" in log or fault is spoil_a_value
        assert str(federation.folder / "data/a") in log and f"refused {first}" in log


def all_errors(root: type[FedstephError] = FedstephError) -> list[type[FedstephError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in all_errors(child))]


def test_of_a_foreseen_error_the_server_learns_its_class_and_of_the_data_not_even_that(monkeypatch, healthy):
    for error in {*all_errors()}:

        def fail(*args: object, error: type[FedstephError] = error) -> None:
            where = f"/secret/{error.__name__}.h5"
            raise error("P001 at 3.2 years", where=where, remedy="Look at P001", details="a table")

        monkeypatch.setattr(fedsteph.client.app, "usable_contents", fail)
        reply = healthy.send(HELLO, Hello(RUN))
        assert refusal(reply) == ("DataError" if issubclass(error, errors.DataError) else error.__name__), error
        assert "P001" not in reply.body and "secret" not in reply.body, error
        assert f"/secret/{error.__name__}.h5: P001 at 3.2 years. Look at P001" in healthy.log(), error


@pytest.fixture
def root_log(monkeypatch) -> io.StringIO:
    """What reaches the root logger, which Flower may forward (pytest's own capture sees more than that)."""
    handler = logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    return handler.stream


UNFORESEEN = [
    *((HELLO, error) for error in (RuntimeError, ValueError, KeyError, MemoryError, RecursionError, OSError)),
    *((action, RuntimeError) for action in (LOCAL, SHARE, MERGE)),
]


@pytest.mark.parametrize(("action", "error"), UNFORESEEN)
def test_of_an_unforeseen_error_the_server_learns_nothing(monkeypatch, capfd, root_log, healthy, action, error):
    secret = f"patient P001 at /secret/{action}-{error.__name__}"

    def fail(*args: object, **options: object) -> None:
        raise error(secret)

    monkeypatch.setattr(fedsteph.client.app, "usable_contents", fail)
    monkeypatch.setattr(Workspace, "open", fail)
    reply = healthy.send(action, dict(requests())[action])
    kind = "StorageError" if issubclass(error, OSError) else "InternalError"
    assert refusal(reply) == kind and healthy.audited()[-1] == Event(action, "failed", "run1", reason=kind)
    assert "P001" not in reply.body
    printed = capfd.readouterr()
    assert "P001" not in printed.out + printed.err + root_log.getvalue(), "what a site prints, Flower may forward"
    log = healthy.log()
    assert secret in log and f"ERROR failed in {action}\nTraceback" in log


def changed(request: Any, **recipe: Any) -> RecordDict:
    """A request whose body is not what a coordinator of ours would write."""
    body = {type(request).__name__: asdict(request)}
    fields = body[type(request).__name__]
    for key, value in recipe.items():
        section, _, name = key.partition("__")
        (fields["recipe"][section] if name else fields)[name or section] = value
    return RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION, "body": json.dumps(body)})})


BAD_REQUESTS = [
    {"training__epochs": 10**9},
    {"training__epochs": 0},
    {"steph__variant": "evil"},
    {"steph__method": "average"},
    {"steph__output": "softmax"},
    {"steph__gamma": "best"},
    {"model__head_bias": "other"},
    {"evaluation__folds": 21},
    {"method": "fedavg"},
    {"id": None},
    {"training__lr": 50.0},
    {"training__epochs": "2"},
    {"training__seeds": 1},
    {"model__width": 10**7},
    {"model__m0_sha256": "../../x"},
    {"model__m0": "/etc/passwd"},
    {"steph__K": 0},
    {"evaluation__folds": 0},
    {"every_fold": "yes"},
    {"command": "rm"},
    {"recipe": None},
]


def test_a_recipe_out_of_range_or_with_unknown_keys_is_refused(healthy, spies):
    for changes in BAD_REQUESTS:
        reply = healthy.send(LOCAL, changed(TrainLocal(RUN, RECIPE, True), **changes))
        assert refusal(reply) == "ProtocolError", changes
    assert trained(spies) == [0, 0]


@pytest.mark.parametrize(
    ("settings", "width", "kind"),
    [((), 7, "DataError"), (("evaluation.folds=3",), 6, "DataError"), (("model.m0_seed=1",), 6, None)],
)
def test_a_recipe_that_does_not_fit_the_site(federation, settings, width, kind):
    recipe = make_recipe(*settings, width=width)
    reply = federation.send(LOCAL, TrainLocal(RUN, recipe, False))
    if kind is None:
        assert protocol.read(reply, messages.TrainLocalReply, "reply")
    else:
        assert refusal(reply) == kind
        assert "wide" in federation.log() or "split files" in federation.log(), "which check failed, for the site"


@pytest.mark.parametrize("action", [LOCAL, SHARE, MERGE])
@pytest.mark.parametrize("change", [{"m0_sha256": None}, {"m0_sha256": "a" * 64}, {"m0_seed": 1}], ids=str)
def test_another_m0_than_the_pinned_one_is_refused(healthy, spies, action, change):
    """Else one site's vector would start from elsewhere, and the sum of two would mean nothing."""
    other = replace(RECIPE, model=replace(RECIPE.model, **change))
    content = of_c(m0_sha256=str(other.model.m0_sha256), recipe_sha256=digest(other), sequence=next(SEQUENCE))
    request = replace(dict(requests())[action], recipe=other)
    kind = refusal(healthy.send(action, request, {"c": content} if action == MERGE else None))
    assert kind == "ConfigError" or (action == MERGE and kind == "VectorMismatchError")
    assert trained(spies) == [0, 0]


@each(
    "records",
    [
        RecordDict(),
        RecordDict({"fedsteph": ArrayRecord()}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2, "body": "{}"})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2, "body": "{"})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2, "body": "[]"})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2, "body": "[" * 100_000})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2, "body": '{"Hello": {"id": null}}'})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2, "body": '{"Refusal": {"kind": "a", "reason": "b"}}'})}),
        protocol.pack(Share(RUN, RECIPE, ("b",))),
        RecordDict({**protocol.pack(Hello(RUN)), "metrics": MetricRecord({"x": 1.0})}),
        RecordDict({**protocol.pack(Hello(RUN)), "weights": ArrayRecord()}),
        RecordDict({**protocol.pack(Hello(RUN)), "run-folder": ConfigRecord({"path": "/etc"})}),
        RecordDict({**protocol.pack(Hello(RUN)), "envelopes": ConfigRecord({"b": b"x"})}),
    ],
)
def test_messages_that_are_not_the_protocols(healthy, records):
    assert refusal(healthy.send(HELLO, records)) in ("ProtocolError", "SiteError")


@each("recipient", ["a", "../b", "", "B"])
def test_a_recipient_that_is_no_other_site_is_refused(healthy, recipient):
    assert refusal(healthy.send(SHARE, Share(RUN, RECIPE, ("b", recipient)))) == "ProtocolError"


@pytest.mark.parametrize(
    ("run", "max_norm", "kind"),
    [
        (replace(RUN, run="run0"), 250.0, "WrongRunError"),
        (RUN, 1e-9, "VectorFileError"),
        (RUN, -1.0, "VectorFileError"),
    ],
)
def test_without_a_usable_envelope_nothing_is_merged(federation, spies, run, max_norm, kind):
    assert refusal(federation.send(MERGE, Merge(run, RECIPE, max_norm), {"c": of_c()})) == kind and trained(spies) == [
        0,
        0,
    ]
    assert "of c: " in federation.log()


@pytest.mark.parametrize(("policy", "leaves"), [("{recipes: any}", False), ("{min_pairs: 1, recipes: any}", True)])
def test_the_order_of_two_patients_does_not_leave_as_a_c_index(tmp_path, policy, leaves):
    """The coordinator chooses one fold and seed after seed: of six patients, each puts another two to the test."""
    federation = Federation(tmp_path, patients=6, folds=0)
    federation.set_policy(policy)
    told, n_pairs = [], []
    for seed in range(4):
        recipe = make_recipe(
            "training.epochs=1", "evaluation.folds=1", f"evaluation.split_seed={seed}", "steph.gamma=0.0"
        )
        letter = of_c(recipe_sha256=digest(recipe), sequence=next(SEQUENCE))
        reply = federation.ask(MERGE, Merge(RUN, recipe, 250.0), messages.MergeReply, {"c": letter})
        assert (reply.patients, reply.events) == ("below 10", "below 10")
        assert [score.method for score in reply.scores] == [*METHODS]
        told += [score.c_index for score in reply.scores if score.c_index is not None]
        n_pairs.append(read_json(federation.state("a") / "result.json")["n_pairs"])
    assert 1 in n_pairs and max(n_pairs) <= 1 and bool(told) == leaves


def test_a_count_that_a_bug_would_send_exactly_does_not_leave(monkeypatch, federation):
    monkeypatch.setattr(Policy, "band", lambda self, metric, count: str(count))
    assert refusal(federation.send(LOCAL, TrainLocal(RUN, RECIPE, False))) == "InternalError"


# ---------------------------------------------------------------- policy and audit


ANY = "recipes: any"
LAX = f"min_patients: 1, min_events: 1, {ANY}"
STRICT = f"min_patients: 1, min_events: 1, recipes: [{'f' * 64}]"  # of recipes
POLICIES = [
    *((action, "{targets: [b, c], min_patients: 1, min_events: 1}", "RecipePolicyError") for action in (LOCAL, SHARE)),
    (MERGE, "{}", "RecipePolicyError"),
    (LOCAL, f"{{{ANY}}}", "SizePolicyError"),
    (LOCAL, f"{{targets: [b, c], privacy: dp-sgd, {LAX}}}", "PrivacyPolicyError"),
    *((action, f"{{targets: [b, c], {STRICT}}}", "RecipePolicyError") for action in (LOCAL, SHARE)),
    (AVERAGE, f"{{targets: [b, c], {LAX}}}", "UnsealedPolicyError"),
    (AVERAGE, f"{{targets: [b, c], unsealed_updates: false, {LAX}}}", "UnsealedPolicyError"),
    (AVERAGE, f"{{targets: [b, c], unsealed_updates: true, {STRICT}}}", "RecipePolicyError"),
    (AVERAGE, f"{{unsealed_updates: true, min_patients: 13, min_events: 1, {ANY}}}", "SizePolicyError"),
    (AVERAGE, f"{{unsealed_updates: true, privacy: dp-sgd, {LAX}}}", "ConfigError"),
    (MERGE, f"{{recipes: [{'f' * 64}]}}", "RecipePolicyError"),
    (HELLO, "{min_patients: 0}", "ConfigError"),
]


@each(("action", "policy", "kind"), POLICIES)
def test_what_the_policy_does_not_allow_is_refused_and_audited(federation, spies, action, policy, kind):
    federation.set_policy(policy)
    request = {LOCAL: TrainLocal(RUN, RECIPE, False)}.get(action) or dict(requests())[action]
    reply = federation.send(action, request, {"c": b"x"} if action == MERGE else None)
    assert refusal(reply, None if kind == "ConfigError" else "a") == kind and trained(spies) == [0, 0]
    if kind != "ConfigError":
        assert federation.audited()[-1] == Event(action, "refused", "run1", reason=kind)


KEPT = [
    (f"{{{ANY}}}", "TargetPolicyError"),  # and nothing of the site's size
    (f"{{targets: [b], {ANY}}}", "SizePolicyError"),
    (f"{{targets: [b, c], min_patients: 13, min_events: 1, {ANY}}}", "SizePolicyError"),
    (f"{{targets: [b, c], min_patients: 1, min_events: 7, {ANY}}}", "SizePolicyError"),
    (f"{{{LAX}}}", "TargetPolicyError"),
    (f"{{targets: [c], {LAX}}}", "TargetPolicyError"),
    (f"{{targets: [b, c], privacy: dp-sgd, {LAX}}}", "PrivacyPolicyError"),
]


@each(("policy", "kind"), KEPT)
def test_a_vector_that_the_policy_keeps_here_is_not_even_made(federation, spies, policy, kind):
    """The site stays in the run: it may be a target itself, and a target need not share."""
    federation.set_policy(policy)
    before = len(federation.audited())
    sent = federation.send(SHARE, Share(RUN, RECIPE, ("b",)))
    kept = protocol.read(sent, messages.ShareReply, "reply").refused
    assert (sent.envelopes, [(refused.site, refused.kind) for refused in kept]) == ({}, [("b", kind)])
    assert trained(spies) == [0, 0]
    assert Event("vector.seal", "refused", "run1", "b", reason=kind) in federation.audited()[before:]


def test_envelopes_where_none_belong_are_refused(federation, spies):
    for action, request in requests():
        if action != MERGE:
            assert refusal(federation.send(action, request, {"b": b"x"})) == "ProtocolError"
    assert trained(spies) == [0, 0]


def test_a_full_disk_under_the_audit_head_blocks_nothing_later(federation, monkeypatch):
    for _ in range(2):
        federation.send(HELLO, Hello(RUN))
    with monkeypatch.context() as patch:
        fill_disk_for(patch, audit_log.HEAD_FILE)
        assert refusal(federation.send(HELLO, Hello(RUN))) == "StorageError"
    assert federation.ask(HELLO, Hello(RUN), messages.HelloReply).site == "a"
    federation.audited()


def test_a_log_that_cannot_be_opened_lets_nothing_out(federation, capfd):
    (federation.state("a") / "site.log").mkdir(parents=True)
    next((federation.folder / "data/a/features").iterdir()).unlink()
    assert refusal(federation.send(HELLO, Hello(RUN))) == "DataError" and federation.audited()[-1].reason == "DataError"
    said = "".join(capfd.readouterr())
    assert "cannot be written" in said and "P0" not in said and str(federation.folder) not in said


def test_a_target_trains_although_its_policy_shares_nothing(federation):
    federation.set_policy(f"{{{ANY}}}")
    reply = federation.ask(LOCAL, TrainLocal(RUN, RECIPE, True), messages.TrainLocalReply)
    assert reply == messages.TrainLocalReply("10-19", "below 10")


def test_a_reviewed_recipe_is_trained(federation):
    federation.set_policy(f"{{targets: [b], recipes: [{digest(RECIPE)}], min_patients: 1, min_events: 1}}")
    assert list(federation.send(SHARE, Share(RUN, RECIPE, ("b",))).envelopes) == ["b"]


def test_a_recipient_that_the_policy_leaves_out_is_named_with_its_reason(federation):
    federation.set_policy(f"{{targets: [b, nobody], {LAX}}}")
    sent = federation.send(SHARE, Share(RUN, RECIPE, ("b", "c", "nobody")))
    assert list(sent.envelopes) == ["b"]
    assert protocol.read(sent, messages.ShareReply, "reply").refused == (
        Refusal("TargetPolicyError", "the site's policy does not let its vector go to this target", "c"),
        Refusal(
            "UnknownRecipientError",
            "the site's policy does not let its vector go to a site outside its roster",
            "nobody",
        ),
    )
    seals = [(e.peer, e.decision, e.reason) for e in federation.audited() if e.event == "vector.seal"]
    assert seals == [
        ("b", "allowed", HEADLESS),
        ("c", "refused", "TargetPolicyError"),
        ("nobody", "refused", "UnknownRecipientError"),
    ]


def test_metrics_leave_as_the_policy_says(federation):
    federation.set_policy(f"{{metrics: [events], count_band: 50, min_pairs: 1, {ANY}}}")
    local = federation.ask(LOCAL, TrainLocal(RUN, RECIPE, True), messages.TrainLocalReply)
    assert local == messages.TrainLocalReply(None, "below 50")
    merged = federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, {"c": of_c()})
    assert merged == messages.MergeReply(None, "below 50", (), tuple(Score(method, None) for method in METHODS))


def test_every_answer_and_every_envelope_is_audited_and_nothing_else_is_told_there(federation):
    federation.send(HELLO, Hello(RUN))
    federation.send(LOCAL, TrainLocal(RUN, RECIPE, True))
    [sealed] = federation.send(SHARE, Share(RUN, RECIPE, ("b",))).envelopes.values()
    received = federation.envelopes_for_a()
    federation.send(MERGE, Merge(RUN, RECIPE, 250.0), received)
    federation.send(MERGE, Merge(RUN, RECIPE, 250.0), {"p001": b"x", "b": b"x"})
    found = federation.audited()
    assert [(e.event, e.decision, e.peer, e.reason) for e in found] == [
        (HELLO, "allowed", None, None),
        (LOCAL, "allowed", None, None),
        ("privacy.spend", "allowed", None, "no bound: a vector left that was trained without differential privacy"),
        ("vector.seal", "allowed", "b", HEADLESS),
        (SHARE, "allowed", None, None),
        ("vector.open", "allowed", "b", None),
        (MERGE, "allowed", None, None),
        ("vector.open", "refused", "b", "MalformedEnvelopeError"),
        ("vector.open", "refused", "p001", "UnknownSenderError"),
        (MERGE, "refused", None, "EnvelopeError"),
    ]
    assert {e.run for e in found} == {"run1"}
    assert [found[i].artefact for i in (0, 1, 4, 6, 9)] == [None, *[digest(RECIPE)] * 3, None]
    assert [found[3].size, found[5].size] == [len(sealed), len(received["b"])]
    lines = (federation.state("a") / "audit" / audit_log.FILE).read_text()
    assert not [secret for secret in (*SECRETS, str(federation.folder)) if secret in lines]
    numbers = {
        value
        for line in lines.splitlines()
        for value in json.loads(line)["event"].values()
        if isinstance(value, int | float)
    }
    assert numbers == {len(sealed), len(received["b"]), 1}  # sizes of envelopes; no count and no score


@pytest.mark.parametrize("action", [HELLO, LOCAL, AVERAGE, SHARE, MERGE])
def test_a_site_whose_audit_log_was_tampered_with_answers_nothing(federation, action):
    """What cannot be audited does not leave."""
    envelopes = {"c": of_c()}
    federation.send(HELLO, Hello(RUN))
    federation.send(HELLO, Hello(RUN))
    path = federation.state("a") / "audit" / audit_log.FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    before = path.read_bytes()
    reply = federation.send(action, dict(requests())[action], envelopes if action == MERGE else None)
    assert refusal(reply) == "AuditError" and path.read_bytes() == before


@pytest.mark.parametrize(("action", "name"), [(SHARE, "sent.json"), (MERGE, "received.json")])
def test_a_damaged_sequence_file_stops_the_vector(federation, action, name):
    envelopes = {"c": of_c()}
    (federation.state("a") / name).write_text("{")
    reply = federation.send(action, dict(requests())[action], envelopes if action == MERGE else None)
    assert refusal(reply) == "RunFolderError"
    assert federation.audited()[-1] == Event(action, "refused", "run1", reason="RunFolderError")


# ---------------------------------------------------------------- envelopes under attack


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Federation:
    """a, which has merged b's vector already: whatever is sent beside that vector costs no training."""
    made = Federation(tmp_path_factory.mktemp("target"))
    assert made.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, made.envelopes_for_a()).refused == ()
    return made


def spoiled(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


ATTACKS = {
    "of another run": (of_c(run="run0"), "WrongRunError"),
    "of another federation": (of_c(federation="other"), "WrongRunError"),
    "for another recipient": (of_c(recipient="b", sealed_to="b"), "WrongRecipientError"),
    "another site's": (of_c(sender="a", signed_by="a"), "SwappedEnvelopeError"),
    "re-signed by a stranger": (of_c(signed_by="mallory"), "ForgedEnvelopeError"),
    "re-signed by another site": (of_c(signed_by="b"), "ForgedEnvelopeError"),
    "sealed to another's key": (of_c(sealed_to="b"), "WrongKeyError"),
    "from another M0": (of_c(m0_sha256="0" * 64), "WrongModelError"),
    "of another architecture": (of_c(architecture="0" * 64), "WrongModelError"),
    "trained by another recipe": (of_c(recipe_sha256="0" * 64), "WrongModelError"),
    "altered": (spoiled(of_c()), "AlteredEnvelopeError"),
    "cut": (of_c()[:-1], "TruncatedEnvelopeError"),
    "an unsealed vector": (VECTOR, "MalformedEnvelopeError"),
    "around junk": (of_c(content=b"junk", sequence=2), "VectorFileError"),
}


@each("name", ATTACKS)
def test_a_bad_envelope_is_refused_by_its_own_reason(target, name):
    attack, kind = ATTACKS[name]
    assert refusal(target.send(MERGE, Merge(RUN, RECIPE, 250.0), {"c": attack})) == kind
    opened = [event for event in target.audited() if event.event == "vector.open"][-1]
    assert (opened.decision, opened.peer, opened.reason) == ("refused", "c", kind)


@each("name", ["of another run", "altered"])
def test_and_the_good_one_is_merged(target, name):
    attack, kind = ATTACKS[name]
    envelopes = {**target.envelopes_for_a(), "c": attack}
    reply = target.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, envelopes)
    assert reply.refused == (Refusal(kind, getattr(errors, kind).public_reason, "c"),)
    assert read_json(target.state("a") / "result.json")["sources"] == ["b"]


def test_mail_that_was_swapped_between_two_senders_is_refused_for_both(target):
    b, c = target.envelopes_for_a()["b"], of_c(sequence=3)
    assert refusal(target.send(MERGE, Merge(RUN, RECIPE, 250.0), {"b": c, "c": b})) == "EnvelopeError"
    assert target.log().count("was made by another site than it was delivered for") >= 2


def test_a_sender_that_the_roster_does_not_list_is_refused(target):
    content = of_c(sender="mallory", signed_by="mallory")
    envelopes = {**target.envelopes_for_a(), "mallory": content}
    [refused] = target.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, envelopes).refused
    assert (refused.kind, refused.site) == ("UnknownSenderError", "mallory")


def test_an_older_envelope_of_the_same_run_is_a_replay(target):
    older, newer = (target.envelopes_for_a()["b"] for _ in range(2))
    merge = Merge(RUN, RECIPE, 250.0)
    assert target.ask(MERGE, merge, messages.MergeReply, {"b": newer}).refused == ()
    assert target.ask(MERGE, merge, messages.MergeReply, {"b": newer}).refused == ()
    assert refusal(target.send(MERGE, merge, {"b": older})) == "ReplayedEnvelopeError"


def test_an_envelope_of_an_earlier_run_is_no_use_in_a_later_one(federation):
    later = Merge(replace(RUN, run="run2"), RECIPE, 250.0)
    assert refusal(federation.send(MERGE, later, {"c": of_c()})) == "WrongRunError"
    assert "envelope of c: was made in another run" in federation.log()


# ---------------------------------------------------------------- runs that were left


def test_a_run_that_was_left_for_a_newer_one_is_refused_in_every_phase(federation, spies):
    old = {"c": of_c()}
    for run in (RUN, RUN, replace(RUN, run="run2"), replace(RUN, run="run2")):
        assert federation.ask(HELLO, Hello(run), messages.HelloReply).site == "a"
    for action, request in requests():
        assert refusal(federation.send(action, request, old if action == MERGE else None)) == "WrongRunError"
        assert federation.audited()[-1] == Event(action, "refused", "run1", reason="WrongRunError")
    assert trained(spies) == [0, 0] and not (federation.state("a") / "received.json").exists()
    assert federation.ask(HELLO, Hello(replace(RUN, run="run2")), messages.HelloReply).site == "a"
    assert federation.ask(HELLO, Hello(RUN), messages.HelloReply, node=1).site == "b"  # which has not left it


@pytest.mark.parametrize("action", [LOCAL, SHARE, MERGE])
def test_every_phase_leaves_the_run_before(federation, action):
    federation.ask(HELLO, Hello(RUN), messages.HelloReply)
    later = replace(RUN, run="run2")
    federation.send(action, replace(dict(requests())[action], id=later))
    assert refusal(federation.send(HELLO, Hello(RUN))) == "WrongRunError"


def test_a_run_that_is_none_of_this_federation_s_does_not_end_the_one_at_hand(federation):
    federation.ask(HELLO, Hello(RUN), messages.HelloReply)
    for change in ({"federation": "other"}, {"roster_sha256": "0" * 64}):
        assert "Refusal" in federation.send(HELLO, Hello(replace(RUN, run="run2", **change))).body
    assert federation.ask(HELLO, Hello(RUN), messages.HelloReply).site == "a"


def test_a_damaged_memory_of_runs_stops_every_phase(federation, spies):
    (federation.state("a") / "runs.json").write_text("{")
    for action, request in requests():
        reply = federation.send(action, request, {"c": of_c()} if action == MERGE else None)
        assert refusal(reply) == "RunFolderError"
    assert trained(spies) == [0, 0] and (federation.state("a") / "runs.json").read_text() == "{"


# ---------------------------------------------------------------- delivered ahead of the merge


def test_a_merge_of_delivered_envelopes_is_that_of_brought_ones_however_often_it_is_asked(federation):
    """Delivered twice, merged twice, as after a lost connection; then an empty delivery removes them."""
    envelopes = {**federation.envelopes_for_a(), "c": of_c()}
    inbox = federation.state("a") / "inbox" / RUN.run
    for name in (*envelopes, "c"):
        federation.ask(DELIVER, Deliver(RUN, RECIPE), messages.DeliverReply, {name: envelopes[name]})
    assert {path.name: path.read_bytes() for path in inbox.iterdir()} == envelopes
    assert {stat.S_IMODE(path.stat().st_mode) for path in inbox.iterdir()} == {0o600}
    merge = Merge(RUN, RECIPE, 250.0, letters=letters_of(envelopes))
    replies = [federation.ask(MERGE, merge, messages.MergeReply, brought) for brought in ({}, {}, envelopes)]
    assert replies[0].refused == () and replies == [replies[0]] * 3
    assert read_json(federation.state("a") / "result.json")["sources"] == ["b", "c"]
    federation.ask(DELIVER, Deliver(RUN, RECIPE), messages.DeliverReply)
    assert not inbox.exists()
    assert [e.decision for e in federation.audited() if e.event == DELIVER] == ["allowed"] * 4


def test_a_merge_without_an_envelope_that_it_names_is_refused_before_any_is_opened(federation):
    envelopes = {**federation.envelopes_for_a(), "c": of_c()}
    merge = Merge(RUN, RECIPE, 250.0, letters=letters_of(envelopes))
    assert refusal(federation.send(MERGE, merge, {"b": envelopes["b"]})) == "MissingEnvelopeError"
    assert "the envelope of c did not come" in federation.log()
    federation.ask(DELIVER, Deliver(RUN, RECIPE), messages.DeliverReply, {"c": of_c(sequence=9)})
    assert refusal(federation.send(MERGE, merge, {"b": envelopes["b"]})) == "MissingEnvelopeError"
    assert "the envelope of c is another than the server names" in federation.log()
    assert refusal(federation.send(MERGE, replace(merge, letters=merge.letters[:1]), envelopes)) == "ProtocolError"
    assert not [e for e in federation.audited() if e.event == "vector.open"]


@each("name", ["a", "mallory", "..", "../b", "", "b/x"])
def test_only_another_site_of_the_roster_can_have_sent_what_is_delivered(healthy, name):
    assert refusal(healthy.send(DELIVER, Deliver(RUN, RECIPE), {name: b"x"})) == "ProtocolError"
    assert not (healthy.state("a") / "inbox").exists()


def test_a_delivery_that_could_fill_the_disk_is_refused(federation, monkeypatch):
    large = {"b": bytes(most_bytes(RECIPE.model, RECIPE.sharing) + 1)}
    assert refusal(federation.send(DELIVER, Deliver(RUN, RECIPE), large)) == "ProtocolError"
    monkeypatch.setattr(fedsteph.client.site.inbox, "free_bytes", lambda path: 1 << 30)
    assert refusal(federation.send(DELIVER, Deliver(RUN, RECIPE), {"b": b"x"})) == "StorageError"
    federation.set_policy(f"{{recipes: ['{'e' * 64}']}}")
    assert refusal(federation.send(DELIVER, Deliver(RUN, RECIPE), {"b": b"x"})) == "RecipePolicyError"
    assert not (federation.state("a") / "inbox").exists()


def test_another_run_removes_what_was_delivered(federation):
    federation.ask(DELIVER, Deliver(RUN, RECIPE), messages.DeliverReply, {"c": of_c()})
    federation.send(HELLO, Hello(replace(RUN, run="run2")))
    assert [*(federation.state("a") / "inbox").iterdir()] == []


# ---------------------------------------------------------------- names that are none


HOSTILE_NAMES = ["x\n2026-11-21 12:00:00,000 INFO fake", "\x1b[2Jfake", "fake\r", "fake\u2028fake", "fake" * 1_300_000]


def require_plain(federation: Federation, before: int) -> None:
    """What was written since ``before`` is short, of whole lines of ours, and holds nothing of a hostile name."""
    log = federation.log()[before:]
    assert log and len(log) < 2000 and "fake" not in log and "\x1b" not in log
    assert all(re.match(r"\d{4}-\d\d-\d\d [\d:,]+ (WARNING|ERROR) ", line) for line in log.splitlines())
    events = federation.audited()
    assert not [event for event in events if "fake" in repr(event)]


def test_a_name_that_is_none_reaches_no_log_and_no_answer(target):
    merge = Merge(RUN, RECIPE, 250.0)
    good = target.envelopes_for_a()
    for name in HOSTILE_NAMES:
        letters = (*letters_of(good), *letters_of({"c": b"junk"}))
        body = json.loads(protocol.parcel(protocol.pack(replace(merge, letters=letters)), "test").body)
        body["Merge"]["letters"][1]["sender"] = name
        for records in (
            protocol.pack(replace(merge, letters=letters_of(good)), {**good, name: b"junk"}),  # brought, and not named
            RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION, "body": json.dumps(body)})}),
        ):
            before = len(target.log())
            assert refusal(target.send(MERGE, records)) == "ProtocolError"
            require_plain(target, before)


@each("name", HOSTILE_NAMES)
def test_a_recipient_or_key_that_is_none_reaches_no_log(federation, name):
    before = len(federation.log())
    for request in (Share(RUN, RECIPE, (name,)), Share(RUN, RECIPE, ("b", name))):
        assert refusal(federation.send(SHARE, request)) == "ProtocolError"
    require_plain(federation, before)
    before = len(federation.log())
    assert refusal(federation.send(SHARE, changed(Share(RUN, RECIPE, ("b",)), **{name: 1}))) == "ProtocolError"
    log = federation.log()[before:]
    assert len(log) < 2000 and "\x1b" not in log and len(log.splitlines()) == 1


# ---------------------------------------------------------------- a full disk


def fill_disk_for(patch: pytest.MonkeyPatch, name: str) -> list[Path]:
    """Files of this name cannot be put in place any more, as on a full disk; says which were tried."""
    tried: list[Path] = []
    real = os.replace

    def replaced(source: Any, place: Any) -> None:
        if Path(place).name == name:
            tried.append(Path(place))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        real(source, place)

    patch.setattr(os, "replace", replaced)
    return tried


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (LOCAL, "local.safetensors"),
        (SHARE, "sent.json"),
        (MERGE, "received.json"),
        (MERGE, "0_0.0.json"),
        (MERGE, "steph.safetensors"),
        (MERGE, "result.json"),
        (MERGE, "fold_1.safetensors"),
    ],
)
def test_a_full_disk_is_a_refusal_and_leaves_nothing_half_written(federation, monkeypatch, action, name):
    request = dict(requests())[action]
    envelopes = {"c": of_c()} if action == MERGE else None
    with monkeypatch.context() as patch:
        tried = fill_disk_for(patch, name)
        reply = federation.send(action, request, envelopes)
        assert tried and refusal(reply) == "StorageError"
    assert "No space left" in federation.log() and "No space" not in reply.body
    assert not [path for path in federation.state("a").rglob("*") if path.name == name or path.suffix == ".part"]
    assert federation.audited()[-1] == Event(action, "failed", "run1", reason="StorageError")
    assert "Refusal" not in json.loads(federation.send(action, request, envelopes).body)
    assert federation.audited()[-1] == Event(action, "allowed", "run1", artefact=digest(RECIPE))


def test_an_audit_line_that_the_disk_cuts_off_stops_the_answer_and_is_mended_later(federation):
    """A real limit on file sizes: the operating system takes a part of the line and then no more."""
    for _ in range(12):
        federation.send(HELLO, Hello(RUN))
    path = federation.state("a") / "audit" / audit_log.FILE
    before = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 50, hard))
    try:
        reply = federation.send(HELLO, Hello(RUN))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refusal(reply) == "StorageError" and before <= path.stat().st_size <= before + 50
    assert federation.ask(HELLO, Hello(RUN), messages.HelloReply).site == "a"
    found = federation.audited()
    assert (found[-1].event, found[-1].decision) == (HELLO, "allowed")
    assert sum(event.event == HELLO for event in found) == 13
