"""A block's draws follow from its seed, and nobody outside hears of them."""

from __future__ import annotations

import torch

from fedsteph.common.model.seeded import seeded


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
