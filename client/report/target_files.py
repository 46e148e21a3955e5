"""Reads the files of a target's last merge from its state folder: result, evidence, training dynamics, models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsteph.client.models.enhanced_file import DYNAMICS_FILE
from fedsteph.client.models.model_file import LoadedModel, load_model
from fedsteph.client.steph.dynamics import read_dynamics
from fedsteph.client.steph.model import Steph
from fedsteph.client.target.enhance import RECIPE_FILE, RESULT_FILE
from fedsteph.client.target.evidence import FILE, Evidence, read_evidence
from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ModelFileError
from fedsteph.common.host.checked_file import AGAIN, read_json


@dataclass(frozen=True)
class TargetFiles:
    """A target's last result, and access to the other files of that merge."""

    state: Path
    result: TargetResult
    recipe: Recipe

    @classmethod
    def open(cls, state: Path) -> TargetFiles:
        """Read the result; ModelFileError if there is none, or an earlier version wrote it."""
        path, recipe_path = state / RESULT_FILE, state / RECIPE_FILE
        if not path.exists():
            what = "holds no result: this site was not the target of a run that came to its end"
            raise ModelFileError(what, where=state, remedy="Name a target, or wait for the run's end")
        if not recipe_path.exists():
            raise ModelFileError("is of an earlier version", where=path, remedy=AGAIN)
        try:
            recipe = build(Recipe, read_json(recipe_path), recipe_path)
        except ConfigError as error:
            raise ModelFileError("is of an earlier version", where=recipe_path, remedy=AGAIN) from error
        return cls(state, TargetResult.read(path), recipe)

    @property
    def n_folds(self) -> int:
        """Number of folds; each has one deployed model."""
        return len(self.result.enhanced)

    def evidence(self) -> Evidence:
        """The test patients' data; errors as :func:`fedsteph.client.target.evidence.read_evidence`."""
        return read_evidence(self.state / FILE)

    def dynamics(self, fold: int) -> dict[str, Any] | None:
        """w and lam by epoch of training of a fold's enhanced model; None if not recorded."""
        path = self._enhanced(fold)
        return None if path is None else read_dynamics(path.with_name(DYNAMICS_FILE))

    def enhanced(self, fold: int) -> tuple[LoadedModel, Steph] | None:
        """A fold's enhanced model, with the other content of its file; None if every source was refused."""
        path = self._enhanced(fold)
        if path is None:
            return None
        loaded = load_model(path, self.recipe.model.dropout)
        assert isinstance(loaded.model, Steph)
        return loaded, loaded.model

    @property
    def first_enhanced(self) -> int | None:
        """The first fold with an enhanced model; None if there is none."""
        return next((fold for fold, path in enumerate(self.result.enhanced) if path is not None), None)

    def _enhanced(self, fold: int) -> Path | None:
        path = self.result.enhanced[fold]
        return None if path is None else self.state / path
