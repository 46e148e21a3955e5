"""Formats kept vectors of other sites for the terminal and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsteph.client.sharing.kept_record import KeptVector

HEADER = ["sender", "received\nuntil", "recipe\nM0", "encoder\ncancer", "epsilon\nnorm", "last screening"]


def plain(one: KeptVector) -> dict[str, Any]:
    """All that is known of a kept vector, JSON-ready."""
    from fedsteph.common.config.digest import to_dict

    return {**to_dict(one), "until": until(one)}


def until(one: KeptVector) -> str | None:
    """The day on which it must be removed; None: never."""
    return None if one.until is None else f"{one.until:%Y-%m-%d}"


def row(one: KeptVector) -> list[str]:
    """Its row of the table, which fits into 80 columns."""
    said = one.statement
    epsilon = "no bound" if said.epsilon is None else f"{said.epsilon:g}"
    return [
        one.sender,
        f"{one.received[:10]}\n{until(one) or 'unlimited'}",
        f"{one.recipe_sha256[:8]}\n{one.m0_sha256[:8]}",
        f"{said.encoder or 'unnamed'}\n{one.cancer or 'not stated'}{', with head' if one.head else ''}",
        f"{epsilon}\n{one.norm:.3g}",
        one.verdict or "none yet",
    ]


def lines(one: KeptVector) -> list[str]:
    """All that is known of it, one value a line."""
    found = []
    for key, value in plain(one).items():
        parts = {f"{key}.{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {key: value}
        found += [f"{name:26}{'-' if part is None else part}" for name, part in parts.items()]
    return found
