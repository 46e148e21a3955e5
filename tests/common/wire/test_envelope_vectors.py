"""Envelopes in files, each with the outcome that it must have (made by ``tests/vectors/make_envelopes.py``)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from each_case import each
from vectors import make_envelopes

from fedsteph.common import errors
from fedsteph.common.errors import EnvelopeError
from fedsteph.common.trust.keys import Identity, PublicKeys
from fedsteph.common.wire.envelope import Context, open_sealed

FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "envelopes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
ERRORS = {
    "WrongKeyError",
    "WrongRunError",
    "WrongRecipientError",
    "WrongModelError",
    "SwappedEnvelopeError",
    "ForgedEnvelopeError",
    "AlteredEnvelopeError",
    "TruncatedEnvelopeError",
    "MalformedEnvelopeError",
}


def committed(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def check(vector: dict[str, Any]) -> None:
    recipient = Identity(b"", bytes.fromhex(vector["recipient_secret_seed_hex"]))
    sender = PublicKeys(bytes.fromhex(vector["sender_verify_key_hex"]), b"")
    envelope, expected = bytes.fromhex(vector["envelope_hex"]), Context(**vector["expected_context"])
    if vector["outcome"] == "accepted":
        opened = open_sealed(envelope, expected, recipient, sender)
        assert hashlib.sha256(opened.plain).hexdigest() == vector["plain_sha256"]
        assert (opened.sequence, opened.kept_days) == (vector["sequence"], vector["kept_days"])
        return
    with pytest.raises(EnvelopeError) as caught:
        open_sealed(envelope, expected, recipient, sender)
    assert type(caught.value).__name__ == vector["outcome"] and caught.value.where == f"envelope of {expected.sender}"


@each("name", NAMES)
def test_the_outcome_that_the_file_states(name: str) -> None:
    check(committed(name))


@each("name", sorted(make_envelopes.CASES))
def test_freshly_made_envelopes_have_the_same_outcomes(name: str) -> None:
    """The script and its files belong together: it makes exactly these, and states the same of each."""
    made, kept = make_envelopes.vector(name), committed(name)
    check(made)
    volatile = {"envelope_hex"}
    assert {k: v for k, v in made.items() if k not in volatile} == {k: v for k, v in kept.items() if k not in volatile}
    assert len(made["envelope_hex"]) == len(kept["envelope_hex"])


def test_no_file_is_missing_and_every_outcome_has_one() -> None:
    assert set(NAMES) == set(make_envelopes.CASES)
    assert {committed(name)["outcome"] for name in NAMES} == ERRORS | {"accepted"}
    assert all(issubclass(getattr(errors, name), EnvelopeError) for name in ERRORS)


def test_the_script_writes_the_files(tmp_path: Path) -> None:
    make_envelopes.write(tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == NAMES
    check(json.loads((tmp_path / "accepted.json").read_text(encoding="utf-8")))


def test_every_file_says_that_its_keys_are_for_tests() -> None:
    assert all(committed(name)["keys"].startswith("TEST ONLY") for name in NAMES)
