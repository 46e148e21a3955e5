"""Makes the manifest of a run: its name, versions, digests and seeds, and the folder of the server's audit log.

Beside it, in a deployment, lies the name that Flower gave to the same run.
"""

from __future__ import annotations

import platform
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsteph.common.config.digest import digest
from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import ConfigError, RunFolderError
from fedsteph.common.host.checked_file import read_json, write_json
from fedsteph.common.trust.roster import Roster
from fedsteph.common.wire.letters import MOST_ENVELOPE_BYTES, MOST_LETTERS, most_bytes

DRAIN_FILE = "drain"  # in a run folder: the coordinator wants the run to end before its next phase
CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.json"
FLOWER_FILE = "flower.json"
_PACKAGES = ("fedsteph", "torch", "flwr", "cryptography", "safetensors", "numpy", "h5py", "pandas")


def manifest(config: Config, roster: Roster, audit: Path, run: str | None = None) -> dict[str, Any]:
    """A new run's manifest, JSON-ready. Raises ConfigError if a message would be too large to be read.

    ``run``: its name in messages and audit logs, which is its folder's in a deployment; None: a random one.
    """
    _require_messages_that_fit(config)
    return {
        "schema": "fedsteph/manifest/v1",
        "run": run or uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "audit": str(audit.resolve()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "digests": {
            "config": digest(config),
            "recipe": digest(config.recipe),
            "m0": config.model.m0_sha256,
            "roster": roster.digest,
        },
        "seeds": {"m0": config.model.m0_seed, "training": config.training.seed, "splits": config.evaluation.split_seed},
    }


def read_manifest(run_folder: Path) -> dict[str, Any]:
    """The manifest in a run folder. Raises RunFolderError if it is damaged."""
    remedy = "Restore it from a backup, or begin a new run in another folder"
    found = read_json(run_folder / MANIFEST_FILE, RunFolderError, remedy)
    if not isinstance(found.get("digests"), dict) or not {"run", "audit", "versions", "seeds"} <= found.keys():
        raise RunFolderError("is damaged", where=run_folder / MANIFEST_FILE, remedy=remedy)
    return found


def write_flower_run(run_folder: Path, run_id: str) -> None:
    """Note under which id Flower lists the run (``flwr ls``)."""
    write_json(run_folder / FLOWER_FILE, {"run_id": run_id})


def read_flower_run(run_folder: Path) -> str | None:
    """Flower's id of a run; None: none was noted. Raises RunFolderError if the note is damaged."""
    path = run_folder / FLOWER_FILE
    if not path.exists():
        return None
    return str(read_json(path, RunFolderError, "Remove it; 'flwr ls' tells the id")["run_id"])


def _require_messages_that_fit(config: Config) -> None:
    """Checked before any training: a merge names the vectors of all other sites, and a vector travels in one piece."""
    n_vectors, n_bytes = len(config.federation.sites) - 1, most_bytes(config.model, config.sharing)
    if n_vectors > MOST_LETTERS:
        what = f"a target would merge {n_vectors} vectors, and can merge {MOST_LETTERS} at most"
        raise ConfigError(what, where="federation.sites", remedy="Let fewer sites take part in one run")
    if n_bytes > MOST_ENVELOPE_BYTES:
        what = f"a vector takes up to {n_bytes >> 20} MiB, and {MOST_ENVELOPE_BYTES >> 20} MiB can travel"
        raise ConfigError(what, where="sharing", remedy="Share less (the sharing section), or make the model smaller")
