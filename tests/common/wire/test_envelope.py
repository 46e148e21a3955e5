"""An envelope opens only if it is unaltered, for its recipient alone, and in its own context alone."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace

import pytest
from each_case import each
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors.make_envelopes import CONTEXT, LABEL, A, B, C, canonical, joined, signed_by, taken_apart
from vectors.make_envelopes import STRANGER as M

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
from fedsteph.common.wire import envelope
from fedsteph.common.wire.envelope import BY_FILE, Context, Opened, open_sealed, read_stated, seal
from fedsteph.common.wire.messages import RunId

PLAIN = b"the task vector of site a, which nobody but site b may see: " + bytes(range(140))
ENVELOPE = seal(PLAIN, CONTEXT, 7, A, B.public)
HEADER, SIGNATURE, SEALED = taken_apart(ENVELOPE)
START = len(LABEL) + 2
OTHER = {
    "federation": "breast",
    "run": "2026-01-30-old000",
    "sender": "site-c",
    "recipient": "site-c",
    "m0_sha256": "0" * 64,
    "architecture": "1" * 64,
    "recipe_sha256": "2" * 64,
}
NAMED = {
    "federation": WrongRunError,
    "run": WrongRunError,
    "sender": SwappedEnvelopeError,
    "recipient": WrongRecipientError,
    "m0_sha256": WrongModelError,
    "architecture": WrongModelError,
    "recipe_sha256": WrongModelError,
}
FIELDS = pytest.mark.parametrize("field", [field.name for field in fields(Context)])


def opened(content: bytes) -> Opened:
    """As site-b does, told that this is site-a's."""
    return open_sealed(content, CONTEXT, B, A.public)


def refusal(content: bytes) -> type[EnvelopeError] | None:
    """Which error refuses it; None if it is accepted. Any other exception is a failure of the test."""
    try:
        opened(content)
    except EnvelopeError as error:
        return type(error)
    return None


def headed(sealed: bytes, **changes: str | int) -> bytes:
    """A canonical header that fits ``sealed``, with some fields changed."""
    digest = hashlib.sha256(sealed).hexdigest()
    stated = {"sequence": 7, "kept_days": 0, "head": False}
    return canonical(asdict(CONTEXT) | stated | {"size": len(sealed), "sha256": digest} | changes)


@settings(max_examples=30)
@given(st.binary(max_size=300), st.integers(1, 2**63 - 1), st.integers(-1, 36_500))
def test_round_trip(plain: bytes, sequence: int, days: int) -> None:
    sealed = seal(plain, CONTEXT, sequence, A, B.public, days)
    assert opened(sealed) == Opened(plain, sequence, days)
    assert read_stated(sealed, "envelope") == (CONTEXT, sequence)


def test_a_site_may_seal_to_itself() -> None:
    context = replace(CONTEXT, recipient="site-a")
    assert open_sealed(seal(PLAIN, context, 1, A, A.public), context, A, A.public).plain == PLAIN


def test_a_vector_of_usual_size() -> None:
    plain = random.Random(1).randbytes(4_700_000)
    sealed = seal(plain, CONTEXT, 7, A, B.public)
    assert opened(sealed).plain == plain
    assert len(sealed) - len(plain) == len(ENVELOPE) - len(PLAIN) + len("4701136") - len("1336")


def test_the_documented_layout() -> None:
    """Rebuilt here from the sealed bytes alone, for Ed25519 is deterministic."""
    assert signed_by(A, headed(SEALED), SEALED) == ENVELOPE
    assert len(ENVELOPE) == START + len(HEADER) + 64 + 1120 + len(PLAIN) + 16


def test_the_plaintext_does_not_occur_in_the_envelope() -> None:
    parts = [PLAIN[start : start + 8] for start in range(len(PLAIN) - 7)]
    assert not [part for part in parts if part in ENVELOPE]
    assert hashlib.sha256(PLAIN).hexdigest().encode() not in ENVELOPE and hashlib.sha256(PLAIN).digest() not in ENVELOPE


