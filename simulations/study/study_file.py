"""A study's YAML: which sites and targets, which seeds, and one row per method and recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fedsteph.client.attack.coins import require_references
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import EvaluationConfig
from fedsteph.common.config.require import require
from fedsteph.common.config.run_config import SITE_NAME, Config, config_of, merged, overrides_of
from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.errors import ConfigError

_ROW = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,=-]{0,47}")
Among = Literal["same_cancer", "other_cancers"]
# Sections of a recipe that a study may set; who takes part, and where, is its own to say.
_TOLD = {"width", "encoder", "magnification", "patch_size", "m0_sha256"}  # keys of model that the sites' files tell
_SECTIONS = ("preset", "model", "training", "sharing", "steph", "panel", "comparators", "evaluation")


@dataclass(frozen=True)
class Variant:
    """A row of its own: a method under another recipe, or with fewer sources."""

    method: str  # name of the method, as in docs/benchmark-appendix.md
    # number of sources, drawn at random; a smaller number is a part of a larger one. null: all [at least 1]
    sources: int | None = None
    # from which sites: those of the target's own cancer, or of other ones; where none is left, the local model stands
    # for the row. A site's cancer is that of its site.yaml, else the one value of its labels' column project. null: all
    among: Among | None = None
    dp_sgd: DpSgd | None = None  # differential privacy of what the sources share, as in site.yaml; null: none

    def __post_init__(self) -> None:
        require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}")
        merges = METHODS[self.method].needs == "vectors"
        require(self.sources is None or self.sources >= 1, "sources", "at least 1, or null")
        require(self.sources is None or merges, "sources", f"null, for {self.method} does not choose among vectors")
        require(self.among is None or merges, "among", f"null, for {self.method} does not choose among vectors")
        require(self.dp_sgd is None or merges, "dp_sgd", f"null, for {self.method} receives no vectors")
        if self.dp_sgd is not None and not self.dp_sgd.is_chosen:
            raise ValueError("dp_sgd needs epsilon or noise")


@dataclass(frozen=True)
class StudyFile:
    """The plain keys of a study's YAML; ``recipe`` and each variant's ``recipe`` are read as a federation's is."""

    sites: Path | None = None  # folder of the site folders, relative to this file; null: --sites names it
    only: tuple[str, ...] = ()  # names of the sites to use; empty: all in the folder [each once]
    targets: tuple[str, ...] = ()  # names of the sites that are targets; empty: every site in turn [each once]
    # random seeds: everything is trained once per seed, with another M0, order of bags, dropout and initial weights
    # [0 to 2^31 - 1, each once]
    seeds: tuple[int, ...] = (0,)
    # methods, one row of the results each, under the study's recipe; names as in docs/benchmark-appendix.md
    # [local among them, each once]
    methods: tuple[str, ...] = ("local", "model_average", "steph", "deployed")
    # rows (methods or variants) that every other row is compared with [each once]
    against: tuple[str, ...] = ("local",)
    # reference models with which the shared vectors are attacked, to see what they give away; null: no attack
    # [even, at least 16]
    references: int | None = None
    # names of the sites whose vectors are attacked, with references set; empty: all that share one [each once]
    attacked: tuple[str, ...] = ()
    device: str = "auto"  # auto: the first CUDA GPU, else the CPU [auto, cpu, cuda:N or mps]

    def __post_init__(self) -> None:
        if self.references is not None:
            require_references(self.references)
        if self.attacked and self.references is None:
            raise ValueError("attacked needs references: how many models to attack with")
        for key in ("only", "targets", "attacked"):
            named = all(SITE_NAME.fullmatch(name) for name in getattr(self, key))
            require(named, key, f"site names like {SITE_NAME.pattern}")
        unknown = [name for name in self.methods if name not in METHODS]
        require(not unknown, "methods", f"known ones, and not {', '.join(unknown)}; known: {', '.join(METHODS)}")
        require(0 < len(self.seeds) == len(set(self.seeds)), "seeds", "a list of different numbers")
        require(all(0 <= seed < 2**31 for seed in self.seeds), "seeds", "numbers from 0 to 2^31 - 1")
        for key in ("only", "targets", "attacked", "methods", "against"):
            names = getattr(self, key)
            require(len(set(names)) == len(names), key, "a list without repetitions")
        if "local" not in self.methods:
            raise ValueError("methods must have local, which everything is compared with")


