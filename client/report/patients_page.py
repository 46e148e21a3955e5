"""Page of predictions, one section per patient: survival under both models, risk percentile, sources used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsteph.client.models.predict import PatientView
from fedsteph.client.models.slide_features import UNLIKE, unlike_words
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.report.page import Block, Page, Picture, Section, Table, Text
from fedsteph.common.report.provenance import limits_section
from fedsteph.common.report.style import COLOURS, DASHES, canvas

_AUDIENCE = "For this site alone: it shows patients"
MOST_PATIENTS = 300  # each takes about 1 MB of memory while it is drawn
_YEARS = 10  # shown by the curves; a model's later years rest on few or no patients
_SPREAD = "the middle 95% of the models' risks. This is how far the models disagree, not a confidence interval"
_LIMITS = (
    "A curve is what a model says of one patient. It has no interval, and its calibration was measured, if at all, on "
    "the page of the run that made the model.",
    "A patient who was among the training patients is predicted too well.",
)


def patients_page(
    views: Sequence[PatientView], model: str, progress: Progress = silent, followed_years: int | None = None
) -> Page:
    """Build the page of the given patients, highest risk first, from a model of this name.

    Args:
        followed_years: years for which the model's training patients were followed; None: not known.
    """
    ordered = sorted(views, key=lambda view: (-view.risk, view.id))
    level = 3 if len(views) > 12 else 2  # of the headings
    sections = [Section("All patients", [_overview(ordered)])]
    for i, view in enumerate(ordered, 1):
        sections.append(Section(f"Patient {view.id}", _blocks(view, f"patient-{i:05d}"), level))
        progress(i, len(ordered))
    sections.append(limits_section([*_LIMITS, _follow_up(followed_years)]))
    verdict = [f"{len(views)} patient{'' if len(views) == 1 else 's'} under the model {model}, highest risk first."]
    return Page("Predictions", _AUDIENCE, verdict, sections)


def _follow_up(years: int | None) -> str:
    if years is None:
        return (
            "The model's file does not state how long its training patients were followed. Years beyond their longest "
            "follow-up are extrapolated."
        )
    return f"Survival ends at the longest follow-up of the training patients, {years} year{'' if years == 1 else 's'}."


def _overview(views: Sequence[PatientView]) -> Table:
    years = [year for year in (1, 3, 5) if year <= len(views[0].survival)]
    rows = [
        [view.id, f"{view.risk:.3f}", _percentile(view), *(f"{view.survival[year - 1]:.3f}" for year in years)]
        for view in views
    ]
    return Table(["patient", "risk", "percentile", *(f"survival {year} y" for year in years)], rows, "Predictions")


def _blocks(view: PatientView, name: str) -> list[Block]:
    words = "The model's file does not say what risks its training patients have."
    if view.percentile is not None:
        words = f"Risk percentile {view.percentile:.0f}: so many percent of the training patients have a lower risk."
    if view.risk_range is not None:
        low, high = view.risk_range
        words += f" Risk {view.risk:.3f}, from {low:.3f} to {high:.3f}: {_SPREAD}."
    blocks: list[Block] = [Text(words), _curves(view, name)]
    unlike = [f"Slide {slide}: {unlike_words(times)}." for slide, times in view.unlike.items() if not times <= UNLIKE]
    blocks[:0] = [Text(sentence) for sentence in unlike]
    if view.w:
        blocks.append(_sources(view))
        if left_out := [source for source, w in view.w.items() if w == 0]:
            blocks.append(Text(f"Not used: {', '.join(left_out)}."))
    return blocks


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


def _curves(view: PatientView, name: str) -> Picture:
    n = min(_YEARS, len(view.survival))
    title = f"Predicted survival of {view.id}"
    shown = [("enhanced model" if view.w else "local model", view.survival)]
    if view.local_survival is not None:
        shown.append(("local model", view.local_survival))
    with canvas(title, "n = 1 patient; probability of no event beyond each year", height=2.6) as figure:
        axes = figure.subplots()
        for i, (label, survival) in enumerate(shown):
            values = np.concatenate([[1.0], survival[:n]])
            axes.plot(range(n + 1), values, label=label, color=COLOURS[i], linestyle=DASHES[i], marker=".")
        axes.set(xlim=(0, n), ylim=(0, 1.02), xlabel="years of 365 days", ylabel="probability of no event")
        axes.legend(loc="lower left")
    rows = [[str(year), *(f"{survival[year - 1]:.4f}" for _, survival in shown)] for year in range(1, n + 1)]
    numbers = Table(["year", *(label for label, _ in shown)], rows, "survival", folded=True)
    note = "" if len(shown) == 2 or not view.w else "The model's file holds no local model to compare with."
    return Picture(name, title, figure, note=note, numbers=numbers)


def _percentile(view: PatientView) -> str:
    return "-" if view.percentile is None else f"{view.percentile:.0f}"
