"""Calibration: groups and probabilities by hand, what was observed by scikit-survival, and the drawn points."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from each_case import each
from report_builders import WHO, drawn, heading, lines_by_label, make_evidence, says, squeezed
from sksurv.nonparametric import kaplan_meier_estimator

from fedsteph.client.report.calibration import Point, draw, horizon, points
from fedsteph.client.target.evidence import Evidence
from fedsteph.common.report.method_look import method_look

N_BINS = 6
YEAR = 365.0


def random_evidence(seed: int, n: int = 43, step: float = 0) -> Evidence:
    """Days that may tie and meet the ends of years; two methods."""
    rng = np.random.default_rng(seed)
    t = rng.exponential(1500, n) + 1
    if step:
        t = np.ceil(t / step) * step
    hazards = {name: rng.uniform(0.02, 0.4, (n, N_BINS)) for name in ("local", "steph")}
    return make_evidence(t, (rng.random(n) < 0.6).astype(int), hazards)


def plain_probability(hazards: np.ndarray, years: int) -> float:
    alive = 1.0
    for h in hazards[:years]:
        alive *= 1 - h
    return 1 - alive


def quartiles(predicted: list[float]) -> list[list[int]]:
    """Patients in four groups, lowest first, that differ in size by one at most, larger ones first."""
    order = sorted(range(len(predicted)), key=lambda i: predicted[i])
    sizes = [len(predicted) // 4 + (k < len(predicted) % 4) for k in range(4)]
    ends = np.cumsum([0, *sizes])
    return [order[a:b] for a, b in pairwise(ends)]


def observed(t: np.ndarray, e: np.ndarray, year: int) -> tuple[float, float, float]:
    """Share with an event by the end of a year, and its interval, by scikit-survival."""
    x, alive, (low, high) = kaplan_meier_estimator(e > 0, t, conf_type="log-log")
    last = int((x <= year * YEAR).sum()) - 1
    return (0.0, 0.0, 0.0) if last < 0 else (1 - alive[last], 1 - high[last], 1 - low[last])


@each("year", [1, 3, 5])
@each("step", [0, 73, 365])
def test_points_equal_scikit_survival_at_the_horizon(step, year):
    found = random_evidence(year, step=step)
    for method in ("local", "steph"):
        predicted = [plain_probability(row, year) for row in found.hazards[method]]
        for group, point in zip(
            quartiles(predicted),
            points(found.event_probability(method, year), found.times, found.events, year),
            strict=True,
        ):
            share, low, high = observed(found.times[group], found.events[group], year)
            assert point.n == len(group)
            assert point.predicted == pytest.approx(np.mean([predicted[i] for i in group]), abs=1e-12)
            assert point.observed == pytest.approx(share, abs=1e-9)
            if 0 < share < 1:
                assert (point.low, point.high) == pytest.approx((low, high), abs=1e-9)
            assert 0 <= point.low <= point.observed <= point.high <= 1


def test_a_group_by_hand():
    """Of 4 one dies on day 400, one leaves on day 500, one dies on day 1095, which is still within 3 years."""
    t, e = np.array([400.0, 500.0, 1095.0, 1096.0]), np.array([1, 0, 1, 1])
    point = Point(np.array([0.1, 0.2, 0.3, 0.6]), t, e, 3)
    assert point.n == 4 and point.predicted == pytest.approx(0.3) and point.observed == pytest.approx(1 - 3 / 4 * 1 / 2)
    assert Point(np.full(4, 0.1), t - 0.5, e, 1).observed == 0.0
    assert Point(np.full(4, 0.1), t, e, 2).observed == pytest.approx(1 / 4)


def test_an_event_on_day_0_is_within_every_year():
    t, e = np.array([0.0, 0.0, 1095.0, 3000.0]), np.array([1, 0, 1, 0])
    assert Point(np.full(4, 0.1), t, e, 3).observed == pytest.approx(1 - 3 / 4 * 1 / 2)
    assert Point(np.full(4, 0.1), t, e, 1).observed == pytest.approx(1 / 4)


@each(("n", "high"), [(2, 1.0), (3, 1.0), (4, 3 / 4), (30, 3 / 30)])
def test_where_nobody_had_an_event_the_rule_of_three_holds(n, high):
    point = Point(np.full(n, 0.2), np.full(n, 2000.0), np.zeros(n, dtype=int), 3)
    assert (point.observed, point.low) == (0.0, 0.0) and point.high == pytest.approx(high)


def test_where_everybody_had_an_event_the_interval_is_not_a_point():
    """Two of two tell little of a probability; as little as none of two, whose interval reaches to 1."""
    point = Point(np.full(2, 0.9), np.array([100.0, 200.0]), np.array([1, 1]), 3)
    assert point.observed == point.high == pytest.approx(1.0) and point.low < 0.9


@each(
    ("years", "expected"),
    [
        ([3] * 8, 3),
        ([3] * 7 + [2.999], 1),
        ([9] * 8 + [0.1] * 30, 3),
        ([9] * 7 + [1], 1),
        ([9] * 7 + [0.999], None),
        ([0.5] * 100, None),
        ([], None),
    ],
)
def test_the_horizon_is_3_years_or_1_where_eight_patients_are_followed_so_long(years, expected):
    assert horizon(np.array(years) * YEAR) == expected


@each(
    ("t", "e", "why"),
    [
        ([], [], "long enough a follow-up"),
        ([2000] * 7, [1] * 7, "long enough a follow-up"),
        ([300] * 40, [1] * 40, "long enough a follow-up"),
        ([2000] * 40, [0] * 40, "an event"),
    ],
)
def test_a_sentence_stands_where_calibration_cannot_be_judged(t, e, why):
    found = make_evidence(t, e, {"local": np.full((len(t), N_BINS), 0.1)})
    sentence = says(draw("site-a.calibration", found, {"local": "local"}, WHO))
    assert why in sentence and sentence.startswith("Too few test patients")


def test_eight_patients_are_enough():
    found = make_evidence([1095] * 8, [1, 0] * 4, {"local": np.linspace(0.1, 0.5, 48).reshape(8, 6)})
    assert [row[2] for row in draw("a", found, {"local": "local"}, WHO).numbers.rows] == ["2"] * 4


def test_a_group_that_is_hardly_followed_is_left_out_and_not_carried_on():
    """One event on day 170, five left before it: nobody knows of their third year. The other groups are followed."""
    t = [100.0] * 5 + [170.0] + [1500.0] * 18
    found = make_evidence(t, [0] * 5 + [1] + [1, 0] * 9, {"local": np.linspace(0.05, 0.4, 24 * N_BINS).reshape(24, -1)})
    first, *others = points(found.event_probability("local", 3), found.times, found.events, 3)
    assert not first.is_known and all(point.is_known for point in others)
    rows = draw("a", found, {"local": "local"}, WHO).numbers.rows
    assert [row[1] for row in rows] == ["2", "3", "4"]


def test_the_rule_of_three_counts_those_who_were_followed():
    point = Point(np.full(20, 0.1), np.array([100.0] * 16 + [2000.0] * 4), np.zeros(20, dtype=int), 3)
    assert point.followed == 4 and point.high == pytest.approx(3 / 4)


TITLES = {"local": "local", "steph": "enhanced"}


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return random_evidence(9, n=81, step=73)


@pytest.fixture(scope="module")
def picture(evidence):
    return draw("site-a.calibration", evidence, TITLES, WHO)


def test_points_and_bars_are_the_numbers(evidence, picture):
    axes = drawn(picture).axes[0]
    assert [container.get_label() for container in axes.containers] == ["local", "enhanced"]
    for method, container in zip(TITLES, axes.containers, strict=True):
        groups = points(evidence.event_probability(method, 3), evidence.times, evidence.events, 3)
        line, _, (bars,) = container.lines
        assert line.get_xdata().tolist() == [group.predicted for group in groups]
        assert line.get_ydata().tolist() == [group.observed for group in groups]
        expected = [[[g.predicted, g.low], [g.predicted, g.high]] for g in groups]
        np.testing.assert_allclose(bars.get_segments(), expected, atol=1e-12)
    looks = {(str(container.lines[0].get_color()), container.lines[0].get_marker()) for container in axes.containers}
    assert looks == {(method_look(title).colour, method_look(title).marker) for title in TITLES.values()}


def test_the_diagonal_is_where_both_axes_are_equal(picture):
    axes = drawn(picture).axes[0]
    diagonal = lines_by_label(axes)["calibrated"]
    assert np.array_equal(diagonal.get_xdata(), diagonal.get_ydata()) and diagonal.get_xdata()[0] == 0
    assert axes.get_xlim() == axes.get_ylim() == (0, diagonal.get_xdata()[-1])
    tops = [segment[1] for container in axes.containers for segment in container.lines[2][0].get_segments()]
    assert all(x <= axes.get_xlim()[1] and y <= axes.get_ylim()[1] for x, y in tops)


def test_whose_they_are_and_what_the_axes_say(picture):
    figure = drawn(picture)
    axes = figure.axes[0]
    assert squeezed(WHO) in squeezed(heading(figure)) and picture.title == "Calibration at 3 years"
    assert axes.get_xlabel() == "predicted probability of an event within 3 y"
    assert axes.get_ylabel() == "observed (Kaplan-Meier) within 3 y"
    assert "rule of three" in picture.note and "95% intervals" in picture.note
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(legend) == ["calibrated", "enhanced", "local"]


def test_the_table_has_every_point(evidence, picture):
    rows = []
    for method, title in TITLES.items():
        predicted = [plain_probability(row, 3) for row in evidence.hazards[method]]
        for k, group in enumerate(quartiles(predicted)):
            share, low, high = observed(evidence.times[group], evidence.events[group], 3)
            assert 0 < share < 1
            mean = np.mean([predicted[i] for i in group])
            rows.append([title, str(k + 1), str(len(group)), f"{mean:.3f}", f"{share:.3f}", f"{low:.3f}-{high:.3f}"])
    assert picture.numbers.rows == rows


def test_one_year_is_not_called_years():
    t = [400.0] * 10 + [100.0] * 4
    found = make_evidence(t, [1, 0] * 7, {"local": np.random.default_rng(0).uniform(0.1, 0.5, (14, N_BINS))})
    picture = draw("a", found, {"local": "local"}, WHO)
    assert picture.title == "Calibration at 1 year" and "within 1 y" in drawn(picture).axes[0].get_xlabel()


def test_a_patient_in_two_folds_counts_once(evidence, picture):
    """By the first of them."""
    n = len(evidence)
    again = {name: np.concatenate([values, np.full((5, N_BINS), 0.9)]) for name, values in evidence.hazards.items()}
    twice = make_evidence(
        [*evidence.times, *evidence.times[:5]],
        [*evidence.events, *evidence.events[:5]],
        again,
        ids=[*evidence.ids, *evidence.ids[:5]],
        fold=[0] * n + [1] * 5,
    )
    rows = draw("a", twice, TITLES, WHO).numbers.rows
    assert rows == picture.numbers.rows and sum(int(row[2]) for row in rows) == n * len(TITLES)
