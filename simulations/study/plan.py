"""Plans a study as units of work in stages: base models, models that several methods share, cells, and attacks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.training.loop import derive_seed
from fedsteph.common.config.digest import digest
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import EvaluationConfig, Recipe
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.initial_model import m0_digest
from fedsteph.simulations.study.study_file import Row, Study

Kind = Literal["base", "inner", "members", "together", "choice", "cell", "references", "attack"]
# Methods that make a choice by inner cross-validation, and so need the inner models.
_CHOOSING = {"best_source", "task_arithmetic", "head_arithmetic", "panel"}
_OF_MEMBERS = {"local_ensemble", "local_average"}
_m0 = lru_cache(m0_digest)


@dataclass(frozen=True)
class Unit:
    """One piece of work, done by :class:`fedsteph.simulations.study.work.Worker`."""

    kind: Kind
    recipe: Recipe
    fold: int
    site: str = ""  # whose model is trained, or the target; empty for a joint training (together)
    method: str = ""  # of a cell or of a joint training
    sources: tuple[str, ...] = ()  # whose vectors a cell or a choice receives, or the sites of a joint training
    dp_sgd: DpSgd | None = None  # of the sources' vectors, or of this unit's own
    references: int = 0  # reference models of an attack

    @property
    def title(self) -> str:
        """The unit in words, without its fold."""
        return f"{self.site or 'all sites'}: {self.method or self.kind}"

    @cached_property
    def key(self) -> str:
        """Digest of all that determines the unit's result, except the sites' data."""
        steph = self.recipe.steph
        inner = f"{steph.inner_folds}" + (f"x{steph.inner_repeats}" if steph.inner_repeats > 1 else "")
        numbers = {"inner": inner, "members": self.recipe.final.members}
        shared = f"{self.recipe.base_digest}/{numbers.get(self.kind, '')}"
        recipe = shared if self.kind in ("base", "references", *numbers) else digest(self.recipe)
        parts = [self.kind, recipe, self.fold, self.site, self.method, list(self.sources)]
        parts += [] if self.dp_sgd is None else [digest(self.dp_sgd)]
        return digest(parts + ([self.references] if self.references else []))[:24]


@dataclass(frozen=True)
class Cell:
    """A row's cell for one target, seed and fold, and the unit that computes it.

    Where a row that merges vectors has no source for this target, that is the unit of the target's local model.
    """

    row: str
    target: str
    seed: int
    fold: int
    unit: Unit


@dataclass(frozen=True)
class Plan:
    """The units in stages, each of which needs the results of those before it, and the cells of the table."""

    stages: tuple[tuple[Unit, ...], ...]
    cells: tuple[Cell, ...]

    @property
    def n_units(self) -> int:
        """Number of units in all stages."""
        return sum(len(stage) for stage in self.stages)


def make_plan(
    study: Study, sites: Mapping[str, str | None], targets: Sequence[str], width: int, extraction: Extraction
) -> Plan:
    """Plan a study; what several cells need is trained once. ConfigError if a row wants more sources than there are.

    ``sites``: name -> cancer, None where it is not known.
    """
    cells = tuple(_cells(study, sites, targets, width, extraction))
    work = [unit for cell in cells for unit in _parts(cell.unit)]
    stages = [once(_base(work)), once([*_together(work, list(sites)), *_further(work)])]
    stages += [once([unit for unit in work if unit.kind == kind]) for kind in ("choice", "cell")]
    if attacks := [attack for cell in cells for attack in attacks_on(cell.unit, study)]:
        # The reference models do not depend on how vectors are shared, so they are trained first, and only once.
        stages += [once([replace(attack, kind="references") for attack in attacks]), once(attacks)]
    return Plan(tuple(stages), cells)


def _base(work: Sequence[Unit]) -> list[Unit]:
    """The models of the targets' folds, then those whose vectors the sources share."""
    base = [Unit("base", u.recipe, u.fold, u.site) for u in work]
    return base + [Unit("base", u.recipe, 0, source, dp_sgd=u.dp_sgd) for u in work for source in u.sources]


def _together(work: Sequence[Unit], sites: Sequence[str]) -> list[Unit]:
    """The joint trainings that methods of federated averaging and of pooled data start from."""
    joint = [unit for unit in work if METHODS[unit.method].needs in ("rounds", "pool")]
    return [Unit("together", u.recipe, u.fold, "", u.method, tuple(sorted(sites))) for u in joint]


