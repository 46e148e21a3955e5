"""Puts a model's risks on a scale that all models share: by the mean and spread of the risks of its training patients.

The same rule holds for a model of an inner fold on its held-out patients, of a fold on its test patients, and for the
final model on a new patient alone. Each has seen its own training patients and not the one it is asked about, so what
training does to the spread, it does to all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SlideScale:
    """Mean and standard deviation of a model's risks of its training patients."""

    mean: float
    spread: float

    @classmethod
    def of(cls, percentiles: np.ndarray) -> SlideScale:
        """From the percentiles 0 to 100 of these risks, ``(101,)``, which the model's file holds."""
        return cls(float(percentiles.mean()), float(percentiles.std()))

    def standardised(self, risk: np.ndarray) -> np.ndarray:
        """``(n,)`` risks on the common scale; all 0 where the model gives every training patient the same risk."""
        found: np.ndarray = (risk - self.mean) / self.spread if self.spread > 0 else np.zeros(len(risk))
        return found
