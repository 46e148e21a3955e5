"""Runs one unit of a study and saves its result, unless the result exists already."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fedsteph.client.data.bags import Cohort, open_cohort
from fedsteph.client.data.tables.known_tables import cancer_of
from fedsteph.client.evaluation.inner_folds import inner_folds
from fedsteph.client.evaluation.metrics import further_metrics
from fedsteph.client.methods.ablations import STEPH, validate
from fedsteph.client.methods.alignment import mean_alignment, merged_vector
from fedsteph.client.methods.registry import REGISTRY
from fedsteph.client.methods.task import Method, Task, Trained, learnable_parameters, work_on
from fedsteph.client.sharing.averaging_rounds import read_kept
from fedsteph.client.sharing.head_rule import why_without_head
from fedsteph.client.sharing.outgoing import shared_vector
from fedsteph.client.sharing.shared_model import train_shared
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.usage import usage
from fedsteph.client.training.batch import predict_hazards, risks
from fedsteph.client.training.device import resolve_device
from fedsteph.client.training.residency import release
from fedsteph.common.config.digest import digest
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import TrainingError
from fedsteph.common.host import checked_file
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.survival import risk_score
from fedsteph.common.vector.tensor_file import read_stamped
from fedsteph.simulations.study.costs import Meter, gigaflops
from fedsteph.simulations.study.joint_encoders import train_together
from fedsteph.simulations.study.plan import Unit
from fedsteph.simulations.study.study_results import Scored
from fedsteph.simulations.study.vector_attack import attack

_OPEN_WORKSPACES = 32


def _local(task: Task, progress: Progress) -> Trained:
    return Trained(task.local, learnable_parameters(task.local))


_METHODS: dict[str, Method] = {"local": _local, "steph": STEPH, **REGISTRY}


def _alignment(task: Task, trained: Trained, test: Cohort) -> float | None:
    merged = merged_vector(task, trained.model, test)
    return None if merged is None else mean_alignment(merged, task.own)


@dataclass(frozen=True)
class Ground:
    """The folders of a study: its own (``out``), and name -> site folder; and the device."""

    out: Path
    folders: dict[str, Path]
    device: str


class Worker:
    """Runs units of one study, one after the other; each cohort is opened only once."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._sites: dict[str, Site] = {}
        self._cohorts: dict[str, Cohort] = {}
        self._data: dict[str, str] = {}
        self._workspaces: OrderedDict[tuple[str, str], Workspace] = OrderedDict()

    def do(self, unit: Unit) -> None:
        """Run a unit and save its result, unless it exists."""
        if self.done(unit):
            return
        for name, cohort in self._cohorts.items():
            if unit.site not in ("", name):
                release(cohort)
                cohort.forget_bags()  # to save memory, a worker keeps the bags of only one site
        meter = Meter(resolve_device(self.ground.device))
        notes = self._notes(unit, meter)
        checked_file.write_json(self.path(unit), {"costs": meter.to_dict(), **notes})

    def done(self, unit: Unit) -> bool:
        """Whether a unit's result exists; a damaged one is set aside."""
        readers: dict[str, Callable[[Path], object]] = {".json": checked_file.read_json}
        if unit.kind == "cell":
            readers[".npz"] = checked_file.read_arrays
        if unit.kind == "together":
            readers[".safetensors"] = read_stamped
        path = self.path(unit)
        return all(checked_file.kept(path.with_suffix(end), read) is not None for end, read in readers.items())

    def path(self, unit: Unit) -> Path:
        """The JSON file of a unit's costs and scores; its hazards are in the ``.npz`` file beside it."""
        site = unit.site or "together"
        return self.ground.out / "cells" / site / f"{unit.key}-{self._data_digest(unit)[:12]}.json"

    def _data_digest(self, unit: Unit) -> str:
        """Digest of the data that a unit's result depends on, so that results of older data are not reused."""
        names = sorted({unit.site, *unit.sources} - {""})
        for name in names:
            if name not in self._data:
                self._data[name] = self.workspace(name, unit.recipe).data_digest  # the same under every row's recipe
        found = [self._data[name] for name in names]
        cancers = {name: cancer for name in names if unit.sources and (cancer := self.site(name).file.cancer)}
        return digest([*found, cancers] if cancers else found)  # cancers decide whether heads travel

    def site(self, name: str) -> Site:
        """A site as the study knows it: its cancer is what its labels tell, where its site file states none."""
        if name not in self._sites:
            state = self.ground.out / "sites" / name
            opened = Site.open(self.ground.folders[name], state=state, device=self.ground.device)
            self._cohorts[name] = cohort = open_cohort(opened.folder, opened.file.data, opened.state)
            cancer = opened.file.cancer or cancer_of(patient.project for patient in cohort.patients)
            self._sites[name] = replace(opened, file=replace(opened.file, threads=1, m0=None, cancer=cancer))
        return self._sites[name]

    def workspace(self, site: str, recipe: Recipe) -> Workspace:
        """A site's workspace for a recipe; the most recently used ones are kept open."""
        key = site, digest(recipe)
        if key not in self._workspaces:
            self._workspaces[key] = Workspace.open(self.site(site), recipe, self._cohorts[site])
            if len(self._workspaces) > _OPEN_WORKSPACES:
                self._workspaces.popitem(last=False)
        self._workspaces.move_to_end(key)
        return self._workspaces[key]

    def _notes(self, unit: Unit, meter: Meter) -> Mapping[str, Any]:
        if unit.kind == "together":
            workspaces = [self.workspace(name, unit.recipe) for name in unit.sources]
            with meter:
                train_together(unit.method, unit.fold, workspaces, self._together(unit))
            return {}
        workspace = self.workspace(unit.site, unit.recipe)
        if unit.kind == "cell":
            return self._cell(unit, workspace, meter)
        if unit.kind == "choice":
            task = self._task(unit, workspace)
            with meter:
                return {"selection": asdict(validate(task, "steph", unit.recipe))}
        own = workspace.sharing(unit.dp_sgd)
        with meter:
            if unit.kind in ("references", "attack"):
                return attack(own, unit.kind, unit.references)
            if unit.kind == "inner":
                inner_folds(workspace, unit.fold)
            elif unit.kind == "members":
                workspace.train_members(unit.fold)
            elif unit.dp_sgd is None:
                own.train_local(unit.fold)
            else:
                train_shared(own)
        return {}

    def _cell(self, unit: Unit, workspace: Workspace, meter: Meter) -> Scored:
        task = self._task(unit, workspace)
        with meter:
            trained = _METHODS[unit.method](task, silent)
        test = workspace.test_part(unit.fold)
        hazards = predict_hazards(trained.model, test, workspace.device)
        arrays = {"hazards": hazards}
        if unit.method in ("local", "steph", "panel"):  # the page shows risk groups of these methods
            arrays["cut_off"] = np.median(risks(trained.model, task.train, workspace.device))
        if unit.method == "steph":
            assert isinstance(trained.model, Steph)
            used = usage(trained.model, test, workspace.device)
            arrays |= {"w": used.w, "lam": used.lam}
        checked_file.write_arrays(self.path(unit).with_suffix(".npz"), **arrays)
        found = pairs(risk_score(torch.from_numpy(hazards)).numpy(), test.times, test.events)
        return {
            "c_index": found.c_index,
            "metrics": further_metrics(hazards, test, task.train).to_dict(),
            "alignment": _alignment(task, trained, test),
            "learnable": trained.learnable,
            "gigaflops": gigaflops(trained.model, int(workspace.cohort.row_width)) if unit.fold == 0 else None,
            "notes": dict(trained.notes),
        }

    def _task(self, unit: Unit, workspace: Workspace) -> Task:
        opened = {name: self.workspace(name, unit.recipe).sharing(unit.dp_sgd) for name in unit.sources}
        cancer = workspace.site.file.cancer
        vectors = {
            name: shared_vector(source, head=why_without_head(source, cancer) is None)
            for name, source in opened.items()
        }
        common = {}
        if METHODS[unit.method].needs in ("rounds", "pool"):
            everyone = Unit("together", unit.recipe, unit.fold, "", unit.method, tuple(sorted(self.ground.folders)))
            path = self._together(everyone)
            if not path.exists():
                raise TrainingError("the encoder that it starts from could not be trained", where=unit.method)
            common[unit.method] = read_kept(workspace, path, float("inf"))
        kin = frozenset(name for name, one in opened.items() if cancer is not None and one.site.file.cancer == cancer)
        folder = workspace.folder / f"from-{work_on(vectors, kin)}" / f"fold_{unit.fold}"
        return Task(workspace, unit.fold, vectors, folder, kin, common)

    def _together(self, unit: Unit) -> Path:
        return self.path(unit).with_suffix(".safetensors")

    def read(self, unit: Unit) -> dict[str, Any]:
        """The costs and scores of a finished unit."""
        return checked_file.read_json(self.path(unit))

    def arrays(self, unit: Unit) -> dict[str, np.ndarray]:
        """Arrays of a finished cell over its test patients: ``hazards``, and for some methods more for the page."""
        return checked_file.read_arrays(self.path(unit).with_suffix(".npz"))

    def result(self, unit: Unit) -> tuple[Scored, np.ndarray]:
        """Scores of a finished cell, and its test patients' hazards ``(n_patients, n_bins)``."""
        return cast(Scored, self.read(unit)), self.arrays(unit)["hazards"]