def _further(work: Sequence[Unit]) -> list[Unit]:
    """Models of the target alone: inner ones, for choices by cross-validation, and those of other seeds."""
    inner = [Unit("inner", u.recipe, u.fold, u.site) for u in work if _validates(u)]
    return inner + [Unit("members", u.recipe, u.fold, u.site) for u in work if u.method in _OF_MEMBERS]


def _cells(
    study: Study, sites: Mapping[str, str | None], targets: Sequence[str], width: int, extraction: Extraction
) -> Iterator[Cell]:
    for seed in study.file.seeds:
        for target in targets:
            for fold in range(study.evaluation.folds):
                for row in study.rows:
                    recipe = _recipe(row, seed, width, extraction)
                    sources = _sources(row, seed, target, sites)
                    unit = Unit("cell", recipe, fold, target, row.method, sources, row.dp_sgd)
                    if METHODS[row.method].needs == "vectors" and not sources:
                        unit = local_of(unit)
                    yield Cell(row.name, target, seed, fold, unit)


def _parts(unit: Unit) -> list[Unit]:
    """The units of a cell: of a panel with the choice of its weights; for ``deployed``, the local model's too."""
    panel = [replace(unit, method="panel"), choice_of(unit)]
    return {"panel": panel, "deployed": [local_of(unit), *panel]}.get(unit.method, [unit])


def local_of(unit: Unit) -> Unit:
    """The unit of the target's local model that corresponds to a cell of another method."""
    return replace(unit, method="local", sources=(), dp_sgd=None)


def choice_of(unit: Unit) -> Unit:
    """The unit that chooses what is deployed, and the panel's weights, by inner cross-validation."""
    return replace(unit, kind="choice", method="steph")


def attacks_on(unit: Unit, study: Study) -> list[Unit]:
    """The units that attack the vectors of a cell's sources, as each source would itself; empty without attacks."""
    n_references = study.file.references
    if n_references is None:
        return []
    names = [name for name in unit.sources if name in (study.file.attacked or unit.sources)]
    return [Unit("attack", unit.recipe, 0, name, dp_sgd=unit.dp_sgd, references=n_references) for name in names]


def paid_for(unit: Unit, sites: Sequence[str]) -> list[Unit]:
    """The units whose costs a cell counts: its base model for ``local``, else all trainings beyond the base models."""
    if unit.method == "local":
        return [Unit("base", unit.recipe, unit.fold, unit.site)]
    parts = [one for one in _parts(unit) if one.method != "local"]
    return [*parts, *_together(parts, sites), *once(_further(parts))]


def _validates(unit: Unit) -> bool:
    grid = unit.method.startswith("steph") and unit.recipe.steph.gamma == "cv"
    return unit.kind == "choice" or unit.method in _CHOOSING or grid


def once(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """Each unit once."""
    return tuple({unit.key: unit for unit in units}.values())


def _recipe(row: Row, seed: int, width: int, extraction: Extraction) -> Recipe:
    config = row.config
    seeded = replace(config.model, m0_seed=config.model.m0_seed + seed, m0_sha256=None)
    model = replace(seeded, width=width, **vars(extraction))
    model = replace(model, m0_sha256=_m0(model))
    # The number of bootstrap resamples does not affect a model, so it must not change the unit's key.
    evaluation = replace(config.evaluation, bootstrap=EvaluationConfig().bootstrap)
    return replace(config.recipe, model=model, training=replace(config.training, seed=seed), evaluation=evaluation)


def _sources(row: Row, seed: int, target: str, sites: Mapping[str, str | None]) -> tuple[str, ...]:
    if METHODS[row.method].needs == "nothing":
        return ()
    others = sorted(name for name in sites if name != target and _is_among(row, sites[name], sites[target]))
    if row.sources is None or not others:
        return tuple(others)
    if row.sources > len(others):
        what = f"asks for {row.sources} sources, and there are {len(others)} for {target}"
        raise ConfigError(what, where=f"variants.{row.name}", remedy="Ask for fewer, or add sites")
    drawn = random.Random(derive_seed(seed, "sources", target)).sample(others, len(others))
    return tuple(sorted(drawn[: row.sources]))


def _is_among(row: Row, source: str | None, target: str | None) -> bool:
    """Whether the row takes vectors from a source of this cancer; of two cancers of which one is unknown, never."""
    return row.among is None or (None not in (source, target) and (source == target) == (row.among == "same_cancer"))
