"""Whether one more number tells more than the others do: the likelihood-ratio test between two Cox models.

The likelihoods are without a penalty. The coefficients have a slight ridge, which changes chi2 by less than 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsteph.client.clinical.ridge_cox import fitted_cox, partial_likelihood
from fedsteph.common.errors import TrainingError

_SLIGHT = 1e-3  # a ridge that keeps coefficients finite where all or none of a level's patients have an event


@dataclass(frozen=True)
class LikelihoodRatio:
    """Twice the difference of the log partial likelihoods, and the probability of a larger one by chance."""

    chi2: float
    df: int
    p: float


def likelihood_ratio(
    numbers: np.ndarray, added: np.ndarray, times: np.ndarray, events: np.ndarray
) -> LikelihoodRatio | None:
    """Test adding ``added (n,)`` to Cox's model of ``numbers (n, p)``; None where a model cannot be fitted.

    Args:
        times: ``(n,)`` days.
        events: ``(n,)``, 1 = event.
    """
    from scipy.stats import chi2  # noqa: PLC0415 (a second to import)

    try:
        less, more = (
            partial_likelihood(fitted_cox(one, times, events, _SLIGHT), one, times, events)
            for one in (numbers, np.column_stack([numbers, added]))
        )
    except TrainingError:
        return None
    ratio = max(0.0, 2 * (more - less))
    return LikelihoodRatio(ratio, 1, float(chi2.sf(ratio, 1)))
