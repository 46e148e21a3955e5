"""Runs a trial deployment on loopback with one real site, as ``fedsteph provision`` makes it, for a benchmark."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from fedsteph.client.deployment import guard, reviewed_app
from fedsteph.client.site.site_file import SITE_FILE
from fedsteph.common.config.core_yaml import StrictDumper
from fedsteph.common.config.run_config import Config, dump_yaml, merged
from fedsteph.common.config.schema import read_yaml
from fedsteph.common.deployment.flower_app import assemble, build
from fedsteph.common.deployment.flower_programs import COMPLETED, QUIET, START_SECONDS, Flower
from fedsteph.common.deployment.tls import ask
from fedsteph.common.errors import DeploymentError, EngineError
from fedsteph.common.host import atomic
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import Entry, Roster, write_roster
from fedsteph.server.deployment.deployed_run import Deployed
from fedsteph.server.deployment.provision import Plan, provision
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.simulations.bench.data_path import write_site
from fedsteph.simulations.run.flower_engine import free_ports
from fedsteph.simulations.run.leash import Leashed

_START_SECONDS = 90.0
_OTHER_RECIPE = "f" * 64  # digest of the only recipe that the target's policy allows


class Trial:
    """The folders of a trial deployment, and after :meth:`start` its processes."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        identities: Mapping[str, Identity],
        settings: Mapping[str, Any] = MappingProxyType({"policy": {"recipes": [_OTHER_RECIPE]}}),
        patients: int = 4,
    ) -> None:
        """Provision the folders, and fill in what the users at the sites would.

        Args:
            config: of its sites only the first, the target, is started here.
            identities: of every site of the roster.
            settings: of the target's site file; by default it refuses the recipe.
            patients: that the target has.
        """
        superlink, site_port = free_ports(2)
        address, width = f"127.0.0.1:{superlink}", Architecture.of(config.model).width
        names = config.federation.sites[:2]
        provision(folder, Plan(config.federation.name, address, address, names, names[:1], width, (), site_port))
        self._folder, self.site = folder, folder / "sites" / names[0]
        self._processes: list[Leashed] = []
        server = folder / "server"
        atomic.write_text(server / "config.yaml", dump_yaml(config))
        (server / "nodes" / f"{names[1]}.pub").unlink()
        entries = (Entry.of(name, own.public, cancer=None, contact="bench") for name, own in identities.items())
        roster = Roster(config.federation.name, tuple(entries))
        write_roster(server / "roster.yaml", roster)
        self._fill_in_site(names[0], identities[names[0]], roster, settings)
        write_site(self.site, patients, 2, width)  # the site checks its data to answer a hello
        reviewed_app.install(self.site / "flwr")
        self.server = ServerFile.open(server)

    def _fill_in_site(self, name: str, identity: Identity, roster: Roster, chosen: Mapping[str, Any]) -> None:
        write_roster(self.site / "roster.yaml", roster)
        write_identity(self.site / "keys", name, identity)
        settings = read_yaml(self.site / SITE_FILE)
        settings["federation"]["roster_sha256"] = roster.digest
        filled = merged(settings, dict(chosen))
        atomic.write_text(self.site / SITE_FILE, yaml.dump(filled, Dumper=StrictDumper, sort_keys=False))

    def start(self, stack: ExitStack) -> None:
        """Start all processes, which closing ``stack`` stops. Raises EngineError if one did not start."""
        server = self._folder / "server"
        self._leash(server / "start-superlink.sh", stack)
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            self._require_alive()
            if time.monotonic() > until:
                raise EngineError(f"the SuperLink was not up within {_START_SECONDS:g} s", where="trial")
            time.sleep(0.2)
        subprocess.run([server / "register-sites.sh"], check=True, capture_output=True, timeout=_START_SECONDS)
        self._leash(server / "start-superexec.sh", stack)
        self._leash(self.site / "start-supernode.sh", stack)
        self._leash(self.site / "start-superexec.sh", stack)

    def run(self, deployed: Deployed, server_app: Path, is_over: Callable[[], bool]) -> None:
        """Run fedsteph's app with the file ``server_app`` as its ServerApp's, until its result is there (``is_over``).

        Raises EngineError if the run failed, or a process of the trial ended too early.
        """
        app = assemble(deployed.path / "app" / "fedsteph")
        (app / "server" / "app.py").write_bytes(server_app.read_bytes())
        self._accept(app)
        run_config = deployed.path / "run.toml"
        atomic.write_text(run_config, f"run-folder = {json.dumps(str(deployed.path))}\n")

        def over() -> bool:
            self._require_alive()
            return is_over()

        flower = Flower(self.server.flwr_home, self._folder)
        status = flower.wait(flower.start(app, run_config), over, START_SECONDS)
        if status != COMPLETED or not is_over():
            log = (self._folder / "server-start-superexec.log").read_text(errors="replace")
            raise EngineError(f"the run ended as {status}", where="trial", details=log[-3000:])

    def _accept(self, app: Path) -> None:
        """Pin this bundle at the site's guard as the reviewed one; the site loads its own code in any case."""
        home = self.site / "flwr"
        bundle = build(app, self.server.flwr_home)
        home.chmod(0o755)
        (home / guard.PIN).unlink()
        (home / guard.PIN).write_text(hashlib.sha256(bundle.read_bytes()).hexdigest())
        bundle.unlink()

    def _leash(self, script: Path, stack: ExitStack) -> None:
        log = self._folder / f"{script.parent.name}-{script.stem}.log"
        self._processes.append(stack.enter_context(Leashed([str(script)], log, {**os.environ, **QUIET})))

    def _answers(self) -> bool:
        try:
            ask(self.server.superlink, self.server.ca)
        except DeploymentError:
            return False
        return True

    def _require_alive(self) -> None:
        for process in self._processes:
            process.require_alive()
