"""The recipe: what sites train and how, the same for every site of a run. Its digest keys all work on a site's disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from fedsteph.common.config.method_names import COMPARATORS

Dtype = Literal["float32", "float16", "bfloat16"]


def require(condition: bool, key: str, meaning: str) -> None:
    """Raise ValueError, which names the key and what it must be, where the condition does not hold."""
    if not condition:
        raise ValueError(f"{key} must be {meaning}")


@dataclass(frozen=True)
class ModelConfig:
    """The base model, ABMIL, and the initial weights M0 that every site starts from."""

    width: int | None = None  # feature width d; null: the width that all sites share (simulation only)
    encoder: str | None = None  # name that feature files must carry where they carry one; null: as width
    embed: int = 512  # width of an embedded instance
    attention: int = 384  # hidden width of the gated attention
    n_bins: int = 32  # yearly hazards, 365 days each
    dropout: float = 0.25  # on both branches of the gated attention, and in STEPH's heads
    head_bias: Literal["default", "empirical"] = "empirical"  # default: PyTorch's; empirical: data's hazard
    m0_seed: int = 42  # seed of M0
    m0_sha256: str | None = None  # digest that M0 must have; simulate fills it in

    def __post_init__(self) -> None:
        require(self.width is None or 1 <= self.width <= 65_536, "width", "1 to 65536, or null")
        name = self.encoder
        require(name is None or (0 < len(name) <= 120 and name.isprintable()), "encoder", "a line, or null")
        for key in ("embed", "attention", "n_bins"):
            require(1 <= getattr(self, key) <= 4096, key, "1 to 4096")
        require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")
        require(0 <= self.m0_seed < 2**63, "m0_seed", "0 to 2^63 - 1")
        require(
            self.m0_sha256 is None or re.fullmatch("[0-9a-f]{64}", self.m0_sha256) is not None,
            "m0_sha256",
            "64 hexadecimal digits, or null",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe of all models but for what ``steph`` says of its own: AdamW, linear warm-up, cosine to 0 per step."""

    epochs: int = 20
    lr: float = 1e-4
    weight_decay: float = 1e-5  # on tensors of 2 or more dimensions only
    batch_bags: int = 16  # bags per step
    warmup_epochs: float = 1.0  # the very first update has lr 0
    loss: Literal["nll", "cox"] = "nll"  # cox: the partial likelihood over a step's bags, hazards fitted afterwards
    alpha: float = 0.5  # censored bags weigh 1 - alpha in the NLL
    precision: Literal["float32", "bfloat16"] = "float32"  # of the factors of products over instances; sums: float32
    drop_last: bool = False  # drop an epoch's remainder of fewer than batch_bags, if a full batch exists
    seed: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 1000, "epochs", "1 to 1000")
        require(0 < self.lr <= 1, "lr", "above 0, at most 1")
        require(0 <= self.weight_decay <= 1, "weight_decay", "0 to 1")
        require(1 <= self.batch_bags <= 4096, "batch_bags", "1 to 4096")
        require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", "0 to epochs")
        require(0 <= self.alpha < 1, "alpha", "at least 0 and below 1")
        require(0 <= self.seed < 2**63, "seed", "0 to 2^63 - 1")


@dataclass(frozen=True)
class SharingConfig:
    """Which part of a site's task vector travels to a target, and as what numbers; zeros stand for the rest there.

    FedAvg's and FedProx's updates are the whole encoder in float32 whatever stands here.
    """

    dtype: Dtype = "float32"  # of its numbers; float16, bfloat16: half the bytes, rounded once, at the sender
    layers: Literal["encoder", "attention", "embed"] = "encoder"  # encoder: all; attention: V, U and c
    rank: int | None = None  # singular directions per matrix, where they are fewer numbers; null: whole matrices

    def __post_init__(self) -> None:
        require(self.rank is None or 1 <= self.rank <= 4096, "rank", "1 to 4096, or null")


