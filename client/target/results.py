"""Makes a target's result from its folds, with means and intervals, and the part of it that may leave the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedsteph.client.clinical.cohort_line import cohort_line
from fedsteph.client.evaluation.metrics import YEARS, defined_mean, mean_metrics
from fedsteph.client.sharing.spending import spent
from fedsteph.client.site.policy import Mode, Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.target_result import (
    DEPLOYED,
    DeployedScores,
    FinalModel,
    ScreenedFolds,
    StephMinusLocal,
    StephScores,
    TargetResult,
    TrainedScores,
    UnoMinusLocal,
)
from fedsteph.common.config.recipe import EvaluationConfig
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.config.steph_epochs import unequal_training
from fedsteph.common.errors import FedstephError
from fedsteph.common.model.concordance import Pairs
from fedsteph.common.model.method_scores import Interval, MethodScores, MinusLocal
from fedsteph.common.model.resampling import interval_95, mean_over_folds, resampled_folds
from fedsteph.common.wire.messages import MergeReply, Refusal, Score


def target_result(
    workspace: Workspace,
    folds: Sequence[FoldResult],
    sources: Sequence[str],
    screening: Mode = "report",
    final: FinalModel | None = None,
) -> TargetResult:
    """The full result of a target, from those of its folds and what is told of its final model."""
    cohort, state = workspace.cohort, workspace.site.state
    tested = {method: [fold.pairs(method) for fold in folds] for method in folds[0].risk}
    resamples = dict(zip(tested, _resampled(list(tested.values()), workspace.recipe.evaluation), strict=True))
    methods = {name: _row(pairs, resamples[name]) for name, pairs in tested.items()}
    return TargetResult(
        n_patients=len(cohort),
        n_events=int(cohort.events.sum()),
        n_pairs=sum(fold.n_comparable for fold in tested["local"]),
        sources=tuple(sources),
        sharing=workspace.recipe.sharing,
        screening=ScreenedFolds(screening, tuple(fold.verdicts for fold in folds)),
        cohort=cohort_line(cohort),
        too_small=_too_small(tested["local"], bool(cohort.events.any())),
        methods={name: _trained(name, row, folds, workspace, len(sources)) for name, row in methods.items()},
        deployed_minus_local=_minus_local("deployed", methods, resamples),
        steph_minus_local=StephMinusLocal(
            **vars(_minus_local("steph", methods, resamples)),
            **_uno_minus_local("steph", folds, workspace.recipe.evaluation),
            inner_steph=tuple(fold.selection.steph for fold in folds),
            inner_local=tuple(fold.selection.local for fold in folds),
        ),
        panel_minus_local=None
        if "panel" not in methods
        else UnoMinusLocal(
            **vars(_minus_local("panel", methods, resamples)),
            **_uno_minus_local("panel", folds, workspace.recipe.evaluation),
        ),
        models=str(state / DEPLOYED),
        privacy_spent=str(spent(workspace)),
        enhanced=tuple(None if fold.enhanced is None else str(fold.enhanced.relative_to(state)) for fold in folds),
        spread=defined_mean([_spread(fold.hazards.get(DEPLOYED)) for fold in folds]),
        unequal=unequal_training(workspace.recipe),
        final=final,
    )


def _trained(
    name: str, row: MethodScores, folds: Sequence[FoldResult], workspace: Workspace, n_sources: int
) -> TrainedScores:
    """A row with what belongs to the training of its method."""
    further = mean_metrics([fold.metrics[name] for fold in folds])
    trained = TrainedScores(**vars(row), further=further, learnable=folds[0].learnable[name])
    if name == "steph":
        return StephScores(
            **vars(trained),
            gamma=tuple(fold.selection.gamma for fold in folds),
            gamma_reason=tuple(fold.selection.gamma_reason for fold in folds),
            collapsed=tuple(fold.collapsed for fold in folds),
            K=min(workspace.recipe.steph.K or n_sources, n_sources),
            sources=tuple(fold.sources for fold in folds),
        )
    if name == "deployed":
        decisions = [(fold.decision.method, fold.decision.reason, fold.decision.useful) for fold in folds]
        choice, reason, useful = zip(*decisions, strict=True)
        return DeployedScores(**vars(trained), choice=choice, reason=reason, useful=useful)
    return trained


def method_row(folds: Sequence[Pairs], evaluation: EvaluationConfig) -> MethodScores:
    """One method's C-index per fold and its mean, each with its 95% bootstrap interval."""
    return _row(folds, _resampled([folds], evaluation)[0])


