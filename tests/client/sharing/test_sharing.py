"""A vector's way from one site into another, and every reason to keep one or to refuse one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from client_builders import m0_of, make_recipe, make_vectors, state_of, trained_workspace, with_statement
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from keys_and_rosters import identity_of, membership_of, roster_of, under
from sites import make_site

from fedsteph.client.models.model_file import save_base
from fedsteph.client.sharing.incoming import incoming
from fedsteph.client.sharing.outgoing import as_received, outgoing, require_shareable, shared_vector
from fedsteph.client.sharing.replay import next_sequence
from fedsteph.client.sharing.statement import RECALL
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.digest import digest
from fedsteph.common.config.recipe import Dtype, SharingConfig
from fedsteph.common.errors import (
    AlteredEnvelopeError,
    EnvelopeError,
    FedstephError,
    ForgedEnvelopeError,
    MalformedEnvelopeError,
    OtherRosterError,
    PrivacyPolicyError,
    ProtocolError,
    ReplayedEnvelopeError,
    SizePolicyError,
    SwappedEnvelopeError,
    TargetPolicyError,
    TruncatedEnvelopeError,
    UnknownRecipientError,
    UnknownSenderError,
    VectorFileError,
    VectorMismatchError,
    VectorRangeError,
    WrongKeyError,
    WrongModelError,
    WrongRecipientError,
    WrongRunError,
)
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.audit_log import Event, read_lines, verify
from fedsteph.common.trust.signed_roster import sign
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire.envelope import BY_FILE, Context, open_sealed, seal
from fedsteph.common.wire.messages import RunId

ROSTER = roster_of("site", "also", "bad", "good", "other")
RUN = RunId("fed", "run1", ROSTER.digest)
MAX_NORM = 250.0
WITHOUT = "without its head: sharing.head is same_cancer, and the two sites do not both state one cancer"
OPEN = Policy(targets=("site", "other", "good"), min_patients=1, min_events=1)  # asked for no recipe here


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    return trained_workspace(tmp_path_factory.mktemp("sharing"), "training.epochs=3", patients=12)


@pytest.fixture
def workspace(trained, tmp_path) -> Workspace:
    """The trained one, with a memory of accepted envelopes and an audit log of its own."""
    return under(replace(trained, site=replace(trained.site, state=tmp_path / "state")), OPEN)


def member(name: str = "site") -> Membership:
    return membership_of(name, ROSTER)


def named(workspace: Workspace, name: str) -> Workspace:
    state = workspace.site.state.with_name(f"state-of-{name}")
    return replace(workspace, site=replace(workspace.site, name=name, state=state))


def in_dtype(workspace: Workspace, dtype: Dtype) -> Workspace:
    """The same under a recipe that shares in ``dtype``: the base folder, and so the trained model, is the same."""
    return sharing(workspace, SharingConfig(dtype))


def sharing(workspace: Workspace, config: SharingConfig) -> Workspace:
    return replace(workspace, recipe=replace(workspace.recipe, sharing=config))


def audited(workspace: Workspace) -> list[Event]:
    verify(workspace.site.state / "audit")
    return [line.event for line in read_lines(workspace.site.state / "audit")]


def bound_to(workspace: Workspace, sender: str) -> Context:
    model = workspace.recipe.model
    architecture = Architecture.of(model).digest
    return Context("fed", "run1", sender, "site", str(model.m0_sha256), architecture, digest(workspace.recipe))


def envelope(
    workspace: Workspace,
    sender: str,
    content: bytes | None = None,
    *,
    sequence: int = 1,
    signed_by: str | None = None,
    sealed_to: str = "site",
    **changes: str,
) -> bytes:
    context = bound_to(workspace, sender)
    if content is None:
        content = write_vector(make_vectors(workspace.recipe, 1)["s000"])
    signer = identity_of(signed_by or sender)
    return seal(with_statement(content), replace(context, **changes), sequence, signer, identity_of(sealed_to).public)


def test_a_vector_arrives_as_it_left(workspace):
    own = named(workspace, "good")
    sent, kept = outgoing(own, member("good"), RUN, ["site", "other"])
    assert (sorted(sent), kept) == (["other", "site"], {})
    vectors, refused = incoming(workspace, member(), RUN, {"good": sent["site"]}, MAX_NORM)
    assert (list(vectors), refused) == (["good"], {})
    learned, start = state_of(workspace.local_model(0)), state_of(m0_of(workspace.recipe))
    assert vectors["good"].norm > 0
    for name, tensor in vectors["good"].tensors.items():
        assert torch.equal(tensor, learned[name] - start[name])


def test_two_sites_that_were_given_different_additions_notice_it(workspace):
    """Whatever the coordinator tells each of them: the sender's roster is sealed and signed with its vector."""
    with_more = roster_of("site", "also", "bad", "good", "other", "more")
    for own, vectors in ((ROSTER, 1), (with_more, 0)):
        signed = sign(own, (roster_of("site").digest,), Ed25519PrivateKey.generate(), Path("roster.yaml"))
        sender = replace(membership_of("good", own), signed=signed)
        sent, _ = outgoing(named(workspace, "good"), sender, RUN, ["site"])
        brought = {"good": sent["site"], "also": envelope(workspace, "also", sequence=3 - vectors)}
        found, refused = incoming(workspace, member(), RUN, brought, MAX_NORM)
        assert len(found) == vectors + 1 and {*refused} == ({"good"} - {*found})
    assert isinstance(refused["good"], OtherRosterError)


