"""A comparator's task, and plain float64 versions of what the comparators are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from client_builders import CPU, kept_site, m0_of, make_vectors, make_workspace

from fedsteph.client.data.bags import Cohort
from fedsteph.client.methods.task import Task
from fedsteph.client.training.batch import Batch, batches
from fedsteph.client.training.cox import fitted_baseline
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.vector.task_vector import TaskVector

State = dict[str, np.ndarray]


def make_task(
    folder: Path, *settings: str, n_sources: int = 3, scale: float = 0.1, fold: int = 0, together=None, **site: object
) -> Task:
    """One fold of a site on disk, random source vectors, and perhaps encoders trained together.

    Tasks of the same data share the site's folder, and with it the site's own models of outer and inner folds.
    """
    workspace = make_workspace(kept_site("tasks", **site).parent, *settings)
    workspace.train_every_fold()
    vectors = make_vectors(workspace.recipe, n_sources, scale)
    return Task(workspace, fold, vectors, folder / "work" / f"fold_{fold}", globals=together or {})


def with_vectors(task: Task, vectors: Sequence[TaskVector]) -> Task:
    """The same task with other sources."""
    named = {f"s{k:03d}": vector for k, vector in enumerate(vectors)}
    return replace(task, vectors=named)


def with_heads(task: Task, scale: float = 0.3) -> Task:
    """The same task whose sources have heads too, but for the last one."""
    draw = torch.Generator().manual_seed(5)
    embed = task.m0.architecture.embed
    headed = [replace(one, head=scale * torch.randn(embed, generator=draw)) for one in task.sources[:-1]]
    return with_vectors(task, [*headed, task.sources[-1]])


def plain_direction(model: torch.nn.Module) -> np.ndarray:
    """The head's weights, mean over bins."""
    return model.head.weight.detach().double().numpy().mean(axis=0)


def plain_scores(theta: State, direction: np.ndarray, cohort: Cohort) -> np.ndarray:
    """``z . direction`` of every patient."""
    return np.array([direction @ plain_encode(theta, cohort.bag(i).numpy()) for i in range(len(cohort))])


def merged_scores(task: Task, weights: Sequence[float], cohort: Cohort) -> np.ndarray:
    """Scores under ``M0`` plus weighted vectors with heads: the target's own, then the sources'."""
    start = plain_direction(task.m0)
    vectors = [own_of(task), *(numbers(vector.tensors) for vector in task.sources)]
    heads = [plain_direction(task.local) - start]
    heads += [np.zeros(len(start)) if one.head is None else one.head.double().numpy() for one in task.sources]
    direction = start + sum(w * head for w, head in zip(weights, heads, strict=True))
    return plain_scores(plus(encoder_of(task), weights, vectors), direction, cohort)


