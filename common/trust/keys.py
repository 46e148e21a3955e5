"""A site's key pairs: one for signatures (Ed25519, RFC 8032) and one for encryption (HPKE, RFC 9180).

The encryption key is a hybrid of ML-KEM-768 (FIPS 203) and X25519. A sealed vector stays secret unless both are broken,
so that a future quantum computer cannot open envelopes recorded today. As text, every key starts with its type
(``fedsteph-seal-public-v1:``), so that secret and public keys, or signing and sealing keys, cannot be confused.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey

from fedsteph.common.errors import KeyFormatError

SIGN_PUBLIC = "fedsteph-sign-public-v1"
SEAL_PUBLIC = "fedsteph-seal-public-v1"
SIGN_SECRET = "fedsteph-sign-secret-v1"
SEAL_SECRET = "fedsteph-seal-secret-v1"
ROSTER_PUBLIC = "fedsteph-roster-public-v1"  # the coordinator's, for rosters alone: no site's key is taken for it
ROSTER_SECRET = "fedsteph-roster-secret-v1"
_FINGERPRINT_LABEL = b"fedsteph/v1/fingerprint\n"
# Bytes: an Ed25519 public key or seed; ML-KEM-768 followed by X25519, where a secret ML-KEM key is its seed.
_LENGTHS = {
    SIGN_PUBLIC: 32,
    SEAL_PUBLIC: 1184 + 32,
    SIGN_SECRET: 32,
    SEAL_SECRET: 64 + 32,
    ROSTER_PUBLIC: 32,
    ROSTER_SECRET: 32,
}


@dataclass(frozen=True)
class PublicKeys:
    """The public keys of one site as raw bytes: 32 to verify its signatures, 1,216 to seal to it."""

    sign: bytes
    seal: bytes

    @classmethod
    def parse(cls, sign: str, seal: str, where: str) -> PublicKeys:
        """Parse both keys from text. Raises KeyFormatError if a key is of another type, or damaged."""
        keys = cls(decode(sign, SIGN_PUBLIC, f"{where}, sign"), decode(seal, SEAL_PUBLIC, f"{where}, seal"))
        try:
            _ = keys.verifier, keys.receiver
            # The exchange refuses a low-order X25519 point now, instead of when someone seals to the key.
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(keys.seal[1184:]))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFormatError("holds bytes that are no public key", where=where) from error
        return keys

    @property
    def sign_text(self) -> str:
        """The signature key as text with its type."""
        return encode(SIGN_PUBLIC, self.sign)

    @property
    def seal_text(self) -> str:
        """The sealing key as text with its type."""
        return encode(SEAL_PUBLIC, self.seal)

    @cached_property
    def verifier(self) -> Ed25519PublicKey:
        """Key object that verifies the site's signatures."""
        return Ed25519PublicKey.from_public_bytes(self.sign)

    @cached_property
    def receiver(self) -> MLKEM768X25519PublicKey:
        """Key object that seals to the site."""
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.seal[:1184]), X25519PublicKey.from_public_bytes(self.seal[1184:])
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over both public keys, 64 hexadecimal digits, which people compare by telephone."""
        return hashlib.sha256(_FINGERPRINT_LABEL + self.sign + self.seal).hexdigest()


@dataclass(frozen=True)
class Identity:
    """The secret keys of one site; they never appear in a ``repr``, a message or a log."""

    sign_seed: bytes = field(repr=False)
    seal_seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Identity:
        """New keys. Raises KeyFormatError without ML-KEM-768 in ``cryptography``: nothing weaker is used instead."""
        try:
            kem = MLKEM768PrivateKey.generate().private_bytes_raw()
        except UnsupportedAlgorithm as error:
            what = "ML-KEM-768 is missing from the installed 'cryptography'"
            raise KeyFormatError(what, where="keys", remedy="Install one of its wheels, which carry it") from error
        return cls(
            Ed25519PrivateKey.generate().private_bytes_raw(), kem + X25519PrivateKey.generate().private_bytes_raw()
        )

    @cached_property
    def signer(self) -> Ed25519PrivateKey:
        """Key object that signs as the site."""
        return Ed25519PrivateKey.from_private_bytes(self.sign_seed)

    @cached_property
    def opener(self) -> MLKEM768X25519PrivateKey:
        """Key object that opens what was sealed to the site."""
        return MLKEM768X25519PrivateKey(self._kem, self._dh)

    @cached_property
    def public(self) -> PublicKeys:
        """The public keys."""
        kem, dh = self._kem.public_key(), self._dh.public_key()
        return PublicKeys(self.signer.public_key().public_bytes_raw(), kem.public_bytes_raw() + dh.public_bytes_raw())

    @property
    def _kem(self) -> MLKEM768PrivateKey:
        return MLKEM768PrivateKey.from_seed_bytes(self.seal_seed[:64])

    @property
    def _dh(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.seal_seed[64:])


def encode(kind: str, raw: bytes) -> str:
    """A key as text: its type, a colon, URL-safe base64 without padding."""
    return f"{kind}:{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"


def decode(text: str, kind: str, where: str) -> bytes:
    """Parse a key of type ``kind`` from text, which no error message contains.

    Raises KeyFormatError if the key has another type or length, or is not canonical base64.
    """
    found, colon, body = text.partition(":")
    if not colon or found != kind:
        known = found if colon and found in _LENGTHS else "no key that fedsteph knows"
        raise KeyFormatError(f"must be a {kind}, and is {known}", where=where)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise KeyFormatError("is damaged: not base64", where=where, remedy="Copy the whole line again") from error
    if len(raw) != _LENGTHS[kind]:
        what = f"is damaged: {len(raw)} bytes, where {_LENGTHS[kind]} are expected"
        raise KeyFormatError(what, where=where, remedy="Copy the whole line again")
    if encode(kind, raw) != text:
        what = "is damaged: not in its one canonical spelling"
        raise KeyFormatError(what, where=where, remedy="Copy the whole line again")
    return raw
