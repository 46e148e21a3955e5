"""Keys: one to sign with (Ed25519, RFC 8032) and one to receive with (HPKE, RFC 9180), each of a type of its own.

The receiving key is the hybrid of ML-KEM-768 (FIPS 203) and X25519: a sealed vector stays sealed unless both fall,
so one that is recorded today does not open to tomorrow's quantum computer. In text, every key starts with its type
(``fedsteph-seal-public-v1:``), so that a secret is never taken for a public half, nor one purpose for another.
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
_FINGERPRINT_LABEL = b"fedsteph/v1/fingerprint\n"
# Bytes: an Ed25519 key or seed; ML-KEM-768 and X25519 one after the other, a secret ML-KEM key as its seed.
_LENGTHS = {SIGN_PUBLIC: 32, SEAL_PUBLIC: 1184 + 32, SIGN_SECRET: 32, SEAL_SECRET: 64 + 32}


@dataclass(frozen=True)
class PublicKeys:
    """The public halves of one site, raw: 32 bytes to verify with, 1,216 bytes to seal to."""

    sign: bytes
    seal: bytes

    @classmethod
    def parse(cls, sign: str, seal: str, where: str) -> PublicKeys:
        """Read both halves' text.

        Raises:
            KeyFormatError: of another type, or damaged.
        """
        keys = cls(decode(sign, SIGN_PUBLIC, f"{where}, sign"), decode(seal, SEAL_PUBLIC, f"{where}, seal"))
        try:
            _ = keys.verifier, keys.receiver
            # A point of low order is refused here, and not when somebody wants to seal to it.
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(keys.seal[1184:]))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFormatError("holds bytes that are no public key", where=where) from error
        return keys

    @property
    def sign_text(self) -> str:
        """The verifying half with its type."""
        return encode(SIGN_PUBLIC, self.sign)

    @property
    def seal_text(self) -> str:
        """The half to seal to, with its type."""
        return encode(SEAL_PUBLIC, self.seal)

    @cached_property
    def verifier(self) -> Ed25519PublicKey:
        """Verifies what the site signed."""
        return Ed25519PublicKey.from_public_bytes(self.sign)

    @cached_property
    def receiver(self) -> MLKEM768X25519PublicKey:
        """What to seal to for the site."""
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.seal[:1184]), X25519PublicKey.from_public_bytes(self.seal[1184:])
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over both halves, 64 hexadecimal digits: what two people compare on the telephone."""
        return hashlib.sha256(_FINGERPRINT_LABEL + self.sign + self.seal).hexdigest()


@dataclass(frozen=True)
class Identity:
    """The secret halves of one site; they never show in a ``repr``, a message or a log."""

    sign_seed: bytes = field(repr=False)
    seal_seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Identity:
        """Fresh keys from the system's random source.

        Raises:
            KeyFormatError: the installed ``cryptography`` lacks the hybrid; nothing weaker is used instead.
        """
        try:
            kem = MLKEM768PrivateKey.generate().private_bytes_raw()
        except UnsupportedAlgorithm as error:
            raise KeyFormatError(
                "ML-KEM-768 is missing from the installed 'cryptography'",
                where="keys",
                remedy="Install one of its wheels, which carry it",
            ) from error
        return cls(
            Ed25519PrivateKey.generate().private_bytes_raw(), kem + X25519PrivateKey.generate().private_bytes_raw()
        )

    @cached_property
    def signer(self) -> Ed25519PrivateKey:
        """Signs in the site's name."""
        return Ed25519PrivateKey.from_private_bytes(self.sign_seed)

    @cached_property
    def opener(self) -> MLKEM768X25519PrivateKey:
        """Opens what was sealed to the site."""
        return MLKEM768X25519PrivateKey(self._kem, self._dh)

    @cached_property
    def public(self) -> PublicKeys:
        """The public halves."""
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
    """Read a key of one type; no message ever repeats the text.

    Raises:
        KeyFormatError: another type, not base64 in its one canonical form, or a wrong length.
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