def fitted_hazards(score: np.ndarray, known: np.ndarray, cohort: Cohort, n_bins: int) -> np.ndarray:
    """``sigmoid(b_j + score)``, with ``b`` fitted to the scores ``known`` and outcomes of a cohort."""
    bins = np.minimum(cohort.times // 365, n_bins - 1).astype(int)
    return sigmoid(fitted_baseline(torch.from_numpy(known), bins, cohort.events, n_bins).numpy() + score[:, None])


def ids(cohort: Cohort) -> set[str]:
    return {patient.id for patient in cohort.patients}


def all_bags(cohort: Cohort, n_bins: int) -> list[Batch]:
    return [batch for _, batch in batches(cohort, range(len(cohort)), n_bins, CPU)]


def padded(bags: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Bags of unlike sizes as one stack, with garbage where nothing is."""
    longest = max(len(bag) for bag in bags)
    stack, mask = np.full((len(bags), longest, bags[0].shape[1]), 7.0, np.float32), np.zeros((len(bags), longest), bool)
    for i, bag in enumerate(bags):
        stack[i, : len(bag)], mask[i, : len(bag)] = bag, True
    return torch.from_numpy(stack), torch.from_numpy(mask)


def random_bags(sizes: Sequence[int], width: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, width)).astype(np.float32) for size in sizes]


def random_vector(architecture: Architecture, m0_sha256: str, seed: int, scale: float = 1.0) -> TaskVector:
    rng = np.random.default_rng(seed)
    return vector_of(architecture, m0_sha256, scale * rng.normal(size=n_entries(architecture)))


def n_entries(architecture: Architecture) -> int:
    return sum(int(np.prod(shape)) for shape in architecture.encoder_shapes.values())


def vector_of(architecture: Architecture, m0_sha256: str, row: np.ndarray) -> TaskVector:
    """The vector with these entries, tensor after tensor in the architecture's order."""
    tensors, at = {}, 0
    for name, shape in architecture.encoder_shapes.items():
        size = int(np.prod(shape))
        tensors[name] = torch.from_numpy(np.asarray(row[at : at + size], dtype=np.float32).reshape(shape))
        at += size
    assert at == len(row)
    return TaskVector(architecture, m0_sha256, tensors)


def row_of(vector: TaskVector) -> np.ndarray:
    return np.concatenate([vector.tensors[name].numpy().ravel() for name in vector.architecture.encoder_shapes])


def numbers(tensors: Mapping[str, torch.Tensor]) -> State:
    """Tensors as float64 arrays."""
    return {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}


def encoder_of(task: Task) -> State:
    """``theta_0``."""
    return numbers(m0_of(task.recipe).encoder_state())


def own_of(task: Task) -> State:
    """``tau_t``, worked out from the local model's and M0's tensors."""
    local, start = numbers(task.local.encoder_state()), encoder_of(task)
    return {name: local[name] - start[name] for name in start}


def plus(theta_0: State, weights: Sequence[float], vectors: Sequence[State]) -> State:
    """``theta_0 + sum_k w_k tau_k``, tensor by tensor."""
    total = {name: tensor.copy() for name, tensor in theta_0.items()}
    for w, vector in zip(weights, vectors, strict=True):
        for name in total:
            total[name] += float(w) * vector[name]
    return total


def plain_encode(theta: State, bag: np.ndarray) -> np.ndarray:
    """One bag's slide vector by the gated-attention formula, instance by instance."""
    hidden, scores = [], []
    for x in np.asarray(bag, dtype=np.float64):
        h = np.maximum(theta["embed.weight"] @ x + theta["embed.bias"], 0.0)
        a = np.tanh(theta["attention_V.weight"] @ h + theta["attention_V.bias"])
        b = 1.0 / (1.0 + np.exp(-(theta["attention_U.weight"] @ h + theta["attention_U.bias"])))
        hidden.append(h)
        scores.append(float((theta["attention_c.weight"] @ (a * b) + theta["attention_c.bias"])[0]))
    weights = np.exp(np.array(scores) - max(scores))
    return sum(w * h for w, h in zip(weights / weights.sum(), hidden, strict=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def plain_hazards(theta: State, head: torch.nn.Linear | Mapping[str, torch.Tensor], bag: np.ndarray) -> np.ndarray:
    if isinstance(head, torch.nn.Linear):
        W, b = head.weight, head.bias
    else:
        W, b = head["head.weight"], head["head.bias"]
    return sigmoid(W.detach().double().numpy() @ plain_encode(theta, bag) + b.detach().double().numpy())


def plain_risk(hazards: np.ndarray) -> float:
    """``-sum_j S_j``, ``S_j = prod_{i <= j} (1 - h_i)``."""
    return -float(np.cumprod(1.0 - hazards).sum())


def plain_pairs(times: np.ndarray, events: np.ndarray, risk: np.ndarray) -> tuple[float, int]:
    """Concordant and comparable pairs by two loops."""
    concordant, total = 0.0, 0
    for i in range(len(times)):
        for j in range(len(times)):
            if events[i] == 1 and (times[i] < times[j] or (times[i] == times[j] and events[j] == 0)):
                total += 1
                concordant += 0.5 if abs(risk[i] - risk[j]) <= 1e-8 else float(risk[i] > risk[j])
    return concordant, total


def plain_nll(hazards: np.ndarray, t: float, e: int, alpha: float) -> float:
    """Event: ``-(log S_{y-1} + log h_y)``; censored: ``-(1 - alpha) log S_y``; yearly bins."""
    y = min(int(t // 365), len(hazards) - 1)
    survival = np.cumprod(1.0 - hazards)
    if e == 1:
        before = survival[y - 1] if y > 0 else 1.0
        return -(np.log(max(before, 1e-7)) + np.log(max(hazards[y], 1e-7)))
    return -(1.0 - alpha) * np.log(max(survival[y], 1e-7))


def by_projection(merged: np.ndarray, target: np.ndarray, energy: float = 0.95) -> tuple[float, int]:
    """SAR and rank by a singular value decomposition and a projection matrix, without eigenvectors of ``M M^T``."""
    vectors, singular, _ = np.linalg.svd(merged)
    values = np.cumsum(singular**2)
    k = next(k for k in range(1, len(values) + 1) if values[k - 1] >= energy * values[-1])
    projection = vectors[:, :k] @ vectors[:, :k].T
    return float(np.linalg.norm(projection @ target) / np.linalg.norm(target)), k


def plain_logsumexp(w: np.ndarray) -> float:
    return float(np.log(np.exp(np.asarray(w, dtype=np.float64)).sum()))


def dead_vector(task: Task) -> TaskVector:
    """A vector that silences every embedded feature, so that all slide vectors are 0."""
    architecture = task.m0.architecture
    tensors = {name: torch.zeros(shape) for name, shape in architecture.encoder_shapes.items()}
    tensors["embed.bias"] = torch.full(architecture.encoder_shapes["embed.bias"], -1e4)
    return TaskVector(architecture, str(task.recipe.model.m0_sha256), tensors)


def telling_vector(task: Task) -> TaskVector:
    """A vector whose model pools the first feature alone, which is the risk; all others' weights become 0."""
    theta_0 = task.m0.encoder_state()
    wanted = {name: torch.zeros_like(tensor) for name, tensor in theta_0.items()}
    wanted["embed.weight"][0, 0], wanted["embed.weight"][1, 0] = 1.0, -1.0
    tensors = {name: (wanted[name] - tensor).detach() for name, tensor in theta_0.items()}
    return TaskVector(task.m0.architecture, str(task.recipe.model.m0_sha256), tensors)
