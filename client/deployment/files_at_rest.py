"""The checks of ``fedsteph doctor site`` that look at files alone: they start no program, and load no model code."""

from __future__ import annotations

import contextlib

from fedsteph.client.deployment.app_versions import require_current
from fedsteph.client.privacy.ledger import Ledger, total
from fedsteph.client.site.membership import MembershipFile
from fedsteph.client.site.site import Site
from fedsteph.common.deployment.checks import Check, check, secret_files
from fedsteph.common.errors import FedstephError
from fedsteph.common.trust.audit_log import verify

_TRAINED = {"none": "without differential privacy", "dp-sgd": "by DP-SGD"}


def at_rest(site: Site, file: MembershipFile) -> list[Check]:
    """The checks of a site's files in a federation, which start no program and read no feature."""
    folder = site.folder
    named = (file.sign_key, file.seal_key, file.auth_key, file.superexec_secret)
    secrets = [folder / path for path in named if path is not None]
    checks = [*secret_files(secrets), _policy(site)]
    checks.append(check("audit", lambda: f"{verify(folder / file.audit).lines} lines hold together"))
    checks.append(check("privacy", lambda: _privacy(site)))
    if file.flwr_home is None:
        checks.append(Check("reviewed app", "WARN", "not checked", "Name flwr_home in the federation section"))
    else:
        home = folder / file.flwr_home
        checks.append(check("reviewed app", lambda: require_current(home)))
    return checks


def _policy(site: Site) -> Check:
    policy = site.file.policy
    if policy is None:
        return Check("policy", "FAIL", "none", "Add a policy section to the site file; without it nothing leaves")
    with contextlib.suppress(FedstephError):  # the membership check reports it
        roster = site.membership().roster
        if strangers := [name for name in policy.targets if roster.entry(name) is None]:
            return Check("policy", "FAIL", f"{', '.join(strangers)} is no site of the roster", "Mend policy.targets")
    if not policy.recipes:
        return Check("policy", "WARN", "no recipe is allowed, so nothing is trained", "Set policy.recipes")
    if not policy.targets:
        return Check("policy", "WARN", "no target may receive this site's vector", "Name some in policy.targets")
    if policy.privacy not in ("none", site.file.privacy):
        what = f"asks for {policy.privacy}, and the site trains without it, so nothing is shared"
        return Check("policy", "WARN", what, "Set privacy and dp_sgd in the site file")
    return Check("policy", "PASS", f"shares with {', '.join(policy.targets)}")


def _privacy(site: Site) -> str:
    spent = total(Ledger(site.audit).entries())
    budget = None if site.file.policy is None else site.file.policy.epsilon_budget
    limit = "no budget" if budget is None else f"budget epsilon {budget:g}"
    return f"vectors are trained {_TRAINED[site.file.privacy]}; so far: {spent}; {limit}"
