"""Writes task vectors as safetensors files with fixed metadata, and reads such files as untrusted input.

A file holds the tensors that the recipe's ``sharing`` selects (:mod:`fedsteph.common.vector.shared_part`), in float32,
float16 or bfloat16 (F32, F16, BF16; little-endian), and of a vector with a head its risk direction as
``head.direction``; the format says which. The reader is told both, and refuses any other file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fedsteph.common.config.recipe import Dtype, SharingConfig
from fedsteph.common.config.run_config import MAX_NORM
from fedsteph.common.errors import VectorFileError, VectorMismatchError
from fedsteph.common.host import atomic
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest
from fedsteph.common.vector.reduction import reduced, restored
from fedsteph.common.vector.shared_part import HEAD, WHOLE, shared_shapes
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.tensor_file import METADATA, read_header, require_layout, with_metadata

FORMAT = "fedsteph/vector/v1"
WITH_HEAD = "fedsteph/vector-with-head/v1"
_MAX_HEADER = 8192  # bytes; a valid header has less than 1 kB
_FILE_DTYPES: dict[Dtype, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_vector(vector: TaskVector, sharing: SharingConfig = WHOLE) -> bytes:
    """Serialise the shared part of a vector as trained; one restored from a file would be reduced a second time.

    The metadata holds only the format, the digests of architecture and M0, and a kind other than ABMIL. The same vector
    always makes the same bytes, so that a file's digest identifies its vector. Raises VectorRangeError if a value is
    out of range for the dtype.
    """
    content: bytes = safetensors.torch.save(reduced(vector, sharing))
    return with_metadata(content, _metadata(vector.architecture, vector.m0_sha256, vector.has_head))


def read_vector(
    content: bytes,
    *,
    architecture: Architecture,
    m0_sha256: str,
    sharing: SharingConfig,
    max_norm: float,
    where: str,
    head: bool = False,
) -> TaskVector:
    """Parse and check the untrusted bytes of a vector file against this federation's architecture, M0 and sharing.

    Returns the whole vector in float32, with zeros for what is not shared, and with a head if ``head`` says that the
    file must hold one. Raises VectorFileError if the file is malformed, lacks a head or has one unasked, has other
    tensors or another dtype, holds NaN or Inf, or exceeds the L2 norm ``max_norm``; VectorMismatchError if it is a
    well-formed vector of another architecture or M0.
    """
    header, start = read_header(content, where, VectorFileError, _MAX_HEADER)
    _require_kind(header.pop(METADATA, None), _metadata(architecture, m0_sha256, head), where)
    shapes = shared_shapes(architecture, sharing, head=head)
    layout = {name: (_FILE_DTYPES[sharing.dtype], shape) for name, shape in shapes.items()}
    require_layout(header, len(content) - start, layout, where, VectorFileError)
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise VectorFileError("safetensors cannot load it", where=where) from error
    vector = restored(tensors, architecture, m0_sha256, sharing)
    everything = vector.tensors if vector.head is None else {**vector.tensors, HEAD: vector.head}
    for name, tensor in everything.items():  # after restoring, because finite factors can have an infinite product
        if not bool(torch.isfinite(tensor).all()):
            raise VectorFileError("holds NaN or Inf", where=f"{where}, tensor {name}")
    if not vector.norm <= max_norm:
        remedy = "If you trust it, raise max_vector_norm in site.yaml and in the federation's configuration"
        raise VectorFileError(f"its norm {vector.norm:.4g} is above the cap {max_norm:.4g}", where=where, remedy=remedy)
    return vector


def _require_kind(metadata: Any, expected: dict[str, str], where: str) -> None:
    if not isinstance(metadata, dict) or metadata.get("format") not in (FORMAT, WITH_HEAD):
        raise VectorFileError(f"is not a {FORMAT} file", where=where, remedy="Write it with this version")
    if metadata["format"] != expected["format"]:
        what = (
            "holds a head, and none is expected"
            if metadata["format"] == WITH_HEAD
            else "lacks the head that it must hold"
        )
        raise VectorFileError(what, where=where, remedy="Read it as it was written: with a head or without one")
    kind, ours = (one.get("kind", "abmil") for one in (metadata, expected))
    if kind != ours:
        what = f"the vector is of kind {kind!s:.32}, and this federation's model is of kind {ours}"
        raise VectorMismatchError(what, where=where, remedy="Vectors of different kinds never mix; train one kind")
    if metadata.keys() != expected.keys():
        raise VectorFileError(f"the metadata keys are not {', '.join(sorted(expected))}", where=where)
    for key, meaning in (("architecture", "another architecture"), ("m0", "another M0")):
        if metadata[key] != expected[key]:
            raise VectorMismatchError(f"the vector is of {meaning} than this federation's", where=where)


def save_vector(path: Path | str, vector: TaskVector, sharing: SharingConfig = WHOLE) -> Path:
    """Write a vector file that is not sealed, for notebooks and local use. Sites exchange sealed ones.

    Args:
        sharing: ``sharing`` of a configuration; default: the whole vector in float32.

    Returns:
        the path of the file.

    Raises:
        VectorRangeError: a value is out of range for the dtype.
    """
    atomic.write_bytes(Path(path), write_vector(vector, sharing))
    return Path(path)


def load_vector(
    path: Path | str,
    m0: BaseModel,
    *,
    sharing: SharingConfig = WHOLE,
    max_norm: float = MAX_NORM,
    head: bool | None = None,
) -> TaskVector:
    """Read a vector file, with the same checks as for a vector from another site.

    Args:
        m0: the initial model that the vector must start from (:func:`fedsteph.initial_model`).
        sharing: the ``sharing`` with which the file was written.
        max_norm: largest accepted L2 norm.
        head: whether the file must hold the head's risk direction; None: as the file says.

    Raises:
        VectorFileError: the file does not exist, is malformed, holds NaN or Inf, or its norm is too large.
        VectorMismatchError: a vector of another architecture or another M0.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise VectorFileError(f"cannot be read ({error.strerror})", where=path, remedy="Give a vector file") from error
    return read_vector(
        content,
        architecture=m0.architecture,
        m0_sha256=model_digest(m0),
        sharing=sharing,
        max_norm=max_norm,
        where=str(path),
        head=_says_head(content, str(path)) if head is None else head,
    )


def _says_head(content: bytes, where: str) -> bool:
    metadata = read_header(content, where, VectorFileError, _MAX_HEADER)[0].get(METADATA)
    return isinstance(metadata, dict) and metadata.get("format") == WITH_HEAD


def _metadata(architecture: Architecture, m0_sha256: str, head: bool) -> dict[str, str]:
    kind = {} if architecture.kind == "abmil" else {"kind": architecture.kind}  # as before there were others
    return {"format": WITH_HEAD if head else FORMAT, "architecture": architecture.digest, "m0": m0_sha256, **kind}
