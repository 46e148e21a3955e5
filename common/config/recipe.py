"""The recipe: what sites train and how, the same for every site of a run. Its digest keys all work on a site's disk.

A key's comment, behind it or above it, is its meaning, and in brackets its bounds. docs/configuration.md and
``fedsteph config`` are made of these comments, and a test holds the bounds against what is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from fedsteph.common.config.digest import LATER, LOCAL, digest, to_dict
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.method_names import COMPARATORS
from fedsteph.common.config.panel_config import PanelConfig
from fedsteph.common.config.require import require
from fedsteph.common.encoders.base_kinds import KINDS
from fedsteph.common.encoders.kind import Sizes

Dtype = Literal["float32", "float16", "bfloat16"]
MOST_MEMBERS = 20  # of a final model


@dataclass(frozen=True)
class ModelConfig:
    """The base model, and the initial weights M0 that every site starts from."""

    # length d of a feature vector, the same at every site; null: as in the sites' files (simulation only) [1 to 65536]
    width: int | None = None
    # name of the model that made the features, as feature files state it, e.g. uni_v1. A site whose files state another
    # one is refused; null: not compared. A simulation fills it in [1 to 120 printable characters]
    encoder: str | None = None
    # magnification of the patches, as feature files state it, e.g. 20; compared and filled in as the encoder is
    # [above 0, at most 1000]
    magnification: float | None = None
    # side of a patch in pixels at that magnification, likewise [above 0, at most 65536]
    patch_size: float | None = None
    embed: int = 512  # width of z, the vector of a bag, and of an embedded instance (patch) [1 to 4096]
    attention: int = 384  # hidden width of the attention [1 to 4096]
    n_bins: int = 32  # yearly time bins, of 365 days each, for which a hazard is predicted [1 to 4096]
    dropout: float = 0.25  # dropout rate in the encoder and in STEPH's heads [at least 0 and below 1]
    # initial bias of the output head. default: PyTorch's random one; empirical: the training patients' yearly hazards
    head_bias: Literal["default", "empirical"] = "empirical"
    m0_seed: int = 42  # random seed of the initial weights M0 [0 to 2^63 - 1]
    # model file that is M0, in place of the one made from m0_seed; relative to this file. It stays on its machine: in a
    # deployment each site names its own copy in site.yaml, and m0_sha256 says which it must be [a path]
    m0: str | None = field(default=None, metadata=LOCAL)
    # SHA-256 that M0 must have. null: the digest of the M0 that the coordinator's machine makes or reads, filled in at
    # the start [64 hexadecimal digits]
    m0_sha256: str | None = None
    # abmil, transmil, dsmil, patchgcn (whose slides need coords), ilra or r2t: docs/models.md says what each is
    # [abmil, transmil, dsmil, patchgcn, ilra or r2t]
    kind: str = field(default="abmil", metadata=LATER)
    # most instances of a bag that the model looks at: of a larger one so many are drawn, always the same ones; null: as
    # many as the kind bears (docs/models.md), with abmil and dsmil all [1 to 10000000]
    max_instances: int | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        require(self.width is None or 1 <= self.width <= 65_536, "width", "1 to 65536, or null")
        name = self.encoder
        require(name is None or (0 < len(name) <= 120 and name.isprintable()), "encoder", "a line, or null")
        for key, most in (("magnification", 1000), ("patch_size", 65_536)):
            value = getattr(self, key)
            require(value is None or 0 < value <= most, key, f"above 0, at most {most}, or null")
        for key in ("embed", "attention", "n_bins"):
            require(1 <= getattr(self, key) <= 4096, key, "1 to 4096")
        require(self.kind in KINDS, "kind", f"one of {', '.join(KINDS)}")
        KINDS[self.kind].require(Sizes(self.width or 1, self.embed, self.attention))
        drawn = self.max_instances
        require(drawn is None or 1 <= drawn <= 10_000_000, "max_instances", "1 to 10000000, or null")
        require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")
        require(0 <= self.m0_seed < 2**63, "m0_seed", "0 to 2^63 - 1")
        require(self.m0 is None or bool(self.m0.strip()), "m0", "a path, or null")
        require(
            self.m0_sha256 is None or re.fullmatch("[0-9a-f]{64}", self.m0_sha256) is not None,
            "m0_sha256",
            "64 hexadecimal digits, or null",
        )

    @property
    def extraction(self) -> Extraction:
        """How all sites' features must have been made, as far as it is set."""
        return Extraction(self.encoder, self.magnification, self.patch_size)


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe of all models but for what ``steph`` says of its own: AdamW, linear warm-up, cosine to 0 per step."""

    epochs: int = 20  # passes over the training patients [1 to 1000]
    # least number of steps: a site whose epochs have fewer makes as many more epochs as that takes [0 to 1000000]
    min_steps: int = 0
    lr: float = 1e-4  # highest learning rate, reached after the warm-up [above 0, at most 1]
    weight_decay: float = 1e-5  # AdamW's weight decay, on tensors of 2 or more dimensions only [0 to 1]
    batch_bags: int = 16  # bags (patients) per step [1 to 4096]
    # epochs in which the learning rate rises linearly from 0 (the very first step has 0) [0 to epochs]
    warmup_epochs: float = 1.0
    # nll: negative log-likelihood of the yearly hazards; cox: Cox's partial likelihood over the bags of a step, and the
    # baseline hazards fitted afterwards
    loss: Literal["nll", "cox"] = "nll"
    alpha: float = 0.5  # a censored bag weighs 1 - alpha in the loss nll [at least 0 and below 1]
    # number format of the factors in products over a bag's instances; sums stay float32
    precision: Literal["float32", "bfloat16"] = "float32"
    # leave out an epoch's last step where it has fewer than batch_bags bags and is not the only one
    drop_last: bool = False
    # random seed of the order of bags, of dropout and of initial weights other than M0's [0 to 2^63 - 1]
    seed: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 1000, "epochs", "1 to 1000")
        require(0 <= self.min_steps <= 1_000_000, "min_steps", "0 to 1000000")
        require(0 < self.lr <= 1, "lr", "above 0, at most 1")
        require(0 <= self.weight_decay <= 1, "weight_decay", "0 to 1")
        require(1 <= self.batch_bags <= 4096, "batch_bags", "1 to 4096")
        require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", "0 to epochs")
        require(0 <= self.alpha < 1, "alpha", "at least 0 and below 1")
        require(0 <= self.seed < 2**63, "seed", "0 to 2^63 - 1")


@dataclass(frozen=True)
class SharingConfig:
    """What of a task vector travels to a target; the rest is zeros there. FedAvg's and FedProx's updates are whole."""

    # number format that a vector travels in. float16, bfloat16: half the bytes, rounded once, at the sender
    dtype: Dtype = "float32"
    # patients whose model is shared. fold_0: fold 0's training part, so that an audit can compare them with its test
    # part; all: every patient
    trained_on: Literal["fold_0", "all"] = "fold_0"
    members: int = 1  # models, alike but for the seed, whose mean is shared [1 to 20]
    # layers that travel. encoder: all of the encoder; attention: the gated attention only; embed: the embedding only
    layers: Literal["encoder", "attention", "embed"] = "encoder"
    # how many of a matrix's leading singular directions travel, where that is fewer numbers; null: the whole matrix
    # [1 to 4096]
    rank: int | None = None
    # whether the head's risk direction travels with the vector; the baseline hazards never do. same_cancer: to targets
    # of the source's own cancer, where both sites state theirs
    head: Literal["never", "same_cancer", "always"] = "same_cancer"

    def __post_init__(self) -> None:
        require(1 <= self.members <= MOST_MEMBERS, "members", f"1 to {MOST_MEMBERS}")
        require(self.rank is None or 1 <= self.rank <= 4096, "rank", "1 to 4096, or null")


@dataclass(frozen=True)
class StephConfig:
    """STEPH at the target (paper eq. 3-7)."""

    # mixtures (of the target's vector with one source's) kept per bag: those of the largest w; null: all [at least 1]
    K: int | None = 5
    # where lam comes from, the target's share of a mixture. nn: a hypernetwork that shares its encoder with w's; fnn: a
    # hypernetwork with its own encoder; param: one learnable lam per source; fix: the constant fixed_lam
    variant: Literal["nn", "fnn", "param", "fix"] = "nn"
    # where w comes from, the weight of a mixture. nn: a hypernetwork, per bag; param: one learnable w per source
    weights: Literal["nn", "param"] = "nn"
    output: Literal["relu", "softplus", "sigmoid"] = "relu"  # activation that the weights w pass through
    fixed_lam: float = 0.5  # lam under variant fix; 1: the target's own vector alone [0 to 1]
    # where STEPH's training starts. default: PyTorch's random weights; local: the head of the target's own model, and
    # the first merge that start_lam and start_mass describe
    start: Literal["default", "local"] = "default"
    start_lam: float = 0.9  # under start local: lam in the first merge [above 0, at most 1]
    # under start local: sum of the kept w in the first merge; below 1 where output is sigmoid [above 0, at most 10]
    start_mass: float = 1.0
    # under start local, where sources share heads: factor of the target's vector and of each of theirs in the first
    # merge; 1: their sum [above 0, at most 10]
    start_sum: float = 1.0
    # under start local: factor on what the hypernetworks add to the first merge; the smaller, the less bags differ
    # [0 to 1]
    spread: float = 0.03
    # under start local, with weights nn: a p-value. Where a permutation test on the training patients gives no larger
    # one to "all of them need the same sources", the w of each bag are a softmax times start_mass, on four principal
    # components of its mean instance, and free to differ between bags; null: no test [0.001 to 1]
    routing_test: float | None = None
    normalise: bool = False  # scale every source's vector to the L2 norm of the target's
    # STEPH's passes over the training patients; null: training.epochs times epochs_factor [1 to 1000]
    epochs: int | None = None
    epochs_factor: float = 1.0  # STEPH's share of training.epochs, where epochs is null [above 0, at most 10]
    lr: float | None = None  # STEPH's highest learning rate; null: training.lr [above 0, at most 1]
    beta: float = 0.05  # weight of the mixing loss L_mix [at least 0]
    # weight of the aggregation loss L_agg. cv: chosen from gamma_grid by inner cross-validation [at least 0]
    gamma: float | Literal["cv"] = "cv"
    # the values that gamma cv chooses from [1 to 20 of at least 0, each once]
    gamma_grid: tuple[float, ...] = (0.0, 0.005, 0.05)
    # add the mean of the kept w to L_agg, as the released code does; with K null, nothing is added there nor here
    balance: bool = True
    # folds of the target's training patients, for the choices of gamma and of the model that is deployed [2 to 20]
    inner_folds: int = 3
    inner_repeats: int = 1  # divisions of these patients into inner folds, each by another random seed [1 to 20]
    # how many of a bag's instances, drawn at random, the hypernetworks see; null: all [1 to 1000000]
    routing_instances: int | None = None

    def __post_init__(self) -> None:
        require(self.K is None or self.K >= 1, "K", "at least 1, or null")
        require(0 <= self.fixed_lam <= 1, "fixed_lam", "0 to 1")
        require(0 < self.start_lam <= 1, "start_lam", "above 0, at most 1")
        require(0 <= self.spread <= 1, "spread", "0 to 1")
        limit = self.routing_test
        require(limit is None or 0.001 <= limit <= 1, "routing_test", "0.001 to 1, or null")
        require(0 < self.start_mass <= 10, "start_mass", "above 0, at most 10")
        require(0 < self.start_sum <= 10, "start_sum", "above 0, at most 10")
        above = self.start == "local" and self.output == "sigmoid" and self.start_mass >= 1
        require(not above, "start_mass", "below 1 where output is sigmoid")
        require(self.epochs is None or 1 <= self.epochs <= 1000, "epochs", "1 to 1000, or null")
        require(0 < self.epochs_factor <= 10, "epochs_factor", "above 0, at most 10")
        require(self.lr is None or 0 < self.lr <= 1, "lr", "above 0, at most 1, or null")
        require(self.beta >= 0, "beta", "at least 0")
        require(self.gamma == "cv" or float(self.gamma) >= 0, "gamma", "at least 0, or cv")
        require(1 <= len(self.gamma_grid) <= 20, "gamma_grid", "a list of 1 to 20 values")
        require(min(self.gamma_grid) >= 0, "gamma_grid", "values of at least 0")
        require(len(set(self.gamma_grid)) == len(self.gamma_grid), "gamma_grid", "a list without repetitions")
        require(2 <= self.inner_folds <= 20, "inner_folds", "2 to 20")
        require(1 <= self.inner_repeats <= 20, "inner_repeats", "1 to 20")
        seen = self.routing_instances
        require(seen is None or 1 <= seen <= 1_000_000, "routing_instances", "1 to 1000000, or null")


@dataclass(frozen=True)
class ComparatorConfig:
    """The methods that a target trains beside its own model and STEPH, and their constants."""

    # methods to train beside local, steph and panel, which are always trained; names as in docs/benchmark-appendix.md,
    # without pooled [each once]
    methods: tuple[str, ...] = ("model_average",)
    gamma: float = 0.005  # weight of the z-loss, (log sum exp w)^2, in the merging methods that learn w [at least 0]
    # factors of task arithmetic to choose among by inner validation [1 to 20 from -10 to 10]
    coefficients: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    density: float = 0.2  # share of each vector's numbers that TIES keeps, the largest [above 0, at most 1]
    surgery_rank: int = 16  # width of the bottleneck in Surgery's adapter [1 to 4096]
    rounds: int = 20  # rounds of FedAvg and FedProx [1 to 1000]
    local_epochs: int = 1  # passes over each site's patients in one round of FedAvg and FedProx [1 to 100]
    # weight eta of the term that draws the distilled model's risks to the sources' [0 to 100]
    distillation: float = 1.0
    shrinkage: float = 0.01  # how strongly the shrunk model is pulled towards the sum of all vectors [0 to 100]
    proximal_mu: float = 0.01  # how strongly FedProx pulls a site's model towards the round's global one [0 to 100]

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in COMPARATORS]
        require(not unknown, "methods", f"known ones, and not {', '.join(unknown)}; known: {', '.join(COMPARATORS)}")
        require(len(set(self.methods)) == len(self.methods), "methods", "a list without repetitions")
        require(self.gamma >= 0, "gamma", "at least 0")
        require(1 <= len(self.coefficients) <= 20, "coefficients", "a list of 1 to 20 values")
        require(max(map(abs, self.coefficients)) <= 10, "coefficients", "values of at most 10")
        require(0 < self.density <= 1, "density", "above 0, at most 1")
        require(1 <= self.surgery_rank <= 4096, "surgery_rank", "1 to 4096")
        require(1 <= self.rounds <= 1000, "rounds", "1 to 1000")
        require(1 <= self.local_epochs <= 100, "local_epochs", "1 to 100")
        require(0 <= self.distillation <= 100, "distillation", "0 to 100")
        require(0 <= self.shrinkage <= 100, "shrinkage", "0 to 100")
        require(0 <= self.proximal_mu <= 100, "proximal_mu", "0 to 100")


@dataclass(frozen=True)
class EvaluationConfig:
    """How a target measures its models."""

    # folds of the outer cross-validation: the first so many splits_K.csv files of a site, or made from split_seed where
    # it has none [1 to 20]
    folds: int = 5
    split_seed: int = 0  # random seed of folds that are made [0 to 2^63 - 1]
    bootstrap: int = 1000  # resamples of the test patients behind each 95% interval [10 to 10000]

    def __post_init__(self) -> None:
        require(1 <= self.folds <= 20, "folds", "1 to 20")
        require(0 <= self.split_seed < 2**63, "split_seed", "0 to 2^63 - 1")
        require(10 <= self.bootstrap <= 10_000, "bootstrap", "10 to 10000")


@dataclass(frozen=True)
class FinalConfig:
    """The final model, which a target trains on all of its patients once the folds have chosen how."""

    # models of the final one, alike but for the seed, whose predictions are averaged; 0: no final model [0 to 20]
    members: int = 3

    def __post_init__(self) -> None:
        require(0 <= self.members <= MOST_MEMBERS, "members", f"0 to {MOST_MEMBERS}")


@dataclass(frozen=True)
class Recipe:
    """The part that sites act on: what to train and how. Its digest keys all work kept on a site's disk."""

    model: ModelConfig = field(default_factory=ModelConfig)  # the base model, and the weights that all sites start from
    training: TrainingConfig = field(default_factory=TrainingConfig)  # how models are trained
    sharing: SharingConfig = field(default_factory=SharingConfig)  # what of a vector travels to a target
    steph: StephConfig = field(default_factory=StephConfig)  # how a target merges vectors
    panel: PanelConfig = field(default_factory=PanelConfig)  # how a target's and the received models predict together
    comparators: ComparatorConfig = field(default_factory=ComparatorConfig)  # further methods that a target trains
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)  # how a target measures its models
    final: FinalConfig = field(default_factory=FinalConfig)  # the model of all of a target's patients

    def __post_init__(self) -> None:
        rounds = self.training.precision == "float32" or self.model.kind == "abmil"
        require(rounds, "training.precision", f"float32 for model.kind {self.model.kind}: only abmil rounds factors")

    @property
    def base_digest(self) -> str:
        """Digest of what decides a site's own models: recipes that differ elsewhere share them."""
        return digest([to_dict(self.model), to_dict(self.training)])

    @property
    def folds_digest(self) -> str:
        """Digest of all that decides the work on folds: recipes that differ in the final model alone share it."""
        return digest({key: value for key, value in to_dict(self).items() if key != "final"})
