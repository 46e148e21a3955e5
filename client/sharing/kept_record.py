"""A kept vector's file: a line of JSON about the vector, the vector file, and the SHA-256 of both."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedsteph.client.sharing.statement import Statement
from fedsteph.common.config.digest import canonical, digest
from fedsteph.common.config.recipe import ModelConfig, SharingConfig
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, VectorFileError
from fedsteph.common.host import checked_file
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.wire.envelope import UNLIMITED

FOLDER = "vectors"  # in a site's state folder
SUFFIX = ".vector"


@dataclass(frozen=True)
class KeptVector:
    """What a site knows of a vector that it keeps; all of it stays at the site."""

    sender: str
    fingerprint: str  # of the keys that signed it
    received: str  # ISO 8601, UTC
    run: str  # in which it came, or ``(file)``
    sequence: int  # the sender's number; at least the milliseconds from 1970 to its sealing
    kept_days: int  # that its sender allows; -1: without limit
    recipe_sha256: str
    m0_sha256: str
    architecture: str  # digest
    sharing: SharingConfig
    statement: Statement
    norm: float  # L2
    head: bool  # whether it holds the head's risk direction
    cancer: str | None  # of its sender in the roster, when it came
    verdict: str | None = None  # of the last screening

    @property
    def until(self) -> datetime | None:
        """When it must be removed; None: never. Counted from its sealing, so that no second import prolongs it."""
        if self.kept_days == UNLIMITED:
            return None
        received = datetime.fromisoformat(self.received)
        sealed = datetime.fromtimestamp(min(self.sequence / 1000, received.timestamp()), UTC)
        return sealed + timedelta(days=self.kept_days)

    def is_of(self, model: ModelConfig, sharing: SharingConfig) -> bool:
        """Whether it has the M0, the architecture and the shared part of a recipe."""
        own = (str(model.m0_sha256), Architecture.of(model).digest, sharing)
        return own == (self.m0_sha256, self.architecture, self.sharing)

    @property
    def file_name(self) -> str:
        """The same for all vectors of one sender that one recipe could merge: a newer one replaces an older one."""
        kind = digest([self.m0_sha256, self.architecture, asdict(self.sharing)])
        return f"{self.sender}-{kind[:16]}{SUFFIX}"


def write_kept(folder: Path, record: KeptVector, vector_file: bytes) -> None:
    """Write a kept vector atomically, readable by the site's own account alone."""
    checked_file.write_bytes(folder / record.file_name, canonical(asdict(record)) + b"\n" + vector_file)


def read_kept(path: Path) -> tuple[KeptVector, bytes]:
    """A kept vector's record and vector file; VectorFileError if the file is damaged or of another version."""
    remedy = f"Ask its sender for a new one, and remove this one with 'fedsteph vectors remove SITE {sender_of(path)}'"
    line, _, vector_file = checked_file.read_bytes(path, VectorFileError, remedy).partition(b"\n")
    try:
        record = build(KeptVector, json.loads(line), path)
        _ = record.until  # its date can be read
        if record.file_name != path.name:
            raise ValueError("another vector's name")
    except (ValueError, OverflowError, OSError, RecursionError, ConfigError) as error:
        raise VectorFileError("is damaged, or of another version", where=path, remedy=remedy) from error
    return record, vector_file


def sender_of(path: Path) -> str:
    """The sender in the name of a kept vector's file, which a damaged file has, too."""
    return path.name.rpartition("-")[0]