@pytest.mark.parametrize(("dtype", "cast"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_a_vector_in_half_the_bytes_arrives_as_it_was_rounded_at_its_sender(workspace, dtype, cast):
    whole = outgoing(named(workspace, "good"), member("good"), RUN, ["site"])[0]["site"]
    own, target = in_dtype(named(workspace, "good"), dtype), in_dtype(workspace, dtype)
    sent, kept = outgoing(own, member("good"), RUN, ["site", "other"])
    assert (sorted(sent), kept) == (["other", "site"], {})
    vectors, refused = incoming(target, member(), RUN, {"good": sent["site"]}, MAX_NORM)
    assert (list(vectors), refused) == (["good"], {})
    learned, start = state_of(workspace.local_model(0)), state_of(m0_of(workspace.recipe))
    for name, tensor in vectors["good"].tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, (learned[name] - start[name]).to(cast).to(torch.float32))
    assert torch.equal(vectors["good"].flat(), shared_vector(own).flat())
    exact = TaskVector.between(workspace.local_model(0), m0_of(workspace.recipe))
    assert not torch.equal(shared_vector(own).flat(), exact.flat())
    assert torch.equal(shared_vector(in_dtype(own, "float32")).flat(), exact.flat())
    saved = len(whole) - len(sent["site"])
    assert saved == pytest.approx(2 * len(exact.flat()), abs=64)  # but for the headers' own digits
    assert [event.size for event in audited(own)][-2:] == [len(content) for content in sent.values()]


LESS = [
    SharingConfig(layers="attention"),
    SharingConfig(layers="embed", rank=1),
    SharingConfig(rank=2),
    SharingConfig("bfloat16", layers="attention", rank=1),
    SharingConfig("float16", rank=1),
]


@pytest.mark.parametrize("config", LESS, ids=str)
def test_a_part_of_a_vector_is_read_to_the_last_bit_as_its_sender_takes_it_for_shared(workspace, config):
    whole = outgoing(named(workspace, "good"), member("good"), RUN, ["site"])[0]["site"]
    own, target = (sharing(one, config) for one in (named(workspace, "good"), workspace))
    sent, kept = outgoing(own, member("good"), RUN, ["site", "other"])
    assert (sorted(sent), kept) == (["other", "site"], {})
    vectors, refused = incoming(target, member(), RUN, {"good": sent["site"]}, MAX_NORM)
    assert (list(vectors), refused) == (["good"], {})
    exact = TaskVector.between(workspace.local_model(0), m0_of(workspace.recipe))
    expected = as_received(exact, config)
    assert torch.equal(vectors["good"].flat(), expected.flat())
    assert torch.equal(shared_vector(own).flat(), expected.flat())
    shared = {name for name, tensor in vectors["good"].tensors.items() if tensor.any()}
    assert shared == {name for name in exact.tensors if config.layers in ("encoder", name.split("_")[0].split(".")[0])}
    saved = len(write_vector(exact)) - len(write_vector(exact, config))
    assert len(whole) - len(sent["site"]) == saved  # sealing adds the same to both


@pytest.mark.parametrize("config", LESS, ids=str)
def test_a_target_takes_the_part_that_its_own_recipe_shares_and_no_other(workspace, config):
    """A sender that shares more than was agreed is refused as one that shares less."""
    around = {
        "more": envelope(sharing(workspace, config), "also", write_vector(make_vectors(workspace.recipe, 1)["s000"])),
        "less": envelope(workspace, "bad", write_vector(make_vectors(workspace.recipe, 1)["s000"], config)),
    }
    with pytest.raises(VectorFileError, match="vector of also, tensor"):
        incoming(sharing(workspace, config), member(), RUN, {"also": around["more"]}, MAX_NORM)
    with pytest.raises(VectorFileError, match="vector of bad, tensor"):
        incoming(workspace, member(), RUN, {"bad": around["less"]}, MAX_NORM)


def spiked(workspace: Workspace, folder: Path, value: float) -> Workspace:
    """A site whose own model has one weight of this size."""
    model = m0_of(workspace.recipe)
    with torch.no_grad():
        model.embed.bias[0] = value
    spiked = replace(workspace, base_folder=folder)
    path = spiked.fold_folder(0) / "local.safetensors"
    save_base(path, model, m0_sha256=str(workspace.recipe.model.m0_sha256))
    return spiked


def test_a_vector_that_float16_cannot_hold_leaves_for_nobody_and_the_remedy_does(workspace, tmp_path):
    own = spiked(named(workspace, "good"), tmp_path / "spiked", 1e5)
    with pytest.raises(VectorRangeError, match=r"tensor embed\.bias") as caught:
        outgoing(in_dtype(own, "float16"), member("good"), RUN, ["site"])
    assert "sharing.dtype to bfloat16" in str(caught.value) and not re.search("[0-9]", caught.value.public_reason)
    assert audited(own) == []
    sent, _ = outgoing(in_dtype(own, "bfloat16"), member("good"), RUN, ["site"])
    vectors, _ = incoming(in_dtype(workspace, "bfloat16"), member(), RUN, {"good": sent["site"]}, 1e6)
    assert vectors["good"].tensors["embed.bias"][0] == 99840


def test_what_leaves_is_sealed_and_every_envelope_is_another(workspace):
    own = named(workspace, "good")
    sent = [*outgoing(own, member("good"), RUN, ["site", "other"])[0].values()]
    sent += outgoing(own, member("good"), RUN, ["site"])[0].values()
    m0 = m0_of(workspace.recipe)
    vector = TaskVector.between(workspace.local_model(0), m0)
    plain = b"".join(tensor.numpy().tobytes() for tensor in vector.tensors.values())
    blocks = {plain[i : i + 16] for i in range(0, len(plain) - 16, 16)}
    for sealed in sent:
        assert len(sealed) > len(plain) and not any(block in sealed for block in blocks)
    assert len({*sent}) == 3


def test_every_envelope_that_leaves_is_audited_with_its_digest_and_a_growing_number(workspace):
    own = named(workspace, "good")
    sent, _ = outgoing(own, member("good"), RUN, ["site", "other"])
    expected = [
        Event("vector.seal", "allowed", "run1", name, hashlib.sha256(content).hexdigest(), len(content), WITHOUT)
        for name, content in sent.items()
    ]
    spent, *sealed = audited(own)
    assert (spent.event, spent.decision) == ("privacy.spend", "allowed")  # before the first leaves, and once for all
    assert sealed == expected
    model = workspace.recipe.model
    architecture, recipe = Architecture.of(model).digest, digest(workspace.recipe)
    numbers = []
    for name, content in sent.items():
        context = Context("fed", "run1", "good", name, str(model.m0_sha256), architecture, recipe)
        numbers.append(open_sealed(content, context, identity_of(name), identity_of("good").public).sequence)
    assert numbers[0] < numbers[1] < next_sequence(own.site.state)


@pytest.mark.parametrize("recipient", ["site", "../x", "/etc/passwd", "", "A", "a b", "a/b", "x" * 40, "a\n"])
def test_recipients_that_are_no_other_site(workspace, recipient):
    with pytest.raises(ProtocolError) as caught:
        outgoing(workspace, member(), RUN, ["good", recipient])
    assert caught.value.where == "recipients" and "passwd" not in str(caught.value) and audited(workspace) == []


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (replace(OPEN, targets=("other",)), TargetPolicyError),
        (replace(OPEN, targets=("other", "nobody")), UnknownRecipientError),
    ],
)
def test_one_recipient_is_refused_and_the_other_gets_its_envelope(workspace, policy, error):
    refused = "good" if error is TargetPolicyError else "nobody"
    sent, kept = outgoing(under(workspace, policy), member(), RUN, ["other", refused])
    assert list(sent) == ["other"] and {name: type(reason) for name, reason in kept.items()} == {refused: error}
    decisions = [(e.peer, e.decision, e.reason) for e in audited(workspace) if e.event == "vector.seal"]
    assert decisions == [("other", "allowed", WITHOUT), (refused, "refused", error.__name__)]


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (Policy(min_patients=1, min_events=1), TargetPolicyError),
        (replace(OPEN, min_patients=13), SizePolicyError),
        (replace(OPEN, min_events=7), SizePolicyError),
        (replace(OPEN, privacy="dp-sgd"), PrivacyPolicyError),
        (Policy(), TargetPolicyError),
        (Policy(privacy="dp-sgd"), TargetPolicyError),  # of size and privacy only a target is told
        (Policy(targets=("good", "other")), SizePolicyError),
    ],
)
def test_what_the_policy_keeps_here_leaves_for_nobody(workspace, policy, error):
    assert (len(workspace.cohort), int(workspace.cohort.events.sum())) == (12, 6)
    sent, kept = outgoing(under(workspace, policy), member(), RUN, ["good", "other"])
    assert sent == {} and {name: type(reason) for name, reason in kept.items()} == {"good": error, "other": error}
    decisions = [(event.peer, event.decision, event.reason) for event in audited(workspace)]
    assert decisions == [(name, "refused", error.__name__) for name in ("good", "other")]


