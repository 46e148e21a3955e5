"""The configuration of a crowd: envelopes that do not fit into one delivery, and as little to train as possible."""

from __future__ import annotations

import math

from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.model.initial_model import pin_m0
from fedsteph.common.wire import letters

TARGET = "target"
_EMBED, _ATTENTION = 128, 16
_LEAST_WIDTH, _MOST_WIDTH = 64, 65_536
_DEADLINE_SECONDS = 1800
_SETTINGS = {
    "preset": "null",
    "model.embed": _EMBED,
    "model.attention": _ATTENTION,
    "training.epochs": 1,
    "steph.gamma": 0.0,
    "steph.inner_folds": 2,
    "comparators.methods": "[]",
    "evaluation.folds": 2,
    "evaluation.bootstrap": 10,
    "final.members": 0,
    "federation.name": "crowd",
    "federation.targets": f"[{TARGET}]",
    **{f"federation.deadlines.{phase}": _DEADLINE_SECONDS for phase in ("nodes", "hello", "local", "share", "merge")},
}


def configuration(sources: int) -> Config:
    """A federation of so many sources, whose vectors together take a quarter more than may travel at once."""
    numbers = 1.25 * letters.IN_THE_AIR / sources / 4
    width = min(_MOST_WIDTH, max(_LEAST_WIDTH, math.ceil(numbers / _EMBED) - 2 * _ATTENTION))
    names = [TARGET, *(f"source-{index:05}" for index in range(1, sources + 1))]
    chosen = {**_SETTINGS, "model.width": width, "federation.sites": f"[{','.join(names)}]"}
    return pin_m0(load_config(None, [f"{key}={value}" for key, value in chosen.items()]))
