"""Means, spreads and intervals of a study, worked out again with loops over its CSV and over drawn patients."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np
import pytest
from sksurv.metrics import concordance_index_censored
from studies import STUDY

from fedsteph.client.evaluation.metrics import METRICS, Metrics, mean_metrics
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.simulations.study.statistics import Tested, difference, overall, study_scores, target_scores

SEEDS, FOLDS, TARGETS = STUDY["seeds"], (0, 1), STUDY["targets"]
REFERENCES = STUDY["against"]


@pytest.fixture(scope="module")
def scores(whole) -> dict[tuple[str, str, int, int], float]:
    with (whole.out / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    return {(c["row"], c["target"], int(c["seed"]), int(c["fold"])): float(c["c_index"]) for c in cells}


def fold_means(scores, row: str, target: str) -> list[float]:
    return [fmean(scores[row, target, seed, fold] for seed in SEEDS) for fold in FOLDS]


def test_means_and_spreads_of_every_target(whole, scores):
    for target in TARGETS:
        for row, found in whole.results["targets"][target]["rows"].items():
            folds = fold_means(scores, row, target)
            assert found["mean"] == pytest.approx(fmean(folds), abs=1e-12)
            assert found["sd"] == pytest.approx(stdev(folds), abs=1e-12)
            assert found["seed_sd"] is None  # of one seed
            assert found["c_index"] == [[scores[row, target, seed, fold] for fold in FOLDS] for seed in SEEDS]


def test_means_and_differences_over_all_targets(whole, scores):
    won = set()
    for row, found in whole.results["overall"].items():
        means = [fmean(fold_means(scores, row, target)) for target in TARGETS]
        assert found["mean"] == pytest.approx(fmean(means), abs=1e-12)
        assert found["interval_95"][0] < found["mean"] < found["interval_95"][1]
        assert list(found["against"]) == [reference for reference in REFERENCES if reference != row]
        for reference, against in found["against"].items():
            gaps = [fmean(fold_means(scores, row, t)) - fmean(fold_means(scores, reference, t)) for t in TARGETS]
            pairs_ = [(scores[row, t, s, f], scores[reference, t, s, f]) for t in TARGETS for s in SEEDS for f in FOLDS]
            assert against["difference"] == pytest.approx(fmean(gaps), abs=1e-12)
            assert against["worst_target"] == pytest.approx(min(gaps), abs=1e-12)
            assert (against["targets_won"], against["targets"]) == (sum(gap > 0 for gap in gaps), len(TARGETS))
            assert (against["folds_won"], against["folds"]) == (sum(a > b for a, b in pairs_), len(pairs_))
            low, high = against["interval_95"]
            assert low <= against["difference"] <= high
            for target, gap in zip(TARGETS, gaps, strict=True):
                one = whole.results["targets"][target]["rows"][row]["against"][reference]
                assert one["difference"] == one["worst_target"] == pytest.approx(gap, abs=1e-12)
                assert (one["targets_won"], one["targets"], one["folds"]) == (int(gap > 0), 1, 2)
            won.add(against["targets_won"])
    assert len(won) > 1


def test_further_metrics_are_means_over_the_cells_in_which_they_are_defined(whole):
    for row, found in whole.results["overall"].items():
        cells = [cell for cell in whole.results["cells"] if cell["row"] == row]
        for name in METRICS:
            values = [cell["metrics"][name] for cell in cells if cell["metrics"][name] is not None]
            assert found["further"][name] == (pytest.approx(fmean(values)) if values else None)
    assert mean_metrics([Metrics()]) == dict.fromkeys(METRICS)


def test_spreads_over_folds_and_over_seeds():
    found = Target("alpha", 1).scores(10)
    for row, by_seed in found.by_fold.items():
        assert found.mean(row) == pytest.approx(fmean(map(fmean, by_seed)))
        assert found.sd(row) == pytest.approx(stdev(map(fmean, zip(*by_seed, strict=True))))
        assert found.seed_sd(row) == pytest.approx(stdev(map(fmean, by_seed)))


def test_a_lone_seed_or_fold_has_no_spread():
    one = target_scores("t", {"a": [[fold_of(0)]]}, 10)
    assert one.mean("a") is not None
    assert (one.sd("a"), one.seed_sd("a")) == (None, None)


# ---- synthetic targets: (times, events) per fold, and per row and seed a risk for every fold


def outcomes(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 15, n).astype(float), (rng.random(n) < 0.6).astype(int)


class Target:
    """Two folds, and rows of two seeds."""

    def __init__(self, name: str, seed: int, n: int = 30) -> None:
        self.name = name
        self.folds = [outcomes(seed + k, n + k) for k in range(2)]
        rng = np.random.default_rng(seed + 100)
        self.risks: dict[str, list[list[np.ndarray]]] = {"good": [], "poor": []}
        for _ in range(2):
            self.risks["good"].append([-0.15 * t + rng.normal(size=len(t)) for t, _ in self.folds])
            self.risks["poor"].append([rng.normal(size=len(t)) for t, _ in self.folds])

    def rows(self, *names: str) -> dict[str, list[list[Pairs]]]:
        return {
            name: [[pairs(r, *f) for r, f in zip(seed, self.folds, strict=True)] for seed in self.risks[name]]
            for name in names
        }

    def scores(self, resamples: int):
        return target_scores(self.name, self.rows(*self.risks), resamples)


def fold_of(seed: int, n: int = 20) -> Pairs:
    t, e = outcomes(seed, n)
    return pairs(np.random.default_rng(seed).normal(size=n), t, e)


def drawn_means(target: Target, draws: Sequence[Sequence[np.ndarray]], row: str) -> np.ndarray:
    """The row's mean over folds and seeds in each resample; ``draws`` holds patients per fold and resample."""
    return np.array(
        [
            np.mean(
                [
                    [
                        concordance_index_censored(e[d] == 1, t[d], seed[k][d])[0]
                        for k, ((t, e), d) in enumerate(zip(target.folds, per_fold, strict=True))
                    ]
                    for seed in target.risks[row]
                ]
            )
            for per_fold in zip(*draws, strict=True)
        ]
    )


