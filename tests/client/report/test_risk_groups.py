"""Risk groups against scikit-survival, against arithmetic by hand, and what is drawn against what was computed."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from each_case import each
from report_builders import WHO, band_at, drawn, heading, says, squeezed
from sksurv.compare import compare_survival
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from fedsteph.client.report.risk_groups import RiskGroups, describe, draw, p_value, risk_groups, survival_at
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.style import encoded

YEAR = 365.0
CLOSE = 1e-3  # lifelines ends a search within 1e-7 of the largest likelihood, and so near to the ratio
STEPS = pytest.mark.parametrize("step", [0, 30, 365], ids=["no ties", "months", "years"])
SEEDS = pytest.mark.parametrize("seed", range(2))


def random_patients(seed: int, step: float, n: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days, events and groups; ``step`` rounds the days, so that they tie and meet the ends of years."""
    rng = np.random.default_rng(1000 * seed + int(step))
    high = rng.random(n) < 0.4
    t = rng.exponential(np.where(high, 700, 1300)) + 1
    if step:
        t = np.ceil(t / step) * step
    return t, (rng.random(n) < 0.6).astype(int), high


def compared(t, e, high) -> RiskGroups:
    found = risk_groups(np.array(t, dtype=float), np.array(e), np.array(high, dtype=bool))
    assert isinstance(found, RiskGroups)
    return found


@cache
def random_groups(seed: int, step: float) -> RiskGroups:
    return compared(*random_patients(seed, step))


def sides(t, e, high):
    """Days and events of the lower and of the higher risk."""
    return (t[~high], e[~high]), (t[high], e[high])


@STEPS
@SEEDS
def test_curves_and_bands_equal_scikit_survival(seed, step):
    t, e, high = random_patients(seed, step)
    for group, (days, events) in zip(random_groups(seed, step).groups, sides(t, e, high), strict=True):
        x, alive, (low, upper) = kaplan_meier_estimator(events > 0, days, conf_type="log-log")
        assert group.years * YEAR == pytest.approx([0, *x]) and group.survival == pytest.approx([1, *alive], abs=1e-12)
        inside = (alive > 0) & (alive < 1)
        assert inside.sum() > 3 and group.low[1:][inside] == pytest.approx(low[inside], abs=1e-9)
        assert group.high[1:][inside] == pytest.approx(upper[inside], abs=1e-9)
        assert sorted(group.times) == sorted(days) and group.events.sum() == events.sum()


@STEPS
@SEEDS
def test_the_band_contains_the_curve(seed, step):
    for group in random_groups(seed, step).groups:
        assert np.isfinite([group.low, group.high]).all()
        assert (group.low <= group.survival).all() and (group.survival <= group.high).all()
        assert group.low.min() >= 0 and group.high.max() <= 1


def test_two_groups_by_hand():
    """Lower risk: events in years 1 and 3 of 1, 2, 3, 4. Higher risk: events at 0.5, 1 and 2, one censored at 2."""
    years = np.array([1, 2, 3, 4, 0.5, 1, 2, 2])
    events = np.array([1, 0, 1, 0, 1, 1, 1, 0])
    high = np.arange(8) >= 4
    found = compared(years * YEAR, events, high)
    low_risk, high_risk = found.groups
    assert (low_risk.name, high_risk.name) == ("lower risk", "higher risk")
    assert low_risk.years.tolist() == [0, 1, 2, 3, 4]
    assert low_risk.survival == pytest.approx([1, 3 / 4, 3 / 4, 3 / 4 * 1 / 2, 3 / 8])
    assert high_risk.years.tolist() == [0, 0.5, 1, 2]
    assert high_risk.survival == pytest.approx([1, 3 / 4, 3 / 4 * 2 / 3, 1 / 2 * 1 / 2])
    # Log-rank: of 8 at 0.5 years 4 are of higher risk, of 7 at 1 year 3 (and 2 die), of 5 at 2 years 2, then none.
    expected = 4 / 8 + 2 * 3 / 7 + 2 / 5
    variance = 4 / 8 * 4 / 8 + 2 * 3 / 7 * 4 / 7 * (7 - 2) / (7 - 1) + 2 / 5 * 3 / 5
    z = (3 - expected) / math.sqrt(variance)
    assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=1e-9)
    # Greenwood's variance of log(-log S) after the first event: d / (n (n - d)) / log(S)^2.
    s, spread = 3 / 4, 1.959964 * math.sqrt(1 / (4 * 3)) / abs(math.log(3 / 4))
    assert low_risk.low[1] == pytest.approx(s ** math.exp(spread), abs=1e-6)
    assert low_risk.high[1] == pytest.approx(s ** math.exp(-spread), abs=1e-6)


