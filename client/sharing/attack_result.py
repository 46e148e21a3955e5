"""Stores results of privacy audits on a site's disk, one JSON file per vector file, named by the file's digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from fedsteph.common.host import checked_file

FORMAT = "fedsteph/privacy-audit/v1"


def content_digest(content: bytes) -> str:
    """SHA-256 of a vector file, in hexadecimal. The same vector always gives the same file, and so the same digest."""
    return hashlib.sha256(content).hexdigest()


def result_path(state: Path, content_sha256: str) -> Path:
    """Path of the result for a vector file with this :func:`content_digest`, below a site's state folder."""
    return state / "privacy-audits" / f"{content_sha256}.json"


def write_result(state: Path, result: dict[str, Any]) -> None:
    """Write a result; it replaces an earlier one for the same vector file."""
    checked_file.write_json(result_path(state, result["content_sha256"]), result)


def read_result(state: Path, content_sha256: str) -> dict[str, Any] | None:
    """The stored result for a vector file; None if it is missing, unreadable or for another file."""
    path = result_path(state, content_sha256)
    found = checked_file.kept(path, checked_file.read_json) or {}
    return found if (found.get("format"), found.get("content_sha256")) == (FORMAT, content_sha256) else None
