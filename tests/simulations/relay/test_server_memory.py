"""The measurement relays every envelope of its federation, through the ServerApp's own code."""

from __future__ import annotations

import pytest

from fedsteph.common.wire import letters
from fedsteph.simulations.relay import server_memory


@pytest.mark.parametrize("at_once", [letters.IN_THE_AIR, 1])
def test_all_envelopes_are_relayed_and_memory_is_told(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(letters, "IN_THE_AIR", at_once)
    found = server_memory.measure(3)
    assert (found["sites"], found["envelopes"]) == (3, 3 * 2)
    assert found["peak"] >= found["before"] > 0 and found["envelope"] > 4_700_000
