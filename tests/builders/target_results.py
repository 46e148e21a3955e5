"""Results of targets, made by hand: sound by default, and changed at one place by a test."""

from __future__ import annotations

from dataclasses import replace

from fedsteph.client.screening.verdict import Figures, Verdict
from fedsteph.client.target.target_result import (
    DeployedScores,
    ScreenedFolds,
    StephMinusLocal,
    StephScores,
    TargetResult,
    TrainedScores,
)
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.model.method_scores import MinusLocal

BETTER, UNSURE, WORSE = (0.01, 0.05), (-0.01, 0.05), (-0.05, -0.01)


def middle(ends: tuple[float, float]) -> float:
    return sum(ends) / 2


def make_result(c=BETTER, uno=BETTER, *, own=(0.6, 0.7), weight=1.0, choice=("panel", "panel"), **more) -> TargetResult:
    """A result without a flag: 80 events, above chance, calibrated; ``c`` and ``uno`` are intervals of differences."""
    row = {"c_index": (0.6, 0.7), "fold_intervals_95": (own, own), "interval_95": own, "learnable": 5}
    row |= {"mean": middle(own), "further": {"calibration_gap_3y": 0.05}}
    local = TrainedScores(**row | {"mean": 0.4, "interval_95": (0.3, 0.45)})
    steph = StephScores(**row, gamma=(0.0,) * 2, gamma_reason=("",) * 2, collapsed=(False,) * 2, K=1, sources=({}, {}))
    deployed = DeployedScores(**row, choice=choice, reason=("",) * 2, useful=(True, True))
    judged = {"b": Verdict(weight == 0, weight, "because", Figures(1.0, 1.0, 0.0))}
    told = (
        {"uno_mean": None, "uno_interval_95": None}
        if uno is None
        else {"uno_mean": middle(uno), "uno_interval_95": uno}
    )
    gap = StephMinusLocal(middle(c), c, 2, inner_steph=(0.7,) * 2, inner_local=(0.6,) * 2, **told)
    result = TargetResult(
        n_patients=200,
        n_events=80,
        n_pairs=2000,
        sources=("b",),
        sharing=SharingConfig(),
        screening=ScreenedFolds("refuse", (judged, judged)),
        too_small=None,
        methods={"local": local, "steph": steph, "deployed": deployed},
        deployed_minus_local=MinusLocal(middle(c), c, 2),
        steph_minus_local=gap,
        models="deployed",
        privacy_spent="nothing",
        enhanced=("a", "b"),
        spread=0.3,
    )
    return replace(result, **more)
