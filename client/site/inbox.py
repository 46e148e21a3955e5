"""Keeps the sealed envelopes that a server delivers ahead of a merge, in ``inbox/RUN`` in the site's state folder.

They stay until the server says that the run needs them no longer, or another run begins at the site: a merge that is
asked for again, because its answer was lost, finds them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedsteph.client.site.membership import Membership
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import MissingEnvelopeError, ProtocolError, StorageError
from fedsteph.common.host import atomic
from fedsteph.common.host.disk import free_bytes, writing
from fedsteph.common.wire.letters import Letter, most_bytes

FOLDER = "inbox"
_RESERVE = 1 << 30  # bytes of the disk that no delivery may take


class Inbox:
    """What was delivered to a site in one run."""

    def __init__(self, state: Path, run: str) -> None:
        self._folder = state / FOLDER / run

    def put(self, member: Membership, recipe: Recipe, envelopes: Mapping[str, bytes]) -> None:
        """Keep envelopes by sender, sealed as they are: at most one of each other site, as large as a vector can be.

        Raises:
            ProtocolError: a sender is no other site of the roster, or an envelope is larger.
            StorageError: the disk has no room for them, or cannot be written.
        """
        if recipe.model.width is None:
            raise ProtocolError("leaves model.width open", where="request")
        others = {entry.site for entry in member.roster.sites} - {member.site}
        most = most_bytes(recipe.model, recipe.sharing)
        if not envelopes.keys() <= others or max(map(len, envelopes.values()), default=0) > most:
            raise ProtocolError("delivers what is no vector of another site of the roster", where="request")
        if free_bytes(self._folder) < _RESERVE + sum(map(len, envelopes.values())):
            remedy = f"Make room there: {_RESERVE >> 30} GiB stay free for the site's own work"
            raise StorageError("has no room for the envelopes", where=self._folder, remedy=remedy)
        for sender, envelope in envelopes.items():
            atomic.write_bytes(self._folder / sender, envelope)

    def opened(self, letters: Sequence[Letter], brought: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Sender -> envelope of exactly these letters: of those that a message ``brought``, and of those kept here.

        The latter are read when they are asked for, so that memory does not grow with them.

        Raises:
            MissingEnvelopeError: one is not there, or is another than its letter says.
            ProtocolError: the message brought one that no letter names.
        """
        if not brought.keys() <= {letter.sender for letter in letters}:
            raise ProtocolError("brings an envelope that it does not name", where="request")
        found = _Delivered(self._folder, [letter.sender for letter in letters], brought)
        for letter in letters:
            if hashlib.sha256(found[letter.sender]).hexdigest() != letter.sha256:
                what = f"the envelope of {letter.sender} is another than the server names"
                raise MissingEnvelopeError(what, where="request")
        return found

    def clear(self) -> None:
        """Remove what was delivered in this run."""
        _remove(self._folder)

    @staticmethod
    def leave_others(state: Path, run: str) -> None:
        """Remove what was delivered in every other run."""
        for folder in (state / FOLDER).glob("*"):
            if folder.name != run:
                _remove(folder)


class _Delivered(Mapping[str, bytes]):
    def __init__(self, folder: Path, senders: Sequence[str], brought: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._senders = dict.fromkeys(senders)
        self._brought = brought

    def __getitem__(self, sender: str) -> bytes:
        if sender not in self._senders:
            raise KeyError(sender)
        if sender in self._brought:
            return self._brought[sender]
        try:
            return (self._folder / sender).read_bytes()
        except FileNotFoundError:
            raise MissingEnvelopeError(f"the envelope of {sender} did not come", where="request") from None
        except OSError as error:
            raise StorageError(f"cannot be read ({error.strerror})", where=self._folder / sender) from error

    def __contains__(self, sender: object) -> bool:
        return sender in self._senders  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._senders)

    def __len__(self) -> int:
        return len(self._senders)


def _remove(folder: Path) -> None:
    with writing(folder):
        if folder.exists():
            shutil.rmtree(folder)
