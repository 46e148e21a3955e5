"""Both benchmarks run, on tiny vectors, and report what they say that they report."""

from __future__ import annotations

import contextlib
import json

import psutil
import pytest

from fedsteph.common.model.architecture import Architecture
from fedsteph.simulations.bench.figures import Spread
from fedsteph.simulations.relay import relay_cost, sealing
from fedsteph.simulations.relay.processes import PROGRAMS

TINY = ["model.width=6", "model.embed=8", "model.attention=6"]


def require_spread(spread, repeats):
    assert spread["repeats"] == repeats
    assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def test_a_spread_is_median_and_extremes():
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0, 4)


def test_sealing_reports_every_step_and_what_an_envelope_adds():
    found = json.loads(json.dumps(sealing.measure(Architecture(6, 8, 6, 4), repeats=3), allow_nan=False))
    assert {"write_vector", "seal", "open_sealed", "read_vector", "make a site's keys"} <= found["seconds"].keys()
    for spread in found["seconds"].values():
        require_spread(spread, 3)
    sizes, over = found["bytes"], found["overhead"]
    assert sizes["tensors"] < sizes["vector_file"] < sizes["envelope"]
    assert over["envelope"]["bytes"] == sizes["envelope"] - sizes["vector_file"]
    # RFC 9180 and draft-ietf-hpke-pq: an encapsulated key of 32 or of 1,088 + 32 bytes, and a tag of 16.
    assert over["HPKE X25519"]["bytes"] == 32 + 16
    assert over["HPKE hybrid"]["bytes"] == 1088 + 32 + 16


def running() -> set[psutil.Process]:
    """What runs below this process; what has ended and waits to be reaped does not."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


@pytest.mark.flower
def test_relaying_delivers_to_a_real_site_and_leaves_nothing_behind():
    before = running()
    found = json.loads(json.dumps(relay_cost.measure(1, repeats=1, settings=TINY), allow_nan=False))
    assert found["sources"] == 1
    assert 0 < found["bytes"]["merge"] - found["bytes"]["envelope"] < 4096  # the message's body
    for phase in ("hello", "merge"):
        require_spread(found["seconds"][phase], 1)
    assert found["peak_rss_bytes"].keys() == set(PROGRAMS.values())
    assert all(peak > 2**20 for peak in found["peak_rss_bytes"].values())
    assert running() <= before
