"""Flower ServerApp: reads the run folder's configuration, runs the federation, writes down the outcome."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import ConfigError, FedstephError
from fedsteph.common.host import checked_file
from fedsteph.common.host.progress_log import ProgressLog
from fedsteph.common.trust.audit_log import AuditLog
from fedsteph.common.trust.roster import FILE as ROSTER_FILE
from fedsteph.common.trust.roster import read_roster
from fedsteph.common.trust.signed_roster import read_signed
from fedsteph.server.federation import Federation
from fedsteph.server.mail_room import FOLDER as MAIL_FOLDER
from fedsteph.server.mail_room import MailRoom
from fedsteph.server.manifest import CONFIG_FILE, DRAIN_FILE, read_manifest
from fedsteph.server.outcome import OUTCOME_FILE
from fedsteph.server.run_log import run_log
from fedsteph.server.run_status import StatusFile

app = ServerApp()
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
    mail, status = MailRoom(folder / MAIL_FOLDER), StatusFile(folder)
    federation = Federation(grid, config, manifest["run"], roster, audit, report, signed, status, mail=mail)
    federation.drained = (run_folder / DRAIN_FILE).exists
    try:
        with run_log(folder, manifest):
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
