"""How a site's shared vector is trained in private: ``dp_sgd`` in ``site.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsteph.client.privacy.accounting import Accountant, Mechanism, default_delta, epsilon, least_noise
from fedsteph.common.errors import ConfigError

MOST_DELTA = 0.05
Part = Literal["direction", "embed", "attention", "encoder"]


@dataclass(frozen=True)
class Guarantee:
    """What one training costs: ``epsilon`` at ``delta``, for adding or removing one patient, and by which mechanism."""

    mechanism: Mechanism
    delta: float
    epsilon: float


@dataclass(frozen=True)
class DpSgd:
    """Of ``epsilon`` and ``noise`` one is given, and the other solved for; the rest was tuned for 200 to 900 patients.

    All slides of a patient are one bag, and one bag's gradient is clipped: the unit of protection is the patient.
    """

    epsilon: float | None = None  # largest epsilon of one vector, at delta; null: follows from noise [0.01 to 100]
    # standard deviation of a step's noise, as a multiple of clip; null: follows from epsilon [0.3 to 10000]
    noise: float | None = None
    delta: float | None = None  # delta of the guarantee; null: n^-1.1 of n training patients [above 0 and at most 0.05]
    # what is trained. direction: one number per feature, along the direction that M0's head reads (the least noise);
    # embed, attention: these layers; encoder: everything
    trains: Part = "direction"
    clip: float = 0.03  # largest L2 norm of one patient's gradient; longer ones are shortened to it [above 0]
    # patients in a step on average, each drawn independently; null: all of them in every step [at least 1]
    batch: int | None = None
    epochs: int = 40  # how often each patient is used on average [1 to 10000]
    # learning rate: length of a step in which all patients' gradients are clipped and point the same way [above 0]
    lr: float = 2.0
    norm: float | None = 2.0  # L2 norm that the vector is scaled to before it leaves; null: not scaled [0.001 to 10000]
    # how the cost is added up. pld: privacy loss distributions; rdp: Renyi divergences, a looser upper bound
    accountant: Accountant = "pld"

    def __post_init__(self) -> None:
        # Beyond these it would be differential privacy by name only, and take minutes to account for.
        for key, low, high in (("epsilon", 0.01, 100), ("noise", 0.3, 10_000), ("norm", 1e-3, 10_000)):
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{key} must be {low:g} to {high:g}, or null")
        if self.epsilon is not None and self.noise is not None:
            raise ValueError("epsilon and noise: give one, the other is solved for")
        if self.delta is not None and not 0 < self.delta <= MOST_DELTA:
            raise ValueError("delta must be above 0 and at most 0.05, or null")
        if min(self.clip, self.lr) <= 0:
            raise ValueError("clip and lr must be above 0")
        if not 1 <= self.epochs <= 10_000:
            raise ValueError("epochs must be 1 to 10000")
        if self.batch is not None and self.batch < 1:
            raise ValueError("batch must be at least 1, or null")

    @property
    def is_chosen(self) -> bool:
        """Whether it says how much privacy is wanted."""
        return self.epsilon is not None or self.noise is not None

    def guarantee(self, n_patients: int) -> Guarantee:
        """What training on so many patients costs; ConfigError if no noise keeps this epsilon, or they are too few."""
        rate = 1.0 if self.batch is None else min(1.0, self.batch / n_patients)
        steps = max(1, round(self.epochs / rate))
        delta = self.delta if self.delta is not None else default_delta(n_patients)
        if delta > MOST_DELTA:
            raise ConfigError(
                f"delta is n^-1.1 where it is not set, and {delta:.2g} for {n_patients} patients: no guarantee at all",
                where="dp_sgd.delta",
                remedy=f"Set it to at most {MOST_DELTA:g}, or train on more patients",
            )
        noise = self.noise
        if self.epsilon is not None:
            noise = least_noise(self.epsilon, delta, sampling_rate=rate, steps=steps, accountant=self.accountant)
        assert noise is not None  # one of the two is given
        mechanism = Mechanism(noise, rate, steps)
        return Guarantee(mechanism, delta, epsilon([mechanism], delta, self.accountant))
