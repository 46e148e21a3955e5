"""Copies of an installed app: Flower takes seconds to install one."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_home(source: Path, home: Path) -> Path:
    """The same files and modes as in ``source``, but for the programs that name their own folder."""
    shutil.copytree(source, home, dirs_exist_ok=True)
    for program in (*home.rglob("bin/flwr-clientapp"), *home.rglob("bin/flower-supernode")):
        text = program.read_text()
        assert str(source.resolve()) in text
        replace(program, text.replace(str(source.resolve()), str(home.resolve())))
    return home


def replace(path: Path, text: str) -> None:
    """Put a text into a read-only file of a read-only folder, and leave both so."""
    folder, mode = path.parent, path.parent.stat().st_mode
    folder.chmod(0o755)
    file_mode = path.stat().st_mode if path.exists() else 0o444
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(file_mode)
    folder.chmod(mode)
