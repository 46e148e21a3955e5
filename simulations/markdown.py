"""Formats tables as Markdown."""

from __future__ import annotations


def table_lines(header: list[str], body: list[list[str]]) -> list[str]:
    """The lines of a Markdown table, one per row."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body)]
