"""What leaves a site besides vectors: every value of every message of whole runs is on a list, with its form.

A path that is not on the list, or a value that is not of its path's form, is named. So is a field of a message that
no run here has sent: the list cannot grow old unseen.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from sites import CLINICAL, TINY, add_clinical, make_site
from wire import ENTRIES, Passed, leaves_of, recorded

import fedsteph.client.app
from fedsteph.client.sharing import outgoing
from fedsteph.client.sharing.statement import FRONT, read_content
from fedsteph.client.target import enhance
from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.errors import QuorumError, public_phrases
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.key_file import read_identity
from fedsteph.common.trust.keys import Identity
from fedsteph.common.vector.shared_part import WHOLE
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire import letters, messages, protocol
from fedsteph.common.wire.envelope import Context, open_sealed, read_stated, seal
from fedsteph.common.wire.messages import TrainLocalReply
from fedsteph.simulations.run import in_process
from fedsteph.simulations.run.run_folder import RunFolder, prepare

SECRET = "P017 of 37 in /hospital/labels.csv"
_OPEN = "min_patients: 1, min_events: 1, min_pairs: 1, recipes: any"
_PRIVATE = "privacy: dp-sgd\ndp_sgd: {noise: 5, epochs: 2, delta: 0.01}\n"


def policy(targets: str, *more: str) -> str:
    return f"policy: {{targets: [{targets}], {', '.join([_OPEN, *more])}}}\n"


@dataclass(frozen=True)
class Hospital:
    """A site of a run: its patients, half of them with an event, and its ``site.yaml``."""

    patients: int
    file: str = ""
    clinical: bool = False  # whether its table has clinical values, and its file names them

    @property
    def cancer(self) -> str | None:
        """As its file states it."""
        found = re.search("^cancer: ([a-z]+)$", self.file, re.MULTILINE)
        return found and found[1]

    def told(self, metric: str) -> bool:
        """Whether its policy lets a number out."""
        return "metrics" not in self.file or metric in self.file.partition("metrics")[2]


@dataclass
class Ran:
    """A run and every message of it."""

    folder: RunFolder
    hospitals: Mapping[str, Hospital]
    passed: list[Passed] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)  # the server's files, when the run had ended

    @property
    def config(self) -> Config:
        return self.folder.config

    def saying(self, index: int, body: str) -> Ran:
        """One message of the run, had it said something else."""
        return replace(self, passed=[self.passed[index].saying(body)])

    def first(self, kind: str) -> int:
        return next(i for i, one in enumerate(self.passed) if one.kind == kind)


def record(ran: Ran) -> None:
    with recorded(ran.hospitals) as ran.passed:
        in_process.run_in_process(ran.folder.path)
    server = ran.folder.path / "server"
    found = (path for path in server.rglob("*") if path.is_file() and path.name != ".lock")
    ran.kept |= {path.relative_to(server).as_posix(): path.read_text() for path in found}


def prepared(tmp: Path, hospitals: Mapping[str, Hospital], *settings: str, seed: int = 0) -> Ran:
    folders = []
    for i, (name, hospital) in enumerate(hospitals.items()):
        folder = make_site(tmp / "sites" / name, seed=seed + i, patients=hospital.patients, max_instances=4)
        if hospital.clinical:
            add_clinical(folder)
        (folder / "site.yaml").write_text(hospital.file + (CLINICAL if hospital.clinical else ""))
        folders.append(folder)
    config = load_config(None, [*TINY, "training.epochs=1", "steph.gamma=0.0", *settings])
    return Ran(prepare(tmp / "run", config, folders)[0], hospitals)


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> Ran:
    """Two targets and FedAvg; gamma shares with one of them, delta in private, epsilon tells no number.

    Of one cancer with a target, beta and epsilon send their head; gamma is of another, delta private, alpha keeps it.
    """
    kirp, fedavg = "cancer: kirp\n", "unsealed_updates: true"
    hospitals = {  # alpha refuses delta's vector
        "alpha": Hospital(13, kirp + "max_vector_norm: 1.0\n" + policy("beta", fedavg, "share_head: false")),
        "beta": Hospital(16, kirp + policy("alpha", fedavg), clinical=True),
        "gamma": Hospital(21, "cancer: kirc\n" + policy("alpha")),
        "delta": Hospital(13, kirp + policy("alpha, beta", "privacy: dp-sgd") + _PRIVATE),
        "epsilon": Hospital(22, kirp + policy("alpha, beta", fedavg, "metrics: []")),
    }
    settings = ["federation.targets=[alpha,beta]", "comparators.methods=[fedavg,model_average]", "comparators.rounds=2"]
    ran = prepared(tmp_path_factory.mktemp("answered"), hospitals, *settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "IN_THE_AIR", 1)  # every envelope travels alone, and is delivered ahead of the merge
        record(ran)
    return ran


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> Ran:
    """Less is shared, and every action but one fails somewhere: by policy, by data, and by what nobody foresaw."""
    hospitals = {
        "alpha": Hospital(13, policy("beta", "metrics: []")),
        "beta": Hospital(13, policy("alpha")),
        "gamma": Hospital(13, policy("alpha", "privacy: dp-sgd")),
        "delta": Hospital(13, policy("alpha")),
        "epsilon": Hospital(13, policy("alpha")),
        "zeta": Hospital(13, policy("alpha") + _PRIVATE),
    }
    settings = ["federation.targets=[alpha,beta]", "comparators.methods=[]", "sharing.layers=embed", "sharing.rank=2"]
    tmp = tmp_path_factory.mktemp("refused")
    another = ("model.kind=dsmil", "model.max_instances=3")
    ran = prepared(tmp, hospitals, *settings, "sharing.dtype=float16", *another)
    (tmp / "sites" / "delta" / "labels.csv").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enhance, "enhance_target", failing_at("beta", enhance.enhance_target, RuntimeError(SECRET)))
        patch.setattr(outgoing, "outgoing", failing_at("epsilon", outgoing.outgoing, OSError(SECRET)))
        record(ran)
    return ran


def failing_at(name: str, whole: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    def failing(workspace: Any, *args: Any, **options: Any) -> Any:
        if workspace.site.name == name:
            raise error
        return whole(workspace, *args, **options)

    return failing


# ---------------------------------------------------------------- forms


@dataclass(frozen=True)
class At:
    """Where a value stands."""

    ran: Ran
    message: Passed
    path: str

    @property
    def hospital(self) -> Hospital:
        return self.ran.hospitals[self.message.site]


Form = Callable[[Any, At], bool]


def one_of(*allowed: Any) -> Form:
    """One of some fixed values, of their very type."""
    return lambda value, at: (type(value), value) in {(type(one), one) for one in allowed}


def word(pattern: str) -> Form:
    return lambda value, at: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def configured(value: Any, at: At) -> bool:
    """What the coordinator's own configuration says: the request's recipe, to the last key."""
    found: Any = to_dict(at.ran.config) | to_dict(at.ran.config.federation) | to_dict(at.ran.config.model)
    for key in at.path.removesuffix("[]").partition(".")[2].removeprefix("recipe.").split("."):
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return value in found if at.path.endswith("[]") else value == found and type(value) is type(found)


def band_of(metric: str, count: Callable[[Hospital], int]) -> Form:
    """A band of ten, the right one, for whoever tells it; null for whoever does not."""

    def fits(value: Any, at: At) -> bool:
        tens = count(at.hospital) // 10
        band = f"{tens}0-{tens}9" if tens else "below 10"
        return bool(value == band if at.hospital.told(metric) else value is None)

    return fits


PATIENTS = band_of("patients", lambda hospital: hospital.patients)
EVENTS = band_of("events", lambda hospital: -(-hospital.patients // 2))


def weight(value: Any, at: At) -> bool:
    """The lower end of a band, or one band for whoever does not tell it."""
    return bool(value == (at.hospital.patients // 10 * 10 if at.hospital.told("patients") else 10))


def score(value: Any, at: At) -> bool:
    """Two decimals in [0, 1]; null for whoever tells none."""
    if not at.hospital.told("c_index"):
        return value is None
    return isinstance(value, float) and 0 <= value <= 1 and re.fullmatch(r"[01]\.\d\d?", repr(value)) is not None


def site(value: Any, at: At) -> bool:
    return value in at.ran.hospitals


def body_text(value: Any, at: At) -> bool:
    """JSON that could not be written in another way: no blank and no spelling says anything."""
    return bool(value == json.dumps(json.loads(value), separators=(",", ":")))


def entry_name(value: Any, at: At) -> bool:
    """An envelope's other end, or an update's fold."""
    if "Average" in at.message.kind:
        return value in {str(fold) for fold in range(at.ran.config.evaluation.folds)}
    return site(value, at) and value != at.message.site


def cancer(value: Any, at: At) -> bool:
    """What the site's file states, or null."""
    return bool(value == at.hospital.cancer)


