"""Sends a site's vector, in a run or as a file: policy, attack gate, privacy ledger, one envelope per recipient."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence

from fedsteph.client.privacy.ledger import coarse
from fedsteph.client.sharing.attack_gate import require_attack_resisted
from fedsteph.client.sharing.head_rule import why_without_head
from fedsteph.client.sharing.replay import next_sequence
from fedsteph.client.sharing.shared_model import guarantee, shared_model
from fedsteph.client.sharing.spending import spend
from fedsteph.client.sharing.statement import Statement, vector_content
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.digest import digest
from fedsteph.common.config.recipe import Recipe, SharingConfig
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import DataError, FedstephError, PolicyError, ProtocolError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.trust.keys import PublicKeys
from fedsteph.common.vector.reduction import reduced, restored
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire.envelope import BY_FILE, Context, seal
from fedsteph.common.wire.messages import RunId

_log = logging.getLogger(__name__)


def outgoing(
    workspace: Workspace,
    member: Membership,
    run: RunId,
    recipients: Sequence[str],
    model_of: Callable[[Workspace], BaseModel] = shared_model,
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
    return _sealed_for(workspace, member, run.run, recipients, model_of)


def sealed_file(
    workspace: Workspace, member: Membership, recipient: str, model_of: Callable[[Workspace], BaseModel] = shared_model
) -> bytes:
    """The vector of this site's fold 0, as an envelope that travels as a file, by the rules of a run.

    Raises:
        PolicyError: the policy does not let it go there, be of this recipe, or be kept by its recipient.
        ProtocolError, VectorRangeError, LedgerError: as :func:`outgoing`.
    """
    policy = workspace.site.require_policy()
    try:
        policy.require_recipe(workspace.recipe)
        policy.require_keeping()
    except PolicyError as error:
        _note_refusal(workspace, BY_FILE, recipient, error)
        raise
    envelopes, refused = _sealed_for(workspace, member, BY_FILE, [recipient], model_of)
    if refused:
        raise refused[recipient]
    return envelopes[recipient]


def _sealed_for(
    workspace: Workspace,
    member: Membership,
    run: str,
    recipients: Sequence[str],
    model_of: Callable[[Workspace], BaseModel],
) -> tuple[dict[str, bytes], dict[str, FedstephError]]:
    own = workspace.site.name
    for recipient in recipients:
        if SITE_NAME.fullmatch(recipient) is None or recipient == own:
            raise ProtocolError("a recipient is not another site's name", where="recipients")
    envelopes: dict[str, bytes] = {}
    refused: dict[str, FedstephError] = {}
    contents: dict[bool, bytes] = {}
    for name in recipients:
        try:
            keys = _allowed(workspace, member, name)
            without = why_without_head(workspace, member.cancer_of(name))
            if (head := without is None) not in contents:
                contents[head] = _paid_for(workspace, member, run, model_of(workspace), head)
        except PolicyError as error:
            refused[name] = error
            _note_refusal(workspace, run, name, error)
            continue
        context = context_of(workspace.recipe, member.roster.federation, run, own, name)
        sequence, days = next_sequence(workspace.site.state), workspace.site.require_policy().kept_days
        sealed = seal(contents[head], context, sequence, member.identity, keys, days, head=head)
        # Audit before sending: a line without a sent vector is less bad than a sent vector without a line.
        sha256 = hashlib.sha256(sealed).hexdigest()
        told = "with its head" if head else f"without its head: {without}"
        workspace.site.audit.append(Event("vector.seal", "allowed", run, name, sha256, len(sealed), told))
        _log.info("the vector for %s goes %s", name, told)
        envelopes[name] = sealed
    return envelopes, refused


def _note_refusal(workspace: Workspace, run: str, recipient: str, error: PolicyError) -> None:
    workspace.site.audit.append(Event("vector.seal", "refused", run, recipient, reason=type(error).__name__))


def _allowed(workspace: Workspace, member: Membership, recipient: str) -> PublicKeys:
    """The recipient's public keys, if the policy allows it to receive the vector."""
    workspace.site.require_policy().require_target(recipient)
    require_shareable(workspace)
    return member.keys_to(recipient)


def _paid_for(workspace: Workspace, member: Membership, run: str, model: BaseModel, head: bool) -> bytes:
    """What is sealed, after the attack gate and the ledger entry; all three use one model, loaded once."""
    # A file may be read when both rosters have grown, so that it states none.
    roster = member.roster.digest[:32] if member.signed is not None and run != BY_FILE else None
    statement = _statement(workspace, roster)
    content = write_vector(_vector(workspace, model, head), workspace.recipe.sharing)
    require_attack_resisted(workspace, content)
    spend(workspace, model, run)
    return vector_content(statement, content)


def _statement(workspace: Workspace, roster: str | None) -> Statement:
    found = guarantee(workspace)
    epsilon = delta = None
    if found is not None:
        epsilon = float(coarse(found.epsilon, 2)) if found.epsilon > 0 else 0.0
        delta = float(coarse(found.delta))
    try:
        return Statement(epsilon, delta, **vars(workspace.cohort.extraction), roster=roster)
    except ValueError as error:
        where = workspace.site.folder
        raise DataError(f"what its features state cannot be sent: {error}", where=where) from error


def shared_vector(workspace: Workspace, *, head: bool = False) -> TaskVector:
    """The vector of this site's fold 0, exactly as each recipient reads it, with or without the head.

    It is reduced and rounded by the same code as the file that is sent, so it equals the vector that recipients merge
    to the last bit. Errors as :func:`as_received`.
    """
    return as_received(_vector(workspace, shared_model(workspace), head), workspace.recipe.sharing)


def as_received(vector: TaskVector, sharing: SharingConfig) -> TaskVector:
    """The vector that a recipient reads under ``sharing``: the whole encoder, with zeros in tensors that do not travel.

    A head that the vector holds is kept, rounded as the rest is.

    Args:
        vector: as trained. Applied again to its result, this gives slightly different singular directions.

    Raises:
        VectorRangeError: a number does not fit the dtype.
    """
    return restored(reduced(vector, sharing), vector.architecture, vector.m0_sha256, sharing)


def _vector(workspace: Workspace, model: BaseModel, head: bool) -> TaskVector:
    return TaskVector.between(model, pinned_model(workspace.recipe.model), head=head)


def require_shareable(workspace: Workspace) -> None:
    """Raise a PolicyError if the policy lets nobody have the vector: too few patients, or training not private."""
    policy = workspace.site.require_policy()
    policy.require_privacy(workspace.site.file.privacy)
    # Sizes of the whole cohort: by trying several fold settings, the coordinator could count a training part.
    policy.require_size(len(workspace.cohort), int(workspace.cohort.events.sum()))


def context_of(recipe: Recipe, federation: str, run: str, sender: str, recipient: str) -> Context:
    """The context that binds an envelope: it can be opened by this recipient, in this run, under this recipe only."""
    model = recipe.model
    return Context(
        federation=federation,
        run=run,
        sender=sender,
        recipient=recipient,
        m0_sha256=str(model.m0_sha256),
        architecture=Architecture.of(model).digest,
        recipe_sha256=digest(recipe),
    )
