"""Metrics against scikit-survival on random cohorts, calibration against its Kaplan-Meier curve, and no number."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from each_case import each
from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc, integrated_brier_score
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.evaluation.metrics import METRICS, YEARS, Metrics, further_metrics, mean_metrics

N_BINS = 12


def cohort_of(t: np.ndarray, e: np.ndarray) -> Cohort:
    patients = [Patient(f"P{i}", float(days), int(event), ()) for i, (days, event) in enumerate(zip(t, e, strict=True))]
    return Cohort.of_bags(patients, [torch.zeros(1, 1)] * len(patients))


def drawn(n: int, rng: np.random.Generator, *, days: float = 1500, step: float = 0) -> Cohort:
    """Censored at random; ``step`` rounds the days, as registries do, so that times tie and meet the ends of years."""
    t = rng.exponential(days, n) + 1
    if step:
        t = np.ceil(t / step) * step
        t[0] = 1
    return cohort_of(t, rng.random(n) < 0.55)


def surv(cohort: Cohort):
    return Surv.from_arrays(cohort.events > 0, cohort.times)


def curves_of(hazards: np.ndarray) -> np.ndarray:
    return np.cumprod(1 - hazards, axis=1)


def reference(hazards: np.ndarray, test: Cohort, train: Cohort) -> Metrics:
    """The same by scikit-survival, for cohorts with long enough follow-up."""
    curves, y_train, y_test = curves_of(hazards), surv(train), surv(test)
    horizon = min(test.times.max(), train.times.max())
    years = [year for year in range(1, N_BINS + 1) if test.times.min() < 365 * year < horizon]
    at = [365.0 * year for year in years]
    auc = {
        f"auc_{year}y": float(cumulative_dynamic_auc(y_train, y_test, 1 - curves[:, year - 1], [365.0 * year])[0][0])
        for year in YEARS
    }
    return Metrics(
        uno_c=float(concordance_index_ipcw(y_train, y_test, -curves.sum(axis=1), tau=horizon)[0]),
        brier=float(integrated_brier_score(y_train, y_test, curves[:, [year - 1 for year in years]], at)),
        **auc,
    )


def event_after_all(cohort: Cohort) -> Cohort:
    """scikit-survival wants the training patients followed as long as the test patients: one more is, to an event."""
    return cohort_of(np.append(cohort.times, 30_000.0), np.append(cohort.events, 1))


@each("step", [0, 30, 365])
@each("seed", range(4))
def test_metrics_equal_scikit_survival(seed, step):
    rng = np.random.default_rng(100 * seed + step)
    train, test = event_after_all(drawn(90, rng, step=step)), drawn(40, rng, step=step)
    hazards = rng.uniform(0.02, 0.3, (40, N_BINS))
    hazards[:10] = hazards[10:20]  # equal risks
    found, expected = asdict(further_metrics(hazards, test, train)), asdict(reference(hazards, test, train))
    for name in ("uno_c", "brier", "auc_1y", "auc_3y", "auc_5y"):
        assert found[name] == pytest.approx(expected[name], abs=2e-6), name


def test_close_risks_are_told_apart_and_equal_ones_are_not():
    """Risks that are one in float32: Uno's C still sees their order."""
    rng = np.random.default_rng(8)
    train, test = event_after_all(drawn(60, rng)), drawn(30, rng)
    order = np.argsort(np.argsort(test.times))
    hazards = np.full((30, N_BINS), 0.1) - 1e-12 * order[:, None]  # who dies earlier has a very little more hazard
    assert len({*(curves_of(hazards).sum(axis=1)).astype(np.float32)}) == 1
    assert further_metrics(hazards, test, train).uno_c == pytest.approx(1.0, abs=1e-6)
    turned = np.full((30, N_BINS), 0.1) + 1e-12 * order[:, None]
    assert further_metrics(turned, test, train).uno_c == pytest.approx(0.0, abs=1e-6)
    assert further_metrics(np.full((30, N_BINS), 0.1), test, train).uno_c == pytest.approx(0.5, abs=1e-6)


def test_a_perfect_and_an_inverted_ranking():
    rng = np.random.default_rng(9)
    train, test = event_after_all(drawn(60, rng)), drawn(30, rng)
    hazards = np.tile(np.clip(300 / (300 + test.times), 0.01, 0.95)[:, None], (1, N_BINS))
    best, worst = further_metrics(hazards, test, train), further_metrics(1 - hazards, test, train)
    for name in ("uno_c", "auc_1y", "auc_3y", "auc_5y"):
        assert getattr(best, name) == pytest.approx(1.0, abs=1e-6)
        assert getattr(worst, name) == pytest.approx(0.0, abs=1e-6)
    assert best.brier < worst.brier


