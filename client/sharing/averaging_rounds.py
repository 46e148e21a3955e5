"""A site's part in FedAvg and FedProx: train from the round's global encoder, and say where that led.

The encoders are averaged; each site's head stays at home, as it does everywhere else (Arivazhagan et al., 2019). What
is sent is a vector from M0, per fold, trained on that fold's training part only, so one run serves every target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fedsteph.client.models.model_file import load_abmil, save_abmil
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.batch import Batch
from fedsteph.client.training.loop import derive_seed
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.survival_fit import fit_survival
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.errors import ProtocolError
from fedsteph.common.host import atomic
from fedsteph.common.model.abmil import Architecture, pinned_model
from fedsteph.common.vector.shared_part import WHOLE
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import read_vector, write_vector


def train_round(
    workspace: Workspace,
    folder: Path,
    method: str,
    round_: int,
    encoders: Mapping[str, bytes],
    max_norm: float,
    folds: Sequence[int] | None = None,
) -> dict[str, bytes]:
    """One round on every fold; a round that is asked for again is found done.

    Args:
        folder: of this run's rounds, on the site's disk.
        encoders: the global encoders by fold as vector files, untrusted; none in round 0, which begins at M0.
        folds: the folds that are trained; None: all.

    Returns:
        this site's encoders after the round, by fold.

    Raises:
        VectorError: a global encoder is not one of this federation.
        ProtocolError: not one encoder per fold, a round that skips one, or one asked for from another encoder.
    """
    folds = range(len(workspace.splits)) if folds is None else folds
    if set(encoders) != ({str(fold) for fold in folds} if round_ else set()):
        raise ProtocolError("does not bring one encoder per fold", where=f"round {round_}")
    updates = {}
    for fold in folds:
        start = read_global(workspace, encoders[str(fold)], max_norm) if round_ else None
        path = folder / f"{method}_fold_{fold}"
        updates[str(fold)] = _train(workspace, fold, path, method, round_, start)
    return updates


def read_global(workspace: Workspace, content: bytes, max_norm: float) -> TaskVector:
    """Screen a global encoder, which comes from the server, as any vector is screened."""
    model = workspace.recipe.model
    return read_vector(
        content,
        architecture=Architecture.of(model),
        m0_sha256=str(model.m0_sha256),
        sharing=WHOLE,  # whatever the recipe shares of vectors: reduced in every round, the averages would drift
        max_norm=max_norm,
        where="global encoder",
    )


def keep_globals(workspace: Workspace, folder: Path, method: str, encoders: Mapping[str, bytes], norm: float) -> None:
    """Keep what came out of the last round, for the fine-tuning here."""
    folds = [str(fold) for fold in range(len(workspace.splits))]
    if set(encoders) != set(folds):
        raise ProtocolError("does not bring one encoder per fold", where="last round")
    vectors = {fold: read_global(workspace, encoders[fold], norm) for fold in folds}  # all are sound, or none is kept
    for fold, vector in vectors.items():
        atomic.write_bytes(folder / f"{method}_fold_{fold}" / "global.safetensors", write_vector(vector))


def kept_globals(workspace: Workspace, folder: Path, max_norm: float) -> list[dict[str, TaskVector]]:
    """Per fold, the global encoders that were kept, by method."""
    found: list[dict[str, TaskVector]] = []
    for fold in range(len(workspace.splits)):
        paths = {method: folder / f"{method}_fold_{fold}" / "global.safetensors" for method in METHODS}
        found.append(
            {m: read_global(workspace, path.read_bytes(), max_norm) for m, path in paths.items() if path.exists()}
        )
    return found


def _train(workspace: Workspace, fold: int, folder: Path, method: str, round_: int, start: TaskVector | None) -> bytes:
    recipe, path = workspace.recipe, folder / f"round_{round_}.safetensors"
    m0 = pinned_model(recipe.model)
    begun, origin = path.with_suffix(".start"), _digest(start)
    if path.exists() and begun.read_text() != origin:
        # Trained again and again from encoders of its choice, a site would tell the server more than an average does.
        raise ProtocolError("begins at another encoder than when it was asked for before", where=f"round {round_}")
    if not path.exists():
        before = folder / f"round_{round_ - 1}.safetensors"
        if round_ and not before.exists():
            raise ProtocolError("skips a round", where=f"round {round_}")
        head = load_abmil(before).head_state() if round_ else m0.head_state()
        model = m0 if start is None else start.applied_to(m0, head)
        anchor = {name: tensor.detach().clone() for name, tensor in model.encoder_state().items()}
        mu = recipe.comparators.proximal_mu if method == "fedprox" else 0.0

        def forward(batch: Batch) -> Outputs:
            hazards = model(batch.bags, batch.mask)
            return Outputs(hazards, _proximal(model.encoder_state(), anchor, mu).expand(len(hazards)))

        fit_survival(
            model,
            forward,
            workspace.train_part(fold),
            recipe,
            replace(recipe.training, epochs=recipe.comparators.local_epochs, warmup_epochs=0.0),
            seed=derive_seed(recipe.training.seed, method, f"fold {fold}", round_),
            device=workspace.device,
            fresh_head=round_ == 0,
        )
        atomic.write_text(begun, origin)
        save_abmil(path, model.cpu(), m0_sha256=str(recipe.model.m0_sha256), encoder=workspace.cohort.encoder)
        for old in folder.glob(f"round_{round_ - 2}.*"):
            old.unlink()  # the last round's head and this one's model are all that is asked for again
    return write_vector(TaskVector.between(load_abmil(path), pinned_model(recipe.model)))


def _digest(start: TaskVector | None) -> str:
    return "M0" if start is None else hashlib.sha256(start.flat().numpy().tobytes()).hexdigest()


def _proximal(theta: Mapping[str, Tensor], anchor: dict[str, Tensor], mu: float) -> Tensor:
    """``mu / 2 |theta - theta_global|^2`` (Li et al., MLSys 2020)."""
    if mu == 0:
        return torch.zeros((), device=next(iter(theta.values())).device)
    for name, tensor in theta.items():
        anchor[name] = anchor[name].to(tensor.device)
    return 0.5 * mu * torch.stack([(tensor - anchor[name]).square().sum() for name, tensor in theta.items()]).sum()
