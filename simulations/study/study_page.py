"""The report page of a study: one table and one forest plot of all methods, their costs, then everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import yaml

from fedsteph.client.report import calibration, risk_groups
from fedsteph.client.report.developers import routing
from fedsteph.client.target.evidence import Evidence, read_evidence
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.errors import RunFolderError
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.model.method_scores import Interval, MethodScores
from fedsteph.common.report.c_index import c_index_picture
from fedsteph.common.report.differences import Gap, difference_picture
from fedsteph.common.report.page import REPORT, Block, Code, Page, Picture, Points, Section, Table, Text, write_page
from fedsteph.common.report.provenance import limits_section
from fedsteph.common.report.source_matrix import matrix_picture
from fedsteph.simulations.run.run_results import RESULTS_FILE
from fedsteph.simulations.study import frontier
from fedsteph.simulations.study.gather import SCHEMA
from fedsteph.simulations.study.study_evidence import FOLDER
from fedsteph.simulations.study.study_results import Comparison, StudyResults
from fedsteph.simulations.study.tables import (
    c_index_table,
    cost_table,
    difference_sentence,
    difference_table,
    further_table,
    overview_table,
    sentences,
)

_AUDIENCE = "For the owner of this study: it shows patients' outcomes"
_MODELS = {row: METHODS[row].title for row in ("local", "steph", "panel")} | {"deployed": "deployed"}


def is_study(folder: Path) -> bool:
    """Whether a folder holds the results of a study."""
    path = folder / RESULTS_FILE
    return path.exists() and read_json(path, RunFolderError).get("schema") == SCHEMA


def write_study_page(folder: Path, out: Path | None = None, progress: NamedProgress = unseen) -> Path:
    """Write the page, by default into the study's folder; its path. RunFolderError if that holds no study's results."""
    if not is_study(folder):
        raise RunFolderError("has no study's results", where=folder, remedy="Let 'fedsteph benchmark' come to its end")
    results = cast(StudyResults, read_json(folder / RESULTS_FILE, RunFolderError))
    page = study_page(folder, results, progress)
    return write_page(page, out or folder / REPORT, progress("writing the figures"))


def study_page(folder: Path, found: StudyResults, progress: NamedProgress = unseen) -> Page:
    """The page of a study; progress is in targets."""
    drawing = progress("drawing")
    targets = []
    for i, target in enumerate(found["targets"], 1):
        targets.append(_target(folder, target, found))
        drawing(i, len(found["targets"]))
    verdict = _verdict(found)
    rest = [text for text in sentences(found) if _capital(text) not in verdict]
    further = [Points(rest)] if rest else []
    sections = [
        Section("All methods over all targets", _overview(found)),
        Section("Cost", [Table(*cost_table(found), "Cost of each method")]),
        Section("Further comparisons, and what is left out", [*further, *_comparisons(found)]),
        Section("Beyond the C-index", [Table(*further_table(found), "Means over targets, folds and seeds")]),
        *_frontier(found),
        Section("Who helped whom", [_matrix(folder, found)]),
        Section("Each target"),
        *targets,
        Section("Configuration, versions, seeds, digests", _provenance(found)),
        limits_section(["Rows of a table are compared without correction for how many they are."]),
    ]
    return Page("Which method is better, and by how much?", _AUDIENCE, verdict, sections)


def _verdict(results: StudyResults) -> list[str]:
    """Compare STEPH and the deployed model with the first reference; without them, the row that differs most."""
    if not results["against"]:
        return ["No row of this study is complete, so there is nothing to compare."]
    reference = results["against"][0]
    against, title = _against(results, reference), results["rows"][reference]["title"]
    told = [difference_sentence(results["rows"][row]["title"], title, against[row]) for row in _told_first(against)]
    return [_capital(sentence) for sentence in told] or [f"Nothing can be compared with {title}."]


def _told_first(against: Mapping[str, Comparison]) -> list[str]:
    chosen = [row for row in ("steph", "deployed") if row in against]
    known = {row: abs(found["difference"]) for row, found in against.items() if found["difference"] is not None}
    return chosen or sorted(known, key=lambda row: -known[row])[:1]


def _against(results: StudyResults, reference: str) -> dict[str, Comparison]:
    """Row -> its comparison with a reference."""
    rows = results["overall"].items()
    return {row: whole["against"][reference] for row, whole in rows if reference in whole["against"]}


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _seeds(results: StudyResults) -> str:
    seeds = ", ".join(str(seed) for seed in results["seeds"])
    return f"{results['folds']} folds, seed{'s' if len(results['seeds']) > 1 else ''} {seeds}"


def _methods(results: StudyResults) -> dict[str, str]:
    """Title -> method of every row."""
    return {about["title"]: about["method"] for about in results["rows"].values()}


def _overview(results: StudyResults) -> list[Block]:
    table = Table(*overview_table(results), "Harrell's C, mean over targets")
    return [table, *(_forest(results, i) for i in range(len(results["against"][:1])))]


def _comparisons(results: StudyResults) -> list[Block]:
    """The other references, and all differences and C-indices as closed tables."""
    blocks: list[Block] = [_forest(results, i) for i in range(1, len(results["against"]))]
    tables = {
        f"Against {results['rows'][name]['title']}": difference_table(results, name) for name in results["against"]
    }
    tables["C-index on each target: mean and standard deviation over folds"] = c_index_table(results)
    blocks += [Table(*found, title, folded=True) for title, found in tables.items()]
    return blocks


def _forest(results: StudyResults, i: int) -> Picture:
    """The differences of all rows to the i-th reference."""
    reference = results["against"][i]
    titles = {row: results["rows"][row]["title"] for row in results["overall"]}
    return difference_picture(
        f"against-{i}",
        titles[reference],
        {titles[row]: _gap(found) for row, found in _against(results, reference).items()},
        f"mean over {len(results['targets'])} targets, {_seeds(results)}",
        _by_target(results, reference) if len(results["targets"]) > 1 else None,
        _methods(results),
    )


def _by_target(results: StudyResults, reference: str) -> dict[str, dict[str, Gap]]:
    """Row's title -> target -> difference to a reference."""
    return {
        results["rows"][row]["title"]: {
            target: _gap(about["rows"][row]["against"][reference]) for target, about in results["targets"].items()
        }
        for row in _against(results, reference)
    }