FOLDS = (1, 2, 3, 5, 8, 13, 16, 19, 20)  # of the 1 to 20 that a coordinator may ask for


def test_no_number_of_folds_tells_how_large_the_site_is(tmp_path):
    """Else the coordinator could count the patients: of 32, 5 folds train on 25 or 26 and 20 folds on 30 or 31."""
    make_site(tmp_path / "site", patients=32, event_share=0.5, folds=0)
    sizes = set()
    for k in FOLDS:
        asked = Workspace.open(Site.open(tmp_path / "site", device="cpu"), make_recipe(f"evaluation.folds={k}"))
        sizes.add(len(asked.train_part(0)))
        for patients, events in ((32, 16), (31, 15), (1, 1)):
            require_shareable(under(asked, replace(OPEN, min_patients=patients, min_events=events)))
        for patients, events in ((33, 1), (1, 17)):
            kept = outgoing(
                under(asked, replace(OPEN, min_patients=patients, min_events=events)), member(), RUN, ["good"]
            )
            assert [type(error) for error in kept[1].values()] == [SizePolicyError]
    assert len(sizes) > 4


def vector_file(*settings: str) -> bytes:
    return write_vector(make_vectors(make_recipe(*settings), 1)["s000"])


def of_dtype(dtype: Dtype) -> Callable[[Workspace], bytes]:
    """Sealed as the recipe has it, around a file that is not."""

    def make(workspace: Workspace) -> bytes:
        return envelope(workspace, "bad", write_vector(make_vectors(workspace.recipe, 1)["s000"], SharingConfig(dtype)))

    return make


