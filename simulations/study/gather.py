"""Gathers a study's cells into results: scores, paired statistics, costs and attacks (``results.json``)."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from statistics import fmean

import torch

from fedsteph.client.evaluation.decision import Selection, choose_deployed
from fedsteph.client.evaluation.metrics import Metrics, defined_mean, mean_metrics
from fedsteph.client.methods.task import LOCAL_BECAUSE
from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.survival import risk_score
from fedsteph.common.vector.shared_part import shared_bytes
from fedsteph.simulations.study.costs import rounds_bytes, vector_bytes
from fedsteph.simulations.study.plan import Cell, Plan, Unit, attacks_on, choice_of, local_of, once, paid_for
from fedsteph.simulations.study.statistics import TargetScores, Tested, difference, overall, study_scores
from fedsteph.simulations.study.study_crew import Failed
from fedsteph.simulations.study.study_file import Row, Study
from fedsteph.simulations.study.study_results import (
    AttackedRow,
    CellRow,
    Comparison,
    Costs,
    OverallRow,
    RowTold,
    Scored,
    StudyResults,
    StudyTarget,
    TargetRow,
)
from fedsteph.simulations.study.vector_attack import strongest
from fedsteph.simulations.study.work import Worker

SCHEMA = "fedsteph/benchmark/v1"
Place = tuple[str, str, int, int]  # a cell's row, target, seed and fold


@dataclass(frozen=True)
class Prepared:
    """A study with its sites opened and its work planned."""

    study: Study
    worker: Worker  # this process's own worker; it opens the sites and reads results, but runs no unit
    plan: Plan
    sites: tuple[str, ...]
    targets: tuple[str, ...]


def gather(prepared: Prepared, failed: list[Failed]) -> StudyResults:
    """Scores, statistics and costs of all finished cells, JSON-ready."""
    cells, found = _finished(prepared)
    whole = _whole(prepared, found)
    scores = {target: _scores(prepared, target, whole, found) for target in prepared.targets} if whole else {}
    return {
        "schema": SCHEMA,
        "sites": list(prepared.sites),
        "targets": {target: _target(prepared, target, scores, whole) for target in prepared.targets},
        "seeds": list(prepared.study.file.seeds),
        "against": [row for row in prepared.study.file.against if row in whole],
        "folds": prepared.study.evaluation.folds,
        "rows": {row.name: _told(row, whole) for row in prepared.study.rows},
        "overall": {row: _overall(prepared, row, cells, list(scores.values()), whole) for row in whole},
        "digests": _digests(prepared),
        "configuration": to_dict(prepared.study.rows[0].config.recipe),
        "cells": cells,
        "failures": [one.to_dict() for one in failed],
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("fedsteph", "torch", "flwr", "numpy")},
    }


def _finished(prepared: Prepared) -> tuple[list[CellRow], dict[Place, Tested]]:
    """The finished cells, JSON-ready, and the risks of each."""
    worker, cells, found = prepared.worker, [], {}
    merging = {row.name for row in prepared.study.rows if METHODS[row.method].needs == "vectors"}
    for cell in prepared.plan.cells:
        if (unit := shown_unit(worker, cell.unit)) is not None:
            notes, hazards = worker.result(unit)
            test = worker.workspace(cell.target, cell.unit.recipe).test_part(cell.fold)
            risk = risk_score(torch.from_numpy(hazards)).numpy()
            found[_place(cell)] = Tested(risk, test.times, test.events)
            if cell.row in merging and not cell.unit.sources:
                notes = {**notes, "notes": {**notes["notes"], LOCAL_BECAUSE: "no source is left"}}
            cells.append(_cell_row(cell, unit, notes, worker))
    return cells, found


def _whole(prepared: Prepared, found: dict[Place, Tested]) -> list[str]:
    """The rows whose cells are all finished: paired statistics need them all."""
    missing = {cell.row for cell in prepared.plan.cells if _place(cell) not in found}
    return [row.name for row in prepared.study.rows if row.name not in missing]


def _place(cell: Cell) -> Place:
    return cell.row, cell.target, cell.seed, cell.fold


def _told(row: Row, whole: list[str]) -> RowTold:
    return {
        "title": row.title,
        "method": row.method,
        "source": METHODS[row.method].source,
        "preset": row.config.preset,
        "complete": row.name in whole,
    }


def _overall(
    prepared: Prepared, row: str, cells: list[CellRow], scores: list[TargetScores], whole: list[str]
) -> OverallRow:
    """A row's results over all targets."""
    own = [cell for cell in cells if cell["row"] == row]
    return {
        **overall(scores, row),
        "against": _against(prepared, scores, row, whole),
        "further": mean_metrics([Metrics(**cell["metrics"]) for cell in own]),
        "alignment": defined_mean([cell["alignment"] for cell in own]),
        "costs": _costs(prepared, own, row),
        "attack": _attack(prepared, row),
    }


def _against(prepared: Prepared, scores: list[TargetScores], row: str, whole: list[str]) -> dict[str, Comparison]:
    """Reference -> the comparison of a row with it."""
    others = [name for name in prepared.study.file.against if name in whole and name != row]
    return {reference: difference(scores, row, reference) for reference in others}


