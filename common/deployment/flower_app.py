"""The Flower app as a folder of its own, wherever fedsteph is installed: what a run bundles and a site reviews."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import fedsteph.common
from fedsteph.common.deployment.flower_programs import environment, program
from fedsteph.common.errors import DeploymentError, EngineError

_FRONT_DOOR = ("__init__.py", "client_app.py", "server_app.py")  # of the folder fedsteph: what an app needs of it
# A checkout or an installed package: either has the packages side by side. In a checkout the project files lie there
# too; a wheel carries them in configs/app.
_ROOT = Path(fedsteph.common.__file__).resolve().parents[1]
_PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE")
_PACKAGES = ("server", "client", "common")
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
    (folder / "fedsteph").mkdir()
    for name in _FRONT_DOOR:
        shutil.copyfile(Path(fedsteph.__file__).with_name(name), folder / "fedsteph" / name)
    for name in _PROJECT_FILES:
        carried = config_folder() / "app" / name
        shutil.copyfile(carried if carried.exists() else _ROOT / name, folder / name)
    return folder


def build(folder: Path, home: Path) -> Path:
    """Bundle an assembled app as Flower does; the same content makes the same bundle.

    Args:
        home: a ``FLWR_HOME``.

    Raises:
        EngineError: Flower could not.
    """
    flwr(["build"], folder, home)
    return next(folder.glob("*.fab"))


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
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DeploymentError("holds no Flower app", where=folder, remedy="Install it anew") from error
    hasher = hashlib.sha256(json.dumps(flower, sort_keys=True, default=str).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            hasher.update(f"{path.relative_to(folder).as_posix()} is a link\n".encode())
        elif path.is_file() and path.suffix not in _TEXTS:
            content = path.read_bytes()
            hasher.update(f"{path.relative_to(folder).as_posix()}\n{len(content)}\n".encode() + content)
    return hasher.hexdigest()


def flwr(words: list[str], folder: Path, home: Path) -> None:
    """Call ``flwr`` in a folder.

    Raises:
        EngineError: it failed.
    """
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
