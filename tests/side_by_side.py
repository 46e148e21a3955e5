"""The whole test suite in three processes: what may be done in any, and what belongs together.

Files that share a deployment, a study or a run stay in one process, in their order; all others are handed out file by
file, so that a module's fixtures are made once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

N_PROCESSES = 3  # on two cores: tests of processes wait now and then
# What belongs together, by what the node ids begin with; the longest comes first.
TOGETHER = (
    "tests/deployment/",
    "tests/simulations/study/",
    "tests/simulations/test_report_",
)
# Then the long files, so that at the end only short ones are left to be handed out.
EARLY = (*TOGETHER, "tests/simulations/", "tests/test_", "tests/client/")


def group_of(nodeid: str) -> str:
    """What a test shares its process with: one of :data:`TOGETHER`, or its file."""
    return next((begin for begin in TOGETHER if nodeid.startswith(begin)), nodeid.partition("::")[0])


def earliness(nodeid: str) -> int:
    """Where a test stands in the order in which groups are handed out."""
    return next((i for i, begin in enumerate(EARLY) if nodeid.startswith(begin)), len(EARLY))


def n_processes(config: pytest.Config) -> int:
    """How many processes ``-n auto`` is; 0 for this one alone, where single files or folders are asked for."""
    return N_PROCESSES if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def folders_of(tests: Path, worker: str) -> list[str]:
    """All folders with tests, the innermost first, from a place on that is the worker's own."""
    folders = sorted({str(path.parent) for path in tests.rglob("test_*.py")}, reverse=True)
    begin = int(worker.removeprefix("gw")) * len(folders) // N_PROCESSES
    return folders[begin:] + folders[:begin]


class Groups(LoadScopeScheduling):
    """Hands out whole groups, in their order."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False  # by the number of tests, which says nothing of their length
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
