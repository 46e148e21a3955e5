"""HPKE, written out once more from RFC 9180: it reproduces the published vectors, and opens what our envelope seals.

The hybrid KEM MLKEM768-X25519 (0x647a, draft-ietf-hpke-pq) has the shared secret of X-Wing: SHA3-256 over the secret
of ML-KEM, the secret of X25519, X25519's encapsulated and public key, and the six bytes ``\\.//^\\`` as the label.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from each_case import each
from vectors import make_envelopes

from fedsteph.common.trust.keys import Identity
from fedsteph.common.wire.envelope import Context, seal

DHKEM_X25519, MLKEM768_X25519 = 0x0020, 0x647A
HKDF_SHA256 = 0x0001
AEADS = {1: (AESGCM, 16, AEAD.AES_128_GCM), 2: (AESGCM, 32, AEAD.AES_256_GCM)}
AEADS[3] = (ChaCha20Poly1305, 32, AEAD.CHACHA20_POLY1305)
KEMS = {DHKEM_X25519: KEM.X25519, MLKEM768_X25519: KEM.MLKEM768_X25519}
X_WING_LABEL = bytes.fromhex("5c2e2f2f5e5c")

_FILE = Path(__file__).resolve().parents[2] / "vectors" / "rfc9180.json"
VECTORS = [
    {key: bytes.fromhex(value) if isinstance(value, str) and key not in ("name", "source") else value
     for key, value in vector.items()}
    for vector in json.loads(_FILE.read_text(encoding="utf-8"))["vectors"]
]  # fmt: skip
BY_NAME = pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])


def labeled_extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    """RFC 9180, section 4; HKDF-Extract of RFC 5869."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")


def labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """RFC 9180, section 4; HKDF-Expand of RFC 5869 up to one block, which is all that is needed here."""
    assert length <= 32
    bound = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, bound + b"\x01", "sha256")[:length]