def test_two_sealings_of_the_same_have_nothing_in_common() -> None:
    """A relay cannot tell that the same vector is sent twice, or to two recipients."""
    again = taken_apart(seal(PLAIN, CONTEXT, 7, A, B.public))[2]
    assert again != SEALED
    windows = {SEALED[start : start + 8] for start in range(len(SEALED) - 7)}
    assert not [start for start in range(len(again) - 7) if again[start : start + 8] in windows]


def test_nobody_but_the_recipient_opens() -> None:
    for other in (A, C, M, replace(B, seal_seed=B.seal_seed[:64] + C.seal_seed[64:])):
        with pytest.raises(WrongKeyError) as caught:
            open_sealed(ENVELOPE, CONTEXT, other, A.public)
        assert "compare roster digests" in str(caught.value.remedy)


@FIELDS
def test_another_context_is_named(field: str) -> None:
    """Genuine and unaltered, and not what the recipient expects."""
    with pytest.raises(NAMED[field]) as caught:
        opened(seal(PLAIN, replace(CONTEXT, **{field: OTHER[field]}), 7, A, B.public))
    assert str(caught.value).startswith("envelope of site-a: ") and OTHER[field] not in str(caught.value)
    with pytest.raises(NAMED[field]):
        open_sealed(ENVELOPE, replace(CONTEXT, **{field: OTHER[field]}), B, A.public)


@FIELDS
def test_a_relabelled_context_fails_by_its_signature(field: str) -> None:
    """A relay writes the expected value into an envelope of another context."""
    header, signature, sealed = taken_apart(seal(PLAIN, replace(CONTEXT, **{field: OTHER[field]}), 7, A, B.public))
    assert refusal(joined(header, signature, sealed)) is NAMED[field]
    assert refusal(joined(headed(sealed), signature, sealed)) is ForgedEnvelopeError


@FIELDS
def test_and_whoever_holds_the_signing_key_fails_by_hpke(field: str) -> None:
    """The signing key was stolen, the plaintext was not: sealed bytes still open in their own context only."""
    sealed = taken_apart(seal(PLAIN, replace(CONTEXT, **{field: OTHER[field]}), 7, A, B.public))[2]
    assert refusal(signed_by(A, headed(sealed), sealed)) is WrongKeyError


def test_sequence_number_days_and_head_are_bound_twice_as_well() -> None:
    """Nobody can say that a head is inside where none is, or the other way round."""
    for changed in ({"sequence": 8}, {"kept_days": 1}, {"head": True}):
        assert refusal(joined(headed(SEALED, **changed), SIGNATURE, SEALED)) is ForgedEnvelopeError
        assert refusal(signed_by(A, headed(SEALED, **changed), SEALED)) is WrongKeyError
    assert refusal(signed_by(A, headed(SEALED, sequence=7), SEALED)) is None
    header, signature, sealed = taken_apart(seal(PLAIN, CONTEXT, 7, A, B.public, head=True))
    assert opened(joined(header, signature, sealed)).head and not opened(ENVELOPE).head
    assert refusal(joined(headed(sealed), signature, sealed)) is ForgedEnvelopeError
    assert refusal(signed_by(A, headed(sealed), sealed)) is WrongKeyError
    assert refusal(signed_by(A, headed(sealed, head=1), sealed)) is MalformedEnvelopeError


@each("signer", [B, C, M])
def test_nobody_else_signs_as_the_sender(signer: envelope.Identity) -> None:
    own = taken_apart(seal(b"poison", CONTEXT, 8, signer, B.public))[2]
    assert refusal(signed_by(signer, HEADER, SEALED)) is ForgedEnvelopeError
    assert refusal(signed_by(signer, headed(own, sequence=8), own)) is ForgedEnvelopeError


def test_the_recipient_cannot_pass_an_envelope_on_as_the_senders() -> None:
    """Site-b seals what site-a gave it to site-c, under site-a's name: only site-a can sign that."""
    context = replace(CONTEXT, recipient="site-c")
    forged = seal(opened(ENVELOPE).plain, context, 7, B, C.public)
    with pytest.raises(ForgedEnvelopeError):
        open_sealed(forged, context, C, A.public)


