"""Judges the methods of one fold on its test patients, and chooses the model to deploy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedsteph.client.data.bags import Cohort
from fedsteph.client.evaluation.censoring import uno_weights
from fedsteph.client.evaluation.decision import Selection, choose_deployed, without_merge
from fedsteph.client.evaluation.metrics import further_metrics
from fedsteph.client.methods.task import Task, learnable_parameters
from fedsteph.client.models.model_file import reference_risks
from fedsteph.client.steph.fit import collapsed
from fedsteph.client.steph.usage import usage
from fedsteph.client.target.comparators import Compared, comparators_of
from fedsteph.client.target.enhanced_model import Enhanced
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.model.survival import risk_score

_SHOWN = ("local", "steph", "panel", "deployed")  # methods whose curves a page draws


def judge(
    task: Task, selection: Selection, enhanced: Enhanced, panel: Enhanced, compared: Mapping[str, Compared]
) -> FoldResult:
    """Results of the local model, STEPH, its panel and the comparators; no test patient has a say in what is deployed.

    Args:
        panel: the enhanced model with its panel.
    """
    test, steph = task.workspace.test_part(task.fold), enhanced.steph
    is_collapsed = collapsed(steph, task.train, task.device)
    decision = choose_deployed(selection, is_collapsed, task.recipe.panel.margin)
    choice = decision.method
    hazards = {"local": predict_hazards(task.local, test, task.device)}
    hazards |= {name: one.hazards for name, one in compared.items()}
    hazards["steph"] = predict_hazards(steph, test, task.device)
    hazards["panel"] = predict_hazards(panel.steph, test, task.device)
    hazards["deployed"] = hazards[choice]
    learnable = {"local": learnable_parameters(task.local), "steph": learnable_parameters(steph)}
    learnable["panel"] = learnable["steph"] + len(selection.weights)
    learnable |= {name: one.learnable for name, one in compared.items()}
    reference = {"local": enhanced.local_reference, "steph": enhanced.reference, "panel": panel.reference}
    reference["deployed"] = reference[choice]
    used = usage(steph, test, task.device)
    return FoldResult(
        selection=selection,
        collapsed=is_collapsed,
        decision=decision,
        model=panel.path if choice == "panel" else task.workspace.local_path(task.fold),
        sources=used.of_sources(list(task.vectors)),
        learnable=learnable | {"deployed": learnable[choice]},
        enhanced=enhanced.path,
        hazards={name: hazards[name] for name in _SHOWN},
        cut_off={name: _median(percentiles) for name, percentiles in reference.items()},
        reference=reference,
        usage=used,
        **_measured(test, task.train, hazards),
    )


def judge_local_alone(task: Task, selection: Selection, compared: Mapping[str, Compared]) -> FoldResult:
    """Results where no source is left: every method that merges vectors has the local model's."""
    test = task.workspace.test_part(task.fold)
    local = predict_hazards(task.local, test, task.device)
    hazards = dict.fromkeys(("local", *comparators_of(task), *_SHOWN[1:]), local)
    hazards |= {name: one.hazards for name, one in compared.items()}
    learnable = dict.fromkeys(hazards, learnable_parameters(task.local))
    learnable |= {name: one.learnable for name, one in compared.items()}
    reference = reference_risks(task.local, task.train, task.device)
    return FoldResult(
        selection=selection,
        collapsed=False,
        decision=without_merge(selection, "the screening refused every source: there is nothing to merge"),
        model=task.workspace.local_path(task.fold),
        sources={},
        learnable=learnable,
        hazards=dict.fromkeys(_SHOWN, local),
        cut_off=dict.fromkeys(_SHOWN, _median(reference)),
        reference=dict.fromkeys(_SHOWN, reference),
        **_measured(test, task.train, hazards),
    )


def _measured(test: Cohort, train: Cohort, hazards: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The test patients' outcomes, and the risks and further metrics of every method on them."""
    return {
        "times": test.times,
        "events": test.events,
        "uno_weight": uno_weights(test.times, train.times, train.events),
        "risk": {name: risk_score(torch.from_numpy(values)).numpy() for name, values in hazards.items()},
        "metrics": {name: further_metrics(values, test, train) for name, values in hazards.items()},
    }


def _median(percentiles: np.ndarray) -> float:
    return float(percentiles[len(percentiles) // 2])
