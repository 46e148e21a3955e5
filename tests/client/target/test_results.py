"""A target's result from given risks: rows, means, intervals, sentences, and what may leave the site."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from client_builders import plain_c, trained_workspace
from each_case import each

from fedsteph.client.evaluation.decision import Decision, Selection
from fedsteph.client.evaluation.metrics import METRICS, Metrics
from fedsteph.client.site.policy import Policy
from fedsteph.client.steph.usage import SourceUse
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.results import method_row, public_view, target_result
from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.config.recipe import EvaluationConfig
from fedsteph.common.errors import ForgedEnvelopeError, UnknownSenderError
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.common.model.method_scores import MethodScores, MinusLocal
from fedsteph.common.wire.messages import MergeReply, Refusal, Score

METHODS = ("local", "ties", "model_average", "steph", "deployed")
UNTOLD = tuple(Score(method, None) for method in METHODS)
EVALUATION = EvaluationConfig(bootstrap=200)
T, E = np.array([100.0, 200, 300, 400, 500, 600]), np.array([1, 1, 0, 1, 0, 1])


def random_pairs(seed: int, n: int = 6, events: float = 0.7) -> Pairs:
    rng = np.random.default_rng(seed)
    return pairs(rng.normal(size=n), rng.exponential(500, size=n), (rng.random(n) < events).astype(int))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return trained_workspace(tmp_path_factory.mktemp("results"))


def fold_result(workspace, fold: int, c: dict[str, float], t=T, e=E) -> FoldResult:
    """Risks with about the C-index asked for: the more noise, the closer to 0.5."""
    rng = np.random.default_rng(fold)
    risk = {method: c.get(method, 0.0) * -t / 100 + rng.normal(size=len(t)) for method in METHODS}
    risk["deployed"] = risk["steph"]
    return FoldResult(
        selection=Selection(0.05, "told so", 0.6, 0.7, 12),
        collapsed=fold == 1,
        decision=Decision("panel", "because", fold != 1),
        model=workspace.folder / f"merge/fold_{fold}/steph.safetensors",
        sources={"a": SourceUse(0.5, 0.25, 1.0), "b": SourceUse(0.0, 0.0, 0.0)},
        times=t,
        events=e,
        risk=risk,
        uno_weight=np.ones(len(t)),
        metrics={
            method: Metrics(uno_c=0.1 * k + 0.01 * fold, brier=None if fold == 1 else 0.25 + fold)
            for k, method in enumerate(METHODS)
        },
        learnable={method: 100 * k for k, method in enumerate(METHODS)},
    )


def scores_of(result, decimals: int) -> tuple[Score, ...]:
    return tuple(Score(method, round(result.methods[method].mean, decimals)) for method in METHODS)


def test_a_methods_row():
    folds = [random_pairs(0), random_pairs(1), random_pairs(2, events=0.0)]
    row = method_row(folds, EVALUATION)
    assert row.c_index == (folds[0].c_index, folds[1].c_index, None)
    assert row.mean == pytest.approx((folds[0].c_index + folds[1].c_index) / 2) and row.fold_intervals_95[2] is None
    for fold in (0, 1):
        low, high = row.fold_intervals_95[fold]
        assert 0 <= low <= row.c_index[fold] <= high <= 1
    low, high = row.interval_95
    assert 0 <= low <= row.mean <= high <= 1 and method_row(folds, EVALUATION) == row


def test_a_row_without_a_comparable_pair():
    undefined = random_pairs(0, events=0.0)
    assert method_row([undefined, undefined], EVALUATION) == MethodScores((None, None), (None, None), None, None)


def test_every_row_of_a_result(workspace, tmp_path):
    folds = [fold_result(workspace, k, {"steph": steph, "local": 1 - steph}) for k, steph in enumerate((1, 0, 1))]
    result = target_result(workspace, folds, ["a", "b"])
    assert TargetResult.of(json.loads(json.dumps(result.to_dict(), allow_nan=False)), tmp_path) == result
    assert list(result.methods) == list(METHODS)
    for method, row in result.methods.items():
        expected = [plain_c(fold.times, fold.events, fold.risk[method]) for fold in folds]
        assert row.c_index == pytest.approx(expected) and row.mean == pytest.approx(sum(expected) / 3)
        k = METHODS.index(method)
        assert row.learnable == 100 * k
        # Fold 1 has no Brier score, and none has an AUC.
        assert list(row.further) == list(METRICS)
        assert row.further["uno_c"] == pytest.approx(0.1 * k + (0.00 + 0.01 + 0.02) / 3)
        assert row.further["brier"] == pytest.approx((0.25 + 2.25) / 2)
        assert [value for name, value in row.further.items() if name not in ("uno_c", "brier")] == [None] * 5
    steph, local = (np.array(result.methods[name].c_index) for name in ("steph", "local"))
    difference = result.steph_minus_local
    assert difference.mean == pytest.approx(float((steph - local).mean()))
    assert difference.folds_won == int((steph > local).sum()) == 2
    assert difference.interval_95[0] <= difference.mean <= difference.interval_95[1]
    # Where all events weigh the same, Uno's C is Harrell's, by the same draws.
    assert difference.uno_mean == pytest.approx(difference.mean)
    assert difference.uno_interval_95 == pytest.approx(difference.interval_95)
    deployed = result.deployed_minus_local  # it was STEPH everywhere
    assert deployed == MinusLocal(difference.mean, difference.interval_95, difference.folds_won)
    assert (difference.inner_steph, difference.inner_local) == ((0.7,) * 3, (0.6,) * 3)
    row = result.steph
    assert (row.gamma, row.collapsed, row.K) == ((0.05,) * 3, (False, True, False), 2)
    assert row.gamma_reason == ("told so",) * 3 and row.sources[0]["a"] == SourceUse(0.5, 0.25, 1.0)
    deployed = result.deployed
    assert (deployed.choice, deployed.reason) == (("panel",) * 3, ("because",) * 3) and result.sources == ("a", "b")
    assert (result.n_patients, result.n_events, result.too_small) == (24, 12, None)
    assert Path(result.models) == workspace.site.state / "deployed"


def test_unos_c_is_compared_with_the_weights_of_each_fold(workspace):
    """By a plain loop over pairs."""
    fold = fold_result(workspace, 0, {"steph": 0.2, "local": 0.1})
    weights = np.array([1.0, 4.0, 1.0, 2.0, 3.0, 0.0])
    result = target_result(workspace, [replace(fold, uno_weight=weights)], ["a"])

    def uno_c(risk) -> float:
        score = {True: 1.0, False: 0.0}
        told = [(weights[i], score[risk[i] > risk[j]]) for i in range(6) for j in range(6) if E[i] and T[i] < T[j]]
        return sum(weight * won for weight, won in told) / sum(weight for weight, _ in told)

    expected = uno_c(fold.risk["steph"]) - uno_c(fold.risk["local"])
    assert result.steph_minus_local.uno_mean == pytest.approx(expected)
    low, high = result.steph_minus_local.uno_interval_95
    assert low <= expected <= high


def test_how_far_survival_differs_between_patients(workspace):
    """By hand, in the mean over folds: six patients' hazards of the first year, and none later."""
    folds = []
    for fold, first in enumerate(([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.2] * 6)):
        hazards = np.column_stack([first, np.zeros((6, 7))])
        folds.append(replace(fold_result(workspace, fold, {}), hazards={"deployed": hazards}))
    assert target_result(workspace, folds, ["a"]).spread == pytest.approx((0.4 + 0.0) / 2)
    assert target_result(workspace, [fold_result(workspace, 0, {})], ["a"]).spread is None


