"""Receives vectors: opens each envelope, checks sender, replay, format and norm, and keeps what may be kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fedsteph.client.sharing.head_rule import may_travel
from fedsteph.client.sharing.kept_record import KeptVector
from fedsteph.client.sharing.kept_vectors import keep
from fedsteph.client.sharing.mapped_vector import mapped
from fedsteph.client.sharing.outgoing import context_of
from fedsteph.client.sharing.replay import accept_once
from fedsteph.client.sharing.statement import read_content
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import ModelConfig, Recipe, SharingConfig
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import EnvelopeError, FedstephError, UnknownSenderError, VectorError, WrongModelError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import read_vector
from fedsteph.common.wire.envelope import Context, Opened, open_sealed
from fedsteph.common.wire.messages import RunId


@dataclass(frozen=True)
class Received:
    """A vector that passed every check, with what is kept of it."""

    vector: TaskVector
    record: KeptVector
    vector_file: bytes


def incoming(
    workspace: Workspace, member: Membership, run: RunId, envelopes: Mapping[str, bytes], max_norm: float
) -> tuple[dict[str, TaskVector], dict[str, FedstephError]]:
    """Open and check the envelopes sent to this site; each decision is written to the audit log.

    A vector is kept (:mod:`fedsteph.client.sharing.kept_vectors`) if its sender allows.

    Args:
        envelopes: sender -> sealed bytes, untrusted; each is read once, so that they need not all be in memory.
        max_norm: largest L2 norm of a vector.

    Returns:
        sender -> memory-mapped vector, sorted by name, and sender -> reason of the refusal.

    Raises:
        VectorError: no envelope is usable.
        StorageError: a vector cannot be written.
    """
    site, recipe = workspace.site, workspace.recipe
    vectors: dict[str, TaskVector] = {}
    refused: dict[str, FedstephError] = {}
    for sender in sorted(envelopes):
        envelope = envelopes[sender]
        expected = context_of(recipe, run.federation, run.run, sender, site.name)
        line = opening(envelope, run.run, sender)
        try:
            opened = open_once(site, member, expected, envelope)
            found = received(recipe, member, expected, opened, max_norm)
            found.record.statement.require_roster(member.roster.digest, f"vector of {sender}")
        except VectorError as error:
            refused[sender] = error
            site.audit.append(replace(line, decision="refused", reason=type(error).__name__))
            continue
        site.audit.append(line)
        keep(site, found.record, found.vector_file)
        vectors[sender] = mapped(found.vector, site.state)
    if not vectors:
        if len(refused) == 1:
            raise next(iter(refused.values()))
        reasons = "; ".join(str(error) for error in refused.values()) or "none came"
        raise EnvelopeError(f"there is no usable envelope ({reasons})", where="envelopes")
    return vectors, refused


def opening(envelope: bytes, run: str, sender: str) -> Event:
    """The audit log's line on an envelope that is opened; a sender without a site's name is not written down."""
    peer = sender if SITE_NAME.fullmatch(sender) else None
    return Event("vector.open", "allowed", run, peer, hashlib.sha256(envelope).hexdigest(), len(envelope))


def open_once(site: Site, member: Membership, expected: Context, envelope: bytes) -> Opened:
    """Open an envelope of another site of the roster, once.

    Raises:
        EnvelopeError: its sender is no other site, it is a replay, or as :func:`open_sealed`.
    """
    if SITE_NAME.fullmatch(expected.sender) is None or expected.sender == site.name:
        raise UnknownSenderError("is delivered for no other site", where="envelope")
    keys = member.keys_of(expected.sender)
    opened = open_sealed(envelope, expected, member.identity, keys)
    accept_once(site.state, keys.fingerprint, opened.sequence, envelope)
    return opened


def received(
    recipe: Recipe,
    member: Membership,
    context: Context,
    opened: Opened,
    max_norm: float,
    now: datetime | None = None,
) -> Received:
    """Read the content of an envelope that was opened in this context; VectorError if it is no vector of the recipe."""
    where = f"vector of {context.sender}"
    cancer = member.cancer_of(context.sender)
    if opened.head and not may_travel(recipe.sharing, cancer, member.cancer_of(context.recipient)):
        remedy = "Both sites need one recipe, and one roster that names their cancers"
        raise WrongModelError("brings a head, which sharing.head does not let travel here", where=where, remedy=remedy)
    statement, vector_file = read_content(opened.plain, where)
    vector = received_vector(recipe.model, vector_file, recipe.sharing, max_norm, where, head=opened.head)
    record = KeptVector(
        sender=context.sender,
        fingerprint=member.keys_of(context.sender).fingerprint,
        received=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        run=context.run,
        sequence=opened.sequence,
        kept_days=opened.kept_days,
        recipe_sha256=context.recipe_sha256,
        m0_sha256=context.m0_sha256,
        architecture=context.architecture,
        sharing=recipe.sharing,
        statement=statement,
        norm=vector.norm,
        head=opened.head,
        cancer=cancer,
    )
    return Received(vector, record, vector_file)


def received_vector(
    model: ModelConfig, content: bytes, sharing: SharingConfig, max_norm: float, where: str, *, head: bool = False
) -> TaskVector:
    """Read the bytes of a vector that must be of the federation's model and M0; errors as :func:`read_vector`."""
    architecture, m0 = Architecture.of(model), str(model.m0_sha256)
    return read_vector(
        content, architecture=architecture, m0_sha256=m0, sharing=sharing, max_norm=max_norm, where=where, head=head
    )
