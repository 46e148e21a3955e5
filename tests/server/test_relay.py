"""The relay with more mail than fits into memory: several messages per source and per target, and a crash between."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import replace
from itertools import chain

import pytest
from flwr.app import Message
from scripted_sites import FEATURES, ROSTER, SITES, Sites, reply_to

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.config.run_config import Config, Deadlines, FederationConfig
from fedsteph.common.errors import QuorumError, StorageError
from fedsteph.common.trust.audit_log import AuditLog, read_lines
from fedsteph.common.wire import letters, messages, protocol
from fedsteph.common.wire.letters import Letter, most_bytes
from fedsteph.common.wire.protocol import DELIVER, MERGE, SHARE
from fedsteph.server.federation import Federation
from fedsteph.server.mail_room import MailRoom
from fedsteph.simulations.run.in_process import InProcessGrid

FEDERATION = FederationConfig(sites=SITES, targets=("a", "c"), deadlines=Deadlines(0.01, 30, 30, 30, 30, 0.0))
CONFIG = Config(model=ModelConfig(**FEATURES | {"patch_size": 256.0}, m0_sha256="0" * 64), federation=FEDERATION)
ENVELOPE = most_bytes(CONFIG.model, CONFIG.sharing)


class Killed(BaseException):
    """The ServerApp's process ends here: no ``except`` of ours sees it."""


@pytest.fixture
def start(tmp_path):
    """Starts the run over these sites with its files in ``tmp_path``, as each process that is started for it does."""

    def started(sites: Sites, config: Config = CONFIG) -> Federation:
        audit, mail = AuditLog(tmp_path / "audit"), MailRoom(tmp_path / "mail")
        return Federation(InProcessGrid(sites.app, len(SITES), {}), config, "run-1", ROSTER, audit, mail=mail)

    return started