def brings_a_head(ran: Ran, sender: str, recipient: str) -> bool:
    """Both state one cancer, and the sender neither keeps its head nor trains in private."""
    source, target = ran.hospitals[sender], ran.hospitals[recipient]
    kept = "share_head: false" in source.file or _PRIVATE in source.file
    return source.cancer is not None and source.cancer == target.cancer and not kept


def update_size(ran: Ran, sharing: SharingConfig = WHOLE, *, head: bool = False) -> int:
    """Bytes of a vector file of zeros: of no site's data."""
    architecture, m0 = Architecture.of(ran.config.model), str(ran.config.model.m0_sha256)
    zeros = {name: torch.zeros(shape) for name, shape in architecture.encoder_shapes.items()}
    direction = torch.zeros(architecture.embed) if head else None
    return len(write_vector(TaskVector(architecture, m0, zeros, direction), sharing))


def envelope_size(ran: Ran, sender: str, recipient: str) -> int:
    """Bytes of an envelope around so many zeros, by keys and in a run that are nobody's."""
    model, recipe = ran.config.model, digest(ran.config.recipe)
    architecture = Architecture.of(model).digest
    context = Context("fedsteph", "0" * 32, sender, recipient, str(model.m0_sha256), architecture, recipe)
    head = brings_a_head(ran, sender, recipient)
    plain = bytes(FRONT + update_size(ran, ran.config.sharing, head=head))
    return len(seal(plain, context, 10**12, Identity.generate(), Identity.generate().public, 365, head=head))


