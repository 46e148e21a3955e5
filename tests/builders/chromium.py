"""Pages in headless Chromium, and what axe-core finds in them that keeps readers out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 360, 1280
# A browser has errands of its own; none of them belongs to a page.
_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_QUIET += ["--disable-component-update", "--disable-sync"]
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]  # the last has the order of headings


@contextmanager
def started() -> Iterator[Any]:
    """A browser; a test that needs Playwright and does not have it is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        yield browser
        browser.close()


def violations(browser: Any, path: Path) -> list[tuple[str, str]]:
    """Each rule of WCAG 2.2 A and AA that a page breaks, with one place: on a dark screen, and on a phone with
    all that is closed opened.

    The DevTools protocol, by which Playwright evaluates axe-core, is not bound by the page's policy against scripts.
    """
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.evaluate(resources.files(package).joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = []
    for width, scheme, closed in ((DESKTOP, "dark", True), (PHONE, "light", False)):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.evaluate("closed => document.querySelectorAll('details').forEach(one => one.open ||= !closed)", closed)
        told = page.evaluate("tags => axe.run(document, {runOnly: tags, resultTypes: ['violations']})", _TAGS)
        found += [(one["id"], one["nodes"][0]["html"]) for one in told["violations"]]
    page.close()
    return found
