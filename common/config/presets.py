"""Named recipes. Each says all that the other says, so that neither depends on what the defaults happen to be."""

from __future__ import annotations

from typing import Any

_MODEL = {"embed": 512, "attention": 384, "n_bins": 32, "dropout": 0.25, "m0_seed": 42}
_TRAINING = {
    "epochs": 20,
    "min_steps": 0,
    "lr": 1e-4,
    "weight_decay": 1e-5,
    "batch_bags": 16,
    "warmup_epochs": 1,
    "alpha": 0.5,
    "loss": "nll",
}
# Each preset adds K, start, start_lam, start_mass, routing_test, epochs_factor, gamma and gamma_grid.
_STEPH = {
    "variant": "nn",
    "weights": "nn",
    "output": "relu",
    "spread": 0.03,
    "normalise": False,
    "epochs": None,
    "lr": None,
    "beta": 0.05,
    "balance": True,
}

DEFAULT_PRESET = "robust"

PRESETS: dict[str, dict[str, Any]] = {
    # The published recipe (arXiv 2603.10526 and its released code).
    "paper": {
        "model": _MODEL | {"head_bias": "default"},
        "training": _TRAINING | {"drop_last": True},
        "sharing": {"head": "never"},
        "steph": _STEPH
        | {"K": 5, "start": "default", "start_lam": 0.9, "start_mass": 1.0, "routing_test": None, "epochs_factor": 1.0}
        | {"gamma": "cv", "gamma_grid": [0.005, 0.05]},
    },
    # For sites of a few hundred patients: a base model that is not starved, and a merge that begins at an average and
    # has little room to learn a site by heart. Found by inner validation in fold 0's training part
    # (docs/benchmark-appendix.md).
    "robust": {
        "model": _MODEL | {"head_bias": "empirical"},
        "training": _TRAINING | {"loss": "cox", "batch_bags": 64, "lr": 2e-4, "min_steps": 80, "drop_last": False},
        "sharing": {"head": "always"},
        "steph": _STEPH
        | {
            "K": None,
            "start": "local",
            "start_lam": 0.43,
            "start_mass": 1.75,
            "routing_test": 0.005,
            "epochs_factor": 0.5,
        }
        | {"gamma": 0.0, "gamma_grid": [0.0]},
    },
}
