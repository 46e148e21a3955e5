"""Flower ServerApp: reads the run folder's configuration, runs the federation, writes down the outcome."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import ConfigError, FedstephError
from fedsteph.common.host import checked_file
from fedsteph.common.host.log_file import LogFile
from fedsteph.common.host.progress_log import ProgressLog
from fedsteph.common.trust.audit_log import AuditLog
from fedsteph.common.trust.roster import FILE as ROSTER_FILE
from fedsteph.common.trust.roster import read_roster
from fedsteph.common.trust.signed_roster import read_signed
from fedsteph.server.federation import Federation
from fedsteph.server.manifest import CONFIG_FILE, DRAIN_FILE, read_manifest
from fedsteph.server.outcome import OUTCOME_FILE
from fedsteph.server.run_status import StatusFile

app = ServerApp()
LOG_FILE = "server.log"
_LOGGERS = ("fedsteph", "flwr")
_log = logging.getLogger("fedsteph.server")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``run-folder`` describes."""
    run_folder = Path(str(context.run_config.get("run-folder", "")))
    if not run_folder.is_absolute() or not (run_folder / CONFIG_FILE).is_file():
        remedy = "Make one with 'fedsteph simulate --prepare --out DIR', or start the run with 'fedsteph run'"
        raise ConfigError("is not the absolute path of a prepared run folder", where="run-folder", remedy=remedy)
    config = load_config(run_folder / CONFIG_FILE)
    manifest = read_manifest(run_folder)
    roster = read_roster(run_folder / ROSTER_FILE, manifest["digests"]["roster"])
    signed = read_signed(run_folder / ROSTER_FILE, roster)
    folder = run_folder / "server"
    report, audit = ProgressLog(folder, "server").report, AuditLog(Path(manifest["audit"]))
    federation = Federation(grid, config, manifest["run"], roster, audit, report, signed, StatusFile(folder))
    federation.drained = (run_folder / DRAIN_FILE).exists
    try:
        with _logged(folder / LOG_FILE, manifest):
            _run(federation)
    finally:
        checked_file.write_json(folder / OUTCOME_FILE, federation.outcome.to_dict())


def _run(federation: Federation) -> None:
    _log.info("the run begins")
    try:
        federation.run()
    except FedstephError as error:
        federation.outcome.error = str(error)
        _log.error("the run ends: %s", error)
        raise
    except Exception:
        _log.exception("the run ends by a bug")
        raise
    for failure in federation.outcome.failures:
        _log.warning("failed: %s", failure)
    _log.info("the run ends")


@contextmanager
def _logged(path: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Inside the ``with`` block, write the ServerApp's records into the log of its run, if it is of a deployment."""
    if "log_format" not in manifest:
        yield
        return
    handler = LogFile(path, manifest["log_format"])

    def of_the_run(record: logging.LogRecord) -> bool:
        record.run = manifest["run"]
        return True

    handler.addFilter(of_the_run)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    level = _log.level
    _log.setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        _log.setLevel(level)
        handler.close()
