"""Old files and folders that go: found by age, counted in bytes, and removed so that none is left in half."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from fedsteph.common.errors import ConfigError
from fedsteph.common.host.disk import writing

_AGE = re.compile(r"([1-9][0-9]{0,4})([dw])")
_GOING = ".pruned"  # end of the name of what is being removed


@dataclass(frozen=True)
class Old:
    """A file or folder that goes, what it is, and its bytes."""

    path: Path
    what: str
    size: int


@dataclass
class Pruning:
    """What goes, and what stays though it is old, with the reason."""

    gone: list[Old] = field(default_factory=list)
    kept: dict[Path, str] = field(default_factory=dict)

    @property
    def freed(self) -> int:
        """Bytes of all that goes."""
        return sum(old.size for old in self.gone)


def read_age(text: str) -> timedelta:
    """The age in ``90d`` (days) or ``12w`` (weeks). Raises ConfigError for another text."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise ConfigError(f"'{text}' is no age", where="--older-than", remedy="Write days or weeks: 90d, 12w")
    return timedelta(days=int(found[1]) * (7 if found[2] == "w" else 1))


def last_change(path: Path) -> float:
    """When a file, or anything in a folder, was last written, in seconds since 1970."""
    return max(one.lstat().st_mtime for one in _all_of(path))


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; links are not followed."""
    return sum(one.lstat().st_size for one in _all_of(path) if one.is_symlink() or one.is_file())


def rotated(log: Path) -> Iterator[Path]:
    """The rotated files of a log, which have its name and an end more."""
    yield from (path for path in sorted(log.parent.glob(f"{log.name}.*")) if path.is_file() and not path.is_symlink())


def half_removed(folder: Path) -> Iterator[Path]:
    """What an earlier pruning was removing when it was stopped."""
    yield from sorted(folder.glob(f".*{_GOING}"))


def remove(old: Iterable[Old]) -> None:
    """Remove files and folders. A folder is renamed first: stopped in between, none is left with its name and half of
    its files. Raises StorageError if one cannot be removed."""
    for one in old:
        path = one.path
        with writing(path):
            if path.is_dir() and not path.is_symlink():
                going = path if path.name.endswith(_GOING) else path.with_name(f".{path.name}{_GOING}")
                path.replace(going)
                shutil.rmtree(going)
            else:
                path.unlink(missing_ok=True)


def _all_of(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        yield from path.rglob("*")
