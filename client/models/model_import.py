"""Makes models and task vectors out of checkpoints of other programs, and tells what our own files hold."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsteph.client.models.foreign_checkpoint import Foreign, read_foreign
from fedsteph.client.models.model_file import load_model, save_base
from fedsteph.common.errors import ModelFileError, VectorMismatchError
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest
from fedsteph.common.vector.task_vector import TaskVector


@dataclass(frozen=True)
class Imported:
    """A model from elsewhere and the M0 that its training started from; without ``m0`` it is an M0 itself."""

    foreign: Foreign
    m0: BaseModel | None

    @property
    def model(self) -> BaseModel:
        return self.foreign.model

    @property
    def m0_sha256(self) -> str:
        """Digest of the M0, which for an M0 is its own."""
        return model_digest(self.m0 or self.model)

    def vector(self, *, head: bool = False) -> TaskVector:
        """``tau = M - M0``, with or without the head; ModelFileError without an M0, or if the model is that M0."""
        if self.m0 is None:
            remedy = "Name the checkpoint or the file of the M0 that its training started from"
            raise ModelFileError("a task vector is the difference from an M0, and none is given", remedy=remedy)
        found = TaskVector.between(self.model, self.m0, head=head)
        if found.without_head().norm == 0:
            what = "has the encoder of that M0, so its task vector is zero"
            raise ModelFileError(what, remedy="Give the trained model, and as M0 the untrained one")
        return found

    def save(self, path: Path) -> None:
        """Write a model file, which :func:`fedsteph.load_model` reads; one without ``m0`` can be ``model.m0``."""
        save_base(path, self.model, m0_sha256=self.m0_sha256, imported=self.foreign.sha256)


def import_model(path: Path, *, layout: str = "auto", m0: Path | None = None) -> Imported:
    """Read a checkpoint, and that of its M0.

    Args:
        layout: of both files, as in :func:`fedsteph.client.models.foreign_checkpoint.read_foreign`; an M0 that is a
            file of ours may have ours.
        m0: the M0 that the model's training started from; None: the model is an M0.

    Raises:
        ModelFileError: a file is no ABMIL that can be read; the message says why.
        VectorMismatchError: the two have other sizes.
    """
    foreign = read_foreign(path, layout)
    if m0 is None:
        return Imported(foreign, None)
    start = read_foreign(m0, layout if m0.suffix != ".safetensors" else "auto").model
    if start.architecture != foreign.model.architecture:
        what = f"is {sizes(foreign.model)}, and its M0 ({m0}) {sizes(start)}"
        raise VectorMismatchError(what, where=path, remedy="Give the M0 that the model's training started from")
    return Imported(foreign, start)


def sizes(model: BaseModel) -> str:
    """Kind and layer sizes in words."""
    found = model.architecture
    layers = f"width {found.width}, embed {found.embed}, attention {found.attention}, {found.n_bins} bins"
    return f"{found.encoder_kind.title} of {layers}"


def told_of(path: Path) -> dict[str, Any]:
    """What a model file of ours says of itself, JSON-ready; errors as :func:`fedsteph.load_model`."""
    loaded = load_model(path)
    local = isinstance(loaded.model, BaseModel)
    own = model_digest(loaded.model) if isinstance(loaded.model, BaseModel) else None
    return {
        "kind": "local" if local else "enhanced",
        "is_m0": own == loaded.m0,
        "base_model": loaded.architecture.encoder_kind.title,
        "architecture": loaded.architecture.to_dict(),
        "model_sha256": own,
        "m0_sha256": loaded.m0,
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "imported_sha256": loaded.imported,
        "sources": list(loaded.sources),
        **asdict(loaded.extraction),
        "followed_years": loaded.followed_years,
    }
