"""The runs in a coordinator's folder: the current one with each site's progress, and how the last ones ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import FedstephError
from fedsteph.server.manifest import CONFIG_FILE, MANIFEST_FILE, read_flower_run, read_manifest
from fedsteph.server.outcome import OUTCOME_FILE, Outcome
from fedsteph.server.run_status import RunStatus, SiteProgress

_NEAR = 0.1  # of a phase's time, that is left


@dataclass(frozen=True)
class EndedRun:
    """A run that is over, or of which nobody knows more."""

    run: str  # its folder's name
    flower: str | None  # Flower's id
    begun: str | None  # ISO 8601, UTC
    ended: str | None
    outcome: str  # done, partly (sites failed), failed, stopped, unfinished (nothing is known), or damaged
    told: str | None = None  # why


@dataclass(frozen=True)
class CurrentRun:
    """The run under way; ``sites`` has those that have joined, ``awaited`` those of its configuration that have not."""

    run: str
    flower: str | None
    phase: str
    since: str
    until: str
    roster: str  # digest
    sites: dict[str, SiteProgress]
    awaited: tuple[str, ...]

    @property
    def asked(self) -> list[SiteProgress]:
        """Those that were asked in this phase."""
        return [one for one in self.sites.values() if one.phase == self.phase]

    @property
    def n_answered(self) -> int:
        """How many of them have answered, or failed."""
        return sum(one.answered is not None for one in self.asked)

    def is_late(self, now: datetime) -> bool:
        """Whether somebody is waited for, and less than a tenth of the phase's time is left."""
        if not self.until or not (self.awaited or self.n_answered < len(self.asked)):
            return False
        since, until = datetime.fromisoformat(self.since), datetime.fromisoformat(self.until)
        return (until - now) < _NEAR * (until - since)


def newest_first(runs: Path) -> list[Path]:
    """The run folders, the newest first."""
    found = runs.iterdir() if runs.is_dir() else ()
    return sorted((path for path in found if (path / MANIFEST_FILE).is_file()), reverse=True)


def flower_id(run: Path) -> str | None:
    """Flower's id of a run; None: not noted, or the note is damaged."""
    try:
        return read_flower_run(run)
    except FedstephError:
        return None


def progress_of(run: Path) -> RunStatus | None:
    """A run's status; None: none was written, or it is damaged."""
    try:
        return RunStatus.read(run)
    except (FedstephError, KeyError, TypeError, AttributeError):
        return None


def is_over(run: Path) -> bool:
    """Whether its ServerApp has written how it ended."""
    return (run / "server" / OUTCOME_FILE).exists()


def current_run(runs: Sequence[Path], statuses: Mapping[str, str] | None) -> tuple[Path, CurrentRun] | None:
    """The newest run that is not over, and its folder. Errors of its damaged files are those of their readers.

    Args:
        runs: as :func:`newest_first`.
        statuses: Flower's, by run id; None: nobody answered, and the newest run without an outcome is taken.
    """
    for path in runs:
        flower = flower_id(path)
        known = "" if statuses is None else statuses.get(flower or "", "finished")
        if is_over(path) or known.startswith("finished"):
            continue
        federation, status = load_config(path / CONFIG_FILE).federation, progress_of(path)
        status = status or RunStatus("", "", "")
        awaited = tuple(name for name in federation.sites if name not in status.sites)
        digest = str(read_manifest(path)["digests"]["roster"])
        return path, CurrentRun(
            path.name, flower, status.phase, status.since, status.until, digest, status.sites, awaited
        )
    return None


def ended_run(path: Path, statuses: Mapping[str, str] | None) -> EndedRun:
    """How a run ended that is not the current one."""
    flower = flower_id(path)
    try:
        begun = str(read_manifest(path)["created"])
        if not is_over(path):
            word = (statuses or {}).get(flower or "", "").partition(":")[2]
            outcome = word if word in ("stopped", "failed") else "unfinished"
            return EndedRun(path.name, flower, begun, None, outcome)
        found = Outcome.read(path)
    except (FedstephError, KeyError, TypeError, OSError) as error:
        return EndedRun(path.name, flower, None, None, "damaged", str(error))
    ended = datetime.fromtimestamp((path / "server" / OUTCOME_FILE).stat().st_mtime, UTC).isoformat(timespec="seconds")
    if found.error is not None:
        return EndedRun(path.name, flower, begun, ended, "failed", found.error)
    told = "; ".join(map(str, found.failures)) or None
    return EndedRun(path.name, flower, begun, ended, "partly" if told else "done", told)
