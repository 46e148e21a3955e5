"""Epsilon and noise against Opacus' accountants and published values."""

from __future__ import annotations

import math

import pytest
from each_case import each
from opacus.accountants import PRVAccountant, RDPAccountant

from fedsteph.client.privacy.accounting import Mechanism, default_delta, epsilon, largest_auc, least_noise
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.common.errors import ConfigError

KNOWN = Mechanism(1.5, 0.04, 2250)


def opacus_rdp(mechanisms: list[Mechanism], delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = [(m.noise, m.sampling_rate, m.steps) for m in mechanisms]
    return accountant.get_epsilon(delta)


def test_known_answers() -> None:
    assert epsilon([KNOWN], 1e-5, "rdp") == pytest.approx(7.32911117, rel=1e-4)
    assert epsilon([KNOWN], 1e-5) == pytest.approx(6.7774, rel=2e-3)


@each(
    ("n", "noise", "expected"),
    [(300, 1, 5.30), (300, 2, 1.68), (300, 4, 0.68), (900, 1, 3.02), (900, 2, 1.00), (900, 4, 0.42)],
)
def test_twenty_epochs_of_batches_of_sixteen(n: int, noise: float, expected: float) -> None:
    mechanism = Mechanism(noise, 16 / n, round(20 * n / 16))
    assert round(epsilon([mechanism], default_delta(n), "rdp"), 2) == expected
    assert epsilon([mechanism], default_delta(n), "rdp") == pytest.approx(opacus_rdp([mechanism], n**-1.1), rel=2e-3)


def test_unlike_trainings_add_up_as_in_opacus() -> None:
    mixed = [Mechanism(2.0, 0.1, 50), Mechanism(4.0, 1.0, 5), Mechanism(1.5, 0.04, 200)]
    together = epsilon(mixed, 1e-4, "rdp")
    assert together == pytest.approx(opacus_rdp(mixed, 1e-4), rel=2e-3)
    assert max(epsilon([one], 1e-4, "rdp") for one in mixed) < together
    assert together < sum(epsilon([one], 1e-4, "rdp") for one in mixed)
    prv = PRVAccountant()
    prv.history = [(m.noise, m.sampling_rate, m.steps) for m in mixed]
    assert epsilon(mixed, 1e-4) == pytest.approx(prv.get_epsilon(1e-4), rel=1e-2) and epsilon(mixed, 1e-4) < together


def test_one_gaussian_step_is_the_analytic_gaussian_mechanism() -> None:
    # Balle and Wang (ICML 2018): delta = Phi(1/2s - eps s) - e^eps Phi(-1/2s - eps s)
    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    s, delta = 2.0, 1e-3
    found = epsilon([Mechanism(s, 1.0, 1)], delta)
    exact = phi(0.5 / s - found * s) - math.exp(found) * phi(-0.5 / s - found * s)
    assert exact == pytest.approx(delta, rel=1e-2)
    assert exact <= delta  # never less private than it says


@each(
    ("accountant", "rate", "steps", "target"),
    [("pld", 1.0, 40, 1.0), ("rdp", 1.0, 20, 1.0), ("rdp", 0.1, 100, 8.0), ("rdp", 1.0, 1, 0.05)],
)
def test_the_least_noise_keeps_epsilon_and_no_less_does(accountant, rate, steps, target) -> None:
    found = least_noise(target, 1e-3, sampling_rate=rate, steps=steps, accountant=accountant)
    assert epsilon([Mechanism(found, rate, steps)], 1e-3, accountant) <= target
    assert epsilon([Mechanism(0.99 * found, rate, steps)], 1e-3, accountant) > target


def test_an_epsilon_that_no_noise_keeps() -> None:
    with pytest.raises(ConfigError, match=r"cannot be kept over 10000 steps"):
        least_noise(1e-4, 1e-9, sampling_rate=1.0, steps=10_000, accountant="rdp")


@each(("noise", "steps"), [(2.0, 1), (12.0, 40)])
def test_no_attack_does_better_than_on_two_gaussians(noise: float, steps: int) -> None:
    # Dong, Roth and Su (2022): full steps are as hard to tell as N(0, 1) from N(mu, 1) with mu = sqrt(steps) / noise.
    mu = math.sqrt(steps) / noise
    exact = 0.5 * math.erfc(-mu / 2)
    found = largest_auc([Mechanism(noise, 1.0, steps)])
    assert exact <= found == pytest.approx(exact, abs=2e-3) and largest_auc([Mechanism(noise, 0.1, steps)]) < found
    assert largest_auc([]) == 0.5


def test_nothing_costs_nothing_and_no_noise_is_no_mechanism() -> None:
    assert epsilon([], 1e-3) == 0.0
    for noise, rate, steps in ((0.0, 0.1, 1), (math.inf, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 0.1, 0)):
        with pytest.raises(ValueError, match="noise must be"):
            Mechanism(noise, rate, steps)


def test_a_delta_above_5_percent_is_refused_whatever_its_origin() -> None:
    """n^-1.1 of a few patients is 0.065 and more: the guarantee would hold for hardly anybody."""
    for patients in (1, 2, 12, 15):
        for settings in (DpSgd(noise=2.0), DpSgd(epsilon=8.0)):
            with pytest.raises(ConfigError, match=rf"delta .* for {patients} patients") as caught:
                settings.guarantee(patients)
            assert "at most 0.05" in str(caught.value.remedy)
    with pytest.raises(ValueError, match=r"at most 0\.05"):
        DpSgd(noise=2.0, delta=0.0501)
    assert DpSgd(noise=2.0).guarantee(16).delta == pytest.approx(16**-1.1)


def test_one_patient_and_a_generous_epsilon_end_the_search() -> None:
    assert DpSgd(epsilon=8.0, delta=0.05, epochs=80).guarantee(1).epsilon <= 8.0
    found = DpSgd(epsilon=100.0, delta=0.05, epochs=1, accountant="rdp").guarantee(1)
    assert found.mechanism.noise == 0.25 and found.epsilon <= 100.0
