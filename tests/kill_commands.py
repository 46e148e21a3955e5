"""Kills ``train`` and ``benchmark`` at random points: ``python tests/kill_commands.py [POINTS] [SEED]``, 20 of each.

Every kill is SIGKILL to the command and its workers, and the same command then goes on in the same folder. What it
ends with must be what a command that nobody killed ends with. Last, two trainings are started on one folder at once.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "builders")]

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from sites import TINY, make_site  # noqa: E402
from studies import STUDY  # noqa: E402

from fedsteph.common.host.checked_file import read_arrays  # noqa: E402

_COMMAND = [sys.executable, "-m", "fedsteph"]


@dataclass(frozen=True)
class Work:
    """A command: its words for a folder, and the result in that folder."""

    name: str
    words: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, bytes]]


def started(work: Work, out: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, so that its workers can be killed with it."""
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(work.words(out), cwd=HERE.parent, stdout=log, stderr=log, start_new_session=True)


def finish(work: Work, out: Path) -> dict[str, bytes]:
    """Run the command to its end."""
    assert started(work, out).wait() == 0, (out.parent / "log").read_text()[-2000:]
    return work.result(out)


def kill_at_random(work: Work, folder: Path, points: int, chance: random.Random) -> int:
    """Kill the command ``points`` times and let it end; returns how often it came to its end in between.

    Raises:
        AssertionError: an end was another than that of a command that was not killed.
    """
    began = time.monotonic()
    expected = finish(work, folder / "whole")
    seconds, killed, ended = time.monotonic() - began, 0, 0
    while killed < points:
        process = started(work, folder / "out")
        try:
            assert process.wait(chance.uniform(0.1, 0.95) * seconds) == 0, (folder / "log").read_text()[-2000:]
            ended += 1
            require_equal(work.result(folder / "out"), expected)
            shutil.rmtree(folder / "out")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    require_equal(finish(work, folder / "out"), expected)
    assert not [*(folder / "out").rglob("*.damaged")]
    return ended + 1


def two_at_once(work: Work, folder: Path) -> None:
    """Start the command twice on one folder: one is refused or both end, and the result is the usual one."""
    processes = [started(work, folder / "twice") for _ in range(2)]
    codes = sorted(process.wait() for process in processes)
    assert codes in ([0, 0], [0, 1]), codes
    require_equal(work.result(folder / "twice"), finish(work, folder / "alone"))


def require_equal(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """The same files with the same content."""
    assert found and found.keys() == expected.keys(), found.keys() ^ expected.keys()
    assert not [name for name in found if found[name] != expected[name]]


def training(folder: Path) -> Work:
    """``fedsteph train`` at a small site."""
    site = make_site(folder / "site", patients=40)
    settings = [word for setting in (*TINY, "training.epochs=60") for word in ("--set", setting)]

    def result(out: Path) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")}

    return Work("train", lambda out: [*_COMMAND, "train", str(site), "--out", str(out), *settings], result)


def study(folder: Path) -> Work:
    """``fedsteph benchmark`` of two methods at three small sites."""
    for number, name in enumerate(("alpha", "beta", "gamma")):
        make_site(folder / "sites" / name, patients=24, seed=number)
    small = {
        "methods": ["local", "half_average", "steph", "fedavg"],
        "seeds": [0],
        "targets": ["alpha"],
        "variants": {},
    }
    content = STUDY | small | {"sites": "sites"}
    (folder / "study.yaml").write_text(yaml.dump(content))

    def result(out: Path) -> dict[str, bytes]:
        cells = {path: read_arrays(path) for path in out.glob("cells/*/*.npz")}
        found = {str(path.relative_to(out)): np.asarray(arrays["hazards"]).tobytes() for path, arrays in cells.items()}
        scores = json.loads((out / "results.json").read_text())["targets"]
        return found | {"scores": json.dumps(scores, sort_keys=True).encode()}

    words = [*_COMMAND, "benchmark", str(folder / "study.yaml"), "--workers", "2", "--out"]
    return Work("benchmark", lambda out: [*words, str(out)], result)


def main() -> None:
    """Kill both commands and say how often."""
    points, seed = (int(word) for word in [*sys.argv[1:], *["20", "0"][len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as scratch:
        for make in (training, study):
            folder = Path(scratch) / make.__name__
            folder.mkdir()
            work = make(folder)
            ends = kill_at_random(work, folder, points, random.Random(seed))
            print(f"{work.name}: killed {points} times, came to its end {ends} times, always with the same result")
            two_at_once(work, folder)
            print(f"{work.name}: two at once in one folder, and the usual result", flush=True)


if __name__ == "__main__":
    main()