def test_intervals_are_those_of_a_loop_over_the_same_draws():
    """Patients are drawn per target and fold, and the same ones are met by every row and seed."""
    targets, n = [Target("alpha", 1), Target("beta", 20)], 40
    scores = [target.scores(n) for target in targets]
    means: Mapping[str, list[np.ndarray]] = {"good": [], "poor": []}
    for target in targets:
        rng = np.random.default_rng(zlib.crc32(target.name.encode()))
        draws = []
        for t, _ in target.folds:
            counts = rng.multinomial(len(t), np.full(len(t), 1 / len(t)), size=n)
            draws.append([np.repeat(np.arange(len(t)), count) for count in counts])
        for row, found in means.items():
            found.append(drawn_means(target, draws, row))
            np.testing.assert_allclose(scores[targets.index(target)].resamples[row], found[-1], atol=1e-6)
    gap = np.mean([a - b for a, b in zip(means["good"], means["poor"], strict=True)], axis=0)
    found = difference(scores, "good", "poor")["interval_95"]
    np.testing.assert_allclose(found, np.quantile(gap, [0.025, 0.975]), atol=1e-6)
    level = overall(scores, "good")["interval_95"]
    np.testing.assert_allclose(level, np.quantile(np.mean(means["good"], axis=0), [0.025, 0.975]), atol=1e-6)


def together(target: Target, row: str, drawn: Sequence[np.ndarray] | None = None) -> float:
    """Mean over folds of the C-index of the mean standardised risk, on all patients or on those drawn per fold."""
    found = []
    for k, (t, e) in enumerate(target.folds):
        risks = [seed[k] for seed in target.risks[row]]
        risk = sum((one - one.mean()) / one.std() for one in risks)
        d = np.arange(len(t)) if drawn is None else drawn[k]
        found.append(concordance_index_censored(e[d] == 1, t[d], risk[d])[0])
    return fmean(found)


def test_seeds_together_are_the_c_index_of_their_mean_standardised_risk():
    targets, n = [Target("alpha", 1), Target("beta", 20)], 30
    for target in targets:  # the second seed's risk is on another scale, which must not matter
        for seeds in target.risks.values():
            seeds[1] = [100 + 50 * risk for risk in seeds[1]]
    scores = [study_scores(one.name, models_of(one), n) for one in targets]
    gaps = [together(one, "good") - together(one, "poor") for one in targets]
    found = difference(scores, "good", "poor")
    assert found["together"]["difference"] == pytest.approx(fmean(gaps), abs=1e-12)
    assert overall(scores, "good")["together"]["mean"] == pytest.approx(fmean(together(t, "good") for t in targets))
    plain = [target_scores(one.name, one.rows("good", "poor"), n) for one in targets]
    assert {**found, "together": None} == {**difference(plain, "good", "poor"), "together": None}
    drawn = []  # with the same draws as those of the single seeds
    for target in targets:
        rng = np.random.default_rng(zlib.crc32(target.name.encode()))
        counts = [rng.multinomial(len(t), np.full(len(t), 1 / len(t)), size=n) for t, _ in target.folds]
        places = [[np.repeat(np.arange(len(row)), row) for row in fold] for fold in counts]
        drawn.append([together(target, "good", d) - together(target, "poor", d) for d in zip(*places, strict=True)])
    ends = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    np.testing.assert_allclose(found["together"]["interval_95"], ends, atol=1e-6)
    lone = [study_scores(one.name, {row: seeds[:1] for row, seeds in models_of(one).items()}, n) for one in targets]
    assert "together" not in difference(lone, "good", "poor") and "together" not in overall(lone, "good")


