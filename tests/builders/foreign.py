"""Files of other people that have the names of fedsteph's folders, and must never be imported in their place."""

from __future__ import annotations

from pathlib import Path

NAMES = ("client", "common", "server", "simulations", "configs")
_CODE = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\nraise ImportError(__name__)\n"


def plant(folder: Path) -> Path:
    """Put them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.py").write_text(_CODE)
    return folder


def imported(folder: Path) -> list[str]:
    """Which of them were imported, by whatever process."""
    return sorted(path.stem for path in folder.glob("*.imported"))
