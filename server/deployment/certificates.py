"""Makes a small certificate authority for a trial federation, server certificates, and node keys for Flower.

All keys are P-384, as Flower's node authentication requires; X.509 by RFC 5280. A hospital's own CA works as well.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedsteph.common.trust.key_file import write_secret

_CA_DAYS = 3650
_NEVER = datetime.max.replace(tzinfo=UTC)
SERVER_DAYS = 397


def make_ca(certificate: Path, key: Path, name: str) -> None:
    """Write a self-signed CA that may sign end certificates only."""
    secret = ec.generate_private_key(ec.SECP384R1())
    subject = _subject(f"fedsteph {name} CA")
    made = (
        _builder(subject, subject, secret.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
    )
    _write(certificate, key, made.sign(secret, hashes.SHA384()), secret)


def make_server_certificate(certificate: Path, key: Path, ca: Path, ca_key: Path, names: list[str]) -> None:
    """Write a server's certificate with ``names`` (hosts or IP addresses) as its SANs, signed by the CA."""
    authority = x509.load_pem_x509_certificate(ca.read_bytes())
    signer = load_pem_private_key(ca_key.read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    secret = ec.generate_private_key(ec.SECP384R1())
    _write(certificate, key, issue(secret.public_key(), authority, signer, names, SERVER_DAYS), secret)


def issue(
    public: CertificatePublicKeyTypes,
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    names: list[str],
    days: int,
) -> x509.Certificate:
    """A server's certificate for a public key, valid for ``days``, or as long as the CA's own if that ends before."""
    made = (
        _builder(_subject(names[0][:64]), authority.subject, public, days, authority.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return made.sign(signer, hashes.SHA384())


def make_node_key(secret: Path, public: Path) -> None:
    """Write a node's authentication key as Flower reads it: P-384 in OpenSSH's form."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_secret(secret, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")


def make_token(path: Path) -> None:
    """Write a random secret that SuperLink or SuperNode and SuperExec share on one machine."""
    write_secret(path, os.urandom(32).hex().encode())


def names_in(certificate: Path) -> list[str]:
    """The SANs of a certificate. Raises ValueError if the file is no certificate in PEM form."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        found = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


def _write(certificate: Path, key: Path, made: x509.Certificate, secret: ec.EllipticCurvePrivateKey) -> None:
    write_secret(key, secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate.write_bytes(made.public_bytes(Encoding.PEM))


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, days: int, latest: datetime = _NEVER
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=10))  # a site's clock may be a little behind
        .not_valid_after(min(now + timedelta(days=days), latest))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
