"""Every page opened in headless Chromium: nothing is asked of the network, nothing breaks, all figures are seen."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, DESKTOP, PHONE, started, violations
from reports import Reported, fedsteph
from sites import TINY

from fedsteph.client.models.predict import PatientView
from fedsteph.client.report.patients_page import patients_page
from fedsteph.common.report.page import html

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

# And how many images each has, but for the patients', which are drawn inline; the study's page is opened with the
# other tests of studies.
PAGES = {"run": 19, "coordinator": 0, "shared": 2, "patients": 0, "evaluation": 2, "training": 3, "hostile": 0}
HOSTILE = [
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned=1">',
    "$x_{1}$ --> </svg>",
    "{{ 7 * 7 }}",
]


@dataclass
class Seen:
    """A page, and what happened since it was opened."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as opened:
        yield opened


@pytest.fixture(scope="module")
def paths(reported: Reported, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    model = reported.state("alpha") / "deployed" / "fold_0.safetensors"
    words = ["--features", reported.sites / "gamma" / "features", "--out", folder / "risk.csv"]
    assert fedsteph("predict", model, *words, "--page", folder / "patients.html", "--patient", "P001-DX1") == 0
    site = ["--site", reported.sites / "gamma"]
    assert fedsteph("evaluate", model, *site, "--held-out-only", "--out", folder / "evaluation") == 0
    settings = [word for setting in TINY for word in ("--set", setting)]
    assert fedsteph("train", reported.sites / "gamma", "--out", folder / "own", *settings) == 0
    survival = [0.9, 0.8, 0.6]
    views = [
        PatientView(name, -2.0, 50.0, survival, survival, {name: 0.5}, {name: 0.5})  # type: ignore[arg-type]
        for name in HOSTILE
    ]
    (folder / "hostile.html").write_text(html(patients_page(views, HOSTILE[0])))
    found = {"run": reported.run / "report"}
    found |= {"evaluation": folder / "evaluation", "training": folder / "own" / "report-training"}
    found |= {"shared": reported.shared("alpha"), "coordinator": reported.shared("coordinator")}
    made = {name: folder / f"{name}.html" for name in ("patients", "hostile")}
    return {name: path / "index.html" for name, path in found.items()} | made


@pytest.fixture(scope="module")
def opened(browser, paths) -> dict[str, Seen]:
    """Every page, opened offline."""
    found = {}
    for name in PAGES:
        context = browser.new_context(viewport={"width": DESKTOP, "height": 900}, offline=True)
        seen = found[name] = Seen(context.new_page())
        seen.page.on("console", lambda told, to=seen.errors: to.append(told.text) if told.type == "error" else None)
        seen.page.on("pageerror", lambda error, to=seen.errors: to.append(str(error)))
        seen.page.on("dialog", lambda dialog, to=seen.errors: to.append(dialog.message))
        seen.page.on("request", lambda request, to=seen.requests: to.append(request.url))
        seen.page.goto(paths[name].as_uri(), wait_until="load")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_an_error_asks_for_nothing_fits_and_shows_its_figures(opened, paths, name):
    seen = opened[name]
    sizes = seen.page.evaluate(
        "Promise.all([...document.images].map(async i => { await i.decode(); const r = i.getBoundingClientRect();"
        " return [i.naturalWidth, i.naturalHeight, r.width, r.height, i.alt.length] }))"
    )
    assert len(sizes) >= PAGES[name]
    for natural_width, natural_height, width, height, alt in sizes:
        assert natural_width > 100 and natural_height > 100 and alt > 20
        assert width > 250 and height / width == pytest.approx(natural_height / natural_width, rel=0.01)
    for width in (PHONE, DESKTOP):
        seen.page.set_viewport_size({"width": width, "height": 900})
        # Tables scroll by themselves; the page as a whole fits its screen.
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [paths[name].as_uri()]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_for_readers_who_use_a_keyboard_or_do_not_see_well(browser, paths, name):
    assert violations(browser, paths[name]) == []


def test_letters_are_large_enough_on_a_phone(opened):
    page = opened["run"].page
    page.set_viewport_size({"width": PHONE, "height": 900})
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('p, li, td, th, figcaption, summary')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    # A figure's smallest letters are 7 points of a width of 4.6 inches, drawn into what a phone has.
    widths = page.evaluate("[...document.images].map(i => i.getBoundingClientRect().width)")
    assert min(widths) * 7 / (4.6 * 72) >= 6.5


def test_the_details_open_every_link_of_the_page_leads_somewhere_and_it_prints(opened):
    page = opened["run"].page
    assert page.evaluate(
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))"
    )
    page.locator("summary").first.click()
    assert page.locator("details[open]").count() == 1
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and len(printed) > 20_000


