"""Makes the envelope test vectors ``tests/vectors/envelopes/*.json``: each an envelope and what must become of it.

Run ``python tests/vectors/make_envelopes.py`` from the root of the checkout after a change of the format, and review
the difference. The format's own code is used for the genuine parts only: every ``outcome`` is stated here by hand.

THE KEYS ARE FOR TESTS ONLY: whoever reads this file can derive them. Sealing is randomised, so a new run gives other
envelopes under the same keys, with the same outcomes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fedsteph.common.trust.keys import Identity  # noqa: E402
from fedsteph.common.wire.envelope import Context, seal  # noqa: E402

FOLDER = Path(__file__).parent / "envelopes"
LABEL = b"fedsteph/v3/envelope\n"
SIGN_LABEL = b"fedsteph/v3/envelope-signature\n"


def identity(name: str) -> Identity:
    """A test's keys: anybody can derive them from the name."""
    seed = hashlib.shake_256(f"fedsteph TEST ONLY keys of {name}".encode()).digest(128)
    return Identity(seed[:32], seed[32:])


A, B, C, STRANGER = (identity(name) for name in ("site-a", "site-b", "site-c", "stranger"))
PLAIN = hashlib.shake_256(b"fedsteph test vector").digest(200)
SEQUENCE = 7
KEPT_DAYS = 365
CONTEXT = Context(
    federation="lung",
    run="2026-01-31-abc123",
    sender="site-a",
    recipient="site-b",
    m0_sha256=hashlib.sha256(b"M0").hexdigest(),
    architecture=hashlib.sha256(b"architecture").hexdigest(),
    recipe_sha256=hashlib.sha256(b"recipe").hexdigest(),
)


def canonical(header: dict[str, Any]) -> bytes:
    """The one form of a header."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def taken_apart(envelope: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, signature and sealed bytes."""
    start = len(LABEL) + 2
    end = start + int.from_bytes(envelope[len(LABEL) : start], "big")
    return envelope[start:end], envelope[end : end + 64], envelope[end + 64 :]


def joined(header: bytes, signature: bytes, sealed: bytes) -> bytes:
    """An envelope from its parts."""
    return LABEL + len(header).to_bytes(2, "big") + header + signature + sealed


def signed_by(signer: Identity, header: bytes, sealed: bytes) -> bytes:
    """An envelope of any header and any sealed bytes, with a valid signature by ``signer``."""
    signature = signer.signer.sign(SIGN_LABEL + len(header).to_bytes(2, "big") + header + sealed)
    return joined(header, signature, sealed)


def with_header(change: Callable[[dict[str, Any]], bytes]) -> bytes:
    """A genuine envelope whose header its own sender wrote in another form, and signed."""
    header, _, sealed = taken_apart(GENUINE)
    return signed_by(A, change(json.loads(header)), sealed)


def with_fields(**changes: Any) -> bytes:
    """As :func:`with_header`, canonical, with other values."""
    return with_header(lambda header: canonical(header | changes))


def genuine(context: Context = CONTEXT, sender: Identity = A, recipient: Identity = B) -> bytes:
    """What the format's own code makes."""
    return seal(PLAIN, context, SEQUENCE, sender, recipient.public, KEPT_DAYS)