def sizes_of(ran: Ran, message: Passed) -> set[int]:
    """The bytes that a message's envelopes or updates may have: of architecture, sharing and names."""
    if "Average" in message.kind:
        return {update_size(ran)}
    names = [value for path, value in message.leaves() if path == ENTRIES + "{}"]
    return {
        envelope_size(ran, *((message.site, name) if message.to_server else (name, message.site))) for name in names
    }


def entry_size(value: Any, at: At) -> bool:
    return value in sizes_of(at.ran, at.message)


def entry_bytes(value: Any, at: At) -> bool:
    begins = b"fedsteph/v3/envelope\n" if "Average" not in at.message.kind else b""
    return isinstance(value, bytes) and value.startswith(begins) and entry_size(len(value), at)


def flowers_number(value: Any, at: At) -> bool:
    """A number that Flower gives to runs, nodes, tasks, or a time of its own; an app has no hand in it."""
    return isinstance(value, int | float)


HEX32, HEX64, HEX128 = (word(f"[0-9a-f]{{{n}}}") for n in (32, 64, 128))
PHRASES = public_phrases() | {"InternalError": "an unforeseen error happened at the site; its log has the details"}
KIND, REASON = one_of(*PHRASES), one_of(*PHRASES.values())
METHOD = one_of(*METHODS)
FOLDS_ASKED = one_of(True, False)
PHASES = (
    protocol.HELLO,
    protocol.LOCAL,
    protocol.AVERAGE,
    protocol.SHARE,
    protocol.DELIVER,
    protocol.MERGE,
)
PHASE = one_of(*PHASES)


# ---------------------------------------------------------------- the list

FLOWER: dict[str, Form] = {
    "metadata.run_id": flowers_number,
    "metadata.src_node_id": flowers_number,
    "metadata.dst_node_id": flowers_number,
    "metadata.src_task_id": flowers_number,
    "metadata.dst_task_id": flowers_number,
    "metadata.created_at": flowers_number,
    "metadata.ttl": flowers_number,
    "metadata.message_id": HEX32,
    "metadata.reply_to_message_id": HEX32,
    "metadata.message_type": PHASE,
    "content.fedsteph.config_record.version.value.sint64": one_of(protocol.VERSION),
    "content.fedsteph.config_record.body.value.string": body_text,
    ENTRIES + "{}": entry_name,
    ENTRIES + "{}.value.dtype": one_of("uint8"),
    ENTRIES + "{}.value.stype": one_of("fedsteph.opaque"),
    ENTRIES + "{}.value.shape[]": entry_size,
    ENTRIES + "{}.value.data": entry_bytes,
}

RUN_ID: dict[str, Form] = {"id.federation": word("fedsteph"), "id.run": HEX32, "id.roster_sha256": HEX64}

