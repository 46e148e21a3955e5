"""Draws a target's page in a process that outlives the ClientApp's, so that the answer to a merge does not wait for it.

Flower ends a ClientApp's process once its answer has left, and within seconds, so nothing can be drawn in it then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import fedsteph
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_log import site_log
from fedsteph.common.host.lock import exclusive

_LIMIT_SECONDS = 1800
_SCRATCH = "matplotlib"  # folder in the site's state: a font cache, and the lock of whoever draws
_AGAIN = "'fedsteph report' with the site file tries again"
# As isolated as the guard's own process, and by the code that runs here: the reviewed one.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from fedsteph.client.report.page_process import draw
draw(sys.argv[2])
"""


def draw_afterwards(site: Site, file: object) -> None:
    """Start a process that draws the page of the target with this site file, and return at once; it only logs."""
    code = Path(fedsteph.__file__).resolve().parents[1]
    try:
        subprocess.Popen(
            [sys.executable, "-IB", "-c", _PROGRAM, str(code), str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        site_log(site).error("its page could not be drawn (%s); %s", error, _AGAIN)


def draw(file: str) -> None:
    """Draw the page of the site with this site file; an error, or more than half an hour, is only logged.

    The limit is the system's alarm, which Windows lacks; deployments, which draw so, run on Linux, macOS or WSL.
    """
    site = Site.open(file)
    # matplotlib needs a writable folder for its font cache; a service account may have no home folder.
    os.environ.setdefault("MPLCONFIGDIR", str(site.state / _SCRATCH))
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_LIMIT_SECONDS)
    with contextlib.suppress(OSError):
        os.nice(10)  # the next request of the server comes first
    try:
        from fedsteph.client.report.site_page import write_site_page  # noqa: PLC0415 (takes seconds)

        with exclusive(site.state / _SCRATCH, wait=True):  # the last to draw sees the newest result
            site_log(site).info("its page: %s", write_site_page(site))
    except Exception:  # noqa: BLE001 (nobody waits for it)
        site_log(site).exception("its page could not be drawn; %s", _AGAIN)


def _stop(*_: object) -> None:
    raise TimeoutError(f"more than {_LIMIT_SECONDS} s")
