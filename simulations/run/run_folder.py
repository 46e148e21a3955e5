"""Prepares a run folder (resolved configuration, manifest, roster), or resumes a run with the same configuration."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsteph.client.data.bags import open_cohort
from fedsteph.client.data.check import check_site
from fedsteph.client.data.problems import Problem, refuse_errors
from fedsteph.client.data.tables.known_tables import cancer_of
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_of_node import M0_FILE, read_sites, write_sites
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.extraction import stated
from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.config.run_config import Config, FederationConfig, dump_yaml, load_config
from fedsteph.common.errors import ConfigError, RunFolderError
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.host.crew import n_cores
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.model.initial_model import m0_digest, pin_m0
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import FILE as ROSTER_FILE
from fedsteph.common.trust.roster import Entry, Roster, write_roster
from fedsteph.server.manifest import CONFIG_FILE, MANIFEST_FILE, manifest, read_manifest


@dataclass(frozen=True)
class RunFolder:
    """A prepared run: its folder, resolved configuration, and sites."""

    path: Path
    config: Config
    sites: tuple[Site, ...]

    def site_state(self, name: str) -> Path:
        """The state folder of a simulated site."""
        return self.path / "sites" / name


def prepare(
    path: Path, config: Config, folders: Sequence[Path], progress: NamedProgress = unseen
) -> tuple[RunFolder, list[Problem]]:
    """Check the sites, complete the configuration from them, and write the run folder or resume it.

    Returns the run folder, and the warnings of the data check, whose progress is in files, by site. Raises DataError
    with all problems of the sites' data; ConfigError if the configuration does not fit the sites; RunFolderError if the
    folder holds a run with another configuration, or is damaged.
    """
    sites = _choose_sites(folders, config)
    if (path / MANIFEST_FILE).exists():
        return _resume(path, config, sites), []
    warnings = _check_data(sites, progress)
    # What depends on the sites: their names, the target, the width, and M0's digest.
    complete = replace(config, federation=_federation(config, sites), model=same_features(config.model, sites))
    resolved = pin_m0(complete)
    cancers = {}
    for site in sites:
        # Opening every site here finds errors (splits, device) before the run instead of in the middle of it.
        here = replace(site, file=replace(site.file, device=resolved.device, m0=None))
        patients = Workspace.open(here, resolved.recipe).cohort.patients
        cancers[site.name] = site.file.cancer or cancer_of(patient.project for patient in patients)
    if resolved.model.m0 is not None:
        atomic.write_bytes(path / M0_FILE, Path(resolved.model.m0).read_bytes())
    roster = _make_roster(path, resolved, sites, cancers)
    atomic.write_text(path / CONFIG_FILE, dump_yaml(resolved))
    write_sites(path, _plan(sites, resolved, roster.digest, cancers))
    made = manifest(resolved, roster, path / "server" / "audit")
    checked_file.write_json(path / MANIFEST_FILE, made)  # last, because a folder with a manifest is resumed
    return RunFolder(path, resolved, tuple(sites)), warnings


def _make_roster(path: Path, config: Config, sites: Sequence[Site], cancers: Mapping[str, str | None]) -> Roster:
    """Make keys for every simulated site, and their roster: a simulation seals and signs like a deployment."""
    entries = []
    for site in sites:
        folder = path / "sites" / site.name / "keys"
        shutil.rmtree(folder, ignore_errors=True)  # keys of an interrupted preparation
        identity = Identity.generate()
        write_identity(folder, site.name, identity)
        entries.append(Entry.of(site.name, identity.public, cancer=cancers[site.name], contact="simulation"))
    roster = Roster(config.federation.name, tuple(entries))
    write_roster(path / ROSTER_FILE, roster)
    return roster


def _plan(
    sites: Sequence[Site], config: Config, roster_sha256: str, cancers: Mapping[str, str | None]
) -> list[dict[str, str]]:
    share = max(1, n_cores() // len(config.federation.targets))  # of the cores, for each target
    common = {"device": config.device, "roster_sha256": roster_sha256, "cores": str(share)}
    found = []
    # Targets first: they have the most to train, and Flower's engine asks the sites in this order.
    for site in sorted(sites, key=lambda site: site.name not in config.federation.targets):
        stated = cancers.get(site.name)
        cancer = {} if stated is None else {"cancer": stated}
        found.append({"name": site.name, "folder": str(site.folder.resolve()), **cancer, **common})
    return found


def open_sites(folders: Sequence[Path]) -> dict[str, Site]:
    """Open site folders; returns name -> site. Raises ConfigError if two sites have the same name."""
    opened = [Site.open(folder) for folder in folders]
    by_name = {site.name: site for site in opened}
    if len(by_name) < len(opened):
        twice = ", ".join(sorted(name for name, count in Counter(site.name for site in opened).items() if count > 1))
        remedy = "Give one of them another 'name' in its site.yaml"
        raise ConfigError(f"two site folders have the name {twice}", where=folders[0].parent, remedy=remedy)
    return by_name


def refuse_among_sites(out: Path, sites: Path) -> None:
    """Refuse an output folder inside the folder of site folders, or whose ``sites`` is that folder (ConfigError)."""
    if sites.resolve() in (out, *out.parents, out / "sites"):
        raise ConfigError("lies among the site folders", where=out, remedy="Choose another --out")


def _choose_sites(folders: Sequence[Path], config: Config) -> list[Site]:
    by_name = open_sites(folders)
    wanted = config.federation.sites or tuple(by_name)
    for name in (*wanted, *config.federation.targets):
        if name not in by_name:
            what = f"there is no site '{name}'"
            remedy = f"The site folders are: {', '.join(by_name)}"
            raise ConfigError(what, where="federation.sites or federation.targets", remedy=remedy)
    return [by_name[name] for name in wanted]


def _federation(config: Config, sites: Sequence[Site]) -> FederationConfig:
    names = tuple(site.name for site in sites)
    if len(names) < config.federation.quorum:
        what = f"{len(names)} sites are fewer than federation.quorum ({config.federation.quorum})"
        remedy = "Add site folders; a federation is a target and at least one source"
        raise ConfigError(what, where="federation.quorum", remedy=remedy)
    return replace(config.federation, sites=names, targets=config.federation.targets or names[:1])


def same_features(model: ModelConfig, sites: Sequence[Site]) -> ModelConfig:
    """The model with width and extraction filled in from the sites where not set; ConfigError if the sites differ."""
    cohorts = {site.name: open_cohort(site.folder, site.file.data) for site in sites}
    widths = {cohort.width for cohort in cohorts.values()}
    common = stated(cohort.extraction for cohort in cohorts.values())
    where = "model.width, .encoder, .magnification, .patch_size"
    if len(widths) > 1 or not all(cohort.extraction.agrees_with(common) for cohort in cohorts.values()):
        listed = "; ".join(f"{name}: {cohort.width} wide of {cohort.extraction}" for name, cohort in cohorts.items())
        remedy = "Extract all sites' features alike, or leave sites out with federation.sites"
        raise ConfigError(f"the sites' features differ ({listed})", where=where, remedy=remedy)
    try:
        return replace(model, width=model.width or widths.pop(), **vars(model.extraction.or_else(common)))
    except ValueError as error:
        what = f"what the sites' feature files state cannot be: {error}"
        raise ConfigError(what, where=where, remedy="Mend the files, or extract them again") from error


def _check_data(sites: Sequence[Site], progress: NamedProgress) -> list[Problem]:
    checks = [check_site(site.folder, site.file.data, progress(site.name)) for site in sites]
    problems = [problem for found in checks for problem in found.problems]
    refuse_errors(problems, sites[0].folder.parent)
    return [problem for problem in problems if problem.severity == "warning"]


def _resume(path: Path, config: Config, sites: Sequence[Site]) -> RunFolder:
    try:
        before = load_config(path / CONFIG_FILE)
        plan, roster_sha256 = read_sites(path), read_manifest(path)["digests"]["roster"]
    except (OSError, KeyError, ConfigError, RunFolderError) as error:
        raise RunFolderError(f"is a damaged run folder ({error})", where=path, remedy="Choose another --out") from error
    # Keys that are not set have the values with which the run began: its sites' width and its M0.
    model = replace(
        config.model,
        width=config.model.width or before.model.width,
        **vars(config.model.extraction.or_else(before.model.extraction)),
    )
    if model.m0_sha256 is None:
        model = replace(model, m0_sha256=before.model.m0_sha256 if model.m0 is None else m0_digest(model))
    resolved = replace(config, model=model, federation=_federation(config, sites))
    keys = _differing(to_dict(before), to_dict(resolved))
    cancers = {site["name"]: site.get("cancer") for site in plan}
    now = _plan(sites, resolved, roster_sha256, cancers)
    if {one["name"]: one for one in plan} != {one["name"]: one for one in now}:  # earlier versions had another order
        keys.append("the site folders")
    if keys:
        what = f"holds a run with another configuration; these differ: {', '.join(keys)}"
        remedy = "Choose another --out, or give the same configuration to resume that run"
        raise RunFolderError(what, where=path, remedy=remedy)
    return RunFolder(path, resolved, tuple(sites))


def _differing(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in a.keys() | b.keys():
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            keys += _differing(x, y, f"{prefix}{key}.")
        elif x != y:
            keys.append(prefix + key)
    return sorted(keys)
