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
        shown, reported = found["epsilon"]["lower_bound"], found["epsilon"]["reported"]
        raise AttackPolicyError(
            f"an attack shows an epsilon of at least {shown:.3g}, and the training reports {reported:.3g}",
            where="privacy audit",
            remedy="Share nothing and report this: the training is not as private as it says",
        )
    limit, key = workspace.site.require_policy().max_attack_auc, "policy.max_attack_auc"
    if limit is None:
        return
    if found is None:
        remedy = "Run 'fedsteph privacy audit' with the federation's configuration"
        raise AttackPolicyError("this very vector was never attacked", where=key, remedy=remedy)
    auc = found["strongest"]["auc"]
    if not auc <= limit:
        what = f"the strongest attack has an AUC of {auc:.3f}, the policy allows {limit:.3f}"
        remedy = "Train in private (privacy: dp-sgd) or share less (sharing.layers, .rank, .head)"
        raise AttackPolicyError(what, where=key, remedy=remedy)
