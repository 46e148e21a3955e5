"""Where features are read from, decided by their size and by the room that there is."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from each_case import each

from fedsteph.client.data.feature_cache import room
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.data.storage import Storage
from fedsteph.common.errors import StorageError

GIB = 2**30


@each(("free", "kept"), [(None, "stored"), (10 * GIB, "stored"), (10 * GIB - 1, None)])
def test_auto_keeps_nothing_where_there_is_no_room(free: int | None, kept: str | None) -> None:
    storage = Storage.of(DataSettings(cache_gib=2), 10 * GIB, free)
    assert storage.keep == kept and str(storage).endswith("; there is no room to keep them on disk") == (kept is None)


def test_auto_does_not_ask_for_room_where_memory_suffices() -> None:
    storage = Storage.of(DataSettings(cache_gib=2), GIB, 0)
    assert storage.keep is None and str(storage) == "features: 1.0 GiB, held in memory"


@each(("how", "needed"), [("stored", 10 * GIB), ("float16", 5 * GIB)])
def test_what_was_asked_for_is_refused_before_anything_is_written(how: str, needed: int) -> None:
    settings = DataSettings(disk_cache=how)
    assert Storage.of(settings, 10 * GIB, needed).keep == how
    with pytest.raises(StorageError, match=f"need {needed / GIB:.1f} GiB, and there is room for") as caught:
        Storage.of(settings, 10 * GIB, needed - 1)
    assert "set data.disk_cache to never" in str(caught.value)


def test_room_is_what_is_free_but_for_two_gib_and_what_is_taken_already(tmp_path, monkeypatch) -> None:
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(Path(path))
        return SimpleNamespace(free=5 * GIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    folder = tmp_path / "state" / "feature-cache"
    assert room(folder) == 3 * GIB
    assert asked == [tmp_path], "the disk that the folder will be on"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 32}.safetensors").write_bytes(b"x" * 1000)
    assert room(folder) == 3 * GIB + 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    assert room(folder) == 1000
