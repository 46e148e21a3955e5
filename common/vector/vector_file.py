"""Writes task vectors as safetensors files with fixed metadata, and reads such files as untrusted input.

A file holds the tensors that the recipe's ``sharing`` selects (:mod:`fedsteph.common.vector.shared_part`), in float32,
float16 or bfloat16 (F32, F16, BF16; little-endian). The reader takes the dtype from the recipe, not from the file, and
refuses any other.

safetensors guarantees memory safety only: it accepts NaN, Inf, extra or missing tensors, other dtypes, duplicate keys
and megabytes of metadata. So the header is parsed here first, and every field is compared with what this federation
expects. Only then are the tensors loaded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fedsteph.common.config.recipe import Dtype, SharingConfig
from fedsteph.common.config.run_config import MAX_NORM
from fedsteph.common.errors import VectorFileError, VectorMismatchError
from fedsteph.common.host import atomic
from fedsteph.common.model.abmil import ABMIL, Architecture, model_digest
from fedsteph.common.model.encoder_shapes import Shape
from fedsteph.common.vector.reduction import reduced, restored
from fedsteph.common.vector.shared_part import BYTES, WHOLE, shared_shapes
from fedsteph.common.vector.task_vector import TaskVector

FORMAT = "fedsteph/vector/v1"
_MAX_HEADER = 8192  # bytes; a valid header has less than 1 kB
_FILE_DTYPES: dict[Dtype, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_vector(vector: TaskVector, sharing: SharingConfig = WHOLE) -> bytes:
    """Serialise the shared part of a vector; the metadata holds only the format and the digests of architecture and M0.

    The same vector always makes the same bytes, so that a file's digest identifies its vector.

    Args:
        vector: the vector as trained, not one restored from a file: a second reduction would change it.

    Raises:
        VectorRangeError: a value is out of range for the dtype.
    """
    metadata = _metadata(vector.architecture, vector.m0_sha256)
    content: bytes = safetensors.torch.save(reduced(vector, sharing), metadata)
    start = 8 + int.from_bytes(content[:8], "little")
    # safetensors writes the metadata keys in a random order; here they are put into a fixed one.
    header = json.loads(content[8:start]) | {"__metadata__": metadata}
    return content[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(start - 8) + content[start:]


def read_vector(
    content: bytes, *, architecture: Architecture, m0_sha256: str, sharing: SharingConfig, max_norm: float, where: str
) -> TaskVector:
    """Parse and check the bytes of a vector file.

    Args:
        content: the file's bytes, untrusted.
        architecture: the architecture of this federation.
        m0_sha256: the digest of this federation's M0.
        sharing: layers, rank and dtype that the file must have.
        max_norm: largest accepted L2 norm of the whole vector.
        where: the source of the bytes, for error messages.

    Returns:
        the whole vector in float32, with zeros for what is not shared.

    Raises:
        VectorFileError: the file is malformed, has other tensors or another dtype, holds NaN or Inf, or exceeds
            ``max_norm``.
        VectorMismatchError: a well-formed vector of another architecture or M0.
    """
    header, start = _header(content, where)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise VectorFileError(f"is not a {FORMAT} file", where=where, remedy="Write it with this version")
    expected = _metadata(architecture, m0_sha256)
    if metadata.keys() != expected.keys():
        raise VectorFileError(f"the metadata keys are not {', '.join(sorted(expected))}", where=where)
    for key, meaning in (("architecture", "another architecture"), ("m0", "another M0")):
        if metadata[key] != expected[key]:
            raise VectorMismatchError(f"the vector is of {meaning} than this federation's", where=where)
    shapes = shared_shapes(architecture.encoder_shapes, sharing)
    _check_layout(header, len(content) - start, shapes, sharing.dtype, where)
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise VectorFileError("safetensors cannot load it", where=where) from error
    vector = restored(tensors, architecture, m0_sha256, sharing)
    for name, tensor in vector.tensors.items():  # after restoring, because finite factors can have an infinite product
        if not bool(torch.isfinite(tensor).all()):
            raise VectorFileError("holds NaN or Inf", where=f"{where}, tensor {name}")
    if not vector.norm <= max_norm:
        raise VectorFileError(
            f"its norm {vector.norm:.4g} is above the cap {max_norm:.4g}",
            where=where,
            remedy="If you trust it, raise max_vector_norm in site.yaml and in the federation's configuration",
        )
    return vector


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
    path: Path | str, m0: ABMIL, *, sharing: SharingConfig = WHOLE, max_norm: float = MAX_NORM
) -> TaskVector:
    """Read a vector file, with the same checks as for a vector from another site.

    Args:
        m0: the initial model that the vector must start from (:func:`fedsteph.initial_model`).
        sharing: the ``sharing`` with which the file was written.
        max_norm: largest accepted L2 norm.

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
    )


def _metadata(architecture: Architecture, m0_sha256: str) -> dict[str, str]:
    return {"format": FORMAT, "architecture": architecture.digest, "m0": m0_sha256}


def _header(content: bytes, where: str) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > _MAX_HEADER or 8 + length > len(content):
        raise VectorFileError("is truncated or its header is too long", where=where)
    try:
        header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise VectorFileError("its header is not JSON with unique keys", where=where) from error
    if not isinstance(header, dict):
        raise VectorFileError("its header is not a JSON object", where=where)
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _check_layout(header: dict[str, Any], n_bytes: int, shapes: dict[str, Shape], dtype: Dtype, where: str) -> None:
    stored = _FILE_DTYPES[dtype]
    for name in sorted(header.keys() | shapes.keys()):
        entry, shape = header.get(name), shapes.get(name)
        if shape is None or not isinstance(entry, dict):
            problem = "unexpected" if shape is None else "missing"
            raise VectorFileError(f"{problem} tensor", where=f"{where}, tensor {name[:64]!r}")
        if entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise VectorFileError("its header entry is malformed", where=f"{where}, tensor {name}")
        if entry["dtype"] != stored or entry["shape"] != list(shape):
            raise VectorFileError(f"must be {stored} {list(shape)}", where=f"{where}, tensor {name}")
    try:
        spans = sorted((int(begin), int(end)) for begin, end in (e["data_offsets"] for e in header.values()))
    except (TypeError, ValueError, OverflowError) as error:
        raise VectorFileError("its data offsets are malformed", where=where) from error
    ends = [0] + [end for _, end in spans]
    size = BYTES[dtype] * sum(math.prod(shape) for shape in shapes.values())
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != n_bytes or n_bytes != size:
        raise VectorFileError("its tensors do not fill the file exactly", where=where)
