"""Configurations as plain JSON, and the one form of JSON that digests and signatures are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-ready mapping of a configuration dataclass."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON of a configuration dataclass, or of plain JSON."""
    return hashlib.sha256(canonical(to_dict(config) if dataclasses.is_dataclass(config) else config)).hexdigest()


def canonical(plain: Any) -> bytes:
    """JSON in its one form for digests and signatures: sorted keys, no spaces, ASCII."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
