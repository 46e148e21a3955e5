"""Seals a vector to its recipient and signs it as its sender, both bound to one context; opens it again.

    label || uint16 len(header) || header || signature (64) || HPKE enc || HPKE ciphertext

- HPKE (RFC 9180, base mode) seals to the recipient's pinned key, with context, sequence number, ``kept_days`` and
  ``head`` as ``info``: the hybrid KEM MLKEM768-X25519 (draft-ietf-hpke-pq), HKDF-SHA256, AES-256-GCM.
- Ed25519 (RFC 8032) signs label, header and sealed bytes with the sender's key.
- The header is the :class:`Context`, the sequence number, the days that the recipient may keep the content, whether a
  vector's head is inside, and size and SHA-256 of the sealed bytes. Every field of the context must equal what the
  recipient itself expects; nothing that an envelope says about itself is trusted before its signature is checked.

Whoever relays an envelope can drop it, but cannot read or change it. Errors tell which check failed, and no secret.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from fedsteph.common.config.digest import canonical
from fedsteph.common.errors import (
    AlteredEnvelopeError,
    EnvelopeError,
    ForgedEnvelopeError,
    MalformedEnvelopeError,
    SwappedEnvelopeError,
    TruncatedEnvelopeError,
    WrongKeyError,
    WrongModelError,
    WrongRecipientError,
    WrongRunError,
)
from fedsteph.common.trust.keys import Identity, PublicKeys

_VERSION = 3
_LABEL = f"fedsteph/v{_VERSION}/envelope\n".encode()
_SIGN_LABEL = f"fedsteph/v{_VERSION}/envelope-signature\n".encode()
_SEAL_LABEL = f"fedsteph/v{_VERSION}/envelope-info\n".encode()
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
BY_FILE = "(file)"  # in the place of a run, for what travels as a file: no run can have this name
UNLIMITED = -1  # days: the recipient may keep the content for good
MOST_DAYS = 36_500
_MAX_HEADER = 4096
_SIGNATURE = 64
# Checked in this order.
_MISMATCH: dict[str, tuple[type[EnvelopeError], str]] = {
    "sender": (SwappedEnvelopeError, "was made by another site than it was delivered for"),
    "recipient": (WrongRecipientError, "was made for another recipient"),
    "federation": (WrongRunError, "was made in another federation"),
    "run": (WrongRunError, "was made in another run"),
    "m0_sha256": (WrongModelError, "holds a vector from another M0"),
    "architecture": (WrongModelError, "holds a vector of another architecture"),
    "recipe_sha256": (WrongModelError, "holds a vector that was trained by another recipe"),
}


@dataclass(frozen=True)
class Context:
    """The names and digests that an envelope is bound to: it opens only where all of them are expected."""

    federation: str
    run: str
    sender: str
    recipient: str
    m0_sha256: str
    architecture: str
    recipe_sha256: str


_HEADER_TYPES: dict[str, type] = {field.name: str for field in fields(Context)}
_STATED = {"sequence": int, "kept_days": int, "head": bool}
_HEADER_TYPES |= _STATED | {"size": int, "sha256": str}


@dataclass(frozen=True)
class Opened:
    """An accepted envelope, and what its sender states in it.

    Args:
        plain: its content.
        sequence: the sender's number, by which a replay is detected.
        kept_days: how many days the recipient may keep the content; 0: in this run only; -1: without limit.
        head: whether it is a vector with the head's risk direction.
    """

    plain: bytes
    sequence: int
    kept_days: int = 0
    head: bool = False


def seal(
    plain: bytes,
    context: Context,
    sequence: int,
    sender: Identity,
    recipient: PublicKeys,
    kept_days: int = 0,
    *,
    head: bool = False,
) -> bytes:
    """Seal a content to ``recipient`` and sign it as ``sender``. MalformedEnvelopeError: the context is too long.

    ``sequence`` is larger than in every earlier envelope from this sender to this recipient, across runs and files.
    ``kept_days`` and ``head`` are as in :class:`Opened`.
    """
    stated = {"sequence": sequence, "kept_days": kept_days, "head": head}
    sealed = _SUITE.encrypt(plain, recipient.receiver, info=_info(context, stated))
    header = _header(context, stated, sealed)
    signature = sender.signer.sign(_signed(header, sealed))
    return b"".join([_LABEL, len(header).to_bytes(2, "big"), header, signature, sealed])


def open_sealed(envelope: bytes, expected: Context, recipient: Identity, sender: PublicKeys) -> Opened:
    """Open an envelope by the pinned keys of its sender, if it has the context that the recipient itself expects.

    Raises the subclass of EnvelopeError for the first check that failed.
    """
    where = f"envelope of {expected.sender}"
    header, raw_header, signature, sealed = _parse(envelope, where)
    for key, (error, meaning) in _MISMATCH.items():
        if header[key] != getattr(expected, key):
            raise error(meaning, where=where)
    if hashlib.sha256(sealed).hexdigest() != header["sha256"]:
        raise AlteredEnvelopeError("was altered on its way", where=where)
    try:
        sender.verifier.verify(signature, _signed(raw_header, sealed))
    except InvalidSignature:
        raise ForgedEnvelopeError("its signature is not by the pinned key of its sender", where=where) from None
    try:
        stated = {key: header[key] for key in _STATED}
        plain = _SUITE.decrypt(sealed, recipient.opener, info=_info(expected, stated))
    except (InvalidTag, ValueError):
        remedy = "The sender has another roster, or this site's keys were rotated: compare roster digests"
        raise WrongKeyError("was sealed to another key than this site's", where=where, remedy=remedy) from None
    return Opened(plain, **stated)


def read_stated(envelope: bytes, where: str) -> tuple[Context, int]:
    """The context and the sequence number that an envelope states of itself. Nobody has checked that they are true.

    Raises MalformedEnvelopeError or TruncatedEnvelopeError.
    """
    header, *_ = _parse(envelope, where)
    return Context(**{field.name: header[field.name] for field in fields(Context)}), header["sequence"]


def _of_another_version(envelope: bytes, where: str) -> MalformedEnvelopeError:
    found = re.match(rb"fedsteph/v([1-9][0-9]?)/envelope\n", envelope)
    if found is None:
        return MalformedEnvelopeError("is no envelope of this version", where=where)
    what = f"is an envelope of version {found[1].decode()}, and this fedsteph reads {_VERSION}"
    remedy = "Install the newer fedsteph at both sites, and ask its sender to seal the vector anew"
    return MalformedEnvelopeError(what, where=where, remedy=remedy)


def _parse(envelope: bytes, where: str) -> tuple[dict[str, Any], bytes, bytes, bytes]:
    """The header, read and raw, the signature, and the sealed bytes."""
    start = len(_LABEL) + 2
    if not envelope.startswith(_LABEL):
        raise _of_another_version(envelope, where)
    length = int.from_bytes(envelope[len(_LABEL) : start], "big")
    end = start + length
    raw, signature, sealed = envelope[start:end], envelope[end : end + _SIGNATURE], envelope[end + _SIGNATURE :]
    if len(envelope) < start or len(raw) < length:
        raise TruncatedEnvelopeError("ends within its header", where=where)
    if length > _MAX_HEADER:
        raise MalformedEnvelopeError("its header is too long", where=where)
    header = _read_header(raw, where)
    if len(signature) < _SIGNATURE or len(sealed) < header["size"]:
        raise TruncatedEnvelopeError("ends before its stated length", where=where)
    if len(sealed) > header["size"]:
        raise MalformedEnvelopeError("goes on after its stated length", where=where)
    return header, raw, signature, sealed


def _read_header(raw: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("ascii"))
    except (ValueError, RecursionError):
        raise MalformedEnvelopeError("its header is not JSON", where=where) from None
    # Exactly these fields, in canonical form: the same content has only one encoding.
    if (
        not isinstance(header, dict)
        or header.keys() != _HEADER_TYPES.keys()
        or any(type(header[key]) is not kind for key, kind in _HEADER_TYPES.items())
        or canonical(header) != raw
    ):
        raise MalformedEnvelopeError("its header is not of this version's form", where=where)
    numbers = 0 < header["sequence"] < 2**63 and 0 < header["size"] < 2**63
    if not (numbers and UNLIMITED <= header["kept_days"] <= MOST_DAYS):
        raise MalformedEnvelopeError("its header has a number out of range", where=where)
    return header


def _header(context: Context, stated: dict[str, Any], sealed: bytes) -> bytes:
    header = canonical(asdict(context) | stated | {"size": len(sealed), "sha256": hashlib.sha256(sealed).hexdigest()})
    if len(header) > _MAX_HEADER:
        raise MalformedEnvelopeError("its context is too long to seal", where=f"envelope of {context.sender}")
    return header


def _info(context: Context, stated: dict[str, Any]) -> bytes:
    return _SEAL_LABEL + canonical(asdict(context) | stated)


def _signed(header: bytes, sealed: bytes) -> bytes:
    return b"".join([_SIGN_LABEL, len(header).to_bytes(2, "big"), header, sealed])
