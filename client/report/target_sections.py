"""A target's sections of a page: for pathologists and, closed at first, for method developers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from fedsteph.client.evaluation.metrics import further_rows
from fedsteph.client.report import calibration, risk_groups
from fedsteph.client.report.answer import answer_of
from fedsteph.client.report.clinical.clinical_section import clinical_section
from fedsteph.client.report.clinical.subgroup_section import subgroup_section
from fedsteph.client.report.developers import routing
from fedsteph.client.report.developers.analysis import Analysis
from fedsteph.client.report.examples.examples_section import examples_section
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.site import Site
from fedsteph.client.steph.dynamics import collapsed_in
from fedsteph.client.target.evidence import Evidence
from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.errors import FedstephError
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.model.method_scores import MethodScores
from fedsteph.common.report.c_index import c_index_picture, c_index_table, with_interval
from fedsteph.common.report.conclusion import against_local
from fedsteph.common.report.page import Block, Picture, Points, Section, Table, Text

_IN_WORDS = {
    "panel": "panel (the enhanced model)",
    "deployed": "deployed (what inner validation chose per fold)",
    "oracle": "oracle (the truth of a synthetic world)",
}


def title_of(method: str) -> str:
    """A method's title on a page."""
    return METHODS[method].title if method in METHODS else method.replace("_", " ")


def _titled(methods: Mapping[str, MethodScores]) -> dict[str, MethodScores]:
    return {title_of(method): row for method, row in methods.items()}


def deployed_sentence(result: TargetResult) -> str:
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
    slides: Path | None = None,
) -> list[Section]:
    """What a pathologist reads about one target, from its own files: it shows patients' outcomes.

    Args:
        result: the target's, possibly with additional methods, such as an oracle.
        among_others: whether the page covers several targets, so that this target's answer is given here.
        slides: folder of slide images or thumbnails, for the examples.
    """
    name, found = site.name, files.evidence().once
    who, shown = _who(name, files, found), _shown(result)
    progress("ranking, risk groups and calibration")
    final, beside = final_sentence(result), result.clinical
    made: list[Block] = [Points([deployed_sentence(result), *([] if final is None else [final])])]
    title = f"Site {name}" if among_others else "For pathologists: does it help, and for whom?"
    added = [] if beside is None else [clinical_section(name, beside, result.methods, who)]
    return [
        Section(title, [answer_of(name, result), *made] if among_others else made),
        Section("How well patients are ranked", _ranking(name, result, shown, who), 3),
        *added,
        subgroup_section(site, found, {m: t for m, t in shown.items() if m != "deployed"}, who),
        Section("Survival by risk group", risk_groups.pictures(name, found, shown, who), 3),
        Section("Calibration", [calibration.draw(f"{name}.calibration", found, shown, who)], 3),
        examples_section(site, files, progress, slides),
        Section("Which sources helped", [_helped(result), routing.end_picture(f"{name}.sources", found, who)], 3),
    ]


def developer_sections(
    site: Site,
    files: TargetFiles,
    result: TargetResult,
    progress: NamedProgress = unseen,
    *,
    among_others: bool = False,
) -> list[Section]:
    """What a method developer looks for: every fold and method, w and lam, SAR, the loss landscape; closed at first."""
    name, who = site.name, _who(site.name, files, files.evidence().once)
    in_folds = c_index_picture(f"{name}.c-index", _titled(result.methods), who)
    whole = c_index_table(_titled(result.methods))
    title = f"For method developers: {name}" if among_others else "For method developers"
    folds: list[Block] = [
        Points(deployed_sentences(result)),
        replace(in_folds, numbers=None),  # a table has the numbers
        Table(whole.header, whole.rows, "C-index with 95% intervals"),
    ]
    knowledge = _knowledge(site, files, result, progress)
    return [
        Section(title, closed=True),
        Section("Every fold", folds, 3),
        Section("How the merges were learned", knowledge, 3),
    ]


def _who(name: str, files: TargetFiles, found: Evidence) -> str:
    """The data behind a figure, which is drawn in it: site, patients, events, folds and seed."""
    n_events, seed = int(found.events.sum()), files.recipe.training.seed
    return f"{name}: n = {len(found)} test patients, {n_events} events, {files.n_folds} folds, seed {seed}"


def _shown(result: TargetResult) -> dict[str, str]:
    """The methods that figures for pathologists show, and their titles."""
    shown = {"local": "local", "panel" if "panel" in result.methods else "steph": "enhanced"}
    return shown | ({"deployed": "deployed"} if len(set(result.deployed.choice)) == 2 else {})


def _helped(result: TargetResult) -> Table | Text:
    """What each source alone changes in inner validation: the nearest to an answer, beside the use that STEPH makes."""
    folds, rows = result.screening.folds, []
    for name in result.sources:
        found = [fold[name].figures.alone for fold in folds if name in fold]
        known = [change for change in found if change is not None]
        merged = sum(name in fold and fold[name].weight > 0 for fold in folds)
        told = ["-", "-"]
        if known:
            told = [f"{fmean(getattr(change, key) for change in known):+.3f}" for key in ("c_index", "loss")]
        rows.append([name, *told, f"{merged} of {len(folds)}"])
    if all(row[1] == "-" for row in rows):
        return Text("There are too few patients to tell what each source changes.")
    header = ["source", "C-index (above 0: helps)", "loss in nats (below 0: helps)", "folds that merge it"]
    title = "Each source alone, added to the local model: change in inner validation, mean over folds"
    return Table(header, rows, title)


def _ranking(name: str, result: TargetResult, shown: Mapping[str, str], who: str) -> list[Block]:
    rows = {title: result.methods[method] for method, title in shown.items()}
    picture = c_index_picture(f"{name}.ranking", rows, who)
    header, further = further_rows([(title_of(method), row.further) for method, row in result.trained.items()])
    means = [
        [_IN_WORDS.get(method, title_of(method)), with_interval(row.mean, row.interval_95)]
        for method, row in result.methods.items()
    ]
    return [
        replace(picture, numbers=None),
        Table(["method", "mean C-index (95% interval)"], means, "C-index"),
        Table(header, further, "Beyond the C-index, means over folds"),
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


def _knowledge(site: Site, files: TargetFiles, result: TargetResult, progress: NamedProgress) -> Sequence[Block]:
    blocks: list[Block] = [Points(_collapses(files, result))]
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


def arrived(result: TargetResult) -> list[str]:
    """Sentences for a data steward: whose vectors came, what was refused of them, and the privacy spent."""
    found = [f"Vectors came from {', '.join(result.sources)}."]
    if result.kept:
        found.append(f"Of these, kept from earlier runs or files: {', '.join(result.kept)}.")
    return [*found, *screening(result), f"Privacy of all vectors that this site shared: {result.privacy_spent}."]


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
