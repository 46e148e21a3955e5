"""Whether a process has ended, without polling for it."""

from __future__ import annotations

import os
import select


def has_ended(pid: int, within: float = 60) -> bool:
    """Wait for a process's end, for at most ``within`` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)
