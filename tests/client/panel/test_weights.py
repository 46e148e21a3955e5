"""The panel's weights: what few and many events do to them, against a search without gradients."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from fedsteph.client.panel.held_out import Part
from fedsteph.client.panel.held_out_gain import event_terms, held_out_gain
from fedsteph.client.panel.weights import learned

EXPECTED = np.array([0.2, 0.2, 0.4])


def part(n: int, beta: tuple[float, ...], seed: int = 0) -> Part:
    """Patients whose log hazard is ``beta`` times their scores; a third is censored."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, len(beta)))
    t = rng.exponential(np.exp(-scores @ np.array(beta))) * 1000
    return Part(scores, t, (rng.random(n) < 0.67).astype(np.int64))


def plain_terms(score: np.ndarray, one: Part) -> list[float]:
    """Each event's term, by the definition of Cox's partial likelihood."""
    events = [i for i in np.argsort(-one.times) if one.events[i]]
    return [score[i] - np.log(np.exp(score[one.times >= one.times[i]]).sum()) for i in events]


def test_the_weights_are_those_of_a_plain_search():
    parts, doubt = [part(40, (0.8, 0.0, -0.2), seed) for seed in range(3)], 0.1

    def objective(a: np.ndarray) -> float:
        return -sum(sum(plain_terms(one.scores @ a, one)) for one in parts) + ((a - EXPECTED) ** 2).sum() / 2 / doubt**2

    found = minimize(objective, EXPECTED, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).x
    together = [Part(one.scores @ found[:, None], one.times, one.events) for one in parts]

    def scaled(factor: np.ndarray) -> float:
        return -sum(sum(plain_terms(one.scores @ factor, one)) for one in together) + ((factor[0] - 1) ** 2) / 2

    factor = minimize(scaled, [1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).x
    assert np.allclose(learned(parts, EXPECTED, doubt), found * factor, atol=1e-4)


def test_few_events_leave_what_is_expected_and_many_overrule_it():
    def direction(parts: list[Part], doubt: float = 0.1) -> np.ndarray:
        a = learned(parts, EXPECTED, doubt)
        return a / np.linalg.norm(a)

    expected = EXPECTED / np.linalg.norm(EXPECTED)
    few, many = [part(8, (1.0, 0.0, 0.0))], [part(2000, (1.0, 0.0, 0.0))]
    assert direction(few) @ expected > 0.97
    assert direction(many)[0] > 0.97
    assert np.allclose(direction(many, doubt=0.0), expected), "without doubt, nothing is learned but the scale"
    nobody = [Part(np.zeros((4, 3)), np.arange(1.0, 5.0), np.zeros(4, dtype=np.int64))]
    assert np.allclose(learned(nobody, EXPECTED, 0.1), EXPECTED)


def test_event_terms_are_those_of_the_definition_with_ties():
    one = part(50, (0.5, 0.0))
    score = one.scores[:, 0]
    assert np.allclose(sorted(event_terms(score, one)), sorted(plain_terms(score, one)))
    tied = Part(one.scores[:2], np.array([5.0, 5.0]), np.array([1, 0]))
    assert np.allclose(event_terms(score[:2], tied), score[0] - np.logaddexp(score[0], score[1])), "still at risk"


def test_no_patient_has_a_say_in_the_weights_that_are_tested_on_it():
    parts = [part(40, (0.6, 0.0, 0.0), seed) for seed in range(3)]
    found = held_out_gain(parts, EXPECTED, 0.1, local=1)
    changed = [Part(-parts[0].scores, parts[0].times, parts[0].events), *parts[1:]]
    again = held_out_gain(changed, EXPECTED, 0.1, local=1)
    assert np.array_equal(found.weights[0], again.weights[0]) and not np.allclose(found.weights[1], again.weights[1])
    assert found.nats > found.error > 0, "the local model is pure chance here"
    twice = held_out_gain([*parts, *parts], EXPECTED, 0.1, local=1, repeats=2)
    assert np.isclose(twice.nats, found.nats) and np.isclose(twice.error, found.error, rtol=0.05), "no new evidence"
