"""Keys, rosters and memberships of test sites, in memory and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from fedsteph.client.site.membership import Membership, MembershipFile
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import Entry, Roster, write_roster


@cache
def identity_of(name: str) -> Identity:
    """The same keys for the same name in the whole test session."""
    return Identity.generate()


def roster_of(*names: str, federation: str = "fed") -> Roster:
    """A roster of these sites with the keys of :func:`identity_of`."""
    entries = [Entry.of(name, identity_of(name).public, cancer="test", contact="data office") for name in names]
    return Roster(federation, tuple(entries))


def membership_of(name: str, roster: Roster) -> Membership:
    """A site's standing, without files."""
    return Membership(name, identity_of(name), roster)


def under(workspace: Workspace, policy: Policy) -> Workspace:
    """A site's workspace, as if its site file had this policy."""
    site = workspace.site
    return replace(workspace, site=replace(site, file=replace(site.file, policy=policy)))


def write_membership(folder: Path, name: str, roster: Roster) -> MembershipFile:
    """Write a site's secret keys and the roster; the paths are relative to ``folder``."""
    write_identity(folder / "keys", name, identity_of(name))
    write_roster(folder / "roster.yaml", roster)
    return MembershipFile("roster.yaml", roster.digest, f"keys/{name}.sign.key", f"keys/{name}.seal.key")


def write_run_folder(run: Path, folders: Mapping[str, Path], roster: Roster) -> Path:
    """What the simulated nodes of a prepared run find: the plan, the roster, and each site's keys."""
    run.mkdir(parents=True, exist_ok=True)
    plan = [
        {"name": name, "folder": str(folder), "device": "cpu", "roster_sha256": roster.digest}
        for name, folder in folders.items()
    ]
    (run / "sites.json").write_text(json.dumps(plan))
    write_roster(run / "roster.yaml", roster)
    for name in folders:
        write_identity(run / "sites" / name / "keys", name, identity_of(name))
    return run
