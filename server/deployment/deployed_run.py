"""Prepares a run on a deployment, starts it, waits until it ends, and writes the results that the server may know."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedsteph.common.config.digest import digest
from fedsteph.common.config.run_config import Config, dump_yaml
from fedsteph.common.deployment.flower_app import assemble
from fedsteph.common.deployment.flower_programs import COMPLETED, PATIENCE_SECONDS, START_SECONDS, Flower
from fedsteph.common.deployment.tls import ask
from fedsteph.common.errors import ConfigError, EngineError, QuorumError, RosterError, RunFolderError, SiteError
from fedsteph.common.host import atomic, checked_file, console
from fedsteph.common.host.disk import require_room, writing
from fedsteph.common.host.monitor import watching
from fedsteph.common.trust.roster import FILE as ROSTER_FILE
from fedsteph.common.trust.roster import Roster, read_roster, write_roster
from fedsteph.common.trust.signed_roster import SignedRoster, read_signed, write_signature
from fedsteph.server.deployment.run_history import is_over, newest_first
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.server.manifest import (
    CONFIG_FILE,
    DRAIN_FILE,
    MANIFEST_FILE,
    manifest,
    read_flower_run,
    read_manifest,
    write_flower_run,
)
from fedsteph.server.outcome import OUTCOME_FILE, Outcome

RESULTS_FILE = "results.json"
SCHEMA = "fedsteph/deployment-results/v1"


@dataclass(frozen=True)
class Deployed:
    """A run folder at the server."""

    path: Path
    config: Config
    roster: Roster

    @property
    def outcome(self) -> Path:
        """The file into which the ServerApp writes the outcome."""
        return self.path / "server" / OUTCOME_FILE


def prepare(server: ServerFile, config: Config) -> Deployed:
    """Check everything that can be checked at the server, and write a run folder.

    ``config``: with the features' width and M0's digest filled in. Raises ConfigError if the configuration lacks sites,
    targets, the width or M0's digest; RosterError if the roster is another federation's, lacks a site, or has changed
    since it was signed;
    DeploymentError if no SuperLink answers at the configured address.
    """
    roster, signed = _checked(server, config)
    path = server.runs / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    part = server.runs / f".{path.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    write_roster(part / ROSTER_FILE, roster)
    if signed is not None:
        write_signature(part / ROSTER_FILE, signed)
    atomic.write_text(part / CONFIG_FILE, dump_yaml(config))
    told = manifest(config, roster, server.audit, path.name) | {"log_format": server.log_format}
    checked_file.write_json(part / MANIFEST_FILE, told)
    part.rename(path)
    return Deployed(path, config, roster)


def resume(server: ServerFile, config: Config) -> Deployed:
    """The newest run, to be started again under its name, because it has not ended well.

    Its sites go on from what they have, and envelopes that a killed ServerApp has left are delivered. Only the newest
    run: sites that have entered a newer one refuse an older.

    Raises:
        EngineError: there is no run, the newest has ended well, or Flower still runs it.
        RunFolderError: its configuration or roster is not the present one.
        others: as :func:`prepare`.
    """
    roster, _ = _checked(server, config)
    new = "Start a new one: without --resume"
    path = next(iter(newest_first(server.runs)), None)
    if path is None or (path / RESULTS_FILE).exists():
        raise EngineError("there is no run to resume: none has been started, or the newest has ended well", remedy=new)
    known, now = read_manifest(path)["digests"], {"config": digest(config), "roster": roster.digest}
    if other := [key for key, value in now.items() if known.get(key) != value]:
        what = f"is of another {' and '.join(other)} than the present"
        raise RunFolderError(what, where=path, remedy=f"Undo the change. Or s{new[1:]}")
    run_id = read_flower_run(path)
    statuses = {} if run_id is None else Flower(server.flwr_home, server.flwr_home.parent).statuses()
    if not statuses.get(run_id or "", "finished").startswith("finished"):
        remedy = f"Follow it with 'fedsteph status', or end it: FLWR_HOME={server.flwr_home} flwr stop {run_id}"
        raise EngineError("the run is still under way", where=path, remedy=remedy)
    for left in (path / "server" / OUTCOME_FILE, path / DRAIN_FILE):
        with writing(left):
            left.unlink(missing_ok=True)
    return Deployed(path, config, roster)


def _checked(server: ServerFile, config: Config) -> tuple[Roster, SignedRoster | None]:
    """The present roster, and its signature if there is one, after every check of :func:`prepare`."""
    server.require_ready()
    roster = read_roster(server.roster)
    federation = config.federation
    if not federation.sites or not federation.targets:
        raise ConfigError("names no sites or no targets", where=server.config, remedy="Set federation.sites, .targets")
    if config.model.width is None or config.model.m0_sha256 is None:
        raise ConfigError("leaves model.width open", where=server.config, remedy="Set it to the features' width")
    if federation.name != roster.federation:
        raise RosterError(f"is of the federation {roster.federation}, not {federation.name}", where=server.roster)
    if missing := [name for name in federation.sites if roster.entry(name) is None]:
        remedy = "Add their public files with 'fedsteph roster add', and have every site pin the new digest"
        raise RosterError(f"lacks {', '.join(missing)}", where=server.roster, remedy=remedy)
    signed = read_signed(server.roster, roster)
    ask(server.superlink, server.ca)
    return roster, signed


def run(server: ServerFile, deployed: Deployed) -> Outcome:
    """Start the run, wait until it ends, and write ``results.json`` into the run folder.

    Raises QuorumError, with every failure, if too few sites were left; EngineError if Flower ended the run for another
    reason; StorageError if the disk is full. Stopped by the user, the run is stopped too.
    """
    try:
        run_id, status = _until_its_end(server, deployed)
    except EngineError:
        run_id, status = "RUN", ""  # Flower does not say how it ended; the ServerApp's own outcome may
        if not deployed.outcome.exists():
            raise
    outcome = Outcome.read(deployed.path) if deployed.outcome.exists() else None
    if outcome is not None and outcome.error is not None:
        raise QuorumError(outcome.error, remedy=f"All that the server knows: {deployed.outcome}")
    if outcome is None:
        require_room(deployed.path)
    if outcome is None or not (status == COMPLETED or (not status and outcome.targets)):
        remedy = f"See the logs of SuperLink and SuperExec, or: FLWR_HOME={server.flwr_home} flwr log {run_id}"
        raise EngineError(f"Flower ended the run as {status or 'unknown'}", where=deployed.path, remedy=remedy)
    found = outcome.to_dict()
    del found["error"]
    header = {
        "schema": SCHEMA,
        "run": deployed.path.name,
        "recipe": digest(deployed.config.recipe),
        "roster": deployed.roster.digest,
    }
    checked_file.write_json(deployed.path / RESULTS_FILE, header | found)
    return outcome


def drain(server: ServerFile) -> Path:
    """Let the present run end before its next phase; returns its folder. EngineError if there is none."""
    present = next((path for path in newest_first(server.runs) if not is_over(path)), None)
    if present is None:
        raise EngineError("there is no run to drain: all have ended", where=server.runs)
    atomic.write_text(present / DRAIN_FILE, "")
    return present


def _until_its_end(server: ServerFile, deployed: Deployed) -> tuple[str, str]:
    """Flower's id of the run, and its last status."""
    app = assemble(deployed.path / "app" / "fedsteph")
    run_config = deployed.path / "run.toml"
    atomic.write_text(run_config, f"run-folder = {json.dumps(str(deployed.path))}\n")
    flower = Flower(server.flwr_home, server.flwr_home.parent)
    with watching([deployed.path / "server"]):
        run_id = flower.start(app, run_config)
        write_flower_run(deployed.path, run_id)
        console.tell(f"run {deployed.path.name}; in Flower's own lists and logs: {run_id}")
        try:
            return run_id, flower.wait(run_id, deployed.outcome.exists, PATIENCE_SECONDS, _say_silence, _say_slow_start)
        except KeyboardInterrupt:
            with contextlib.suppress(EngineError):  # the user stopped it, even if Flower cannot be told
                flower.stop(run_id)
            raise


def _say_silence(seconds: float) -> None:
    text = f"the SuperLink has not answered for {seconds:.0f} s; back within {PATIENCE_SECONDS:.0f} s, the run goes on"
    console.tell(text)


def _say_slow_start(seconds: float) -> None:
    console.tell(
        f"the ServerApp is not up {seconds:.0f} s after its SuperExec took the run; Flower gives a process "
        f"{START_SECONDS:g} s and then starts another: the machine is too slow or too loaded ('fedsteph doctor server')"
    )


def require_no_failure(deployed: Deployed, outcome: Outcome) -> None:
    """Check that no site failed. Raises SiteError if sites failed (it names each, its phase and the reason)."""
    if outcome.failures:
        named = "; ".join(f"{f.site} failed in {f.phase}: {f.reason}" for f in outcome.failures)
        path = deployed.path / RESULTS_FILE
        raise SiteError(named, remedy=f"The others' results: {path}. Each site's own log has the details")
