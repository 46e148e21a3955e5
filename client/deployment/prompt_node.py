"""Replaces Flower's ``flower-supernode`` at a site: asks for messages more often while a run is on.

Flower's own SuperNode asks every 3 s, and no option changes that, so that each phase begins up to 3 s late. This one
asks every half second for a minute after its last message, and then as Flower's does: a site that waits for a run, or
for others that train, costs the server no more than before.

``fedsteph app install`` copies this file next to the guard, so it must import nothing but Flower and the standard
library. It is started with ``flower-supernode`` as its first argument, by which a site's processes are found.
"""

from __future__ import annotations

import sys
import time

from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

PROMPT_SECONDS = 0.5  # between two questions to the server
_LOCAL_SECONDS = 0.1  # between two looks at this process's own memory for the answer
ON_SECONDS = 60.0  # after its last message a run is taken to be on


class PromptClock:
    """Stands in for the module ``time`` in Flower's loop, which waits for a message (3 s) or an answer (0.5 s)."""

    def __init__(self) -> None:
        self._busy = -ON_SECONDS

    def sleep(self, seconds: float) -> None:
        """Wait ``seconds``, or less while a run is on."""
        if seconds < 1:
            self._busy = time.monotonic()
            time.sleep(min(seconds, _LOCAL_SECONDS))
        else:
            on = time.monotonic() - self._busy < ON_SECONDS
            time.sleep(min(seconds, PROMPT_SECONDS) if on else seconds)


def main() -> None:
    """Run Flower's SuperNode; the process ends if this Flower waits in another way."""
    if getattr(start_client_internal, "time", None) is not time:
        sys.exit("fedsteph: this Flower's SuperNode does not wait by time.sleep; install the fedsteph made for it")
    start_client_internal.time = PromptClock()  # type: ignore[assignment, attr-defined]
    del sys.argv[0]
    flower_supernode()


if __name__ == "__main__":
    main()
