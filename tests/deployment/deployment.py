"""A real deployment on loopback, made as docs say: provisioned folders, keys, roster, pins, reviewed apps, processes.

Every server hangs on a leash (:mod:`fedsteph.simulations.run.leash`), so that nothing outlives the tests, whichever way
they end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml
from foreign import plant
from reviewed_homes import copy_home
from sites import TINY, make_site

from fedsteph.__main__ import app as fedsteph
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.deployment.flower_programs import environment, program
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.host.progress_log import read_progress
from fedsteph.common.trust.audit_log import Line, read_lines
from fedsteph.common.trust.roster import read_roster

T = TypeVar("T")
FEDERATION = "kidney"
TARGET = "target"
MEMBERS = (TARGET, "kin", "cousin", "aunt")
# A site whose keys are not the roster's, and one whose installed app was changed.
STRAY, BOASTER = "stray", "boaster"
ALL = (*MEMBERS, STRAY, BOASTER)
REVIEWER = "aunt"  # trains the recipes that it has reviewed, and no other
SEED = "training.seed=7"  # of the runs that end with models: a recipe has its models once
WIDTH = 6
SETTINGS = [
    *TINY,
    "model.embed=128",
    "model.attention=128",
    "federation.deadlines.hello=120",
    "federation.deadlines.local=180",
    "federation.deadlines.share=150",
    "federation.deadlines.merge=180",
    "federation.deadlines.away=2",
]
_ENVIRONMENT = {"NO_COLOR": "1", "COLUMNS": "300"}
# Makes mode bits count for root.
_CAPLESS = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
    "--",
]


def wait_for(what: str, condition: Callable[[], T], seconds: float, every: float = 0.1) -> T:
    """Poll until the condition holds, ``every`` so many seconds; what it gave.

    Raises:
        TimeoutError: it did not within ``seconds``.
    """
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)
    return found


def ordinary_account() -> list[str] | None:
    """What to put before a command so that file permissions bind it; None where that cannot be had."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        return None
    return _CAPLESS if subprocess.run([*_CAPLESS, "true"], check=False, capture_output=True).returncode == 0 else None


class Process:
    """A program and its log.

    It is started beside files that have the names of fedsteph's folders, and must not be taken for them.

    On the leash it ends, with all that it started, when this process does; off it is for what ends by itself, whose
    exit code counts.
    """

    def __init__(self, log: Path, command: list[str], *, leash: bool = True, stdout: Path | None = None) -> None:
        self.log = log
        folder = plant(log.parent)
        with log.open("ab") as err, (stdout or log).open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedsteph.simulations.run.leash", *command] if leash else command,
                stdin=subprocess.PIPE if leash else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": str(folder)},
                start_new_session=True,
            )

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def programs(self) -> list[psutil.Process]:
        """What it started."""
        return psutil.Process(self._process.pid).children(recursive=True) if self.runs else []

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Ask it to end: let go of the leash, or, off it, as a service manager does."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        elif self.runs:
            self._process.terminate()

    def stop(self) -> None:
        """Ask it to end, and see to it that it and all that it started does."""
        self.end()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """``kill -9`` of all of it at once."""
        programs = self.programs
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for found in programs:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.kill()
        self._process.wait(30)
        psutil.wait_procs(programs, timeout=30)


@dataclass
class Run:
    """One ``fedsteph run``."""

    process: Process
    stdout: Path

    @property
    def said(self) -> str:
        """What it told the person at the terminal."""
        return self.process.text()

    @property
    def folder(self) -> Path:
        """Its run folder, as soon as it has one."""
        return Path(wait_for("a run folder", lambda: re.search(r"run folder: (\S+)", self.said), 60)[1])  # type: ignore[index]

    @property
    def name(self) -> str:
        """What it is called in audit logs."""
        return str(read_json(self.folder / "manifest.json")["run"])

    def wait_phase(self, phase: str, seconds: float = 120) -> None:
        """Wait until the server is in a phase."""
        progress = self.folder / "server" / "progress.jsonl"

        def begun() -> bool:
            assert self.process.runs, self.said
            return progress.exists() and any(p.phase == phase for p in read_progress(progress.read_text()))

        wait_for(phase, begun, seconds)

    def wait(self, seconds: float = 240) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    @property
    def results(self) -> dict[str, Any]:
        """What it printed."""
        return dict(json.loads(self.stdout.read_text()))

    @property
    def failures(self) -> dict[str, tuple[str, str]]:
        """Phase and reason by site, or by node where the server does not know the site."""
        outcome = read_json(self.folder / "server" / "outcome.json")
        return {f["site"]: (f["phase"], f["reason"]) for f in outcome["failures"]}


