"""The results of a simulated run: those of its targets, failures, seconds and bytes (``results.json``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.host.checked_file import read_json
from fedsteph.server.outcome import Failure

RESULTS_FILE = "results.json"
SCHEMA = "fedsteph/results/v1"


@dataclass(frozen=True)
class RunResults:
    """Results by target, with an oracle among the methods if the true risks are known; ``seconds`` by phase."""

    targets: dict[str, TargetResult]
    failures: list[Failure]
    bytes: int
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``results.json``."""
        return {
            "schema": SCHEMA,
            "targets": {name: result.to_dict() for name, result in self.targets.items()},
            "failures": [asdict(failure) for failure in self.failures],
            "communication": {"bytes": self.bytes},
            "seconds": self.seconds,
        }

    @classmethod
    def read(cls, path: Path) -> RunResults:
        """Read ``results.json``. Raises ModelFileError if an earlier version wrote it."""
        content = read_json(path)
        return cls(
            targets={name: TargetResult.of(result, path) for name, result in content["targets"].items()},
            failures=[Failure(**failure) for failure in content["failures"]],
            bytes=content["communication"]["bytes"],
            seconds=content["seconds"],
        )
