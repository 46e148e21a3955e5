"""The target's page is drawn in a process of its own: a merge's answer neither waits for it nor fails with it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from fedsteph.client.report.page_process import draw_afterwards
from fedsteph.client.site.site import Site


@pytest.fixture
def site(tmp_path) -> Site:
    """A site without a result, so that its page cannot be drawn."""
    (tmp_path / "site.yaml").write_text("name: a\nstate: kept\n")
    return Site.open(tmp_path)


def said(site: Site) -> str:
    log = site.state / "site.log"
    return log.read_text() if log.exists() else ""


def test_it_is_not_waited_for_and_only_the_sites_log_hears_of_an_error(site, tmp_path, monkeypatch, capfd):
    """Also from a folder with files of fedsteph's names, and with a path to them."""
    for name in ("fedsteph", "client"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = []
    begin = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **more: started.append(begin(*words, **more)))
    draw_afterwards(site, tmp_path / "site.yaml")
    [process] = started
    assert process.poll() is None and said(site) == ""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert process.returncode == 0
    assert "its page could not be drawn; 'fedsteph report'" in said(site) and "ModelFileError" in said(site)
    assert capfd.readouterr() == ("", "")


def test_a_process_that_cannot_be_started_is_only_logged(site, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    draw_afterwards(site, site.folder / "site.yaml")
    assert "its page could not be drawn ([Errno 2]" in said(site)
