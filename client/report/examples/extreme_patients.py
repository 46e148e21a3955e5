"""Chooses the test patients of a fold that a page shows as examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsteph.client.target.evidence import Evidence
from fedsteph.common.model.survival import DAYS_PER_BIN

_EACH = 3  # patients of the highest, and as many of the lowest risk


@dataclass(frozen=True)
class Example:
    """One patient on the page."""

    name: str  # of the pictures' files; it says nothing of the patient
    id: str
    place: str  # e.g. "highest risk"
    outcome: str  # one sentence


def extremes(prefix: str, found: Evidence, fold: int) -> list[Example]:
    """The three patients of the highest and the three of the lowest risk of a fold, each from the extreme inwards.

    Of fewer than six patients, each occurs once. The risk is the enhanced model's.

    Args:
        prefix: of the pictures' names.
    """
    risk = found.risk("panel" if "panel" in found.hazards else "steph")
    rows = np.flatnonzero(found.fold == fold)
    order = rows[np.argsort(-risk[rows], kind="stable")]
    n_low = min(_EACH, len(order) // 2)
    n_high = min(_EACH, len(order) - n_low)
    ends = [(i, "highest") for i in order[:n_high]] + [(i, "lowest") for i in order[::-1][:n_low]]
    patients = []
    for number, (i, end) in enumerate(ends):
        nth = number if end == "highest" else number - n_high
        days = float(found.times[i])
        time = f"{days / DAYS_PER_BIN:.1f} years" if days >= DAYS_PER_BIN else f"{days:.0f} days"
        outcome = f"Event after {time}." if found.events[i] else f"No event in {time} of follow-up."
        place = f"{('', 'second-', 'third-')[nth]}{end} risk"
        patients.append(Example(f"{prefix}-{number + 1}", str(found.ids[i]), place, outcome))
    return patients
