"""The checks of ``fedsteph doctor`` that sites and server share; each has a result and a remedy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
from cryptography import x509
from packaging.requirements import Requirement

from fedsteph.common.deployment.flower_programs import START_SECONDS
from fedsteph.common.errors import DeploymentError, FedstephError
from fedsteph.common.host.disk import free_bytes
from fedsteph.common.trust.key_file import require_private
from fedsteph.common.wire import protocol

Verdict = Literal["PASS", "WARN", "FAIL"]
_SOON = timedelta(days=30)
_START = "start of an app"
_SLOW = "A faster machine or disk, or less load: Flower starts an app that is late again and again, in vain"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    verdict: Verdict
    found: str
    remedy: str | None = None


def check(name: str, look: Callable[[], str | Check]) -> Check:
    """Run ``look``, which returns what it found, or raises a :class:`FedstephError` or ``OSError`` (FAIL)."""
    try:
        found = look()
        return found if isinstance(found, Check) else Check(name, "PASS", found)
    except FedstephError as error:
        where = f"{error.where}: " if error.where else ""
        return Check(name, "FAIL", f"{where}{error.what}", error.remedy)
    except OSError as error:
        return Check(name, "FAIL", f"{error.filename}: {error.strerror}", "Check the path and its permissions")


def versions() -> list[Check]:
    """Check the installed packages against the version ranges that fedsteph requires."""
    checks = [Check("fedsteph", "PASS", protocol.spoken())]
    for line in requires("fedsteph") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "missing"
        if found == "missing" or not requirement.specifier.contains(found, prereleases=True):
            remedy = f"pip install '{requirement.name}{requirement.specifier}'"
            checks.append(Check(requirement.name, "FAIL", f"{found}, not {requirement.specifier}", remedy))
    if len(checks) == 1:
        checks.append(Check("packages", "PASS", "all within their ranges"))
    return checks


def lasting(name: str, found: str, ends: datetime, remedy: str) -> Check:
    """The verdict on a certificate that holds until ``ends``: WARN in its last 30 days, FAIL after them."""
    left = ends - datetime.now(UTC)
    if left < timedelta(0):
        return Check(name, "FAIL", f"{found}expired {(-left).days} days ago", remedy)
    soon = left <= _SOON
    return Check(name, "WARN" if soon else "PASS", f"{found}{left.days} days left", remedy if soon else None)


def authority(ca: Path, remedy: str) -> Check:
    """Check how long a CA's certificate holds; of several in the file, the last one to end counts."""
    name = "CA certificate"

    def look() -> Check:
        try:
            found = x509.load_pem_x509_certificates(ca.read_bytes())
        except ValueError as error:
            raise DeploymentError("is no CA certificate in PEM form", where=ca, remedy="Copy ca.crt again") from error
        return lasting(name, "", max(one.not_valid_after_utc for one in found), remedy)

    return check(name, look)


def secret_files(paths: Iterable[Path]) -> list[Check]:
    """Check that no other user can read or change these secret files."""
    return [check(f"secret {path.name}", partial(_private, path)) for path in paths]


def _private(path: Path) -> str:
    require_private(path)
    return "only its owner can read it"


def app_start(modules: str) -> Check:
    """Time the start of an app's process, which imports ``modules`` (commas between), against Flower's window."""
    command, started = [sys.executable, "-IB", "-c", f"import {modules}"], time.monotonic()
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=4 * START_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Check(_START, "FAIL", f"not within {4 * START_SECONDS:g} s; Flower gives it {START_SECONDS:g} s", _SLOW)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return Check(_START, "FAIL", f"it does not start: {last[-300:]}", "Install fedsteph anew")
    except OSError as error:
        what = f"{sys.executable}: {error.strerror}"
        return Check(_START, "FAIL", what, "Use a Python that this account can start")
    return start_verdict(time.monotonic() - started)


def start_verdict(seconds: float) -> Check:
    """The verdict on a start that took so long: PASS up to a third of Flower's window, FAIL beyond all of it."""
    found = f"{seconds:.1f} s of the {START_SECONDS:g} s that Flower gives it"
    if seconds <= START_SECONDS / 3:
        return Check(_START, "PASS", found)
    return Check(_START, "WARN" if seconds <= START_SECONDS else "FAIL", found, _SLOW)


def memory(least_gb: float) -> Check:
    """Check the free memory: with less than ``least_gb`` (1e9 bytes), a run may run out of it (WARN)."""
    free = psutil.virtual_memory().available / 1e9
    verdict: Verdict = "PASS" if free >= least_gb else "WARN"
    return Check("memory", verdict, f"{free:.1f} GB free", None if verdict == "PASS" else f"{least_gb:g} GB are safe")


def disk(folder: Path, least_gb: float) -> Check:
    """Check the free space on the disk of a folder, which need not exist yet; below 0.2 GB is FAIL."""
    free = free_bytes(folder) / 1e9
    verdict: Verdict = "PASS" if free >= least_gb else ("WARN" if free >= 0.2 else "FAIL")
    remedy = None if verdict == "PASS" else f"Free some: {least_gb:g} GB are safe"
    return Check(f"disk of {folder.name}", verdict, f"{free:.1f} GB free", remedy)
