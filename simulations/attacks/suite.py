"""The attacks by name: each computes the vector that a malicious source sends instead of its honest one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedsteph.client.screening.likeness import LONGEST
from fedsteph.client.training.loop import derive_seed
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.attacks import vectors

_JUST_BELOW = 0.97  # fraction of the screening's norm bound, which is public


@dataclass(frozen=True)
class Knowledge:
    """The knowledge of the malicious sources, who cooperate."""

    honest: Mapping[str, TaskVector]  # of every source
    malicious: tuple[str, ...]
    target: TaskVector  # the one that the target shared with its recipients
    backdoored: Callable[[str], TaskVector]  # of a malicious source, trained with the trigger

    @property
    def unsuspicious(self) -> float:
        """An L2 norm just below the largest that the screening accepts."""
        return _JUST_BELOW * LONGEST * float(np.median([vector.norm for vector in self.honest.values()]))


@dataclass(frozen=True)
class Attack:
    """An attack: its title, and the function that makes a malicious source's vector from its name and knowledge."""

    title: str
    poison: Callable[[str, Knowledge], TaskVector]
    has_trigger: bool = False

    def sent(self, known: Knowledge) -> dict[str, TaskVector]:
        """Source -> the vector that the target receives from it."""
        return {
            name: self.poison(name, known) if name in known.malicious else vector
            for name, vector in known.honest.items()
        }


def _seed(name: str) -> int:
    return derive_seed(0, "attack", name)


def _scaled_backdoor(name: str, known: Knowledge) -> TaskVector:
    # Model replacement (Bagdasaryan et al., AISTATS 2020): scaled so that the mean of all vectors is the backdoor's.
    return (len(known.honest) / len(known.malicious)) * known.backdoored(name)


ATTACKS: dict[str, Attack] = {
    "sign_flip": Attack("sign flip", lambda name, known: vectors.sign_flip(known.honest[name])),
    "times_10": Attack("x10", lambda name, known: vectors.boosted(known.honest[name])),
    "minus_times_10": Attack(
        "sign flip x10", lambda name, known: vectors.sign_flip(vectors.boosted(known.honest[name]))
    ),
    "random": Attack(
        "random direction, honest norm", lambda name, known: vectors.random_direction(known.honest[name], _seed(name))
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
