"""Whether the head's risk direction goes with a vector: by the recipe, the cancers of both sites, and the sender."""

from __future__ import annotations

from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import SharingConfig


def may_travel(sharing: SharingConfig, source: str | None, target: str | None) -> bool:
    """Whether ``sharing.head`` lets a head go from a source to a target of these cancers; None: a cancer unknown."""
    return sharing.head == "always" or (sharing.head == "same_cancer" and source is not None and source == target)


def why_without_head(workspace: Workspace, cancer: str | None) -> str | None:
    """Why this site's vector goes without its head to a target of this cancer; None: it goes with it."""
    file, sharing = workspace.site.file, workspace.recipe.sharing
    if not may_travel(sharing, file.cancer, cancer):
        unequal = "sharing.head is same_cancer, and the two sites do not both state one cancer"
        return "sharing.head is never" if sharing.head == "never" else unequal
    if file.policy is not None and not file.policy.share_head:
        return "policy.share_head is false"
    if file.dp_sgd is not None:
        # Private training leaves the head as it is in M0, so the difference would be zeros.
        return "the vector is trained with differential privacy, whose head is that of M0"
    return None
