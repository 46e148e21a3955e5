"""What is drawn is what was given: every point, bar and number of the pictures, read off their axes."""

from __future__ import annotations

from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from each_case import each
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from fedsteph.common.model.method_scores import MethodScores
from fedsteph.common.report.c_index import c_index_picture, c_index_table
from fedsteph.common.report.differences import difference_picture
from fedsteph.common.report.page import Picture
from fedsteph.common.report.source_matrix import matrix, matrix_picture

WHO = "site-a: n = 37 patients, 3 folds, seed $0$"


def said(picture: Picture) -> str:
    """Title and owner as they stand in the figure."""
    assert picture.figure is not None
    return picture.figure.get_suptitle().replace("\n", " ")


def axes_of(picture: Picture) -> Axes:
    assert picture.figure is not None
    return picture.figure.axes[0]


def points(axes: Axes) -> list[tuple[float, float, tuple[float, float] | None]]:
    """``(x, y, ends of its bar)`` of everything drawn with error bars, in the order of drawing."""
    found = []
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, bars = container.lines
        (x,), (y,) = line.get_xdata(), line.get_ydata()
        ends = None
        if bars:
            ((left, at), (right, level)) = bars[0].get_segments()[0]
            assert at == level == y
            ends = (left, right)
        found.append((float(x), float(y), ends))
    return found


def close(found: Any, expected: Any) -> bool:
    return bool(np.allclose(np.array(found, float), np.array(expected, float), rtol=0, atol=1e-12))


NONE = (None, None, None)
ROWS = {
    "local": MethodScores((0.5, 0.6, 0.7), ((0.4, 0.55), (0.5, 0.75), (0.7, 0.8)), 0.6, (0.52, 0.66)),
    "all undefined": MethodScores(NONE, NONE, None, None),
    "STEPH $x_{": MethodScores((None, 0.65, 0.75), (None, None, (0.6, 0.9)), 0.7, (0.61, 0.74)),
    "bare": MethodScores((0.55, 0.45, 0.5), NONE, 0.5, None),
}
SHOWN = ["local", "STEPH $x_{", "bare"]


def test_every_defined_fold_is_a_point_and_every_mean_a_diamond():
    found = points(axes_of(c_index_picture("c", ROWS, WHO)))
    expected = []
    for label in SHOWN:
        row = ROWS[label]
        folds = zip(row.c_index, row.fold_intervals_95, strict=True)
        expected += [(value, ends) for value, ends in folds if value is not None]
        expected.append((row.mean, row.interval_95))
    assert len(found) == len(expected) == 3 + 1 + 2 + 1 + 3 + 1
    for (x, _, ends), (value, interval) in zip(found, expected, strict=True):
        assert x == value and (ends is None) == (interval is None)
        assert ends is None or close(ends, interval)


def test_points_lie_in_their_method_s_row_and_folds_from_the_top_down():
    axes = axes_of(c_index_picture("c", ROWS, WHO))
    rows: list[list[float]] = [[], [], []]
    for _, y, _ in points(axes):
        rows[round(y)].append(y)  # a row is 1 high, around its label
    assert [len(row) for row in rows] == [4, 3, 4]
    assert all(row == sorted(row) for row in rows)  # the axis goes down, so lower numbers stand above
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert rows[1][0] - 1 == pytest.approx(rows[0][1])  # fold 1 has its place, although fold 0 is undefined
    low, high = sorted(axes.get_ylim())
    assert all(low < y < high for row in rows for y in row)


def test_methods_are_named_and_means_written():
    axes = axes_of(c_index_picture("c", ROWS, WHO))
    assert [label.get_text() for label in axes.get_yticklabels()] == SHOWN and list(axes.get_yticks()) == [0, 1, 2]
    assert [text.get_text() for text in axes.texts] == ["0.600", "0.700", "0.500"] and "C-index" in axes.get_xlabel()
    (chance,) = [line for line in axes.lines if list(line.get_xdata()) == [0.5, 0.5]]
    assert chance.get_linestyle() == ":"


def test_the_c_index_figure_says_whose_it_is():
    picture = c_index_picture("c", ROWS, WHO)
    assert said(picture) == f"{picture.title} {WHO}" and picture.note


def test_no_c_index_at_all_is_a_sentence():
    for rows in ({}, {"local": ROWS["all undefined"]}, {"a": ROWS["all undefined"], "b": ROWS["all undefined"]}):
        picture = c_index_picture("c", rows, WHO)
        assert picture.figure is None and "no C-index exists" in picture.instead


