"""Compares a slide's features with the training slides', so that another scanner or encoder does not pass in silence.

A slide is compared by the mean of its features, and measured against how the training slides' means differ among each
other: mean over dimensions of ``|slide's mean - their mean| / their spread``. A training slide's own distance is taken
from the same mean and spread, without leaving it out, which makes it a little too small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.instances import ALL

# Times the largest distance of a training slide. Of 2,245 slides of five real cohorts (held out, five folds each), none
# was above it, the farthest at 1.2; docs/enhance.md has smaller cohorts, and what is found.
UNLIKE = 1.5
_FEWEST = 2  # slides that have a spread
_LEAST_SPREAD = 0.01  # of the mean spread: a dimension that hardly varies must not decide alone


@dataclass(frozen=True)
class SlideFeatures:
    """The training slides' mean features: their mean ``(d,)`` and spread ``(d,)``, and the distances of the slides.

    ``distances`` are percentiles 0 to 100 ``(101,)``. With few slides these numbers are close to single slides', so
    like the model they stay at the site.
    """

    mean: np.ndarray
    spread: np.ndarray
    distances: np.ndarray

    def __post_init__(self) -> None:
        if not (self.spread > 0).all() or (np.diff(self.distances) < 0).any() or not self.distances[-1] > 0:
            raise ValueError("the training slides' spread is not above 0, or their distances do not ascend")

    @classmethod
    def of(cls, cohort: Cohort) -> SlideFeatures | None:
        """Those of a cohort's slides; None if there are not two different ones. Errors as :meth:`Cohort.bag`."""
        whole = cohort.under(ALL)
        means = [mean_of(slide) for i in range(len(whole)) for slide in whole.by_slide(i, whole.bag(i)).values()]
        return of_means(np.array(means))

    def unlike(self, features: Tensor) -> float:
        """A slide's distance, from features ``(n_instances, d)``, in largest distances of a training slide.

        At most 1 for a training slide; above :data:`UNLIKE`, the slide is not like them.
        """
        return float(_distances(mean_of(features), self.mean, self.spread) / self.distances[-1])


def unlike_words(times: float) -> str:
    """What is said of a slide above :data:`UNLIKE`."""
    return (
        f"its features are unlike the training slides', {times:.1f} times as far from their mean as the farthest of "
        f"them (above {UNLIKE:g} is unlike): look whether scanner, stain and encoder are theirs"
    )


def of_means(means: np.ndarray) -> SlideFeatures | None:
    """As :meth:`SlideFeatures.of`, from the mean features of each slide ``(n_slides, d)``."""
    if len(means) < _FEWEST:
        return None
    mean, spread = means.mean(axis=0), means.std(axis=0)
    if not spread.any():
        return None
    spread = np.maximum(spread, _LEAST_SPREAD * spread.mean())
    return SlideFeatures(mean, spread, np.percentile(_distances(means, mean, spread), np.linspace(0, 100, 101)))


def mean_of(features: Tensor) -> np.ndarray:
    """Mean over a slide's instances ``(n_instances, d)``: ``(d,)`` float64."""
    found: np.ndarray = features.double().mean(dim=0).numpy()
    return found


def _distances(means: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    found: np.ndarray = (np.abs(means - mean) / spread).mean(axis=-1)
    return found
