"""Formats kept vectors of other sites for the terminal and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsteph.client.sharing.kept_record import KeptVector

HEADER = ["sender", "received", "until", "recipe", "M0", "encoder", "epsilon", "norm", "last screening"]


def plain(one: KeptVector) -> dict[str, Any]:
    """All that is known of a kept vector, JSON-ready."""
    from fedsteph.common.config.digest import to_dict

    return {**to_dict(one), "until": until(one)}


def until(one: KeptVector) -> str | None:
    """The day on which it must be removed; None: never."""
    return None if one.until is None else f"{one.until:%Y-%m-%d}"


def row(one: KeptVector) -> list[str]:
    """Its row of the table."""
    said = one.statement
    epsilon = "no bound" if said.epsilon is None else f"{said.epsilon:g} at delta {said.delta:g}"
    digests = one.recipe_sha256[:12], one.m0_sha256[:12]
    days = one.received[:10], until(one) or "unlimited"
    verdict = one.verdict or "none yet"
    return [one.sender, *days, *digests, str(said.extraction), epsilon, f"{one.norm:.3g}", verdict]
