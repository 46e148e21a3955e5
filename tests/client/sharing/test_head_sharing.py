"""The head's risk direction on its way: to whom it goes, and attempts to add, strip or swap it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from client_builders import m0_of, trained_workspace
from keys_and_rosters import identity_of, membership_of, roster_of, under

from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.sharing.head_rule import may_travel
from fedsteph.client.sharing.incoming import incoming
from fedsteph.client.sharing.outgoing import outgoing, shared_vector
from fedsteph.client.sharing.shared_model import train_shared
from fedsteph.client.sharing.statement import read_content, vector_content
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.digest import canonical
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.errors import (
    AttackPolicyError,
    ForgedEnvelopeError,
    VectorFileError,
    WrongModelError,
    WrongRecipientError,
    WrongRunError,
)
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.trust.roster import Roster
from fedsteph.common.vector.vector_file import WITH_HEAD, write_vector
from fedsteph.common.wire.envelope import open_sealed, read_stated, seal
from fedsteph.common.wire.messages import RunId

OPEN = Policy(targets=("site", "other"), min_patients=1, min_events=1)


def roster(**cancers: str | None) -> Roster:
    """Good, site and other, of the cancer ``test`` where no other is given."""
    entries = roster_of("good", "site", "other").sites
    return Roster("fed", tuple(replace(one, cancer=cancers.get(one.site, one.cancer)) for one in entries))


ROSTER = roster(other="brca")
RUN = RunId("fed", "run1", ROSTER.digest)


def member(name: str, pinned: Roster = ROSTER) -> Membership:
    return membership_of(name, pinned)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    return trained_workspace(tmp_path_factory.mktemp("heads"), "training.epochs=3", patients=12)


@pytest.fixture
def source(trained, tmp_path) -> Workspace:
    return under(stating(trained, "good", tmp_path, cancer="test"), OPEN)


@pytest.fixture
def target(trained, tmp_path) -> Workspace:
    return under(stating(trained, "site", tmp_path, cancer="test"), OPEN)


def stating(workspace: Workspace, name: str, tmp_path, **changes: object) -> Workspace:
    """The workspace of a site of this name, with changes of its site file."""
    site = workspace.site
    file = replace(site.file, **changes)
    return replace(workspace, site=replace(site, name=name, state=tmp_path / f"state-of-{name}", file=file))


def sharing(workspace: Workspace, config: SharingConfig) -> Workspace:
    return replace(workspace, recipe=replace(workspace.recipe, sharing=config))


def told(workspace: Workspace) -> list[str | None]:
    """What the audit log says of each sealed vector."""
    lines = read_lines(workspace.site.state / "audit")
    return [line.event.reason for line in lines if line.event.event == "vector.seal"]


def test_a_head_travels_between_sites_of_one_known_cancer():
    pairs = [("kirp", "kirp"), ("kirp", "kirc"), ("kirp", None), (None, "kirp"), (None, None)]
    for mode, expected in (("same_cancer", [1, 0, 0, 0, 0]), ("never", [0] * 5), ("always", [1] * 5)):
        assert [may_travel(SharingConfig(head=mode), *pair) for pair in pairs] == expected


def test_the_target_of_the_same_cancer_gets_the_head_and_the_other_none(source, target, tmp_path):
    sent, refused = outgoing(source, member("good"), RUN, ["site", "other"])
    assert (sorted(sent), refused) == (["other", "site"], {})
    got = incoming(target, member("site"), RUN, {"good": sent["site"]}, 250.0)[0]["good"]
    own, m0 = source.local_model(0), m0_of(source.recipe)
    assert got.has_head and torch.equal(got.head, own.risk_direction() - m0.risk_direction())
    other = stating(target, "other", tmp_path, cancer="brca")
    assert not incoming(other, member("other"), RUN, {"good": sent["other"]}, 250.0)[0]["good"].has_head
    assert told(source)[0] == "with its head" and "do not both state one cancer" in str(told(source)[1])
    assert torch.equal(shared_vector(source, head=True).head, got.head) and not shared_vector(source).has_head


def test_whoever_does_not_state_its_cancer_or_keeps_its_head_sends_the_vector_without(source, target, tmp_path):
    cases = {
        "do not both state one cancer": stating(source, "good", tmp_path, cancer=None),
        "policy.share_head is false": under(source, replace(OPEN, share_head=False)),
        "sharing.head is never": sharing(source, SharingConfig(head="never")),
    }
    for reason, workspace in cases.items():
        sent, _ = outgoing(workspace, member("good"), RUN, ["site"])
        into = replace(target, recipe=workspace.recipe)
        assert not incoming(into, member("site"), RUN, {"good": sent["site"]}, 250.0)[0]["good"].has_head
        assert reason in str(told(workspace)[-1])


def test_always_means_also_to_another_or_an_unknown_cancer(source, target):
    into, pinned = sharing(target, SharingConfig(head="always", dtype="bfloat16")), roster(good=None)
    run = replace(RUN, roster_sha256=pinned.digest)
    sent, _ = outgoing(sharing(source, into.recipe.sharing), member("good", pinned), run, ["site"])
    got = incoming(into, member("site", pinned), run, {"good": sent["site"]}, 250.0)[0]["good"]
    exact = source.local_model(0).risk_direction() - m0_of(source.recipe).risk_direction()
    assert torch.equal(got.head, exact.bfloat16().float())


def test_private_training_leaves_the_head_at_m0_so_none_travels(trained, source):
    """Else the head would leave without noise, and the ledger's epsilon would be untrue."""
    private = source.sharing(DpSgd(noise=5.0, epochs=2, delta=0.01))
    sent, _ = outgoing(private, member("good"), RUN, ["site"], train_shared)
    context, _ = read_stated(sent["site"], "envelope")
    opened = open_sealed(sent["site"], context, identity_of("site"), identity_of("good").public)
    assert not opened.head and WITH_HEAD.encode() not in opened.plain
    assert "differential privacy" in str(told(private)[-1])
    change = shared_vector(private, head=True).head
    assert change is not None and float(change.norm()) < 1e-6 < float(shared_vector(source, head=True).head.norm())


