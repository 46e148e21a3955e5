"""The ClientApp through Flower's own messages: four answers, and refusals that tell the server nothing."""

from __future__ import annotations

import io
import json
import logging
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import pytest
import safetensors.torch
from client_builders import Spy, make_recipe
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.task_identity import TaskIdentity
from sites import make_site

import client.app
import client.local
import client.steph.fit
from client.app import app
from client.results import METHODS
from common import errors, protocol
from common.abmil import Architecture
from common.envelope import EnvelopeContext, open_sealed
from common.errors import FedstephError
from common.messages import Hello, Merge, RunId, Share, TrainLocal
from common.protocol import HELLO, LOCAL, MERGE, SHARE, Parcel

RUN = RunId("fed", "run1")
RECIPE = make_recipe()
INTERNAL = "an unforeseen error happened at the site; its log has the details"


class Federation:
    """A run folder with the sites a and b, and a way to send them messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.run.mkdir(parents=True)
        for k, name in enumerate(("a", "b")):
            make_site(folder / "data" / name, patients=12, seed=k)
        plan = [{"name": n, "folder": str(folder / "data" / n), "device": "cpu"} for n in ("a", "b")]
        (self.run / "sites.json").write_text(json.dumps(plan))

    def state(self, name: str) -> Path:
        return self.run / "sites" / name

    def log(self, name: str = "a") -> str:
        return (self.state(name) / "site.log").read_text()

    def send(self, action: str, request: Any, envelopes=None, *, node: int = 0, **config: Any) -> Parcel:
        """Through the bytes that Flower would send, there and back."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
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
        assert not answered.has_error()
        assert answered.metadata.reply_to_message_id == "m1"
        return protocol.parcel(answered.content, "reply")

    def ask(self, action: str, request: Any, answer: type, envelopes=None, **options: Any) -> Any:
        return protocol.read(self.send(action, request, envelopes, **options), answer, "reply")

    def envelopes_for_a(self) -> dict[str, bytes]:
        sent = self.send(SHARE, Share(RUN, RECIPE, ("a",)), node=1)
        return {"b": sent.envelopes["a"]}


def refusal(parcel: Parcel, site: str | None = "a") -> str:
    """The class of a refusal, which holds that, its fixed phrase, the site's name, and nothing else."""
    body = json.loads(parcel.body)
    assert list(body) == ["Refusal"]
    assert not parcel.envelopes
    kind = body["Refusal"]["kind"]
    reason = INTERNAL if kind == "InternalError" else getattr(errors, kind).public_reason
    assert body["Refusal"] == {"kind": kind, "reason": reason, "site": site}
    return kind


