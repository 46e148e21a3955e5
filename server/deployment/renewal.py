"""Renews the server's certificate by the federation's CA, for the key and the names that it has."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fedsteph.common.errors import DeploymentError
from fedsteph.common.host import atomic
from fedsteph.server.deployment.certificates import issue, names_in
from fedsteph.server.deployment.server_file import ServerFile

_OWN_CA = (
    "Give --ca-key; a CA of your own: have it sign a certificate for the same names and server.key, put it in the "
    "place of server.crt, and restart the SuperLink"
)


@dataclass(frozen=True)
class Renewed:
    """The new certificate's file, its names and its end, and where the one of before is kept."""

    certificate: Path
    names: list[str]
    ends: datetime
    previous: Path


def renew(server: ServerFile, ca_key: Path | None, days: int) -> Renewed:
    """Put a new certificate in the place of the server's, atomically, and keep the old one as ``.previous``.

    Its key stays, so that whatever moment a SuperLink starts at, key and certificate belong together.

    Args:
        ca_key: the CA's secret key; None: ``../ca/ca.key`` of the server's folder.
        days: how long it holds; no longer than the CA's own.

    Raises:
        DeploymentError: the CA's key is not there or not the CA's, the CA has ended, or a file is not in PEM form.
    """
    signer_path = ca_key or server.ca.parent.parent / "ca" / "ca.key"
    if not signer_path.is_file():
        raise DeploymentError("the CA's key is not there", where=signer_path, remedy=_OWN_CA)
    try:
        authority = x509.load_pem_x509_certificate(server.ca.read_bytes())
        before = server.certificate.read_bytes()
        public, names = x509.load_pem_x509_certificate(before).public_key(), names_in(server.certificate)
        signer = load_pem_private_key(signer_path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = f"{server.certificate.name}, {server.ca.name} or {signer_path.name} cannot be read as PEM"
        raise DeploymentError(what, where=server.certificate.parent, remedy="See 'fedsteph doctor server'") from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey) or authority.public_key() != signer.public_key():
        raise DeploymentError(f"is not the key of {server.ca}", where=signer_path, remedy=_OWN_CA)
    if authority.not_valid_after_utc <= datetime.now(UTC):
        raise DeploymentError("the CA's own certificate has ended", where=server.ca, remedy="All sites need a new CA")
    if not names:
        raise DeploymentError("has no names (SANs)", where=server.certificate, remedy=_OWN_CA)
    made = issue(public, authority, signer, names, days)
    previous = server.certificate.with_name(f"{server.certificate.name}.previous")
    _replace(previous, before, server.certificate)
    _replace(server.certificate, made.public_bytes(Encoding.PEM), server.certificate)
    return Renewed(server.certificate, names, made.not_valid_after_utc, previous)


def _replace(path: Path, content: bytes, like: Path) -> None:
    """Write a file atomically, for the account and with the mode of another."""
    status = like.stat()
    atomic.write_bytes(path, content)
    path.chmod(status.st_mode & 0o777)
    with contextlib.suppress(PermissionError, AttributeError):  # only root gives files away; the certificate is public
        os.chown(path, status.st_uid, status.st_gid)
