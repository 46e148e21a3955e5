"""``roster_changes: additions``: a site follows what only adds sites, and refuses every attack on that by its kind."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from keys_and_rosters import identity_of, roster_of, write_membership

from fedsteph.client.site.additions.greeting import greeted
from fedsteph.client.site.additions.roster_additions import ACCEPTED, FOR_PEOPLE
from fedsteph.client.site.site import Site
from fedsteph.common.config.schema import build
from fedsteph.common.errors import (
    ConfigError,
    FedstephError,
    ProtocolError,
    RosterChangeError,
    RosterError,
    RosterForkError,
    RosterSignatureError,
    UnknownRecipientError,
)
from fedsteph.common.trust import audit_log
from fedsteph.common.trust.roster import Entry, Roster, read_roster, write_roster
from fedsteph.common.trust.roster_key import public_text
from fedsteph.common.trust.signed_roster import MOST_CHARACTERS, SignedRoster, sign
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.messages import RunId

KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PINNED, WITH_C, WITH_D = roster_of("a", "b"), roster_of("a", "b", "c"), roster_of("a", "b", "d")
WITH_CD = roster_of("a", "b", "c", "d")


def signed(*rosters: Roster, key: Ed25519PrivateKey = KEY) -> SignedRoster:
    """The last of these, signed as what follows the others."""
    return sign(rosters[-1], tuple(roster.digest for roster in rosters[:-1]), key, Path("roster.yaml"))


@pytest.fixture
def site(tmp_path):
    """Writes a site's files anew, with what stands in its federation section besides; gives the site."""
    file = write_membership(tmp_path, "a", PINNED)

    def make(changes="additions", targets=("b",), pin=PINNED, **more):
        named = {key: getattr(file, key) for key in ("roster", "sign_key", "seal_key")}
        named |= {"roster_sha256": pin.digest, "roster_changes": changes, "roster_key": public_text(KEY)} | more
        sections = {"name": "a", "federation": named, "policy": {"targets": list(targets)}}
        (tmp_path / "site.yaml").write_text(json.dumps(sections))
        return Site.open(tmp_path)

    yield make
    logging.getLogger("fedsteph.sites.a").handlers.clear()


def events(site):
    audit_log.verify(site.audit.folder)
    return [(line.event.event, line.event.peer) for line in audit_log.read_lines(site.audit.folder)]


def test_an_added_site_is_known_from_the_hello_on_and_after_a_restart(site, tmp_path):
    opened = site()
    member = greeted(opened, signed(PINNED, WITH_C), "run1")
    member.require_run(RunId("fed", "run1", WITH_C.digest))
    assert member.keys_of("c") == identity_of("c").public
    again = site().membership()
    assert (again.roster, again.signed) == (member.roster, signed(PINNED, WITH_C))
    with pytest.raises(RosterError, match="this site has accepted"):
        again.require_run(RunId("fed", "run2", PINNED.digest))
    # Two more steps at once, for a site that was away; the same again changes nothing, and is audited no second time.
    with_e = roster_of("a", "b", "c", "d", "e")
    for _ in range(2):
        assert greeted(opened, signed(PINNED, WITH_C, WITH_CD, with_e), "run2").roster.digest == with_e.digest
    assert events(opened) == [("roster.accept", name) for name in ("c", "d", "e")]
    assert read_roster(opened.state / FOR_PEOPLE, with_e.digest).entry("e") is not None
    assert "which adds d, e" in (opened.state / "site.log").read_text()


def test_by_default_a_hello_changes_nothing(site):
    opened = site(changes="pinned")
    for sent in (signed(PINNED, WITH_C), signed(PINNED, WITH_C, key=OTHER_KEY), None):
        assert greeted(opened, sent, "run1").roster.digest == PINNED.digest
    assert not (opened.state / ACCEPTED).exists() and events(opened) == []
    greeted(site(), signed(PINNED, WITH_C), "run1")
    assert site(changes="pinned").membership().roster.digest == PINNED.digest


def changed(name: str, **values: object) -> Roster:
    """The addition of c, in which something of a known site is another."""
    entries = [replace(entry, **values) if entry.site == name else entry for entry in WITH_C.sites]
    return Roster("fed", tuple(entries))


def with_keys_of_mallory() -> Roster:
    mallory = Entry.of("b", identity_of("mallory").public, cancer="test", contact="data office")
    return Roster("fed", (WITH_C.sites[0], mallory, WITH_C.sites[2]))


def swapped_text() -> SignedRoster:
    """A signature that holds, over another roster."""
    return replace(signed(PINNED, WITH_C), roster=WITH_CD.text)


def unsigned() -> SignedRoster:
    return replace(signed(PINNED, WITH_C), signature="0" * 128)


def longer_chain() -> SignedRoster:
    """A signature of an older history, under a newer one."""
    return replace(signed(PINNED, WITH_C), chain=(PINNED.digest, WITH_C.digest, WITH_CD.digest), roster=WITH_CD.text)


