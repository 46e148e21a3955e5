"""Receives vectors: opens each envelope, and checks sender, replay, format and norm."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from fedsteph.client.sharing.mapped_vector import mapped
from fedsteph.client.sharing.outgoing import context_of
from fedsteph.client.sharing.replay import accept_once
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import EnvelopeError, FedstephError, UnknownSenderError, VectorError
from fedsteph.common.model.abmil import Architecture
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import read_vector
from fedsteph.common.wire.envelope import open_sealed
from fedsteph.common.wire.messages import RunId


def incoming(
    workspace: Workspace, member: Membership, run: RunId, envelopes: Mapping[str, bytes], max_norm: float
) -> tuple[dict[str, TaskVector], dict[str, FedstephError]]:
    """Open and check the envelopes sent to this site; each decision is written to the audit log.

    Args:
        envelopes: sender -> sealed bytes, untrusted.
        max_norm: largest L2 norm of a vector.

    Returns:
        sender -> memory-mapped vector, sorted by name, and sender -> reason of the refusal.

    Raises:
        VectorError: no envelope is usable.
    """
    vectors: dict[str, TaskVector] = {}
    refused: dict[str, FedstephError] = {}
    for sender, envelope in sorted(envelopes.items()):
        peer = sender if SITE_NAME.fullmatch(sender) else None
        line = Event("vector.open", "allowed", run.run, peer, hashlib.sha256(envelope).hexdigest(), len(envelope))
        try:
            vectors[sender] = mapped(_open(workspace, member, run, sender, envelope, max_norm), workspace.site.state)
        except VectorError as error:
            refused[sender] = error
            line = replace(line, decision="refused", reason=type(error).__name__)
        workspace.site.audit.append(line)
    if not vectors:
        if len(refused) == 1:
            raise next(iter(refused.values()))
        reasons = "; ".join(str(error) for error in refused.values()) or "none came"
        raise EnvelopeError(f"there is no usable envelope ({reasons})", where="envelopes")
    return vectors, refused


def _open(
    workspace: Workspace, member: Membership, run: RunId, sender: str, envelope: bytes, max_norm: float
) -> TaskVector:
    if SITE_NAME.fullmatch(sender) is None or sender == workspace.site.name:
        raise UnknownSenderError("is delivered for no other site", where="envelope")
    keys = member.keys_of(sender)
    opened = open_sealed(envelope, context_of(workspace, run, sender, workspace.site.name), member.identity, keys)
    accept_once(workspace.site.state, keys.fingerprint, opened.sequence, envelope)
    return received_vector(workspace, opened.plain, workspace.recipe.sharing, max_norm, f"vector of {sender}")


def received_vector(
    workspace: Workspace, content: bytes, sharing: SharingConfig, max_norm: float, where: str
) -> TaskVector:
    """Read the bytes of a vector that must be of the federation's model and M0; errors as :func:`read_vector`."""
    model = workspace.recipe.model
    architecture, m0 = Architecture.of(model), str(model.m0_sha256)
    return read_vector(
        content, architecture=architecture, m0_sha256=m0, sharing=sharing, max_norm=max_norm, where=where
    )
