"""What a target finds out about its clinical values and the slide; it stays at the site, as the whole result does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedsteph.client.clinical.likelihood_ratio import LikelihoodRatio
from fedsteph.common.model.method_scores import MethodScores, MinusLocal


@dataclass(frozen=True)
class ClinicalColumn:
    """A column, and the shares of patients with no value and of test patients with a category new to their fold."""

    kind: Literal["numeric", "ordinal", "category"]
    missing: float  # rounded to a percent
    unseen: float = 0.0  # likewise


@dataclass(frozen=True)
class SlideAdds(MinusLocal):
    """Clinical values and slide minus clinical values alone, and the test of the slide's cross-fitted risk."""

    likelihood_ratio: LikelihoodRatio | None


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit of deciding by a model's probability of an event within so many years, by threshold."""

    year: int
    thresholds: tuple[float, ...]
    net_benefit: dict[str, tuple[float, ...]]  # clinical, both, all, none


@dataclass(frozen=True)
class ClinicalResult:
    """The rows of clinical values alone and together with the slide's risk under local, steph and deployed."""

    columns: dict[str, ClinicalColumn]
    untold: str | None = None  # a sentence where nothing could be measured, or not all
    clinical: MethodScores | None = None
    both: dict[str, MethodScores] = field(default_factory=dict)
    added: dict[str, SlideAdds] = field(default_factory=dict)
    curves: tuple[DecisionCurve, ...] = ()

    def sentence(self, method: str, slide: Mapping[str, MethodScores]) -> str:
        """What the slide's risk under one method adds to the clinical values.

        Args:
            slide: the rows of the slide's risk alone.
        """
        if self.clinical is None or method not in self.added:
            return self.untold or "What the slide adds to the clinical values cannot be told."
        gap, columns = self.added[method], ", ".join(self.columns)
        if gap.mean is None or gap.interval_95 is None:
            return f"What the slide adds to {columns} cannot be told: no test fold has a comparable pair of patients."
        low, high = gap.interval_95
        state = "adds to" if low > 0 else "takes away from" if high < 0 else "is not shown to add to"
        means = (self.clinical.mean, slide[method].mean, self.both[method].mean)
        rows = " / ".join("undefined" if mean is None else f"{mean:.3f}" for mean in means)
        test = "" if gap.likelihood_ratio is None else f"; likelihood-ratio test p = {gap.likelihood_ratio.p:.2g}"
        return (
            f"The slide {state} {columns}: C-index {gap.mean:+.3f} (95% interval {low:+.3f} to {high:+.3f}{test}); "
            f"clinical / slide / both {rows}."
        )
