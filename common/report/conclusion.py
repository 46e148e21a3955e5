"""Puts a comparison of methods into sentences: better or worse, by how much, and the 95% interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from fedsteph.common.model.method_scores import MinusLocal
from fedsteph.common.model.resampling import interval_of_mean

ROUNDED = "These are rounded means without intervals, which establish nothing; a site's own page says how sure it is."
_SAME = 5e-4  # smaller differences in C-index are 0 in three decimals


def against_local(title: str, found: MinusLocal, folds: int) -> str | None:
    """Compare a method with the local model over ``folds`` with both C-indices, in one sentence; None if undefined."""
    gap = found.mean
    if gap is None:
        return None
    text = f"{title} is {_better(gap)} in the mean"
    if found.interval_95 is not None:
        text += f" (95% interval of the difference {_told(found.interval_95)})"
    return f"{text}, and wins {found.folds_won} of {folds} folds"


def over_targets(title: str, found: Sequence[MinusLocal]) -> str | None:
    """Compare one method with the local models of several targets in one sentence; None if no target is defined.

    The interval of the mean assumes independent normal errors, because the targets have different patients.
    """
    known = [(one.mean, one.interval_95) for one in found if one.mean is not None]
    if not known:
        return None
    gaps = [mean for mean, _ in known]
    text = f"{title} is {_better(fmean(gaps))} in the mean over {len(gaps)} targets"
    ends = [interval for _, interval in known if interval is not None]
    if len(ends) == len(known) and (interval := interval_of_mean(ends)) is not None:
        text += f" (95% interval {_told(interval)})"
    return f"{text}, and better on {sum(gap > 0 for gap in gaps)} of them"


def rounded(site: str, scores: Mapping[str, float | None]) -> list[str]:
    """Sentences about a target's result from rounded means by method title; None: undefined, or kept by the policy.

    The enhanced model is the panel; in results of earlier versions, which have none, STEPH.
    """
    local, deployed = scores.get("local"), scores.get("deployed")
    enhanced = scores.get("panel" if "panel" in scores else "STEPH")
    if local is None or enhanced is None:
        return [
            f"At {site}, scores are undefined or kept by the site's policy: nothing can be said of the enhanced model."
        ]
    gap = round(enhanced - local, 2)
    better = "the same as" if gap == 0 else f"{abs(gap):.2f} {'better' if gap > 0 else 'worse'} than"
    shown = "" if deployed is None else f" What is deployed there has {deployed:.2f}."
    return [
        f"At {site}, the enhanced model has a C-index of {enhanced:.2f}, {better} the local one's {local:.2f}.{shown}",
        ROUNDED,
    ]


def _told(interval: Sequence[float]) -> str:
    """The ends of a difference's interval, and whether it includes 0."""
    low, high = interval
    return f"{low:+.3f} to {high:+.3f}{'; it includes 0, so no difference is established' if low <= 0 <= high else ''}"


def _better(gap: float) -> str:
    if abs(gap) < _SAME:
        return "as good as the local model"
    return f"{'better' if gap > 0 else 'worse'} than the local model by {abs(gap):.3f} of C-index"
