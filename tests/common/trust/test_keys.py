"""Keys as text: one canonical form each, no key taken for another, and no secret in anything that is shown."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle
import traceback
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from each_case import each
from hypothesis import given
from hypothesis import strategies as st

from fedsteph.common.errors import KeyFormatError
from fedsteph.common.trust.keys import (
    SEAL_PUBLIC,
    SEAL_SECRET,
    SIGN_PUBLIC,
    SIGN_SECRET,
    Identity,
    PublicKeys,
    decode,
    encode,
)

IDENTITY = Identity.generate()
OTHER = Identity.generate()
PUBLIC = IDENTITY.public
RAW = {
    SIGN_PUBLIC: PUBLIC.sign,
    SEAL_PUBLIC: PUBLIC.seal,
    SIGN_SECRET: IDENTITY.sign_seed,
    SEAL_SECRET: IDENTITY.seal_seed,
}
TEXT = {kind: encode(kind, raw) for kind, raw in RAW.items()}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def traces(secret: bytes) -> list[str]:
    """Ways in which (a part of) a secret could be written."""
    found = []
    for start in range(0, len(secret) - 11, 12):
        part = secret[start : start + 12]
        found += [
            part.hex(),
            base64.b64encode(part).decode(),
            base64.urlsafe_b64encode(part).decode(),
            repr(part)[2:-1],
        ]
    return found


def assert_no_secret(shown: str) -> None:
    for secret in (IDENTITY.sign_seed, IDENTITY.seal_seed):
        assert not [trace for trace in traces(secret) if trace in shown]


def test_the_search_for_secrets_finds_them() -> None:
    """Otherwise :func:`assert_no_secret` could not fail."""
    for shown in (TEXT[SIGN_SECRET], TEXT[SEAL_SECRET], IDENTITY.seal_seed.hex(), repr(IDENTITY.sign_seed)):
        with pytest.raises(AssertionError):
            assert_no_secret(shown)


def test_public_halves_are_those_that_the_library_derives_from_the_seeds() -> None:
    assert PUBLIC.sign == Ed25519PrivateKey.from_private_bytes(IDENTITY.sign_seed).public_key().public_bytes_raw()
    kem = MLKEM768PrivateKey.from_seed_bytes(IDENTITY.seal_seed[:64]).public_key().public_bytes_raw()
    dh = X25519PrivateKey.from_private_bytes(IDENTITY.seal_seed[64:]).public_key().public_bytes_raw()
    assert PUBLIC.seal == kem + dh and (len(kem), len(dh)) == (1184, 32)


def test_the_published_signing_key_of_rfc_8032() -> None:
    """RFC 8032, section 7.1, TEST 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    identity = replace(IDENTITY, sign_seed=seed)
    assert identity.public.sign.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert identity.signer.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


def test_fresh_keys_share_nothing() -> None:
    halves = [IDENTITY.sign_seed, IDENTITY.seal_seed[:32], IDENTITY.seal_seed[32:64], IDENTITY.seal_seed[64:]]
    others = [OTHER.sign_seed, OTHER.seal_seed[:32], OTHER.seal_seed[32:64], OTHER.seal_seed[64:]]
    assert len({*halves, *others}) == 8 and all(any(half) for half in halves)


@each("kind", RAW)
def test_round_trip_as_text(kind: str) -> None:
    assert TEXT[kind] == f"{kind}:{base64.urlsafe_b64encode(RAW[kind]).decode().rstrip('=')}"
    assert decode(TEXT[kind], kind, "here") == RAW[kind]


def test_public_keys_round_trip() -> None:
    assert PublicKeys.parse(PUBLIC.sign_text, PUBLIC.seal_text, "here") == PUBLIC


@each("expected", RAW)
@each("given_kind", RAW)
def test_a_key_of_another_type_is_refused_by_name(given_kind: str, expected: str) -> None:
    if given_kind == expected:
        assert decode(TEXT[given_kind], expected, "here") == RAW[expected]
        return
    with pytest.raises(KeyFormatError) as caught:
        decode(TEXT[given_kind], expected, "here")
    assert str(caught.value) == f"here: must be a {expected}, and is {given_kind}"


