"""Refuses to share a vector if an attack on it exceeds the policy's limit."""

from __future__ import annotations

from fedsteph.client.sharing.attack_result import content_digest, read_result
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.errors import AttackPolicyError


def require_attack_resisted(workspace: Workspace, content: bytes) -> None:
    """Refuse a vector if the policy's ``max_attack_auc`` forbids sharing it.

    Whatever the limit is, a vector is also refused if its audit contradicts the training's privacy guarantee.

    Args:
        content: bytes of the vector file, before it is sealed.

    Raises:
        AttackPolicyError: this exact file was never attacked, its strongest attack is above the limit, or the audit
            contradicts the guarantee.
    """
    found = read_result(workspace.site.state, content_digest(content))
    if found is not None and found["epsilon"]["contradicted"]:
        raise AttackPolicyError(
            f"an attack shows an epsilon of at least {found['epsilon']['lower_bound']:.3g}, and the training reports "
            f"{found['epsilon']['reported']:.3g}",
            where="privacy audit",
            remedy="Share nothing and report this: the training is not as private as it says",
        )
    limit = workspace.site.require_policy().max_attack_auc
    if limit is None:
        return
    if found is None:
        raise AttackPolicyError(
            "this very vector was never attacked",
            where="policy.max_attack_auc",
            remedy="Run 'fedsteph privacy audit' with the federation's configuration",
        )
    if not found["strongest"]["auc"] <= limit:
        raise AttackPolicyError(
            f"the strongest attack has an AUC of {found['strongest']['auc']:.3f}, the policy allows {limit:.3f}",
            where="policy.max_attack_auc",
            remedy="Train in private (privacy: dp-sgd) or share less (sharing.layers, sharing.rank)",
        )