@pytest.fixture
def federation(tmp_path) -> Federation:
    return Federation(tmp_path)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Federation:
    """For messages that change nothing at a site but its log."""
    return Federation(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def spies(monkeypatch) -> list[Spy]:
    return [Spy(monkeypatch, module, "fit") for module in (client.local, client.steph.fit)]


def trained(spies: list[Spy]) -> list[int]:
    counts = [len(spy.calls) for spy in spies]
    for spy in spies:
        spy.calls.clear()
    return counts


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(("node", "name"), [(0, "a"), (1, "b")])
def test_hello(healthy, node, name):
    reply = healthy.ask(HELLO, Hello(RUN), messages.HelloReply, node=node)
    assert reply == messages.HelloReply(name, version("fedsteph"), "test-encoder", 6)


def test_a_real_node_serves_the_site_of_its_own_config(federation):
    path = federation.folder / "data/b/site.yaml"
    path.write_text("name: north\nstate: kept\n")
    config = {"node_config": {"site-config": str(path)}}
    assert federation.ask(HELLO, Hello(RUN), messages.HelloReply, **config).site == "north"
    federation.ask(LOCAL, TrainLocal(RUN, RECIPE, False), messages.TrainLocalReply, **config)
    assert len(list((federation.folder / "data/b/kept").rglob("local.safetensors"))) == 1


@pytest.mark.parametrize(("every_fold", "models"), [(True, 2), (False, 1)])
def test_local_training_is_kept_at_the_site_and_done_once(federation, spies, every_fold, models):
    request = TrainLocal(RUN, RECIPE, every_fold)
    for expected in (models, 0):
        sent = federation.send(LOCAL, request)
        reply = protocol.read(sent, messages.TrainLocalReply, "reply")
        assert (reply, sent.envelopes) == (messages.TrainLocalReply("10-19", "below 10"), {})
        assert trained(spies) == [expected, 0]
    assert len(list(federation.state("a").rglob("local.safetensors"))) == models
    assert not federation.state("b").exists()


def opened(sent: Parcel) -> dict[str, dict[str, list]]:
    """The tensors that each recipient gets; safetensors writes its metadata in any order."""
    model = RECIPE.model
    own = (model.m0_sha256, Architecture.of(model).digest)
    plain = {
        to: open_sealed(sent.envelopes[to], EnvelopeContext("fed", "run1", "a", to, *own)) for to in sent.envelopes
    }
    return {to: {n: t.tolist() for n, t in safetensors.torch.load(vector).items()} for to, vector in plain.items()}


def test_one_envelope_per_recipient(federation, spies):
    first = federation.send(SHARE, Share(RUN, RECIPE, ("b", "c")))
    assert protocol.read(first, messages.ShareReply, "reply") == messages.ShareReply()
    assert sorted(first.envelopes) == ["b", "c"]
    assert trained(spies) == [1, 0]
    again = federation.send(SHARE, Share(RUN, RECIPE, ("b", "c")))
    assert trained(spies) == [0, 0]
    assert opened(again) == opened(first)


def test_merge_and_merge_sent_again(federation, spies):
    envelopes = {**federation.envelopes_for_a(), "c": b"junk"}
    trained(spies)
    reply = federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, envelopes)
    assert trained(spies) == [2 + 2 * 2, 2 * (2 * 2 + 1)]
    assert (reply.patients, reply.events, reply.refused) == ("10-19", "below 10", ("c",))
    result = json.loads((federation.state("a") / "result.json").read_text())
    assert result["sources"] == ["b"]
    for method in METHODS:
        assert getattr(reply, method) == round(result["methods"][method]["mean"], 2)
    assert "refused the vector of c: envelope from c: is malformed" in federation.log()
    assert federation.ask(MERGE, Merge(RUN, RECIPE, 250.0), messages.MergeReply, envelopes) == reply
    assert trained(spies) == [0, 0]


def test_progress_lies_at_the_site(federation):
    federation.send(LOCAL, TrainLocal(RUN, RECIPE, True))
    federation.send(MERGE, Merge(RUN, RECIPE, 250.0), federation.envelopes_for_a())
    lines = [json.loads(line) for line in (federation.state("a") / "progress.jsonl").read_text().splitlines()]
    for phase in (LOCAL, MERGE):
        done = [line["done"] / line["total"] for line in lines if line["phase"] == phase]
        assert done == sorted(done)
        assert done[-1] == 1
    assert {line["party"] for line in lines} == {"a"}


# ---------------------------------------------------------------- refusals


def requests() -> list[tuple[str, Any]]:
    return [
        (HELLO, Hello(RUN)),
        (LOCAL, TrainLocal(RUN, RECIPE, True)),
        (SHARE, Share(RUN, RECIPE, ("b",))),
        (MERGE, Merge(RUN, RECIPE, 250.0)),
    ]