def test_a_signature_over_another_label_does_not_count() -> None:
    """What a site signs elsewhere can never serve as the signature of an envelope."""
    for signed in (HEADER + SEALED, SEALED, LABEL + len(HEADER).to_bytes(2, "big") + HEADER + SEALED):
        assert refusal(joined(HEADER, A.signer.sign(signed), SEALED)) is ForgedEnvelopeError


def test_the_same_signature_in_another_encoding_is_refused() -> None:
    """RFC 8032, section 5.1.7: S + L is no second signature, so one content has one envelope."""
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(SIGNATURE[32:], "little") + order
    assert refusal(joined(HEADER, SIGNATURE[:32] + s.to_bytes(32, "little"), SEALED)) is ForgedEnvelopeError


@each("filler", [b"\x00", b"\x01", b"\xff"])
def test_rubbish_that_the_sender_itself_signed_is_refused(filler: bytes) -> None:
    """Too short for HPKE, points of low order, and ciphertexts that are none."""
    for length in (1, 2, 1087, 1088, 1089, 1119, 1120, 1121, 1135, 1136, 1137, 2000):
        sealed = filler * length
        assert refusal(signed_by(A, headed(sealed), sealed)) is WrongKeyError
    for position in (0, 1088):
        sealed = SEALED[:position] + filler * 32 + SEALED[position + 32 :]
        assert refusal(signed_by(A, headed(sealed), sealed)) is WrongKeyError


def test_no_run_has_the_name_that_a_file_has_in_its_place() -> None:
    with pytest.raises(ValueError, match="name"):
        RunId("lung", BY_FILE, "0" * 64)


def test_a_context_too_long_for_a_header_is_not_sealed() -> None:
    with pytest.raises(MalformedEnvelopeError, match="too long to seal"):
        seal(PLAIN, replace(CONTEXT, run="x" * 4096), 1, A, B.public)


def test_every_truncation_is_refused_and_every_extension() -> None:
    assert None not in {refusal(ENVELOPE[:length]) for length in range(len(ENVELOPE))}
    assert {refusal(ENVELOPE + bytes([value])) for value in range(256)} == {MalformedEnvelopeError}


def secrets() -> Iterator[str]:
    """Pieces of what an error must not show, as text of several kinds."""
    for secret in (A.sign_seed, A.seal_seed, B.sign_seed, B.seal_seed, PLAIN, SEALED[:60]):
        for start in range(0, len(secret) - 11, 12):
            part = secret[start : start + 12]
            yield from (part.hex(), base64.b64encode(part).decode(), repr(part)[2:-1])


@each(
    "content",
    [
        b"",
        ENVELOPE[:-1],
        ENVELOPE + b"\0",
        joined(HEADER, SIGNATURE, SEALED[:-1] + bytes([SEALED[-1] ^ 1])),
        joined(HEADER, bytes(64), SEALED),
        signed_by(A, headed(SEALED, sequence=8), SEALED),
        signed_by(A, headed(SEALED, run="other\n\x1b[2J"), SEALED),
        signed_by(A, PLAIN[:60], SEALED),
        LABEL + b"\x00\x3c" + PLAIN,
        *(seal(PLAIN, replace(CONTEXT, **{key: value}), 7, A, B.public) for key, value in OTHER.items()),
        seal(PLAIN, CONTEXT, 7, A, C.public),
    ],
)
def test_an_error_shows_no_key_no_plaintext_and_nothing_that_the_envelope_says(content: bytes) -> None:
    with pytest.raises(EnvelopeError) as caught:
        opened(content)
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in secrets() if secret in shown] and caught.value.sentence.isprintable()
    assert not [value for value in OTHER.values() if value in str(caught.value)] and caught.value.__cause__ is None


# The fuzz: each family yields mutations of genuine envelopes; those equal to a genuine one of this context are skipped.


def _bit_flips(rng: random.Random) -> Iterator[bytes]:
    """Every bit of label, header length, header and signature, and one of each sealed byte."""
    whole = START + len(HEADER) + 64
    for position in range(len(ENVELOPE)):
        for bit in range(8) if position < whole else (rng.randrange(8),):
            yield ENVELOPE[:position] + bytes([ENVELOPE[position] ^ 1 << bit]) + ENVELOPE[position + 1 :]


