"""A block's draws follow from its seed, and nobody outside hears of them."""

from __future__ import annotations

import torch

from fedsteph.common.model.seeded import draw_states, seeded, set_draw_states


def test_a_block_draws_what_torch_draws_from_its_seed_and_leaves_no_trace() -> None:
    torch.manual_seed(3)
    expected, before = torch.rand(4), torch.get_rng_state()
    with seeded(3):
        assert torch.equal(torch.rand(4), expected)
        with seeded(4):
            assert not torch.equal(torch.rand(4), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_inside_leaves_no_trace_either() -> None:
    before = torch.get_rng_state()
    try:
        with seeded(5):
            torch.rand(2)
            raise RuntimeError
    except RuntimeError:
        assert torch.equal(torch.get_rng_state(), before)
    else:
        raise AssertionError("the error did not come out")


class AppleGpu:
    """Torch's functions for the draws of an Apple GPU, which this machine need not have."""

    def __init__(self, monkeypatch) -> None:
        self.state = torch.tensor([7], dtype=torch.uint8)
        monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: self.set(torch.tensor([seed], dtype=torch.uint8)))
        monkeypatch.setattr(torch.mps, "get_rng_state", lambda: self.state)
        monkeypatch.setattr(torch.mps, "set_rng_state", self.set)

    def set(self, state: torch.Tensor) -> None:
        self.state = state


def test_the_draws_of_an_apple_gpu_are_seeded_and_restored_too(monkeypatch) -> None:
    gpu, device = AppleGpu(monkeypatch), torch.device("mps")
    with seeded(3, device):
        assert gpu.state.tolist() == [3]
        again = draw_states(device)
        gpu.set(torch.tensor([9], dtype=torch.uint8))
        drawn = torch.rand(2)
        set_draw_states(again, device)
        assert gpu.state.tolist() == [3] and torch.equal(torch.rand(2), drawn)
    assert gpu.state.tolist() == [7]