@each("given_kind", [SIGN_SECRET, SEAL_SECRET])
@each("expected", [SIGN_PUBLIC, SEAL_PUBLIC])
def test_a_secret_renamed_to_a_public_half_is_refused_or_another_key(given_kind: str, expected: str) -> None:
    """The lengths differ but for an Ed25519 seed, whose bytes then are another public key than the site's."""
    text = TEXT[given_kind].replace(given_kind, expected)
    if (given_kind, expected) == (SIGN_SECRET, SIGN_PUBLIC):
        assert decode(text, expected, "here") != PUBLIC.sign
    else:
        with pytest.raises(KeyFormatError, match=f"where {len(RAW[expected])} are expected"):
            decode(text, expected, "here")


@each(
    "prefix", ["", "ssh-ed25519", SIGN_SECRET.upper(), SIGN_SECRET + " ", " " + SIGN_SECRET, "fedsteph-sign-secret-v2"]
)
def test_an_unknown_prefix_is_refused_without_repeating_it(prefix: str) -> None:
    body = TEXT[SIGN_SECRET].partition(":")[2]
    for text in (f"{prefix}:{body}", f"{prefix}{body}", body, prefix, ""):
        with pytest.raises(KeyFormatError, match="and is no key that fedsteph knows") as caught:
            decode(text, SIGN_SECRET, "here")
        assert_no_secret(str(caught.value))