TO_SITES: dict[str, Form] = {
    **{
        f"{kind}.{path}": form
        for kind in ("Hello", "TrainLocal", "Average", "Share", "Deliver", "Merge")
        for path, form in RUN_ID.items()
    },
    "TrainLocal.every_fold": FOLDS_ASKED,
    "Average.method": METHOD,
    "Average.round": one_of(0, 1, 2),
    "Average.max_vector_norm": configured,
    "Hello.roster": one_of(None),
    "Hello.roster.roster": word(".*"),  # public keys of all sites
    "Hello.roster.chain[]": HEX64,
    "Hello.roster.signature": HEX128,
    "Share.recipients[]": site,
    "Merge.max_vector_norm": configured,
    "Merge.reuse": configured,
    "Merge.letters[].sender": site,
    "Merge.letters[].sha256": HEX64,
}  # and the recipe, which is the coordinator's own

TO_SERVER: dict[str, Form] = {
    "Refusal.kind": KIND,
    "Refusal.reason": REASON,
    "Refusal.site": site,
    "HelloReply.site": site,
    "HelloReply.software": one_of(version("fedsteph")),
    "HelloReply.encoder": configured,
    "HelloReply.magnification": configured,
    "HelloReply.patch_size": configured,
    "HelloReply.width": configured,
    "HelloReply.audit": HEX64,
    "HelloReply.signature": HEX128,
    "HelloReply.cancer": cancer,
    "HelloReply.roster_chain": one_of(None),
    "TrainLocalReply.patients": PATIENTS,
    "TrainLocalReply.events": EVENTS,
    "AverageReply.weight": weight,
    "ShareReply.refused[].kind": KIND,
    "ShareReply.refused[].reason": REASON,
    "ShareReply.refused[].site": site,
    "MergeReply.patients": PATIENTS,
    "MergeReply.events": EVENTS,
    "MergeReply.refused[].kind": KIND,
    "MergeReply.refused[].reason": REASON,
    "MergeReply.refused[].site": site,
    "MergeReply.kept[]": site,
    "MergeReply.scores[].method": METHOD,
    "MergeReply.scores[].c_index": score,
}

# What an envelope says of itself, which the server reads; below it what its recipient alone reads.
ENVELOPE: dict[str, Form] = {
    "federation": word("fedsteph"),
    "run": HEX32,
    "sender": site,
    "recipient": site,
    "m0_sha256": HEX64,
    "architecture": HEX64,
    "recipe_sha256": HEX64,
    "sequence": flowers_number,
    "kept_days": one_of(365),
    "head": one_of(True, False),
    "size": flowers_number,
    "sha256": HEX64,
}
STATEMENT: dict[str, Form] = {
    "epsilon": lambda value, at: value is None or value == float(f"{value:.1e}"),
    "delta": one_of(None, 0.01),
    "encoder": one_of("test-encoder"),
    "magnification": one_of(20.0),
    "patch_size": one_of(256.0),
    "roster": one_of(None),
}

# Fields that no run here can send, and why.
NOT_MET: dict[str, str] = {
    "MergeReply.kept[]": "nothing was kept from an earlier run",
    "Average.recipe.model.kind": "as in the other requests, where it is not ABMIL",
    "Average.recipe.model.max_instances": "likewise, where it is set",
    "Deliver.recipe.model.kind": "likewise",
    "Deliver.recipe.model.max_instances": "likewise",
    "Hello.roster.roster": "this coordinator signs no roster, which the sites have all the same",
    "Hello.roster.chain[]": "likewise",
    "Hello.roster.signature": "likewise",
}


def form_of(path: str, message: Passed) -> Form | None:
    if not message.to_server and re.match(r"(TrainLocal|Average|Share|Deliver|Merge)\.recipe\.", path):
        return configured
    return FLOWER.get(path) or (TO_SERVER if message.to_server else TO_SITES).get(path)


def complaints(ran: Ran) -> list[str]:
    """Every value that is not on the list, or not of its form."""
    found = []
    for message in ran.passed:
        way = f"{message.site} -> server" if message.to_server else f"server -> {message.site}"
        for path, value in message.leaves():
            form = form_of(path, message)
            if form is None:
                found.append(f"{way}: {path} is not on the list")
            elif not form(value, At(ran, message, path)):
                found.append(f"{way}: {path} is {value!r:.80}")
    return found


def fields_of(cls: Any, path: str) -> Iterator[str]:
    """The paths of all values that a message's type can hold."""
    inner = [one for one in typing.get_args(cls) if one not in (types.NoneType, Ellipsis)]
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        for one in dataclasses.fields(cls):
            if one.metadata.get("local"):  # what holds on one machine alone is in no message
                continue
            yield from fields_of(hints[one.name], f"{path}.{one.name}")
    elif typing.get_origin(cls) is tuple:
        yield from fields_of(inner[0], f"{path}[]")
    elif inner and typing.get_origin(cls) in (types.UnionType, typing.Union):
        yield from {found for one in inner for found in fields_of(one, path)}
    else:
        yield path


