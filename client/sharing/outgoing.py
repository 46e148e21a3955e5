"""Sends a site's vector: policy, attack gate, privacy ledger, vector file, and one envelope per recipient."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from fedsteph.client.sharing.attack_gate import require_attack_resisted
from fedsteph.client.sharing.replay import next_sequence
from fedsteph.client.sharing.shared_model import shared_model
from fedsteph.client.sharing.spending import spend
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.digest import digest
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import FedstephError, PolicyError, ProtocolError, UnknownRecipientError
from fedsteph.common.model.abmil import ABMIL, Architecture, pinned_model
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.trust.keys import PublicKeys
from fedsteph.common.vector.reduction import reduced, restored
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire.envelope import Context, seal
from fedsteph.common.wire.messages import RunId


def outgoing(
    workspace: Workspace,
    member: Membership,
    run: RunId,
    recipients: Sequence[str],
    model_of: Callable[[Workspace], ABMIL] = shared_model,
) -> tuple[dict[str, bytes], dict[str, FedstephError]]:
    """Seal the vector of this site's fold 0, one envelope per recipient that the policy allows.

    ``model_of`` gives the shared model, if a recipient is allowed; by default one that was trained before.

    Returns:
        recipient -> envelope, and recipient -> reason of the refusal.

    Raises:
        ProtocolError: a recipient is not another site's name.
        VectorRangeError: the vector does not fit the recipe's dtype.
        LedgerError: the privacy ledger does not match the audit log, so the epsilon spent so far is unknown.
    """
    own, audit = workspace.site.name, workspace.site.audit
    for recipient in recipients:
        if SITE_NAME.fullmatch(recipient) is None or recipient == own:
            raise ProtocolError("a recipient is not another site's name", where="recipients")
    envelopes: dict[str, bytes] = {}
    refused: dict[str, FedstephError] = {}
    content = b""
    for name in recipients:
        try:
            keys = _allowed(workspace, member, name)
            content = content or _paid_for(workspace, run, model_of(workspace))
        except PolicyError as error:
            refused[name] = error
            audit.append(Event("vector.seal", "refused", run.run, name, reason=type(error).__name__))
            continue
        sequence = next_sequence(workspace.site.state)
        sealed = seal(content, context_of(workspace, run, own, name), sequence, member.identity, keys)
        # Audit before sending: a line without a sent vector is less bad than a sent vector without a line.
        sha256 = hashlib.sha256(sealed).hexdigest()
        audit.append(Event("vector.seal", "allowed", run.run, name, sha256, len(sealed)))
        envelopes[name] = sealed
    return envelopes, refused


def _allowed(workspace: Workspace, member: Membership, recipient: str) -> PublicKeys:
    """The recipient's public keys, if the policy allows it to receive the vector."""
    workspace.site.require_policy().require_target(recipient)
    require_shareable(workspace)
    entry = member.roster.entry(recipient)
    if entry is None:
        raise UnknownRecipientError(f"{recipient} is not in the pinned roster", where="recipients")
    return entry.keys


def _paid_for(workspace: Workspace, run: RunId, model: ABMIL) -> bytes:
    """The vector file, after the attack gate and the ledger entry; all three use one model, loaded once."""
    content = write_vector(_vector(workspace, model), workspace.recipe.sharing)
    require_attack_resisted(workspace, content)
    spend(workspace, model, run)
    return content


def shared_vector(workspace: Workspace) -> TaskVector:
    """The vector of this site's fold 0, exactly as each recipient reads it.

    It is reduced and rounded by the same code as the file that is sent, so it equals the vector that recipients merge
    to the last bit. Errors as :func:`as_received`.
    """
    return as_received(_vector(workspace, shared_model(workspace)), workspace.recipe.sharing)


def as_received(vector: TaskVector, sharing: SharingConfig) -> TaskVector:
    """The vector that a recipient reads under ``sharing``: the whole encoder, with zeros in tensors that do not travel.

    Args:
        vector: as trained. Applied again to its result, this gives slightly different singular directions.

    Raises:
        VectorRangeError: a number does not fit the dtype.
    """
    return restored(reduced(vector, sharing), vector.architecture, vector.m0_sha256, sharing)


def _vector(workspace: Workspace, model: ABMIL) -> TaskVector:
    return TaskVector.between(model, pinned_model(workspace.recipe.model))


def require_shareable(workspace: Workspace) -> None:
    """Raise a PolicyError if the policy lets nobody have the vector: too few patients, or training not private."""
    policy = workspace.site.require_policy()
    policy.require_privacy(workspace.site.file.privacy)
    # Sizes of the whole cohort: by trying several fold settings, the coordinator could count a training part.
    policy.require_size(len(workspace.cohort), int(workspace.cohort.events.sum()))


def context_of(workspace: Workspace, run: RunId, sender: str, recipient: str) -> Context:
    """The context that binds an envelope: it can be opened by this recipient, in this run, under this recipe only."""
    model = workspace.recipe.model
    return Context(
        federation=run.federation,
        run=run.run,
        sender=sender,
        recipient=recipient,
        m0_sha256=str(model.m0_sha256),
        architecture=Architecture.of(model).digest,
        recipe_sha256=digest(workspace.recipe),
    )
