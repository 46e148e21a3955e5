"""Page of predictions, one part per patient: survival beside the training patients', the model's quality, sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsteph.client.models.context.cohort_survival import FEWEST, CohortSurvival
from fedsteph.client.models.context.quality import UNKNOWN, Quality
from fedsteph.client.models.predict import PatientView
from fedsteph.client.models.slide_features import UNLIKE, unlike_words
from fedsteph.client.report.patients.heatmap_blocks import Heatmaps
from fedsteph.client.report.patients.search_script import SEARCH
from fedsteph.client.report.patients.survival_drawing import Curve, survival_drawing
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.report.page import Block, Page, Picture, Section, Table, Text
from fedsteph.common.report.probability_axis import told_difference
from fedsteph.common.report.provenance import limits_section

_AUDIENCE = "For this site alone: it shows patients"
MOST_PATIENTS = 1000
_YEARS = 10  # shown by the curves; a model's later years rest on few or no patients
_SPREAD = "the middle 95% of the models' risks. This is how far the models disagree, not a confidence interval"
_ZONES = (
    "The colour behind a curve is the third of the training patients, by predicted risk, whose mean survival in that "
    "year is nearest. The model was trained on these patients, so thirds of new patients would differ a little less."
)
_NO_ZONES = (
    "The model's file does not hold the survival of its training patients, so nothing is drawn behind the curves: it "
    f"is of an earlier version, of fewer than {3 * FEWEST} training patients, or no final model."
)
_THIRDS = ("lowest", "middle", "highest")
_LIMITS = (
    "A curve is what a model says of one patient. It has no confidence interval.",
    "A patient who was among the training patients is predicted too well.",
)


@dataclass(frozen=True)
class Beside:
    """What is shown beside every prediction, as far as the model's file and the folder of the page have it."""

    cohort: CohortSurvival | None = None
    quality: Quality | None = None
    heatmaps: Heatmaps | None = None


def patients_page(
    views: Sequence[PatientView],
    model: str,
    progress: Progress = silent,
    followed_years: int | None = None,
    beside: Beside | None = None,
) -> Page:
    """Build the page of the given patients, highest risk first, from a model of this name.

    Args:
        followed_years: years for which the model's training patients were followed; None: not known.
        beside: what else is known; None: nothing.
    """
    beside = beside or Beside()
    ordered = sorted(views, key=lambda view: (-view.risk, view.id))
    level = 3 if len(views) > 12 else 2  # of the headings
    sections = [Section("All patients", _overview(ordered, beside))]
    for i, view in enumerate(ordered, 1):
        blocks = _blocks(view, f"patient-{i:05d}", beside)
        sections.append(Section(f"Patient {view.id}", blocks, level, apart=True))
        progress(i, len(ordered))
    sections.append(limits_section([*_LIMITS, _follow_up(followed_years)]))
    verdict = [f"{len(views)} patient{'' if len(views) == 1 else 's'} under the model {model}, highest risk first."]
    return Page("Predictions", _AUDIENCE, verdict, sections, script=SEARCH if len(views) > 1 else "")


def _follow_up(years: int | None) -> str:
    if years is None:
        return (
            "The model's file does not state how long its training patients were followed. Years beyond their longest "
            "follow-up are extrapolated."
        )
    return f"Survival ends at the longest follow-up of the training patients, {years} year{'' if years == 1 else 's'}."


def _overview(views: Sequence[PatientView], beside: Beside) -> list[Block]:
    blocks: list[Block] = [*_measured(beside), _table(views)]
    if beside.cohort is None:
        return [*blocks, Text(_NO_ZONES)]
    means = beside.cohort.means[:, : _n_years(views[0])].T
    rows = [[str(year), *(f"{value:.4f}" for value in row)] for year, row in enumerate(means, 1)]
    header = ["year", "all", *(f"{name}-risk third" for name in _THIRDS)]
    return [*blocks, Text(_ZONES), Table(header, rows, "mean survival of the training patients", folded=True)]


