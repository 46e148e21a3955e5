"""Configurations as plain JSON, and the one form of JSON that digests and signatures are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

# Metadata of a field that means something on one machine alone, such as a path: no digest and no message has it.
LOCAL = {"local": True}
# Metadata of a field that came later: at its default, configurations and digests are as they were without it.
LATER = {"later": True}


def to_dict(config: Any, *, whole: bool = False) -> dict[str, Any]:
    """Plain JSON-ready mapping of a dataclass; ``whole``: with its fields that are :data:`LOCAL`, or :data:`LATER`."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config) if whole else _common(config)))
    return plain


def _common(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _common(own)
            for field in dataclasses.fields(value)
            if _tells(field, own := getattr(value, field.name))
        }
    if isinstance(value, list | tuple):
        return [_common(item) for item in value]
    return {key: _common(item) for key, item in value.items()} if isinstance(value, dict) else value


def _tells(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field is part of what sites have in common."""
    return not (field.metadata.get("local") or (field.metadata.get("later") and value == field.default))


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON of a configuration dataclass, or of plain JSON."""
    return hashlib.sha256(canonical(to_dict(config) if dataclasses.is_dataclass(config) else config)).hexdigest()


def canonical(plain: Any) -> bytes:
    """JSON in its one form for digests and signatures: sorted keys, no spaces, ASCII."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
