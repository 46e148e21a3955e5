"""Resampled partial likelihoods against sums written out, and against torchsurv's on distinct times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchsurv.loss.cox import neg_partial_log_likelihood

from fedsteph.client.screening.partial_likelihood import resampled_losses


def plain(eta: np.ndarray, t: np.ndarray, e: np.ndarray, w: np.ndarray) -> float:
    total = 0.0
    for i in range(len(t)):
        if e[i] and w[i]:
            at_risk = sum(w[j] * math.exp(eta[j]) for j in range(len(t)) if t[j] >= t[i])
            total += w[i] * (math.log(at_risk) - eta[i])
    return total


def test_every_resample_of_every_model():
    rng = np.random.default_rng(0)
    t = rng.integers(1, 9, size=15).astype(float)  # with ties
    e = (rng.random(15) < 0.6).astype(int)
    etas = rng.normal(size=(3, 15)) * np.array([[0.1], [1.0], [300.0]])
    draws = rng.multinomial(15, np.full(15, 1 / 15), size=4)
    found = resampled_losses(etas, t, e, draws)
    for m in range(2):
        for r in range(4):
            assert found[m, r] == pytest.approx(plain(etas[m], t, e, draws[r]), abs=1e-9)
    assert np.isfinite(found).all()


def test_the_whole_sample_is_the_loss_that_others_know():
    rng = np.random.default_rng(1)
    eta, t = rng.normal(size=(1, 20)), rng.permutation(20) + 1.0
    e = (rng.random(20) < 0.5).astype(int)
    expected = neg_partial_log_likelihood(
        torch.from_numpy(eta[0]), torch.from_numpy(e) > 0, torch.from_numpy(t), reduction="sum"
    )
    assert resampled_losses(eta, t, e, np.ones((1, 20)))[0, 0] == pytest.approx(float(expected), rel=1e-6)


def test_without_an_event_there_is_no_loss():
    assert resampled_losses(np.ones((2, 3)), np.arange(3.0), np.zeros(3), np.ones((1, 3))).tolist() == [[0.0], [0.0]]
