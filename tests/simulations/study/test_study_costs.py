"""What methods cost, against counts by hand, real files and real allocations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from client_builders import with_statement
from keys_and_rosters import identity_of

from fedsteph.client.methods.task import learnable_parameters
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.common.config.recipe import ComparatorConfig, ModelConfig, SharingConfig, StephConfig
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.shared_part import WHOLE
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire.envelope import Context, seal
from fedsteph.server.aggregation import Update, run_rounds
from fedsteph.simulations.run.in_process import identify
from fedsteph.simulations.study.costs import ENVELOPE_BYTES, Meter, gigaflops, rounds_bytes, vector_bytes

D, E, A, BINS = 1536, 512, 384, 32  # the paper's sizes
N = 10_000
SOURCES = 12
ENCODER = (D * E + E) + 2 * (E * A + A) + (A + 1)
PAPER = Architecture(D, E, A, BINS)

# Multiply-adds of one slide: embed, both branches of the gated attention, its scores, the weighted mean, the head.
ABMIL_MACS = N * (D * E + 2 * E * A + A + E) + E * BINS


@pytest.fixture(scope="module")
def m0() -> BaseModel:
    return untrained_model(PAPER, seed=42, dropout=0.25)


def vector_of(m0: BaseModel, seed: int) -> TaskVector:
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: 0.01 * torch.randn(s, generator=generator) for n, s in m0.architecture.encoder_shapes.items()}
    return TaskVector(m0.architecture, model_digest(m0), tensors)


@pytest.fixture(scope="module")
def steph(m0) -> Steph:
    mixture = Mixture.of(m0, vector_of(m0, 0), [vector_of(m0, 1)] * SOURCES)
    return Steph(mixture, StephConfig())


def test_parameters_by_hand(m0, steph):
    assert learnable_parameters(m0) == ENCODER + (E * BINS + BINS) == 1_197_729
    # The hypernetwork's own embedding, its two heads, and the survival head; nothing that is merged.
    heads = 2 * ((E * E + E) + (E * SOURCES + SOURCES))
    assert learnable_parameters(steph) == (D * E + E) + heads + (E * BINS + BINS) == 1_340_984


def test_gigaflops_of_an_abmil(m0):
    found = gigaflops(m0, D)
    assert round(found, 1) == 23.6
    assert found == pytest.approx(2 * ABMIL_MACS / 1e9, rel=1e-3)


def test_gigaflops_of_steph(steph):
    """An ABMIL, the hypernetwork's own embedding of all instances, and, once a slide, its heads.

    One slide's merge is no matrix product where K + 1 is less than all vectors: it is their sum, element by element.
    """
    found = gigaflops(steph, D)
    assert 39 < found < 40.5
    once = 2 * (E * E + E * SOURCES)
    by_hand = ABMIL_MACS + N * D * E + once
    assert found == pytest.approx(2 * by_hand / 1e9, rel=1e-3)
    assert 2 * (StephConfig().K + 1) * ENCODER / 1e9 < 0.015


@pytest.mark.parametrize(
    "changes", [{"variant": "param"}, {"variant": "fix"}, {"weights": "param"}, {"K": None}, {"start": "local"}]
)
def test_gigaflops_of_steph_s_relatives(changes):
    """Without the hypernetwork's head for w or for lam, and no less than an ABMIL."""
    d, e, a, bins, n, sources = 6, 8, 6, 4, 100, 2
    small = untrained_model(Architecture(d, e, a, bins), seed=0, dropout=0.25)
    mixture = Mixture.of(small, vector_of(small, 0), [vector_of(small, 1)] * sources)
    head = e * e + e * sources
    heads = head * ((changes.get("weights") != "param") + (changes.get("variant") not in ("param", "fix")))
    merge = (1 + sources) * sum(tensor.numel() for tensor in vector_of(small, 0).tensors.values())  # one product
    macs = n * (d * e + 2 * e * a + a + e) + e * bins + n * d * e + heads + merge
    assert gigaflops(Steph(mixture, StephConfig(**changes)), d, n) == pytest.approx(2 * macs / 1e9)


def test_gigaflops_of_a_graph():
    """Of the sparse matrix of neighbours, its entries alone."""
    d, e, a, bins, n, k, hidden = 6, 8, 6, 4, 50, 8, 2
    graph = untrained_model(Architecture(d, e, a, bins, "patchgcn"), seed=0)
    layers = 3 * (n * k * hidden + n * hidden * hidden)
    macs = n * d * hidden + layers + n * e * e + 2 * n * e * a + n * a + n * e + e * bins
    assert gigaflops(graph, d + k, n) == pytest.approx(2 * macs / 1e9)