def test_hostile_names_are_text_and_nothing_else(opened):
    page = opened["hostile"].page
    assert page.evaluate("window.pwned") is None
    shown = page.evaluate("document.body.innerText")
    for name in HOSTILE:
        assert name in shown
    assert page.locator("script").count() == 1  # the page's own
    assert page.locator("figure > svg").count() == len(HOSTILE)
    assert page.evaluate("[...document.images].every(i => i.src.startsWith('data:'))")


def test_patients_are_found_and_sorted_by_keyboard_and_printed_one_per_page(browser, tmp_path):
    survival = [0.9, 0.8, 0.6]
    risks = {"P10": -1.0, "P2": -3.0, "Q1": -2.0}
    views = [PatientView(name, risk, 50.0, np.array(survival), None, {}, {}) for name, risk in risks.items()]
    (tmp_path / "p.html").write_text(html(patients_page(views, "m")))
    page = browser.new_context(offline=True).new_page()
    page.goto((tmp_path / "p.html").as_uri())

    def names(part: str) -> list[str]:
        shown = page.evaluate(
            f"[...document.querySelectorAll('{part}')].filter(e => !e.hidden).map(e => e.textContent)"
        )
        return [re.search(r"[PQ]\d+", text)[0] for text in shown]

    rows, parts = "main tr:has(a)", "main .apart"
    assert names(parts) == ["P10", "Q1", "P2"] and page.inner_text("output") == "3 of 3 patients"
    pages = len(re.findall(rb"/Type\s*/Page[^s]", page.pdf(format="A4")))
    assert pages == 5  # all, three patients, limits
    page.get_by_label("Order").focus()
    page.keyboard.press("End")
    assert names(parts) == names(rows) == ["P2", "P10", "Q1"]
    page.get_by_label("Find a patient").focus()
    page.keyboard.type("p")
    assert names(parts) == names(rows) == ["P2", "P10"] and page.inner_text("output") == "2 of 3 patients"
    page.get_by_role("link", name="P10", exact=True).press("Enter")
    assert page.evaluate("document.querySelector(location.hash).textContent.trim()").startswith("Patient P10")
    page.context.close()


_INTRUDERS = """address => {
    for (const [tag, key] of [['img', 'src'], ['iframe', 'src'], ['script', 'src'], ['object', 'data']]) {
        const made = document.createElement(tag);
        made[key] = address + '/' + tag;
        document.body.append(made);
    }
    const style = document.createElement('style');
    style.textContent = `body { background: url(${address}/style) } @import '${address}/import';`;
    document.head.append(style);
    return fetch(address).catch(() => null);
}"""


def test_whatever_got_into_a_page_could_load_nothing(browser, paths):
    """An image, a style, a frame and a script that ask a listening server: the page's own policy stops them all.

    Chromium may connect for a frame before it looks at the policy; it then says nothing.
    """
    met: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    met.append(connection.recv(1024))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        context = browser.new_context()
        page = context.new_page()
        refused: list[str] = []
        page.on("console", lambda told: refused.append(told.text))
        page.goto(paths["run"].as_uri())
        page.evaluate(_INTRUDERS, address)
        page.wait_for_load_state("networkidle")
        context.close()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert b"".join(met) == b""
    assert sum("Content Security Policy" in text for text in refused) >= 4


def test_the_listening_server_would_have_heard_it(browser, tmp_path):
    """The same intruders in a page without the policy are served."""
    asked: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.route("**/*", lambda route: (asked.append(route.request.url), route.abort()))
    page.set_content("<html><body></body></html>")
    page.evaluate(_INTRUDERS, "http://127.0.0.1:9")
    page.wait_for_load_state("networkidle")
    context.close()
    assert {"img", "iframe", "script"} <= {url.rpartition("/")[2] for url in asked}