def test_the_curve_is_read_as_a_step_function():
    group = compared(np.array([1, 2, 3, 4, 5.0]) * YEAR, [1, 0, 1, 0, 1], [0, 0, 0, 0, 1]).groups[0]
    found = [survival_at(group, year) for year in (0, 0.99, 1, 2.5, 3, 9)]
    assert found == pytest.approx([1, 1, 3 / 4, 3 / 4, 3 / 8, 3 / 8])


def test_numbers_at_risk_by_hand():
    """Whoever is followed to the end of a year, to the day, still counts there."""
    t = [0, 364, 365, 365, 366, 730, 800]
    group = compared([*t, 5000], [1] * 8, [0] * 7 + [1]).groups[0]
    found = {year: group.at_risk(year) for year in (0, 0.5, 1, 1.5, 2, 2.5, 3)}
    assert found == {0: 7, 0.5: 6, 1: 5, 1.5: 2, 2: 2, 2.5: 0, 3: 0}


@STEPS
@SEEDS
def test_log_rank_equals_scikit_survival(seed, step):
    t, e, high = random_patients(seed, step)
    _, p = compare_survival(Surv.from_arrays(e > 0, t), high.astype(int))
    assert random_groups(seed, step).p == pytest.approx(float(p), rel=1e-6)


@STEPS
@SEEDS
def test_hazard_ratio_equals_scikit_survival(seed, step):
    t, e, high = random_patients(seed, step)
    model = CoxPHSurvivalAnalysis(ties="efron").fit(high.astype(float)[:, None], Surv.from_arrays(e > 0, t))
    beta = float(model.coef_[0])
    error = 1 / math.sqrt(-second_derivative(lambda x: plain_efron(x, t, e, high), beta))
    expected = [math.exp(beta + z * error) for z in (0, -1.959964, 1.959964)]
    assert random_groups(seed, step).hazard_ratio == pytest.approx(expected, rel=CLOSE)


def plain_efron(beta: float, t, e, high) -> float:
    """Efron's partial log-likelihood of the group alone, by loops."""
    total = 0.0
    for day in sorted({*t[e > 0]}):
        dies = [i for i in range(len(t)) if t[i] == day and e[i]]
        at_risk = sum(math.exp(beta * high[i]) for i in range(len(t)) if t[i] >= day)
        tied = sum(math.exp(beta * high[i]) for i in dies)
        total += sum(beta * high[i] for i in dies)
        total -= sum(math.log(at_risk - k / len(dies) * tied) for k in range(len(dies)))
    return total


def second_derivative(f, x: float, step: float = 1e-3) -> float:
    return (f(x + step) - 2 * f(x) + f(x - step)) / step**2


def test_a_hazard_ratio_by_hand():
    """Events: of higher risk among 2 and 1 of lower, then of lower risk among 1 and 1.

    log L = log r - log(2 r + 1) - log(1 + r) has its maximum where 2 r^2 = 1.
    """
    ratio, low, high = compared([100, 200, 300], [1, 1, 0], [1, 0, 1]).hazard_ratio
    r = math.sqrt(0.5)
    error = 1 / math.sqrt(2 * r / (2 * r + 1) ** 2 + r / (1 + r) ** 2)
    assert ratio == pytest.approx(r, rel=CLOSE)
    assert (low, high) == pytest.approx((r * math.exp(-1.959964 * error), r * math.exp(1.959964 * error)), rel=CLOSE)


def test_higher_risk_with_earlier_events_has_a_ratio_above_1_and_turned_round_below():
    t, e, high = random_patients(1, 0, n=120)
    ratio, turned = (compared(t, e, side).hazard_ratio for side in (high, ~high))
    assert ratio[0] > 1.2 and turned == pytest.approx([1 / ratio[0], 1 / ratio[2], 1 / ratio[1]], rel=CLOSE)


@each(
    ("p", "text"),
    [
        (0.0, "< 0.0001"),
        (1e-300, "< 0.0001"),
        (9.99e-5, "< 0.0001"),
        (1e-4, "= 0.0001"),
        (0.00012345, "= 0.00012"),
        (0.0496, "= 0.05"),
        (0.32, "= 0.32"),
        (0.999, "= 1"),
        (1.0, "= 1"),
    ],
)
def test_p_values_in_words(p, text):
    assert p_value(p) == text


