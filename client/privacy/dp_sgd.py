"""DP-SGD (Abadi et al., CCS 2016): clips the gradients of randomly sampled patients, and adds noise to their sum.

All other inputs of a step are public: M0, its head, the initial hazard, the settings, and the number of patients.
The noise covers everything that is computed from the patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.privacy.accounting import Mechanism
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.privacy.randomness import Randomness
from fedsteph.client.privacy.trained_part import TrainedPart
from fedsteph.client.training.batch import Batch, batches
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.errors import ModelFileError, TooSmallError
from fedsteph.common.host import checked_file
from fedsteph.common.model.encode import encode
from fedsteph.common.model.survival import nll

FIRST_LOGIT = -2.2  # of every yearly hazard before training: a hazard of 0.1, independent of the patients
# Weight of the hazards' common level in a gradient. With a larger weight it would use up most of the clipping norm.
_LEVEL = 0.05


@dataclass(frozen=True)
class Trained:
    """Result of a training: ``offset`` of the trained part ``(size,)``, and ``level``, the hazards' common logit."""

    offset: Tensor
    level: float


def train_private(
    part: TrainedPart, cohort: Cohort, settings: DpSgd, mechanism: Mechanism, *, run: TrainingRun
) -> Trained:
    """Train ``part`` on all of ``cohort`` with the mechanism's number of noisy steps.

    Args:
        run: its checkpoint holds the state and the secret seed; anyone who reads it can remove the noise.

    Raises:
        TooSmallError: there is no patient.
        FeatureFileError: as :meth:`Cohort.bag` does.
    """
    n = len(cohort)
    if n == 0:
        raise TooSmallError("there is no patient to train on", where="training part")
    start = torch.zeros(part.size + 1, dtype=torch.float64)
    found = None if run.checkpoint is None else checked_file.kept(run.checkpoint, partial(_unfinished, start=start))
    chance, step, state = found or (Randomness.drawn(), 0, start)
    while step < mechanism.steps:
        draw = chance.of_step(step)
        drawn = np.flatnonzero(draw.random(n) < mechanism.sampling_rate).tolist()
        total = clipped_sum(part, cohort, drawn, state, settings.clip, run.device)
        total += mechanism.noise * settings.clip * torch.from_numpy(draw.standard_normal(len(state)))
        change = settings.lr * total / (settings.clip * mechanism.sampling_rate * n)
        state = state - change
        step += 1
        if run.checkpoint is not None and step < mechanism.steps:
            checked_file.write_arrays(run.checkpoint, seed=chance.words, step=np.array(step), state=state.numpy())
        run.progress(step, mechanism.steps)
    if run.checkpoint is not None:
        run.checkpoint.unlink(missing_ok=True)
    return Trained(state[:-1].float(), FIRST_LOGIT + float(state[-1]))


def clipped_sum(
    part: TrainedPart, cohort: Cohort, indices: list[int], state: Tensor, clip: float, device: torch.device
) -> Tensor:
    """Sum of the patients' gradients at ``state``, each clipped to L2 norm ``clip``: both ``(size + 1,)`` float64."""
    total = torch.zeros(len(state), dtype=torch.float64)
    for _, batch in batches(cohort, indices, part.m0.architecture.n_bins, device):
        found = patient_gradients(part, state.float().to(device), batch)
        found = (found.cpu() if device.type == "mps" else found).double()  # an Apple GPU has no float64
        # A gradient that overflows is set to 0, because clipping does not bound NaN.
        found = found.where(found.isfinite().all(dim=1, keepdim=True), 0.0)
        total += clipped(found, clip).sum(dim=0).cpu()
    return total


def clipped(gradients: Tensor, clip: float) -> Tensor:
    """Scale each row of ``(n_bags, size + 1)`` down to the L2 norm ``clip`` if it is longer."""
    shares: Tensor = clip / gradients.norm(dim=1, keepdim=True).clamp(min=clip)
    return gradients * shares


def patient_gradients(part: TrainedPart, state: Tensor, batch: Batch) -> Tensor:
    """Gradients of each bag's NLL with respect to the part and, last and with a smaller weight, the level.

    Each bag has its own copy of the parameters, so that one backward pass gives separate gradients per bag:
    ``(n_bags, size + 1)``, at the offsets ``state (size + 1,)`` of the part and of the level.
    """
    n = len(batch.bags)
    offsets = state[:-1].expand(n, -1).clone().requires_grad_()
    levels = (FIRST_LOGIT + state[-1]).expand(n).clone().requires_grad_()
    z, _ = encode(part.m0.architecture, part.encoders(offsets), batch.bags, batch.mask)
    logits = z @ part.readout.to(z) + levels
    hazards = torch.sigmoid(logits).unsqueeze(1).expand(n, part.m0.architecture.n_bins)
    losses = nll(hazards, batch.bins, batch.events, alpha=0.0)
    of_part, of_level = torch.autograd.grad(losses.sum(), (offsets, levels))
    return torch.cat([of_part, _LEVEL * of_level.unsqueeze(1)], dim=1)


def _unfinished(checkpoint: Path, start: Tensor) -> tuple[Randomness, int, Tensor]:
    arrays = checked_file.read_arrays(checkpoint)
    try:
        step, state, chance = int(arrays["step"]), torch.from_numpy(arrays["state"]), Randomness(arrays["seed"])
        if state.shape != start.shape or state.dtype != start.dtype or step < 1:
            raise ValueError("another training's")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError("is damaged", where=checkpoint) from error
    return chance, step, state
