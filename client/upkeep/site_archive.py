"""The content of a backup: a tar file in memory, whose first member says of which site it is, and from when."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from fedsteph.common.config.schema import build
from fedsteph.common.errors import BackupError, ConfigError

_ABOUT = "backup.json"
_FORMAT = "fedsteph/site-backup/v1"
_MOST_FILES = 10_000


@dataclass(frozen=True)
class About:
    """What a backup says of itself; paths are relative to the site's folder."""

    made: str  # ISO 8601, UTC: all that happened later is not in it
    version: str  # of fedsteph
    site: str
    site_file: str
    state: str
    audit: str
    format: str = _FORMAT

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise ValueError(f"format must be {_FORMAT}")
        datetime.fromisoformat(self.made)
        for path in (self.site_file, self.state, self.audit):
            if not is_inside(path):
                raise ValueError(f"'{path}' is not a path inside the site's folder")


def is_inside(name: str) -> bool:
    """Whether a path, with slashes, stays inside the folder that it is relative to, on every system."""
    parts = PurePosixPath(name).parts
    whole = name.rstrip("/") == "/".join(parts)  # no part that is empty, or a dot
    return bool(parts) and whole and ".." not in parts and not any(sign in name for sign in ("\\", ":", "\0"))


def pack(about: About, files: Mapping[str, bytes]) -> bytes:
    """The archive of files by their path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in ((_ABOUT, json.dumps(asdict(about)).encode()), *files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpack(content: bytes, where: Path) -> tuple[About, dict[str, bytes]]:
    """What an archive says of itself, and its files by their path.

    Raises:
        BackupError: it is of another version, or a member is a link or no plain file, leads out of the folder, stands
            there twice, or lies below another file.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                name = _checked_name(member, files, where)  # first: a link would be followed
                files[name] = _content(archive, member)
        about = build(About, json.loads(files.pop(_ABOUT)), where)
    except (tarfile.TarError, ValueError, KeyError, EOFError, RecursionError, ConfigError) as error:
        raise BackupError("is no backup of a site, or of another version", where=where) from error
    if any(parent in files for name in files for parent in map(str, PurePosixPath(name).parents)):
        raise BackupError("holds a file below another file", where=where)
    return about, files


def _checked_name(member: tarfile.TarInfo, known: Mapping[str, bytes], where: Path) -> str:
    remedy = "It was not made by 'fedsteph backup': do not use it, and find out who made it"
    if member.type != tarfile.REGTYPE:
        raise BackupError(f"holds '{member.name}', which is a link or no plain file", where=where, remedy=remedy)
    if not is_inside(member.name):
        raise BackupError(f"holds '{member.name}', which leads out of its folder", where=where, remedy=remedy)
    if member.name in known or len(known) >= _MOST_FILES:
        raise BackupError(f"holds '{member.name}' twice, or too many files", where=where, remedy=remedy)
    return member.name


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()
