"""What a target finds out: the scores of all methods, and how its sources were screened and used (``result.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedsteph.client.clinical.clinical_result import ClinicalResult
from fedsteph.client.screening.verdict import Verdict
from fedsteph.client.site.policy import Mode
from fedsteph.client.steph.usage import SourceUse
from fedsteph.client.target.trust import Trust, trust_of
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ModelFileError
from fedsteph.common.host.checked_file import AGAIN, read_json
from fedsteph.common.model.method_scores import Interval, MethodScores, MinusLocal

DEPLOYED = "deployed"  # the folder of the deployed models, below a site's state folder
FINAL = f"{DEPLOYED}/model.safetensors"


@dataclass(frozen=True)
class TrainedScores(MethodScores):
    """A method that learned ``learnable`` parameters at the target; ``further``: means of metrics by name."""

    further: dict[str, float | None]
    learnable: int


@dataclass(frozen=True)
class StephScores(TrainedScores):
    """STEPH, with its choice of gamma, whether it collapsed, and its use of the merged sources, by fold."""

    gamma: tuple[float, ...]
    gamma_reason: tuple[str, ...]
    collapsed: tuple[bool, ...]
    K: int
    sources: tuple[dict[str, SourceUse], ...]

    @property
    def collapsed_folds(self) -> list[int]:
        """The folds in which it collapsed."""
        return [fold for fold, is_so in enumerate(self.collapsed) if is_so]


@dataclass(frozen=True)
class DeployedScores(TrainedScores):
    """What is deployed: ``panel`` or ``local`` in each fold, and why.

    ``useful`` is false where no model's inner C-index is above chance, and null where too few patients tell.
    """

    choice: tuple[str, ...]
    reason: tuple[str, ...]
    useful: tuple[bool | None, ...] = ()  # files of earlier versions do not say


@dataclass(frozen=True)
class ScreenedFolds:
    """What becomes of suspicious vectors, and per fold the verdict on each source."""

    policy: Mode
    folds: tuple[dict[str, Verdict], ...]

    def in_words(self) -> dict[str, str]:
        """One sentence on each source, over all folds."""
        found = {}
        for name in self.folds[0] if self.folds else ():
            reasons = [fold[name].reason for fold in self.folds if name in fold and fold[name].suspicious]
            found[name] = f"suspicious in {len(reasons)} of {len(self.folds)} folds"
            if reasons:
                found[name] += f": {reasons[0]}"
        return found


@dataclass(frozen=True)
class UnoMinusLocal(MinusLocal):
    """A method minus the local model, in Uno's C too."""

    uno_mean: float | None = field(default=None, kw_only=True)  # files of earlier versions do not have it
    uno_interval_95: Interval | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class StephMinusLocal(UnoMinusLocal):
    """STEPH minus the local model, and the C-index of both in each fold's inner cross-validation."""

    inner_steph: tuple[float | None, ...]
    inner_local: tuple[float | None, ...]


@dataclass(frozen=True)
class FinalModel:
    """The model of all of the target's patients. No patient is left to test it on."""

    path: str  # of its file, below the state folder
    members: int  # models that predict together
    choice: Literal["local", "panel", "steph"]  # steph: in files of earlier versions
    reason: str
    useful: bool | None  # as in DeployedScores, over all folds
    gamma: float | None  # of an enhanced one
    gamma_reason: str | None
    weights: dict[str, float]  # source -> factor on its vector, by the folds' screening; 0: left out
    w: dict[str, float]  # source -> mean w over all patients and members; empty for a local one


# Of the methods that are not TrainedScores.
BOUNDS = ("oracle", "best_static_merge", "oracle_routing")  # rows of a synthetic world, whose truth is known
_ROWS: dict[str, type[MethodScores]] = {"steph": StephScores, "deployed": DeployedScores}
_ROWS |= dict.fromkeys(BOUNDS, MethodScores)


@dataclass(frozen=True)
class TargetResult:
    """The full result of a target; it stays at the site. Its fields are those of ``result.json``, in their order."""

    n_patients: int
    n_events: int
    n_pairs: int  # comparable pairs of test patients, over all folds
    sources: tuple[str, ...]
    sharing: SharingConfig
    screening: ScreenedFolds
    too_small: str | None  # a sentence if the target cannot be evaluated in all or in some folds
    methods: dict[str, MethodScores]
    deployed_minus_local: MinusLocal
    steph_minus_local: StephMinusLocal
    models: str  # folder of the deployed models
    privacy_spent: str  # of all vectors that the site shared, in words
    enhanced: tuple[str | None, ...]  # each fold's model, below the state folder; None where every source was refused
    # Mean over folds of how far the deployed model's survival differs between patients: from the 10th to the 90th
    # percentile, at 1, 3 or 5 years, where it is widest. Files of earlier versions do not have it.
    spread: float | None = None
    unequal: str | None = None  # a sentence if STEPH and the local model were trained for unlike numbers of epochs
    panel_minus_local: UnoMinusLocal | None = None  # None in files of earlier versions
    kept: tuple[str, ...] = ()  # those of the sources whose vectors came in an earlier run or as a file
    final: FinalModel | None = None  # None: none was asked for, or an earlier version made the result
    clinical: ClinicalResult | None = None  # None: the site file names no clinical columns, or likewise
    cohort: str | None = None  # the patients in one line; files of earlier versions do not have it

    @property
    def trained(self) -> dict[str, TrainedScores]:
        """All methods but a synthetic world's bounds."""
        return {name: row for name, row in self.methods.items() if isinstance(row, TrainedScores)}

    @property
    def steph(self) -> StephScores:
        """STEPH's row of the methods."""
        row = self.methods["steph"]
        assert isinstance(row, StephScores)
        return row

    @property
    def enhanced_row(self) -> MethodScores:
        """The row of what is deployed if it is not the local model: the panel; in earlier versions, STEPH."""
        return self.methods.get("panel", self.steph)

    @property
    def enhanced_minus_local(self) -> UnoMinusLocal:
        """The same minus the local model."""
        return self.panel_minus_local or self.steph_minus_local

    @property
    def deployed(self) -> DeployedScores:
        """The deployed model's row of the methods."""
        row = self.methods["deployed"]
        assert isinstance(row, DeployedScores)
        return row

    @property
    def useful(self) -> bool | None:
        """False where no model is useful in most of the folds that can tell, and None where none can."""
        told = [useful for useful in self.deployed.useful if useful is not None]
        return sum(told) * 2 >= len(told) if told else None

    @property
    def trust(self) -> Trust:
        """Whether the enhanced model is better than the local one, with all red flags."""
        return trust_of(self)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``result.json``: the fields, ``useful`` and ``trust``."""
        return to_dict(self) | {"useful": self.useful, "trust": to_dict(self.trust)}

    @classmethod
    def of(cls, content: Mapping[str, Any], where: Path) -> TargetResult:
        """Take what :meth:`to_dict` gave; ModelFileError if an earlier version wrote the file ``where``."""
        try:
            fields = {key: value for key, value in content.items() if key not in ("useful", "trust")}
            result = build(cls, fields | {"methods": {}}, where)
            for name, row in content["methods"].items():
                result.methods[name] = build(_ROWS.get(name, TrainedScores), row, where)
            return result
        except (ConfigError, KeyError) as error:
            raise ModelFileError("is of an earlier version", where=where, remedy=AGAIN) from error

    @classmethod
    def read(cls, path: Path) -> TargetResult:
        """Read ``result.json``; errors as :meth:`of`."""
        return cls.of(read_json(path), path)
