"""External validation: models on patients that they were not trained on, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsteph.client.data.problems import Problem
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.evaluation.at_years import Outcomes
from fedsteph.client.evaluation.metrics import YEARS
from fedsteph.client.evaluation.side_by_side import Scores, side_by_side
from fedsteph.client.evaluation.training_patients import held_out, unknown_training
from fedsteph.client.models.final_file import Members
from fedsteph.client.models.members import load_members
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.models.new_patients import NewPatients
from fedsteph.client.models.predict import PatientView, refuse_overwriting, views_of
from fedsteph.client.site.clinical_prediction import with_clinical
from fedsteph.client.site.patients import patients_of
from fedsteph.client.site.prediction import unstated_follow_up
from fedsteph.client.site.site import Site
from fedsteph.common.errors import DataError
from fedsteph.common.host.progress import Progress, part, silent

RESAMPLES, SEED = 1000, 0


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on whom, and what was left out."""

    patients: tuple[Patient, ...]
    views: Mapping[str, tuple[PatientView, ...]]  # model -> its predictions, in the order of the patients
    scores: Mapping[str, Scores]
    years: tuple[int, ...]
    left_out: tuple[str, ...]  # a sentence for each year that cannot be judged, and for patients left out
    sources: Mapping[str, tuple[str, ...]]  # model -> the sites whose vectors it merges
    warnings: tuple[Problem, ...]

    @property
    def times(self) -> np.ndarray:
        """Follow-up in days, ``(n,)``."""
        return np.array([patient.t for patient in self.patients])

    @property
    def events(self) -> np.ndarray:
        """1 = event, 0 = censored, ``(n,)``."""
        return np.array([patient.e for patient in self.patients])


def evaluate(
    models: Sequence[Path | str],
    features: Path | str | None = None,
    labels: Path | str | None = None,
    report: Progress = silent,
    *,
    site: Path | str | None = None,
    held_out_only: bool = False,
    outputs: Sequence[Path] = (),
) -> Evaluation:
    """Measure models on the patients of a site, or of a folder of feature files with a table of outcomes.

    Args:
        models: model files, or folders of models that predict together; differences are to the first.
        features: as in :func:`fedsteph.client.site.prediction.predict`.
        labels: as there.
        site: as there; where its site file names the clinical columns that a final model was made with, that model has
            two more rows, ``(clinical)`` and ``(both)``.
        held_out_only: leave out patients that a model was trained on, instead of refusing all.
        outputs: what the caller writes afterwards; it may overwrite no input.
        report: called with the number of predictions done and in total.

    Raises:
        ModelFileError: a model cannot be used.
        ConfigError: the site or its site file cannot be used.
        DataError: a model is given twice; outcomes are missing; a patient was in training; data cannot be used; or an
            output would overwrite an input.
    """
    paths = [Path(model) for model in models]
    names = named(paths)
    opened = {name: load_members(path) for name, path in names.items()}
    members = {name: found.models for name, found in opened.items()}
    new = patients_of(site, features, labels)
    for path in outputs:
        refuse_overwriting(path, (*paths, *new.inputs))
    new, left_out = _judged(members, new, held_out_only)
    views, gaps = _with_clinical(_views(opened, new, report), names, new)
    outcomes = Outcomes(np.array([p.t for p in new.patients]), np.array([p.e for p in new.patients]))
    years, why = _years(outcomes, views)
    merged = {name: dict.fromkeys(s for one in found for s in one.sources) for name, found in members.items()}
    return Evaluation(
        patients=new.patients,
        views=views,
        scores=_scores(outcomes, views, years),
        years=years,
        left_out=(*why, *left_out),
        sources={name: tuple(sources) for name, sources in merged.items()},
        warnings=(*new.warnings, *_doubts(members, site), *gaps),
    )


def named(models: Sequence[Path]) -> dict[str, Path]:
    """A short name for each model: its file's or folder's, or its whole path where two have the same."""
    short = [path.resolve().stem for path in models]
    names = [str(path) if short.count(name) > 1 else name for name, path in zip(short, models, strict=True)]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError("the model is given twice", where=twice, remedy="Give each model once")
    return dict(zip(names, models, strict=True))