def sized(sender: str, to: str) -> bytes:
    """An envelope that is half as large as one can be, so that the space of one holds two."""
    return f"{sender} to {to}.".encode().ljust(ENVELOPE // 2, b"x")


def sealing(message: Message) -> Message:
    """Every source's share."""
    request = protocol.read(protocol.parcel(message.content, "test"), messages.Share, "test")
    sender = SITES[message.metadata.dst_node_id - 1]
    return reply_to(message, messages.ShareReply(), {to: sized(sender, to) for to in request.recipients})


def honest() -> Sites:
    return Sites(dict.fromkeys([(name, SHARE) for name in SITES], sealing))


def asked(sites: Sites, action: str) -> list[tuple[str, tuple[str, ...]]]:
    """Who was asked for what, in order: of a share the recipients, of others the senders of what came along."""
    found = []
    for name, what, parcel in sites.seen:
        if what == action == SHARE:
            found.append((name, protocol.read(parcel, messages.Share, "test").recipients))
        elif what == action:
            found.append((name, tuple(parcel.envelopes)))
    return found


def merged(sites: Sites) -> dict[str, tuple[dict[str, bytes], tuple[Letter, ...]]]:
    """What every target had when it was asked to merge, delivered or brought, and what the merge named."""
    had: dict[str, dict[str, bytes]] = {}
    found = {}
    for name, action, parcel in sites.seen:
        if action in (DELIVER, MERGE):
            had.setdefault(name, {}).update(parcel.envelopes)
        if action == MERGE:
            found[name] = dict(had[name]), protocol.read(parcel, messages.Merge, "test").letters
    return found


def everything() -> dict[str, tuple[dict[str, bytes], tuple[Letter, ...]]]:
    found = {}
    for to, senders in (("a", "bcd"), ("c", "abd")):
        had = {sender: sized(sender, to) for sender in senders}
        found[to] = had, tuple(Letter(name, hashlib.sha256(one).hexdigest()) for name, one in had.items())
    return found


def test_a_small_federation_has_one_share_per_source_and_one_merge_per_target(start):
    sites = honest()
    start(sites).run()
    assert asked(sites, SHARE) == [("a", ("c",)), ("b", ("a", "c")), ("c", ("a",)), ("d", ("a", "c"))]
    assert asked(sites, DELIVER) == []
    assert asked(sites, MERGE) == [("a", (*"bcd",)), ("c", (*"abd",))] and merged(sites) == everything()


@pytest.mark.parametrize(
    ("at_once", "shares", "deliveries"),
    [
        (ENVELOPE, [(*"bcd",), (*"abd",)], [("a", (*"bc",)), ("c", (*"ab",)), ("a", (*"d",)), ("c", (*"d",))]),
        (1, [(*"bcd",), (*"abd",)], [(to, (one,)) for one in range(3) for to in "ac"]),
    ],
)
def test_more_mail_than_may_be_in_the_air_goes_in_parts(start, monkeypatch, tmp_path, at_once, shares, deliveries):
    """A source is asked for one target after the other; the last delivery of each target removes what came."""
    monkeypatch.setattr(letters, "IN_THE_AIR", at_once)
    sites = honest()
    run = start(sites)
    run.run()
    assert merged(sites) == everything() and set(run.outcome.targets) == {"a", "c"}
    assert asked(sites, SHARE) == [(name, ("a",)) for name in "bcd"] + [(name, ("c",)) for name in "abd"]
    sent = {"a": "bcd", "c": "abd"}
    expected = [(to, tuple(sent[to][one] if isinstance(one, int) else one for one in what)) for to, what in deliveries]
    assert asked(sites, DELIVER) == [*expected, ("a", ()), ("c", ())]
    assert asked(sites, MERGE) == [("a", ()), ("c", ())] and not (tmp_path / "mail").exists()
    events = [line.event for line in read_lines(tmp_path / "audit")]
    told = [(one.peer, one.size) for one in events if one.event == "envelope.deliver"]
    assert told == [(to, len(what) * (ENVELOPE // 2)) for to, what in expected]
    assert len([one for one in events if one.event == "envelope.relay"]) == 6


def dying(after: int, action: str):
    """Kills the server while a site of its choice answers the message of this number."""
    left = chain([None] * after, [Killed])

    def fault(message):
        if (kill := next(left, None)) is not None:
            raise kill
        return reply_to(message, messages.DeliverReply()) if action == DELIVER else sealing(message)

    return fault


@pytest.mark.parametrize("action", [SHARE, DELIVER])
@pytest.mark.parametrize("after", [0, 2])
def test_a_run_whose_server_was_killed_goes_on_and_nothing_is_sealed_twice(start, monkeypatch, tmp_path, action, after):
    """As in an uninterrupted run, every target merges all there is for it; a damaged envelope is asked for again."""
    monkeypatch.setattr(letters, "IN_THE_AIR", ENVELOPE)
    sites = honest()
    sites.faults |= dict.fromkeys([(name, action) for name in SITES], dying(after, action))
    with pytest.raises(Killed):
        start(sites).run()
    kept = sorted((tmp_path / "mail").glob("*/*"))
    assert len(kept) == (6 if action == DELIVER else after)
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} <= {0o600}
    if kept:
        kept[0].write_bytes(b"damaged")
        (kept[0].parent / ".b.part").write_bytes(b"half")
    again = honest()
    start(again).run()
    assert merged(again) == everything() and not (tmp_path / "mail").exists()
    assert len(asked(again, SHARE)) == 6 - max(0, len(kept) - 1)
    if kept:
        assert ("b", ("a",)) in asked(again, SHARE)


def test_what_ends_by_an_error_leaves_no_mail(start, tmp_path):
    config = replace(CONFIG, federation=replace(FEDERATION, targets=("a",)))
    sites = honest()
    sites.faults["a", MERGE] = lambda message: reply_to(message, messages.Refusal("DataError", "no"))
    with pytest.raises(QuorumError, match="no target has a result"):
        start(sites, config).run()
    assert asked(sites, SHARE) and not (tmp_path / "mail").exists()


def test_a_target_that_fails_at_a_delivery_is_not_asked_to_merge(start, monkeypatch):
    monkeypatch.setattr(letters, "IN_THE_AIR", ENVELOPE)
    sites = honest()
    sites.faults["a", DELIVER] = lambda message: reply_to(message, messages.Refusal("StorageError", "full"))
    run = start(sites)
    run.run()
    assert set(run.outcome.targets) == {"c"} and [one for one, _ in asked(sites, DELIVER)].count("a") == 1
    assert [(one.site, one.phase) for one in run.outcome.failures] == [("a", DELIVER)]


def test_an_envelope_that_is_too_large_or_that_nobody_asked_for_is_dropped(start):
    def flooding(message):
        return reply_to(message, messages.ShareReply(), {"a": b"x" * (ENVELOPE + 1), "c": b"x", "d": b"x", "..": b"x"})

    sites = honest()
    sites.faults["b", SHARE] = flooding
    run = start(sites)
    run.run()
    had = {name: set(one) for name, (one, _) in merged(sites).items()}
    assert had == {"a": {"c", "d"}, "c": {"a", "b", "d"}}
    [failure] = run.outcome.failures
    assert (failure.site, failure.phase) == ("b", SHARE) and "larger than a vector can be" in failure.reason


def test_an_envelope_that_the_disk_damages_is_not_delivered(start, monkeypatch, tmp_path):
    def spoiling(message):
        for path in (tmp_path / "mail").glob("c/*"):
            path.write_bytes(b"damaged")
        return reply_to(message, messages.DeliverReply())

    monkeypatch.setattr(letters, "IN_THE_AIR", ENVELOPE)
    sites = honest()
    sites.faults["a", DELIVER] = spoiling
    with pytest.raises(StorageError, match="is not the envelope that came"):
        start(sites).run()
    assert not [one for one in asked(sites, DELIVER) if one[0] == "c" and b"damaged" in one[1]]
