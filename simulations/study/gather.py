"""Gathers a study's cells into results: scores, paired statistics, costs and attacks (``results.json``)."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from statistics import fmean
from typing import Any

import torch

from fedsteph.client.evaluation.metrics import Metrics, defined_mean, mean_metrics
from fedsteph.client.evaluation.select import Selection, choose_deployed
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import digest, to_dict
from fedsteph.common.model.abmil import Architecture
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.common.model.resampling import interval_of_mean
from fedsteph.common.model.survival import risk_score
from fedsteph.common.vector.shared_part import shared_bytes
from fedsteph.simulations.study.costs import rounds_bytes, vector_bytes
from fedsteph.simulations.study.crew import Failed
from fedsteph.simulations.study.plan import Cell, Plan, Unit, attacks_on, choice_of, local_of, paid_for
from fedsteph.simulations.study.statistics import TargetScores, difference, overall, target_scores
from fedsteph.simulations.study.study_file import Study
from fedsteph.simulations.study.work import Worker

SCHEMA = "fedsteph/benchmark/v1"


@dataclass(frozen=True)
class Prepared:
    """A study with its sites opened and its work planned."""

    study: Study
    worker: Worker  # this process's own worker; it opens the sites and reads results, but runs no unit
    plan: Plan
    sites: tuple[str, ...]
    targets: tuple[str, ...]


def gather(prepared: Prepared, failed: list[Failed]) -> dict[str, Any]:
    """Scores, statistics and costs of all finished cells, JSON-ready."""
    worker, rows = prepared.worker, [row.name for row in prepared.study.rows]
    cells, found = [], {}
    for cell in prepared.plan.cells:
        unit = shown_unit(worker, cell.unit)
        if unit is None:
            continue
        notes, hazards = worker.result(unit)
        test = worker.workspace(cell.target, cell.unit.recipe).test_part(cell.fold)
        risk = risk_score(torch.from_numpy(hazards)).numpy()
        found[cell.row, cell.target, cell.seed, cell.fold] = pairs(risk, test.times, test.events)
        cells.append(_cell_row(cell, unit, notes, worker))
    # Paired statistics need all cells of a row.
    whole = [row for row in rows if all((row, c.target, c.seed, c.fold) in found for c in prepared.plan.cells)]
    scores = {target: _scores(prepared, target, whole, found) for target in prepared.targets} if whole else {}
    references = [row for row in prepared.study.file.against if row in whole]
    by_row = {row: [cell for cell in cells if cell["row"] == row] for row in rows}
    return {
        "schema": SCHEMA,
        "sites": list(prepared.sites),
        "targets": {
            target: _target(prepared, worker, target, scores.get(target), whole) for target in prepared.targets
        },
        "seeds": list(prepared.study.file.seeds),
        "against": references,
        "folds": prepared.study.evaluation.folds,
        "rows": {
            row.name: {
                "title": row.title,
                "method": row.method,
                "source": METHODS[row.method].source,
                "preset": row.config.preset,
                "complete": row.name in whole,
            }
            for row in prepared.study.rows
        },
        "overall": {
            row: {
                **overall(list(scores.values()), row),
                "against": {
                    reference: difference(list(scores.values()), row, reference)
                    for reference in references
                    if reference != row
                },
                "further": mean_metrics([Metrics(**cell["metrics"]) for cell in by_row[row]]),
                "alignment": defined_mean([cell["alignment"] for cell in by_row[row]]),
                "costs": _costs(prepared, by_row[row], row),
                "attack": _attack(prepared, row),
            }
            for row in whole
        },
        "digests": _digests(prepared),
        "configuration": to_dict(prepared.study.rows[0].config.recipe),
        "cells": cells,
        "failures": [_failure(one) for one in failed],
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("fedsteph", "torch", "flwr", "numpy")},
    }


def _digests(prepared: Prepared) -> dict[str, str]:
    """Digests of every seed's M0, and of every row's recipe with the first seed."""
    units = {(cell.row, cell.seed): cell.unit for cell in prepared.plan.cells}
    row, seed = prepared.study.rows[0].name, prepared.study.file.seeds[0]
    found = {f"M0, seed {s}": str(units[row, s].recipe.model.m0_sha256) for s in prepared.study.file.seeds}
    return found | {f"recipe of {one.name}": digest(units[one.name, seed].recipe) for one in prepared.study.rows}


def _failure(failed: Failed) -> dict[str, Any]:
    unit = failed.unit
    what = f"{unit.site or 'all sites'}: {unit.method or unit.kind}"
    return {"what": what, "fold": unit.fold, "seed": unit.recipe.training.seed, "reason": failed.reason}


def shown_unit(worker: Worker, unit: Unit) -> Unit | None:
    """The unit with the hazards of a cell; None if a unit that it needs has no result.

    For ``deployed`` it is that of the model which inner cross-validation chose.
    """
    if unit.method != "deployed":
        return unit if worker.path(unit).exists() else None
    enhanced, choice = replace(unit, method="steph"), choice_of(unit)
    if not (worker.path(enhanced).exists() and worker.path(choice).exists()):
        return None
    selection = Selection(**worker.read(choice)["selection"])
    method, _ = choose_deployed(selection, worker.read(enhanced)["notes"]["collapsed"])
    found = local_of(unit) if method == "local" else enhanced
    return found if worker.path(found).exists() else None


def _cell_row(cell: Cell, unit: Unit, notes: dict[str, Any], worker: Worker) -> dict[str, Any]:
    paid = [worker.read(part)["costs"] for part in paid_for(cell.unit, tuple(worker.ground.folders))]
    costs = {"seconds": sum(p["seconds"] for p in paid), "peak_bytes": max(p["peak_bytes"] for p in paid)}
    return {
        "row": cell.row,
        "target": cell.target,
        "seed": cell.seed,
        "fold": cell.fold,
        "shown": unit.method,
        **{key: notes[key] for key in ("c_index", "metrics", "alignment", "learnable", "gigaflops", "notes")},
        **costs,
    }


def _scores(
    prepared: Prepared, target: str, rows: list[str], found: dict[tuple[str, str, int, int], Pairs]
) -> TargetScores:
    seeds, folds = prepared.study.file.seeds, range(prepared.study.evaluation.folds)
    tested = {row: [[found[row, target, seed, fold] for fold in folds] for seed in seeds] for row in rows}
    return target_scores(target, tested, prepared.study.evaluation.bootstrap)


def _target(
    prepared: Prepared, worker: Worker, target: str, scores: TargetScores | None, rows: list[str]
) -> dict[str, Any]:
    cohort = worker.workspace(target, prepared.plan.cells[0].unit.recipe).cohort
    return {
        "n_patients": len(cohort),
        "n_events": int(cohort.events.sum()),
        "rows": {}
        if scores is None
        else {
            row: {
                "c_index": scores.by_fold[row],
                "fold_intervals_95": scores.fold_intervals(row),
                "mean": scores.mean(row),
                "interval_95": scores.interval(row),
                "sd": scores.sd(row),
                "seed_sd": scores.seed_sd(row),
                "against": {
                    reference: difference([scores], row, reference)
                    for reference in prepared.study.file.against
                    if reference in rows and reference != row
                },
            }
            for row in rows
        },
    }


def _attack(prepared: Prepared, row: str) -> dict[str, Any] | None:
    """Results of the attacks on a row's vectors, over all sharing sites; None if not all of them were made."""
    cells = [cell for cell in prepared.plan.cells if cell.row == row]
    units = {attack.key: attack for cell in cells for attack in attacks_on(cell.unit, prepared.study)}
    if not units or not all(prepared.worker.path(unit).exists() for unit in units.values()):
        return None
    # A site's vectors of all seeds have the same patients, so only those of the first seed are counted.
    by_site = {unit.site: unit for unit in reversed(units.values())}
    done = [prepared.worker.read(unit)["attack"] for unit in by_site.values()]
    # The attack that is best over all sites. Choosing the best one per site would bias the result upwards.
    name = max(done[0]["procedure"], key=lambda name: fmean(one["procedure"][name]["auc"] for one in done))
    best = [one["procedure"][name] for one in done]
    intervals = [one["auc_interval_95"] for one in best if one["auc_interval_95"] is not None]
    recipe = next(iter(units.values())).recipe
    return {
        "attack": name,
        "auc": fmean(one["auc"] for one in best),
        "auc_interval_95": None if (mean := interval_of_mean(intervals)) is None else list(mean),
        "auc_largest": max(one["auc"] for one in best),
        "sites": len(best),
        "sites_above_chance": sum(low > 0.5 for low, _ in intervals),
        "tpr": fmean(one["tpr"] for one in best),
        "epsilon": max((one["epsilon"] for one in done if one["epsilon"] is not None), default=None),
        "epsilon_at_least": max(one["epsilon_at_least"] for one in done),
        "vector_bytes": shared_bytes(recipe.model, recipe.sharing),
    }


def _costs(prepared: Prepared, cells: list[dict[str, Any]], row: str) -> dict[str, Any]:
    units = [cell.unit for cell in prepared.plan.cells if cell.row == row]
    needs = METHODS[units[0].method].needs
    recipe, n_sites = units[0].recipe, len(prepared.sites)
    n_numbers = Architecture.of(recipe.model).n_merged
    sent = {
        "nothing": 0,
        "pool": None,
        "vectors": vector_bytes(len(units[0].sources), recipe.model, recipe.sharing),
        "rounds": rounds_bytes(n_sites, recipe.comparators.rounds, n_numbers),
    }[needs]
    return {
        "learnable": max(cell["learnable"] for cell in cells),
        "gigaflops": defined_mean([cell["gigaflops"] for cell in cells]),
        "seconds": fmean(cell["seconds"] for cell in cells),
        "peak_bytes": max(cell["peak_bytes"] for cell in cells),
        "network_bytes": sent,
    }