def _judged(
    members: Mapping[str, Sequence[LoadedModel]], new: NewPatients, held_out_only: bool
) -> tuple[NewPatients, list[str]]:
    """The patients to judge the models on, and a sentence on those left out; DataError where nothing can be judged."""
    if new.without_outcomes is not None:
        remedy = "Give --site, or --labels with the times and events of the patients"
        raise DataError(f"nothing can be judged: {new.without_outcomes}", where="labels", remedy=remedy)
    new, n_left_out = held_out(members, new, leave_out=held_out_only)
    if not any(patient.e for patient in new.patients):
        what = f"none of {len(new.patients)} patients has an event, so nothing can be judged"
        raise DataError(what, where=new.inputs[-1], remedy="Evaluate on more patients")
    n = len(new.patients)
    told = f"{n_left_out} of {n + n_left_out} patients were in training and are left out; {n} remain."
    return new, [told] if n_left_out else []


def _doubts(members: Mapping[str, Sequence[LoadedModel]], site: Path | str | None) -> list[Problem]:
    """Warnings of what is not known of the models, or speaks against them."""
    unstated = [problem for name, found in members.items() for problem in unstated_follow_up(found, name)]
    return [*unknown_training(members), *_at_a_source(members, site), *unstated]


def _views(members: Mapping[str, Members], new: NewPatients, report: Progress) -> dict[str, tuple[PatientView, ...]]:
    n = len(new.patients)
    steps = {name: part(report, i * n, len(members) * n, n) for i, name in enumerate(members)}
    return {name: tuple(views_of(found, new, steps[name])) for name, found in members.items()}


def _with_clinical(
    views: Mapping[str, tuple[PatientView, ...]], paths: Mapping[str, Path], new: NewPatients
) -> tuple[dict[str, tuple[PatientView, ...]], list[Problem]]:
    """With two more rows for each final model that has a clinical model, where the site file names its columns."""
    found, problems = dict(views), list[Problem]()
    for name, of_model in views.items():
        told, gaps = with_clinical(of_model, paths[name], new)
        problems += gaps
        clinical = [view.clinical for view in told if view.clinical is not None]
        if clinical:
            rows = list(zip(of_model, clinical, strict=True))
            found[f"{name} (clinical)"] = tuple(_alone(view, one.risk, one.survival) for view, one in rows)
            found[f"{name} (both)"] = tuple(_alone(view, one.risk_both, one.survival_both) for view, one in rows)
    return found, problems


def _alone(view: PatientView, risk: float, survival: np.ndarray) -> PatientView:
    return PatientView(view.id, risk, None, survival[: len(view.survival)], None, {}, {})


def _years(outcomes: Outcomes, views: Mapping[str, Sequence[PatientView]]) -> tuple[tuple[int, ...], list[str]]:
    """The years to judge at, and why not at the others."""
    trained = min(len(found[0].survival) for found in views.values())
    years, why = [], []
    for year in YEARS:
        spoken = f"{year} year{'s' if year > 1 else ''}"
        if year > trained:
            why.append(f"Not judged at {spoken}: the training patients of a model were not followed so long.")
        elif not outcomes.follows(year):
            why.append(f"Not judged at {spoken}: no patient is followed so long, or none had an event before.")
        else:
            years.append(year)
    return tuple(years), why


def _scores(outcomes: Outcomes, views: Mapping[str, Sequence[PatientView]], years: Sequence[int]) -> dict[str, Scores]:
    statistics = {
        name: outcomes.statistics(
            np.array([view.risk for view in found]), np.array([view.survival for view in found]), years
        )
        for name, found in views.items()
    }
    return side_by_side(statistics, len(outcomes.times), resamples=RESAMPLES, seed=SEED)


def _at_a_source(members: Mapping[str, Sequence[LoadedModel]], site: Path | str | None) -> list[Problem]:
    """A warning where a model merges the vector of the very site that it is evaluated at."""
    if site is None:
        return []
    name, remedy = Site.open(site).name, "Read this as no external validation of that model"
    what = f"it merges a vector of {name}, which may have been trained on these patients"
    return [
        Problem("warning", model, what, remedy)
        for model, found in members.items()
        if any(name in one.sources for one in found)
    ]
