"""Saves and loads models: one safetensors file each, for the local model and for the enhanced model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.models.model_header import (
    FORMAT,
    HEADS,
    LEARNED,
    LOCAL,
    N_PERCENTILES,
    PANEL,
    REFERENCE,
    REMEDY,
    TRAINED_ON,
    Description,
    checked,
    unfit,
)
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.panel import Panel
from fedsteph.client.training.batch import head_of, risks
from fedsteph.common.config.extraction import UNSTATED, Extraction
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host import atomic
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.survival import DAYS_PER_BIN
from fedsteph.common.vector.tensor_file import stamped, unstamped, with_metadata


@dataclass(frozen=True)
class Local:
    """The site's own model, stored with an enhanced one, and its :func:`reference_risks`."""

    model: BaseModel
    reference: np.ndarray | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to predict."""

    model: nn.Module
    architecture: Architecture
    sources: tuple[str, ...]  # of an enhanced model; empty for a local one
    extraction: Extraction  # how the features of its training data were made, as far as the files stated it
    m0: str  # SHA-256 of the M0 that its training started from
    reference: np.ndarray | None = None  # its reference_risks; None in files of earlier versions
    local: Local | None = None  # in an enhanced model, the site's own; None in files of earlier versions
    followed_years: int | None = None  # of its training patients; None in files of earlier versions
    imported: str | None = None  # SHA-256 of the checkpoint of another program that it was made from, if it was
    trained_on: TrainedOn | None = None  # its training patients; None in files of earlier versions


def reference_risks(model: nn.Module, cohort: Cohort, device: torch.device) -> np.ndarray:
    """Percentiles 0 to 100 of a model's risks over its training patients, ``(101,)``, to compare a new risk with.

    In a small cohort they are close to the risks of single patients; like the model, they stay at the site.
    """
    home = head_of(model).weight.device
    percentiles = percentiles_of(risks(model, cohort, device))
    model.to(home)  # risks() moved it to ``device``
    return percentiles


def percentiles_of(values: np.ndarray) -> np.ndarray:
    """Percentiles 0 to 100 of risks ``(n_patients,)``: ``(101,)``."""
    found: np.ndarray = np.percentile(values, np.linspace(0, 100, N_PERCENTILES))
    return found


def followed_years(cohort: Cohort, n_bins: int) -> int:
    """The longest follow-up of a model's training patients in years of 365 days, rounded up, 1 to ``n_bins``."""
    return int(np.clip(np.ceil(cohort.times.max() / DAYS_PER_BIN), 1, n_bins))


def save_base(
    path: Path,
    model: BaseModel,
    *,
    m0_sha256: str,
    extraction: Extraction = UNSTATED,
    reference: np.ndarray | None = None,
    followed_years: int | None = None,
    imported: str | None = None,
    trained_on: TrainedOn | None = None,
) -> None:
    """Write a local model; ModelFileError if its weights are not finite.

    Args:
        imported: SHA-256 of the checkpoint of another program that the model was made from, if it was.
    """
    tensors = model.state_dict() | as_tensors(REFERENCE, reference)
    facts = facts_of(model.architecture.kind, model.architecture, m0_sha256, extraction, followed_years)
    save(path, tensors, trained_on, **facts, **({} if imported is None else {"imported": imported}))