def _measured(beside: Beside) -> list[Block]:
    return [Text(" ".join(beside.quality.sentences) if beside.quality is not None else UNKNOWN)]


def _n_years(view: PatientView) -> int:
    return min(_YEARS, len(view.survival))


def _table(views: Sequence[PatientView]) -> Table:
    years = [year for year in (1, 3, 5) if year <= len(views[0].survival)]
    rows = [
        [view.id, f"{view.risk:.3f}", _percentile(view), *(f"{view.survival[year - 1]:.3f}" for year in years)]
        for view in views
    ]
    return Table(["patient", "risk", "percentile", *(f"survival {year} y" for year in years)], rows, "Predictions")


def _blocks(view: PatientView, name: str, beside: Beside) -> list[Block]:
    words = "The model's file does not say what risks its training patients have."
    if view.percentile is not None:
        words = f"Risk percentile {view.percentile:.0f}: so many percent of the training patients have a lower risk."
        words += f" This is in the {_THIRDS[min(2, int(view.percentile * 3 / 100))]} third."
    if view.risk_range is not None:
        low, high = view.risk_range
        words += f" Risk {view.risk:.3f}, from {low:.3f} to {high:.3f}: {_SPREAD}."
    blocks: list[Block] = [Text(words), *_measured(beside), _curves(view, name, beside.cohort)]
    unlike = [f"Slide {slide}: {unlike_words(times)}." for slide, times in view.unlike.items() if not times <= UNLIKE]
    blocks[:0] = [Text(sentence) for sentence in unlike]
    if view.w:
        blocks.append(_sources(view))
        if left_out := [source for source, w in view.w.items() if w == 0]:
            blocks.append(Text(f"Not used: {', '.join(left_out)}."))
    return blocks + ([] if beside.heatmaps is None else beside.heatmaps.blocks(view))


def _sources(view: PatientView) -> Table:
    kept = {source: w for source, w in view.w.items() if w != 0}
    ordered = sorted(kept, key=lambda source: (-kept[source], source))
    rows = [[source, f"{kept[source]:.3f}", f"{view.lam[source]:.3f}"] for source in ordered]
    if view.risk_range is not None:  # each model has coefficients of its own, which do not follow from the means
        return Table(["source", "w", "lam"], rows, "Sources used for this patient, mean over the models")
    rows = [[*row, f"{kept[row[0]] * (1 - view.lam[row[0]]):.3f}"] for row in rows]
    own = sum(w * view.lam[source] for source, w in kept.items())
    rows.append(["this site's own", "-", "-", f"{own:.3f}"])
    return Table(["source", "w", "lam", "coefficient of its vector"], rows, "Sources used for this patient")


def _curves(view: PatientView, name: str, cohort: CohortSurvival | None) -> Picture:
    n, title = _n_years(view), f"Predicted survival of {view.id}"
    curves = [Curve("enhanced model" if view.w else "local model", view.survival, view.survival_range)]
    if view.local_survival is not None:
        curves.append(Curve("local model", view.local_survival))
    columns = {}
    for curve in curves:
        columns[curve.label] = [f"{value:.4f}" for value in curve.survival[:n]]
        if curve.low_high is not None:
            columns["its members"] = [f"{low:.4f} to {high:.4f}" for low, high in zip(*curve.low_high, strict=True)][:n]
    rows = [[str(year), *row] for year, row in enumerate(zip(*columns.values(), strict=True), 1)]
    if view.local_survival is not None:
        note = told_difference(view.survival[:n], view.local_survival[:n])
    else:
        note = "The model's file holds no local model to compare with." if view.w else ""
    drawn = survival_drawing(title, curves, n, cohort)
    return Picture(name, title, drawn, note=note, numbers=Table(["year", *columns], rows, "survival", folded=True))


def _percentile(view: PatientView) -> str:
    return "-" if view.percentile is None else f"{view.percentile:.0f}"
