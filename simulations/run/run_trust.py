"""Finds the results of a run, a site or a model, and whether their enhanced models can be trusted."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from fedsteph.client.site.site import Site
from fedsteph.client.site.site_file import SITE_FILE
from fedsteph.client.target.enhance import RESULT_FILE
from fedsteph.client.target.target_result import TargetResult
from fedsteph.client.target.trust import Trust
from fedsteph.common.errors import RunFolderError
from fedsteph.common.host.checked_file import read_json
from fedsteph.simulations.run.run_results import RESULTS_FILE, SCHEMA, RunResults

_ABOVE = 4  # folders between a model and the state folder in which it lies, at most


def trust_in(path: Path) -> dict[str, Trust]:
    """Trust by target.

    Args:
        path: a simulated run's folder, a target's state folder, a site's folder or site file, or a model file in a
            state folder.

    Raises:
        RunFolderError: there is no result of a merge.
        ModelFileError: the result is damaged, or of an earlier version.
        ConfigError: the site file cannot be used.
    """
    path = path.resolve()
    run = path / RESULTS_FILE
    if run.is_file():
        if read_json(run).get("schema") != SCHEMA:
            remedy = "Give the folder of 'fedsteph simulate', or a target site; a benchmark's page has its intervals"
            raise RunFolderError("is not the result of a simulated run", where=run, remedy=remedy)
        return {name: result.trust for name, result in RunResults.read(run).targets.items()}
    name, state = _state(path)
    if not (state / RESULT_FILE).is_file():
        remedy = "Give a run's folder, a target's state folder or site.yaml, or a model in its state folder"
        raise RunFolderError("holds no result of a merge", where=path, remedy=remedy)
    return {name: TargetResult.read(state / RESULT_FILE).trust}


def _state(path: Path) -> tuple[str, Path]:
    """A name for what is at the path, and its state folder."""
    if path.is_file() and path.suffix == ".safetensors":
        # Not its own folder: what lies beside a result is a model of all patients, which no result is of.
        above = (folder for folder in islice(path.parents, 1, _ABOVE) if (folder / RESULT_FILE).is_file())
        state = next(above, path)
        return state.name, state
    if path.is_file() or (path / SITE_FILE).exists() or (path / "labels.csv").exists():
        site = Site.open(path)
        return site.name, site.state
    return path.name, path
