"""A vector's way into another site as a file, its recall, and every reason to refuse a file: nothing is kept then."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from client_builders import make_recipe, make_vectors, trained_workspace, with_statement
from keys_and_rosters import identity_of, membership_of, roster_of, under

from fedsteph.client.privacy.ledger import Ledger
from fedsteph.client.sharing.incoming import incoming
from fedsteph.client.sharing.kept_vectors import kept, remove
from fedsteph.client.sharing.mailed_vector import Imported, import_file, recall, recipient_of, sent_order
from fedsteph.client.sharing.outgoing import context_of, outgoing, sealed_file, shared_vector
from fedsteph.client.sharing.replay import next_sequence
from fedsteph.client.sharing.statement import RECALL
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.errors import (
    AttackPolicyError,
    BudgetPolicyError,
    ConfigError,
    EnvelopeError,
    ForgedEnvelopeError,
    KeepingPolicyError,
    MalformedEnvelopeError,
    PolicyError,
    RecipePolicyError,
    ReplayedEnvelopeError,
    RosterError,
    SizePolicyError,
    StaleEnvelopeError,
    TargetPolicyError,
    UnknownRecipientError,
    UnknownSenderError,
    VectorFileError,
    VectorMismatchError,
    WrongModelError,
    WrongRecipientError,
    WrongRunError,
)
from fedsteph.common.trust.announcement import Announcement, write_announcement
from fedsteph.common.trust.audit_log import Event, read_lines
from fedsteph.common.trust.keys import Identity
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire.envelope import BY_FILE, seal
from fedsteph.common.wire.messages import RunId

ROSTER = roster_of("site", "luad", "blca")
OPEN = Policy(targets=("site", "blca"), min_patients=1, min_events=1, recipes="any")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    return trained_workspace(tmp_path_factory.mktemp("mailed"), "training.epochs=3", patients=12)


@pytest.fixture
def target(trained, tmp_path) -> Workspace:
    return under(replace(trained, site=replace(trained.site, state=tmp_path / "state")), OPEN)


@pytest.fixture
def source(target, tmp_path) -> Workspace:
    return replace(target, site=replace(target.site, name="luad", state=tmp_path / "luad"))


def member(name: str = "site") -> Membership:
    return membership_of(name, ROSTER)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "mail.sealed"
    path.write_bytes(content)
    return path


def imported(target: Workspace, content: bytes, now: datetime | None = None, recipe=None) -> Imported:
    path = written(target.site.state.parent, content)
    return import_file(target.site, member(target.site.name), recipe or target.recipe, path, now)


def senders(target: Workspace) -> list[str]:
    return [one.sender for one in kept(target.site, ROSTER)[0]]


def audited(workspace: Workspace) -> list[Event]:
    return [line.event for line in read_lines(workspace.site.state / "audit")]


def sealed_by(target: Workspace, sender: str = "luad", plain: bytes | None = None, **changes: str) -> bytes:
    """A file that any sender could make."""
    if plain is None:
        plain = with_statement(write_vector(make_vectors(target.recipe, 1)["s000"]))
    context = replace(context_of(target.recipe, "fed", BY_FILE, sender, "site"), **changes)
    number = next_sequence(target.site.state.with_name(f"numbers-of-{sender}"))
    return seal(plain, context, number, identity_of(sender), identity_of("site").public, 365)


@pytest.mark.parametrize("config", [SharingConfig(), SharingConfig("float16", layers="attention", rank=1)], ids=str)
def test_a_file_brings_the_vector_to_the_last_bit_in_the_place_of_a_run(source, target, config, monkeypatch):
    from fedsteph.client.sharing import kept_vectors  # noqa: PLC0415

    own, at = (replace(one, recipe=replace(one.recipe, sharing=config)) for one in (source, target))
    sealed = sealed_file(own, member("luad"), "site")
    found = imported(at, sealed).record
    assert found is not None and senders(at) == ["luad"]
    monkeypatch.setattr(type(at.site), "membership", lambda site: member())
    (vector,) = kept_vectors.usable(at).values()
    assert torch.equal(vector.flat(), shared_vector(own).flat()) and found.norm == vector.norm
    assert (found.run, found.kept_days, found.sharing) == (BY_FILE, 365, config)
    assert (found.statement.encoder, found.statement.epsilon) == ("test-encoder", None)
    assert [(event.event, event.decision, event.run, event.peer) for event in audited(own)] == [
        ("privacy.spend", "allowed", BY_FILE, None),
        ("vector.seal", "allowed", BY_FILE, "site"),
    ]
    assert [(event.event, event.peer) for event in audited(at)] == [("vector.keep", "luad"), ("vector.open", "luad")]
    assert len(Ledger(own.site.audit).entries()) == 1


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (replace(OPEN, targets=("blca",)), TargetPolicyError),
        (replace(OPEN, min_patients=13), SizePolicyError),
        (replace(OPEN, max_attack_auc=0.9), AttackPolicyError),
        (replace(OPEN, epsilon_budget=1.0), BudgetPolicyError),
        (replace(OPEN, recipes=("a" * 64,)), RecipePolicyError),
        (replace(OPEN, vectors_kept_days=0), KeepingPolicyError),
    ],
)
def test_what_a_run_may_not_have_leaves_as_no_file_either(source, policy, error):
    with pytest.raises(PolicyError) as caught:
        sealed_file(under(source, policy), member("luad"), "site")
    assert type(caught.value) is error
    assert audited(source) == [Event("vector.seal", "refused", BY_FILE, "site", reason=error.__name__)]


def test_a_recipient_is_a_name_or_the_keys_that_the_pinned_roster_has(tmp_path):
    def announced(site: str, identity: Identity) -> str:
        path = tmp_path / f"{site}.public.yaml"
        write_announcement(path, Announcement.of(site, identity))
        return str(path)

    assert recipient_of("site", member("luad")) == "site"
    assert recipient_of(announced("site", identity_of("site")), member("luad")) == "site"
    for to, error in (
        (announced("site", identity_of("mallory")), RosterError),
        (announced("nobody", identity_of("nobody")), UnknownRecipientError),
        ("nobody", UnknownRecipientError),
        ("luad", ConfigError),
        (str(tmp_path / "no.yaml"), ConfigError),
    ):
        with pytest.raises(error):
            recipient_of(to, member("luad"))


REFUSED: dict[str, tuple[Callable[[Workspace], bytes], type[Exception]]] = {
    "a stranger's": (lambda t: sealed_by(t, "mallory"), UnknownSenderError),
    "its own": (lambda t: sealed_by(t, "site"), UnknownSenderError),
    "misaddressed": (lambda t: sealed_by(t, recipient="blca"), WrongRecipientError),
    "of a run": (lambda t: sealed_by(t, run="run1"), WrongRunError),
    "of another federation": (lambda t: sealed_by(t, federation="other"), WrongRunError),
    "of another M0": (lambda t: sealed_by(t, m0_sha256="a" * 64), WrongModelError),
    "of another architecture": (lambda t: sealed_by(t, architecture="a" * 64), WrongModelError),
    "of no recipe": (lambda t: sealed_by(t, recipe_sha256="\x1b[2J"), MalformedEnvelopeError),
    "around another M0": (
        lambda t: sealed_by(
            t, plain=with_statement(write_vector(make_vectors(make_recipe("model.m0_seed=7"), 1)["s000"]))
        ),
        VectorMismatchError,
    ),
    "without a statement": (
        lambda t: sealed_by(t, plain=write_vector(make_vectors(t.recipe, 1)["s000"])),
        VectorFileError,
    ),
    "a recall in a vector's context": (lambda t: sealed_by(t, plain=RECALL), VectorFileError),
    "a vector in a recall's context": (
        lambda t: sealed_by(t, m0_sha256="0" * 64, architecture="0" * 64, recipe_sha256="0" * 64),
        VectorFileError,
    ),
    "too long a vector": (
        lambda t: sealed_by(t, plain=with_statement(write_vector(make_vectors(t.recipe, 1, scale=1e3)["s000"]))),
        VectorFileError,
    ),
    "no envelope": (lambda t: b"junk", MalformedEnvelopeError),
    "nothing": (lambda t: b"", MalformedEnvelopeError),
}


def test_a_file_that_does_not_belong_here_has_an_error_of_its_own_and_nothing_is_kept(target):
    for what, (make, error) in REFUSED.items():
        with pytest.raises(error) as caught:
            imported(target, make(target))
        assert type(caught.value) is error, what
        assert str(target.site.state.parent / "mail.sealed") in str(caught.value), what
        assert audited(target)[-1].reason == error.__name__, what
        assert "\x1b" not in str(caught.value) and senders(target) == [], what
    with pytest.raises(MalformedEnvelopeError, match="no such file"):
        import_file(target.site, member(), target.recipe, target.site.state / "missing")


def test_another_recipe_s_file_says_to_give_the_federation_s_configuration(target):
    less = replace(target.recipe, sharing=SharingConfig(layers="attention"))
    for content in (sealed_by(target, m0_sha256="a" * 64), sealed_by(target)):
        with pytest.raises((WrongModelError, VectorFileError), match="with --config"):
            imported(target, content, recipe=less)
    # What it was trained by otherwise is its sender's word: shown, and not compared.
    assert imported(target, sealed_by(target, recipe_sha256="b" * 64)).record.recipe_sha256 == "b" * 64


def test_a_file_that_was_damaged_on_its_way_is_refused_whichever_byte_it_was(target):
    whole = sealed_by(target)
    start = len(b"fedsteph/v3/envelope\n")
    end = start + 2 + int.from_bytes(whole[start : start + 2], "big")
    places = [0, start, *range(start + 2, end, 7), end, end + 63, end + 64, end + 2000, len(whole) - 1]
    for at in places:
        with pytest.raises(EnvelopeError):
            imported(target, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for content in (whole[:-1], whole + b"\0", whole[: end - 1]):
        with pytest.raises(EnvelopeError):
            imported(target, content)
    assert senders(target) == [] and imported(target, whole).record is not None


def test_days_in_the_header_cannot_be_changed_by_whoever_carries_the_file(target):
    changed = sealed_by(target).replace(b'"kept_days":365', b'"kept_days":999')
    with pytest.raises(ForgedEnvelopeError):
        imported(target, changed)


def test_a_replayed_file_is_refused_and_so_is_one_that_is_kept_already(source, target):
    older, newer = (sealed_file(source, member("luad"), "site") for _ in range(2))
    assert sent_order(written(target.site.state.parent, older)) > 10**12
    imported(target, newer)
    before = kept(target.site, ROSTER)[0]
    for content in (older, newer):
        with pytest.raises(ReplayedEnvelopeError):
            imported(target, content)
    assert kept(target.site, ROSTER)[0] == before
    remove(target.site, "luad", "removed by this site")
    assert imported(target, newer).record is not None  # as after a crash between two of its steps


def test_a_file_is_stale_once_its_days_are_over_and_no_import_prolongs_them(source, target):
    sealed = sealed_file(under(source, replace(OPEN, vectors_kept_days=30)), member("luad"), "site")
    now = datetime.now(UTC)
    with pytest.raises(StaleEnvelopeError, match="kept until"):
        imported(target, sealed, now + timedelta(days=31))
    assert senders(target) == []
    found = imported(target, sealed, now + timedelta(days=29)).record
    assert found.until < now + timedelta(days=30, minutes=1)
    forever = sealed_file(under(source, replace(OPEN, vectors_kept_days="unlimited")), member("luad"), "site")
    assert imported(target, forever, now + timedelta(days=9_000)).record.until is None


def test_a_recall_removes_its_sender_s_vectors_and_older_files_stay_out(source, target):
    older = sealed_file(source, member("luad"), "site")
    imported(target, sealed_file(source, member("luad"), "site"))
    imported(target, sealed_by(target, "blca"))
    called = recall(source.site, member("luad"), "site")
    assert imported(target, called) == Imported("luad", None, 1)
    assert senders(target) == ["blca"] and audited(target)[-2].reason == "its sender has recalled it"
    assert imported(target, called) == Imported("luad", None, 0)
    with pytest.raises(ReplayedEnvelopeError):
        imported(target, older)
    imported(target, sealed_file(source, member("luad"), "site"))
    with pytest.raises(ReplayedEnvelopeError):
        imported(target, called)  # it was about those before
    assert senders(target) == ["blca", "luad"]
    assert [event.event for event in audited(source)].count("vector.recall") == 1
    with pytest.raises(UnknownRecipientError):
        recall(source.site, member("luad"), "nobody")


def test_a_run_takes_no_file_and_an_import_no_envelope_of_a_run(source, target):
    run = RunId("fed", "run1", ROSTER.digest)
    with pytest.raises(WrongRunError):
        incoming(target, member(), run, {"luad": sealed_file(source, member("luad"), "site")}, 250.0)
    in_run = outgoing(source, member("luad"), run, ["site"])[0]["site"]
    with pytest.raises(WrongRunError):
        imported(target, in_run)
    assert senders(target) == []
    assert list(incoming(target, member(), run, {"luad": in_run}, 250.0)[0]) == senders(target) == ["luad"]


def test_what_is_kept_by_default_stands_in_the_header_for_anybody_to_read(source):
    sealed = sealed_file(source, member("luad"), "site")
    start = len(b"fedsteph/v3/envelope\n") + 2
    header = json.loads(sealed[start : start + int.from_bytes(sealed[start - 2 : start], "big")])
    assert (header["kept_days"], header["run"]) == (365, BY_FILE)