def test_counting_leaves_the_model_as_it_is(m0):
    before = {name: tensor.clone() for name, tensor in m0.state_dict().items()}
    gigaflops(m0, D, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in m0.state_dict().items())
    assert all(parameter.grad is None for parameter in m0.parameters())


def sealed(m0: BaseModel, sender: str, recipient: str, sharing: SharingConfig = WHOLE) -> bytes:
    context = Context(
        "federation", "b" * 32, sender, recipient, model_digest(m0), m0.architecture.digest, recipe_sha256="c" * 64
    )
    plain = with_statement(write_vector(vector_of(m0, 1), sharing))
    return seal(plain, context, 1, identity_of(sender), identity_of(recipient).public, 365)


@pytest.mark.parametrize(
    "sharing", [WHOLE, SharingConfig("float16"), SharingConfig("bfloat16", layers="attention", rank=32)]
)
def test_network_bytes_of_sealed_vectors(m0, sharing):
    """Every source's envelope goes up to the server once and down to the target once."""
    names = [f"site-{i}" for i in range(3)]
    real = 2 * sum(len(sealed(m0, name, "target", sharing)) for name in names)
    assert vector_bytes(3, ModelConfig(D, embed=E, attention=A), sharing) == pytest.approx(real, rel=0.01)
    assert vector_bytes(0, ModelConfig(D), sharing) == 0


def test_what_sealing_adds():
    """Seen on a model so small that it is what counts; the vector file's own header is not part of it."""
    small = untrained_model(Architecture(6, 8, 6, 4), seed=0, dropout=0.0)
    added = len(sealed(small, "alpha", "target")) - len(write_vector(vector_of(small, 1)))
    assert pytest.approx(added, rel=0.1) == ENVELOPE_BYTES


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_network_bytes_of_rounds(rounds):
    """Every vector file that really goes to and fro between three sites and the server, and the last one down."""
    m0 = untrained_model(Architecture(64, 256, 64, 8), seed=0, dropout=0.0)
    sent = 0

    def ask(round_, encoders):
        nonlocal sent
        updates = {node: Update({"0": write_vector(vector_of(m0, node))}, 10) for node in (1, 2, 3)}
        sent += sum(len(content) for update in updates.values() for content in update.vectors.values())
        sent += 3 * sum(len(content) for content in encoders.values())
        return updates

    identify()
    last = run_rounds("fedavg", ComparatorConfig(rounds=rounds), ask)
    sent += len(last["0"])
    n_numbers = sum(tensor.numel() for tensor in vector_of(m0, 0).tensors.values())
    assert rounds_bytes(3, rounds, n_numbers) == pytest.approx(sent, rel=0.01)


MB = 2**20
FORGETS = Path("/proc/self/clear_refs")


_ALLOCATIONS = """
import json, os
from pathlib import Path
import numpy as np
import torch
from fedsteph.simulations.study.costs import Meter

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

with Meter(torch.device("cpu")) as larger:
    np.ones(600 * 2**20, dtype=np.uint8)
before = resident()
with Meter(torch.device("cpu")) as memory:
    np.ones(200 * 2**20, dtype=np.uint8)
with Meter(torch.device("cpu")) as nothing:
    pass
print(json.dumps([before, larger.peak_bytes, memory.peak_bytes, nothing.peak_bytes]))
"""


def forgets() -> bool:
    """Whether this system lets a process forget its own high-water mark."""
    try:
        FORGETS.write_text("5")
        return "VmHWM" in Path("/proc/self/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not forgets(), reason="only a Linux whose /proc/self/clear_refs can be written forgets a peak")
def test_peak_memory_sees_an_allocation_and_forgets_an_earlier_larger_one():
    """In a process of its own: in this one, whatever other tests held may go meanwhile."""
    done = subprocess.run([sys.executable, "-c", _ALLOCATIONS], capture_output=True, text=True, check=True)
    before, larger, peak, nothing = json.loads(done.stdout)
    assert larger > before + 500 * MB
    assert before + 190 * MB < peak < before + 350 * MB
    assert nothing < before + 100 * MB


def test_peak_memory_is_there_when_the_block_fails():
    memory = Meter(torch.device("cpu"))
    with pytest.raises(KeyError), memory:
        raise KeyError
    assert memory.peak_bytes > MB