def test_a_limit_on_attacks_counts_for_the_file_with_the_head_too(source):
    """An audit of the file without a head says nothing of the one with it."""
    limited = under(source, replace(OPEN, max_attack_auc=0.9))
    sent, refused = outgoing(limited, member("good"), RUN, ["site"])
    assert sent == {} and isinstance(refused["site"], AttackPolicyError)


def restated(envelope: bytes, head: bool) -> bytes:
    """What a relay makes of an envelope: the same, but that its header says whether a head is inside."""
    start = len(b"fedsteph/v3/envelope\n") + 2
    end = start + int.from_bytes(envelope[start - 2 : start], "big")
    header = canonical(json.loads(envelope[start:end]) | {"head": head})
    return envelope[: start - 2] + len(header).to_bytes(2, "big") + header + envelope[end:]


def test_a_relay_can_neither_strip_nor_add_nor_swap_a_head(source, target):
    keeping = under(source, replace(OPEN, share_head=False))
    sent, _ = outgoing(source, member("good"), RUN, ["site", "other"])
    without, _ = outgoing(keeping, member("good"), RUN, ["site"])
    earlier, _ = outgoing(keeping, member("good"), replace(RUN, run="run0"), ["site"])
    assert restated(sent["site"], True) == sent["site"]
    for envelope, error in (
        (restated(sent["site"], False), ForgedEnvelopeError),
        (restated(without["site"], True), ForgedEnvelopeError),
        (sent["other"], WrongRecipientError),  # the one without a head, for another site
        (earlier["site"], WrongRunError),  # the one without a head, of an earlier run
    ):
        with pytest.raises(error):
            incoming(target, member("site"), RUN, {"good": envelope}, 250.0)


def test_a_source_that_says_of_its_head_what_is_not_so_is_refused(source, target):
    sent, _ = outgoing(source, member("good"), RUN, ["site"])
    context, sequence = read_stated(sent["site"], "envelope")
    keys, to = identity_of("good"), identity_of("site")
    statement, file = read_content(open_sealed(sent["site"], context, to, keys.public).plain, "envelope")
    headless = write_vector(shared_vector(source))
    for content, head, said in ((file, False, "holds a head"), (headless, True, "lacks the head")):
        lie = seal(vector_content(statement, content), context, sequence + 1, keys, to.public, head=head)
        with pytest.raises(VectorFileError, match=said):
            incoming(target, member("site"), RUN, {"good": lie}, 250.0)
        sequence += 1
    for pinned in (roster(good="kirc"), roster(good=None), roster(site="kirc")):  # whatever the source says it is
        with pytest.raises(WrongModelError, match="brings a head"):
            incoming(
                target,
                member("site", pinned),
                RUN,
                {"good": outgoing(source, member("good"), RUN, ["site"])[0]["site"]},
                250.0,
            )
