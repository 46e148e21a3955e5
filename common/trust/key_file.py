"""Writes and reads a site's secret key files: one per purpose, with mode 0600 and a comment header."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from fedsteph.common.errors import KeyFileError, StorageError
from fedsteph.common.host.disk import writing
from fedsteph.common.trust.keys import SEAL_SECRET, SIGN_SECRET, Identity, decode, encode

_PURPOSES = {SIGN_SECRET: "sign as", SEAL_SECRET: "open what is sealed to"}


def write_identity(folder: Path, name: str, identity: Identity) -> tuple[Path, Path]:
    """Write ``NAME.sign.key`` and ``NAME.seal.key`` with mode 0600; an existing file is never replaced.

    Returns the paths of both files. Raises KeyFileError if one of them exists already; StorageError if they cannot be
    written (neither is there then).
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = folder / f"{name}.sign.key", folder / f"{name}.seal.key"
    for path in paths:
        if os.path.lexists(path):
            raise KeyFileError("exists already", where=path, remedy="Choose another --out; keys are never overwritten")
    for path, kind, seed in zip(paths, _PURPOSES, (identity.sign_seed, identity.seal_seed), strict=True):
        try:
            write_secret(path, f"{_header(kind, name, identity)}{encode(kind, seed)}\n".encode("ascii"))
        except StorageError:
            paths[0].unlink(missing_ok=True)  # one of the two would be of no use, and stand in the way
            raise
    return paths


def read_identity(sign: Path, seal: Path) -> Identity:
    """Read both secret keys.

    Raises KeyFileError if a file is missing, not a regular file, or accessible to other users of the machine;
    KeyFormatError if the content is not a key for this purpose.
    """
    return Identity(read_secret(sign, SIGN_SECRET), read_secret(seal, SEAL_SECRET))


def require_private(path: Path) -> None:
    """Raise KeyFileError if a secret file is another user's, open to others, missing, or not a regular file.

    Windows has neither modes nor owners of this kind: there, who can reach the file is up to its folder.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise KeyFileError(
            f"cannot be read ({error.strerror})", where=path, remedy="See 'fedsteph keys new'"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError("is not a file", where=path, remedy="Give the path of the key's file")
    if not hasattr(os, "geteuid"):
        return
    if status.st_mode & 0o077:
        what = f"can be reached by other users (mode {stat.S_IMODE(status.st_mode):04o})"
        remedy = f"If nobody else has read it: chmod 600 {path}. If somebody may have: rotate the keys"
        raise KeyFileError(what, where=path, remedy=remedy)
    if os.geteuid() not in (0, status.st_uid):
        raise KeyFileError("belongs to another user", where=path, remedy="Run as the user who owns the key")


def read_secret(path: Path, kind: str) -> bytes:
    """Read the one key of type ``kind`` in a secret file; errors as :func:`read_identity`."""
    require_private(path)
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError("cannot be read as a key file", where=path) from error
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    if len(lines) != 1:
        raise KeyFileError("must hold one key below its comment lines", where=path)
    return decode(lines[0], kind, str(path))


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600; raises ``FileExistsError`` if it exists, else :class:`StorageError`."""
    # The mode is set at creation, so that other users can never open the file.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with writing(path), os.fdopen(handle, "wb") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(handle, 0o600)
            file.write(content)
            file.flush()
            os.fsync(handle)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _header(kind: str, name: str, identity: Identity) -> str:
    return (
        f"# fedsteph SECRET key to {_PURPOSES[kind]} {name}. It stays at this site; nobody ever asks for it.\n"
        f"# made {datetime.now(UTC):%Y-%m-%d}; fingerprint of the public halves {identity.public.fingerprint}\n"
    )
