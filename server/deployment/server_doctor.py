"""Checks a coordinator's installation for ``fedsteph doctor server``: all that would make a deployment hang."""

from __future__ import annotations

import socket

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedsteph.common.config.run_config import load_config
from fedsteph.common.deployment.checks import (
    Check,
    app_start,
    authority,
    check,
    disk,
    lasting,
    memory,
    secret_files,
    versions,
)
from fedsteph.common.deployment.tls import LOOPBACK, ask, split_address
from fedsteph.common.errors import DeploymentError, RosterError
from fedsteph.common.trust.audit_log import verify
from fedsteph.common.trust.roster import read_roster
from fedsteph.common.trust.signed_roster import read_signed
from fedsteph.server.deployment.certificates import names_in
from fedsteph.server.deployment.server_file import ServerFile

_MEMORY_GB = 2.0
_DISK_GB = 5.0


def examine(server: ServerFile, before_start: bool) -> list[Check]:
    """All checks of the coordinator's side; ``before_start`` the SuperLink's port must be free, else it must answer."""
    checks = versions()
    checks += secret_files([server.key, server.superexec_secret])
    checks.append(check("certificate", lambda: _certificate(server)))
    checks.append(authority(server.ca, "Make a new CA, and bring its certificate to all sites before this one ends"))
    if before_start:
        checks.append(check("port", lambda: _free(server.superlink)))
    else:
        checks.append(check("superlink", lambda: _answers(server, server.superlink)))
        if server.address != server.superlink:
            checks.append(check("proxy", lambda: _answers(server, server.address)))
        checks.append(app_start("flwr.superlink.cli, fedsteph.server.app"))  # not where a run waits for a restart
    checks.append(check("loopback", lambda: _loopback(server.superlink)))
    checks.append(check("configuration", lambda: _configuration(server)))
    checks.append(check("audit", lambda: _audit(server)))
    return [*checks, memory(_MEMORY_GB), disk(server.runs, _DISK_GB)]


def _certificate(server: ServerFile) -> Check:
    try:
        loaded = x509.load_pem_x509_certificate(server.certificate.read_bytes())
        authority = x509.load_pem_x509_certificate(server.ca.read_bytes())
        names = names_in(server.certificate)
        key = load_pem_private_key(server.key.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        remedy = "See 'fedsteph provision' for how they look"
        raise DeploymentError(
            "cannot be read: it, its key and its CA must be in PEM form", where=server.certificate, remedy=remedy
        ) from error
    remedy = "Make a new certificate with your CA, or put the files that belong together there"
    if loaded.public_key() != key.public_key():
        raise DeploymentError(f"does not belong to {server.key.name}", where=server.certificate, remedy=remedy)
    try:
        loaded.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise DeploymentError("was not signed by the CA", where=server.certificate, remedy=remedy) from error
    for address in (server.address, server.superlink):
        host, _ = split_address(address)
        if host not in names:
            raise DeploymentError(
                f"has no SAN {host} (it has: {', '.join(names) or 'none'})",
                where=server.certificate,
                remedy="Make one whose SANs hold every name that is connected to",
            )
    remedy = f"fedsteph provision-renew {server.certificate.parent}, then restart the SuperLink"
    return lasting("certificate", f"SANs {', '.join(names)}; ", loaded.not_valid_after_utc, remedy)


def _free(address: str) -> str:
    try:
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            return f"{address} is free"
    except OSError as error:
        raise DeploymentError(
            f"cannot be listened at ({error.strerror})", where=address, remedy="See what has it: ss -ltnp"
        ) from error


def _answers(server: ServerFile, address: str) -> str:
    found = ask(address, server.ca)
    return f"{address} answers as a SuperLink ({found.protocol})"


def _loopback(address: str) -> str:
    host, _ = split_address(address)
    if host not in LOOPBACK:
        what = "the SuperLink would listen on the network, and its Control API asks nobody for a password"
        raise DeploymentError(what, where=address, remedy="Let it listen on 127.0.0.1, behind the proxy of nginx.conf")
    return "the Control API stays on this machine"


def _configuration(server: ServerFile) -> str:
    server.require_ready()
    config, roster = load_config(server.config), read_roster(server.roster)
    federation = config.federation
    if federation.name != roster.federation:
        what = f"is of the federation {roster.federation}, not {federation.name}"
        raise RosterError(what, where=server.roster, remedy="Make both name the same federation")
    missing = [name for name in federation.sites if roster.entry(name) is None]
    if missing:
        raise RosterError(f"lacks {', '.join(missing)}", where=server.roster, remedy="'fedsteph roster add' them")
    signed = read_signed(server.roster, roster)
    how = "" if signed is None else f", signed as number {len(signed.chain)} of its history"
    return f"{len(federation.sites)} sites, all in the roster {roster.digest[:12]}...{how}"


def _audit(server: ServerFile) -> str:
    return f"{verify(server.audit).lines} lines hold together"
