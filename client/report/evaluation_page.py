"""The page of an external validation: how good each model is on patients that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fedsteph.client.evaluation.external import RESAMPLES, SEED, Evaluation
from fedsteph.client.evaluation.side_by_side import Number
from fedsteph.client.models.predict import PatientView
from fedsteph.client.report import calibration, risk_groups
from fedsteph.common.report.page import Block, Page, Picture, Points, Section, Table
from fedsteph.common.report.provenance import limits_section

_AUDIENCE = "For this site alone: it shows patients' outcomes"
_EVENTS = 50
_LIMITS = (
    "Uno's C, Brier score and AUC weigh patients by the censoring of the evaluated patients themselves; the weights "
    "stay the same from resample to resample.",
    "Differences are paired: each resample draws the same patients for every model.",
)
_MODELS = "A model that is a folder of fold models predicts the mean of them."
_GROUPS = (
    "Kaplan-Meier with pointwise 95% bands (log-log). The cut-off is the median risk of the model's training patients "
    "(for several models: a mean percentile above 50), so no evaluated patient had a say in it. The hazard ratio is "
    "Cox's, of the group alone, unadjusted."
)
_CALIBRATION = (
    "Four groups of equal size by predicted probability. A group of which fewer than three are followed so long is "
    "left out. Bars: 95% intervals of the Kaplan-Meier estimate (where nobody of a group had an event, or everybody: "
    "the rule of three)."
)


def title_of(metric: str) -> str:
    """A metric's title in a table."""
    name, _, year = metric.rpartition("_")
    if not year[:-1].isdecimal():
        return {"c_index": "C-index", "uno_c": "Uno's C"}[metric]
    titles = {"uno_c": "Uno's C", "auc": "AUC", "brier": "Brier score", "calibration_gap": "predicted minus observed"}
    return f"{titles[name]}, {year[:-1]} y"


def evaluation_page(found: Evaluation) -> Page:
    """The page; it shows patients' outcomes, so it is for the site that evaluates."""
    n, n_events = len(found.patients), int(found.events.sum())
    who = f"n = {n} patients, {n_events} events"
    facts = [f"{n} patients, {n_events} events.", *found.left_out, *(problem.line for problem in found.warnings)]
    sections = [
        Section("Who was evaluated", [Points(facts)]),
        Section("How good the models are", score_tables(found)),
        Section("Survival by risk group", [*_groups(found, who)]),
        Section("Calibration", [*_calibration(found, who)]),
        limits_section([*_few(n_events), *_LIMITS, *_of_sources(found)], _MODELS),
    ]
    return Page("How good are the models on these patients?", _AUDIENCE, verdict(found), sections)


def verdict(found: Evaluation) -> list[str]:
    """Whether each model is better than chance, and than the first."""
    sentences = []
    for name, scores in found.scores.items():
        c = scores.metrics["c_index"]
        low = 0.0 if c.interval_95 is None else c.interval_95[0]
        sure = "better than chance" if low > 0.5 else "not shown to be better than chance, which is 0.5"
        sentences.append(f"{name}: C-index {c.cell}, {sure}.")
    first, *others = found.scores
    return [*sentences, *(_difference(name, first, found) for name in others)]


def _difference(name: str, first: str, found: Evaluation) -> str:
    gap = found.scores[name].minus_first["c_index"]
    if gap.value is None or gap.interval_95 is None:
        return f"{name} cannot be compared with {first}."
    low, high = gap.interval_95
    state = "better than" if low > 0 else "worse than" if high < 0 else "not shown to be better or worse than"
    return f"{name} is {state} {first}: C-index {gap.value:+.3f} (95% interval {low:+.3f} to {high:+.3f})."


def score_tables(found: Evaluation) -> list[Table]:
    """All metrics of all models, and their differences to the first model."""
    first, *others = found.scores
    tables = [_table("Metrics with 95% intervals", {k: s.metrics for k, s in found.scores.items()})]
    if others:
        gaps = {name: found.scores[name].minus_first for name in others}
        tables.append(_table(f"Differences to {first}, paired, with 95% intervals", gaps))
    return tables


def _table(title: str, numbers: Mapping[str, Mapping[str, Number]]) -> Table:
    """A row per metric and a column per model."""
    rows = [[title_of(m), *(one[m].cell for one in numbers.values())] for m in next(iter(numbers.values()))]
    return Table(["metric", *numbers], rows, title)


def _groups(found: Evaluation, who: str) -> Iterator[Picture]:
    for i, (name, views) in enumerate(found.views.items()):
        high = _high_risk(views)
        if high is None:
            yield Picture(
                f"risk-groups.{i}",
                f"Time to event by risk group of the {name} model",
                instead=f"The file of {name} does not hold its training patients' risks, so there is no cut-off.",
            )
        else:
            groups = risk_groups.risk_groups(found.times, found.events, high)
            yield risk_groups.draw(f"risk-groups.{i}", name, groups, who, _GROUPS)


def _high_risk(views: Sequence[PatientView]) -> np.ndarray | None:
    """Whether each patient's risk is above the median of the training patients; None if a file has no percentiles."""
    percentiles = [view.percentile for view in views if view.percentile is not None]
    return np.array(percentiles) > 50.0 if len(percentiles) == len(views) else None


def _calibration(found: Evaluation, who: str) -> Iterator[Block]:
    if not found.years:
        yield Points(["Calibration cannot be judged at any year."])
    for year in found.years:
        predicted = {
            name: np.array([1.0 - view.survival[year - 1] for view in views]) for name, views in found.views.items()
        }
        yield calibration.draw_at(f"calibration.{year}y", predicted, found.times, found.events, year, who, _CALIBRATION)


def _few(n_events: int) -> list[str]:
    return [f"There are {n_events} events: intervals are wide."] if n_events < _EVENTS else []


def _of_sources(found: Evaluation) -> Iterator[str]:
    yield f"Intervals are of {RESAMPLES} bootstrap resamples of the patients, drawn with seed {SEED}."
    for name, sources in found.sources.items():
        if sources:
            yield (
                f"{name} merges vectors of {', '.join(sources)}: whether one of these patients was in training there "
                "cannot be known here."
            )