ATTACKS = {
    "changed key": (lambda: signed(PINNED, with_keys_of_mallory()), RosterChangeError, "changes sign, seal, finger"),
    "removed site": (lambda: signed(PINNED, roster_of("a", "c")), RosterChangeError, "takes b out"),
    "own entry removed": (lambda: signed(PINNED, roster_of("b", "c")), RosterChangeError, "takes a out"),
    "changed cancer": (lambda: signed(PINNED, changed("b", cancer="brca")), RosterChangeError, "changes cancer of b"),
    "changed contact": (lambda: signed(PINNED, changed("b", contact="x")), RosterChangeError, "changes contact of b"),
    "revoked": (lambda: signed(PINNED, PINNED.without("b", "2026-01-31", "x")), RosterChangeError, "revokes keys"),
    "a stranger revoked": (
        lambda: signed(PINNED, replace(WITH_C, revoked=WITH_CD.without("d", "2026-01-31", "x").revoked)),
        RosterChangeError,
        "revokes keys",
    ),
    "another federation": (
        lambda: signed(PINNED, replace(WITH_C, federation="other")),
        RosterChangeError,
        "is of the federation other",
    ),
    "unsigned": (unsigned, RosterSignatureError, "is not signed by the key"),
    "another key": (lambda: signed(PINNED, WITH_C, key=OTHER_KEY), RosterSignatureError, "is not signed by the key"),
    "a signature over another roster": (swapped_text, RosterSignatureError, "is another roster than the signed one"),
    "a signature over an older history": (longer_chain, RosterSignatureError, "is not signed by the key"),
    "another history": (lambda: signed(WITH_D, WITH_CD), RosterForkError, "does not follow the pinned roster"),
    "older than the pin": (lambda: signed(roster_of("a")), RosterForkError, "does not follow the pinned roster"),
}


def test_every_attack_is_refused_and_nothing_of_it_is_kept(site):
    opened = site()
    for attack, (sent, error, said) in ATTACKS.items():
        with pytest.raises(FedstephError) as caught:
            greeted(opened, sent(), "run1")
        assert (type(caught.value), said in str(caught.value)) == (error, True), attack
        assert caught.value.remedy or "another roster" in said, attack
    assert opened.membership().signed is None and events(opened) == []


def test_an_older_roster_is_not_replayed_and_a_fork_is_named(site):
    opened = site()
    greeted(opened, signed(PINNED, WITH_C, WITH_CD), "run1")
    for older in (signed(PINNED), signed(PINNED, WITH_C)):
        with pytest.raises(RosterForkError, match="is older than the one that this site has accepted"):
            greeted(opened, older, "run2")
    for fork in (signed(PINNED, WITH_D), signed(PINNED, WITH_D, WITH_CD), signed(PINNED, WITH_C, WITH_D)):
        with pytest.raises(RosterForkError, match="is one of two rosters that follow the same one"):
            greeted(opened, fork, "run2")
    assert opened.membership().roster.digest == WITH_CD.digest


def test_an_added_site_is_no_target_by_itself(site):
    """Neither by its addition, nor by a name that was allowed before anybody knew its keys."""
    member = greeted(site(), signed(PINNED, WITH_C), "run1")
    with pytest.raises(FedstephError, match=r"c is not among policy\.targets"):
        site().require_policy().require_target("c")
    named = site(targets=("b", "d"))
    with pytest.raises(RosterChangeError, match=r"adds d, which policy\.targets names already"):
        greeted(named, signed(PINNED, WITH_C, WITH_CD), "run2")
    assert named.membership().roster == member.roster
    with pytest.raises(UnknownRecipientError):
        named.membership().keys_to("d")


def test_what_people_pin_counts_more_than_what_was_accepted(site, tmp_path):
    """After a fork, or a revocation: the history goes on from the new pin."""
    opened = site()
    greeted(opened, signed(PINNED, WITH_D), "run1")
    repinned = WITH_C.without("b", "2026-01-31", "left")
    write_roster(tmp_path / "roster.yaml", repinned)
    opened = site(pin=repinned)
    assert opened.membership().signed is None and opened.membership().roster == repinned
    after = repinned.with_entry(WITH_D.sites[2])
    assert greeted(opened, signed(PINNED, WITH_C, repinned, after), "run2").roster.digest == after.digest


def test_what_was_accepted_is_checked_whenever_it_is_read(site):
    opened = site()
    greeted(opened, signed(PINNED, WITH_C), "run1")
    path = opened.state / ACCEPTED
    before = path.read_bytes()
    path.write_bytes(before.replace(WITH_C.digest.encode(), WITH_D.digest.encode()))
    with pytest.raises(RosterError, match="is damaged"):
        site().membership()
    path.write_bytes(before)
    with pytest.raises(RosterSignatureError, match="is not signed by the key"):
        site(roster_key=public_text(OTHER_KEY)).membership()


def test_a_roster_that_is_too_large_reaches_nobody():
    small = {"roster": "{}", "chain": ["0" * 64], "signature": "0" * 128}
    for key, value, said in (
        ("roster", "x" * (MOST_CHARACTERS + 1), "roster must be"),
        ("chain", [f"{i:064x}" for i in range(1001)], "chain must be"),
        ("chain", ["0" * 64] * 2, "chain must be"),
        ("chain", [], "chain must be"),
        ("signature", "", "signature must be"),
    ):
        with pytest.raises(ConfigError, match=said):
            build(SignedRoster, small | {key: value}, "hello")
        body = json.dumps({"Hello": {"id": vars(RunId("fed", "r", "0" * 64)), "roster": small | {key: value}}})
        with pytest.raises(ProtocolError):
            protocol.read(protocol.Parcel(body), messages.Hello, "hello")


def test_the_settings_go_together(site):
    with pytest.raises(ConfigError, match="additions needs roster_key"):
        site(roster_key=None)
    with pytest.raises(FedstephError, match="must be a fedsteph-roster-public-v1"):
        site(roster_key=identity_of("a").public.sign_text)
