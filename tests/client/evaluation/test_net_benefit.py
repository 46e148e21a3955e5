"""Net benefit by counting where nobody is censored, and with lifelines' Kaplan-Meier where some are."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter

from fedsteph.client.evaluation.net_benefit import THRESHOLDS, net_benefit


def test_net_benefit_by_counting_and_by_kaplan_meier():
    rng = np.random.default_rng(0)
    predicted, times = rng.random(80), rng.exponential(1200, 80)
    everybody, some = np.ones(80, dtype=int), (rng.random(80) < 0.5).astype(int)
    for k, p in enumerate(THRESHOLDS):
        treated = predicted > p
        found = (treated & (times <= 3 * 365)).sum() - (treated & (times > 3 * 365)).sum() * p / (1 - p)
        assert net_benefit(predicted, times, everybody, 3)[k] == pytest.approx(found / 80)
        alive = KaplanMeierFitter().fit(times[treated], some[treated]).predict(3 * 365)
        expected = treated.mean() * (1 - alive - alive * p / (1 - p))
        assert net_benefit(predicted, times, some, 3)[k] == pytest.approx(expected)
    assert net_benefit(np.zeros(80), times, some, 3) == (0.0,) * len(THRESHOLDS)
