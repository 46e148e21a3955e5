"""The survival that a final model predicts for its training patients, beside which a new patient's is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST = 10  # patients in each third; means over fewer would come close to single patients


@dataclass(frozen=True)
class CohortSurvival:
    """Mean predicted survival of all training patients, and of each third of them by predicted risk.

    These are means over at least :data:`FEWEST` patients, so no number is one patient's. The model was trained on these
    patients, so the thirds lie a little farther apart than those of new patients would.

    Attributes:
        means: ``(4, n_years)``: all, then the thirds, lowest risk first. Probability of no event beyond each year.

    Raises:
        ValueError: a mean is no probability, or rises from year to year.
    """

    means: np.ndarray

    def __post_init__(self) -> None:
        if not ((self.means >= 0) & (self.means <= 1)).all() or (np.diff(self.means, axis=1) > 1e-9).any():
            raise ValueError("the training patients' survival is no probability, or rises")

    @classmethod
    def of(cls, survival: np.ndarray, risks: np.ndarray) -> CohortSurvival | None:
        """The means of ``survival`` ``(n_patients, n_years)`` by ``risks`` ``(n_patients,)``; None for too few."""
        if len(risks) < 3 * FEWEST:
            return None
        thirds = np.array_split(np.argsort(risks, kind="stable"), 3)
        return cls(np.array([survival.mean(axis=0), *(survival[third].mean(axis=0) for third in thirds)]))

    @property
    def everyone(self) -> np.ndarray:
        """Of all training patients, ``(n_years,)``."""
        everyone: np.ndarray = self.means[0]
        return everyone

    @property
    def thirds(self) -> np.ndarray:
        """Of each third, lowest risk first, ``(3, n_years)``."""
        thirds: np.ndarray = self.means[1:]
        return thirds

    def borders(self) -> np.ndarray:
        """Survival halfway between neighbouring thirds, ``(2, n_years)``: the border of the lowest risk first.

        Between two borders, survival is nearest to the mean of the middle third.
        """
        low, middle, high = self.thirds
        upper = (low + middle) / 2
        return np.array([upper, np.minimum(upper, (middle + high) / 2)])
