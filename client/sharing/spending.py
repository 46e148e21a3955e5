"""What is written into the ledger when a result of the site's patients is about to leave."""

from __future__ import annotations

from fedsteph.client.privacy.ledger import Entry, Ledger, Total, total
from fedsteph.client.sharing.shared_model import guarantee
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.model.abmil import ABMIL, model_digest
from fedsteph.common.wire.messages import RunId


def spend(workspace: Workspace, model: ABMIL, run: RunId) -> None:
    """Spend what a shared vector costs, once per training, before it leaves.

    Args:
        model: whose vector it is.

    Raises:
        BudgetPolicyError: the site's sharings would cost more together than the policy lets them.
        LedgerError: the ledger does not hold together.
    """
    found = guarantee(workspace)
    training = model_digest(model)
    mechanism, delta = (None, None) if found is None else (found.mechanism, found.delta)
    _spend(workspace, Entry.now(run.run, training, mechanism, delta))


def spend_rounds(workspace: Workspace, run: RunId, method: str) -> None:
    """Spend a site's part in FedAvg's or FedProx's rounds of one run, which train without differential privacy."""
    _spend(workspace, Entry.now(run.run, f"{method} of {run.run}", None, None))


def _spend(workspace: Workspace, entry: Entry) -> None:
    Ledger(workspace.site.audit).spend(entry, workspace.site.require_policy().epsilon_budget)


def spent(workspace: Workspace) -> Total:
    """What this site's sharings cost so far."""
    return total(Ledger(workspace.site.audit).entries())
