"""The check that every settings dataclass makes of its values."""

from __future__ import annotations


def require(condition: bool, key: str, meaning: str) -> None:
    """Raise ValueError, which names the key and what it must be, where the condition does not hold."""
    if not condition:
        raise ValueError(f"{key} must be {meaning}")