def _bytes(rng: random.Random) -> Iterator[bytes]:
    """One to eight bytes replaced, each anywhere."""
    for _ in range(3000):
        changed = bytearray(ENVELOPE)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        yield bytes(changed)


def _truncations(rng: random.Random) -> Iterator[bytes]:
    """Every beginning, and some ends and middles."""
    yield from (ENVELOPE[:length] for length in range(len(ENVELOPE)))
    for _ in range(500):
        start, end = sorted(rng.sample(range(1, len(ENVELOPE)), 2))
        yield ENVELOPE[start:]
        yield ENVELOPE[start:end]


def _insertions(rng: random.Random) -> Iterator[bytes]:
    for _ in range(2500):
        at = rng.choice([rng.randrange(len(ENVELOPE) + 1), rng.randrange(START + len(HEADER) + 65)])
        yield ENVELOPE[:at] + rng.randbytes(rng.choice([1, 1, 2, 16, 64])) + ENVELOPE[at:]


def _deletions(rng: random.Random) -> Iterator[bytes]:
    for _ in range(2500):
        at = rng.choice([rng.randrange(len(ENVELOPE)), rng.randrange(START + len(HEADER) + 65)])
        yield ENVELOPE[:at] + ENVELOPE[at + rng.choice([1, 1, 2, 16, 64]) :]


def _splices(rng: random.Random) -> Iterator[bytes]:
    """The beginning of one genuine envelope, the end of another: cut anywhere, and between the parts."""
    others = [seal(PLAIN, replace(CONTEXT, **{key: value}), 7, A, B.public) for key, value in OTHER.items()]
    others += [seal(PLAIN, CONTEXT, 8, A, B.public), seal(b"other" * 40, CONTEXT, 7, A, B.public)]
    others += [seal(PLAIN, CONTEXT, 7, A, C.public), seal(PLAIN, replace(CONTEXT, sender="site-c"), 7, C, B.public)]
    others += [seal(PLAIN, CONTEXT, 7, A, B.public), seal(PLAIN, CONTEXT, 7, M, B.public)]
    for other in others:
        parts = taken_apart(other)
        for choice in range(1, 7):  # all but all of the one, or all of the other
            mixed = [(HEADER, SIGNATURE, SEALED)[i] if choice >> i & 1 else parts[i] for i in range(3)]
            yield joined(*mixed)
        for cut in rng.sample(range(START + 10, min(len(ENVELOPE), len(other))), 250):
            # Cut where they are still alike, it is the other one, which may well be genuine too.
            yield from {ENVELOPE[:cut] + other[cut:], other[:cut] + ENVELOPE[cut:]} - {ENVELOPE, other}


def _header_fields(rng: random.Random) -> Iterator[bytes]:
    """Other values, types and spellings of each field, under the old signature and under a stranger's."""
    genuine = json.loads(HEADER)
    values = [None, True, False, 0, 1, -1, 7, 8, 7.0, 2**63, 2**64, 10**30, "", "7", "x", "site-a", "site-b", "\u202e"]
    values += [[], {}, [7], {"sequence": 7}, "0" * 64, "\ud800", "a" * 5000, float("nan"), float("inf")]
    texts = []
    for key in genuine:
        texts += [canonical(genuine | {key: value}) for value in values if value != genuine[key]]
        texts += [canonical({other: genuine[other] for other in genuine if other != key}), HEADER.upper()]
        texts += [canonical({(k.upper() if k == key else k): v for k, v in genuine.items()})]
        texts += [HEADER[:-1] + b"," + json.dumps({key: value}).encode()[1:] for value in ("x", 7, genuine[key])]
    for _ in range(400):
        shuffled = rng.sample(list(genuine.items()), len(genuine))
        texts.append(json.dumps(dict(shuffled), separators=(",", ":")).encode())
        texts.append(json.dumps(genuine, separators=rng.choice([(", ", ":"), (",", ": "), (" ,", ":")])).encode())
    for text in texts:
        if text != HEADER and len(text) < 65_536:
            yield joined(text, SIGNATURE, SEALED)
            yield signed_by(M, text, SEALED)