def key_schedule(kem: int, aead: int, shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180, section 5.1, base mode, without a pre-shared key: key and nonce of the first message."""
    suite = b"HPKE" + kem.to_bytes(2, "big") + HKDF_SHA256.to_bytes(2, "big") + aead.to_bytes(2, "big")
    context = (
        b"\x00" + labeled_extract(suite, b"", b"psk_id_hash", b"") + labeled_extract(suite, b"", b"info_hash", info)
    )
    secret = labeled_extract(suite, shared, b"secret", b"")
    return (
        labeled_expand(suite, secret, b"key", context, AEADS[aead][1]),
        labeled_expand(suite, secret, b"base_nonce", context, 12),
    )


def dhkem(enc: bytes, secret: X25519PrivateKey) -> bytes:
    """RFC 9180, section 4.1."""
    suite = b"KEM" + DHKEM_X25519.to_bytes(2, "big")
    prk = labeled_extract(suite, b"", b"eae_prk", secret.exchange(X25519PublicKey.from_public_bytes(enc)))
    return labeled_expand(suite, prk, b"shared_secret", enc + secret.public_key().public_bytes_raw(), 32)


def hybrid(enc: bytes, secret: bytes) -> bytes:
    """X-Wing's combiner; ``secret`` is ML-KEM's seed of 64 bytes and X25519's key of 32."""
    traditional = X25519PrivateKey.from_private_bytes(secret[64:])
    public = traditional.public_key().public_bytes_raw()
    post_quantum = MLKEM768PrivateKey.from_seed_bytes(secret[:64]).decapsulate(enc[:1088])
    exchanged = traditional.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
    return hashlib.sha3_256(post_quantum + exchanged + enc[1088:] + public + X_WING_LABEL).digest()


def oracle_open(sealed: bytes, secret: bytes, info: bytes) -> bytes:
    """Open with our suite: MLKEM768-X25519, HKDF-SHA256, AES-256-GCM."""
    key, nonce = key_schedule(MLKEM768_X25519, 2, hybrid(sealed[:1120], secret), info)
    return AESGCM(key).decrypt(nonce, sealed[1120:], b"")


def vector_secret(vector: dict) -> bytes:
    """The recipient's secret; the draft gives the hybrid's as one seed of 32 bytes, to be stretched by SHAKE256."""
    if vector["kem_id"] == DHKEM_X25519:
        return vector["skRm"]
    return hashlib.shake_256(vector["skRm"]).digest(96)


def library_key(vector: dict) -> X25519PrivateKey | MLKEM768X25519PrivateKey:
    secret = vector_secret(vector)
    traditional = X25519PrivateKey.from_private_bytes(secret[-32:])
    if vector["kem_id"] == DHKEM_X25519:
        return traditional
    return MLKEM768X25519PrivateKey(MLKEM768PrivateKey.from_seed_bytes(secret[:64]), traditional)


@BY_NAME
def test_the_oracle_reproduces_the_published_values(vector: dict) -> None:
    """Each step, so that the oracle is right for the right reason."""
    secret, enc = vector_secret(vector), vector["enc"]
    if vector["kem_id"] == DHKEM_X25519:
        shared = dhkem(enc, X25519PrivateKey.from_private_bytes(secret))
    else:
        shared = hybrid(enc, secret)
    key, nonce = key_schedule(vector["kem_id"], vector["aead_id"], shared, vector["info"])
    assert (shared, key, nonce) == (vector["shared_secret"], vector["key"], vector["base_nonce"])
    cipher = AEADS[vector["aead_id"]][0](key)
    assert cipher.decrypt(nonce, vector["ct"], vector["aad"]) == vector["pt"]


@BY_NAME
def test_the_library_opens_the_published_ciphertexts(vector: dict) -> None:
    """Through its own tests' entry, as the public one takes no associated data."""
    suite = Suite(KEMS[vector["kem_id"]], KDF.HKDF_SHA256, AEADS[vector["aead_id"]][2])
    sealed, key = vector["enc"] + vector["ct"], library_key(vector)
    assert openssl.hpke._decrypt_with_aad(suite, sealed, key, info=vector["info"], aad=vector["aad"]) == vector["pt"]
    for other in ({"info": b"other", "aad": vector["aad"]}, {"info": vector["info"], "aad": b"Count-1"}):
        with pytest.raises(InvalidTag):
            openssl.hpke._decrypt_with_aad(suite, sealed, key, **other)


@BY_NAME
def test_the_published_public_keys(vector: dict) -> None:
    secret = vector_secret(vector)
    public = X25519PrivateKey.from_private_bytes(secret[-32:]).public_key().public_bytes_raw()
    if vector["kem_id"] == MLKEM768_X25519:
        identity = Identity(bytes(32), secret)
        assert identity.public.seal == vector["pkRm"]
        public = MLKEM768PrivateKey.from_seed_bytes(secret[:64]).public_key().public_bytes_raw() + public
    assert public == vector["pkRm"]


def test_the_vectors_are_all_there() -> None:
    found = [(vector["mode"], vector["kem_id"], vector["kdf_id"], vector["aead_id"]) for vector in VECTORS]
    assert found == [
        (0, DHKEM_X25519, 1, 1),
        (0, DHKEM_X25519, 1, 2),
        (0, DHKEM_X25519, 1, 3),
        (0, MLKEM768_X25519, 1, 3),
    ]


def envelope_info(context: Context, sequence: int, kept_days: int = 0) -> bytes:
    """HPKE's ``info`` of an envelope, as its documentation has it."""
    fields = json.dumps(
        asdict(context) | {"sequence": sequence, "kept_days": kept_days, "head": False},
        sort_keys=True,
        separators=(",", ":"),
    )
    return b"fedsteph/v3/envelope-info\n" + fields.encode()


@each("plain", [b"", b"x", bytes(range(256)) * 5])
def test_the_oracle_opens_what_the_envelope_sealed(plain: bytes) -> None:
    sender, recipient, context = Identity.generate(), Identity.generate(), make_envelopes.CONTEXT
    _, _, sealed = make_envelopes.taken_apart(seal(plain, context, 3, sender, recipient.public))
    assert len(sealed) == 1120 + len(plain) + 16
    assert oracle_open(sealed, recipient.seal_seed, envelope_info(context, 3)) == plain
    with pytest.raises(InvalidTag):
        oracle_open(sealed, recipient.seal_seed, envelope_info(context, 4))
    with pytest.raises(InvalidTag):
        oracle_open(sealed, sender.seal_seed, envelope_info(context, 3))


def test_the_oracle_opens_the_committed_envelope() -> None:
    vector = json.loads((make_envelopes.FOLDER / "accepted.json").read_text(encoding="utf-8"))
    _, _, sealed = make_envelopes.taken_apart(bytes.fromhex(vector["envelope_hex"]))
    info = envelope_info(Context(**vector["expected_context"]), vector["sequence"], vector["kept_days"])
    plain = oracle_open(sealed, bytes.fromhex(vector["recipient_secret_seed_hex"]), info)
    assert hashlib.sha256(plain).hexdigest() == vector["plain_sha256"]


@each("half", ["post-quantum", "traditional"])
def test_both_halves_of_the_recipients_key_are_needed(half: str) -> None:
    """An attacker who has broken one of the two schemes, and so holds one half, does not open."""
    sender, recipient, stranger = Identity.generate(), Identity.generate(), Identity.generate()
    _, _, sealed = make_envelopes.taken_apart(seal(b"vector", make_envelopes.CONTEXT, 1, sender, recipient.public))
    known = {
        "post-quantum": recipient.seal_seed[:64] + stranger.seal_seed[64:],
        "traditional": stranger.seal_seed[:64] + recipient.seal_seed[64:],
    }[half]
    with pytest.raises(InvalidTag):
        oracle_open(sealed, known, envelope_info(make_envelopes.CONTEXT, 1))
