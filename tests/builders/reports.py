"""One small run with two targets, its sites and what it wrote, for the tests of pages."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sites import TINY, make_site

from fedsteph.__main__ import app
from fedsteph.client.report.developers import landscape
from fedsteph.commands.terminal.exit_codes import run as run_command
from fedsteph.common.host.checked_file import read_json

ALPHA, BETA, GAMMA = 67, 53, 41  # patients; in no other role do these numbers occur
POLICIES = {
    "alpha": "policy: {targets: [beta], min_patients: 1, min_events: 1, min_pairs: 1, recipes: any, min_group: 15, "
    "metrics: [patients, events, c_index, curves]}\n",
    "beta": "policy: {targets: [alpha], min_patients: 1, min_events: 1, min_pairs: 1, recipes: any}\n",
    "gamma": "policy: {targets: [alpha, beta], min_patients: 1, min_events: 1, recipes: any, metrics: []}\n",
}


@dataclass(frozen=True)
class Reported:
    """A run that has come to its end, with its page."""

    run: Path
    sites: Path

    @property
    def results(self) -> dict[str, Any]:
        return read_json(self.run / "results.json")

    def state(self, site: str) -> Path:
        return self.run / "sites" / site

    def page(self, name: str, *words: object) -> Path:
        """The folder of what ``fedsteph report`` makes of the run with these words, once, and of what it says."""
        folder = self.run.parent / "pages" / name
        if not folder.exists():
            with redirect_stdout(io.StringIO()) as told, coarse_landscapes():
                assert fedsteph("report", self.run, *words, "--out", folder, "--json") == 0
            (folder / "told.json").write_text(told.getvalue())
        return folder

    def shared(self, name: str) -> Path:
        """What a target, or the coordinator, may show to others."""
        words = [] if name == "coordinator" else ["--target", name]
        return self.page(f"shared/{name}", *words, "--shared")

    def labels(self, site: str) -> pd.DataFrame:
        return pd.read_csv(self.sites / site / "labels.csv", dtype={"patient_id": str})


@contextmanager
def coarse_landscapes() -> Iterator[None]:
    """Inside the block, pages draw landscapes of 4 x 4 points, which is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landscape, "Budget", partial(landscape.Budget, grid=4))
        yield


def fedsteph(*words: object) -> int:
    return run_command(lambda: app([str(word) for word in words], standalone_mode=False))


def make_run(folder: Path) -> Reported:
    for seed, (name, patients) in enumerate((("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA))):
        make_site(folder / "sites" / name, patients=patients, seed=seed, event_share=0.7, max_instances=5)
        (folder / "sites" / name / "site.yaml").write_text(POLICIES[name])
    settings = [*TINY, "training.epochs=3", "steph.gamma=0.0", "evaluation.bootstrap=50"]
    words = [word for setting in (*settings, "federation.targets=[alpha,beta]") for word in ("--set", setting)]
    run = folder / "run"
    plain = ["--out", run, "--engine", "in-process", "--tensorboard"]
    with coarse_landscapes():
        assert fedsteph("simulate", "--sites", folder / "sites", *plain, *words) == 0
    return Reported(run, folder / "sites")


def visible(page: str) -> str:
    """What a reader sees of a page, and what stands in its pictures, as one text without markup."""
    shown = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    alts = " ".join(re.findall(r'alt="([^"]*)"', shown))
    return html.unescape(re.sub(r"<[^>]*>", " ", shown) + alts) + " ".join(svg_texts(page))


def svgs(page: str) -> list[str]:
    """The page's pictures as SVG text."""
    found = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    return [base64.b64decode(data).decode() for data in found]


def svg_texts(page: str) -> list[str]:
    """The words in the pictures: letters are drawn as shapes, and each text stands in a comment before them."""
    return [html.unescape(text).strip() for svg in svgs(page) for text in re.findall(r"<!--(.*?)-->", svg, re.DOTALL)]
