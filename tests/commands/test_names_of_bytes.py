"""A name that is not UTF-8 is refused by name, or left out with a warning; no command ends in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from client_builders import SMALL
from sites import make_site

from fedsteph.client.models.model_file import save_base
from fedsteph.common.model.initial_model import untrained_model

ODD = b"P001\xff\xfe.h5"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with one more feature file, of a name that no label can hold."""
    folder = make_site(tmp_path / "site", patients=12)
    content = next((folder / "features").iterdir()).read_bytes()
    Path(os.fsdecode(os.fsencode(folder / "features") + b"/" + ODD)).write_bytes(content)
    return folder


def test_data_check_and_train_name_it_and_go_on(cli, site: Path) -> None:
    code, out, _ = cli("data", "check", site, "--json")
    [problem] = json.loads(out)["problems"]
    assert (code, problem["severity"]) == (1, "warning")
    assert problem["where"].endswith(r"P001\udcff\udcfe.h5") and "is not UTF-8" in problem["what"]
    code, out, _ = cli("data", "check", site)
    assert code == 1 and "is not UTF-8" in " ".join(out.split())
    words = ("--set", "training.epochs=1", "--set", "model.embed=4", "--set", "model.attention=3")
    assert cli("train", site, *words, "--set", "evaluation.folds=1")[0] == 0


def test_predict_refuses_it_by_name(refused, site: Path, tmp_path: Path) -> None:
    save_base(tmp_path / "m.safetensors", untrained_model(SMALL, 0), m0_sha256="0" * 64)
    said = refused("predict", tmp_path / "m.safetensors", "--features", site / "features", "--out", tmp_path / "r.csv")
    assert r"P001\udcff\udcfe.h5: its name is not UTF-8. Rename it" in said and not (tmp_path / "r.csv").exists()


def test_every_command_refuses_it_as_an_argument(site: Path) -> None:
    odd = os.fsencode(site / "features") + b"/" + ODD
    for words in (
        (b"heatmap", b"m.safetensors", odd),
        (b"predict", b"m", b"--features", b"f", b"--out", odd),
        (b"train", odd),
    ):
        done = subprocess.run([sys.executable, "-m", "fedsteph", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.strip().endswith(r"P001\udcff\udcfe.h5: is not UTF-8. Rename the file or folder"), (
            done.stderr
        )
