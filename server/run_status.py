"""Keeps what the server knows of a run under way in its run folder (``status.json``), for ``fedsteph status``.

It is what the server sees anyhow: which node is which site, what a site was asked, when, and whether it has answered.
"""

from __future__ import annotations

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
    """Writes a run's status into ``folder`` at each change; None: nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / STATUS_FILE
        self._now = RunStatus("", "", "")

    def begin(self, phase: str, seconds: float, asked: Iterable[str] = ()) -> None:
        """A phase begins, and these sites were asked; they have so many seconds."""
        now = datetime.now(UTC)
        since, until = _text(now), _text(now + timedelta(seconds=seconds))
        sites = dict(self._now.sites)
        for name in asked:
            if name in sites:
                sites[name] = replace(sites[name], phase=phase, asked=since, answered=None, said=ASKED)
        self._write(RunStatus(phase, since, until, sites))

    def joined(self, site: str, node: int, software: str) -> None:
        """A node has proved that it is this site."""
        asked = SiteProgress(str(node), software, self._now.phase, self._now.since, _text(datetime.now(UTC)), ANSWERED)
        self._put(site, asked)

    def answered(self, site: str, said: str) -> None:
        """A site has answered, or failed for the reason ``said``; one that has not joined is left out."""
        if site in self._now.sites:
            self._put(site, replace(self._now.sites[site], answered=_text(datetime.now(UTC)), said=said))

    def _put(self, site: str, progress: SiteProgress) -> None:
        self._write(replace(self._now, sites={**self._now.sites, site: progress}))

    def _write(self, status: RunStatus) -> None:
        self._now = status
        if self._path is not None:
            checked_file.write_json(self._path, status.to_dict())


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