def models_of(target: Target) -> dict[str, list[list[Tested]]]:
    return {
        row: [[Tested(risk, *fold) for risk, fold in zip(seed, target.folds, strict=True)] for seed in seeds]
        for row, seeds in target.risks.items()
    }


def test_a_constant_risk_adds_nothing_to_the_others():
    t, e = outcomes(3, 20)
    rising, constant = Tested(np.arange(20.0), t, e), Tested(np.full(20, 7.0), t, e)
    found = study_scores("t", {"both": [[rising], [constant]], "one": [[rising], [rising]]}, 10)
    assert found.together.mean("both") == found.together.mean("one") == rising.pairs.c_index


def test_with_enough_targets_an_interval_resamples_them_too():
    """A loop over resamples: as many targets as there are, with replacement, each with one draw of its patients."""
    targets, n = [Target(f"t{k}", 10 * k) for k in range(8)], 200
    scores = [target.scores(n) for target in targets]
    found = difference(scores, "good", "poor")
    gaps = [one.resamples["good"] - one.resamples["poor"] for one in scores]
    rng, means = np.random.default_rng(0), []
    which, patients = rng.integers(8, size=(8, n)), rng.integers(n, size=(8, n))
    for b in range(n):
        means.append(fmean(gaps[which[k, b]][patients[k, b]] for k in range(8)))
    np.testing.assert_allclose(found["interval_95_targets"], np.quantile(means, [0.025, 0.975]), atol=1e-6)
    (low, high), (low_t, high_t) = found["interval_95"], found["interval_95_targets"]
    assert high_t - low_t > high - low  # targets differ more than patients do
    assert "interval_95_targets" not in difference(scores[:7], "good", "poor")
    # A target without a comparable pair is drawn by none, and does not count among the eight.
    nothing = target_scores("none", {"good": [[NO_PAIR] * 2] * 2, "poor": [[NO_PAIR] * 2] * 2}, n)
    assert difference([nothing, *scores], "good", "poor") == found
    assert "interval_95_targets" not in difference([nothing, *scores[:7]], "good", "poor")


def test_a_row_against_itself_is_exactly_0():
    target = Target("alpha", 7)
    rows = target.rows("good") | {"twin": target.rows("good")["good"]}
    found = difference([target_scores("alpha", rows, 50)], "good", "twin")
    assert found == {
        "difference": 0.0,
        "interval_95": [0.0, 0.0],
        "targets_won": 0,
        "targets": 1,
        "worst_target": 0.0,
        "folds_won": 0,
        "folds": 4,
    }


NO_PAIR = pairs(np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0]), np.array([0, 0, 0]))


def test_folds_without_a_comparable_pair_are_left_out():
    a, b, c = fold_of(1), fold_of(2), fold_of(3)
    gappy = target_scores("t", {"a": [[NO_PAIR, a, NO_PAIR]], "b": [[NO_PAIR, b, NO_PAIR]]}, 50)
    plain = target_scores("t", {"a": [[a]], "b": [[b]]}, 50)
    assert gappy.by_fold["a"] == [[None, a.c_index, None]]
    assert gappy.mean("a") == a.c_index and gappy.sd("a") is None
    np.testing.assert_array_equal(gappy.resamples["a"], plain.resamples["a"])
    assert difference([gappy], "a", "b") == difference([plain], "a", "b")
    seeds = target_scores("t", {"a": [[NO_PAIR, a], [NO_PAIR, c]]}, 50)
    assert seeds.seed_sd("a") == pytest.approx(stdev([a.c_index, c.c_index]))


def test_a_target_without_any_comparable_pair_does_not_count():
    a, b = fold_of(1), fold_of(2)
    nothing = target_scores("t", {"a": [[NO_PAIR]], "b": [[NO_PAIR]]}, 50)
    assert (nothing.mean("a"), nothing.sd("a"), nothing.seed_sd("a")) == (None, None, None)
    plain = target_scores("u", {"a": [[a]], "b": [[b]]}, 50)
    assert difference([nothing, plain], "a", "b") == difference([plain], "a", "b")
    assert overall([nothing, plain], "a") == overall([plain], "a")
    found = difference([nothing], "a", "b")
    assert (found["difference"], found["interval_95"], found["worst_target"]) == (None, None, None)
    assert (found["targets"], found["folds"], found["targets_won"], found["folds_won"]) == (0, 0, 0, 0)
    assert overall([nothing], "a") == {"mean": None, "interval_95": None}
