"""The configuration of a federation's run: one commented YAML, read strictly, the same for every site.

Every configuration stands on a preset (:mod:`fedsteph.common.config.presets`): ``robust`` where none is named,
``paper`` for the published recipe, or ``null`` for the plain defaults of :mod:`fedsteph.common.config.recipe`, which
are the paper's but for the head's bias, for keeping an epoch's last, smaller batch, and for a 0 among the gammas. A key
in the file wins over the preset that the file names; a preset named by an override wins over the file.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from fedsteph.common.config.core_yaml import StrictDumper, brief
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.presets import DEFAULT_PRESET, PRESETS
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.require import require
from fedsteph.common.config.schema import build, parse_yaml, read_yaml
from fedsteph.common.config.steph_epochs import unequal_training
from fedsteph.common.errors import ConfigError

MAX_NORM = 250.0  # L2, of a vector that is accepted where nothing else is said
_log = logging.getLogger(__name__)
_warn = functools.cache(_log.warning)  # once per process: a run loads its configuration several times
SITE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def require_name(name: str) -> None:
    """Raise ValueError unless a text can be a site's name."""
    require(SITE_NAME.fullmatch(name) is not None, "site", f"a name like {SITE_NAME.pattern}")


def require_cancer(cancer: str | None) -> None:
    """Raise ValueError unless a text can be a cancer's short name; None: not known."""
    known = cancer is None or SITE_NAME.fullmatch(cancer) is not None
    require(known, "cancer", f"a short name such as brca, like {SITE_NAME.pattern}, or null")


@dataclass(frozen=True)
class Deadlines:
    """Seconds that the start waits for nodes, and that each phase waits for its slowest site."""

    # seconds to wait at the start for sites that are not connected; without those the run goes on, if the quorum is
    # there [above 0, at most 2592000]
    nodes: float = 300.0
    # seconds that each site has for its first answer, from when it is asked [above 0, at most 2592000]
    hello: float = 300.0
    # seconds for the sites' own models, and for each round of FedAvg or FedProx [above 0, at most 2592000]
    local: float = 86_400.0
    share: float = 3_600.0  # seconds for sealing and sending vectors [above 0, at most 2592000]
    merge: float = 86_400.0  # seconds for merging and measuring at the targets [above 0, at most 2592000]
    # seconds that a site may be gone within a phase; if it comes back before, it is asked again and goes on from what
    # it has kept. 0: a site that loses its connection has failed [0 to 2592000]
    away: float = 300.0

    def __post_init__(self) -> None:
        require(0 <= self.away <= 30 * 86_400, "away", "0 to 30 days in seconds")
        for key in ("nodes", "hello", "local", "share", "merge"):
            require(0 < getattr(self, key) <= 30 * 86_400, key, "above 0, at most 30 days in seconds")


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part, and what the coordinator may wait for."""

    # name of the federation, as in its roster [1 to 32 of a-z, 0-9, _ and -, the first a letter or digit]
    name: str = "fedsteph"
    sites: tuple[str, ...] = ()  # names of the sites expected; empty: every site folder (simulation only) [each once]
    # names of the sites that get an enhanced model; empty: the first site (simulation only) [among sites, each once]
    targets: tuple[str, ...] = ()
    # least number of sites, a target among them, that must be left after a phase; with fewer the run ends [at least 2]
    quorum: int = 2
    # largest L2 norm of a vector that a target accepts; a site may set a lower one in its site.yaml [above 0]
    max_vector_norm: float = MAX_NORM
    # let targets merge, beside what arrives, the vectors that they kept from earlier runs of the same M0, architecture,
    # encoder and sharing; a target's site file has to agree with reuse_vectors
    reuse: bool = False
    deadlines: Deadlines = field(default_factory=Deadlines)  # how long each phase waits, in seconds; at most 30 days

    def __post_init__(self) -> None:
        require(SITE_NAME.fullmatch(self.name) is not None, "name", f"like {SITE_NAME.pattern}")
        for key in ("sites", "targets"):
            names = getattr(self, key)
            require(len(set(names)) == len(names), key, "a list without repetitions")
            for name in names:
                require(SITE_NAME.fullmatch(name) is not None, key, f"names like {SITE_NAME.pattern}")
        strangers = set(self.targets) - set(self.sites) if self.sites else set()
        require(not strangers, "targets", f"among the sites; not among them: {', '.join(sorted(strangers))}")
        require(self.quorum >= 2, "quorum", "at least 2 (a target and a source)")
        require(self.max_vector_norm > 0, "max_vector_norm", "above 0")


@dataclass(frozen=True)
class Config(Recipe):
    """The whole configuration of a federation's run."""

    # named recipe; keys in the file win over it. A file that names none has robust; null: the keys' own defaults
    preset: Literal["paper", "robust"] | None = None
    federation: FederationConfig = field(default_factory=FederationConfig)  # who takes part, and how long a run waits
    # device of simulated sites (others: site.yaml); auto: the first CUDA GPU, else the CPU [auto, cpu, cuda:N or mps]
    device: str = "auto"

    @property
    def recipe(self) -> Recipe:
        """The part that is sent to the sites."""
        return Recipe(**{part.name: getattr(self, part.name) for part in fields(Recipe)})