def difference(folds: Sequence[Pairs], other: Sequence[Pairs], evaluation: EvaluationConfig) -> MinusLocal:
    """One method's C-index minus another's on the same test patients, with its paired 95% bootstrap interval."""
    tested = {"method": folds, "local": other}
    draws = dict(zip(tested, _resampled([folds, other], evaluation), strict=True))
    return _minus_local("method", {name: _row(one, draws[name]) for name, one in tested.items()}, draws)


def _row(folds: Sequence[Pairs], resamples: np.ndarray) -> MethodScores:
    c_index = tuple(fold.c_index for fold in folds)
    of_folds = iter(resamples)
    return MethodScores(
        c_index=c_index,
        fold_intervals_95=tuple(None if value is None else _interval(next(of_folds)[None]) for value in c_index),
        mean=defined_mean(c_index),
        interval_95=_interval(resamples),
    )


def _minus_local(method: str, methods: Mapping[str, MethodScores], resamples: Mapping[str, np.ndarray]) -> MinusLocal:
    folds = zip(methods[method].c_index, methods["local"].c_index, strict=True)
    gaps = [value - local for value, local in folds if value is not None and local is not None]
    spread = _interval(resamples[method] - resamples["local"])
    return MinusLocal(defined_mean(gaps), spread, sum(gap > 0 for gap in gaps))


def _uno_minus_local(method: str, folds: Sequence[FoldResult], evaluation: EvaluationConfig) -> dict[str, Any]:
    """The difference of a method and the local model in Uno's C, with the draws of the C-index's interval."""
    tested = [[fold.pairs(name).weighted(fold.uno_weight) for fold in folds] for name in (method, "local")]
    own, local = _resampled(tested, evaluation)
    pairs = zip(*tested, strict=True)
    gaps = [a.c_index - b.c_index for a, b in pairs if a.c_index is not None and b.c_index is not None]
    return {"uno_mean": defined_mean(gaps), "uno_interval_95": _interval(own - local)}


def _spread(hazards: np.ndarray | None) -> float | None:
    """The widest range of survival at 1, 3 or 5 years, 10th to 90th percentile, over patients ``(n, n_bins)``."""
    if hazards is None or not len(hazards):
        return None
    survival = np.cumprod(1.0 - hazards, axis=1)[:, [year - 1 for year in YEARS if year <= hazards.shape[1]]]
    low, high = np.percentile(survival, [10, 90], axis=0)
    return float((high - low).max())


def _resampled(methods: Sequence[Sequence[Pairs]], evaluation: EvaluationConfig) -> np.ndarray:
    """Bootstrap C-indices ``(n_methods, n_defined_folds, resamples)``, with the same draws for all methods."""
    return resampled_folds(methods, resamples=evaluation.bootstrap, seed=evaluation.split_seed)


def _interval(resamples: np.ndarray) -> Interval | None:
    """95% interval of a mean over folds, from ``(n_defined_folds, resamples)``."""
    return interval_95(mean_over_folds(resamples))


def public_view(result: TargetResult, refused: Mapping[str, FedstephError], policy: Policy) -> MergeReply:
    """The reply to the coordinator, as the policy allows: mean scores, sizes, refused senders and the reasons.

    A refused sender with an invalid name is recorded in the site's log only.
    """
    return MergeReply(
        patients=policy.band("patients", result.n_patients),
        events=policy.band("events", result.n_events),
        refused=tuple(
            Refusal.of(refused[name], name) for name in sorted(refused) if SITE_NAME.fullmatch(name) is not None
        ),
        scores=tuple(Score(method, policy.c_index(row.mean, result.n_pairs)) for method, row in result.methods.items()),
        kept=result.kept,
    )


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
