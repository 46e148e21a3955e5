"""Installs and checks the reviewed app: this fedsteph's own code, where the SuperNode's account cannot change it.

It is one version of those that a site has (:mod:`fedsteph.client.deployment.app_versions`). A ``FLWR_HOME`` holds the
app, the SHA-256 of its bundle, and the programs that a site's scripts and its SuperExec start by name.
``flwr-clientapp`` is :mod:`fedsteph.client.deployment.guard`, and ``flower-supernode`` is
:mod:`fedsteph.client.deployment.prompt_node`. The other programs refuse to run, because the server chooses which
one a SuperExec starts.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from fedsteph.client.deployment import guard, prompt_node
from fedsteph.common.deployment.flower_app import assemble, build, digest_of, flwr, own_digest, version_of
from fedsteph.common.errors import DeploymentError, EngineError
from fedsteph.common.host.disk import writing

BIN = "bin"
PROGRAMS = ("flwr-clientapp", "flower-supernode")
REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
REFUSED_PROGRAM = "#!/bin/sh\necho 'fedsteph: a site runs its reviewed ClientApp and nothing else' >&2\nexit 1\n"
_REMEDY = "As root: fedsteph app install HOME, in a new folder above which the SuperNode's account cannot write"


def install(home: Path) -> Path:
    """Install this fedsteph's own app and remove all write permissions.

    Returns:
        the installed app's folder.

    Raises:
        DeploymentError: ``home`` is not a new or empty folder.
        EngineError: Flower could not build or install the app.
    """
    if home.is_symlink() or (home.exists() and any(home.iterdir())):
        remedy = "Choose a new folder for a new version, or remove that one first"
        raise DeploymentError("is not a new or empty folder", where=home, remedy=remedy)
    home.mkdir(parents=True, exist_ok=True)
    with writing(home), tempfile.TemporaryDirectory() as scratch:
        folder = assemble(Path(scratch) / "fedsteph")
        bundle = build(folder, home)
        flwr(["install", str(bundle)], folder, home)
        (home / guard.PIN).write_text(hashlib.sha256(bundle.read_bytes()).hexdigest() + "\n")
    if len(installed(home)) != 1:
        raise EngineError("'flwr install' did not install one app", where=home)
    with writing(home):
        (home / BIN).mkdir()
        for name, content in _programs(home).items():
            path = home / BIN / name
            path.write_text(content, encoding="utf-8")
            path.chmod(0o755)
    for path in (*home.rglob("*"), home):
        path.chmod(0o555 if path.is_dir() or path.parent.name == BIN else 0o444)  # readable by the SuperNode's account
    return installed(home)[0]


def installed(home: Path) -> list[Path]:
    """The apps in a ``FLWR_HOME``."""
    folder = home / guard.APPS
    return sorted(folder.iterdir()) if folder.is_dir() else []


def require_reviewed(home: Path) -> str:
    """Check that a ``FLWR_HOME`` holds this installation's own code and that this account cannot change it.

    Returns the text that ``doctor`` prints; DeploymentError if it holds something else, or this account can change it.
    """
    found = installed(home)
    if len(found) != 1:
        what = "no app is installed" if not found else f"{len(found)} apps are installed"
        raise DeploymentError(what, where=home, remedy=_REMEDY)
    own = own_digest()
    if digest_of(found[0]) != own:
        raise _another(found[0], home)
    pin = home / guard.PIN
    pinned = pin.read_text(encoding="ascii", errors="replace").strip() if pin.exists() else ""
    if re.fullmatch("[0-9a-f]{64}", pinned) is None or not found[0].name.endswith(f".{pinned[:8]}"):
        raise DeploymentError("is not the SHA-256 of the installed app", where=pin, remedy="Install the app anew")
    programs = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in (home / BIN).glob("*")}
    if programs != _programs(home):
        remedy = "Find out who changed them, or which version they are; then install the app anew"
        raise DeploymentError("the guard's programs are not this fedsteph's", where=home / BIN, remedy=remedy)
    require_read_only(home)
    if os.access(sys.prefix, os.W_OK):
        remedy = "Install fedsteph as another user, e.g. root"
        raise DeploymentError("this account can change the installation itself", where=sys.prefix, remedy=remedy)
    return f"this fedsteph's own code ({own[:12]}...), read-only"


def require_read_only(folder: Path) -> None:
    """Raise DeploymentError if this account can change a folder, or anything in it."""
    for path in (folder.resolve().parent, folder, *folder.rglob("*")):
        # An owner can make it writable again, and write access to the folder above is enough to replace it.
        if os.access(path, os.W_OK) or path.lstat().st_uid == os.geteuid():
            raise DeploymentError("this account can change it", where=path, remedy=_REMEDY)


def _another(app: Path, home: Path) -> DeploymentError:
    """What to say of an installed app that is not this fedsteph's own code."""
    theirs, own = version_of(app), version("fedsteph")
    if theirs != own:
        return DeploymentError(
            f"the installed app is of fedsteph {theirs}, and this is fedsteph {own}",
            where=app,
            remedy=f"Sites and server need one version. As root: {_after(home)}",
        )
    remedy = f"It says that it is of the same version ({own}): find out who changed it; then install it anew"
    return DeploymentError("the installed app is not the code of this fedsteph", where=app, remedy=remedy)


def _after(home: Path) -> str:
    """How another version comes into use."""
    if home.parent.name == "versions":
        folder = home.parent.parent
        return f"fedsteph app install {folder}, then fedsteph app use {folder} VERSION"
    return f"mv {home} {home}-before, then fedsteph app install {home}"


def _programs(home: Path) -> dict[str, str]:
    programs = dict.fromkeys(REFUSED, REFUSED_PROGRAM)
    # A SuperNode is found among the machine's processes by the word that it is started with.
    for name, module, word in (("flwr-clientapp", guard, ""), ("flower-supernode", prompt_node, " flower-supernode")):
        source = Path(str(module.__file__))
        start = f'exec "{sys.executable}" -IB "{home.resolve() / BIN / source.name}"{word} "$@"'
        programs |= {name: f"#!/bin/sh\n{start}\n", source.name: source.read_text(encoding="utf-8")}
    return programs
