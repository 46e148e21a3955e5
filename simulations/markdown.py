"""Tables as Markdown, and the one that every summary has: what the C-index leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.metrics import METRIC_TITLES


def table_lines(header: list[str], body: list[list[str]]) -> list[str]:
    """A table, a line per row."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body)]


def further_rows(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> tuple[list[str], list[list[str]]]:
    """Header and body of the further metrics.

    Args:
        rows: a method's title, and its metrics by name.
    """
    header = ["method", *METRIC_TITLES.values()]
    return header, [[title, *(number(found[name]) for name in METRIC_TITLES)] for title, found in rows]


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"
