"""The vectors of other sites that a site keeps, in ``vectors`` in its state folder, as long as their senders allow.

Whatever uses them first removes those whose time is over, and those of keys that the pinned roster does not list.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fedsteph.client.sharing.attack_result import content_digest
from fedsteph.client.sharing.head_rule import may_travel
from fedsteph.client.sharing.kept_record import FOLDER, SUFFIX, KeptVector, read_kept, sender_of, write_kept
from fedsteph.client.sharing.mapped_vector import mapped
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import VectorError
from fedsteph.common.host.disk import writing
from fedsteph.common.host.lock import exclusive
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.trust.roster import Roster
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import read_vector

_log = logging.getLogger(__name__)


def keep(site: Site, record: KeptVector, vector_file: bytes) -> None:
    """Keep a received vector, in the place of an older one of the same sender, M0, architecture and sharing.

    If its sender does not let it be kept, the older one is removed all the same: the newest word of a sender counts.

    Raises:
        StorageError: it cannot be written.
    """
    folder = site.state / FOLDER
    if record.kept_days == 0:
        if (older := folder / record.file_name).exists():
            _remove(site, older, "its sender does not let the next one be kept")
        return
    with exclusive(folder, wait=True):
        folder.chmod(0o700)
        write_kept(folder, record, vector_file)
    sha256, size = content_digest(vector_file), len(vector_file)
    site.audit.append(Event("vector.keep", "allowed", record.run, record.sender, sha256, size))


def kept(site: Site, roster: Roster, now: datetime | None = None) -> tuple[list[KeptVector], list[VectorError]]:
    """All kept vectors, by sender, and an error for each damaged file; those that must go are removed first.

    Args:
        roster: the pinned one.
        now: the time; None: the clock's.
    """
    folder, now = site.state / FOLDER, now or datetime.now(UTC)
    found: list[KeptVector] = []
    damaged: list[VectorError] = []
    if not folder.exists():
        return found, damaged
    with exclusive(folder, wait=True):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                record, _ = read_kept(path)
            except VectorError as error:
                damaged.append(error)
                continue
            reason = _why_over(record, roster, now)
            if reason is None:
                found.append(record)
            else:
                _remove(site, path, reason)
    return found, damaged


def usable(workspace: Workspace, now: datetime | None = None) -> dict[str, TaskVector]:
    """The kept vectors that a merge in this workspace can use: of its M0, architecture, sharing and feature encoder.

    One with a head is used only where its head could travel today, by the cancer that its sender had when it came.

    Returns:
        sender -> memory-mapped vector, sorted by name.

    Raises:
        VectorError: a kept file is damaged, or a vector is longer than the site's ``max_vector_norm``.
        MembershipError, RosterError: the roster cannot tell whose vectors may still be used.
    """
    site, recipe = workspace.site, workspace.recipe
    if not (site.state / FOLDER).exists():
        return {}
    member = site.membership()
    found, damaged = kept(site, member.roster, now)
    if damaged:
        raise damaged[0]
    return {
        record.sender: mapped(_vector(site, recipe, record), site.state)
        for record in found
        if record.is_of(recipe.model, recipe.sharing)
        and (not record.head or may_travel(recipe.sharing, record.cancer, member.cancer_of(site.name)))
        and record.statement.extraction.agrees_with(workspace.cohort.extraction)
    }


def note_verdicts(site: Site, recipe: Recipe, verdicts: Mapping[str, str]) -> None:
    """Write what the last screening under a recipe said of each sender's vector to the vector, if it is kept."""
    folder = site.state / FOLDER
    if not folder.exists():
        return
    with exclusive(folder, wait=True):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if sender_of(path) not in verdicts:
                continue
            try:
                record, vector_file = read_kept(path)
            except VectorError as error:
                _log.warning("%s", error)
                continue
            if record.is_of(recipe.model, recipe.sharing):
                write_kept(folder, replace(record, verdict=verdicts[record.sender]), vector_file)


def remove(site: Site, sender: str, reason: str) -> int:
    """Remove all kept vectors of a sender, damaged files too; returns their number."""
    folder = site.state / FOLDER
    if not folder.exists():
        return 0
    with exclusive(folder, wait=True):
        paths = [path for path in sorted(folder.glob(f"*{SUFFIX}")) if sender_of(path) == sender]
        for path in paths:
            _remove(site, path, reason)
    return len(paths)


def _why_over(record: KeptVector, roster: Roster, now: datetime) -> str | None:
    entry = roster.entry(record.sender)
    if entry is None or entry.fingerprint != record.fingerprint:
        return "its sender's keys are not in the pinned roster"
    return "the days that its sender allows are over" if record.until is not None and record.until <= now else None


def _vector(site: Site, recipe: Recipe, record: KeptVector) -> TaskVector:
    _, vector_file = read_kept(site.state / FOLDER / record.file_name)
    return read_vector(
        vector_file,
        architecture=Architecture.of(recipe.model),
        m0_sha256=record.m0_sha256,
        sharing=record.sharing,
        max_norm=site.file.max_vector_norm,
        where=f"kept vector of {record.sender}",
        head=record.head,
    )


def _remove(site: Site, path: Path, reason: str) -> None:
    # The line first: a vector that is gone without a line is worse than a line too many.
    site.audit.append(Event("vector.remove", "allowed", peer=sender_of(path), reason=reason))
    with writing(path):
        path.unlink(missing_ok=True)
    _log.info("removed the kept vector of %s: %s", sender_of(path), reason)