@pytest.mark.parametrize(("K", "n_sources", "expected"), [(5, 2, 2), (5, 9, 5), (None, 3, 3)])
def test_the_number_kept_is_at_most_that_of_the_sources(tmp_path, K, n_sources, expected):
    workspace = trained_workspace(tmp_path, f"steph.K={'null' if K is None else K}", patients=6)
    result = target_result(workspace, [fold_result(workspace, 0, {})], [f"s{k}" for k in range(n_sources)])
    assert expected == result.methods["steph"].K


@each(
    ("events", "sentence"),
    [
        ([E, E], None),
        ([E, 0 * E], "1 of 2 test folds have no comparable pair of patients and are left out."),
        ([0 * E, 0 * E], "This target is too small to evaluate: no test fold has a comparable pair of patients."),
    ],
)
def test_a_target_too_small_to_evaluate_is_told_so(workspace, events, sentence):
    folds = [fold_result(workspace, k, {"steph": 1.0}, e=e) for k, e in enumerate(events)]
    result = target_result(workspace, folds, ["a", "b"])
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.too_small == sentence
    undefined = [not e.any() for e in events]
    for row in result.methods.values():
        assert [value is None for value in row.c_index] == undefined
        assert (row.mean is None) == (row.interval_95 is None) == all(undefined)
    assert (result.steph_minus_local.mean is None) == all(undefined)


