"""Computes the privacy cost of DP-SGD: epsilon of composed Poisson-sampled Gaussian steps, by Google's dp-accounting.

Two data sets are neighbours if one has exactly one patient more (add or remove). The accountant ``pld`` composes
privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022), rounded towards more loss; ``rdp`` composes
Renyi divergences (Mironov 2017), which give a looser upper bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedsteph.common.errors import ConfigError

Accountant = Literal["pld", "rdp"]
_LEAST_NOISE = 0.25  # below it the accountants take minutes to hours, for no privacy to speak of


@dataclass(frozen=True)
class Mechanism:
    """Parameters of a DP-SGD training that determine its privacy cost; ValueError if one is out of its range."""

    noise: float  # standard deviation of a step's noise, as a multiple of the clipping norm
    sampling_rate: float  # probability that a patient is in a step, independently of all others
    steps: int

    def __post_init__(self) -> None:
        if not (0 < self.noise < float("inf") and 0 < self.sampling_rate <= 1 and self.steps >= 1):
            raise ValueError("noise must be above 0, sampling_rate above 0 and at most 1, steps at least 1")


def default_delta(n_patients: int) -> float:
    """``n^-1.1``, which is slightly less than ``1 / n``."""
    return float(n_patients**-1.1)


def epsilon(mechanisms: Sequence[Mechanism], delta: float, accountant: Accountant = "pld") -> float:
    """Epsilon at ``delta`` of releasing the results of all ``mechanisms`` on the same patients; 0 if there are none."""
    if not mechanisms:
        return 0.0
    with _quiet():
        return float(_composed(mechanisms, accountant).get_epsilon(delta))


def least_noise(
    target: float, delta: float, *, sampling_rate: float, steps: int, accountant: Accountant = "pld"
) -> float:
    """The smallest noise multiplier, to 0.1%, that keeps epsilon at or below ``target``; at least 0.25.

    Raises:
        ConfigError: no noise multiplier below 10,000 is enough.
    """
    import dp_accounting  # noqa: PLC0415 (two seconds to import, and seldom needed)

    def cost(noise: float) -> float:
        return epsilon([Mechanism(noise, sampling_rate, steps)], delta, accountant)

    def event(noise: float) -> Any:
        return _event(Mechanism(noise, sampling_rate, steps))

    high = 1.0
    while cost(high) > target:
        high *= 2.0
        if high > 10_000:
            what = f"epsilon {target:g} at delta {delta:.2g} cannot be kept over {steps} steps"
            raise ConfigError(what, where="dp_sgd", remedy="Allow a larger epsilon, or fewer steps")
    low = high / 2.0
    while cost(low) <= target:
        if low <= _LEAST_NOISE:
            return low
        high, low = low, low / 2.0
    bracket = dp_accounting.ExplicitBracketInterval(low, high)
    with _quiet():
        fresh = _fresher(accountant)
        return float(dp_accounting.calibrate_dp_mechanism(fresh, event, target, delta, bracket, tol=1e-3 * low))


def largest_auc(mechanisms: Sequence[Mechanism]) -> float:
    """Upper bound on the AUC of any membership inference attack on one patient; 0.5 without mechanisms.

    Every point (epsilon, delta) of the privacy curve bounds an attack's true-positive rate by its false-positive rate:
    ``TPR <= e^epsilon FPR + delta`` and, with the roles swapped, ``TPR <= 1 - e^-epsilon (1 - delta - FPR)``
    (Kairouz, Oh and Viswanath, ICML 2015). The result is the area under the lowest of these bounds.
    """
    if not mechanisms:
        return 0.5
    with _quiet():
        budget = _composed(mechanisms, "pld")
        curve = np.array([(e, budget.get_delta(e)) for e in np.linspace(0.0, 30.0, 601)])
    false = np.linspace(0.0, 1.0, 4001)[:, None]
    growth, delta = np.exp(curve[:, 0]), curve[:, 1]
    true = np.minimum(growth * false + delta, 1.0 - (1.0 - delta - false) / growth).min(axis=1).clip(0.0, 1.0)
    return float(np.mean((true[1:] + true[:-1]) / 2))


def _event(one: Mechanism) -> Any:
    import dp_accounting  # noqa: PLC0415

    step = dp_accounting.PoissonSampledDpEvent(one.sampling_rate, dp_accounting.GaussianDpEvent(one.noise))
    return dp_accounting.SelfComposedDpEvent(step, one.steps)


def _composed(mechanisms: Sequence[Mechanism], accountant: Accountant) -> Any:
    found = _fresher(accountant)()
    for mechanism in mechanisms:
        found.compose(_event(mechanism))
    return found


def _fresher(accountant: Accountant) -> Callable[[], Any]:
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    fresh: Callable[[], Any] = PLDAccountant if accountant == "pld" else RdpAccountant
    return fresh


@contextmanager
def _quiet() -> Iterator[None]:
    # dp-accounting warns of every Renyi order that it leaves out; the bound holds without them.
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
