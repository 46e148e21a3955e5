"""How good a final model is, as its site measured it: kept in its file and shown beside every prediction."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedsteph.common.model.method_scores import Interval

UNKNOWN = "The quality of this model is not known to its file."
_FLAG = re.compile(r"[A-Za-z0-9' -]{1,60}")


@dataclass(frozen=True)
class Quality:
    """What cross-validation says of models that were made by the rule of a final model; it has no test set of its own.

    Attributes:
        c_index: mean over folds; None without a comparable pair.
        interval_95: its interval; None if it cannot be computed.
        folds: number of folds.
        calibration_gap_3y: predicted minus observed probability of an event within 3 years; None if undefined.
        flags: names of the red flags (docs/report.md).

    Raises:
        ValueError: a number is out of range, or a flag is no name.
    """

    c_index: float | None
    interval_95: Interval | None
    folds: int
    calibration_gap_3y: float | None
    flags: tuple[str, ...]

    def __post_init__(self) -> None:
        scores = [value for value in (self.c_index, *(self.interval_95 or ())) if value is not None]
        gap = self.calibration_gap_3y
        if not all(0 <= value <= 1 for value in scores) or (gap is not None and not -1 <= gap <= 1) or self.folds < 1:
            raise ValueError("a quality that is out of range")
        if not all(map(_FLAG.fullmatch, self.flags)):
            raise ValueError("red flags that are not names")

    @property
    def sentences(self) -> tuple[str, str]:
        """What was measured, and the red flags."""
        score = "C-index undefined, as no two patients could be compared"
        if self.c_index is not None:
            score = f"C-index {self.c_index:.3f}"
            if self.interval_95 is not None:
                score += f" (95% interval {self.interval_95[0]:.3f} to {self.interval_95[1]:.3f})"
        gap = "calibration undefined, with too little follow-up or too few events"
        if self.calibration_gap_3y is not None:
            gap = f"predicted minus observed probability of an event within 3 years {self.calibration_gap_3y:+.3f}"
        folds = f"{self.folds} fold{'' if self.folds == 1 else 's'}"
        measured = f"Quality of such models at their site, by cross-validation over {folds}: {score}; {gap}."
        return measured, f"Red flags: {', '.join(self.flags) or 'none'}."
