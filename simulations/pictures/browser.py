"""Takes pictures of pages with headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from fedsteph.common.errors import EngineError

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 120


def chromium() -> str:
    """The path of Chromium. EngineError if there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise EngineError(
            "is not on this machine", where=_NAMES[0], remedy="Install it, on Debian by 'apt-get install chromium'"
        )
    return found


def first_screen(page: Path, out: Path, width: int, height: int) -> None:
    """Write the first screen of a page as PNG, of so many pixels. EngineError if Chromium makes no picture of it."""
    words = [chromium(), "--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--no-sandbox")  # Chromium has none for root
    words += [f"--window-size={width},{height}", f"--screenshot={out}", page.resolve().as_uri()]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
        why = done.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        why = f"not within {_SECONDS} s"
    if not out.is_file():
        raise EngineError(f"made no picture of the page: {why}", where=words[0], remedy="Open the page in it by hand")