@dataclass(frozen=True)
class Row:
    """One line of the results: a method under a recipe whose width, M0 and seed are still open."""

    name: str
    title: str
    method: str
    config: Config
    sources: int | None = None
    among: Among | None = None
    dp_sgd: DpSgd | None = None


@dataclass(frozen=True)
class Study:
    """A whole study, read and checked."""

    file: StudyFile
    rows: tuple[Row, ...] = field(default=())

    @property
    def evaluation(self) -> EvaluationConfig:
        """Folds and resamples, the same for every row."""
        return self.rows[0].config.evaluation


def load_study(path: Path, sites: Path | None = None, overrides: Sequence[str] = ()) -> Study:
    """Read a study, with another folder of site folders, if given, and ``key.path=value`` texts over it.

    Raises ConfigError, with the file and the key, if it is not valid.
    """
    mapping = merged(read_yaml(path), overrides_of(overrides))
    recipe, variants = _section(mapping, "recipe", path), _section(mapping, "variants", path)
    plain = {key: value for key, value in mapping.items() if key not in ("recipe", "variants")}
    file = build(StudyFile, plain, path)
    folder = sites if sites is not None else file.sites and (path.parent / file.sites).resolve()
    if folder is None:
        raise ConfigError("the folder of site folders is missing", where=path, remedy="Set 'sites', or give --sites")
    shared = _config(recipe, {}, path, "recipe")
    rows = [Row(name, METHODS[name].title, name, shared) for name in file.methods]
    for name, given in variants.items():
        rows.append(_variant(name, given, recipe, path, {row.name for row in rows}))
    if strangers := set(file.against) - {row.name for row in rows}:
        remedy = f"Rows: {', '.join(row.name for row in rows)}"
        raise ConfigError(f"'against' names what is no row: {', '.join(sorted(strangers))}", where=path, remedy=remedy)
    return Study(replace(file, sites=folder), tuple(rows))


def _variant(name: Any, given: Any, recipe: dict[str, Any], path: Path, taken: set[str]) -> Row:
    where = f"variants.{name}"
    if not isinstance(name, str) or _ROW.fullmatch(name) is None or name in taken:
        raise ConfigError(
            f"'{where}' is not a free name for a row", where=path, remedy=f"Write one like {_ROW.pattern}, once"
        )
    if not isinstance(given, dict):
        raise ConfigError(f"'{where}' must be a mapping", where=path, remedy="Write method, recipe, sources")
    own = _section(given, "recipe", path, f"{where}.")
    plain = {key: value for key, value in given.items() if key != "recipe"}
    variant = build(Variant, plain, path, f"{where}.")
    config = _config(recipe, own, path, where)
    return Row(name, name, variant.method, config, variant.sources, variant.among, variant.dp_sgd)


def _config(shared: dict[str, Any], own: dict[str, Any], path: Path, where: str) -> Config:
    """A preset first (the row's own, or the study's), then the study's keys, then the row's."""
    for mapping in (shared, own):
        if strangers := [key for key in mapping if key not in _SECTIONS]:
            remedy = f"Sections: {', '.join(_SECTIONS)}"
            raise ConfigError(f"'{where}' has the unknown section '{strangers[0]}'", where=path, remedy=remedy)
    if "evaluation" in own:
        remedy = "All rows have the study's: set it in 'recipe'"
        raise ConfigError(f"'{where}' sets evaluation", where=path, remedy=remedy)
    for model in (shared.get("model"), own.get("model")):
        told = _TOLD & set(model if isinstance(model, dict) else {})
        if told:
            remedy = "Leave it out: the sites' files tell it"
            raise ConfigError(f"'{where}' sets model.{min(told)}", where=path, remedy=remedy)
        if isinstance(model, dict) and model.get("m0") is not None:
            remedy = "Leave it out: every seed of a study has another M0"
            raise ConfigError(f"'{where}' sets model.m0", where=path, remedy=remedy)
    together = merged(shared, own)
    config = config_of(together, path)
    if config.training.seed or ("comparators" in together and "methods" in together["comparators"]):
        raise ConfigError(
            f"'{where}' sets training.seed or comparators.methods", where=path, remedy="Use 'seeds' and 'methods'"
        )
    return config


def _section(mapping: dict[str, Any], key: str, path: Path, prefix: str = "") -> dict[str, Any]:
    section = mapping.get(key)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"'{prefix}{key}' must be a mapping", where=path, remedy="Write its keys on lines below it")
    return section