def test_the_c_index_table_has_every_method_and_every_fold():
    expected = [
        ["local", "0.600 (0.520-0.660)", "0.500 (0.400-0.550)", "0.600 (0.500-0.750)", "0.700 (0.700-0.800)"],
        ["all undefined", *["undefined"] * 4],
        ["STEPH $x_{", "0.700 (0.610-0.740)", "undefined", "0.650", "0.750 (0.600-0.900)"],
        ["bare", "0.500", "0.550", "0.450", "0.500"],
    ]
    table = c_index_table(ROWS)
    assert (table.header, table.rows) == (["method", "mean", "fold 0", "fold 1", "fold 2"], expected)
    assert c_index_picture("c", ROWS, WHO).numbers == table and c_index_table({}).header == ["method", "mean"]


def test_an_interval_that_leaves_its_mean_out_has_no_bar_backwards():
    """Resamples of a skewed C-index may lie on one side of it."""
    row = MethodScores((0.9,), ((0.7, 0.8),), 0.9, (0.92, 0.95))
    ((x, _, first), (mean, _, second)) = points(axes_of(c_index_picture("c", {"m": row}, WHO)))
    assert (x, mean) == (0.9, 0.9) and close(first, [0.7, 0.9]) and close(second, [0.9, 0.95])


@each("n", [1, 9, 13])
def test_many_methods_and_folds_all_have_their_points(n):
    rows = {f"method {i}": MethodScores((0.5 + 0.01 * i,) * n, (None,) * n, 0.5, None) for i in range(n)}
    axes = axes_of(c_index_picture("c", rows, WHO))
    assert len(axes.containers) == n * (n + 1)
    assert [round(y) for _, y, _ in points(axes)] == [i for i in range(n) for _ in range(n + 1)]


GAPS: dict[str, tuple[float | None, tuple[float, float] | None]] = {
    "worse": (-0.03, (-0.05, -0.01)),
    "unsure": (0.01, (-0.02, 0.03)),
    "unknown": (None, None),
    "better": (0.04, (0.01, 0.08)),
    "alone": (0.02, None),
    "just": (0.005, (0.0, 0.01)),
}
ORDER = ["better", "alone", "unsure", "just", "worse"]


def test_differences_are_drawn_largest_first_with_their_bars():
    axes = axes_of(difference_picture("d", "STEPH", GAPS, WHO))
    found = points(axes)
    assert [y for _, y, _ in found] == [0, 1, 2, 3, 4]
    for label, (x, _, ends) in zip(ORDER, found, strict=True):
        gap, interval = GAPS[label]
        assert x == gap and (ends is None) == (interval is None)
        assert ends is None or close(ends, interval)
    assert [label.get_text() for label in axes.get_yticklabels()] == ORDER and axes.get_ylim()[0] > 4
    assert axes.get_ylim()[1] < 0 and "Harrell" in axes.get_xlabel()
    (zero,) = [line for line in axes.lines if list(line.get_xdata()) == [0.0, 0.0]]
    assert zero.get_linestyle() == ":"


def test_only_an_interval_that_leaves_0_out_fills_its_point():
    axes = axes_of(difference_picture("d", "STEPH", GAPS, WHO))
    filled = [
        matplotlib.colors.to_hex(container.lines[0].get_markerfacecolor()) != "#ffffff" for container in axes.containers
    ]
    assert dict(zip(ORDER, filled, strict=True)) == {
        "better": True,
        "alone": False,
        "unsure": False,
        "just": False,
        "worse": True,
    }


def test_the_difference_figure_says_against_what_and_whose():
    picture = difference_picture("d", "the method $x_{", GAPS, WHO)
    assert said(picture) == f"C-index of every method minus that of the method $x_{{ {WHO}"
    assert picture.numbers is not None
    assert picture.numbers.rows == [
        ["better", "+0.0400", "+0.0100", "+0.0800"],
        ["alone", "+0.0200", "-", "-"],
        ["unsure", "+0.0100", "-0.0200", "+0.0300"],
        ["just", "+0.0050", "+0.0000", "+0.0100"],
        ["worse", "-0.0300", "-0.0500", "-0.0100"],
    ]


def test_nothing_to_compare_is_a_sentence():
    for rows in ({}, {"unknown": GAPS["unknown"]}):
        picture = difference_picture("d", "STEPH", rows, WHO)
        assert picture.figure is None and picture.instead == "No method can be compared with it."


TARGETS = {
    "better": {"north": (0.05, (0.01, 0.09)), "south": (0.03, (-0.01, 0.07))},
    "worse": {"north": (-0.03, (-0.05, -0.01)), "south": (None, None)},
}