def _gap(found: Comparison) -> Gap:
    return found["difference"], found["interval_95"]


def _target(folder: Path, target: str, results: StudyResults) -> Section:
    about = results["targets"][target]
    who = f"{target}: n = {about['n_patients']} patients, {about['n_events']} events, {_seeds(results)}"
    rows = {
        results["rows"][row]["title"]: MethodScores(
            c_index=tuple(_mean(column) for column in zip(*one["c_index"], strict=True)),
            fold_intervals_95=tuple(map(_ends, one.get("fold_intervals_95") or [None] * results["folds"])),
            mean=one["mean"],
            interval_95=_ends(one.get("interval_95")),
        )
        for row, one in about["rows"].items()
    }
    blocks: list[Block] = [c_index_picture(f"{target}.c-index", rows, who, _methods(results))]
    path = folder / FOLDER / f"{target}.npz"
    if path.exists():
        blocks += _curves(target, read_evidence(path).once, results)
    else:
        blocks.append(
            Text(
                "There are no survival curves: the study has no complete row of the local model, or an earlier version "
                "trained it (move its 'cells' folder away and run the same benchmark again)."
            )
        )
    return Section(f"Target {target}", blocks, level=3)


def _curves(target: str, found: Evidence, results: StudyResults) -> list[Picture]:
    shown = {row: title for row, title in _MODELS.items() if row in found.hazards}
    if "deployed" in shown and any(
        np.array_equal(found.hazards["deployed"], found.hazards[row]) for row in ("local", "panel") if row in shown
    ):
        del shown["deployed"]  # the same model as another one in every fold
    n, events = len(found), int(found.events.sum())
    who = f"{target}: n = {n} test patients, {events} events, {results['folds']} folds, seed {results['seeds'][0]}"
    pictures = risk_groups.pictures(target, found, shown, who)
    pictures.append(calibration.draw(f"{target}.calibration", found, shown, who))
    if found.sources:
        pictures.append(routing.end_picture(f"{target}.sources", found, who))
    return pictures


def _matrix(folder: Path, results: StudyResults) -> Picture:
    paths = {target: folder / FOLDER / f"{target}.npz" for target in results["targets"]}
    found = {target: read_evidence(path).once.coefficients for target, path in paths.items() if path.exists()}
    if not any(found.values()):
        instead = "The study has no complete row of STEPH, or an earlier version trained it."
        return Picture("source-target", "Coefficients by source and target", instead=instead)
    who = f"{len(found)} targets, {results['folds']} folds, seed {results['seeds'][0]}"
    return matrix_picture("source-target", found, who)


def _frontier(results: StudyResults) -> list[Section]:
    points = frontier.points(results)
    if not points:
        return []
    picture = Picture(
        "frontier",
        "Privacy against utility",
        frontier.drawn(results),
        finding=frontier.finding(points),
        note="Hollow: trained with differential privacy; bars: 95% intervals; 0.5 on the lower axis is guessing.",
        numbers=Table(*frontier.frontier_table(results), "frontier", folded=True),
    )
    return [Section("Privacy against utility", [picture])]


def _provenance(results: StudyResults) -> list[Block]:
    rows = [[name, str(value)] for name, value in results["versions"].items()]
    rows += [["seeds", ", ".join(map(str, results["seeds"]))], ["sites", ", ".join(results["sites"])]]
    rows += [
        [f"row {name}", f"{METHODS[about['method']].title}, preset {about['preset']}"]
        for name, about in results["rows"].items()
    ]
    rows += [[f"{what} SHA-256", value] for what, value in results.get("digests", {}).items()]
    blocks: list[Block] = [Table(["what", "value"], rows)]
    if "configuration" in results:
        blocks.append(Code(yaml.safe_dump(results["configuration"], sort_keys=False)))
    return blocks


def _ends(interval: list[float] | None) -> Interval | None:
    return None if interval is None else (interval[0], interval[1])


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
