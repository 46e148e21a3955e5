"""The README's pictures, made anew from a run; and how long a page takes to open."""

from __future__ import annotations

import json

import pytest
from chromium import CHROMIUM
from PIL import Image

from fedsteph.simulations.pictures.__main__ import main
from fedsteph.simulations.pictures.load_time import main as load_time

in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


@in_chromium
def test_both_pictures_are_made_and_small(reported, tmp_path, monkeypatch, capsys):
    drawn = reported.run / "report" / "index.html"  # by the same function, which takes a while
    monkeypatch.setattr("fedsteph.simulations.pictures.__main__.write_run_page", lambda run, out: drawn)
    assert main([str(reported.run), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for name in ("page.png", "heatmap.png"):
        assert (tmp_path / name).stat().st_size < 200_000
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 800 and len(picture.convert("L").getcolors()) > 16
        assert f"{tmp_path / name}: " in told


@in_chromium
def test_a_page_s_times_follow_each_other(reported, capsys):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    page = reported.run / "report" / "index.html"
    assert load_time([str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == page.stat().st_size
    assert 0 < found["text"] <= found["loaded"] <= found["pictures"]


def test_without_chromium_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "apt-get install chromium" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_page_is_told(tmp_path, capsys):
    assert load_time([str(tmp_path / "index.html")]) == 1
    assert "is no page" in capsys.readouterr().err