def _lengths(rng: random.Random) -> Iterator[bytes]:
    """Every length that the header could be said to have, near its own, and some beyond."""
    for length in {*range(0, 2500), *(rng.randrange(65_536) for _ in range(500))} - {len(HEADER)}:
        yield LABEL + length.to_bytes(2, "big") + ENVELOPE[START:]


def _noise(rng: random.Random) -> Iterator[bytes]:
    for _ in range(1000):
        yield rng.randbytes(rng.randrange(300))
        yield LABEL + rng.randbytes(rng.randrange(2000))
        yield joined(rng.randbytes(rng.randrange(300)), SIGNATURE, SEALED)


def _altered_and_mended(rng: random.Random) -> Iterator[bytes]:
    """The sealed bytes altered and the header's size and digest mended, under the old signature or a stranger's."""
    for _ in range(800):
        at = rng.randrange(len(SEALED))
        sealed = SEALED[:at] + rng.randbytes(rng.randrange(1, 4)) + SEALED[at + rng.randrange(3) :]
        if sealed != SEALED:
            yield joined(headed(sealed), SIGNATURE, sealed)
            yield signed_by(M, headed(sealed), sealed)


def _altered_by_whoever_stole_the_signing_key(rng: random.Random) -> Iterator[bytes]:
    """Even then the sealed bytes cannot be altered: AES-GCM and HPKE's schedule hold on their own."""
    for _ in range(800):
        at = rng.randrange(len(SEALED))
        sealed = SEALED[:at] + bytes([SEALED[at] ^ 1 << rng.randrange(8)]) + SEALED[at + 1 :]
        yield signed_by(A, headed(sealed), sealed)
        short = SEALED[: rng.randrange(1, len(SEALED))]
        yield signed_by(A, headed(short), short)


FAMILIES: list[Callable[[random.Random], Iterator[bytes]]] = [
    _bit_flips,
    _bytes,
    _truncations,
    _insertions,
    _deletions,
    _splices,
    _header_fields,
    _lengths,
    _noise,
    _altered_and_mended,
    _altered_by_whoever_stole_the_signing_key,
]


def test_no_mutation_of_an_envelope_is_accepted() -> None:
    """At least 20,000 of them, counted; each is refused, and with no other exception than an EnvelopeError."""
    assert refusal(ENVELOPE) is None
    outcomes: Counter[type[EnvelopeError] | None] = Counter()
    per_family: Counter[str] = Counter()
    seen = {ENVELOPE}
    for number, family in enumerate(FAMILIES):
        for mutated in family(random.Random(number)):
            if mutated not in seen:
                seen.add(mutated)
                outcomes[refusal(mutated)] += 1
                per_family[family.__name__] += 1
    assert outcomes.total() >= 20_000 and outcomes[None] == 0
    assert min(per_family[family.__name__] for family in FAMILIES) >= 900
    # The fuzz reaches every check, and not the first of them only.
    assert {error for error in outcomes if error} == {
        MalformedEnvelopeError,
        TruncatedEnvelopeError,
        AlteredEnvelopeError,
        ForgedEnvelopeError,
        WrongKeyError,
        *NAMED.values(),
    }


@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_are_refused(content: bytes, labelled: bool) -> None:
    found = refusal(LABEL + content if labelled else content)
    assert found is not None and issubclass(found, MalformedEnvelopeError)


@given(
    st.dictionaries(
        st.sampled_from([*asdict(CONTEXT), "sequence", "kept_days", "head", "size", "sha256", "more"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers()),
    )
)
def test_any_header_that_the_sender_signs_is_refused_or_genuine(changes: dict) -> None:
    """The sender itself is no exception: only the canonical header of the sealed bytes opens them."""
    fields_ = json.loads(HEADER) | changes
    if canonical(fields_) != HEADER:
        assert refusal(signed_by(A, canonical(fields_), SEALED)) is not None
