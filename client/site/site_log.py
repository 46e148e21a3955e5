"""A site's own log file, which no message contains and no server reads."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedsteph.client.site.site import Site

_WORK = "fedsteph.client"  # parent of this package's loggers, which do not know the site


class _File(logging.FileHandler):
    """Appends to a file; if writing fails, the record is not printed elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        # logging's own version prints the record, which may name patients, to stderr, which others may collect.
        sys.stderr.write("fedsteph: the site's log cannot be written\n")


def site_log(site: Site) -> logging.Logger:
    """The logger that writes to ``site.log`` in the site's state folder, and nowhere else."""
    log = logging.getLogger(f"fedsteph.sites.{site.name}")
    path = site.state / "site.log"
    if not any(getattr(h, "baseFilename", None) == str(path.resolve()) for h in log.handlers):
        site.state.mkdir(parents=True, exist_ok=True)
        handler = _File(path.resolve(), encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.handlers = [handler]
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


@contextmanager
def told_of_work(log: logging.Logger) -> Iterator[None]:
    """Inside the ``with`` block, send the log records of this package's modules to a site's log."""
    work = logging.getLogger(_WORK)
    before, propagate, level = work.handlers, work.propagate, work.level
    work.handlers, work.propagate = list(log.handlers), False
    work.setLevel(logging.INFO)
    try:
        yield
    finally:
        work.handlers, work.propagate = before, propagate
        work.setLevel(level)
