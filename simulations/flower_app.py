"""The Flower app as a folder of its own, wherever fedsteph is installed: what ``flwr run`` bundles."""

from __future__ import annotations

import shutil
from pathlib import Path

import common

_ROOT = Path(common.__file__).resolve().parents[1]
# In a checkout the project files lie at the root; a wheel carries them in configs/app.
_PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE")
_PACKAGES = ("server", "client", "common")


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
