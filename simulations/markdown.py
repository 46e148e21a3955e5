"""Tables as Markdown."""

from __future__ import annotations


def table_lines(header: list[str], body: list[list[str]]) -> list[str]:
    """A table, a line per row."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body)]