def poisoned(value: float):
    def make(workspace: Workspace) -> bytes:
        vector = make_vectors(workspace.recipe, 1)["s000"]
        tensors = {name: tensor.clone() for name, tensor in vector.tensors.items()}
        next(iter(tensors.values())).view(-1)[0] = value
        return envelope(workspace, "bad", write_vector(replace(vector, tensors=tensors)))

    return make


def spoiled(workspace: Workspace) -> bytes:
    whole = envelope(workspace, "bad")
    return whole[:-1] + bytes([whole[-1] ^ 1])


REFUSED = {
    "another federation": (lambda w: envelope(w, "bad", federation="other"), WrongRunError),
    "another run": (lambda w: envelope(w, "bad", run="run0"), WrongRunError),
    "a file's, of no run": (lambda w: envelope(w, "bad", run=BY_FILE), WrongRunError),
    "another recipient": (lambda w: envelope(w, "bad", recipient="other", sealed_to="other"), WrongRecipientError),
    "another sender": (lambda w: envelope(w, "good"), SwappedEnvelopeError),
    "another sender's signature": (lambda w: envelope(w, "bad", signed_by="good"), ForgedEnvelopeError),
    "a stranger's signature": (lambda w: envelope(w, "bad", signed_by="mallory"), ForgedEnvelopeError),
    "sealed to another": (lambda w: envelope(w, "bad", sealed_to="other"), WrongKeyError),
    "of another M0": (lambda w: envelope(w, "bad", m0_sha256="0" * 64), WrongModelError),
    "of another architecture": (lambda w: envelope(w, "bad", architecture="0" * 64), WrongModelError),
    "trained by another recipe": (lambda w: envelope(w, "bad", recipe_sha256="0" * 64), WrongModelError),
    "around another M0": (lambda w: envelope(w, "bad", vector_file("model.m0_seed=7")), VectorMismatchError),
    "around another architecture": (lambda w: envelope(w, "bad", vector_file("model.embed=9")), VectorMismatchError),
    "around float16": (of_dtype("float16"), VectorFileError),
    "around bfloat16": (of_dtype("bfloat16"), VectorFileError),
    "around junk": (lambda w: envelope(w, "bad", b"junk"), VectorFileError),
    "a recall, which travels as a file alone": (
        lambda w: seal(RECALL, bound_to(w, "bad"), 1, identity_of("bad"), identity_of("site").public),
        VectorFileError,
    ),
    "around NaN": (poisoned(float("nan")), VectorFileError),
    "around infinity": (poisoned(float("inf")), VectorFileError),
    "around too much": (poisoned(1e30), VectorFileError),
    "altered": (spoiled, AlteredEnvelopeError),
    "cut": (lambda w: envelope(w, "bad")[:-1], TruncatedEnvelopeError),
    "longer": (lambda w: envelope(w, "bad") + b"\0", MalformedEnvelopeError),
    "junk": (lambda w: b"junk", MalformedEnvelopeError),
    "nothing": (lambda w: b"", MalformedEnvelopeError),
    "a bare vector": (lambda w: vector_file(), MalformedEnvelopeError),
}


