"""Every method looks the same wherever it is drawn, and no two look alike; close curves are enlarged and told."""

from __future__ import annotations

from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from each_case import each

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.model.method_scores import MethodScores
from fedsteph.common.report.c_index import c_index_picture
from fedsteph.common.report.differences import difference_picture
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Picture
from fedsteph.common.report.probability_axis import probability_axis, told_difference
from fedsteph.common.report.style import COLOURS, canvas

WHO = "site-a, 1 fold"
MAIN = ("local", "panel", "steph", "deployed", "half_average", "model_average", "fedavg")


def looks(picture: Picture, labels: list[str]) -> dict[str, tuple[str, str]]:
    """Row's label -> colour and marker of the last symbol in it."""
    assert picture.figure is not None
    points = [container.lines[0] for container in picture.figure.axes[0].containers]
    found = {round(float(line.get_ydata()[0])): (str(line.get_color()), str(line.get_marker())) for line in points}
    return {label: found[place] for place, label in enumerate(labels)}


def test_no_two_methods_look_alike_and_the_main_ones_differ_in_colour_and_in_shape():
    drawn = {name: method_look(name) for name in METHODS}
    assert len({(look.colour, look.marker) for look in drawn.values()}) == len(METHODS)
    for part in ("colour", "marker", "dashes"):
        assert len({str(getattr(drawn[name], part)) for name in MAIN}) == len(MAIN)
    assert not {look.colour for look in drawn.values()} & {*COLOURS}, "a source's line is no method's"


@each("reverse", [False, True])
def test_every_method_looks_the_same_in_every_figure_and_whatever_stands_beside_it(reverse):
    titles = sorted((method.title for method in METHODS.values()), reverse=reverse)
    expected = {method.title: (method_look(name).colour, method_look(name).marker) for name, method in METHODS.items()}
    row = MethodScores((0.6,), (None,), 0.6, None)
    assert looks(c_index_picture("c", dict.fromkeys(titles, row), WHO), titles) == expected
    gaps = {title: (1.0 - 0.01 * i, None) for i, title in enumerate(titles)}
    assert looks(difference_picture("d", "local", gaps, WHO), titles) == expected


def test_a_study_s_own_titles_have_the_look_of_their_methods():
    row, methods = MethodScores((0.6,), (None,), 0.6, None), {"without noise": "steph", "with noise": "steph"}
    found = looks(c_index_picture("c", dict.fromkeys(methods, row), WHO, methods), [*methods])
    assert {*found.values()} == {(method_look("steph").colour, method_look("steph").marker)}


def test_enhanced_means_the_panel_and_other_models_have_looks_of_their_own():
    assert method_look("enhanced") == method_look("enhanced model") == method_look("panel")
    assert method_look("oracle routing") == method_look("oracle_routing")
    others = [method_look(f"my model {i}", i) for i in range(len(COLOURS))]
    assert [look.colour for look in others] == list(COLOURS)


@each("name", MAIN)
def test_risk_groups_are_two_shades_of_their_method_and_differ_in_dashes(name):
    lower, higher = method_look(name).groups
    light, dark = (sum(matplotlib.colors.to_rgb(group["color"])) for group in (lower, higher))
    assert light > dark + 0.2 and lower["linestyle"] != higher["linestyle"]


def axis_from(lowest: float) -> Any:
    with canvas("t", "w") as figure:
        axes = figure.subplots()
        probability_axis(axes, "survival", lowest)
    return axes


def test_a_probability_s_axis_is_from_0_unless_all_is_close_to_1_and_then_it_says_so():
    assert axis_from(0.3).get_ylim()[0] == axis_from(0.699).get_ylim()[0] == 0
    assert axis_from(0.3).get_ylabel() == "survival"
    close = axis_from(0.853)
    assert close.get_ylim()[0] == pytest.approx(0.8) and close.get_ylabel() == "survival (axis from 0.80)"
    assert axis_from(0.90).get_ylim()[0] < 0.9 and axis_from(1.0).get_ylim()[0] < 1.0 < axis_from(1.0).get_ylim()[1]


def test_a_difference_that_is_nothing_is_called_nothing():
    one = np.array([0.95, 0.853])
    assert "at most 0.003" in told_difference(one, one + 0.003) and "no difference" in told_difference(one, one)
    assert told_difference(one, one - 0.02) == ""
