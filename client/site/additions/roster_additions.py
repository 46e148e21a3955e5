"""``federation.roster_changes: additions``: a site accepts a later roster by itself, if it does nothing but add sites.

What was accepted is kept in the state folder, and is checked anew whenever it is read: against the pinned roster, and
against the coordinator's key. Whom the site shares with is ``policy.targets`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from fedsteph.client.site.membership import Membership, MembershipFile
from fedsteph.client.site.policy import Policy
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, RosterChangeError, RosterError, RosterForkError
from fedsteph.common.host.checked_file import read_json, write_json
from fedsteph.common.trust.roster import Roster, write_roster
from fedsteph.common.trust.signed_roster import SignedRoster

ACCEPTED = "accepted-roster.json"
FOR_PEOPLE = "accepted-roster.yaml"  # the same roster, to look at and to pin; it is never read
_PIN = "People have to agree: compare the new digest by telephone with other sites, and pin it"


def with_accepted(member: Membership, file: MembershipFile, state: Path) -> Membership:
    """``member`` under the roster that was accepted after the pinned one, if there is one.

    Raises:
        RosterError: its file is damaged, is not signed by the key that the site pins, or changes what is pinned.
    """
    path = state / ACCEPTED
    if file.roster_changes == "pinned" or not path.exists():
        return member
    remedy = f"Remove {path}: the coordinator sends it again with its next run"
    try:
        signed = build(SignedRoster, read_json(path, RosterError, remedy), path)
    except ConfigError as error:
        raise RosterError("is damaged", where=path, remedy=remedy) from error
    if member.roster.digest not in signed.chain:
        return member  # people have pinned another one since, which counts
    roster = signed.verified(str(file.roster_key), path)
    require_additions(member.roster, roster, path)
    return replace(member, roster=roster, signed=signed)


def follow(member: Membership, file: MembershipFile, policy: Policy, signed: SignedRoster) -> Membership:
    """``member`` under the roster that the coordinator sent; ``member`` itself where the site has it already.

    Raises:
        RosterSignatureError: nobody signed it, or another key.
        RosterForkError: it is older than the site's, or does not follow it.
        RosterChangeError: it does more than add sites, or adds one that ``policy.targets`` names already.
    """
    where = "the roster that the coordinator sent"
    roster = signed.verified(str(file.roster_key), where)
    _require_follower(member, signed, where)
    added = require_additions(member.roster, roster, where)
    if named := sorted({*added} & {*policy.targets}):
        # Its name was allowed before anybody knew its keys: whoever signs rosters could choose who reads the vector.
        what = f"adds {', '.join(named)}, which policy.targets names already, so that it would get this site's vector"
        raise RosterChangeError(what, where=where, remedy=_PIN)
    return replace(member, roster=roster, signed=signed)


def keep_accepted(state: Path, member: Membership) -> None:
    """Write down the accepted roster, atomically, and a copy for people."""
    assert member.signed is not None
    write_roster(state / FOR_PEOPLE, member.roster)
    write_json(state / ACCEPTED, json.loads(json.dumps(asdict(member.signed))))


def require_additions(before: Roster, after: Roster, where: str | Path) -> Sequence[str]:
    """The names that ``after`` adds. Raises RosterChangeError if it does anything but add sites to ``before``."""
    if after.federation != before.federation:
        what = f"is of the federation {after.federation}, not {before.federation}"
        raise RosterChangeError(what, where=where, remedy=_PIN)
    if {*after.revoked} != {*before.revoked}:
        raise RosterChangeError("revokes keys, or takes a revocation back", where=where, remedy=_PIN)
    for known in before.sites:
        entry = after.entry(known.site)
        if entry is None:
            raise RosterChangeError(f"takes {known.site} out", where=where, remedy=_PIN)
        if changed := [key for key, value in asdict(known).items() if asdict(entry)[key] != value]:
            what = f"changes {', '.join(changed)} of {known.site}"
            raise RosterChangeError(what, where=where, remedy=_PIN)
    names = {known.site for known in before.sites}
    return [entry.site for entry in after.sites if entry.site not in names]


def _require_follower(member: Membership, signed: SignedRoster, where: str) -> None:
    """The history must hold all of the site's own, and then perhaps more."""
    own = member.signed.chain if member.signed is not None else None
    if own is None:
        if member.roster.digest not in signed.chain:
            raise RosterForkError("does not follow the pinned roster", where=where, remedy=_PIN)
        return
    if signed.chain[: len(own)] == own:
        return
    if own[: len(signed.chain)] == signed.chain:
        remedy = "The coordinator's roster is out of date: it needs the newest one, and its signature file"
        raise RosterForkError("is older than the one that this site has accepted", where=where, remedy=remedy)
    at = next(i for i, (theirs, ours) in enumerate(zip(signed.chain, own, strict=False)) if theirs != ours)
    raise RosterForkError(
        f"is one of two rosters that follow the same one: number {at + 1} of its history is "
        f"{signed.chain[at][:12]}..., and this site has accepted {own[at][:12]}...",
        where=where,
        remedy="Somebody signed two: tell all sites by telephone, agree on one, and pin it",
    )
