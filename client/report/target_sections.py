"""A target's sections of a page: ranking, risk groups, calibration, and how its sources were used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedsteph.client.evaluation.metrics import further_rows
from fedsteph.client.report import calibration, risk_groups, routing
from fedsteph.client.report.analysis import Analysis
from fedsteph.client.report.clinical.clinical_section import clinical_section
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.site import Site
from fedsteph.client.steph.dynamics import collapsed_in
from fedsteph.client.target.evidence import Evidence
from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.errors import FedstephError
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.model.method_scores import MethodScores
from fedsteph.common.report.c_index import c_index_picture, c_index_table
from fedsteph.common.report.conclusion import against_local
from fedsteph.common.report.page import Block, Picture, Points, Section, Table


def title_of(method: str) -> str:
    """A method's title on a page."""
    return METHODS[method].title if method in METHODS else method.replace("_", " ")


def _titled(methods: Mapping[str, MethodScores]) -> dict[str, MethodScores]:
    return {title_of(method): row for method, row in methods.items()}


def verdict(name: str, result: TargetResult) -> list[str]:
    """Whether the enhanced model is better, red flags, and what is deployed; one sentence if nothing can be told."""
    if result.too_small is not None and result.enhanced_minus_local.mean is None:
        return [result.too_small]
    trust = result.trust
    sentences = [trust.at(name), *(f"Red flag: {flag.sentence}" for flag in trust.flags), _deployed(result)]
    if collapsed := ", ".join(map(str, result.steph.collapsed_folds)):
        sentences.append(f"STEPH collapsed (all kept weights near 0) in fold {collapsed}: it is not deployed.")
    return sentences


def _deployed(result: TargetResult) -> str:
    """Which model is deployed in how many folds; where they differ, how good they are together."""
    chosen = result.deployed.choice
    enhanced, n_folds = len(chosen) - chosen.count("local"), len(chosen)
    if enhanced in (0, n_folds):
        title = "enhanced model (the panel)" if enhanced else "local model"
        return f"Inner cross-validation deploys the {title} in every fold."
    n_defined = sum(value is not None for value in result.steph.c_index)
    together = against_local("what is deployed", result.deployed_minus_local, n_defined)
    return (
        f"Inner cross-validation deploys the enhanced model (the panel) in {enhanced} of {n_folds} folds and the local "
        f"model in the others; {together}."
    )


def target_sections(
    site: Site,
    files: TargetFiles,
    result: TargetResult,
    progress: NamedProgress = unseen,
    *,
    among_others: bool = False,
) -> list[Section]:
    """All sections about one target, from its own files. They show patients' outcomes, so only the site may see them.

    Args:
        result: the target's, possibly with additional methods, such as an oracle.
        among_others: whether the page covers several targets, so that this target's verdict is given here.
    """
    name, found = site.name, files.evidence().once
    n, n_events, seed = len(found), int(found.events.sum()), files.recipe.training.seed
    who = f"{name}: n = {n} test patients, {n_events} events, {files.n_folds} folds, seed {seed}"
    shown = {"local": "local", "panel" if "panel" in result.methods else "steph": "enhanced"}
    if len(set(result.deployed.choice)) == 2:
        shown["deployed"] = "deployed"
    progress("ranking, risk groups and calibration")
    ranking = c_index_picture(f"{name}.c-index", _titled(result.methods), who)
    ranking = replace(ranking, numbers=None)  # a table has the numbers
    own = verdict(name, result) if among_others else []
    final = final_sentence(result)
    made = [*deployed_sentences(result), *([] if final is None else [final])]
    beside = result.clinical
    added = [] if beside is None else [clinical_section(name, beside, result.methods, who)]
    in_words = f"{result.n_patients} patients, {result.n_events} events; sources: {', '.join(result.sources)}."
    return [
        Section(f"Target {name}", [Points([in_words, *own, *made])]),
        Section("How well patients are ranked", [ranking, *_tables(result)], 3),
        *added,
        Section("Survival by risk group", risk_groups.pictures(name, found, shown, who), 3),
        Section("Calibration", [calibration.draw(f"{name}.calibration", found, shown, who)], 3),
        Section("Where the knowledge came from", _knowledge(site, files, found, result, who, progress), 3),
    ]


