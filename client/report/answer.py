"""The top of a target's page: is the enhanced model better, by how much, and what speaks against it?"""

from __future__ import annotations

from collections.abc import Sequence

from fedsteph.client.target.target_result import TargetResult
from fedsteph.client.target.trust import SENTENCES, with_interval
from fedsteph.common.model.method_scores import MethodScores
from fedsteph.common.report.page import NO_DECISION, Answer


def answer_of(name: str, result: TargetResult, made: Sequence[str] = ()) -> Answer:
    """The answer of the site ``name``; ``made``: lines on when and by what the result was made."""
    cohort = [] if result.cohort is None else [f"Cohort: {result.cohort}"]
    facts = [NO_DECISION, *cohort, *made]
    if result.too_small is not None and result.enhanced_minus_local.mean is None:
        return Answer("not shown", result.too_small, facts=facts)
    trust, gap = result.trust, result.enhanced_minus_local
    number = (
        f"C-index {with_interval(gap.mean, gap.interval_95)}: enhanced {_mean(result.enhanced_row)}, local "
        f"{_mean(result.methods['local'])}. Uno's C {with_interval(gap.uno_mean, gap.uno_interval_95)}."
    )
    flags = [flag.sentence for flag in trust.flags]
    if collapsed := ", ".join(map(str, result.steph.collapsed_folds)):
        flags.append(f"STEPH collapsed (all kept weights near 0) in fold {collapsed}: it is not deployed.")
    return Answer(trust.state, f"At {name}, {SENTENCES[trust.state]}.", number, flags, facts)


def _mean(row: MethodScores) -> str:
    return "undefined" if row.mean is None else f"{row.mean:.3f}"
