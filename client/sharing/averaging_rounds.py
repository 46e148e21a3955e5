"""A site's part in FedAvg and FedProx: train from the round's global encoder and return the updated encoder.

Only encoders are averaged; each site keeps its own head (Arivazhagan et al., 2019). A site sends one vector from M0 per
fold, trained on that fold's training part only, so that one run serves every target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedsteph.client.models.model_file import load_base, save_base
from fedsteph.client.sharing.incoming import received_vector
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.batch import Batch
from fedsteph.client.training.loop import derive_seed
from fedsteph.client.training.objective import Outputs, proximal
from fedsteph.client.training.survival_fit import fit_survival
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.errors import ProtocolError
from fedsteph.common.host import atomic
from fedsteph.common.host.checked_file import kept
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.shared_part import WHOLE
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.tensor_file import read_stamped, stamped
from fedsteph.common.vector.vector_file import write_vector


def train_round(
    workspace: Workspace,
    folder: Path,
    method: str,
    round_: int,
    encoders: Mapping[str, bytes],
    max_norm: float,
    folds: Sequence[int] | None = None,
) -> dict[str, bytes]:
    """Train one round on every fold. If this round was trained before, its stored result is returned.

    Args:
        folder: the folder of this run's rounds, on the site's disk.
        encoders: fold -> global encoder as a vector file, untrusted; empty in round 0, which starts from M0.
        max_norm: largest L2 norm of a global encoder's vector from M0.
        folds: the folds to train; None: all.

    Returns:
        fold -> this site's encoder after the round, as a vector file.

    Raises:
        VectorError: a global encoder fails the checks of :func:`read_global`.
        ProtocolError: not one encoder per fold, a skipped round, or a repeated round from another encoder.
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
    """Read a global encoder from the server, with the same checks and errors as for any received vector."""
    # Not the recipe's sharing: reduction in every round would make the averages drift.
    return received_vector(workspace.recipe.model, content, WHOLE, max_norm, "global encoder")


def read_kept(workspace: Workspace, path: Path, max_norm: float) -> TaskVector:
    """Read a global encoder that was kept on disk; errors as :func:`read_global`, and ModelFileError if damaged."""
    return read_global(workspace, read_stamped(path, "Begin a new run"), max_norm)


def keep_globals(workspace: Workspace, folder: Path, method: str, encoders: Mapping[str, bytes], norm: float) -> None:
    """Store the global encoders of the last round, from which the target fine-tunes; errors as :func:`train_round`."""
    folds = [str(fold) for fold in range(len(workspace.splits))]
    if set(encoders) != set(folds):
        raise ProtocolError("does not bring one encoder per fold", where="last round")
    vectors = {fold: read_global(workspace, encoders[fold], norm) for fold in folds}  # check all before writing any
    for fold, vector in vectors.items():
        atomic.write_bytes(folder / f"{method}_fold_{fold}" / "global.safetensors", stamped(write_vector(vector)))


def kept_globals(workspace: Workspace, folder: Path, max_norm: float) -> list[dict[str, TaskVector]]:
    """The stored global encoders: per fold, method -> vector from M0."""
    found: list[dict[str, TaskVector]] = []
    for fold in range(len(workspace.splits)):
        paths = {method: folder / f"{method}_fold_{fold}" / "global.safetensors" for method in METHODS}
        found.append({m: read_kept(workspace, path, max_norm) for m, path in paths.items() if path.exists()})
    return found


def _train(workspace: Workspace, fold: int, folder: Path, method: str, round_: int, start: TaskVector | None) -> bytes:
    recipe, path = workspace.recipe, folder / f"round_{round_}.safetensors"
    m0 = pinned_model(recipe.model)
    begun, origin = path.with_suffix(".start"), _digest(start)
    if begun.exists() and begun.read_text(encoding="utf-8", errors="replace") != origin:
        # Otherwise the server could train from encoders of its choice, and learn more of the site than averages show.
        raise ProtocolError("begins at another encoder than when it was asked for before", where=f"round {round_}")
    trained = kept(path, load_base)
    if trained is None:
        before = folder / f"round_{round_ - 1}.safetensors"
        if round_ and not before.exists():
            raise ProtocolError("skips a round", where=f"round {round_}")
        head = load_base(before).head_state() if round_ else m0.head_state()
        model = m0 if start is None else start.applied_to(m0, head)
        anchor = {name: tensor.detach().clone() for name, tensor in model.encoder_state().items()}
        mu = recipe.comparators.proximal_mu if method == "fedprox" else 0.0

        def forward(batch: Batch) -> Outputs:
            hazards = model(batch.bags, batch.mask)
            return Outputs(hazards, proximal(model.encoder_state(), anchor, mu).expand(len(hazards)))

        training = replace(recipe.training, epochs=recipe.comparators.local_epochs, min_steps=0, warmup_epochs=0.0)
        fit_survival(
            model,
            forward,
            workspace.train_part(fold),
            replace(recipe, training=training),
            seed=derive_seed(recipe.training.seed, method, f"fold {fold}", round_),
            run=TrainingRun(workspace.device),
            fresh_head=round_ == 0,
        )
        atomic.write_text(begun, origin)
        save_base(path, model.cpu(), m0_sha256=str(recipe.model.m0_sha256), extraction=workspace.cohort.extraction)
        for old in folder.glob(f"round_{round_ - 2}.*"):
            old.unlink()  # only this round's model and the previous round's head are read again
        trained = load_base(path)
    return write_vector(TaskVector.between(trained, pinned_model(recipe.model)))


def _digest(start: TaskVector | None) -> str:
    return "M0" if start is None else hashlib.sha256(start.flat().numpy().tobytes()).hexdigest()
