"""Replaces Flower's ``flwr-clientapp`` at a site: runs the reviewed app, whatever app the server sends.

Flower's own program installs the app that comes with a run, and loads it from a path built from the app's version. The
server chooses that version: ``0.1.0.xxxxxxxx/../../../state/evil`` leads out of a read-only folder. Here the SHA-256 of
the whole app is compared with the pinned one before anything is unpacked, and only the reviewed folder is ever loaded.

``fedsteph app install`` copies this file next to the programs that a SuperExec starts by name, so it must import
nothing but Flower and the standard library.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from flwr.clientapp import utils
from flwr.clientapp.client_app import LoadClientAppError
from flwr.supernode.runtime import run_clientapp

PIN = "reviewed.sha256"  # below FLWR_HOME: SHA-256 of the reviewed app's bundle
APPS = "apps"
# Flower's own program, by its file: its package would load the whole SuperNode with it, a database and a web server,
# which is a third of the seconds that this process takes to start.
PROGRAM = Path(run_clientapp.__file__).parents[1] / "cli" / "flwr_clientapp.py"
_START_SECONDS = 30.0  # Flower gives up a task whose process is not there by then, and starts another process


def main() -> None:
    """Run the ClientApp process of one message."""
    home = Path(os.environ["FLWR_HOME"])
    pinned = (home / PIN).read_text(encoding="ascii").strip()
    (reviewed,) = (home / APPS).iterdir()

    def install(content: bytes, *_: object, **__: object) -> Path:
        if hashlib.sha256(content).hexdigest() != pinned:
            raise LoadClientAppError("this site runs the app that it has reviewed, and this is another")
        return reviewed

    # Fail closed: a Flower version that does these steps elsewhere must not run without the guard.
    for module, name, instead in (
        (run_clientapp, "install_from_fab", install),
        (run_clientapp, "get_project_dir", lambda *_: reviewed),
        (utils, "get_project_dir", lambda *_: reviewed),
    ):
        if not callable(getattr(module, name, None)):
            sys.exit(f"fedsteph: this Flower has no {module.__name__}.{name}; it cannot be held to the reviewed app")
        setattr(module, name, instead)
    if (age := _age()) > _START_SECONDS:
        print(
            f"fedsteph: this process took {age:.0f} s to start, and Flower gives it {_START_SECONDS:g} s: its task is "
            "lost, and is started again. The machine is too slow or too loaded: see 'fedsteph doctor site'",
            file=sys.stderr,
        )
    flwr_clientapp()


def flwr_clientapp() -> None:
    """Run Flower's own program of this name; the process ends if this Flower does not have it where it was."""
    if not PROGRAM.is_file():
        sys.exit(f"fedsteph: this Flower has no {PROGRAM}; it cannot be held to the reviewed app")
    spec = spec_from_file_location("flwr_clientapp", PROGRAM)
    assert spec is not None and spec.loader is not None
    program = module_from_spec(spec)
    spec.loader.exec_module(program)
    program.flwr_clientapp()


def _age() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


if __name__ == "__main__":
    main()
