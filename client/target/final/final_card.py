"""Writes the final model's card: what the folds let one expect of it, and that no patient is left to test it on."""

from __future__ import annotations

from pathlib import Path

from fedsteph.client.clinical.clinical_result import ClinicalResult
from fedsteph.client.evaluation.metrics import number
from fedsteph.client.models.context.quality import Quality
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.model_card import USEFUL, write
from fedsteph.client.target.target_result import FinalModel, TargetResult
from fedsteph.common.vector.shared_part import description

_UNTESTED = (
    "This very model has no test set: it was trained on all of this site's patients. What to expect of it was measured "
    "by cross-validation, on models that were made by the same rule and trained on fewer patients. New patients alone "
    "can test it."
)
_MEMBERS = {
    "local": "Each member is a local survival model, trained from the federation's M0 on this site's patients "
    "alone. The file holds",
    "panel": "Each member is a panel: an enhanced survival model, STEPH over this site's and the received task vectors "
    "(arXiv 2603.10526), this site's own model and the received ones predict together. The file holds the received "
    "vectors with their risk directions, this site's own models,",
}
_HELD = (
    "percentiles of the patients' risks, their longest follow-up in whole years, and the mean and the spread of their "
    "slides' features, with 30 patients or more the mean predicted survival of all and of each third by risk, and the "
    "C-index, calibration and red flags below, so it stays at this site."
)
_LIMIT = "The C-index is of this site's folds;"


def write_final_card(path: Path, workspace: Workspace, result: TargetResult, told: FinalModel) -> None:
    """Write ``<model>.md``. It gives sizes in bands of 10, and contains no patient ID and no path."""
    meaning = f"{_UNTESTED}\n\n{_MEMBERS[told.choice]} {_HELD}"
    first = [
        "| training data | all patients |",
        f"| members | {told.members}, alike but for the seed; predictions are their mean |",
        f"| C-index by cross-validation | {_c_index(result)} |",
        f"| calibration by cross-validation | {_calibration(result)} |",
        f"| red flags | {', '.join(flag.name for flag in result.trust.flags) or 'none'} |",
        "| test set of this very model | none |",
    ]
    if result.clinical is not None and told.choice in result.clinical.both:
        first.append(f"| with clinical values, by clinical.json | {_both(result.clinical, told.choice)} |")
    last = [f"| local or enhanced | {told.choice}: {told.reason} |"]
    if told.choice != "local":
        last += [
            f"| sources, with their mean w | {', '.join(f'{name} {w:.3f}' for name, w in told.w.items())} |",
            f"| their vectors were sent in | {description(result.sharing)} |",
            f"| gamma | {told.gamma:g} ({told.gamma_reason}) |",
        ]
    last.append(f"| screening | {result.screening.policy}: {_screening(told)} |")
    last.append(f"| better than chance in inner cross-validation | {USEFUL[told.useful]} |")
    write(path, workspace, f"final model ({told.choice})", meaning, first, last, _LIMIT)


def quality_of(result: TargetResult) -> Quality:
    """What the folds let one expect of the final model, for its file."""
    row = result.deployed
    flags = tuple(flag.name for flag in result.trust.flags)
    return Quality(row.mean, row.interval_95, len(row.c_index), row.further["calibration_gap_3y"], flags)


def _c_index(result: TargetResult) -> str:
    row = result.deployed
    if row.mean is None:
        return "undefined (no comparable pair)"
    interval = row.interval_95
    spread = "without an interval" if interval is None else f"95% interval {interval[0]:.3f} to {interval[1]:.3f}"
    return f"{row.mean:.3f} ({spread}), mean over {len(row.c_index)} folds, each of what the same rule chose"


def _both(found: ClinicalResult, choice: str) -> str:
    mean, columns = found.both[choice].mean, ", ".join(found.columns)
    told = "undefined" if mean is None else f"{mean:.3f}"
    return f"C-index by cross-validation {told}, with {columns}"


def _calibration(result: TargetResult) -> str:
    """Means over folds of the deployed row."""
    further = result.deployed.further
    gap, error = further["calibration_gap_3y"], further["calibration_error_3y"]
    if gap is None:
        return "undefined: too little follow-up or too few events"
    return (
        f"predicted minus observed probability of an event within 3 years: {gap:+.3f}; mean absolute gap of four "
        f"groups by predicted risk: {number(error)}; Brier score {number(further['brier'])}"
    )


def _screening(told: FinalModel) -> str:
    less = [
        f"{name} {'left out' if w == 0 else f'merged with weight {w:.3g}'}"
        for name, w in told.weights.items()
        if w != 1
    ]
    return "; ".join(less) or "no source is left out"
