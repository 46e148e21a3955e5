"""The manifest of a run: what it is called, what it was made of, and where the server's audit log is."""

from __future__ import annotations

import platform
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.config import Config, digest
from common.roster import Roster

CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.json"
_PACKAGES = ("fedsteph", "torch", "flwr", "cryptography", "safetensors", "numpy", "h5py", "pandas")


def manifest(config: Config, roster: Roster, audit: Path) -> dict[str, Any]:
    """A new run's manifest, JSON-ready.

    Args:
        audit: folder of the server's audit log.
    """
    return {
        "schema": "fedsteph/manifest/v1",
        "run": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "audit": str(audit.resolve()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "digests": {
            "config": digest(config),
            "recipe": digest(config.recipe),
            "m0": config.model.m0_sha256,
            "roster": roster.digest,
        },
        "seeds": {
            "m0": config.model.m0_seed,
            "training": config.training.seed,
            "splits": config.evaluation.split_seed,
        },
    }