def message_types() -> list[type]:
    own = [one for one in vars(messages).values() if isinstance(one, type) and one.__module__ == messages.__name__]
    return [one for one in own if one.__name__ not in ("RunId", "Score")]  # parts of the others


# ---------------------------------------------------------------- the tests


@pytest.mark.parametrize("run", ["answered", "refused"])
def test_every_value_of_every_message_is_on_the_list(request, run):
    ran = request.getfixturevalue(run)
    assert complaints(ran) == []


def test_the_runs_are_those_that_the_list_is_for(answered, refused):
    """Several targets, rounds, every kind of message, every way to be refused."""
    assert {one.kind for ran in (answered, refused) for one in ran.passed} == {cls.__name__ for cls in message_types()}
    said = defaultdict(set)
    for ran in (answered, refused):
        for message in ran.passed:
            if message.kind == "Refusal":
                said[message.proto.metadata.message_type].add(json.loads(message.body)["Refusal"]["kind"])
    assert said == {
        protocol.HELLO: {"DataError"},
        protocol.LOCAL: {"PrivacyPolicyError"},
        protocol.AVERAGE: {"UnsealedPolicyError"},
        protocol.SHARE: {"StorageError"},
        protocol.MERGE: {"InternalError"},
    }
    entries = [path for one in answered.passed if one.kind == "AverageReply" for path, _ in one.leaves()]
    assert entries.count(ENTRIES + "{}") == 2 * 3 * 2  # rounds, sites, folds
    assert set(json.loads(answered.kept["outcome.json"])["targets"]) == {"alpha", "beta"}


def test_no_clinical_value_and_nothing_made_of_them_leaves_the_site(answered):
    folder = answered.folder.path
    rows = read_json(folder / "sites/beta/result.json")["clinical"]["both"]
    assert rows.keys() == {"local", "steph", "panel", "deployed"}
    ages = pd.read_csv(folder.parent / "sites/beta/labels.csv", dtype=str)["age"]
    for told in (*(message.body for message in answered.passed), *answered.kept.values()):
        assert not re.search(rf"clinical|stage|MALE|(?<![\d.])({'|'.join(map(re.escape, ages))})(?!\d)", told)


def test_every_field_of_every_message_was_met(answered, refused):
    met = {path for ran in (answered, refused) for message in ran.passed for path, _ in message.leaves()}
    defined = {path for cls in message_types() for path in fields_of(cls, cls.__name__)}
    assert {"MergeReply.scores[].c_index", "Share.id.run", "Merge.recipe.steph.gamma_grid[]"} <= defined
    assert defined - met == NOT_MET.keys()
    assert not [path for path in met if path.endswith(".model.m0")], "a path leaves its machine"
    listed = FLOWER.keys() | TO_SITES.keys() | TO_SERVER.keys()
    assert listed - met == NOT_MET.keys() & listed, "the list allows what is never sent"


def changed(message: Passed, *path: str | int, value: Any) -> str:
    """Its body with a value changed or added."""
    body = json.loads(message.body)
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(body, separators=(",", ":"))


@pytest.mark.parametrize(
    ("kind", "path", "value", "named"),
    [
        ("TrainLocalReply", ["seconds"], 1.5, "TrainLocalReply.seconds is not on the list"),
        ("ShareReply", ["refused"], [{"kind": "DataError", "n": 1}], r"ShareReply.refused\[\].n is not on the list"),
        ("MergeReply", ["scores", 0, "n_pairs"], 51, r"MergeReply.scores\[\].n_pairs is not on the list"),
        ("TrainLocalReply", ["patients"], 24, "TrainLocalReply.patients is 24"),
        ("TrainLocalReply", ["patients"], "24", "TrainLocalReply.patients is '24'"),
        ("TrainLocalReply", ["events"], "12-12", "TrainLocalReply.events is '12-12'"),
        ("MergeReply", ["scores", 0, "c_index"], 0.5123, r"MergeReply.scores\[\].c_index is 0.5123"),
        ("AverageReply", ["weight"], 24, "AverageReply.weight is 24"),
        ("HelloReply", ["audit"], "24 patients", "HelloReply.audit is '24 patients'"),
        ("HelloReply", ["width"], 24, "HelloReply.width is 24"),
        ("Refusal", ["reason"], SECRET, "Refusal.reason is 'P017"),
        ("Merge", ["recipe", "training", "seed"], 24, "Merge.recipe.training.seed is 24"),
    ],
)
def test_what_is_not_on_the_list_is_named(answered, kind, path, value, named):
    index = answered.first(kind)
    body = changed(answered.passed[index], kind, *path, value=value)
    with pytest.raises(AssertionError, match=named):
        assert complaints(answered.saying(index, body)) == []


