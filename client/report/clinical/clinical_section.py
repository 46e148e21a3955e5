"""A target's section on what the slide adds to clinical values: in words, as rows, and as decision curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedsteph.client.clinical.clinical_result import ClinicalResult, DecisionCurve
from fedsteph.client.clinical.likelihood_ratio import LikelihoodRatio
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.model.method_scores import Interval, MethodScores
from fedsteph.common.report.c_index import c_index_table
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Block, Picture, Points, Section, Table
from fedsteph.common.report.style import HEIGHT, REFERENCE, WIDTH, canvas, legend_above

_TITLE = "Net benefit by threshold"
_NOTE = (
    "Net benefit: the share of patients who are treated and have an event within the time, minus the share treated "
    "for nothing, at the rate that the threshold sets (10%: one event outweighs nine treatments for nothing). A model "
    "is of use where its line lies above both treating all and treating none. All test patients, each once, by the Cox "
    "model of their fold; events among the treated are by Kaplan-Meier."
)
# by row: the method in whose look it is drawn, and its title
_SHOWN = {"clinical": ("clinical", "clinical values"), "both": ("deployed", "clinical values and slide (deployed)")}


def clinical_section(name: str, found: ClinicalResult, slide: Mapping[str, MethodScores], who: str) -> Section:
    """The section, for the site itself.

    Args:
        slide: method -> its row on the slide alone.
        who: site, n, folds and seeds, shown in the figure.
    """
    blocks: list[Block] = [Points([found.sentence("deployed", slide), *_how(found)])]
    if found.clinical is not None:
        rows = {"clinical": found.clinical}
        for method, row in found.both.items():
            title = METHODS[method].title
            rows |= {f"slide: {title}": slide[method], f"both: {title}": row}
        whole = c_index_table(rows)
        blocks.append(Table(whole.header, whole.rows, "C-index with 95% intervals"))
        blocks.append(_differences(found))
    blocks.append(_columns(found))
    if found.clinical is not None:
        blocks.append(curves(f"{name}.net-benefit", found.curves, who))
    return Section("What the slide adds to clinical values", blocks, 3)


def curves(name: str, found: Sequence[DecisionCurve], who: str) -> Picture:
    """The decision curves, one below the other by year."""
    if not found:
        return Picture(name, _TITLE, instead="Too few patients are followed for 3 years to draw decision curves.")
    with canvas(_TITLE, who, WIDTH, HEIGHT * len(found)) as figure:
        for axes, curve in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
            percent = [100 * threshold for threshold in curve.thresholds]
            for row, (method, title) in _SHOWN.items():
                axes.plot(percent, curve.net_benefit[row], label=title, **method_look(method).line)
            axes.plot(percent, curve.net_benefit["all"], label="treat all", **REFERENCE | {"linestyle": "--"})
            axes.plot(percent, curve.net_benefit["none"], label="treat none", **REFERENCE)
            top = max(max(values) for values in curve.net_benefit.values())
            axes.set(ylim=(-0.25 * top or -0.01, 1.1 * top or 0.01), xlim=(0, percent[-1]))
            axes.set(xlabel=f"threshold: probability of an event within {curve.year} y (%)", ylabel="net benefit")
            legend_above(axes, ncols=2)
    return Picture(name, _TITLE, figure, note=_NOTE, numbers=_numbers(found))


def _how(found: ClinicalResult) -> list[str]:
    if found.clinical is None:
        return []
    return [
        "Cox models with a ridge, fitted on each fold's training patients; the slide's risk of a training patient is "
        "by inner models that have not seen the patient.",
        "A missing number or level is the training patients' median, and the model is told that it was missing; a "
        "missing or new category counts as the most frequent one.",
    ]


def _differences(found: ClinicalResult) -> Table:
    rows = [
        [METHODS[method].title, _signed(gap.mean, gap.interval_95), str(gap.folds_won), *_tested(gap.likelihood_ratio)]
        for method, gap in found.added.items()
    ]
    header = ["slide's risk by", "both minus clinical (95% interval)", "folds won", "chi2", "p"]
    return Table(header, rows, "What the slide adds: C-index, paired; likelihood-ratio test with 1 degree of freedom")


def _signed(mean: float | None, interval: Interval | None) -> str:
    if mean is None or interval is None:
        return "undefined"
    return f"{mean:+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})"


def _tested(test: LikelihoodRatio | None) -> tuple[str, str]:
    return ("undefined", "undefined") if test is None else (f"{test.chi2:.1f}", f"{test.p:.2g}")


def _columns(found: ClinicalResult) -> Table:
    rows = [
        [column, one.kind, f"{100 * one.missing:.0f}%", f"{100 * one.unseen:.0f}%"]
        for column, one in found.columns.items()
    ]
    return Table(["column", "kind", "missing", "category new to its fold"], rows, "Clinical values", folded=True)


def _numbers(found: Sequence[DecisionCurve]) -> Table:
    names = list(found[0].net_benefit)
    rows = [
        [str(curve.year), f"{100 * threshold:.0f}%", *(f"{curve.net_benefit[name][i]:.3f}" for name in names)]
        for curve in found
        for i, threshold in enumerate(curve.thresholds)
    ]
    return Table(["years", "threshold", *names], rows, "net benefit", folded=True)
