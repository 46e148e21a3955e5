"""Computes each patient's descent direction at M0 on the shared tensors, and how much of it is in a task vector.

First-order training moves the encoder by a weighted sum of its patients' descent directions. The directions of hundreds
of patients in tens of thousands of dimensions are nearly independent, so a recipient with M0 and a patient's record can
look for that patient's direction in a vector. How a site trains, with or without DP-SGD, is no secret: the directions
are computed by its own procedure, clipped if it clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.privacy.accounting import Mechanism
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.privacy.dp_sgd import clipped, patient_gradients
from fedsteph.client.privacy.trained_part import TrainedPart
from fedsteph.client.training.batch import Batch, batches
from fedsteph.client.training.survival_fit import start_head
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.encode import encode
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.survival import nll
from fedsteph.common.vector.shared_part import shared_names
from fedsteph.common.vector.task_vector import TaskVector

_BLOCK = 2**29  # bytes of one block of directions; two blocks are held at once
_RIDGE = 0.01  # times the mean diagonal; 0.003 to 0.03 find about as many members on four RNA cohorts


@dataclass(frozen=True)
class PrivateTraining:
    """DP-SGD as the attacker knows it: everything except the drawn noise."""

    settings: DpSgd
    mechanism: Mechanism

    @property
    def ridge(self) -> float:
        """The ridge for which :meth:`Pulls.weights` are the posterior means of fair membership coins.

        Up to one common factor, the T steps add up to ``T b_i g_i``, with ``b_i`` in {0, 1} of variance 1/4, plus noise
        of variance ``T (noise clip / rate)^2``; noise over signal variance is ``4 (noise clip / rate)^2 / T``.
        """
        mechanism = self.mechanism
        return 4 * (mechanism.noise * self.settings.clip / mechanism.sampling_rate) ** 2 / mechanism.steps


@dataclass(frozen=True)
class Pulls:
    """Products of the descent directions ``g_i`` of n patients with each other and with task vectors ``tau``."""

    gram: Tensor  # <g_i, g_j>, (n, n) float64
    products: Tensor  # <g_i, tau>, (n_vectors, n) float64

    def __add__(self, other: Pulls) -> Pulls:
        """The products over the numbers of both, which are different ones."""
        return Pulls(self.gram + other.gram, self.products + other.products)

    def weights(self, noise: float = 0.0) -> Tensor:
        """Weight of each patient's direction in each vector: ``w`` of the ridge regression ``tau ~ sum w_i g_i``.

        Unlike the plain product, it separates a patient's direction from similar directions of others:
        ``(n_vectors, n)`` float64. ``noise`` is the ridge for known noise in the vectors
        (:attr:`PrivateTraining.ridge`); a small one always applies.
        """
        ridge = max(noise, _RIDGE * float(self.gram.diagonal().mean()))
        total = self.gram + ridge * torch.eye(len(self.gram), dtype=self.gram.dtype)
        solved: Tensor = torch.linalg.solve(total, self.products.T)
        return solved.T.contiguous()


def pulls(
    cohort: Cohort,
    recipe: Recipe,
    vectors: Sequence[TaskVector],
    device: torch.device,
    private: PrivateTraining | None = None,
) -> tuple[Pulls, Pulls | None]:
    """Compute the directions of all patients at M0, and their products with each other and with the vectors.

    Returns them over the shared tensors of the encoder, and over the heads; None if the vectors have none.

    M0's own head is used in place of the trained one, which stays near it; its biases are the empirical hazards of
    these patients. Directions are computed block by block, and again for every pair of blocks, because all of them
    together may take many gigabytes.

    Args:
        vectors: as received; tensors that do not travel are ignored.
        private: how the vectors were trained, if by DP-SGD.
    """
    architecture = Architecture.of(recipe.model)
    names = shared_names(architecture, recipe.sharing)
    taus, parts = _rows(vectors, names)
    descent = _Descent(cohort, recipe, names, device, private, head=len(parts) > 1)
    n, per_block = len(cohort), max(1, _BLOCK // (4 * taus.shape[1]))
    blocks = [list(range(i, min(i + per_block, n))) for i in range(0, n, per_block)]
    found = [Pulls(*(torch.zeros(rows, n, dtype=torch.float64) for rows in (n, len(taus)))) for _ in parts]
    for i, block in enumerate(blocks):
        rows = descent.of(block)
        for pull, part in zip(found, parts, strict=True):
            pull.products[:, block] = (taus[:, part] @ rows[:, part].T).double()
        for other in blocks[i:]:
            there = rows if other is block else descent.of(other)
            for pull, part in zip(found, parts, strict=True):
                product = (rows[:, part] @ there[:, part].T).double()
                pull.gram[block[0] : block[-1] + 1, other[0] : other[-1] + 1] = product
                pull.gram[other[0] : other[-1] + 1, block[0] : block[-1] + 1] = product.T
    return found[0], found[1] if len(parts) > 1 else None


def _rows(vectors: Sequence[TaskVector], names: Sequence[str]) -> tuple[Tensor, list[slice]]:
    """The shared numbers of each vector as a row, and where those of the encoder and of the head stand in it."""
    taus = torch.stack([torch.cat([vector.tensors[name].reshape(-1) for name in names]) for vector in vectors])
    heads, encoder = [vector.head for vector in vectors if vector.head is not None], slice(0, taus.shape[1])
    if not heads:
        return taus, [encoder]
    return torch.cat([taus, torch.stack(heads)], dim=1), [encoder, slice(encoder.stop, None)]


class _Descent:
    """Descent directions ``-d loss_i / d theta`` at M0, clipped under DP-SGD."""

    def __init__(
        self,
        cohort: Cohort,
        recipe: Recipe,
        names: Sequence[str],
        device: torch.device,
        private: PrivateTraining | None,
        *,
        head: bool,
    ) -> None:
        m0 = pinned_model(recipe.model)
        if private is None:  # DP-SGD keeps M0's own head, which depends on no outcome
            start_head(m0.head, replace(recipe, model=replace(recipe.model, head_bias="empirical")), cohort)
        self._m0 = m0.to(device)
        self._cohort, self._recipe, self._names, self._device = cohort, recipe, list(names), device
        self._settings, self._head = None if private is None else private.settings, head

    def of(self, patients: Sequence[int]) -> Tensor:
        """Directions ``(n_patients, n_shared_numbers)`` on the CPU, in the order of ``patients``."""
        place = {patient: row for row, patient in enumerate(patients)}
        width = sum(self._m0.encoder_state()[name].numel() for name in self._names)
        found = torch.empty(len(patients), width + self._head * self._m0.architecture.embed)
        for group, batch in batches(self._cohort, patients, self._recipe.model.n_bins, self._device):
            rows = self._plain(batch) if self._settings is None else self._clipped(batch, self._settings)
            found[[place[patient] for patient in group]] = rows
        return found

    def _plain(self, batch: Batch) -> Tensor:
        n = len(batch.bags)
        # One copy of the weights per bag, so that one backward pass gives every bag's own gradient.
        theta = {
            name: tensor.detach().expand(n, *tensor.shape).clone().requires_grad_(name in self._names)
            for name, tensor in self._m0.encoder_state().items()
        }
        z, _ = encode(self._m0.architecture, theta, batch.bags, batch.mask)
        turn = torch.zeros_like(z).requires_grad_()  # its gradient is that of the weights, mean over bins
        logits = self._m0.head(z)
        hazards = torch.sigmoid(logits + (z * turn).sum(dim=1, keepdim=True) / logits.shape[1])
        loss = nll(hazards, batch.bins, batch.events, self._recipe.training.alpha)
        learned = [theta[name] for name in self._names] + [turn] * self._head
        # attention_c.bias shifts all attention scores equally, so it has no gradient
        gradients = torch.autograd.grad(loss.sum(), learned, allow_unused=True, materialize_grads=True)
        return -torch.cat([part.reshape(n, -1) for part in gradients], dim=1).cpu()

    def _clipped(self, batch: Batch, settings: DpSgd) -> Tensor:
        part, m0_sha256 = TrainedPart(self._m0, settings.trains), str(self._recipe.model.m0_sha256)
        start = torch.zeros(part.size + 1, device=self._device)
        found = clipped(patient_gradients(part, start, batch), settings.clip)
        changes = [part.vector(-row, m0_sha256).tensors for row in found[:, :-1].cpu()]
        return torch.stack([torch.cat([c[name].reshape(-1) for name in self._names]) for c in changes])
