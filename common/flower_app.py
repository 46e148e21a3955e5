"""The Flower app as a folder of its own, wherever fedsteph is installed; and as the one app that a site will run.

Flower runs, at a site, the code that the server sends, unless an app of that hash is installed already; and it cannot
install another where it may not write. So a site installs the app that it has reviewed, its own fedsteph's, into a
``FLWR_HOME`` that the SuperNode's account cannot change: then nothing else runs there. Flower does not look again at
what is installed, so :func:`digest_of` does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import subprocess
import tempfile
import tomllib
from pathlib import Path

import common
from common.errors import DeploymentError, EngineError
from common.flower import environment, program

_ROOT = Path(common.__file__).resolve().parents[1]
# In a checkout the project files lie at the root; a wheel carries them in configs/app.
_PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE")
_PACKAGES = ("server", "client", "common")
_APPS = "apps"  # below FLWR_HOME
_TEXTS = (".md", ".toml", ".json", ".jsonl", ".fab", "")


def config_folder() -> Path:
    """The configurations that came with this installation."""
    return _ROOT / "configs"


def assemble(folder: Path) -> Path:
    """Copy the app's packages and project files into ``folder``, replacing what an earlier version left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for package in _PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / package, folder / package, ignore=ignored)
    for name in _PROJECT_FILES:
        carried = config_folder() / "app" / name
        shutil.copyfile(carried if carried.exists() else _ROOT / name, folder / name)
    return folder


def install(home: Path) -> Path:
    """Install this fedsteph's own app into a ``FLWR_HOME``, and take away everybody's right to write there.

    Returns:
        the installed app's folder.

    Raises:
        DeploymentError: an app is installed there already.
        EngineError: Flower could not build or install it.
    """
    if installed(home):
        raise DeploymentError(
            "an app is installed there already",
            where=home / _APPS,
            remedy="Choose a new folder for a new version, or remove that one first",
        )
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = assemble(Path(scratch) / "fedsteph")
        _flwr(["build"], folder, home)
        _flwr(["install", str(next(folder.glob("*.fab")))], folder, home)
    if not installed(home):
        raise EngineError("'flwr install' installed nothing", where=home)
    for path in (*home.rglob("*"), home):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    return installed(home)[0]


def installed(home: Path) -> list[Path]:
    """The apps in a ``FLWR_HOME``."""
    return sorted((home / _APPS).iterdir()) if (home / _APPS).is_dir() else []


def own_digest() -> str:
    """The digest of the app that this fedsteph would install."""
    with tempfile.TemporaryDirectory() as scratch:
        return digest_of(assemble(Path(scratch) / "fedsteph"))


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and contents of an app's code, in its assembled or its installed folder.

    Whatever Python could load counts, wherever it lies in the folder, and what Flower is told to load: all but plain
    texts.

    Raises:
        DeploymentError: the folder holds no app.
    """
    try:
        flower = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]
    except (OSError, KeyError, ValueError) as error:
        raise DeploymentError("holds no Flower app", where=folder, remedy="Install it anew") from error
    hasher = hashlib.sha256(json.dumps(flower, sort_keys=True, default=str).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            hasher.update(f"{path.relative_to(folder).as_posix()} is a link\n".encode())
        elif path.is_file() and path.suffix not in _TEXTS:
            content = path.read_bytes()
            hasher.update(f"{path.relative_to(folder).as_posix()}\n{len(content)}\n".encode() + content)
    return hasher.hexdigest()


def _flwr(words: list[str], folder: Path, home: Path) -> None:
    done = subprocess.run(
        [program("flwr"), *words],
        cwd=folder,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise EngineError(f"'flwr {words[0]}' failed: {(done.stderr or done.stdout).strip()[-500:]}", where=home)
