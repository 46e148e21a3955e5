"""The envelope: the one seam through which a vector leaves a site and enters another.

This version binds a vector's bytes to their context and detects accidents (truncation, a swapped sender, a
stale run) by a SHA-256 digest. **It does not hide the bytes and proves no sender**: :data:`SEALED` says so,
and ``seal``/``open_sealed`` are the only two functions that sealing to a recipient's key has to replace.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass

from common.errors import EnvelopeError

SEALED = False
_LABEL = b"fedsteph/v1/envelope\n"
_MAX_CONTEXT = 4096


@dataclass(frozen=True)
class EnvelopeContext:
    """What an envelope is bound to; it opens under exactly this context and no other."""

    federation: str
    run: str
    sender: str
    recipient: str
    m0_sha256: str
    architecture: str

    def encode(self) -> bytes:
        """Canonical bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


def seal(plain: bytes, context: EnvelopeContext) -> bytes:
    """Wrap a vector file for one recipient: ``label || len(context) || context || digest || payload``."""
    bound = context.encode()
    return b"".join([_LABEL, len(bound).to_bytes(4, "big"), bound, _digest(bound, plain), plain])


def open_sealed(envelope: bytes, context: EnvelopeContext) -> bytes:
    """Check an envelope against the context it must have, and give back its payload.

    Raises:
        EnvelopeError: malformed; of another context (naming the fields that differ); or altered.
    """
    where = f"envelope from {context.sender}"
    start = len(_LABEL) + 4
    size = int.from_bytes(envelope[len(_LABEL) : start], "big")
    if not envelope.startswith(_LABEL) or size > _MAX_CONTEXT or len(envelope) < start + size + 32:
        raise EnvelopeError("is malformed", where=where)
    bound = envelope[start : start + size]
    if bound != context.encode():
        raise EnvelopeError(f"was made for another {_difference(bound, context)}", where=where)
    digest, plain = envelope[start + size : start + size + 32], envelope[start + size + 32 :]
    if not hmac.compare_digest(digest, _digest(bound, plain)):
        raise EnvelopeError("was altered on its way", where=where)
    return plain


def _digest(bound: bytes, plain: bytes) -> bytes:
    return hashlib.sha256(len(bound).to_bytes(8, "big") + bound + plain).digest()


def _difference(bound: bytes, context: EnvelopeContext) -> str:
    try:
        found = json.loads(bound)
        names = [key for key, value in asdict(context).items() if found.get(key) != value]
    except (ValueError, AttributeError, RecursionError):
        names = []
    return " and ".join(names) or "context"
