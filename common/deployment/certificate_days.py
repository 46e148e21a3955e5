"""How many days a certificate is still valid."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from fedsteph.common.errors import DeploymentError


def days_left(certificate: Path) -> int:
    """Days until a PEM certificate expires; below 0 if it has. Raises DeploymentError if it cannot be read."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "Put the certificate there in PEM form"
        raise DeploymentError("is no certificate that can be read", where=certificate, remedy=remedy) from error
    return (loaded.not_valid_after_utc - datetime.now(UTC)).days
