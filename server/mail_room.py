"""Keeps the sealed envelopes of a run on the server's disk, so that the server's memory does not grow with them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from fedsteph.common.errors import StorageError
from fedsteph.common.host import atomic
from fedsteph.common.host.disk import writing
from fedsteph.common.wire.letters import Letter

FOLDER = "mail"


@dataclass(frozen=True)
class Stored:
    """An envelope on the disk, by its letter; its size in bytes."""

    letter: Letter
    path: Path
    size: int


class MailRoom:
    """The envelopes of one run, unopened, as ``TARGET/SENDER.SHA256`` in a folder that this account alone can read.

    They stay if the ServerApp is killed: the same run, started again, delivers them. Names are those of sites.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, target: str, sender: str, envelope: bytes) -> Letter:
        """Keep an envelope. Raises StorageError if it cannot be written."""
        letter = Letter(sender, hashlib.sha256(envelope).hexdigest())
        for folder in (self._folder, self._folder / target):
            with writing(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write_bytes(self._folder / target / f"{sender}.{letter.sha256}", envelope)
        return letter

    def of(self, target: str) -> dict[str, Stored]:
        """The envelopes for a target by their senders, sorted."""
        found = {}
        for path in sorted((self._folder / target).glob("[!.]*.*")):
            sender, _, sha256 = path.name.partition(".")
            found[sender] = Stored(Letter(sender, sha256), path, path.stat().st_size)
        return found

    def read(self, stored: Stored) -> bytes:
        """An envelope's bytes. Raises StorageError if they are not those that were kept."""
        try:
            content = stored.path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot be read ({error.strerror})", where=stored.path) from error
        if hashlib.sha256(content).hexdigest() != stored.letter.sha256:
            remedy = "Start the run again: its sender is asked for a new one"
            raise StorageError("is not the envelope that came", where=stored.path, remedy=remedy)
        return content

    def drop_damaged(self) -> int:
        """Remove what a crash has left half written, or the disk has damaged; returns how many envelopes."""
        dropped = 0
        for path in self._folder.glob("*/.*.part"):
            path.unlink()
        for folder in self._folder.glob("*"):
            for stored in self.of(folder.name).values():
                try:
                    self.read(stored)
                except StorageError:
                    with writing(stored.path):
                        stored.path.unlink(missing_ok=True)
                    dropped += 1
        return dropped

    def clear(self) -> None:
        """Remove all envelopes. Raises StorageError if one cannot be removed."""
        with writing(self._folder):
            if self._folder.exists():
                shutil.rmtree(self._folder)