@pytest.mark.parametrize(("action", "request_"), requests(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_node_without_a_site_refuses(healthy, action, request_):
    for config in ({"node_config": {}}, {"run_config": {}}, {"run_config": {"run-folder": "relative"}}):
        assert refusal(healthy.send(action, request_, **config), None) == "ConfigError"


def cut_a_file(site: Path) -> None:
    path = site / "features/P001-DX1.h5"
    path.write_bytes(path.read_bytes()[:100])


def forget_a_file(site: Path) -> None:
    (site / "features/P001-DX1.h5").unlink()


def spoil_a_label(site: Path) -> None:
    labels = site / "labels.csv"
    labels.write_text(labels.read_text() + "P001,P001-DX9,TEST,12,1\n")


def spoil_a_value(site: Path) -> None:
    for path in site.glob("features/*.h5"):
        with h5py.File(path, "r+") as file:
            file["features"][0, 0] = float("nan")


def leak_a_patient(site: Path) -> None:
    (site / "splits_0.csv").write_text("train,test\nP001,P001\nP002,P003\n")


def lose_everything(site: Path) -> None:
    shutil.rmtree(site)


def break_the_plan(site: Path) -> None:
    (site.parents[1] / "run/sites.json").write_text("[")


SECRETS = ("P001", "P00", "DX", ".h5", ".csv", "features", "data")
FAULTS = [
    (cut_a_file, "DataError", HELLO),
    (forget_a_file, "DataError", HELLO),
    (spoil_a_label, "DataError", HELLO),
    (spoil_a_value, "NonFiniteError", LOCAL),
    (leak_a_patient, "DataError", LOCAL),
    (lose_everything, "ConfigError", HELLO),
    (break_the_plan, "InternalError", HELLO),
]


@pytest.mark.parametrize(("fault", "kind", "first"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_is_wrong_with_the_data_stays_at_the_site(federation, fault, kind, first):
    fault(federation.folder / "data/a")
    actions = [action for action, _ in requests()]
    for action, request in requests()[actions.index(first) :]:
        envelopes = {"b": b"junk"} if action == MERGE else None
        reply = federation.send(action, request, envelopes)
        if action != MERGE or kind != "NonFiniteError":
            assert refusal(reply, None if kind in ("ConfigError", "InternalError") else "a") == kind
        told = reply.body.replace("the site's data did not pass its check", "")
        assert not [secret for secret in (*SECRETS, str(federation.folder)) if secret in told]
    if kind in ("DataError", "NonFiniteError"):
        log = federation.log()
        assert "P001" in log or fault is spoil_a_value
        assert str(federation.folder / "data/a") in log
        assert f"refused {first}" in log


def all_errors(root: type[FedstephError] = FedstephError) -> list[type[FedstephError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in all_errors(child))]


@pytest.mark.parametrize("error", sorted({*all_errors()}, key=lambda kind: kind.__name__))
def test_of_a_foreseen_error_the_server_learns_its_class(monkeypatch, healthy, error):
    def fail(*args: object) -> None:
        raise error("P001 at 3.2 years", where=f"/secret/{error.__name__}.h5", remedy="Look at P001", details="a table")

    monkeypatch.setattr(client.app, "open_cohort", fail)
    reply = healthy.send(HELLO, Hello(RUN))
    assert refusal(reply) == error.__name__
    assert "P001" not in reply.body
    assert "secret" not in reply.body
    assert f"/secret/{error.__name__}.h5: P001 at 3.2 years. Look at P001" in healthy.log()


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

    monkeypatch.setattr(client.app, "open_cohort", fail)
    monkeypatch.setattr(client.app.Workspace, "open", fail)
    reply = healthy.send(action, dict(requests())[action])
    assert refusal(reply) == "InternalError"
    assert "P001" not in reply.body
    printed = capfd.readouterr()
    assert "P001" not in printed.out + printed.err + root_log.getvalue(), "what a site prints, Flower may forward"
    log = healthy.log()
    assert secret in log
    assert f"ERROR failed in {action}\nTraceback" in log


def changed(request: Any, **recipe: Any) -> RecordDict:
    """A request whose body is not what a coordinator of ours would write."""
    body = {type(request).__name__: asdict(request)}
    fields = body[type(request).__name__]
    for key, value in recipe.items():
        section, _, name = key.partition("__")
        (fields["recipe"][section] if name else fields)[name or section] = value
    return RecordDict({"fedsteph": ConfigRecord({"version": 1, "body": json.dumps(body)})})


@pytest.mark.parametrize(
    "changes",
    [
        {"training__epochs": 10**9},
        {"training__lr": 50.0},
        {"training__epochs": "2"},
        {"training__seeds": 1},
        {"model__width": 10**7},
        {"model__m0_sha256": "../../x"},
        {"steph__K": 0},
        {"evaluation__folds": 0},
        {"every_fold": "yes"},
        {"command": "rm"},
        {"recipe": None},
    ],
)
def test_a_recipe_out_of_range_or_with_unknown_keys_is_refused(healthy, spies, changes):
    reply = healthy.send(LOCAL, changed(TrainLocal(RUN, RECIPE, True), **changes))
    assert refusal(reply) == "ProtocolError"
    assert trained(spies) == [0, 0]


@pytest.mark.parametrize(
    ("settings", "width", "kind"),
    [
        ((), 7, "WidthError"),
        (("evaluation.folds=3",), 6, "SplitError"),
        (("model.m0_seed=1",), 6, None),
    ],
)
def test_a_recipe_that_does_not_fit_the_site(federation, settings, width, kind):
    recipe = make_recipe(*settings, width=width)
    reply = federation.send(LOCAL, TrainLocal(RUN, recipe, False))
    if kind is None:
        assert protocol.read(reply, messages.TrainLocalReply, "reply")
    else:
        assert refusal(reply) == kind


def test_a_recipe_without_a_pinned_m0_is_refused(healthy):
    request = changed(TrainLocal(RUN, RECIPE, False), model__m0_sha256=None)
    assert refusal(healthy.send(LOCAL, request)) == "ConfigError"
    request = changed(TrainLocal(RUN, RECIPE, False), model__m0_sha256="a" * 64)
    assert refusal(healthy.send(LOCAL, request)) == "ConfigError"


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({"fedsteph": ArrayRecord()}),
        RecordDict({"fedsteph": ConfigRecord({"version": 2, "body": "{}"})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 1})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 1, "body": "{"})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 1, "body": "[]"})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 1, "body": "[" * 100_000})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 1, "body": '{"Hello": {"id": null}}'})}),
        RecordDict({"fedsteph": ConfigRecord({"version": 1, "body": '{"Refusal": {"kind": "a", "reason": "b"}}'})}),
        protocol.pack(Share(RUN, RECIPE, ("b",))),
    ],
)
def test_messages_that_are_not_the_protocols(healthy, records):
    assert refusal(healthy.send(HELLO, records)) in ("ProtocolError", "SiteError")


@pytest.mark.parametrize("recipient", ["a", "../b", "", "B"])
def test_a_recipient_that_is_no_other_site_is_refused(healthy, recipient):
    assert refusal(healthy.send(SHARE, Share(RUN, RECIPE, ("b", recipient)))) == "ProtocolError"


@pytest.mark.parametrize(
    ("run", "max_norm"), [(RunId("fed", "run0"), 250.0), (RunId("other", "run1"), 250.0), (RUN, 1e-9), (RUN, -1.0)]
)
def test_without_a_usable_envelope_nothing_is_merged(federation, spies, run, max_norm):
    envelopes = federation.envelopes_for_a()
    trained(spies)
    assert refusal(federation.send(MERGE, Merge(run, RECIPE, max_norm), envelopes)) == "EnvelopeError"
    assert trained(spies) == [0, 0]
    assert "envelope" in federation.log()


def test_a_reply_that_cannot_be_packed_is_an_internal_error(monkeypatch, federation):
    monkeypatch.setattr(client.app.protocol, "band", lambda count: float("nan"))
    assert refusal(federation.send(LOCAL, TrainLocal(RUN, RECIPE, False))) == "InternalError"
