"""``fedsteph doctor site``: checks, in order, everything that a site needs before its first message."""

from __future__ import annotations

import os
from pathlib import Path

from fedsteph.client.data.check import check_site
from fedsteph.client.data.problems import counted
from fedsteph.client.deployment.files_at_rest import at_rest
from fedsteph.client.models.model_import import told_of
from fedsteph.client.site.membership import MembershipFile
from fedsteph.client.site.site import Site
from fedsteph.client.training.device import resolve_device
from fedsteph.common.deployment.checks import Check, app_start, authority, check, disk, lasting, memory, versions
from fedsteph.common.deployment.tls import MOST_AHEAD_SECONDS, MOST_BEHIND_SECONDS, ask
from fedsteph.common.errors import DeploymentError, FedstephError, ModelFileError
from fedsteph.common.host.progress import Progress, silent

_MEMORY_GB = 4.0
_DISK_GB = 5.0


def examine(site: Site, quick: bool, progress: Progress = silent) -> list[Check]:
    """Run all checks of a site; ``quick`` skips the data check, which reads every feature file (the progress)."""
    checks = versions()
    checks.append(check("account", _account))
    if not quick:
        checks.append(_data(site, progress))
    checks.append(check("device", lambda: str(resolve_device(site.file.device))))
    if site.m0 is not None:
        m0 = Path(site.m0)
        checks.append(check("M0", lambda: _m0(m0)))
    checks.append(check("membership", lambda: _membership(site)))
    federation = site.file.federation
    if federation is not None:
        checks += at_rest(site, federation)
        checks += _running(site, federation)
    return [*checks, memory(_MEMORY_GB), disk(site.state, _DISK_GB)]


def _running(site: Site, file: MembershipFile) -> list[Check]:
    checks = [app_start("flwr.supernode.runtime.run_clientapp, fedsteph.client.app")]
    if file.ca is not None:
        checks.append(authority(site.folder / file.ca, "Ask the coordinator for the new CA's ca.crt"))
    if file.server is None or file.ca is None:
        return [*checks, Check("server", "WARN", "not checked", "Name server and ca in the federation section")]
    server, ca = file.server, site.folder / file.ca
    return [*checks, check("server", lambda: _server(server, ca))]


def _account() -> str:
    if not hasattr(os, "geteuid"):
        raise DeploymentError("Windows cannot guard a site's keys", remedy="Use Linux, or WSL on Windows")
    if os.geteuid() == 0:
        remedy = "Run the SuperNode, and this command, as an account of its own"
        raise DeploymentError("this is root, whom no read-only folder stops", remedy=remedy)
    return f"user {os.geteuid()}, not root"


def _data(site: Site, progress: Progress) -> Check:
    try:
        report = check_site(site.folder, site.file.data, progress)
    except FedstephError as error:
        return Check("data", "FAIL", error.what, error.remedy)
    if report.ok:
        return Check("data", "PASS", "no problem found")
    found = counted(report.problems)
    errors = any(problem.severity == "error" for problem in report.problems)
    return Check("data", "FAIL" if errors else "WARN", found, f"fedsteph data check {site.folder}")


def _m0(path: Path) -> str:
    told = told_of(path)
    if not told["is_m0"]:
        raise ModelFileError("is a trained model, and no M0", where=path, remedy="Get M0's file from the coordinator")
    return f"its digest is {told['m0_sha256'][:12]}...; the federation's model.m0_sha256 must be the same"


def _membership(site: Site) -> str:
    member = site.membership()
    how = "as pinned" if member.signed is None else f"number {len(member.signed.chain)} of the signed ones, as accepted"
    return f"{site.name} in {member.roster.federation}, roster {member.roster.digest[:12]}... {how}"


def _server(address: str, ca: Path) -> Check:
    answer = ask(address, ca)
    ahead = answer.ahead_seconds
    if ahead is not None and not -MOST_BEHIND_SECONDS < ahead < MOST_AHEAD_SECONDS:
        raise DeploymentError(
            f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's",
            where=address,
            remedy="Switch on time synchronisation (timedatectl set-ntp true); Flower refuses such signatures",
        )
    clock = "no clock" if ahead is None else f"clocks {abs(ahead):.1f} s apart"
    remedy = "The coordinator has to renew it: fedsteph provision-renew"
    return lasting("server", f"{address}: {answer.protocol}, {clock}, certificate: ", answer.expires, remedy)
