"""The header of safetensors files, read as untrusted input, and the digest that our own files hold in it.

safetensors guarantees memory safety only: it accepts NaN, Inf, extra or missing tensors, other dtypes, duplicate keys
and megabytes of metadata. So the header is parsed here first, and every field is compared with what is expected. Only
then are the tensors loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsteph.common.encoders.kind import Shape
from fedsteph.common.errors import FedstephError, ModelFileError
from fedsteph.common.host.checked_file import AGAIN, KEY, tell_of_old_files

METADATA = "__metadata__"
Layout = Mapping[str, tuple[str, Shape]]  # name -> dtype and shape of a tensor
_OLD = {"format", "description", "architecture", "m0"}  # metadata of files without a digest
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2}


def read_header(content: bytes, where: str, error: type[FedstephError], most: int) -> tuple[dict[str, Any], int]:
    """The header of a file that begins with ``content``, and where its tensors begin.

    Raises ``error`` if it is longer than ``most`` bytes, or not JSON with unique keys.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > most or 8 + length > len(content):
        raise error("is truncated or its header is too long", where=where)
    try:
        header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as reason:
        raise error("its header is not JSON with unique keys", where=where) from reason
    if not isinstance(header, dict):
        raise error("its header is not a JSON object", where=where)
    return header, 8 + length


def require_layout(
    entries: Mapping[str, Any], n_bytes: int, expected: Layout, where: str, error: type[FedstephError]
) -> None:
    """Check that a file has the expected tensors and nothing else, by its header without metadata and its other bytes.

    Raises ``error`` if a tensor is missing, unexpected, or of another dtype or shape, or they do not fill the file.
    """
    for name in sorted(entries.keys() | expected.keys()):
        entry = entries.get(name)
        if name not in expected or not isinstance(entry, dict):
            problem = "missing" if name in expected else "unexpected"
            raise error(f"{problem} tensor", where=f"{where}, tensor {name[:64]!r}")
        dtype, shape = expected[name]
        if entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise error("its header entry is malformed", where=f"{where}, tensor {name}")
        if entry["dtype"] != dtype or entry["shape"] != list(shape):
            raise error(f"must be {dtype} {list(shape)}", where=f"{where}, tensor {name}")
    try:
        spans = sorted((int(begin), int(end)) for begin, end in (e["data_offsets"] for e in entries.values()))
    except (TypeError, ValueError, OverflowError) as reason:
        raise error("its data offsets are malformed", where=where) from reason
    ends = [0] + [end for _, end in spans]
    size = sum(_BYTES[dtype] * math.prod(shape) for dtype, shape in expected.values())
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != n_bytes or n_bytes != size:
        raise error("its tensors do not fill the file exactly", where=where)


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A file without metadata, with this one, in this order; safetensors itself writes the keys in a random order."""
    header, start = _own_header(content)
    return _encoded({METADATA: dict(metadata)} | header) + content[start:]


def stamped(content: bytes) -> bytes:
    """A file of ours, as :func:`with_metadata` gives it, with its SHA-256 in the metadata."""
    header, start = _own_header(content)
    digest = hashlib.sha256(content).hexdigest()
    return _encoded(header | {METADATA: header[METADATA] | {KEY: digest}}) + content[start:]


def unstamped(content: bytes, where: str, remedy: str) -> bytes:
    """What :func:`stamped` was given; a file of an earlier version, without a digest, is returned as it is.

    Raises ModelFileError if the content does not fit the digest.
    """
    header, start = read_header(content, where, ModelFileError, len(content))
    metadata = header.get(METADATA)
    if isinstance(metadata, dict) and metadata.keys() <= _OLD:
        tell_of_old_files()
        return content
    plain = {} if not isinstance(metadata, dict) else {key: value for key, value in metadata.items() if key != KEY}
    found = _encoded(header | {METADATA: plain}) + content[start:]
    if stamped(found) != content:
        raise ModelFileError("is damaged: its content does not fit its digest", where=where, remedy=remedy)
    return found


def read_stamped(path: Path, remedy: str = AGAIN) -> bytes:
    """Read a file of :func:`stamped` bytes; returns what :func:`unstamped` does, with its errors."""
    return unstamped(path.read_bytes(), str(path), remedy)


def _own_header(content: bytes) -> tuple[dict[str, Any], int]:
    return read_header(content, "own file", ModelFileError, len(content))


def _encoded(header: Mapping[str, Any]) -> bytes:
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw = raw.ljust(-len(raw) // 8 * -8)  # safetensors aligns the tensors to 8 bytes
    return len(raw).to_bytes(8, "little") + raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found
