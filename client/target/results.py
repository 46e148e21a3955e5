"""A target's result: all methods in all folds, with means and intervals, and the part of it that may leave the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedsteph.client.evaluation.metrics import defined_mean, mean_metrics
from fedsteph.client.site.policy import Mode, Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.common.config.recipe import EvaluationConfig, to_dict
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import FedstephError
from fedsteph.common.model.concordance import Pairs
from fedsteph.common.model.resampling import interval_95, mean_over_folds, resampled_folds
from fedsteph.common.wire.messages import MergeReply, Refusal, Score

DEPLOYED = "deployed"  # the folder of the deployed models, below a site's state folder


def target_result(
    workspace: Workspace, folds: Sequence[FoldResult], sources: Sequence[str], screening: Mode = "report"
) -> dict[str, Any]:
    """The full result of a target, ready for JSON; it stays on the target's disk.

    ``c_index`` is null in a fold whose test part has no comparable pair; means leave such folds out.
    """
    evaluation, cohort = workspace.recipe.evaluation, workspace.cohort
    tested = {method: [fold.pairs(method) for fold in folds] for method in folds[0].risk}

    resamples = dict(zip(tested, _resampled(list(tested.values()), evaluation), strict=True))
    methods = {name: _row(pairs, resamples[name]) for name, pairs in tested.items()}
    for name, row in methods.items():
        row["further"] = mean_metrics([fold.metrics[name] for fold in folds])
        row["learnable"] = folds[0].learnable[name]
    methods["steph"] |= {
        "gamma": [fold.selection.gamma for fold in folds],
        "gamma_reason": [fold.selection.gamma_reason for fold in folds],
        "collapsed": [fold.collapsed for fold in folds],
        "K": min(workspace.recipe.steph.K or len(sources), len(sources)),
        "sources": [{name: asdict(use) for name, use in fold.sources.items()} for fold in folds],
    }
    methods["deployed"] |= {
        "choice": [fold.choice for fold in folds],
        "reason": [fold.choice_reason for fold in folds],
    }
    return {
        "n_patients": len(cohort),
        "n_events": int(cohort.events.sum()),
        "n_pairs": sum(fold.n_comparable for fold in tested["local"]),
        "sources": list(sources),
        "sharing": to_dict(workspace.recipe.sharing),
        "screening": {
            "policy": screening,
            "folds": [{name: asdict(verdict) for name, verdict in fold.verdicts.items()} for fold in folds],
        },
        "too_small": _too_small(tested["local"], bool(cohort.events.any())),
        "methods": methods,
        "deployed_minus_local": _minus_local("deployed", methods, resamples),
        "steph_minus_local": {
            **_minus_local("steph", methods, resamples),
            "inner_steph": [fold.selection.steph for fold in folds],
            "inner_local": [fold.selection.local for fold in folds],
        },
        "models": str(workspace.site.state / DEPLOYED),
    }


def method_row(folds: Sequence[Pairs], evaluation: EvaluationConfig) -> dict[str, Any]:
    """One method's C-index per fold and its mean, each with its 95% bootstrap interval."""
    return _row(folds, _resampled([folds], evaluation)[0])


def _row(folds: Sequence[Pairs], resamples: np.ndarray) -> dict[str, Any]:
    c_index = [fold.c_index for fold in folds]
    of_folds = iter(resamples)
    return {
        "c_index": c_index,
        "fold_intervals_95": [None if value is None else _interval(next(of_folds)[None]) for value in c_index],
        "mean": defined_mean(c_index),
        "interval_95": _interval(resamples),
    }


def _minus_local(
    method: str, methods: Mapping[str, Mapping[str, Any]], resamples: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """A method minus the local model: mean difference, its 95% interval, and the number of folds won."""
    c_index, local = methods[method]["c_index"], methods["local"]["c_index"]
    return {
        "mean": _difference(c_index, local),
        "interval_95": _interval(resamples[method] - resamples["local"]),
        "folds_won": sum(value > own for value, own in zip(c_index, local, strict=True) if value is not None),
    }


def _resampled(methods: Sequence[Sequence[Pairs]], evaluation: EvaluationConfig) -> np.ndarray:
    """Bootstrap C-indices ``(n_methods, n_defined_folds, resamples)``, with the same draws for all methods."""
    return resampled_folds(methods, resamples=evaluation.bootstrap, seed=evaluation.split_seed)


def _interval(resamples: np.ndarray) -> list[float] | None:
    """95% interval of a mean over folds, from ``(n_defined_folds, resamples)``."""
    found = interval_95(mean_over_folds(resamples))
    return None if found is None else list(found)


def public_view(result: dict[str, Any], refused: Mapping[str, FedstephError], policy: Policy) -> MergeReply:
    """The reply to the coordinator, as the policy allows: mean scores, sizes, refused senders and the reasons.

    A refused sender with an invalid name is recorded in the site's log only.
    """
    return MergeReply(
        patients=policy.band("patients", result["n_patients"]),
        events=policy.band("events", result["n_events"]),
        refused=tuple(
            Refusal.of(refused[name], name) for name in sorted(refused) if SITE_NAME.fullmatch(name) is not None
        ),
        scores=tuple(
            Score(method, policy.c_index(row["mean"], result["n_pairs"])) for method, row in result["methods"].items()
        ),
    )


def _difference(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    return defined_mean([x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None])


def _too_small(folds: Sequence[Pairs], any_event: bool) -> str | None:
    """A sentence if the target cannot be evaluated in all or in some folds; else None."""
    if not any_event:
        return "This target cannot be evaluated: none of its patients has an event."
    undefined = sum(fold.n_comparable == 0 for fold in folds)
    if undefined == 0:
        return None
    if undefined == len(folds):
        return "This target is too small to evaluate: no test fold has a comparable pair of patients."
    return f"{undefined} of {len(folds)} test folds have no comparable pair of patients and are left out."