@pytest.mark.parametrize(("make", "error"), REFUSED.values(), ids=REFUSED)
def test_a_vector_that_does_not_belong_here_is_refused_and_the_others_go_on(workspace, make, error):
    bad = make(workspace)
    envelopes = {"good": envelope(workspace, "good"), "bad": bad, "also": envelope(workspace, "also")}
    vectors, refused = incoming(workspace, member(), RUN, envelopes, MAX_NORM)
    assert list(vectors) == ["also", "good"]
    assert {name: type(reason) for name, reason in refused.items()} == {"bad": error}
    with pytest.raises(FedstephError) as caught:
        incoming(workspace, member(), RUN, {"bad": bad}, MAX_NORM)
    assert type(caught.value) in (error, ReplayedEnvelopeError)
    lines = {event.peer: event for event in audited(workspace)[:3]}
    assert {name: line.decision for name, line in lines.items()} == {
        "also": "allowed",
        "bad": "refused",
        "good": "allowed",
    }
    assert (lines["bad"].reason, lines["bad"].size) == (error.__name__, len(bad))
    assert lines["bad"].artefact == hashlib.sha256(bad).hexdigest()


@pytest.mark.parametrize("sender", ["site", "../../x", "Bad", "", "mallory"])
def test_a_sender_that_is_no_other_site_of_the_roster_is_refused(workspace, sender):
    envelopes = {"good": envelope(workspace, "good"), sender: envelope(workspace, sender)}
    vectors, refused = incoming(workspace, member(), RUN, envelopes, MAX_NORM)
    assert list(vectors) == ["good"]
    assert {name: type(reason) for name, reason in refused.items()} == {sender: UnknownSenderError}
    assert {event.peer for event in audited(workspace)} <= {"good", "site", "mallory", None}


