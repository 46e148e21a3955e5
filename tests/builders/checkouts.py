"""Copies of this checkout, links and all, without what tools leave in it."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_checkout(folder: Path) -> Path:
    """Copy the checkout into a new folder."""
    left = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*cache")
    return Path(shutil.copytree(ROOT, folder, symlinks=True, ignore=left))