def test_what_may_leave_the_site(workspace):
    result = target_result(workspace, [fold_result(workspace, k, {"local": 0.1}) for k in range(2)], ["a", "b"])
    error = ForgedEnvelopeError("P001 signed it", where="/secret")
    reply = public_view(result, {"b": error}, Policy(min_pairs=1))
    refused = (Refusal("ForgedEnvelopeError", "the envelope's signature is not its sender's", "b"),)
    assert reply == MergeReply(patients="20-29", events="10-19", refused=refused, scores=scores_of(result, 2))
    assert public_view(result, {}, Policy()) == MergeReply("20-29", "10-19", (), UNTOLD)
    silent = target_result(workspace, [fold_result(workspace, 0, {}, e=0 * E)], ["a", "b"])
    assert public_view(silent, {}, Policy(min_pairs=1)) == MergeReply("20-29", "10-19", (), UNTOLD)


def test_the_policy_decides_how_coarse_it_leaves_and_whether(workspace):
    result = target_result(workspace, [fold_result(workspace, k, {"local": 0.1}) for k in range(2)], ["a", "b"])
    coarse = public_view(result, {}, Policy(count_band=50, c_index_decimals=1, min_pairs=1))
    assert coarse == MergeReply("below 50", "below 50", (), scores_of(result, 1))
    assert public_view(result, {}, Policy(metrics=(), min_pairs=1)) == MergeReply(None, None, (), UNTOLD)
    assert public_view(result, {}, Policy(metrics=("events",))).events == "10-19"


@each("n_folds", [1, 2, 3])
def test_scores_leave_from_the_asked_number_of_pairs_on_counted_over_all_folds(workspace, n_folds):
    result = target_result(workspace, [fold_result(workspace, k, {"local": 0.1}) for k in range(n_folds)], ["a", "b"])
    comparable = sum(int(E[i]) for i in range(len(T)) for j in range(len(T)) if T[i] < T[j])
    assert result.n_pairs == n_folds * comparable
    enough, too_few = (Policy(min_pairs=n_folds * comparable + more) for more in (0, 1))
    assert public_view(result, {}, enough) == MergeReply("20-29", "10-19", (), scores_of(result, 2))
    assert public_view(result, {}, too_few) == MergeReply("20-29", "10-19", (), UNTOLD)


def test_a_refused_sender_whose_name_is_none_is_not_repeated(workspace):
    result = target_result(workspace, [fold_result(workspace, 0, {})], ["a"])
    refused = {name: UnknownSenderError("no") for name in ("z", "../P001", "", "b")}
    assert [refusal.site for refusal in public_view(result, refused, Policy()).refused] == ["b", "z"]