def test_a_vector_that_was_trained_by_another_recipe_is_refused(workspace, tmp_path):
    """One that differs by an epoch: the same M0, the same architecture, but no sum of the two means anything."""
    other = replace(workspace.recipe, training=replace(workspace.recipe.training, epochs=2))
    assert other.training.epochs != workspace.recipe.training.epochs
    own = replace(named(workspace, "good"), recipe=other, folder=tmp_path / "other")
    sent, kept = outgoing(own, member("good"), RUN, ["site"])
    assert (list(sent), kept) == (["site"], {})
    with pytest.raises(WrongModelError, match="another recipe"):
        incoming(workspace, member(), RUN, {"good": sent["site"]}, MAX_NORM)
    assert list(incoming(replace(workspace, recipe=other), member(), RUN, {"good": sent["site"]}, MAX_NORM)[0]) == [
        "good"
    ]


@pytest.mark.parametrize("sent_in", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("expected", ["float32", "float16", "bfloat16"])
def test_a_target_takes_the_dtype_of_its_own_recipe_and_no_other(workspace, sent_in, expected):
    """By the envelope, which is bound to the recipe; and by the file, where a sender seals what it should not."""
    own, target = in_dtype(named(workspace, "good"), sent_in), in_dtype(workspace, expected)
    sent, _ = outgoing(own, member("good"), RUN, ["site"])
    around = envelope(target, "also", write_vector(make_vectors(target.recipe, 1)["s000"], SharingConfig(sent_in)))
    if sent_in == expected:
        vectors, refused = incoming(target, member(), RUN, {"good": sent["site"], "also": around}, MAX_NORM)
        assert (list(vectors), refused) == (["also", "good"], {})
        return
    with pytest.raises(WrongModelError, match="another recipe"):
        incoming(target, member(), RUN, {"good": sent["site"]}, MAX_NORM)
    with pytest.raises(VectorFileError, match=r"vector of also, tensor .* must be (F32|F16|BF16)"):
        incoming(target, member(), RUN, {"also": around}, MAX_NORM)


def test_an_older_envelope_after_a_newer_one_is_a_replay(workspace):
    older, newer = (envelope(workspace, "good", sequence=n) for n in (1, 2))
    for content in (older, older, newer):
        assert list(incoming(workspace, member(), RUN, {"good": content}, MAX_NORM)[0]) == ["good"]
    for content in (older, envelope(workspace, "good", sequence=2)):
        with pytest.raises(ReplayedEnvelopeError):
            incoming(workspace, member(), RUN, {"good": content}, MAX_NORM)


def test_a_forged_envelope_does_not_use_up_the_sender_s_numbers(workspace):
    """Else a stranger could shut a site out with one high number."""
    high = envelope(workspace, "good", sequence=10**6, signed_by="mallory")
    with pytest.raises(ForgedEnvelopeError):
        incoming(workspace, member(), RUN, {"good": high}, MAX_NORM)
    assert list(incoming(workspace, member(), RUN, {"good": envelope(workspace, "good")}, MAX_NORM)[0]) == ["good"]


def test_a_vector_above_the_norm_is_refused(workspace):
    norm = make_vectors(workspace.recipe, 1)["s000"].norm
    sent = {"good": envelope(workspace, "good")}
    assert list(incoming(workspace, member(), RUN, sent, norm)[0]) == ["good"]
    with pytest.raises(VectorFileError, match="above the cap"):
        incoming(workspace, member(), RUN, sent, norm * 0.999)


def test_without_a_usable_envelope_every_reason_is_told_here(workspace):
    envelopes = {"bad": b"junk", "good": envelope(workspace, "good", run="run0")}
    with pytest.raises(EnvelopeError, match="no usable envelope") as caught:
        incoming(workspace, member(), RUN, envelopes, MAX_NORM)
    assert "of this version" in str(caught.value) and "another run" in str(caught.value)
    with pytest.raises(EnvelopeError, match="none came"):
        incoming(workspace, member(), RUN, {}, MAX_NORM)
