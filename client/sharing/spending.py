"""Writes the privacy cost into the ledger before a result trained on the site's patients leaves."""

from __future__ import annotations

from fedsteph.client.privacy.ledger import Entry, Ledger, Total, total
from fedsteph.client.sharing.shared_model import guarantee
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest
from fedsteph.common.wire.messages import RunId


def spend(workspace: Workspace, model: BaseModel, run: str) -> None:
    """Write the privacy cost of a shared vector into the ledger, once per training, before it leaves.

    Args:
        model: the model whose vector is shared.
        run: the run's name, or ``(file)``.

    Raises:
        BudgetPolicyError: all that the site has shared would exceed the policy's epsilon budget.
        LedgerError: the ledger does not match the audit log.
    """
    found = guarantee(workspace)
    training = model_digest(model)
    mechanism, delta = (None, None) if found is None else (found.mechanism, found.delta)
    _spend(workspace, Entry.now(run, training, mechanism, delta))


def spend_rounds(workspace: Workspace, run: RunId, method: str) -> None:
    """As :func:`spend`, for a run's rounds of FedAvg or FedProx, which train without differential privacy."""
    _spend(workspace, Entry.now(run.run, f"{method} of {run.run}", None, None))


def _spend(workspace: Workspace, entry: Entry) -> None:
    Ledger(workspace.site.audit).spend(entry, workspace.site.require_policy().epsilon_budget)


def spent(workspace: Workspace) -> Total:
    """The total privacy cost of all that this site has shared so far."""
    return total(Ledger(workspace.site.audit).entries())
