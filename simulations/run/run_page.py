"""The report page of a simulated run, for the owner of all its data: all targets, shared vectors, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsteph.client.report.answer import answer_of
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.report.target_sections import arrived, developer_sections, target_sections, title_of
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_of_node import SIMULATED_SITES, m0_of_run, read_sites
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.errors import RunFolderError
from fedsteph.common.host.progress import NamedProgress, Progress, unseen
from fedsteph.common.model.method_scores import MinusLocal
from fedsteph.common.report.conclusion import over_targets
from fedsteph.common.report.page import REPORT, Page, Section, write_page
from fedsteph.common.report.provenance import ONE_PER_FOLD, WITH_FINAL, cost_section, limits_section, provenance_section
from fedsteph.common.report.source_matrix import matrix_picture
from fedsteph.common.report.transfer import decided, relayed, transfer_section
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.vector.shared_part import description
from fedsteph.server.manifest import CONFIG_FILE, read_manifest
from fedsteph.simulations.run.run_results import RESULTS_FILE, RunResults

_AUDIENCE = "For the owner of this run: it shows patients' outcomes"


def run_page(run: Path, progress: NamedProgress = unseen, slides: Path | None = None) -> Page:
    """The page of a run. Raises RunFolderError if the folder has no results yet, or is not a simulated run."""
    if not (run / SIMULATED_SITES).exists() or not (run / RESULTS_FILE).exists():
        raise RunFolderError("has no results yet", where=run, remedy="Let 'fedsteph simulate' come to its end")
    results = RunResults.read(run / RESULTS_FILE)
    config, manifest = load_config(run / CONFIG_FILE), read_manifest(run)
    sites = simulated_sites(run, config)
    several, pathologists, developers = len(results.targets) > 1, list[Section](), list[Section]()
    for name, result in results.targets.items():

        def of_target(what: str, name: str = name) -> Progress:
            return progress(f"{name}: {what}")

        files = TargetFiles.open(sites[name].state)
        pathologists += target_sections(sites[name], files, result, of_target, among_others=several, slides=slides)
        developers += developer_sections(sites[name], files, result, of_target, among_others=several)
    sections = [
        *pathologists,
        *([_matrix(sites, list(results.targets), config)] if several else []),
        _transfer(run, manifest, sites, results, config),
        *developers,
        *_costs_and_versions(results, manifest, run),
        limits_section(_limits(results, sites), WITH_FINAL if config.recipe.final.members else ONE_PER_FOLD),
    ]
    made = [f"Made by run {manifest['run'][:12]} of {manifest['created'][:10]}; fedsteph {version('fedsteph')}."]
    answer = None if several else next(answer_of(name, one, made) for name, one in results.targets.items())
    verdict = [*_verdict(results), *made] if several else []
    return Page("Is the enhanced model better?", _AUDIENCE, verdict, sections, answer=answer)


def _costs_and_versions(results: RunResults, manifest: Mapping[str, Any], run: Path) -> list[Section]:
    """They belong to what a method developer opens."""
    learnable = {
        title_of(method): row.learnable for result in results.targets.values() for method, row in result.trained.items()
    }
    costs = cost_section(results.seconds, results.bytes, learnable)
    made = provenance_section(manifest, (run / CONFIG_FILE).read_text(encoding="utf-8"))
    return [replace(costs, level=3), replace(made, level=3)]


def write_run_page(
    run: Path, out: Path | None = None, progress: NamedProgress = unseen, slides: Path | None = None
) -> Path:
    """Write the page, by default into the run folder; returns its path."""
    return write_page(run_page(run, progress, slides), out or run / REPORT, progress("writing the figures"))


def simulated_sites(run: Path, config: Config) -> dict[str, Site]:
    """The sites of a simulated run by name, with their state in the run folder."""
    plan = read_sites(run)
    sites = {}
    for entry in plan:
        site = Site.open(Path(entry["folder"]), state=run / "sites" / entry["name"], device=config.device)
        # Ignores the site file's federation: a simulated site's audit log is with its state.
        sites[entry["name"]] = replace(site, file=replace(site.file, threads=None, federation=None, m0=m0_of_run(run)))
    return sites


def _verdict(results: RunResults) -> list[str]:
    targets = results.targets
    compared: dict[str, list[MinusLocal]] = {
        "The enhanced model (the panel)": [result.enhanced_minus_local for result in targets.values()],
        "What inner cross-validation deploys, the panel or the local model,": [
            result.deployed_minus_local for result in targets.values()
        ],
    }
    found = [over_targets(title, differences) for title, differences in compared.items()]
    told = [f"{sentence}." for sentence in found if sentence is not None]
    if not told:
        return ["No target is large enough to compare the enhanced model with the local one."]
    return [_counted(results), *told]


def _counted(results: RunResults) -> str:
    """At which targets the enhanced model is better; each target's section has the rest."""
    states: dict[str, list[str]] = {"better": [], "not shown": [], "worse": []}
    for name, result in results.targets.items():
        states[result.trust.state].append(name)
    better, unsure, worse = (", ".join(names) or "no target" for names in states.values())
    return (
        f"The enhanced model is better than the local one at {better}, not shown to be better at {unsure}, and "
        f"worse at {worse}."
    )


def _matrix(sites: Mapping[str, Site], targets: Sequence[str], config: Config) -> Section:
    found = {name: TargetFiles.open(sites[name].state).evidence().once.coefficients for name in targets}
    seed = config.training.seed
    who = f"{len(targets)} targets, test patients of {config.evaluation.folds} folds each, seed {seed}"
    return Section("Who helped whom", [matrix_picture("source-target", found, who)])


def _transfer(
    run: Path, manifest: Mapping[str, Any], sites: Mapping[str, Site], results: RunResults, config: Config
) -> Section:
    tables = [relayed(read_lines(run / "server" / "audit"), manifest["run"])]
    for name, site in sites.items():
        tables.append(decided(read_lines(site.audit.folder), manifest["run"], name))
    rows = [row for table in tables[1:] for row in table.rows]
    decisions = replace(tables[1], rows=rows, folded=True, title="Decisions of the sites' policies")
    failures = [str(failure) for failure in results.failures]
    own = [
        f"At {name}: {sentence[0].lower()}{sentence[1:]}"
        for name, result in results.targets.items()
        for sentence in arrived(result)
    ]
    return transfer_section([tables[0], decisions], failures, description(config.sharing), own)


def _limits(results: RunResults, sites: Mapping[str, Site]) -> list[str]:
    own = [f"{name}: {found.too_small}" for name, found in results.targets.items() if found.too_small]
    if not any(site.file.dp_sgd for site in sites.values()):
        own.append("No task vector of this run was trained with differential privacy.")
    return own
