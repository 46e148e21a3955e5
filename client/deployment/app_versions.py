"""The reviewed apps of a site: a folder per version, and a file that names the one in use.

    FOLDER/versions/VERSION-DIGEST/   a FLWR_HOME of :mod:`fedsteph.client.deployment.reviewed_app`, with its own guard
    FOLDER/current                    the name of the version in use; one rename switches it
    FOLDER/bin/                       ``flwr-clientapp`` starts the guard of that version, and of no other folder, and
                                      ``flower-supernode`` its SuperNode

A version is named after its fedsteph and the digest of its code, so that a changed one no longer has its name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from fedsteph.client.deployment import reviewed_app
from fedsteph.client.deployment.reviewed_app import BIN, PROGRAMS, REFUSED, REFUSED_PROGRAM, installed, require_reviewed
from fedsteph.common.deployment.flower_app import digest_of, own_digest, version_of
from fedsteph.common.errors import DeploymentError
from fedsteph.common.host.disk import writing

VERSIONS = "versions"
CURRENT = "current"
_NAME = re.compile("[0-9A-Za-z][0-9A-Za-z.+]{0,63}-[0-9a-f]{12}")
_STARTS = """\
#!/bin/sh
# Starts {program} of the reviewed version that 'current' names: a folder in versions/, and no link to another place.
set -eu
name=$(cat "{folder}/current")
case $name in
  '' | [!0-9A-Za-z]* | *[!0-9A-Za-z.+-]*) echo "fedsteph: 'current' names no version" >&2; exit 1 ;;
esac
FLWR_HOME="{folder}/versions/$name"
for part in "{folder}/versions" "$FLWR_HOME" "$FLWR_HOME/bin" "$FLWR_HOME/bin/{program}"; do
  if [ -L "$part" ]; then echo "fedsteph: $part is a link" >&2; exit 1; fi
done
export FLWR_HOME
exec "$FLWR_HOME/bin/{program}" "$@"
"""


def install_version(folder: Path) -> str:
    """Install this fedsteph's own code as a version, read-only; it is used at once only if no other is in use.

    Returns its name. Installing what is there already changes nothing.

    Raises:
        DeploymentError: the folder holds something else, or a version of this name whose files have changed.
        EngineError: Flower could not build or install the app.
    """
    _require_layout(folder)
    name = f"{version('fedsteph')}-{own_digest()[:12]}"
    home = folder / VERSIONS / name
    if home.exists() or home.is_symlink():
        _require_whole(folder, name)
    else:
        with _opened(folder), _opened(folder / VERSIONS):
            try:
                reviewed_app.install(home)
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)
                raise
    with _opened(folder):
        _write_programs(folder)
    if not (folder / CURRENT).exists():
        use(folder, name)
    return name


def versions(folder: Path) -> list[str]:
    """The names of the installed versions."""
    found = folder / VERSIONS
    return sorted(path.name for path in found.iterdir() if _NAME.fullmatch(path.name)) if found.is_dir() else []


def use(folder: Path, name: str) -> None:
    """Switch to an installed version, by one rename; what runs already goes on with the other.

    Raises DeploymentError if there is no such version, or its files are not those that its name says.
    """
    if name not in versions(folder):
        names = ", ".join(versions(folder)) or "none; see 'fedsteph app install'"
        raise DeploymentError(f"there is no version {name}", where=folder, remedy=f"Installed: {names}")
    _require_whole(folder, name)
    with _opened(folder):
        _write(folder / CURRENT, f"{name}\n", 0o444)


def current(folder: Path) -> str:
    """The name of the version in use. Raises DeploymentError if ``current`` names none that is installed here."""
    path = folder / CURRENT
    name = path.read_text(encoding="ascii", errors="replace").strip() if path.is_file() else ""
    if path.is_symlink() or name not in versions(folder):
        remedy = f"As root: fedsteph app list {folder}, then fedsteph app use {folder} VERSION"
        raise DeploymentError("names no installed version", where=path, remedy=remedy)
    return name


def require_current(folder: Path) -> str:
    """:func:`require_reviewed` of the version in use; and that this account can change nothing of the whole folder."""
    if not (folder / VERSIONS).exists():
        return require_reviewed(folder)  # as version 0.1.0 installed it, without versions
    name = current(folder)
    _require_no_links(folder, name)
    said = require_reviewed(folder / VERSIONS / name)
    _require_whole(folder, name)
    found = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in (folder / BIN).glob("*")}
    if found != _programs(folder):
        remedy = "Find out who changed them; then, as root: fedsteph app install again"
        raise DeploymentError("its programs are not this fedsteph's", where=folder / BIN, remedy=remedy)
    reviewed_app.require_read_only(folder)
    return f"{said}, version {name}"


def _require_no_links(folder: Path, name: str) -> None:
    home = folder / VERSIONS / name
    links = [path for path in (folder / VERSIONS, home, *home.rglob("*")) if path.is_symlink()]
    if links:
        raise DeploymentError("is a link", where=links[0], remedy="Find out who made it; then install the version anew")


def _require_whole(folder: Path, name: str) -> None:
    _require_no_links(folder, name)
    home = folder / VERSIONS / name
    apps = installed(home)
    if len(apps) != 1 or name != f"{version_of(apps[0])}-{digest_of(apps[0])[:12]}":
        remedy = f"Find out who changed it; then, as root: rm -r {home}, and install it anew"
        raise DeploymentError("its files are not those that its name says", where=home, remedy=remedy)


def _require_layout(folder: Path) -> None:
    if folder.is_symlink():
        raise DeploymentError("is a link", where=folder, remedy="Give the folder itself")
    if (folder / "apps").exists():
        remedy = f"Stop the site's services; as root: mv {folder} {folder}-before, and install again. Back: mv it back"
        raise DeploymentError("is an installation of fedsteph 0.1.0, without versions", where=folder, remedy=remedy)
    if folder.exists() and any(folder.iterdir()) and not (folder / VERSIONS).is_dir():
        remedy = "Choose a new folder, or one that 'fedsteph app install' made"
        raise DeploymentError("is not a new or empty folder", where=folder, remedy=remedy)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _programs(folder: Path) -> dict[str, str]:
    starts = {name: _STARTS.format(folder=folder.resolve(), program=name) for name in PROGRAMS}
    return starts | dict.fromkeys(REFUSED, REFUSED_PROGRAM)


def _write_programs(folder: Path) -> None:
    with _opened(folder / BIN):
        for name, content in _programs(folder).items():
            _write(folder / BIN / name, content, 0o555)


def _write(path: Path, content: str, mode: int) -> None:
    """Write a file atomically; whoever may read it can at every moment."""
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        part.write_text(content, encoding="utf-8")
        part.chmod(mode)
        part.replace(path)


@contextmanager
def _opened(folder: Path) -> Iterator[None]:
    """Inside the block its owner can write the folder, which is made if it is absent; afterwards nobody can."""
    with writing(folder):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        try:
            yield
        finally:
            folder.chmod(0o555)