def load_config(path: Path | str | None = None, overrides: Sequence[str] | None = None) -> Config:
    """Read a federation's YAML and apply ``key.path=value`` overrides, whose values are YAML too.

    Args:
        path: None: the preset ``robust``.
        overrides: such as ``["model.width=1536", "training.epochs=10"]``.

    Raises:
        ConfigError: naming the file (or ``--set``) and the key.
    """
    where: str | Path = path if path is not None else "configuration"
    mapping, chosen = {} if path is None else _beside(Path(path)), overrides_of(overrides or [])
    if "preset" in chosen and ("preset" not in mapping or chosen["preset"] is None):
        mapping["preset"] = None  # what the override says is instead of a preset below the file
    mapping = _over_preset(mapping, where)
    mapping = merged(merged(mapping, _preset(chosen.get("preset"), "--set")), chosen)
    config: Config = build(Config, mapping, where)
    if (unequal := unequal_training(config.recipe)) is not None:
        _warn(unequal)
    m0 = config.model.m0  # absolute, because other processes of a run stand in other folders
    return config if m0 is None else replace(config, model=replace(config.model, m0=str(Path(m0).resolve())))


def _beside(path: Path) -> dict[str, Any]:
    """The mapping of a file, with ``model.m0`` as seen from here: in the file it is relative to the file's folder."""
    mapping = read_yaml(path)
    model = mapping.get("model")
    if isinstance(model, dict) and isinstance(m0 := model.get("m0"), str) and m0.strip():
        mapping["model"] = model | {"m0": str(path.parent / m0)}
    return mapping


def overrides_of(texts: Sequence[str]) -> dict[str, Any]:
    """The mapping that ``key.path=value`` texts describe."""
    chosen: dict[str, Any] = {}
    for override in texts:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"'{override}' is not key=value", where="--set", remedy="Write e.g. steph.K=3")
        _assign(chosen, key.split("."), parse_yaml(f"value: {text}", f"--set {override}")["value"])
    return chosen


def config_of(mapping: dict[str, Any], where: str | Path) -> Config:
    """The configuration that a mapping describes, over the preset that it names."""
    return build(Config, _over_preset(mapping, where), where)


def _over_preset(mapping: dict[str, Any], where: str | Path) -> dict[str, Any]:
    name = mapping.get("preset", DEFAULT_PRESET)
    return merged(_preset(name, where) | {"preset": name}, mapping)


def _preset(name: Any, where: str | Path) -> dict[str, Any]:
    """The keys of a preset; none for null."""
    if name is None:
        return {}
    if not isinstance(name, str) or name not in PRESETS:
        known = ", ".join(PRESETS)
        raise ConfigError(f"unknown preset {brief(name)}", where=where, remedy=f"Known presets: {known}")
    return PRESETS[name]


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML that :func:`load_config` reads back to the same digest; no path is in it."""
    return yaml.dump(to_dict(config), Dumper=StrictDumper, sort_keys=False)


def _assign(mapping: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        mapping = mapping.setdefault(part, {})
        if not isinstance(mapping, dict):
            raise ConfigError(f"'{part}' is a value, not a section", where="--set", remedy="Check the key")
    mapping[path[-1]] = value


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``top`` over it, section by section; ``base`` itself stays as it is."""
    together = dict(base)
    for key, value in top.items():
        below = together.get(key)
        together[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return together
