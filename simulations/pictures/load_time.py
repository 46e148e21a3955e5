"""How long a page takes to open in headless Chromium: ``python -m fedsteph.simulations.pictures.load_time PAGE``.

It opens the page a few times, each in a new context, and prints the medians of the browser's own navigation timing, in
seconds: until the text is read (DOMContentLoaded), until everything is loaded, and until all pictures are decoded. It
needs Chromium and the extra ``test`` (Playwright).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from fedsteph.common.errors import ConfigError, FedstephError, RunFolderError
from fedsteph.simulations.pictures.browser import chromium

_TIMES = """async () => {
    const [opened] = performance.getEntriesByType('navigation');
    await Promise.all([...document.images].map(image => image.decode()));
    return [opened.domContentLoadedEventEnd, opened.loadEventEnd, performance.now()];
}"""


def load_times(page: Path, times: int = 3) -> dict[str, float]:
    """Median seconds from the start of the navigation to three moments.

    Raises:
        RunFolderError: there is no such page.
        ConfigError, EngineError: Playwright or Chromium is missing.
    """
    if not page.is_file():
        raise RunFolderError("is no page", where=page, remedy="Give an index.html that 'fedsteph report' wrote")
    if importlib.util.find_spec("playwright") is None:
        raise ConfigError("is not installed", where="playwright", remedy="pip install 'fedsteph[test]'")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (of an extra)

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        found = [_opened(browser, page) for _ in range(times)]
        browser.close()
    names = ("text", "loaded", "pictures")
    return {name: median(one[i] for one in found) / 1000 for i, name in enumerate(names)}


def _opened(browser: Any, page: Path) -> list[float]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    opened = context.new_page()
    opened.goto(page.resolve().as_uri(), wait_until="load", timeout=120_000)
    found: list[float] = opened.evaluate(_TIMES)
    context.close()
    return found


def main(words: list[str] | None = None) -> int:
    """Measure a page; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedsteph.simulations.pictures.load_time", description=__doc__)
    parser.add_argument("page", type=Path, help="an index.html")
    given = parser.parse_args(words)
    try:
        found: dict[str, float] = load_times(given.page)
    except FedstephError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"bytes": given.page.stat().st_size} | {name: round(value, 3) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