def test_a_blank_an_envelope_or_a_record_more_is_named(answered):
    """What a body's spelling, an envelope's length or Flower's own fields could say."""
    index = answered.first("ShareReply")
    message = answered.passed[index]
    spelt = answered.saying(index, message.body + " ")
    assert [text.partition(" is ")[0] for text in complaints(spelt)] == [
        f"{message.site} -> server: content.fedsteph.config_record.body.value.string"
    ]
    proto = message.proto
    arrays = next(item for item in proto.content.items if item.key == "envelopes").array_record
    arrays.items[0].value.data += b"24"
    arrays.items[0].value.shape[0] += 2
    proto.content.items.add(key="metrics").metric_record.items.add(key="patients").value.double = 24
    proto.error.reason = SECRET
    proto.metadata.group_id = "24"
    named = complaints(replace(answered, passed=[Passed(message.site, True, proto.SerializeToString())]))
    for path in ("value.data is", "value.shape[] is", "metric_record.patients.value.double is not", "error.reason is"):
        assert any(path in text for text in named), path
    assert any("metadata.group_id is not on the list" in text for text in named)


# Somebody thought that it would be useful.
Talkative = dataclasses.make_dataclass(
    "TrainLocalReply", [("median_follow_up", float, 731.5)], bases=(TrainLocalReply,), frozen=True
)


def test_a_new_field_of_a_reply_is_named_in_a_whole_run(answered, monkeypatch):
    talkative = types.SimpleNamespace(**vars(messages) | {"TrainLocalReply": Talkative})
    monkeypatch.setattr(fedsteph.client.app, "messages", talkative)  # the sites' alone
    ran = Ran(answered.folder, answered.hospitals)
    with pytest.raises(QuorumError):  # the server refuses it as well, but then it has left
        record(ran)
    assert {text.partition(": ")[2] for text in complaints(ran)} == {
        "TrainLocalReply.median_follow_up is not on the list"
    }
    assert "TrainLocalReply.median_follow_up" in set(fields_of(Talkative, "TrainLocalReply"))


def test_phrases_and_classes_hold_no_number_no_path_and_no_name():
    """They are all that a refusal says, so nothing may be filled into them."""
    for kind, reason in PHRASES.items():
        assert re.fullmatch("[A-Z][A-Za-z]+", kind)
        assert re.fullmatch("[A-Za-z0-9 ,;'-]+", reason) and re.search(r"\d", reason.replace("M0", "")) is None


def test_nothing_of_an_exception_of_a_path_or_of_a_patient_leaves(answered, refused):
    recorded = b"\0".join(message.raw for ran in (answered, refused) for message in ran.passed)
    for text in (SECRET, "P017", "hospital", "labels.csv", "Traceback", "RuntimeError", "OSError", "DX1.h5"):
        assert text.encode() not in recorded
    log = (refused.folder.site_state("beta") / "site.log").read_text()
    assert SECRET in log and SECRET in (refused.folder.site_state("epsilon") / "site.log").read_text()


def test_nothing_of_a_sites_progress_leaves(answered):
    """It is in the site's own folder, and the server has a file of its own."""
    keys = {"party", "phase", "done", "total", "share"}
    for name in ("alpha", "beta", "gamma", "delta", "epsilon"):
        lines = (answered.folder.site_state(name) / "progress.jsonl").read_text().splitlines()
        assert lines and {json.loads(line)["party"] for line in lines} == {name}
        sent = [one for one in answered.passed if one.to_server and one.site == name]
        assert sent and not any(line.encode() in one.raw for line in lines for one in sent)
        assert not any(keys & set(re.findall(r"\w+", path)) for one in sent for path, _ in one.leaves())


def envelopes_of(ran: Ran) -> Iterator[tuple[Passed, bytes]]:
    for message in ran.passed:
        if message.kind == "ShareReply":
            yield from ((message, value) for path, value in message.leaves() if path == ENTRIES + "{}.value.data")


