"""Run a program on a leash: when this process's standard input closes, the program and its children end.

``python -m simulations.leash PROGRAM [ARGUMENT ...]``. Whoever starts it holds the other end of a pipe, so that even
a parent that was killed outright leaves no server behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_GRACE_SECONDS = 10.0


def main(command: list[str]) -> int:
    """Start ``command`` in a process group of its own and wait for it, or for the leash to be let go."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end() -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_SECONDS)

    def hold() -> None:
        sys.stdin.buffer.read()
        end()

    def stop(*_: object) -> None:
        end()
        sys.exit(1)

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    threading.Thread(target=hold, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