def test_no_p_value_is_ever_0():
    for p in np.geomspace(1e-12, 1, 200):
        sign, number = p_value(float(p)).split()
        assert float(number) > 0 and (sign == "<") == (p < 1e-4)


def test_the_lines_over_the_curves_by_hand():
    groups = compared([100, 200, 300], [1, 1, 0], [1, 0, 1]).groups
    lines = ["hazard ratio 1.23 (95% 0.46 to 3.00)", "log-rank p = 0.023"]
    assert describe(RiskGroups(groups, 0.0234, (1.234, 0.456, 2.999))).splitlines() == lines
    ratio, test = describe(RiskGroups(groups, None, None)).splitlines()
    assert ratio.startswith("hazard ratio not estimable") and test == "log-rank p not defined"


@each(
    ("t", "e", "high", "sentence"),
    [
        ([], [], [], "fewer than two test patients"),
        ([400], [1], [1], "fewer than two test patients"),
        ([400, 500, 600], [0, 0, 0], [1, 0, 1], "No test patient has an event"),
        ([400, 500, 600], [1, 0, 1], [0, 0, 0], "No test patient is of higher risk"),
        ([400, 500, 600], [1, 0, 1], [1, 1, 1], "No test patient is of lower risk"),
    ],
)
def test_a_sentence_stands_where_nothing_can_be_compared(t, e, high, sentence):
    found = risk_groups(np.array(t, dtype=float), np.array(e, dtype=int), np.array(high, dtype=bool))
    assert isinstance(found, str) and sentence in found and found.endswith(".")
    picture = draw("site-a.risk-groups.local", "local", found, WHO)
    assert says(picture) == found and "local model" in picture.title


@each("turned", [False, True])
def test_a_group_without_events_has_no_hazard_ratio(turned):
    t, e, high = [100, 200, 300, 400, 500], [1, 0, 1, 1, 0], np.array([1, 0, 1, 1, 0], dtype=bool)
    found = compared(t, e, ~high if turned else high)
    assert found.hazard_ratio is None and "not estimable (a group without events)" in describe(found)
    _, p = compare_survival(Surv.from_arrays(np.array(e) > 0, np.array(t, dtype=float)), high.astype(int))
    assert found.p == pytest.approx(float(p), rel=1e-6) and "log-rank p =" in describe(found)
    flat = found.groups[turned]
    assert flat.survival.tolist() == flat.low.tolist() == flat.high.tolist() == [1, 1, 1]


def test_a_ratio_without_a_bound_is_not_blamed_on_missing_events():
    """All of higher risk die before all of lower risk: no finite ratio is the likeliest, and both have events."""
    found = compared([1, 2, 3, 4, 5, 10, 11, 12, 13, 14], [1] * 10, [1] * 5 + [0] * 5)
    assert found.hazard_ratio is None and "not estimable" in describe(found) and "without events" not in describe(found)


def test_an_event_on_day_0_takes_the_curve_down_at_once():
    found = compared([0, 0, 0, 400, 300], [1, 0, 1, 1, 1], [1, 1, 0, 0, 1])
    low_risk, high_risk = found.groups
    assert low_risk.years * YEAR == pytest.approx([0, 400]) and low_risk.survival == pytest.approx([1 / 2, 0])
    assert high_risk.years * YEAR == pytest.approx([0, 300]) and high_risk.survival == pytest.approx([2 / 3, 0])
    assert [group.at_risk(0) for group in found.groups] == [2, 3] and survival_at(high_risk, 0) == pytest.approx(2 / 3)
    assert drawn(draw("a", "local", found, WHO)).axes[0].lines[1].get_ydata()[0] == pytest.approx(2 / 3)


