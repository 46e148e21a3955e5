"""A file that a passphrase opens: Scrypt makes the key of it, AES-256-GCM seals the content.

Three parts: a line with the version, a line of JSON with the cost, the salt and the nonce, and the sealed content. Both
lines are authenticated with the content, so that nothing in the file can be changed unnoticed.
"""

from __future__ import annotations

import json
import os
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedsteph.common.config.schema import build
from fedsteph.common.errors import BackupError, ConfigError

SHORTEST_PASSPHRASE = 12  # characters
_KIND = b"fedsteph/backup/"
_VERSION = _KIND + b"v1\n"
_LONGEST_LINE = 512
_COST = 2**17  # Scrypt's N, with r 8 and p 1: 128 MiB and half a second per guess
_COSTS = tuple(2**power for power in range(14, 19))  # that are read: nobody can ask for more than 256 MiB
_MOST_BYTES = 2**30  # of the content, which is in memory


@dataclass(frozen=True)
class _Header:
    """Scrypt's cost; salt and nonce in hexadecimal digits."""

    cost: int
    salt: str
    nonce: str

    def __post_init__(self) -> None:
        if self.cost not in _COSTS:
            raise ValueError(f"cost must be one of {_COSTS}")
        if (len(bytes.fromhex(self.salt)), len(bytes.fromhex(self.nonce))) != (16, 12):
            raise ValueError("salt must be of 16 bytes, nonce of 12")

    def cipher(self, passphrase: str) -> AESGCM:
        scrypt = Scrypt(salt=bytes.fromhex(self.salt), length=32, n=self.cost, r=8, p=1)
        # Two keyboards may write one letter in two ways.
        return AESGCM(scrypt.derive(unicodedata.normalize("NFC", passphrase).encode()))


def require_passphrase(passphrase: str) -> None:
    """Raise BackupError for a passphrase that is too short: whoever has the file can guess as often as they like."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        what = f"a passphrase of {len(passphrase)} characters is too short"
        raise BackupError(what, remedy=f"Take at least {SHORTEST_PASSPHRASE}, such as five words drawn by chance")


def seal_by_passphrase(content: bytes, passphrase: str, cost: int = _COST) -> bytes:
    """The bytes of a sealed file. Raises BackupError for a short passphrase, or more than 1 GiB."""
    require_passphrase(passphrase)
    if len(content) > _MOST_BYTES:
        raise BackupError(f"{len(content):,} bytes are too many: {_MOST_BYTES:,} at most")
    header = _Header(cost, os.urandom(16).hex(), os.urandom(12).hex())
    lines = _VERSION + json.dumps(asdict(header)).encode() + b"\n"
    return lines + header.cipher(passphrase).encrypt(bytes.fromhex(header.nonce), content, lines)


def open_by_passphrase(sealed: bytes, passphrase: str, where: Path) -> bytes:
    """The content of a sealed file.

    Raises:
        BackupError: it is no such file, of another version, damaged, or sealed with another passphrase; the last two
            cannot be told apart.
    """
    first, _, rest = sealed[: 2 * _LONGEST_LINE].partition(b"\n")
    second = rest.partition(b"\n")[0]
    if first + b"\n" != _VERSION:
        is_ours = first.startswith(_KIND)
        what = "is a backup of another version of fedsteph" if is_ours else "is no backup of fedsteph"
        raise BackupError(what, where=where, remedy="Use the version that made it" if is_ours else "Give another file")
    lines = sealed[: len(first) + len(second) + 2]
    try:
        header = build(_Header, json.loads(second), where)
    except (ValueError, RecursionError, ConfigError) as error:
        raise BackupError("is damaged: its second line cannot be read", where=where) from error
    try:
        return header.cipher(passphrase).decrypt(bytes.fromhex(header.nonce), sealed[len(lines) :], lines)
    except (InvalidTag, ValueError) as error:
        what = "cannot be opened: the passphrase is another one, or the file is damaged (nobody can tell which)"
        raise BackupError(
            what, where=where, remedy="Try the passphrase again, then another copy of the file"
        ) from error
