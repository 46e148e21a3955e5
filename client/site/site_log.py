"""A site's own log file, which no message contains and no server reads."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedsteph.client.site.site import Site
from fedsteph.common.host.log_file import LogFile

FILE = "site.log"
_WORK = "fedsteph.client"  # parent of this package's loggers, which do not know the site


class _File(LogFile):
    """If writing fails, the record is not printed elsewhere."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        # logging's own version prints the record, which may name patients, to stderr, which others may collect.
        sys.stderr.write("fedsteph: the site's log cannot be written\n")


def site_log(site: Site) -> logging.Logger:
    """The logger that writes to ``site.log`` in the site's state folder, and nowhere else."""
    log = logging.getLogger(f"fedsteph.sites.{site.name}")
    path = site.state / FILE
    if not any(getattr(h, "baseFilename", None) == str(path.resolve()) for h in log.handlers):
        site.state.mkdir(parents=True, exist_ok=True)
        log.handlers = [_File(path.resolve(), site.file.log_format)]
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


@contextmanager
def told_of_work(log: logging.Logger, run: str | None = None) -> Iterator[None]:
    """Inside the ``with`` block, send the log records of this package's modules to a site's log, as of ``run``."""
    work = logging.getLogger(_WORK)
    before, propagate, level = work.handlers, work.propagate, work.level
    handlers = list(log.handlers)
    work.handlers, work.propagate = handlers, False
    work.setLevel(logging.INFO)

    def of_the_run(record: logging.LogRecord) -> bool:
        record.run = run
        return True

    for handler in handlers:
        handler.addFilter(of_the_run)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(of_the_run)
        work.handlers, work.propagate = before, propagate
        work.setLevel(level)
