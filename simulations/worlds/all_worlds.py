"""All worlds by name."""

from __future__ import annotations

from fedsteph.common.errors import ConfigError
from fedsteph.simulations.worlds.hospitals import HOSPITALS
from fedsteph.simulations.worlds.kinds import KINDS
from fedsteph.simulations.worlds.six_cancers import SIX_CANCERS
from fedsteph.simulations.worlds.strangers import STRANGERS
from fedsteph.simulations.worlds.world import World

WORLDS = {world.name: world for world in (SIX_CANCERS, HOSPITALS, KINDS, STRANGERS)}
DEFAULT_WORLD = SIX_CANCERS.name


def world_of(name: str) -> World:
    """The world of a name; ConfigError, with the names that there are."""
    if name not in WORLDS:
        raise ConfigError(f"there is no world '{name}'", where="--world", remedy=f"Worlds: {', '.join(WORLDS)}")
    return WORLDS[name]