def damaged(text: str) -> dict[str, str]:
    """A key's text after what copying, mailing and typing do to it."""
    kind, _, body = text.partition(":")
    last = ALPHABET.index(body[-1])
    spare = {2: 16, 3: 4, 0: 1}[len(body) % 4]  # values of the last digit that decode to the same bytes
    changes = {
        "cut": body[:-1],
        "half": body[: len(body) // 2],
        "empty": "",
        "doubled": body + body,
        "longer by a digit": body + "A",
        "longer by a byte": base64.urlsafe_b64encode(RAW[kind] + b"\0").decode().rstrip("="),
        "shorter by a byte": base64.urlsafe_b64encode(RAW[kind][:-1]).decode().rstrip("="),
        "padded": body + "=" * (-len(body) % 4 or 4),
        "spaced": body[:9] + " " + body[9:],
        "wrapped": body[:9] + "\n" + body[9:],
        "trailing newline": body + "\n",
        "quoted": f'"{body}"',
        "punctuated": body[:9] + "." + body[10:],
        "not ASCII": body[:9] + "é" + body[10:],
        "full-width": body[:9] + chr(0xFF21) + body[10:],
        "hexadecimal": RAW[kind].hex(),
        "of the standard alphabet": base64.b64encode(b"\xfb\xef" + RAW[kind][2:]).decode().rstrip("="),
    }
    if spare > 1:
        changes["with trailing bits"] = body[:-1] + ALPHABET[last - last % spare + (last + 1) % spare]
    return {name: f"{kind}:{changed}" for name, changed in changes.items()}


@each("kind", RAW)
@each("damage", damaged(TEXT[SIGN_SECRET]))
def test_a_damaged_key_is_refused_and_not_repeated(kind: str, damage: str) -> None:
    text = damaged(TEXT[kind]).get(damage, TEXT[kind] + "=")
    with pytest.raises(KeyFormatError, match=r"^here: is damaged") as caught:
        decode(text, kind, "here")
    assert caught.value.remedy == "Copy the whole line again"
    assert_no_secret("".join(traceback.format_exception(caught.value)))


def test_trailing_bits_are_a_second_spelling_that_is_refused() -> None:
    """32 bytes are 43 digits with two spare bits: both spellings decode to the same bytes, one is the key's."""
    twin = damaged(TEXT[SIGN_SECRET])["with trailing bits"]
    assert twin != TEXT[SIGN_SECRET] and base64.urlsafe_b64decode(twin.partition(":")[2] + "=") == IDENTITY.sign_seed
    with pytest.raises(KeyFormatError, match="is damaged"):
        decode(twin, SIGN_SECRET, "here")


@each("kind", RAW)
def test_any_other_length_is_refused(kind: str) -> None:
    size = len(RAW[kind])
    for length in {*range(100), size - 32, size - 1, size + 1, size + 32, 2 * size} - {size}:
        with pytest.raises(KeyFormatError, match=f"is damaged: {length} bytes, where {size} are expected"):
            decode(encode(kind, bytes(length)), kind, "here")


@given(st.text(max_size=60), st.sampled_from(sorted(RAW)), st.booleans())
def test_random_text_is_no_key(text: str, kind: str, prefixed: bool) -> None:
    with pytest.raises(KeyFormatError):
        decode(f"{kind}:{text}" if prefixed else text, kind, "here")


def test_bytes_that_are_no_public_key_are_refused() -> None:
    """FIPS 203, section 7.2: coefficients of q and above are no encapsulation key."""
    seal = encode(SEAL_PUBLIC, b"\xff" * 1184 + PUBLIC.seal[1184:])
    with pytest.raises(KeyFormatError, match=r"^here: holds bytes that are no public key$"):
        PublicKeys.parse(PUBLIC.sign_text, seal, "here")


P = 2**255 - 19
LOW_ORDER = {
    "0": 0,
    "1": 1,
    "p - 1": P - 1,
    "p": P,
    "p + 1": P + 1,
    "of order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "of order 8, the other": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
}


@each("top_bit", [0, 2**255])
@each("point", LOW_ORDER)
def test_a_point_of_low_order_is_no_public_key(point: str, top_bit: int) -> None:
    """RFC 7748, section 6.1: with it, the X25519 half of every secret is zero. The top bit does not count."""
    half = (LOW_ORDER[point] + top_bit).to_bytes(32, "little")
    with pytest.raises(KeyFormatError, match=r"^here: holds bytes that are no public key$"):
        PublicKeys.parse(PUBLIC.sign_text, encode(SEAL_PUBLIC, PUBLIC.seal[:1184] + half), "here")


def test_parse_says_which_half_is_wrong() -> None:
    with pytest.raises(KeyFormatError, match=f"^here, sign: must be a {SIGN_PUBLIC}, and is {SEAL_PUBLIC}$"):
        PublicKeys.parse(PUBLIC.seal_text, PUBLIC.seal_text, "here")
    with pytest.raises(KeyFormatError, match=f"^here, seal: must be a {SEAL_PUBLIC}, and is {SIGN_PUBLIC}$"):
        PublicKeys.parse(PUBLIC.sign_text, PUBLIC.sign_text, "here")


def test_the_fingerprint_is_of_both_halves() -> None:
    expected = hashlib.sha256(b"fedsteph/v1/fingerprint\n" + PUBLIC.sign + PUBLIC.seal).hexdigest()
    assert PUBLIC.fingerprint == expected
    swapped = [replace(PUBLIC, sign=OTHER.public.sign), replace(PUBLIC, seal=OTHER.public.seal), OTHER.public]
    assert len({PUBLIC.fingerprint, *(keys.fingerprint for keys in swapped)}) == 4


@each("half", ["sign", "seal"])
def test_every_bit_of_a_half_changes_the_fingerprint(half: str) -> None:
    raw = getattr(PUBLIC, half)
    prints = {PUBLIC.fingerprint}
    for position in range(len(raw)):
        flipped = raw[:position] + bytes([raw[position] ^ 1 << position % 8]) + raw[position + 1 :]
        prints.add(replace(PUBLIC, **{half: flipped}).fingerprint)
    assert len(prints) == len(raw) + 1


def test_no_secret_shows() -> None:
    """Not even after the keys were used, which caches the library's objects in the identity."""
    _ = IDENTITY.signer, IDENTITY.opener, IDENTITY.public
    for shown in (repr(IDENTITY), str(IDENTITY), f"{IDENTITY}", repr([IDENTITY]), repr(PUBLIC), PUBLIC.fingerprint):
        assert_no_secret(shown)
    assert_no_secret(PUBLIC.sign_text + PUBLIC.seal_text)


def test_identities_are_equal_by_their_secrets_only() -> None:
    twin = Identity(IDENTITY.sign_seed, IDENTITY.seal_seed)
    assert twin == IDENTITY == copy.copy(twin) == pickle.loads(pickle.dumps(twin))
    assert twin.public.fingerprint == PUBLIC.fingerprint and IDENTITY != OTHER


@each("kind", [SIGN_SECRET, SEAL_SECRET])
@each("expected", [SIGN_PUBLIC, SEAL_PUBLIC])
def test_a_secret_in_the_place_of_a_public_half_is_refused_unseen(kind: str, expected: str) -> None:
    halves = {SIGN_PUBLIC: PUBLIC.sign_text, SEAL_PUBLIC: PUBLIC.seal_text, expected: TEXT[kind]}
    with pytest.raises(KeyFormatError, match=f"and is {kind}") as caught:
        PublicKeys.parse(halves[SIGN_PUBLIC], halves[SEAL_PUBLIC], "here")
    assert_no_secret("".join(traceback.format_exception(caught.value)))
