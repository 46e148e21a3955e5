"""Bins, hazards, NLL and risk against known answers and sums done by hand."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from each_case import each

from fedsteph.common.model.survival import bin_of, empirical_hazard, nll, risk_score, survival_from_hazards

ORACLE = np.load(Path(__file__).parents[2] / "oracles" / "nll.npz")
CINDEX = np.load(Path(__file__).parents[2] / "oracles" / "cindex.npz")
BINS = {
    0: 0, 1: 0, 364: 0, 364.9: 0, 365: 1, 366: 1, 729.999: 1, 730: 2, 1000: 2, 3650: 10, 11314.999: 30,
    11315: 31, 11679: 31, 11680: 31, 11680.5: 31, 12345: 31,
}  # fmt: skip


def known(key: str) -> torch.Tensor:
    return torch.from_numpy(ORACLE[key])


@each(("days", "expected"), BINS.items())
def test_bin_of_known_times(days: float, expected: int) -> None:
    found = bin_of(np.array([days]))
    assert found.tolist() == [expected] and found.dtype == np.int64


def test_bins_keep_their_shape_and_their_last_edge() -> None:
    times = np.array([[0.0, 400.0], [800.0, 9e9]], dtype=np.float32)
    assert bin_of(times, n_bins=3).tolist() == [[0, 1], [2, 2]]


@each("alpha", [0.0, 0.5])
def test_nll_of_known_bags(alpha: float) -> None:
    per_bag = nll(known("hazards"), known("t"), known("e"), alpha)
    expected = known(f"nll_alpha{alpha}_no_reduction")[:, 0]
    torch.testing.assert_close(per_bag, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(per_bag.mean(), known(f"nll_alpha{alpha}_mean"), rtol=1e-6, atol=1e-6)


def test_gradient_of_known_bags() -> None:
    hazards = known("hazards_clamped").requires_grad_()
    nll(hazards, known("t"), known("e"), 0.5).mean().backward()
    expected = known("grad_wrt_hazards_clamped_alpha0.5_mean")
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(hazards.grad, expected, rtol=1e-5, atol=1e-6)


def test_loss_and_gradient_through_known_logits() -> None:
    logits = known("logits").requires_grad_()
    loss = nll(torch.sigmoid(logits), known("logits_t").long(), known("logits_e"), 0.5).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(ORACLE["logits_loss"]), rel=1e-6)
    torch.testing.assert_close(logits.grad, known("logits_grad"), rtol=1e-5, atol=1e-6)


def test_risk_of_known_hazards() -> None:
    risk = risk_score(torch.from_numpy(CINDEX["hazards"]))
    torch.testing.assert_close(risk, torch.from_numpy(CINDEX["neg_score"]), rtol=1e-6, atol=1e-6)


def test_survival_and_risk_by_hand() -> None:
    hazards = torch.tensor([[0.5, 0.2, 0.0], [0.0, 1.0, 0.3]])
    torch.testing.assert_close(survival_from_hazards(hazards), torch.tensor([[0.5, 0.4, 0.4], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(risk_score(hazards), torch.tensor([-1.3, -1.0]))


@each(
    ("hazards", "y", "event", "expected"),
    [
        ([0.2, 0.5, 0.1], 0, 1, -log(0.2)),
        ([0.2, 0.5, 0.1], 2, 1, -(log(0.8 * 0.5) + log(0.1))),
        ([0.2, 0.5, 0.1], 0, 0, -0.7 * log(0.8)),
        ([0.2, 0.5, 0.1], 2, 0, -0.7 * log(0.8 * 0.5 * 0.9)),
        ([0.0, 0.5, 0.1], 0, 1, -log(1e-7)),
        ([1.0, 0.5, 0.1], 1, 1, -(log(1e-7) + log(0.5))),
        ([1.0, 0.0, 0.1], 1, 1, -2 * log(1e-7)),
        ([1.0, 0.5, 0.1], 1, 0, -0.7 * log(1e-7)),
    ],
)
def test_nll_by_hand(hazards: list[float], y: int, event: int, expected: float) -> None:
    """Also where a logarithm's argument is 0: it is clamped at 1e-7."""
    bag = torch.tensor([hazards], dtype=torch.float64)
    assert float(nll(bag, torch.tensor([y]), torch.tensor([event]), alpha=0.3)) == pytest.approx(expected, rel=1e-12)


def test_empirical_hazard_by_hand() -> None:
    """Events in bins 0, 1, 1; censored in 0 and 2: at risk 5, 3, 1, mean 3/9."""
    found = empirical_hazard(np.array([0, 0, 1, 1, 2]), np.array([1, 0, 1, 1, 0]), n_bins=4)
    mean = 3 / 9
    expected = [(1 + 10 * mean) / 15, (2 + 10 * mean) / 13, 10 * mean / 11, mean]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_cohort_without_events_has_a_small_finite_hazard() -> None:
    found = empirical_hazard(np.array([0, 1, 3]), np.zeros(3), n_bins=4)
    mean = 1 / (2 * (3 + 2 + 1 + 1))
    np.testing.assert_allclose(found, 10 * mean / (np.array([3, 2, 1, 1]) + 10), rtol=1e-12)


@each("n", [1, 5_000_000])
def test_a_cohort_of_events_alone_keeps_a_finite_logit(n: int) -> None:
    """All in the first bin: its hazard tends to 1, the later ones' too, and neither becomes 1."""
    found = empirical_hazard(np.zeros(n, dtype=np.int64), np.ones(n), n_bins=3)
    np.testing.assert_allclose(found, 1 - 1e-6, rtol=1e-9)
    assert np.isfinite(np.log(found / (1 - found))).all()
