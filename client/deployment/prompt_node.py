"""Replaces Flower's ``flower-supernode`` at a site: asks for messages more often while a run is on.

Flower's own SuperNode asks every 3 s, and no option changes that, so that each phase begins up to 3 s late. This one
asks every half second for a minute after its last message, and then as Flower's does: a site that waits for a run, or
for others that train, costs the server no more than before. Where the server takes long to answer, because it has many
sites, every site asks it less often: a server that only says that there is nothing has no time for what there is.

``fedsteph app install`` copies this file next to the guard, so it must import nothing but Flower and the standard
library. It is started with ``flower-supernode`` as its first argument, by which a site's processes are found.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections import deque

from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

PROMPT_SECONDS = 0.5  # between two questions to the server
_MOST_SECONDS = 30.0
_PATIENCE = 30.0  # a wait takes at least so many times as long as questions take beyond the fastest one
_LAST = 3  # questions whose median tells how slow the server is now: one alone may be the network's accident
_LOCAL_SECONDS = 0.1  # between two looks at this process's own memory for the answer
_ON_SECONDS = 60.0  # after its last message a run is taken to be on


class PromptClock:
    """Stands in for the module ``time`` in Flower's loop, which waits for a message (3 s) or an answer (0.5 s)."""

    def __init__(self) -> None:
        self._busy = -_ON_SECONDS
        self._since: float | None = None  # when the last wait for a message was over
        self._took: deque[float] = deque(maxlen=_LAST)  # seconds of the last questions
        self._least = math.inf  # of all: the way there and back

    def sleep(self, seconds: float) -> None:
        """Wait about ``seconds``: less while a run is on, longer where the server has become slow."""
        time.sleep(self.wait(seconds))
        self.go_on()

    def wait(self, seconds: float) -> float:
        """The seconds to wait, where Flower waits ``seconds``; :meth:`go_on` is called when they are over."""
        now = time.monotonic()
        since, self._since = self._since, None
        if seconds < 1:  # for an answer, whose upload is no question
            self._busy = now
            return min(seconds, _LOCAL_SECONDS)
        self._since = now
        if since is not None:
            self._took.append(now - since)
            self._least = min(self._least, now - since)
        prompt = min(seconds, PROMPT_SECONDS) if now - self._busy < _ON_SECONDS else seconds
        late = statistics.median(self._took) - self._least if self._took else 0.0
        return max(prompt, min(_PATIENCE * late, _MOST_SECONDS))

    def go_on(self) -> None:
        """A wait is over."""
        if self._since is not None:
            self._since = time.monotonic()


def main() -> None:
    """Run Flower's SuperNode; the process ends if this Flower waits in another way."""
    if getattr(start_client_internal, "time", None) is not time:
        sys.exit("fedsteph: this Flower's SuperNode does not wait by time.sleep; install the fedsteph made for it")
    start_client_internal.time = PromptClock()  # type: ignore[assignment, attr-defined]
    del sys.argv[0]
    flower_supernode()


if __name__ == "__main__":
    main()