def test_what_an_envelope_says_of_itself_and_to_its_recipient_is_on_a_list(answered):
    found = [*envelopes_of(answered)]
    with_head: list[tuple[str, str]] = []
    assert len(found) == 7
    for message, envelope in found:
        at = At(answered, message, "envelope")
        header = json.loads(envelope[23 : 23 + int.from_bytes(envelope[21:23], "big")])
        said = statement_in(answered, envelope)
        assert header["head"] == brings_a_head(answered, header["sender"], header["recipient"])
        for told, listed in ((header, ENVELOPE), (said, STATEMENT)):
            assert told.keys() == listed.keys()
            assert [(key, told[key]) for key, form in listed.items() if not form(told[key], at)] == []
        with_head += [(header["sender"], header["recipient"])] * header["head"]
        private = message.site == "delta"
        assert (said["epsilon"] is not None, said["delta"] is not None) == (private, private)
    assert sorted(with_head) == [("beta", "alpha"), ("epsilon", "alpha"), ("epsilon", "beta")]


def statement_in(ran: Ran, envelope: bytes) -> dict[str, Any]:
    """Opened with the keys of its recipient."""
    context, _ = read_stated(envelope, "envelope")
    keys = {}
    for name in (context.sender, context.recipient):
        folder = ran.folder.site_state(name) / "keys"
        keys[name] = read_identity(folder / f"{name}.sign.key", folder / f"{name}.seal.key")
    opened = open_sealed(envelope, context, keys[context.recipient], keys[context.sender].public)
    return dataclasses.asdict(read_content(opened.plain, "envelope")[0])


# ---------------------------------------------------------------- what the server keeps


def whom(value: Any, at: At) -> bool:
    """A site, a sender and a recipient, or nobody."""
    return value is None or {*value.split(" -> ")} <= {*at.ran.hospitals}


def relayed(value: Any, at: At) -> bool:
    """The size of something that the server passed on."""
    found = {len(one) for message in at.ran.passed for path, one in message.leaves() if path.endswith("value.data")}
    return value is None or value in found


def failure(value: Any, at: At) -> bool:
    """The server's own words, a phrase, and its class."""
    phrases = "|".join(re.escape(f"{reason} ({kind})") for kind, reason in PHRASES.items())
    before = "fedavg, round [0-9]: |kept its vector from [a-z]+: |refused by [a-z]+: "
    return value is None or re.fullmatch(f"(?:{before})?(?:{phrases})", value) is not None


def seconds(value: Any, at: At) -> bool:
    """Of a phase, which is as long as its slowest site; no site's own."""
    return isinstance(value, float) and round(value, 3) == value


def small(value: Any, at: At) -> bool:
    """A number of nodes."""
    return isinstance(value, int | float) and 0 <= value <= len(at.ran.hospitals)


def encoder(value: Any, at: At) -> bool:
    """The one that the coordinator's configuration names."""
    return bool(value == at.ran.config.model.encoder)


def party(value: Any, at: At) -> bool:
    """Itself, or a site of the run."""
    return value == "server" or site(value, at)


def said_of_a_site(value: Any, at: At) -> bool:
    """That it was asked, has answered, is missing or was out of reach, in the server's own words."""
    names = "|".join(at.ran.hospitals)
    hello = f"(?:all sites have joined|waiting for (?:{names})(?:, (?:{names}))*)(?:; nodes that [a-z ]+: [0-9])*"
    said = value in ("", "asked", "answered") or re.fullmatch(hello, str(value)) is not None
    return said or (value is not None and failure(value, at))


