"""The envelope opens under exactly its own context, untouched, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import envelope
from common.envelope import EnvelopeContext, open_sealed, seal
from common.errors import EnvelopeError

CONTEXT = EnvelopeContext("lung", "run-1", "b", "a", "0" * 64, "1" * 64)
FIELDS = [field.name for field in dataclasses.fields(EnvelopeContext)]
SEALED = seal(b"vector", CONTEXT)
LABEL = b"fedsteph/v1/envelope\n"


def forged(bound: bytes, plain: bytes = b"vector") -> bytes:
    """What an attacker who knows the format can make: any context, and a digest that fits it."""
    digest = hashlib.sha256(len(bound).to_bytes(8, "big") + bound + plain).digest()
    return LABEL + len(bound).to_bytes(4, "big") + bound + digest + plain


@given(st.binary(max_size=200))
def test_round_trip(plain: bytes) -> None:
    assert open_sealed(seal(plain, CONTEXT), CONTEXT) == plain


def test_the_documented_layout() -> None:
    bound = json.dumps(dataclasses.asdict(CONTEXT), sort_keys=True, separators=(",", ":")).encode()
    assert forged(bound) == SEALED


@pytest.mark.parametrize("field", FIELDS)
def test_another_context_is_named(field: str) -> None:
    other = dataclasses.replace(CONTEXT, **{field: "mallory"})
    with pytest.raises(EnvelopeError) as caught:
        open_sealed(SEALED, other)
    assert str(caught.value) == f"envelope from {other.sender}: was made for another {field}"


def test_an_envelope_for_somebody_else_cannot_be_relabelled() -> None:
    """The context inside is replaced by the right one, but the digest is the old context's."""
    theirs = dataclasses.replace(CONTEXT, recipient="c")
    swapped = seal(b"vector", theirs).replace(theirs.encode(), CONTEXT.encode())
    with pytest.raises(EnvelopeError, match="was altered on its way"):
        open_sealed(swapped, CONTEXT)


@pytest.mark.parametrize("plain", [b"Vector", b"vecto", b"vector\0", b"", b"other contents"])
def test_an_altered_payload_is_refused(plain: bytes) -> None:
    with pytest.raises(EnvelopeError, match="was altered on its way"):
        open_sealed(SEALED[: -len(b"vector")] + plain, CONTEXT)


def test_every_truncation_is_refused() -> None:
    for length in range(len(SEALED)):
        with pytest.raises(EnvelopeError, match="envelope from b: "):
            open_sealed(SEALED[:length], CONTEXT)


def test_every_single_byte_change_is_refused() -> None:
    """Every position, every value."""
    for position, original in enumerate(SEALED):
        altered = bytearray(SEALED)
        for value in set(range(256)) - {original}:
            altered[position] = value
            with pytest.raises(EnvelopeError):
                open_sealed(bytes(altered), CONTEXT)


@pytest.mark.parametrize(
    "bound",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"not json",
        b"\xff\xfe",
        b'{"federation":',
        b"[" * 4096,
        b"9" * 4096,
        CONTEXT.encode() + b" ",
        json.dumps(dataclasses.asdict(CONTEXT) | {"note": "P001"}).encode(),
    ],
)
def test_a_forged_context_is_refused_and_not_repeated(bound: bytes) -> None:
    with pytest.raises(EnvelopeError, match="was made for another") as caught:
        open_sealed(forged(bound), CONTEXT)
    named = str(caught.value).removeprefix("envelope from b: was made for another ")
    assert set(named.split(" and ")) <= {*FIELDS, "context"}


@pytest.mark.parametrize("size", [4097, 2**32 - 1])
def test_a_huge_context_is_not_even_compared(size: int) -> None:
    with pytest.raises(EnvelopeError, match="is malformed"):
        open_sealed(LABEL + size.to_bytes(4, "big") + b"x" * 5000, CONTEXT)


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(content: bytes, labelled: bool) -> None:
    with pytest.raises(EnvelopeError):
        open_sealed(LABEL + content if labelled else content, CONTEXT)


def test_this_version_says_that_it_does_not_hide_the_bytes() -> None:
    assert envelope.SEALED is False
    assert b"vector" in SEALED
    assert "It does not hide the bytes and proves no sender" in " ".join(str(envelope.__doc__).split())
