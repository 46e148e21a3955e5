"""A program ends by itself, or is asked to end once when the leash is let go, together with its descendants."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def leashed(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A program on a leash."""
    leash = [sys.executable, "-m", "fedsteph.simulations.run.leash", *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(leash, cwd=ROOT, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("program", "code"), [("true", 0), ("false", 1)])
def test_a_program_that_ends_by_itself(program, code):
    with leashed(program) as process:
        assert process.wait(timeout=60) == code  # the pipe is open still
        assert process.stdout.read() == ""


COUNTING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
print("up", flush=True)
time.sleep(1.5)
until = time.monotonic() + 1.5  # long enough for a leash that asks again every 0.1 seconds
while time.monotonic() < until:
    time.sleep(0.05)
sys.exit(7)
"""


@pytest.mark.parametrize("let_go", ["the pipe is closed", "SIGTERM", "SIGINT"])
def test_a_program_is_asked_to_end_once_and_may_take_its_time(let_go):
    """Asked twice, a SuperNode leaves without saying so to its SuperLink."""
    with leashed(sys.executable, "-c", COUNTING) as process:
        assert process.stdout.readline() == "up\n"
        if let_go == "the pipe is closed":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, let_go))
        assert process.wait(timeout=60) == 7
        assert process.stdout.read() == "asked\n"


ORPHAN = """
import os, signal, sys, time
if os.fork():
    time.sleep(99)
os.setsid()
if os.fork():
    sys.exit()
def on_term(*_):
    print("asked", flush=True)
    if sys.argv[1] == "polite":
        os._exit(0)
signal.signal(signal.SIGTERM, on_term)
print(os.getpid(), flush=True)
time.sleep(99)
"""


@pytest.mark.parametrize(("kind", "seconds"), [("polite", 0), ("deaf", 8)])
def test_an_orphan_in_a_session_of_its_own_is_asked_once_and_killed_after_the_grace_time(kind, seconds):
    with leashed(sys.executable, "-c", ORPHAN, kind) as process:
        orphan = psutil.Process(int(process.stdout.readline()))
        start = time.monotonic()
        process.stdin.close()
        process.wait(timeout=60)
        assert time.monotonic() - start >= seconds
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert process.stdout.read() == "asked\n"
