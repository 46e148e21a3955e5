"""Keeps what the server knows of a run under way in its run folder (``status.json``), for ``fedsteph status``.

It is what the server sees anyhow: which node is which site, what a site was asked, when, and whether it has answered.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedsteph.common.config.schema import build
from fedsteph.common.errors import RunFolderError
from fedsteph.common.host import checked_file

STATUS_FILE = "status.json"
SCHEMA = "fedsteph/run-status/v1"
ASKED, ANSWERED = "asked", "answered"
_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class SiteProgress:
    """How far a site is: its node, the phase that it was asked for last, when, and what came back."""

    node: str  # Flower's id of its node
    software: str  # the version of fedsteph that its hello told
    phase: str
    asked: str  # ISO 8601, UTC
    answered: str | None = None  # the same; None: not yet
    said: str = ASKED  # asked, answered, or why it failed, in the server's words

    @property
    def has_failed(self) -> bool:
        """Whether anything failed at the site, so far as the server knows."""
        return self.said not in (ASKED, ANSWERED)


@dataclass(frozen=True)
class RunStatus:
    """A run under way: its phase, since when and until when it may last, and every site that has joined."""

    phase: str
    since: str  # ISO 8601, UTC
    until: str  # the same: the phase's deadline
    sites: dict[str, SiteProgress] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> RunStatus | None:
        """A run folder's; None: the server has written none yet. Raises RunFolderError if it is damaged."""
        path = run / "server" / STATUS_FILE
        if not path.exists():
            return None
        content = checked_file.read_json(path, RunFolderError, "The run goes on without it")
        sites = {name: build(SiteProgress, told, path) for name, told in content["sites"].items()}
        return cls(content["phase"], content["since"], content["until"], sites)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``status.json``."""
        return {"schema": SCHEMA, **asdict(self)}


class StatusFile:
    """Writes a run's status into ``folder``; None: nowhere.

    A phase's begin is written at once, and answers by :meth:`save`: a file with every site, written anew for each
    answer, would cost more than all else that the server does for 1,000 sites.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / STATUS_FILE
        self._now = self._written = RunStatus("", "", "")
        self._next = 0.0  # when it may be written again

    def begin(self, phase: str, seconds: float, asked: Iterable[str] = ()) -> None:
        """A phase begins, and these sites were asked; they have so many seconds."""
        now = datetime.now(UTC)
        since, until = _text(now), _text(now + timedelta(seconds=seconds))
        sites = dict(self._now.sites)
        for name in asked:
            if name in sites:
                sites[name] = replace(sites[name], phase=phase, asked=since, answered=None, said=ASKED)
        self._now = RunStatus(phase, since, until, sites)
        self.save(at_once=True)

    def joined(self, site: str, node: int, software: str) -> None:
        """A node has proved that it is this site."""
        asked = SiteProgress(str(node), software, self._now.phase, self._now.since, _text(datetime.now(UTC)), ANSWERED)
        self._put(site, asked)

    def answered(self, site: str, said: str) -> None:
        """A site has answered, or failed for the reason ``said``; one that has not joined is left out."""
        if site in self._now.sites:
            self._put(site, replace(self._now.sites[site], answered=_text(datetime.now(UTC)), said=said))

    def save(self, *, at_once: bool = False) -> None:
        """Write what has changed, though not twice a second; call it again while sites are waited for."""
        if self._now is self._written or not (at_once or time.monotonic() > self._next):
            return
        if self._path is not None:
            checked_file.write_json(self._path, self._now.to_dict())
        self._written, self._next = self._now, time.monotonic() + _EVERY_SECONDS

    def _put(self, site: str, progress: SiteProgress) -> None:
        self._now = replace(self._now, sites={**self._now.sites, site: progress})


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