@dataclass(frozen=True)
class StephConfig:
    """STEPH at the target (paper eq. 3-7)."""

    K: int | None = 5  # mixtures kept per bag; null: all of them (no sparsity)
    variant: Literal["nn", "fnn", "param", "fix"] = "nn"  # where lam comes from
    weights: Literal["nn", "param"] = "nn"  # where w comes from; param: one learnable w per source
    output: Literal["relu", "softplus", "sigmoid"] = "relu"  # activation of the aggregation weights w
    fixed_lam: float = 0.5  # variant fix: lam, 1 = pure target
    start: Literal["default", "local"] = "default"  # local: the target's head, and a first merge near its own model
    start_lam: float = 0.9  # start local: the lam of the first merge ..
    start_mass: float = 1.0  # .. and the sum of its kept w
    spread: float = 0.03  # start local: how fast bags learn to differ, beside the head
    normalise: bool = False  # scale every source vector to the length of the target's
    epochs: int | None = None  # of STEPH's training; null: training.epochs
    lr: float | None = None  # likewise; null: training.lr
    beta: float = 0.05  # weight of L_mix
    gamma: float | Literal["cv"] = "cv"  # weight of L_agg; cv: chosen by inner cross-validation
    gamma_grid: tuple[float, ...] = (0.0, 0.005, 0.05)
    balance: bool = True  # add the mean of the kept w to L_agg
    inner_folds: int = 3  # of the target's training patients: for gamma and for what is deployed
    routing_instances: int | None = None  # the hypernetworks see so many of a bag's instances; null: all of them

    def __post_init__(self) -> None:
        require(self.K is None or self.K >= 1, "K", "at least 1, or null")
        require(0 <= self.fixed_lam <= 1, "fixed_lam", "0 to 1")
        require(0 < self.start_lam <= 1, "start_lam", "above 0, at most 1")
        require(0 <= self.spread <= 1, "spread", "0 to 1")
        require(0 < self.start_mass <= 10, "start_mass", "above 0, at most 10")
        above = self.start == "local" and self.output == "sigmoid" and self.start_mass >= 1
        require(not above, "start_mass", "below 1 where output is sigmoid")
        require(self.epochs is None or 1 <= self.epochs <= 1000, "epochs", "1 to 1000, or null")
        require(self.lr is None or 0 < self.lr <= 1, "lr", "above 0, at most 1, or null")
        require(self.beta >= 0, "beta", "at least 0")
        require(self.gamma == "cv" or float(self.gamma) >= 0, "gamma", "at least 0, or cv")
        require(1 <= len(self.gamma_grid) <= 20, "gamma_grid", "a list of 1 to 20 values")
        require(min(self.gamma_grid) >= 0, "gamma_grid", "values of at least 0")
        require(len(set(self.gamma_grid)) == len(self.gamma_grid), "gamma_grid", "a list without repetitions")
        require(2 <= self.inner_folds <= 20, "inner_folds", "2 to 20")
        seen = self.routing_instances
        require(seen is None or 1 <= seen <= 1_000_000, "routing_instances", "1 to 1000000, or null")


@dataclass(frozen=True)
class ComparatorConfig:
    """The methods that a target trains beside its own model and STEPH, and their constants."""

    methods: tuple[str, ...] = ("model_average",)  # names of fedsteph.common.config.method_names
    gamma: float = 0.005  # weight of the z-loss of the merging methods
    coefficients: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of task arithmetic, chosen by inner validation
    density: float = 0.2  # share of each vector's entries that TIES keeps
    surgery_rank: int = 16  # width of Surgery's bottleneck
    rounds: int = 20  # of FedAvg and FedProx
    local_epochs: int = 1  # of each site in a round
    proximal_mu: float = 0.01  # FedProx's pull towards the round's global model

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in COMPARATORS]
        require(not unknown, "methods", f"among {', '.join(COMPARATORS)}; not known: {', '.join(unknown)}")
        require(len(set(self.methods)) == len(self.methods), "methods", "a list without repetitions")
        require(self.gamma >= 0, "gamma", "at least 0")
        require(1 <= len(self.coefficients) <= 20, "coefficients", "a list of 1 to 20 values")
        require(max(map(abs, self.coefficients)) <= 10, "coefficients", "values of at most 10")
        require(0 < self.density <= 1, "density", "above 0, at most 1")
        require(1 <= self.surgery_rank <= 4096, "surgery_rank", "1 to 4096")
        require(1 <= self.rounds <= 1000, "rounds", "1 to 1000")
        require(1 <= self.local_epochs <= 100, "local_epochs", "1 to 100")
        require(0 <= self.proximal_mu <= 100, "proximal_mu", "0 to 100")


@dataclass(frozen=True)
class EvaluationConfig:
    """How a target measures its models."""

    folds: int = 5  # the first so many of a site's splits_<k>.csv, or so many made from split_seed
    split_seed: int = 0
    bootstrap: int = 1000  # resamples behind each 95% interval

    def __post_init__(self) -> None:
        require(1 <= self.folds <= 20, "folds", "1 to 20")
        require(0 <= self.split_seed < 2**63, "split_seed", "0 to 2^63 - 1")
        require(10 <= self.bootstrap <= 10_000, "bootstrap", "10 to 10000")


@dataclass(frozen=True)
class Recipe:
    """The part that sites act on: what to train and how. Its digest keys all work kept on a site's disk."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sharing: SharingConfig = field(default_factory=SharingConfig)
    steph: StephConfig = field(default_factory=StephConfig)
    comparators: ComparatorConfig = field(default_factory=ComparatorConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def base_digest(self) -> str:
        """Digest of what decides a site's own models: recipes that differ elsewhere share them."""
        return digest([to_dict(self.model), to_dict(self.training)])


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-ready mapping of a configuration dataclass."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON of a configuration dataclass, or of plain JSON."""
    plain = to_dict(config) if dataclasses.is_dataclass(config) else config
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