def test_censoring_is_weighed_by_the_training_patients():
    """Their order does not matter, but who they are does."""
    rng = np.random.default_rng(3)
    train, test = event_after_all(drawn(60, rng)), drawn(40, rng)
    hazards = rng.uniform(0.02, 0.3, (40, N_BINS))
    found = further_metrics(hazards, test, train)
    turned = further_metrics(hazards, test, cohort_of(train.times[::-1], train.events[::-1]))
    assert asdict(turned) == pytest.approx(asdict(found), abs=1e-6)
    other = further_metrics(hazards, test, event_after_all(drawn(60, np.random.default_rng(4), days=700)))
    for name in ("uno_c", "brier", "auc_3y", "auc_5y"):
        assert abs(getattr(other, name) - getattr(found, name)) > 1e-5
    assert other.calibration_gap_3y == found.calibration_gap_3y


def observed_at_3_years(cohort: Cohort) -> float:
    times, alive = kaplan_meier_estimator(cohort.events > 0, cohort.times)
    before = alive[times <= 3 * 365]
    return 1 - float(before[-1]) if len(before) else 0.0


@each("n", [8, 41, 100])
def test_calibration_by_hand(n):
    rng = np.random.default_rng(n)
    train = event_after_all(drawn(60, rng))
    cohort = drawn(n - 1, rng)
    test = cohort_of(np.append(cohort.times, 5000.0), np.append(cohort.events, 0))
    hazards = rng.uniform(0.02, 0.3, (n, N_BINS))
    predicted = 1 - curves_of(hazards)[:, 2]
    groups = np.array_split(np.argsort(predicted, kind="stable"), 4)
    gaps = [
        predicted[group].mean() - observed_at_3_years(cohort_of(test.times[group], test.events[group]))
        for group in groups
    ]
    found = further_metrics(hazards, test, train)
    assert found.calibration_gap_3y == pytest.approx(predicted.mean() - observed_at_3_years(test), abs=1e-6)
    assert found.calibration_error_3y == pytest.approx(np.abs(gaps).mean(), abs=1e-6)


def test_four_groups_by_hand():
    """Two patients in each group: predicted 0.1, 0.2, 0.3, 0.4; dead within 3 years 0, 1 of 2, 1 of 2, 2 of 2."""
    predicted = np.repeat([0.1, 0.2, 0.3, 0.4], 2)
    hazards = np.zeros((8, N_BINS))
    hazards[:, 1] = predicted  # all of it in the second year
    t = np.array([2000, 2000, 500, 2000, 2000, 1000, 100, 1095], dtype=float)  # day 1095 is still within 3 years
    test = cohort_of(t, t < 1100)
    train = event_after_all(drawn(60, np.random.default_rng(0)))
    found = further_metrics(hazards, test, train)
    assert found.calibration_gap_3y == pytest.approx(0.25 - 0.5, abs=1e-6)
    assert found.calibration_error_3y == pytest.approx((0.1 + 0.3 + 0.2 + 0.6) / 4, abs=1e-6)


def test_the_true_hazards_are_calibrated_and_others_are_not():
    """2500 patients whose lives were drawn from their own hazards, censored at random."""
    rng = np.random.default_rng(1)
    n = 2500
    hazards = np.clip(0.12 * np.exp(rng.normal(scale=0.8, size=(n, 1))) * np.ones((1, N_BINS)), 0.01, 0.8)
    dies = rng.random((n, N_BINS)) < hazards
    year = np.where(dies.any(axis=1), dies.argmax(axis=1), N_BINS)
    death = 365 * (year + rng.uniform(0, 1, n))
    censoring = rng.uniform(0, 365 * N_BINS, n)
    test = cohort_of(np.minimum(death, censoring) + 0.01, (death <= censoring) & (year < N_BINS))
    train = event_after_all(drawn(200, rng, days=2000))
    true = further_metrics(hazards, test, train)
    assert abs(true.calibration_gap_3y) < 0.02 and true.calibration_error_3y < 0.03
    too_high, too_low = (further_metrics(np.clip(by * hazards, 0, 0.95), test, train) for by in (1.5, 0.6))
    assert too_high.calibration_gap_3y > 0.07 and too_low.calibration_gap_3y < -0.07
    mixed_up = further_metrics(rng.permutation(hazards), test, train)
    assert abs(mixed_up.calibration_gap_3y) < 0.02 and mixed_up.calibration_error_3y > 0.1
    assert true.brier < min(too_high.brier, too_low.brier, mixed_up.brier)


def hazards_for(cohort: Cohort, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.02, 0.3, (len(cohort), N_BINS))


TRAIN = event_after_all(drawn(80, np.random.default_rng(0)))


def metrics_of(t, e, train: Cohort = TRAIN) -> Metrics:
    test = cohort_of(np.array(t, dtype=float), np.array(e))
    return further_metrics(hazards_for(test), test, train)


def test_nothing_is_told_without_an_event_or_of_one_patient():
    long = np.linspace(100, 4000, 12)
    assert metrics_of(long, np.zeros(12)) == Metrics() and metrics_of([400], [1]) == Metrics()
    assert metrics_of(long, np.ones(12)) != Metrics()