def flipped(content: bytes, position: int) -> bytes:
    """With one bit of one byte changed."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


GENUINE = genuine()
HEADER, SIGNATURE, SEALED = taken_apart(GENUINE)
_ALTERED = flipped(SEALED, len(SEALED) - 20)
_START = len(LABEL) + 2
_FOREIGN = seal(b"a stranger's vector", CONTEXT, SEQUENCE, STRANGER, B.public, KEPT_DAYS)
_RELABELLED = taken_apart(genuine(replace(CONTEXT, run="2026-01-30-old000")))[2]
_FIELDS = json.loads(HEADER)


def _relabelled() -> bytes:
    digest = hashlib.sha256(_RELABELLED).hexdigest()
    return signed_by(A, canonical(_FIELDS | {"size": len(_RELABELLED), "sha256": digest}), _RELABELLED)


def _altered_and_resigned() -> bytes:
    fields = _FIELDS | {"sha256": hashlib.sha256(_ALTERED).hexdigest()}
    return signed_by(STRANGER, canonical(fields), _ALTERED)


def _changed(**fields: str) -> bytes:
    return genuine(replace(CONTEXT, **fields))


# Name: what it is, what must become of it, and the envelope.
CASES: dict[str, tuple[str, str, bytes]] = {
    "accepted": ("Genuine: from site-a to site-b, untouched", "accepted", GENUINE),
    "wrong-key": ("Genuine, but sealed to site-c's key", "WrongKeyError", genuine(recipient=C)),
    "wrong-run": ("Genuine, of an earlier run", "WrongRunError", _changed(run="2026-01-30-old000")),
    "wrong-federation": ("Genuine, of another federation", "WrongRunError", _changed(federation="breast")),
    "wrong-recipient": (
        "Genuine, made for site-c",
        "WrongRecipientError",
        genuine(replace(CONTEXT, recipient="site-c"), recipient=C),
    ),
    "wrong-recipient-same-key": (
        "Genuine, made for site-c, and sealed to site-b's key",
        "WrongRecipientError",
        _changed(recipient="site-c"),
    ),
    "other-m0": (
        "Genuine, of a vector from another M0",
        "WrongModelError",
        _changed(m0_sha256=hashlib.sha256(b"other M0").hexdigest()),
    ),
    "other-architecture": (
        "Genuine, of a vector of another architecture",
        "WrongModelError",
        _changed(architecture=hashlib.sha256(b"other architecture").hexdigest()),
    ),
    "other-recipe": (
        "Genuine, of a vector that was trained by another recipe",
        "WrongModelError",
        _changed(recipe_sha256=hashlib.sha256(b"other recipe").hexdigest()),
    ),
    "swapped": (
        "Genuine, site-c's own envelope to site-b, delivered as site-a's",
        "SwappedEnvelopeError",
        genuine(replace(CONTEXT, sender="site-c"), sender=C),
    ),
    "relabelled-run": (
        "Sealed bytes of an earlier run under a header of this run, signed with the sender's own key",
        "WrongKeyError",
        _relabelled(),
    ),
    "relabelled-sequence": (
        "Genuine, but for a later sequence number in the header, signed with the sender's own key",
        "WrongKeyError",
        with_fields(sequence=SEQUENCE + 1),
    ),
    "relabelled-kept-days": (
        "Genuine, but for more days to keep it in the header, signed with the sender's own key",
        "WrongKeyError",
        with_fields(kept_days=KEPT_DAYS + 1),
    ),
    "resigned-by-stranger": (
        "Header and sealed bytes are site-a's, the signature is a stranger's",
        "ForgedEnvelopeError",
        signed_by(STRANGER, HEADER, SEALED),
    ),
    "altered-and-resigned-by-stranger": (
        "One sealed byte altered, the header's digest mended, signed by a stranger",
        "ForgedEnvelopeError",
        _altered_and_resigned(),
    ),
    "made-by-stranger": ("A stranger's vector, sealed and signed by it as site-a's", "ForgedEnvelopeError", _FOREIGN),
    "altered-sealed-byte": (
        "One bit of the ciphertext altered",
        "AlteredEnvelopeError",
        joined(HEADER, SIGNATURE, _ALTERED),
    ),
    "altered-encapsulated-key": (
        "One bit of HPKE's encapsulated key altered",
        "AlteredEnvelopeError",
        joined(HEADER, SIGNATURE, flipped(SEALED, 0)),
    ),
    "altered-signature": (
        "One bit of the signature altered",
        "ForgedEnvelopeError",
        joined(HEADER, flipped(SIGNATURE, 0), SEALED),
    ),
    "altered-sequence": (
        "A later sequence number in the header, under the old signature",
        "ForgedEnvelopeError",
        joined(canonical(_FIELDS | {"sequence": SEQUENCE + 1}), SIGNATURE, SEALED),
    ),
    "altered-kept-days": (
        "More days to keep it in the header, under the old signature",
        "ForgedEnvelopeError",
        joined(canonical(_FIELDS | {"kept_days": KEPT_DAYS + 1}), SIGNATURE, SEALED),
    ),
    "altered-head": (
        "Said to be with a head, under the old signature",
        "ForgedEnvelopeError",
        joined(canonical(_FIELDS | {"head": True}), SIGNATURE, SEALED),
    ),
    "relabelled-head": (
        "Said to be with a head, signed with the sender's own key",
        "WrongKeyError",
        with_fields(head=True),
    ),
    "truncated-in-header": ("Ends within its header", "TruncatedEnvelopeError", GENUINE[: _START + 100]),
    "truncated-in-header-length": ("Ends within its header's length", "TruncatedEnvelopeError", GENUINE[: _START - 1]),
    "truncated-in-signature": (
        "Ends within its signature",
        "TruncatedEnvelopeError",
        GENUINE[: _START + len(HEADER) + 32],
    ),
    "truncated-before-body": (
        "Ends behind its signature",
        "TruncatedEnvelopeError",
        GENUINE[: _START + len(HEADER) + 64],
    ),
    "truncated-in-body": ("The last sealed byte is missing", "TruncatedEnvelopeError", GENUINE[:-1]),
    "trailing-byte": ("One byte follows", "MalformedEnvelopeError", GENUINE + b"\0"),
    "twice": ("The whole envelope follows once more", "MalformedEnvelopeError", GENUINE * 2),
    "header-with-spaces": (
        "Signed by its sender; the header has spaces",
        "MalformedEnvelopeError",
        with_header(lambda header: json.dumps(header, sort_keys=True).encode()),
    ),
    "header-with-newline": (
        "Signed by its sender; the header ends with a newline",
        "MalformedEnvelopeError",
        with_header(lambda header: canonical(header) + b"\n"),
    ),
    "header-in-another-order": (
        "Signed by its sender; the header's keys are in another order",
        "MalformedEnvelopeError",
        with_header(lambda header: json.dumps(dict(sorted(header.items())[::-1]), separators=(",", ":")).encode()),
    ),
    "header-with-escapes": (
        "Signed by its sender; a letter of the header is written as an escape",
        "MalformedEnvelopeError",
        with_header(lambda header: canonical(header).replace(b'"lung"', b'"\\u006cung"')),
    ),
    "header-with-extra-key": (
        "Signed by its sender; the header has one key more",
        "MalformedEnvelopeError",
        with_fields(version=1),
    ),
    "header-without-key": (
        "Signed by its sender; the header lacks the run",
        "MalformedEnvelopeError",
        with_header(lambda header: canonical({key: header[key] for key in header if key != "run"})),
    ),
    "header-with-duplicate-key": (
        "Signed by its sender; the header names two runs, of which a reader takes the last",
        "MalformedEnvelopeError",
        with_header(lambda header: canonical(header).replace(b'"run":', b'"run":"2026-01-30-old000","run":')),
    ),
    "header-with-bool": (
        "Signed by its sender; the sequence number is true",
        "MalformedEnvelopeError",
        with_fields(sequence=True),
    ),
    "header-with-float": (
        "Signed by its sender; the sequence number is 7.0",
        "MalformedEnvelopeError",
        with_fields(sequence=7.0),
    ),
    "header-with-text-for-number": (
        "Signed by its sender; the size is a text",
        "MalformedEnvelopeError",
        with_fields(size=str(len(SEALED))),
    ),
    "header-with-null": (
        "Signed by its sender; the recipient is null",
        "MalformedEnvelopeError",
        with_fields(recipient=None),
    ),
    "header-is-list": (
        "Signed by its sender; the header is a list",
        "MalformedEnvelopeError",
        with_header(lambda header: json.dumps(list(header.values()), separators=(",", ":")).encode()),
    ),
    "header-not-ascii": (
        "Signed by its sender; the header holds a letter beyond ASCII",
        "MalformedEnvelopeError",
        with_header(lambda header: canonical(header).replace(b'"lung"', '"lüng"'.encode())),
    ),
    "header-nested": (
        "Signed by its sender; the header is 4,096 opening brackets",
        "MalformedEnvelopeError",
        with_header(lambda header: b"[" * 4096),
    ),
    "header-empty": ("Signed by its sender; the header is empty", "MalformedEnvelopeError", signed_by(A, b"", SEALED)),
    "header-too-long": (
        "Signed by its sender; the header is canonical and takes more than 4,096 bytes",
        "MalformedEnvelopeError",
        with_fields(federation="x" * 4096),
    ),
    "header-length-beyond-end": (
        "Claims a header of 65,535 bytes, more than there are",
        "TruncatedEnvelopeError",
        LABEL + b"\xff\xff" + GENUINE[_START:],
    ),
    "sequence-zero": ("Signed by its sender; numbered 0", "MalformedEnvelopeError", with_fields(sequence=0)),
    "sequence-negative": ("Signed by its sender; numbered -1", "MalformedEnvelopeError", with_fields(sequence=-1)),
    "sequence-huge": ("Signed by its sender; numbered 2^63", "MalformedEnvelopeError", with_fields(sequence=2**63)),
    "kept-days-below-unlimited": (
        "Signed by its sender; to be kept for -2 days",
        "MalformedEnvelopeError",
        with_fields(kept_days=-2),
    ),
    "kept-days-huge": (
        "Signed by its sender; to be kept for more than a hundred years",
        "MalformedEnvelopeError",
        with_fields(kept_days=36_501),
    ),
    "empty": ("No bytes at all", "MalformedEnvelopeError", b""),
    "label-only": ("Ends behind the label", "TruncatedEnvelopeError", LABEL),
    "other-version": (
        "Labelled as of version 1",
        "MalformedEnvelopeError",
        GENUINE.replace(LABEL, LABEL.replace(b"v3", b"v1"), 1),
    ),
    "no-label": ("Without the label", "MalformedEnvelopeError", GENUINE[len(LABEL) :]),
}


def vector(name: str) -> dict[str, Any]:
    """One vector as it stands in its file."""
    description, outcome, envelope = CASES[name]
    found: dict[str, Any] = {"description": description, "outcome": outcome}
    if outcome == "accepted":
        found |= {"sequence": SEQUENCE, "kept_days": KEPT_DAYS, "plain_sha256": hashlib.sha256(PLAIN).hexdigest()}
    return found | {
        "keys": "TEST ONLY, never use them",
        "expected_context": asdict(CONTEXT),
        "sender_verify_key_hex": A.public.sign.hex(),
        "recipient_secret_seed_hex": B.seal_seed.hex(),
        "envelope_hex": envelope.hex(),
    }


def write(folder: Path) -> None:
    """Write all vectors, one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        (folder / f"{name}.json").write_text(json.dumps(vector(name), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
