"""The final model's selection: pooled over folds by hand, and never more certain than one fold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from client_builders import make_recipe

from fedsteph.client.evaluation.decision import InnerScore, Selection, choose_deployed
from fedsteph.client.evaluation.over_folds import over_folds

RECIPE = make_recipe()  # gamma_grid [0.0, 0.05]


MARGIN = RECIPE.panel.margin  # -1 standard error


def fold(local, steph, n, zero, twentieth, *, collapsed=False, half=0.1, gain=6.0, weight=0.2) -> Selection:
    """``zero`` and ``twentieth``: concordant pairs of ``n`` under each gamma; the panel is 0.05 above STEPH."""
    tried = {"0.0": InnerScore(zero, n, None), "0.05": InnerScore(twentieth, n, None, collapsed)}
    spread = (local - half, local + half), (steph - half, steph + half)
    panel = steph + 0.05
    of_panel = {"panel": panel, "panel_interval": (panel - half, panel + half), "gain": gain, "gain_error": 2.0}
    return Selection(
        0.0, "told so", local, steph, n, *spread, tried, **of_panel, weights={"steph": weight, "local": 3 * weight}
    )


def test_scores_and_gamma_are_pooled_and_an_interval_is_as_wide_as_a_folds():
    found = over_folds([fold(0.6, 0.7, 100, 60, 70), fold(0.5, 0.6, 300, 200, 180)], RECIPE)
    assert (found.gamma, found.n_comparable) == (0.0, 200)  # 260 of 400 pairs against 250
    assert found.gamma_reason == "best of 2 in 2-fold inner cross-validation, over 2 folds"
    assert found.local == pytest.approx((100 * 0.6 + 300 * 0.5) / 400)
    assert found.steph == pytest.approx((100 * 0.7 + 300 * 0.6) / 400)
    assert found.steph_interval == pytest.approx((found.steph - 0.1, found.steph + 0.1))
    assert choose_deployed(found, False, MARGIN).method == "panel"
    assert choose_deployed(found, True, MARGIN).method == "local"
    tied = over_folds([fold(0.7, 0.6, 100, 60, 60), fold(0.6, 0.65, 100, 60, 60)], RECIPE)
    assert tied.gamma == 0.0, "the smaller in a tie"


def test_the_panel_s_gain_is_pooled_and_as_uncertain_as_a_folds_and_its_weights_are_the_mean():
    """A fold's pairs weigh its gain; the weights of all folds are of models that are alike, so each counts once."""
    folds = [fold(0.6, 0.7, 100, 60, 70, gain=5.0), fold(0.6, 0.6, 300, 200, 180, gain=-7.0, weight=0.4)]
    found = over_folds(folds, RECIPE)
    assert found.gain == pytest.approx((100 * 5 - 300 * 7) / 400) and found.gain_error == pytest.approx(2.0)
    assert found.panel == pytest.approx((100 * 0.75 + 300 * 0.65) / 400)
    assert found.panel_interval == pytest.approx((found.panel - 0.1, found.panel + 0.1))
    assert found.weights == pytest.approx({"steph": 0.3, "local": 0.9})
    fewer = replace(folds[0], weights={"local": 0.3}), replace(folds[1], weights={"local": 0.5, "same_cancer": 0.4})
    assert over_folds(fewer, RECIPE).weights == pytest.approx({"local": 0.4, "same_cancer": 0.4}), "not all have all"
    decided = choose_deployed(found, False, margin=-1.0)
    assert decided.method == "local" and "gains only -4.0 nats" in decided.reason


def test_a_gamma_that_collapsed_in_a_fold_is_left_out():
    folds = [fold(0.6, 0.7, 100, 50, 90, collapsed=True), fold(0.6, 0.7, 100, 50, 90)]
    assert over_folds(folds, RECIPE).gamma == 0.0 and over_folds(folds[1:], RECIPE).gamma == 0.05


def test_folds_without_a_merge_say_nothing_of_steph():
    merged, refused = fold(0.6, 0.7, 100, 50, 60), Selection(0.0, "no source", 0.9, None, 100, (0.8, 1.0))
    assert over_folds([refused, merged], RECIPE) == over_folds([merged], RECIPE)
    alone = over_folds([refused, refused], RECIPE)
    assert (alone.local, alone.steph, alone.n_comparable) == (pytest.approx(0.9), None, 100)
    assert (alone.panel, alone.gain, dict(alone.weights)) == (None, None, {})


def test_too_few_pairs_tell_no_use_and_no_pairs_are_no_error():
    few = over_folds([fold(0.4, 0.9, 49, 20, 40)] * 5, RECIPE)
    assert choose_deployed(few, False, MARGIN).useful is None
    none = over_folds([Selection(0.0, "none", None, None, 0)] * 2, RECIPE)
    assert (none.local, none.n_comparable, choose_deployed(none, False, MARGIN).method) == (None, 0, "local")