@dataclass
class Deployment:
    """Provisioned folders below ``folder``, and the processes started from them."""

    folder: Path
    account: list[str] = field(default_factory=lambda: ordinary_account() or [])
    processes: dict[str, Process] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    address: str = ""
    recipes: list[str] = field(default_factory=list)  # what one site has reviewed; the others train any
    _taken: set[int] = field(default_factory=set)
    _up: set[str] = field(default_factory=set)
    _killed: set[str] = field(default_factory=set)

    @property
    def server(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "trial" / "server"

    @property
    def logs(self) -> Path:
        """What the processes print; those of the server begin with ``server-``."""
        return self.folder / "logs"

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.folder / "trial" / "sites" / name

    def make(self) -> None:
        """Everything that people do before the first run, by the commands that they use."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{self.free_port()}"
        words = ["--federation", FEDERATION, "--address", self.address, "--superlink", self.address]
        words += ["--sites", ",".join(ALL), "--targets", TARGET, "--width", str(WIDTH)]
        _command("provision", self.folder / "trial", *words)
        self._configure()
        self.start_superlink()
        registering = self.processes["register"] = Process(
            self.logs / "register.log", ["sh", str(self.server / "register-sites.sh")], leash=False
        )
        for i, name in enumerate(ALL):
            self._equip(name, seed=i)
        digest = read_roster(self.server / "roster.yaml").digest
        self.recipes = [self.recipe(SEED)]
        for name in ALL:
            self.pin(name, self.server / "roster.yaml", digest)
        assert registering.wait(90) == 0, registering.text()
        self.processes["superexec"] = self._script(self.server, "superexec", "server-superexec", [])

    def _configure(self) -> None:
        config = yaml.safe_load((self.server / "config.yaml").read_text())
        for setting in SETTINGS:
            path, _, value = setting.partition("=")
            *sections, key = path.split(".")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = yaml.safe_load(value)
        (self.server / "config.yaml").write_text(yaml.safe_dump(config))

    def _equip(self, name: str, seed: int) -> None:
        folder = self.site(name)
        port = str(self.free_port())
        for script in folder.glob("start-super*.sh"):
            text = re.sub(rf"\b{9094 + seed}\b", port, script.read_text())
            assert port in text
            script.write_text(text)
        if name != STRAY:
            make_site(folder / "data", patients=80, width=WIDTH, seed=seed)
            _rename_patients(folder / "data", name)
            for path in (folder / "data").iterdir():
                path.rename(folder / path.name)
        self.draw_page(name, False)
        _command("keys", "new", name, "--out", folder / "keys")
        words = ["--cancer", name, "--contact", "IT", "--federation", FEDERATION]
        _command("roster", "add", self.server / "roster.yaml", folder / "keys" / f"{name}.public.yaml", *words)
        self._install(folder / "flwr")

    def draw_page(self, name: str, wanted: bool) -> None:
        """Whether a site writes its own page after a merge, which takes it seconds."""
        path = self.site(name) / "site.yaml"
        text, n = re.subn(r"(?m)^page: \w+", f"page: {str(wanted).lower()}", path.read_text())
        assert n == 1
        path.write_text(text)

    def _install(self, home: Path) -> None:
        first = self.site(ALL[0]) / "flwr"
        if home == first:
            _command("app", "install", home)
        else:  # the same files and modes, without Flower's seconds for each
            copy_home(first, home)

    def recipe(self, *settings: str) -> str:
        """The digest that ``fedsteph recipe`` prints, of the coordinator's configuration."""
        words = [word for setting in settings for word in ("--set", setting)]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            _command("recipe", "--config", self.server / "config.yaml", "--json", *words)
        return str(json.loads(said.getvalue())["digest"])

    def pin(self, name: str, roster: Path, digest: str) -> None:
        """Fill in a site file: the pinned roster, and whom the site may share with."""
        path = self.site(name) / "site.yaml"
        shutil.copyfile(roster, path.with_name("roster.yaml"))
        content = yaml.safe_load(path.read_text())
        content["threads"] = 1
        content["federation"]["roster_sha256"] = digest
        content["policy"] |= {"targets": [TARGET], "min_pairs": 1}
        content["reuse_vectors"] = name == TARGET
        content["policy"]["recipes"] = self.recipes if name == REVIEWER else "any"
        path.write_text(yaml.safe_dump(content))

    def free_port(self) -> int:
        """A port that nobody listens on, below those that the system hands out to connections by itself."""
        while True:
            port = random.randrange(20_000, 32_000)
            with socket.socket() as trial, contextlib.suppress(OSError):
                trial.bind(("127.0.0.1", port))
                if port not in self._taken:
                    self._taken.add(port)
                    return port

    # ------------------------------------------------------------ processes

    def _script(self, folder: Path, kind: str, name: str, prefix: list[str]) -> Process:
        return Process(self.logs / f"{name}.log", [*prefix, "sh", str(folder / f"start-{kind}.sh")])

    def start_superlink(self) -> None:
        """Start it, with the database that is there, and wait until it answers."""
        self.processes["superlink"] = self._script(self.server, "superlink", "server-superlink", [])
        host, _, port = self.address.partition(":")

        def listens() -> bool:
            assert self.processes["superlink"].runs, self.processes["superlink"].text()
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return True
            return False

        wait_for("a SuperLink that listens", listens, 60)

    def renew_certificate(self) -> None:
        """Have another one made for the SuperLink, which uses it when it starts again."""
        _command("provision-renew", self.server)

    def online(self, *names: str) -> None:
        """Let exactly these sites be connected, with running SuperNodes and SuperExecs."""
        leaving = self._up - {*names}
        ending = [process for name in sorted(leaving) for process in self.of_site(name)]
        for process in ending:
            process.end()
        for process in ending:
            process.stop()
        self._up -= leaving
        if self._killed:
            # Until it has missed them, the SuperLink turns them away and would send them messages.
            wait_for("the killed to be missed", lambda: self.n_online() == len(self._up), 120, 3)
            self._killed.clear()
        self._start([name for name in names if name not in self._up])
        self._up |= {*names}

    def _start(self, names: list[str]) -> None:
        begun = {}
        for name in names:
            log = self.logs / f"{name}-supernode.log"
            begun[name] = log.stat().st_size if log.exists() else 0
            for kind in ("supernode", "superexec"):
                key = f"{name}-{kind}"
                self.processes[key] = self._script(self.site(name), kind, key, self.account)
        for name in names:
            node = self.processes[f"{name}-supernode"]

            def accepted(node: Process = node, begin: int = begun[name]) -> bool:
                assert node.runs, node.text()
                return "SuperNode ID" in node.text()[begin:]

            wait_for(f"SuperNode {name}", accepted, 90)

    def of_site(self, name: str) -> list[Process]:
        """Its two processes."""
        return [self.processes[f"{name}-{kind}"] for kind in ("supernode", "superexec")]

    def program_ids(self) -> dict[str, list[int]]:
        """The process ids of the SuperNode and the SuperExec of each site that is online."""
        return {
            name: [program.pid for process in self.of_site(name) for program in process.programs if _serves(program)]
            for name in sorted(self._up)
        }

    def kill_site(self, name: str) -> None:
        """``kill -9`` of SuperNode, SuperExec and whatever ClientApp runs."""
        for process in self.of_site(name):
            process.kill()
        self._up.discard(name)
        self._killed.add(name)

    def n_online(self) -> int:
        """How many nodes are connected, as the SuperLink says."""
        return sum(node["status"] == "online" for node in self.flwr("supernode", "list", "fedsteph")["nodes"])

    def limit_files(self, name: str, size: int) -> None:
        """No file that the site's ClientApps write may grow beyond ``size``: a disk that is full."""
        wait_for("SuperExec", lambda: self.processes[f"{name}-superexec"].programs, 30)
        for found in self.processes[f"{name}-superexec"].programs:
            resource.prlimit(found.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def run(self, sites: Iterable[str], *settings: str, server: Path | None = None) -> Run:
        """``fedsteph run``, as the coordinator types it."""
        words = [program("fedsteph"), "run", str(server or self.server), "--json"]
        for setting in (f"federation.sites=[{', '.join(sites)}]", *settings):
            words += ["--set", setting]
        name = f"server-run-{len(self.runs)}"
        stdout = self.logs / f"{name}.out"
        run = Run(Process(self.logs / f"{name}.log", words, leash=False, stdout=stdout), stdout)
        self.runs.append(run)
        self.processes[name] = run.process
        return run

    def doctor(self, name: str) -> dict[str, dict[str, str]]:
        """What ``fedsteph doctor site`` says of a site, by check."""
        words = [*self.account, program("fedsteph"), "doctor", "site", str(self.site(name)), "--quick", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        return {found["name"]: found for found in json.loads(done.stdout)["checks"]}

    def flwr(self, *words: str) -> dict[str, Any]:
        """What a ``flwr`` command answers."""
        env = environment(self.server / "flwr")
        command = [program("flwr"), *words, "--format", "json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
        return dict(json.loads(done.stdout[done.stdout.index("{") :]))

    def config(self, run: Run) -> Config:
        """The configuration that a run had."""
        return load_config(run.folder / "config.yaml")

    def audit(self, folder: Path, run: Run) -> list[Line]:
        """The lines of a run in the audit log of the server or of a site."""
        return [line for line in read_lines(folder / "audit") if line.event.run == run.name]

    def close(self) -> None:
        """End everything, the clients first."""
        for process in self.processes.values():
            process.end()
        for process in self.processes.values():
            process.stop()
        for home in self.folder.glob("trial/sites/*/flwr"):
            make_writable(home)


def _serves(program: psutil.Process) -> bool:
    """Whether it is a SuperNode or a SuperExec; a ClientApp that has just ended may still be listed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "flower-super" in " ".join(program.cmdline())
    return False


def make_writable(folder: Path) -> None:
    """Give the owner the right to write there again."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def make_read_only(folder: Path) -> None:
    """Take it away."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)


def _command(*words: object) -> None:
    """A ``fedsteph`` command, in this process."""
    assert not fedsteph([str(word) for word in words], standalone_mode=False)


def _rename_patients(folder: Path, site: str) -> None:
    """Ids that can be searched for: no other bytes are by chance like them."""
    for path in (folder / "features").iterdir():
        path.rename(path.with_name(f"{site}-patient-{path.name}"))
    for table in folder.glob("*.csv"):
        table.write_text(re.sub(r"\bP(?=\d{3}\b)", f"{site}-patient-P", table.read_text()))
