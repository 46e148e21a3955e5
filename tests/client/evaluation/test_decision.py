"""What a fold deploys, and whether any model is of use: decided by inner cross-validation alone."""

from __future__ import annotations

import math

import pytest

from fedsteph.client.evaluation.decision import (
    InnerScore,
    Selection,
    choose_deployed,
    pooled,
    pooled_interval,
    without_merge,
)


def selection(local: float, steph: float, half: float, n: int = 400) -> Selection:
    """Both intervals reach ``half`` to either side."""
    spread = [(c - half, c + half) for c in (local, steph)]
    return Selection(0.0, "told so", local, steph, n, *spread)


def test_a_model_that_is_not_above_chance_is_of_no_use_and_the_local_one_stays():
    """0.385 against 0.331 was once deployed and praised."""
    cases = {
        "both far below": (selection(0.331, 0.385, 0.05), "local", False),
        "better, and its interval reaches 0.5": (selection(0.48, 0.55, 0.05), "local", False),
        "better, and above": (selection(0.48, 0.56, 0.05), "steph", True),
        "worse than a local model that is above": (selection(0.60, 0.55, 0.05), "local", True),
        "worse than a local model by chance": (selection(0.54, 0.50, 0.05), "local", False),
        "too few pairs": (selection(0.331, 0.385, 0.05, n=49), "local", None),
    }
    for what, (found, method, useful) in cases.items():
        decision = choose_deployed(found, is_collapsed=False)
        assert (decision.method, decision.useful) == (method, useful), what
        assert decision.reason.startswith("no model is useful here") == (useful is False), what
    assert (
        "0.385, is not above chance (95% interval 0.335 to 0.435)"
        in choose_deployed(selection(0.331, 0.385, 0.05), is_collapsed=False).reason
    )


def test_a_local_model_that_stays_for_another_reason_may_be_useless_too():
    for useful, found in ((True, selection(0.6, 0.9, 0.05)), (False, selection(0.52, 0.9, 0.05))):
        assert choose_deployed(found, is_collapsed=True).useful is useful
        assert without_merge(found, "no source").useful is useful


def test_the_interval_is_that_of_a_mean_of_independent_folds():
    """By hand: 30 and 10 pairs weigh 3/4 and 1/4, and a fold without pairs nothing."""
    folds = [InnerScore(21.0, 30, 0.04), InnerScore(5.0, 10, 0.08), InnerScore(0.0, 0, None)]
    assert pooled(folds) == pytest.approx(26 / 40)
    half = 1.96 * math.sqrt((0.75 * 0.04) ** 2 + (0.25 * 0.08) ** 2)
    assert pooled_interval(folds) == pytest.approx((0.65 - half, 0.65 + half))
    assert pooled_interval([InnerScore(0.0, 0, None)]) is None
