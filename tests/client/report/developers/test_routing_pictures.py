"""Where the knowledge came from: boxes against quantiles of the evidence, lines against the notes of a training."""

from __future__ import annotations

import numpy as np
import pytest
from each_case import each
from report_builders import WHO, band_at, drawn, epoch_notes, heading, lines_by_label, make_evidence, says, squeezed

from fedsteph.client.report.developers.routing import dynamics_picture, dynamics_table, end_picture
from fedsteph.client.target.evidence import Evidence

SOURCES = ("site-b", "site-c", "site-d")


def merged_evidence(seed: int = 0, n: int = 30) -> Evidence:
    """Two folds: ``site-c`` was refused in the second; ``site-d`` is kept by a few."""
    rng = np.random.default_rng(seed)
    fold = np.repeat([0, 1], [n - n // 3, n // 3])
    w = rng.gamma(2.0, 0.3, (n, 3)) * (rng.random((n, 3)) < [0.9, 0.7, 0.2])
    w[fold == 1, 1] = np.nan
    lam = np.where(w > 0, rng.uniform(0, 1, (n, 3)), np.nan)
    return make_evidence(rng.exponential(900, n), rng.integers(0, 2, n), fold=fold, sources=SOURCES, w=w, lam=lam)


def plain_columns(table: np.ndarray) -> list[list[float]]:
    return [[float(row[k]) for row in table if not np.isnan(row[k])] for k in range(table.shape[1])]


def boxes(axes) -> list[tuple[float, float, float]]:
    """First quartile, median and third quartile of every drawn box, by its row."""
    found = []
    for row, box in enumerate(axes.patches, start=1):
        corners = box.get_path().vertices
        assert corners[:, 1].min() == pytest.approx(row - 0.3) and corners[:, 1].max() == pytest.approx(row + 0.3)
        (median,) = (line for line in axes.lines if np.allclose(line.get_ydata(), [row - 0.3, row + 0.3]))
        found.append((corners[:, 0].min(), median.get_xdata()[0], corners[:, 0].max()))
    return found


def whiskers(axes, row: int) -> tuple[float, float]:
    """Where they end: outermost points of what is drawn along a row."""
    ends = [x for line in axes.lines if np.array_equal(line.get_ydata(), [row, row]) for x in line.get_xdata()]
    return min(ends), max(ends)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return merged_evidence()


@pytest.fixture(scope="module")
def end(evidence):
    return end_picture("site-a.sources", evidence, WHO)


def test_boxes_are_quartiles_of_the_patients(evidence, end):
    left, right = drawn(end).axes
    for axes, table in ((left, evidence.w), (right, evidence.lam)):
        expected = [np.quantile(column, (0.25, 0.5, 0.75)) for column in plain_columns(table)]
        np.testing.assert_allclose(boxes(axes), expected, atol=1e-12)


def test_whiskers_end_at_the_5_and_95_percent_that_the_figure_and_its_table_tell(evidence, end):
    left, right = drawn(end).axes
    assert "5 to 95%" in left.get_title(loc="left")
    for axes, table in ((left, evidence.w), (right, evidence.lam)):
        for row, column in enumerate(plain_columns(table), start=1):
            assert whiskers(axes, row) == pytest.approx(np.quantile(column, (0.05, 0.95)), abs=1e-12)


def test_axes_and_heading_of_the_boxes(end):
    figure = drawn(end)
    left, right = figure.axes
    assert left.get_xlabel() == "weight w (0: not kept)" and right.get_xlabel() == "mixing lam (1: target alone)"
    assert [text.get_text() for text in left.get_yticklabels()] == list(SOURCES)
    assert left.get_yticks().tolist() == [1, 2, 3]
    low, high = left.get_ylim()
    assert low > high, "the first source is at the top"
    assert left.get_xlim()[0] <= 0 and right.get_xlim()[0] <= 0 and right.get_xlim()[1] >= 1
    assert squeezed(WHO) in squeezed(heading(figure))


def test_the_table_of_the_boxes(evidence, end):
    for row, source, w, lam in zip(
        end.numbers.rows, SOURCES, plain_columns(evidence.w), plain_columns(evidence.lam), strict=True
    ):
        spread = [f"{np.quantile(column, q):.3f}" for column in (w, lam) for q in (0.05, 0.5, 0.95)]
        assert row == [source, str(len(w)), f"{sum(x != 0 for x in w) / len(w):.3f}", *spread]


def test_a_source_that_one_fold_refused_is_judged_by_the_others(evidence, end):
    refused = np.isnan(evidence.w[:, 1])
    assert 0 < refused.sum() < len(evidence)
    others = make_evidence(
        evidence.times[~refused],
        evidence.events[~refused],
        sources=SOURCES,
        w=evidence.w[~refused],
        lam=evidence.lam[~refused],
    )
    rest = end_picture("a", others, WHO)
    assert rest.numbers.rows[1] == end.numbers.rows[1] and rest.numbers.rows[0] != end.numbers.rows[0]
    assert boxes(drawn(rest).axes[0])[1] == boxes(drawn(end).axes[0])[1]


def test_a_source_that_every_fold_refused_has_an_empty_row(evidence):
    w, lam = evidence.w.copy(), evidence.lam.copy()
    w[:, 1] = lam[:, 1] = np.nan
    picture = end_picture("a", make_evidence(evidence.times, evidence.events, sources=SOURCES, w=w, lam=lam), WHO)
    assert picture.numbers.rows[1] == ["site-c", "0", *["-"] * 7]
    left, right = drawn(picture).axes
    assert [text.get_text() for text in left.get_yticklabels()] == list(SOURCES)
    for axes in (left, right):
        assert np.isnan(boxes(axes)[1]).all() and np.isfinite([boxes(axes)[0], boxes(axes)[2]]).all()


def test_a_source_that_no_patient_kept_has_a_weight_of_0_and_no_mixing(evidence):
    w, lam = evidence.w.copy(), evidence.lam.copy()
    w[:, 2], lam[:, 2] = 0.0, np.nan
    picture = end_picture("a", make_evidence(evidence.times, evidence.events, sources=SOURCES, w=w, lam=lam), WHO)
    assert picture.numbers.rows[2] == ["site-d", str(len(evidence)), "0.000", "0.000", "0.000", "0.000", "-", "-", "-"]
    assert boxes(drawn(picture).axes[0])[2] == (0, 0, 0)


def test_a_patient_in_two_folds_is_in_the_boxes_once(evidence, end):
    w, lam = np.concatenate([evidence.w, np.full((6, 3), 9.0)]), np.concatenate([evidence.lam, np.full((6, 3), 0.5)])
    twice = make_evidence(
        [*evidence.times, *evidence.times[:6]],
        [*evidence.events, *evidence.events[:6]],
        ids=[*evidence.ids, *evidence.ids[:6]],
        fold=[*evidence.fold, *[2] * 6],
        sources=SOURCES,
        w=w,
        lam=lam,
    )
    assert end_picture("a", twice, WHO).numbers == end.numbers


def test_a_sentence_stands_where_no_source_was_merged(evidence):
    refused = make_evidence(evidence.times, evidence.events, sources=SOURCES)
    assert "No source was merged" in says(end_picture("a", refused, WHO))


def test_mixing_beyond_0_to_1_stays_within_the_axis(evidence):
    """A learnable lam has no bound."""
    lam = np.where(np.isnan(evidence.lam), np.nan, 1.0 + evidence.lam)
    found = make_evidence(evidence.times, evidence.events, sources=SOURCES, w=evidence.w, lam=lam)
    right = drawn(end_picture("a", found, WHO)).axes[1]
    ends = [whiskers(right, row)[1] for row in (1, 2, 3)]
    assert right.get_xlim()[1] >= max(ends) > 1.5


@pytest.mark.filterwarnings("error")
def test_the_boxes_are_drawn_without_a_warning(evidence):
    """A deprecated call is one that a later matplotlib refuses."""
    assert end_picture("a", evidence, WHO).figure is not None


def random_notes(n_epochs: int = 4, *, largest: list[float] | None = None) -> dict:
    """``site-d`` was kept by nobody in the second epoch."""
    rng = np.random.default_rng(3)
    epochs = []
    for k in range(n_epochs):
        w, lam = np.sort(rng.random((2, 3, 5)), axis=2).round(6).tolist()
        if k == 1:
            lam[2] = None
        epochs.append(epoch_notes(k + 1, w, lam, 0.4 if largest is None else largest[k]))
    return {"sources": list(SOURCES), "patients": 17, "epochs": epochs}


@pytest.fixture(scope="module")
def notes() -> dict:
    return random_notes()


@pytest.fixture(scope="module")
def dynamics(notes):
    return dynamics_picture("site-a.fold-0.dynamics", notes, WHO)


@each(("panel", "key"), [(0, "w"), (1, "lam")])
def test_lines_and_bands_are_the_notes_medians_and_quartiles(notes, dynamics, panel, key):
    axes = drawn(dynamics).axes[panel]
    assert len(axes.lines) == len(axes.collections) == 3
    for i, (line, band) in enumerate(zip(axes.lines, axes.collections, strict=True)):
        told = [one[key][i] for one in notes["epochs"]]
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        expected = [np.nan if values is None else values[2] for values in told]
        np.testing.assert_array_equal(line.get_ydata(), expected)
        assert band_at(band) == {k + 1: {values[1], values[3]} for k, values in enumerate(told) if values is not None}


def test_axes_heading_and_legend_of_the_lines(dynamics):
    figure = drawn(dynamics)
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("weight w", "mixing lam")
    assert lower.get_xlabel() == "epoch of STEPH's training"
    assert upper.get_title(loc="left") == "lines: median over patients; bands: quartiles"
    assert squeezed(WHO) in squeezed(heading(figure))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(SOURCES)
    for source, line in zip(SOURCES, lower.lines, strict=True):
        twin = lines_by_label(upper)[source]
        assert (line.get_color(), line.get_linestyle()) == (twin.get_color(), twin.get_linestyle())


def test_the_table_of_the_lines(notes, dynamics):
    table = dynamics_table(notes)
    assert dynamics.numbers == table and len(table.header) == 13
    rows = iter(table.rows)
    for one in notes["epochs"]:
        for i, source in enumerate(SOURCES):
            lam = ["-"] * 5 if one["lam"][i] is None else [f"{x:.4f}" for x in one["lam"][i]]
            assert next(rows) == [str(one["epoch"]), source, "0.500", *(f"{x:.4f}" for x in one["w"][i]), *lam]
    assert next(rows, None) is None


@each(
    ("largest", "epoch"),
    [
        ([0.5, 0.4, 0.3, 0.2], None),
        ([0.5, 0.4, 0.0002, 0.0001], 3),
        ([0.0001, 0.0, 0.0, 0.0], 1),
        ([0.0001, 0.0001, 0.3, 0.2], None),
    ],
)
def test_a_line_marks_the_epoch_from_which_on_it_is_collapsed(largest, epoch):
    upper, lower = drawn(dynamics_picture("a", random_notes(largest=largest), WHO)).axes
    for axes in (upper, lower):
        upright = [line.get_xdata()[0] for line in axes.lines[3:]]
        assert upright == ([] if epoch is None else [epoch])
        assert all(list(line.get_ydata()) == [0, 1] for line in axes.lines[3:]), "from the bottom to the top"
    words = [(text.get_text().strip(), text.get_position()[0]) for text in upper.texts]
    assert words == ([] if epoch is None else [("collapsed", epoch)])


@each("notes", [None, {"sources": list(SOURCES), "patients": 0, "epochs": []}])
def test_a_sentence_stands_where_nobody_took_notes(notes):
    sentence = says(dynamics_picture("a", notes, WHO))
    assert "not recorded" in sentence and sentence.endswith(".")


def test_the_notes_of_one_epoch_can_be_drawn():
    axes = drawn(dynamics_picture("a", random_notes(1), WHO)).axes[0]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1]] * 3


def test_a_mixing_above_1_stays_within_the_axis():
    """A learnable lam (variant: param) has no bound, and its line must not leave the picture."""
    notes = random_notes()
    for one in notes["epochs"]:
        one["lam"] = [None if values is None else [1.0 + x for x in values] for values in one["lam"]]
    lower = drawn(dynamics_picture("a", notes, WHO)).axes[1]
    assert lower.get_ylim()[1] >= max(np.nanmax(line.get_ydata()) for line in lower.lines)