def _digests(prepared: Prepared) -> dict[str, str]:
    """Digests of every seed's M0, and of every row's recipe with the first seed."""
    units = {(cell.row, cell.seed): cell.unit for cell in prepared.plan.cells}
    row, seed = prepared.study.rows[0].name, prepared.study.file.seeds[0]
    found = {f"M0, seed {s}": str(units[row, s].recipe.model.m0_sha256) for s in prepared.study.file.seeds}
    return found | {f"recipe of {one.name}": digest(units[one.name, seed].recipe) for one in prepared.study.rows}


def shown_unit(worker: Worker, unit: Unit) -> Unit | None:
    """The unit with a cell's hazards (of ``deployed`` the chosen model's); None if one that it needs has no result."""
    if unit.method != "deployed":
        return unit if worker.path(unit).exists() else None
    enhanced, choice = replace(unit, method="panel"), choice_of(unit)
    if not (worker.path(enhanced).exists() and worker.path(choice).exists()):
        return None
    selection = Selection(**worker.read(choice)["selection"])
    decision = choose_deployed(selection, worker.read(enhanced)["notes"]["collapsed"], unit.recipe.panel.margin)
    found = local_of(unit) if decision.method == "local" else enhanced
    return found if worker.path(found).exists() else None


def _cell_row(cell: Cell, unit: Unit, notes: Scored, worker: Worker) -> CellRow:
    paid = [worker.read(part)["costs"] for part in paid_for(cell.unit, tuple(worker.ground.folders))]
    return {
        "row": cell.row,
        "target": cell.target,
        "seed": cell.seed,
        "fold": cell.fold,
        "shown": unit.method,
        "c_index": notes["c_index"],
        "metrics": notes["metrics"],
        "alignment": notes["alignment"],
        "learnable": notes["learnable"],
        "gigaflops": notes["gigaflops"],
        "notes": notes["notes"],
        "seconds": sum(p["seconds"] for p in paid),
        "peak_bytes": max(p["peak_bytes"] for p in paid),
    }


def _scores(prepared: Prepared, target: str, rows: list[str], found: dict[Place, Tested]) -> TargetScores:
    seeds, folds = prepared.study.file.seeds, range(prepared.study.evaluation.folds)
    tested = {row: [[found[row, target, seed, fold] for fold in folds] for seed in seeds] for row in rows}
    return study_scores(target, tested, prepared.study.evaluation.bootstrap)


def _target(prepared: Prepared, target: str, scores: dict[str, TargetScores], whole: list[str]) -> StudyTarget:
    cohort = prepared.worker.workspace(target, prepared.plan.cells[0].unit.recipe).cohort
    return {
        "n_patients": len(cohort),
        "n_events": int(cohort.events.sum()),
        "rows": {row: _row(prepared, scores[target], row, whole) for row in whole},
    }


def _row(prepared: Prepared, scores: TargetScores, row: str, whole: list[str]) -> TargetRow:
    row_of_target: TargetRow = {
        "c_index": scores.by_fold[row],
        "fold_intervals_95": scores.fold_intervals(row),
        "mean": scores.mean(row),
        "interval_95": scores.interval(row),
        "sd": scores.sd(row),
        "seed_sd": scores.seed_sd(row),
        "against": _against(prepared, [scores], row, whole),
    }
    if (joined := overall([scores], row).get("together")) is not None:
        row_of_target["together"] = joined
    return row_of_target


def _attack(prepared: Prepared, row: str) -> AttackedRow | None:
    """Results of the attacks on a row's vectors, over all sharing sites; None if not all of them were made."""
    cells = [cell for cell in prepared.plan.cells if cell.row == row]
    units = once([attack for cell in cells for attack in attacks_on(cell.unit, prepared.study)])
    if not units or not all(prepared.worker.path(unit).exists() for unit in units):
        return None
    # A site's vectors of all seeds have the same patients, so only those of the first seed are counted.
    by_site = {unit.site: unit for unit in reversed(units)}
    done = [prepared.worker.read(unit)["attack"] for unit in by_site.values()]
    return strongest(done, shared_bytes(units[0].recipe.model, units[0].recipe.sharing))


def _costs(prepared: Prepared, cells: list[CellRow], row: str) -> Costs:
    units = [cell.unit for cell in prepared.plan.cells if cell.row == row]
    needs = next(METHODS[one.method].needs for one in prepared.study.rows if one.name == row)
    recipe, n_sites = units[0].recipe, len(prepared.sites)
    n_numbers = Architecture.of(recipe.model).n_merged
    sent = {
        "nothing": 0,
        "pool": None,
        "vectors": vector_bytes(max(len(unit.sources) for unit in units), recipe.model, recipe.sharing),
        "rounds": rounds_bytes(n_sites, recipe.comparators.rounds, n_numbers),
    }[needs]
    return {
        "learnable": max(cell["learnable"] for cell in cells),
        "gigaflops": defined_mean([cell["gigaflops"] for cell in cells]),
        "seconds": fmean(cell["seconds"] for cell in cells),
        "peak_bytes": max(cell["peak_bytes"] for cell in cells),
        "network_bytes": sent,
    }