def test_everybody_on_one_day():
    """Two of three of each group die on the same day: nothing tells them apart."""
    found = compared([730] * 6, [1, 1, 0] * 2, [0, 0, 0, 1, 1, 1])
    for group in found.groups:
        assert group.years.tolist() == [0, 2] and group.survival == pytest.approx([1, 1 / 3])
        assert (group.at_risk(2), group.at_risk(2.5)) == (3, 0)
    assert found.p == pytest.approx(1.0) and found.hazard_ratio[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_everybody_on_day_0():
    found = compared([0] * 4, [1, 1, 1, 0], [0, 1, 0, 1])
    assert [group.survival.tolist() for group in found.groups] == [[0], [0.5]]
    assert encoded(drawn(draw("a", "local", found, WHO)), "svg").startswith(b"<?xml")


@pytest.fixture(scope="module")
def patients():
    return random_patients(1, 30)


@pytest.fixture(scope="module")
def groups():
    return random_groups(1, 30)


@pytest.fixture(scope="module")
def picture(groups):
    return draw("site-a.risk-groups.steph", "enhanced", groups, WHO)


def test_lines_and_bands_are_the_numbers(groups, picture):
    axes = drawn(picture).axes[0]
    assert len(axes.lines) == len(axes.collections) == 2
    for group, line, band in zip(groups.groups, axes.lines, axes.collections, strict=True):
        assert line.get_drawstyle() == "steps-post"
        last = group.times.max() / YEAR
        assert np.array_equal(line.get_xdata(), [*group.years, last])
        assert np.array_equal(line.get_ydata(), [*group.survival, group.survival[-1]])
        assert f"{group.name} (n = {len(group.times)}, {group.events.sum()} events)" == line.get_label()
        outline, before = band_at(band), set()
        assert outline.keys() == {*group.years}
        for year, low, high in zip(group.years, group.low, group.high, strict=True):
            assert outline[year] == {low, high} | before, "it steps where the curve does"
            before = {low, high}


def test_whose_they_are_and_what_the_axes_say(picture, groups):
    figure = drawn(picture)
    assert squeezed(WHO) in squeezed(heading(figure)) and "enhanced model" in picture.title
    upper, below = figure.axes
    assert upper.get_xlabel() == "follow-up, years of 365 days" and upper.get_ylabel() == "probability of no event"
    assert (
        upper.get_legend().get_title().get_text() == describe(groups)
        and below.get_title(loc="left") == "number at risk"
    )
    assert "95% bands" in picture.note and "training patients" in picture.note
    assert [text.get_text() for text in upper.get_legend().get_texts()] == [line.get_label() for line in upper.lines]
    assert [line.get_color() for line in upper.lines] == [look["color"] for look in method_look("panel").groups]
    assert len({line.get_linestyle() for line in upper.lines}) == 2


def plain_curve(t, e, day: float) -> float:
    alive = 1.0
    for when in sorted({*t}):
        if when <= day:
            alive *= 1 - sum(e[t == when]) / sum(t >= when)
    return alive


def test_numbers_at_risk_stand_below_their_years(patients, picture):
    upper, below = drawn(picture).axes
    ticks = upper.get_xticks().tolist()
    rows = {text.get_text(): y for text, y in zip(below.get_yticklabels(), below.get_yticks(), strict=True)}
    found = {text.get_position(): text.get_text() for text in below.texts}
    expected = {}
    for name, (days, _) in zip(("lower", "higher"), sides(*patients), strict=True):
        expected |= {(year, rows[name]): str(sum(day >= 365 * year for day in days)) for year in ticks}
    assert found == expected and len(below.texts) == 2 * len(ticks)
    assert ticks[0] == 0 and upper.get_xlim() == below.get_xlim() == (0, ticks[-1])
    assert ticks[-1] * YEAR >= patients[0].max()


def test_the_table_has_the_curves_at_every_tick(patients, picture):
    ticks = drawn(picture).axes[0].get_xticks()
    assert picture.numbers.header == ["years", "lower risk", "at risk", "higher risk", "at risk"]
    expected = [
        [f"{year:g}"]
        + [
            text
            for days, events in sides(*patients)
            for text in (f"{plain_curve(days, events, year * YEAR):.3f}", str(sum(days >= year * YEAR)))
        ]
        for year in ticks
    ]
    assert picture.numbers.rows == expected


@each("years", [0.2, 3.5, 400])
def test_the_axis_reaches_the_last_patient_in_a_few_steps(years):
    found = compared([1, years * YEAR / 2, years * YEAR, years * YEAR], [1, 1, 1, 0], [1, 0, 1, 0])
    ticks = drawn(draw("a", "local", found, WHO)).axes[0].get_xticks()
    assert ticks[0] == 0 and ticks[-2] < years <= ticks[-1]
    assert len(ticks) <= 9 and np.allclose(np.diff(ticks), ticks[1])


def test_one_event_is_not_called_events():
    found = compared([100, 200, 300], [1, 0, 0], [1, 0, 1])
    axes = drawn(draw("a", "local", found, WHO)).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["lower risk (n = 1, 0 events)", "higher risk (n = 2, 1 event)"]
    assert axes.get_legend().get_title().get_text() == describe(found), "which says that there is no ratio"
