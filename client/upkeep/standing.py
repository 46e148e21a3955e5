"""What may never be turned back at a site: its audit log, its privacy ledger, and the memory of numbers and runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsteph.client.privacy import ledger
from fedsteph.client.privacy.ledger import Entry, read_entries
from fedsteph.client.sharing import replay
from fedsteph.client.sharing.replay import Numbers
from fedsteph.common.trust import audit_log

NUMBER_FILES = (replay.SENT_FILE, replay.RECEIVED_FILE, replay.RUNS_FILE)  # in the state folder
TRUST_FILES = (ledger.FILE, audit_log.FILE, audit_log.HEAD_FILE)  # in the audit folder


@dataclass(frozen=True)
class Standing:
    """How far a site has come."""

    log: bytes  # the complete lines of the audit log
    entries: tuple[Entry, ...]  # of the ledger
    numbers: Numbers

    @classmethod
    def read(cls, state: Path, audit: Path) -> Standing:
        """Read it from a state folder and an audit folder; what is not there is empty.

        Raises:
            LedgerError, RunFolderError: a file is damaged.
        """
        path = audit / audit_log.FILE
        whole, newline, _ = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
        return cls(whole + newline, tuple(read_entries(audit)), Numbers.read(state))

    def behind(self, other: Standing) -> str | None:
        """In what this standing is not a continuation of another, nor equal to it; None: in nothing."""
        if not self.log.startswith(other.log):
            return "the audit log"
        if self.entries[: len(other.entries)] != other.entries:
            return "the privacy ledger"
        return None if self.numbers.reach(other.numbers) else "the memory of numbers and runs"


def paths(state: str, audit: str) -> list[str]:
    """The files of a standing, by the paths of both folders."""
    return [f"{state}/{name}" for name in NUMBER_FILES] + [f"{audit}/{name}" for name in TRUST_FILES]