def test_a_training_part_in_which_nobody_is_censored():
    """Nothing is told, as the code has it: there is no censoring curve."""
    everyone_dies = cohort_of(np.linspace(100, 4000, 30), np.ones(30))
    assert metrics_of(np.linspace(100, 4000, 12), np.ones(12), everyone_dies) == Metrics()


@each(("last", "known"), [(300, 0), (360, 0), (1000, 1), (1094, 1), (1096, 3), (1800, 3), (1826, 5), (4000, 5)])
@each("short", ["test", "train"])
def test_no_metric_beyond_the_follow_up(last, known, short):
    """Of the test patients, or of the training patients, whose censoring curve ends there."""
    t, e = np.linspace(20, last, 24), np.arange(24) % 3 > 0
    test = cohort_of(t, e) if short == "test" else cohort_of(np.linspace(20, 4100, 24), e)
    train = TRAIN if short == "test" else cohort_of(np.append(t, last), np.append(e, 1))
    found = further_metrics(hazards_for(test), test, train)
    for year in YEARS:
        assert (getattr(found, f"auc_{year}y") is not None) == (year <= known), year
    assert (found.calibration_gap_3y is not None) == (found.calibration_error_3y is not None) == (known >= 3)
    assert (found.brier is not None) == (last > 2 * 365) and found.uno_c is not None


@pytest.mark.parametrize("n_bins", [1, 3, 5])
def test_a_model_of_few_years_has_no_metric_of_later_ones(n_bins):
    rng = np.random.default_rng(3)
    test, train, hazards = drawn(60, rng), drawn(60, rng), rng.uniform(0.05, 0.3, (60, N_BINS))
    found, whole = further_metrics(hazards[:, :n_bins], test, train), further_metrics(hazards, test, train)
    for year in YEARS:
        assert getattr(found, f"auc_{year}y") == (getattr(whole, f"auc_{year}y") if year <= n_bins else None)
    gap, error = (whole.calibration_gap_3y, whole.calibration_error_3y) if n_bins >= 3 else (None, None)
    assert (found.calibration_gap_3y, found.calibration_error_3y) == (gap, error)


def test_an_auc_needs_an_event_before_it_and_a_survivor_after_it():
    t = np.linspace(400, 3000, 20)
    found = metrics_of(t, np.ones(20))
    assert found.auc_1y is None and found.auc_3y is not None and found.auc_5y is not None
    late = metrics_of(t, t > 1500)
    assert late.auc_3y is None and late.auc_5y is not None


def test_seven_patients_are_too_few_for_four_groups():
    t = np.linspace(100, 4000, 7)
    found = metrics_of(t, np.ones(7))
    assert found.calibration_gap_3y is None and found.calibration_error_3y is None and found.uno_c is not None


def test_a_training_part_whose_last_patient_is_censored_ends_the_weights_before_that():
    """From that day on the censoring curve is 0; the metrics up to it are defined and finite."""
    t = np.linspace(50, 3000, 40)
    train = cohort_of(t, np.arange(40) % 2)  # the last one has an event
    cut = cohort_of(np.append(t, 3001.0), np.append(np.arange(40) % 2, 0))
    for part in (train, cut):
        found = metrics_of(np.linspace(60, 4000, 24), np.ones(24), part)
        assert all(value is not None and np.isfinite(value) for value in asdict(found).values())
        assert 0 <= found.uno_c <= 1 and 0 <= found.brier <= 1


def test_every_number_is_finite_on_small_folds():
    """Hundreds of tiny folds: each metric is None or a number in its range."""
    rng = np.random.default_rng(77)
    seen = {name: [0, 0] for name in METRICS}
    for _ in range(60):
        test, train = drawn(int(rng.integers(2, 12)), rng, days=900), drawn(int(rng.integers(2, 20)), rng, days=900)
        found = asdict(further_metrics(hazards_for(test, int(rng.integers(1000))), test, train))
        for name, value in found.items():
            seen[name][value is not None] += 1
            if value is not None:
                assert (-1 if name == "calibration_gap_3y" else 0) <= value <= (2 if name == "brier" else 1), name
    assert all(none > 0 and some > 0 for none, some in seen.values())


def test_means_are_over_the_folds_in_which_a_metric_is_defined():
    folds = [Metrics(uno_c=0.6, auc_3y=0.5), replace(Metrics(), uno_c=0.8), Metrics()]
    found = mean_metrics(folds)
    assert tuple(found) == METRICS and found["uno_c"] == pytest.approx(0.7) and found["auc_3y"] == 0.5
    assert {name for name, value in found.items() if value is None} == {*METRICS} - {"uno_c", "auc_3y"}
    assert mean_metrics([Metrics()]) == dict.fromkeys(METRICS)
