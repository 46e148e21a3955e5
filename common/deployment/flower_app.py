"""Assembles the Flower app into its own folder, builds its bundle, and computes the digest of its code.

The server bundles this app for a run; a site reviews the same code before it installs it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import fedsteph.common
from fedsteph.common.deployment.flower_programs import call_flwr
from fedsteph.common.errors import DeploymentError, EngineError
from fedsteph.common.host.disk import writing

_FRONT_DOOR = ("__init__.py", "client_app.py", "server_app.py")  # the files of fedsteph/ that the app needs
# The folder of the packages, in a checkout or in an installation. In a checkout the project files are there too; a
# wheel has them in configs/app.
_ROOT = Path(fedsteph.common.__file__).resolve().parents[1]
_PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE")
_PACKAGES = ("server", "client", "common")
_TEXTS = (".md", ".toml", ".json", ".jsonl", ".fab", "")


def config_folder() -> Path:
    """The folder of the configurations of this installation."""
    return _ROOT / "configs"


def assemble(folder: Path) -> Path:
    """Copy the app into ``folder``, emptied first; returns it. Raises StorageError if its disk cannot be written."""
    with writing(folder):
        return _copied(folder)


def _copied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for package in _PACKAGES:
        shutil.copytree(_ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "fedsteph").mkdir()
    for name in _FRONT_DOOR:
        shutil.copyfile(Path(fedsteph.__file__).with_name(name), folder / "fedsteph" / name)
    for name in _PROJECT_FILES:
        carried = config_folder() / "app" / name
        shutil.copyfile(carried if carried.exists() else _ROOT / name, folder / name)
    return folder


def build(folder: Path, home: Path) -> Path:
    """Build an assembled app's bundle, a ``.fab`` file; the same content makes the same. Raises EngineError."""
    flwr(["build"], folder, home)
    return next(folder.glob("*.fab"))


def own_digest() -> str:
    """:func:`digest_of` the app of this installation of fedsteph."""
    with tempfile.TemporaryDirectory() as scratch:
        return digest_of(assemble(Path(scratch) / "fedsteph"))


def digest_of(folder: Path) -> str:
    """SHA-256 over an app's code: file names and contents, and the ``tool.flwr`` section of ``pyproject.toml``.

    All files in the folder count, except plain texts, so that everything that Python could load is covered. The digest
    is the same for the assembled and the installed app. Raises DeploymentError if the folder holds no Flower app.
    """
    flower = _project(folder, "tool", "flwr")
    hasher = hashlib.sha256(json.dumps(flower, sort_keys=True, default=str).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            hasher.update(f"{path.relative_to(folder).as_posix()} is a link\n".encode())
        elif path.is_file() and path.suffix not in _TEXTS:
            content = path.read_bytes()
            hasher.update(f"{path.relative_to(folder).as_posix()}\n{len(content)}\n".encode() + content)
    return hasher.hexdigest()


def version_of(folder: Path) -> str:
    """The version that an app says it is of, without unprintable characters; errors as :func:`digest_of`."""
    return "".join(character for character in str(_project(folder, "project", "version")) if character.isprintable())


def _project(folder: Path, section: str, key: str) -> Any:
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))[section][key]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DeploymentError("holds no Flower app", where=folder, remedy="Install it anew") from error


def flwr(words: list[str], folder: Path, home: Path) -> None:
    """Run ``flwr WORDS`` in ``folder`` with ``home`` as its ``FLWR_HOME``. Raises EngineError if it failed."""
    done = call_flwr(words, folder, home)
    if done.returncode != 0:
        raise EngineError(f"'flwr {words[0]}' failed: {(done.stderr or done.stdout).strip()[-500:]}", where=home)
