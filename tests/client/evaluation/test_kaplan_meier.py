"""Survival and censoring curves against scikit-survival, torchsurv and an answer by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from each_case import each
from hypothesis import given
from hypothesis import strategies as st
from sksurv.nonparametric import kaplan_meier_estimator
from torchsurv.stats.ipcw import get_ipcw
from torchsurv.stats.kaplan_meier import KaplanMeierEstimator

from fedsteph.client.evaluation.kaplan_meier import censoring_curve, survival_curve

PATIENTS = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=30)
ASKED = torch.arange(0, 11, 0.5)


def columns(patients: list[tuple[int, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([float(t) for t, _ in patients]), torch.tensor([e for _, e in patients])


def test_curves_by_hand():
    """At 2 an event and a censoring tie: the event comes first, so only the other is at risk of censoring."""
    t, events = torch.tensor([1.0, 2.0, 2.0, 4.0]), torch.tensor([True, True, False, True])
    asked = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.9, 4.0, 99.0])
    expected = torch.tensor([1, 3 / 4, 3 / 4, 1 / 2, 1 / 2, 0, 0])
    assert torch.allclose(survival_curve(t, events).at(asked), expected, atol=1e-7)
    assert torch.allclose(censoring_curve(t, events).at(asked), torch.tensor([1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2]))


@pytest.mark.parametrize("curve", [survival_curve, censoring_curve])
@given(patients=PATIENTS)
def test_agrees_with_scikit_survival(curve, patients):
    t, events = columns(patients)
    times, values = kaplan_meier_estimator(events.numpy(), t.numpy(), reverse=curve is censoring_curve)
    place = np.searchsorted(times, ASKED.numpy(), side="right")
    np.testing.assert_allclose(curve(t, events).at(ASKED).numpy(), np.append(1.0, values)[place], atol=1e-6)


@each("step", [0, 30, 365])
def test_equals_torchsurv_to_the_last_bit(step):
    rng = np.random.default_rng(step)
    days = rng.exponential(1500, 700) + 1
    t = torch.from_numpy(np.ceil(days / step) * step if step else days).float()
    events, asked = torch.from_numpy(rng.random(700) < 0.4), torch.from_numpy(rng.uniform(0, 9000, 200)).float()
    curve = KaplanMeierEstimator()
    curve(events, t)
    assert torch.equal(survival_curve(t, events).at(asked), curve.predict(asked))
    for at in (t, asked):
        uncensored = censoring_curve(t, events).at(at)
        assert torch.equal(torch.where(uncensored > 0, 1.0 / uncensored, 0.0), get_ipcw(events, t, at))
