"""The coordinator's key for rosters (Ed25519): its secret half signs additions, its public half is pinned by sites."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsteph.common.errors import KeyFileError
from fedsteph.common.host.disk import writing
from fedsteph.common.trust.key_file import read_secret, write_secret
from fedsteph.common.trust.keys import ROSTER_PUBLIC, ROSTER_SECRET, encode


def make_roster_key(path: Path) -> str:
    """Write a new secret roster key with mode 0600; returns the public half as text.

    Raises KeyFileError if the file exists: keys are never overwritten.
    """
    if os.path.lexists(path):
        raise KeyFileError("exists already", where=path, remedy="Choose another file; keys are never overwritten")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    public, made = public_text(key), f"{datetime.now(UTC):%Y-%m-%d}"
    header = f"# fedsteph SECRET key to sign rosters. It stays with the coordinator.\n# made {made}; public: {public}\n"
    write_secret(path, f"{header}{encode(ROSTER_SECRET, key.private_bytes_raw())}\n".encode("ascii"))
    return public


def read_roster_key(path: Path) -> Ed25519PrivateKey:
    """Read a secret roster key; errors as :func:`fedsteph.common.trust.key_file.read_identity`."""
    return Ed25519PrivateKey.from_private_bytes(read_secret(path, ROSTER_SECRET))


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half as text, for ``federation.roster_key`` of a site file."""
    return encode(ROSTER_PUBLIC, key.public_key().public_bytes_raw())
