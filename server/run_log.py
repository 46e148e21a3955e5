"""The log of a run's ServerApp, in its run folder: how the run went, as far as the server may know."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsteph.common.host.log_file import LogFile

LOG_FILE = "server.log"
_OURS = logging.getLogger("fedsteph")
_FLOWER = logging.getLogger("flwr")


@contextmanager
def run_log(folder: Path, manifest: Mapping[str, Any]) -> Iterator[None]:
    """Inside the ``with`` block, write this process's records into the log of a run.

    The manifest of a run that 'fedsteph run' has prepared names the log's format; other runs have no log.
    """
    if "log_format" not in manifest:
        yield
        return
    handler = LogFile(folder / LOG_FILE, manifest["log_format"])

    def of_the_run(record: logging.LogRecord) -> bool:
        record.run = manifest["run"]
        return True

    handler.addFilter(of_the_run)
    level = _OURS.level
    _OURS.setLevel(logging.INFO)
    for logger in (_OURS, _FLOWER):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in (_OURS, _FLOWER):
            logger.removeHandler(handler)
        _OURS.setLevel(level)
        handler.close()
