"""The results of a run as far as the server knows them: no vector and no exact count (``outcome.json``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from fedsteph.common.config.schema import build
from fedsteph.common.errors import RunFolderError
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.wire.messages import MergeReply

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class Failure:
    """A site that failed, the phase, and the reason as far as the server may know it."""

    site: str
    phase: str
    reason: str

    def __str__(self) -> str:
        return f"{self.site} in {self.phase}: {self.reason}"


class SiteTold(TypedDict, total=False):
    """What a site told about itself; sizes as bands, after its training."""

    software: str
    encoder: str | None
    patients: str | None
    events: str | None


@dataclass
class Outcome:
    """The result of a run at the server: seconds by phase, bytes in both directions; ``error`` if the run failed."""

    sites: dict[str, SiteTold] = field(default_factory=dict)
    targets: dict[str, MergeReply] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of ``outcome.json``."""
        return asdict(self)

    @classmethod
    def read(cls, run: Path) -> Outcome:
        """Read a run folder's. Raises RunFolderError if there is none; ConfigError if an earlier version wrote it."""
        path = run / "server" / OUTCOME_FILE
        if not path.exists():
            raise RunFolderError("has no results yet", where=run, remedy="Let the run come to its end")
        content = read_json(path, RunFolderError, "Run it again")
        content["targets"] = {name: build(MergeReply, told, path) for name, told in content["targets"].items()}
        content["failures"] = [Failure(**failure) for failure in content["failures"]]
        return cls(**content)
