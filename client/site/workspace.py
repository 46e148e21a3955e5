"""A site's saved work for one recipe and its current data; a repeated request reuses it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedsteph.client.data.bags import Cohort, open_cohort
from fedsteph.client.data.instances import InstanceRule
from fedsteph.client.data.problems import refuse_errors
from fedsteph.client.data.tables.splits import Split, make_splits, read_splits
from fedsteph.client.models.local_file import require_trained, train_file
from fedsteph.client.models.model_file import load_base, load_model
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.site.site import Site
from fedsteph.client.training.device import resolve_device
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import EncoderError, SplitError, WidthError
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel

IMPORTED_FILE = "imported.safetensors"  # a fold's own model that another program trained
METHOD_VERSION = 4  # raise it when the same recipe gives other numbers: saved work is then not reused


@dataclass(frozen=True)
class Workspace:
    """A site's cohort, folds, device and folder for one recipe."""

    site: Site
    recipe: Recipe
    cohort: Cohort
    splits: tuple[Split, ...]
    device: torch.device
    data_digest: str  # SHA-256 of labels, splits, file sizes and modification times
    folder: Path
    base_folder: Path

    @classmethod
    def open(cls, site: Site, recipe: Recipe, cohort: Cohort | None = None) -> Workspace:
        """Read the site's labels, file headers and splits.

        The folders' names hold digests of the recipe, the method's version and the data (labels, splits, file sizes and
        modification times, whether features are rounded), so another recipe or changed data never reuses old work.

        Args:
            recipe: M0 comes from the site's own file, if it names one, whatever the recipe names.
            cohort: the site's, if it is already open.

        Raises:
            DataError: all problems of the site's data at once; or its features are not like the federation's.
            DeviceError: the site's device is not available.
        """
        if site.file.threads is not None:
            torch.set_num_threads(site.file.threads)  # for the whole process, which works for one site
        cohort = cohort or open_cohort(site.folder, site.file.data, site.state)
        features, remedy = site.folder / site.file.data.features, "Extract features as the federation's were extracted"
        if cohort.width != recipe.model.width:
            what = f"the features are {cohort.width} wide, the federation's {recipe.model.width}"
            raise WidthError(what, where=features, remedy=remedy)
        if not cohort.extraction.agrees_with(recipe.model.extraction):
            what = f"the features are of {cohort.extraction}, the federation's of {recipe.model.extraction}"
            raise EncoderError(what, where=features, remedy=remedy)
        cohort = cohort.under(InstanceRule.of(Architecture.of(recipe.model)))
        if site.m0 is not None:
            recipe = replace(recipe, model=replace(recipe.model, m0=site.m0))
        splits = site_splits(site, cohort, recipe)
        data = _data_digest(cohort, splits, rounded=site.file.data.disk_cache == "float16")
        folder = site.state / f"{recipe.folds_digest[:12]}-{data[:12]}"
        base_folder = site.state / f"base-{recipe.base_digest[:12]}-{data[:12]}"
        for used in (folder, base_folder):
            with contextlib.suppress(OSError):  # most are not there yet
                os.utime(used)  # for 'fedsteph prune', which removes what was not used for long
        return cls(site, recipe, cohort, splits, resolve_device(site.file.device), data, folder, base_folder)

    def sharing(self, dp_sgd: DpSgd | None) -> Workspace:
        """The same workspace with other DP-SGD settings for the shared model; None: without DP-SGD.

        With them no unsealed updates leave it, whatever its policy says: rounds have no such training.
        """
        file = self.site.file
        if dp_sgd is None:
            file = replace(file, privacy="none", dp_sgd=None)
        else:
            policy = file.policy and replace(file.policy, unsealed_updates=False)
            file = replace(file, privacy="dp-sgd", dp_sgd=dp_sgd, policy=policy)
        return replace(self, site=replace(self.site, file=file))

    def fold_folder(self, fold: int) -> Path:
        """Folder of a fold's own models; recipes that differ only in later steps share it."""
        return self.base_folder / f"fold_{fold}"

    def local_path(self, fold: int) -> Path:
        """Path of the site's own model of a fold: of the imported one, if there is one."""
        imported = self.imported_path(fold)
        return imported if imported.exists() else self.fold_folder(fold) / "local.safetensors"

    def imported_path(self, fold: int) -> Path:
        """Path of a fold's own model that another program trained; no training writes there."""
        return self.fold_folder(fold) / IMPORTED_FILE

    def imported(self, fold: int) -> str | None:
        """SHA-256 of the checkpoint that a fold's own model was imported from; None: it is trained here."""
        path = self.imported_path(fold)
        return load_model(path).imported if path.exists() else None

    def train_part(self, fold: int) -> Cohort:
        """The fold's training patients; those of a validation part are neither training nor test patients."""
        return self.cohort.subset(self.splits[fold].train)

    def test_part(self, fold: int) -> Cohort:
        """The fold's test patients."""
        return self.cohort.subset(self.splits[fold].test)

    def local_model(self, fold: int) -> BaseModel:
        """The site's own model of a fold, made again if its file is damaged; ModelFileError if it was never trained."""
        require_trained(self.local_path(fold))
        return self.train_local(fold)

    def train_local(self, fold: int, progress: Progress = silent) -> BaseModel:
        """Train the site's own model of a fold, unless it was trained before or imported, and return it.

        Raises:
            ModelFileError: the imported one is damaged; it cannot be made again here.
        """
        path, cohort, label = self.local_path(fold), self.train_part(fold), f"fold {fold}"
        if path == self.imported_path(fold):
            return load_base(path, self.recipe.model.dropout)
        return train_file(path, cohort, self.recipe, label=label, device=self.device, progress=progress)

    def train_members(self, fold: int, progress: Progress = silent) -> list[BaseModel]:
        """The site's own model of a fold and others like it but for the seed, ``final.members`` in all, at least one.

        They are trained unless they were trained before.
        """
        n = max(1, self.recipe.final.members)
        return [self.train_member(fold, m, part(progress, m, n)) for m in range(n)]

    def train_member(self, fold: int, member: int, progress: Progress = silent) -> BaseModel:
        """One of :meth:`train_members`; the first is the site's own model of the fold."""
        if member == 0:
            return self.train_local(fold, progress)
        path, cohort, label = self.member_path(fold, member), self.train_part(fold), f"fold {fold}, member {member}"
        device = self.device
        return train_file(
            path, cohort, self.recipe, label=label, device=device, progress=progress, with_reference=False
        )

    def member_path(self, fold: int, member: int) -> Path:
        """Path of one of :meth:`train_members`."""
        return self.local_path(fold) if member == 0 else self.fold_folder(fold) / f"member_{member}.safetensors"

    def train_on_all(self, member: int = 0, progress: Progress = silent) -> BaseModel:
        """Train the site's own model of all its patients, with a seed per ``member``, unless it was trained before."""
        label = "all patients" if member == 0 else f"all patients, member {member}"
        path = self.whole_path(member)
        return train_file(path, self.cohort, self.recipe, label=label, device=self.device, progress=progress)

    def whole_path(self, member: int = 0) -> Path:
        """Path of the site's own model of all its patients."""
        return self.base_folder / "all_patients" / f"member_{member}.safetensors"

    def train_every_fold(self) -> None:
        """Train the site's own models that are missing."""
        for fold in range(len(self.splits)):
            self.train_local(fold)