def deployed_sentences(result: TargetResult) -> list[str]:
    """Which model each fold deploys, and why."""
    chosen = zip(result.deployed.choice, result.deployed.reason, strict=True)
    return [f"Fold {fold} deploys {title_of(choice)}: {reason}." for fold, (choice, reason) in enumerate(chosen)]


def final_sentence(result: TargetResult) -> str | None:
    """Where the final model is, and what it is; None if there is none."""
    final = result.final
    if final is None:
        return None
    members = "1 model" if final.members == 1 else f"the mean of {final.members} models"
    return (
        f"The final model, trained on all {result.n_patients} patients ({title_of(final.choice)}, {members}), is "
        f"{final.path} in the site's state folder. It has no test set of its own: its card says what the folds let one "
        "expect."
    )


def _tables(result: TargetResult) -> list[Block]:
    whole = c_index_table(_titled(result.methods))
    header, further = further_rows([(title_of(method), row.further) for method, row in result.trained.items()])
    return [
        Table(whole.header, whole.rows, "C-index with 95% intervals"),
        Table(header, further, "Beyond the C-index, means over folds"),
    ]


def _knowledge(
    site: Site, files: TargetFiles, found: Evidence, result: TargetResult, who: str, progress: NamedProgress
) -> Sequence[Block]:
    blocks: list[Block] = [Points([*_collapses(files, result), *screening(result)])]
    blocks.append(routing.end_picture(f"{site.name}.sources", found, who))
    if files.first_enhanced is None:
        text = "Every source was refused in every fold, so no merge was trained."
        return [*blocks, Picture(f"{site.name}.dynamics", "Weight and mixing by epoch", instead=text)]
    look = Analysis.of(site, files)
    for fold in dict.fromkeys((look.fold, *result.steph.collapsed_folds)):
        blocks.append(Analysis.of(site, files, fold).dynamics_picture())
    blocks.append(look.sar_picture(look.sar(progress)))
    return [*blocks, _landscape(look, progress)]


def _landscape(look: Analysis, progress: NamedProgress) -> Picture:
    """The loss landscape; a sentence if the site's data or device, which only it needs, are not available."""
    try:
        return look.landscape_picture(look.landscape(progress=progress))
    except FedstephError as error:
        instead = f"It needs the site's data as they were: {error.what}."
        return Picture(f"{look.name}.landscape", "Loss over the merge's two coefficients", instead=instead)


def _collapses(files: TargetFiles, result: TargetResult) -> list[str]:
    found = []
    for fold in result.steph.collapsed_folds:
        notes = files.dynamics(fold)
        epoch = None if notes is None else collapsed_in(notes["epochs"])
        since = "" if epoch is None else f": they stay there from epoch {epoch} of training on"
        found.append(f"In fold {fold} STEPH collapsed, all kept weights are near 0{since}.")
    return found or ["No training collapsed."]


_DONE_WITH = {"refuse": "was left out there", "down-weight": "was shortened there", "report": "was merged all the same"}


def screening(result: TargetResult) -> list[str]:
    """Sentences on suspicious sources: in how many folds, and the reason in the first of these."""
    folds = result.screening.folds
    sentences = []
    for name in result.sources:
        reasons = [fold[name].reason for fold in folds if fold[name].suspicious]
        if reasons:
            where = f"in {len(reasons)} of {len(folds)} folds, and {_DONE_WITH[result.screening.policy]}"
            sentences.append(f"The vector of {name} is suspicious {where}: {reasons[0]}.")
    return sentences or ["No source's vector is suspicious."]
