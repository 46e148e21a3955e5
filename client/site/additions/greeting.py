"""What a hello may change at a site: under ``roster_changes: additions``, its roster."""

from __future__ import annotations

from fedsteph.client.site.additions.roster_additions import follow, keep_accepted
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_log import site_log
from fedsteph.common.host.lock import exclusive
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.trust.signed_roster import SignedRoster


def greeted(site: Site, sent: SignedRoster | None, run: str) -> Membership:
    """The site's standing in a run, after what its hello brought; a site that pins its roster looks at nothing of that.

    An accepted roster is kept, and stands in the audit log and in the site's log. Errors as :meth:`Site.membership` and
    :func:`fedsteph.client.site.additions.roster_additions.follow`.
    """
    member, file = site.membership(), site.file.federation
    if sent is None or file is None or file.roster_changes == "pinned" or sent == member.signed:
        return member
    with exclusive(site.state, wait=True):
        member = site.membership()  # as it is now that nobody else changes it
        after = follow(member, file, site.require_policy(), sent)
        if sent.chain == (member.signed.chain if member.signed else None):
            return after
        known = {entry.site for entry in member.roster.sites}
        added = [entry.site for entry in after.roster.sites if entry.site not in known]
        # Audited first: a line without a new roster is less bad than a new roster without a line.
        for name in added or (None,):
            site.audit.append(Event("roster.accept", "allowed", run, name, after.roster.digest))
        keep_accepted(site.state, after)
    if added:
        text = "accepted the roster %s..., which adds %s; their keys are in %s"
        site_log(site).info(text, after.roster.digest[:12], ", ".join(added), "accepted-roster.yaml")
    return after