MOMENT = word(r"[\d-]{10}T[\d:]{8}\+00:00")
KEPT: dict[str, dict[str, Form]] = {
    "outcome.json": {
        "sites.{}.software": one_of(version("fedsteph")),
        "sites.{}.encoder": encoder,
        "sites.{}.patients": PATIENTS,
        "sites.{}.events": EVENTS,
        **{
            f"targets.{{}}.{path[11:]}": form
            for path, form in TO_SERVER.items()
            if path.startswith("MergeReply.") and path not in NOT_MET
        },
        "failures[].site": site,
        "failures[].phase": PHASE,
        "failures[].reason": failure,
        **{f"seconds.{phase}": seconds for phase in PHASES},
        "bytes": flowers_number,
        "error": one_of(None),
        "sha256": HEX64,
    },
    "status.json": {
        "schema": one_of("fedsteph/run-status/v1"),
        "phase": PHASE,
        "since": MOMENT,
        "until": MOMENT,
        "sites.{}.node": word(r"\d+"),
        "sites.{}.software": one_of(version("fedsteph")),
        "sites.{}.phase": PHASE,
        "sites.{}.asked": MOMENT,
        "sites.{}.answered": MOMENT,
        "sites.{}.said": said_of_a_site,
        "sha256": HEX64,
    },
    "progress.jsonl": {"party": party, "phase": PHASE, "done": small, "total": small, "message": said_of_a_site},
    "audit/audit.jsonl": {
        "number": flowers_number,
        "time": word(r"[\d-]{10}T[\d:.]{12}\+00:00"),
        "event.event": word(
            r"run\.(start|end)|site\.join|envelope\.(relay|deliver)|fedavg\.end|(query|train)\.[a-z]+\.fail"
        ),
        "event.decision": one_of("allowed", "failed", "noted"),
        "event.run": HEX32,
        "event.peer": whom,
        "event.artefact": lambda value, at: value is None or HEX64(value, at),
        "event.size": relayed,
        "event.reason": failure,
        "previous": HEX64,
        "hash": HEX64,
    },
}


def kept_leaves(ran: Ran) -> Iterator[tuple[str, str, str, Any]]:
    """File, path, the site that it is about, and value of everything in the server's own files."""
    for name in KEPT:
        for line in ran.kept[name].splitlines() if name.endswith("l") else [ran.kept[name]]:
            content = json.loads(line)
            for part in ("sites", "targets"):
                for about, below in content.pop(part, {}).items():
                    yield from ((name, path, about, one) for path, one in leaves_of(below, f"{part}.{{}}"))
            yield from ((name, path, "", one) for path, one in leaves_of(content))


@pytest.mark.parametrize("run", ["answered", "refused"])
def test_the_server_keeps_nothing_that_is_not_on_its_list(request, run):
    ran = request.getfixturevalue(run)
    assert ran.kept.keys() == KEPT.keys() | {"audit/audit.head"}
    assert re.fullmatch(r"\d+ [0-9a-f]{64}\n", ran.kept["audit/audit.head"])
    found = list(kept_leaves(ran))
    wrong = [
        f"{file}: {path} is {value!r}"
        for file, path, about, value in found
        if path not in KEPT[file] or not KEPT[file][path](value, At(ran, Passed(about, True, b""), path))
    ]
    assert wrong == []


def test_nothing_on_the_servers_list_is_out_of_date(answered):
    met = {(file, path) for file, path, _, _ in kept_leaves(answered)}
    assert {(file, path) for file, paths in KEPT.items() for path in paths} == met


# ---------------------------------------------------------------- sizes


def of_size(tmp: Path, patients: int, seed: int) -> Ran:
    """Four sites with so many patients each, of whom delta alone tells how many."""
    sealed = policy("alpha", "metrics: []", "privacy: dp-sgd") + _PRIVATE
    hospitals = {
        "alpha": Hospital(patients, policy("beta", "metrics: []", "unsealed_updates: true")),
        "beta": Hospital(patients, policy("alpha", "metrics: []", "unsealed_updates: true")),
        "gamma": Hospital(patients, sealed),
        "delta": Hospital(patients, policy("alpha", "metrics: [patients, events]", "unsealed_updates: true")),
    }
    settings = ["federation.targets=[alpha]", "comparators.methods=[fedavg]", "comparators.rounds=1"]
    ran = prepared(tmp, hospitals, *settings, seed=seed)
    record(ran)
    return ran


@pytest.fixture(scope="module")
def by_size(tmp_path_factory) -> tuple[Ran, Ran]:
    """Two federations that differ in their patients and in nothing else."""
    return of_size(tmp_path_factory.mktemp("few"), 8, 0), of_size(tmp_path_factory.mktemp("many"), 24, 10)


def lengths(ran: Ran, name: str) -> list[tuple[str, bool, int]]:
    return [(one.kind, one.to_server, len(one.raw)) for one in ran.passed if one.site == name]


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_no_messages_length_tells_the_patients_of_a_site_that_keeps_them(by_size, name):
    few, many = by_size
    assert len(lengths(few, name)) >= 6
    assert lengths(few, name) == lengths(many, name)


def test_a_site_that_tells_its_band_tells_no_more_by_a_length(by_size):
    few, many = (lengths(ran, "delta") for ran in by_size)
    differing = {a[0]: a[2] - b[2] for a, b in zip(few, many, strict=True) if a != b}
    said = len("below 10") + len("below 10") - len("20-29") - len("10-19")
    assert differing == {"TrainLocalReply": said}
