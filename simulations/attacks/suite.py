"""The attacks by name: what the malicious sources of a federation send in the place of their honest vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedsteph.client.screening.likeness import LONGEST
from fedsteph.client.training.loop import derive_seed
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.attacks import vectors

_JUST_BELOW = 0.97  # of the bound on norms, which everybody can read


@dataclass(frozen=True)
class Knowledge:
    """What the malicious sources know, all of them together.

    Args:
        honest: every source's honest vector, by name.
        malicious: those of them who attack.
        target: the vector that the target shared with its recipients.
        backdoored: gives the vector of a malicious source that was trained with the trigger.
    """

    honest: Mapping[str, TaskVector]
    malicious: tuple[str, ...]
    target: TaskVector
    backdoored: Callable[[str], TaskVector]

    @property
    def unsuspicious(self) -> float:
        """The largest norm that the screening lets pass."""
        return _JUST_BELOW * LONGEST * float(np.median([vector.norm for vector in self.honest.values()]))


@dataclass(frozen=True)
class Attack:
    """One attack: a title, and what one malicious source sends."""

    title: str
    poison: Callable[[str, Knowledge], TaskVector]
    has_trigger: bool = False

    def sent(self, known: Knowledge) -> dict[str, TaskVector]:
        """What the target receives, by source."""
        return {
            name: self.poison(name, known) if name in known.malicious else vector
            for name, vector in known.honest.items()
        }


def _seed(name: str) -> int:
    return derive_seed(0, "attack", name)


def _scaled_backdoor(name: str, known: Knowledge) -> TaskVector:
    # Model replacement (Bagdasaryan et al., AISTATS 2020): the mean of all is the backdoored vector.
    return (len(known.honest) / len(known.malicious)) * known.backdoored(name)


ATTACKS: dict[str, Attack] = {
    "sign_flip": Attack("sign flip", lambda name, known: vectors.sign_flip(known.honest[name])),
    "times_10": Attack("x10", lambda name, known: vectors.boosted(known.honest[name])),
    "minus_times_10": Attack(
        "sign flip x10", lambda name, known: vectors.sign_flip(vectors.boosted(known.honest[name]))
    ),
    "random": Attack(
        "random direction, honest norm",
        lambda name, known: vectors.random_direction(known.honest[name], _seed(name)),
    ),
    "noise": Attack("noise, 10 times the norm", lambda name, known: vectors.noise(known.honest[name], _seed(name))),
    "copy": Attack("copy of the target's vector", lambda name, known: known.target),
    "backdoor": Attack("backdoor", lambda name, known: known.backdoored(name), has_trigger=True),
    "backdoor_scaled": Attack("backdoor, scaled to replace the mean", _scaled_backdoor, has_trigger=True),
    "adaptive": Attack(
        "adaptive: half flipped, norm just below the bound",
        lambda name, known: vectors.of_norm(
            vectors.flipped_in_part(known.honest[name], -0.5, _seed(name)), known.unsuspicious
        ),
    ),
    "adaptive_backdoor": Attack(
        "adaptive: backdoor, norm just below the bound",
        lambda name, known: vectors.of_norm(known.backdoored(name), known.unsuspicious),
        has_trigger=True,
    ),
}
