"""Which site a Flower node serves: a real one's, or one of a simulated run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsteph.client.site.membership import MembershipFile
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import TENSORBOARD, Site
from fedsteph.common.errors import ConfigError, RunFolderError
from fedsteph.common.host.checked_file import read_json, tell_of_old_files, write_json
from fedsteph.common.trust.roster import FILE as ROSTER_FILE

SIMULATED_SITES = "sites.json"
M0_FILE = "m0.safetensors"  # in a run's folder, if M0 is a file: the copy that all simulated sites read
TENSORBOARD_ON = ".tensorboard"  # in a run's folder: write it in this run


def site_of_node(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Site:
    """The site that a Flower node serves.

    A real node names its site file in its own node config (``site-config``). A simulated one has a
    ``partition-id`` and finds its folder in the run folder's ``sites.json``; the run config, which comes from
    the coordinator, is looked at in that case only.

    Raises:
        ConfigError: neither, or no such site.
    """
    if "site-config" in node_config:
        path = Path(str(node_config["site-config"]))
        if not path.is_file():
            raise ConfigError("there is no such site file", where=path, remedy="Mend site-config of this SuperNode")
        return Site.open(path)
    run_folder, index = Path(str(run_config.get("run-folder", ""))), node_config.get("partition-id")
    if not isinstance(index, int) or not run_folder.is_absolute() or not (run_folder / SIMULATED_SITES).is_file():
        raise ConfigError(
            "the node does not know its site",
            where="node config",
            remedy="Start the SuperNode with --node-config 'site-config=\"/path/to/site.yaml\"', or simulate "
            "with an absolute run-folder that 'fedsteph simulate --prepare' wrote",
        )
    return _simulated_site(run_folder, index)


def write_sites(run_folder: Path, sites: Sequence[Mapping[str, str]]) -> None:
    """Write the file of a simulated run's sites: each one's name, folder, device, cancer, roster digest, cores."""
    write_json(run_folder / SIMULATED_SITES, {"sites": [dict(site) for site in sites]})


def read_sites(run_folder: Path) -> list[dict[str, str]]:
    """Read the file of :func:`write_sites`; RunFolderError if it is damaged."""
    path = run_folder / SIMULATED_SITES
    remedy = "Simulate in another folder"
    try:
        sites: Any = json.loads(path.read_bytes())
        if isinstance(sites, list):  # of an earlier version
            tell_of_old_files()
        else:
            sites = read_json(path, RunFolderError, remedy)["sites"]
        needed, others = ("name", "folder", "device", "roster_sha256"), ("cancer", "cores")
        return [{key: str(site[key]) for key in (*needed, *(k for k in others if k in site))} for site in sites]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError("is damaged", where=path, remedy=remedy) from error


def m0_of_run(run_folder: Path) -> str | None:
    """The file of M0 of a simulated run; None: its M0 is made from the seed."""
    path = run_folder / M0_FILE
    return str(path) if path.exists() else None


def _simulated_site(run_folder: Path, index: int) -> Site:
    """Site number ``index`` of a simulated run, with the run's keys and roster."""
    sites = read_sites(run_folder)
    if index >= len(sites):
        raise ConfigError(f"there are {len(sites)} sites, and this is node {index}", where=run_folder / SIMULATED_SITES)
    entry, names = sites[index], tuple(other["name"] for other in sites)
    state = run_folder / "sites" / entry["name"]
    site = Site.open(Path(entry["folder"]), state=state, device=entry["device"])
    file = replace(
        site.file,
        # One thread per simulated site: it is the machine's share of a site, and it makes the numbers the same
        # whichever engine runs the simulation.
        threads=1,
        cancer=entry.get("cancer"),  # of its own file, or of its table
        page=False,  # the run's own page has it all
        m0=m0_of_run(run_folder),
        federation=MembershipFile(
            roster=str(run_folder / ROSTER_FILE),
            roster_sha256=entry["roster_sha256"],
            sign_key=str(state / "keys" / f"{site.name}.sign.key"),
            seal_key=str(state / "keys" / f"{site.name}.seal.key"),
            audit=str(state / "audit"),
        ),
        # A simulated site that trains in private takes no part in rounds that do not, as a real one.
        policy=site.file.policy or replace(Policy.of_simulation(names), unsealed_updates=site.file.privacy == "none"),
    )
    # A run's owner asks for TensorBoard by this file, whatever the sites' own say.
    asked = (run_folder / TENSORBOARD_ON).exists()
    site = replace(site, cores=int(entry.get("cores", 1)))  # what the machine has for each target
    return replace(site, file=file, tensorboard=run_folder / TENSORBOARD / site.name if asked else site.tensorboard)
