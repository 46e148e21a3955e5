"""Compacts the SuperLink's database while it is stopped, by SQLite's own means.

Flower removes the content of a message once it is delivered, but the file keeps its size. It offers nothing that
removes runs, and its tables change from version to version, so no row is touched here.
"""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

from fedsteph.common.deployment.tls import split_address
from fedsteph.common.errors import DeploymentError
from fedsteph.common.host.disk import cannot_write

_WAIT_SECONDS = 2.0
_STOP = "Stop the SuperLink, when no run is under way, and prune again"


def compact(database: Path, superlink: str, *, dry_run: bool) -> int:
    """Compact the database; returns the bytes freed, or with ``dry_run`` about those that would be.

    Args:
        superlink: host:port where the SuperLink listens.

    Raises:
        DeploymentError: the SuperLink runs, another program has the database open, or it is no database.
        StorageError: the disk cannot be written.
    """
    if _listens(superlink):
        raise DeploymentError("the SuperLink runs", where=superlink, remedy=_STOP)
    before = _size(database)
    try:
        with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
            # Of its first access on, SQLite lets no other program in; it fails if one is in already.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
            if dry_run:
                (free,), (page,) = (
                    connection.execute(f"PRAGMA {of}").fetchone() for of in ("freelist_count", "page_size")
                )
                return int(free) * int(page)
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        if "lock" in str(error):
            raise DeploymentError("another program has it open", where=database, remedy=_STOP) from error
        raise cannot_write(database, OSError(None, str(error))) from error
    except sqlite3.DatabaseError as error:
        raise DeploymentError(f"is no database ({error})", where=database, remedy="See the SuperLink's log") from error
    return max(0, before - _size(database))


def _listens(address: str) -> bool:
    try:
        with socket.create_connection(split_address(address), timeout=_WAIT_SECONDS):
            return True
    except OSError:
        return False


def _size(database: Path) -> int:
    files = (database, *(database.with_name(f"{database.name}{end}") for end in ("-wal", "-shm")))
    return sum(path.stat().st_size for path in files if path.exists())
