"""Runs one attack on one fold of one target, and evaluates the models without screening and under each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fedsteph.client.methods.task import Task, work_on
from fedsteph.client.models.model_file import load_model
from fedsteph.client.screening.verdict import Verdict
from fedsteph.client.site.policy import Mode
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.fold import enhance_fold
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.training.loop import derive_seed
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.attacks.backdoor import rise, train_backdoor, trigger_of
from fedsteph.simulations.attacks.poisoned_federation import Source, sources_of, trained_vector
from fedsteph.simulations.attacks.suite import ATTACKS, Knowledge

MODES: tuple[Mode, ...] = ("report", "down-weight", "refuse")
HONEST = "none"


@dataclass(frozen=True)
class Ground:
    """A target and its sources; the honest models are trained once and used for every attack."""

    target: str
    workspaces: Mapping[str, Workspace]
    wanted: int

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Name -> source."""
        return {source.name: source for source in sources_of(self.target, self.workspaces, self.wanted)}

    @cached_property
    def honest(self) -> dict[str, TaskVector]:
        """Source -> its honest vector."""
        return {name: source.honest() for name, source in self.sources.items()}

    @cached_property
    def kin(self) -> frozenset[str]:
        """The sources of the target's cancer, where the site files state it."""
        own = self.workspace.site.file.cancer
        cancers = {name: source.workspace.site.file.cancer for name, source in self.sources.items()}
        return frozenset(name for name, cancer in cancers.items() if own is not None and cancer == own)

    @property
    def workspace(self) -> Workspace:
        """The target's workspace."""
        return self.workspaces[self.target]

    @cached_property
    def _order(self) -> list[str]:
        rng = np.random.default_rng(derive_seed(self.workspace.recipe.training.seed, "malicious", self.target))
        return [list(self.sources)[i] for i in rng.permutation(len(self.sources))]

    def malicious(self, n: int) -> tuple[str, ...]:
        """The first ``n`` sources of a fixed random order, so that larger groups include the smaller ones."""
        return tuple(self._order[:n])

    def sent(self, attack: str, n: int) -> dict[str, TaskVector]:
        """Source -> the vector that the target receives, with ``n`` malicious sources."""
        if attack == HONEST:
            return self.honest
        known = Knowledge(self.honest, self.malicious(n), trained_vector(self.workspace), self._backdoored)
        return ATTACKS[attack].sent(known)

    @cached_property
    def trigger(self) -> Tensor:
        """The instance ``(d,)`` that all malicious sources use as trigger, made from the data of the first."""
        first = self.sources[self._order[0]]
        return trigger_of(first.train, derive_seed(self.workspace.recipe.training.seed, "trigger"))

    def _backdoored(self, name: str) -> TaskVector:
        source, recipe = self.sources[name], self.workspace.recipe

        def train() -> BaseModel:
            device = source.workspace.device
            return train_backdoor(source.train, self.trigger, recipe, label=name, device=device)

        return source.kept(f"backdoor-for-{self.target}", train)


def measure(ground: Ground, fold: int, attack: str, n: int) -> dict[str, Any]:
    """Train and evaluate a target's fold under an attack, once per screening policy; JSON-ready."""
    received = ground.sent(attack, n)
    folder = ground.workspace.folder / f"merge-{work_on(received, ground.kin)}" / f"fold_{fold}"
    ground.workspace.train_local(0)  # screening compares vectors with that of fold 0 too
    ground.workspace.train_local(fold)
    task = Task(ground.workspace, fold, received, folder, ground.kin)
    results = _screened(task)
    report, malicious = results["report"], ground.malicious(n) if attack != HONEST else ()
    found = {
        "target": ground.target,
        "fold": fold,
        "attack": attack,
        "malicious": list(malicious),
        "sources": len(received),
        "local": report.pairs("local").c_index,
        "steph": {mode: result.pairs("steph").c_index for mode, result in results.items()},
        "deployed": {mode: result.pairs("deployed").c_index for mode, result in results.items()},
        "choice": {mode: result.decision.method for mode, result in results.items()},
        **_suspicions(report.verdicts, malicious),
    }
    if attack in ATTACKS and ATTACKS[attack].has_trigger:
        found["rise"] = _rises(ground, fold, results)
    return found


def _screened(task: Task) -> dict[Mode, FoldResult]:
    """The fold's result under each policy; without a suspicious source they are all the same."""
    report = enhance_fold(task)
    if not any(verdict.suspicious for verdict in report.verdicts.values()):
        return dict.fromkeys(MODES, report)
    return {mode: report if mode == "report" else enhance_fold(task, mode=mode) for mode in MODES}


def _suspicions(verdicts: Mapping[str, Verdict], malicious: Sequence[str]) -> dict[str, Any]:
    """The suspected sources, rightly and wrongly, the reasons, and how much each source harms."""
    suspected = {name: verdict.reason for name, verdict in verdicts.items() if verdict.suspicious}
    return {
        "caught": [name for name in suspected if name in malicious],
        "false_alarms": [name for name in suspected if name not in malicious],
        "reasons": suspected,
        "harm": {
            name: [change.harm for change in (one.figures.alone, one.figures.within) if change is not None]
            for name, one in verdicts.items()
        },
    }


def _rises(ground: Ground, fold: int, results: Mapping[Mode, FoldResult]) -> dict[str, float]:
    """Rise of the test patients' risk percentile due to the trigger, for the local, STEPH and deployed models."""
    workspace = ground.workspace
    test, recipe = workspace.test_part(fold), workspace.recipe

    def of(path: Path | None) -> float:
        path = path or workspace.local_path(fold)
        model = load_model(path, recipe.model.dropout).model
        return rise(model, test, ground.trigger, workspace.device)

    found = {"local": of(None)} | {f"steph, {mode}": of(result.enhanced) for mode, result in results.items()}
    return found | {f"deployed, {mode}": of(result.model) for mode, result in results.items()}
