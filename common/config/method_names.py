"""The methods that a target can train, by name: what each is called in tables, and where it comes from.

Local, STEPH and its panel are always run; ``deployed`` is the panel or the local model, by inner cross-validation;
recipes ask for others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# rounds: federated training, whose updates the server reads; pool: all patients in one place, for simulations alone.
Needs = Literal["nothing", "vectors", "rounds", "pool"]


@dataclass(frozen=True)
class MethodName:
    """A method as tables show it, and what it needs from the other sites."""

    title: str
    source: str
    needs: Needs = "vectors"


_PAPER = "arXiv 2603.10526"
_HYPER = "weights per slide by a hypernetwork, "

METHODS: dict[str, MethodName] = {
    "local": MethodName("local", "trained on the target's own patients", "nothing"),
    "steph": MethodName("STEPH", _PAPER),
    "panel": MethodName("panel", "STEPH's, the local and the received models' risks, weighted"),
    "deployed": MethodName("deployed", "panel or local, by inner cross-validation"),
    "tuned_head": MethodName("fine-tuned head", "a fresh head on the local model's representation", "nothing"),
    "best_source": MethodName("best source", "a fresh head on the best source's representation"),
    "roupkt": MethodName("ROUPKT", "arXiv 2508.13482"),
    "model_average": MethodName("model average", "M0 + the mean of all vectors"),
    "half_average": MethodName("half average", "M0 + half the target's vector + half the mean of the sources'"),
    "start_average": MethodName("start average", "M0 + m lam tau_t + m (1 - lam) mean(tau_k): where STEPH starts"),
    "task_arithmetic": MethodName("task arithmetic", "Ilharco et al., ICLR 2023"),
    "head_sum": MethodName("sum with heads", "M0 + tau_t + the sum of tau_k, heads too"),
    "head_mean": MethodName("mean with heads", "M0 + the mean of all vectors, heads too"),
    "head_arithmetic": MethodName("arithmetic with heads", "M0 + c x the sum of all vectors, heads too"),
    "sources_alone": MethodName("sources alone", "M0 + the mean of the sources' vectors, heads too"),
    "risk_ensemble": MethodName("risk ensemble", "the target's risk + half the mean of the sources' risks"),
    "risk_mean": MethodName("mean risk", "the mean of the target's and the sources' risks"),
    "distilled": MethodName("distilled", "trained on the outcomes and towards the sources' risks"),
    "shrunk": MethodName("shrunk to the sum", "trained from the sum with heads, and pulled towards it"),
    "local_ensemble": MethodName("local ensemble", "the mean risk of local models of several seeds", "nothing"),
    "local_average": MethodName("local average", "the average weights of local models of several seeds", "nothing"),
    "adamerging": MethodName("AdaMerging", "Yang et al., ICLR 2024"),
    "ties": MethodName("TIES + AM", "Yadav et al., NeurIPS 2023"),
    "surgery": MethodName("Surgery + AM", "Yang et al., ICML 2024"),
    "iso_c": MethodName("Iso-C + AM", "Marczak et al., ICML 2025"),
    "adamerging_hyper": MethodName("AdaMerging, hyper", _HYPER + _PAPER),
    "ties_hyper": MethodName("TIES, hyper", _HYPER + _PAPER),
    "surgery_hyper": MethodName("Surgery, hyper", _HYPER + _PAPER),
    "iso_c_hyper": MethodName("Iso-C, hyper", _HYPER + _PAPER),
    "steph_lam0": MethodName("STEPH, lam = 0", "sources only"),
    "steph_lam0_all": MethodName("STEPH, lam = 0, all", "sources and the target's vector, unmixed"),
    "steph_lam1": MethodName("STEPH, lam = 1", "the target's vector alone"),
    "steph_param_lam": MethodName("STEPH, trainable lam", "one lam per source"),
    "steph_dense": MethodName("STEPH, no sparsity", "all mixtures are kept"),
    "steph_param_w": MethodName("STEPH, trainable w", "one w per source"),
    "fedavg": MethodName("FedAvg, fine-tuned", "McMahan et al., AISTATS 2017", "rounds"),
    "fedprox": MethodName("FedProx, fine-tuned", "Li et al., MLSys 2020", "rounds"),
    "pooled": MethodName("pooled, fine-tuned", "all sites' patients in one place: NOT ALLOWED, an upper bound", "pool"),
}

# What every target trains, and what a recipe can ask for besides; nothing that needs a pool is among them.
COMPARATORS = tuple(
    name
    for name, method in METHODS.items()
    if name not in ("local", "steph", "panel", "deployed") and method.needs != "pool"
)
