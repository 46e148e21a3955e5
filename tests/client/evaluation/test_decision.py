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


def selection(local: float, panel: float, half: float, gain: float | None, n: int = 400, error=2.0) -> Selection:
    """Both intervals reach ``half`` to either side; ``error``: of the gain. STEPH alone has no say."""
    spread = (local - half, local + half)
    of_panel = {"panel": panel, "panel_interval": (panel - half, panel + half), "gain": gain, "gain_error": error}
    return Selection(0.0, "told so", local, 0.99, n, spread, (0.98, 1.0), **of_panel)


def test_a_model_that_is_not_above_chance_is_of_no_use_and_below_chance_the_local_one_stays():
    """0.385 against 0.331 was once deployed and praised."""
    cases = {
        "both far below": (selection(0.331, 0.385, 0.05, 9), "local", False),
        "gains, and its interval reaches 0.5": (selection(0.48, 0.55, 0.05, 9), "panel", False),
        "gains, and above": (selection(0.48, 0.56, 0.05, 9), "panel", True),
        "loses to a local model that is above": (selection(0.60, 0.70, 0.05, -9), "local", True),
        "loses to a local model of chance": (selection(0.54, 0.60, 0.05, -9), "local", False),
        "too few pairs to tell": (selection(0.331, 0.385, 0.05, 9, n=49), "panel", None),
        "a single event": (selection(0.60, 0.70, 0.05, 9, error=None), "local", None),
        "no panel was judged": (selection(0.60, 0.70, 0.05, None), "local", None),
    }
    for what, (found, method, useful) in cases.items():
        decision = choose_deployed(found, is_collapsed=False, margin=-1.0)
        assert (decision.method, decision.useful) == (method, useful), what
        assert decision.reason.startswith("no model is useful here") == (useful is False), what
    reason = choose_deployed(cases["both far below"][0], is_collapsed=False, margin=-1.0).reason
    assert "of the panel, 0.385, is not above chance (95% interval 0.335 to 0.435)" in reason


def test_the_panel_is_deployed_where_it_gains_as_many_standard_errors_as_are_asked_for():
    """A tie, and a loss within the error, count for the panel where the margin is below 0; no C-index has a say."""
    for gain, margin, method in (
        (-2.0, -1.0, "panel"),
        (-2.01, -1.0, "local"),
        (0.0, 0.0, "panel"),
        (-0.01, 0.0, "local"),
        (3.0, 1.5, "panel"),
        (2.99, 1.5, "local"),
    ):
        for panel in (0.56, 0.90):
            decision = choose_deployed(selection(0.70, panel, 0.05, gain), False, margin)
            assert (decision.method, decision.useful) == (method, True), (gain, margin)
            assert f"gains {'only ' * (method == 'local')}{gain:+.1f} nats" in decision.reason
            assert f"C-index {panel:.3f} against 0.700 of the local model, over 400 comparable pairs" in decision.reason
            assert f"at least {margin:g} standard errors asked for" in decision.reason


def test_a_local_model_that_stays_for_another_reason_may_be_useless_too():
    for useful, found in ((True, selection(0.6, 0.9, 0.05, 9)), (False, selection(0.52, 0.9, 0.05, 9))):
        decision = choose_deployed(found, is_collapsed=True, margin=-1.0)
        assert (decision.method, decision.useful) == ("local", useful) and "STEPH collapsed" in decision.reason
        assert without_merge(found, "no source").useful is useful


def test_the_interval_is_that_of_a_mean_of_independent_folds():
    """By hand: 30 and 10 pairs weigh 3/4 and 1/4, and a fold without pairs nothing."""
    folds = [InnerScore(21.0, 30, 0.04), InnerScore(5.0, 10, 0.08), InnerScore(0.0, 0, None)]
    assert pooled(folds) == pytest.approx(26 / 40)
    half = 1.96 * math.sqrt((0.75 * 0.04) ** 2 + (0.25 * 0.08) ** 2)
    assert pooled_interval(folds) == pytest.approx((0.65 - half, 0.65 + half))
    assert pooled_interval([InnerScore(0.0, 0, None)]) is None
    once = pooled_interval(folds)
    assert pooled_interval(folds * 3, repeats=3) == pytest.approx(once), "the same patients again are no new evidence"
