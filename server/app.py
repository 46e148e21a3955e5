"""Flower ServerApp: reads the run folder's configuration, runs the federation, writes down the outcome."""

from __future__ import annotations

import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import atomic
from common.config import load_config
from common.errors import ConfigError, FedstephError
from common.progress import ProgressLog
from server.federation import Federation

CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.json"
OUTCOME_FILE = "outcome.json"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``run-folder`` describes."""
    run_folder = Path(str(context.run_config.get("run-folder", "")))
    if not run_folder.is_absolute() or not (run_folder / CONFIG_FILE).is_file():
        raise ConfigError(
            "is not the absolute path of a prepared run folder",
            where="run-folder",
            remedy="Make one with 'fedsteph simulate --prepare --out DIR' and pass its absolute path",
        )
    config = load_config(run_folder / CONFIG_FILE)
    run = json.loads((run_folder / MANIFEST_FILE).read_text())["run"]
    folder = run_folder / "server"
    federation = Federation(grid, config, run, ProgressLog(folder, "server").report)
    try:
        federation.run()
    except FedstephError as error:
        federation.outcome.error = str(error)
        raise
    finally:
        atomic.write_json(folder / OUTCOME_FILE, federation.outcome.to_dict())