def site_splits(site: Site, cohort: Cohort, recipe: Recipe) -> tuple[Split, ...]:
    """The first ``evaluation.folds`` of the site's split files, if any (SplitError: too few), else from its seed."""
    wanted = recipe.evaluation.folds
    ids = [patient.id for patient in cohort.patients]
    data = site.file.data
    splits, problems = read_splits(
        site.folder, ids, cohort.dropped, slides=cohort.files, match=data.match, within=data.splits
    )
    refuse_errors(problems, site.folder)
    if not splits:
        # A single fold needs a training and a test part too: use the first of five.
        splits = make_splits(cohort.patients, wanted if wanted > 1 else 5, recipe.evaluation.split_seed)
    if len(splits) < wanted:
        what = f"has {len(splits)} split files, the federation asks for {wanted} folds"
        raise SplitError(what, where=site.folder, remedy=f"Add splits, or set evaluation.folds to {len(splits)}")
    return tuple(splits[:wanted])


def _data_digest(cohort: Cohort, splits: tuple[Split, ...], *, rounded: bool) -> str:
    hasher = hashlib.sha256(f"{METHOD_VERSION}/{splits!r}".encode())
    if rounded:  # rounded features give other models
        hasher.update(b"float16")
    for patient in cohort.patients:
        hasher.update(repr(patient).encode())
        for path in cohort.paths(patient):
            status = path.stat()
            hasher.update(f"{path.name}/{status.st_size}/{status.st_mtime_ns}".encode())
    return hasher.hexdigest()
