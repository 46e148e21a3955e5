"""A vector's way out of one site and into another: file, envelope; envelope, screening."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.workspace import Workspace
from common.abmil import Architecture, pinned_model
from common.config import SITE_NAME
from common.envelope import EnvelopeContext, open_sealed, seal
from common.errors import EnvelopeError, ProtocolError, VectorError
from common.protocol import RunId
from common.task_vector import TaskVector
from common.vector_file import read_vector, write_vector


def outgoing(workspace: Workspace, run: RunId, recipients: Sequence[str]) -> dict[str, bytes]:
    """One envelope per recipient around the vector of this site's fold 0."""
    own = workspace.site.name
    for recipient in recipients:
        if SITE_NAME.fullmatch(recipient) is None or recipient == own:
            raise ProtocolError("a recipient is not another site's name", where="recipients")
    m0 = pinned_model(workspace.recipe.model)
    content = write_vector(TaskVector.between(workspace.local_model(0), m0))
    return {name: seal(content, _context(workspace, run, own, name)) for name in recipients}


def incoming(
    workspace: Workspace, run: RunId, envelopes: Mapping[str, bytes], max_norm: float
) -> tuple[dict[str, TaskVector], dict[str, str]]:
    """Open and screen the envelopes sent to this site.

    Returns:
        the vectors by sender, in the order of their names, and the reason of each refusal by sender.

    Raises:
        EnvelopeError: not one envelope could be used.
    """
    model = workspace.recipe.model
    vectors: dict[str, TaskVector] = {}
    refused: dict[str, str] = {}
    for sender, envelope in sorted(envelopes.items()):
        if SITE_NAME.fullmatch(sender) is None or sender == workspace.site.name:
            refused[sender] = "not another site's name"
            continue
        try:
            content = open_sealed(envelope, _context(workspace, run, sender, workspace.site.name))
            vectors[sender] = read_vector(
                content,
                architecture=Architecture.of(model),
                m0_sha256=str(model.m0_sha256),
                max_norm=max_norm,
                where=f"vector of {sender}",
            )
        except VectorError as error:
            refused[sender] = str(error)
    if not vectors:
        reasons = "; ".join(f"{sender}: {reason}" for sender, reason in refused.items()) or "none came"
        raise EnvelopeError(f"there is no usable envelope ({reasons})", where="envelopes")
    return vectors, refused


def _context(workspace: Workspace, run: RunId, sender: str, recipient: str) -> EnvelopeContext:
    model = workspace.recipe.model
    return EnvelopeContext(
        federation=run.federation,
        run=run.run,
        sender=sender,
        recipient=recipient,
        m0_sha256=str(model.m0_sha256),
        architecture=Architecture.of(model).digest,
    )