def test_below_each_method_stand_its_targets():
    picture = difference_picture("d", "local", {name: GAPS[name] for name in TARGETS}, WHO, TARGETS)
    axes = axes_of(picture)
    labels = ["better", "north", "south", "worse", "north"]
    assert [text.get_text() for text in axes.get_yticklabels()] == labels
    assert [x for x, _, _ in points(axes)] == [0.04, 0.05, 0.03, -0.03, -0.03]
    assert picture.numbers is not None
    assert [row[:2] for row in picture.numbers.rows] == [
        *(["better", target] for target in ("mean", "north", "south")),
        *(["worse", target] for target in ("mean", "north")),
    ]
    assert picture.alt.startswith(
        "Of 2 methods, 1 is shown to be better than local (better), 1 is shown to be worse than local (worse)."
    )


def test_many_targets_are_dots_in_their_method_s_row():
    many = {f"site-{i}": (i / 100, (-0.1, 0.5)) for i in range(70)}
    axes = axes_of(difference_picture("d", "local", {"unsure": GAPS["unsure"]}, WHO, {"unsure": many}))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["unsure"]
    (dots,) = [line for line in axes.lines if len(line.get_xdata()) == 70]
    assert close(dots.get_xdata(), [gap for gap, _ in many.values()])


def test_what_no_interval_shows_is_said_to_be_unknown():
    picture = difference_picture("d", "local", {"unsure": GAPS["unsure"]}, WHO)
    assert picture.finding == "No method is shown to be better or worse than local: every 95% interval includes 0."


COEFFICIENTS = {
    "north": {"south": 0.3, "west": 0.05, "east": -0.05},
    "south": {"north": 0.0},  # never kept
    "east": {},  # everybody was refused
}


def test_every_target_is_a_column_and_every_source_a_row_and_blank_where_it_is_none():
    sources, targets, values = matrix(COEFFICIENTS)
    assert targets == ["north", "south", "east"] and sources == ["east", "north", "south", "west"]
    by_hand = np.full((4, 3), np.nan)
    by_hand[2, 0], by_hand[3, 0], by_hand[0, 0], by_hand[1, 1] = 0.3, 0.05, -0.05, 0.0
    np.testing.assert_array_equal(values, by_hand)


def test_no_coefficients_are_an_empty_matrix():
    sources, targets, values = matrix({})
    assert (sources, targets, values.shape) == ([], [], (0, 0))


def test_the_matrix_is_drawn_with_its_numbers():
    picture = matrix_picture("m", COEFFICIENTS, WHO)
    axes, (sources, targets, values) = axes_of(picture), matrix(COEFFICIENTS)
    (image,) = axes.images
    np.testing.assert_array_equal(np.ma.filled(image.get_array().astype(float), np.nan), values)
    low, high = image.get_clim()
    assert (low, high) == (np.nanmin(values), np.nanmax(values))
    assert [label.get_text() for label in axes.get_xticklabels()] == targets
    assert [label.get_text() for label in axes.get_yticklabels()] == sources
    written = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    expected = {
        (j, i): f"{values[i, j]:.2f}"
        for i in range(len(sources))
        for j in range(len(targets))
        if not np.isnan(values[i, j])
    }
    assert written == expected and (axes.get_xlabel(), axes.get_ylabel()) == ("target", "source")
    assert said(picture) == f"{picture.title} {WHO}" and picture.numbers is not None
    assert picture.numbers.header == ["source", *targets]
    assert picture.numbers.rows == [
        ["east", "-0.0500", "-", "-"],
        ["north", "-", "0.0000", "-"],
        ["south", "0.3000", "-", "-"],
        ["west", "0.0500", "-", "-"],
    ]
    (bar,) = [other for other in picture.figure.axes if other is not axes]
    assert bar.get_ylabel() == "mean w (1 - lam)"


@each(("low", "high"), [(0.0, 1.0), (0.2, 0.3), (-1.0, 0.1)])
def test_numbers_can_be_read_on_their_colours(low, high):
    """A contrast of at least 4 to 1 between each number and the cell that it stands on, by the WCAG's formula.

    Coefficients are below 0 where w is a trainable parameter.
    """
    steps = np.linspace(low, high, 9).tolist()
    found = {f"t{j}": {f"s{i}": steps[3 * i + j] for i in range(3)} for j in range(3)}
    axes = axes_of(matrix_picture("m", found, WHO))

    def luminance(colour: Any) -> float:
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    (image,) = axes.images
    for text in axes.texts:
        j, i = text.get_position()
        below = image.cmap(image.norm(image.get_array()[int(i), int(j)]))
        light, dark = sorted([luminance(below), luminance(text.get_color())], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4, text.get_text()


def test_coefficients_that_are_all_0_are_drawn_and_none_at_all_are_a_sentence():
    zero = {"a": {"b": 0.0}}
    assert [text.get_text() for text in axes_of(matrix_picture("m", zero, WHO)).texts] == ["0.00"]
    for nothing in ({}, {"a": {}}, {"a": {}, "b": {}}):
        picture = matrix_picture("m", nothing, WHO)
        assert picture.figure is None and picture.instead == "No source was merged anywhere."
