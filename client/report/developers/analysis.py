"""Analysis of one fold's enhanced model: subspace alignment, loss landscape, and w and lam during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fedsteph.client.report.developers import landscape, routing, sar
from fedsteph.client.report.developers.landscape import Budget, Landscape
from fedsteph.client.report.developers.sar import SarCurves
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.errors import DataError, ModelFileError
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.report.page import Picture


@dataclass(frozen=True)
class Analysis:
    """The analyses of one fold of a target."""

    site: Site
    files: TargetFiles
    fold: int

    @classmethod
    def of(cls, site: Site, files: TargetFiles, fold: int | None = None) -> Analysis:
        """The analyses of a fold, by default the first with an enhanced model; ModelFileError if it has none."""
        chosen = files.first_enhanced if fold is None else fold
        if chosen is None:
            raise ModelFileError("has no enhanced model: every source was refused", where=files.state)
        if chosen >= files.n_folds:
            remedy = f"Folds: 0 to {files.n_folds - 1}"
            raise ModelFileError(f"there is no fold {chosen}", where=files.state, remedy=remedy)
        if files.result.enhanced[chosen] is None:
            raise ModelFileError(f"fold {chosen} has no enhanced model: every source was refused", where=files.state)
        return cls(site, files, chosen)

    @property
    def name(self) -> str:
        """Prefix of the pictures' file names."""
        return f"{self.site.name}.fold-{self.fold}"

    @property
    def who(self) -> str:
        """Label of the data in pictures: site, fold and seed."""
        return f"{self.site.name}, fold {self.fold}, seed {self.files.recipe.training.seed}"

    def sar(self, progress: NamedProgress = unseen) -> SarCurves:
        """Subspace alignment (SAR) of every layer's mixtures."""
        loaded, model = self._enhanced()
        return sar.sar_curves(model.mixture, loaded.sources, progress=progress("alignment"))

    def sar_picture(self, found: SarCurves) -> Picture:
        """Draw the SAR curves."""
        return sar.draw(f"{self.name}.sar", found, f"{self.who}; {len(found.sources)} sources")

    def landscape(self, budget: Budget | None = None, progress: NamedProgress = unseen) -> Landscape:
        """The loss around the merge, on the site's own patients.

        Raises:
            DataError: the site's data cannot be read, its bags are graphs, or the fold's test patients have changed.
            DeviceError: the site's device is not available.
        """
        workspace = Workspace.open(self.site, self.files.recipe)
        if workspace.cohort.rule.neighbours:
            what = "it looks at some instances of a bag alone, and in a graph they would miss their neighbours"
            raise DataError(what, where=self.site.folder)
        train, test, evidence = workspace.train_part(self.fold), workspace.test_part(self.fold), self.files.evidence()
        if sorted(evidence.ids[evidence.fold == self.fold].tolist()) != sorted(patient.id for patient in test.patients):
            what = "the labels or the splits have changed since the run"
            raise DataError(what, where=self.site.folder, remedy="Run it again")
        return landscape.landscape(
            self._enhanced()[1],
            {"training": train, "test": test},
            self.files.dynamics(self.fold),
            alpha=self.files.recipe.training.alpha,
            device=workspace.device,
            budget=budget,
            progress=progress("loss landscape"),
        )

    def landscape_picture(self, found: Landscape) -> Picture:
        """Draw the loss landscape."""
        parts = ", ".join(f"{n} {part}" for part, n in found.patients.items())
        return landscape.draw(f"{self.name}.landscape", found, f"{self.who}; n = {parts} patients")

    def dynamics(self) -> dict[str, Any] | None:
        """w and lam by epoch of training; None if not recorded."""
        return self.files.dynamics(self.fold)

    def dynamics_picture(self) -> Picture:
        """Draw w and lam by epoch."""
        found = self.dynamics()
        n = "" if found is None else f"; n = {found['patients']} training patients"
        return routing.dynamics_picture(f"{self.name}.dynamics", found, f"{self.who}{n}")

    def _enhanced(self) -> tuple[Any, Any]:
        found = self.files.enhanced(self.fold)
        assert found is not None
        found[1].to(torch.device("cpu"))
        return found
