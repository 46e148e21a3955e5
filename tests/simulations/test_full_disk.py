"""Commands on a disk that fills up: the path and a remedy in one line, and with room the same command goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from full_disk import no_file_above
from reports import coarse_landscapes
from sites import TINY
from studies import write_study

from fedsteph.common.host.checked_file import read_json

LIMITS = (200, 4000)  # bytes that a file may have: too few for a table, and for a model or a page
SETTINGS = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture
def fill(cli):
    """Runs a command under each limit, then with room; returns how often the disk was full."""

    def run(*words: object, limits: tuple[int, ...] = LIMITS) -> int:
        full = 0
        for limit in limits:
            with no_file_above(limit):
                code, _, err = cli(*words)
            assert code in (0, 1), err
            if code:
                full += 1
                last = err.strip().splitlines()[-1]
                assert last.startswith("error: ") and "MiB are free there" in last, last
                assert "ulimit -f" in last or "Make room there" in last, last
        code, _, err = cli(*words)
        assert code == 0, err
        return full

    return run


def test_train(fill, study_sites, tmp_path):
    site = Path(shutil.copytree(study_sites / "alpha", tmp_path / "site"))
    assert fill("train", site, *SETTINGS) >= 1
    assert [*site.rglob("local.safetensors")] and not [*site.rglob("*.damaged")]


def test_simulate_and_report(fill, study_sites, tmp_path):
    words = ["--sites", study_sites, "--engine", "in-process", "--no-report", *SETTINGS]
    assert fill("simulate", "--out", tmp_path / "run", *words, limits=(4000,)) == 1
    assert list(read_json(tmp_path / "run" / "results.json")["targets"]) == ["alpha"]
    with coarse_landscapes():
        assert fill("report", tmp_path / "run", limits=(4000,)) == 1
    assert "</html>" in (tmp_path / "run" / "report" / "index.html").read_text()


def test_benchmark(fill, study_sites, units_done, tmp_path):
    methods = ["local", "half_average", "steph", "deployed"]
    study = write_study(tmp_path / "study.yaml", methods=methods, targets=["alpha"], seeds=[0], variants=None)
    assert fill("benchmark", study, "--sites", study_sites, "--no-report", "--out", tmp_path / "out") >= 1
    assert read_json(tmp_path / "out" / "results.json")["failures"] == []
