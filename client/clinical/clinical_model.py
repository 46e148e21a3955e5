"""What predicts from clinical values, alone and with the slide's risk; fitted on training patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedsteph.client.clinical.encoding import Encoding
from fedsteph.client.clinical.ridge_cox import RidgeCox
from fedsteph.client.clinical.slide_scale import SlideScale
from fedsteph.client.data.settings import Kind
from fedsteph.client.data.tables.clinical_table import ClinicalValues


@dataclass(frozen=True)
class ClinicalModel:
    """Two Cox models of the same patients, without and with the risk of their slides."""

    kinds: dict[str, Kind]  # by column, as the site file had them
    encoding: Encoding
    scale: SlideScale  # of the model that gives the slide's risk
    clinical: RidgeCox
    both: RidgeCox  # the slide's standardised risk is the last number

    def __post_init__(self) -> None:
        n = len(self.encoding.names)
        for cox, more in ((self.clinical, 0), (self.both, 1)):
            if not n or {len(cox.coefficients), len(cox.centre)} != {n + more} or not cox.cumulative:
                raise ValueError("its Cox models do not have the numbers that its columns give")

    @classmethod
    def fit(
        cls, values: ClinicalValues, slide: np.ndarray, scale: SlideScale, times: np.ndarray, events: np.ndarray
    ) -> ClinicalModel:
        """Fit on training patients.

        Args:
            slide: ``(n,)`` standardised risk of each patient's slide, by a model that has not seen the patient.
            scale: of the model that gives new patients' risks.
            times: ``(n,)`` days.
            events: ``(n,)``, 1 = event.

        Raises:
            TrainingError: there is no event or no usable column, or the search for the coefficients fails.
        """
        encoding = Encoding.of(values)
        numbers = encoding.numbers(values)
        both = RidgeCox.fit(np.column_stack([numbers, slide]), times, events)
        return cls(dict(values.kinds), encoding, scale, RidgeCox.fit(numbers, times, events), both)

    def numbers(self, values: ClinicalValues, risk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the two models take: the clinical numbers, and the same with the slide's risk ``(n,)`` standardised."""
        numbers = self.encoding.numbers(values)
        return numbers, np.column_stack([numbers, self.scale.standardised(risk)])


def differing(trained: Mapping[str, Kind], given: Mapping[str, Kind]) -> str:
    """How the columns that a model was trained with are not those that are given, in words; empty if they are."""
    for column, kind in trained.items():
        if given.get(column) != kind:
            return f"'{column}' is {_spoken(kind)} to the model and {_spoken(given.get(column))} in the site file"
    return ""


def _spoken(kind: Kind | None) -> str:
    if isinstance(kind, tuple):
        return f"[{', '.join(kind)}]"
    return "not named" if kind is None else kind