def save_steph(
    path: Path,
    model: Steph,
    sources: Sequence[str],
    *,
    m0_sha256: str,
    extraction: Extraction = UNSTATED,
    reference: np.ndarray | None = None,
    local: Local | None = None,
    followed_years: int | None = None,
    trained_on: TrainedOn | None = None,
) -> None:
    """Write an enhanced model, which stays at the target: M0's encoder, all vectors, hypernetworks, head, own model."""
    tensors = {f"{LEARNED}{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {"theta_0": model.mixture.theta_0, "stack": model.mixture.stack} | as_tensors(REFERENCE, reference)
    if model.mixture.heads is not None:
        tensors[HEADS] = model.mixture.heads
    if local is not None:
        tensors |= {f"{LOCAL}{name}": tensor for name, tensor in local.model.state_dict().items()}
        tensors |= as_tensors(f"{LOCAL}{REFERENCE}", local.reference)
    facts = facts_of("steph", model.mixture.architecture, m0_sha256, extraction, followed_years)
    save(path, tensors, trained_on, **facts, sources=list(sources), steph=asdict(model.config))


def load_base(path: Path, dropout: float = 0.25) -> BaseModel:
    """Read a local model; errors as :func:`load_model`, and ModelFileError if it is not a local one."""
    loaded = load_model(path, dropout)
    if not isinstance(loaded.model, BaseModel):
        raise ModelFileError("is not a local model", where=path, remedy="Give a local.safetensors")
    return loaded.model


def load_model(path: Path | str, dropout: float = 0.25) -> LoadedModel:
    """Read a local or an enhanced model; it is returned in evaluation mode on the CPU.

    Args:
        dropout: the model's dropout if it is trained further; predictions use none.

    Raises:
        ModelFileError: absent, not a model file, not finite, or its tensors do not match its description; or a final
            model, whose members :func:`.load_members` opens.
    """
    path = Path(path)
    told, tensors = opened(path)
    if told.members is not None:
        what = f"is a final model of {told.members}, which predict together"
        raise ModelFileError(what, where=path, remedy="Give this path itself to predict or heatmap")
    return model_of(told, tensors, path, dropout)


def opened(path: Path) -> tuple[Description, dict[str, Tensor]]:
    """The description and the tensors of a file of any kind; errors as :func:`load_model`."""
    if not path.is_file():
        raise ModelFileError("there is no such file", where=path, remedy="Give the path of a model")
    told, content = checked(path)
    tensors = safetensors.torch.load(unstamped(content, str(path), REMEDY))
    if not _finite(tensors.values()):
        raise ModelFileError("holds weights that are not finite", where=path, remedy="Train or merge it again")
    return told, tensors


def model_of(told: Description, tensors: dict[str, Tensor], path: Path, dropout: float) -> LoadedModel:
    """The model that a file's description and tensors, which it uses up, make; errors as :func:`load_model`."""
    try:
        reference, local, trained_on = reference_in(tensors), None, trained_on_in(told, tensors)
        if told.steph is None:
            model: nn.Module = BaseModel(told.architecture, dropout)
            model.load_state_dict(tensors)
        else:
            local = _local(told.architecture, dropout, tensors)
            rows = tensors.pop("theta_0"), tensors.pop("stack")
            mixture = Mixture(told.architecture, *rows, tensors.pop(HEADS, None))
            model = Steph(mixture, told.steph, dropout)
            if any(name.startswith(PANEL) for name in tensors):
                model.panel = Panel(len(told.sources), told.architecture.embed, told.architecture.n_bins)
            model.load_state_dict({n.removeprefix(LEARNED): t for n, t in tensors.items()})
        facts = told.architecture, told.sources, told.extraction, told.m0
        return LoadedModel(model.eval(), *facts, reference, local, told.followed_years, told.imported, trained_on)
    except (ValueError, RuntimeError) as error:
        raise unfit(path, error) from error


def _local(architecture: Architecture, dropout: float, tensors: dict[str, Tensor]) -> Local | None:
    """Remove the site's own model from the tensors of an enhanced one, and return it."""
    names = [name for name in tensors if name.startswith(LOCAL)]
    if not names:
        return None
    own = {name.removeprefix(LOCAL): tensors.pop(name) for name in names}
    reference = reference_in(own)
    model = BaseModel(architecture, dropout)
    model.load_state_dict(own)
    return Local(model.eval(), reference)


def reference_in(tensors: dict[str, Tensor]) -> np.ndarray | None:
    """Remove the percentiles of risks from a file's tensors, and return them; ValueError if they do not ascend."""
    if REFERENCE not in tensors:
        return None
    found = tensors.pop(REFERENCE).double().numpy()
    if (np.diff(found) < 0).any():
        raise ValueError("the percentiles of the training patients' risks do not ascend")
    return found


def trained_on_in(told: Description, tensors: dict[str, Tensor]) -> TrainedOn | None:
    """The digests of a file's training patients' IDs, taken out of its tensors; None if it has none."""
    return None if told.trained_on is None else TrainedOn(told.trained_on, tensors.pop(TRAINED_ON).numpy())


def as_tensors(name: str, reference: np.ndarray | None) -> dict[str, Tensor]:
    """Percentiles as the tensor of a file, if there are any."""
    return {} if reference is None else {name: torch.from_numpy(reference)}


def facts_of(
    kind: str, architecture: Architecture, m0_sha256: str, extraction: Extraction, followed_years: int | None
) -> dict[str, Any]:
    """What the file of any kind of model says of it."""
    follow_up = {} if followed_years is None else {"followed_years": followed_years}
    return {"kind": kind, "architecture": architecture.to_dict(), "m0": m0_sha256, **asdict(extraction), **follow_up}


def save(path: Path, tensors: dict[str, Tensor], trained_on: TrainedOn | None, **description: Any) -> None:
    """Write a model file; ModelFileError if a number is not finite."""
    if trained_on is not None:
        tensors[TRAINED_ON] = torch.from_numpy(trained_on.digests)
        description["trained_on"] = asdict(trained_on.salting)
    plain = {name: _apart(tensor.detach().cpu().contiguous()) for name, tensor in tensors.items()}
    if not _finite(plain.values()):
        remedy = "Lower training.lr and train again"
        raise ModelFileError("the trained weights are not finite", where=path.name, remedy=remedy)
    metadata = {"format": FORMAT, "description": json.dumps(description, sort_keys=True)}
    atomic.write_bytes(path, stamped(with_metadata(safetensors.torch.save(plain), metadata)))


def _apart(tensor: Tensor) -> Tensor:
    """A tensor that shares no memory with another, as safetensors requires."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
